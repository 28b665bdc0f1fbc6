"""The state of every service now, folded from events: for the digest, and for who is not to be alerted."""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from services.notifier.incidents import Incidents
from shared.contracts.events import (
    Event,
    IncidentEvent,
    ServiceTold,
    Status,
    StatusChanged,
    StatusData,
    micros,
    moment,
)
from shared.contracts.maintenance import Window, in_maintenance
from shared.domain.digest import Beside
from shared.domain.service_state import ServiceState, apply, is_news


class ServiceStates:
    """Takes events in any order, also twice. `paused`: the services that are. `problems`: what made services
    silent, down or dead, of those that are."""

    def __init__(self) -> None:
        self._by_name: dict[str, ServiceState] = {}
        self.paused: set[str] = set()
        self.problems: dict[str, StatusData] = {}
        self.incidents = Incidents(self.get)
        self.on_config: Callable[[str], None] = lambda _: None
        """Called with the name of a newer configuration."""
        self.on_incident: Callable[[IncidentEvent, int], None] = lambda event, seq: None
        """Called with what somebody did about an incident, and its sequence; also twice."""
        self.on_standing: Callable[[str], None] = lambda _: None
        """Called with a service whose messages may have to say something else now."""
        self.watchers: list[Callable[[str], None]] = []
        """Called with the name of every service of which there is something newer."""

    def apply(self, event: Event, seq: int, stored_at: datetime) -> None:
        name, state = event.name, self.get(event.name)
        if not is_news(state, event, seq):
            return
        self.incidents.apply(event, seq, stored_at)
        self._by_name[name] = apply(state, event, seq, micros(stored_at))
        self.incidents.settle(name)
        if isinstance(event, StatusChanged):
            self.problems.pop(name, None)
            if state.changed_to.badness > Status.ALIVE.badness:
                self.problems[name] = event.data
        else:
            (self.paused.add if state.paused else self.paused.discard)(name)
        for watcher in self.watchers:
            watcher(name)
        if not isinstance(event, StatusChanged):
            self.on_config(name)
        if not isinstance(event, StatusChanged) or event.data.to is Status.ALIVE:
            self.on_standing(name)

    def apply_incident(self, event: IncidentEvent, seq: int, stored_at: datetime, in_turn: bool) -> None:
        """`in_turn`: it was read in the order of the record, not written here."""
        self.incidents.apply_incident(event, seq, stored_at, in_turn)
        if not isinstance(event, ServiceTold):  # nothing follows from it
            self.on_incident(event, seq)
            self.on_standing(event.name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def get(self, name: str) -> ServiceState:
        return self._by_name.get(name) or ServiceState(name)

    def is_silenced(self, name: str) -> bool:
        """Whether its configuration says that nobody is to be told."""
        state = self.get(name)
        return state.paused or not state.notify

    def since(self, name: str, status: Status, before: int) -> datetime | None:
        """When the status that a change at `before` left had begun; None if only the record knows."""
        state = self.get(name)
        if not 0 < state.status_seq < before or state.changed_to is not status:
            return None
        return moment(state.changed_at)

    def beside(self, windows: Iterable[Window], at: datetime) -> Beside:
        """What a digest says of services beside their status."""
        fallen = ((name, self.incidents.acknowledged(name)) for name in self.problems)
        return Beside(
            muted={name for name, _ in self.incidents.all_muted(at)},
            maintenance=in_maintenance(windows, ((it.name, it.tags) for it in self.services()), at),
            owners={name: known.by for name, known in fallen if known},
        )

    def services(self) -> Iterator[ServiceState]:
        """Those that exist."""
        return (state for state in self._by_name.values() if state.exists)
