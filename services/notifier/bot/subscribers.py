"""The chats that subscribed themselves, in one record of the broker's KV."""

from datetime import datetime

from nats.js.kv import KeyValue
from pydantic import TypeAdapter

from shared.messaging.kv_record import KvRecord

KEY = "subscribers"
MAX_SUBSCRIBERS = 1000

_CONTENT = TypeAdapter(dict[str, datetime])


class Subscribers:
    """`load`, `claim`, then `add` and `remove`. `since`: from when on each chat has been subscribed."""

    def __init__(self, bucket: KeyValue) -> None:
        self._record = KvRecord(bucket, KEY)
        self.since: dict[str, datetime] = {}

    async def load(self) -> None:
        self.since = _CONTENT.validate_json(await self._record.read() or b"{}")

    async def claim(self, since: dict[str, datetime] | None = None) -> None:
        """Write what is known, or `since`, which is certain. Another notifier that goes on writing is refused
        from then on: neither would know whom the other has added."""
        async with self._record.lock:
            await self._write(self.since if since is None else since)

    async def add(self, chat: str, since: datetime) -> bool:
        """False: there are too many already."""
        async with self._record.lock:
            if chat not in self.since and len(self.since) >= MAX_SUBSCRIBERS:
                return False
            await self._write({**self.since, chat: since})
        return True

    async def remove(self, chat: str) -> None:
        async with self._record.lock:
            await self._write({other: since for other, since in self.since.items() if other != chat})

    async def _write(self, since: dict[str, datetime]) -> None:
        await self._record.write(_CONTENT.dump_json(since))
        self.since = since
