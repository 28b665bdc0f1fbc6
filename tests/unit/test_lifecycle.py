"""The lifecycle, given / when / then, and the properties that hold for every history."""

import copy
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.monitor.domain import runs
from services.monitor.domain.lifecycle import (
    apply_heartbeat,
    apply_transition,
    apply_while_paused,
    change_thresholds,
    decidable,
    decide,
    next_due,
    resume,
)
from services.monitor.domain.mass_outage import REGULAR, CadenceIndex, MassOutageDetector
from services.monitor.domain.service import (
    SECOND,
    Beat,
    EffectiveThresholds,
    Job,
    MonitoredService,
    OpenRun,
    StatusTransition,
)
from shared.contracts.events import Doubt, Signal, Status
from shared.domain.coverage import Coverage

UNKNOWN, ALIVE, SILENT, DOWN, DEAD = Status
PATIENCE = EffectiveThresholds(silent=15, down=60, dead=300)


class Tick(NamedTuple):
    at: int
    open_since: int = 0


Fact = Beat | Tick


class Watcher:
    """The monitor's shell around one service, without a broker: `history` is what would be recorded."""

    def __init__(self, patience: EffectiveThresholds = PATIENCE) -> None:
        self.it = MonitoredService("web", registered_at=0, patience=patience)
        self.coverage = Coverage()
        self.history: list[StatusTransition] = []

    def take(self, facts: Iterable[Fact]) -> "Watcher":
        for fact in facts:
            if isinstance(fact, Tick):
                self.coverage.prove(fact.open_since, fact.at)
                held, self.it.held = self.it.held, ()
                for beat in held:
                    self._beat(beat)
                self._time(fact.at)
            elif fact.at <= self.it.last_beat or fact.signal is Signal.LOG:
                continue
            elif self.it.paused:
                self._runs(fact)
                apply_while_paused(self.it, fact)
            elif self.it.held or not decidable(self.it, fact, self.coverage):
                if fact not in self.it.held:
                    self.it.held += (fact,)
            else:
                self._beat(fact)
        return self

    def pause(self) -> "Watcher":
        self.it.paused = True
        return self

    def resume(self, at: int) -> "Watcher":
        self.it.paused = False
        resume(self.it, at, at)
        if self.it.said:
            self._record(decide(self.it, self.it.said, self.coverage))
            self.it.said = None
        return self

    def change(self, patience: EffectiveThresholds, at: int) -> "Watcher":
        change_thresholds(self.it, patience, at, self.coverage.gaps)
        return self

    def _beat(self, beat: Beat) -> None:
        self._runs(beat)
        self._record(decide(self.it, beat, self.coverage))
        runs.apply_beat(self.it, beat)
        apply_heartbeat(self.it, beat.at, beat.signal)

    def _runs(self, beat: Beat) -> None:
        """The facts about runs are tested in `test_runs.py`; here they are only applied."""
        if self.it.job is None and beat.signal is Signal.START:
            self.it.job = Job()
        if not self.it.paused and not beat.after_hole and beat.at > self.it.last_beat:
            self._time(min(beat.at, self.coverage.until))
        while fact := runs.beat_fact(self.it, beat, self.coverage):
            runs.apply_fact(self.it, fact)

    def _time(self, at: int) -> None:
        while fact := runs.due_fact(self.it, at, self.coverage):
            runs.apply_fact(self.it, fact)
        self._record(decide(self.it, at, self.coverage))

    def _record(self, changes: Iterable[StatusTransition]) -> None:
        for change in list(changes):
            self.history.append(change)
            apply_transition(self.it, change)

    @property
    def short(self) -> list[tuple[Status, int]]:
        return [(change.to, change.since) for change in self.history]


def history(*facts: Fact) -> list[tuple[Status, int]]:
    return Watcher().take(facts).short


def ticks(upto: int, every: int = 1, start: int = 1) -> list[Tick]:
    return [Tick(at) for at in range(start, upto + 1, every)]


def test_first_beat_makes_it_alive() -> None:
    assert history(Tick(1), Beat(5)) == [(ALIVE, 5)]


def test_a_fall_is_dated_when_it_fell_due_not_when_it_was_noticed() -> None:
    assert history(Beat(5), Tick(27)) == [(ALIVE, 5), (SILENT, 20)]


def test_both_deadlines_missed_between_two_looks_are_passed_in_order() -> None:
    assert history(Beat(5), Tick(1000)) == [(ALIVE, 5), (SILENT, 20), (DOWN, 65), (DEAD, 305)]


def test_a_success_revives() -> None:
    assert history(Beat(5), Tick(1000), Beat(1001)) == [
        (ALIVE, 5),
        (SILENT, 20),
        (DOWN, 65),
        (DEAD, 305),
        (ALIVE, 1001),
    ]


def test_beats_in_time_change_nothing() -> None:
    assert history(*[fact for at in range(0, 500, 10) for fact in (Beat(at + 1), Tick(at + 2))]) == [
        (ALIVE, 1)
    ]


def test_a_failure_is_down_at_once_and_dead_in_the_end() -> None:
    facts = [Beat(5), Tick(6), Beat(7, Signal.FAIL), Beat(8, Signal.FAIL), Tick(400)]
    assert history(*facts) == [(ALIVE, 5), (DOWN, 7), (DEAD, 308)]


def test_a_service_that_was_never_heard_is_not_judged() -> None:
    assert history(*ticks(1000, 100)) == []


def test_a_late_beat_waits_for_the_proof_that_we_were_listening() -> None:
    late = Watcher().take([Tick(1), Beat(5), Tick(6), Beat(30)])
    assert late.short == [(ALIVE, 5)]
    assert late.take([Tick(31)]).short == [(ALIVE, 5), (SILENT, 20), (ALIVE, 30)]


def test_a_late_beat_after_our_own_outage_is_no_fall() -> None:
    """The broker was away from 7 to 30; a publisher's beat is stored before the first tick."""
    assert history(Tick(1), Beat(5), Tick(6), Beat(30), Tick(31, open_since=31)) == [(ALIVE, 5)]


def test_unobserved_time_is_credited() -> None:
    facts = [Tick(1), Beat(5), Tick(10), Tick(5000, open_since=5000)]
    assert history(*facts) == [(ALIVE, 5)]
    assert history(*facts, Tick(5014, 5000)) == [(ALIVE, 5)]
    assert history(*facts, Tick(5015, 5000)) == [(ALIVE, 5), (SILENT, 5015)]


def test_after_an_outage_there_is_time_for_the_next_beat_of_its_rhythm() -> None:
    """It beats every 6; the one due at 13 was lost in the outage from 12 to 13, the next comes at 19."""
    facts = [Tick(1), Beat(1), Beat(7), Tick(12), Tick(13, open_since=13), Tick(25, 13)]
    assert history(*facts) == [(ALIVE, 1), (SILENT, 25)]


def test_the_length_of_a_run_is_no_rhythm() -> None:
    """It runs for 1, every 12; the run due at 26 was lost in the outage, the next begins at 38."""
    facts = [Tick(1), Beat(1, Signal.START), Beat(2), Beat(13, Signal.START), Beat(14), Tick(25)]
    assert history(*facts, Tick(27, open_since=27), Tick(37, 27), Beat(38), Tick(39, 27)) == [(ALIVE, 1)]


def test_small_outages_again_and_again_do_not_hide_a_silent_service() -> None:
    """One lost second in every ten: with patience 15 and rhythm 2 it is found all the same."""
    facts: list[Fact] = [Tick(1), Beat(1), Beat(3), Tick(9)]
    for start in range(10, 100, 10):
        facts += [Tick(start, start), Tick(start + 9, start)]
    found = history(*facts)
    assert found[:2] == [(ALIVE, 1), (SILENT, 19)]


def test_another_ingest_that_stayed_open_leaves_nothing_to_credit() -> None:
    facts = [Tick(1), Beat(5), Tick(10), Tick(5000, open_since=5000), Tick(5000, open_since=0)]
    assert history(*facts) == [(ALIVE, 5), (SILENT, 20), (DOWN, 65), (DEAD, 305)]


# --- pause


def test_a_paused_service_is_not_evaluated_and_expected_from_the_resume_on() -> None:
    watcher = Watcher().take([Tick(1), Beat(5), Tick(6)]).pause()
    assert watcher.take([Tick(1000)]).short == [(ALIVE, 5)]
    watcher.resume(1001)
    assert watcher.take([Tick(1015)]).short == [(ALIVE, 5)]
    due = [(SILENT, 1016), (DOWN, 1061), (DEAD, 1301)]
    assert watcher.take([Tick(1500)]).short[1:] == due, "also if it never beats again"


def test_who_was_never_heard_is_not_expected_after_a_pause() -> None:
    watcher = Watcher().take([Tick(1)]).pause().take([Tick(50)]).resume(60)
    assert watcher.take([Tick(5000)]).short == []


SUCCESS, START, FAIL, LOG = Signal


@pytest.mark.parametrize(
    ("before", "meanwhile", "after"),
    [
        ([Beat(5)], [Beat(10)], None),
        ([Beat(5)], [Beat(10, FAIL)], DOWN),
        ([Beat(5)], [Beat(10, FAIL), Beat(11)], None),
        ([Beat(5)], [Beat(11), Beat(12, FAIL)], DOWN),
        ([Beat(5)], [Beat(11, FAIL), Beat(12, START)], DOWN),
        ([Beat(5)], [Beat(10, LOG)], None),
        ([Beat(5, FAIL)], [Beat(10)], ALIVE),
        ([Beat(5, FAIL)], [Beat(10, START)], None),
        ([Beat(5, FAIL)], [Beat(10), Beat(11, START)], ALIVE),
        ([Beat(5, FAIL)], [Beat(10, FAIL)], None),
        ([Beat(5), Tick(25)], [Beat(30, START)], ALIVE),
        ([Beat(5), Tick(25)], [Beat(30, LOG)], None),
        ([Beat(5), Tick(500)], [Beat(510, START)], None),
        ([Beat(5), Tick(500)], [Beat(510)], ALIVE),
        ([], [Beat(10)], ALIVE),
        ([], [Beat(10, START)], ALIVE),
        ([], [Beat(10, FAIL)], DOWN),
    ],
)
def test_what_came_in_while_it_was_paused_counts_as_of_the_resume(
    before: list[Fact], meanwhile: list[Fact], after: Status | None
) -> None:
    watcher = Watcher().take([Tick(1), *before]).pause()
    known = len(watcher.history)
    watcher.take([*meanwhile, Tick(800)])
    assert len(watcher.history) == known, "nothing is recorded while it is paused"
    watcher.resume(900)
    assert watcher.short[known:] == ([(after, 900)] if after else [])
    watcher.resume(900)
    assert len(watcher.history) == known + bool(after), "and it counts once"


def test_the_change_of_a_resume_says_what_the_heartbeat_said() -> None:
    watcher = Watcher().take([Beat(5, START)]).pause()
    watcher.take([Beat(12, FAIL, message="disk full", exit_code=3)]).resume(20)
    change = watcher.history[-1]
    assert change == StatusTransition(
        ALIVE, DOWN, 20, 12, "reported failure (exit code 3) while it was paused", "disk full", 7
    )


def test_the_resume_is_not_taken_in_again_once_later_changes_are_known() -> None:
    watcher = Watcher().take([Beat(5)]).pause().take([Beat(12, FAIL)])
    adopt(watcher, StatusTransition(DOWN, ALIVE, 30, 30, "heartbeat"))
    assert watcher.resume(20).short[1:] == [(ALIVE, 30)]


def test_beats_that_the_broker_let_go_raise_no_alarm() -> None:
    assert history(Tick(1), Beat(5), Beat(5000, after_hole=True), Tick(5001)) == [(ALIVE, 5)]


def test_silence_counts_from_where_beats_may_have_been_let_go_of() -> None:
    watcher = Watcher().take([Tick(1), Beat(5)])
    watcher.it.unproved = 5000
    watcher.take([Tick(5000 + PATIENCE.silent - 1)])
    assert watcher.short == [(ALIVE, 5)]
    due = [(SILENT, 5000 + PATIENCE.silent), (DOWN, 5000 + PATIENCE.down)]
    assert watcher.take([Tick(5000 + PATIENCE.down)]).short == [(ALIVE, 5), *due]


def test_beats_from_before_the_registration_do_not_count() -> None:
    watcher = Watcher()
    watcher.it.registered_at = 100
    assert watcher.take([Beat(50)]).short == []


def test_nothing_is_due_before_the_next_deadline() -> None:
    watcher = Watcher().take([Tick(1), Beat(5)])
    assert next_due(watcher.it, watcher.coverage) == 20
    watcher.take([Tick(30)])
    assert next_due(watcher.it, watcher.coverage) == 65


def test_gaps_are_bounded() -> None:
    coverage = Coverage()
    for at in range(0, 10 * Coverage.MOST_GAPS, 2):
        coverage.prove(at, at + 1)
    assert len(coverage.gaps) == Coverage.MOST_GAPS
    assert coverage.gaps[0][0] == 1, "what is forgotten must not be charged"


def test_time_before_the_first_tick_is_credited() -> None:
    facts = [Beat(5), Tick(1000, open_since=1000)]
    assert history(*facts, Tick(1014, 1000)) == [(ALIVE, 5)]
    assert history(*facts, Tick(1015, 1000)) == [(ALIVE, 5), (SILENT, 1015)]


def test_a_proof_tells_whether_it_takes_back_a_gap() -> None:
    coverage = Coverage()
    assert not coverage.prove(10, 20), "it opens a gap"
    assert not coverage.prove(10, 30), "it goes on"
    assert not coverage.prove(40, 50), "it opens another"
    assert not coverage.prove(12, 25), "it was covered before"
    assert coverage.gaps == [(0, 10), (30, 40)]
    assert coverage.prove(35, 51), "a part of one"
    assert coverage.gaps == [(0, 10), (30, 35)]
    assert coverage.prove(2, 52), "a whole one and a part"
    assert coverage.gaps == [(0, 2)]
    assert not coverage.prove(2, 53), "the same again"


# --- runs

HOURS = EffectiveThresholds(900 * SECOND, 3600 * SECOND, 7 * 86400 * SECOND)


def test_the_end_of_a_run_that_changes_something_says_how_long_it_took() -> None:
    failed = Watcher().take([Beat(5, Signal.START), Beat(12, Signal.FAIL)])
    assert [(change.to, change.duration) for change in failed.history] == [(ALIVE, None), (DOWN, 7)]
    late = Watcher().take([Tick(1), Beat(5, Signal.START), Tick(30), Beat(31), Tick(32)])
    assert [(c.to, c.duration) for c in late.history] == [(ALIVE, None), (SILENT, None), (ALIVE, 26)]


def test_a_second_start_begins_the_run_anew() -> None:
    watcher = Watcher().take([Beat(5, Signal.START), Beat(10, Signal.START), Beat(12, Signal.FAIL)])
    assert watcher.history[-1].duration == 2


def test_what_was_never_started_took_no_time() -> None:
    watcher = Watcher().take([Beat(5), Beat(7, Signal.FAIL), Beat(9), Beat(11, Signal.FAIL)])
    assert [change.duration for change in watcher.history] == [None] * 4
    done = Watcher().take([Beat(5, Signal.START), Beat(7), Beat(9, Signal.FAIL)])
    assert done.history[-1].duration is None, "that run has ended before"
    starts = Watcher().take([Tick(1), Beat(5), Tick(21), Beat(22, Signal.START)])
    assert starts.history[-1].to is ALIVE
    assert starts.history[-1].duration is None, "a start ends nothing"
    again = Watcher().take([Tick(1), Beat(5, Signal.START), Tick(30), Beat(31, Signal.START)])
    assert [(c.to, c.duration) for c in again.history[1:]] == [(SILENT, None), (ALIVE, None)]


def test_a_run_that_never_ends_is_overdue_with_a_reason_of_its_own() -> None:
    watcher = Watcher(HOURS).take([Tick(1), Beat(5, Signal.START), Tick(5000 * SECOND)])
    assert [(change.to, change.reason) for change in watcher.history[1:]] == [
        (SILENT, "the run that began 00:00 has not ended within 15m"),
        (DOWN, "the run that began 00:00 has not ended within 1h"),
    ]
    ended = Watcher(HOURS).take([Tick(1), Beat(5, Signal.START), Beat(6), Tick(1000 * SECOND)])
    assert ended.history[-1].reason == "no heartbeat for 15m"


def test_a_failure_says_its_exit_code_and_its_message() -> None:
    facts = [Beat(5, message="hello"), Beat(6, Signal.FAIL, message="disk full", exit_code=3)]
    first, failed = Watcher().take(facts).history
    assert (first.reason, first.message) == ("heartbeat", "hello")
    assert (failed.reason, failed.message) == ("reported failure (exit code 3)", "disk full")
    (plain,) = Watcher().take([Beat(5, Signal.FAIL)]).history
    assert (plain.reason, plain.message) == ("reported failure", None)


def test_a_fall_repeats_no_message() -> None:
    watcher = Watcher().take([Tick(1), Beat(5, message="all is well"), Tick(30)])
    assert watcher.history[-1].message is None


# --- thresholds that change


LONG = EffectiveThresholds(500, 600, 700)


def test_shorter_thresholds_count_from_when_they_hold() -> None:
    watcher = Watcher(LONG).take([Tick(1), Beat(5), Tick(100)]).change(PATIENCE, 101)
    assert watcher.take([Tick(115)]).short == [(ALIVE, 5)], "nothing falls at once"
    assert watcher.take([Tick(1000)]).short[1:] == [(SILENT, 116), (DOWN, 161), (DEAD, 401)]


def test_a_shorter_threshold_puts_no_fall_off() -> None:
    watcher = (
        Watcher(EffectiveThresholds(20, 70, 400)).take([Tick(1), Beat(5), Tick(10)]).change(PATIENCE, 24)
    )
    assert watcher.take([Tick(1000)]).short[1:] == [(SILENT, 25), (DOWN, 75), (DEAD, 324)], (
        "as was due before"
    )
    for at in range(25, 400, 10):  # again and again to and fro
        watcher = Watcher(EffectiveThresholds(20, 70, 400)).take([Tick(1), Beat(5), Tick(6)])
        for n, then in enumerate(range(6, at, 7)):
            watcher.change((PATIENCE, EffectiveThresholds(20, 70, 400))[n % 2], then)
        assert watcher.take([Tick(1000)]).short[1][1] <= 25


def test_longer_thresholds_hold_for_the_silence_that_there_is() -> None:
    watcher = Watcher().take([Tick(1), Beat(5), Tick(10)]).change(LONG, 12)
    assert watcher.take([Tick(1000)]).short[1:] == [(SILENT, 505), (DOWN, 605), (DEAD, 705)]


def test_longer_thresholds_after_a_resume_count_from_it() -> None:
    watcher = Watcher().take([Tick(1), Beat(5), Tick(10)]).pause().resume(12)
    assert watcher.change(LONG, 14).take([Tick(1000)]).short[1:] == [(SILENT, 512), (DOWN, 612), (DEAD, 712)]


def test_a_service_that_is_down_is_dead_by_what_holds_now() -> None:
    watcher = Watcher(LONG).take([Tick(1), Beat(5, Signal.FAIL), Tick(100)]).change(PATIENCE, 101)
    assert watcher.take([Tick(1000)]).short[1:] == [(DEAD, 401)]


def test_what_waits_for_its_tick_is_not_charged_for_new_thresholds_either() -> None:
    watcher = Watcher(EffectiveThresholds(20, 70, 400)).take([Tick(1), Beat(5), Beat(26)])
    assert watcher.it.held
    watcher.change(EffectiveThresholds(3, 70, 400), 30).take([Tick(31), Tick(60)])
    assert watcher.short == [(ALIVE, 5), (SILENT, 33)]


def test_no_fall_is_dated_before_the_one_it_follows() -> None:
    """Silent after a gap; then another ingest proves that there was none, and down was due long ago."""
    facts = [Tick(1), Beat(5), Tick(10), Tick(1000, open_since=1000), Tick(1015, 1000)]
    assert history(*facts) == [(ALIVE, 5), (SILENT, 1015)]
    assert history(*facts, Tick(1016, open_since=0))[2:] == [(DOWN, 1015), (DEAD, 1015)]


# --- the doubt


def regular(stopped_at: int, rhythm: int = 10, silent: int = 30) -> MonitoredService:
    """Beat every `rhythm` seconds until `stopped_at`."""
    it = MonitoredService(
        "web", 0, EffectiveThresholds(silent * SECOND, 2 * silent * SECOND, 9 * silent * SECOND), status=ALIVE
    )
    for n in range(REGULAR, -1, -1):
        apply_heartbeat(it, (stopped_at - n * rhythm) * SECOND)
    return it


def doubt(*services: MonitoredService) -> Doubt | None:
    """What is thought of the first when it falls silent."""
    cadence = CadenceIndex()
    for it in services:
        cadence.update(it)
    it = services[0]
    return MassOutageDetector(cadence, it.last_beat + it.patience.silent).outage_of(it)


def many(count: int, stopped_at: int, **more: int) -> list[MonitoredService]:
    return [regular(stopped_at, **more) for _ in range(count)]


BEATING = 200
"""By then the others, that go on, have beaten last."""


def test_more_than_half_stopped_together() -> None:
    assert doubt(*many(5, 100), *many(4, BEATING)) == Doubt(stopped=5, of=9, within=1)


def test_the_doubt_says_how_far_apart_they_stopped() -> None:
    assert doubt(*many(3, 100), *many(3, 103), *many(4, BEATING)) == Doubt(stopped=6, of=10, within=3)
    assert doubt(*many(3, 103), *many(3, 100), *many(4, BEATING)) == Doubt(stopped=6, of=10, within=3)


def test_half_is_not_most() -> None:
    assert doubt(*many(5, 100), *many(5, BEATING)) is None


def test_from_a_few_nothing_is_concluded() -> None:
    assert doubt(*many(4, 100), *many(1, BEATING)) is None
    assert doubt(*many(4, 100)) is None


def test_who_stopped_long_before_counts_on_neither_side() -> None:
    assert doubt(*many(5, 500), *many(4, 600), *many(50, 100)) == Doubt(stopped=5, of=9, within=1)
    assert doubt(*many(4, 500), *many(50, 100)) is None


def test_a_slow_rhythm_widens_the_window() -> None:
    assert doubt(*many(3, 1000, rhythm=5), *many(3, 1007, rhythm=5)) is None
    slow = [*many(3, 1000, rhythm=8, silent=60), *many(3, 1007, rhythm=8, silent=60)]
    assert doubt(*slow) == Doubt(stopped=6, of=6, within=7)


def test_those_that_go_on_are_not_doubted_by_one_that_beats_seldom() -> None:
    """A nightly job is late; the others of its long rhythm's window beat every minute, and will again."""

    def nightly() -> MonitoredService:
        return regular(1_000_000, rhythm=86_400, silent=90_000)

    assert doubt(nightly(), *many(20, 1_089_990)) is None
    assert doubt(nightly(), *many(20, 1_050_000)) == Doubt(stopped=21, of=21, within=39_980)


@pytest.mark.parametrize("kind", ["paused", "irregular", "heard once", "tried by hand", "after a break"])
def test_who_is_paused_or_beats_irregularly_is_not_counted(kind: str) -> None:
    def others() -> list[MonitoredService]:
        found = many(5, 100, rhythm=31 if kind == "irregular" else 10)
        for it in found:
            it.paused = kind == "paused"
            it.rhythm = 0 if kind == "heard once" else it.rhythm
            it.in_a_row -= kind == "tried by hand"
            if kind == "after a break":
                apply_heartbeat(it, 200 * SECOND)
                apply_heartbeat(it, 201 * SECOND)
        return found

    assert doubt(*many(4, 100), *others()) is None, "not among those that stopped"
    assert doubt(*many(5, 100), *others()) == Doubt(stopped=5, of=5, within=1), "nor among all"
    assert doubt(*others(), *many(5, 100)) is None, "and not in doubt itself"


def test_a_doubtful_fall_says_so_after_its_own_reason() -> None:
    """Silent and down are in doubt; who is still away when it would be dead has other troubles."""
    ran, beat, *_, goes_on = services = [*many(5, 100), *many(4, BEATING)]
    ran.job = Job(open_runs=(OpenRun(ran.last_beat, "", "1"),))
    cadence = CadenceIndex()
    for it in services:
        cadence.update(it)

    def overdue_transitions(it: MonitoredService) -> list[tuple[str, Doubt | None]]:
        covered = Coverage(until=10_000 * SECOND)
        return [
            (c.reason, c.doubt)
            for c in decide(it, covered.until, covered, MassOutageDetector(cadence, 130 * SECOND))
        ]

    doubt, why = (
        Doubt(stopped=5, of=9, within=1),
        "; 5 of 9 services stopped within 1 s, the registry may be cut off",
    )
    assert overdue_transitions(beat) == [
        (f"no heartbeat for 30s{why}", doubt),
        (f"no heartbeat for 1m{why}", doubt),
        ("no heartbeat for 4m30s", None),
    ]
    assert overdue_transitions(ran)[0] == (f"the run that began 00:01 has not ended within 30s{why}", doubt)
    assert overdue_transitions(goes_on)[0] == ("no heartbeat for 30s", None)


steps = st.tuples(
    st.integers(0, 2),
    st.sampled_from(["take", "take", "take", "pause", "drop"]),
    st.integers(1, 4),
    st.sampled_from([1, 2, 1, 2, 0, 31]),
)


@given(st.lists(steps, min_size=5, max_size=40))
def test_the_pulse_equals_a_recount_from_scratch(steps: list[tuple[int, str, int, int]]) -> None:
    cadence, services = CadenceIndex(), many(3, 1_000)
    quiet: dict[int, int] = {}
    for n, step, last_beat, rhythm in steps:
        it = services[n]
        it.last_beat, it.rhythm, it.paused = last_beat * SECOND, rhythm * SECOND, step == "pause"
        if step == "drop":
            cadence.remove(it)
        else:
            cadence.update(it)
        quiet[n] = last_beat + 2 * rhythm if step == "take" and rhythm in (1, 2) else 0
        assert cadence.counts == Counter(second for second in quiet.values() if second)


# --- for every history

moments = st.integers(1, 1200)
signals = st.sampled_from([Signal.SUCCESS, Signal.SUCCESS, Signal.START, Signal.FAIL])
beats = st.tuples(moments, signals).map(lambda drawn: Beat(*drawn))
beat_lists = st.lists(beats, max_size=12, unique_by=lambda beat: beat.at)
tick_lists = st.lists(moments, max_size=40)
END = 1300


def merged(beats: Sequence[Beat], tick_moments: Iterable[int]) -> list[Fact]:
    """All facts in the order they are stored; nothing was ever missed, and the last is a tick."""
    facts: list[Fact] = [*beats, *(Tick(at) for at in set(tick_moments) - {beat.at for beat in beats})]
    return [Tick(0), *sorted(facts, key=lambda fact: fact.at), Tick(END)]


def with_outages(facts: list[Fact], openings: Iterable[int]) -> list[Fact]:
    """The same, but the registry opened anew at these moments, and heard nothing since the tick before."""
    openings = sorted(openings)
    return [
        fact
        if isinstance(fact, Beat)
        else Tick(fact.at, max((at for at in openings if at <= fact.at), default=0))
        for fact in facts
    ]


@given(beat_lists, tick_lists, tick_lists)
@example([Beat(1), Beat(17)], [5, 16], [])
def test_ticks_decide_when_we_notice_never_what_happened(
    beats: list[Beat], some: list[int], others: list[int]
) -> None:
    assert history(*merged(beats, some)) == history(*merged(beats, others))


stories = st.builds(with_outages, st.builds(merged, beat_lists, tick_lists), st.lists(moments, max_size=4))


@given(stories)
def test_everything_delivered_twice_gives_the_same_history(facts: list[Fact]) -> None:
    assert history(*[fact for fact in facts for _ in range(2)]) == history(*facts)


@given(stories, st.data())
def test_a_crash_at_any_point_gives_the_same_history(facts: list[Fact], data: st.DataObject) -> None:
    """The snapshot is from a tick before; what was recorded since is taken over, then all is read again."""
    saved_after = data.draw(
        st.integers(0, len(facts)).filter(lambda i: i == 0 or isinstance(facts[i - 1], Tick))
    )
    crash = data.draw(st.integers(saved_after, len(facts)))
    undisturbed = Watcher().take(facts)

    snapshot = Watcher().take(facts[:saved_after])
    recorded = Watcher().take(facts[:crash]).history
    for torn in {len(recorded), max(len(snapshot.history), len(recorded) - 1)}:
        again = copy.deepcopy(snapshot)
        for change in recorded[len(snapshot.history) : torn]:
            adopt(again, change)
        again.take(facts[saved_after:])
        assert again.short == undisturbed.short


def adopt(watcher: Watcher, change: StatusTransition) -> None:
    """Take over a recorded change, as the monitor does with the events of another one."""
    watcher.history.append(change)
    apply_transition(watcher.it, change)


@given(stories)
def test_each_change_starts_where_the_one_before_ended(facts: list[Fact]) -> None:
    status, since = UNKNOWN, 0
    for change in Watcher().take(facts).history:
        assert change.from_ is status
        assert change.to is not status
        assert change.since >= since
        status, since = change.to, change.since


@given(stories)
def test_no_fall_is_dated_in_unobserved_time(facts: list[Fact]) -> None:
    watcher = Watcher().take(facts)
    for change in watcher.history:
        if change.to not in (ALIVE,) and not change.reason.startswith("reported failure"):
            assert not any(start < change.since < end for start, end in watcher.coverage.gaps)


@given(stories, st.data())
def test_an_outage_never_brings_a_fall_forward(facts: list[Fact], data: st.DataObject) -> None:
    opening = data.draw(moments)
    for to in (SILENT, DOWN, DEAD):
        without = [since for status, since in history(*facts) if status is to][:1]
        with_one = [since for status, since in history(*with_outages(facts, [opening])) if status is to][:1]
        if not any(isinstance(fact, Tick) and fact.open_since for fact in facts) and with_one:
            assert without
            assert without[0] <= with_one[0]


@pytest.mark.parametrize("signal", [Signal.SUCCESS, Signal.START])
def test_any_sign_of_life_counts(signal: Signal) -> None:
    assert history(Beat(5, signal)) == [(ALIVE, 5)]
    assert history(Tick(1), Beat(5), Tick(21), Beat(22, signal))[-1] == (ALIVE, 22)


def test_a_log_is_no_sign_of_life() -> None:
    it = MonitoredService("web", 0, PATIENCE)
    assert list(decide(it, Beat(5, Signal.LOG), Coverage())) == []


def test_a_start_lifts_nothing_from_down_and_dead() -> None:
    assert history(Beat(5, Signal.FAIL), Beat(7, Signal.START), Beat(9, Signal.FAIL)) == [(DOWN, 5)]
    watcher = Watcher().take([Tick(1), Beat(5), Tick(400), Beat(401, Signal.START), Tick(5000)])
    assert watcher.short[-1] == (DEAD, 305), "nor is it evaluated again"
    (*_, back) = watcher.take([Beat(5001)]).history
    assert (back.from_, back.to, back.since, back.duration) == (DEAD, ALIVE, 5001, 4600)


def test_a_run_that_hangs_after_a_failure_is_dead_by_its_start() -> None:
    facts = [Tick(1), Beat(5, Signal.FAIL), Beat(100, Signal.START), Tick(1000)]
    assert history(*facts) == [(DOWN, 5), (DEAD, 400)]


def test_a_start_after_both_deadlines_lifts_nothing() -> None:
    """They were missed before it, though nobody had looked."""
    assert history(Tick(1), Beat(5), Beat(70, Signal.START), Tick(71))[1:] == [(SILENT, 20), (DOWN, 65)]


# --- changes of thresholds, whatever came before

patiences = st.lists(st.integers(1, 400), min_size=3, max_size=3, unique=True).map(
    lambda found: EffectiveThresholds(*sorted(found))
)


def promised(heard: int, changes: list[tuple[int, EffectiveThresholds]], rung: int) -> int:
    """When a fall is due, reckoned from the thresholds in the order in which they held."""
    at = heard + changes[0][1][rung]
    for since, patience in changes[1:]:
        at = max(heard + patience[rung], min(at, since + patience[rung]))
    return at


@given(st.integers(1, 50), patiences, st.lists(st.tuples(st.integers(1, 100), patiences), max_size=6))
def test_no_change_of_thresholds_makes_anything_fall_for_the_past(
    heard: int, first: EffectiveThresholds, steps: list[tuple[int, EffectiveThresholds]]
) -> None:
    watcher, at = Watcher(first).take([Tick(0), Beat(heard)]), heard
    changes = [(heard, first)]
    for wait, patience in steps:
        at += wait
        watcher.take([Tick(at - 1)]) if at - 1 > heard else None
        fallen = len(watcher.history)
        watcher.change(patience, at)
        changes.append((at, patience))
        watcher.take([Tick(at)])
        due = [promised(heard, changes[:-1], rung) for rung in range(3)]
        assert all(due[change.to.badness - 2] <= at for change in watcher.history[fallen:])
    watcher.take([Tick(5000)])
    for change in watcher.history[1:]:
        rung = change.to.badness - 2
        known = [(since, patience) for since, patience in changes if since <= change.since]
        assert change.since >= min(promised(heard, changes[: n + 1], rung) for n in range(len(changes)))
        assert change.since >= heard + min(patience[rung] for _, patience in known)
    assert [change.to for change in watcher.history] == [ALIVE, SILENT, DOWN, DEAD]
    latest = max(max(since, heard) + max(patience) for since, patience in changes)
    assert watcher.history[-1].since <= latest


@given(st.integers(1, 50), patiences, st.integers(1, 600), patiences)
def test_one_change_of_thresholds_is_dated_exactly_as_promised(
    heard: int, first: EffectiveThresholds, at: int, second: EffectiveThresholds
) -> None:
    """No tick in between: then all falls come by the thresholds that hold in the end."""
    at += heard
    watcher = Watcher(first).take([Tick(0), Beat(heard)]).change(second, at).take([Tick(5000)])
    changes = [(heard, first), (at, second)]
    assert watcher.short[1:] == [
        (status, promised(heard, changes, rung)) for rung, status in enumerate((SILENT, DOWN, DEAD))
    ]
