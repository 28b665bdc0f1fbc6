"""The projector: keeps the read models up with the streams, and builds them anew when asked.

It keeps no position of its own. On any doubt about the database it reads the checkpoint there, and the
streams again from it, because the database may have lost what it had acknowledged.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from datetime import datetime, timedelta
from functools import partial

import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from prometheus_client import Counter, Gauge

from services.api.board import Board
from services.api.fold import Change, Heard, fold, hear
from services.api.store import DatabaseAway, Facets, Moved, Store, View, gather
from shared import streams
from shared.broker import PENDING, Link, Reader, Stored, created, last_judged, last_sequence, until_done
from shared.events import Tick
from shared.service import Health

log = structlog.get_logger()

SKIPPED = Counter("registry_projection_skipped_total", "Malformed messages passed over", ["stream"])
BEHIND = Gauge("registry_projection_lag_messages", "Messages not yet in the read models", ["stream"])
BEHIND_SECONDS = Gauge(
    "registry_projection_lag_seconds",
    "Age of the oldest message not yet in the read models",
    ["stream"],
)
for _stream in (streams.SERVICES, streams.HEARTBEATS):
    SKIPPED.labels(_stream)
    BEHIND.labels(_stream)
    PENDING.labels(_stream)

HELD = 200_000
"""Services whose newest state is held while streams are read from their beginning; about 1 kB each."""
TICKS_PASSED = 600
"""Ticks after which the checkpoint moves on, though no heartbeat came: what a restart reads again at most."""
MOVED_WITHIN = 3.0
"""Seconds until every API, each looking every two, reads the new generation, and the old one may go."""
FIRST_WAIT = 0.1
"""Seconds before the database is tried again; doubled each time, up to 2."""


class _Events:
    """Every event counts, so each batch is written as it comes."""

    stream, subjects, every = streams.SERVICES, (streams.ALL_EVENTS,), 0.0

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.added = False  # anything since it was written last, even what could not be read

    def add(self, batch: list[Stored]) -> None:
        self.added = self.added or bool(batch)
        for message in batch:
            try:
                self.changes.append(fold(message))
            except ValueError as error:
                SKIPPED.labels(self.stream).inc()
                log.warning("event passed over", seq=message.seq, error=str(error)[:300])

    async def write(self, view: View, board: Board | None) -> None:
        changes, self.changes, self.added = self.changes, [], False
        await view.apply(changes)
        if board:
            board.tell(changes)


class _Heartbeats:
    """What those of one service come to is folded here, so they can wait a little for each other."""

    stream, subjects, every = streams.HEARTBEATS, (streams.ALL_HEARTBEATS, streams.ALL_TICKS), 1.0

    def __init__(self) -> None:
        self.heard: dict[str, Heard] = {}
        self.added = False

    def add(self, batch: list[Stored]) -> None:
        for message in batch:
            if message.subject.startswith("tick."):
                continue
            self.added = True
            name = streams.name_in(message.subject)
            try:
                if heard := hear(self.heard.get(name), message):
                    self.heard[name] = heard
            except ValueError:
                SKIPPED.labels(self.stream).inc()

    async def write(self, view: View, board: Board | None) -> None:
        heard, self.heard, self.added = self.heard, {}, False
        await view.hear(heard)
        if board:
            board.hear(heard)


class Projector:
    """`run` until cancelled."""

    def __init__(
        self, link: Link, store: Store, board: Board, health: Health, now: Callable[[], datetime]
    ) -> None:
        self._link = link
        self._store = store
        self._board = board
        self._now = now
        self._filled = False
        self._health = health
        self._rebuilding = asyncio.Lock()
        self._behind = {streams.SERVICES, streams.HEARTBEATS}
        self._behind_since = dict.fromkeys(self._behind, now().timestamp())
        """Unix time of the oldest message that is not in the read models, by stream; none where all are."""
        for stream in self._behind:
            BEHIND_SECONDS.labels(stream).set_function(partial(self._lag, stream))

    def _lag(self, stream: str) -> float:
        now = self._now().timestamp()
        return max(0.0, now - self._behind_since.get(stream, now))

    async def run(self) -> None:
        await self._link.nc.subscribe(streams.REBUILD, queue="api", cb=self._answer)
        wait = FIRST_WAIT
        while True:
            try:
                view = await self._store.open()
                if await self._is_of_another_record(view):
                    log.warning("the read models are of another record than the broker's; building anew")
                    await self.rebuild()
                    self._board.clear()
                    self._filled = False
                    continue
                if await view.is_empty():
                    await self._take_all(view)
                await view.save_record(await self._record())
                if not self._filled:
                    await self._fill(view)
                self._health.good("database")
                wait = FIRST_WAIT
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._store.until_moved(view))
                    group.create_task(self._follow(view, _Events()))
                    group.create_task(self._follow(view, _Heartbeats()))
                    group.create_task(self._cover())
            except* Moved:
                log.info("following the new generation")
            except* DatabaseAway as errors:
                if wait == FIRST_WAIT:
                    log.warning("waiting for the database", error=str(errors.exceptions[0]))
                self._health.bad("database", "away")
                for stream in (streams.SERVICES, streams.HEARTBEATS):
                    self._behind_since.setdefault(stream, self._now().timestamp())
                await asyncio.sleep(wait)
                wait = min(wait * 2, 2.0)

    async def _fill(self, view: View) -> None:
        """The board as the read models and the last day's events have it."""
        upto = await view.checkpoint(streams.SERVICES)
        async for documents in view.facets():
            self._board.roster.load(documents)
        since = (self._now() - timedelta(days=1)).isoformat()
        reader = Reader(self._link, streams.SERVICES, streams.ALL_EVENTS, since=since)
        async with aclosing(reader.batches()) as batches:
            async for batch in batches:
                known = _Events()
                known.add([message for message in batch if message.seq <= upto])
                self._board.tell(known.changes)
                if reader.pending == 0 or (batch and batch[-1].seq >= upto):
                    break
        self._board.told = max(self._board.told, upto)
        self._filled = True

    async def _cover(self) -> None:
        """Take in what ticks prove."""
        reader = Reader(self._link, streams.HEARTBEATS, streams.ALL_TICKS, newest_per_subject=True)
        async with aclosing(reader.batches()) as batches:
            async for batch in batches:
                for message in batch:
                    with suppress(ValueError):
                        tick = Tick.model_validate_json(message.data or b"{}")
                        self._board.coverage.prove(*tick.proves(message.at))

    async def watch_judging(self) -> None:
        """Know when a monitor judged last; for ever."""
        while True:
            with suppress(NatsError, OSError, TimeoutError):
                judged = await last_judged(self._link)
                self._board.judged = max(judged or 0, self._board.judged or 0)
            await asyncio.sleep(5)

    async def _is_of_another_record(self, view: View) -> bool:
        """Whether somebody has emptied the broker, or put a backup back: the streams were made anew, or a
        checkpoint is ahead of its stream."""
        if (known := await view.record()) and known != await self._record():
            return True
        for stream in (streams.SERVICES, streams.HEARTBEATS):
            last, _ = await until_done(
                "ask for the newest message", partial(last_sequence, self._link, stream)
            )
            if await view.checkpoint(stream) > last:
                return True
        return False

    async def _record(self) -> str:
        """Tells these streams from others of the same names."""
        names = (streams.HEARTBEATS, streams.SERVICES)
        found = [
            await until_done("ask for the streams", partial(created, self._link, name)) for name in names
        ]
        return " ".join(found)

    async def rebuild(self) -> dict[str, int]:
        """Fill a new generation from the streams while the old one serves; then swap, and drop the old. One
        thing may stand in no stream any more, the last run of a service that has beaten often since: it is
        taken from the old generation."""
        async with self._rebuilding:
            old, new = self._store.live, await self._store.begin()
            record = await self._record()
            try:
                await self._take_all(new)
                await self._follow(new, _Events(), to_the_end=True)
                await self._follow(new, _Heartbeats(), to_the_end=True)
                if await old.record() == record:
                    async for runs in old.last_runs():
                        await new.keep_runs(runs)
                await new.save_record(record)
                await self._store.go_live(new)
            finally:
                self._store.filling = None
            await asyncio.sleep(MOVED_WITHIN)
            await old.drop()
            events, services = await new.size()
            log.info("rebuilt", generation=new.generation, events=events, services=services)
            return {"events": events, "services": services}

    async def _take_all(self, view: View) -> None:
        """All that stands in the streams by now, into a generation that is empty."""
        heard, facets = _Heartbeats(), Facets()
        reached = {streams.HEARTBEATS: await self._read_all(heard, _nothing)}
        events = _Events()

        async def tell() -> None:
            changes, events.changes = events.changes, []
            await view.tell(changes)
            for change in changes:
                gather(facets, change)
            if len(facets) >= HELD:
                await view.fill(facets, {})
                facets.clear()

        reached[streams.SERVICES] = await self._read_all(events, tell)
        await view.fill(facets, heard.heard)
        for stream, position in reached.items():
            await view.save_checkpoint(stream, position)

    async def _read_all(
        self, source: "_Events | _Heartbeats", after_each: Callable[[], Awaitable[None]]
    ) -> int:
        """Read a stream to its end. Returns the sequence read last."""
        reader = Reader(self._link, source.stream, *source.subjects)
        async with aclosing(reader.batches()) as batches:
            async for batch in batches:
                source.add(batch)
                await after_each()
                if not reader.pending:
                    break
        return reader.position

    async def _answer(self, request: Msg) -> None:
        try:
            answer: dict[str, int | str] = {**await self.rebuild()}
        except DatabaseAway as error:
            answer = {"error": str(error)}
        if request.reply:
            await request.respond(json.dumps(answer).encode())

    async def _follow(self, view: View, source: "_Events | _Heartbeats", *, to_the_end: bool = False) -> None:
        """Take in a stream from the checkpoint on: for ever, or until nothing is pending."""
        written = await view.checkpoint(source.stream)
        reader = Reader(self._link, source.stream, *source.subjects, after=written)
        clock, due = asyncio.get_running_loop().time, 0.0
        async with aclosing(reader.batches()) as batches:
            async for batch in batches:
                source.add(batch)
                if not to_the_end:
                    self._measure(source.stream, batch, reader.pending or 0)
                if reader.pending and clock() < due:
                    continue
                if not to_the_end:
                    await asyncio.sleep(max(0.0, due - clock()))
                if source.added or reader.position - written > TICKS_PASSED:
                    await source.write(view, None if to_the_end else self._board)
                    written = reader.position
                    await view.save_checkpoint(source.stream, written)
                    due = clock() + source.every
                    if batch and not to_the_end:
                        self._behind_since[source.stream] = batch[-1].at / 1e6
                if not reader.pending:
                    if to_the_end:
                        return
                    self._caught_up(source.stream)

    def _measure(self, stream: str, batch: list[Stored], pending: int) -> None:
        BEHIND.labels(stream).set(pending)
        PENDING.labels(stream).set(pending)
        if batch:
            self._behind_since.setdefault(stream, batch[0].at / 1e6)

    def _caught_up(self, stream: str) -> None:
        self._behind_since.pop(stream, None)
        self._behind.discard(stream)
        if not self._behind:
            self._health.good("projection")


async def _nothing() -> None: ...
