"""One record in the broker's KV. Each write names the revision that it follows, so the broker refuses whoever
has not seen the newest one."""

import asyncio
from collections.abc import Callable

from nats.errors import Error as NatsError
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from shared.messaging.connection import retry_until_done, version_to_follow


class Superseded(Exception):
    """Somebody else writes this record, which only one may: a second notifier runs."""


class KvRecord:
    """`read` first. Hold `lock` while the next content is made from the present one and written."""

    def __init__(self, bucket: KeyValue, key: str) -> None:
        self._bucket = bucket
        self._key = key
        self.revision = 0
        self.lock = asyncio.Lock()
        self.on_write: Callable[[Exception | None], None] = lambda _: None
        """Called with why an attempt to write failed; None: it is stored."""

    async def read(self) -> bytes | None:
        """Waits for the broker as long as it takes. None: there is no such record."""
        content: bytes | None = await retry_until_done(f"read the record {self._key}", self.read_once)
        return content

    async def read_once(self) -> bytes | None:
        try:
            found = await self._bucket.get(self._key)
        except KeyNotFoundError as missing:
            self.revision = version_to_follow(missing)
            return None
        self.revision = found.revision or 0
        return found.value or b""

    async def write(self, content: bytes) -> None:
        """Waits for the broker as long as it takes. Raises Superseded."""
        await retry_until_done(f"record {self._key}", lambda: self._try_to_write(content))

    async def write_once(self, content: bytes) -> None:
        """Raises KeyWrongLastSequenceError if somebody else has written it since it was read."""
        self.revision = await self._bucket.update(self._key, content, last=self.revision)

    async def delete(self) -> None:
        await retry_until_done(f"forget the record {self._key}", lambda: self._bucket.delete(self._key))

    async def _try_to_write(self, content: bytes) -> None:
        try:
            await self.write_once(content)
        except KeyWrongLastSequenceError:
            found = await self._bucket.get(self._key)
            if found.value != content or not found.revision:  # else an earlier attempt was stored after all
                raise Superseded(f"the record {self._key} was changed by somebody else") from None
            self.revision = found.revision
        except (NatsError, OSError, TimeoutError) as error:
            self.on_write(error)
            raise
        self.on_write(None)
