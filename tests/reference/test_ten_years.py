"""Ten years of one job a day, in every time zone: each local day has its moment, and none comes twice."""

from datetime import UTC, datetime, time, timedelta
from itertools import pairwise
from random import Random
from zoneinfo import ZoneInfo

import pytest

from shared.contracts import schedules, zones
from tests.reference import FULL, SEED
from tests.reference.reckoning import DAY, MINUTE
from tests.reference.test_reckoning import MOVED, ZONES

FIRST = datetime(2026, 1, 1)  # noqa: DTZ001, days of a calendar on the wall
DAYS = 3652


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(4))
def test_each_day_has_its_moment(part: int) -> None:
    random = Random(f"{SEED} years {part}")
    for zone in ZONES[part::4] if FULL else random.sample(MOVED, 1):
        # Most clocks are moved in the first four hours of a day.
        hour, minute = random.choice([random.randrange(24), *range(4)]), random.randrange(60)
        if zone in MOVED or random.random() < 0.5:
            check(f"{minute} {hour} * * *", zone, time(hour, minute), later=True)
        if zone in MOVED or random.random() < 0.5:
            check(f"{hour}:{minute:02}", zone, time(hour, minute), later=False)


def check(text: str, zone: str, at: time, later: bool) -> None:
    key = zones.zone(zone)
    days = [moment(FIRST + n * DAY, at, key) for n in range(DAYS)]
    due = [found if found else after for found, after in days if found or later]
    schedule = schedules.parse(text, zone)
    asked = schedule.upcoming(due[0] - MINUTE)
    found = [next(asked) for _ in due]
    assert found == due, (text, zone)
    assert all(a < b for a, b in pairwise(found))


def moment(day: datetime, at: time, zone: ZoneInfo) -> tuple[datetime | None, datetime]:
    """When the clock shows this time on this day; and, for one that is skipped, what comes right after it."""
    wall = datetime.combine(day, at)
    shown = wall.replace(tzinfo=zone).astimezone(UTC)
    back = shown.astimezone(zone).replace(tzinfo=None)
    if back == wall:
        return shown, shown
    while (earlier := (shown - MINUTE).astimezone(zone).replace(tzinfo=None)) > wall:
        shown -= MINUTE
    assert wall - earlier < timedelta(hours=3)
    return None, shown
