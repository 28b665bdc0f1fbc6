"""How far each chat has come, in the broker's KV. Each record has one writer, and the broker sees to it."""

import secrets
from collections import ChainMap
from contextlib import suppress
from datetime import date, datetime
from enum import StrEnum
from functools import partial
from hashlib import blake2b
from zlib import crc32

import structlog
from nats.errors import Error as NatsError
from nats.js.errors import KeyNotFoundError
from nats.js.kv import KeyValue
from pydantic import BaseModel, TypeAdapter, ValidationError

from services.notifier.alerting.changes import Deafness, Notice
from services.notifier.alerting.policy import FlapState, Withheld
from shared.domain.routing import Choice
from shared.messaging.connection import retry_until_done
from shared.messaging.kv_record import KvRecord

log = structlog.get_logger()

MAX_THREADS = 200
"""Services that are down whose message is remembered per receiver, to be replied to."""
MAX_TURNS = 500
"""Services that are not flapping yet whose turns are remembered per receiver across a restart."""
MAX_INLINE, PARTS = 1_000, 64
"""So many services are stored in the state itself; more are divided into parts."""


class MessageKind(StrEnum):
    """What a message is made of."""

    DEAFNESS = "deafness"
    DIGEST = "digest"
    CHANGES = "changes"
    OWED = "owed"
    REMINDERS = "reminders"
    RUNS = "runs"


class Intent(BaseModel, frozen=True):
    """What is being sent: the changes up to `through` (of the services `names`), the digest of a date,
    reminders up to a moment, what was owed, unusual runs up to the sequence `runs` of theirs, or that the
    registry is deaf or has been."""

    through: int
    names: tuple[str, ...] = ()
    digest: date | None = None
    weekly: bool = False
    notices: datetime | None = None
    owed: tuple[Notice, ...] = ()
    deaf: Deafness | None = None
    runs: int = 0

    @property
    def of(self) -> MessageKind:
        if self.deaf:
            return MessageKind.DEAFNESS
        if self.digest:
            return MessageKind.DIGEST
        if self.owed:
            return MessageKind.OWED
        if self.runs:
            return MessageKind.RUNS
        return MessageKind.REMINDERS if self.notices else MessageKind.CHANGES

    def message_id(self, through: int, runs: int = 0) -> str:
        """The same when it is sent again. `through`: the newest change that the message tells of; `runs`: the
        newest unusual run."""
        match self.of:
            case MessageKind.DEAFNESS:
                assert self.deaf
                end = f".{self.deaf.until.isoformat()}" if self.deaf.until else ""
                return f"deaf.{self.deaf.since.isoformat()}{end}"
            case MessageKind.DIGEST:
                return f"{'weekly' if self.weekly else 'digest'}.{self.digest}"
            case MessageKind.OWED:
                told = sorted((it.name, it.seq, it.kind, it.at.isoformat()) for it in self.owed)
                return f"owed.{blake2b(repr(told).encode(), digest_size=12).hexdigest()}"
            case MessageKind.REMINDERS:
                assert self.notices
                return f"notices.{self.notices.isoformat()}"
            case MessageKind.RUNS:
                return f"runs.{runs}"
            case MessageKind.CHANGES:
                return f"changes.{through}"


class ReceiverState(BaseModel, frozen=True):
    """How far one receiver has come, as it is stored. What is None is not known, or not so."""

    done: int
    """Every change up to this sequence has reached it, or is in `owed`."""
    sending: Intent | None = None
    """The message that may have been sent."""
    digest: date | None = None
    weekly: date | None = None
    """The days of the newest digests, daily and weekly. When it begins, those that were due before."""
    digest_sent: date | None = None
    """The day of the newest one that was sent."""
    notices: datetime | None = None
    """Until when reminders are done with."""
    off: str | None = None
    off_since: datetime | None = None
    """Why it refuses messages, as it seems for good, and since when."""
    delivered_at: datetime | None = None
    error: str | None = None
    error_at: datetime | None = None
    """When a message arrived last, why one did not, and when that was, within a minute."""
    chat: str | None = None
    """Its address, if that has changed."""
    threads: dict[str, int] = {}
    """By service that is down, the message that said so."""
    doubted: datetime | None = None
    """When the newest change was due that was sent with the warning that the registry may be cut off."""
    mutes: dict[str, datetime] = {}
    """The services that it has muted, and until when."""
    owed: dict[str, Withheld] = {}
    """What was withheld, by service."""
    owed_parts: tuple[str, ...] = ()
    """The keys at which `owed` and `turns` are stored if they are many."""
    turns: dict[str, FlapState] = {}
    """The services that are flapping, or may be soon."""
    shown: tuple[int, ...] = ()
    """The slots of the messages that are kept up to date; see `shown.py`."""
    deaf_since: datetime | None = None
    """Since when the registry is deaf, if it was told so."""
    heard_until: datetime | None = None
    """Deafness that ended by then was told, or need not be."""
    runs: int | None = None
    """Every unusual run up to this sequence of theirs has reached it, or is not told."""
    runs_since: datetime | None = None
    """What is dated before was told from other records, or happened before it was a receiver of runs."""
    choice: Choice = Choice()
    """Of a subscriber, which services it wants to hear of, and when without sound."""
    by: str = ""
    """Which process wrote it."""


class NotificationLog:
    """One receiver's state, and how it is stored: what is too much for one message of the broker stands in
    parts, each under a key that follows from its content. None is ever changed; the state names them."""

    def __init__(self, bucket: KeyValue, key: str, record: KvRecord, state: ReceiverState) -> None:
        self.key = key
        self.state = state
        self.bucket = bucket
        self.record = record
        self._parts = state.owed_parts
        self._forgotten = False
        self._by = secrets.token_hex(8)
        """So that no two write the same, and each would take it for its own."""

    async def update(self, **changed: object) -> None:
        """Change a part, whoever else is changing another."""
        async with self.record.lock:
            if not self._forgotten:
                await self.write(self.state.model_copy(update=changed))

    async def update_locally(self, **changed: object) -> None:
        """The same here only; the broker has it with the next update."""
        async with self.record.lock:
            self.state = self.state.model_copy(update=changed)

    async def forget(self) -> None:
        async with self.record.lock:
            self._forgotten = True  # a test message may be on its way still
            for key in (*self._parts, *(f"shown.{self.key}.{slot}" for slot in self.state.shown)):
                await retry_until_done(f"forget {key}", partial(self.bucket.purge, key))
            await self.record.delete()

    async def write(self, state: ReceiverState) -> None:
        """Returns when it is stored."""
        state = state.model_copy(update={"by": self._by})
        stored, parts = _split(self.key, state)
        for key in sorted(parts.keys() - set(self._parts)):
            await retry_until_done(f"record {key}", partial(self.bucket.put, key, parts[key]))
        await self.record.write(stored.model_dump_json().encode())
        self.state = state
        old, self._parts = set(self._parts) - parts.keys(), tuple(parts)
        for key in sorted(old):
            with suppress(NatsError, OSError, TimeoutError):  # what is left lying is in nobody's way
                await self.bucket.purge(key)


class _Part(BaseModel, extra="forbid"):
    owed: dict[str, Withheld] = {}
    turns: dict[str, FlapState] = {}


_STORED_PART: TypeAdapter[_Part | dict[str, Withheld]] = TypeAdapter(_Part | dict[str, Withheld])
"""The latter as it was written before turns stood in it."""


def _split(key: str, state: ReceiverState) -> tuple[ReceiverState, dict[str, bytes]]:
    if len(state.owed) + len(state.turns) <= MAX_INLINE:
        return (state.model_copy(update={"owed_parts": ()}) if state.owed_parts else state), {}
    shares = [_Part(owed={}, turns={}) for _ in range(PARTS)]
    for name in sorted(state.owed):
        shares[_part_of(name)].owed[name] = state.owed[name]
    for name in sorted(state.turns):
        shares[_part_of(name)].turns[name] = state.turns[name]
    contents = [share.model_dump_json().encode() for share in shares]
    parts = {f"owed.{key}.{blake2b(it, digest_size=12).hexdigest()}": it for it in contents}
    return state.model_copy(update={"owed": {}, "turns": {}, "owed_parts": tuple(parts)}), parts


def _part_of(name: str) -> int:
    return crc32(name.encode()) % PARTS


async def _read_part(bucket: KeyValue, key: str) -> _Part:
    """What is lost of it, as when a backup was put back of a moment in which the cursor was written, or
    cannot be read, is owed no more: or the chat would never be told anything again."""
    try:
        payload = (await bucket.get(key)).value or b""
    except KeyNotFoundError:
        log.error("a part of what a chat is owed is lost; what stood in it is not told", part=key)
        return _Part()
    try:
        found = _STORED_PART.validate_json(payload)
    except ValidationError as error:
        log.error("a part of what a chat is owed cannot be read", part=key, why=str(error)[:300])
        return _Part()
    return found if isinstance(found, _Part) else _Part(owed=found)


async def load(bucket: KeyValue, key: str, fresh: ReceiverState) -> NotificationLog:
    """The stored state, or a new one that starts as `fresh`."""
    record = KvRecord(bucket, key)
    content = await record.read()
    if content is None:
        new = NotificationLog(bucket, key, record, fresh)
        await new.write(fresh)
        return new
    state = ReceiverState.model_validate_json(content)
    parts: list[_Part] = [
        await retry_until_done(f"read {part}", partial(_read_part, bucket, part)) for part in state.owed_parts
    ]
    owed = dict(ChainMap(state.owed, *(part.owed for part in parts)))
    turns = dict(ChainMap(state.turns, *(part.turns for part in parts)))
    return NotificationLog(bucket, key, record, state.model_copy(update={"owed": owed, "turns": turns}))
