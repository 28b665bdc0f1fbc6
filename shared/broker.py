"""The connection to the broker: publishing that waits for storage, and reading that survives anything."""

import asyncio
import base64
import json
import os
import re
import signal
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

import nats
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, KeyValueConfig
from nats.js.errors import BucketNotFoundError, KeyNotFoundError, NotFoundError
from nats.js.kv import KeyValue
from prometheus_client import Gauge

from shared import ack_subjects, nats_internals, streams
from shared.credentials import Credentials
from shared.events import SOURCE_HEADER, moment
from shared.identity import StreamPosition
from shared.settings import Settings
from shared.urls import without_secrets

log = structlog.get_logger()

T = TypeVar("T")

PENDING = Gauge(
    "registry_consumer_pending_messages",
    "Messages of a stream that are not read yet",
    ["stream"],
)


class BrokerError(Exception):
    """Base of what publishing can raise."""


class NotStored(BrokerError):
    """The broker has not confirmed that it stored the message; it may have."""


class Unreadable(NotStored):
    """The broker has answered with a message whose own headers hide what stands beside it."""


class NoAnswer(NotStored):
    """The broker is connected, and has not answered in time."""

    def __str__(self) -> str:
        return f"{super().__str__()}; {READ_ONLY}"


STORE_TIMEOUT = 5.0
"""Seconds that the broker may take to store a change in a bucket for somebody who waits for it."""


READ_ONLY = "a stream that met a full disk stays read-only: make room, then restart the broker"


class Busy(NotStored):
    """Too many messages wait for the broker already; this one was not sent."""


class ShareExhausted(NotStored):
    """As many of one sender's messages wait as one may have there; this one was not sent, others' are."""


class TooLarge(NotStored):
    """The message is larger than the broker takes; it was not sent."""


class WrongSequence(BrokerError):
    """Somebody else has written to the subject since: another writer was first."""


@dataclass(frozen=True, slots=True)
class Ack:
    seq: int
    duplicate: bool


class Stored(NamedTuple):
    """A message as it stands in a stream. `at`: when the broker stored it, microseconds since 1970 UTC."""

    subject: str
    data: bytes
    headers: dict[str, str] | None
    seq: int
    at: int
    pending: int


Taker = Callable[[bytes, bytes, bytes, bytes | None], None]
"""Takes a message's subject, reply, payload, and headers as they stand in NATS' protocol."""


def access(settings: Settings) -> dict[str, Any]:
    """Which broker, and as whom, for `nats.connect`."""
    options: dict[str, Any] = {
        "servers": list(settings.nats_url),
        "inbox_prefix": _inbox_prefix(settings.nats_url[0]),
    }
    users = {(parts.username, parts.password) for parts in map(urlsplit, settings.nats_url)}
    user, password = users.pop()
    if user and password and not users:  # the client itself takes %2F in a URL for three characters
        options["user"], options["password"] = unquote(user), unquote(password)
        options["servers"] = [without_secrets(url) for url in settings.nats_url]
    if settings.nats_creds:
        credentials = Credentials(settings.nats_creds)
        options["user_jwt_cb"], options["signature_cb"] = credentials.jwt, credentials.sign
    if settings.nats_ca:
        options["tls"] = ssl.create_default_context(cafile=settings.nats_ca)
    return options


def _inbox_prefix(url: str) -> str:
    """Where answers come to: below the user's own name, so that permissions can keep others from them."""
    user = urlsplit(url)
    if user.password and re.fullmatch(r"[\w-]{1,64}", user.username or "", re.ASCII):
        return f"_INBOX.{user.username}"
    return "_INBOX"


class BrokerConnection:
    """One connection that never gives up, and tells whoever asked when it is lost and when it is back."""

    nc: Client
    js: JetStreamContext

    def __init__(self, settings: Settings, name: str, *, keeps_streams: bool = False) -> None:
        """`keeps_streams`: brings streams up to date that are there already. Only one service may."""
        self._settings = settings
        self._name = name
        self._keeps_streams = keeps_streams
        self._complained = False
        self._leaving = False
        self._takers: dict[int, Taker] = {}
        self.on_lost: list[Callable[[], None]] = []
        self.on_back: list[Callable[[], None]] = []
        self.on_doubt: list[Callable[[], None]] = []
        """Told when the broker answers as if a stream were not there."""
        self.newest_read: dict[str, StreamPosition] = {}
        """By stream: the newest message that was read."""

    def options(self) -> dict[str, Any]:
        """For `nats.connect`."""
        return {
            **access(self._settings),
            "name": self._name,
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": 0.25,
            "connect_timeout": 3,
            "ping_interval": 5,
            "max_outstanding_pings": 2,
            "error_cb": self._error,
            "disconnected_cb": self._lost,
            "reconnected_cb": self._back,
            "closed_cb": self._closed,
        }

    async def connect(self) -> None:
        """Wait for the broker as long as it takes, then see to it that the streams are there."""
        self.adopt(await nats.connect(**self.options()))
        await self.provision()

    def adopt(self, client: Client) -> None:
        self.nc = client
        self.js = client.jetstream()
        self._complained = False

        def around(usual: nats_internals.Process) -> nats_internals.Process:
            async def process(sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
                try:
                    if taker := self._takers.get(sid):
                        taker(subject, reply, data, headers)
                    else:
                        # Its ordered consumer knows the first form only; nothing is acknowledged anywhere.
                        reply = ack_subjects.in_first_form(reply)
                        await usual(sid, _legible(subject), reply, data, _legible_headers(headers))
                except Exception:  # or the client would never read from this connection again
                    log.exception("a message could not be taken in", subject=repr(subject[:200]))

            return process

        nats_internals.intercept(client, around)

    async def listen(self, subject: str, taker: Taker) -> Subscription:
        """Subscribe to what is much: `taker` is called as it is read from the connection, without the queue,
        the task and the object per message that the client's own subscriptions have."""

        async def nothing(_: Msg) -> None: ...

        sub = await self.nc.subscribe(subject, cb=nothing)
        self._takers[nats_internals.subscription_id(sub)] = taker
        return sub

    async def unlisten(self, sub: Subscription) -> None:
        self._takers.pop(nats_internals.subscription_id(sub), None)
        await sub.unsubscribe()

    def write(self, frames: bytes) -> None:
        """Send what stands in NATS' protocol at once: the client takes a call per message, and two turns of
        the loop. Raises NotStored."""
        try:
            nats_internals.write(self.nc, frames)
        except (OSError, RuntimeError, AttributeError) as error:
            raise NotStored(str(error) or repr(error)) from None

    async def provision(self) -> None:
        its = self._settings
        plan = streams.Plan(
            replicas=its.nats_replicas,
            heartbeats_kept=its.heartbeats_kept,
            events_kept=its.events_kept,
            max_services=its.max_services,
            heartbeats_bytes=its.heartbeats_bytes,
        )
        await retry_until_done(
            "provision the streams", lambda: streams.provision(self.js, plan, update=self._keeps_streams)
        )

    async def bucket(self, name: str) -> KeyValue:
        """A KV bucket of this name, created if there is none."""

        async def attempt() -> KeyValue:
            try:
                return await self.js.key_value(name)
            except BucketNotFoundError:
                config = KeyValueConfig(bucket=name, replicas=self._settings.nats_replicas)
                return await self.js.create_key_value(config=config)

        found: KeyValue = await retry_until_done(f"open the bucket {name}", attempt)
        return found

    @property
    def replicated(self) -> bool:
        """Whether a stream has replicas, of which some may lag behind the leader."""
        return self._settings.nats_replicas > 1

    def doubt(self) -> None:
        for listener in self.on_doubt:
            listener()

    def was_read(self, stream: str, newest: StreamPosition) -> None:
        if (known := self.newest_read.get(stream)) is None or known.seq < newest.seq:
            self.newest_read[stream] = newest

    @property
    def up(self) -> bool:
        nc = getattr(self, "nc", None)
        return nc is not None and nc.is_connected

    async def close(self) -> None:
        self.leaving()
        if hasattr(self, "nc"):
            with suppress(NatsError, TimeoutError, OSError):
                await asyncio.wait_for(self.nc.flush(timeout=1), 2) if self.up else None
            with suppress(NatsError, OSError):
                await self.nc.close()

    def leaving(self) -> None:
        """The connection is about to be closed on purpose."""
        self._leaving = self._complained = True

    async def _closed(self) -> None:
        """The client gives up for good on some errors (such as credentials that have expired). Nothing
        works without it, so the process ends, and is started afresh by whoever watches it."""
        if not self._leaving:
            log.error("the broker has closed the connection for good; ending")
            os.kill(os.getpid(), signal.SIGTERM)

    async def _error(self, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            log.warning("waiting for the broker", error=str(error) or repr(error))

    async def _lost(self) -> None:
        if not self._complained:
            self._complained = True
            log.warning("the broker is away; trying again")
        for listener in self.on_lost:
            listener()

    async def _back(self) -> None:
        self._complained = False
        log.info("the broker is back")
        for listener in self.on_back:
            listener()


async def reraise_cancelled(request: Awaitable[T]) -> T:
    """The answer, unless this task was cancelled meanwhile: CancelledError.

    In Python 3.11 asyncio.wait_for, which the client's requests are made of, swallows a cancellation that
    comes together with the answer, and who repeats requests for ever would never end.
    """
    task = asyncio.current_task()
    assert task
    before = task.cancelling()
    try:
        return await request
    finally:
        if task.cancelling() > before:
            raise asyncio.CancelledError


async def in_own_task(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns or raises; it is cancelled with this task.

    For what has a TaskGroup and may fail: in Python 3.11 a group that fails while it waits leaves its own
    cancellation in the task that waits. Up to 3.11.3 each `asyncio.timeout` there then raises CancelledError
    in place of TimeoutError.
    """
    return await asyncio.create_task(work)


SAY_AGAIN = 5.0
_said_at = float("-inf")


async def retry_until_done(what: str, action: Callable[[], Any], *, longest: float = 5.0) -> Any:
    """Repeat `action` until it raises nothing, with back-off up to `longest` seconds. Says so, but not
    for each of the many that wait for the same broker."""
    global _said_at
    wait, loop = 0.1, asyncio.get_running_loop()
    while True:
        try:
            return await reraise_cancelled(action())
        except (NatsError, BrokerError, OSError, TimeoutError) as error:
            if loop.time() - _said_at > SAY_AGAIN:
                _said_at = loop.time()
                log.warning("will be tried again", what=what, error=str(error) or repr(error))
            await asyncio.sleep(wait)
            wait = min(wait * 2, longest)


def version_to_follow(missing: KeyNotFoundError) -> int:
    """The version after which a key that is not there is written: that of its deletion; 0: it never was."""
    return (missing.entry.revision or 0) if missing.entry else 0


class Publisher:
    """Pipelined JetStream publishing: what waits goes out in one write, each caller gets its own answer."""

    def __init__(self, link: BrokerConnection, *, timeout: float = 5.0, max_waiting: int = 20_000) -> None:
        self._link = link
        self.timeout = timeout
        self._max_waiting = max_waiting
        self._waiting: dict[str, tuple[asyncio.Future[Ack], float]] = {}
        self._count = 0
        self._sweeper: asyncio.Task[None] | None = None
        self._inbox = ""
        self.on_append: Callable[[NotStored | None], None] = lambda _: None
        """Is told of each event why it was not stored although the broker is connected; None: it was."""

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def start(self) -> None:
        self._inbox = self._link.nc.new_inbox()
        await self._link.nc.subscribe(
            self._inbox + ".*", cb=self._answered, pending_msgs_limit=0, pending_bytes_limit=0
        )
        self._link.on_lost.append(self._lost)
        self._sweeper = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        if self._sweeper:
            self._sweeper.cancel()
        self._fail_all("shutting down")

    async def publish(self, subject: str, payload: bytes = b"", headers: dict[str, str] | None = None) -> Ack:
        """Store one message. Raises NotStored (unknown, or no), Busy (no), WrongSequence (no)."""
        if not (self._inbox and self._link.up):
            raise NotStored("the broker cannot be reached")
        if len(self._waiting) >= self._max_waiting:
            raise Busy("too many messages wait for the broker")
        self._count += 1
        token = str(self._count)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Ack] = loop.create_future()
        self._waiting[token] = future, loop.time() + self.timeout
        try:
            await self._link.nc.publish(subject, payload, f"{self._inbox}.{token}", headers)
            return await future
        except MaxPayloadError:
            raise TooLarge("the message is larger than the broker takes") from None
        except NatsError as error:
            raise NotStored(str(error)) from None
        finally:
            self._waiting.pop(token, None)

    async def append(self, subject: str, payload: bytes, *, after: int, event_id: str, kind: str) -> Ack:
        """Store an event if `after` is still the subject's last sequence (0: none yet), or WrongSequence."""
        headers = {
            "Nats-Expected-Last-Subject-Sequence": str(after),
            "Nats-Msg-Id": event_id,
            streams.TYPE_HEADER: kind,
        }
        try:
            ack = await self.publish(subject, payload, headers)
        except NotStored as error:
            if self._link.up and not isinstance(error, Busy):
                self.on_append(error)
            raise
        self.on_append(None)
        return ack

    async def _answered(self, msg: Msg) -> None:
        entry = self._waiting.get(msg.subject.rpartition(".")[2])
        if entry is None or entry[0].done():
            return
        if not msg.data:
            entry[0].set_exception(NotStored("no stream takes this subject yet"))
            self._link.doubt()
            return
        answer = json.loads(msg.data)
        if error := answer.get("error"):
            wrong = error.get("err_code") in _WRONG_SEQUENCE
            kind = WrongSequence if wrong else NotStored
            entry[0].set_exception(kind(error.get("description", "refused by the broker")))
        else:
            entry[0].set_result(Ack(answer["seq"], answer.get("duplicate", False)))

    def _lost(self) -> None:
        self._fail_all("the connection to the broker was lost before its answer")

    def _fail_all(self, reason: str) -> None:
        for future, _ in self._waiting.values():
            if not future.done():
                future.set_exception(NotStored(reason))

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self.timeout / 5)
            now = loop.time()
            for future, deadline in list(self._waiting.values()):
                if deadline > now:
                    break
                if not future.done():
                    future.set_exception(NoAnswer(f"no answer from the broker within {self.timeout:g} s"))


_WRONG_SEQUENCE = {10071, 10164}


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
                            try:
                                # Not wait_for: in Python 3.11 it may swallow a cancellation.
                                async with asyncio.timeout(self.HEARTBEAT * 2.5):
                                    await self._wake.wait()
                            except TimeoutError:
                                break
                            continue
                        batch, self._buffer = self._buffer, []
                        self.position, self.position_at = batch[-1].seq, batch[-1].at
                        self.pending = batch[-1].pending
                        self._link.was_read(self._stream, StreamPosition(batch[-1].seq, batch[-1].at))
                        self._newest = self._newest and self.pending > 0
                        yield batch
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

    async def _open(self) -> tuple[Subscription, str]:
        self._broken, self._outstanding, self._consumer_seq, self._buffer = False, 0, 0, []
        # A filter that lets everything through costs the broker a search per message all the same: with
        # 10,000 subjects it gave 1,400 messages a second, and 100,000 without.
        whole = set(self._subjects) == streams.WHOLE.get(self._stream) and not self._newest
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
        request = {
            "batch": self.BATCH,
            "expires": int(30e9),
            "idle_heartbeat": int(self.HEARTBEAT * 1e9),
        }
        await self._link.nc.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{consumer}", json.dumps(request).encode(), self._inbox
        )

    def _received(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        self._wake.set()
        try:
            place = ack_subjects.parse(reply)
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
        self._buffer.append(
            Stored(
                subject.decode(errors="replace"),
                data,
                _headers(headers) if headers else None,
                place.sequence,
                place.stored_at,
                place.pending,
            )
        )

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
_OVER_HTTP = f"NATS/1.0\r\n{SOURCE_HEADER}: http\r\n".encode()
_OVER_HTTP_ENDS = (b"\r\n", b"Nats-Batch-Id:")
"""What may follow, if it is nothing but how it was stored."""


def _headers(raw: bytes) -> dict[str, str]:
    if raw.startswith(_OVER_HTTP) and raw.startswith(_OVER_HTTP_ENDS, len(_OVER_HTTP)):
        return OVER_HTTP
    return nats_internals.parse_headers(raw.partition(b"\r\n")[2])


def _legible(subject: bytes) -> bytes:
    """The broker passes any bytes on; the client ends at what is not UTF-8."""
    return subject if subject.isascii() else subject.decode(errors="replace").encode()


def _legible_headers(raw: bytes) -> bytes:
    """None rather than those that are not what the client takes for granted."""
    return _legible(raw) if raw and raw.startswith((b"NATS/1.0\r\n", b"NATS/1.0 ")) else b""


async def newest(link: BrokerConnection, stream: str, subject: str) -> Stored | None:
    """The newest message of one subject, or of all that a subject with wildcards means. Raises NotStored when
    the broker cannot say."""
    return await _get(link, stream, {"last_by_subj": subject})


async def newest_before(link: BrokerConnection, stream: str, subject: str, seq: int) -> Stored | None:
    """The newest message of one subject with a sequence smaller than `seq`."""
    if seq <= 1:  # or the broker would take it for no bound at all
        return None
    return await _get(link, stream, {"multi_last": [subject], "up_to_seq": seq - 1})


async def first(link: BrokerConnection, stream: str, subject: str) -> Stored | None:
    """The oldest message of one subject that is still kept."""
    return await _get(link, stream, {"seq": 1, "next_by_subj": subject})


async def first_later(link: BrokerConnection, stream: str, at: int) -> Stored | None:
    """The first message that was stored later than `at`, microseconds since 1970 UTC."""
    return await _get(link, stream, {"start_time": f"{moment(at + 1):%Y-%m-%dT%H:%M:%S.%fZ}"})


async def message_at(link: BrokerConnection, stream: str, seq: int) -> Stored | None:
    return await _get(link, stream, {"seq": seq})


async def _get(link: BrokerConnection, stream: str, what: dict[str, Any]) -> Stored | None:
    """One message. With replicas the leader is asked: a follower may not have yet what decides."""
    kind = "STREAM.MSG.GET" if link.replicated else "DIRECT.GET"
    try:
        msg = await link.nc.request(f"$JS.API.{kind}.{stream}", json.dumps(what).encode(), timeout=3)
    except (NatsError, OSError, TimeoutError) as error:
        raise NotStored(str(error) or repr(error)) from None
    return _of_leader(msg.data) if link.replicated else _of_any(msg)


def _of_any(msg: Msg) -> Stored | None:
    headers = msg.headers or {}
    if headers.get("Status") == "404":
        return None
    if "Status" in headers:
        raise NotStored(headers.get("Description", "the broker cannot read its stream"))
    if "Nats-Sequence" not in headers:
        raise Unreadable("the message has headers that cannot be read")
    return Stored(
        headers["Nats-Subject"],
        msg.data,
        headers,
        int(headers["Nats-Sequence"]),
        micros(headers["Nats-Time-Stamp"]),
        0,
    )


def _of_leader(answer: bytes) -> Stored | None:
    found = json.loads(answer)
    if error := found.get("error"):
        if error.get("code") == 404:
            return None
        raise NotStored(error.get("description", "the broker cannot read its stream"))
    message = found["message"]
    raw = base64.b64decode(message.get("hdrs", ""))
    return Stored(
        message["subject"],
        base64.b64decode(message.get("data", "")),
        _headers(raw) if raw else None,
        message["seq"],
        micros(message["time"]),
        0,
    )


class StreamMissing(NotStored):
    """The broker has no stream of that name."""


async def stream_info(
    link: BrokerConnection, stream: str, question: bytes = b"", *, timeout: float = 3
) -> dict[str, Any]:
    """What the broker says of a stream, within so many seconds. Raises StreamMissing, or NotStored when it
    cannot say."""
    try:
        answer = await link.nc.request(f"$JS.API.STREAM.INFO.{stream}", question, timeout=timeout)
    except (NatsError, OSError, TimeoutError) as error:
        raise NotStored(str(error) or repr(error)) from None
    info: dict[str, Any] = json.loads(answer.data)
    if refused := info.get("error"):
        kind = StreamMissing if refused.get("code") == 404 else NotStored
        raise kind(f"{stream}: {refused.get('description', refused)}")
    return info


async def full_subjects(link: BrokerConnection, stream: str, among: str) -> AsyncIterator[str]:
    """The subjects of which the broker keeps as many messages as it may. Raises NotStored when it cannot
    say."""
    offset = 0
    while True:
        question = json.dumps({"subjects_filter": among, "offset": offset}).encode()
        info = await stream_info(link, stream, question, timeout=10)
        kept = info["config"].get("max_msgs_per_subject", -1)
        counts: dict[str, int] = info["state"].get("subjects") or {}
        for subject, count in counts.items():
            if 0 < kept <= count:
                yield subject
        offset += len(counts)
        if not counts or offset >= info.get("total", 0):
            return


async def last_sequence(link: BrokerConnection, stream: str) -> tuple[int, int]:
    """The stream's last sequence, and the broker's time of that answer in microseconds. A message of that
    sequence need not be there any more."""
    info = await stream_info(link, stream)
    return info["state"]["last_seq"], micros(info["ts"])


async def newest_event(link: BrokerConnection) -> tuple[int, int]:
    """The sequence of the newest event that is there, 0 if there is none; and the broker's time of an answer
    before that, in microseconds."""
    _, at = await last_sequence(link, streams.SERVICES)
    found = await newest(link, streams.SERVICES, streams.ALL_EVENTS)
    return found.seq if found else 0, at


async def created(link: BrokerConnection, stream: str) -> str:
    """When the stream was made, which tells it from one of the same name that was there before."""
    time: str = (await stream_info(link, stream))["created"]
    return time


async def last_evaluated(link: BrokerConnection, within: float = 1.0) -> int | None:
    """When the tick was stored that a monitor judged last, in microseconds; None: none answers within so
    many seconds. Raises nats' errors when the broker is away."""
    judged: list[int] = []

    async def answered(message: Msg) -> None:
        if message.data:  # else the broker says that nobody is there
            judged.append(int(message.data))

    inbox = link.nc.new_inbox()
    answers = await link.nc.subscribe(inbox, cb=answered)
    await link.nc.publish(streams.LAST_EVALUATED, b"", reply=inbox)
    await asyncio.sleep(within)
    await answers.unsubscribe()
    return max(judged, default=None)


def micros(rfc3339: str) -> int:
    """Microseconds since 1970 of the broker's own time format, which has up to nine decimals (truncated)."""
    whole, _, fraction = rfc3339.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole + "+00:00").timestamp())
    return seconds * 1_000_000 + int((fraction + "000000")[:6])
