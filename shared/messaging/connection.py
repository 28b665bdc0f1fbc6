"""The connection to the broker: kept up, its streams provisioned, what fails tried again."""

import asyncio
import os
import re
import signal
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import nats
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig
from nats.js.errors import BucketNotFoundError, KeyNotFoundError
from nats.js.kv import KeyValue

from shared.http.urls import without_secrets
from shared.messaging import nats_internals, streams
from shared.messaging.credentials import Credentials
from shared.messaging.errors import BrokerError, NotStored
from shared.settings import Settings

log = structlog.get_logger()

T = TypeVar("T")


STORE_TIMEOUT = 5.0
"""Seconds that the broker may take to store a change in a bucket for somebody who waits for it."""


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


@dataclass(frozen=True)
class StreamPosition:
    """A message that was read, or known to be there. `at`: when it was stored."""

    seq: int
    at: int


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
        self._refused: set[str] = set()
        """What was said already that the broker does not allow."""
        self._leaving = False
        self._takers: dict[int, nats_internals.Taker] = {}
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

    @property
    def inbox_prefix(self) -> str:
        return _inbox_prefix(self._settings.nats_url[0])

    async def connect(self) -> None:
        """Wait for the broker as long as it takes, then see to it that the streams are there."""
        self.adopt(await nats.connect(**self.options()))
        await self.provision()

    def adopt(self, client: Client) -> None:
        self.nc = client
        self.js = client.jetstream()
        self._complained = False
        nats_internals.intercept(client, self._takers)

    async def listen(self, subject: str, taker: nats_internals.Taker) -> Subscription:
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
        """Send frames of NATS' protocol at once: the client takes a call per message. Raises NotStored."""
        try:
            nats_internals.write(self.nc, frames)
        except (OSError, RuntimeError, AttributeError) as error:
            raise NotStored(str(error) or repr(error)) from None

    async def provision(self) -> None:
        await retry_until_done(
            "provision the streams",
            lambda: streams.provision(self.js, self._settings, update=self._keeps_streams),
        )

    async def bucket(self, name: str) -> KeyValue:
        """A KV bucket of this name, created if there is none."""

        async def attempt() -> KeyValue:
            try:
                return await self.js.key_value(name)
            except BucketNotFoundError:
                config = KeyValueConfig(bucket=name, replicas=self._settings.nats_replicas)
                return await self.js.create_key_value(config=config)

        return await retry_until_done(f"open the bucket {name}", attempt)

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
        self._leaving = self._complained = True
        if hasattr(self, "nc"):
            with suppress(NatsError, TimeoutError, OSError):
                await asyncio.wait_for(self.nc.flush(timeout=1), 2) if self.up else None
            with suppress(NatsError, OSError):
                await self.nc.close()

    async def _closed(self) -> None:
        """The client gives up for good on some errors (such as credentials that have expired). Nothing
        works without it, so the process ends, and is started afresh by whoever watches it."""
        if not self._leaving:
            log.error("the broker has closed the connection for good; ending")
            os.kill(os.getpid(), signal.SIGTERM)

    async def _error(self, error: Exception) -> None:
        why = str(error)
        if "permissions violation" in why.lower():
            if why not in self._refused and len(self._refused) < MAX_REFUSED:
                self._refused.add(why)
                log.warning(
                    "the broker does not allow what this version needs; bring its configuration up to date, "
                    "see deploy/nats.conf",
                    error=why,
                )
        elif not self._complained:
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


async def set_within(event: asyncio.Event, seconds: float) -> bool:
    """Whether the event is set by then. (`asyncio.wait_for` may swallow a cancellation in Python 3.11.)"""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


MAX_REFUSED = 20
"""Lines in the log about what the broker does not allow."""
SAY_AGAIN = MAX_BACKOFF = 5.0
"""Seconds."""
_said_at = float("-inf")


async def retry_until_done(what: str, action: Callable[[], Awaitable[T]]) -> T:
    """Repeat `action`, with back-off, until it raises nothing. Many may wait; not each of them is logged."""
    global _said_at
    wait = 0.1
    while True:
        try:
            return await reraise_cancelled(action())
        except (NatsError, BrokerError, OSError, TimeoutError) as error:
            loop = asyncio.get_running_loop()
            if loop.time() - _said_at > SAY_AGAIN:
                _said_at = loop.time()
                log.warning("will be tried again", what=what, error=str(error) or repr(error))
            await asyncio.sleep(wait)
            wait = min(wait * 2, MAX_BACKOFF)


def version_to_follow(missing: KeyNotFoundError) -> int:
    """The version after which a key that is not there is written: that of its deletion; 0: it never was."""
    return (missing.entry.revision or 0) if missing.entry else 0
