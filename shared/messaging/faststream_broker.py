"""FastStream on the connection that a service has: handlers of requests, the AsyncAPI document of what they
take, and all events in the order of the record.

Events come as batches of a pull consumer, each acknowledged when it is applied. Whoever applies them keeps
the position and begins after it, so an acknowledgement only lets the broker forget a delivery. What is
delivered again is known by its sequence. What was lost on its way shows in the consumer's own count: then, as
after anything else that is odd, a new consumer begins after what was applied last.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any, NamedTuple, cast

import nats.errors
import structlog
from faststream import AckPolicy, Context
from faststream.nats import JStream, NatsBroker, PullSub
from faststream.nats.message import NatsBatchMessage, NatsMessage
from faststream.specification import AsyncAPI
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DeliverPolicy
from pydantic import WrapValidator

from shared.contracts.events import Event, IncidentEvent, parse_event, parse_incident
from shared.http.urls import without_secrets
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection, StreamPosition, retry_until_done
from shared.messaging.reader import Delivered, Stored, delivered

log = structlog.get_logger()

BATCH_SIZE = 500
MAX_UNACKNOWLEDGED = 4 * BATCH_SIZE
FETCH_TIMEOUT = 5.0
"""Seconds that the broker waits for the first event of a batch."""
RETRY_INTERVAL = 0.2
"""Seconds before another consumer is made."""
STOP_TIMEOUT = 5.0


class FastStreamBroker(NatsBroker):
    """Runs handlers over a connection that it neither opens nor closes: FastStream's own way of connecting
    gives up for good on some errors that pass, such as a broker with too many connections.

    `connect` once the connection is there, then `start` each subscriber.
    """

    def __init__(self, link: BrokerConnection, nats_urls: Sequence[str] = ()) -> None:
        super().__init__(
            logger=logging.getLogger(__name__),  # what handlers raise; the rest is below our level
            graceful_timeout=None,  # or a rebuild that is going on would hold up the end of the process
            specification_url=[without_secrets(url) for url in nats_urls] or None,
        )
        self._link = link

    async def _connect(self) -> Client:
        self.config.connect(self._link.nc)
        return self._link.nc


async def no_payload(_: Any) -> None:
    """The decoder of a request that asks by its subject alone, whatever comes with it."""


async def text_payload(message: NatsMessage) -> str:
    """The decoder of a request that is a text."""
    return message.body.decode(errors="replace")


def document(broker: NatsBroker, service: str) -> AsyncAPI:
    """What a service reads and writes, as an AsyncAPI document."""
    return AsyncAPI(broker, title=f"services registry: {service}", version="1")


class ReceivedEvent(NamedTuple):
    """`event`: None if it cannot be read, or is not one of its subject; `problem` says why."""

    stored: Stored
    event: Event | IncidentEvent | None
    problem: str = ""


def _read(payload: bytes, _: Any) -> Event | IncidentEvent | ValueError:
    parsers: list[Callable[[bytes], Event | IncidentEvent]] = [parse_event, parse_incident]
    if b'"service.told.v1"' in payload:  # there are many, and what cannot be parsed takes long
        parsers.reverse()
    error = None
    for parse in parsers:
        try:
            return parse(payload)
        except ValueError as failed:
            error = error or failed
    assert error
    return error


ReadableEvent = Annotated[Event | IncidentEvent, WrapValidator(_read)]
"""One that cannot be read is a ValueError, and costs the others of its batch nothing."""
BatchMessage = Annotated[NatsBatchMessage, Context("message")]
Apply = Callable[[list[ReceivedEvent]], Awaitable[None]]


class EventSubscription:
    """`run` it with the sequence to begin after."""

    def __init__(self, link: BrokerConnection, broker: NatsBroker) -> None:
        self._link = link
        self._broker = broker
        self._config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            max_ack_pending=MAX_UNACKNOWLEDGED,
            inactive_threshold=30.0,
            mem_storage=True,
            num_replicas=1,
        )
        self._subscriber = broker.subscriber(
            streams.ALL_EVENTS,
            stream=JStream(streams.SERVICES, declare=False),
            pull_sub=PullSub(batch=True, batch_size=BATCH_SIZE, timeout=FETCH_TIMEOUT),
            config=self._config,
            ack_policy=AckPolicy.MANUAL,
            inbox_prefix=f"{link.inbox_prefix}.".encode(),
            title="Events",
        )
        self._subscriber(self._on_events, decoder=_payloads)
        self._apply: Apply
        self.position = 0
        """The sequence of the event that was applied last."""
        self._delivered = 0
        """How many messages the consumer has delivered."""
        self._wake = asyncio.Event()
        self._failure: Exception | None = None

    async def run(self, after: int, apply: Apply) -> None:
        """For ever. Raises what `apply` raises: what it was given is not acknowledged then."""
        self.position, self._apply, self._failure = after, apply, None
        await self._broker.connect()
        self._link.on_back.append(self._wake.set)
        try:
            while self._failure is None:
                self._wake.clear()
                await retry_until_done("read events", self._start)
                await self._wake.wait()
                await self._stop()
                await asyncio.sleep(RETRY_INTERVAL)
            raise self._failure
        finally:
            self._link.on_back.remove(self._wake.set)
            await self._stop()

    async def _start(self) -> None:
        await self._stop()  # an attempt before may have come half way
        self._config.opt_start_seq, self._delivered = self.position + 1, 0
        await self._subscriber.start()
        pull = self._subscriber.subscription
        assert pull
        self._subscriber.subscription = cast(Any, _PromptFetch(pull, self._wake.set))

    async def _stop(self) -> None:
        """Nothing is applied any more afterwards. A consumer that cannot be deleted now ends by itself."""
        fetching, subscription = list(self._subscriber.tasks), self._subscriber.subscription
        with suppress(NatsError, OSError):
            await self._subscriber.stop()
        self._subscriber.subscription = None
        if fetching:
            await asyncio.wait(fetching, timeout=STOP_TIMEOUT)
        if subscription and self._link.up:
            name = f"$JS.API.CONSUMER.DELETE.{streams.SERVICES}.{self._config.name}"
            with suppress(NatsError, OSError):
                await self._link.nc.publish(name)

    async def _on_events(self, events: list[ReadableEvent], message: BatchMessage) -> None:
        """Registrations, settings and changes of status, in the order of the record."""
        if self._wake.is_set():  # what comes now need not be what comes next
            return
        received = []
        for raw, event in zip(message.raw_message, events, strict=True):
            place = _place(raw)
            if place is None or place.consumer_sequence != self._delivered + 1:
                log.warning("an event was lost on its way; reading again", after=self.position)
                self._wake.set()
                return
            self._delivered += 1
            if place.sequence > self.position:
                received.append(_received(raw, event, place))
        try:
            if received:
                await self._apply(received)
                newest = received[-1].stored
                self.position = newest.seq
                self._link.was_read(streams.SERVICES, StreamPosition(newest.seq, newest.at))
            await message.ack()
        except Exception as error:
            self._failure = error
            self._wake.set()


async def _payloads(batch: NatsBatchMessage) -> list[bytes]:
    return [raw.data for raw in batch.raw_message]


def _place(raw: Msg) -> Delivered | None:
    """Where it stands in its stream; None: it is not from the broker."""
    with suppress(ValueError):
        return delivered(raw.reply.encode())
    return None


def _received(raw: Msg, event: Event | IncidentEvent | ValueError, place: Delivered) -> ReceivedEvent:
    stored = Stored(raw.subject, raw.data, raw.headers, place.sequence, place.stored_at, place.pending)
    if isinstance(event, ValueError):
        return ReceivedEvent(stored, None, str(event))
    if streams.subject_of(event) != raw.subject:
        return ReceivedEvent(stored, None, f"{event.type} of {event.name} has no place there")
    return ReceivedEvent(stored, event)


class _PromptFetch:
    """Hands FastStream a batch at once. It would go on collecting until the batch is full or its time is up,
    and ask a consumer that is gone again and again."""

    def __init__(self, pull: JetStreamContext.PullSubscription, on_gone: Callable[[], None]) -> None:
        self._pull = pull
        self._on_gone = on_gone

    async def fetch(self, batch: int, timeout: float) -> list[Msg]:
        if batch < BATCH_SIZE:  # there is some already, and this asks for the rest
            raise nats.errors.TimeoutError
        try:
            return await self._pull.fetch(batch, timeout)
        except TimeoutError:
            pass
        except (NatsError, OSError) as error:
            log.debug("reading events again", error=str(error) or repr(error))
            self._on_gone()
            await asyncio.sleep(RETRY_INTERVAL)  # FastStream would ask again at once
        raise nats.errors.TimeoutError

    async def unsubscribe(self) -> None:
        await self._pull.unsubscribe()
