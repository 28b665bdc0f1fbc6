"""What an event makes of the read models. Pure.

Times in documents are integer microseconds since 1970 UTC: the database itself keeps milliseconds only.
"""

from datetime import timedelta
from typing import Any, Literal, NamedTuple

from shared.contracts.events import (
    MICRO,
    ConfigEvent,
    ServiceConfig,
    ServiceDeleted,
    Signal,
    Status,
    StatusChanged,
)
from shared.contracts.events import micros as micros
from shared.contracts.events import moment as moment
from shared.contracts.heartbeats import excerpt, parse_heartbeat
from shared.messaging import streams
from shared.messaging.reader import OVER_HTTP, Stored

Document = dict[str, Any]

_LONGEST = timedelta(days=36500)

PROBLEMS_FIRST = (Status.DOWN, Status.SILENT, Status.DEAD, Status.UNKNOWN, Status.ALIVE)
"""The order of lists and pages: what wants a hand now, what may soon, what nobody expects back."""


class Projection(NamedTuple):
    """One event, ready for the read models: the new facet of its service, and its line in the history."""

    name: str
    facet: Literal["config", "status"]
    content: Document
    row: Document

    @property
    def seq(self) -> int:
        return int(self.content["seq"])

    @property
    def deletes(self) -> bool:
        return bool(self.content.get("deleted", False))


def fold(message: Stored) -> Projection:
    """Read a message of SERVICES. ValueError if it is no event, or not one of its subject."""
    event = streams.read_event(message.subject, message.data)
    name = event.name
    row = {
        "_id": message.seq,
        "name": name,
        "type": event.type,
        "at": message.at,
        "data": _told(event.data.model_dump(mode="json", by_alias=True)),
    }
    if isinstance(event, StatusChanged):
        return Projection(name, "status", _status(event, message), row)
    return Projection(name, "config", _config(event, message), row)


def _told(data: Document) -> Document:
    """Without the empty ones of the fields that were added: history shows an event as it was written."""
    if "config" in data:
        data["config"] = _without_empty(data["config"], "every")
    return _without_empty(data, "declared_at", "message", "duration", "doubt")


def _without_empty(data: Document, *added: str) -> Document:
    return {key: value for key, value in data.items() if value is not None or key not in added}


def _config(event: ConfigEvent, message: Stored) -> Document:
    """A deletion leaves a tombstone, which keeps events that come again from raising the dead."""
    if isinstance(event, ServiceDeleted):
        return {"seq": message.seq, "deleted": True, "registered_at": message.at}
    registered = event.data.registered_at
    return {
        "seq": message.seq,
        "deleted": False,
        "registered_at": micros(registered) if registered else message.at,
        "registered_by": event.data.registered_by,
        "declared_at": micros(event.data.declared_at) if event.data.declared_at else None,
        **configuration(event.data.config),
    }


def configuration(config: ServiceConfig) -> Document:
    return {
        "description": config.description,
        "tags": list(config.tags),
        "notify": config.notify,
        "paused": config.paused,
        "silent_after": _length(config.silent_after),
        "down_after": _length(config.down_after),
        "dead_after": _length(config.dead_after),
        "every": _length(config.every),
    }


def _length(duration: timedelta | None) -> int | None:
    if duration is None:
        return None
    if abs(duration) > _LONGEST:
        raise ValueError(f"a duration of {duration} is beyond what a document holds")
    return duration // MICRO


def configured(document: Document) -> ServiceConfig:
    """The configuration that a service's document stands for; the reverse of `configuration`."""
    config = document["config"]
    return ServiceConfig(
        description=config["description"],
        tags=tuple(config["tags"]),
        notify=config["notify"],
        paused=config["paused"],
        silent_after=_duration(config["silent_after"]),
        down_after=_duration(config["down_after"]),
        dead_after=_duration(config["dead_after"]),
        every=_duration(config.get("every")),
    )


def _duration(micros: int | None) -> timedelta | None:
    return None if micros is None else micros * MICRO


def _status(event: StatusChanged, message: Stored) -> Document:
    data = event.data
    return {
        "seq": message.seq,
        "status": data.to.value,
        "since": micros(data.since),
        "last_heartbeat": micros(data.last_heartbeat) if data.last_heartbeat else 0,
        "reason": data.reason,
    }


class VisibleState(NamedTuple):
    """What a service looks like from outside. Times in microseconds; `last_heartbeat` 0: never."""

    status: Status
    since: int
    reason: str | None
    last_heartbeat: int


def shown(document: Document) -> VisibleState:
    """A status or a heartbeat from before the service's registration is none."""
    registered_at, status = document["config"]["registered_at"], document.get("status")
    heard = max(
        document.get("heartbeat", {}).get("at", 0), status["last_heartbeat"] if status is not None else 0
    )
    heard = heard if heard >= registered_at else 0
    if status is None or status["since"] < registered_at:
        return VisibleState(Status.UNKNOWN, registered_at, None, heard)
    return VisibleState(Status(status["status"]), status["since"], status["reason"], heard)


class LastHeard(NamedTuple):
    """What the heartbeats of a service come to so far, as its answer shows it. Times in microseconds."""

    message: str | None = None
    running_since: int | None = None
    run: tuple[int, int] | None = None
    warnings: tuple[str, ...] = ()


def heard_in_this_life(document: Document) -> LastHeard:
    """Without what was before the service's registration. A run goes on while its start is the newest."""
    heard, registered_at = document.get("heartbeat", {}), document["config"]["registered_at"]
    if heard.get("at", 0) < registered_at:
        return LastHeard()
    run = heard.get("last_run")
    return LastHeard(
        heard.get("message"),
        heard["at"] if heard.get("signal") == Signal.START else None,
        run if run and run[0] >= registered_at else None,
        tuple(heard.get("warnings", ())),
    )


class Heard(NamedTuple):
    """What heartbeats of one service that follow each other come to. Times in microseconds."""

    seq: int
    at: int
    signal: Signal
    message: str | None
    first_end: int | None
    """The end of a run whose start is not among these heartbeats, if there was a run."""
    run: tuple[int, int] | None
    """Start and end of the last run that is wholly among them."""
    warnings: tuple[str, ...] = ()
    """What of the newest cannot be used as it is meant."""


def hear(before: Heard | None, message: Stored) -> Heard | None:
    """Take in the next heartbeat; a log changes nothing. ValueError if it is malformed."""
    if before and not message.data and (not message.headers or message.headers is OVER_HTTP):
        run = (before.at, message.at) if before.signal is Signal.START else before.run
        return Heard(message.seq, message.at, Signal.SUCCESS, None, before.first_end, run)
    beat = parse_heartbeat(streams.name_in(message.subject), message.data, message.headers)
    if beat.signal is Signal.LOG:
        return before
    said = excerpt(beat.body.message) if beat.body and beat.body.message else None
    first_end, run = (before.first_end, before.run) if before else (None, None)
    if beat.signal is not Signal.START:
        if before is None:
            first_end = message.at
        elif before.signal is Signal.START:
            run = before.at, message.at
    return Heard(message.seq, message.at, beat.signal, said, first_end, run, beat.warnings)
