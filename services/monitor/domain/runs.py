"""Runs and occurrences: what becomes of them, from heartbeats and from ticks. Pure.

`due_fact` and `beat_fact` say which fact is to be recorded next, `apply_fact` and `apply_beat` change the
service. None of them looks at its status: heartbeats that are read again lead to the same facts in the same
order, however much of what followed is known already.
"""

from collections.abc import Iterator
from datetime import timedelta

from services.monitor.domain.service import (
    Beat,
    Job,
    MonitoredService,
    OpenRun,
    Overdue,
    RunFact,
)
from shared.contracts.events import MICRO, Outcome, Signal, Status, run_key
from shared.domain import run_lengths
from shared.domain.coverage import Coverage, expiry
from shared.domain.timetable import (
    NEVER,
    NOTHING_EXPECTED,
    Expectation,
    Timetable,
    first_expectation,
)
from shared.domain.zone_hints import IN_A_ROW, half_hours

MAX_OPEN = 100
"""Runs of one service that may be open at once; the oldest gives way."""
MAX_PASSED = 10_000
"""Occurrences that one heartbeat may pass over."""
DEAF = timedelta(minutes=1) // MICRO
"""So long a gap in the time of an occurrence, or half of that time, is enough for its heartbeat to have been
lost by our fault."""
TELL_AGAIN = timedelta(hours=24) // MICRO
Gaps = list[tuple[int, int]]


def declares(service: MonitoredService, beat: Beat) -> bool:
    """Whether a heartbeat declares another interval, schedule or limits than those that are known."""
    if service.by_hand:
        return False
    if beat.limits and (service.job is None or service.job.limits_heard != beat.limits):
        return True
    if beat.schedule:
        return service.job is None or service.job.declared != declared_by(beat, service.job)
    return beat.every not in (0, service.every)


def declared_by(beat: Beat, job: Job) -> tuple[str, str]:
    """The schedule and the zone after a heartbeat that declares; without a zone, the one that was known
    holds, whoever said it."""
    return beat.schedule, beat.time_zone or job.declared[1]


# --- what is expected


def expected(service: MonitoredService, gaps: Gaps) -> Expectation:
    """The first occurrence that is waited for: no heartbeat has met it, read or mentioned by an event, and
    none may have met it unheard."""
    job = service.job
    if job is None or job.timetable is None:
        return NOTHING_EXPECTED
    found = job.expectation
    if is_behind(service) and (moved := found.met_by(job.timetable, service.recorded_beat, 0)):
        found = moved[0]
    if found.occurrence <= job.settled_until:
        after = job.timetable.following(job.settled_until)
        found = Expectation(job.timetable.before(after), after)
    return _not_forgiven(service, job.timetable, found, gaps)


def is_behind(service: MonitoredService) -> bool:
    """Whether events mention a heartbeat that is still to be read again, and may have ended a run."""
    return service.recorded_beat > service.last_beat


def _not_forgiven(
    service: MonitoredService, timetable: Timetable, found: Expectation, gaps: Gaps
) -> Expectation:
    while gap := _forgiving(service, found, gaps):
        met = found.occurrence
        if service.patience.silent >= 2 * DEAF:  # it forgives all that are due in it: after months, thousands
            met = max(met, timetable.before(gap[1] - DEAF + 1))
        found = Expectation(met, timetable.following(met))
    return found


def is_forgiven(service: MonitoredService, each: Expectation, gaps: Gaps) -> bool:
    """Whether the registry was deaf for so long, while a heartbeat for it was due, that nothing is known."""
    return _forgiving(service, each, gaps) is not None


def _forgiving(service: MonitoredService, each: Expectation, gaps: Gaps) -> tuple[int, int] | None:
    """The gap that makes it so."""
    if each.occurrence >= NEVER or not service.job or not service.job.timetable:
        return None
    begin, end = (
        service.job.timetable.opens(each.occurrence, each.met),
        each.occurrence + service.patience.silent,
    )
    for gap in reversed(gaps):
        if gap[1] <= begin:  # nearly always the last one is
            return None
        if min(gap[1], end) - max(gap[0], begin) >= min(DEAF, (end - begin) // 2):
            return gap
    return None


def expect_from(service: MonitoredService, at: int) -> None:
    """Nothing before `at` is expected: it was resumed then, or has another schedule. A heartbeat before that
    may still have met what follows."""
    job = service.job
    if job and job.timetable:
        job.expected_from = at
        job.expectation = first_expectation(job.timetable, at, service.last_beat)
        job.missed_until = job.expectation.met  # of another schedule that may have been a later one


def forget_open(service: MonitoredService) -> None:
    """Those that were open may have ended with heartbeats that nobody has read."""
    if service.job:
        service.job.open_runs, service.job.overdue = (), None


def assume_heard(service: MonitoredService, at: int) -> None:
    """There may have been heartbeats up to `at`."""
    forget_open(service)
    job = service.job
    if job and job.timetable and (moved := job.expectation.met_by(job.timetable, at, 0)):
        job.expectation = moved[0]
        job.missed_until = max(job.missed_until, job.expectation.met)


# --- how long a run may take


def limit(service: MonitoredService) -> int:
    """After how long a run is overdue."""
    return (service.job and service.job.max_run) or service.patience.down


def deadline(service: MonitoredService, run: OpenRun, gaps: Gaps) -> int:
    return expiry(max(run.started, run.counted_from), limit(service), gaps)


def holding_back(service: MonitoredService, job: Job, to: Status) -> list[int]:
    """When the runs began whose end is waited for: one that is overdue is, until a success comes. A service
    that is alive again since does not fall silent for an older one once more, but down it may fall."""
    if is_behind(service):
        return []
    since = service.since if to is Status.SILENT else 0
    overdue_from = job.overdue.at if job.overdue else NEVER  # what was before, a success has ended
    return [
        run.started for run in job.open_runs if run.started >= since and not 0 < run.overdue_at < overdue_from
    ]


def found_overdue(service: MonitoredService) -> Overdue | None:
    """The run that makes it down: it was found overdue, and no success came since."""
    return service.job.overdue if service.job and not is_behind(service) else None


def change_limit(service: MonitoredService, old: int, at: int, gaps: Gaps) -> None:
    """Another limit holds from `at` on: no open run becomes overdue for the past."""
    job, new = service.job, limit(service)
    if job and old != new:
        job.open_runs = tuple(
            run._replace(
                counted_from=max(
                    service.resumed_at, min(at, expiry(max(run.started, run.counted_from), old, gaps) - new)
                )
            )
            for run in job.open_runs
        )


def count_from(service: MonitoredService, at: int) -> None:
    """The time of open runs is counted from `at` on."""
    if service.job:
        service.job.open_runs = tuple(run._replace(counted_from=at) for run in service.job.open_runs)


# --- facts


def quiet_until(service: MonitoredService) -> int:
    """Nothing is due of a service before this moment, neither a transition nor a fact; 0: that is to be
    reckoned. While no run is open, it is when a heartbeat is late or another occurrence comes."""
    job = service.job
    if job is None or job.timetable is None or job.open_runs or job.overdue or not service.last_beat:
        return 0
    occurrence = job.expectation.occurrence
    if occurrence >= NEVER:
        return 0
    return min(occurrence + service.patience.silent, job.timetable.following(occurrence))


def next_fact_at(service: MonitoredService, coverage: Coverage) -> int:
    """When the next fact is due if no heartbeat comes; NEVER: none is."""
    return min((fact.at for fact in _due(service, coverage)), default=NEVER)


def due_fact(service: MonitoredService, upto: int, coverage: Coverage) -> RunFact | None:
    """The next fact that time alone leads to, if it is due by then."""
    fact = min(_due(service, coverage), key=lambda fact: fact.order, default=None)
    return fact if fact and fact.at <= upto else None


def _due(service: MonitoredService, coverage: Coverage) -> Iterator[RunFact]:
    job = service.job
    if job is None or service.paused or service.unsure or not service.last_beat:
        return
    for run in job.open_runs:
        if not run.overdue_at:
            yield _fact(deadline(service, run, coverage.gaps), Outcome.OVERDUE, run)
        if not run.is_told and (longest := run_lengths.too_long(job.lengths)):
            at = max(run.started + longest[0], run.counted_from, job.ended_at + 1)  # never for the past
            yield _fact(at, Outcome.RUNNING, run)._replace(unusual=longest[1], notify=_may_tell(job, at))
    if missed := _missed(service, job, coverage):
        yield missed


def _missed(service: MonitoredService, job: Job, coverage: Coverage) -> RunFact | None:
    """The first occurrence that is not recorded as missed: it is when the service falls down for it, or when
    the next one passes. A dead service misses nothing any more."""
    if job.timetable is None or job.expectation.occurrence >= NEVER:
        return None
    first = each = _not_forgiven(service, job.timetable, job.expectation, coverage.gaps)
    if job.missed_until >= first.occurrence:
        each = Expectation(job.missed_until, job.timetable.following(job.missed_until))
        each = _not_forgiven(service, job.timetable, each, coverage.gaps)
    if each.occurrence >= NEVER:
        return None
    at = job.timetable.following(each.occurrence)
    if each.occurrence == first.occurrence:
        at = min(at, expiry(each.occurrence, service.patience.down, coverage.gaps))
    dead = expiry(first.occurrence, service.patience.dead, coverage.gaps)
    at = max(at, job.ended_at + 1)  # never for the past, where its threshold became shorter
    return missed(each.occurrence, at) if at <= dead else None


def missed(occurrence: int, at: int) -> RunFact:
    return RunFact(at, Outcome.MISSED, str(occurrence), occurrence=occurrence)


def beat_fact(service: MonitoredService, beat: Beat, coverage: Coverage) -> RunFact | None:
    """The next fact that a heartbeat leads to; None: nothing more is to be recorded of it."""
    job = service.job
    if job is None or beat.at <= max(service.last_beat, job.ended_at) or beat.signal is Signal.LOG:
        return None
    if passed := _passed(service, beat, coverage):
        return passed
    run = _open(job, beat.run)
    if beat.signal is Signal.START:
        if gives_way := run or (job.open_runs[0] if len(job.open_runs) >= MAX_OPEN else None):
            why = "it began again" if run else f"more than {MAX_OPEN} runs were open"
            if not gives_way.overdue_at:
                return _fact(beat.at, Outcome.OVERDUE, gives_way)._replace(message=why)
        return None
    if run is None and job.timetable is None:
        return None
    if run is None:
        run, started = _begun(service, job, beat), beat.at - beat.duration if beat.duration else 0
    else:
        started = run.started
    outcome = Outcome.FAILURE if beat.signal is Signal.FAIL else Outcome.SUCCESS
    fact = RunFact(
        beat.at,
        outcome,
        run.key,
        started,
        ended=beat.at,
        occurrence=run.occurrence,
        run=beat.run,
        message=beat.message,
        exit_code=beat.exit_code,
        measured=beat.duration,
    )
    if started and outcome is Outcome.SUCCESS and (words := run_lengths.unusual(fact.took, job.lengths)):
        tell = not run.is_told and not service.paused and _may_tell(job, beat.at)
        return fact._replace(unusual=words, notify=tell)
    return fact


def _passed(service: MonitoredService, beat: Beat, coverage: Coverage) -> RunFact | None:
    """The first occurrence that a heartbeat passes over, as it counts for a later one. The end of a run
    counts where its start did."""
    job = service.job
    if job is None or job.timetable is None or not service.last_beat or service.paused or beat.after_hole:
        return None
    if beat.signal is not Signal.START and _open(job, beat.run):
        return None
    found = job.expectation.met_by(job.timetable, beat.at, MAX_PASSED)
    if not found:
        return None
    dead = expiry(job.expectation.occurrence, service.patience.dead, coverage.gaps)
    before = job.expectation.met
    for occurrence in found[1]:
        skipped = occurrence <= job.missed_until or occurrence > dead
        if not skipped and not is_forgiven(service, Expectation(before, occurrence), coverage.gaps):
            return missed(occurrence, beat.at)
        before = occurrence
    return None


def _may_tell(job: Job, at: int) -> bool:
    return job.notify_unusual and at >= job.told_at + TELL_AGAIN


def _open(job: Job, run: str) -> OpenRun | None:
    return next((each for each in job.open_runs if each.run == run), None)


def _begun(service: MonitoredService, job: Job, beat: Beat) -> OpenRun:
    """A run as it begins with a heartbeat. The first one for an occurrence has its key, so that it takes the
    place of a missed one."""
    own = run_key(beat.at, beat.run)
    if job.timetable is None:
        return OpenRun(beat.at, beat.run, own)
    after = _expected_after(service, job, job.timetable, beat)
    met, is_first = (after or job.expectation).met, after is not None
    if met <= job.expected_from:
        met = 0
    others = (each for each in job.open_runs if each.run != beat.run)
    is_first &= all(each.key != str(met) for each in others)  # nor did one by another schedule
    return OpenRun(beat.at, beat.run, str(met) if met and is_first else own, met)


def _expected_after(
    service: MonitoredService, job: Job, timetable: Timetable, beat: Beat
) -> Expectation | None:
    """What is expected after a heartbeat; None: it counts for an occurrence that is met already."""
    if not service.last_beat or beat.after_hole:
        return first_expectation(timetable, 0, beat.at)
    found = job.expectation.met_by(timetable, beat.at, MAX_PASSED)
    return found[0] if found else None


def _fact(at: int, outcome: Outcome, run: OpenRun) -> RunFact:
    return RunFact(at, outcome, run.key, run.started, occurrence=run.occurrence, run=run.run)


def apply_fact(service: MonitoredService, fact: RunFact) -> None:
    """Apply a fact that is recorded, by this monitor or by another."""
    job = service.job
    if job is None:
        return
    if fact.notify:
        job.told_at = fact.at
    if fact.outcome is Outcome.MISSED:
        job.missed_until = max(job.missed_until, fact.occurrence)
        return
    run, now = _open(job, fact.run), None
    run = run if run and run.key == fact.key else None
    if fact.outcome is Outcome.RUNNING and run:
        now = run._replace(is_told=True)
    elif fact.outcome is Outcome.OVERDUE and run and not fact.message:
        now = run._replace(overdue_at=fact.at)
        job.overdue = job.overdue or Overdue(fact.at, run.started, limit(service))
    in_place = (now if each is run else each for each in job.open_runs)  # the oldest stays the first
    job.open_runs = tuple(filter(None, in_place))
    if fact.ended:
        job.ended_at, job.ended_start = fact.ended, fact.started if run else 0
        if fact.started and fact.outcome is Outcome.SUCCESS:
            job.lengths = (*job.lengths, fact.took)[-run_lengths.KEPT :]


def apply_beat(service: MonitoredService, beat: Beat) -> None:
    """Apply a heartbeat whose facts are applied; to be called before `last_beat` of the service is moved."""
    job = service.job
    if job is None or beat.at <= service.last_beat:
        return
    if beat.signal is Signal.FAIL:
        job.failures, job.successes = job.failures + 1, 0
    elif beat.signal is Signal.SUCCESS:
        job.failures, job.overdue = 0, None
        job.successes += service.status in (Status.DOWN, Status.DEAD) and beat.at >= service.since
    if beat.signal is Signal.START:
        begun = _begun(service, job, beat)
        job.open_runs = (*(each for each in job.open_runs if each.run != beat.run), begun)[-MAX_OPEN:]
    elif job.ended_at == beat.at and job.ended_start:  # it counts where its start did
        if beat.signal is Signal.SUCCESS:
            job.settled_until = beat.at - service.patience.silent
        return
    if job.timetable:
        job.expectation = _expected_after(service, job, job.timetable, beat) or job.expectation
        job.missed_until = max(job.missed_until, job.expectation.met)
        job.offsets = (*job.offsets, _offset(job.expectation, beat.at))[-IN_A_ROW:]


def _offset(after: Expectation, at: int) -> int:
    """How many half hours a heartbeat came after the occurrence that is nearest; 0: not by whole ones."""
    nearest = after.occurrence if after.occurrence - at < at - after.met else after.met
    return half_hours(at - nearest)
