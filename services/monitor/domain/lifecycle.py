"""The lifecycle: what heartbeats, proof of openness and silence make of a service. Pure.

Everything that decides a status lives here. Times are microseconds since 1970 UTC, as the broker
stored the facts; nothing here reads a clock. `decide` says what follows from a fact, `evolve` and
`hear` take it in. A fall is dated when it fell due, so ticks decide when we notice, never what happened.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import accumulate
from typing import NamedTuple

from shared.contracts import durations
from shared.contracts.events import Signal, Status
from shared.domain.coverage import Coverage

SECOND = 1_000_000

UNKNOWN, ALIVE, SILENT, DOWN, DEAD = Status
_BADNESS = {status: status.badness for status in Status}


class EffectiveThresholds(NamedTuple):
    """How long after the last heartbeat each fall is due, in microseconds."""

    silent: int
    down: int
    dead: int


class Beat(NamedTuple):
    """A heartbeat. `after_hole`: the broker has let go of beats just before it, so silence is unproved."""

    at: int
    signal: Signal = Signal.SUCCESS
    every: int = 0
    """The interval it declares, in microseconds; 0 if none."""
    message: str | None = None
    exit_code: int | str | None = None
    after_hole: bool = False
    trace: str | None = None
    """The `traceparent` it came with."""


class Doubt(NamedTuple):
    """Of those that had been beating regularly, how many stopped within so many seconds of each other."""

    stopped: int
    of: int
    within: int


class PausedReport(NamedTuple):
    """What the heartbeats of a pause come to; it counts as of the resume, at `resumed_at` (0: not yet).

    The newest success or failure decides, or a start where there is neither.
    """

    signal: Signal
    message: str | None = None
    exit_code: int | str | None = None
    duration: int | None = None
    """Of the run that ended with it, in microseconds."""
    trace: str | None = None
    resumed_at: int = 0


class Change(NamedTuple):
    from_: Status
    to: Status
    since: int
    last_beat: int | None
    reason: str
    message: str | None = None
    duration: int | None = None
    """Of the run that ended with the beat that made the change, in microseconds."""
    doubt: Doubt | None = None
    trace: str | None = None
    """Of the beat that made the change."""


@dataclass(slots=True)
class MonitoredService:
    """All that is known of one service."""

    name: str
    registered_at: int
    patience: EffectiveThresholds
    counted_from: tuple[int, int, int] = (0, 0, 0)
    """From when the silence counts that makes it silent, down and dead, where that is later than its last
    beat: since it was resumed, or since other thresholds hold (`change_thresholds`)."""
    own: tuple[int | None, int | None, int | None] = (None, None, None)
    """The thresholds of its own configuration; None where the registry's default holds."""
    every: int = 0
    """The interval its beats declare; 0: none."""
    every_at: int = 0
    """When the beat was that declared it."""
    paused: bool = False
    said: PausedReport | None = None
    """By what came in while it is paused, or until that is taken in after the resume."""
    config_seq: int = 0
    status: Status = UNKNOWN
    since: int = 0
    status_seq: int = 0
    last_beat: int = 0
    """0: never heard."""
    recorded_beat: int = 0
    """The newest beat that a recorded change knows of; ahead of `last_beat` while beats are read again."""
    unproved: int = 0
    """Up to here there may have been beats that the broker has let go of: silence counts from here."""
    rhythm: int = 0
    """Between the last two beats that did not end a run; 0 when fewer are known."""
    in_a_row: int = 0
    """How many beats came within its patience of the one before, without a longer break; at most REGULAR."""
    signal: Signal = Signal.SUCCESS
    """What the last beat said."""
    held: tuple[Beat, ...] = ()
    """Beats that came late, waiting for a tick to prove that the registry was listening before them."""
    unsure: bool = False
    """The broker has let go of beats that were not read: not judged before the next one."""
    scheduled: int = 0
    """The second at which it is looked at next."""
    quiet: int = 0
    """The second under which the pulse counts it; 0: it does not."""
    bucket: int = 0
    """The part of the snapshot it belongs to."""

    @property
    def heard(self) -> int:
        """The newest beat that is known of, in whichever way."""
        return max(self.last_beat, self.recorded_beat)


def due(it: MonitoredService, patience: int, counted_from: int, gaps: list[tuple[int, int]]) -> int:
    """When a fall is due that comes `patience` after the last beat, or the last that there may have been.

    Each gap since then is credited in full. A beat that was tried in a gap was lost by our fault, so
    after a gap a service has also time for its next one: twice its rhythm, at most its patience.
    No fall is dated before the one it follows.
    """
    return max(_expiry(max(it.heard, it.unproved, counted_from), patience, it.rhythm, gaps), it.since)


def _expiry(start: int, patience: int, rhythm: int, gaps: list[tuple[int, int]]) -> int:
    """When `patience` is over that began at `start`."""
    at = start + patience
    for begin, end in gaps[_first_after(gaps, start) :]:
        if begin >= at:
            break
        grace = min(patience, 2 * rhythm) if rhythm else patience
        at = max(at + end - max(begin, start), end + grace)
    return at


def change_thresholds(
    it: MonitoredService, patience: EffectiveThresholds, at: int, gaps: list[tuple[int, int]]
) -> None:
    """Other thresholds hold from `at` on, and make nothing fall for the past.

    A fall that they bring forward comes when the new threshold has passed since `at`, or when it was due by
    the old one, whichever is sooner. So none comes at once, and none is put off by being brought forward.
    """
    heard = max(it.heard, it.unproved, *(beat.at for beat in it.held[-1:]))
    silent, down, dead = (
        max(0, min(at, _expiry(max(heard, start), old, it.rhythm, gaps) - new))
        for old, new, start in zip(it.patience, patience, it.counted_from, strict=True)
    )
    it.patience, it.counted_from = patience, (silent, down, dead)


def resume(it: MonitoredService, at: int, counted_from: int) -> None:
    """It is paused no more, and expected again. What came in meanwhile is for `decide`, as `it.said`."""
    it.counted_from = (counted_from, counted_from, counted_from)
    if it.said and not it.said.resumed_at:
        it.said = it.said._replace(resumed_at=at)


def _first_after(gaps: list[tuple[int, int]], at: int) -> int:
    """Index of the first gap that ends after `at`; nearly always there is none, or only the last."""
    i = len(gaps)
    while i and gaps[i - 1][1] > at:
        i -= 1
    return i


def next_due(it: MonitoredService, coverage: Coverage) -> int | None:
    """When the next fall is due if nothing is heard. None: none is (paused, unheard or dead)."""
    for to, patience, counted_from in pending_transitions(it):
        if _BADNESS[to] > _BADNESS[it.status]:
            return due(it, patience, counted_from, coverage.gaps)
    return None


def pending_transitions(it: MonitoredService) -> Iterable[tuple[Status, int, int]]:
    """Each fall there may be, after how long, and counted from when at least."""
    if it.paused or it.unsure or not it.heard:
        return ()
    return zip((SILENT, DOWN, DEAD), it.patience, it.counted_from, strict=True)


def decidable(it: MonitoredService, beat: Beat, coverage: Coverage) -> bool:
    """Whether it is proved what came before `beat`: no fall is due in the time that no tick covers yet."""
    if beat.at <= coverage.until or beat.after_hole:
        return True
    return not any(
        coverage.until < due(it, patience, counted_from, coverage.gaps) <= beat.at
        for to, patience, counted_from in pending_transitions(it)
        if _BADNESS[to] > _BADNESS[it.status]
    )


REGULAR = 5
"""Beats in a row from which on a service counts as one that beats regularly: a few made by hand are none."""


@dataclass(slots=True)
class CadenceIndex:
    """How many services beat regularly, by the second from which on each is quiet unless it beats again.

    Kept up to date beat by beat, so that at a fall it can be told at once how many others fell quiet with it.
    """

    counts: dict[int, int] = field(default_factory=dict)

    def take(self, it: MonitoredService) -> None:
        """Count a service anew, after a beat or a change of its configuration."""
        regular = 0 < it.rhythm <= it.patience.silent and it.in_a_row >= REGULAR and not it.paused
        until = it.last_beat + min(max(2 * it.rhythm, it.rhythm + SECOND), it.patience.silent)
        self._move(it, until // SECOND if regular else 0)

    def drop(self, it: MonitoredService) -> None:
        self._move(it, 0)

    def _move(self, it: MonitoredService, second: int) -> None:
        if second == it.quiet:
            return
        if it.quiet:
            left = self.counts[it.quiet] - 1
            if left:
                self.counts[it.quiet] = left
            else:
                del self.counts[it.quiet]
        if second:
            self.counts[second] = self.counts.get(second, 0) + 1
        it.quiet = second


class MassOutageDetector:
    """The pulse at one moment, as a tick's falls are judged by it."""

    FEWEST = 5
    """Services that must have stopped together before anything is concluded from it."""
    TOGETHER = 5
    """Seconds that do not matter, and neither does a service's own rhythm."""

    def __init__(self, cadence: CadenceIndex, now: int) -> None:
        self._now = now // SECOND
        self._seconds = sorted(cadence.counts)
        self._sums = [0, *accumulate(cadence.counts[second] for second in self._seconds)]

    def doubt(self, it: MonitoredService) -> Doubt | None:
        """Whether most services that beat regularly when this one did fell quiet with it."""
        if not it.quiet:
            return None
        window = max(self.TOGETHER, it.rhythm // SECOND)
        first = bisect_left(self._seconds, it.quiet - window)
        last = bisect_right(self._seconds, min(it.quiet + window, self._now))
        stopped = self._sums[last] - self._sums[first]
        of = self._sums[-1] - self._sums[first]
        if stopped < self.FEWEST or 2 * stopped <= of:
            return None
        return Doubt(stopped, of, max(1, self._seconds[last - 1] - self._seconds[first]))


def overdue_transitions(
    it: MonitoredService, upto: int, coverage: Coverage, detector: MassOutageDetector | None = None
) -> Iterator[Change]:
    """The falls due up to `upto`, in order, each dated when it fell due."""
    status, since = it.status, 0
    for to, patience, counted_from in pending_transitions(it):
        if _BADNESS[to] <= _BADNESS[status]:
            continue
        since = at = max(since, due(it, patience, counted_from, coverage.gaps))
        if at > upto:
            return
        doubt = detector.doubt(it) if detector and to is not DEAD else None
        yield Change(status, to, at, it.heard, _reason(it, patience, doubt), doubt=doubt)
        status = to


def _reason(it: MonitoredService, patience: int, doubt: Doubt | None) -> str:
    waited = durations.write(timedelta(microseconds=patience))
    reason = f"no heartbeat for {waited}"
    if it.signal is Signal.START and it.last_beat == it.heard:
        reason = f"a run that was started has not ended within {waited}"
    if doubt:
        detector = f"{doubt.stopped} of {doubt.of} services stopped within {doubt.within} s"
        reason += f"; {detector}, the registry may be cut off"
    return reason


def decide(
    it: MonitoredService,
    fact: Beat | PausedReport | int,
    coverage: Coverage,
    detector: MassOutageDetector | None = None,
) -> Iterator[Change]:
    """What follows from a beat, from what was said in a pause, or from a tick (its time: nothing more was
    heard up to then).

    A beat that is not newer than the last one changes nothing: it was delivered before. While it is paused,
    nothing does.
    """
    if isinstance(fact, int):
        yield from overdue_transitions(it, fact, coverage, detector)
        return
    if isinstance(fact, PausedReport):
        at, status, meanwhile = fact.resumed_at, it.status, " while it was paused"
        if at <= it.since or at < it.heard:  # what came after it is known already
            return
    else:
        at, status, meanwhile = fact.at, it.status, ""
        if at <= it.heard or at < it.registered_at or it.paused or fact.signal is Signal.LOG:
            return
        if not fact.after_hole:
            for fall in overdue_transitions(it, min(at, coverage.until), coverage, detector):
                yield fall
                status = fall.to
    to = _status_after(status, fact.signal)
    if to is status:
        return
    reason = f"reported failure{_coded(fact.exit_code)}" if fact.signal is Signal.FAIL else "heartbeat"
    last = it.heard if isinstance(fact, PausedReport) else at
    duration = fact.duration if isinstance(fact, PausedReport) else _run_duration(it, fact)
    yield Change(status, to, at, last, reason + meanwhile, fact.message, duration, trace=fact.trace)


def _status_after(status: Status, signal: Signal) -> Status:
    """What a heartbeat makes of a status. A start is a sign of life, but what is down needs a success."""
    if signal is Signal.FAIL:
        return DOWN
    if signal is Signal.START and status in (DOWN, DEAD):
        return status
    return ALIVE


def _run_duration(it: MonitoredService, beat: Beat) -> int | None:
    """How long the run took that ends with this beat, if one does."""
    ended = it.signal is Signal.START and beat.signal is not Signal.START
    return beat.at - it.last_beat if ended else None


def _coded(exit_code: int | str | None) -> str:
    if exit_code is None:
        return ""
    return f" (exit code {exit_code})" if isinstance(exit_code, int) else f" ({exit_code})"


def evolve(it: MonitoredService, change: Change) -> None:
    """Take in a change that is recorded, by this monitor or by another."""
    it.status = change.to
    it.since = change.since
    it.recorded_beat = max(it.recorded_beat, change.last_beat or 0)


def hear(it: MonitoredService, at: int, signal: Signal = Signal.SUCCESS) -> None:
    """Take in that something was heard at `at`."""
    if at > it.last_beat:
        late = not it.last_beat or at - it.last_beat > it.patience.silent
        it.in_a_row = 0 if late else min(it.in_a_row + 1, REGULAR)
        if it.signal is not Signal.START or signal is Signal.START:  # the length of a run is no rhythm
            it.rhythm = at - it.last_beat if it.last_beat else 0
        it.last_beat = at
        it.signal = signal


def record_while_paused(it: MonitoredService, beat: Beat) -> None:
    """Take in a beat while it is paused: nothing follows before the resume."""
    known = beat.at <= it.recorded_beat
    if not known and (beat.signal is not Signal.START or it.said is None):
        it.said = PausedReport(beat.signal, beat.message, beat.exit_code, _run_duration(it, beat), beat.trace)
    hear(it, beat.at, beat.signal)
