"""One state of a service: whoever folds the same events comes to the same, in whatever order they come."""

import random
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.api.projections.documents import dump, load
from services.api.queries.index import ServiceIndex
from services.monitor.store.mapping import config_change, to_transition
from services.notifier.states import ServiceStates
from shared.contracts.events import Event, Status, StatusChanged, moment
from shared.domain.service_state import ServiceState, apply, belongs_to_this_life, is_news, merge
from tests.histories import deleted, histories, projected, status_event

History = list[tuple[Event, int, int]]


def folded(history: History) -> dict[str, ServiceState]:
    states: dict[str, ServiceState] = {}
    for event, seq, at in history:
        states[event.name] = apply(states.get(event.name, ServiceState(event.name)), event, seq, at)
    return states


@given(histories(), st.randoms(use_true_random=False))
def test_events_may_come_twice_and_in_any_order(history: History, chance: random.Random) -> None:
    again = history * 2
    chance.shuffle(again)
    assert known_in_any_order(folded(again)) == known_in_any_order(folded(history))


def known_in_any_order(states: dict[str, ServiceState]) -> dict[str, ServiceState]:
    """Which change began an incident is known to whoever reads the changes in theirs."""
    return {name: replace(state, begun=None) for name, state in states.items()}


@given(histories())
def test_a_state_is_what_its_document_says_and_the_reverse(history: History) -> None:
    for state in folded(history).values():
        assert load(dump(state)) == state


@given(histories(), st.integers(0, 25))
def test_of_two_states_the_newer_parts_count(history: History, cut: int) -> None:
    whole, before, after = folded(history), folded(history[:cut]), folded(history[cut:])
    for name, state in whole.items():
        parts = [part for part in (before.get(name), after.get(name)) if part]
        merged = merge(replace(parts[0]), parts[-1]), merge(replace(parts[-1]), parts[0])
        for each in (*merged, state):
            each.begun = None  # who reads only some of the changes may have to guess it
        assert merged == (state, state)


def seen(state: ServiceState) -> dict[str, Any]:
    return {
        "exists": state.exists,
        "status": state.status,
        "since": state.since,
        "last_heartbeat": state.last_heartbeat,
        "paused": state.paused,
        "tags": state.tags,
        "configuration": state.configuration,
        "reason": state.reason,
    }


@given(histories())
def test_index_documents_and_notifier_see_the_same(history: History) -> None:
    index, states, documents = ServiceIndex(), ServiceStates(), dict[str, Any]()
    for event, seq, at in history:
        index.apply(projected(event, seq, at))
        states.apply(event, seq, moment(at))
        document = documents.get(event.name, {"_id": event.name})
        documents[event.name] = document | dump(projected(event, seq, at).applied_to(None))
    for name, state in folded(history).items():
        assert seen(states.get(name)) == seen(state)
        assert seen(load(documents[name])) == seen(state)
        assert (index.get(name) is not None) is state.exists
        if found := index.get(name):
            assert seen(found) == seen(state)
    assert {state.name for state in states.services()} == {state.name for state in index}
    assert states.paused == {state.name for state in folded(history).values() if state.paused}


@given(histories())
def test_the_monitor_keeps_to_the_same_rule(history: History) -> None:
    """Its compact rows are made of the same events: what exists, since when, paused or not."""
    for name, state in folded(history).items():
        configs = [it for it in history if it[0].name == name and not isinstance(it[0], StatusChanged)]
        if not configs:
            continue
        newest_config = config_change(*configs[-1])  # type: ignore[arg-type]
        assert newest_config.deletes is not state.exists
        if state.exists:
            assert newest_config.registered_at == state.registered_at
            assert newest_config.paused is state.paused
            assert (newest_config.every or None) == state.every


def test_what_was_before_the_registration_belongs_to_an_earlier_service() -> None:
    assert belongs_to_this_life(6, 5)
    assert belongs_to_this_life(5, 5)
    assert belongs_to_this_life(5, 5, Status.UNKNOWN)
    assert not belongs_to_this_life(5, 5, Status.ALIVE), "a fall of the one before, due at that very moment"
    assert not belongs_to_this_life(4, 5)


def test_a_deletion_leaves_nothing_but_itself() -> None:
    state = ServiceState("a", 3, True, 5, paused=True, tags=("x",), notify=False)
    assert not is_news(state, deleted("a", 9), 2)
    assert apply(replace(state), deleted("a", 9), 2, 9) == state, "an older event changes nothing"
    assert apply(state, deleted("a", 9), 4, 9) == ServiceState("a", 4, registered_at=9)


def test_a_recorded_change_is_the_same_for_monitor_and_state() -> None:
    event = status_event("a", Status.ALIVE, Status.DOWN, 9, 7)
    change, state = to_transition(event), apply(ServiceState("a"), event, 1, 10)
    assert (change.to, change.since, change.last_beat) == (state.status, state.since, state.last_heartbeat)
