"""The lifecycle: what heartbeats, proof of openness and silence make of a service. Pure.

Everything that decides a status lives here. Times are microseconds since 1970 UTC, as the broker
stored the facts; nothing here reads a clock. `decide` says what follows from a fact, `evolve` and
`hear` take it in. A fall is dated when it fell due, so ticks decide when we notice, never what happened.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from shared.events import Signal, Status

SECOND = 1_000_000

UNKNOWN, ALIVE, SILENT, DOWN, DEAD = Status
_BADNESS = {status: status.badness for status in Status}


class Patience(NamedTuple):
    """How long after the last heartbeat each fall is due, in microseconds."""

    silent: int
    down: int
    dead: int


class Beat(NamedTuple):
    """A heartbeat. `after_hole`: the broker has let go of beats just before it, so silence is unproved."""

    at: int
    signal: Signal = Signal.SUCCESS
    after_hole: bool = False


class Change(NamedTuple):
    from_: Status
    to: Status
    since: int
    last_beat: int | None
    reason: str


@dataclass(slots=True)
class Watched:
    """All that is known of one service."""

    name: str
    registered_at: int
    patience: Patience
    own: tuple[int | None, int | None, int | None] = (None, None, None)
    """The thresholds of its own configuration; None where the registry's default holds."""
    paused: bool = False
    resumed_at: int = 0
    config_seq: int = 0
    status: Status = UNKNOWN
    since: int = 0
    status_seq: int = 0
    last_beat: int = 0
    """0: never heard."""
    recorded_beat: int = 0
    """The newest beat that a recorded change knows of; ahead of `last_beat` while beats are read again."""
    rhythm: int = 0
    """Between the last two beats; 0 when fewer are known."""
    held: list[Beat] = field(default_factory=list)
    """Beats that came late, waiting for a tick to prove that the registry was listening before them."""
    unsure: bool = False
    """The broker has let go of beats that were not read: not judged before the next one."""
    scheduled: int = 0
    """The second at which it is looked at next."""

    @property
    def heard(self) -> int:
        """The newest beat that is known of, in whichever way."""
        return max(self.last_beat, self.recorded_beat)


@dataclass(slots=True)
class Coverage:
    """When the registry could be heard: everything up to `until`, less the gaps.

    Fed with the stretches that ticks prove. What no stretch covers is credited to every deadline.
    """

    MOST_GAPS = 1000

    until: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list)

    def prove(self, start: int, end: int) -> None:
        """A tick stored at `end` says that its instance has stored ticks without a break since `start`."""
        if self.gaps and start < self.gaps[-1][1]:
            self.gaps = [piece for gap in self.gaps for piece in _less(gap, start, end)]
        if start > self.until and self.until:
            self.gaps = [*self.gaps[-self.MOST_GAPS + 1 :], (self.until, start)]
        self.until = max(self.until, end)


def _less(gap: tuple[int, int], start: int, end: int) -> Iterator[tuple[int, int]]:
    """What is left of a gap when [start, end] turns out to have been covered after all."""
    if gap[0] < min(start, gap[1]):
        yield gap[0], min(start, gap[1])
    if max(end, gap[0]) < gap[1]:
        yield max(end, gap[0]), gap[1]


def due(it: Watched, patience: int, gaps: list[tuple[int, int]]) -> int:
    """When a fall is due that comes `patience` after the last beat.

    Each gap since then is credited in full. A beat that was tried in a gap was lost by our fault, so
    after a gap a service has also time for its next one: twice its rhythm, at most its patience.
    """
    heard = it.heard
    at = heard + patience
    for start, end in gaps[_first_after(gaps, heard) :]:
        if start >= at:
            break
        grace = min(patience, 2 * it.rhythm) if it.rhythm else patience
        at = max(at + end - max(start, heard), end + grace)
    return at


def _first_after(gaps: list[tuple[int, int]], at: int) -> int:
    """Index of the first gap that ends after `at`; nearly always there is none, or only the last."""
    i = len(gaps)
    while i and gaps[i - 1][1] > at:
        i -= 1
    return i


def next_due(it: Watched, coverage: Coverage) -> int | None:
    """When the next fall is due if nothing is heard. None: it is not judged (paused, unheard or dead)."""
    for to, patience in _rungs(it):
        if _BADNESS[to] > _BADNESS[it.status]:
            return due(it, patience, coverage.gaps)
    return None


def _rungs(it: Watched) -> tuple[tuple[Status, int], ...]:
    if it.paused or it.unsure or not it.heard or it.heard < it.resumed_at:
        return ()
    return (SILENT, it.patience.silent), (DOWN, it.patience.down), (DEAD, it.patience.dead)


def decidable(it: Watched, beat: Beat, coverage: Coverage) -> bool:
    """Whether it is proved what came before `beat`: no fall is due in the time that no tick covers yet."""
    if beat.at <= coverage.until or beat.after_hole:
        return True
    return not any(
        coverage.until < due(it, patience, coverage.gaps) <= beat.at
        for to, patience in _rungs(it)
        if _BADNESS[to] > _BADNESS[it.status]
    )


def falls(it: Watched, upto: int, coverage: Coverage) -> Iterator[Change]:
    """The falls due up to `upto`, in order, each dated when it fell due."""
    status = it.status
    for to, patience in _rungs(it):
        if _BADNESS[to] <= _BADNESS[status]:
            continue
        at = due(it, patience, coverage.gaps)
        if at > upto:
            return
        yield Change(status, to, at, it.heard, f"no heartbeat for {_spoken(patience)}")
        status = to


def decide(it: Watched, fact: Beat | None, coverage: Coverage) -> Iterator[Change]:
    """What follows from a beat, or from a tick (None: nothing was heard up to `coverage.until`).

    A beat that is not newer than the last one changes nothing: it was delivered before.
    """
    if fact is None:
        yield from falls(it, coverage.until, coverage)
        return
    if fact.at <= it.heard or fact.at < it.registered_at:
        return
    status = it.status
    if not fact.after_hole:
        for fall in falls(it, min(fact.at, coverage.until), coverage):
            yield fall
            status = fall.to
    if fact.signal is Signal.FAIL:
        if status is not DOWN:
            yield Change(status, DOWN, fact.at, fact.at, "reported failure")
    elif status is not ALIVE:
        yield Change(status, ALIVE, fact.at, fact.at, "heartbeat")


def evolve(it: Watched, change: Change) -> None:
    """Take in a change that is recorded, by this monitor or by another."""
    it.status = change.to
    it.since = change.since
    it.recorded_beat = max(it.recorded_beat, change.last_beat or 0)


def hear(it: Watched, at: int) -> None:
    """Take in that something was heard at `at`."""
    if at > it.last_beat:
        it.rhythm = at - it.last_beat if it.last_beat else 0
        it.last_beat = at


def _spoken(micros: int) -> str:
    """A threshold as its owner wrote it, or close to it: `15m`, `1h30m`."""
    seconds, parts = micros / SECOND, []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count:.0f}{unit}")
    if seconds:
        parts.append(f"{seconds:g}s")
    return "".join(parts)
