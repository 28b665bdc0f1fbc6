"""A broker made up: two streams and a bucket on virtual time, and the ways in which all that can fail.

`Session` stands in for `EventStore` of the monitor. Each process has its own; once it is killed,
nothing that it asked for takes effect any more, and nothing comes back.
"""

import asyncio
import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

from nats.errors import Error as NatsError

from shared.contracts.events import ConfigEvent, StatusChanged
from shared.contracts.events import Fact as RecordedFact
from shared.messaging import streams
from shared.messaging.connection import StreamPosition
from shared.messaging.errors import NotStored, WrongSequence
from shared.messaging.publisher import Ack
from shared.messaging.reader import Reader, Stored
from shared.messaging.record_watch import Comparison, Eviction, StreamMark, compare
from tests.simulation.clock import OWNER, Owner, VirtualLoop, turn
from tests.simulation.memory import parse_event

T = TypeVar("T")

BASE = 1_790_000_000_000_000
"""The broker's time at the loop's zero, microseconds since 1970."""
DUPLICATES = 120_000_000
NEVER = 1 << 62


@dataclass(frozen=True, slots=True)
class Fact:
    """A heartbeat or a tick on its way into the stream. `good`: well-formed."""

    at: int
    subject: str
    data: bytes = b""
    headers: dict[str, str] | None = None
    good: bool = True


class Heartbeats:
    """The stream of heartbeats and ticks. All of it is known beforehand; time decides what is there yet,
    and `kept` per subject what is there no more."""

    def __init__(self, facts: Sequence[Fact], kept: int | None = None) -> None:
        self.facts = facts
        self.kept = kept
        self.ats = [fact.at for fact in facts]
        self.of: dict[str, list[int]] = {}
        for i, fact in enumerate(facts):
            self.of.setdefault(fact.subject, []).append(i)
        self.gone = [NEVER] * len(facts)
        if kept is not None:
            for places in self.of.values():
                for place, successor in zip(places, places[kept:], strict=False):
                    self.gone[place] = self.ats[successor]

    def end(self, now: int) -> int:
        return bisect_right(self.ats, now)

    def after(self, seq: int, now: int, most: int) -> list[Stored]:
        """What is there behind a sequence, each with what is pending behind it."""
        end = self.end(now)
        if seq >= end:
            return []
        there: Sequence[int] = range(seq, end)
        if self.kept is not None:
            there = [i for i in there if self.gone[i] > now]
        behind, facts = len(there), self.facts
        return [
            Stored(fact.subject, fact.data, fact.headers, i + 1, fact.at, behind - n)
            for n, i in enumerate(there[:most], 1)
            for fact in (facts[i],)
        ]

    def mark(self, now: int) -> StreamMark:
        """The stream as it is described at a moment. (Nobody asks how many are left.)"""
        end = self.end(now)
        return StreamMark("", end, self.ats[end - 1] if end else 0, end, 0)

    def first(self, subject: str, now: int) -> Stored | None:
        for i in self.of.get(subject, ()):
            fact = self.facts[i]
            if fact.at <= now < self.gone[i]:
                return Stored(subject, fact.data, fact.headers, i + 1, fact.at, 0)
        return None


class Broker:
    """What is stored, and nothing of how it is reached."""

    def __init__(
        self,
        loop: VirtualLoop,
        heartbeats: Heartbeats,
        events: Sequence[Stored] = (),
        outages: Sequence[tuple[float, float]] = (),
        trace: "list[str] | None" = None,
    ) -> None:
        self.loop = loop
        self.heartbeats = heartbeats
        self.events = list(events)
        self.outages = outages
        self.kv: dict[str, bytes] = {}
        self.versions: dict[str, int] = {}
        self.aside: list[Stored] = []
        self.trace = trace
        self.sessions: list[Session] = []
        self._last = {event.subject: event for event in events}
        self._seq = events[-1].seq if events else 0
        self._ids: dict[str, Stored] = {}
        self.runs: list[Stored] = []
        """The stream of runs."""
        self._waiting: list[asyncio.Future[None]] = []
        self._waiting_for_runs: list[asyncio.Future[None]] = []

    def now(self) -> int:
        return BASE + round(self.loop._now * 1e6)

    def put_back(self, at: int) -> None:
        """A copy of the events takes the place of those that are there, as old as that, and older than the
        newest snapshot."""
        if position := self.kv.get("position"):
            newest = json.loads(position)["marks"][1]["at"]
            if not newest:  # of a snapshot that was begun before there were events no copy is older
                return
            at = min(at, newest - 1)
        self.events = [event for event in self.events if event.at <= at]
        self.runs = [event for event in self.runs if event.at <= at]
        self._last = {event.subject: event for event in (*self.runs, *self.events)}
        self._seq = self.events[-1].seq if self.events else 0
        self._ids = {id_: event for id_, event in self._ids.items() if event.at <= at}

    def close(self) -> None:
        """The end: nobody does anything any more."""
        for session in self.sessions:
            session.kill("the end")

    def away_until(self) -> float:
        """When the outage of this moment ends; 0 if there is none."""
        if not self.outages:
            return 0.0
        now = self.loop.time()
        return next((end for start, end in self.outages if start <= now < end), 0.0)

    def append(
        self,
        subject: str,
        data: bytes,
        after: int | None = None,
        event_id: str = "",
        headers: dict[str, str] | None = None,
    ) -> Ack:
        now, last = self.now(), self._last.get(subject)
        if after is not None and after != (last.seq if last else 0):
            raise WrongSequence(f"wrong last sequence: {last.seq if last else 0}")
        known = self._ids.get(event_id)
        if event_id and known and now - known.at < DUPLICATES:
            return Ack(known.seq, True)
        if streams.stream_of(subject) == streams.RUNS:
            stored = Stored(subject, data, headers, len(self.runs) + 1, now, 0)
            self.runs.append(stored)
            self._last[subject] = self._ids[event_id] = stored
            self._wake(self._waiting_for_runs)
            return Ack(stored.seq, False)
        self._seq += 1
        stored = Stored(subject, data, headers, self._seq, now, 0)
        self.events.append(stored)
        self._last[subject] = self._ids[event_id] = stored
        self._wake(self._waiting)
        return Ack(self._seq, False)

    @staticmethod
    def _wake(waiting: list[asyncio.Future[None]]) -> None:
        for future in waiting:
            if not future.done():
                future.set_result(None)
        waiting.clear()

    def replace(self, key: str, part: bytes, version: int) -> bool:
        if self.versions.get(key, 0) != version:
            return False
        self.kv[key], self.versions[key] = part, version + 1
        return True

    def newest(self, subject: str) -> Stored | None:
        return self._last.get(subject)

    def end(self, stream: str) -> tuple[int, int]:
        now = BASE + round(self.loop._now * 1e6)
        if stream == streams.RUNS:
            return len(self.runs), now
        return (self.heartbeats.end(now) if stream == streams.HEARTBEATS else self._seq), now

    def mark(self, stream: str) -> StreamMark:
        """A stream as it is described now."""
        if stream == streams.HEARTBEATS:
            return self.heartbeats.mark(self.now())
        last_at = self.events[-1].at if self.events else 0
        subjects = sum(streams.stream_of(subject) == streams.SERVICES for subject in self._last)
        return StreamMark("", self._seq, last_at, len(self.events), subjects)

    def differs(self, marks: Sequence[StreamMark]) -> str | None:
        """Why the streams are not those that were marked."""
        for stream, before in zip((streams.HEARTBEATS, streams.SERVICES), marks, strict=True):
            place = before.last - 1
            evicts, found = Eviction.NONE, None
            if stream == streams.HEARTBEATS:
                evicts = Eviction.ANY
                is_there = before.last and self.heartbeats.gone[place] > self.now()
                found = self.heartbeats.ats[place] if is_there else None
            elif 0 < before.last <= len(self.events):
                found = self.events[place].at
            known = StreamPosition(before.last, before.at)
            verdict = compare(before, self.mark(stream), known, found, evicts=evicts)
            if verdict is not Comparison.SAME:
                return f"{stream}: {verdict.value}"
        return None

    def events_after(self, seq: int, subjects: Sequence[str], newest: bool, most: int) -> list[Stored]:
        if seq >= self._seq:
            return []
        prefixes = tuple(subject.removesuffix(">") for subject in subjects)
        start = bisect_right(self.events, seq, key=lambda event: event.seq)
        found = [event for event in self.events[start:] if event.subject.startswith(prefixes)]
        if newest:
            found = [event for event in found if self._last[event.subject] is event]
        behind = len(found)
        return [
            Stored(event.subject, event.data, event.headers, event.seq, event.at, behind - n - 1)
            for n, event in enumerate(found[:most])
        ]

    def runs_after(self, seq: int) -> list[Stored]:
        left = len(self.runs) - seq - 1
        return [stored._replace(pending=left - n) for n, stored in enumerate(self.runs[seq:])]

    async def something_new(self, stream: str, seq: int) -> None:
        """Wait until the stream is longer than `seq`."""
        if stream == streams.HEARTBEATS:
            ats = self.heartbeats.ats
            if seq < len(ats):
                await asyncio.sleep((ats[seq] - BASE) / 1e6 - self.loop._now)
                return
        elif self.end(stream)[0] > seq:
            return
        future: asyncio.Future[None] = self.loop.create_future()
        (self._waiting_for_runs if stream == streams.RUNS else self._waiting).append(future)
        await future

    def say(self, who: str, what: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.loop.time():9.3f}  {who:<8} {what}")


@dataclass(frozen=True, slots=True)
class Faults:
    """How an operation may go wrong, and how far a reader may be behind. All are probabilities or seconds."""

    wait: float = 0.0
    longest: float = 0.0
    before: float = 0.0
    after: float = 0.0
    late: float = 0.0
    """Not answered in time, and stored only then."""
    lag: float = 0.0
    """The chance that a batch comes late, by up to `lag_longest`."""
    lag_longest: float = 0.0
    batch: int = 1 << 30
    again: float = 0.0
    """The chance that a reader delivers a part of what it has delivered once more."""


CALM = Faults()


class Session(Owner):
    """The broker as one process sees it, from its start to its end."""

    def __init__(
        self,
        broker: Broker,
        name: str,
        rng: Random,
        faults: Faults = CALM,
        *,
        calm_at: float = 0.0,
        kill_at: int = 0,
        suspended: Sequence[tuple[float, float]] = (),
        at_once: bool = False,
    ) -> None:
        """`kill_at`: the number of the operation in which it dies, 0 for none. `at_once`: no operation
        gives way to others, which is quickest."""
        super().__init__()
        self.broker = broker
        self.name = name
        self.dead = asyncio.Event()
        self._is_dead = False
        self.operations = 0
        self._loop = broker.loop
        self._rng = rng
        self._faults = faults
        self._calm_at = calm_at
        self._kill_at = kill_at
        self._suspended = suspended
        self._at_once = at_once
        broker.sessions.append(self)

    def run(self, process: Any) -> asyncio.Task[Any]:
        """Start a coroutine as the process of this session."""
        token = OWNER.set(self)
        try:
            return self._loop.create_task(process)
        finally:
            OWNER.reset(token)

    def kill(self, why: str = "killed") -> None:
        if not self._is_dead:
            self.broker.say(self.name, f"--- {why}")
            self._is_dead = True
            self.dead.set()
            for task in self.tasks:
                task.cancel()

    # --- the journal's methods

    def reader(
        self, stream: str, *subjects: str, after: int = 0, newest_per_subject: bool = False
    ) -> "ModelReader":
        return ModelReader(self, stream, subjects, after, newest_per_subject)

    async def end(self, stream: str) -> tuple[int, int]:
        return await self.operation("end", stream, lambda: self.broker.end(stream))

    async def identity(self) -> list[str]:
        return await self.operation("identity", "", lambda: ["these", "streams"])

    def marks(self) -> list[StreamMark]:
        return [self.broker.mark(stream) for stream in (streams.HEARTBEATS, streams.SERVICES)]

    async def differs(self, marks: list[StreamMark]) -> str | None:
        return await self.operation("differs", "", lambda: self.broker.differs(marks))

    async def newest_event(self, subject: str) -> Stored | None:
        return await self.operation("newest", subject, lambda: self.broker.newest(subject))

    async def oldest_heartbeat(self, name: str) -> Stored | None:
        subject = streams.heartbeat(name)
        return await self.operation(
            "oldest", name, lambda: self.broker.heartbeats.first(subject, self.broker.now())
        )

    async def append(
        self, subject: str, event: StatusChanged | ConfigEvent | RecordedFact, after: int | None
    ) -> Ack:
        data = event.to_bytes()
        return await self.operation(
            "append",
            f"{subject} after {after}: {told(event)}" if self.broker.trace is not None else subject,
            lambda: self.broker.append(subject, data, after, event.id),
            can_be_late=True,
        )

    async def load(self, key: str) -> bytes | None:
        return await self.operation("load", key, lambda: self.broker.kv.get(key), NatsError)

    async def load_versioned(self, key: str) -> tuple[bytes | None, int]:
        broker = self.broker
        return await self.operation(
            "load", key, lambda: (broker.kv.get(key), broker.versions.get(key, 0)), NatsError
        )

    async def replace(self, key: str, part: bytes, version: int) -> bool:
        return await self.operation(
            "replace", key, lambda: self.broker.replace(key, part, version), NatsError
        )

    async def save(self, key: str, part: bytes) -> None:
        await self.operation("save", key, lambda: self.broker.kv.__setitem__(key, part), NatsError)

    async def publish_dead_letter(self, message: Stored, why: str) -> None:
        await self.operation("set aside", message.subject, lambda: self.broker.aside.append(message))

    # --- how it goes

    @property
    def faults(self) -> Faults:
        return CALM if self._loop._now >= self._calm_at else self._faults

    async def operation(
        self,
        what: str,
        on: str,
        do: Callable[[], T],
        error: type[Exception] = NotStored,
        can_be_late: bool = False,
    ) -> T:
        """Wait, perhaps fail, do it, perhaps fail to say so, wait, answer; die on the way if it is time."""
        if self._at_once:
            return do()
        dies = self.count()
        faults, rng = self.faults, self._rng
        await self.wait(faults)
        if dies and rng.random() < 0.5:
            self.die(f"killed before: {what} {on}")
        if self.broker.away_until() or rng.random() < faults.before:
            self._say(what, on, "failed")
            raise error("the broker is away")
        if can_be_late and rng.random() < faults.late:
            self._say(what, on, "not answered; done late, perhaps")
            self._loop.call_later(rng.random() * 4, self._late, what, on, do)
            raise error("no answer")
        try:
            result = do()
        except WrongSequence as wrong:
            self._say(what, on, str(wrong))
            if rng.random() < faults.after:
                raise error("no answer") from None
            await self.wait(faults)
            raise
        self._say(what, on, result)
        if dies:
            self.die(f"killed after: {what} {on}")
        if rng.random() < faults.after:
            self._say(what, on, "done, but not answered")
            raise error("no answer")
        await self.wait(faults)
        return result

    def _late(self, what: str, on: str, do: Callable[[], object]) -> None:
        if not self._is_dead and not self.broker.away_until():
            try:
                self._say(what, on, f"late: {do()}")
            except WrongSequence as wrong:
                self._say(what, on, f"late: {wrong}")

    def _say(self, what: str, on: str, result: object) -> None:
        if self.broker.trace is not None:
            self.broker.say(self.name, f"{what} {on} -> {_in_short(result)}")

    def count(self) -> bool:
        """One more operation; whether the process dies in it."""
        if self._is_dead:
            raise asyncio.CancelledError
        self.operations += 1
        return self.operations == self._kill_at and self._loop._now < self._calm_at

    def die(self, why: str) -> None:
        self.kill(why)
        raise asyncio.CancelledError

    async def wait(self, faults: Faults) -> None:
        if faults.wait and self._rng.random() < faults.wait:
            await asyncio.sleep(self._rng.random() * faults.longest)
        elif not self._at_once:
            await turn()
        if self._suspended or self._is_dead:
            await self.while_suspended()

    async def while_suspended(self) -> None:
        now = self._loop._now
        for start, end in self._suspended:
            if start <= now < end:
                await asyncio.sleep(end - now)
        if self._is_dead:
            raise asyncio.CancelledError

    async def lag(self, faults: Faults) -> None:
        if faults.lag and self._rng.random() < faults.lag:
            await asyncio.sleep(self._rng.random() ** 3 * faults.lag_longest)
        if until := self.broker.away_until():
            await asyncio.sleep(until - self._loop._now)
        else:
            await turn()
        if self._suspended or self._is_dead:
            await self.while_suspended()

    def dice(self) -> float:
        return self._rng.random()

    def up_to(self, most: int) -> int:
        return most if most == CALM.batch else self._rng.randint(1, most)


class ModelReader:
    """Delivers in order, in batches of any size, late, and sometimes again. Never ends."""

    FETCH = 200

    def __init__(
        self, session: Session, stream: str, subjects: Sequence[str], after: int, newest: bool
    ) -> None:
        self._session = session
        self._broker = session.broker
        self._stream = stream
        self._subjects = subjects
        self._newest = newest
        self._began = after
        self._fetched = after
        self._queue: list[Stored] = []
        self._open = False
        self._ended = False
        self.position = after
        self.pending: int | None = None
        self.on_batch: Callable[[list[Stored]], None] = lambda _: None

    to_end = Reader.to_end

    def batches(self) -> "ModelReader":
        return self

    def __aiter__(self) -> "ModelReader":
        return self

    async def aclose(self) -> None:
        self._ended = True

    async def __anext__(self) -> list[Stored]:
        if self._ended:
            raise StopAsyncIteration
        try:
            return await self._next()
        except BaseException:
            self._ended = True
            raise

    async def _next(self) -> list[Stored]:
        session = self._session
        if session.count():
            session.die(f"killed reading {self._stream}")
        faults = session.faults
        if not self._open:
            await session.lag(faults)
            self._open = True
            self._queue = self._fetch() if self._newest else []
            if self._queue:
                self._fetched = self._queue[-1].seq
            self._newest = False
            self.pending = len(self._queue) or len(self._fetch())
            return []
        if not self._queue:
            if faults.again and session.dice() < faults.again:
                back = self.position - int(session.dice() ** 2 * (self.position - self._began))
                self._fetched = min(self._fetched, back)
            while not (found := self._fetch()):
                await self._broker.something_new(self._stream, self._end())
                await session.lag(session.faults)
            self._queue = found
            self._fetched = found[-1].seq
            await session.lag(faults)
        size = session.up_to(faults.batch)
        batch, self._queue = self._queue[:size], self._queue[size:]
        if self._queue or session.dice() < 0.3:
            await session.lag(faults)
        self.position = max(self.position, batch[-1].seq)
        self.pending = batch[-1].pending
        self.on_batch(batch)
        if self._broker.trace is not None:
            seqs = f"{batch[0].seq}-{batch[-1].seq}, {self.pending} pending"
            self._broker.say(session.name, f"reads {self._stream} {seqs}")
        return batch

    def _end(self) -> int:
        return self._broker.end(self._stream)[0]

    def _fetch(self) -> list[Stored]:
        if self._stream == streams.HEARTBEATS:
            return self._broker.heartbeats.after(self._fetched, self._broker.now(), 1 << 30)
        if self._stream == streams.RUNS:
            return self._broker.runs_after(self._fetched)
        return self._broker.events_after(self._fetched, self._subjects, self._newest, 1 << 30)


def told(event: StatusChanged | ConfigEvent | RecordedFact) -> str:
    """An event in a few words."""
    at = f"{(event.time.timestamp() * 1e6 - BASE) / 1e6:.6f}"
    if isinstance(event, StatusChanged):
        return f"{event.data.from_} -> {event.data.to} since {at} ({event.data.reason})"
    return f"{event.type.split('.')[1]} by {event.source} at {at}"


def _in_short(result: object) -> str:
    match result:
        case bytes():
            return f"{len(result)} B"
        case Ack():
            return f"#{result.seq}{' (duplicate)' if result.duplicate else ''}"
        case Stored() if result.subject.startswith("service."):
            try:
                event = parse_event(result.data)
            except ValueError:
                return f"#{result.seq} (malformed)"
            return f"#{result.seq} {told(event)}"
        case Stored():
            return f"#{result.seq}"
    return str(result)
