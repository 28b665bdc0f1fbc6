"""Whether a stream is still the one that was read before, or another one in its place.

A stream's time of creation tells it from one that was made anew. An older copy of the same stream has the
same time: it ends before what was read of it, or has, once new messages have come, another message there.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

from shared.messaging import streams
from shared.messaging.connection import BrokerConnection, StreamPosition, retry_until_done
from shared.messaging.errors import NotStored, StreamMissing
from shared.messaging.queries import first_later, full_subjects, last_sequence, message_at, stream_info
from shared.messaging.reader import micros

RECORD = (streams.HEARTBEATS, streams.SERVICES)


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
    """At most one for each that comes, or all that are more than it may keep by now; never the last of a
    subject."""
    ANY = 2


@dataclass(frozen=True)
class StreamMark:
    """A stream at one moment. `last`: its last sequence; `at`: when that message was stored, microseconds
    since 1970 UTC; `messages`, `subjects`: how many it holds; `kept`: how many of each subject it may keep,
    -1 if any number, or not known."""

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
    async for _ in full_subjects(link, streams.SERVICES, streams.ALL_EVENTS):
        return Eviction.ONE_FOR_ONE
    return Eviction.NONE


async def known_until(link: BrokerConnection, at: int) -> int:
    """The sequence up to which events were stored until `at`. Whoever read the streams that were there before
    has read these events, or never will. Waits for the broker as long as it takes."""

    async def ask() -> int:
        later = await first_later(link, streams.SERVICES, at)
        return later.seq - 1 if later else (await last_sequence(link, streams.SERVICES))[0]

    return await retry_until_done("find what is new in the record", ask)
