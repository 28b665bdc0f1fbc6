"""When a cron expression is due, by the clock of its time zone, as in Debian's cron. Pure.

What runs at a time of day runs once on days when the clocks are moved: in the first pass of an hour that
comes twice, and right after an hour that is skipped. What runs by the minute or the hour (`*`, `*/20`)
follows the clock through both passes. All results are UTC. The library finds the times, but it does not know
in which pass of a doubled hour it is, so it is never asked within one.
"""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

_SECOND, _LOOK = timedelta(seconds=1), timedelta(days=7)
_MOST_CHANGES = 150
"""Changes of a zone's clocks that are searched for the next time: those of more than 50 years."""


def check_cron(expression: str) -> str:
    """The expression, if it has the five fields of one. ValueError says what is wrong with it."""
    try:
        CronSim(expression, datetime(2026, 1, 1, tzinfo=UTC))
    except (CronSimError, AssertionError, ValueError) as error:
        raise ValueError(f"a cron expression of five fields such as '0 3 * * sun' ({error})") from None
    if len(expression.split()) != 5:
        raise ValueError("a cron expression has five fields")
    return expression


def following(expression: str, zone: ZoneInfo, after: datetime) -> datetime | None:
    """The first time due later than `after`; None if none is within 50 years, or before the calendar ends."""
    try:
        after = after.astimezone(UTC).replace(microsecond=0)
        by_the_clock = any(field.startswith("*") for field in expression.split()[:2])
        return (_next_by_the_clock if by_the_clock else _next_of_a_day)(expression, zone, after)
    except (OverflowError, ValueError):  # the calendar ends
        return None


def latest(expression: str, zone: ZoneInfo, at: datetime, within: timedelta) -> datetime | None:
    """The last time that was due in the `within` up to `at`, itself included; None if there was none."""
    try:
        found = following(expression, zone, at - within)
    except OverflowError:
        return None
    if found is None or found > at:
        return None
    upto = at
    while (later := following(expression, zone, found)) and later <= at:
        middle = found + (upto - found) / 2
        further = following(expression, zone, middle)
        if further and further <= at:
            found = further
        else:
            found, upto = later, max(middle, later)
    return found


def _next_of_a_day(expression: str, zone: ZoneInfo, after: datetime) -> datetime | None:
    for found in CronSim(expression, after.astimezone(zone)):
        instant = found.astimezone(UTC)
        if instant > after:  # in the second pass it is not: the library begins in the first one
            return instant
    return None


def _next_by_the_clock(expression: str, zone: ZoneInfo, after: datetime) -> datetime | None:
    """Searched from one change of the clocks to the next: between them, the clock has no jumps."""
    start, offset = after, _offset(zone, after)
    wall = (start + offset).replace(tzinfo=None)
    for _ in range(_MOST_CHANGES):
        found: datetime | None = next(CronSim(expression, wall), None)
        if found is None:
            return None
        instant = found.replace(tzinfo=UTC) - offset
        change = _next_change(zone, start, instant)
        if change is None:
            return instant
        start, offset = change, _offset(zone, change)
        wall = (start + offset - _SECOND).replace(tzinfo=None)
    return None


def _offset(zone: ZoneInfo, at: datetime) -> timedelta:
    return at.astimezone(zone).utcoffset() or timedelta()


def _next_change(zone: ZoneInfo, after: datetime, upto: datetime) -> datetime | None:
    """When the clocks first change in (after, upto], unless a second change undoes it within a week."""
    offset = _offset(zone, after)
    while after < upto:
        high = min(after + _LOOK, upto)
        if _offset(zone, high) != offset:
            while high - after > _SECOND:
                middle = after + (high - after) // _SECOND // 2 * _SECOND
                after, high = (middle, high) if _offset(zone, middle) == offset else (after, middle)
            return high
        after = high
    return None
