"""Reading a stream in order, from a sequence on, whatever happens to the connection."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from datetime import datetime
from typing import NamedTuple

import structlog
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError
from prometheus_client import Gauge

from shared.contracts import events
from shared.contracts.events import FOUND_BY_HEADER, SOURCE_HEADER
from shared.messaging import nats_internals, streams
from shared.messaging.connection import BrokerConnection, StreamPosition, reraise_cancelled, set_within

log = structlog.get_logger()


PENDING = Gauge(
    "registry_consumer_pending_messages", "Messages of a stream that are not read yet", ["stream"]
)


class Stored(NamedTuple):
    """A message as it stands in a stream. `at`: when the broker stored it, microseconds since 1970 UTC."""

    subject: str
    data: bytes
    headers: dict[str, str] | None
    seq: int
    at: int
    pending: int


ACK_PREFIX = b"$JS.ACK."


class Delivered(NamedTuple):
    """Where a message that JetStream delivers stands in its stream, as its reply subject says:

        $JS.ACK.<stream>.<consumer>.<deliveries>.<stream sequence>.<consumer sequence>.<stored at>.<pending>
        $JS.ACK.<domain>.<account>.<stream>.<consumer>. … the same … [.<more>]

    The second form is the default from NATS 2.16 on, and to be had on 2.15 with the feature flag
    `js_ack_fc_v2` (NATS' ADR-15). `consumer_sequence` counts what a consumer has delivered. `stored_at`:
    microseconds since 1970 UTC.
    """

    sequence: int
    consumer_sequence: int
    stored_at: int
    pending: int


def delivered(reply: bytes) -> Delivered | None:
    """None: no message of a stream, but word about the request. Raises ValueError: not from the broker."""
    if not reply.startswith(ACK_PREFIX):
        return None
    tokens = reply.split(b".")
    if len(tokens) == 9:
        start = 5
    elif len(tokens) >= 11:
        start = 7
    else:
        raise ValueError("neither form of $JS.ACK")
    sequence, consumer_sequence, stored_at, pending = tokens[start : start + 4]
    return Delivered(int(sequence), int(consumer_sequence), int(stored_at) // 1000, int(pending))


class Reader:
    """Reads a stream in order, each message once, through restarts of the broker and lost consumers.

    A pull consumer without acknowledgements: the position is the caller's to keep. Anything odd (a gap
    in the consumer's own count, silence, a lost connection) makes a new consumer after the last message.
    """

    HEARTBEAT = 2.0
    BATCH = 2000

    def __init__(
        self,
        link: BrokerConnection,
        stream: str,
        *subjects: str,
        after: int = 0,
        newest_per_subject: bool = False,
        since: str | None = None,
        headers_only: bool = False,
    ) -> None:
        """`after`: the sequence read last, 0 for all. `newest_per_subject`: first only each subject's newest.
        `since`: RFC 3339 time to begin at, in place of `after`."""
        self._link = link
        self._stream = stream
        self._subjects = list(subjects)
        self._newest = newest_per_subject
        self._since = since
        self._headers_only = headers_only
        self.position = after
        self.position_at = 0
        self.pending: int | None = None
        """Messages behind `position` when it was read; None before the first contact."""
        self._buffer: list[Stored] = []
        self._passes_over = False
        """Whether the consumer has no filter, and what nobody asked for may be among its messages."""
        self._wake = asyncio.Event()
        self._broken = False
        self._outstanding = 0
        self._consumer_seq = 0
        self._inbox = ""

    async def batches(self) -> AsyncGenerator[list[Stored], None]:
        """Yield what has come, for ever. An empty list tells that `pending` is known anew."""
        self._link.on_back.append(self._break)
        wait = 0.1
        try:
            while True:
                sub: Subscription | None = None
                consumer = ""
                try:
                    sub, consumer = await reraise_cancelled(self._open())
                    wait = 0.1
                    yield []
                    while not self._broken:
                        if self._outstanding <= 0:
                            await self._ask(consumer)
                        if not self._buffer:
                            self._wake.clear()
                            if not await set_within(self._wake, self.HEARTBEAT * 2.5):
                                break
                            continue
                        batch, self._buffer = self._buffer, []
                        self.position, self.position_at = batch[-1].seq, batch[-1].at
                        self.pending = batch[-1].pending
                        self._link.was_read(self._stream, StreamPosition(batch[-1].seq, batch[-1].at))
                        self._newest = self._newest and self.pending > 0
                        yield [it for it in batch if self._is_wanted(it)] if self._passes_over else batch
                except (NatsError, OSError, TimeoutError) as error:
                    if isinstance(error, NotFoundError):
                        self._link.doubt()
                    log.debug("reader starts again", stream=self._stream, error=str(error) or repr(error))
                    await asyncio.sleep(wait)
                    wait = min(wait * 2, 2.0)
                finally:
                    await self._close(sub, consumer)
        finally:
            self._link.on_back.remove(self._break)

    async def to_end(self, upto: int | None = None) -> AsyncGenerator[list[Stored], None]:
        """The batches up to a sequence, or to what is the end when it is reached."""
        async with aclosing(self.batches()) as batches:
            async for batch in batches:
                yield batch
                if not self.pending or (upto is not None and self.position >= upto):
                    return

    async def _open(self) -> tuple[Subscription, str]:
        self._broken, self._outstanding, self._consumer_seq, self._buffer = False, 0, 0, []
        # A filter that lets everything through costs the broker a search per message all the same: with
        # 10,000 subjects it gave 1,400 messages a second, and 100,000 without.
        whole = set(self._subjects) == streams.WHOLE.get(self._stream) and not self._newest
        self._passes_over = whole and self._stream == streams.SERVICES
        config = ConsumerConfig(
            ack_policy=AckPolicy.NONE,
            filter_subjects=[] if whole else self._subjects,
            inactive_threshold=30.0,
            mem_storage=True,
            num_replicas=1,
            headers_only=self._headers_only or None,
        )
        if self._newest:
            config.deliver_policy = DeliverPolicy.LAST_PER_SUBJECT
        elif self._since and not self.position:
            config.deliver_policy = DeliverPolicy.BY_START_TIME
            config.opt_start_time = self._since  # type: ignore[assignment]
        else:
            config.deliver_policy = DeliverPolicy.BY_START_SEQUENCE
            config.opt_start_seq = self.position + 1
        info = await self._link.js.add_consumer(self._stream, config)
        self.pending = info.num_pending or 0
        self._newest = self._newest and self.pending > 0
        self._inbox = self._link.nc.new_inbox()
        return await self._link.listen(self._inbox, self._received), info.name

    async def _ask(self, consumer: str) -> None:
        self._outstanding = self.BATCH
        request = {"batch": self.BATCH, "expires": int(30e9), "idle_heartbeat": int(self.HEARTBEAT * 1e9)}
        await self._link.nc.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{consumer}", json.dumps(request).encode(), self._inbox
        )

    @staticmethod
    def _is_wanted(message: Stored) -> bool:
        return not streams.is_configuration(message.subject)

    def _received(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        self._wake.set()
        try:
            place = delivered(reply)
        except ValueError:  # it is not from the broker
            self._broken = True
            return
        if place is None:  # word about the request
            status = (headers or b"")[_STATUS]
            if status == b"100":  # nothing has come for a while
                # What was said to be pending is not there any more: it was removed. Ask anew how much is.
                self._broken = bool(self.pending) and not self._buffer
                return
            self._outstanding = 0
            if status != b"408":
                self._broken = True
            return
        if self._broken or place.consumer_sequence != self._consumer_seq + 1:
            self._broken = True
            return
        self._consumer_seq = place.consumer_sequence
        self._outstanding -= 1
        of, known = subject.decode(errors="replace"), read_headers(headers) if headers else None
        self._buffer.append(Stored(of, data, known, place.sequence, place.stored_at, place.pending))

    def _break(self) -> None:
        self._broken = True
        self._wake.set()

    async def _close(self, sub: Subscription | None, consumer: str) -> None:
        """Take the old consumer away if that is quickly done; the broker does it anyway after 30 s."""
        with suppress(NatsError, OSError, TimeoutError, NotFoundError):
            if sub:
                await self._link.unlisten(sub)
            if consumer and self._link.up:
                await self._link.nc.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{consumer}")


_STATUS = slice(9, 12)  # in "NATS/1.0 100 Idle Heartbeat"

OVER_HTTP = {SOURCE_HEADER: "http"}
"""The headers of nearly all heartbeats that come over HTTP: this very object where they are read."""
BY_KEY = OVER_HTTP | {FOUND_BY_HEADER: "key"}
"""The same of those whose service was found by a key."""
_OVER_HTTP = f"NATS/1.0\r\n{SOURCE_HEADER}: http\r\n".encode()
_BY_KEY = _OVER_HTTP + f"{FOUND_BY_HEADER}: key\r\n".encode()
_OVER_HTTP_ENDS = (b"\r\n", b"Nats-Batch-Id:")
"""What may follow, if it is nothing but how it was stored."""


def read_headers(raw: bytes) -> dict[str, str]:
    if raw.startswith(_OVER_HTTP):
        if raw.startswith(_OVER_HTTP_ENDS, len(_OVER_HTTP)):
            return OVER_HTTP
        if raw.startswith(_BY_KEY) and raw.startswith(_OVER_HTTP_ENDS, len(_BY_KEY)):
            return BY_KEY
    return nats_internals.parse_headers(raw.partition(b"\r\n")[2])


def micros(rfc3339: str) -> int:
    """Microseconds since 1970 of the broker's own time format, which has up to nine decimals (truncated)."""
    return events.micros(datetime.fromisoformat(rfc3339.removesuffix("Z") + "+00:00"))
