"""Asks the broker whether its streams are those that were read before."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from shared.messaging import streams
from shared.messaging.connection import BrokerConnection, retry_until_done
from shared.messaging.errors import NotStored, StreamMissing
from shared.messaging.queries import first_later, full_subjects, last_sequence, message_at, stream_info
from shared.messaging.reader import micros
from shared.messaging.stream_identity import Comparison, Eviction, StreamMark, StreamPosition, compare

RECORD = (streams.HEARTBEATS, streams.SERVICES)

Marks = dict[str, StreamMark]


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
