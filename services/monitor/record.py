"""Between the lifecycle and the streams: events to state and back, and the state's snapshots. Pure."""

import json
import zlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from services.monitor.lifecycle import Change, Coverage, Patience, Watched
from shared.events import (
    ConfigData,
    ServiceConfig,
    ServiceRegistered,
    Status,
    StatusChanged,
    StatusData,
    event_id,
    status_changed,
)

BUCKETS = 256
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO = timedelta(microseconds=1)


def micros(time: datetime) -> int:
    return (time - _EPOCH) // _MICRO


def moment(micros: int) -> datetime:
    return _EPOCH + micros * _MICRO


def bucket_of(name: str) -> int:
    return zlib.crc32(name.encode()) % BUCKETS


def own_thresholds(config: ServiceConfig) -> tuple[int | None, int | None, int | None]:
    silent, down, dead = (
        value // _MICRO if value else None
        for value in (config.silent_after, config.down_after, config.dead_after)
    )
    return silent, down, dead


@lru_cache(maxsize=10_000)
def in_force(own: tuple[int | None, int | None, int | None], default: Patience) -> Patience:
    """Where only some thresholds are its own, the defaults make way so that their order holds."""
    silent, down, dead = (mine or fallback for mine, fallback in zip(own, default, strict=True))
    return Patience(silent, max(down, silent), max(dead, down, silent))


def to_event(name: str, change: Change) -> StatusChanged:
    last = None if change.last_beat is None else moment(change.last_beat)
    data = StatusData(
        from_=change.from_,
        to=change.to,
        since=moment(change.since),
        last_heartbeat=last,
        reason=change.reason,
    )
    return status_changed(name, data)


def to_change(event: StatusChanged) -> Change:
    data = event.data
    last = None if data.last_heartbeat is None else micros(data.last_heartbeat)
    return Change(data.from_, data.to, micros(data.since), last, data.reason)


def registration(name: str, at: int) -> ServiceRegistered:
    """The event that a first heartbeat, stored at `at`, makes."""
    time = moment(at)
    return ServiceRegistered(
        id=event_id(name, "registered", time.isoformat()),
        source="/monitor",
        subject=name,
        time=time,
        data=ConfigData(config=ServiceConfig(), registered_at=time, registered_by="heartbeat"),
    )


def dump(services: Iterable[Watched]) -> bytes:
    """One bucket's snapshot. Held beats are none: snapshots are taken behind a tick."""
    return json.dumps(
        [
            [
                it.name,
                it.registered_at,
                it.own,
                it.paused,
                it.resumed_at,
                it.config_seq,
                it.status,
                it.since,
                it.status_seq,
                it.last_beat,
                it.recorded_beat,
                it.rhythm,
            ]
            for it in services
        ],
        separators=(",", ":"),
    ).encode()


def load(payload: bytes, default: Patience) -> list[Watched]:
    return [_watched(row, default) for row in json.loads(payload)]


def _watched(row: list[Any], default: Patience) -> Watched:
    name, registered_at, (silent, down, dead), paused, resumed_at, config_seq, *rest = row
    status, since, status_seq, last_beat, recorded_beat, rhythm = rest
    own = (silent, down, dead)
    return Watched(
        name=name,
        registered_at=registered_at,
        patience=in_force(own, default),
        own=own,
        paused=paused,
        resumed_at=resumed_at,
        config_seq=config_seq,
        status=Status(status),
        since=since,
        status_seq=status_seq,
        last_beat=last_beat,
        recorded_beat=recorded_beat,
        rhythm=rhythm,
    )


def dump_position(heartbeats: int, events: int, coverage: Coverage) -> bytes:
    """What the buckets are good for: the sequence read last in either stream, and the coverage."""
    return json.dumps(
        {"heartbeats": heartbeats, "events": events, "until": coverage.until, "gaps": coverage.gaps}
    ).encode()


def load_position(payload: bytes) -> tuple[int, int, Coverage]:
    data = json.loads(payload)
    coverage = Coverage(data["until"], [(start, end) for start, end in data["gaps"]])
    return data["heartbeats"], data["events"], coverage
