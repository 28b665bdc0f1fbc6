"""Which heartbeats are let in, and the one way they take into the stream."""

from collections.abc import Sequence
from hashlib import blake2b
from secrets import token_bytes
from typing import Any

from prometheus_client import Counter, Gauge, Histogram
from pydantic import SecretStr

from services.ingest.content import bad_name
from services.ingest.middleware import Availability
from shared.contracts import ping_keys
from shared.contracts.events import ServiceDeleted, valid_name
from shared.http.problems import LIMIT_REACHED, LIMIT_RETRY_AFTER, Problem
from shared.http.tokens import forms
from shared.messaging import streams
from shared.messaging.batch_publisher import GROUP_MAX, BatchPublisher, OnStored, StreamMessage, header_block
from shared.messaging.connection import BrokerConnection
from shared.messaging.errors import BrokerError, NotStored, ShareExhausted, TooLarge
from shared.messaging.reader import BY_KEY, OVER_HTTP, PENDING, Reader

HEARTBEATS = Counter("registry_heartbeats_total", "Heartbeats over HTTP, by what became of them", ["result"])
_STORED, REFUSED, _NOT_STORED = (HEARTBEATS.labels(r) for r in ("stored", "refused", "not_stored"))
WAITING = Gauge("registry_heartbeats_waiting", "Heartbeats that wait for the broker's answer")
STORE_SECONDS = Histogram(
    "registry_store_seconds",
    "Time the broker takes to store what goes out together",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)

PENDING.labels(streams.SERVICES)
_DELETED = ServiceDeleted.model_fields["type"].default
_PLAIN, _PLAIN_BY_KEY = header_block(OVER_HTTP), header_block(BY_KEY)
_DIGEST = 16
RETRY_AFTER = 2
"""Seconds a client should wait after a 503, or until the broker has taken what waits of it."""


def _count(stored: int, not_stored: int, took: float | None) -> None:
    _STORED.inc(stored)
    _NOT_STORED.inc(not_stored)
    if took is not None:
        STORE_SECONDS.observe(took)


class KnownNames:
    """Follows the configuration events. Names let in count before the monitor registers them. It does
    so also when others have taken the last places meanwhile: what was answered with 200 is registered."""

    def __init__(self, limit: int, tokens: tuple[SecretStr, ...] = ()) -> None:
        """`tokens`: where one is also a key or an alias, it is the token."""
        self._limit = limit
        self._registered: dict[str, bytes] = {}
        """Each with the digests of its keys."""
        self._of_key: dict[bytes, str] = {}
        """By the digest of a key, so that how long a search takes says nothing about a key."""
        self._secret = token_bytes(32)
        self._tokens = {self._digest(form) for token in tokens for form in forms(token)}
        self._let_in: set[str] = set()
        """Those that are not registered yet."""
        self.is_complete = False
        """Whether all that the record holds were read. Until then one that is not found may be there."""

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

    def of_key(self, given: str) -> str | None:
        """The service that a ping key or an alias leads to; None as well while events may be missed, for one
        of them may have ended it."""
        return self._of_key.get(self._digest(given)) if self.is_complete else None

    def is_registered(self, name: str) -> bool:
        return name in self._registered

    def registered(self, name: str, keys: str = "") -> None:
        """`keys`: its ping key and aliases, with blanks between. What leads to another service stays so."""
        self.deleted(name)
        digests = [self._digest(key) for key in keys.split()]
        self._registered[name] = b"".join(digests)
        for digest in digests:
            if digest not in self._tokens:
                self._of_key.setdefault(digest, name)

    def deleted(self, name: str) -> None:
        self._let_in.discard(name)
        digests = self._registered.pop(name, b"")
        for start in range(0, len(digests), _DIGEST):
            if self._of_key.get(digest := digests[start : start + _DIGEST]) == name:
                del self._of_key[digest]

    def _digest(self, key: str) -> bytes:
        written = ping_keys.canonical(key).encode(errors="surrogatepass")  # JSON may hold half a character
        return blake2b(written, digest_size=_DIGEST, key=self._secret).digest()

    async def follow(self, link: BrokerConnection) -> None:
        """Keep up with the events, for ever. Begins with nothing: the streams may have been replaced."""
        link.on_lost.append(self._fall_behind)
        try:
            await self._follow(link)
        finally:
            link.on_lost.remove(self._fall_behind)
            self._fall_behind()

    def _fall_behind(self) -> None:
        self.is_complete = False

    async def _follow(self, link: BrokerConnection) -> None:
        self._registered.clear()
        self._of_key.clear()
        self._let_in.clear()
        reader = Reader(
            link, streams.SERVICES, streams.ALL_CONFIG, newest_per_subject=True, headers_only=True
        )
        async for batch in reader.batches():
            PENDING.labels(streams.SERVICES).set(reader.pending or 0)
            for message in batch:
                name = streams.name_in(message.subject)
                headers = message.headers or {}
                if headers.get(streams.TYPE_HEADER) == _DELETED:
                    self.deleted(name)
                else:
                    self.registered(name, headers.get(streams.KEYS_HEADER, ""))
            self.is_complete = self.is_complete or (link.up and not reader.pending)


class HeartbeatStore:
    """Lets heartbeats through to the broker, or says why not."""

    def __init__(self, batches: BatchPublisher, names: KnownNames, availability: Availability) -> None:
        self._batches = batches
        self._availability = availability
        batches.on_end = _count
        WAITING.set_function(lambda: batches.backlog.messages)
        self.names = names

    async def store(
        self,
        name: str,
        headers: dict[str, str],
        payload: bytes,
        sender: str | None = None,
        by_key: bool = False,
    ) -> None:
        """Return once the broker has stored it. Raises Problem 422, 429, 503. `headers`: its signal.
        `sender`: the stranger who sends it, and has no more than a share of what may wait; None: nobody is
        counted. `by_key`: a key named the service, so nothing is to be registered."""
        if not valid_name(name):
            REFUSED.inc()
            raise bad_name(name)
        message = _message(name, headers, payload, by_key)
        known = self._admit(name)
        try:
            await self._batches.store((message,), sender)
        except BrokerError as error:
            if not known:
                self.names.forget(name)
            raise self.not_stored(error) from None

    def add(self, name: str, done: OnStored, sender: str | None = None, by_key: bool = False) -> None:
        """Store a plain heartbeat of a valid name, and call `done`. Raises Problem 429 without calling it.
        `sender`, `by_key`: as for `store`."""
        if not self._admit(name):
            answer = done

            def done(error: BrokerError | None) -> None:
                if error:
                    self.names.forget(name)
                answer(error)

        headers = _PLAIN_BY_KEY if by_key else _PLAIN
        self._batches.enqueue((StreamMessage(streams.heartbeat(name), headers, b""),), done, sender)

    def _admit(self, name: str) -> bool:
        """Whether it was known before. Raises Problem 429 if there is no room for it."""
        if name in self.names:
            return True
        if not self.names.admit(name):
            REFUSED.inc()
            raise _limit_reached()
        return False

    def unknown_yet(self) -> Problem:
        """The answer where a name or a key is not found that may be there."""
        return self.not_stored(NotStored("the services' names and keys are not read yet"))

    def not_stored(self, error: BrokerError, count: int = 1) -> Problem:
        """The answer for so many heartbeats that `error` has cost."""
        if isinstance(error, TooLarge):
            return Problem(413, str(error))
        if isinstance(error, ShareExhausted):
            REFUSED.inc(count)
            return Problem(429, str(error), retry_after=RETRY_AFTER)
        self._availability.refused(f"a heartbeat was not stored: {error}")
        return Problem(503, f"not stored: {error}", retry_after=RETRY_AFTER)

    async def store_all(
        self, names: Sequence[str], headers: dict[str, str] | None = None, sender: str | None = None
    ) -> dict[str, Any]:
        """Store one heartbeat per name, all of them valid, a group after the other: no batch takes more room
        than that, and what came meanwhile goes in between. Raises Problem 429 or 503 if none of them was
        stored. `sender`: as for `store`."""
        said = header_block(OVER_HTTP | headers) if headers else _PLAIN
        rejected: list[dict[str, Any]] = []
        good: list[str] = []
        new: set[str] = set()
        for name in names:
            if name not in self.names:
                new.add(name)
            if self.names.admit(name):
                good.append(name)
            else:
                rejected.append({"service": name, "reason": _limit_reached().detail})
        REFUSED.inc(len(rejected))
        for start in range(0, len(good), GROUP_MAX):
            part = good[start : start + GROUP_MAX]
            try:
                await self._batches.store(
                    [StreamMessage(streams.heartbeat(name), said, b"") for name in part], sender
                )
            except BrokerError as error:
                left = good[start:]
                problem = self.not_stored(error, len(left))
                if not isinstance(error, ShareExhausted):
                    _NOT_STORED.inc(len(left) - len(part))
                for name in new.intersection(left):
                    self.names.forget(name)
                if not start:
                    raise problem from None
                rejected += ({"service": name, "reason": problem.detail} for name in left)
                return {"accepted": start, "rejected": rejected}
        return {"accepted": len(good), "rejected": rejected}


def _limit_reached() -> Problem:
    return Problem(429, LIMIT_REACHED, retry_after=LIMIT_RETRY_AFTER)


def _message(name: str, headers: dict[str, str], payload: bytes, by_key: bool = False) -> StreamMessage:
    said = header_block((BY_KEY if by_key else OVER_HTTP) | headers)
    return StreamMessage(streams.heartbeat(name), said, payload)
