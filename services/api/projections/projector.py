"""The projector: keeps the read models up with the streams, and builds them anew when asked.

It keeps no position of its own. On any doubt about the database it reads the checkpoint there, and the
streams again from it, because the database may have lost what it had acknowledged.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import structlog
from nats.errors import Error as NatsError
from prometheus_client import Counter, Gauge

from services.api.projections.documents import (
    FORM,
    Document,
    Heard,
    Projection,
    add_heartbeat,
    configuration_row,
    project,
)
from services.api.projections.runs import run_document
from services.api.projections.store import DatabaseUnavailable, GenerationChanged, Store, View
from services.api.queries.event_hub import EventHub
from shared.contracts.events import ServiceRegistered, Tick, is_gap
from shared.domain.service_state import ServiceState
from shared.http.server import Health
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection, in_own_task, retry_until_done
from shared.messaging.errors import NotStored
from shared.messaging.faststream_broker import EventSubscription, FastStreamBroker, ReceivedEvent, no_payload
from shared.messaging.queries import first_sequences, last_evaluated, newest_event, truncated
from shared.messaging.reader import PENDING, Reader, Stored
from shared.messaging.record_watch import (
    CHECK_INTERVAL,
    RECORD,
    Comparison,
    Marks,
    StreamMark,
    check_stream,
    known_until,
    look,
    snapshot_of,
)

log = structlog.get_logger()

SKIPPED = Counter("registry_projection_skipped_total", "Malformed messages passed over", ["stream"])
BEHIND = Gauge("registry_projection_lag_messages", "Messages not yet in the read models", ["stream"])
BEHIND_SECONDS = Gauge(
    "registry_projection_lag_seconds",
    "Age of the oldest message not yet in the read models",
    ["stream"],
)
for _stream in (streams.SERVICES, streams.HEARTBEATS, streams.RUNS):
    SKIPPED.labels(_stream)
    BEHIND.labels(_stream)
    PENDING.labels(_stream)

MAX_STRANGERS = 10_000
"""Names that are not registered whose heartbeats wait for it in memory."""
NAMES_AT_ONCE = 100
"""Services whose heartbeats are looked up together: the broker compares each message with each of them."""
SAVE_RECORD = 10.0
"""Seconds between two notes of what the streams looked like."""
HELD = 200_000
"""Services whose newest state is held while streams are read from their beginning; about 1 kB each."""
TICKS_PASSED = 600
"""Ticks after which the checkpoint moves on, though no heartbeat came: what a restart reads again at most."""
MOVED_WITHIN = 3.0
"""Seconds until every API, each looking every two, reads the new generation, and the old one may go."""
SHORTEN_EVERY = 600.0
"""Seconds between two looks at how far back the record reaches."""
WRITE_EVERY = 0.2, 1.0
"""Seconds that heartbeats wait for each other, at least and at most: between them, four times as long as it
took to write the last ones."""
NOTICE_END = 2.0
"""Seconds between two looks at whether all events are taken in."""
FIRST_WAIT = 0.1
"""Seconds before the database is tried again; doubled each time, up to 2."""


def _events_in(batch: list[Stored]) -> list[Projection]:
    """What these messages are; one that cannot be read is passed over."""
    changes = []
    for message in batch:
        try:
            changes.append(project(message))
        except ValueError as error:
            SKIPPED.labels(streams.SERVICES).inc()
            log.warning("event passed over", seq=message.seq, error=str(error)[:300])
    return changes


def _settings_in(batch: list[Stored]) -> list[Document]:
    """The lines of the history that these messages are; one that cannot be read is passed over."""
    rows = []
    for message in batch:
        try:
            rows.append(configuration_row(message))
        except ValueError as error:
            SKIPPED.labels(streams.SERVICES).inc()
            log.warning("configuration passed over", seq=message.seq, error=str(error)[:300])
    return rows


class AnotherRuns(Exception):
    """RUNS is not the stream any more whose facts are in the read models."""


def _runs_in(batch: list[Stored]) -> list[Document]:
    """The runs that these messages tell of; gaps, and one that cannot be read, are passed over."""
    found = []
    for message in batch:
        if is_gap(message.data):
            continue
        try:
            found.append(run_document(message))
        except ValueError as error:
            SKIPPED.labels(streams.RUNS).inc()
            log.warning("fact about a run passed over", seq=message.seq, error=str(error)[:300])
    return found


Write = Callable[[dict[str, Heard]], Awaitable[None]]


class _Heartbeats:
    """What those of one service come to is folded here, so they can wait a little for each other. Those of
    names that are not registered wait for that in memory, as far as there is room."""

    def __init__(self, link: BrokerConnection, knows: Callable[[str], bool]) -> None:
        self._link = link
        self._knows = knows
        self._strangers: dict[str, Heard] = {}
        self.heard: dict[str, Heard] = {}
        self._writing = asyncio.Lock()
        """Else the end of a run could be written before its start, which would then be too old."""

    async def write(self, write: Write) -> None:
        """Write what was heard of those that are registered."""
        async with self._writing:
            heard, self.heard = self.heard, {}
            await write(heard)

    async def write_the_new(self, names: list[str], write: Write) -> None:
        """Write what names have sent that are registered by now."""
        async with self._writing:
            await write(await self.of_the_new(names))

    def add(self, batch: list[Stored]) -> None:
        for message in batch:
            if message.subject.startswith("tick."):
                continue
            name = streams.name_in(message.subject)
            known = self._knows(name)
            try:
                heard = add_heartbeat(self._strangers.get(name) or self.heard.get(name), message)
            except ValueError:
                SKIPPED.labels(streams.HEARTBEATS).inc()
                continue
            if heard is None:
                continue
            self._strangers.pop(name, None)
            (self.heard if known else self._strangers)[name] = heard
            if len(self._strangers) > MAX_STRANGERS:
                del self._strangers[next(iter(self._strangers))]

    async def of_the_new(self, names: list[str]) -> dict[str, Heard]:
        """What names have sent that are registered by now: as it waits here, or else as the record has it."""
        found = {name: self._strangers.pop(name) for name in names if name in self._strangers}
        rest = [streams.heartbeat(name) for name in names if name not in found and name not in self.heard]
        for n in range(0, len(rest), NAMES_AT_ONCE):
            reader = Reader(self._link, streams.HEARTBEATS, *rest[n : n + NAMES_AT_ONCE])
            async for batch in reader.to_end():
                for message in batch:
                    name = streams.name_in(message.subject)
                    with suppress(ValueError):
                        if heard := add_heartbeat(found.get(name), message):
                            found[name] = heard
        return found


@dataclass
class Projector:
    """`run` until cancelled. `left_at`: when the record was seen last that the read models are of, if that is
    another one."""

    link: BrokerConnection
    store: Store
    hub: EventHub
    health: Health
    now: Callable[[], datetime]
    left_at: int | None = None

    def __post_init__(self) -> None:
        self._broker = FastStreamBroker(self.link)
        self._rebuild_requests = self._broker.subscriber(streams.REBUILD, "api")
        self._rebuild_requests(self._rebuild_on_request, decoder=no_payload)
        self._events = EventSubscription(self.link, self._broker)
        self._following: View | None = None
        self._saved_at = float("-inf")
        self._on_hub = dict.fromkeys(RECORD, 0)
        """The sequence up to which the hub has applied each stream. Another API may be further, and so may
        the read models that it writes."""
        self._filled = False
        self._rebuilding = asyncio.Lock()
        self._behind = {streams.SERVICES, streams.HEARTBEATS, streams.RUNS}
        self._behind_since = dict.fromkeys(self._behind, self.now().timestamp())
        """Unix time of the oldest message that is not in the read models, by stream; none where all are."""
        for stream in self._behind:
            BEHIND_SECONDS.labels(stream).set_function(partial(self._lag, stream))

    def _lag(self, stream: str) -> float:
        now = self.now().timestamp()
        return max(0.0, now - self._behind_since.get(stream, now))

    async def run(self) -> None:
        await self._broker.connect()
        await self._rebuild_requests.start()
        try:
            await self._run()
        finally:
            with suppress(NatsError):
                await self._rebuild_requests.stop()

    async def _run(self) -> None:
        wait = FIRST_WAIT
        while True:
            try:
                view = await self.store.open()
                if self.left_at is None and (left_at := await self._left_another_record(view)) is not None:
                    log.warning("the read models are of another record than the broker's; building anew")
                    self.left_at = left_at
                if self.left_at is not None:
                    await self.rebuild(left_at=self.left_at)
                    self.hub.clear()
                    self._filled, self.left_at = False, None
                    continue
                if await self._has_other_runs(view):
                    log.warning("the runs in the read models are of another stream; building anew")
                    await self.rebuild()
                    continue
                marks, _ = await look(self.link)
                if await view.is_empty():
                    await self._take_in(view, set())
                    await view.save_record(_made(marks), marks, form=FORM)
                elif (await view.record()).form < FORM:
                    log.info("the read models are of an older version; building anew")
                    await self.rebuild()
                    continue
                else:
                    await view.save_record(_made(marks), marks)
                if not self._filled:
                    await self._fill(view)
                kept = await view.record()
                if kept.edition != self.hub.edition:
                    self.hub.begin_edition(kept.edition, kept.new_from)
                self.health.good("database")
                self._following = view
                heartbeats = _Heartbeats(self.link, self.hub.index.knows)
                wait = FIRST_WAIT
                await in_own_task(self._follow_all(view, heartbeats))
            except* GenerationChanged:
                log.info("following the new generation")
            except* AnotherRuns:
                pass
            except* DatabaseUnavailable as errors:
                if wait == FIRST_WAIT:
                    log.warning("waiting for the database", error=str(errors.exceptions[0])[:300])
                self._following = None
                self.health.bad("database", "away")
                for stream in (streams.SERVICES, streams.HEARTBEATS, streams.RUNS):
                    self._behind_since.setdefault(stream, self.now().timestamp())
                await asyncio.sleep(wait)
                wait = min(wait * 2, 2.0)

    async def _follow_all(self, view: View, heartbeats: _Heartbeats) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.store.until_moved(view))
            group.create_task(self._follow_events(view, heartbeats))
            group.create_task(self._follow_settings(view))
            group.create_task(self._notice_end())
            group.create_task(self._follow_heartbeats(view, heartbeats))
            group.create_task(self._follow_runs(view))
            group.create_task(self._watch_runs(view))
            group.create_task(self._cover())
            group.create_task(self._keep_short(view))

    async def _fill(self, view: View) -> None:
        """The hub as the read models and the last day's events have it."""
        begins = {stream: await view.checkpoint(stream) for stream in RECORD}
        upto = begins[streams.SERVICES]
        async for states in view.states():
            self.hub.index.load(states)
        since = (self.now() - timedelta(days=1)).isoformat()
        reader = Reader(self.link, streams.SERVICES, streams.ALL_EVENTS, since=since)
        async for batch in reader.to_end(upto):
            known = _events_in([message for message in batch if message.seq <= upto])
            self.hub.publish(known, to_listeners=False)
        self.hub.published_through = max(self.hub.published_through, upto)
        await retry_until_done("look how far the record reaches", partial(self._shorten, None))
        self._on_hub, self._filled = begins, True
        self.hub.let_go()  # who came before all this was known comes back, and is told what it missed

    async def _cover(self) -> None:
        """Take in what ticks prove."""
        reader = Reader(self.link, streams.HEARTBEATS, streams.ALL_TICKS, newest_per_subject=True)
        async with aclosing(reader.batches()) as batches:
            async for batch in batches:
                for message in batch:
                    with suppress(ValueError):
                        tick = Tick.model_validate_json(message.data or b"{}")
                        self.hub.coverage.prove(*tick.proves(message.at))

    async def _keep_short(self, view: View) -> None:
        """Let go of what the broker has let go of; for ever."""
        while True:
            await retry_until_done("look how far the record reaches", partial(self._shorten, view))
            await asyncio.sleep(SHORTEN_EVERY)

    async def _shorten(self, view: View | None) -> None:
        found = await truncated(self.link)
        if view:
            for name, it in found.items():
                await view.shorten(name, it)
        self.hub.begins = {name: it.begins for name, it in found.items()}

    async def watch_evaluation(self) -> None:
        """Ask again and again which tick a monitor has evaluated last."""
        while True:
            with suppress(NatsError, OSError, TimeoutError):
                evaluated = await last_evaluated(self.link)
                self.hub.evaluated_at = max(evaluated or 0, self.hub.evaluated_at or 0)
            await asyncio.sleep(5)

    async def _left_another_record(self, view: View) -> int | None:
        """When the record was seen last that the read models are of, if somebody has emptied the broker
        since, purged it, or put a backup or an older copy back; 0: nobody knows. None: it is this one."""
        known, (now, _) = await view.record(), await look(self.link)
        taken_in = {stream: await view.position(stream) for stream in RECORD}
        left_at = max(taken_in[streams.SERVICES].at, known.marks[streams.SERVICES].at if known.marks else 0)
        if known.made and known.made != _made(now):
            return left_at
        for stream, position in taken_in.items():
            if position.seq > now[stream].last:
                return left_at
            if mark := known.marks.get(stream):
                newest = position if position.at else None
                question = partial(check_stream, self.link, stream, mark, newest)
                verdict, _ = await retry_until_done("compare the record", question)
                if verdict is not Comparison.SAME:
                    return left_at
        return None

    async def remember(self, marks: Marks) -> None:
        """Note in the database what the streams look like, once in a while, for the next start."""
        now = asyncio.get_running_loop().time()
        if self._following and now > self._saved_at + SAVE_RECORD:
            self._saved_at = now
            kept = {stream: marks[stream] for stream in RECORD}
            with suppress(DatabaseUnavailable):
                await self._following.save_record(_made(kept), kept)

    async def rebuild(self, *, left_at: int | None = None) -> dict[str, int]:
        """Fill a new generation from the streams while the old one serves; then swap, and drop the old. One
        thing may stand in no stream any more, the last run of a service that has beaten often since: it is
        taken from the old generation, if that is of the same record. `left_at`: when the record was seen last
        that it is of, if that is another one."""
        async with self._rebuilding:
            old, new = self.store.live, await self.store.begin()
            marks, _ = await look(self.link)
            try:
                known = set[str]()
                await self._take_in(new, known)
                await self._take_in(new, known)  # what was stored meanwhile
                before = await old.record()
                if left_at is not None:
                    edition, new_from = f"-{secrets.token_hex(3)}", await known_until(self.link, left_at)
                else:
                    edition, new_from = before.edition, before.new_from
                    if before.made == _made(marks):
                        async for last_runs in old.last_runs():
                            await new.keep_runs(last_runs)
                await new.save_record(_made(marks), marks, edition=edition, new_from=new_from, form=FORM)
                await self.store.go_live(new)
            finally:
                self.store.filling = None
            await asyncio.sleep(MOVED_WITHIN)
            await old.drop()
            events, services, runs = await new.size()
            log.info("rebuilt", generation=new.generation, events=events, services=services, runs=runs)
            return {"events": events, "services": services, "runs": runs}

    async def _take_in(self, view: View, known: set[str]) -> None:
        """All that was stored behind the checkpoints by now, into a generation that nobody follows yet.
        `known`: the names that are registered; gets those that come."""
        begins = {stream: await view.position(stream) for stream in RECORD}
        states, new = dict[str, ServiceState](), set[str]()
        events = Reader(self.link, streams.SERVICES, streams.ALL_EVENTS, after=begins[streams.SERVICES].seq)
        async for batch in events.to_end():
            changes = _events_in(batch)
            await view.add_to_history(changes)
            for change in changes:
                states[change.name] = change.applied_to(states.get(change.name))
                if change.configures:
                    known.add(change.name)
                if isinstance(change.event, ServiceRegistered):
                    new.add(change.name)
            if len(states) >= HELD:
                await view.fill(states, {})
                states.clear()
        source = _Heartbeats(self.link, known.__contains__)
        heartbeats = self._heartbeats(begins[streams.HEARTBEATS].seq)
        if heartbeats.position:  # before it stands what the new ones sent when nobody knew them
            await view.apply_heartbeats(await source.of_the_new(list(new)))
        async for batch in heartbeats.to_end():
            source.add(batch)
        await view.fill(states, source.heard)
        for stream, reader in ((streams.SERVICES, events), (streams.HEARTBEATS, heartbeats)):
            await view.save_checkpoint(stream, reader.position, reader.position_at or begins[stream].at)
        settings = await self._settings(view)
        async for batch in settings.to_end():
            await self._add_settings(view, batch)
        await self._take_in_runs(view)

    async def _take_in_runs(self, view: View) -> None:
        """The same of RUNS. Where the broker does not say what it holds, nobody waits for it."""
        if (mark := await self._look_at_runs()) is None:
            return
        await view.save_runs_mark(mark)
        begins = await view.position(streams.RUNS)
        reader = Reader(self.link, streams.RUNS, streams.ALL_RUNS, after=begins.seq)
        async for batch in reader.to_end():
            await view.apply_runs(_runs_in(batch))
        await view.save_checkpoint(streams.RUNS, reader.position, reader.position_at or begins.at)

    def _heartbeats(self, after: int) -> Reader:
        return Reader(self.link, streams.HEARTBEATS, streams.ALL_HEARTBEATS, streams.ALL_TICKS, after=after)

    async def _rebuild_on_request(self) -> dict[str, int] | dict[str, str]:
        """How many there are of what was built anew, or why that could not be done."""
        try:
            return await self.rebuild()
        except DatabaseUnavailable as error:
            return {"error": str(error)[:300]}

    async def _follow_events(self, view: View, heartbeats: _Heartbeats) -> None:
        """Take in the events behind the checkpoint as FastStream delivers them, for ever. It reads a tenth of
        what our reader does, which a rebuild needs and nobody else."""
        stream = streams.SERVICES

        async def apply(received: list[ReceivedEvent]) -> None:
            batch = [it.stored for it in received]
            newest = batch[-1]
            self._measure(stream, batch, newest.pending)
            changes = _events_in(batch)
            await view.apply(changes)
            self.hub.publish(changes)
            self.hub.published_through = max(self.hub.published_through, newest.seq)
            new = {it.name for it in changes if isinstance(it.event, ServiceRegistered)}
            unheard = [name for name in new if not self.hub.index.has_heard(name)]
            await heartbeats.write_the_new(unheard, partial(self._write_heartbeats, view))
            self._on_hub[stream] = newest.seq
            await view.save_checkpoint(stream, newest.seq, newest.at)
            self._behind_since[stream] = newest.at / 1e6
            if not newest.pending:
                self._caught_up(stream)

        await self._events.run(min(await view.checkpoint(stream), self._on_hub[stream]), apply)

    async def _settings(self, view: View) -> Reader:
        """Of the registry's own configuration, in the same stream, behind what is in the read models: a few
        messages, for the audit alone."""
        after = await view.checkpoint(streams.ALL_CONFIGURATION)
        return Reader(self.link, streams.SERVICES, streams.ALL_CONFIGURATION, after=after)

    async def _add_settings(self, view: View, batch: list[Stored]) -> None:
        if batch:
            await view.add_settings(_settings_in(batch))
            await view.save_checkpoint(streams.ALL_CONFIGURATION, batch[-1].seq, batch[-1].at)

    async def _follow_settings(self, view: View) -> None:
        """Take them in for ever."""
        reader = await self._settings(view)
        async with aclosing(reader.batches()) as batches:
            async for batch in batches:
                await self._add_settings(view, batch)

    async def _notice_end(self) -> None:
        """That all events are taken in, also where none comes: what was pending may be removed instead."""
        stream = streams.SERVICES
        while True:
            end, _ = await retry_until_done("ask for the newest event", partial(newest_event, self.link))
            if self._on_hub[stream] >= end:
                self._measure(stream, [], 0)
                self._caught_up(stream)
            await asyncio.sleep(NOTICE_END)

    async def _follow_heartbeats(self, view: View, source: _Heartbeats) -> None:
        """Take in the heartbeats behind the checkpoint, for ever."""
        stream = streams.HEARTBEATS
        written = min(await view.checkpoint(stream), self._on_hub[stream])
        reader = self._heartbeats(written)
        clock, due = asyncio.get_running_loop().time, 0.0
        async with aclosing(reader.batches()) as batches:
            async for batch in batches:
                source.add(batch)
                self._measure(stream, batch, reader.pending or 0)
                if reader.pending and clock() < due:
                    continue
                await asyncio.sleep(max(0.0, due - clock()))
                if source.heard or reader.position - written > TICKS_PASSED:
                    began = clock()
                    await source.write(partial(self._write_heartbeats, view))
                    self._on_hub[stream] = written = reader.position
                    await view.save_checkpoint(stream, written, reader.position_at)
                    least, most = WRITE_EVERY
                    due = clock() + min(most, max(least, 4 * (clock() - began)))
                    if batch:
                        self._behind_since[stream] = batch[-1].at / 1e6
                if not reader.pending:
                    self._caught_up(stream)

    async def _follow_runs(self, view: View) -> None:
        """Take in the facts about runs behind the checkpoint, for ever."""
        stream = streams.RUNS
        while await view.runs_mark() is None:  # there is no RUNS yet, or we may not read it
            if mark := await self._look_at_runs():
                await view.save_runs_mark(mark)
            else:
                self._not_waited_for(stream)
                await asyncio.sleep(CHECK_INTERVAL)
        reader = Reader(self.link, stream, streams.ALL_RUNS, after=await view.checkpoint(stream))
        async with aclosing(reader.batches()) as batches:
            async for batch in batches:
                self._measure(stream, batch, reader.pending or 0)
                if batch:
                    await view.apply_runs(_runs_in(batch))
                    await view.save_checkpoint(stream, reader.position, reader.position_at)
                    self._behind_since[stream] = batch[-1].at / 1e6
                if not reader.pending:
                    self._caught_up(stream)

    async def _watch_runs(self, view: View) -> None:
        """Raises AnotherRuns as soon as RUNS is another one: it is no part of what tells one record from
        another, as an upgrade creates it. Removes what it has let go of."""
        clock, shortened_at, known = asyncio.get_running_loop().time, float("-inf"), None
        while True:
            if await self._has_other_runs(view):
                raise AnotherRuns
            mark = await self._look_at_runs()
            if mark is None:
                self._not_waited_for(streams.RUNS)
            elif mark != known and await view.runs_mark():
                await view.save_runs_mark(mark)
                whole = clock() > shortened_at + SHORTEN_EVERY
                if whole or known is None or mark.removed != known.removed:
                    with suppress(NotStored):
                        first, oldest = await first_sequences(self.link, streams.RUNS, of_subjects=whole)
                        await view.shorten_runs(first, oldest)
                        shortened_at = clock() if whole else shortened_at
                known = mark
            await asyncio.sleep(CHECK_INTERVAL)

    async def _look_at_runs(self) -> StreamMark | None:
        """None: there is no such stream, or the broker does not say."""
        with suppress(NotStored):
            if seen := await snapshot_of(self.link, streams.RUNS):
                return seen.mark
        return None

    async def _has_other_runs(self, view: View) -> bool:
        """Whether the runs in the read models are of another stream than the broker's RUNS is now, or an
        older copy was put in its place. Where no stream was read yet, they are of this one."""
        if (mark := await view.runs_mark()) is None:
            return False
        position = await view.position(streams.RUNS)
        newest = position if position.at else None
        with suppress(NotStored):
            verdict, _ = await check_stream(self.link, streams.RUNS, mark, newest)
            return verdict is not Comparison.SAME
        return False

    async def _write_heartbeats(self, view: View, heard: dict[str, Heard]) -> None:
        await view.apply_heartbeats(heard)
        self.hub.publish_heartbeats(heard)

    def _measure(self, stream: str, batch: list[Stored], pending: int) -> None:
        BEHIND.labels(stream).set(pending)
        PENDING.labels(stream).set(pending)
        if batch:
            self._behind_since.setdefault(stream, batch[0].at / 1e6)

    def _caught_up(self, stream: str) -> None:
        self._behind_since.pop(stream, None)
        self._not_waited_for(stream)

    def _not_waited_for(self, stream: str) -> None:
        """That it is not what keeps the read models from being used."""
        self._behind.discard(stream)
        if not self._behind:
            self.health.good("projection")


def _made(marks: Marks) -> str:
    """When the streams were made."""
    return " ".join(marks[stream].created for stream in RECORD)
