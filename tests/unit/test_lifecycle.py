"""The lifecycle, given / when / then, and the properties that hold for every history."""

import copy
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.monitor.lifecycle import (
    Beat,
    Change,
    Coverage,
    Patience,
    Watched,
    decidable,
    decide,
    evolve,
    hear,
    next_due,
)
from shared.events import Signal, Status

UNKNOWN, ALIVE, SILENT, DOWN, DEAD = Status
PATIENCE = Patience(silent=15, down=60, dead=300)


class Tick(NamedTuple):
    at: int
    open_since: int = 0


Fact = Beat | Tick


class Watcher:
    """The monitor's shell around one service, without a broker: `history` is what would be recorded."""

    def __init__(self) -> None:
        self.it = Watched("web", registered_at=0, patience=PATIENCE)
        self.coverage = Coverage()
        self.history: list[Change] = []

    def take(self, facts: Iterable[Fact]) -> "Watcher":
        for fact in facts:
            if isinstance(fact, Tick):
                self.coverage.prove(fact.open_since, fact.at)
                held, self.it.held = self.it.held, ()
                for beat in held:
                    self._beat(beat)
                self._record(decide(self.it, fact.at, self.coverage))
            elif fact.at <= self.it.last_beat:
                continue
            elif self.it.held or not decidable(self.it, fact, self.coverage):
                if fact not in self.it.held:
                    self.it.held += (fact,)
            else:
                self._beat(fact)
        return self

    def _beat(self, beat: Beat) -> None:
        self._record(decide(self.it, beat, self.coverage))
        hear(self.it, beat.at, beat.signal)

    def _record(self, changes: Iterable[Change]) -> None:
        for change in list(changes):
            self.history.append(change)
            evolve(self.it, change)

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


def test_any_heartbeat_revives() -> None:
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


def test_a_paused_service_is_not_judged_and_starts_afresh() -> None:
    watcher = Watcher().take([Tick(1), Beat(5), Tick(6)])
    watcher.it.paused = True
    assert watcher.take([Tick(1000)]).short == [(ALIVE, 5)]
    watcher.it.paused, watcher.it.resumed_at = False, 1001
    assert watcher.take([Tick(2000)]).short == [(ALIVE, 5)], "not judged before its first beat"
    assert watcher.take([Beat(2001), Tick(2016)]).short == [(ALIVE, 5), (SILENT, 2016)]


def test_beats_that_the_broker_let_go_raise_no_alarm() -> None:
    assert history(Tick(1), Beat(5), Beat(5000, after_hole=True), Tick(5001)) == [(ALIVE, 5)]


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


def adopt(watcher: Watcher, change: Change) -> None:
    """Take over a recorded change, as the monitor does with the events of another one."""
    watcher.history.append(change)
    evolve(watcher.it, change)


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
