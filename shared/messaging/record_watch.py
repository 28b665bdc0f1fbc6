"""Notices that the record is another one: emptied, put back to an older copy, purged, restored, or of another
cluster, and has the work of a service begin anew on it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog
from nats.errors import Error as NatsError

from shared.messaging import streams
from shared.messaging.connection import BrokerConnection, in_own_task, reraise_cancelled, retry_until_done
from shared.messaging.errors import NotStored, StreamMissing
from shared.messaging.queries import first_later, full_subjects, last_sequence, message_at, stream_info
from shared.messaging.reader import micros
from shared.messaging.stream_identity import Comparison, Eviction, StreamMark, StreamPosition, compare

log = structlog.get_logger()

LOOK_AGAIN = 2.0
"""Seconds between two looks: a purge is not told to anybody."""
LOOK_TIMEOUT = 10.0
"""Seconds that a look may take which keeps a service from ending."""
REMOVED_WITHIN = 1.0
"""Seconds that the broker may take to remove a stream's files. One of the same name that is made meanwhile
loses its own with them, and answers no publisher any more (nats-server 2.15.1)."""
SAY_AGAIN = 10.0
"""Seconds within which it is the same disaster, stream by stream, and is not warned of again."""
EVICTS_FOR = 60.0
"""Seconds for which it is taken for granted that the broker lets events go, once it does."""
RECORD = (streams.HEARTBEATS, streams.SERVICES)

_said_at = float("-inf")


class AnotherRecord(Exception):
    """The record is not the one that was read. `stream`, `verdict`: which stream, and what became of it."""

    def __init__(self, stream: str, verdict: Comparison) -> None:
        super().__init__(f"{stream}: {verdict.value}")
        self.stream = stream
        self.verdict = verdict


Marks = dict[str, StreamMark]


@dataclass(frozen=True)
class Seen:
    """A stream as the broker described it. `asked_at`: the broker's time of that, in microseconds."""

    mark: StreamMark
    asked_at: int


async def look(link: BrokerConnection, stream: str) -> Seen | None:
    """None: there is no such stream. Raises NotStored when the broker cannot say."""
    try:
        info = await stream_info(link, stream)
    except StreamMissing:
        return None
    state = info["state"]
    last = state["last_seq"]
    at = max(0, micros(state["last_ts"])) if last else 0
    kept = info["config"].get("max_msgs_per_subject", -1)
    mark = StreamMark(info["created"], last, at, state["messages"], state.get("num_subjects", 0), kept)
    return Seen(mark, micros(info["ts"]))


async def judge(
    link: BrokerConnection,
    stream: str,
    before: StreamMark,
    position: StreamPosition | None = None,
    *,
    thoroughly: bool = True,
    eviction: Callable[[BrokerConnection], Awaitable[Eviction]] | None = None,
) -> tuple[Comparison, Seen | None]:
    """Whether a stream is the one of `before`, in which `position` was read. `thoroughly`: also look for an
    older copy in which as much has been stored since. `eviction`: says what the broker lets go of SERVICES.
    Raises NotStored when the broker cannot say."""
    seen = await look(link, stream)
    if seen is None:
        return Comparison.ANOTHER, None
    now = seen.mark
    known = StreamPosition(before.last, before.at)
    if position is not None and position.seq > known.seq:
        known = position
    found = later = None
    if thoroughly and known.seq and now.created == before.created and now.last >= known.seq:
        with suppress(NotStored):  # a broker's configuration of before may not let this service ask
            if there := await message_at(link, stream, known.seq):
                found = there.at
            elif first := await first_later(link, stream, known.at):
                later = first.seq
    evicts = Eviction.ANY
    if stream == streams.SERVICES and now.removed > before.removed:
        evicts = await (eviction or _eviction)(link)
    return compare(before, now, known, found, later, evicts=evicts), seen


async def _eviction(link: BrokerConnection) -> Eviction:
    """Whether the broker lets events go, because some subject has as many as it may have."""
    async for _ in full_subjects(link, streams.SERVICES, streams.ALL_EVENTS):
        return Eviction.ONE_FOR_ONE
    return Eviction.NONE


async def told_before(link: BrokerConnection, at: int) -> int:
    """The sequence up to which events were stored until `at`, so that whoever followed the record that was
    there before was told them, or never will be. Waits for the broker as long as it takes."""

    async def ask() -> int:
        later = await first_later(link, streams.SERVICES, at)
        return later.seq - 1 if later else (await last_sequence(link, streams.SERVICES))[0]

    found: int = await retry_until_done("find what is new in the record", ask)
    return found


class RecordWatch:
    """`keep` runs a service's work, and runs it anew on each record.

    `marks`: the streams as they were at the newest look. `seen_at`: the broker's time of that look.
    """

    def __init__(
        self, link: BrokerConnection, buckets: Iterable[str] = (), *, rewritten: Iterable[str] = ()
    ) -> None:
        """`buckets`: those without which the work begins anew as well. `rewritten`: those that are made
        again, and `on_emptied` is told."""
        self._link = link
        self._buckets = {f"KV_{name}": name for name in (*buckets, *rewritten)}
        self._rewritten = {f"KV_{name}" for name in rewritten}
        self._doubt = asyncio.Event()
        self._thoroughly = False
        self._evicts_until = float("-inf")
        self.marks: Marks = {}
        self.seen_at = 0
        self.left_at: int | None = None
        """When the record that was there before was seen last; None: it is the first."""
        self.on_another: Callable[[str], None] = lambda _: None
        """Told why the work is about to begin anew."""
        self.on_emptied: Callable[[], None] = lambda: None
        self.on_look: Callable[[Marks], Awaitable[None]] | None = None

    async def keep(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work`, and anew whenever the record has become another one. Raises what `work` raises on one
        and the same record."""
        while True:
            try:
                await self.once(work)
                return
            except AnotherRecord:
                continue

    async def once(self, work: Callable[[], Awaitable[None]]) -> None:
        """The same, but AnotherRecord is raised once it is said."""
        self._link.on_back.append(self._came_back)
        self._link.on_doubt.append(self._doubt.set)
        try:
            await self._begin()
            try:
                await in_own_task(self._watched(work))
            except Exception as error:
                found = _another(error) or await self._found_now()
                if found is None:
                    raise
                self._say(found)
                if found.verdict is Comparison.ANOTHER:
                    await asyncio.sleep(REMOVED_WITHIN)
                raise found from None
        finally:
            self._link.on_back.remove(self._came_back)
            self._link.on_doubt.remove(self._doubt.set)

    async def _watched(self, work: Callable[[], Awaitable[None]]) -> None:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch())
            await work()
            watching.cancel()

    def _say(self, found: AnotherRecord) -> None:
        global _said_at
        why = f"the broker's stream {found.stream} is not as it was: {found.verdict.value}"
        now = asyncio.get_running_loop().time()
        level = logging.WARNING if now > _said_at + SAY_AGAIN else logging.INFO
        log.log(level, "the record is another one; beginning anew with what it holds", why=why)
        _said_at = now
        self.on_another(f"beginning anew, as {why}")
        for stream, read in self._link.newest_read.items():
            if (mark := self.marks.get(stream)) and mark.last < read.seq:
                more = read.seq - mark.last
                self.marks[stream] = replace(mark, last=read.seq, at=read.at, messages=mark.messages + more)
        self.left_at = max(self.seen_at, self.marks[streams.SERVICES].at)
        self._link.newest_read.clear()

    def _came_back(self) -> None:
        self._thoroughly = True
        self._doubt.set()

    async def _begin(self) -> None:
        """See to it that all is there, and remember what it looks like."""
        await self._link.provision()
        for name in self._buckets.values():
            await self._link.bucket(name)

        async def attempt() -> None:
            marks: Marks = {}
            seen_at = 0
            for stream in (*RECORD, *self._buckets):
                seen = await look(self._link, stream)
                if seen is None:
                    raise NotStored(f"the stream {stream} is gone again")
                marks[stream], seen_at = seen.mark, seen_at or seen.asked_at
            self.marks, self.seen_at = marks, seen_at

        self._thoroughly = False
        await retry_until_done("look at the streams", attempt)

    async def _watch(self) -> None:
        """Raises AnotherRecord as soon as it is one."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN):
                    await self._doubt.wait()
            self._doubt.clear()
            with suppress(NotStored):  # the broker is away; its return is another reason to look
                await reraise_cancelled(self._look())

    async def _look(self) -> None:
        thoroughly, self._thoroughly = self._thoroughly, False
        marks: Marks = {}
        seen_at = 0
        try:
            for stream, before in self.marks.items():
                read = self._link.newest_read.get(stream)
                verdict, seen = await judge(
                    self._link, stream, before, read, thoroughly=thoroughly, eviction=self._eviction
                )
                if verdict is not Comparison.SAME and stream in self._rewritten:
                    log.warning("the snapshot is not as it was; writing it anew", why=verdict.value)
                    await asyncio.sleep(REMOVED_WITHIN)
                    await self._link.bucket(self._buckets[stream])
                    seen = await look(self._link, stream)
                    self.on_emptied()
                elif verdict is not Comparison.SAME:
                    raise AnotherRecord(stream, verdict)
                if seen:
                    marks[stream], seen_at = seen.mark, seen_at or seen.asked_at
        except NotStored:
            self._thoroughly = self._thoroughly or thoroughly
            raise
        self.marks |= marks
        self.seen_at = seen_at or self.seen_at
        if self.on_look:
            await self.on_look(self.marks)

    async def _eviction(self, link: BrokerConnection) -> Eviction:
        """Asked once in a while, as the answer is long."""
        now = asyncio.get_running_loop().time()
        if now < self._evicts_until:
            return Eviction.ONE_FOR_ONE
        found = await _eviction(link)
        if found is Eviction.ONE_FOR_ONE:
            self._evicts_until = now + EVICTS_FOR
        return found

    async def _found_now(self) -> AnotherRecord | None:
        """Whether what went wrong went wrong because of another record."""
        self._thoroughly = True
        try:
            async with asyncio.timeout(LOOK_TIMEOUT):  # whoever is to end must not wait for a slow broker
                await self._look()
        except AnotherRecord as found:
            return found
        except (NatsError, NotStored, OSError, TimeoutError):
            return None
        return None


def _another(error: BaseException) -> AnotherRecord | None:
    if isinstance(error, AnotherRecord):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next((found for each in error.exceptions if (found := _another(each))), None)
    return None
