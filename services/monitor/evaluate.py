"""Evaluates heartbeats and ticks: asks the lifecycle what follows from them, and records that.

The state is changed only after the broker has stored the event. If another monitor was first, its event is
applied, and the lifecycle is asked again.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

import structlog
from prometheus_client import Counter

from services.monitor.configure import Configuration
from services.monitor.domain.lifecycle import apply_while_paused, decidable, decide, next_due
from services.monitor.domain.mass_outage import MassOutageDetector
from services.monitor.domain.service import (
    UNKNOWN,
    Beat,
    EffectiveThresholds,
    MonitoredService,
    PausedReport,
    StatusTransition,
)
from services.monitor.events import EventReader
from services.monitor.state import MonitorState
from services.monitor.store import mapping
from services.monitor.store.event_store import EventStore
from shared.contracts.events import SOURCE_HEADER, ConfigEvent, Signal, Status, StatusChanged
from shared.messaging import streams
from shared.messaging.connection import retry_until_done
from shared.messaging.errors import WrongSequence
from shared.messaging.reader import Stored
from shared.telemetry import tracing

log = structlog.get_logger()

CHANGES = Counter(
    "registry_status_changes_total", "Changes of status recorded by this monitor", ["from", "to"]
)
for _from in Status:
    for _to in {*Status} - {UNKNOWN, _from}:
        CHANGES.labels(_from, _to)
REFUSED = Counter("registry_registrations_refused_total", "First heartbeats over REGISTRY_MAX_SERVICES")

MAX_HELD = 100
"""Late heartbeats kept per service until a tick comes; without ticks nothing is evaluated anyway."""
MAX_CONCURRENT = 1000
"""Services that are evaluated at once, each waiting for the broker, however many there are to evaluate."""
ADMITTED = 2
"""So many times REGISTRY_MAX_SERVICES may be registered by heartbeats that ingest has accepted and answered
with 200. Ingest counts by itself, so beyond the limit are only those that several ingests, the API, and
senders over NATS add at the same time, and those of senders that forge ingest's header."""

T = TypeVar("T")
ReadBeat = tuple[Beat | None, Stored]
"""A heartbeat with its message; None: it is malformed."""


@dataclass(frozen=True)
class Rules:
    """`patience`: the registry's default thresholds. `kept`: messages the broker keeps per subject."""

    patience: EffectiveThresholds
    kept: int
    max_services: int


class Evaluator:
    def __init__(
        self,
        event_store: EventStore,
        state: MonitorState,
        configuration: Configuration,
        events: EventReader,
        rules: Rules,
    ) -> None:
        self._event_store = event_store
        self._state = state
        self._configuration = configuration
        self._events = events
        self._rules = rules
        self._late: set[str] = set()
        """Services that hold heartbeats."""
        self._appending: set[str] = set()
        """The ids of events that are on their way to the broker."""
        self._registering = 0
        self._hole_at = 0
        """When the first message was stored after messages that were removed before they were read."""
        self._proved_from = 0
        """The same, but only where it was not the broker that removed them as there were too many: heartbeats
        may have been among them, so ticks prove nothing of the time before."""

    def note_hole(self, message: Stored) -> None:
        """Messages before this one are gone. The broker removes old ones itself only if we are far behind."""
        self._hole_at = message.at
        if message.pending < self._rules.kept - 1:
            self._proved_from = message.at

    # --- heartbeats

    async def evaluate_all(self, read: dict[str, list[ReadBeat]]) -> None:
        if read:
            await _concurrently(self._evaluate_service, read.items())

    async def _evaluate_service(self, named: tuple[str, list[ReadBeat]]) -> None:
        """One service's heartbeats of a batch, in order."""
        name, beats = named
        state = self._state
        for beat, message in beats:
            if beat is None:
                await self._skip(name, message)
                continue
            service = state.services.get(name) or await self._register(name, beat, _over_http(message))
            if beat.signal is Signal.LOG:  # no sign of life
                await self._skip(name, message)
                continue
            if service is None or beat.at < service.registered_at:
                continue
            newest = state.snapshots.beats
            newest[service.bucket] = max(newest[service.bucket], message.seq)
            if service.paused:
                await self._evaluate_while_paused(service, beat)
                continue
            if service.unsure or await self._is_unproved(service, beat.at, message):
                service.unsure = False
                beat = beat._replace(after_hole=True)
            if service.held or not decidable(service, beat, state.coverage):
                self._late.add(name)
                service.held = (*service.held[: MAX_HELD - 1], beat)
            else:
                await self._evaluate_heartbeat(service, beat, message)

    async def _skip(self, name: str, message: Stored) -> None:
        """No sign of life, but perhaps the oldest heartbeat that the broker has kept."""
        service = self._state.services.get(name)
        if service is not None and not service.held and await self._has_hole(service, message):
            service.unproved = message.at

    async def _evaluate_heartbeat(
        self, service: MonitoredService, beat: Beat, read: Stored, detector: MassOutageDetector | None = None
    ) -> None:
        await self._transition(service, beat, read, detector)
        await self._declare_interval(service, beat)
        self._state.apply_heartbeat(service, beat.at, beat.signal)
        self._state.schedule(service)

    async def _evaluate_while_paused(self, service: MonitoredService, beat: Beat) -> None:
        service.unsure = False
        if beat.at > service.last_beat:
            await self._declare_interval(service, beat)
            apply_while_paused(service, beat)

    async def evaluate_resumed(self, read: Stored) -> None:
        """What was reported while services were paused counts from their resume on."""
        configuration = self._configuration
        while configuration.undeclared:
            await self._declare(*configuration.undeclared.pop())
        if configuration.resumed:
            resumed, configuration.resumed = configuration.resumed, []
            await _concurrently(partial(self.evaluate_one_resumed, read), resumed)

    async def evaluate_one_resumed(self, read: Stored, service: MonitoredService) -> None:
        if service.said and self._state.services.get(service.name) is service:
            await self._transition(service, service.said, read, None)
            service.said = None
            self._state.schedule(service)

    # --- ticks

    async def evaluate_tick(self, start: int, end: int, message: Stored) -> None:
        """The registry was listening from `start` to `end`: evaluate what is late, and what is overdue."""
        self._state.prove(min(max(start, self._proved_from), end), end)
        services, detector = self._state.services, None
        late, self._late = self._late, set()
        waiting = [service for name in sorted(late) if (service := services.get(name)) and service.held]
        if waiting:
            detector = MassOutageDetector(self._state.cadence, end)
            await _concurrently(partial(self._evaluate_held, message, detector), waiting)
        if overdue := self._state.overdue(end):
            detector = detector or MassOutageDetector(self._state.cadence, end)
            await _concurrently(partial(self._evaluate_overdue, message, end, detector), overdue)

    async def _evaluate_held(
        self, tick: Stored, detector: MassOutageDetector, service: MonitoredService
    ) -> None:
        beats, service.held = service.held, ()
        for beat in beats:
            await self._evaluate_heartbeat(service, beat, tick, detector)

    async def _evaluate_overdue(
        self, tick: Stored, at: int, detector: MassOutageDetector, service: MonitoredService
    ) -> None:
        if await self._is_unproved(service, at, tick):
            service.unsure = True
            return
        await self._transition(service, at, tick, detector)
        self._state.schedule(service)

    # --- recording

    async def _transition(
        self,
        service: MonitoredService,
        fact: Beat | PausedReport | int,
        read: Stored,
        detector: MassOutageDetector | None,
    ) -> None:
        """Record the transitions that follow from a fact, one after the other. `read`: its message."""
        coverage = self._state.coverage
        while (transition := next(decide(service, fact, coverage, detector), None)) is not None:
            if await self._record(service, transition):
                continue
            message = await self._newest(streams.status(service.name))
            if message is None or message.seq < service.status_seq:
                service.status_seq = message.seq if message else 0  # the record is not the one we knew
            else:
                self.apply_status(message)
            if isinstance(fact, PausedReport):
                continue
            if await self._is_unproved(service, fact if isinstance(fact, int) else fact.at, read):
                if isinstance(fact, int):
                    service.unsure = True
                    return
                fact = fact._replace(after_hole=True)

    async def _record(self, service: MonitoredService, transition: StatusTransition) -> bool:
        """Append a transition and apply it. False: another monitor was first."""
        event = mapping.to_event(service.name, transition)
        attributes = {
            "registry.service": service.name,
            "registry.from": transition.from_,
            "registry.to": transition.to,
        }
        self._appending.add(event.id)
        try:
            with tracing.change_span(event, attributes) as span:
                seq = await self._append(streams.status(service.name), event, service.status_seq)
                span.set_attribute("registry.recorded", bool(seq))
        finally:
            self._appending.discard(event.id)
        if seq:
            CHANGES.labels(transition.from_, transition.to).inc()
            if seq > service.status_seq:  # else another monitor's next event was read before this answer came
                service.status_seq = seq
                self._state.apply_transition(service, transition)
        return bool(seq)

    def apply_status(self, message: Stored) -> None:
        """Apply an event that was recorded, if it is newer than the last one."""
        name = streams.name_in(message.subject)
        service = self._state.services.get(name)
        if service is not None and message.seq <= service.status_seq:
            return
        event = self._events.parse(message)
        transition = mapping.to_transition(event) if isinstance(event, StatusChanged) else None
        if service is None:
            if transition:
                self._state.unclaimed[name] = message.seq, transition
        elif event is None or event.id not in self._appending:
            service.status_seq = message.seq
            if transition:
                self._state.apply_recorded(service, transition)

    async def _append(self, subject: str, event: StatusChanged | ConfigEvent, after: int) -> int:
        """The new sequence; 0 if another writer was first. Waits for the broker as long as it takes."""

        async def attempt() -> int:
            try:
                ack = await self._event_store.append(subject, event, after)
            except WrongSequence:
                return 0
            return 0 if ack.duplicate else ack.seq

        return await retry_until_done(f"append to {subject}", attempt)

    async def _newest(self, subject: str) -> Stored | None:
        return await retry_until_done(f"read {subject}", partial(self._event_store.newest_event, subject))

    async def _register(self, name: str, beat: Beat, admitted: bool) -> MonitoredService | None:
        """Register a service at its first heartbeat; None if it may not be. `admitted`: ingest has accepted
        it, so the last places may have been taken since."""
        configuration, after = self._configuration, 0
        while True:
            if upcoming := configuration.upcoming_of.get(name):
                change = upcoming[0]
                is_later = change.deletes or change.registered_at > beat.at
                return None if is_later else configuration.apply(change)
            limit = self._rules.max_services
            if len(self._state.services) + self._registering >= (limit * ADMITTED if admitted else limit):
                REFUSED.inc()
                return None
            event = mapping.registration(name, beat)
            self._registering += 1
            try:
                seq = await self._append(streams.config(name), event, after)
            finally:
                self._registering -= 1
            if seq:
                log.debug("registered", name=name)
                return configuration.apply(mapping.config_change(event, seq, beat.at))
            message = await self._newest(streams.config(name))
            if message is not None and message.seq > self._events.read_until:
                await self._events.wait_until()
            if name in configuration.upcoming_of:
                continue
            if message is not None and message.at >= beat.at:
                return None  # deleted, or made unreadable, after this heartbeat
            after = message.seq if message else 0

    async def _declare_interval(self, service: MonitoredService, beat: Beat) -> None:
        if beat.every not in (0, service.every) and beat.at > service.last_beat:
            await self._declare(service, beat)
            self._configuration.set_interval(service, beat)

    async def _declare(self, service: MonitoredService, beat: Beat) -> None:
        """Record the interval that a heartbeat declares in the configuration, unless it is there already."""
        while True:
            message = await self._newest(streams.config(service.name))
            newest = self._events.parse(message) if message else None
            if message is None or newest is None or isinstance(newest, StatusChanged):
                return
            event = mapping.declaration(service.name, beat, newest, message.at)
            if event is None or await self._append(streams.config(service.name), event, message.seq):
                return

    # --- messages that were removed before they were read

    async def _is_unproved(self, service: MonitoredService, until: int, read: Stored) -> bool:
        """Whether a transition would be due, but heartbeats are missing that might have prevented it."""
        at = next_due(service, self._state.coverage)
        return at is not None and at <= until and await self._has_hole(service, read)

    async def _has_hole(self, service: MonitoredService, read: Stored) -> bool:
        """Whether the broker has removed heartbeats of this service that we have not read. It can have done
        so only if we are far behind."""
        if read.pending < self._rules.kept - 1:
            return False
        ask = partial(self._event_store.oldest_heartbeat, service.name)
        oldest = await retry_until_done("read the oldest heartbeat", ask)
        if oldest is None:  # all of them were removed, and nobody knows when the last one was
            service.unproved = max(service.unproved, self._hole_at)
            return False
        return oldest.at > max(service.heard, service.unproved)


def _over_http(message: Stored) -> bool:
    return bool(message.headers) and (message.headers or {}).get(SOURCE_HEADER) == "http"


async def _concurrently(do: Callable[[T], Coroutine[None, None, None]], items: Iterable[T]) -> None:
    """`do` it with all items, MAX_CONCURRENT at a time."""
    rest = iter(items)

    async def worker(first: T) -> None:
        await do(first)
        for item in rest:
            await do(item)

    await asyncio.gather(*[worker(first) for first in islice(rest, MAX_CONCURRENT)])
