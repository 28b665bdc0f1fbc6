"""Which incident a service has, who has it in hand, and whether it is muted, as its events say."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.events import (
    Acknowledgement,
    ConfigData,
    Event,
    IncidentData,
    IncidentEvent,
    Mute,
    ServiceAcknowledged,
    ServiceDeleted,
    ServiceMuted,
    ServiceNoted,
    ServiceRegistered,
    ServiceReleased,
    ServiceTold,
    ServiceUnmuted,
    ServiceUpdated,
    Status,
    StatusChanged,
    StatusData,
    moment,
    status_changed,
)
from shared.contracts.events import Told as Message
from shared.domain import incidents
from shared.domain.incidents import Incident, IncidentState, NoIncident, Taken, apply
from tests.histories import config_event, deleted

UNKNOWN, ALIVE, SILENT, DOWN, DEAD = Status
BORN = 1_000_000
Stored = tuple[Event | IncidentEvent, int, int]


class Told:
    """The record of one service, and beside it what should hold, told in the simplest words."""

    def __init__(self) -> None:
        self.events: list[Stored] = []
        self.at = BORN
        self.status = UNKNOWN
        self.state = IncidentState()
        self.exists = False
        self.incident: Incident | None = None
        self.acknowledged_by: str | None = None
        self.muted: Mute | None = None

    def put(self, event: Event | IncidentEvent) -> None:
        self.events.append((event, len(self.events) + 1, self.at))
        apply(self.state, *self.events[-1])

    def register(self) -> None:
        self.at += 10
        kind = ServiceUpdated if self.exists else ServiceRegistered
        if not self.exists:
            self.born, self.status, self.exists = self.at, UNKNOWN, True
        self.put(config_event(kind, "web", self.at, self.born))

    def delete(self) -> None:
        self.at += 10
        self.put(deleted("web", self.at))
        self.exists, self.incident, self.acknowledged_by, self.muted = False, None, None, None

    def change(self, to: Status) -> StatusChanged | None:
        if not self.exists or to is self.status or to is UNKNOWN:
            return None
        self.at += 10
        since = moment(self.at - 3)
        data = StatusData(from_=self.status, to=to, since=since, last_heartbeat=None, reason="x")
        event = status_changed("web", data)
        if to is ALIVE:
            if self.muted and self.muted.until_alive:
                self.muted = None
            self.incident = self.acknowledged_by = None
        elif self.status in (UNKNOWN, ALIVE):
            self.incident = Incident(event.id, self.at - 3)
        self.status = to
        self.put(event)
        return event

    def act(self, kind: type[Any], **data: Any) -> None:
        """With what holds carried on, as whoever writes sees it."""
        self.at += 10
        carried = {"acknowledged": self.state.acknowledged, "muted": self.state.muted(self.at)}
        about = self.incident.id if self.incident else None
        content = IncidentData(**{"incident": about, **carried, **data})
        self.put(kind(id=str(self.at), source="/api", subject="web", time=moment(self.at), data=content))

    def acknowledge(self, by: str) -> None:
        if self.incident:
            given = Acknowledgement(incident=self.incident.id, by=by, at=moment(self.at))
            self.act(ServiceAcknowledged, acknowledged=given)
            self.acknowledged_by = by

    def release(self) -> None:
        if self.incident:
            self.act(ServiceReleased, acknowledged=None)
            self.acknowledged_by = None

    def mute(self, length: int | None) -> None:
        """`length`: microseconds; None: until it is alive."""
        if not self.exists or (length is None and not self.incident):
            return
        until = None if length is None else moment(self.at + length)
        its = self.incident.id if length is None and self.incident else None
        mute = Mute(until=until, until_alive=length is None, incident=its, by="ana", at=moment(self.at))
        self.act(ServiceMuted, muted=mute)
        self.muted = mute

    def unmute(self) -> None:
        if self.exists:
            self.act(ServiceUnmuted, muted=None)
            self.muted = None

    def note(self) -> None:
        if self.incident:
            now = moment(self.at + 10)
            self.act(ServiceNoted, **dict(incidents.note(self.state, now, "seen", self.incident.id)))

    def tell(self) -> None:
        if self.exists:
            now, about = moment(self.at + 10), self.incident and self.incident.id
            told = Message(channel="ops", at=now, status=self.status, what="change")
            self.act(ServiceTold, **dict(incidents.told(self.state, now, told, about)))

    def check(self) -> None:
        muted = self.muted if self.exists else None
        if muted and muted.until and muted.until <= moment(self.at):
            muted = self.muted = None
        assert self.state.incident == self.incident
        known = self.state.acknowledged
        assert (known.by if known else None) == self.acknowledged_by
        assert self.state.muted(self.at) == muted


steps = st.lists(
    st.one_of(
        st.sampled_from(["register", "register", "delete", "release", "unmute", "note", "tell"]).map(
            lambda it: (it,)
        ),
        st.tuples(st.just("change"), st.sampled_from(Status)),
        st.tuples(st.just("change"), st.sampled_from(Status)),
        st.tuples(st.just("acknowledge"), st.sampled_from(["ana", "ben"])),
        st.tuples(st.just("mute"), st.sampled_from([None, 15, 35, 1_000_000])),
    ),
    max_size=40,
)


def told(given: list[tuple[Any, ...]]) -> Told:
    it = Told()
    it.register()
    for name, *arguments in given:
        getattr(it, name)(*arguments)
        it.check()
    return it


@given(steps)
def test_what_holds_follows_from_the_order_of_what_was_done(given: list[tuple[Any, ...]]) -> None:
    told(given)


@given(steps, st.integers(0, 40))
def test_events_that_come_again_change_nothing(given: list[tuple[Any, ...]], cut: int) -> None:
    it = told(given)
    again = IncidentState()
    for stored in [*it.events[:cut], *it.events]:
        apply(again, *stored)
    assert again == it.state


@given(steps)
def test_the_kinds_of_events_may_be_read_one_after_the_other(given: list[tuple[Any, ...]]) -> None:
    """As who reads one subject after the other does."""
    it = told(given)
    kinds: list[Any] = [IncidentEvent, StatusChanged]
    apart = IncidentState()
    for kind in kinds:
        for stored in it.events:
            if isinstance(stored[0], kind):
                apply(apart, *stored)
    for stored in it.events:
        if not isinstance(stored[0], StatusChanged | IncidentEvent):
            apply(apart, *stored)
    assert apart == it.state


def test_an_acknowledgement_holds_until_alive_and_never_for_the_next_incident() -> None:
    it = told([("change", ALIVE), ("change", DOWN), ("acknowledge", "ana"), ("change", DEAD)])
    first = it.state.incident
    assert first is not None
    assert it.state.acknowledged is not None, "it only went further down"
    assert it.state.acknowledged.by == "ana"
    it.change(ALIVE)
    assert (it.state.incident, it.state.acknowledged) == (None, None)
    it.change(SILENT)
    assert it.state.incident not in (None, first)
    assert it.state.acknowledged is None


def test_who_did_not_see_the_recovery_acknowledges_nothing_new() -> None:
    it = told([("change", ALIVE), ("change", DOWN)])
    assert it.incident
    late = Acknowledgement(incident=it.incident.id, by="ana", at=moment(it.at))
    it.change(ALIVE)
    it.change(DOWN)
    it.act(ServiceAcknowledged, acknowledged=late)
    it.check()
    assert it.state.acknowledged is None


def test_who_has_not_read_how_an_incident_began_leaves_it_in_hand_and_muted() -> None:
    it = told([("change", ALIVE), ("change", DOWN)])
    behind = replace(it.state)
    it.change(ALIVE)
    late = replace(it.state)
    it.change(DOWN)
    it.acknowledge("ana")
    it.mute(None)
    message = Message(channel="ops", at=moment(it.at), status=DOWN, what="change")
    for state in (behind, late):
        apply(state, *it.events[-1])
        data = incidents.told(state, moment(it.at), message, None)
        it.put(ServiceTold(id=str(it.at), source="/notifier", subject="web", time=moment(it.at), data=data))
        it.check()
        assert it.state.acknowledged is not None
        assert it.state.muted(it.at) is not None
    it.change(ALIVE)
    data = incidents.told(it.state, moment(it.at), message, None)
    assert (data.acknowledged, data.muted) == (None, None), "what is over is not carried on"


def test_a_mute_by_time_outlives_a_recovery_and_ends_in_time() -> None:
    it = told([("change", ALIVE), ("change", DOWN), ("mute", 1000), ("change", ALIVE), ("change", DOWN)])
    mute = it.state.muted(it.at)
    assert mute is not None
    began = it.at - 1000
    ends = next(at for at in range(began, it.at + 2000) if it.state.muted(at) is None)
    assert moment(ends) == mute.until


def test_a_service_that_is_registered_anew_begins_without() -> None:
    down = [("change", ALIVE), ("change", DOWN), ("acknowledge", "ana"), ("mute", 1_000_000)]
    it = told([*down, ("delete",), ("register",)])
    assert (it.state.incident, it.state.acknowledged, it.state.muted(it.at)) == (None, None, None)


def test_without_its_beginning_an_incident_begins_with_what_is_known() -> None:
    it = told([("change", ALIVE), ("change", SILENT), ("change", DOWN)])
    event, seq, at = it.events[-1]
    late = IncidentState(exists=True, registered_at=BORN, config_seq=1)
    assert apply(late, event, seq, at).incident == Incident(event.id, at - 3, True)


def test_a_deletion_whose_registration_is_gone_leaves_nothing() -> None:
    gone = apply(IncidentState(), ServiceDeleted(**_envelope()), 5, BORN)
    assert (gone.incident, gone.exists, gone.registered_at) == (None, False, BORN)
    data = ConfigData()
    assert apply(gone, ServiceRegistered(**_envelope(), data=data), 6, BORN + 5).registered_at == BORN + 5


def _envelope() -> dict[str, Any]:
    return {"id": "1", "source": "/t", "subject": "web", "time": moment(BORN)}


def test_of_two_who_acknowledge_the_second_is_told_who_has_it() -> None:
    it = told([("change", ALIVE), ("change", DOWN), ("mute", 1_000_000)])
    now = moment(it.at)
    data = incidents.acknowledge(it.state, now, "ana", "on it")
    assert data is not None
    assert (data.muted, data.incident) == (it.muted, it.incident and it.incident.id), "the mute is carried on"
    it.act(ServiceAcknowledged, **dict(data))
    with pytest.raises(Taken) as refused:
        incidents.acknowledge(it.state, now, "ben")
    assert refused.value.by == "ana"
    assert incidents.acknowledge(it.state, now, "ana") is None, "once is enough"
    again = incidents.acknowledge(it.state, now, "ana", "still on it")
    assert again is not None
    assert again.acknowledged is not None
    assert again.acknowledged.note == "still on it"
    released = incidents.release(it.state, now)
    assert released is not None
    it.act(ServiceReleased, **dict(released))
    assert incidents.release(it.state, now) is None
    assert incidents.acknowledge(it.state, now, "ben") is not None


@pytest.mark.parametrize("before", [[], [("change", ALIVE)], [("change", DOWN), ("delete",)]])
def test_without_an_incident_nothing_is_in_hand(before: list[tuple[Any, ...]]) -> None:
    it = told(before)
    now = moment(it.at)
    for attempt in (
        lambda: incidents.acknowledge(it.state, now, "ana"),
        lambda: incidents.release(it.state, now),
        lambda: incidents.mute(it.state, now, "ana", None),
    ):
        with pytest.raises(NoIncident):
            attempt()


def test_a_mute_takes_the_place_of_the_one_before_and_ends_once() -> None:
    it = told([("change", ALIVE), ("change", DOWN), ("acknowledge", "ana")])
    now = moment(it.at)
    for until in (moment(it.at + 1000), None):
        data = incidents.mute(it.state, now, "ben", until)
        assert data.acknowledged == it.state.acknowledged
        it.act(ServiceMuted, **dict(data))
        assert it.state.muted(it.at) == data.muted
    ended = incidents.unmute(it.state, now)
    assert ended is not None
    it.act(ServiceUnmuted, **dict(ended))
    assert it.state.muted(it.at) is None
    assert incidents.unmute(it.state, now) is None
