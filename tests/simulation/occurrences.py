"""When made-up jobs are due, by a table and not by the product: each second near the scenario is looked at.

The zones whose clocks change in the middle of a scenario are made up, and so are their files.
"""

import io
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

from tests.simulation.model import BASE, NEVER

SECOND = 1_000_000
START = BASE // SECOND

OFFSETS: dict[str, list[tuple[int, int]]] = {
    "UTC": [(0, 0)],
    "Europe/Berlin": [(0, 7200)],
    "Asia/Kolkata": [(0, 19800)],
    "Australia/Lord_Howe": [(0, 37800)],
    "Made/Odd": [(0, 3620)],
    "Made/Back": [(0, 0), (START + 30, -3600)],
    "Made/Forward": [(0, 0), (START + 40, 3600)],
    "Made/Blink_Back": [(0, 0), (START + 33, -15)],
    "Made/Blink_Forward": [(0, 0), (START + 33, 15)],
}
"""Of each zone, in seconds, and from when on (the others do not change within days)."""


def made_zone(name: str) -> ZoneInfo:
    """Its file, as zic would compile it."""
    offsets = OFFSETS[name]
    changes = offsets[1:]
    head = b"TZif" + bytes(16) + struct.pack(">6l", 0, 0, 0, len(changes), len(offsets), 4)
    body = struct.pack(f">{len(changes)}l", *(at for at, _ in changes)) + bytes(range(1, len(offsets)))
    kinds = b"".join(struct.pack(">lbB", offset, 0, 0) for _, offset in offsets)
    return ZoneInfo.from_file(io.BytesIO(head + body + kinds + b"XYZ\0"), key=name)


MADE = {name: made_zone(name) for name in OFFSETS if name.startswith("Made/")}


@dataclass(frozen=True)
class Line:
    """`kind`: `systemd` (each second, the first pass only), `clock` (cron with a star: each minute, in both
    passes) or `day` (cron without one: once, and right after an hour that is skipped)."""

    kind: str
    is_due: Callable[[int, int, int], bool]
    """By hour, minute and second of the clock."""


def _every(step: int, first: int = 0) -> Line:
    return Line("systemd", lambda hour, minute, second: second >= first and (second - first) % step == 0)


SCHEDULES: dict[str, list[Line]] = {
    "*:*:0/5": [_every(5)],
    "*:*:0/4": [_every(4)],
    "*:*:0/7": [_every(7)],
    "*:*:0/10": [_every(10)],
    "*:*:3/10": [_every(10, 3)],
    "*:*:0/15": [_every(15)],
    "*:*:0/20\n*:*:7/20": [_every(20), _every(20, 7)],
    "*:*:10,12,40": [Line("systemd", lambda hour, minute, second: second in (10, 12, 40))],
    "*:14:0/6": [Line("systemd", lambda hour, minute, second: minute == 14 and second % 6 == 0)],
    "* * * * *": [Line("clock", lambda hour, minute, second: True)],
    "*/2 * * * *": [Line("clock", lambda hour, minute, second: minute % 2 == 0)],
    "14,15 14 * * *": [Line("day", lambda hour, minute, second: hour == 14 and minute in (14, 15))],
    "14-16 13-15 * * *": [Line("day", lambda hour, minute, second: 13 <= hour <= 15 and 14 <= minute <= 16)],
}
"""Those of scenarios, and what they mean."""
BY_DAY = {text for text, lines in SCHEDULES.items() if lines[0].kind == "day"}


def pairs() -> list[tuple[str, str]]:
    """Each schedule with each zone that it makes sense in: cron looks at whole minutes."""
    return [
        (text, zone) for text in SCHEDULES for zone in OFFSETS if text not in BY_DAY or "Blink" not in zone
    ]


@cache
def table(text: str, zone: str) -> list[int]:
    """All occurrences around the scenario, in microseconds."""
    found = {at for line in SCHEDULES[text] for at in _of_line(line, OFFSETS[zone])}
    return [at * SECOND for at in sorted(found)]


def _of_line(line: Line, offsets: list[tuple[int, int]]) -> Iterator[int]:
    step, far = (1, 4000) if line.kind == "systemd" else (60, 2 * 86400)
    pieces = [*offsets, (START + far, 0)]
    for n, ((since, offset), (until, _)) in enumerate(pairwise(pieces)):
        jump = offset - offsets[n - 1][1] if n else 0
        skipped = range(since + offset - jump, since + offset) if line.kind == "day" and jump > 0 else ()
        if any(wall % 60 == 0 and line.is_due(*_clock(wall)) for wall in skipped):
            yield since
        begin = max(since, START - far)
        for at in range(begin + -(begin + offset) % step, until, step):
            is_second_pass = at < since - jump
            if line.is_due(*_clock(at + offset)) and (line.kind == "clock" or not is_second_pass):
                yield at


def _clock(wall: int) -> tuple[int, int, int]:
    return wall // 3600 % 24, wall // 60 % 60, wall % 60


def following(text: str, zone: str, at: int) -> int:
    """The first later than `at`."""
    known = table(text, zone)
    place = bisect_right(known, at)
    return known[place] if place < len(known) else NEVER


def last(text: str, zone: str, at: int) -> int:
    """The last one up to `at`, which may be `at` itself."""
    known = table(text, zone)
    place = bisect_right(known, at)
    return known[place - 1] if place else 0


def opens(text: str, zone: str, occurrence: int, early: int) -> int:
    """From when on heartbeats count for an occurrence: `early` before, or half of the way from the last."""
    if occurrence >= NEVER:
        return NEVER
    known = table(text, zone)
    place = bisect_left(known, occurrence)
    before = known[place - 1] if place else 0
    return occurrence - min(early, (occurrence - before) // 2)


def counts_for(text: str, zone: str, at: int, early: int) -> int:
    """The occurrence that a heartbeat counts for."""
    coming = following(text, zone, at)
    return coming if at >= opens(text, zone, coming, early) else last(text, zone, at)


def beside_the_product(text: str, zone: str, within: int) -> tuple[list[int], list[int]]:
    """The table for so many seconds around the scenario, and the same as the product reckons it."""
    from shared.contracts import schedules

    known = [at for at in table(text, zone) if abs(at - BASE) <= within * SECOND]
    found, parsed = list[int](), schedules.parse(text, zone)
    if not known:
        return [], []
    at = datetime.fromtimestamp(known[0] // SECOND - 1, UTC)
    while not found or found[-1] < known[-1]:
        at = parsed.following(at) or datetime.max.replace(tzinfo=UTC)
        found.append(round(at.timestamp()) * SECOND)
    return known, found
