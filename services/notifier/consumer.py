"""The ordered read of all events, with FastStream, and where each goes: into the fleet and to every chat.

Nothing is acknowledged: the chats' cursors say what is done. So whatever is odd here ends the process, and
a fresh one reads from the oldest cursor on. Only an event that cannot be read is passed over.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from faststream import AckPolicy, BaseMiddleware
from faststream.nats import JStream, NatsBroker, NatsMessage
from faststream.nats.security import NatsJWT, NatsSecurity, NatsUserPassword
from faststream.specification import AsyncAPI
from nats.errors import Error as NatsError
from nats.js.api import ConsumerConfig, DeliverPolicy
from pydantic import ValidationError

from services.notifier.alerting.reminders import Reminders
from services.notifier.alerting.texts import Change
from services.notifier.event_log import EventLog, moment, report_unreadable
from services.notifier.states import ServiceStates
from shared.contracts.events import Event, StatusChanged
from shared.http.urls import without_secrets
from shared.messaging import ack_subjects, streams
from shared.messaging.ack_subjects import Delivered
from shared.messaging.connection import BrokerConnection, retry_until_done
from shared.messaging.queries import newest_event
from shared.messaging.reader import PENDING
from shared.messaging.stream_identity import StreamPosition

PENDING.labels(streams.SERVICES)
IDLE_HEARTBEAT = 1.0
MAX_WAITING = 1_000_000
"""Messages the client may hold for us; the broker's flow control stops far below."""
STALL_TIMEOUT = 30.0
"""Seconds after which a read that is behind and does not move is given up."""

Subscriber = Callable[[int, Change | None], None]
"""Takes the event at a sequence: a change to tell, or nothing."""


class ConsumerFailed(Exception):
    """The ordered read cannot be trusted any more."""


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
        self.subscribers: list[Subscriber] = []
        self.position = 0
        self._count = 0
        self._failure: BaseException | None = None
        self._failed = asyncio.Event()
        self._config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE, idle_heartbeat=IDLE_HEARTBEAT
        )
        options = link.options()
        security = _security(options)
        self.broker = NatsBroker(
            **options,
            security=security,
            logger=None,
            middlewares=[partial(_StopAtFirstFailure, consumer=self)],
            specification_url=[without_secrets(url) for url in nats_urls],
        )
        self.broker.subscriber(
            streams.ALL_EVENTS,
            stream=JStream(streams.SERVICES, declare=False),
            ordered_consumer=True,
            config=self._config,
            ack_policy=AckPolicy.MANUAL,
            pending_msgs_limit=MAX_WAITING,
            title="Events",
        )(self._on_event)

    async def start(self, after: int) -> None:
        self.position = after
        self._config.opt_start_seq = after + 1
        await self.broker.start()

    async def stop(self) -> None:
        """The connection may be away; then there is nothing to say good-bye to."""
        self._link.leaving()
        with suppress(NatsError, OSError, TimeoutError):
            await asyncio.wait_for(self.broker.stop(), 2)

    async def watch(self) -> None:
        """Until the read fails, or stands still while the stream goes on."""
        while True:
            before = self.position
            end, _ = await retry_until_done("ask for the newest event", self._end)
            try:
                async with asyncio.timeout(STALL_TIMEOUT):
                    await self._failed.wait()
            except TimeoutError:
                if before < end and self.position == before and self._link.up:
                    raise ConsumerFailed(
                        f"no event after {before} has come, though {end} is stored"
                    ) from None
            else:
                raise ConsumerFailed("an event could not be taken in") from self._failure

    async def _end(self) -> tuple[int, int]:
        return await newest_event(self._link)

    async def consume(self, message: NatsMessage, handle: Callable[[NatsMessage], Awaitable[Any]]) -> None:
        """Let a message through to its handler. After the first failure nothing more is taken."""
        if self._failed.is_set():
            return
        try:
            place = _delivered(message)
            PENDING.labels(streams.SERVICES).set(place.pending)
            if self._is_new(place.sequence, place.consumer_sequence):
                await handle(message)
                self._link.was_read(streams.SERVICES, StreamPosition(place.sequence, place.stored_at))
        except (ValidationError, RecursionError) as error:  # the latter by JSON that is nested too deep
            report_unreadable(message.raw_message.subject, place.sequence, str(error))
            self._publish(place.sequence, None)
        except Exception as error:
            self._failure = error
            self._failed.set()

    def _is_new(self, seq: int, count: int) -> bool:
        """Whether this message is new. A hole in the consumer's count means that messages were lost; a count
        that begins again is the client's own new consumer, which goes on after what it delivered last."""
        if count not in (1, self._count + 1):
            raise ConsumerFailed(f"message {count} of the consumer came after {self._count}")
        self._count = count
        return seq > self.position

    async def _on_event(self, event: Event, message: NatsMessage) -> None:
        """Registrations, settings and changes of status, in the order of the record."""
        place = _delivered(message)
        seq, stored_at = place.sequence, moment(place.stored_at)
        if (subject := message.raw_message.subject) != streams.subject_of(event):
            report_unreadable(subject, seq, f"{event.type} of {event.name} has no place there")
            self._publish(seq, None)
            return
        change = None
        if isinstance(event, StatusChanged) and not self._event_log.was_told(event, seq):
            change = await self._event_log.change(event, seq, stored_at)
        self._states.apply(event, seq, stored_at)
        if isinstance(event, StatusChanged):
            self._reminders.watch(event.name, event.data.since)
        self._publish(seq, change)

    def _publish(self, seq: int, change: Change | None) -> None:
        self.position = seq
        for enqueue in self.subscribers:
            enqueue(seq, change)


def _security(options: dict[str, Any]) -> NatsSecurity:
    """As whom to connect, in FastStream's own terms; takes it out of the client's options."""
    jwt, sign = options.pop("user_jwt_cb", None), options.pop("signature_cb", None)
    user, password = options.pop("user", None), options.pop("password", None)
    tls = options.pop("tls", None)
    if jwt:
        return NatsJWT(jwt, sign, ssl_context=tls)
    if user:
        return NatsUserPassword(user, password, ssl_context=tls)
    return NatsSecurity(ssl_context=tls)


class _StopAtFirstFailure(BaseMiddleware[Any, Any]):
    """Stands around the handler, where FastStream would log an exception and go on to the next message."""

    def __init__(self, msg: Any, /, *, context: Any, consumer: EventConsumer) -> None:
        super().__init__(msg, context=context)
        self._consumer = consumer

    async def consume_scope(self, call_next: Any, msg: Any) -> None:
        await self._consumer.consume(msg, call_next)


def _delivered(message: NatsMessage) -> Delivered:
    """Where it stands in its stream. Raises DeliveryFailed if that is not from the broker."""
    with suppress(ValueError):
        if place := ack_subjects.parse(message.raw_message.reply.encode()):
            return place
    raise ConsumerFailed(f"not a message of a stream: {message.raw_message.reply[:200]!r}")


def asyncapi_document(consumer: EventConsumer) -> AsyncAPI:
    """What the notifier reads, as an AsyncAPI document."""
    return AsyncAPI(consumer.broker, title="services registry: notifier", version="1")
