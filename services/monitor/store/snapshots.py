"""Saves the monitor's state, a few buckets behind each tick, and loads it at the start.

Each bucket has a checkpoint, which says how far it goes, and the position says what each bucket must contain
to go as far as the position. So two monitors may write the same buckets, and any mixture of theirs can be
loaded.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import structlog
from nats.errors import Error as NatsError
from prometheus_client import Counter

from services.monitor.domain import buckets
from services.monitor.domain.epochs import Epoch
from services.monitor.domain.service import MonitoredService
from services.monitor.store import snapshot_codec
from services.monitor.store.event_store import EventStore
from services.monitor.store.snapshot_codec import Bucket, Checkpoint, SnapshotPosition
from shared.domain.coverage import Coverage
from shared.messaging.record_watch import RECORD

log = structlog.get_logger()

WRITES = Counter(
    "registry_snapshot_writes_total", "Parts of snapshots, by whether they were stored", ["result"]
)
_STORED, _FAILED = WRITES.labels("stored"), WRITES.labels("failed")

BUCKETS_AT_ONCE = 16
"""Buckets saved behind one tick, at most, not counting empty ones."""
BYTES_AT_ONCE = 8 << 20
NOTHING = Checkpoint(-1, -1)
"""The checkpoint of a bucket that has to be saved even if it is empty: nobody knows what is stored there."""


@dataclass
class LoadedSnapshot:
    """A snapshot as it was loaded. `reach`: from where both streams are to be read. `epochs`: the beginning
    of the epoch that each bucket's services use."""

    reach: Checkpoint = snapshot_codec.BEGINNING
    coverage: Coverage = field(default_factory=Coverage)
    services: list[MonitoredService] = field(default_factory=list)
    epochs: list[int] = field(default_factory=lambda: [0] * buckets.BUCKETS)


class Snapshots:
    def __init__(
        self, event_store: EventStore, bucket: Callable[[int, Checkpoint, Coverage], Bucket]
    ) -> None:
        """`bucket`: one bucket as it is right now."""
        self._event_store = event_store
        self._bucket = bucket
        self.discard()
        self._round: list[int] = []
        self._position: SnapshotPosition | None = None
        """The position of the round that is being saved; None: none is."""
        self._streams: list[str] = []
        self._saving: asyncio.Task[None] | None = None

    def discard(self) -> None:
        """Nothing of a snapshot is used; everything has to be saved again."""
        self.beats = [0] * buckets.BUCKETS
        """The newest heartbeat of each bucket that has been applied."""
        self.events = [0] * buckets.BUCKETS
        """The same for events."""
        self.configured = [0] * buckets.BUCKETS
        """Up to which event the configuration had been applied when each bucket was saved that was loaded."""
        self._saved = [NOTHING] * buckets.BUCKETS

    def save_everything(self) -> None:
        """The snapshot that was saved is gone: everything has to be saved again, in a new round."""
        self._saved = [NOTHING] * buckets.BUCKETS
        self._position = None

    async def are_before_epochs(self) -> bool:
        """Whether a version without epochs saved the newest snapshot. Raises nats' errors."""
        return snapshot_codec.is_before_epochs(await self._event_store.load("position"))

    async def load(self, epochs: list[Epoch]) -> LoadedSnapshot:
        """An empty one if none of these streams can be read. Raises NotStored, or nats' errors."""
        self._streams = await self._event_store.identity()
        payload = await self._event_store.load("position")
        try:
            if payload:
                return await self._load_buckets(SnapshotPosition.load(payload), epochs)
        except ValueError as error:
            log.warning("the snapshot is not used; reading everything again", why=str(error))
            # Or these streams, as they grow, might look like those it is of.
            await self._event_store.save("position", b"")
        self.discard()
        return LoadedSnapshot()

    async def _load_buckets(self, position: SnapshotPosition, epochs: list[Epoch]) -> LoadedSnapshot:
        """ValueError: it is not of these streams."""
        if position.streams != self._streams:
            raise ValueError("it is of other streams")
        if why := await self._event_store.differs(position.marks):
            raise ValueError(why)
        loaded = LoadedSnapshot(position.reach, position.coverage)
        reaches, furthest, proved_until = [position.reach], [position.reach], position.reach.heartbeats
        self.beats, self.events = position.beats, position.events
        for bucket in range(buckets.BUCKETS):
            found = await self._load_bucket(bucket, epochs)
            reaches.append(position.holds(bucket, found.reach))
            if reaches[-1].heartbeats < proved_until:
                proved_until, loaded.coverage = found.reach.heartbeats, found.coverage
            furthest.append(found.reach)
            self.configured[bucket] = found.configured
            loaded.epochs[bucket] = found.epoch
            for service in found.services:
                service.bucket = bucket
            loaded.services += found.services
        loaded.reach = snapshot_codec.oldest(reaches)
        for stream, seq in zip(RECORD, snapshot_codec.newest(furthest), strict=True):
            if seq > (await self._event_store.end(stream))[0]:
                raise ValueError(f"the stream {stream} is shorter than the snapshot")
        return loaded

    async def _load_bucket(self, bucket: int, epochs: list[Epoch]) -> Bucket:
        part = await self._event_store.load(f"bucket.{bucket}")
        try:
            if part:
                found = snapshot_codec.load(part, epochs)
                self._saved[bucket] = found.reach
                return found
        except ValueError as error:
            log.warning("a part of the snapshot is not used", bucket=bucket, why=str(error))
        self._saved[bucket] = NOTHING
        return Bucket()

    def touch(self, bucket: int, event: int) -> None:
        """An event of this bucket was applied."""
        self.events[bucket] = max(self.events[bucket], event)

    def save_some(self, reach: Checkpoint, coverage: Coverage) -> None:
        """Behind a tick, with how far the state goes: save a few of the buckets that changed, in the
        background, and the position after the last of a round."""
        if self._saving is not None and not self._saving.done():
            return
        coverage = replace(coverage, gaps=list(coverage.gaps))  # as it is now
        if self._position is None:
            newest = zip(self._saved, self.beats, self.events, strict=True)
            self._round = [bucket for bucket, (saved, *seqs) in enumerate(newest) if not saved.covers(*seqs)]
            if not self._round:
                return
            beats, events, marks = list(self.beats), list(self.events), self._event_store.marks()
            self._position = SnapshotPosition(self._streams, reach, coverage, beats, events, marks)
        self._saving = asyncio.create_task(self._save(reach, coverage))

    async def _save(self, reach: Checkpoint, coverage: Coverage) -> None:
        if self._position is None:
            return  # everything has to be saved again since this was begun
        size = count = 0
        try:
            while self._round and size < BYTES_AT_ONCE and count < BUCKETS_AT_ONCE:
                number, saved = self._round[0], self._saved
                bucket = self._bucket(number, reach, coverage)
                part = snapshot_codec.dump(bucket)
                await self._event_store.save(f"bucket.{number}", part)
                if saved is not self._saved:
                    return  # everything has to be saved again
                _STORED.inc()
                self._saved[number] = reach
                del self._round[0]
                size, count = size + len(part), count + bool(bucket.services)
            if not self._round and self._position:
                await self._event_store.save("position", self._position.dump())
                self._position = None
        except (NatsError, OSError, TimeoutError) as error:
            _FAILED.inc()
            log.warning("snapshot not saved; trying again", error=str(error) or repr(error))
