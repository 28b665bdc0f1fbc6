"""What the dashboard draws: numbers to coordinates. Pure; the templates make pictures of them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby, pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

from services.api.http.models import HeardItem
from shared.contracts.durations import spoken, spoken_seconds
from shared.contracts.events import Signal, moment
from shared.contracts.zones import in_zone
from shared.domain import timeline
from shared.domain.timeline import NOTHING, Segment

COLUMNS = 100
"""Columns of a chart, at most."""


_PROBLEMS = ("dead", "down", "silent")


class Slice(NamedTuple):
    """A piece of a bar. `state`: the worst that happened in it, or else what it was for the longest of its
    time there; `spent`: microseconds in each state."""

    start: int
    end: int
    state: str
    spent: dict[str, int]


def slices(found: Sequence[Segment], count: int) -> Iterator[Slice]:
    """Cut what `segments` found into pieces of equal length."""
    if not found:
        return
    start, end, i = found[0].start, found[-1].end, 0
    bounds = [start + (end - start) * n // count for n in range(count + 1)]
    for opens, closes in pairwise(bounds):
        held: dict[str, int] = {}
        while i < len(found):
            it = found[i]
            if (overlap := min(it.end, closes) - max(it.start, opens)) > 0:
                held[it.state] = held.get(it.state, 0) + overlap
            if it.end > closes:
                break
            i += 1
        longest = max(held, key=lambda it: (it != NOTHING, held[it]), default=NOTHING)
        yield Slice(opens, closes, next((it for it in _PROBLEMS if it in held), longest), held)


class Piece(NamedTuple):
    """Slices beside each other in the same state; `at` and `length` in slices."""

    at: int
    length: int
    state: str
    title: str


def bar(found: Sequence[Segment], count: int, zone: ZoneInfo) -> list[Piece]:
    """Time in `count` slices, where each shows the worst that happened in it."""
    pieces = []
    for state, following in groupby(enumerate(slices(found, count)), key=lambda each: each[1].state):
        at, parts = zip(*following, strict=True)
        spent = sum((Counter(part.spent) for part in parts), Counter[str]())
        title = _title(moment(parts[0].start), moment(parts[-1].end), spent, zone)
        pieces.append(Piece(at[0], len(parts), state, title))
    return pieces


def _title(start: datetime, end: datetime, spent: Counter[str], zone: ZoneInfo) -> str:
    start, end = in_zone(start, zone), in_zone(end, zone)
    until = f"{end:%H:%M}" if start.date() == end.date() else f"{end:%b %d %H:%M}"
    whats = [
        f"{state} {spoken(timedelta(microseconds=micros))}"
        for state, micros in spent.most_common()
        if state != NOTHING
    ]
    return f"{start:%b %d %H:%M} to {until}: {', '.join(whats) or 'not registered yet'}"


def in_a_line(seconds: Mapping[str, float]) -> str:
    """A bar in words: `99.2 % up; down 12 min, unobserved 2 s`."""
    share = timeline.uptime(seconds)
    flaws = [
        f"{state} {spoken(timedelta(seconds=seconds[state]))}"
        for state in ("down", "dead", "silent", "paused", "unobserved")
        if seconds[state] >= 1
    ]
    up = "not evaluated" if share is None else f"{timeline.percent(share)} up"
    return f"{up}; {', '.join(flaws)}" if flaws else up


class Column(NamedTuple):
    """`height` from 0 to 1."""

    height: float
    state: str
    title: str


class Chart(NamedTuple):
    """Columns, oldest first. `most`: what the full height stands for; `line`: a height worth comparing to."""

    columns: list[Column]
    most: str
    line: float | None


def cadence(heard: Sequence[HeardItem], silent_after: timedelta | None, zone: ZoneInfo) -> Chart | None:
    """The time between heartbeats, without those that only begin a run, unless there are no others.
    `heard`: newest first; `silent_after`: None where it does not count from the last heartbeat. None if there
    are too few."""
    heard = [beat for beat in heard if beat.signal is not Signal.LOG]
    heard = [beat for beat in heard if beat.signal is not Signal.START] or heard
    pairs = list(pairwise(heard[: COLUMNS + 1]))[::-1]
    lengths = [(newer, (newer.at - older.at).total_seconds()) for newer, older in pairs]
    line = silent_after.total_seconds() if silent_after else None
    return _chart(lengths, "{length} after the one before", zone, line)


def durations(heard: Sequence[HeardItem], zone: ZoneInfo) -> Chart | None:
    """How long runs took. `heard`: newest first. None if there were none."""
    runs = [(beat, beat.duration) for beat in heard[:COLUMNS] if beat.duration is not None]
    return _chart(runs[::-1], "{signal} after {length}", zone)


def _chart(
    lengths: Sequence[tuple[HeardItem, float]], title: str, zone: ZoneInfo, line: float | None = None
) -> Chart | None:
    """A column per heartbeat, as high as its length, in seconds."""
    if not lengths:
        return None
    most = max(length for _, length in lengths) or 1.0
    if line is not None and line <= 2 * most:
        most = max(most, line)
    columns = [
        Column(
            round(length / most, 4),
            "down" if beat.signal is Signal.FAIL else "alive",
            f"{in_zone(beat.at, zone):%b %d %H:%M:%S}: "
            + title.format(signal=beat.signal, length=spoken_seconds(length)),
        )
        for beat, length in lengths
    ]
    return Chart(columns, spoken_seconds(most), line / most if line is not None and line <= most else None)
