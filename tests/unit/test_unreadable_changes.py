"""A monitor that begins anew, and the newest change of a service that cannot be read."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import cast

from services.monitor.consume import Monitor
from services.monitor.domain.service import DOWN, EffectiveThresholds
from services.monitor.store.event_store import EventStore
from shared.contracts.events import Status, StatusData, moment, status_changed
from shared.messaging import streams
from shared.messaging.reader import Reader, Stored

THEN = 1_800_000_000_000_000


class Record:
    """A journal that holds these events, and sets aside what it is told to."""

    def __init__(self, events: list[Stored]) -> None:
        self._events = events

    async def end(self, stream: str) -> tuple[int, int]:
        return self._events[-1].seq, THEN

    async def event_before(self, subject: str, seq: int) -> Stored | None:
        return next((it for it in reversed(self._events) if it.subject == subject and it.seq < seq), None)

    def reader(
        self, stream: str, subject: str, after: int = 0, newest_per_subject: bool = False
    ) -> "_Reader":
        found = [it for it in self._events if it.subject.startswith(subject[:-1]) and it.seq > after]
        return _Reader(list({it.subject: it for it in found}.values()) if newest_per_subject else found)


class _Reader:
    pending, position = 0, 0
    to_end = Reader.to_end

    def __init__(self, found: list[Stored]) -> None:
        self._found = found

    async def batches(self) -> AsyncIterator[list[Stored]]:
        yield self._found
        await asyncio.Event().wait()


def change(seq: int, from_: Status, to: Status) -> Stored:
    data = StatusData(from_=from_, to=to, since=moment(THEN + seq), last_heartbeat=None, reason="test")
    event = status_changed("web", data)
    return Stored(streams.status("web"), event.to_bytes(), None, seq, THEN + seq, 0)


async def test_the_one_before_it_counts_as_for_a_monitor_that_has_read_all_along() -> None:
    odd = [
        Stored(streams.status(name), b"x", None, seq, THEN + seq, 0) for seq, name in ((3, "web"), (4, "a"))
    ]
    last = Stored(streams.status("web"), b"{}", None, 5, THEN + 5, 0)
    kept = Record([change(1, Status.UNKNOWN, Status.ALIVE), change(2, Status.ALIVE, DOWN), *odd, last])
    patience = EffectiveThresholds(*(timedelta(hours=n) // timedelta(microseconds=1) for n in (1, 2, 3)))
    monitor = Monitor(cast(EventStore, kept), patience, kept=100, max_services=10)
    reading = asyncio.create_task(monitor.events.read(fresh=True))
    await asyncio.wait_for(monitor.events.moved.wait(), 5)
    reading.cancel()
    seq, found = monitor.state.unclaimed["web"]
    assert (seq, found.to, found.since) == (5, DOWN, THEN + 2)
    assert "a" not in monitor.state.unclaimed
