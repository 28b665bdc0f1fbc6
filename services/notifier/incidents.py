"""Incidents as the notifier follows them: who has which in hand, what is muted, and which just ended."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import NamedTuple

from shared.contracts.events import (
    Acknowledgement,
    Event,
    IncidentEvent,
    Mute,
    ServiceDeleted,
    Status,
    StatusChanged,
    micros,
)
from shared.domain import incidents
from shared.domain.incidents import Incident, IncidentState
from shared.domain.service_state import ServiceState

MAX_IDLE = 10_000
"""Services that are well again, and whose incident is still known."""


class Ended(NamedTuple):
    """An incident that is over. `by`: who had it in hand. `deleted`: so was its service."""

    incident: Incident
    at: datetime
    by: str | None = None
    deleted: bool = False


class Incidents:
    """What `shared.domain.incidents` folds, of those services alone of which there is something to know: that
    are worse than alive, or muted. `state_of`: what else is known of a service."""

    def __init__(self, state_of: Callable[[str], ServiceState]) -> None:
        self._state_of = state_of
        self._by_name: dict[str, IncidentState] = {}
        self._idle: dict[str, None] = {}
        """Those that are kept for a while only, the oldest first."""
        self.ended: dict[str, Ended] = {}
        """By service its newest incident that ended, of those in `_idle` and of those that fell again. Not
        one whose end was read later than what people have done since: only the record knows who had it."""
        self.through = 0
        """The sequence of the newest event of people that was read in its turn."""

    # --- what is known

    def state(self, name: str) -> IncidentState:
        """What is kept of a service; or, where that is nothing, a new one."""
        if found := self._by_name.get(name):
            return found
        known = self._state_of(name)
        return IncidentState(
            known.config_seq,
            known.exists,
            known.registered_at,
            known.status_seq,
            known.changed_at,
            known.changed_from,
        )

    def acknowledged(self, name: str) -> Acknowledgement | None:
        found = self._by_name.get(name)
        return found.acknowledged if found else None

    def muted(self, name: str, now: datetime) -> Mute | None:
        found = self._by_name.get(name)
        return found.muted(micros(now)) if found and found.last_mute else None

    def all_muted(self, now: datetime) -> Iterator[tuple[str, Mute]]:
        return (
            (name, mute)
            for name, it in list(self._by_name.items())
            if it.last_mute and (mute := it.muted(micros(now)))
        )

    def at(self, name: str, since: int) -> Incident | None:
        """Which one a change was of that was due then and left the service worse than alive; None: only the
        record knows."""
        found, ended = self._by_name.get(name), self.ended.get(name)
        current = found.incident if found else None
        if current and current.began_at <= since:
            return current
        over = ended and ended.incident.began_at <= since <= micros(ended.at)
        return ended.incident if ended and over else None

    def is_unresolved(self, name: str) -> bool:
        """Whether it has an incident of which is not known when it began: only the record knows."""
        found = self._by_name.get(name)
        return found is not None and found.begun is None and self._is_worse(name)

    def unresolved(self) -> list[str]:
        """Of those somebody has in hand, or has muted until they are alive."""
        return [
            name
            for name, it in self._by_name.items()
            if (it.last_acknowledgement or (it.last_mute and it.last_mute.until_alive))
            and self.is_unresolved(name)
        ]

    def resolve(self, name: str, incident: Incident) -> None:
        """The incident that a service has began so."""
        if self.is_unresolved(name):
            self._by_name[name].begun = incident

    def _is_worse(self, name: str) -> bool:
        state = self._state_of(name)
        return state.exists and state.status.badness > Status.ALIVE.badness

    # --- what happens

    def apply(self, event: Event, seq: int, stored_at: datetime) -> None:
        """Before `ServiceState` knows of it. `settle` afterwards."""
        name = event.name
        is_fall = isinstance(event, StatusChanged) and event.data.to.badness > Status.ALIVE.badness
        if name not in self._by_name and not is_fall:
            return
        state = self.state(name)
        before, was_known = state.incident, state.begun is not None
        by = it.by if (it := state.acknowledged) else None
        self._by_name[name] = incidents.apply(state, event, seq, micros(stored_at))
        if is_fall and isinstance(event, StatusChanged):
            if event.data.from_.badness > Status.ALIVE.badness and not was_known:
                state.begun = None
        elif before and state.incident is None and seq > state.incident_seq:
            at = event.data.since if isinstance(event, StatusChanged) else stored_at
            self.ended[name] = Ended(before, at, by, isinstance(event, ServiceDeleted))

    def apply_incident(self, event: IncidentEvent, seq: int, stored_at: datetime, in_turn: bool) -> bool:
        """Whether that was news. `in_turn`: it was read in the order of the record, not written here."""
        if in_turn:
            if seq <= self.through:
                return False
            self.through = seq
        name, data = event.name, event.data
        if name not in self._by_name and not (data.acknowledged or data.muted or self._is_worse(name)):
            return True
        state = self.state(name)
        is_news = seq > state.incident_seq
        self._by_name[name] = incidents.apply(state, event, seq, micros(stored_at))
        self.settle(name)
        return is_news

    def settle(self, name: str) -> None:
        """Let go of what says nothing any more, though not at once: messages about it are still to come."""
        state = self._by_name.get(name)
        if state is None:
            return
        mute = state.last_mute
        if self._is_worse(name) or (mute and mute.until and state.exists):
            self._idle.pop(name, None)
            return
        self._idle.setdefault(name)
        while len(self._idle) > MAX_IDLE:
            oldest = next(iter(self._idle))
            del self._idle[oldest], self._by_name[oldest]
            self.ended.pop(oldest, None)
