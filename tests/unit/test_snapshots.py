"""When a round of snapshots is begun, given up, and begun anew."""

import asyncio
from typing import cast

from services.monitor.domain.buckets import BUCKETS
from services.monitor.store.event_store import EventStore
from services.monitor.store.snapshot_codec import Bucket, Checkpoint
from services.monitor.store.snapshots import Snapshots
from shared.domain.coverage import Coverage
from shared.messaging.record_watch import StreamMark


class Kept:
    """A journal that keeps the parts."""

    def __init__(self) -> None:
        self.parts: dict[str, bytes] = {}

    async def save(self, key: str, part: bytes) -> None:
        self.parts[key] = part

    def marks(self) -> list[StreamMark]:
        return []


async def test_a_round_that_is_overtaken_before_it_runs_is_let_go_and_begun_anew() -> None:
    """As when other defaults begin behind a tick of the same batch."""
    kept = Kept()
    snapshots = Snapshots(cast(EventStore, kept), lambda bucket, reach, coverage: Bucket(reach, coverage))
    snapshots.save_some(Checkpoint(5, 5), Coverage())
    snapshots.save_everything()
    assert snapshots._saving
    await asyncio.wait({snapshots._saving})
    assert snapshots._saving.exception() is None
    assert kept.parts == {}
    snapshots.save_some(Checkpoint(6, 6), Coverage())
    await snapshots._saving
    assert len(kept.parts) == BUCKETS + 1
