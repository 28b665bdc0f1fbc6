"""Between the lifecycle and the streams: heartbeats and events as the lifecycle uses them, and back. Pure."""

from functools import lru_cache
from typing import NamedTuple

from services.monitor.domain.epochs import Epoch
from services.monitor.domain.service import Beat, EffectiveThresholds, StatusTransition
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
    StatusChanged,
    StatusData,
    event_id,
    micros,
    moment,
    status_changed,
)
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


def config_change(event: ConfigEvent, seq: int, at: int) -> ConfigChange:
    if isinstance(event, ServiceDeleted):
        return ConfigChange(event.name, seq, at, deletes=True)
    data, config = event.data, event.data.config
    return ConfigChange(
        event.name,
        seq,
        at,
        deletes=False,
        registers=isinstance(event, ServiceRegistered),
        resumes=isinstance(event, ServiceResumed),
        registered_at=micros(data.registered_at) if data.registered_at else at,
        own=(
            config.silent_after // MICRO if config.silent_after else None,
            config.down_after // MICRO if config.down_after else None,
            config.dead_after // MICRO if config.dead_after else None,
        ),
        every=config.every // MICRO if config.every else 0,
        declared_at=micros(data.declared_at) if data.declared_at else 0,
        paused=config.paused,
    )


@lru_cache(maxsize=10_000)
def effective_thresholds(
    own: tuple[int | None, int | None, int | None], every: int, epoch: Epoch
) -> EffectiveThresholds:
    calculate = thresholds.in_force if epoch.bounded else thresholds.in_force_before
    return EffectiveThresholds(*calculate(own, every, epoch.default))


def beat(at: int, heartbeat: Heartbeat) -> Beat:
    body = heartbeat.body
    every = body.every // MICRO if body and body.every else 0
    message = excerpt(body.message) if body and body.message else None
    return Beat(at, heartbeat.signal, every, message, heartbeat.exit_code, trace=heartbeat.traceparent)


def to_event(name: str, transition: StatusTransition) -> StatusChanged:
    data = StatusData(
        from_=transition.from_,
        to=transition.to,
        since=moment(transition.since),
        last_heartbeat=None if transition.last_beat is None else moment(transition.last_beat),
        reason=transition.reason,
        message=transition.message,
        duration=None if transition.duration is None else transition.duration / 1_000_000,
        doubt=events.Doubt(**transition.doubt._asdict()) if transition.doubt else None,
    )
    return status_changed(name, data, transition.trace)


def to_transition(event: StatusChanged) -> StatusTransition:
    """What the lifecycle uses of a recorded event."""
    data = event.data
    last = None if data.last_heartbeat is None else micros(data.last_heartbeat)
    return StatusTransition(data.from_, data.to, micros(data.since), last, data.reason)


def registration(name: str, beat: Beat) -> ServiceRegistered:
    """The event that registers a service at its first heartbeat."""
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
    """The event that adds the interval which a heartbeat declares to the newest configuration.

    `stored_at`: when that was stored. None: there is nothing to add, because it knows of this heartbeat
    already, or of a newer one.
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
