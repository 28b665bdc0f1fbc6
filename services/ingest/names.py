"""The names that are registered, as far as the limit of services needs them."""

from shared.contracts.events import ServiceDeleted
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.reader import PENDING, Reader

PENDING.labels(streams.SERVICES)
_DELETED = ServiceDeleted.model_fields["type"].default


class KnownNames:
    """Follows the configuration events. Names let in count before the monitor registers them. It does
    so also when others have taken the last places meanwhile: what was answered with 200 is registered."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._registered: set[str] = set()
        self._let_in: set[str] = set()
        """Those that are not registered yet."""

    def __contains__(self, name: str) -> bool:
        return name in self._registered or name in self._let_in

    def forget(self, name: str) -> None:
        """A name that was let in, but whose heartbeat the broker did not store. (If it did after all, the
        registration brings the name back.)"""
        self._let_in.discard(name)

    def admit(self, name: str) -> bool:
        """Whether a heartbeat of `name` may be stored: it is known, or there is room for one more."""
        if name not in self:
            if len(self._registered) + len(self._let_in) >= self._limit:
                return False
            self._let_in.add(name)
        return True

    def registered(self, name: str) -> None:
        self._let_in.discard(name)
        self._registered.add(name)

    def deleted(self, name: str) -> None:
        self._let_in.discard(name)
        self._registered.discard(name)

    async def follow(self, link: BrokerConnection) -> None:
        """Keep up with the events, for ever. What was known before is of another record, if there was any."""
        self._registered.clear()
        self._let_in.clear()
        reader = Reader(
            link, streams.SERVICES, streams.ALL_CONFIG, newest_per_subject=True, headers_only=True
        )
        async for batch in reader.batches():
            PENDING.labels(streams.SERVICES).set(reader.pending or 0)
            for message in batch:
                name = streams.name_in(message.subject)
                if (message.headers or {}).get(streams.TYPE_HEADER) == _DELETED:
                    self.deleted(name)
                else:
                    self.registered(name)
