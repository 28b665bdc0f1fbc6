"""Incidents: which one a service has, who has it in hand, and whether the service is muted. Pure.

Folded from the events of SERVICES in the order of the stream; one that comes twice changes nothing. An
incident begins with the change by which a service leaves alive or unknown downwards, whose id is its id, and
ends with the change to alive. What was acknowledged, or muted until it is alive, names its incident, so it
never holds for a later one. Times are microseconds since 1970 UTC.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

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
from shared.domain.service_state import Incident as Incident
from shared.domain.service_state import WithIncident, act, incident_after


@dataclass(slots=True)
class IncidentState(WithIncident):
    """What the events say of one service. A sequence of 0: there was no such event yet."""

    config_seq: int = 0
    exists: bool = False
    registered_at: int = 0
    """Of a deleted service, when it was deleted. What is from before belongs to an earlier service."""

    status_seq: int = 0
    changed_at: int = -1
    changed_from: Status = Status.UNKNOWN
    begun: Incident | None = None

    incident_seq: int = 0
    acted_at: int = -1
    last_acknowledgement: Acknowledgement | None = None
    last_mute: Mute | None = None


def apply(state: IncidentState, event: Event | IncidentEvent, seq: int, stored_at: int) -> IncidentState:
    """The same state, after the event that stands in the stream at `seq`, if that is news."""
    if isinstance(event, StatusChanged):
        if seq > state.status_seq:
            _change(state, event, seq)
    elif isinstance(event, IncidentEvent):
        act(state, event, seq, stored_at)
    elif seq > state.config_seq:
        state.config_seq, state.exists = seq, not isinstance(event, ServiceDeleted)
        began = None if isinstance(event, ServiceDeleted) else event.data.registered_at
        state.registered_at = micros(began) if began else stored_at
    return state


def _change(state: IncidentState, event: StatusChanged, seq: int) -> None:
    data = event.data
    state.status_seq, state.changed_at, state.changed_from = seq, micros(data.since), data.from_
    state.begun = incident_after(state.begun, event)


PERSON_MAX = 40


def person(actor: str) -> str:
    """`telegram:Ana (4711)` as people call her, in one line."""
    kind, _, name = actor.partition(":")
    if kind == "telegram" and name.endswith(")"):
        name = name.rpartition(" (")[0]
    name = " ".join((name or kind).split())
    return name if len(name) <= PERSON_MAX else name[: PERSON_MAX - 1] + "…"


# --- what somebody may do: the content of the event to append; None: it is so already


class NoIncident(Exception):
    """There is none to do this with."""


class Taken(Exception):
    """Somebody else has the incident in hand."""

    def __init__(self, by: str) -> None:
        super().__init__(f"{by} has it in hand")
        self.by = by


def acknowledge(state: WithIncident, now: datetime, by: str, note: str | None = None) -> IncidentData | None:
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


def release(state: WithIncident, now: datetime) -> IncidentData | None:
    """Whoever asks: who has it in hand may be asleep. Raises NoIncident."""
    if state.incident is None:
        raise NoIncident
    return _carried(state, now, acknowledged=None) if state.acknowledged else None


def mute(state: WithIncident, now: datetime, by: str, until: datetime | None) -> IncidentData:
    """In place of what was muted before. `until`: None is until it is alive, and raises NoIncident where it
    is."""
    if until is not None:
        return _carried(state, now, muted=Mute(until=until, by=by, at=now))
    if (incident := state.incident) is None:
        raise NoIncident
    return _carried(state, now, muted=Mute(until_alive=True, incident=incident.id, by=by, at=now))


def unmute(state: WithIncident, now: datetime) -> IncidentData | None:
    return _carried(state, now, muted=None) if state.muted(micros(now)) else None


def note(state: WithIncident, now: datetime, text: str, incident: str) -> IncidentData:
    """`incident`: which one it is about, also one that is over."""
    return _carried(state, now, incident=incident, note=text)


def told(state: WithIncident, now: datetime, told: Told, incident: str | None) -> IncidentData:
    """`incident`: the current one, or that which the message said is over; None: the service is new."""
    return _carried(state, now, incident=incident, told=told)


def _carried(state: WithIncident, now: datetime, **changed: Any) -> IncidentData:
    """All that holds after it."""
    incident = state.incident.id if state.incident else None
    holds = {
        "acknowledged": state.acknowledged or _of_unread(state, state.last_acknowledgement),
        "muted": state.muted(micros(now)) or _of_unread(state, state.last_mute),
    }
    return IncidentData(**{"incident": incident, **holds, **changed})


def _of_unread(state: WithIncident, known: Acknowledgement | Mute | None) -> Acknowledgement | Mute | None:
    """What holds for an incident that began after every change that is known here: whoever appends may have
    read the newest act before it reads the changes that stand in front of that."""
    return known if known and known.incident and micros(known.at) > state.changed_at else None
