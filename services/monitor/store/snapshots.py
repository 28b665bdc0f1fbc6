"""Writing the monitor's state away, bucket by bucket behind the ticks, and reading it at the start.

Each bucket tells how far it goes, and the position what each of them must hold to be good for it. So two
monitors may write the same buckets, however far apart they are, and any mixture of theirs can be read.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass

import structlog
from nats.errors import Error as NatsError
from prometheus_client import Counter

from services.monitor.domain.epochs import Epoch
from services.monitor.domain.lifecycle import MonitoredService
from services.monitor.store import mapping
from services.monitor.store.event_store import EventStore
from services.monitor.store.mapping import Bucket, Checkpoint, SnapshotPosition
from shared.domain.coverage import Coverage

log = structlog.get_logger()

WRITES = Counter(
    "registry_snapshot_writes_total", "Parts of snapshots, by whether they were stored", ["result"]
)
_STORED, _FAILED = WRITES.labels("stored"), WRITES.labels("failed")

BUCKETS_AT_ONCE = 16
"""Written behind one tick, at most, besides empty ones."""
BYTES_AT_ONCE = 8 << 20


NOTHING = Checkpoint(-1, -1)
"""Of a bucket that is to be written even if nothing is in it: who knows what stands there."""


@dataclass(frozen=True)
class LoadedSnapshot:
    """A snapshot as it was read. `reach`: from where both streams are to be read on; `furthest`: how far
    any part of it goes. `epochs`: the moment of the epoch that each bucket's services go by."""

    reach: Checkpoint
    furthest: Checkpoint
    coverage: Coverage
    services: list[MonitoredService]
    epochs: list[int]


class Snapshots:
    def __init__(
        self, event_store: EventStore, state: Callable[[int], tuple[int, int, Collection[MonitoredService]]]
    ) -> None:
        """`state`: up to which event the configuration is taken in, and of a bucket the epoch it goes by and
        its services, right now."""
        self._event_store = event_store
        self._state = state
        self.discard()
        self._round: list[int] = []
        self._position: SnapshotPosition | None = None
        """What the round that is under way is good for; None: none is."""
        self._streams: list[str] = []
        self._saving: asyncio.Task[None] | None = None

    def discard(self) -> None:
        """Nothing that was written is good for anything any more; all is to be written anew."""
        self.beats = [0] * mapping.BUCKETS
        """The newest heartbeat taken in of each bucket."""
        self.events = [0] * mapping.BUCKETS
        """The newest event."""
        self.configured = [0] * mapping.BUCKETS
        """Up to which event the configuration was taken in already where a bucket was loaded from."""
        self._saved = [NOTHING] * mapping.BUCKETS

    def save_everything(self) -> None:
        """What was written is gone: all is to be written anew, and a round that is under way counts for
        nothing."""
        self._saved = [NOTHING] * mapping.BUCKETS
        self._position = None

    async def are_before_epochs(self) -> bool:
        """Whether the version before wrote the newest snapshot. Raises nats' errors."""
        return mapping.is_before_epochs(await self._event_store.load("position"))

    async def load(self, epochs: list[Epoch]) -> LoadedSnapshot | None:
        """None: there is none of these streams that can be read. Raises NotStored, or nats' errors."""
        self._streams = await self._event_store.identity()
        payload = await self._event_store.load("position")
        if not payload:
            return None
        try:
            position = SnapshotPosition.load(payload)
            if position.streams != self._streams:
                raise ValueError("it is of other streams")
            if why := await self._event_store.differs(position.marks):
                raise ValueError(why)
        except ValueError as error:
            log.warning("the snapshot is not used; reading everything again", why=str(error))
            return None
        reaches, furthest, services = [position.reach], [position.reach], list[MonitoredService]()
        bucket_epochs = list[int]()
        oldest = position.reach, position.coverage
        self.beats, self.events = position.beats, position.events
        for bucket in range(mapping.BUCKETS):
            found = await self._load_bucket(bucket, epochs)
            reaches.append(position.holds(bucket, found.reach))
            if reaches[-1].heartbeats < oldest[0].heartbeats:
                oldest = found.reach, found.coverage
            furthest.append(found.reach)
            self.configured[bucket] = found.configured
            bucket_epochs.append(found.epoch)
            for it in found.services:
                it.bucket = bucket
            services += found.services
        return LoadedSnapshot(
            mapping.oldest(reaches), mapping.newest(furthest), oldest[1], services, bucket_epochs
        )

    async def _load_bucket(self, bucket: int, epochs: list[Epoch]) -> Bucket:
        part = await self._event_store.load(f"bucket.{bucket}")
        try:
            if part:
                found = mapping.load(part, epochs)
                self._saved[bucket] = found.reach
                return found
        except ValueError as error:
            log.warning("a part of the snapshot is not used", bucket=bucket, why=str(error))
        self._saved[bucket] = NOTHING
        return Bucket()

    def touch(self, bucket: int, event: int) -> None:
        """An event of this bucket was taken in."""
        self.events[bucket] = max(self.events[bucket], event)

    def save_some(self, reach: Checkpoint, coverage: Coverage) -> None:
        """A few of the buckets that changed, in the background; the last of a round, then the position.

        To be called behind a tick, with how far the state goes.
        """
        if self._saving is not None and not self._saving.done():
            return
        if self._position is None:
            newest = zip(self._saved, self.beats, self.events, strict=True)
            self._round = [bucket for bucket, (saved, *seqs) in enumerate(newest) if not saved.covers(*seqs)]
            if not self._round:
                return
            self._position = SnapshotPosition(
                self._streams,
                reach,
                _copy(coverage),
                list(self.beats),
                list(self.events),
                self._event_store.marks(),
            )
        self._saving = asyncio.create_task(self._save(reach, _copy(coverage)))

    async def _save(self, reach: Checkpoint, coverage: Coverage) -> None:
        if self._position is None:
            return  # everything is to be saved anew, since this was begun
        size = count = 0
        try:
            while self._round and size < BYTES_AT_ONCE and count < BUCKETS_AT_ONCE:
                bucket = self._round[0]
                configured, epoch, services = self._state(bucket)
                part = mapping.dump(Bucket(reach, coverage, configured, epoch, services))
                saved = self._saved
                await self._event_store.save(f"bucket.{bucket}", part)
                if saved is not self._saved:
                    return  # everything is to be saved anew
                _STORED.inc()
                self._saved[bucket] = reach
                del self._round[0]
                size, count = size + len(part), count + bool(services)
            if not self._round and self._position:
                await self._event_store.save("position", self._position.dump())
                self._position = None
        except (NatsError, OSError, TimeoutError) as error:
            _FAILED.inc()
            log.warning("snapshot not saved; trying again", error=str(error) or repr(error))


def _copy(coverage: Coverage) -> Coverage:
    return Coverage(coverage.until, list(coverage.gaps))
