"""When a job is due, by the clock of its time zone: cron as Debian runs it, or systemd's OnCalendar. Pure.

All results are UTC, and later than asked. On days when the clocks are moved, cron runs what is due at a time
of day once: in the first pass of an hour that comes twice, and right after an hour that is skipped. What runs
by the minute or the hour (`*`, `*/20`) follows the clock through both passes. systemd runs everything in the
first pass only, and nothing of what is skipped. The libraries find the times, but they do not know in which
pass of a repeated hour they are, so they are never asked within one.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from heapq import merge
from itertools import groupby
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from oncalendar import BaseIterator, OnCalendarError

from shared.contracts import zones

MAX_LENGTH, MAX_LINES = 1000, 10
"""Of one schedule."""
ACCEPTED = "cron such as '0 3 * * 1-5', or systemd's OnCalendar such as 'Mon..Fri 09:00'"
_FIVE_FIELDS = "cron has five fields: minute, hour, day of the month, month and day of the week"
_PRESETS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_ALSO_OF_SYSTEMD = {
    "anually": "yearly",
    "semi-annually": "semiannually",
    "biannually": "semiannually",
    "bi-annually": "semiannually",
}
_SOME_DAY = datetime(2026, 1, 1, tzinfo=UTC)
_SECOND, _LOOK = timedelta(seconds=1), timedelta(days=7)
_MOST_CHANGES = 150
"""Changes of a zone's clocks that are searched for the next time: those of more than 50 years."""

Next = Callable[[datetime], datetime | None]
"""The next time that is due later than asked."""


@dataclass(frozen=True)
class Schedule:
    """One or several lines of cron or OnCalendar; due whenever one of them is."""

    lines: tuple[tuple[Next, str], ...]
    """The next time of each, and what it says in words."""

    def following(self, after: datetime) -> datetime | None:
        """The first moment that is due later than `after`; None if there is none within 50 years, or before
        the calendar ends."""
        return min(filter(None, (line(after) for line, _ in self.lines)), default=None)

    def upcoming(self, after: datetime) -> Iterator[datetime]:
        """The moments later than `after`, one after the other."""
        each = (_upcoming(line, after) for line, _ in self.lines)
        return (found for found, _ in groupby(merge(*each)))

    @property
    def says(self) -> str:
        """`at 03:00 every day`."""
        return ", and ".join(words for _, words in self.lines)


def _upcoming(line: Callable[[datetime], datetime | None], after: datetime) -> Iterator[datetime]:
    found = line(after)
    while found:
        yield found
        found = line(found)


def parse(text: str, time_zone: str, now: datetime = _SOME_DAY) -> Schedule:
    """The schedule that a text is, in a zone of IANA. ValueError says what is wrong with it, also where it
    never comes after `now`."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"a schedule has at most {MAX_LENGTH} characters")
    try:
        zone = zones.zone(time_zone)
    except ValueError as error:
        raise ValueError(f"the time zone {error}") from None
    schedule, why_not, first = _parsed(text, zone)
    if schedule is None:
        raise ValueError(why_not)
    is_to_come = first is not None and first > now
    if not is_to_come and schedule.following(now) is None:
        raise ValueError(f"{_short(text)} does not come any more after {now:%Y-%m-%d}")
    return schedule


def stored(text: str, time_zone: str) -> Schedule:
    """The schedule that a service has. One that cannot be read is never due: another version accepted it."""
    try:
        return parse(text, time_zone)
    except ValueError:
        return Schedule(())


@lru_cache(maxsize=10_000)
def _parsed(text: str, zone: ZoneInfo) -> tuple[Schedule | None, str, datetime | None]:
    """The schedule, or what is wrong with it, and the first moment that is due after some day. All of it is
    kept, errors too: a sender may repeat it with each heartbeat."""
    try:
        lines = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
        if not lines:
            raise ValueError(f"a schedule is empty: use {ACCEPTED}")
        if len(lines) > MAX_LINES:
            raise ValueError(f"a schedule has at most {MAX_LINES} lines")
        schedule = Schedule(tuple(_line(line, zone) for line in lines))
        return schedule, "", schedule.following(_SOME_DAY)
    except ValueError as error:
        return None, str(error), None


def _line(line: str, zone: ZoneInfo) -> tuple[Next, str]:
    try:
        return _cron_line(line, zone) if is_cron(line) else _calendar_line(line, zone)
    except ValueError as error:
        raise ValueError(f"{_short(line)} is not a schedule: {error}") from None


def _short(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def is_cron(line: str) -> bool:
    """Whether a line, right or wrong, is meant to be cron."""
    if line.startswith("@"):
        return True
    fields = line.split()[:5]
    if len(fields) == 1:
        return re.fullmatch("[0-9*,/]+", line) is not None
    return re.match(r"[0-9*,/-]+\s+[0-9*]", line) is not None and not re.search(r":|\.\.", " ".join(fields))


def _cron_line(line: str, zone: ZoneInfo) -> tuple[Next, str]:
    if line.startswith("@"):
        if line.lower() == "@reboot":
            raise ValueError("a start of the machine is no time at which something is due")
        if line.lower() not in _PRESETS:
            raise ValueError(f"the words with an @ are {', '.join(_PRESETS)}")
        line = _PRESETS[line.lower()]
    _cron(line)
    words = _cron(_without_long_steps(line)).explain()
    words = re.sub(r"\b([2-5][123])th\b", _ordinal, words)
    return _coming(partial(following, line, zone), _SOME_DAY), words[:1].lower() + words[1:]


def _without_long_steps(line: str) -> str:
    """In words `*/70` of the minutes is 0: cron accepts a step beyond the end, and takes the first alone."""
    fields = line.split()
    for i, first, last in ((0, 0, 59), (1, 0, 23), (3, 1, 12)):
        step = re.fullmatch(r"\*/([0-9]+)", fields[i])
        if step and first + int(step[1]) > last:
            fields[i] = str(first)
    return " ".join(fields)


def _coming(due: Next, since: datetime) -> Next:
    if due(since) is None:
        raise ValueError("it never comes")
    return due


def _ordinal(match: re.Match[str]) -> str:
    """`22th`, as the library has it, is the 22nd."""
    return match[1] + {"1": "st", "2": "nd", "3": "rd"}[match[1][-1]]


def check_cron(expression: str) -> str:
    """The expression, if it has the five fields of one. ValueError says what is wrong with it."""
    try:
        _cron(expression)
    except ValueError as error:
        raise ValueError(f"a cron expression of five fields such as '0 3 * * sun': {error}") from None
    return expression


_CRON_FIELDS = {
    "minute": "the minute must be 0 to 59, a range 0-29, a list 0,30 or a step */5",
    "hour": "the hour must be 0 to 23, a range 9-17, a list 0,12 or a step */2",
    "day-of-month": "the day of the month must be 1 to 31, a range 1-7, a list 1,15, a step */2, "
    "or L, the last",
    "month": "the month must be 1 to 12 or jan to dec, a range 1-6, a list 1,7 or a step */3",
    "day-of-week": "the day of the week must be 0 to 7 or sun to sat (0 and 7 are Sunday), a range 1-5, "
    "a list mon,fri, 1#2 (the second Monday of the month) or 1L (the last)",
}


def _cron(expression: str) -> CronSim:
    fields = expression.split()
    if len(fields) > 5:
        raise ValueError(f"{_FIVE_FIELDS}; here are {len(fields)}, without seconds and without a command")
    if len(fields) < 5:
        raise ValueError(f"{_FIVE_FIELDS}; here are {len(fields)}")
    try:
        return CronSim(expression, _SOME_DAY)
    except (CronSimError, ValueError, AssertionError) as error:
        name = str(error).removeprefix("Bad ")
        if name == "day-of-month" and _is_a_day(fields):
            raise ValueError("it never comes") from None
        raise ValueError(_CRON_FIELDS.get(name, name)) from None


def _is_a_day(fields: list[str]) -> bool:
    """Whether the day of the month is right by itself: the library says the same of `31 2`."""
    try:
        CronSim(f"0 0 {fields[2]} * *", _SOME_DAY)
    except (CronSimError, ValueError, AssertionError):
        return False
    return True


_CALENDAR_FIELDS = {
    "day-of-week": "the day of the week must be Mon to Sun, a range Mon..Fri or a list Mon,Fri",
    "year": "the year must be 1970 to 2199, a range 2027..2029 or a list 2027,2029",
    "month": "the month must be 1 to 12, a range 1..6, a list 1,7 or a step 1/3",
    "day-of-month": "the day must be 1 to 31, a range 1..7, a list 1,15 or a step 1/2, "
    "or after ~, counted from the month's end, 1 to 28",
    "hour": "the hour must be 0 to 23, a range 9..17, a list 0,12 or a step 0/2",
    "minute": "the minute must be 0 to 59, a range 0..29, a list 0,30 or a step 0/5",
    "second": "the second must be 0 to 59 and whole, a range 0..29, a list 0,30 or a step 0/5",
    "time": "the time must be HH:MM or HH:MM:SS",
    "date": "the date must be YEAR-MONTH-DAY or MONTH-DAY",
}
_ORDER = "OnCalendar is weekdays, date, time, time zone, such as 'Mon..Fri *-*-* 09:00 Europe/Berlin'"
_MEANT_AS_CALENDAR = re.compile(
    r"(mon|tue|wed|thu|fri|sat|sun)|([a-z-]+ly)\b|[0-9*][0-9*,./]*[-~]|.*[0-9*]:", re.IGNORECASE
)


def _calendar_line(line: str, zone: ZoneInfo) -> tuple[Next, str]:
    if not _MEANT_AS_CALENDAR.match(line):
        raise ValueError(f"use {ACCEPTED}")
    expression, zone = _without_zone(line, zone)
    expression = _ALSO_OF_SYSTEMD.get(expression.lower(), expression)
    expression = re.sub("~[^ ]*", lambda days: _STEPS_OF_RANGE.sub(_as_a_list, days[0]), expression)
    try:
        dates = BaseIterator(expression, _SOME_DAY)
    except (OnCalendarError, ValueError, IndexError, AssertionError) as error:
        raise ValueError(_CALENDAR_FIELDS.get(str(error).removeprefix("Bad "), _ORDER)) from None
    if all(day > max(_DAYS_OF_MONTH[month] for month in dates.months) for day in dates.days):
        raise ValueError("it never comes")  # to look for it until the year 2200 takes long
    last_year = datetime(max(dates.years), 1, 1, tzinfo=UTC)
    lost_until = partial(_lost_until, _uneven_steps(expression, dates), dates, zone)
    due = _coming(partial(_next_of_systemd, expression, zone, lost_until), min(_SOME_DAY, last_year - _LOOK))
    return due, f"systemd's OnCalendar={line}"


_DAYS_OF_MONTH = (0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


_STEPS_OF_RANGE = re.compile(r"\b([0-9]{1,2})\.\.([0-9]{1,2})/([1-9][0-9]?)\b")


def _as_a_list(match: re.Match[str]) -> str:
    """`~10..20/4` are the days 10, 14 and 18 from the end; the library counts from 20."""
    first, last, step = map(int, match.groups())
    return ",".join(map(str, range(first, last + 1, step))) or match[0]


def _without_zone(line: str, zone: ZoneInfo) -> tuple[str, ZoneInfo]:
    """An OnCalendar expression without the time zone that may stand at its end, and the zone to use."""
    *before, last = line.rsplit(maxsplit=1)
    if not before or not last[:1].isalpha() or _WEEKDAY.match(last):
        return line, zone
    if last.upper() == "UTC":
        last = "UTC"
    try:
        return before[0], zones.zone(last)
    except ValueError as error:
        raise ValueError(f"the time zone at its end {error}") from None


_WEEKDAY = re.compile(r"(mon|tue|wed|thu|fri|sat|sun)", re.IGNORECASE)


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
    begin = wall = (start + offset).replace(tzinfo=None)
    found: datetime | None = None
    for _ in range(_MOST_CHANGES):
        if found is None or not begin <= wall < found:  # else nothing is due between them: it was looked at
            begin, found = wall, next(CronSim(expression, wall), None)
        if found is None:
            return None
        instant = found.replace(tzinfo=UTC) - offset
        change = _next_change(zone, start, instant)
        if change is None:
            return instant
        start, offset = change, _offset(zone, change)
        wall = (start + offset - _SECOND).replace(tzinfo=None)
    return None


_OPEN_STEP = re.compile(r"(?<![.0-9])([0-9]+)/([0-9]+)")
_FIRST, _END = (1, 1, 1, 0, 0, 0), (2200, 13, 32, 24, 60, 60)
"""Of year, month, day (in December, where it matters), hour, minute and second."""
_UNITS = tuple(timedelta(seconds=each) for each in (366 * 86400, 31 * 86400, 86400, 3600, 60, 1))
"""The same; of a month January, the only one that begins where days are lost."""


def _uneven_steps(expression: str, dates: BaseIterator) -> list[tuple[int, int]]:
    """The fields (2 is the day) with a step without an end that misses the end of a month, day, hour or
    minute, and how far beyond the end it comes."""
    *date, clock = expression.split() if ":" in expression else (*expression.split(), "")
    day = re.split("[-~]", " ".join(date))[-1]
    if "~" in expression:
        day = _OPEN_STEP.sub(lambda step: f"{32 - int(step[1])}/{step[2]}", day)
    values = {day % 32 for day in dates.days}, dates.hours, dates.minutes, dates.seconds
    found = []
    for field, (text, taken) in enumerate(zip((day, *clock.split(":")), values, strict=False), 2):
        end = _END[field]
        steps = [(int(first), int(step)) for first, step in _OPEN_STEP.findall(text)]
        beyond = min(((first - end) % step for first, step in steps if first + step < end), default=0)
        if beyond and end - 1 not in taken:
            found.append((field, beyond))
    return found


def _lost_until(
    uneven: list[tuple[int, int]], dates: BaseIterator, zone: ZoneInfo, wall: datetime
) -> datetime | None:
    """The last second of the times that systemd (252) skips together with this one; None: it skips it not.
    After 23:56 the step `0/7` comes to 23:63, which is 00:03: systemd goes on from there and runs next at
    00:07. The same at ends of years, months and hours."""
    at: tuple[Any, ...] = wall.timetuple()[:6]
    for field, beyond in uneven:
        begin = datetime(*at[: field - 1], *_FIRST[field - 1 :]).replace(tzinfo=zone).astimezone(UTC)
        before = (begin - _SECOND).astimezone(zone)
        came_from = (
            before.year in dates.years,
            before.month in dates.months,
            dates.match_dom(before) and dates.match_dow(before),
            before.hour in dates.hours,
            before.minute in dates.minutes,
        )
        is_first = at[:field] == begin.astimezone(zone).timetuple()[:field]
        if is_first and at[field] - _FIRST[field] < beyond and all(came_from[:field]):
            lost = min(beyond * _UNITS[field], _UNITS[field - 1])
            names = ("day", "hour", "minute", "second")[field - 2 :]
            first: dict[str, Any] = dict(zip(names, _FIRST[field:], strict=True))
            return wall.replace(**first) + lost - _SECOND
    return None


def _next_of_systemd(
    expression: str, zone: ZoneInfo, lost_until: Callable[[datetime], datetime | None], after: datetime
) -> datetime | None:
    """What systemd's timer runs next if it did not begin within a repeated hour."""
    try:
        wall: datetime | None = after.astimezone(zone).replace(tzinfo=None, fold=0)
        while wall:
            dates, wall = BaseIterator(expression, wall), None
            for found in dates:
                instant = found.replace(tzinfo=zone).astimezone(UTC)
                if instant <= after:  # it was in the first pass
                    continue
                if wall := lost_until(found):
                    break
                if instant.astimezone(zone).replace(tzinfo=None) == found:
                    return instant
                wall = _after_the_gap(zone, found)
                break
    except OverflowError:  # the calendar ends
        pass
    return None


def _after_the_gap(zone: ZoneInfo, skipped: datetime) -> datetime | None:
    """The last second of those that the clock skips together with this one."""
    before = skipped.replace(tzinfo=zone, fold=1).astimezone(UTC)
    change = _next_change(zone, before, skipped.replace(tzinfo=zone).astimezone(UTC))
    return change and change.astimezone(zone).replace(tzinfo=None) - _SECOND


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
