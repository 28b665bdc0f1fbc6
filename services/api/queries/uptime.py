"""What the history of a service says of its past, and that past in slices, as bars show it. Pure."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from services.api.projections.documents import Document
from shared.contracts.events import Status, micros
from shared.domain.timeline import NOTHING, Mark, Segment

_PROBLEMS = ("dead", "down", "silent")

WINDOWS = {f"{days}d" if days > 1 else "24h": timedelta(days=days) for days in (1, 7, 30, 90)}
"""The windows that uptime is told for."""

LONGEST = WINDOWS["90d"]


def mark(row: Document) -> Mark | None:
    """What a line of the history marks, as `mark_of` says of its event."""
    match row["type"]:
        case "service.status_changed.v1":
            data = row["data"]
            since = micros(datetime.fromisoformat(data["since"]))
            return Mark(row["_id"], since, Status(data["to"]), Status(data["from"]))
        case "service.paused.v1":
            return Mark(row["_id"], row["at"], paused=True)
        case "service.resumed.v1":
            return Mark(row["_id"], row["at"], paused=False)
    return None


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
