"""The state of every service now, folded from events: for the digest, and for who is not to be alerted."""

from collections.abc import Callable, Iterator
from datetime import datetime

from shared.contracts.events import Event, Status, StatusChanged, StatusData, micros, moment
from shared.domain.service_state import ServiceState, apply, is_news


class ServiceStates:
    """Takes events in any order, also twice. `paused`: the services that are. `problems`: what made services
    silent, down or dead, of those that are. `on_config` is called with the name of a newer configuration."""

    def __init__(self) -> None:
        self._by_name: dict[str, ServiceState] = {}
        self.paused: set[str] = set()
        self.problems: dict[str, StatusData] = {}
        self.on_config: Callable[[str], None] = lambda _: None

    def apply(self, event: Event, seq: int, stored_at: datetime) -> None:
        name, state = event.name, self.get(event.name)
        if not is_news(state, event, seq):
            return
        self._by_name[name] = apply(state, event, seq, micros(stored_at))
        if isinstance(event, StatusChanged):
            self.problems.pop(name, None)
            if state.changed_to.badness > Status.ALIVE.badness:
                self.problems[name] = event.data
        else:
            (self.paused.add if state.paused else self.paused.discard)(name)
            self.on_config(name)

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

    def services(self) -> Iterator[ServiceState]:
        """Those that exist."""
        return (state for state in self._by_name.values() if state.exists)
