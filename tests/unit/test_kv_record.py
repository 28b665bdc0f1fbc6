"""A record that one notifier writes: its own late write is recognised, and somebody else's is refused."""

from typing import cast

import pytest
from nats.errors import TimeoutError as NoAnswer
from nats.js.kv import KeyValue

from shared.messaging.kv_record import KvRecord, Superseded
from tests.notified import Bucket


class Late(Bucket):
    """Stores what it is given, and does not say so the first time."""

    async def update(self, key: str, value: bytes, last: int) -> int:
        revision = await super().update(key, value, last)
        if revision == 1:
            raise NoAnswer
        return revision


async def test_what_was_stored_without_an_answer_is_its_own() -> None:
    bucket, said = Late(), list[Exception | None]()
    record = KvRecord(cast(KeyValue, bucket), "key")
    record.on_write = said.append
    assert await record.read() is None
    await record.write(b"first")
    await record.write(b"second")
    assert (await bucket.get("key")).value == b"second"
    assert [type(it) for it in said] == [NoAnswer, type(None), type(None)]


async def test_what_somebody_else_has_written_is_not_written_over() -> None:
    bucket = Bucket()
    record = KvRecord(cast(KeyValue, bucket), "key")
    await record.read()
    await bucket.put("key", b"other")
    with pytest.raises(Superseded):
        await record.write(b"own")
    assert (await bucket.get("key")).value == b"other"
    assert await record.read() == b"other"
    await record.write(b"own")
    assert (await bucket.get("key")).value == b"own"
