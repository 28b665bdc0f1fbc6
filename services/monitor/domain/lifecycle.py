"""The lifecycle: which status a service has, from its heartbeats and from ticks. Pure.

All rules about statuses are in this file, and nothing in it reads a clock. `decide` says which transitions
follow from a fact; `apply_transition` and `apply_heartbeat` change the service. A transition is dated to the
moment at which its threshold had passed, so ticks decide when it is noticed, never when it happened.
"""

from collections.abc import Iterator
from datetime import timedelta

from services.monitor.domain.mass_outage import REGULAR, MassOutageDetector
from services.monitor.domain.service import (
    ALIVE,
    DEAD,
    DOWN,
    SILENT,
    Beat,
    EffectiveThresholds,
    MonitoredService,
    PausedReport,
    StatusTransition,
)
from shared.contracts import durations
from shared.contracts.events import Doubt, Signal, Status
from shared.domain.coverage import Coverage
from shared.domain.service_state import belongs_to_this_life

_BADNESS = {status: status.badness for status in Status}


def _expiry(start: int, patience: int, rhythm: int, gaps: list[tuple[int, int]]) -> int:
    """When `patience` is over that began at `start`."""
    at, first = start + patience, len(gaps)
    while first and gaps[first - 1][1] > start:  # nearly always there is none, or only the last
        first -= 1
    for begin, end in gaps[first:]:
        if begin >= at:
            break
        grace = min(patience, 2 * rhythm) if rhythm else patience
        at = max(at + end - max(begin, start), end + grace)
    return at


def change_thresholds(
    service: MonitoredService, patience: EffectiveThresholds, at: int, gaps: list[tuple[int, int]]
) -> None:
    """Use other thresholds from `at` on; they cause no transition in the past.

    Where a threshold becomes shorter, its transition is due when the new one has passed since `at`, or when
    it was due by the old one, whichever is sooner. So none comes at once, and none comes later than before.
    """
    heard = max(service.heard, service.unproved, *(beat.at for beat in service.held[-1:]))
    silent, down, dead = (
        max(0, min(at, _expiry(max(heard, start), old, service.rhythm, gaps) - new))
        for old, new, start in zip(service.patience, patience, service.counted_from, strict=True)
    )
    service.patience, service.counted_from = patience, (silent, down, dead)


def resume(service: MonitoredService, at: int, counted_from: int) -> None:
    """End its pause: heartbeats are expected again. What came during the pause is in `said`, for `decide`."""
    service.counted_from = (counted_from, counted_from, counted_from)
    if service.said and not service.said.resumed_at:
        service.said = service.said._replace(resumed_at=at)


def pending_transitions(service: MonitoredService, coverage: Coverage) -> Iterator[tuple[Status, int, int]]:
    """Each worse status that silence leads to, how long after the last heartbeat, read or possibly removed,
    and when that is due.

    Time during which the registry did not listen (a gap) is added in full. A heartbeat that was sent in a gap
    was lost by our fault, so after a gap a service also has time for its next one: twice its rhythm, at most
    its patience. No transition is dated before the one it follows.
    """
    heard, badness = service.heard, _BADNESS[service.status]
    if service.paused or service.unsure or not heard:
        return
    heard = max(heard, service.unproved)
    for to, patience, counted_from in zip(
        (SILENT, DOWN, DEAD), service.patience, service.counted_from, strict=True
    ):
        if _BADNESS[to] > badness:
            at = _expiry(max(heard, counted_from), patience, service.rhythm, coverage.gaps)
            yield to, patience, max(at, service.since)


def next_due(service: MonitoredService, coverage: Coverage) -> int | None:
    """When the next transition is due if no heartbeat comes. None: never (it is paused, new or dead)."""
    for _, _, at in pending_transitions(service, coverage):
        return at
    return None


def decidable(service: MonitoredService, beat: Beat, coverage: Coverage) -> bool:
    """Whether it is known what came before `beat`: nothing is due in the time that no tick covers yet."""
    if beat.at <= coverage.until or beat.after_hole:
        return True
    return not any(coverage.until < at <= beat.at for _, _, at in pending_transitions(service, coverage))


def overdue_transitions(
    service: MonitoredService, upto: int, coverage: Coverage, detector: MassOutageDetector | None = None
) -> Iterator[StatusTransition]:
    """The transitions due up to `upto`, in order, each dated to when it was due."""
    status, since = service.status, 0
    for to, patience, at in pending_transitions(service, coverage):
        since = max(since, at)
        if since > upto:
            return
        outage = detector.outage_of(service) if detector and to is not DEAD else None
        reason = _reason(service, patience, outage)
        yield StatusTransition(status, to, since, service.heard, reason, doubt=outage)
        status = to


def _reason(service: MonitoredService, patience: int, outage: Doubt | None) -> str:
    waited = durations.write(timedelta(microseconds=patience))
    reason = f"no heartbeat for {waited}"
    if service.signal is Signal.START and service.last_beat == service.heard:
        reason = f"a run that was started has not ended within {waited}"
    if outage:
        stopped = f"{outage.stopped} of {outage.of} services stopped within {outage.within} s"
        reason += f"; {stopped}, the registry may be cut off"
    return reason


def decide(
    service: MonitoredService,
    fact: Beat | PausedReport | int,
    coverage: Coverage,
    detector: MassOutageDetector | None = None,
) -> Iterator[StatusTransition]:
    """The transitions that follow from a heartbeat, from what came during a pause, or from a tick (its time:
    no other heartbeat was stored until then).

    A heartbeat that is not newer than the last one changes nothing, as it was delivered before. While a
    service is paused, nothing does.
    """
    if isinstance(fact, int):
        yield from overdue_transitions(service, fact, coverage, detector)
        return
    if isinstance(fact, PausedReport):
        at, status, meanwhile = fact.resumed_at, service.status, " while it was paused"
        if at <= service.since or at < service.heard:  # something newer is known already
            return
    else:
        at, status, meanwhile = fact.at, service.status, ""
        if at <= service.heard or not belongs_to_this_life(at, service.registered_at):
            return
        if service.paused or fact.signal is Signal.LOG:
            return
        if not fact.after_hole:
            for overdue in overdue_transitions(service, min(at, coverage.until), coverage, detector):
                yield overdue
                status = overdue.to
    to = _status_after(status, fact.signal)
    if to is status:
        return
    reason = f"reported failure{_coded(fact.exit_code)}" if fact.signal is Signal.FAIL else "heartbeat"
    last = service.heard if isinstance(fact, PausedReport) else at
    duration = fact.duration if isinstance(fact, PausedReport) else _run_duration(service, fact)
    yield StatusTransition(status, to, at, last, reason + meanwhile, fact.message, duration, trace=fact.trace)


def _status_after(status: Status, signal: Signal) -> Status:
    """The status after a heartbeat. A start is a sign of life, but what is down needs a success."""
    if signal is Signal.FAIL:
        return DOWN
    if signal is Signal.START and status in (DOWN, DEAD):
        return status
    return ALIVE


def _run_duration(service: MonitoredService, beat: Beat) -> int | None:
    """How long the run took that ends with this heartbeat, if one does."""
    ended = service.signal is Signal.START and beat.signal is not Signal.START
    return beat.at - service.last_beat if ended else None


def _coded(exit_code: int | str | None) -> str:
    if exit_code is None:
        return ""
    return f" (exit code {exit_code})" if isinstance(exit_code, int) else f" ({exit_code})"


def apply_transition(service: MonitoredService, transition: StatusTransition) -> None:
    """Apply a transition that is recorded, by this monitor or by another."""
    service.status = transition.to
    service.since = transition.since
    service.recorded_beat = max(service.recorded_beat, transition.last_beat or 0)


def apply_heartbeat(service: MonitoredService, at: int, signal: Signal = Signal.SUCCESS) -> None:
    """Apply a heartbeat that came at `at`."""
    if at > service.last_beat:
        late = not service.last_beat or at - service.last_beat > service.patience.silent
        service.in_a_row = 0 if late else min(service.in_a_row + 1, REGULAR)
        if service.signal is not Signal.START or signal is Signal.START:  # the length of a run is no rhythm
            service.rhythm = at - service.last_beat if service.last_beat else 0
        service.last_beat = at
        service.signal = signal


def apply_while_paused(service: MonitoredService, beat: Beat) -> None:
    """Apply a heartbeat during a pause: no transition follows before the resume."""
    known = beat.at <= service.recorded_beat
    if not known and (beat.signal is not Signal.START or service.said is None):
        service.said = PausedReport(
            beat.signal, beat.message, beat.exit_code, _run_duration(service, beat), beat.trace
        )
    apply_heartbeat(service, beat.at, beat.signal)
