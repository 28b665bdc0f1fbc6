"""Schedules and runs in the lifecycle, given / when / then, and what holds for every history."""

import random
from collections.abc import Iterable
from datetime import UTC, datetime

import pytest

from services.monitor.domain import runs
from services.monitor.domain.lifecycle import (
    apply_heartbeat,
    apply_transition,
    decidable,
    decide,
    next_due,
    resume,
)
from services.monitor.domain.service import (
    Beat,
    EffectiveThresholds,
    Job,
    MonitoredService,
    RunFact,
    StatusTransition,
)
from services.monitor.store.mapping import order_of, run_event, to_event
from shared.contracts.events import Outcome, Signal, Status, micros
from shared.domain import timetable as timetables
from shared.domain.coverage import Coverage
from shared.domain.timetable import Expectation, Timetable
from shared.domain.zone_hints import zone_hint

UNKNOWN, ALIVE, SILENT, DOWN, DEAD = Status
SUCCESS, START, FAIL = Signal.SUCCESS, Signal.START, Signal.FAIL
M, H, D = 60 * 10**6, 3600 * 10**6, 86400 * 10**6
PATIENCE = EffectiveThresholds(15 * M, 1 * H, 7 * D)


def at(text: str) -> int:
    """`27 03:00`: a moment in November 2026, UTC."""
    return micros(datetime.strptime(f"2026-11-{text}", "%Y-%m-%d %H:%M").replace(tzinfo=UTC))


class Shell:
    """What the monitor does around one service, without a broker."""

    def __init__(self, job: Job | None, patience: EffectiveThresholds = PATIENCE) -> None:
        self.service = MonitoredService("backup", at("25 12:00"), patience, job=job)
        self.coverage = Coverage(until=at("25 12:00"))
        self.changes: list[StatusTransition] = []
        self.facts: list[RunFact] = []
        self.listening = at("25 12:00")
        runs.expect_from(self.service, at("25 12:00"))

    def tick(self, now: int, *, since: int = 0) -> "Shell":
        self.listening = since or self.listening
        self.coverage.prove(self.listening, now)
        held, self.service.held = self.service.held, ()
        for beat in held:
            self._beat(beat)
        self._time(now)
        return self

    def ticks_until(self, end: int, step: int = 5 * M) -> "Shell":
        now = self.coverage.until
        while now < end:
            now = min(end, now + step)
            self.tick(now)
        return self

    def beat(self, when: int, signal: Signal = SUCCESS, run: str = "", **more: object) -> "Shell":
        beat = Beat(when, signal, run=run, **more)  # type: ignore[arg-type]
        if self.service.held or not decidable(self.service, beat, self.coverage):
            self.service.held += (beat,)
        else:
            self._beat(beat)
        return self

    def _beat(self, beat: Beat) -> None:
        if beat.at <= self.service.last_beat:
            return
        if beat.signal is START and self.service.job is None:
            self.service.job = Job()
        self._time(min(beat.at, self.coverage.until))
        while fact := runs.beat_fact(self.service, beat, self.coverage):
            self._record(fact)
        self._decide(beat)
        runs.apply_beat(self.service, beat)
        apply_heartbeat(self.service, beat.at, beat.signal)

    def _time(self, now: int) -> None:
        while fact := runs.due_fact(self.service, now, self.coverage):
            self._record(fact)
        self._decide(now)

    def _decide(self, fact: Beat | int) -> None:
        while transition := next(decide(self.service, fact, self.coverage), None):
            self.changes.append(transition)
            apply_transition(self.service, transition)

    def _record(self, fact: RunFact) -> None:
        assert len(self.facts) < 5000, "the same fact again and again"
        assert not self.facts or self.facts[-1].order < fact.order, "facts come in their order"
        self.facts.append(fact)
        runs.apply_fact(self.service, fact)

    @property
    def told(self) -> list[tuple[str, str, str]]:
        return [(c.to.value, clock(c.since), c.reason) for c in self.changes]

    @property
    def runs(self) -> list[tuple[str, str]]:
        """Outcome and expected moment of each run, as a list of them would show it."""
        newest = {fact.key: fact for fact in self.facts}
        return [(f.outcome.value, clock(f.occurrence) if f.occurrence else "") for f in newest.values()]


def clock(when: int) -> str:
    return f"{datetime.fromtimestamp(when / 10**6, UTC):%d %H:%M}"


def nightly(**more: object) -> Job:
    return Job("Europe/Berlin", timetable=Timetable("0 3 * * *", "Europe/Berlin"), **more)  # type: ignore[arg-type]


def beaten(job: Job | None = None) -> Shell:
    """A job that ran on the 26th at 03:00 in Berlin, 02:00 UTC."""
    return (
        Shell(job or nightly()).ticks_until(at("26 02:00")).beat(at("26 02:01")).ticks_until(at("26 12:00"))
    )


def test_a_punctual_job_is_alive_and_its_next_run_is_expected_the_day_after() -> None:
    shell = beaten()
    assert shell.told == [("alive", "26 02:01", "heartbeat")]
    assert shell.runs == [("success", "26 02:00")]
    assert runs.expected(shell.service, []).occurrence == at("27 02:00")


def test_a_run_that_does_not_come_is_told_from_its_expected_moment() -> None:
    shell = beaten().ticks_until(at("28 01:00"))
    assert shell.told[1:] == [
        ("silent", "27 02:15", "expected 03:00, not started"),
        ("down", "27 03:00", "expected 03:00, not started"),
    ]
    assert shell.runs[1:] == [("missed", "27 02:00")]
    assert shell.facts[-1].at == at("27 03:00")


def test_each_occurrence_that_passes_meanwhile_is_missed_until_it_is_dead() -> None:
    shell = beaten().ticks_until(at("30 12:00"), step=30 * M)
    assert [day for _, day in shell.runs[1:]] == ["27 02:00", "28 02:00", "29 02:00"]
    shell = Shell(nightly(), EffectiveThresholds(15 * M, 1 * H, 2 * D)).beat(at("26 02:00"))
    shell.ticks_until(at("30 12:00"), step=30 * M)
    assert shell.told[-1][:2] == ("dead", "29 02:00")
    assert [day for _, day in shell.runs[1:]] == ["27 02:00", "28 02:00"]


def test_a_late_run_takes_the_place_of_the_missed_one() -> None:
    shell = beaten().ticks_until(at("27 05:00")).beat(at("27 05:30")).ticks_until(at("27 06:00"))
    assert [to for to, *_ in shell.told[1:]] == ["silent", "down", "alive"]
    assert shell.runs[1:] == [("success", "27 02:00")]


@pytest.mark.parametrize(("minute", "day"), [("01:45", "27 02:00"), ("01:44", "26 02:00")])
def test_an_early_run_counts_for_what_is_near(minute: str, day: str) -> None:
    shell = beaten().ticks_until(at("27 01:40")).beat(at(f"27 {minute}")).ticks_until(at("27 12:00"))
    assert shell.facts[1].occurrence == at(day)
    assert (len(shell.told) == 1) == (day == "27 02:00")


def test_early_reaches_at_most_half_of_the_distance() -> None:
    job = Job("UTC", timetable=Timetable("*/10 * * * *", "UTC"))
    shell = Shell(job).beat(at("26 10:00")).beat(at("26 10:06")).beat(at("26 10:14"))
    assert [clock(fact.occurrence) for fact in shell.facts] == ["26 10:00", "26 10:10", "26 10:10"]


def test_an_occurrence_that_is_passed_over_is_missed_also_if_a_run_is_overdue_at_that_very_moment() -> None:
    job = Job("UTC", max_run=30 * M, timetable=Timetable("0,20,40 * * * *", "UTC"))
    shell = Shell(job).beat(at("26 10:00"), START, "a").ticks_until(at("26 10:25"))
    shell.beat(at("26 10:30"), START, "b").ticks_until(at("26 10:31"))
    assert [(f.outcome.value, clock(f.at)) for f in shell.facts] == [
        ("overdue", "26 10:30"),
        ("missed", "26 10:30"),
    ]


def test_a_run_gives_way_after_all_that_time_alone_leads_to_at_that_very_moment() -> None:
    late = RunFact(at("26 10:35"), Outcome.OVERDUE, "z")
    too_long = RunFact(at("26 10:35"), Outcome.RUNNING, "z", unusual="has run for 35 min")
    gave_way = RunFact(at("26 10:35"), Outcome.OVERDUE, "a", started=at("26 10:05"), message="it began again")
    assert late.order < too_long.order < gave_way.order
    assert order_of(run_event("backup", gave_way)) == gave_way.order


def test_a_service_that_falls_again_in_the_moment_in_which_it_was_lifted_has_another_event() -> None:
    first = StatusTransition(ALIVE, DOWN, at("26 11:15"), at("26 11:00"), "")
    lifted = first._replace(from_=DOWN, to=ALIVE, last_beat=at("26 11:15"))
    again = first._replace(last_beat=at("26 11:15"))
    assert len({to_event("backup", change).id for change in (first, lifted, again)}) == 3
    assert to_event("backup", first).id == to_event("backup", first._replace(reason="of another")).id


def test_what_was_missed_while_a_run_went_on_is_told_once() -> None:
    job = Job("UTC", max_run=3 * H, timetable=Timetable("0 * * * *", "UTC"))
    shell = Shell(job).beat(at("26 03:00"), START).ticks_until(at("26 05:40"))
    assert shell.told[1:] == [
        ("silent", "26 04:15", "expected 04:00, not started"),
        ("down", "26 05:00", "expected 04:00, not started"),
    ]
    shell.beat(at("26 05:40")).ticks_until(at("26 06:20"))
    assert shell.told[3:] == [
        ("alive", "26 05:40", "heartbeat"),
        ("silent", "26 06:15", "expected 06:00, not started"),
    ]
    assert sorted(shell.runs) == [
        ("missed", "26 04:00"),
        ("missed", "26 05:00"),
        ("success", "26 03:00"),
    ]


def test_a_threshold_that_becomes_shorter_makes_nothing_missed_before_what_is_recorded() -> None:
    shell = Shell(nightly(), EffectiveThresholds(2 * H, 5 * H, 7 * D)).beat(at("25 23:00"), START, "long")
    shell.ticks_until(at("26 03:00")).beat(at("26 03:00"), run="long").ticks_until(at("26 03:10"))
    shell.service.patience = EffectiveThresholds(15 * M, 30 * M, 7 * D)
    shell.ticks_until(at("26 05:00"))
    assert [(f.outcome.value, clock(f.at)) for f in shell.facts] == [
        ("success", "26 03:00"),
        ("missed", "26 03:00"),
    ]


def test_what_was_not_late_yet_when_a_run_ended_is_waited_for() -> None:
    job = Job("UTC", max_run=3 * H, timetable=Timetable("0 * * * *", "UTC"))
    shell = Shell(job).beat(at("26 03:00"), START).beat(at("26 04:10")).ticks_until(at("26 04:20"))
    assert shell.told[1:] == [("silent", "26 04:15", "expected 04:00, not started")]


def test_a_run_that_hung_before_the_last_success_does_not_date_the_next_fall() -> None:
    shell = Shell(None).beat(at("26 03:00"), START, "a").ticks_until(at("26 05:00"), step=30 * M)
    assert shell.told[-1][:2] == ("down", "26 04:00")
    shell.beat(at("26 05:00"), START, "b").beat(at("26 05:10"), run="b").ticks_until(at("26 05:15"))
    shell.beat(at("26 05:15"), START, "c").ticks_until(at("26 06:20"))
    assert [(to, since) for to, since, _ in shell.told[-3:]] == [
        ("alive", "26 05:10"),
        ("silent", "26 05:30"),
        ("down", "26 06:15"),
    ]


def test_nor_does_it_where_both_are_counted_anew() -> None:
    shell = Shell(None).beat(at("26 03:00"), START, "a").ticks_until(at("26 05:00"), step=30 * M)
    shell.beat(at("26 05:00"), START, "b").beat(at("26 05:10"), run="b").beat(at("26 05:11"), START, "c")
    runs.count_from(shell.service, at("26 05:12"))  # as by another limit
    shell.ticks_until(at("26 06:20"))
    assert [(to, since) for to, since, _ in shell.told[-2:]] == [("silent", "26 05:26"), ("down", "26 06:11")]


def test_an_open_run_of_the_schedule_before_is_not_taken_for_the_one_that_begins() -> None:
    job = Job("UTC", timetable=Timetable("0 11 * * *", "UTC"))
    shell = Shell(job).beat(at("26 10:00")).ticks_until(at("26 10:50")).beat(at("26 10:50"), START, "old")
    shell.beat(at("26 10:51"), run="else").tick(at("26 10:52"))
    job.timetable = Timetable("0,30 11 * * *", "UTC", early=1 * M)
    runs.expect_from(shell.service, at("26 10:52"))
    shell.beat(at("26 11:00"), START, "new").beat(at("26 11:05"), run="new").tick(at("26 11:06"))
    assert [run.run for run in job.open_runs] == ["old"]
    assert shell.facts[-1].started == at("26 11:00")


def test_a_start_meets_the_occurrence_and_its_end_counts_for_the_same() -> None:
    shell = beaten().ticks_until(at("27 02:00")).beat(at("27 02:05"), START).ticks_until(at("27 02:50"))
    shell.beat(at("27 02:50")).ticks_until(at("27 12:00"))
    assert len(shell.told) == 1
    run = shell.facts[-1]
    assert (run.started, run.ended, run.occurrence) == (at("27 02:05"), at("27 02:50"), at("27 02:00"))


def test_a_run_took_as_long_as_its_sender_measured_else_since_its_start() -> None:
    shell = beaten().beat(at("26 14:00"), START, "a").beat(at("26 14:10"), run="a", duration=9 * M)
    shell.beat(at("26 15:00"), START, "b").beat(at("26 15:10"), run="b").beat(at("26 16:00"), duration=3 * M)
    shell.tick(at("26 16:01"))
    took = [run_event("backup", fact).data for fact in shell.facts[-3:]]
    assert [it.duration for it in took] == [540, 600, 180]
    assert [it.started_at and micros(it.started_at) for it in took] == [
        *(at("26 14:00"), at("26 15:00")),
        at("26 15:57"),
    ]
    assert list(shell.service.job.lengths[-3:]) == [9 * M, 10 * M, 3 * M]  # type: ignore[union-attr]


def test_a_run_that_hangs_is_told_apart_from_one_that_does_not_start() -> None:
    shell = beaten(nightly(max_run=2 * H)).ticks_until(at("27 02:00")).beat(at("27 02:00"), START)
    shell.ticks_until(at("27 12:00"))
    assert shell.told[1:] == [("down", "27 04:00", "the run that began 03:00 has not ended within 2h")]
    assert shell.runs[1:] == [("overdue", "27 02:00")]
    shell.beat(at("27 12:30"))
    assert shell.runs[1:] == [("success", "27 02:00")]
    assert shell.service.status is ALIVE


def test_without_max_run_a_scheduled_run_ends_within_down_after() -> None:
    shell = beaten().ticks_until(at("27 02:00")).beat(at("27 02:10"), START).ticks_until(at("27 12:00"))
    assert shell.told[1:] == [("down", "27 03:10", "the run that began 03:10 has not ended within 1h")]


def test_a_plain_service_with_a_start_is_held_to_its_thresholds_from_there() -> None:
    shell = Shell(None).beat(at("26 10:00")).beat(at("26 10:05"), START).ticks_until(at("26 12:00"))
    assert [c[:2] for c in shell.told[1:]] == [("silent", "26 10:20"), ("down", "26 11:05")]
    assert shell.told[1][2] == "the run that began 10:05 has not ended within 15m"
    assert shell.runs == [("overdue", "")]


def test_a_plain_service_with_max_run_may_run_so_long() -> None:
    shell = Shell(Job(max_run=3 * H)).beat(at("26 10:00")).beat(at("26 10:05"), START)
    shell.ticks_until(at("26 13:00"))
    assert len(shell.told) == 1
    shell.ticks_until(at("26 14:00"))
    assert shell.told[1:] == [("down", "26 13:05", "the run that began 10:05 has not ended within 3h")]


def test_a_plain_service_that_just_beats_has_no_runs() -> None:
    shell = Shell(None).beat(at("26 10:00")).beat(at("26 10:05")).beat(at("26 10:06"), FAIL)
    assert shell.service.job is None
    assert shell.facts == []


def test_several_runs_are_open_at_once_and_each_ends_by_its_id() -> None:
    shell = Shell(None).beat(at("26 10:00"), START, "a").beat(at("26 10:01"), START, "b")
    shell.beat(at("26 10:03"), SUCCESS, "b").beat(at("26 10:04"), FAIL, "a")
    ended = [(f.outcome.value, f.run, (f.ended - f.started) // M) for f in shell.facts]
    assert ended == [("success", "b", 2), ("failure", "a", 4)]
    assert shell.service.job
    assert not shell.service.job.open_runs


def test_a_success_with_another_id_does_not_end_the_run() -> None:
    shell = Shell(None).beat(at("26 10:00"), START, "a").beat(at("26 10:01"), SUCCESS, "b")
    assert shell.service.job
    assert [run.run for run in shell.service.job.open_runs] == ["a"]
    shell.ticks_until(at("26 12:00"))
    assert shell.told[-1][:2] == ("down", "26 11:00")


def test_a_start_while_the_run_is_open_begins_it_again() -> None:
    shell = Shell(None).beat(at("26 10:00"), START).beat(at("26 10:05"), START).beat(at("26 10:06"))
    assert [(f.outcome.value, clock(f.started)) for f in shell.facts] == [
        ("overdue", "26 10:00"),
        ("success", "26 10:05"),
    ]
    assert shell.told == [("alive", "26 10:00", "heartbeat")]


def test_a_start_lifts_nothing_from_down() -> None:
    shell = beaten().ticks_until(at("27 04:00")).beat(at("27 04:10"), START)
    assert shell.service.status is DOWN
    shell.beat(at("27 04:20"))
    assert shell.service.status is ALIVE


def test_fail_after_and_recover_after() -> None:
    shell = Shell(Job(fail_after=3, recover_after=2)).beat(at("26 10:00"), FAIL)
    assert shell.service.status is ALIVE, "a failure below fail_after is a sign of life"
    shell.beat(at("26 10:01"), FAIL).beat(at("26 10:02")).beat(at("26 10:03"), FAIL).beat(
        at("26 10:04"), FAIL
    )
    assert shell.service.status is ALIVE, "a success between begins the count anew"
    shell.beat(at("26 10:05"), FAIL)
    assert shell.service.status is DOWN
    shell.beat(at("26 10:06")).beat(at("26 10:07"), FAIL).beat(at("26 10:08"))
    assert shell.service.status is DOWN
    shell.beat(at("26 10:09"))
    assert shell.service.status is ALIVE


def test_recover_after_does_not_hold_back_what_is_only_silent() -> None:
    shell = Shell(Job(recover_after=3)).beat(at("26 10:00")).ticks_until(at("26 10:20"))
    assert shell.service.status is SILENT
    shell.beat(at("26 10:21"))
    assert shell.service.status is ALIVE


def test_an_occurrence_in_the_registrys_own_deafness_is_not_demanded() -> None:
    shell = beaten().ticks_until(at("27 01:30"))
    shell.tick(at("27 05:00"), since=at("27 05:00")).ticks_until(at("28 01:00"))
    assert len(shell.told) == 1
    assert shell.runs == [("success", "26 02:00")]
    shell.ticks_until(at("28 12:00"))
    assert [c[:2] for c in shell.told[1:]] == [("silent", "28 02:15"), ("down", "28 03:00")]


def test_what_is_awaited_for_seconds_only_is_forgiven_as_well() -> None:
    second, start = 10**6, at("26 13:00")
    shell = Shell(
        Job(timetable=Timetable("* * * * *", "UTC")), EffectiveThresholds(10 * second, 30 * second, 7 * D)
    )
    shell.tick(start).beat(start + second).tick(start + 20 * second)
    back = start + 19 * M + 20 * second
    for seconds in range(41):
        shell.tick(back + seconds * second, since=back)
    assert [c.to for c in shell.changes] == [ALIVE]
    assert shell.runs == [("success", "26 13:00")]
    shell.ticks_until(start + 21 * M, step=second)
    assert shell.told[1:] == [
        ("silent", "26 13:20", "expected 13:20, not started"),
        ("down", "26 13:20", "expected 13:20, not started"),
    ]


@pytest.mark.parametrize("text", ["* * * * *", "*/7 3-5 * * *", "30 2 * * *", "0 0 1 * *"])
@pytest.mark.parametrize("hours", [(13.0, 13.01), (13.0, 15.0), (1.2, 1000.1), (13.0, 13.02)])
def test_a_long_gap_forgives_what_it_would_one_by_one(text: str, hours: tuple[float, float]) -> None:
    shell = Shell(Job(timetable=Timetable(text, "Europe/Berlin"))).beat(at("25 13:00"))
    gap = (at("26 00:00") + int(hours[0] * H), at("26 00:00") + int(hours[1] * H))
    job = shell.service.job
    assert job
    timetable, found = Timetable(text, "Europe/Berlin"), job.expectation
    while runs.is_forgiven(shell.service, found, [gap]):
        found = Expectation(found.occurrence, timetable.following(found.occurrence))
    assert runs.expected(shell.service, [gap]) == found


def test_what_was_last_is_found_without_going_through_all_of_it() -> None:
    thirteen_weeks = Timetable("*-01..03-* *:*:*", "UTC")
    asked: set[int] = set()
    with pytest.MonkeyPatch.context() as patch:
        real = timetables._following
        patch.setattr(timetables, "_following", lambda *it: asked.add(it[2]) or real(*it))
        assert thirteen_weeks.before(at("25 12:00")) == micros(datetime(2026, 3, 31, 23, 59, 59, tzinfo=UTC))
    assert len(asked) < 300


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/Havana", "Antarctica/Troll"])
def test_what_was_last_is_the_last_of_those_that_follow(zone: str) -> None:
    texts = ["0 3 * * *", "*/7 * * * *", "0 9 * * 1-5\n30 2 * * sun", "*:*:0/13", "Mon 02:30", "*-*~1"]
    for timetable in (Timetable(text, zone) for text in texts):
        seen = timetable.following(at("01 00:00"))
        for _ in range(30):
            later = timetable.following(seen)
            assert timetable.before(later) == timetable.before(seen + 1) == seen
            seen = later


def test_a_blink_of_the_registry_forgives_nothing_but_its_length() -> None:
    shell = beaten().ticks_until(at("27 02:05"))
    shell.tick(at("27 02:05") + 30 * 10**6, since=at("27 02:05") + 30 * 10**6).ticks_until(at("27 12:00"))
    assert [c[:2] for c in shell.told[1:]] == [("silent", "27 02:20"), ("down", "27 03:05")]


def test_after_a_pause_only_what_comes_then_is_expected() -> None:
    shell = beaten()
    shell.service.paused = True
    shell.ticks_until(at("27 02:30"))
    shell.service.paused = False
    resume(shell.service, at("27 02:30"), at("27 02:30"))
    shell.ticks_until(at("28 01:00"))
    assert len(shell.told) == 1
    assert shell.runs == [("success", "26 02:00")]
    shell.ticks_until(at("28 03:00"))
    assert [c[:2] for c in shell.told[1:]] == [("silent", "28 02:15"), ("down", "28 03:00")]


def test_nothing_is_expected_of_what_was_never_heard() -> None:
    shell = Shell(nightly()).ticks_until(at("28 12:00"), step=H)
    assert (shell.told, shell.runs, next_due(shell.service, shell.coverage)) == ([], [], None)


def test_the_first_heartbeat_misses_nothing_that_was_before() -> None:
    shell = Shell(nightly()).ticks_until(at("27 12:00"), step=H).beat(at("27 12:00"))
    assert shell.runs == [("success", "27 02:00")]


def test_what_was_due_before_it_was_registered_does_not_count() -> None:
    shell = (
        Shell(nightly()).ticks_until(at("25 18:00"), step=H).beat(at("25 18:00")).ticks_until(at("26 01:50"))
    )
    assert shell.runs == [("success", "")], "it came 16 hours after an hour that nobody expected it in"
    assert shell.beat(at("26 01:55")).runs[1:] == [("success", "26 02:00")]


def test_a_schedule_in_the_wrong_zone_is_recognised() -> None:
    shell = Shell(Job("UTC", timetable=Timetable("0 3 * * *", "UTC")))
    for day in (26, 27, 28):
        shell.ticks_until(at(f"{day} 02:00"), step=15 * M).beat(at(f"{day} 01:01"))
    shell.ticks_until(at("28 05:00"), step=15 * M)
    assert shell.told[-1][2] == (
        "expected 03:00, not started; came 2 h before each expected time, three times in a row: "
        "is the time zone right?"
    )


@pytest.mark.parametrize(
    ("minutes", "said"),
    [
        ((120, 121, 119), "came 2 h after each"),
        ((30, 30, 30), "came 30 min after each"),
        ((-60, -61, -60), "came 1 h before each"),
        ((120, 120, 60), ""),
        ((0, 1, 0), ""),
        ((12, 12, 12), ""),
        ((120, 120), ""),
    ],
)
def test_only_the_same_whole_or_half_hours_three_times_in_a_row(minutes: Iterable[int], said: str) -> None:
    shell = Shell(Job("UTC", timetable=Timetable("0 12 * * *", "UTC")))
    for day, minute in enumerate(minutes, 26):
        shell.coverage.until = at(f"{day} 12:00") + minute * M
        shell.beat(at(f"{day} 12:00") + minute * M)
    assert shell.service.job
    assert zone_hint(shell.service.job.offsets).startswith(said)
    assert bool(zone_hint(shell.service.job.offsets)) == bool(said)


def runs_of(lengths: Iterable[int], job: Job | None = None) -> Shell:
    """A plain service with runs of so many seconds, one each hour."""
    shell = Shell(job or Job())
    for n, length in enumerate(lengths):
        begin = at("26 00:00") + n * H
        shell.coverage.until = begin - M
        shell.beat(begin, START).beat(begin + length * 10**6)
    return shell


def test_an_unusual_run_is_told_once_a_day_and_marked_each_time() -> None:
    shell = runs_of([*[780] * 14, 3, 4, *[790] * 22, 5])
    marked = [(f.unusual, f.notify) for f in shell.facts if f.unusual]
    assert marked == [
        ("took 3 s, usually 13 min", True),
        ("took 4 s, usually 13 min", False),
        ("took 5 s, usually 13 min", True),
    ]
    assert not any(f.unusual for f in runs_of([*[780] * 13, 3]).facts), "from the 15th on"
    assert not any(f.notify for f in runs_of([*[780] * 14, 3], Job(notify_unusual=False)).facts)


def test_a_run_that_is_longer_than_all_before_is_told_while_it_runs() -> None:
    shell = runs_of([60] * 14)
    begin = at("26 20:00")
    shell.coverage.until = begin - M
    shell.beat(begin, START).ticks_until(begin + 10 * M, step=10**6)
    (said,) = [f for f in shell.facts if f.unusual]
    assert (said.outcome, said.unusual, said.notify) == (
        Outcome.RUNNING,
        "has run for 1 min 30 s, usually 1 min",
        True,
    )
    shell.beat(begin + 10 * M + 1)
    assert [f.notify for f in shell.facts if f.unusual] == [True, False], "its end is not told again"


def test_facts_are_the_same_when_everything_is_read_again() -> None:
    def history() -> Shell:
        shell = beaten(nightly(max_run=H)).ticks_until(at("27 02:00"))
        shell.beat(at("27 02:00"), START, "x").ticks_until(at("27 05:00"))
        return shell.beat(at("27 06:00"), SUCCESS, "x").ticks_until(at("29 12:00"), step=15 * M)

    first, again = history(), Shell(nightly(max_run=H))
    again.service.recorded_beat, again.service.status = at("27 06:00"), DOWN
    again.service.since = at("28 03:00")
    again.ticks_until(at("26 02:00")).beat(at("26 02:01")).ticks_until(at("27 02:00"))
    again.beat(at("27 02:00"), START, "x").ticks_until(at("27 05:00"))
    again.beat(at("27 06:00"), SUCCESS, "x").ticks_until(at("29 12:00"), step=15 * M)
    assert again.facts == first.facts


@pytest.mark.parametrize("schedule", ["0 3 * * *", "*/5 * * * *", "0 9 * * 1-5"])
def test_nothing_is_due_before_what_is_known_without_reckoning(schedule: str) -> None:
    known = 0
    for seed in range(60):
        chance = random.Random(f"{schedule} {seed}")
        job = Job(
            "Europe/Berlin", timetable=Timetable(schedule, "Europe/Berlin"), max_run=chance.choice([0, M])
        )
        shell, now = Shell(job), at("25 12:00")
        for _ in range(40):
            now += int(chance.expovariate(1 / chance.choice([M, 20 * M, H, 12 * H]))) + 1
            since = now if chance.random() < 0.1 else 0  # it was deaf
            shell.tick(now, since=since)
            if chance.random() < 0.7:
                shell.beat(
                    now + 1, chance.choice([SUCCESS, SUCCESS, SUCCESS, START, FAIL]), run=chance.choice("ab")
                )
            due, quiet = next_due(shell.service, shell.coverage), runs.quiet_until(shell.service)
            known += bool(quiet)
            assert due is None or due >= quiet
    assert known > 500
