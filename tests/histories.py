"""Events of services as they stand in the record, made by hand or by chance; and states that come of them."""

from datetime import timedelta
from typing import Any

from hypothesis import strategies as st

from services.api.projections.documents import Document, Projection, project
from services.api.projections.store import View
from shared.contracts.events import (
    ConfigData,
    Deletion,
    Event,
    ServiceConfig,
    ServiceDeleted,
    ServicePaused,
    ServiceRegistered,
    ServiceResumed,
    ServiceUpdated,
    Status,
    StatusChanged,
    StatusData,
    moment,
)
from shared.domain.service_state import ServiceState
from shared.messaging import streams
from shared.messaging.reader import Stored

UNKNOWN, ALIVE, SILENT, DOWN, DEAD = Status
CONFIG_EVENTS = (ServiceRegistered, ServiceUpdated, ServicePaused, ServiceResumed)


def config_event(
    kind: type[Event], name: str, at: int, registered_at: int | None = None, **config: Any
) -> Event:
    """`at` and `registered_at`: microseconds."""
    config.setdefault("paused", kind is ServicePaused)
    since = None if registered_at is None else moment(registered_at)
    data = ConfigData(config=ServiceConfig(**config), registered_at=since, ping_key=f"key-{name[:50]}")
    return kind(id="1", source="/api", subject=name, time=moment(at), data=data)  # type: ignore[arg-type]


def deleted(name: str, at: int) -> ServiceDeleted:
    return ServiceDeleted(id="1", source="/api", subject=name, time=moment(at), data=Deletion())


def status_event(name: str, from_: Status, to: Status, since: int, heard: int | None = None) -> StatusChanged:
    last = None if heard is None else moment(heard)
    data = StatusData(from_=from_, to=to, since=moment(since), last_heartbeat=last, reason=f"for {to}")
    return StatusChanged(id="1", source="/monitor", subject=name, time=moment(since), data=data)


def stored(event: Event, seq: int, at: int) -> Stored:
    subject = streams.status if isinstance(event, StatusChanged) else streams.config
    return Stored(subject(event.name), event.to_bytes(), None, seq, at, 0)


def projected(event: Event, seq: int, at: int) -> Projection:
    return project(stored(event, seq, at))


def state_of(name: str, status: Status, since: int, registered_at: int = 0, **more: Any) -> ServiceState:
    """Of a service that exists, with one change of its status."""
    changed = {"changed_to": status, "changed_at": since, "status_seq": 2} if status is not UNKNOWN else {}
    return ServiceState(name, 1, True, registered_at, **{**changed, "heard_before_change": since, **more})


@st.composite
def histories(draw: st.DrawFn, names: tuple[str, ...] = ("a", "b")) -> list[tuple[Event, int, int]]:
    """Any events of some services with their sequences and times of storage, also such as no monitor writes:
    changes dated long ago, or at the very moment of a registration; updates of what is deleted."""
    found: list[tuple[Event, int, int]] = []
    at, registered = 1_000_000, dict.fromkeys(names, 0)
    for seq in range(1, draw(st.integers(0, 25)) + 1):
        at += draw(st.sampled_from([0, 1, 1_000_000]))
        name = draw(st.sampled_from(names))
        kind = draw(st.sampled_from([*CONFIG_EVENTS, ServiceDeleted, StatusChanged, StatusChanged]))
        event: Event
        if kind is ServiceDeleted:
            event = deleted(name, at)
        elif kind is StatusChanged:
            since = draw(st.sampled_from([at, registered[name], max(0, at - 1_500_000)]))
            to = draw(st.sampled_from([ALIVE, SILENT, DOWN, DEAD]))
            heard = draw(st.sampled_from([None, since, max(0, since - 700_000)]))
            event = status_event(name, draw(st.sampled_from(list(Status))), to, since, heard)
        else:
            if kind is ServiceRegistered:
                registered[name] = draw(st.sampled_from([at, max(0, at - 10)]))
            since_then = registered[name] if kind is not ServiceRegistered or draw(st.booleans()) else None
            if since_then is None:
                registered[name] = at
            event = config_event(
                kind,
                name,
                at,
                since_then,
                tags=draw(st.sampled_from([(), ("x",), ("x", "y")])),
                notify=draw(st.booleans()),
                description=draw(st.sampled_from(["", "Does things"])),
                every=draw(st.sampled_from([None, timedelta(minutes=5)])),
            )
        found.append((event, seq, at))
    return found


async def everything(view: View) -> tuple[list[Document], list[Document]]:
    """All documents of services and events, by id: to compare one generation with another."""
    services = await view._services.find({}).sort([("_id", 1)]).to_list(None)
    events = await view._events.find({}).sort([("_id", 1)]).to_list(None)
    return services, events
