"""What is due by OnCalendar, held against `systemd-analyze calendar` with the same data of time zones."""

import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from shared.contracts import schedules, zones
from tests.reference import FULL, SEED, expressions
from tests.reference.reckoning import DAY, HOUR, MINUTE, changes
from tests.reference.test_reckoning import MOVED, ZONES

ZONE_FILES = str(files("tzdata") / "zoneinfo")
KNOWN = {name for name in ZONES if Path("/usr/share/zoneinfo", name).is_file()}
"""systemd takes a name for a zone if the machine has it; what it reads then is ours."""
pytestmark = pytest.mark.skipif(
    not shutil.which("systemd-analyze") or not KNOWN, reason="there is no systemd here, or no zones"
)
IN_A_ROW, SECOND = 12, timedelta(seconds=1)
SOME_DAY = datetime(2026, 7, 1, tzinfo=UTC)


def of_systemd(texts: list[str], base: datetime) -> list[list[datetime] | None]:
    """The next moments of each; None where it gives up."""
    if not texts:
        return []
    asked = [f"--base-time={base:%Y-%m-%d %H:%M:%S} UTC", f"--iterations={IN_A_ROW}", "--", *texts]
    done = subprocess.run(
        ["systemd-analyze", "calendar", *asked],
        env={"TZ": "UTC", "TZDIR": ZONE_FILES, "PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    if len(texts) == 1 and done.returncode:
        # It gives up where its search goes back in time, at midnights that are skipped: a fault of systemd's.
        assert "Resource deadlock avoided" in done.stderr, (texts, done.stderr)
        return [None]
    if done.returncode:
        return [found for text in texts for found in of_systemd([text], base)]
    moments = re.compile(r"(?:Next elapse|Iter\. #\d+): \w+ (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC")
    found = [
        [datetime.fromisoformat(at).replace(tzinfo=UTC) for at in moments.findall(part)]
        for part in re.split(r"Normalized form: ", done.stdout)[1:]
    ]
    assert len(found) == len(texts), done.stdout
    return [*found]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(8))
def test_what_follows_from_before_a_change_of_the_clocks(part: int) -> None:
    random = Random(f"{SEED} systemd {part}")
    for _ in range(80 if FULL else 1):
        name = random.choice([name for name in MOVED if name in KNOWN])
        change = random.choice(changes(zones.zone(name), random.choice(range(2026, 2038))) or [SOME_DAY])
        base = (change - timedelta(seconds=random.choice([1, 3601, random.uniform(0, 2 * 86400)]))).replace(
            microsecond=0
        )
        texts = [expressions.on_calendar(random) for _ in range(12)]
        compare([f"{text} {name}" for text in texts], base)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(2))
def test_what_steps_lose_at_the_ends_of_hours_days_months_and_years(part: int) -> None:
    random = Random(f"{SEED} steps {part}")
    for _ in range(80 if FULL else 2):
        year, month = random.randrange(2026, 2038), random.choice([1, 1, 1, 3, 5, 8])
        name = random.choice(["UTC", *(EVEN if year < 2030 else [])])
        begin = datetime(year, month, 1, tzinfo=zones.zone(name)).astimezone(UTC)
        # Never from right after an end: what was lost there before is then found.
        base = begin - random.choice([SECOND, 7 * MINUTE, HOUR + MINUTE, DAY + SECOND, 40 * DAY + SECOND])
        compare([f"{expressions.uneven(random)} {name}" for _ in range(12)], base)


EVEN = ["Europe/Berlin", "America/New_York", "Asia/Kolkata", "Africa/Cairo"]

LOSES = {
    *("Pacific/Chatham", "NZ-CHAT", "Australia/Lord_Howe", "Australia/LHI"),
    *("Europe/Dublin", "Eire", "Africa/Casablanca", "Africa/El_Aaiun"),
}
"""Where the clocks are put forward at no full hour, or summer is the normal time, systemd 252 may leave out
what is due after the gap on the same day. What it runs must be among what we expect."""


def compare(texts: list[str], base: datetime) -> None:
    for text, found in zip(texts, of_systemd(texts, base), strict=True):
        if found is None:
            continue
        parsed = schedules._parsed(text, zones.zone("UTC"))[0]
        name = text.rpartition(" ")[2]
        ours = list(islice(parsed.upcoming(base), 10 * IN_A_ROW)) if parsed else []
        # To find a month's end systemd looks at another season, and then takes the second pass of an hour.
        zone = zones.zone(name if "~" in text else "UTC")
        theirs, own = ([f"{at.astimezone(zone):%F %T}" for at in moments] for moments in (found, ours))
        if name in LOSES:
            own = [at for at in own if at in theirs]
        assert theirs == own[:IN_A_ROW], (text, base)
