"""How far each chat has come, in the broker's KV. Each record has one writer, and the broker sees to it."""

import asyncio
from collections.abc import Callable
from datetime import date, datetime

from nats.errors import Error as NatsError
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue
from pydantic import BaseModel, ConfigDict

from shared.broker import until_done

MOST_THREADS = 200
"""Open falls whose message is remembered per chat, to be replied to."""


class Superseded(Exception):
    """Somebody else writes this record: a second notifier runs."""


class Sending(BaseModel):
    """What is being sent: the changes up to `through`, the digest of a date, or notices up to a moment."""

    model_config = ConfigDict(frozen=True)

    through: int
    digest: date | None = None
    weekly: bool = False
    notices: datetime | None = None


class Cursor(BaseModel):
    """`done`: every change up to here has reached the chat. `sending`: what may have, if set. `digest`,
    `weekly`: of which date the newest was. `notices`: up to when reminders have. `doubted`: since when the
    newest change holds that the chat was told of and that the registry doubted. `mutes`: the services that
    the chat does not want to hear of, and until when."""

    model_config = ConfigDict(frozen=True)

    done: int
    sending: Sending | None = None
    digest: date | None = None
    weekly: date | None = None
    notices: datetime | None = None
    off: str | None = None
    chat: str | None = None
    threads: dict[str, int] = {}
    doubted: datetime | None = None
    mutes: dict[str, datetime] = {}


class Record:
    """One cursor as it stands in the broker. `write` returns when it is stored."""

    def __init__(self, bucket: KeyValue, key: str, cursor: Cursor, revision: int) -> None:
        self._bucket = bucket
        self._key = key
        self._revision = revision
        self._writing = asyncio.Lock()
        self.cursor = cursor
        self.on_write: Callable[[Exception | None], None] = lambda _: None
        """Is told why an attempt to store it failed; None: it is stored."""

    async def update(self, **changed: object) -> None:
        """Change a part, whoever else is changing another."""
        async with self._writing:
            await self.write(self.cursor.model_copy(update=changed))

    async def forget(self) -> None:
        async with self._writing:
            await until_done(f"forget the record {self._key}", lambda: self._bucket.delete(self._key))

    async def write(self, cursor: Cursor) -> None:
        payload = cursor.model_dump_json().encode()
        self._revision = await until_done(f"record {self._key}", lambda: self._store(payload))
        self.cursor = cursor

    async def _store(self, payload: bytes) -> int:
        try:
            revision = await self._bucket.update(self._key, payload, last=self._revision)
        except KeyWrongLastSequenceError:
            found = await self._bucket.get(self._key)
            if found.value == payload and found.revision:  # an earlier attempt was stored after all
                self.on_write(None)
                return found.revision
            raise Superseded(f"the record {self._key} was changed by somebody else") from None
        except (NatsError, OSError, TimeoutError) as error:
            self.on_write(error)
            raise
        self.on_write(None)
        return revision


async def load(bucket: KeyValue, key: str, fresh: Cursor) -> Record:
    """The stored record, or a new one that starts as `fresh`."""

    async def attempt() -> Record:
        try:
            found = await bucket.get(key)
        except KeyNotFoundError as gone:
            forgotten = gone.entry.revision if gone.entry else None  # it is written after its own deletion
            return Record(bucket, key, fresh, forgotten or 0)
        return Record(bucket, key, Cursor.model_validate_json(found.value or b""), found.revision or 0)

    record: Record = await until_done(f"read the record {key}", attempt)
    if record.cursor is fresh:
        await record.write(fresh)
    return record
