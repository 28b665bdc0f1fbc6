"""The API's own secrets, random and kept in the broker: what signs sessions and badges, and which sessions
were ended. All APIs share them, and none follows from a token."""

import asyncio
import secrets
import time
from contextlib import aclosing

import structlog
from nats.errors import Error as NatsError
from nats.js.errors import KeyWrongLastSequenceError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.messaging import streams
from shared.messaging.connection import STORE_TIMEOUT, BrokerConnection, retry_until_done
from shared.messaging.errors import NotStored
from shared.messaging.kv_record import KvRecord
from shared.messaging.reader import Reader, Stored

log = structlog.get_logger()

MAX_ENDED = 5_000
"""Ended sessions that are remembered until they would have run out; one more ends them all."""

_KEY = "keys"


def _random() -> str:
    return secrets.token_hex(32)


class Keys(BaseModel):
    """`ended`: when each session that was logged out would have run out, in seconds since 1970."""

    model_config = ConfigDict(frozen=True)

    session: str = Field(default_factory=_random, min_length=32)
    badge: str = Field(default_factory=_random, min_length=32)
    ended: dict[str, int] = {}

    def without(self, session_id: str, until: int, now: int) -> "Keys":
        """The keys once a session has been ended that would have lasted until `until`."""
        ended = {id_: end for id_, end in self.ended.items() if end > now} | {session_id: until}
        if len(ended) > MAX_ENDED:
            return self.model_copy(update={"session": _random(), "ended": {}})
        return self.model_copy(update={"ended": ended})


class Keyring:
    """`read` first, then `follow` for ever. Until they are read nobody is logged in."""

    _record: KvRecord

    def __init__(self, link: BrokerConnection) -> None:
        self._link = link
        self.keys: Keys | None = None

    async def read(self) -> None:
        """Read the keys; the first API ever makes them."""
        self._record = KvRecord(await self._link.bucket(streams.API_BUCKET), _KEY)
        await retry_until_done("read the keys of sessions", self._read_or_make)

    async def follow(self) -> None:
        """Keep up with what other APIs write."""
        subject = f"$KV.{streams.API_BUCKET}.{_KEY}"
        reader = Reader(self._link, f"KV_{streams.API_BUCKET}", subject, newest_per_subject=True)
        async with aclosing(reader.batches()) as batches:
            async for batch in batches:
                for message in batch:
                    self._apply(message)

    async def end_session(self, session_id: str, until: int) -> None:
        """Return when every API will refuse this session. Raises NotStored; this one refuses it anyway."""
        async with self._record.lock:
            for _ in range(10):
                assert self.keys
                self.keys = self.keys.without(session_id, until, int(time.time()))
                try:
                    async with asyncio.timeout(STORE_TIMEOUT):
                        return await self._record.write_once(self.keys.model_dump_json().encode())
                except KeyWrongLastSequenceError:
                    await self._read_or_make()
                except (NatsError, OSError, TimeoutError) as error:
                    raise NotStored(str(error) or repr(error)) from None
            raise NotStored("others write the same record all the time")

    def _apply(self, message: Stored) -> None:
        if message.seq <= self._record.revision or (message.headers or {}).get("KV-Operation"):
            return
        try:
            keys = Keys.model_validate_json(message.data)
        except ValidationError:
            log.warning("the keys of sessions cannot be read", sequence=message.seq)
            return
        self._record.revision, self.keys = message.seq, keys

    async def _read_or_make(self) -> None:
        content = await self._record.read_once()
        if content is not None:
            try:
                self.keys = Keys.model_validate_json(content)
                return
            except ValidationError:
                log.warning("the keys of sessions cannot be read; making new ones")
        keys = self.keys or Keys()  # of before the bucket was emptied
        try:
            await self._record.write_once(keys.model_dump_json().encode())
        except KeyWrongLastSequenceError as error:  # another API was faster
            raise NotStored(str(error)) from None
        self.keys = keys
