"""Messages that cannot be read: counted, logged, and kept where an operator can look at them."""

import asyncio
from contextlib import suppress

import structlog
from nats.errors import Error as NatsError
from prometheus_client import Counter

from services.monitor.store.event_store import EventStore
from shared.messaging.errors import BrokerError
from shared.messaging.reader import Stored

log = structlog.get_logger()

MALFORMED = Counter("registry_malformed_messages_total", "Messages passed over", ["kind"])
for _kind in ("heartbeat", "tick", "event"):
    MALFORMED.labels(_kind)

MAX_LOGGED_PER_MINUTE = 100
"""Lines in the log, for all services together."""
MAX_WAITING = 100


class DeadLetters:
    """`run` stores what `add` was given; what is too much for it is only counted."""

    def __init__(self, event_store: EventStore) -> None:
        self._event_store = event_store
        self._waiting: asyncio.Queue[tuple[Stored, str]] = asyncio.Queue(MAX_WAITING)
        self._minute = 0
        self._logged: set[str] = set()

    def add(self, kind: str, name: str, message: Stored, why: str) -> None:
        MALFORMED.labels(kind).inc()
        with suppress(asyncio.QueueFull):
            self._waiting.put_nowait((message, why))
        minute = int(asyncio.get_running_loop().time() // 60)
        if minute != self._minute:
            self._minute, self._logged = minute, set()
        if name not in self._logged and len(self._logged) < MAX_LOGGED_PER_MINUTE:
            self._logged.add(name)
            log.warning("malformed message", kind=kind, name=name[:200], seq=message.seq, error=why[:300])

    async def run(self) -> None:
        while True:
            message, why = await self._waiting.get()
            with suppress(NatsError, BrokerError, OSError, TimeoutError):
                await self._event_store.publish_dead_letter(message, why)
