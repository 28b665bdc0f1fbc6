"""The monitor's shell: takes heartbeats, ticks and configuration in the order they were stored, asks the
lifecycle, records what follows.

State is changed only after the broker has stored the change. If another monitor was first, its event
is taken over, and the lifecycle is asked again.
"""

import asyncio
import gc
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

import structlog
from prometheus_client import Counter, Gauge, Histogram

from services.monitor.domain import epochs
from services.monitor.domain.deadlines import DeadlineQueue
from services.monitor.domain.epochs import Epoch
from services.monitor.domain.lifecycle import (
    ALIVE,
    SECOND,
    UNKNOWN,
    Beat,
    CadenceIndex,
    Change,
    EffectiveThresholds,
    MassOutageDetector,
    MonitoredService,
    PausedReport,
    change_thresholds,
    decidable,
    decide,
    evolve,
    hear,
    next_due,
    record_while_paused,
    resume,
)
from services.monitor.store import mapping
from services.monitor.store.dead_letters import DeadLetters
from services.monitor.store.event_store import EventStore
from services.monitor.store.mapping import Checkpoint, ConfigChange
from services.monitor.store.snapshots import Snapshots
from shared.contracts.events import SOURCE_HEADER, ConfigEvent, Event, Signal, Status, StatusChanged, Tick
from shared.contracts.heartbeats import parse_heartbeat
from shared.domain.coverage import Coverage
from shared.messaging import streams
from shared.messaging.connection import retry_until_done
from shared.messaging.errors import WrongSequence
from shared.messaging.reader import OVER_HTTP, PENDING, Reader, Stored
from shared.telemetry import tracing

log = structlog.get_logger()

HEARTBEATS_READ = Counter("registry_heartbeats_read_total", "Heartbeats taken into the monitor's state")
CHANGES = Counter(
    "registry_status_changes_total", "Changes of status recorded by this monitor", ["from", "to"]
)
for _from in Status:
    for _to in {*Status} - {UNKNOWN, _from}:
        CHANGES.labels(_from, _to)
REFUSED = Counter("registry_registrations_refused_total", "First heartbeats over REGISTRY_MAX_SERVICES")
SERVICES = Gauge("registry_services", "Services by status", ["status"])
for _stream in (streams.HEARTBEATS, streams.SERVICES):
    PENDING.labels(_stream)
LIMIT = Gauge("registry_services_limit", "REGISTRY_MAX_SERVICES")
TICK_LAG = Gauge("registry_tick_lag_messages", "Messages behind the tick that was judged last")
TICK_LAG_SECONDS = Gauge(
    "registry_tick_lag_seconds", "Time since the tick was stored that was judged last, or since the start"
)
TICK_SECONDS = Histogram(
    "registry_tick_seconds",
    "Time it takes to judge at a tick, with its appends",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)

MAX_HELD = 100
"""Late beats kept per service until a tick comes; without ticks nothing is judged anyway."""
MAX_BEHIND = 5000
"""Messages behind the stream's end beyond which no snapshot is written: it would be old at once."""
RETRY_INTERVAL = 2.0
"""Seconds after which it is asked anew up to which event to read."""
MAX_CONCURRENT = 1000
"""Services that are dealt with at once, each waiting for the broker, however many there are to deal with."""

ADMITTED = 2
"""So many times REGISTRY_MAX_SERVICES are registered of those that ingest let in and answered with 200. It
counts by itself, so beyond the limit is only what several ingests, the API, and senders over NATS add at the
same time, and who forges ingest's header."""

MANY = 10_000
"""Services from which on the collector of garbage is kept away from them."""

T = TypeVar("T")
Heard = tuple[Beat | None, Stored]
"""A beat as it was read; None: it is malformed."""


@dataclass(frozen=True)
class Rules:
    """`patience`: the registry's default thresholds. `kept`: messages the broker keeps per subject."""

    patience: EffectiveThresholds
    kept: int
    max_services: int


class Monitor:
    """`run` until cancelled."""

    def __init__(self, event_store: EventStore, rules: Rules) -> None:
        self._event_store = event_store
        self._rules = rules
        self.services: dict[str, MonitoredService] = {}
        self._buckets: list[dict[str, MonitoredService]] = [{} for _ in range(mapping.BUCKETS)]
        self._snapshots = Snapshots(event_store, self._state)
        self._dead_letters = DeadLetters(event_store)
        self.coverage = Coverage()
        self.judged = 0
        """When the tick was stored that was judged last."""
        self._cadence = CadenceIndex()
        self._counts = dict.fromkeys(Status, 0)
        self._deadlines = DeadlineQueue()
        self._late: set[str] = set()
        self._beats_read = 0
        self._events_read = 0
        self._config_read = 0
        self._events_known_until = 0
        self._events_moved = asyncio.Event()
        self._reading: asyncio.Task[None]
        self._upcoming: deque[ConfigChange] = deque()
        """Configuration that was read, and is newer than the heartbeats that were."""
        self._ahead: dict[str, deque[ConfigChange]] = {}
        """The same by service."""
        self._epochs = epochs.first(rules.patience)
        self._epoch_of = self._epochs * mapping.BUCKETS
        """By which epoch the services of each bucket go."""
        self._next_epochs: deque[Epoch] = deque()
        """Those that begin behind the messages that were read."""
        self._resumed: list[MonitoredService] = []
        """Those whose pause is over, and what was said in it to be taken in."""
        self._undeclared: list[tuple[MonitoredService, Beat]] = []
        """Beats whose interval is to be taken into the configuration."""
        self._unclaimed: dict[str, tuple[int, Change]] = {}
        self._appending: set[str] = set()
        self._registering = 0
        self._hole_at = 0
        """When the first message was stored after some that were not read, because they were gone."""
        self._proved_from = 0
        """The same of messages that the broker itself has not let go of: what ticks say of the time before
        proves nothing, as heartbeats may have been stored that nobody has read."""
        self.on_caught_up: Callable[[], None] = lambda: None

    def save_everything(self) -> None:
        """The snapshot that was written is gone."""
        self._snapshots.save_everything()

    # --- reading

    async def run(self) -> None:
        complaining = asyncio.create_task(self._dead_letters.run())
        reach = await retry_until_done("load the snapshot", self._load)
        self._beats_read, self._events_read = reach.heartbeats, reach.events
        self._reading = asyncio.create_task(self._read_events(fresh=not reach.events))
        self._reading.add_done_callback(lambda _: self._events_moved.set())
        for status in Status:
            SERVICES.labels(status).set_function(partial(self._counts.__getitem__, status))
        LIMIT.set(self._rules.max_services)
        try:
            await self._events_up_to(0)
            log.info("watching", services=len(self.services), after=reach.heartbeats)
            reader = self._event_store.reader(
                streams.HEARTBEATS, streams.ALL_HEARTBEATS, streams.ALL_TICKS, after=reach.heartbeats
            )
            async for batch in reader.batches():
                if batch:
                    await self._process_batch(batch)
                PENDING.labels(streams.HEARTBEATS).set(reader.pending or 0)
                if not reader.pending:
                    self.on_caught_up()
        finally:
            self._reading.cancel()
            complaining.cancel()

    async def _process_batch(self, batch: list[Stored]) -> None:
        """One batch: what only moves a last beat is done at once, the rest per service before each tick."""
        await self._events_up_to(batch[-1].at)
        slow: dict[str, list[Heard]] = {}
        newest, services, upcoming, count = self._snapshots.beats, self.services, self._upcoming, 0
        coming = self._next_epochs
        await self._apply_resumed(batch[0])
        for message in batch:
            if message.seq <= self._beats_read:
                continue
            if message.seq != self._beats_read + 1:
                self._note_hole(message)
            if (upcoming and upcoming[0].at < message.at) or (coming and coming[0].since < message.at):
                await self._process_all(slow)
                slow = {}
                self._configure(message.at)
                await self._apply_resumed(message)
            if message.subject.startswith("tick."):
                await self._process_all(slow)
                slow = {}
                await self._tick(message)
                self._beats_read = message.seq
                continue
            self._beats_read = message.seq
            name = message.subject[_HEARTBEAT:]
            it = services.get(name)
            if it is not None:
                newest[it.bucket] = message.seq
                if message.at <= it.last_beat:
                    continue
                if (
                    not message.data
                    and (not message.headers or message.headers is OVER_HTTP)
                    and name not in slow
                    and self._is_plain(it, message.at)
                ):
                    count += 1
                    self._record_heartbeat(it, message.at, Signal.SUCCESS)
                    continue
            beat = self._parse(name, message)
            if beat is None:
                if it is not None:
                    slow.setdefault(name, []).append((None, message))
                continue
            count += 1
            if it is None or name in slow or beat.signal in _SETTLED or beat.every not in (0, it.every):
                slow.setdefault(name, []).append((beat, message))
            elif self._is_plain(it, beat.at):
                self._record_heartbeat(it, beat.at, beat.signal)
            else:
                slow[name] = [(beat, message)]
        HEARTBEATS_READ.inc(count)
        await self._process_all(slow)

    def _note_hole(self, message: Stored) -> None:
        """Messages before this one are gone. The broker lets go of them only where we are far behind."""
        self._hole_at = message.at
        if message.pending < self._rules.kept - 1:
            self._proved_from = message.at

    def _is_plain(self, it: MonitoredService, at: int) -> bool:
        """Alive and not late: a sign of life moves nothing but the last beat."""
        if it.status is not ALIVE or it.held or it.unsure or it.paused:
            return False
        return at < it.heard + it.patience.silent and at >= it.registered_at

    def _parse(self, name: str, message: Stored) -> Beat | None:
        try:
            return mapping.beat(message.at, parse_heartbeat(name, message.data, message.headers))
        except ValueError as error:
            self._dead_letters.add("heartbeat", name, message, str(error))
            return None

    # --- heartbeats

    async def _process_all(self, slow: dict[str, list[Heard]]) -> None:
        if slow:
            await _each(self._process_service, slow.items())

    async def _process_service(self, heard: tuple[str, list[Heard]]) -> None:
        """One service's beats of a batch, in order."""
        name, beats = heard
        for beat, message in beats:
            if beat is None:
                await self._reject(name, message)
                continue
            it = self.services.get(name) or await self._register(name, beat, admitted=_over_http(message))
            if beat.signal is Signal.LOG:  # no sign of life
                await self._reject(name, message)
                continue
            if it is None or beat.at < it.registered_at:
                continue
            self._snapshots.beats[it.bucket] = max(self._snapshots.beats[it.bucket], message.seq)
            if it.paused:
                await self._record_while_paused(it, beat)
                continue
            if it.unsure or await self._is_unproved(it, beat.at, message):
                it.unsure = False
                beat = beat._replace(after_hole=True)
            if it.held or not decidable(it, beat, self.coverage):
                self._late.add(name)
                it.held = (*it.held[: MAX_HELD - 1], beat)
            else:
                await self._evaluate_heartbeat(it, beat, message)

    async def _reject(self, name: str, malformed: Stored) -> None:
        """No sign of life, but perhaps the first that the broker still had after those that it let go of."""
        it = self.services.get(name)
        if it is not None and not it.held and await self._has_hole(it, malformed):
            it.unproved = malformed.at

    async def _evaluate_heartbeat(
        self, it: MonitoredService, beat: Beat, read: Stored, detector: MassOutageDetector | None = None
    ) -> None:
        await self._transition(it, beat, read, detector)
        await self._declare_interval(it, beat)
        self._record_heartbeat(it, beat.at, beat.signal)
        self._deadlines.note(it, self.coverage)

    async def _declare_interval(self, it: MonitoredService, beat: Beat) -> None:
        if beat.every not in (0, it.every) and beat.at > it.last_beat:
            await self._declare(it, beat)
            it.every, it.every_at = beat.every, beat.at
            it.patience = self._in_force(it)

    async def _record_while_paused(self, it: MonitoredService, beat: Beat) -> None:
        it.unsure = False
        if beat.at > it.last_beat:
            await self._declare_interval(it, beat)
            record_while_paused(it, beat)

    async def _apply_resumed(self, read: Stored) -> None:
        """What came in while services were paused counts as of their resume."""
        while self._undeclared:
            await self._declare(*self._undeclared.pop())
        if self._resumed:
            resumed, self._resumed = self._resumed, []
            await _each(partial(self._apply_one_resumed, read), resumed)

    async def _apply_one_resumed(self, read: Stored, it: MonitoredService) -> None:
        if it.said and self.services.get(it.name) is it:
            await self._transition(it, it.said, read, None)
            it.said = None
            self._deadlines.note(it, self.coverage)

    def _record_heartbeat(self, it: MonitoredService, at: int, signal: Signal) -> None:
        hear(it, at, signal)
        self._cadence.take(it)
        if not it.scheduled:  # its first beat
            self._deadlines.note(it, self.coverage)

    async def _transition(
        self,
        it: MonitoredService,
        fact: Beat | PausedReport | int,
        read: Stored,
        detector: MassOutageDetector | None,
    ) -> None:
        """Record what follows, one change after the other. `read`: the message that is taken in."""
        while (change := next(decide(it, fact, self.coverage, detector), None)) is not None:
            event = mapping.to_event(it.name, change)
            self._appending.add(event.id)
            what = {"registry.service": it.name, "registry.from": change.from_, "registry.to": change.to}
            try:
                with tracing.change_span(event, what) as span:
                    seq = await self._append(streams.status(it.name), event, it.status_seq)
                    span.set_attribute("registry.recorded", bool(seq))
            finally:
                self._appending.discard(event.id)
            if seq:
                CHANGES.labels(change.from_, change.to).inc()
                if seq > it.status_seq:  # else another monitor's next change was read before this answer came
                    it.status_seq = seq
                    self._apply_transition(it, change)
                continue
            message = await self._newest(streams.status(it.name))
            if message is None or message.seq < it.status_seq:
                it.status_seq = message.seq if message else 0  # the record is not the one we knew
            else:
                self._apply_status(message)
            if isinstance(fact, PausedReport):
                continue
            if await self._is_unproved(it, fact if isinstance(fact, int) else fact.at, read):
                if isinstance(fact, int):
                    it.unsure = True
                    return
                fact = fact._replace(after_hole=True)

    def _apply_transition(self, it: MonitoredService, change: Change) -> None:
        self._counts[it.status] -= 1
        evolve(it, change)
        self._counts[it.status] += 1
        self._snapshots.touch(it.bucket, it.status_seq)

    async def _append(self, subject: str, event: StatusChanged | ConfigEvent, after: int) -> int:
        """The new sequence; 0 if another writer was first. Waits for the broker as long as it takes."""

        async def attempt() -> int:
            try:
                ack = await self._event_store.append(subject, event, after)
            except WrongSequence:
                return 0
            return 0 if ack.duplicate else ack.seq

        seq: int = await retry_until_done(f"append to {subject}", attempt)
        return seq

    async def _newest(self, subject: str) -> Stored | None:
        found: Stored | None = await retry_until_done(
            f"read {subject}", lambda: self._event_store.newest_event(subject)
        )
        return found

    async def _register(self, name: str, beat: Beat, *, admitted: bool) -> MonitoredService | None:
        """The service that a first heartbeat makes; None if there is none to make. `admitted`: ingest has let
        it in, so others may have taken the last places since."""
        after = 0
        while True:
            if ahead := self._ahead.get(name):
                coming = ahead[0]
                return None if coming.deletes or coming.registered_at > beat.at else self._service_for(coming)
            limit = self._rules.max_services
            if len(self.services) + self._registering >= (limit * ADMITTED if admitted else limit):
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
                return self._service_for(mapping.config_change(event, seq, beat.at))
            message = await self._newest(streams.config(name))
            if message is not None and message.seq > self._events_read:
                await self._events_up_to(0)
            if name in self._ahead:
                continue
            if message is not None and message.at >= beat.at:
                return None  # deleted, or made unreadable, after this beat
            after = message.seq if message else 0

    async def _declare(self, it: MonitoredService, beat: Beat) -> None:
        """Take the interval that a beat declares into the configuration, unless it is there already."""
        while True:
            message = await self._newest(streams.config(it.name))
            newest = self._event(message) if message else None
            if message is None or newest is None or isinstance(newest, StatusChanged):
                return
            event = mapping.declaration(it.name, beat, newest, message.at)
            if event is None or await self._append(streams.config(it.name), event, message.seq):
                return

    async def _is_unproved(self, it: MonitoredService, upto: int, read: Stored) -> bool:
        """Whether a fall would be due, but beats are missing that might have prevented it."""
        at = next_due(it, self.coverage)
        return at is not None and at <= upto and await self._has_hole(it, read)

    async def _has_hole(self, it: MonitoredService, read: Stored) -> bool:
        """Whether the broker has let go of beats that we have not read. It can have done so only where we are
        far behind its end."""
        if read.pending < self._rules.kept - 1:
            return False
        oldest: Stored | None = await retry_until_done(
            "read the oldest heartbeat", lambda: self._event_store.oldest_heartbeat(it.name)
        )
        if oldest is None:  # all of them were removed, and nobody knows when the last one was
            it.unproved = max(it.unproved, self._hole_at)
            return False
        return oldest.at > max(it.heard, it.unproved)

    # --- ticks

    async def _tick(self, message: Stored) -> None:
        try:
            tick = Tick.model_validate_json(message.data)
        except ValueError as error:
            self._dead_letters.add("tick", message.subject, message, str(error))
            return
        with TICK_SECONDS.time():
            start, upto = tick.proves(message.at)
            start = min(max(start, self._proved_from), upto)
            if self.coverage.prove(start, upto):
                for each in self.services.values():
                    self._deadlines.note(each, self.coverage)
            late, self._late = self._late, set()
            waiting = [it for name in sorted(late) if (it := self.services.get(name)) and it.held]
            detector = MassOutageDetector(self._cadence, upto) if waiting else None
            await _each(partial(self._evaluate_late, message, detector), waiting)
            fallen = self._deadlines.overdue(upto, self.coverage)
            if fallen:
                detector = detector or MassOutageDetector(self._cadence, upto)
                await _each(partial(self._evaluate_overdue, message, upto, detector), fallen)
        self.judged = max(self.judged, upto)
        TICK_LAG.set(message.pending)
        if message.pending < MAX_BEHIND:
            self._snapshots.save_some(Checkpoint(message.seq, self._configured), self.coverage)

    async def _evaluate_late(
        self, tick: Stored, detector: MassOutageDetector | None, it: MonitoredService
    ) -> None:
        beats, it.held = it.held, ()
        for beat in beats:
            await self._evaluate_heartbeat(it, beat, tick, detector)

    async def _evaluate_overdue(
        self, tick: Stored, upto: int, detector: MassOutageDetector, it: MonitoredService
    ) -> None:
        if await self._is_unproved(it, upto, tick):
            it.unsure = True
            return
        await self._transition(it, upto, tick, detector)
        self._deadlines.note(it, self.coverage)

    # --- events

    async def _read_events(self, fresh: bool) -> None:
        """Follow the record; if nothing is known of it yet, begin with all of the configuration and the
        newest change of each service."""
        if fresh:
            end, _ = await retry_until_done(
                "ask for the newest event", partial(self._event_store.end, streams.SERVICES)
            )
            async for message in _once(self._event_store.reader(streams.SERVICES, streams.ALL_CONFIG), end):
                self._apply_event(message)
            newest = self._event_store.reader(streams.SERVICES, streams.ALL_STATUS, newest_per_subject=True)
            async for message in _once(newest, end):
                if message.seq <= end:  # what has come since is read below
                    self._apply_status(await self._readable(message))
            self._events_read = end
            self._events_moved.set()
        read = self._event_store.reader(streams.SERVICES, streams.ALL_EVENTS, after=self._events_read)
        async for batch in read.batches():
            for message in batch:
                self._apply_event(message)
                self._events_read = max(self._events_read, message.seq)
            PENDING.labels(streams.SERVICES).set(read.pending or 0)
            self._events_moved.set()

    async def _readable(self, newest: Stored) -> Stored:
        """The newest change of a service; one that cannot be read says what the newest before it says that
        can, as for a monitor that has read all along."""
        message = newest
        while not _is_readable(message):
            ask = partial(self._event_store.event_before, message.subject, message.seq)
            before: Stored | None = await retry_until_done(f"read what {message.subject} was before", ask)
            if before is None:
                return newest
            message = before
        if message is not newest:
            self._event(newest)  # which counts it, and keeps it aside
        return newest._replace(data=message.data)

    def _apply_event(self, message: Stored) -> None:
        if message.subject.startswith("service.status."):
            self._apply_status(message)
        elif message.seq > self._config_read:
            self._config_read = message.seq
            event = self._event(message)
            if event is None or isinstance(event, StatusChanged):
                return
            if message.seq <= self._snapshots.configured[mapping.bucket_of(event.name)]:
                return  # a service that it made may be deleted in its bucket already, and must not come back
            config_change = mapping.config_change(event, message.seq, message.at)
            self._upcoming.append(config_change)
            self._ahead.setdefault(config_change.name, deque()).append(config_change)

    async def _events_up_to(self, at: int) -> None:
        """Wait until every event stored up to `at` (0: up to now) has been read. `at` is the time of a
        message that was received already, so what was stored before it is there when the broker is asked."""
        if 0 < at <= self._events_known_until:
            return
        loop = asyncio.get_running_loop()
        asked_at, last, asked = float("-inf"), 0, 0
        while self._events_read < last or not asked:
            if loop.time() > asked_at + RETRY_INTERVAL:  # the newest may have been removed before it was read
                last, asked = await retry_until_done(
                    "ask for the newest event", lambda: self._event_store.end(streams.SERVICES)
                )
                asked_at = loop.time()
                continue
            if self._reading.done():
                self._reading.result()
            self._events_moved.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_INTERVAL):
                    await self._events_moved.wait()
        self._events_known_until = max(self._events_known_until, at, asked - SECOND)

    def _apply_status(self, message: Stored) -> None:
        """Take over a recorded change. One from before the newest registration does not count."""
        name = streams.name_in(message.subject)
        it = self.services.get(name)
        if it is not None and message.seq <= it.status_seq:
            return
        event = self._event(message)
        change = mapping.to_change(event) if isinstance(event, StatusChanged) else None
        if it is None:
            if change:
                self._unclaimed[name] = message.seq, change
        elif event is None or event.id not in self._appending:
            it.status_seq = message.seq
            if change:
                self._apply_recorded(it, change)

    def _apply_recorded(self, it: MonitoredService, change: Change) -> None:
        if change.since > it.registered_at or (change.since == it.registered_at and change.from_ is UNKNOWN):
            self._apply_transition(it, change)
            self._deadlines.note(it, self.coverage)

    def _event(self, message: Stored) -> Event | None:
        try:
            return _read_event(message)
        except ValueError as error:
            self._dead_letters.add("event", streams.name_in(message.subject), message, str(error))
            return None

    # --- configuration

    @property
    def _configured(self) -> int:
        """The event up to which all that was read is taken in."""
        return self._upcoming[0].seq - 1 if self._upcoming else self._events_read

    def _configure(self, at: int) -> None:
        """Take in the configuration that was stored before `at`, and what defaults had changed by then."""
        while self._upcoming and self._upcoming[0].at < at:
            config_change = self._upcoming.popleft()
            self._begin_epochs(config_change.at)
            ahead = self._ahead[config_change.name]
            ahead.popleft()
            if not ahead:
                del self._ahead[config_change.name]
            it = self.services.get(config_change.name)
            if it is not None and config_change.seq <= it.config_seq:
                continue
            if not config_change.deletes:
                self._service_for(config_change)
            elif it is not None:
                self._forget(it, config_change)
        self._begin_epochs(at)

    def _begin_epochs(self, at: int) -> None:
        """Other defaults hold for all services, if they do so before `at`."""
        while self._next_epochs and self._next_epochs[0].since < at:
            epoch = self._next_epochs.popleft()
            for n, bucket in enumerate(self._buckets):
                if self._epoch_of[n].since < epoch.since:
                    self._epoch_of[n] = epoch
                    for it in bucket.values():
                        self._recompute_thresholds(it, epoch.since)
            self._snapshots.save_everything()

    def _in_force(self, it: MonitoredService) -> EffectiveThresholds:
        return mapping.in_force(it.own, it.every, self._epoch_of[it.bucket])

    def _recompute_thresholds(self, it: MonitoredService, at: int) -> None:
        """The thresholds of a service may be others from `at` on."""
        patience = self._in_force(it)
        if patience != it.patience:
            change_thresholds(it, patience, at, self.coverage.gaps)
            self._cadence.take(it)
            self._deadlines.note(it, self.coverage)

    def _forget(self, it: MonitoredService, config_change: ConfigChange) -> None:
        del self.services[it.name]
        del self._buckets[it.bucket][it.name]
        self._deadlines.drop(it)
        self._counts[it.status] -= 1
        self._cadence.drop(it)
        self._snapshots.touch(it.bucket, config_change.seq)
        if it.status_seq:  # if what comes after the deletion was read already, it belongs to what comes after
            ended = config_change.at if config_change.deletes else config_change.registered_at - 1
            from_ = UNKNOWN if it.since > ended else it.status
            self._unclaimed[it.name] = it.status_seq, Change(from_, it.status, it.since, it.recorded_beat, "")

    def _service_for(self, config_change: ConfigChange) -> MonitoredService:
        """The service as a configuration says, with what is already known of it."""
        it = self.services.get(config_change.name)
        known = it is not None and not (
            config_change.registers and config_change.registered_at > it.registered_at
        )
        if it is None or not known:
            if it:
                self._forget(it, config_change)
            bucket = mapping.bucket_of(config_change.name)
            it = MonitoredService(
                config_change.name, config_change.registered_at, self._epoch_of[bucket].default, bucket=bucket
            )
            self._add_service(it)
            if claim := self._unclaimed.pop(it.name, None):
                it.status_seq = claim[0]
                self._apply_recorded(it, claim[1])
        it.config_seq = config_change.seq
        it.own = config_change.own
        if config_change.declared_at > it.every_at:
            it.every, it.every_at = config_change.every, config_change.declared_at
        if known:
            self._recompute_thresholds(it, config_change.at)
        else:
            it.patience = self._in_force(it)
        if config_change.resumes or (it.paused and not config_change.paused):
            resume(it, config_change.at, max(config_change.at, epochs.bounded_since(self._epochs)))
            if it.said:
                self._resumed.append(it)
        it.paused = config_change.paused
        if it.paused and it.held:
            self._apply_held_while_paused(it)
        self._cadence.take(it)
        self._snapshots.touch(it.bucket, it.config_seq)
        self._deadlines.note(it, self.coverage)
        return it

    def _apply_held_while_paused(self, it: MonitoredService) -> None:
        """Beats that waited for a tick when it was paused: they are not evaluated any more."""
        beats, it.held = it.held, ()
        for beat in beats:
            if beat.at > it.last_beat:
                if beat.every not in (0, it.every):
                    it.every, it.every_at = beat.every, beat.at
                    it.patience = self._in_force(it)
                    self._undeclared.append((it, beat))
                record_while_paused(it, beat)

    def _add_service(self, it: MonitoredService) -> None:
        self.services[it.name] = it
        self._buckets[it.bucket][it.name] = it
        self._counts[it.status] += 1

    async def _load(self) -> Checkpoint:
        """Take in the newest snapshot, if there is one of these streams; how far it goes."""
        self._epochs = await self._load_epochs()
        found = await self._snapshots.load(self._epochs)
        if found is None:
            self._assign_epochs([self._epochs[0].since] * mapping.BUCKETS)
            return Checkpoint()
        for stream, seq in (
            (streams.HEARTBEATS, found.furthest.heartbeats),
            (streams.SERVICES, found.furthest.events),
        ):
            last, _ = await self._event_store.end(stream)
            if seq > last:
                log.warning(
                    "the stream is shorter than the snapshot; reading everything again", stream=stream
                )
                self._snapshots.discard()
                self._assign_epochs([self._epochs[0].since] * mapping.BUCKETS)
                return Checkpoint()
        self._assign_epochs(found.epochs)
        self.coverage = found.coverage
        self._deadlines = DeadlineQueue(self.coverage.until)
        for it in found.services:
            self._add_service(it)
            self._cadence.take(it)
            self._deadlines.note(it, self.coverage)
            if it.said and it.said.resumed_at:
                self._resumed.append(it)
        if len(self.services) > MANY:
            gc.freeze()  # they are here to stay: going through them again and again takes seconds
        return found.reach

    async def _load_epochs(self) -> list[Epoch]:
        """Which defaults hold since when, with ours from now on if they are others. Whoever writes down the
        same at the same time decides for both."""
        default = self._rules.patience
        while True:
            payload, version = await self._event_store.load_versioned(epochs.KEY)
            known = None
            try:
                known = epochs.load(payload) if payload else None
            except ValueError as error:
                log.warning("which defaults held before cannot be read", why=str(error))
            events, now = await self._event_store.end(streams.SERVICES)
            if known and not await self._snapshots.are_before_epochs():
                found = epochs.continued(known, default, now)
            elif events:
                found = epochs.upgraded(default, now)
            else:
                found = epochs.first(default)
            if found == known:
                return found
            if await self._event_store.replace(epochs.KEY, epochs.dump(found), version):
                return found

    def _assign_epochs(self, since: list[int]) -> None:
        """Each bucket's services go by the epoch that began then, until the next begins."""
        self._epoch_of = [epochs.at(self._epochs, moment) for moment in since]
        oldest = min(epoch.since for epoch in self._epoch_of)
        self._next_epochs.clear()
        self._next_epochs.extend(epoch for epoch in self._epochs if epoch.since > oldest)

    def _state(self, bucket: int) -> tuple[int, int, Collection[MonitoredService]]:
        return self._configured, self._epoch_of[bucket].since, self._buckets[bucket].values()


_HEARTBEAT = len(streams.heartbeat(""))


def _read_event(message: Stored) -> Event:
    """Raises ValueError."""
    return streams.read_event(message.subject, message.data)


def _is_readable(message: Stored) -> bool:
    with suppress(ValueError):
        return bool(_read_event(message))
    return False


def _over_http(message: Stored) -> bool:
    return bool(message.headers) and (message.headers or {}).get(SOURCE_HEADER) == "http"


_SETTLED = (Signal.FAIL, Signal.LOG)
"""Signals that are never a plain sign of life."""


async def _once(reader: Reader, end: int) -> AsyncIterator[Stored]:
    """What there is to read now, at least up to a sequence."""
    async with aclosing(reader.batches()) as batches:
        async for batch in batches:
            for message in batch:
                yield message
            if not reader.pending or reader.position >= end:
                return


async def _each(do: Callable[[T], Coroutine[None, None, None]], items: Iterable[T]) -> None:
    """`do` it with all of them, MOST_AT_ONCE at a time."""
    rest = iter(items)

    async def worker(first: T) -> None:
        await do(first)
        for item in rest:
            await do(item)

    await asyncio.gather(*[worker(first) for first in islice(rest, MAX_CONCURRENT)])
