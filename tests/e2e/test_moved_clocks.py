"""The nights on which clocks are moved: what ran is neither missed nor expected twice, by every process."""

import asyncio
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e.system import SERVICES, System, until
from tests.made_up_zones import write_zone
from tests.telegram_standin import Standin

FIRST = "unknown → alive"
FALLS = ["alive → silent", "silent → down"]
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
CRON, CALENDAR, HOURLY = "30 2 * * *", "02:30", "30 * * * *"


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    """One that knows the zones `Back` and `Forward`, as soon as their files are written."""
    with Standin() as telegram:
        system = System(tmp_path, telegram, silent_after="1h", down_after="2h", dead_after="7d")
        for name in SERVICES:
            part = system.parts[name]
            part.command, part.env = (
                [sys.executable, "-m", "tests.made_up_zones", name],
                part.env | {"ZONES": str(tmp_path)},
            )
        yield system
        system.stop()


class Job(NamedTuple):
    zone: str
    schedule: str
    runs: bool
    """When the clock shows 02:30 for the first time, or right after the hour that is skipped."""
    outcomes: list[tuple[str, int]]
    """Of its runs, oldest first, and how many seconds after that they were due."""


BACK = 8
"""So many seconds the clock goes back, that both passes fit into a test."""
JOBS = {
    "back.cron": Job("Back", CRON, True, [("success", 0)]),
    "back.calendar": Job("Back", CALENDAR, True, [("success", 0)]),
    "back.cron-away": Job("Back", CRON, False, [("missed", 0)]),
    "back.calendar-away": Job("Back", CALENDAR, False, [("missed", 0)]),
    "back.hourly": Job("Back", HOURLY, True, [("success", 0), ("missed", BACK)]),
    "forward.cron": Job("Forward", CRON, True, [("success", 0)]),
    "forward.cron-away": Job("Forward", CRON, False, [("missed", 0)]),
    "forward.calendar": Job("Forward", CALENDAR, False, []),
}
LATE = {"late.cron": CRON, "late.calendar": CALENDAR}
"""Their schedules are set between the passes."""


async def test_on_nights_when_clocks_are_moved_a_job_is_due_once(system: System, tmp_path: Path) -> None:
    """The clock shows 02:30 at `due`, goes back 5 s later, and shows it again 3 s after that. In the other
    zone it goes from 02:00 to 03:00 then."""
    system.start()
    due = datetime.now(UTC).replace(microsecond=0) + 7 * SECOND
    half_past_two, two = due.replace(hour=2, minute=30, second=0), due.replace(hour=2, minute=0, second=0)
    write_zone(
        tmp_path / "Back",
        half_past_two - due,
        [(due + (BACK - 3) * SECOND, half_past_two - due - BACK * SECOND)],
    )
    write_zone(tmp_path / "Forward", two - due, [(due, two - due + HOUR)])
    await beat(system, [*JOBS, *LATE])
    for name, job in JOBS.items():
        await schedule(system, name, job.zone, job.schedule)
    assert datetime.now(UTC) < due - 2 * SECOND, "the machine is too busy"

    await sleep_until(due)
    await beat(system, [name for name, job in JOBS.items() if job.runs])
    await sleep_until(due + (BACK - 2) * SECOND)
    for name, text in LATE.items():
        await schedule(system, name, "Back", text)

    await until(lambda: system.told("back.hourly") == [FIRST, *FALLS])
    await until(lambda: len(runs_of(system, "back.hourly")) == 2)
    for name, job in JOBS.items():
        told = [FIRST, *(FALLS if "missed" in dict(job.outcomes) else [])]
        assert system.told(name) == told, name
        runs = runs_of(system, name)
        assert [(run["outcome"], seconds(run["expected_at"], due)) for run in runs] == job.outcomes, name
    for name in LATE:
        assert system.told(name) == [FIRST]
        assert runs_of(system, name) == []
    for name in [*JOBS, *LATE]:
        status = "down" if len(system.told(name)) > 1 else "alive"
        await until(lambda name=name, status=status: system.status(name) == status)  # type: ignore[misc]
        next_one = seconds(system.api(f"/service/{name}/expected")["items"][0], due)
        assert next_one > (1500 if "hourly" in name else 80_000), name


async def beat(system: System, names: list[str]) -> None:
    url = system.url("ingest", "/heartbeats")
    answer = await asyncio.to_thread(system.http.post, url, json={"services": names})
    assert answer.json()["accepted"] == len(names)


async def schedule(system: System, name: str, zone: str, text: str) -> None:
    """PATCH, with thresholds of seconds."""
    given = {"schedule": text, "time_zone": zone, "early": "2s", "silent_after": "3s", "down_after": "4s"}
    url = system.url("api", f"/service/{name}")
    answer = await until(
        lambda: found if (found := system.http.patch(url, json=given)).status_code != 404 else None
    )
    assert answer.status_code == 200, answer.text


def runs_of(system: System, name: str) -> list[dict[str, Any]]:
    """Oldest first."""
    return list(reversed(system.api(f"/service/{name}/runs")["items"]))


async def sleep_until(at: datetime) -> None:
    await asyncio.sleep((at - datetime.now(UTC)).total_seconds())


def seconds(at: str, since: datetime) -> int:
    return (datetime.fromisoformat(at) - since) // SECOND
