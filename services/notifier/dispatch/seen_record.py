"""Which record the cursors are of, beside them in the broker's KV: it may become another one while no
notifier runs, or while this one stands by."""

from contextlib import suppress

import structlog
from nats.errors import Error as NatsError
from nats.js.errors import KeyNotFoundError
from nats.js.kv import KeyValue
from pydantic import BaseModel, ConfigDict, ValidationError

from shared.messaging.connection import retry_until_done
from shared.messaging.stream_identity import StreamMark

log = structlog.get_logger()

KEY = "record"


class SeenRecord(BaseModel):
    """`events`: the stream SERVICES as it was. `seen_at`: the broker's time of that, microseconds."""

    model_config = ConfigDict(frozen=True)

    events: StreamMark
    seen_at: int


async def load(bucket: KeyValue) -> SeenRecord | None:
    """None: nobody has noted it yet."""

    async def attempt() -> SeenRecord | None:
        try:
            found = await bucket.get(KEY)
        except KeyNotFoundError:
            return None
        try:
            return SeenRecord.model_validate_json(found.value or b"")
        except ValidationError as error:
            log.warning("of which record the cursors are cannot be read", why=str(error))
            return None

    return await retry_until_done("read of which record the cursors are", attempt)


async def save(bucket: KeyValue, seen: SeenRecord) -> None:
    """Once: if the broker does not take it, the next one tells more."""
    with suppress(NatsError, OSError, TimeoutError):
        await bucket.put(KEY, seen.model_dump_json().encode())
