"""Reads the stream of events beside the heartbeats, and knows how far it has come."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from services.monitor.domain.service import SECOND
from services.monitor.store.event_store import DeadLetters, EventStore
from shared.contracts.events import Event
from shared.messaging import streams
from shared.messaging.connection import retry_until_done, set_within
from shared.messaging.reader import PENDING, Stored

PENDING.labels(streams.SERVICES)
RETRY_INTERVAL = 2.0
"""Seconds after which the broker is asked again up to which event to read."""


class EventReader:
    def __init__(
        self, event_store: EventStore, dead_letters: DeadLetters, apply: Callable[[Stored], None]
    ) -> None:
        self._event_store = event_store
        self._dead_letters = dead_letters
        self._apply = apply
        self.read_until = 0
        """The newest event that was read."""
        self.moved = asyncio.Event()
        self._known_until = 0
        self._reading: asyncio.Task[None]

    def start(self, after: int) -> None:
        self.read_until = after
        self._reading = asyncio.create_task(self.read(fresh=not after))
        self._reading.add_done_callback(lambda _: self.moved.set())

    def stop(self) -> None:
        self._reading.cancel()

    def parse(self, message: Stored) -> Event | None:
        """None: it cannot be read, and is among the dead letters now."""
        try:
            return streams.read_event(message.subject, message.data)
        except ValueError as error:
            self._dead_letters.add("event", streams.name_in(message.subject), message, str(error))
            return None

    async def read(self, fresh: bool) -> None:
        """Read all events. `fresh`: nothing is known yet; begin with the whole configuration and the newest
        status of each service."""
        if fresh:
            end, _ = await self._end()
            configured = self._event_store.reader(streams.SERVICES, streams.ALL_CONFIG)
            async for batch in configured.to_end(end):
                for message in batch:
                    self._apply(message)
            newest = self._event_store.reader(streams.SERVICES, streams.ALL_STATUS, newest_per_subject=True)
            async for batch in newest.to_end(end):
                for message in batch:
                    if message.seq <= end:  # what has come since is read below
                        self._apply(await self._readable(message))
            self.read_until = end
            self.moved.set()
        reader = self._event_store.reader(streams.SERVICES, streams.ALL_EVENTS, after=self.read_until)
        async for batch in reader.batches():
            for message in batch:
                self._apply(message)
                self.read_until = max(self.read_until, message.seq)
            PENDING.labels(streams.SERVICES).set(reader.pending or 0)
            self.moved.set()

    async def _end(self) -> tuple[int, int]:
        """The newest event, and the broker's time of an answer before that."""
        ask = partial(self._event_store.end, streams.SERVICES)
        return await retry_until_done("ask for the newest event", ask)

    async def _readable(self, newest: Stored) -> Stored:
        """The newest event of a subject. One that cannot be read has the content of the newest before it that
        can, as for a monitor that has read them all."""
        message: Stored | None = newest
        while message and not _is_readable(message):
            ask = partial(self._event_store.event_before, message.subject, message.seq)
            message = await retry_until_done(f"read what {message.subject} was before", ask)
        if message is None:
            return newest
        if message is not newest:
            self.parse(newest)  # so that it is counted, and kept with the dead letters
        return newest._replace(data=message.data)

    async def wait_until(self, at: int = 0) -> None:
        """Wait until every event stored up to `at` (0: up to now) has been read. `at` is the time of a
        message that was received already, so what was stored before it is there when the broker is asked."""
        if 0 < at <= self._known_until:
            return
        loop = asyncio.get_running_loop()
        asked_at, last, asked = float("-inf"), 0, 0
        while self.read_until < last or not asked:
            if loop.time() > asked_at + RETRY_INTERVAL:  # the newest may have been removed before it was read
                last, asked = await self._end()
                asked_at = loop.time()
                continue
            if self._reading.done():
                self._reading.result()
            self.moved.clear()
            await set_within(self.moved, RETRY_INTERVAL)
        self._known_until = max(self._known_until, at, asked - SECOND)


def _is_readable(message: Stored) -> bool:
    with suppress(ValueError):
        return bool(streams.read_event(message.subject, message.data))
    return False
