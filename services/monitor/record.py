"""Records transitions, registrations and declared intervals as events, and applies what other monitors
recorded. The state is changed only after the broker has stored the event."""

from dataclasses import dataclass
from functools import partial

import structlog
from prometheus_client import Counter

from services.monitor.domain import runs
from services.monitor.domain.runs import declares
from services.monitor.domain.service import (
    UNKNOWN,
    Beat,
    Gap,
    Job,
    MonitoredService,
    RunFact,
    StatusTransition,
)
from services.monitor.events import EventReader
from services.monitor.state import MonitorState
from services.monitor.store import mapping
from services.monitor.store.event_store import EventStore
from shared.contracts.events import ConfigEvent, Fact, Outcome, Status, StatusChanged, parse_fact
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
RUNS = Counter("registry_runs_recorded_total", "Facts about runs recorded by this monitor", ["outcome"])
RUNS_OF = {outcome: RUNS.labels(outcome) for outcome in Outcome}
GAPS = Counter("registry_gaps_recorded_total", "Gaps between heartbeats recorded by this monitor")
REFUSED = Counter("registry_registrations_refused_total", "First heartbeats over REGISTRY_MAX_SERVICES")

ADMITTED = 2
"""So many times REGISTRY_MAX_SERVICES may be registered by heartbeats that ingest has accepted and answered
with 200. Ingest counts by itself, so beyond the limit are only those that several ingests, the API, and
senders over NATS add at the same time, and those of senders that forge ingest's header."""


MAX_KNOWN = 10_000
"""Services that just beat of which it is known at least how far their gaps are recorded; of others the broker
is asked again."""


@dataclass(slots=True)
class _RecordedFacts:
    """Of a service that just beats; see the fields of `Job`."""

    run_seq: int = 0
    recorded: tuple[int, int, str] = (0, 0, "")


class Recorder:
    def __init__(
        self, event_store: EventStore, state: MonitorState, events: EventReader, max_services: int
    ) -> None:
        self._event_store = event_store
        self._state = state
        self._events = events
        self._max_services = max_services
        self._appending: set[str] = set()
        """The ids of events that are on their way to the broker."""
        self._registering = 0
        self._facts_of: dict[str, _RecordedFacts] = {}

    async def record(self, service: MonitoredService, transition: StatusTransition) -> bool:
        """Append a transition and apply it. False: another monitor was first."""
        event = mapping.to_event(service.name, transition)
        from_, to = transition.from_, transition.to
        attributes = {"registry.service": service.name, "registry.from": from_, "registry.to": to}
        self._appending.add(event.id)
        try:
            with tracing.change_span(event, attributes) as span:
                seq = await self._append(streams.status(service.name), event, service.status_seq)
                span.set_attribute("registry.recorded", bool(seq))
        finally:
            self._appending.discard(event.id)
        if seq:
            CHANGES.labels(from_, to).inc()
            if seq > service.status_seq:  # else another monitor's next event was read before this answer came
                service.status_seq = seq
                self._state.apply_transition(service, transition)
        return bool(seq)

    async def apply_newest_status(self, service: MonitoredService) -> None:
        """Another monitor was first: apply its event."""
        message = await self._newest(streams.status(service.name))
        if message is None or message.seq < service.status_seq:
            service.status_seq = message.seq if message else 0  # the record is not the one we knew
        else:
            self.apply_status(message)

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

    async def record_run(self, service: MonitoredService, fact: RunFact, *, is_applied: bool = False) -> None:
        """Append a fact about a run, unless it is recorded already, and apply it, unless it is already."""
        if await self._record_fact(service, fact.order, mapping.run_event(service.name, fact)):
            RUNS_OF[fact.outcome].inc()
        if not is_applied:
            runs.apply_fact(service, fact)

    async def record_gap(self, service: MonitoredService, gap: Gap) -> None:
        """Append a gap, unless it is recorded already."""
        if await self._record_fact(service, gap.order, mapping.gap_event(service.name, gap)):
            GAPS.inc()

    async def _record_fact(self, service: MonitoredService, order: tuple[int, int, str], event: Fact) -> bool:
        """Append what belongs into RUNS, unless it is there already. Facts of a service come in their order,
        so what is not later than the newest is there."""
        known, subject = service.job or self._recorded_of(service.name), streams.run(service.name)
        while order > known.recorded:
            if seq := await self._append(subject, event, known.run_seq):
                known.run_seq, known.recorded = seq, order
                return True
            message = await self._newest(subject)
            known.run_seq = message.seq if message else 0
            if message is not None:
                try:
                    known.recorded = mapping.order_of(parse_fact(message.data))
                except ValueError:
                    continue  # what cannot be read stands in the way, and says nothing
        return False

    def _recorded_of(self, name: str) -> Job | _RecordedFacts:
        """What is known of the facts of a service that just beats; none of it is in a snapshot."""
        if len(self._facts_of) > MAX_KNOWN + 2 * len(self._state.services):
            self._facts_of.clear()
        return self._facts_of.setdefault(name, _RecordedFacts())

    async def _append(self, subject: str, event: StatusChanged | ConfigEvent | Fact, after: int) -> int:
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

    async def register(self, name: str, beat: Beat, admitted: bool) -> MonitoredService | None:
        """Register a service at its first heartbeat; None if it may not be. `admitted`: ingest has accepted
        it, so the last places may have been taken since."""
        state, after = self._state, 0
        while True:
            if upcoming := state.upcoming_of.get(name):
                change = upcoming[0]
                is_later = change.deletes or change.registered_at > beat.at
                return None if is_later else state.apply_change(change)
            limit = self._max_services * (ADMITTED if admitted else 1)
            if len(state.services) + self._registering >= limit:
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
                return state.apply_change(mapping.config_change(event, seq, beat.at))
            message = await self._newest(streams.config(name))
            if message is not None and message.seq > self._events.read_until:
                await self._events.wait_until()
            if name in state.upcoming_of:
                continue
            if message is not None and message.at >= beat.at:
                return None  # deleted, or made unreadable, after this heartbeat
            after = message.seq if message else 0

    async def declare_new(self, service: MonitoredService, beat: Beat) -> None:
        """Record and use the interval or the schedule that a heartbeat declares, if it is another one."""
        if declares(service, beat) and beat.at > service.last_beat:
            await self.declare(service, beat)
            self._state.use_declared(service, beat)

    async def declare(self, service: MonitoredService, beat: Beat) -> None:
        """Record what a heartbeat declares in the configuration, unless it is there already."""
        while True:
            message = await self._newest(streams.config(service.name))
            newest = self._events.parse(message) if message else None
            if message is None or newest is None or isinstance(newest, StatusChanged):
                return
            event = mapping.declaration(service.name, beat, newest, message.at)
            if event is None or await self._append(streams.config(service.name), event, message.seq):
                return
