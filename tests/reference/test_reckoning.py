"""What is due, held against a look at each minute, in all time zones on the days when clocks are moved."""

from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from random import Random
from zoneinfo import available_timezones

import pytest

from shared.contracts import schedules, zones
from tests.reference import FULL, SEED, expressions
from tests.reference.reckoning import DAY, Minutes, calendar_due, changes, cron_due

ZONES = sorted(available_timezones())
MOVED = [name for name in ZONES if any(changes(zones.zone(name), year) for year in (2026, 2027))]
YEARS = range(2026, 2038)
EACH = 10
"""Expressions for one night."""


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(8))
def test_what_is_due_in_any_zone_near_changes_of_its_clocks(part: int) -> None:
    random = Random(f"{SEED} {part}")
    for _ in range(20_000 // EACH // 8 if FULL else 2):
        # Most zones move no clocks any more: each of them is looked at, but less often.
        name = random.choice(ZONES if random.random() < 0.2 else MOVED)
        zone, moved = zones.zone(name), []
        while not moved:
            year = random.choice(YEARS)
            moved = changes(zone, year) or [datetime(year, 1, 1, tzinfo=UTC) + random.randrange(360) * DAY]
            moved = [] if name in MOVED and not changes(zone, year) else moved
        change = random.choice(moved)
        minutes = Minutes(zone, change - 4 * DAY, change + 5 * DAY)
        for n in range(EACH):
            is_cron = n % 2 == 0
            text = expressions.cron(random) if is_cron else expressions.on_calendar(random)
            due = list((cron_due if is_cron else calendar_due)(text, minutes))
            compare(text, name, due, change, random)


def compare(text: str, zone: str, due: list[datetime], change: datetime, random: Random) -> None:
    """The next moment after one within three days of the change, and some in a row from right before it."""
    end = change + 5 * DAY
    parsed = schedules._parsed(text, zones.zone(zone))[0]
    if parsed is None:  # never comes in this zone
        assert not due, (text, zone)
        return
    after = change + timedelta(seconds=random.uniform(-3 * 86400, 3 * 86400))
    asked = [after, change - timedelta(microseconds=1), change]
    if due:
        near = due[min(bisect_right(due, after), len(due) - 1)]
        asked += [near, near - timedelta(microseconds=1), near + timedelta(microseconds=1)]
    for at in asked:
        found, n = parsed.following(at), bisect_right(due, at)
        if n < len(due):
            assert found == due[n], (text, zone, at)
        else:
            assert found is None or found >= end, (text, zone, at)
    start = bisect_right(due, change - timedelta(hours=4))
    some = due[start : start + 20]
    found_now = takewhile(lambda at: at < end, parsed.upcoming(change - timedelta(hours=4)))
    assert [at for at, _ in zip(found_now, range(20), strict=False)] == some, (text, zone)
