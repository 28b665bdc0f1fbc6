"""Whether the streams are still those that were read before; if not, a service's work begins again, with what
they hold now.

They may be removed, replaced by an older copy, purged, restored, or those of another cluster. A stream's time
of creation tells it from one that was made anew. An older copy of the same stream has the same time: it ends
before what was read of it, or has, once new messages have come, another message there.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum

import structlog
from nats.errors import Error as NatsError

from shared.messaging import connection, streams
from shared.messaging.connection import BrokerConnection, StreamPosition, reraise_cancelled, retry_until_done
from shared.messaging.errors import NotStored, StreamMissing
from shared.messaging.queries import first_later, full_subjects, last_sequence, message_at, stream_info
from shared.messaging.reader import micros

log = structlog.get_logger()

CHECK_INTERVAL = 2.0
"""Seconds between two checks: the broker tells nobody of a purge."""
CHECK_TIMEOUT = 10.0
"""Seconds that a check may take while a service waits for it to end."""
REMOVAL_TIMEOUT = 1.0
"""Seconds that the broker may take to remove a stream's files. A stream of the same name that is created
meanwhile loses its files too, and does not answer publishers any more (nats-server 2.15.1)."""
LOG_INTERVAL = 10.0
"""Seconds within which other streams belong to the same disaster, which is not warned of again."""
EVICTION_LIFETIME = 60.0
"""Seconds for which the answer that the broker removes events itself is remembered."""

_said_at = float("-inf")

RECORD = (streams.HEARTBEATS, streams.SERVICES)
BESIDE = (streams.RUNS,)
"""Streams that do not tell one record from another, as an upgrade creates them; made again where missing."""


class Comparison(Enum):
    """What became of a stream; the value says so in words."""

    SAME = "it is the same"
    ANOTHER = "it was made anew, or removed"
    OLDER = "an older copy was put in its place"
    PURGED = "messages were removed from it"


class Eviction(Enum):
    """Which messages the broker removes itself."""

    NONE = 0
    ONE_FOR_ONE = 1
    """At most one for each that comes, or all above a lowered limit; never the last of a subject."""
    ANY = 2


@dataclass(frozen=True)
class StreamMark:
    """A stream at one moment. `last`: its last sequence; `at`: when that was stored, microseconds since 1970;
    `messages`, `subjects`: how many it holds; `kept`: how many of a subject it may, -1: any, or unknown."""

    created: str
    last: int
    at: int
    messages: int
    subjects: int
    kept: int = -1

    @property
    def removed(self) -> int:
        """Messages that it held once, and holds no more."""
        return self.last - self.messages


Marks = dict[str, StreamMark]


def compare(
    before: StreamMark,
    now: StreamMark,
    position: StreamPosition,
    found: int | None = None,
    first_later: int | None = None,
    *,
    evicts: Eviction = Eviction.NONE,
) -> Comparison:
    """Compare a stream with what was known of it. Pure.

    `position`: the newest message known of. `found`: when the message was stored that is at its sequence now;
    None: there is none, or nobody has asked. `first_later`: the sequence of the first message that was stored
    later than `position`; None: there is none, or nobody has asked.
    """
    if now.created != before.created:
        return Comparison.ANOTHER
    if now.last < max(before.last, position.seq):
        return Comparison.OLDER
    if found is not None and found != position.at:
        return Comparison.OLDER
    if found is None and first_later is not None and first_later <= position.seq:
        return Comparison.OLDER
    added, removed = now.last - before.last, now.removed - before.removed
    if evicts is Eviction.NONE and removed > 0:
        return Comparison.PURGED
    lowered = now.kept > 0 and not 0 < before.kept <= now.kept
    if evicts is Eviction.ONE_FOR_ONE and (
        (removed > added and not lowered) or now.subjects < before.subjects
    ):
        return Comparison.PURGED
    return Comparison.SAME


@dataclass(frozen=True)
class StreamSnapshot:
    """A stream as the broker described it. `asked_at`: the broker's time of that, in microseconds."""

    mark: StreamMark
    asked_at: int


async def snapshot_of(link: BrokerConnection, stream: str) -> StreamSnapshot | None:
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
    return StreamSnapshot(mark, micros(info["ts"]))


async def look(link: BrokerConnection, *buckets: str) -> tuple[Marks, int]:
    """The streams of the record, and these, as they are now, and the broker's time before; waits for them."""

    async def attempt() -> dict[str, StreamSnapshot]:
        found = {}
        for stream in (*RECORD, *buckets):
            if (seen := await snapshot_of(link, stream)) is None:
                raise NotStored(f"there is no stream {stream}")
            found[stream] = seen
        return found

    seen = await retry_until_done("look at the streams", attempt)
    return {stream: each.mark for stream, each in seen.items()}, seen[RECORD[0]].asked_at


async def check_stream(
    link: BrokerConnection,
    stream: str,
    before: StreamMark,
    position: StreamPosition | None = None,
    *,
    thoroughly: bool = True,
    eviction: Callable[[BrokerConnection], Awaitable[Eviction]] | None = None,
) -> tuple[Comparison, StreamSnapshot | None]:
    """Compare a stream with what it was before, and with the newest message that was read from it.

    `thoroughly`: also detect an older copy in which as much has been stored since. `eviction`: asks which
    events the broker removes itself. Raises NotStored when the broker cannot say.
    """
    seen = await snapshot_of(link, stream)
    if seen is None:
        return Comparison.ANOTHER, None
    now = seen.mark
    known = StreamPosition(before.last, before.at)
    if position is not None and position.seq > known.seq:
        known = position
    found = later = None
    if thoroughly and known.seq and now.created == before.created and now.last >= known.seq:
        with suppress(NotStored):  # its permissions may be of an older version
            if there := await message_at(link, stream, known.seq):
                found = there.at
            elif first := await first_later(link, stream, known.at):
                later = first.seq
    evicts = Eviction.ANY
    if stream == streams.SERVICES and now.removed > before.removed:
        evicts = await (eviction or eviction_of)(link)
    return compare(before, now, known, found, later, evicts=evicts), seen


async def eviction_of(link: BrokerConnection) -> Eviction:
    """Whether the broker removes events itself, because some subject has as many as it may have."""
    async for _ in full_subjects(link, streams.SERVICES, ">"):
        return Eviction.ONE_FOR_ONE
    return Eviction.NONE


async def known_until(link: BrokerConnection, at: int) -> int:
    """The sequence up to which events were stored until `at`. Whoever read the streams that were there before
    has read these events, or never will. Waits for the broker as long as it takes."""

    async def ask() -> int:
        later = await first_later(link, streams.SERVICES, at)
        return later.seq - 1 if later else (await last_sequence(link, streams.SERVICES))[0]

    return await retry_until_done("find what is new in the record", ask)


class AnotherRecord(Exception):
    """The streams are not those that were read. `stream`, `verdict`: which one, and what became of it."""

    def __init__(self, stream: str, verdict: Comparison) -> None:
        super().__init__(f"{stream}: {verdict.value}")
        self.stream = stream
        self.verdict = verdict


class RecordWatch:
    """`keep` runs a service's work, and starts it again whenever the streams are not the same any more.

    `marks`: the streams as they were at the newest check. `seen_at`: the broker's time of that check.
    """

    def __init__(
        self,
        link: BrokerConnection,
        buckets: Iterable[str] = (),
        *,
        rewritten: Iterable[str] = (),
        beside: Iterable[str] = (),
    ) -> None:
        """`buckets`: needed by the work as well. `rewritten`: created again, and `on_emptied` called.
        `beside`: streams beside the record with which the work begins anew as well."""
        self._link, self._beside = link, tuple(beside)
        self._buckets = {f"KV_{name}": name for name in (*buckets, *rewritten)}
        self._rewritten = {f"KV_{name}" for name in rewritten}
        self._doubt = asyncio.Event()
        self._thoroughly = False
        self._evicts_until = float("-inf")
        self.marks: Marks = {}
        self.seen_at = 0
        self.left_at: int | None = None
        """When the streams that were there before were seen last; None: these are the first."""
        self.on_another: Callable[[str], None] = lambda _: None
        """Called with the reason why the work is about to begin again."""
        self.on_emptied: Callable[[], None] = lambda: None
        self.on_check: Callable[[Marks], Awaitable[None]] | None = None

    async def keep(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work`, again whenever the streams are others. Raises what it does while they are the same."""
        while True:
            try:
                await self.once(work)
                return
            except AnotherRecord:
                continue

    async def once(self, work: Callable[[], Awaitable[None]]) -> None:
        """The same, but raises AnotherRecord after `on_another` was called."""
        self._link.on_back.append(self._on_back)
        self._link.on_doubt.append(self._doubt.set)
        try:
            await self._begin()
            try:
                await connection.in_own_task(self._watched(work))
            except Exception as error:
                found = _another(error) or await self._found_now()
                if found is None:
                    raise
                self._report(found)
                if found.verdict is Comparison.ANOTHER:
                    await asyncio.sleep(REMOVAL_TIMEOUT)
                raise found from None
        finally:
            self._link.on_back.remove(self._on_back)
            self._link.on_doubt.remove(self._doubt.set)

    async def _watched(self, work: Callable[[], Awaitable[None]]) -> None:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch())
            await work()
            watching.cancel()

    def _report(self, found: AnotherRecord) -> None:
        global _said_at
        why = f"the broker's stream {found.stream} is not as it was: {found.verdict.value}"
        now = asyncio.get_running_loop().time()
        level = logging.WARNING if now > _said_at + LOG_INTERVAL else logging.INFO
        log.log(level, "the record is another one; beginning anew with what it holds", why=why)
        _said_at = now
        self.on_another(f"beginning anew, as {why}")
        for stream, read in self._link.newest_read.items():
            if (mark := self.marks.get(stream)) and mark.last < read.seq:
                more = read.seq - mark.last
                self.marks[stream] = replace(mark, last=read.seq, at=read.at, messages=mark.messages + more)
        self.left_at = max(self.seen_at, self.marks[streams.SERVICES].at)
        self._link.newest_read.clear()

    def _on_back(self) -> None:
        self._thoroughly = True
        self._doubt.set()

    async def _begin(self) -> None:
        """Create what is missing, and remember what the streams look like."""
        await self._link.provision()
        for name in self._buckets.values():
            await self._link.bucket(name)

        self._thoroughly = False
        self.marks, self.seen_at = await look(self._link, *self._buckets, *self._beside)

    async def _watch(self) -> None:
        """Raises AnotherRecord as soon as the streams are others."""
        while True:
            await connection.set_within(self._doubt, CHECK_INTERVAL)
            self._doubt.clear()
            with suppress(NotStored):  # the broker is away; it is checked again when it is back
                await reraise_cancelled(self._check())

    async def _check(self) -> None:
        thoroughly, self._thoroughly = self._thoroughly, False
        marks: Marks = {}
        seen_at = 0
        try:
            for stream, before in self.marks.items():
                read = self._link.newest_read.get(stream)
                verdict, seen = await check_stream(
                    self._link, stream, before, read, thoroughly=thoroughly, eviction=self._eviction
                )
                if verdict is not Comparison.SAME and stream in self._rewritten:
                    log.warning("the snapshot is not as it was; writing it anew", why=verdict.value)
                    await asyncio.sleep(REMOVAL_TIMEOUT)
                    await self._link.bucket(self._buckets[stream])
                    seen = await snapshot_of(self._link, stream)
                    self.on_emptied()
                elif verdict is not Comparison.SAME:
                    raise AnotherRecord(stream, verdict)
                if seen:
                    marks[stream], seen_at = seen.mark, seen_at or seen.asked_at
        except NotStored:
            self._thoroughly = self._thoroughly or thoroughly
            raise
        await self._make_again()
        self.marks |= marks
        self.seen_at = seen_at or self.seen_at
        if self.on_check:
            await self.on_check(self.marks)

    async def _make_again(self) -> None:
        """The streams beside the record, where somebody has removed them: those who append wait for them."""
        with suppress(NotStored):  # permissions may be of an older version
            for stream in BESIDE:
                if await snapshot_of(self._link, stream) is None:
                    log.warning("a stream beside the record is gone; making it anew", stream=stream)
                    await asyncio.sleep(REMOVAL_TIMEOUT)
                    await self._link.provision()

    async def _eviction(self, link: BrokerConnection) -> Eviction:
        """Asked only once in a while, as the answer is long."""
        now = asyncio.get_running_loop().time()
        if now < self._evicts_until:
            return Eviction.ONE_FOR_ONE
        found = await eviction_of(link)
        if found is Eviction.ONE_FOR_ONE:
            self._evicts_until = now + EVICTION_LIFETIME
        return found

    async def _found_now(self) -> AnotherRecord | None:
        """Whether something went wrong because the streams are others."""
        self._thoroughly = True
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                await self._check()
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
