"""When cron and systemd's timers run, told by looking at each minute of UTC: slow, and simple.

Nothing here is shared with what is tested, but the names of the time zones.
"""

import re
from calendar import monthrange
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]


@lru_cache(5000)
def changes(zone: ZoneInfo, year: int) -> list[datetime]:
    """When the clocks are moved in a year; both at full quarters of an hour."""
    days = [datetime(year, 1, 1, tzinfo=UTC) + n * DAY for n in range(367)]
    moved = []
    for day, next_day in pairwise(days):
        if day.astimezone(zone).utcoffset() != next_day.astimezone(zone).utcoffset():
            quarters = [day + n * MINUTE * 15 for n in range(97)]
            offsets = [at.astimezone(zone).utcoffset() for at in quarters]
            moved += [at for at, (a, b) in zip(quarters[1:], pairwise(offsets), strict=True) if a != b]
    return moved


class Day(NamedTuple):
    day: int
    month: int
    year: int
    weekday: int
    """0 is Sunday."""
    from_end: int
    """1 on the last day of the month."""


class Wall(NamedTuple):
    """What a clock on the wall shows."""

    minute: int
    hour: int
    day: Day


class Minutes:
    """Each minute from `start` to `end`: whether the clock shows it for the first time, what it shows, and
    what it jumped over right before."""

    def __init__(self, zone: ZoneInfo, start: datetime, end: datetime) -> None:
        self.of: list[tuple[datetime, bool, Wall, list[Wall]]] = []
        seen: datetime | None = None
        for n in range((end - start) // MINUTE):
            at = start + n * MINUTE
            wall = at.astimezone(zone).replace(tzinfo=None)
            assert wall.second == 0, "reckoned by the minute"
            skipped = []
            first = seen is None or wall > seen
            while seen and seen + MINUTE < wall:
                seen += MINUTE
                skipped.append(shown(seen))
            if first:
                seen = wall
            self.of.append((at, first, shown(wall), skipped))


def shown(wall: datetime) -> Wall:
    return Wall(wall.minute, wall.hour, shown_day(wall.year, wall.month, wall.day))


@lru_cache(100_000)
def shown_day(year: int, month: int, day: int) -> Day:
    last = monthrange(year, month)[1]
    return Day(day, month, year, date(year, month, day).isoweekday() % 7, last + 1 - day)


# --- cron


def cron_field(field: str, lowest: int, highest: int, names: list[str], first_name: int = 0) -> set[int]:
    """For fields such as `*`, `*/20`, `5`, `1-5`, `0,30`, `mon-fri`."""
    for n, name in enumerate(names, first_name):
        field = field.lower().replace(name, str(n))
    wanted: set[int] = set()
    for part in field.split(","):
        part, _, step = part.partition("/")
        first, _, last = part.partition("-")
        begin, end = (lowest, highest) if part == "*" else (int(first), int(last or first))
        wanted |= set(range(begin, end + 1, int(step or 1)))
    return wanted


def cron_due(expression: str, minutes: Minutes) -> Iterator[datetime]:
    """A fixed time of day that is skipped runs right after; in a repeated hour it runs in the first pass."""
    fields = expression.split()
    minute = cron_field(fields[0], 0, 59, [])
    hour = cron_field(fields[1], 0, 23, [])
    day = cron_field(fields[2], 1, 31, [])
    month = cron_field(fields[3], 1, 12, MONTHS, 1)
    weekday = {n % 7 for n in cron_field(fields[4], 0, 7, WEEKDAYS)}
    by_the_clock = fields[0][0] == "*" or fields[1][0] == "*"
    both = fields[2][0] == "*" or fields[4][0] == "*"

    def matches(wall: Wall) -> bool:
        if wall.minute not in minute or wall.hour not in hour or wall.day.month not in month:
            return False
        days = wall.day.day in day, wall.day.weekday in weekday
        return all(days) if both else any(days)

    for at, first, wall, skipped in minutes.of:
        if matches(wall) if by_the_clock else first and (matches(wall) or any(map(matches, skipped))):
            yield at


# --- OnCalendar

WORDS = {
    "minutely": "*:*",
    "hourly": "*:00",
    "daily": "00:00",
    "weekly": "Mon 00:00",
    "monthly": "*-*-1",
    "quarterly": "*-1,4,7,10-1",
    "semiannually": "*-1,7-1",
    "yearly": "*-1-1",
    "annually": "*-1-1",
}


def calendar_field(field: str, lowest: int, highest: int) -> set[int]:
    """For fields such as `*`, `0/20`, `5`, `1..5`, `0,30`, `10..30/5`."""
    wanted: set[int] = set()
    for part in field.split(","):
        part, _, step = part.partition("/")
        first, _, last = part.partition("..")
        if part == "*":
            begin, end = lowest, highest
        else:
            begin, end = int(first), int(last or (highest if step else first))
        wanted |= set(range(begin, end + 1, int(step or 1)))
    return wanted


def calendar_weekdays(field: str) -> set[int]:
    wanted: set[int] = set()
    for part in field.lower().strip(",").split(","):
        first, *last = [(WEEKDAYS.index(name[:3]) - 1) % 7 for name in re.split(r"\.\.|-", part)]
        wanted |= {(n + 1) % 7 for n in range(first, (last[0] if last else first) + 1)}
    return wanted


def calendar_due(expression: str, minutes: Minutes) -> Iterator[datetime]:
    """Everything runs in the first pass of a repeated hour, and nothing of what is skipped."""
    parts = WORDS.get(expression.lower(), expression).split()
    time = parts.pop() if ":" in parts[-1] else "00:00:00"
    dates = parts.pop() if parts and not parts[-1][0].isalpha() else "*-*-*"
    weekday = calendar_weekdays(parts[0]) if parts else set(range(7))
    hours, mins, secs = (time + ":0").split(":")[:3]
    hour, minute, second = (
        calendar_field(hours, 0, 23),
        calendar_field(mins, 0, 59),
        calendar_field(secs, 0, 59),
    )
    dates, from_end, end = dates.partition("~")
    years, months, *days = (dates if dates.count("-") == (1 if from_end else 2) else f"*-{dates}").split("-")
    year, month = calendar_field(years, 1970, 2199), calendar_field(months, 1, 12)
    day = calendar_field(days[0], 1, 31) if days else set[int]()
    if from_end:  # `~7/2` are the 7th, 5th, 3rd and 1st from the end, `~1..7/3` the 1st, 4th and 7th
        first, _, step = end.partition("/")
        to_the_end = step and ".." not in first
        day = set(range(1, int(first) + 1)[:: -int(step)]) if to_the_end else calendar_field(end, 1, 28)

    for at, first, wall, _ in minutes.of:
        if (
            first
            and wall.minute in minute
            and wall.hour in hour
            and (wall.day.from_end if from_end else wall.day.day) in day
            and wall.day.weekday in weekday
            and wall.day.month in month
            and wall.day.year in year
        ):
            yield from (at + timedelta(seconds=s) for s in sorted(second))
