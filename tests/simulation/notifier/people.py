"""What people do about incidents in a simulation: they press buttons, and use the API; also at once."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from services.notifier.texts.message import button_key
from shared.contracts.events import (
    IncidentData,
    IncidentEvent,
    ServiceAcknowledged,
    ServiceMuted,
    ServiceReleased,
    ServiceUnmuted,
    StatusChanged,
    moment,
    parse_event,
    parse_incident,
)
from shared.domain import incidents
from shared.domain.incidents import IncidentState, NoIncident, Taken
from shared.messaging import streams
from shared.messaging.reader import Stored
from tests.simulation.model import BASE
from tests.simulation.notifier.scenario import MINUTE, Scenario, when
from tests.simulation.notifier.telegram import Phone, Shown, Telegram
from tests.simulation.notifier.world import World

PEOPLE = ("Ana", "Ben")


@dataclass(frozen=True, slots=True)
class Deed:
    """`phone`: where somebody presses a button of the newest message that has one; None: over the API."""

    at: float
    what: str
    name: str
    person: int
    phone: Phone | None
    minutes: int


@dataclass(frozen=True, slots=True)
class Press:
    """A button that was pressed. `id`: by which its answer names it."""

    at: float
    id: str
    data: str
    name: str
    actor: str
    message: Shown


@dataclass
class People:
    presses: list[Press] = field(default_factory=list)
    remembered: set[int] = field(default_factory=set)
    """The messages that the notifier has stored to keep them up to date."""


def deeds(scenario: Scenario) -> Iterator[Deed]:
    """In half of the seeds; the others are what they would be without."""
    rng = Random(scenario.seed + 7)
    falls = [(fact.at, event) for fact in scenario.facts if (event := _fall(fact.data))]
    if not falls or rng.random() < 0.5:
        return
    for _ in range(rng.randint(1, 10)):
        fell_at, fall = rng.choice(falls)
        at = fell_at + rng.choice(
            (rng.uniform(0, 30), rng.uniform(0, 10 * MINUTE), rng.uniform(0, 90 * MINUTE))
        )
        what = rng.choice(("ack", "ack", "ack", "release", "mute", "mute", "mute until alive", "unmute"))
        phone = rng.choice(scenario.phones) if what in ("ack", "mute") and rng.random() < 0.7 else None
        for again in range(rng.choice((1, 2))):  # somebody else does the same at once
            later = at + again * rng.choice((0.0, 0.05, 0.3))
            other = rng.choice(scenario.phones) if phone else None
            who = (rng.randrange(2) + again) % 2
            yield Deed(_stored(scenario, later), what, fall.name, who, other, rng.randint(1, 50))


def _fall(data: bytes) -> StatusChanged | None:
    try:
        event = parse_event(data)
    except ValueError:
        return None
    return event if isinstance(event, StatusChanged) and event.data.to.badness > 2 else None


def _stored(scenario: Scenario, at: float) -> float:
    return next((end + 0.001 for start, end in scenario.outages if start <= at < end), at)


def plan(scenario: Scenario, world: World, telegram: Telegram) -> People:
    people, put = People(), world.put_record

    def records(key: str, value: bytes | None, last: int) -> int:
        if key.startswith("shown.") and value:
            people.remembered.add(json.loads(value)["message_id"])
        return put(key, value, last)

    world.put_record = records  # type: ignore[method-assign]
    for deed in deeds(scenario):
        if deed.at < scenario.end:
            world.loop.call_at(deed.at, _do, deed, people, world, telegram)
    return people


def _do(deed: Deed, people: People, world: World, telegram: Telegram) -> None:
    if deed.phone:
        _press(deed, deed.phone, people, world, telegram)
    else:
        _over_api(deed, world)


def _press(deed: Deed, phone: Phone, people: People, world: World, telegram: Telegram) -> None:
    begins, now = f"{deed.what}:{button_key(deed.name)}:", world.loop.time()
    for shown in reversed(telegram.shown):
        data = next((it for it in shown.buttons if it.startswith(begins)), None)
        if shown.phone is phone and data:
            break
    else:
        return
    person, id_ = {"id": deed.person, "first_name": PEOPLE[deed.person]}, f"q{len(people.presses)}"
    chat = {"message_id": shown.id, "chat": {"id": int(phone.now_at(now))}}
    telegram.receive(callback_query={"id": id_, "from": person, "data": data, "message": chat})
    actor = f"telegram:{PEOPLE[deed.person]} ({deed.person})"
    people.presses.append(Press(now, id_, data, deed.name, actor, shown))
    world.say(phone.address, f"{PEOPLE[deed.person]} presses {data} under #{shown.id}")


def _over_api(deed: Deed, world: World) -> None:
    state, now, by = folded(world.events, deed.name), moment(world.now()), f"token:{PEOPLE[deed.person]}"
    until = when(world.loop.time() + deed.minutes * MINUTE)
    kind, data = _decided(deed.what, state, now, by, until)
    if data is None:
        return
    id_ = f"api-{deed.name}-{len(world.events)}"
    event = kind(id=id_, source="/api", subject=deed.name, time=now, actor=by, data=data)
    world.append(streams.incident(deed.name), event.to_bytes())
    world.say("api", f"#{world.end(streams.SERVICES)[0]} {event.type} {deed.name} by {by}")


def _decided(
    what: str, state: IncidentState, now: Any, by: str, until: Any
) -> tuple[Any, IncidentData | None]:
    try:
        match what:
            case "ack":
                return ServiceAcknowledged, incidents.acknowledge(state, now, by)
            case "release":
                return ServiceReleased, incidents.release(state, now)
            case "mute":
                return ServiceMuted, incidents.mute(state, now, by, until)
            case "mute until alive":
                return ServiceMuted, incidents.mute(state, now, by, None)
    except (NoIncident, Taken):
        return ServiceMuted, None
    return ServiceUnmuted, incidents.unmute(state, now)


# --- the record as it is


def events_of(events: list[Stored], name: str) -> Iterator[tuple[Stored, Any]]:
    """Those of one service that can be read, in order."""
    for stored in events:
        if stored.subject.startswith("service.") and streams.name_in(stored.subject) == name:
            read = parse_incident if streams.is_incident(stored.subject) else parse_event
            try:
                yield stored, read(stored.data)
            except ValueError:
                continue


def folded(events: list[Stored], name: str) -> IncidentState:
    state = IncidentState()
    for stored, event in events_of(events, name):
        incidents.apply(state, event, stored.seq, stored.at)
    return state


def seconds_at(stored: Stored) -> float:
    return (stored.at - BASE) / 1e6


__all__ = ["IncidentEvent", "People", "events_of", "folded", "plan", "seconds_at"]
