"""The chats that subscribed themselves, in one record of the broker's KV; written by who speaks alone."""

import asyncio
from datetime import datetime

from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue
from pydantic import TypeAdapter

from services.notifier.dispatch.notification_log import Superseded
from shared.messaging.connection import retry_until_done, version_to_follow

KEY = "subscribers"
MAX_SUBSCRIBERS = 1000

_RECORD = TypeAdapter(dict[str, datetime])


class Subscribers:
    """`load`, `claim`, then `add` and `remove`. `since`: from when on each chat has been subscribed."""

    def __init__(self, bucket: KeyValue) -> None:
        self._bucket = bucket
        self._revision = 0
        self._writing = asyncio.Lock()
        self.since: dict[str, datetime] = {}

    async def load(self) -> None:
        async def attempt() -> None:
            try:
                found = await self._bucket.get(KEY)
            except KeyNotFoundError as missing:
                self._revision = version_to_follow(missing)
                return
            self.since, self._revision = _RECORD.validate_json(found.value or b"{}"), found.revision or 0

        await retry_until_done("read the subscribers", attempt)

    async def claim(self, since: dict[str, datetime] | None = None) -> None:
        """Write what is known, or `since`, which is certain. Another notifier that goes on writing is refused
        from then on: neither would know whom the other has added."""
        async with self._writing:
            await self._write(self.since if since is None else since)

    async def add(self, chat: str, since: datetime) -> bool:
        """False: there are too many already."""
        async with self._writing:
            if chat not in self.since and len(self.since) >= MAX_SUBSCRIBERS:
                return False
            await self._write({**self.since, chat: since})
        return True

    async def remove(self, chat: str) -> None:
        async with self._writing:
            await self._write({other: since for other, since in self.since.items() if other != chat})

    async def _write(self, since: dict[str, datetime]) -> None:
        payload = _RECORD.dump_json(since)

        async def attempt() -> int:
            try:
                return await self._bucket.update(KEY, payload, last=self._revision)
            except KeyWrongLastSequenceError:
                found = await self._bucket.get(KEY)
                if found.value == payload and found.revision:  # an earlier attempt was stored after all
                    return found.revision
                raise Superseded("the subscribers were changed by another notifier") from None

        self._revision = await retry_until_done("record the subscribers", attempt)
        self.since = since
