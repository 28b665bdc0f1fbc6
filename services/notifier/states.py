"""What is known of every service now: folded from events, for the digest and for who is not to be told."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from shared.contracts.events import (
    Event,
    ServiceDeleted,
    ServiceRegistered,
    Status,
    StatusChanged,
    StatusData,
)
from shared.domain import digest

_BEFORE_ALL = datetime.min.replace(tzinfo=UTC)


@dataclass(slots=True)
class ServiceState:
    """What the newest events say of one service, whether it exists or not."""

    config_seq: int = 0
    status_seq: int = 0
    exists: bool = False
    notify: bool = True
    tags: tuple[str, ...] = ()
    paused: bool = False
    registered_at: datetime = _BEFORE_ALL
    status: Status = Status.UNKNOWN
    since: datetime = _BEFORE_ALL
    last_heartbeat: datetime | None = None
    fall: StatusData | None = None
    """The change that made it silent, down or dead; None while it is none of them."""

    @property
    def is_down(self) -> bool:
        """Or dead, in this life of it."""
        fallen = self.status in (Status.DOWN, Status.DEAD)
        return fallen and self.exists and self.since >= self.registered_at


class ServiceStates:
    """Takes events in any order, also twice: per service, the newest configuration and status count.
    `on_config` is told of whom it is, when a configuration is newer. `paused`: those that are."""

    def __init__(self) -> None:
        self._by_name: dict[str, ServiceState] = {}
        self.paused: set[str] = set()
        self.on_config: Callable[[str], None] = lambda _: None

    def apply(self, event: Event, seq: int, stored_at: datetime) -> None:
        it = self._by_name.setdefault(event.name, ServiceState())
        if isinstance(event, StatusChanged):
            if seq > it.status_seq:
                it.status_seq = seq
                it.status, it.since = event.data.to, event.data.since
                it.last_heartbeat = event.data.last_heartbeat
                it.fall = event.data if it.status.badness > Status.ALIVE.badness else None
        elif seq > it.config_seq:
            it.config_seq = seq
            it.exists = not isinstance(event, ServiceDeleted)
            if not isinstance(event, ServiceDeleted):
                it.notify, it.paused = event.data.config.notify, event.data.config.paused
                it.tags = event.data.config.tags
                if event.data.registered_at or isinstance(event, ServiceRegistered):
                    it.registered_at = event.data.registered_at or stored_at
            (self.paused.add if it.paused and it.exists else self.paused.discard)(event.name)
            self.on_config(event.name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def get(self, name: str) -> ServiceState:
        return self._by_name.get(name) or ServiceState()

    def is_silenced(self, name: str) -> bool:
        """Whether its configuration says that nobody is to be told."""
        it = self._by_name.get(name)
        return it is not None and (it.paused or not it.notify)

    def since(self, name: str, status: Status, before: int) -> datetime | None:
        """When the status that a change at `before` left had begun; None if only the record knows."""
        it = self._by_name.get(name)
        if it is None or not 0 < it.status_seq < before or it.status is not status:
            return None
        return it.since

    def services(self) -> Iterator[digest.Service]:
        """Those that exist. A status from before the newest registration does not count."""
        for name, it in self._by_name.items():
            if not it.exists:
                continue
            if it.status_seq and it.since >= it.registered_at:
                status, since, heard = it.status, it.since, it.last_heartbeat
            else:
                status, since, heard = Status.UNKNOWN, it.registered_at, None
            yield digest.Service(name, status, since, heard, it.paused, it.registered_at)
