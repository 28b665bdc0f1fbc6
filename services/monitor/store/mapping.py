"""Between the lifecycle and the streams: heartbeats and events as the lifecycle uses them, and back. Pure."""

from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from services.monitor.domain.epochs import Epoch
from services.monitor.domain.service import Beat, EffectiveThresholds, Gap, RunFact, StatusTransition
from shared.contracts import events, ping_keys, thresholds
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
    inherited: thresholds.Inherited = thresholds.OWN
    every: int = 0
    declared_at: int = 0
    paused: bool = False
    schedule: str = ""
    time_zone: str = ""
    early: int = 0
    max_run: int = 0
    fail_after: int = 1
    recover_after: int = 1
    notify_unusual: bool = True

    @property
    def by_hand(self) -> bool:
        """Whether a person or a file set its interval or schedule."""
        return not self.declared_at and bool(self.every or self.schedule)

    @property
    def has_job(self) -> bool:
        """Whether anything of it asks for more than that it just beats."""
        counts = self.fail_after > 1 or self.recover_after > 1
        own = self.schedule or self.time_zone or self.early or self.max_run
        return bool(own) or counts or not self.notify_unusual


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
        inherited=thresholds.inheritance(config.inherited),
        every=_length(config.every) or 0,
        declared_at=_declared_at(data, at),
        paused=config.paused,
        schedule=config.schedule or "",
        time_zone=config.time_zone or "",
        early=_length(config.early) or 0,
        max_run=_length(config.max_run) or 0,
        fail_after=config.fail_after or 1,
        recover_after=config.recover_after or 1,
        notify_unusual=config.notify_unusual,
    )


def _declared_at(data: events.ConfigData, stored_at: int) -> int:
    """0: a person or a file decided. Not after its event: the API's clock may be ahead of the broker's."""
    return min(micros(data.declared_at), stored_at) if data.declared_at else 0


def _length(duration: timedelta | None) -> int | None:
    return duration // MICRO if duration else None


@lru_cache(maxsize=10_000)
def effective_thresholds(
    own: tuple[int | None, int | None, int | None],
    every: int,
    epoch: Epoch,
    scheduled: bool = False,
    inherited: thresholds.Inherited = thresholds.OWN,
) -> EffectiveThresholds:
    if not epoch.bounded:
        return EffectiveThresholds(*thresholds.in_force_before(own, every, epoch.default))
    return EffectiveThresholds(
        *thresholds.in_force(own, every, epoch.default, scheduled=scheduled, inherited=inherited)
    )


def beat(at: int, heartbeat: events.Heartbeat) -> Beat:
    body = heartbeat.body
    every = body.every // MICRO if body and body.every else 0
    message = excerpt(body.message) if body and body.message else None
    found = Beat(at, heartbeat.signal, every, message, heartbeat.exit_code, trace=heartbeat.traceparent)
    if body and (body.schedule or body.run or body.limits):
        found = found._replace(
            schedule=body.schedule or "",
            time_zone=body.time_zone or "",
            run=body.run or "",
            limits=body.limits if body.schedule or body.every else None,
        )
    if heartbeat.duration:
        found = found._replace(duration=min(round(heartbeat.duration * 1e6), at))
    return found


def run_event(name: str, fact: RunFact) -> events.RunRecorded:
    begun = fact.started or fact.ended
    data = events.RunData(
        key=fact.key,
        outcome=fact.outcome,
        started_at=_moment(fact.started),
        ended_at=_moment(fact.ended),
        duration=fact.took / 1e6 if fact.started and fact.ended else None,
        expected_at=_moment(fact.occurrence),
        late_by=max(0, begun - fact.occurrence) / 1e6 if begun and fact.is_first else None,
        run=fact.run or None,
        exit_code=fact.exit_code,
        message=fact.message,
        unusual=fact.unusual,
        notify=fact.notify,
    )
    return events.run_recorded(name, data, moment(fact.at))


def _moment(at: int) -> datetime | None:
    return moment(at) if at else None


def gap_event(name: str, gap: Gap) -> events.GapRecorded:
    from_, to = moment(gap.from_), moment(gap.to)
    return events.gap_recorded(name, events.GapData(from_=from_, to=to, signal=gap.signal))


def order_of(event: events.Fact) -> tuple[int, int, str]:
    """The place of a recorded fact among those of its service."""
    at = micros(event.time)
    if isinstance(event, events.GapRecorded):
        return Gap(micros(event.data.from_), at).order
    data = event.data
    ended = at if data.ended_at else 0
    return RunFact(at, data.outcome, data.key, ended=ended, message=data.message).order


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
    limits = _limits(beat)
    data = events.ConfigData(
        config=events.ServiceConfig(**_declared(beat, None), **limits),
        registered_at=time,
        registered_by="heartbeat",
        declared_at=time if beat.every or beat.schedule else None,
        declared_limits=tuple(limits),
        ping_key=ping_keys.new(),
    )
    return events.ServiceRegistered(
        **_about(name, "registered", time), actor=events.ACTOR_HEARTBEAT, data=data
    )


def declaration(
    name: str, beat: Beat, newest: events.ConfigEvent, stored_at: int
) -> events.ServiceUpdated | None:
    """The event that adds what a heartbeat declares to the newest configuration. `stored_at`: when that was
    stored. None: it knows of this heartbeat already, or of a newer one, or a person has decided."""
    if isinstance(newest, events.ServiceDeleted):
        return None
    was, known = newest.data.config, newest.data.declared_limits
    limits = {
        field: value
        for field, value in _limits(beat).items()
        if field in known or getattr(was, field) is None  # else a person has decided
    }
    declared = _declared(beat, was.time_zone) | limits
    if all(getattr(was, field) == value for field, value in declared.items()):
        return None
    if newest.data.declared_at is None and (was.every or was.schedule):
        return None
    if declared["time_zone"] != was.time_zone:  # no more the one of its template
        kept = {field: of for field, of in was.inherited.items() if field != "time_zone"}
        declared["inherited"] = kept
    time = moment(beat.at)
    registered = newest.data.registered_at or moment(stored_at)
    if registered > time or _declared_at(newest.data, stored_at) >= beat.at:
        return None
    changed = {
        "config": was.model_copy(update=declared),
        "registered_at": registered,
        "declared_at": time,
        "declared_limits": tuple(dict.fromkeys((*known, *limits))),
    }
    data = newest.data.model_copy(update=changed)
    return events.ServiceUpdated(**_about(name, "declared", time), actor=events.ACTOR_HEARTBEAT, data=data)


def _declared(beat: Beat, time_zone: str | None) -> dict[str, Any]:
    """`time_zone`: the one that holds where it says none."""
    return {
        "every": beat.every * MICRO if beat.every else None,
        "schedule": beat.schedule or None,
        "time_zone": beat.time_zone or time_zone,
    }


def _limits(beat: Beat) -> dict[str, Any]:
    return {field: value for field, value in beat.limits or () if value is not None}


def _about(name: str, what: str, time: datetime) -> dict[str, Any]:
    event_id = events.event_id(name, what, time.isoformat())
    return {"id": event_id, "source": "/monitor", "subject": name, "time": time}
