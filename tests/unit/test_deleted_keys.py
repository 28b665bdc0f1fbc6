"""Records in the broker's buckets that somebody has deleted, as with `nats kv del`: written after their
deletion, or whoever needs them would try for ever."""

from typing import cast

import pytest
from nats.js.errors import KeyNotFoundError
from nats.js.kv import KeyValue

from services.monitor.store.event_store import EventStore
from services.notifier.dispatch.receivers import Subscribers
from services.notifier.lease import Lease
from shared.messaging.connection import BrokerConnection
from shared.messaging.kv_record import KvRecord


class Bucket:
    def __init__(self, deleted_at: int | None) -> None:
        self.deleted_at = deleted_at

    async def get(self, key: str) -> KeyValue.Entry:
        if self.deleted_at is None:
            raise KeyNotFoundError
        raise KeyNotFoundError(KeyValue.Entry("bucket", key, None, self.deleted_at, None, None, "DEL"), "DEL")


@pytest.mark.parametrize(("deleted_at", "version"), [(None, 0), (7, 7)])
async def test_a_key_that_was_deleted_is_written_after_its_deletion(
    deleted_at: int | None, version: int
) -> None:
    bucket = cast(KeyValue, Bucket(deleted_at))
    event_store = EventStore.__new__(EventStore)
    event_store._snapshots = bucket
    assert await event_store.load_versioned("epochs") == (None, version)
    record = KvRecord(bucket, "key")
    assert (await record.read(), record.revision) == (None, version)
    lease, subscribers = Lease(cast(BrokerConnection, None), bucket), Subscribers(bucket)
    await subscribers.load()
    assert (subscribers.since, subscribers._record.revision) == ({}, version)
    assert (await lease._record.read(), lease._record.revision) == (None, version)
