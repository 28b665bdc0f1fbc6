"""When a job is due, by the clock of its time zone: cron as Debian runs it, or systemd's OnCalendar. Pure.

All results are UTC, and later than asked. On days when the clocks are moved, cron runs what is due at a time
of day once: in the first pass of an hour that comes twice, and right after an hour that is skipped. What runs
by the minute or the hour (`*`, `*/20`) follows the clock through both passes. systemd runs everything in the
first pass only, and nothing of what is skipped. The libraries find the times, but they do not know in which
pass of a repeated hour they are, so they are never asked within one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from oncalendar import BaseIterator, OnCalendarError

from shared.contracts import zones

MAX_LINES = 10
"""Of one schedule."""
ACCEPTED = "cron such as '0 3 * * 1-5', or systemd's OnCalendar such as 'Mon..Fri 09:00'"
_PRESETS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_SOME_DAY = datetime(2026, 1, 1, tzinfo=UTC)
_SECOND, _LOOK = timedelta(seconds=1), timedelta(days=7)
_MOST_CHANGES = 150
"""Changes of a zone's clocks that are searched for the next time: those of more than 50 years."""


@dataclass(frozen=True)
class Schedule:
    """One or several lines of cron or OnCalendar; due whenever one of them is."""

    lines: tuple[tuple[Callable[[datetime], datetime | None], str], ...]
    """The next time of each that is due later than asked, and what it says in words."""

    def following(self, after: datetime) -> datetime | None:
        """The first moment that is due later than `after`; None if there is none within 50 years, or before
        the calendar ends."""
        return min(filter(None, (line(after) for line, _ in self.lines)), default=None)

    def upcoming(self, after: datetime) -> Iterator[datetime]:
        """The moments later than `after`, one after the other."""
        found = self.following(after)
        while found:
            yield found
            found = self.following(found)

    @property
    def says(self) -> str:
        """`at 03:00 every day`."""
        return ", and ".join(words for _, words in self.lines)


def parse(text: str, time_zone: str, now: datetime = _SOME_DAY) -> Schedule:
    """The schedule that a text is, in a zone of IANA. ValueError says what is wrong with it, also where it
    never comes after `now`."""
    schedule, error = _parsed(text, time_zone)
    if schedule is None:
        raise ValueError(error)
    if schedule.following(now) is None:
        raise ValueError(f"{text.strip()!r} never comes")
    return schedule


@lru_cache(maxsize=10_000)
def _parsed(text: str, time_zone: str) -> tuple[Schedule | None, str]:
    """Errors are kept too: a sender may repeat what is wrong with each heartbeat."""
    try:
        zone = zones.zone(time_zone)
        lines = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
        if not lines:
            raise ValueError(f"it is empty; a schedule is {ACCEPTED}")
        if len(lines) > MAX_LINES:
            raise ValueError(f"a schedule has at most {MAX_LINES} lines")
        return Schedule(tuple(_line(line, zone) for line in lines)), ""
    except ValueError as error:
        return None, str(error)


def _line(line: str, zone: ZoneInfo) -> tuple[Callable[[datetime], datetime | None], str]:
    fields = line.split()
    if fields[0].startswith("@"):
        cron = _PRESETS.get(line.lower())
        if cron is None:
            raise ValueError(f"{line!r} is none of {', '.join(_PRESETS)}")
        return partial(following, cron, zone), _in_words(cron)
    why = ""
    if len(fields) == 5:
        try:
            CronSim(line, _SOME_DAY)
            return partial(following, line, zone), _in_words(line)
        except (CronSimError, AssertionError, ValueError) as error:
            why = str(error)
    try:
        expression, zone = _parted(line, zone)
        BaseIterator(expression, _SOME_DAY)
    except (OnCalendarError, ValueError, IndexError, AssertionError) as error:
        found = why or _hint(fields) or str(error)
        raise ValueError(f"{line!r} is no schedule ({found}), which is {ACCEPTED}") from None
    return partial(_next_of_systemd, expression, zone), f"systemd's OnCalendar={line}"


def _in_words(cron: str) -> str:
    words = CronSim(cron, _SOME_DAY).explain()
    return words[:1].lower() + words[1:]


def _hint(fields: list[str]) -> str:
    try:
        check_cron(" ".join(fields[:5]))
    except ValueError:
        return ""
    return "cron has five fields, and the command is not one of them"


def _parted(line: str, zone: ZoneInfo) -> tuple[str, ZoneInfo]:
    """An OnCalendar expression without the time zone that may stand at its end, and the zone to use."""
    expression, _, last = line.rpartition(" ")
    if expression and last[:1].isalpha() and last.lower() not in _WEEKDAYS:
        return expression, zones.zone(last)
    return line, zone


_WEEKDAYS = frozenset(
    name[:length]
    for name in ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
    for length in (3, len(name))
)


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


def _next_of_systemd(expression: str, zone: ZoneInfo, after: datetime) -> datetime | None:
    """What systemd's timer runs next if it did not begin within a repeated hour."""
    try:
        wall = after.astimezone(zone).replace(tzinfo=None, fold=0)
        for found in BaseIterator(expression, wall):
            instant = found.replace(tzinfo=zone).astimezone(UTC)
            if instant > after and instant.astimezone(zone).replace(tzinfo=None) == found:
                return instant
    except OverflowError:  # the calendar ends
        pass
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
