"""What an event makes of the read models. Pure.

Times in documents are integer microseconds since 1970 UTC: the database itself keeps milliseconds only.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from shared import streams
from shared.broker import Stored
from shared.events import (
    NAME_RULE_IN_WORDS,
    ConfigEvent,
    ServiceConfig,
    ServiceDeleted,
    Status,
    StatusChanged,
    parse_event,
    valid_name,
)

Document = dict[str, Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO = timedelta(microseconds=1)
_LONGEST = timedelta(days=36500)

PROBLEMS_FIRST = (Status.DOWN, Status.SILENT, Status.DEAD, Status.UNKNOWN, Status.ALIVE)
"""The order of lists and pages: what wants a hand now, what may soon, what nobody expects back."""


class Change(NamedTuple):
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


def micros(time: datetime) -> int:
    return (time - _EPOCH) // _MICRO


def moment(micros: int) -> datetime:
    return _EPOCH + micros * _MICRO


def fold(message: Stored) -> Change:
    """Read a message of SERVICES. ValueError if it is no event, or not one of its subject."""
    event = parse_event(message.data)
    name = streams.name_in(message.subject)
    if not valid_name(name):
        raise ValueError(f"bad name: {NAME_RULE_IN_WORDS}")
    expected = streams.status(name) if isinstance(event, StatusChanged) else streams.config(name)
    if message.subject != expected:
        raise ValueError(f"{event.type} has no place in {message.subject}")
    row = {
        "_id": message.seq,
        "name": name,
        "type": event.type,
        "at": message.at,
        "data": event.data.model_dump(mode="json", by_alias=True),
    }
    if isinstance(event, StatusChanged):
        return Change(name, "status", _status(event, message), row)
    return Change(name, "config", _config(event, message), row)


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
    }


def _length(duration: timedelta | None) -> int | None:
    if duration is None:
        return None
    if abs(duration) > _LONGEST:
        raise ValueError(f"a duration of {duration} is beyond what a document holds")
    return duration // _MICRO


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
    )


def _duration(micros: int | None) -> timedelta | None:
    return None if micros is None else micros * _MICRO


def _status(event: StatusChanged, message: Stored) -> Document:
    data = event.data
    return {
        "seq": message.seq,
        "status": data.to.value,
        "rank": PROBLEMS_FIRST.index(data.to),
        "since": micros(data.since),
        "last_heartbeat": micros(data.last_heartbeat) if data.last_heartbeat else 0,
        "reason": data.reason,
    }
