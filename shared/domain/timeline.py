"""What a service was when: segments of time from its events and from what ticks prove. Pure.

Times are integer microseconds since 1970 UTC.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from shared.contracts.events import Event, ServicePaused, ServiceResumed, Status, StatusChanged, micros
from shared.domain.service_state import PAUSED as PAUSED
from shared.domain.service_state import belongs_to_this_life

UNOBSERVED, NOTHING = "unobserved", "nothing"
"""States beside the statuses: not evaluated; the registry was deaf; before the service was registered."""

STATES = (*(status.value for status in Status), PAUSED, UNOBSERVED)
UP = (Status.ALIVE, Status.SILENT)
NOT_UP = (Status.DOWN, Status.DEAD)
NOT_MEASURED = (Status.UNKNOWN,)


class Mark(NamedTuple):
    """An event that changes what a service is: its status (`to`, `was`), or whether it is paused."""

    seq: int
    at: int
    to: Status | None = None
    was: Status | None = None
    paused: bool | None = None


def mark_of(event: Event, seq: int, stored_at: int) -> Mark | None:
    """What an event marks, if it changes status or pause. A change of status counts from when it was due."""
    match event:
        case StatusChanged(data=data):
            return Mark(seq, micros(data.since), data.to, data.from_)
        case ServicePaused() | ServiceResumed():
            return Mark(seq, stored_at, paused=isinstance(event, ServicePaused))
    return None


class Segment(NamedTuple):
    start: int
    end: int
    state: str


class Now(NamedTuple):
    """What a service is now, from when it counts, and the end of time."""

    status: Status
    paused: bool
    registered_at: int
    at: int


def segments(
    marks: Iterable[Mark], now: Now, start: int, gaps: Sequence[tuple[int, int]] = (), begins: int = 0
) -> list[Segment]:
    """From `start` until now without a break, in order. `marks`: all since `start`, also earlier ones;
    those of a former life do not count. `begins`: since when the record of the service is whole; before that
    it is unobserved. Paused comes before unobserved, unobserved before any status."""
    registered = max(start, now.registered_at)
    lower = max(registered, min(begins, now.at))
    own = (mark for mark in marks if belongs_to_this_life(mark.at, now.registered_at, mark.was))
    counting = sorted(own, key=lambda mark: (max(mark.at, lower), mark.seq))
    changes = [it for it in counting if it.to is not None]
    pauses = [it for it in counting if it.paused is not None]
    status = changes[0].was if changes and changes[0].was else now.status
    paused = not pauses[0].paused if pauses else now.paused
    turns: list[tuple[int, Status | None, bool | None, int]] = [
        (max(it.at, lower), it.to, it.paused, 0) for it in counting
    ]
    for opens, closes in gaps:
        if closes > lower and opens < now.at:
            turns += [(max(opens, lower), None, None, 1), (min(closes, now.at), None, None, -1)]
    found = [Segment(start, registered, NOTHING)] if registered > start else []
    _extend(found, registered, lower, UNOBSERVED)
    at, deaf = lower, 0
    for turn, to, pauses_, hole in sorted(turns, key=lambda it: it[0]):
        _extend(found, at, min(turn, now.at), _state(status, paused, deaf))
        at = max(at, min(turn, now.at))
        status, paused, deaf = to or status, paused if pauses_ is None else pauses_, deaf + hole
    _extend(found, at, now.at, _state(status, paused, deaf))
    return found


def _state(status: Status, paused: bool, deaf: int) -> str:
    return PAUSED if paused else UNOBSERVED if deaf else status.value


def _extend(found: list[Segment], start: int, end: int, state: str) -> None:
    if end <= start:
        return
    if found and found[-1].state == state and found[-1].end == start:
        found[-1] = found[-1]._replace(end=end)
    else:
        found.append(Segment(start, end, state))


def spent(found: Iterable[Segment]) -> dict[str, float]:
    """Seconds in each state."""
    total = dict.fromkeys(STATES, 0)
    for it in found:
        if it.state != NOTHING:
            total[it.state] += it.end - it.start
    return {state: micros / 1e6 for state, micros in total.items()}


def uptime(seconds: Mapping[str, float]) -> float | None:
    """The share of the observed and evaluated time in which it was alive or silent; None: there was none."""
    measured = sum(seconds[status] for status in (*UP, *NOT_UP))
    return sum(seconds[status] for status in UP) / measured if measured else None


def percent(share: float | None) -> str:
    """Never rounded up to 100 %, which would hide an outage."""
    return "-" if share is None else f"{int(share * 10_000) / 100:g} %"
