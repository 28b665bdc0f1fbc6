"""Between the lifecycle and the streams: heartbeats and events as the lifecycle uses them, and back. Pure."""

from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from services.monitor.domain.epochs import Epoch
from services.monitor.domain.service import Beat, EffectiveThresholds, StatusTransition
from shared.contracts import events, thresholds
from shared.contracts.events import MICRO, micros, moment
from shared.contracts.heartbeats import excerpt


class ConfigChange(NamedTuple):
    """What the monitor uses of a configuration event. `at`: when it was stored."""

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


def config_change(event: events.ConfigEvent, seq: int, at: int) -> ConfigChange:
    if isinstance(event, events.ServiceDeleted):
        return ConfigChange(event.name, seq, at, deletes=True)
    data, config = event.data, event.data.config
    return ConfigChange(
        event.name,
        seq,
        at,
        deletes=False,
        registers=isinstance(event, events.ServiceRegistered),
        resumes=isinstance(event, events.ServiceResumed),
        registered_at=micros(data.registered_at) if data.registered_at else at,
        own=(_length(config.silent_after), _length(config.down_after), _length(config.dead_after)),
        every=_length(config.every) or 0,
        declared_at=micros(data.declared_at) if data.declared_at else 0,
        paused=config.paused,
    )


def _length(duration: timedelta | None) -> int | None:
    return duration // MICRO if duration else None


@lru_cache(maxsize=10_000)
def effective_thresholds(
    own: tuple[int | None, int | None, int | None], every: int, epoch: Epoch
) -> EffectiveThresholds:
    calculate = thresholds.in_force if epoch.bounded else thresholds.in_force_before
    return EffectiveThresholds(*calculate(own, every, epoch.default))


def beat(at: int, heartbeat: events.Heartbeat) -> Beat:
    body = heartbeat.body
    every = body.every // MICRO if body and body.every else 0
    message = excerpt(body.message) if body and body.message else None
    return Beat(at, heartbeat.signal, every, message, heartbeat.exit_code, trace=heartbeat.traceparent)


def to_event(name: str, transition: StatusTransition) -> events.StatusChanged:
    data = events.StatusData(
        from_=transition.from_,
        to=transition.to,
        since=moment(transition.since),
        last_heartbeat=None if transition.last_beat is None else moment(transition.last_beat),
        reason=transition.reason,
        message=transition.message,
        duration=None if transition.duration is None else transition.duration / 1_000_000,
        doubt=transition.doubt,
    )
    return events.status_changed(name, data, transition.trace)


def to_transition(event: events.StatusChanged) -> StatusTransition:
    """What the lifecycle uses of a recorded event."""
    data = event.data
    last = None if data.last_heartbeat is None else micros(data.last_heartbeat)
    return StatusTransition(data.from_, data.to, micros(data.since), last, data.reason)


def registration(name: str, beat: Beat) -> events.ServiceRegistered:
    """The event that registers a service at its first heartbeat."""
    time = moment(beat.at)
    data = events.ConfigData(
        config=events.ServiceConfig(every=beat.every * MICRO if beat.every else None),
        registered_at=time,
        registered_by="heartbeat",
        declared_at=time if beat.every else None,
    )
    return events.ServiceRegistered(**_about(name, "registered", time), data=data)


def declaration(
    name: str, beat: Beat, newest: events.ConfigEvent, stored_at: int
) -> events.ServiceUpdated | None:
    """The event that adds the interval which a heartbeat declares to the newest configuration. `stored_at`:
    when that was stored. None: it knows of this heartbeat already, or of a newer one."""
    if isinstance(newest, events.ServiceDeleted) or newest.data.config.every == beat.every * MICRO:
        return None
    time = moment(beat.at)
    registered = newest.data.registered_at or moment(stored_at)
    if registered > time or (newest.data.declared_at and newest.data.declared_at >= time):
        return None
    config = newest.data.config.model_copy(update={"every": beat.every * MICRO})
    data = newest.data.model_copy(update={"config": config, "registered_at": registered, "declared_at": time})
    return events.ServiceUpdated(**_about(name, "declared", time), data=data)


def _about(name: str, what: str, time: datetime) -> dict[str, Any]:
    event_id = events.event_id(name, what, time.isoformat())
    return {"id": event_id, "source": "/monitor", "subject": name, "time": time}
