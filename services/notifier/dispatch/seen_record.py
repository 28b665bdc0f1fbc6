"""Which record of events the receivers' states are of, noted beside them in the broker's KV: it may become
another one while no notifier runs, or while this one stands by."""

import asyncio
from contextlib import suppress

import structlog
from nats.errors import Error as NatsError
from nats.js.kv import KeyValue
from pydantic import BaseModel, ConfigDict, ValidationError

from services.notifier.kv_record import KvRecord
from shared.messaging import streams
from shared.messaging.record_watch import RecordWatch
from shared.messaging.stream_identity import Marks, StreamMark

log = structlog.get_logger()

KEY = "record"
NOTE_INTERVAL = 10.0
"""Seconds between two notes."""


class SeenRecord(BaseModel):
    """`events`: the stream SERVICES as it was. `seen_at`: the broker's time of that, microseconds."""

    model_config = ConfigDict(frozen=True)

    events: StreamMark
    seen_at: int


async def load_seen_record(bucket: KeyValue) -> SeenRecord | None:
    """None: nobody has noted it yet."""
    content = await KvRecord(bucket, KEY).read()
    if content is None:
        return None
    try:
        return SeenRecord.model_validate_json(content)
    except ValidationError as error:
        log.warning("of which record the cursors are cannot be read", why=str(error))
        return None


class RecordNotes:
    """`note` whenever the record has been looked at."""

    def __init__(self, watch: RecordWatch, bucket: KeyValue) -> None:
        self._watch = watch
        self._bucket = bucket
        self._noted_at = float("-inf")

    async def note(self, marks: Marks) -> None:
        """Once in a while. If the broker does not store it, the next note says more."""
        clock = asyncio.get_running_loop().time()
        if clock > self._noted_at + NOTE_INTERVAL:
            self._noted_at = clock
            seen = SeenRecord(events=marks[streams.SERVICES], seen_at=self._watch.seen_at)
            with suppress(NatsError, OSError, TimeoutError):
                await self._bucket.put(KEY, seen.model_dump_json().encode())
