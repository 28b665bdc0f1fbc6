"""What the record still holds of each service: its configuration, its changes, and when it beat. Pure.

The broker keeps the last heartbeats only. Of the time before, facts about runs, gaps, and changes of status
each tell of single heartbeats; and where no gap is recorded between two of them, they came all the time.
Times are microseconds since 1970 UTC.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from pydantic_core import from_json

from services.monitor.domain.service import Beat, StatusTransition
from services.monitor.store import mapping
from shared.contracts.events import (
    ConfigEvent,
    IncidentEvent,
    Signal,
    Status,
    StatusChanged,
    Tick,
    is_gap,
    micros,
    parse_event,
)
from shared.contracts.heartbeats import parse_heartbeat
from shared.domain.coverage import Coverage
from shared.messaging import streams
from shared.messaging.reader import BY_KEY, OVER_HTTP, Stored

FAILED = "reported failure"
"""So begins the reason of a change that a failure led to."""


class Moment(NamedTuple):
    """A heartbeat that is known. `is_next`: whether none came since the moment before it; else they came all
    the time. `may_pause`: for how long they may have paused then without a trace, in parts of `silent_after`:
    1 where gaps were not recorded yet, 2 where only those longer than half of it are."""

    beat: Beat
    is_next: bool
    may_pause: int = 1


@dataclass(slots=True)
class ServiceHistory:
    """`before`: its newest change before the time that is replayed; `config`: also the newest before it;
    `changes`: from which status to which, and since when; `acts`: with the sequence and the time of each;
    `beats`: by their times, None for one that says nothing but that it came."""

    name: str
    before: bytes = b""
    config: list[tuple[int, int, bytes]] = field(default_factory=list)
    changes: list[tuple[Status, Status, int]] = field(default_factory=list)
    acts: list[tuple[int, int, IncidentEvent]] = field(default_factory=list)
    beats: dict[int, Beat | None] = field(default_factory=dict)
    gaps: set[int] = field(default_factory=set)
    """The heartbeats behind which none came until the next that is known."""
    kept_since: int = 0
    """The oldest heartbeat of those that the broker keeps, each of which is known; 0: none."""
    is_readable: bool = True

    def anchor(self) -> StatusTransition | None:
        """Its newest change before the time that is replayed."""
        with suppress(ValueError):
            event = parse_event(self.before)
            return mapping.to_transition(event) if isinstance(event, StatusChanged) else None
        return None

    def configuration(self) -> list[tuple[int, int, ConfigEvent]]:
        """All of it that is known, in order."""
        found: list[tuple[int, int, ConfigEvent]] = []
        for seq, at, data in self.config:
            try:
                event = parse_event(data)
            except ValueError:
                self.is_readable = False
                continue
            if not isinstance(event, StatusChanged):
                found.append((seq, at, event))
        return found

    def add_config(self, message: Stored, begin: int) -> None:
        if self.config and self.config[-1][1] < begin and message.at < begin:
            self.config.pop()
        self.config.append((message.seq, message.at, message.data))

    def moments(self, gaps_since: int, anchor: StatusTransition | None) -> list[Moment]:
        """When it beat, as far as that is known, in order. `gaps_since`: from when on gaps are recorded;
        `anchor`: its own."""
        if anchor:
            add_known_beats(self, anchor)
        found, last = list[Moment](), 0
        for at in sorted(self.beats):
            is_next = not last or last in self.gaps or 0 < self.kept_since <= last
            beat = self.beats[at] or Beat(at)
            found.append(Moment(beat, is_next, 2 if 0 < gaps_since <= last else 1))
            last = at
        return found


class History:
    """`add` each message of the streams, in the order of each stream."""

    def __init__(self, begin: int) -> None:
        """`begin`: what happened before is of no use, but for how each service was then."""
        self.begin = begin
        self.services: dict[str, ServiceHistory] = {}
        self.settings: list[tuple[int, str, Mapping[str, Any] | None]] = []
        """The registry's own configuration: when what was set to which value, or removed (None)."""
        self.gaps_since = 0
        """From when on gaps are recorded, as far as that can be told; 0: none is."""
        self.events = 0
        self._ticks: list[tuple[int, int, int]] = []

    def service(self, name: str) -> ServiceHistory:
        known = self.services.get(name)
        if known is None:
            known = self.services[name] = ServiceHistory(name)
        return known

    def add(self, message: Stored) -> None:
        """What cannot be read is passed over."""
        kind, _, rest = message.subject.partition(".")
        with suppress(ValueError, KeyError, TypeError):
            if kind == "heartbeat":
                self._add_heartbeat(rest, message)
            elif kind == "run":
                self._add_fact(rest, message)
            elif kind == "tick":
                start, end = Tick.model_validate_json(message.data).proves(message.at)
                self._ticks.append((message.at, start, end))
            elif kind == "registry":
                self._add_setting(message)
            else:
                what, _, name = rest.partition(".")
                self._add_event(what, name, message)
            self.events += message.at >= self.begin

    def coverage(self) -> Coverage:
        """When the registry could be heard."""
        coverage = Coverage()
        for _, start, end in sorted(self._ticks):
            coverage.prove(start, end)
        return coverage

    def ticks(self) -> list[tuple[int, int]]:
        """When each tick that is known was stored, and up to when it told how services are; in order."""
        return [(at, end) for at, _, end in sorted(self._ticks)]

    def _add_heartbeat(self, name: str, message: Stored) -> None:
        headers = message.headers
        if message.data or not (headers is None or headers is OVER_HTTP or headers is BY_KEY):
            beat: Beat | None = mapping.beat(message.at, parse_heartbeat(name, message.data, headers))
        else:
            beat = None
        service = self.service(name)
        service.kept_since = service.kept_since or message.at
        if beat is None or beat.signal is not Signal.LOG:
            service.beats[message.at] = beat

    def _add_fact(self, name: str, message: Stored) -> None:
        if is_gap(message.data):
            data = from_json(message.data)["data"]
            from_, to = _at(data["from"]), _at(data["to"])
            self.gaps_since = min(self.gaps_since or from_, from_)
            if to >= self.begin:
                service = self.service(name)
                service.beats.setdefault(from_, None)
                signal = Signal(data.get("signal", Signal.SUCCESS))
                service.beats.setdefault(to, None if signal is Signal.SUCCESS else Beat(to, signal))
                service.gaps.add(from_)
            return
        data = from_json(message.data)["data"]
        started, ended, run = data.get("started_at"), data.get("ended_at"), data.get("run") or ""
        service = self.service(name)
        if ended and (at := _at(ended)) >= self.begin:
            signal = Signal.FAIL if data["outcome"] == "failure" else Signal.SUCCESS
            known = Beat(at, signal, message=data["message"], exit_code=data["exit_code"], run=run)
            service.beats[at] = service.beats[at] if _is_whole(service, at) else known
        if started and (at := _at(started)) >= self.begin and not _is_whole(service, at):
            service.beats[at] = Beat(at, Signal.START, run=run)

    def _add_event(self, kind: str, name: str, message: Stored) -> None:
        service = self.service(name)
        if kind == "config":
            service.add_config(message, self.begin)
        elif kind == "incident":
            if message.at >= self.begin and b'"service.told.v1"' not in message.data:
                event = streams.read_incident(message.subject, message.data)
                service.acts.append((message.seq, message.at, event))
        elif message.at < self.begin:
            service.before = message.data
        else:
            self._add_change(service, from_json(message.data)["data"])

    def _add_change(self, service: ServiceHistory, data: dict[str, Any]) -> None:
        since, last = _at(data["since"]), _at(data["last_heartbeat"]) if data["last_heartbeat"] else None
        change = StatusTransition(Status(data["from"]), Status(data["to"]), since, last, data["reason"])
        service.changes.append(change[:3])
        add_known_beats(service, change, data.get("message"))

    def _add_setting(self, message: Stored) -> None:
        data = from_json(message.data)
        removed = data["type"] != "registry.config_set.v1"
        name = streams.name_in(message.subject)
        self.settings.append((message.at, name, None if removed else data["data"]["value"]))


def add_known_beats(service: ServiceHistory, change: StatusTransition, message: str | None = None) -> None:
    """The heartbeats that a change tells of: the one that it came with, or the one before a silence."""
    last = change.last_beat
    if change.to is Status.ALIVE:
        service.beats.setdefault(change.since, None)
    elif change.reason.startswith(FAILED) and change.since == last:
        service.beats.setdefault(change.since, Beat(change.since, Signal.FAIL, message=message))
    elif last:
        service.beats.setdefault(last, None)
        service.gaps.add(last)


def _is_whole(service: ServiceHistory, at: int) -> bool:
    """Whether a heartbeat is known as it was sent."""
    return at in service.beats and 0 < service.kept_since <= at


@lru_cache(maxsize=100_000)
def _at(text: str) -> int:
    """ValueError: it is no moment."""
    return micros(datetime.fromisoformat(text))
