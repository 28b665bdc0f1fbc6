"""The monitor's services in memory, and the configuration that is applied to them."""

from typing import cast

import pytest

from services.monitor.domain.buckets import BUCKETS, bucket_of
from services.monitor.domain.service import (
    ALIVE,
    SECOND,
    SILENT,
    UNKNOWN,
    EffectiveThresholds,
    MonitoredService,
    StatusTransition,
)
from services.monitor.evaluate import Evaluator
from services.monitor.record import Recorder
from services.monitor.state import MonitorState
from services.monitor.store.event_store import EventStore
from services.monitor.store.mapping import ConfigChange
from services.monitor.store.snapshots import Snapshots
from shared.messaging.reader import Stored

DEFAULT = EffectiveThresholds(10 * SECOND, 20 * SECOND, 30 * SECOND)


class Saved:
    """Stands in for the snapshots."""

    def __init__(self) -> None:
        self.configured = [0] * BUCKETS
        self.touched: list[tuple[int, int]] = []

    def touch(self, bucket: int, event: int) -> None:
        self.touched.append((bucket, event))


@pytest.fixture
def saved() -> Saved:
    return Saved()


@pytest.fixture
def state(saved: Saved) -> MonitorState:
    return MonitorState(cast(Snapshots, saved), DEFAULT)


def registered(seq: int, at: int, name: str = "web") -> ConfigChange:
    return ConfigChange(name, seq, at, deletes=False, registers=True, registered_at=at)


def deleted(seq: int, at: int, name: str = "web") -> ConfigChange:
    return ConfigChange(name, seq, at, deletes=True)


def alive(since: int) -> StatusTransition:
    return StatusTransition(UNKNOWN, ALIVE, since, since, "heartbeat")


def test_a_transition_is_counted_and_saved(state: MonitorState, saved: Saved) -> None:
    service = MonitoredService("web", 1, DEFAULT, bucket=7)
    state.add(service)
    service.status_seq = 5
    state.apply_transition(service, alive(2))
    assert (state.counts[UNKNOWN], state.counts[ALIVE]) == (0, 1)
    assert saved.touched == [(7, 5)], "or the snapshot would be taken to hold it"


def test_a_transition_from_before_the_registration_does_not_count(state: MonitorState) -> None:
    service = MonitoredService("web", 10, DEFAULT)
    state.add(service)
    state.apply_recorded(service, alive(9))
    state.apply_recorded(service, StatusTransition(ALIVE, SILENT, 10, 5, "no heartbeat"))
    assert service.status is UNKNOWN
    state.apply_recorded(service, alive(10))
    assert service.status is ALIVE


def test_configuration_waits_until_the_heartbeats_are_there(state: MonitorState) -> None:
    for change in (registered(1, 10), registered(2, 20, "shop")):
        state.enqueue(change)
    assert state.applied_until(2) == 0
    state.apply_until(20)
    assert state.services.keys() == {"web"}
    assert state.applied_until(2) == 1
    state.apply_until(21)
    assert state.services.keys() == {"web", "shop"}
    assert state.applied_until(2) == 2
    assert not state.upcoming_of


def test_what_a_bucket_holds_already_is_not_applied_again(state: MonitorState, saved: Saved) -> None:
    """Or a service would come back that is deleted in it."""
    saved.configured[bucket_of("web")] = 2
    state.enqueue(registered(1, 10))
    state.enqueue(deleted(2, 20))
    state.apply_until(30)
    assert not state.services
    assert not saved.touched
    state.enqueue(registered(3, 40))
    state.apply_until(50)
    assert state.services["web"].registered_at == 40


def test_events_from_after_a_deletion_are_those_of_the_next_service(state: MonitorState) -> None:
    for change in (registered(1, 10), deleted(2, 20), registered(3, 30)):
        state.enqueue(change)
    state.apply_until(11)
    service = state.services["web"]
    service.status_seq = 4  # read ahead of the heartbeats
    state.apply_recorded(service, alive(30))
    state.apply_until(21)
    assert not state.services
    assert state.counts == dict.fromkeys(state.counts, 0)
    state.apply_until(31)
    assert state.services["web"] is not service
    assert state.services["web"].status is ALIVE
    assert state.services["web"].status_seq == 4


@pytest.mark.parametrize(("pending", "gaps"), [(0, [(20, 50)]), (99, [])])
async def test_ticks_prove_nothing_of_the_time_of_messages_that_were_removed(
    state: MonitorState, pending: int, gaps: list[tuple[int, int]]
) -> None:
    """Unless the broker removed them, as there were more than it keeps: then each service is asked
    for."""
    evaluator = Evaluator(cast(EventStore, None), state, cast(Recorder, None), kept=100)
    state.prove(0, 20)
    evaluator.note_hole(Stored("heartbeat.web", b"", None, 9, 50, pending))
    await evaluator.evaluate_tick(5, 60, Stored("tick.a", b"", None, 10, 60, pending))
    assert (state.coverage.until, state.coverage.gaps) == (60, gaps)
