"""The lifecycle: which status a service has, from its heartbeats and from ticks. Pure.

All rules about statuses are in this file, and nothing in it reads a clock. `decide` says which transitions
follow from a fact; `apply_transition` and `apply_heartbeat` change the service. A transition is dated to the
moment at which its threshold had passed, so ticks decide when it is noticed, never when it happened.
"""

from collections.abc import Iterator
from datetime import timedelta

from services.monitor.domain import runs
from services.monitor.domain.mass_outage import REGULAR, MassOutageDetector
from services.monitor.domain.service import (
    ALIVE,
    DEAD,
    DOWN,
    SILENT,
    Beat,
    EffectiveThresholds,
    Job,
    MonitoredService,
    PausedReport,
    StatusTransition,
)
from shared.contracts import durations, zones
from shared.contracts.events import MICRO, Doubt, Signal, Status, moment
from shared.domain.coverage import Coverage, expiry
from shared.domain.service_state import belongs_to_this_life
from shared.domain.timetable import NEVER
from shared.domain.zone_hints import zone_hint

_MINUTE = timedelta(minutes=1) // MICRO
_BADNESS = {status: status.badness for status in Status}


def due(
    service: MonitoredService, to: Status, patience: int, counted_from: int, gaps: list[tuple[int, int]]
) -> int:
    """When a transition is due that follows `patience` after the last heartbeat, read or possibly removed;
    after the expected moment, where there is a schedule; or after the start of a run that has not ended. No
    transition is dated before the one it follows."""
    job = service.job
    start, rhythm = max(_counted(service, to, gaps), counted_from), service.rhythm
    if job and job.timetable:
        rhythm = 0
    at = NEVER if start >= NEVER else expiry(start, patience, gaps, rhythm)
    if job and job.max_run and job.timetable is None and to is not DEAD:  # meanwhile nothing else is expected
        in_time = (run for run in job.open_runs if not run.overdue_at)
        overdue = runs.found_overdue(service)
        found = overdue.at if overdue else 0
        at = max([at, found, *(runs.deadline(service, run, gaps) for run in in_time)])
    if to is DOWN and (overdue := runs.found_overdue(service)):
        at = min(at, overdue.at)
    return max(at, service.since)


def _counted(service: MonitoredService, to: Status, gaps: list[tuple[int, int]]) -> int:
    """From when on the threshold for a status is counted."""
    job = service.job
    if job and job.timetable:
        return runs.expected(service, gaps).occurrence
    heard = max(service.heard, service.unproved)
    if job and not job.max_run and to is not DEAD:
        return min([heard, *runs.holding_back(service, job, to)])
    return heard


def change_thresholds(
    service: MonitoredService, patience: EffectiveThresholds, at: int, gaps: list[tuple[int, int]]
) -> None:
    """Use other thresholds from `at` on; they cause no transition in the past.

    Where a threshold becomes shorter, its transition is due when the new one has passed since `at`, or when
    it was due by the old one, whichever is sooner. So none comes at once, and none comes later than before.
    """
    held = service.held[-1].at if service.held else 0
    rhythm = 0 if service.job and service.job.timetable else service.rhythm
    starts = (
        max(held, start, _counted(service, to, gaps))
        for to, start in zip((SILENT, DOWN, DEAD), service.counted_from, strict=True)
    )
    silent, down, dead = (
        max(service.resumed_at, min(at, expiry(start, old, gaps, rhythm) - new))
        for old, new, start in zip(service.patience, patience, starts, strict=True)
    )
    service.patience, service.counted_from = patience, (silent, down, dead)


def resume(service: MonitoredService, at: int, counted_from: int) -> None:
    """End its pause: heartbeats are expected again. What came during the pause is in `said`, for `decide`."""
    service.resumed_at = counted_from
    service.counted_from = (counted_from, counted_from, counted_from)
    runs.expect_from(service, at)
    runs.count_from(service, at)
    if service.said and not service.said.resumed_at:
        service.said = service.said._replace(resumed_at=at)


def pending_transitions(service: MonitoredService, coverage: Coverage) -> Iterator[tuple[Status, int, int]]:
    """Each worse status that silence leads to, after how long, and when that is due."""
    if service.paused or service.unsure or not service.heard:
        return
    overdue = runs.found_overdue(service)
    for to, patience, counted_from in zip(
        (SILENT, DOWN, DEAD), service.patience, service.counted_from, strict=True
    ):
        if _BADNESS[to] > _BADNESS[service.status]:
            at = due(service, to, patience, counted_from, coverage.gaps)
            if at < NEVER and not (to is SILENT and overdue and overdue.at <= at):
                yield to, patience, at


def is_quiet(service: MonitoredService, at: int) -> bool:
    """Whether it is known without reckoning that nothing is due up to `at`."""
    return service.job is not None and at < service.job.next_at and not service.unsure


def next_due(service: MonitoredService, coverage: Coverage) -> int | None:
    """When the next transition, or fact about a run, is due if no heartbeat comes. None: never (it is paused,
    new or dead)."""
    at = next((at for _, _, at in pending_transitions(service, coverage)), NEVER)
    if service.job:
        at = min(at, runs.next_fact_at(service, coverage))
    return at if at < NEVER else None


def decidable(service: MonitoredService, beat: Beat, coverage: Coverage) -> bool:
    """Whether it is known what came before `beat`: nothing is due in the time that no tick covers yet."""
    if beat.at <= coverage.until or beat.after_hole or is_quiet(service, beat.at):
        return True
    found = [at for _, _, at in pending_transitions(service, coverage)]
    if service.job:
        found.append(runs.next_fact_at(service, coverage))
    return not any(coverage.until < at <= beat.at for at in found)


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
        reason = _reason(service, to, patience, since, coverage.gaps, outage)
        yield StatusTransition(status, to, since, service.heard, reason, doubt=outage)
        status = to


def _reason(
    service: MonitoredService,
    to: Status,
    patience: int,
    at: int,
    gaps: list[tuple[int, int]],
    outage: Doubt | None,
) -> str:
    reason, job = f"no heartbeat for {_written(patience)}", service.job
    running = min(runs.holding_back(service, job, to), default=0) if job else 0
    overdue = runs.found_overdue(service)
    if job and overdue and to is DOWN and overdue.at <= at:
        reason = _not_ended(overdue.started, overdue.limit, job, at)
    elif job and job.timetable:
        occurrence = _clock(runs.expected(service, gaps).occurrence, job, at)
        reason = "; ".join(filter(None, (f"expected {occurrence}, not started", zone_hint(job.offsets))))
    elif job and running:
        reason = _not_ended(running, patience, job, at)
    if outage:
        stopped = f"{outage.stopped} of {outage.of} services stopped within {outage.within} s"
        reason += f"; {stopped}, the registry may be cut off"
    return reason


def _written(length: int) -> str:
    return durations.write(length * MICRO)


def _not_ended(started: int, limit: int, job: Job, at: int) -> str:
    began = _clock(started - started % _MINUTE, job, at)
    return f"the run that began {began} has not ended within {_written(limit)}"


def _clock(at: int, job: Job, seen_from: int) -> str:
    return zones.in_a_word(moment(at), moment(seen_from), zones.zone(job.time_zone))


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
        # Of a job, what was due is decided before its run ends with this heartbeat.
        if service.job is None and not fact.after_hole:
            for overdue in overdue_transitions(service, min(at, coverage.until), coverage, detector):
                yield overdue
                status = overdue.to
    to = _status_after(service, status, fact)
    if to is status:
        return
    reason = f"reported failure{_coded(fact.exit_code)}" if fact.signal is Signal.FAIL else "heartbeat"
    last = service.heard if isinstance(fact, PausedReport) else at
    duration = fact.duration if isinstance(fact, PausedReport) else _run_duration(service, fact)
    yield StatusTransition(status, to, at, last, reason + meanwhile, fact.message, duration, trace=fact.trace)


def _status_after(service: MonitoredService, status: Status, fact: Beat | PausedReport) -> Status:
    """The status after a heartbeat. A start is a sign of life, and so is one failure where several are
    needed; but what is down needs a success, or several."""
    job, is_down = service.job, status in (DOWN, DEAD)
    more = isinstance(fact, Beat)  # what came during a pause is counted already
    if fact.signal is Signal.FAIL:
        enough = not job or job.fail_after == 1 or job.failures + more >= job.fail_after
        return DOWN if enough else status if is_down else ALIVE
    if fact.signal is Signal.START:
        return status if is_down else ALIVE
    recovered = not job or job.recover_after == 1 or job.successes + more >= job.recover_after
    return ALIVE if recovered or not is_down else status


def _run_duration(service: MonitoredService, beat: Beat) -> int | None:
    """How long the run took that ends with this heartbeat: as its sender measured it, else since its start,
    if one ends and that was heard."""
    job = service.job
    heard = job is not None and job.ended_at == beat.at and job.ended_start
    return beat.duration or (beat.at - heard if heard else None)


def _coded(exit_code: int | str | None) -> str:
    if exit_code is None:
        return ""
    return f" (exit code {exit_code})" if isinstance(exit_code, int) else f" ({exit_code})"


def apply_transition(service: MonitoredService, transition: StatusTransition) -> None:
    """Apply a transition that is recorded, by this monitor or by another."""
    service.status = transition.to
    service.since = transition.since
    service.recorded_beat = max(service.recorded_beat, transition.last_beat or 0)
    if service.job and transition.to is not SILENT:
        service.job.successes = 0


def apply_heartbeat(service: MonitoredService, at: int, signal: Signal = Signal.SUCCESS) -> None:
    """Apply a heartbeat that came at `at`, but for what `runs.apply_beat` does."""
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
    runs.apply_beat(service, beat)
    apply_heartbeat(service, beat.at, beat.signal)
