"""Reads heartbeats and ticks, with the configuration and the events of that time, as they were stored."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from functools import partial

import structlog
from prometheus_client import Counter, Gauge, Histogram

from services.monitor.domain.gaps import is_gap
from services.monitor.domain.runs import declares
from services.monitor.domain.service import ALIVE, Beat, EffectiveThresholds, MonitoredService
from services.monitor.evaluate import Evaluator, ReadBeat
from services.monitor.events import EventReader
from services.monitor.record import Recorder
from services.monitor.state import MonitorState
from services.monitor.store import mapping
from services.monitor.store.event_store import DeadLetters, EventStore
from services.monitor.store.snapshot_codec import Bucket, Checkpoint
from services.monitor.store.snapshots import Snapshots
from shared.contracts import zones
from shared.contracts.events import Signal, Status, StatusChanged, Tick
from shared.contracts.heartbeats import parse_heartbeat
from shared.domain.coverage import Coverage
from shared.domain.service_state import belongs_to_this_life
from shared.messaging import streams
from shared.messaging.connection import retry_until_done
from shared.messaging.reader import BY_KEY, OVER_HTTP, PENDING, Stored

log = structlog.get_logger()

HEARTBEATS_READ = Counter("registry_heartbeats_read_total", "Heartbeats taken into the monitor's state")
SERVICES = Gauge("registry_services", "Services by status", ["status"])
LIMIT = Gauge("registry_services_limit", "REGISTRY_MAX_SERVICES")
PENDING.labels(streams.HEARTBEATS)
TICK_LAG = Gauge("registry_tick_lag_messages", "Messages behind the tick that was evaluated last")
TICK_LAG_SECONDS = Gauge(
    "registry_tick_lag_seconds", "Time since the tick was stored that was evaluated last, or since the start"
)
TICK_SECONDS = Histogram(
    "registry_tick_seconds",
    "Time it takes to evaluate a tick, with its appends",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)

MAX_BEHIND = 5000
"""Messages behind the stream's end beyond which no snapshot is written: it would be old at once."""
_NAME_AT = len(streams.heartbeat(""))
_NEVER_PLAIN = (Signal.FAIL, Signal.LOG, Signal.START)


class Monitor:
    """`run` until cancelled."""

    def __init__(
        self,
        event_store: EventStore,
        patience: EffectiveThresholds,
        kept: int,
        max_services: int,
        time_zone: str = "UTC",
    ) -> None:
        """`patience`, `time_zone`: what is used where a service has none of its own. `kept`: messages the
        broker keeps per subject."""
        self._event_store = event_store
        LIMIT.set(max_services)
        self.snapshots = Snapshots(event_store, self._bucket)
        self.state = MonitorState(self.snapshots, patience, time_zone)
        self._dead_letters = DeadLetters(event_store)
        self.events = EventReader(event_store, self._dead_letters, self.apply_event)
        self._recorder = Recorder(event_store, self.state, self.events, max_services)
        self.evaluator = Evaluator(event_store, self.state, self._recorder, kept)
        self.evaluated_until = 0
        """When the tick was stored that was evaluated last."""
        self._read_until = 0
        self._config_read_until = 0
        self.on_caught_up: Callable[[], None] = lambda: None

    async def run(self) -> None:
        keeping_dead_letters = asyncio.create_task(self._dead_letters.run())
        start = await retry_until_done("load the snapshot", self._load)
        self._read_until = start.heartbeats
        self.events.start(after=start.events)
        for status in Status:
            SERVICES.labels(status).set_function(partial(self.state.counts.__getitem__, status))
        try:
            await self.events.wait_until()
            services = len(self.state.services)
            log.info("watching", services=services, after=start.heartbeats, zones=zones.DATA_VERSION)
            reader = self._event_store.reader(
                streams.HEARTBEATS, streams.ALL_HEARTBEATS, streams.ALL_TICKS, after=start.heartbeats
            )
            async for batch in reader.batches():
                if batch:
                    await self.process_batch(batch)
                PENDING.labels(streams.HEARTBEATS).set(reader.pending or 0)
                if not reader.pending:
                    self.on_caught_up()
        finally:
            self.events.stop()
            keeping_dead_letters.cancel()

    async def process_batch(self, batch: list[Stored]) -> None:
        """One batch. A heartbeat that only moves the last one of its service is applied at once; the others
        are evaluated service by service, before the next tick or change of the configuration."""
        await self.events.wait_until(batch[-1].at)
        state, evaluator = self.state, self.evaluator
        upcoming, epochs = state.upcoming, state.upcoming_epochs
        services, newest = state.services, self.snapshots.beats
        others: defaultdict[str, list[ReadBeat]] = defaultdict(list)
        count = 0
        await evaluator.evaluate_resumed(batch[0])
        for message in batch:
            if message.seq <= self._read_until:
                continue
            if message.seq != self._read_until + 1:
                evaluator.note_hole(message)
            if (upcoming and upcoming[0].at < message.at) or (epochs and epochs[0].since < message.at):
                await evaluator.evaluate_all(others)
                state.apply_until(message.at)
                await evaluator.evaluate_resumed(message)
            self._read_until = message.seq
            if message.subject.startswith("tick."):
                await evaluator.evaluate_all(others)
                await self._process_tick(message)
                continue
            name = message.subject[_NAME_AT:]
            service = services.get(name)
            if service is not None:
                newest[service.bucket] = message.seq
                if message.at <= service.last_beat:
                    continue
                if (
                    not message.data
                    and (not message.headers or message.headers is OVER_HTTP or message.headers is BY_KEY)
                    and name not in others
                    and _is_plain(service, message.at)
                ):
                    count += 1
                    state.apply_heartbeat(service, message.at, Signal.SUCCESS)
                    continue
            beat = self._parse(name, message)
            if beat is None:
                if service is not None:
                    others[name].append((None, message))
                continue
            count += 1
            if (
                service is not None
                and name not in others
                and beat.signal not in _NEVER_PLAIN
                and not declares(service, beat)
                and _is_plain(service, beat.at)
            ):
                state.apply_heartbeat(service, beat.at, beat.signal)
            else:
                others[name].append((beat, message))
        HEARTBEATS_READ.inc(count)
        await evaluator.evaluate_all(others)

    def _parse(self, name: str, message: Stored) -> Beat | None:
        try:
            return mapping.beat(message.at, parse_heartbeat(name, message.data, message.headers))
        except ValueError as error:
            self._dead_letters.add("heartbeat", name, message, str(error))
            return None

    async def _process_tick(self, message: Stored) -> None:
        try:
            tick = Tick.model_validate_json(message.data)
        except ValueError as error:
            self._dead_letters.add("tick", message.subject, message, str(error))
            return
        start, end = tick.proves(message.at)
        with TICK_SECONDS.time():
            await self.evaluator.evaluate_tick(start, end, message)
        self.evaluated_until = max(self.evaluated_until, end)
        TICK_LAG.set(message.pending)
        if message.pending < MAX_BEHIND:
            heartbeats = self.evaluator.evaluated_until(message.seq)
            reach = Checkpoint(heartbeats, self.state.applied_until(self.events.read_until))
            self.snapshots.save_some(reach, self.state.coverage)

    def apply_event(self, message: Stored) -> None:
        if message.subject.startswith("service.status."):
            self._recorder.apply_status(message)
        elif message.subject.startswith("service.config.") and message.seq > self._config_read_until:
            self._config_read_until = message.seq
            event = self.events.parse(message)
            if event is not None and not isinstance(event, StatusChanged):
                self.state.enqueue(mapping.config_change(event, message.seq, message.at))

    # --- snapshots

    async def _load(self) -> Checkpoint:
        """Load the newest snapshot, if there is one of these streams; how far it goes."""
        await self.state.load_epochs(self._event_store)
        found = await self.snapshots.load(self.state.epochs)
        self.state.restore(found)
        return found.reach

    def _bucket(self, bucket: int, reach: Checkpoint, coverage: Coverage) -> Bucket:
        state = self.state
        configured = state.applied_until(self.events.read_until)
        return Bucket(
            reach, coverage, configured, state.epoch_of[bucket].since, state.buckets[bucket].values()
        )


def _is_plain(service: MonitoredService, at: int) -> bool:
    """Alive, and no gap to record: a sign of life moves nothing but the time of its last heartbeat."""
    if service.status is not ALIVE or service.held or service.unsure or service.paused or service.job:
        return False
    return not is_gap(service, at) and belongs_to_this_life(at, service.registered_at)
