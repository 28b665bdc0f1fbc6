"""The monitor's shell: reads heartbeats, ticks and events in order, asks the lifecycle, records what follows.

State is changed only after the broker has stored the change. If another monitor was first, its event
is taken over, and the lifecycle is asked again.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import structlog
from nats.errors import Error as NatsError
from prometheus_client import Counter, Gauge

from services.monitor import record
from services.monitor.journal import Journal
from services.monitor.lifecycle import (
    SECOND,
    Beat,
    Coverage,
    Patience,
    Watched,
    decidable,
    decide,
    evolve,
    hear,
    next_due,
)
from shared import streams
from shared.broker import Reader, Stored, WrongSequence, until_done
from shared.events import (
    Event,
    ServiceDeleted,
    ServicePaused,
    ServiceRegistered,
    ServiceResumed,
    ServiceUpdated,
    Status,
    StatusChanged,
    Tick,
    parse_event,
    parse_heartbeat,
)

ConfigChange = ServiceRegistered | ServiceUpdated | ServicePaused | ServiceResumed

log = structlog.get_logger()

HEARTBEATS_READ = Counter("registry_heartbeats_read_total", "Heartbeats taken into the monitor's state")
CHANGES = Counter("registry_status_changes_total", "Changes of status recorded by this monitor", ["to"])
MALFORMED = Counter("registry_malformed_messages_total", "Messages passed over", ["kind"])
REFUSED = Counter("registry_registrations_refused_total", "First heartbeats over REGISTRY_MAX_SERVICES")
SERVICES = Gauge("registry_services", "Services by status", ["status"])
TICK_LAG = Gauge("registry_tick_lag_messages", "Messages behind the tick that was judged last")

MOST_HELD = 100
"""Late beats kept per service until a tick comes; without ticks nothing is judged anyway."""
BUCKETS_PER_TICK = 16
MOST_BEHIND = 5000
"""Messages behind the stream's end beyond which no snapshot is written: another monitor's may be newer."""
MOST_APPENDS = 1000
"""Events on their way to the broker at once, however many services fall together."""


@dataclass(frozen=True)
class Rules:
    """`patience`: the registry's default thresholds. `kept`: messages the broker keeps per subject."""

    patience: Patience
    kept: int
    max_services: int


class Monitor:
    """`run` until cancelled."""

    def __init__(self, journal: Journal, rules: Rules) -> None:
        self._journal = journal
        self._rules = rules
        self.services: dict[str, Watched] = {}
        self._buckets: list[dict[str, Watched]] = [{} for _ in range(record.BUCKETS)]
        self.coverage = Coverage()
        self._due: dict[int, list[Watched]] = {}
        self._looked_at = 0
        self._events: Reader
        self._reading: asyncio.Task[None]
        self._events_read = 0
        self._events_known_until = 0
        self._events_moved = asyncio.Event()
        self._upcoming: deque[Stored] = deque()
        self._unclaimed: dict[str, tuple[int, StatusChanged]] = {}
        self._appending: set[str] = set()
        self._registering = 0
        self._room = asyncio.Semaphore(MOST_APPENDS)
        self._late: set[str] = set()
        self._dirty: set[int] = set()
        self._to_save: list[int] = []
        self._position = b""
        self._saving: asyncio.Task[None] | None = None
        self._heard_since_deletion: list[tuple[str, int]] = []
        self._complaints: dict[str, int] = {}
        self.on_caught_up: Callable[[], None] = lambda: None

    # --- reading

    async def run(self) -> None:
        position = await until_done("load the snapshot", self._load)
        if position and not await self._fits(position):
            log.warning("the snapshot is of other streams; reading everything again", position=position)
            self._drop_everything()
            position = None
        fresh = position is None
        heartbeats, events = position or (0, 0)
        self._events_read = events
        self._events = self._journal.reader(
            streams.SERVICES, streams.ALL_EVENTS, after=events, newest_per_subject=fresh
        )
        self._reading = asyncio.create_task(self._read_events(fresh))
        self._reading.add_done_callback(lambda _: self._events_moved.set())
        for status in Status:
            SERVICES.labels(status).set_function(partial(self._count, status))
        try:
            await self._events_up_to(0)
            for it in self.services.values():
                self._schedule(it)
            log.info("watching", services=len(self.services), after=heartbeats)
            reader = self._journal.reader(
                streams.HEARTBEATS, streams.ALL_HEARTBEATS, streams.ALL_TICKS, after=heartbeats
            )
            async for batch in reader.batches():
                await self._take(batch)
                if not reader.pending:
                    self.on_caught_up()
        finally:
            self._reading.cancel()

    def _count(self, status: Status) -> int:
        return sum(it.status is status for it in self.services.values())

    async def _take(self, batch: list[Stored]) -> None:
        """One batch: what only moves a last beat is done at once, the rest per service before each tick."""
        slow: dict[str, list[tuple[Beat, Stored]]] = {}
        for message in batch:
            if message.subject.startswith("tick."):
                await self._settle_all(slow)
                slow = {}
                await self._tick(message)
                continue
            beat = self._parse(message)
            if beat is None:
                continue
            name = streams.name_in(message.subject)
            it = self.services.get(name)
            if it is not None and beat.at <= it.last_beat:
                continue
            if name in slow or it is None or not self._is_plain(it, beat):
                slow.setdefault(name, []).append((beat, message))
            else:
                hear(it, beat.at)
                self._dirty.add(record.bucket_of(name))
                if not it.scheduled:  # the first beat after a pause
                    self._schedule(it)
        await self._settle_all(slow)

    def _is_plain(self, it: Watched, beat: Beat) -> bool:
        """Alive, not late, and no failure: the beat moves nothing but the last beat."""
        if it.status is not Status.ALIVE or beat.signal == "fail" or it.held or it.unsure:
            return False
        return (it.paused or beat.at < it.heard + it.patience.silent) and beat.at >= it.registered_at

    def _parse(self, message: Stored) -> Beat | None:
        name = streams.name_in(message.subject)
        try:
            signal = parse_heartbeat(name, message.data, message.headers).signal
        except ValueError as error:
            self._complain("heartbeat", name, message, str(error))
            return None
        HEARTBEATS_READ.inc()
        return Beat(message.at, signal)

    def _complain(self, kind: str, name: str, message: Stored, error: str) -> None:
        """Count what is malformed; log it once per service and minute."""
        MALFORMED.labels(kind).inc()
        minute = message.at // (60 * SECOND)
        if self._complaints.get(name) != minute:
            if len(self._complaints) > 10_000:
                self._complaints.clear()
            self._complaints[name] = minute
            log.warning("malformed message", kind=kind, name=name[:200], seq=message.seq, error=error[:300])

    # --- heartbeats

    async def _settle_all(self, slow: dict[str, list[tuple[Beat, Stored]]]) -> None:
        if slow:
            await asyncio.gather(*(self._settle(name, beats) for name, beats in slow.items()))

    async def _settle(self, name: str, beats: Iterable[tuple[Beat, Stored]]) -> None:
        for beat, message in beats:
            it = self.services.get(name) or await self._register(name, beat.at)
            if it is None or beat.at < it.registered_at:
                continue
            if it.unsure or (self._could_miss(message) and self._is_late(it, beat) and await self._hole(it)):
                it.unsure = False
                beat = beat._replace(after_hole=True)
            if it.held or not decidable(it, beat, self.coverage):
                self._late.add(name)
                if len(it.held) < MOST_HELD:
                    it.held.append(beat)
                else:
                    it.held[-1] = beat
            else:
                await self._hear(it, beat)

    async def _hear(self, it: Watched, beat: Beat) -> None:
        await self._follow(it, beat)
        hear(it, beat.at)
        self._dirty.add(record.bucket_of(it.name))
        self._schedule(it)

    async def _follow(self, it: Watched, fact: Beat | None) -> None:
        """Record what follows from the fact, one change after the other."""
        while (change := next(decide(it, fact, self.coverage), None)) is not None:
            event = record.to_event(it.name, change)
            self._appending.add(event.id)
            try:
                seq = await self._append(streams.status(it.name), event, it.status_seq)
            finally:
                self._appending.discard(event.id)
            if seq:
                it.status_seq = seq
                evolve(it, change)
                self._dirty.add(record.bucket_of(it.name))
                CHANGES.labels(change.to).inc()
                continue
            message = await self._newest(streams.status(it.name))
            if message is None or message.seq < it.status_seq:
                it.status_seq = message.seq if message else 0  # the record is not the one we knew
            else:
                self._take_status(message)

    async def _append(self, subject: str, event: StatusChanged | ServiceRegistered, after: int) -> int:
        """The new sequence; 0 if another writer was first. Waits for the broker as long as it takes."""

        async def attempt() -> int:
            try:
                async with self._room:
                    ack = await self._journal.append(subject, event, after)
            except WrongSequence:
                return 0
            return 0 if ack.duplicate else ack.seq

        seq: int = await until_done(f"append to {subject}", attempt)
        return seq

    async def _newest(self, subject: str) -> Stored | None:
        found: Stored | None = await until_done(
            f"read {subject}", lambda: self._journal.newest_event(subject)
        )
        return found

    async def _register(self, name: str, at: int) -> Watched | None:
        """The service that a first heartbeat makes; None if there is none to make."""
        after = 0
        while True:
            if len(self.services) + self._registering >= self._rules.max_services:
                REFUSED.inc()
                return None
            event = record.registration(name, at)
            self._registering += 1
            try:
                seq = await self._append(streams.config(name), event, after)
            finally:
                self._registering -= 1
            if seq:
                log.debug("registered", name=name)
                return self._known(name, seq, event, at)
            message = await self._newest(streams.config(name))
            after = message.seq if message else 0
            if message is None:
                continue
            self._take_config(message)
            if it := self.services.get(name):
                return it
            if message.at >= at:
                return None  # a beat from before the deletion

    def _could_miss(self, message: Stored) -> bool:
        """Whether the broker can have let go of messages before we read them: only far behind its end."""
        return message.pending >= self._rules.kept - 1

    def _is_late(self, it: Watched, beat: Beat) -> bool:
        at = next_due(it, self.coverage)
        return at is not None and at <= beat.at

    async def _hole(self, it: Watched) -> bool:
        oldest: Stored | None = await until_done(
            "read the oldest heartbeat", lambda: self._journal.oldest_heartbeat(it.name)
        )
        return oldest is not None and oldest.at > it.heard

    # --- ticks

    async def _tick(self, message: Stored) -> None:
        try:
            tick = Tick.model_validate_json(message.data)
        except ValueError as error:
            self._complain("tick", message.subject, message, str(error))
            return
        await self._events_up_to(message.at)
        while self._upcoming and self._upcoming[0].at <= message.at:
            self._take_config(self._upcoming.popleft())
        for name, at in self._heard_since_deletion:
            await self._settle(name, [(Beat(at), message)])
        self._heard_since_deletion.clear()
        open_since = record.micros(tick.open_since) if tick.open_since else message.at
        self.coverage.prove(min(open_since, message.at), message.at)

        late, self._late = self._late, set()
        await asyncio.gather(*(self._release(self.services[name]) for name in late if name in self.services))
        due = self._due_by(message.at)
        await asyncio.gather(*(self._judge(it, message) for it in due))
        TICK_LAG.set(message.pending)
        if message.pending < MOST_BEHIND:
            self._save_some(message.seq)

    async def _release(self, it: Watched) -> None:
        beats, it.held = it.held, []
        for beat in beats:
            await self._hear(it, beat)

    async def _judge(self, it: Watched, tick: Stored) -> None:
        at = next_due(it, self.coverage)
        if at is not None and at <= self.coverage.until:
            if self._could_miss(tick) and await self._hole(it):
                it.unsure = True
                return
            await self._follow(it, None)
        self._schedule(it)

    def _schedule(self, it: Watched) -> None:
        """See to it that the service is looked at in the second its next fall is due, or before."""
        at = next_due(it, self.coverage)
        if at is None:
            it.scheduled = 0
            return
        second = max(at // SECOND, self._looked_at)
        if it.scheduled and self._looked_at <= it.scheduled <= second:
            return
        it.scheduled = second
        self._due.setdefault(second, []).append(it)

    def _due_by(self, at: int) -> list[Watched]:
        """Those whose look is due; each is scheduled anew by whoever judges it."""
        now = at // SECOND
        if not self._looked_at:
            self._looked_at = min(self._due, default=now)
        found = []
        seconds = range(self._looked_at, now + 1)
        for second in seconds if len(seconds) < len(self._due) else sorted(s for s in self._due if s <= now):
            for it in self._due.pop(second, ()):
                if it.scheduled == second and self.services.get(it.name) is it:
                    it.scheduled = 0
                    found.append(it)
        self._looked_at = max(self._looked_at, now)
        return found

    # --- events

    async def _read_events(self, fresh: bool) -> None:
        async for batch in self._events.batches():
            for message in batch:
                if message.subject.startswith("service.status."):
                    self._take_status(message)
                elif fresh:
                    self._take_config(message)
                else:
                    self._upcoming.append(message)
                self._events_read = max(self._events_read, message.seq)
            fresh = fresh and self._events.pending != 0
            self._events_moved.set()

    async def _events_up_to(self, at: int) -> None:
        """Wait until every event stored up to `at` (0: up to now) has been read."""
        if 0 < at <= self._events_known_until:
            return
        last, asked = await until_done(
            "ask for the newest event", lambda: self._journal.end(streams.SERVICES)
        )
        while self._events_read < last:
            if self._reading.done():
                self._reading.result()
            self._events_moved.clear()
            await self._events_moved.wait()
        self._events_known_until = asked

    def _take_status(self, message: Stored) -> None:
        """Take over a recorded change. One from before the newest registration does not count."""
        name = streams.name_in(message.subject)
        it = self.services.get(name)
        event = self._event(message)
        if it is None:
            if isinstance(event, StatusChanged):
                self._unclaimed[name] = message.seq, event
            return
        if message.seq <= it.status_seq or (event and event.id in self._appending):
            return
        it.status_seq = message.seq
        if isinstance(event, StatusChanged):
            self._adopt(it, event)

    def _adopt(self, it: Watched, event: StatusChanged) -> None:
        change = record.to_change(event)
        if change.since < it.registered_at:
            return
        evolve(it, change)
        self._dirty.add(record.bucket_of(it.name))
        self._schedule(it)

    def _event(self, message: Stored) -> Event | None:
        try:
            return parse_event(message.data)
        except ValueError as error:
            self._complain("event", message.subject, message, str(error))
            return None

    def _take_config(self, message: Stored) -> None:
        event = self._event(message)
        name = streams.name_in(message.subject)
        it = self.services.get(name)
        if event is None or isinstance(event, StatusChanged) or (it and message.seq <= it.config_seq):
            return
        if not isinstance(event, ServiceDeleted):
            self._known(name, message.seq, event, message.at)
        elif it is not None:
            self._forget(it, message.at)

    def _forget(self, it: Watched, deleted_at: int) -> None:
        del self.services[it.name]
        bucket = record.bucket_of(it.name)
        del self._buckets[bucket][it.name]
        self._dirty.add(bucket)
        heard = max(it.last_beat, *(beat.at for beat in it.held), 0)
        if heard > deleted_at:
            self._heard_since_deletion.append((it.name, heard))

    def _known(self, name: str, seq: int, event: ConfigChange, stored_at: int) -> Watched:
        """The service as its newest configuration says, with what is already known of it."""
        config = event.data.config
        registered = event.data.registered_at
        registered_at = record.micros(registered) if registered else stored_at
        it = self.services.get(name)
        if it is None or (isinstance(event, ServiceRegistered) and registered_at > it.registered_at):
            status_seq = it.status_seq if it else 0
            it = Watched(name, registered_at, self._rules.patience, status_seq=status_seq)
            self._keep(it)
            if claim := self._unclaimed.pop(name, None):
                it.status_seq = claim[0]
                self._adopt(it, claim[1])
        it.config_seq = seq
        it.own = record.own_thresholds(config)
        it.patience = record.in_force(it.own, self._rules.patience)
        it.paused = config.paused
        if isinstance(event, ServiceResumed):
            it.resumed_at = stored_at
        self._dirty.add(record.bucket_of(name))
        self._schedule(it)
        return it

    def _keep(self, it: Watched) -> None:
        self.services[it.name] = it
        self._buckets[record.bucket_of(it.name)][it.name] = it

    # --- snapshots

    async def _load(self) -> tuple[int, int] | None:
        """Take in the newest snapshot; the sequences from which both streams are to be read on."""
        position = await self._journal.load("position")
        if not position:
            return None
        heartbeats, events, self.coverage = record.load_position(position)
        for bucket in range(record.BUCKETS):
            for it in record.load(
                await self._journal.load(f"bucket.{bucket}") or b"[]", self._rules.patience
            ):
                self._keep(it)
        return heartbeats, events

    async def _fits(self, position: tuple[int, int]) -> bool:
        """Whether the streams are at least as long as the snapshot knows them."""
        for stream, seq in zip((streams.HEARTBEATS, streams.SERVICES), position, strict=True):
            last, _ = await until_done("ask for the stream's end", partial(self._journal.end, stream))
            if seq > last:
                return False
        return True

    def _drop_everything(self) -> None:
        self.services.clear()
        self.coverage = Coverage()
        for members in self._buckets:
            members.clear()

    def _save_some(self, seq: int) -> None:
        """A few buckets per tick, in the background; behind a round, the position it is good for."""
        if self._saving is not None and not self._saving.done():
            return
        if not self._to_save:
            if not self._dirty:
                return
            self._to_save, self._dirty = sorted(self._dirty), set()
            events = self._upcoming[0].seq - 1 if self._upcoming else self._events_read
            self._position = record.dump_position(seq, events, self.coverage)
        chunk, self._to_save = self._to_save[:BUCKETS_PER_TICK], self._to_save[BUCKETS_PER_TICK:]
        payloads = {f"bucket.{bucket}": record.dump(self._buckets[bucket].values()) for bucket in chunk}
        if not self._to_save:
            payloads["position"] = self._position
        self._saving = asyncio.create_task(self._put(payloads, chunk))

    async def _put(self, payloads: dict[str, bytes], chunk: list[int]) -> None:
        try:
            for key, payload in payloads.items():
                await self._journal.save(key, payload)
        except (NatsError, OSError, TimeoutError) as error:
            log.warning("snapshot not saved; trying again", error=str(error) or repr(error))
            self._dirty.update(chunk, self._to_save)
            self._to_save = []
