"""Incidents: which one a service has, who has it in hand, and whether the service is muted. Pure.

Folded from the events of SERVICES in the order of the stream; one that comes twice changes nothing. An
incident begins with the change by which a service leaves alive or unknown downwards, whose id is its id, and
ends with the change to alive. What was acknowledged, or muted until it is alive, names its incident, so it
never holds for a later one. Times are microseconds since 1970 UTC.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from shared.contracts.events import (
    Acknowledgement,
    Event,
    IncidentData,
    IncidentEvent,
    Mute,
    ServiceDeleted,
    Status,
    StatusChanged,
    Told,
    micros,
)
from shared.domain.service_state import belongs_to_this_life


class Incident(NamedTuple):
    id: str
    began_at: int


@dataclass(slots=True)
class IncidentState:
    """What the events say of one service. A sequence of 0: there was no such event yet."""

    config_seq: int = 0
    exists: bool = False
    registered_at: int = 0
    """Of a deleted service, when it was deleted. What is from before belongs to an earlier service."""

    status_seq: int = 0
    changed_at: int = -1
    changed_from: Status = Status.UNKNOWN
    begun: Incident | None = None
    """The incident that the newest change left open, of whichever life."""

    incident_seq: int = 0
    acted_at: int = -1
    """When the newest event about incidents was stored."""
    last_acknowledgement: Acknowledgement | None = None
    last_mute: Mute | None = None

    @property
    def incident(self) -> Incident | None:
        """The current one."""
        if self.exists and belongs_to_this_life(self.changed_at, self.registered_at, self.changed_from):
            return self.begun
        return None

    @property
    def acknowledged(self) -> Acknowledgement | None:
        """Who has the current incident in hand."""
        known, incident = self.last_acknowledgement, self.incident
        return known if known and incident and known.incident == incident.id else None

    def muted(self, now: int) -> Mute | None:
        """The mute that holds at `now`."""
        known = self.last_mute
        if not (known and self.exists and belongs_to_this_life(self.acted_at, self.registered_at)):
            return None
        if known.until is not None:
            return known if now < micros(known.until) else None
        return known if self.incident and self.incident.id == known.incident else None


def apply(state: IncidentState, event: Event | IncidentEvent, seq: int, stored_at: int) -> IncidentState:
    """The same state, after the event that stands in the stream at `seq`, if that is news."""
    if isinstance(event, StatusChanged):
        if seq > state.status_seq:
            _change(state, event, seq)
    elif isinstance(event, IncidentEvent):
        if seq > state.incident_seq:
            state.incident_seq, state.acted_at = seq, stored_at
            state.last_acknowledgement, state.last_mute = event.data.acknowledged, event.data.muted
    elif seq > state.config_seq:
        state.config_seq, state.exists = seq, not isinstance(event, ServiceDeleted)
        began = None if isinstance(event, ServiceDeleted) else event.data.registered_at
        state.registered_at = micros(began) if began else stored_at
    return state


def _change(state: IncidentState, event: StatusChanged, seq: int) -> None:
    """One that goes on from a fall whose event the broker has let go of begins the incident itself."""
    data = event.data
    state.status_seq, state.changed_at, state.changed_from = seq, micros(data.since), data.from_
    if data.to.badness <= Status.ALIVE.badness:
        state.begun = None
    elif state.begun is None or data.from_.badness <= Status.ALIVE.badness:
        state.begun = Incident(event.id, micros(data.since))


# --- what somebody may do: the content of the event to append; None: it is so already


class NoIncident(Exception):
    """There is none to do this with."""


class Taken(Exception):
    """Somebody else has the incident in hand."""

    def __init__(self, by: str) -> None:
        super().__init__(f"{by} has it in hand")
        self.by = by


def acknowledge(state: IncidentState, now: datetime, by: str, note: str | None = None) -> IncidentData | None:
    """Who has it in hand may change the note. Raises NoIncident, Taken."""
    if (incident := state.incident) is None:
        raise NoIncident
    if known := state.acknowledged:
        if known.by != by:
            raise Taken(known.by)
        if note in (None, known.note):
            return None
    given = Acknowledgement(incident=incident.id, by=by, at=now, note=note)
    return _carried(state, now, acknowledged=given)


def release(state: IncidentState, now: datetime) -> IncidentData | None:
    """Whoever asks: who has it in hand may be asleep. Raises NoIncident."""
    if state.incident is None:
        raise NoIncident
    return _carried(state, now, acknowledged=None) if state.acknowledged else None


def mute(state: IncidentState, now: datetime, by: str, until: datetime | None) -> IncidentData:
    """In place of what was muted before. `until`: None is until it is alive, and raises NoIncident where it
    is."""
    if until is not None:
        return _carried(state, now, muted=Mute(until=until, by=by, at=now))
    if (incident := state.incident) is None:
        raise NoIncident
    return _carried(state, now, muted=Mute(until_alive=True, incident=incident.id, by=by, at=now))


def unmute(state: IncidentState, now: datetime) -> IncidentData | None:
    return _carried(state, now, muted=None) if state.muted(micros(now)) else None


def note(state: IncidentState, now: datetime, text: str, incident: str) -> IncidentData:
    """`incident`: which one it is about, also one that is over."""
    return _carried(state, now, incident=incident, note=text)


def told(state: IncidentState, now: datetime, told: Told, incident: str | None) -> IncidentData:
    """`incident`: the current one, or that which the message said is over; None: the service is new."""
    return _carried(state, now, incident=incident, told=told)


def _carried(state: IncidentState, now: datetime, **changed: Any) -> IncidentData:
    """All that holds after it."""
    incident = state.incident.id if state.incident else None
    holds = {"acknowledged": state.acknowledged, "muted": state.muted(micros(now))}
    return IncidentData(**{"incident": incident, **holds, **changed})
