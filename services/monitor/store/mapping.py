"""Between the lifecycle and the streams: events to state and back, and the state's snapshots. Pure."""

import json
import zlib
from array import array
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from services.monitor.domain.epochs import Epoch, bounded_since
from services.monitor.domain.epochs import at as epoch_at
from services.monitor.domain.lifecycle import (
    Beat,
    Change,
    EffectiveThresholds,
    MonitoredService,
    PausedReport,
)
from shared.contracts import events, thresholds
from shared.contracts.events import (
    MICRO,
    ConfigData,
    ConfigEvent,
    Heartbeat,
    ServiceConfig,
    ServiceDeleted,
    ServiceRegistered,
    ServiceResumed,
    ServiceUpdated,
    Signal,
    Status,
    StatusChanged,
    StatusData,
    event_id,
    micros,
    moment,
    status_changed,
)
from shared.contracts.heartbeats import excerpt, shortened
from shared.domain.coverage import Coverage
from shared.messaging.stream_identity import Mark

BUCKETS = 256


def bucket_of(name: str) -> int:
    return zlib.crc32(name.encode()) % BUCKETS


def own_thresholds(config: ServiceConfig) -> tuple[int | None, int | None, int | None]:
    silent, down, dead = (
        value // MICRO if value else None
        for value in (config.silent_after, config.down_after, config.dead_after)
    )
    return silent, down, dead


class ConfigChange(NamedTuple):
    """Of a configuration event, what the monitor goes by. `at`: when it was stored."""

    name: str
    seq: int
    at: int
    deletes: bool
    registers: bool = False
    resumes: bool = False
    registered_at: int = 0
    own: tuple[int | None, int | None, int | None] = (None, None, None)
    every: int = 0
    declared_at: int = 0
    paused: bool = False


def config_change(event: ConfigEvent, seq: int, at: int) -> ConfigChange:
    if isinstance(event, ServiceDeleted):
        return ConfigChange(event.name, seq, at, deletes=True)
    data = event.data
    return ConfigChange(
        event.name,
        seq,
        at,
        deletes=False,
        registers=isinstance(event, ServiceRegistered),
        resumes=isinstance(event, ServiceResumed),
        registered_at=micros(data.registered_at) if data.registered_at else at,
        own=own_thresholds(data.config),
        every=data.config.every // MICRO if data.config.every else 0,
        declared_at=micros(data.declared_at) if data.declared_at else 0,
        paused=data.config.paused,
    )


@lru_cache(maxsize=10_000)
def in_force(own: tuple[int | None, int | None, int | None], every: int, epoch: Epoch) -> EffectiveThresholds:
    reckon = thresholds.in_force if epoch.bounded else thresholds.in_force_before
    return EffectiveThresholds(*reckon(own, every, epoch.default))


def beat(at: int, heartbeat: Heartbeat) -> Beat:
    body = heartbeat.body
    every = body.every // MICRO if body and body.every else 0
    message = excerpt(body.message) if body and body.message else None
    return Beat(at, heartbeat.signal, every, message, heartbeat.exit_code, trace=heartbeat.traceparent)


def to_event(name: str, change: Change) -> StatusChanged:
    data = StatusData(
        from_=change.from_,
        to=change.to,
        since=moment(change.since),
        last_heartbeat=None if change.last_beat is None else moment(change.last_beat),
        reason=change.reason,
        message=change.message,
        duration=None if change.duration is None else change.duration / 1_000_000,
        doubt=events.Doubt(**change.doubt._asdict()) if change.doubt else None,
    )
    return status_changed(name, data, change.trace)


def to_change(event: StatusChanged) -> Change:
    """Of a recorded change, what the lifecycle goes by."""
    data = event.data
    last = None if data.last_heartbeat is None else micros(data.last_heartbeat)
    return Change(data.from_, data.to, micros(data.since), last, data.reason)


def registration(name: str, beat: Beat) -> ServiceRegistered:
    """The event that a first heartbeat makes."""
    time = moment(beat.at)
    return ServiceRegistered(
        id=event_id(name, "registered", time.isoformat()),
        source="/monitor",
        subject=name,
        time=time,
        data=ConfigData(
            config=ServiceConfig(every=beat.every * MICRO if beat.every else None),
            registered_at=time,
            registered_by="heartbeat",
            declared_at=time if beat.every else None,
        ),
    )


def declaration(name: str, beat: Beat, newest: ConfigEvent, stored_at: int) -> ServiceUpdated | None:
    """The event that takes the interval which a beat declares into the newest configuration, stored then.

    None: there is nothing to add, because the newest already knows of this beat, or of what came after it.
    """
    if isinstance(newest, ServiceDeleted) or newest.data.config.every == beat.every * MICRO:
        return None
    time = moment(beat.at)
    registered = newest.data.registered_at or moment(stored_at)
    if registered > time or (newest.data.declared_at and newest.data.declared_at >= time):
        return None
    return ServiceUpdated(
        id=event_id(name, "declared", time.isoformat()),
        source="/monitor",
        subject=name,
        time=time,
        data=newest.data.model_copy(
            update={
                "config": newest.data.config.model_copy(update={"every": beat.every * MICRO}),
                "registered_at": registered,
                "declared_at": time,
            }
        ),
    )


# --- snapshots

FORMAT = 4
FORMAT_BEFORE = 3
"""Can be read, and tells that its monitor wrote down no epochs."""
SAID_MAX = 256 * 1024
"""Bytes of messages in one bucket that paused services have said last. A bucket is one message of the broker,
of mostly 1 MiB; where there are more of them, each is cut to its share."""
_SIGNALS = [Signal.SUCCESS, Signal.START, Signal.FAIL]
"""Those that a service can have been heard with last."""
_STATUSES = list(Status)
_NUMBERS = (
    "registered_at",
    "every",
    "every_at",
    "config_seq",
    "since",
    "status_seq",
    "last_beat",
    "recorded_beat",
    "unproved",
    "rhythm",
)
_NUMBERS_BEFORE = (*_NUMBERS[:1], "patience_at", *_NUMBERS[1:3], "resumed_at", *_NUMBERS[3:])
"""The columns of a bucket, 64 bits each; what is no number in a service is made one in `_coded`."""


@dataclass(frozen=True)
class Checkpoint:
    """How far a bucket goes: all that both streams hold up to these sequences is in it."""

    heartbeats: int = 0
    events: int = 0

    def covers(self, heartbeats: int, events: int) -> bool:
        return self.heartbeats >= heartbeats and self.events >= events


@dataclass(frozen=True)
class SnapshotPosition:
    """What a round of buckets is good for.

    `beats`, `events`: for each bucket, the sequence of the newest heartbeat and event of its services. A
    bucket that is found without them was put back by a monitor that is behind, and holds for less.
    `streams`: tells the streams from others of the same names; `marks`: from older copies of the same, and
    from what is left after a purge. Older versions wrote none.
    """

    streams: list[str]
    reach: Checkpoint
    coverage: Coverage
    beats: list[int]
    events: list[int]
    marks: list[Mark] = field(default_factory=list)

    def holds(self, bucket: int, found: Checkpoint) -> Checkpoint:
        """How far a bucket goes that was found beside this position."""
        return self.reach if found.covers(self.beats[bucket], self.events[bucket]) else found

    def dump(self) -> bytes:
        content = {
            **vars(self),
            "reach": vars(self.reach),
            "coverage": _dump_coverage(self.coverage),
            "marks": [vars(mark) for mark in self.marks],
        }
        return json.dumps({"format": FORMAT, **content}, separators=(",", ":")).encode()

    @staticmethod
    def load(payload: bytes) -> "SnapshotPosition":
        """ValueError: it is damaged, or another version wrote it."""
        try:
            data = json.loads(payload)
            if (
                data["format"] not in (FORMAT, FORMAT_BEFORE)
                or not len(data["beats"]) == len(data["events"]) == BUCKETS
            ):
                raise ValueError("it is of another format")
            coverage = _load_coverage(data["coverage"])
            return SnapshotPosition(
                data["streams"],
                Checkpoint(**data["reach"]),
                coverage,
                data["beats"],
                data["events"],
                [Mark(**mark) for mark in data.get("marks", [])],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it is damaged: {error!r}") from None


def is_before_epochs(position: bytes | None) -> bool:
    """Whether the version before wrote it."""
    try:
        return position is not None and bool(json.loads(position)["format"] == FORMAT_BEFORE)
    except (ValueError, KeyError, TypeError):
        return False


def _dump_coverage(coverage: Coverage) -> dict[str, Any]:
    return {"until": coverage.until, "gaps": coverage.gaps}


def _load_coverage(data: dict[str, Any]) -> Coverage:
    return Coverage(data["until"], [(start, end) for start, end in data["gaps"]])


@dataclass(frozen=True)
class Bucket:
    """One bucket as it is dumped. It may be ahead of its reach: that is from the tick before.

    `coverage`: as it was known then. What is read again is judged by it, not by what came to be known later.
    `configured`: up to this event its services are there, or deleted, as the configuration says.
    `epoch`: since when the defaults hold that its services go by.
    """

    reach: Checkpoint = Checkpoint()
    coverage: Coverage = field(default_factory=Coverage)
    configured: int = 0
    epoch: int = 0
    services: Collection[MonitoredService] = ()


def dump(bucket: Bucket) -> bytes:
    """A bucket's snapshot, in columns. Held beats are not in it: they are newer than its reach."""
    services = bucket.services
    head = {
        "format": FORMAT,
        "reach": vars(bucket.reach),
        "coverage": _dump_coverage(bucket.coverage),
        "configured": bucket.configured,
        "epoch": bucket.epoch,
        "names": [it.name for it in services],
        "said": _paused_reports(services),
    }
    columns = [array("q", [getattr(it, column) for it in services]) for column in _NUMBERS]
    columns += [
        array("q", [own or 0 for own in owns]) for owns in zip(*(it.own for it in services), strict=True)
    ]
    columns += [array("q", [it.counted_from[rung] for it in services]) for rung in range(3)]
    columns.append(array("q", [_coded(it) for it in services]))
    line = json.dumps(head, separators=(",", ":")).encode() + b"\n"
    return zlib.compress(line + b"".join(column.tobytes() for column in columns), level=1)


def _paused_reports(services: Collection[MonitoredService]) -> dict[str, PausedReport]:
    said = {it.name: it.said for it in services if it.said}
    if sum(len((it.message or "").encode()) for it in said.values()) <= SAID_MAX:
        return said
    room = SAID_MAX // len(said)
    return {
        name: it._replace(message=it.message and shortened(it.message, room // 5, room - room // 5))
        for name, it in said.items()
    }


def _coded(it: MonitoredService) -> int:
    status_and_signal = _STATUSES.index(it.status) * len(_SIGNALS) + _SIGNALS.index(it.signal)
    return it.in_a_row << 8 | status_and_signal << 1 | it.paused


def load(payload: bytes, epochs: list[Epoch]) -> Bucket:
    """What was dumped. ValueError: it is damaged, or of another version."""
    try:
        line, _, data = zlib.decompress(payload).partition(b"\n")
        head = json.loads(line)
        if head["format"] not in (FORMAT, FORMAT_BEFORE):
            raise ValueError("it is of another format")
        names, numbers = head["names"], array("q", data)
        columns = [numbers[i : i + len(names)] for i in range(0, len(numbers), len(names) or 1)]
        rows = zip(names, *columns, strict=True)
        if head["format"] == FORMAT_BEFORE:
            epoch = epochs[0]
            services = [_watched_before(name, values, epoch, epochs) for name, *values in rows]
        else:
            epoch = epoch_at(epochs, head["epoch"])
            services = [_watched(name, values, epoch) for name, *values in rows]
            _add_paused_reports(services, head["said"])
        reach, coverage = Checkpoint(**head["reach"]), _load_coverage(head["coverage"])
        return Bucket(reach, coverage, head["configured"], epoch.since, services)
    except (KeyError, TypeError, IndexError, AttributeError, zlib.error) as error:
        raise ValueError(f"it is damaged: {error!r}") from None


def _watched(name: str, values: list[int], epoch: Epoch) -> MonitoredService:
    *own, silent, down, dead, code = values[len(_NUMBERS) :]
    it = _basic(name, dict(zip(_NUMBERS, values, strict=False)), own, code, epoch)
    if silent or down or dead:
        it.counted_from = silent, down, dead
    return it


def _watched_before(name: str, values: list[int], epoch: Epoch, epochs: list[Epoch]) -> MonitoredService:
    """Of the format before. What was resumed and not heard since was not expected then."""
    numbers = dict(zip(_NUMBERS_BEFORE, values, strict=False))
    patience_at, resumed_at = numbers.pop("patience_at"), numbers.pop("resumed_at")
    *own, code = values[len(_NUMBERS_BEFORE) :]
    it = _basic(name, numbers, own, code, epoch)
    silent, down, dead = (max(0, patience_at - patience) for patience in it.patience)
    it.counted_from = silent, down, dead
    if resumed_at > it.heard:
        it.counted_from = (max(resumed_at, bounded_since(epochs)),) * 3
    return it


def _basic(name: str, numbers: dict[str, Any], own: list[int], code: int, epoch: Epoch) -> MonitoredService:
    silent, down, dead = own
    in_a_row, code = divmod(code, 1 << 8)
    status, signal = divmod(code // 2, len(_SIGNALS))
    owned = _own(silent, down, dead)
    return MonitoredService(
        name=name,
        patience=in_force(owned, numbers["every"], epoch),
        own=owned,
        paused=bool(code % 2),
        status=_STATUSES[status],
        signal=_SIGNALS[signal],
        in_a_row=in_a_row,
        **numbers,
    )


def _add_paused_reports(services: list[MonitoredService], said: dict[str, list[Any]]) -> None:
    if said:
        for it in services:
            if it.name in said:
                signal, *rest = said[it.name]
                it.said = PausedReport(Signal(signal), *rest)


@lru_cache(maxsize=10_000)
def _own(silent: int, down: int, dead: int) -> tuple[int | None, int | None, int | None]:
    return silent or None, down or None, dead or None


def oldest(reaches: Iterable[Checkpoint]) -> Checkpoint:
    """From where both streams must be read so that nothing is missing in any bucket."""
    found = list(reaches)
    return Checkpoint(min(r.heartbeats for r in found), min(r.events for r in found))


def newest(reaches: Iterable[Checkpoint]) -> Checkpoint:
    """How far the streams must go at least if the snapshot is of them."""
    found = list(reaches)
    return Checkpoint(max(r.heartbeats for r in found), max(r.events for r in found))
