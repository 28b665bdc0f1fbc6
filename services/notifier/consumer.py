"""Every event in the order of the record: into the states of all services, and to every receiver.

The receivers' cursors say what is done, and an event that comes again changes nothing. So whatever goes wrong
here is tried again from the last event that was taken in. Only one that cannot be read is passed over.
"""

import asyncio
from collections.abc import Callable

import structlog

from services.notifier.alerting.changes import StatusChange
from services.notifier.alerting.reminders import Reminders
from services.notifier.event_log import EventLog, moment, report_unreadable
from services.notifier.states import ServiceStates
from shared.contracts.events import Event, StatusChanged
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection, retry_until_done
from shared.messaging.faststream_broker import EventSubscription, FastStreamBroker, ReceivedEvent
from shared.messaging.queries import newest_event
from shared.messaging.reader import PENDING, Stored

log = structlog.get_logger()

PENDING.labels(streams.SERVICES)
RETRY_INTERVAL = 1.0
"""Seconds before events are read again that could not be applied."""
STALL_TIMEOUT = 30.0
"""Seconds after which a read that is behind and does not move is given up."""

Subscriber = Callable[[int, StatusChange | None], None]
"""Takes the event at a sequence: a change to tell, or nothing. Of the same event again it takes no notice."""


class ConsumerFailed(Exception):
    """No event comes any more, though there are some; a fresh process may do better."""


class EventConsumer:
    """`start` once with the sequence to begin after, then `watch` for as long as it goes well."""

    def __init__(
        self,
        link: BrokerConnection,
        nats_urls: tuple[str, ...],
        states: ServiceStates,
        event_log: EventLog,
        reminders: Reminders,
    ) -> None:
        self._link = link
        self._states = states
        self._event_log = event_log
        self._reminders = reminders
        self.broker = FastStreamBroker(link, nats_urls)
        self._events = EventSubscription(link, self.broker)
        self.subscribers: list[Subscriber] = []
        self.position = 0
        """The sequence of the event that every subscriber was given last."""

    def start(self, after: int) -> None:
        self.position = after

    async def watch(self) -> None:
        """Raises ConsumerFailed when nothing comes while the stream goes on."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read())
            group.create_task(self._notice_stall())

    async def _read(self) -> None:
        while True:
            try:
                await self._events.run(self.position, self._apply_all)
            except Exception:
                log.exception("an event could not be applied; trying again", after=self.position)
                await asyncio.sleep(RETRY_INTERVAL)

    async def _notice_stall(self) -> None:
        while True:
            before = self.position
            end, _ = await retry_until_done("ask for the newest event", self._end)
            await asyncio.sleep(STALL_TIMEOUT)
            if before < end and self.position == before and self._link.up:
                raise ConsumerFailed(f"no event after {before} has come, though {end} is stored")

    async def _end(self) -> tuple[int, int]:
        return await newest_event(self._link)

    async def _apply_all(self, received: list[ReceivedEvent]) -> None:
        for stored, event, problem in received:
            PENDING.labels(streams.SERVICES).set(stored.pending)
            if stored.seq <= self.position:  # taken in before another of its batch failed
                continue
            change = None
            if event is None:
                report_unreadable(stored.subject, stored.seq, problem)
            else:
                change = await self._apply(event, stored)
            for enqueue in self.subscribers:
                enqueue(stored.seq, change)
            self.position = stored.seq

    async def _apply(self, event: Event, stored: Stored) -> StatusChange | None:
        """The change to tell, if it is one."""
        seq, stored_at, change = stored.seq, moment(stored.at), None
        if isinstance(event, StatusChanged) and not self._event_log.was_told(event, seq):
            change = await self._event_log.change(event, seq, stored_at)
        self._states.apply(event, seq, stored_at)
        if isinstance(event, StatusChanged):
            self._reminders.watch(event.name, event.data.since)
        return change
