"""Reads what the streams hold of a time."""

from datetime import timedelta

from services.replay.history import History
from shared.contracts.events import MICRO, moment
from shared.messaging import queries, streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.errors import StreamMissing
from shared.messaging.reader import Reader

MAX_HEARTBEATS = 1_500_000
"""Where the broker keeps more messages in HEARTBEATS, only the newest of each service are read: of what was
before, gaps and changes tell."""
_WEEK = timedelta(days=7) // MICRO


async def read(link: BrokerConnection, begin: int) -> History:
    """`begin`: what happened before is of use only for how each service was then. Ticks are read first: what
    is stored later than the newest of them is of no time that they prove. Raises NotStored."""
    history = History(begin)
    await _read(history, Reader(link, streams.HEARTBEATS, streams.ALL_TICKS, newest_per_subject=True))
    await _read(history, Reader(link, streams.SERVICES, streams.ALL_EVENTS))
    await _read(history, Reader(link, streams.SERVICES, streams.ALL_CONFIGURATION))
    info = await queries.stream_info(link, streams.HEARTBEATS)
    if info["state"]["messages"] <= MAX_HEARTBEATS:
        whole = streams.ALL_HEARTBEATS, streams.ALL_TICKS
        beats = Reader(link, streams.HEARTBEATS, *whole, since=_since(begin))
    else:
        beats = Reader(link, streams.HEARTBEATS, streams.ALL_HEARTBEATS, newest_per_subject=True)
    await _read(history, beats, without="tick.")
    try:
        await queries.stream_info(link, streams.RUNS)
    except StreamMissing:
        return history
    # A gap of the week before shows that they were recorded by then.
    await _read(history, Reader(link, streams.RUNS, streams.ALL_RUNS, since=_since(begin - _WEEK)))
    return history


def _since(at: int) -> str:
    return f"{moment(at):%Y-%m-%dT%H:%M:%S.%fZ}"


async def _read(history: History, reader: Reader, without: str = "\n") -> None:
    async for batch in reader.to_end():
        for message in batch:
            if not message.subject.startswith(without):
                history.add(message)
