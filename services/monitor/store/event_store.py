"""The streams as the monitor uses them: all that it asks of the broker."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog
from nats.errors import Error as NatsError
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue
from prometheus_client import Counter

from shared.contracts.events import ConfigEvent, Fact, StatusChanged, keys_of
from shared.messaging import queries, streams
from shared.messaging.connection import BrokerConnection, version_to_follow
from shared.messaging.errors import BrokerError, Unreadable
from shared.messaging.publisher import Ack, Publisher
from shared.messaging.reader import Reader, Stored
from shared.messaging.record_watch import RECORD, Comparison, Marks, StreamMark, check_stream

log = structlog.get_logger()

MALFORMED = Counter("registry_malformed_messages_total", "Messages passed over", ["kind"])
for _kind in ("heartbeat", "tick", "event"):
    MALFORMED.labels(_kind)

MAX_LOGGED_PER_MINUTE = 100
"""Lines in the log, for all services together."""
MAX_WAITING = 100


class EventStore:
    """Reading, appending, and the snapshots. Methods that wait raise NotStored, or nats' own errors, if the
    broker is away or does not answer; it may have done what it was asked for all the same."""

    def __init__(
        self,
        link: BrokerConnection,
        publisher: Publisher,
        snapshots: KeyValue,
        marks: Callable[[], Marks] = dict,
    ) -> None:
        """`marks`: the streams as they were when they were checked last."""
        self._link, self._publisher = link, publisher
        self._snapshots, self._marks = snapshots, marks

    def reader(self, stream: str, *subjects: str, after: int = 0, newest_per_subject: bool = False) -> Reader:
        """A reader of what comes after a sequence; `batches()` of it never end."""
        return Reader(self._link, stream, *subjects, after=after, newest_per_subject=newest_per_subject)

    async def end(self, stream: str) -> tuple[int, int]:
        """The last sequence (of the events: that of the newest that is still there), and the broker's time of
        an answer before that, in microseconds."""
        if stream == streams.SERVICES:
            return await queries.newest_event(self._link)
        return await queries.last_sequence(self._link, stream)

    async def identity(self) -> list[str]:
        """What tells these streams from others of the same names: when they were created."""
        return [await queries.created(self._link, stream) for stream in RECORD]

    def marks(self) -> list[StreamMark]:
        """What else tells them, as it was a moment ago; heartbeats first."""
        found = self._marks()
        return [found[stream] for stream in RECORD if stream in found]

    async def differs(self, marks: list[StreamMark]) -> str | None:
        """Why the streams are not those of the marks, although they were created at the same time."""
        for stream, mark in zip(RECORD, marks, strict=False):
            verdict, _ = await check_stream(self._link, stream, mark)
            if verdict is not Comparison.SAME:
                return f"{stream}: {verdict.value}"
        return None

    async def newest_event(self, subject: str) -> Stored | None:
        return await queries.newest(self._link, streams.stream_of(subject), subject)

    async def event_before(self, subject: str, seq: int) -> Stored | None:
        """The newest before a sequence; None also if nobody can say what it was."""
        try:
            return await queries.newest_before(self._link, streams.SERVICES, subject, seq)
        except Unreadable:
            return None

    async def oldest_heartbeat(self, name: str) -> Stored | None:
        """The oldest that the broker still keeps of this service."""
        return await queries.first(self._link, streams.HEARTBEATS, streams.heartbeat(name))

    async def append(self, subject: str, event: StatusChanged | ConfigEvent | Fact, after: int) -> Ack:
        """Store an event if `after` is still its subject's last sequence (0: none yet), or WrongSequence."""
        event_id = event.id
        while True:
            ack = await self._publisher.append(
                subject,
                event.to_bytes(),
                after=after,
                event_id=event_id,
                kind=event.type,
                keys=keys_of(event),
            )
            if not ack.duplicate or await queries.message_at(self._link, streams.stream_of(subject), ack.seq):
                return ack
            event_id += f"-{ack.seq}"  # it was removed: the broker remembers ids longer than messages

    async def load(self, key: str) -> bytes | None:
        """One of the snapshot's parts; None if there is none."""
        return (await self.load_versioned(key))[0]

    async def load_versioned(self, key: str) -> tuple[bytes | None, int]:
        """The same with its version, for `replace`; version 0: there is none."""
        try:
            entry = await self._snapshots.get(key)
        except KeyNotFoundError as missing:
            return None, version_to_follow(missing)
        return entry.value, entry.revision or 0

    async def save(self, key: str, part: bytes) -> None:
        await self._snapshots.put(key, part)

    async def replace(self, key: str, part: bytes, version: int) -> bool:
        """Save it unless somebody else has written after that version. Whether it was saved."""
        try:
            await self._snapshots.update(key, part, last=version)
        except KeyWrongLastSequenceError:
            return False
        return True

    async def publish_dead_letter(self, message: Stored, why: str) -> None:
        """Store what cannot be read in a stream of its own."""
        headers: dict[str, str] = {
            "Nats-Msg-Id": f"{message.subject[:100].encode().hex()}-{message.seq}",
            "Registry-Subject": streams.printable(message.subject),
            "Registry-Sequence": str(message.seq),
            "Registry-Reason": streams.printable(why),
        }
        await self._publisher.publish(streams.ASIDE_SUBJECT, message.data[: streams.ASIDE_SIZE_MAX], headers)


class DeadLetters:
    """Messages that cannot be read: counted, logged, and kept where an operator can look at them. `run`
    stores what `add` was given; what is too much for it is only counted."""

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
