"""What is due by cron, held against Debian's own program, with a clock that jumps while it sleeps."""

import os
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from itertools import takewhile
from pathlib import Path
from random import Random

import pytest

from shared.contracts import schedules, zones
from tests.reference import FULL, SEED, expressions
from tests.reference.reckoning import HOUR, changes

CRON = next((path for path in ("/usr/sbin/cron", "/usr/bin/cron") if Path(path).is_file()), None)
PRIVATE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
HALF_A_MINUTE = timedelta(seconds=30)
ZONE_FILES = str(files("tzdata") / "zoneinfo")
NIGHTS = [
    *("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Antarctica/Troll", "Africa/Cairo"),
    *("America/Havana", "Asia/Beirut", "Pacific/Chatham", "America/Nuuk", "Europe/Dublin", "Atlantic/Azores"),
]


@pytest.fixture(scope="session")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that moves cron's clock."""
    if not CRON:
        pytest.skip("there is no cron here")
    for program in ("unshare", "cc"):
        if not shutil.which(program):
            pytest.skip(f"there is no {program} here")
    if subprocess.run([*PRIVATE, "true"], capture_output=True).returncode:
        pytest.skip("no file systems of one's own may be mounted here")
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    source = Path(__file__).with_name("jumping_clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    return library


def run_cron(
    clock: Path, folder: Path, lines: list[str], zone: str, begin: datetime, end: datetime
) -> tuple[list[list[datetime]], set[int]]:
    """When cron runs each line, and which of them it refuses. It sees folders of ours in place of its own."""
    for name in ("crontabs", "cron.d", "run"):
        (folder / name).mkdir(parents=True)
    (folder / "crontab").touch()
    for n, line in enumerate(lines):
        (folder / "cron.d" / f"n{n}").write_text(f"{line} root {n}\n")
    places = {"crontabs": "/var/spool/cron", "cron.d": "/etc/cron.d", "run": "/run"}
    places["crontab"] = "/etc/crontab"
    (folder / "crontabs" / "crontabs").mkdir()
    mounts = " && ".join(f"mount --bind {folder / name} {place}" for name, place in places.items())
    subprocess.run(
        [*PRIVATE, "sh", "-c", f"{mounts} && exec env LD_PRELOAD={clock} {CRON} -f -L 0"],
        env={
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            **{"TZ": zone, "TZDIR": ZONE_FILES},
            **{"BEGIN": str(int(begin.timestamp())), "END": str(int(end.timestamp()))},
            **{"RUNS": str(folder / "runs"), "LOG": str(folder / "log")},
        },
        check=True,
        timeout=120,
    )
    moments: list[set[datetime]] = [set() for _ in lines]
    (folder / "runs").touch()
    for line in (folder / "runs").read_text().splitlines():
        at, n = line.split()
        moments[int(n)].add(datetime.fromtimestamp(int(at), UTC))
    refused = {
        int(word.removeprefix("/etc/cron.d/n").rstrip(")"))
        for line in (folder / "log").read_text().splitlines()
        if "Error:" in line
        for word in line.split()
        if word.startswith("/etc/cron.d/n")
    }
    return [sorted(found) for found in moments], refused


FIXED = ["30 2 * * *", "0,30 2 * * *", "*/20 2 * * *", "0 * * * *", "30 */2 * * *", "@daily", "@hourly"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("zone", NIGHTS if FULL else NIGHTS[:1])
def test_cron_runs_what_is_due_on_both_nights(clock: Path, tmp_path: Path, zone: str) -> None:
    random = Random(f"{SEED} {zone}")
    years = random.sample(range(2026, 2038), 4 if FULL else 1)
    nights = [change for year in years for change in changes(zones.zone(zone), year)]
    for n, change in enumerate(nights):
        lines = FIXED + [expressions.cron(random) for _ in range(60 if FULL else 20)]
        begin, end = change - 26 * HOUR - HALF_A_MINUTE, change + 26 * HOUR + HALF_A_MINUTE
        found, refused = run_cron(clock, tmp_path / str(n), lines, zone, begin, end)
        assert not refused
        for line, runs in zip(lines, found, strict=True):
            due = due_between(line, zone, begin, end)
            # Where an hour is skipped, it waits 10 s after each minute that it makes up for. If that takes it
            # long, it also runs what follows the clock for the last minutes that were skipped.
            making_up = change, change + (HOUR / 2 if skips(zone, change) else 0 * HOUR)
            assert count(runs, *making_up) >= count(due, *making_up), (line, zone, change)
            minutes = {at.replace(second=0) for at in runs}
            assert {at for at in minutes if not making_up[0] <= at < making_up[1]} == {
                at for at in due if not making_up[0] <= at < making_up[1]
            }, (line, zone, change)


@pytest.mark.parametrize(
    ("zone", "hours", "late"), [("Europe/Berlin", [2], 8.5), ("Antarctica/Troll", [1, 2], 17)]
)
def test_how_late_cron_makes_up_for_what_was_skipped(
    clock: Path, tmp_path: Path, zone: str, hours: list[int], late: float
) -> None:
    """With a job in each minute that is skipped. A schedule's `silent_after` is 15 minutes."""
    change = datetime(2026, 3, 29, 1, tzinfo=UTC)
    assert skips(zone, change)
    lines = [f"{minute} {hour} * * *" for hour in hours for minute in range(60)]
    found, _ = run_cron(clock, tmp_path / "run", lines, zone, change - HOUR, change + HOUR)
    latest = max(at for (at,) in found) - change
    assert timedelta(minutes=late) <= latest < timedelta(minutes=late, seconds=10) + HALF_A_MINUTE / 3


def skips(zone: str, change: datetime) -> bool:
    before = (change - HALF_A_MINUTE).astimezone(zones.zone(zone)).utcoffset()
    after = change.astimezone(zones.zone(zone)).utcoffset()
    assert before is not None
    assert after is not None
    return after > before


def count(moments: list[datetime], begin: datetime, end: datetime) -> int:
    return sum(begin <= at < end for at in moments)


def due_between(line: str, zone: str, begin: datetime, end: datetime) -> list[datetime]:
    parsed = schedules._parsed(line, zones.zone(zone))[0]
    return list(takewhile(lambda at: at < end, parsed.upcoming(begin))) if parsed else []


@pytest.mark.parametrize(
    ("lines", "accepted"),
    [
        (["*/5 1-5 1,15 jan-mar mon-fri", "0 0 * * 7", "0 0 * * SUN", "5-7 * * * *", "0 0 1 */3 *"], True),
        (
            ["60 * * * *", "0 24 * * *", "0 0 0 * *", "0 0 32 * *", "0 0 * 13 *", "0 0 * * 8", "*/0 * * * *"],
            False,
        ),
        (
            ["0 0 * 0 *", "@never", "* * * *", "a * * * *", "1,, * * * *"],
            False,
        ),
    ],
)
def test_cron_accepts_what_is_accepted_here(
    clock: Path, tmp_path: Path, lines: list[str], accepted: bool
) -> None:
    begin = datetime(2026, 7, 1, tzinfo=UTC)
    refused = run_cron(clock, tmp_path / "run", lines, "UTC", begin, begin + 2 * HOUR)[1]
    assert refused == (set() if accepted else set(range(len(lines))))
    ours = {n for n, line in enumerate(lines) if schedules._parsed(line, zones.zone("UTC"))[0] is None}
    assert ours == refused


@pytest.mark.parametrize("line", ["0 0 L * *", "0 0 LW * *", "0 0 * * 1L", "5/10 * * * *"])
def test_what_is_accepted_here_only(clock: Path, tmp_path: Path, line: str) -> None:
    begin = datetime(2026, 7, 1, tzinfo=UTC)
    assert run_cron(clock, tmp_path / "run", [line], "UTC", begin, begin + HOUR)[1] == {0}
    assert schedules.parse(line, "UTC")
