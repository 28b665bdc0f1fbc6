"""What the API holds in memory: every service's state, the changes of the last day, and who listens."""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from prometheus_client import Gauge

from services.api.projections.documents import Document, Heard, Projection
from services.api.queries.index import ServiceIndex
from shared.contracts.events import IncidentEvent, Outcome, StatusChanged
from shared.domain import digest
from shared.domain.coverage import Coverage
from shared.domain.timeline import Mark, mark_of

LISTENERS = Gauge("registry_event_listeners", "Clients that follow the events live")

DAY = timedelta(days=1) // timedelta(microseconds=1)
MAX_MARKS = 200_000
"""Changes of the last day that are remembered, of all services together."""
KEPT = 10_000
"""Events that a client which comes back can be given from memory."""
MAX_LISTENERS = 1000
MAX_ANONYMOUS = MAX_LISTENERS - MAX_LISTENERS // 8
"""Of them, without a right token; the rest is for those who have one."""
MAX_PER_CLIENT = 100
"""Of strangers with one address."""
MAX_READING = 16
"""Listeners that are told at the same time what memory does not go back to."""
MAX_QUEUED = 1000
"""Messages that wait for a slow listener before it is let go; it comes back with the last id it saw."""


@dataclass(slots=True)
class LiveEvent:
    """One event as it is told live, or, without a sequence, who was heard within the last second. `written`:
    as it goes to whoever listens, once it was written for one of them."""

    seq: int | None
    row: Document
    written: str = ""


class Listener:
    """What waits for one client."""

    def __init__(self, client: str | None, *, heartbeats: bool) -> None:
        self.client = client
        self.heartbeats = heartbeats
        self._waiting: asyncio.Queue[LiveEvent | None] = asyncio.Queue(MAX_QUEUED + 1)
        self._lost = False

    def enqueue(self, news: LiveEvent) -> None:
        if self._lost:
            return
        if self._waiting.qsize() >= MAX_QUEUED:
            self.let_go()
        else:
            self._waiting.put_nowait(news)

    def let_go(self) -> None:
        if not self._lost:
            self._lost = True
            self._waiting.put_nowait(None)

    async def next(self, within: float) -> LiveEvent | None:
        """The next news; None: there will be no more. TimeoutError when there is none in time."""
        async with asyncio.timeout(within):
            return await self._waiting.get()


class EventHub:
    """Fed by the projector and the commands after the database has it, so that who is told can read it."""

    def __init__(self) -> None:
        self.index = ServiceIndex()
        self.coverage = Coverage()
        self._recent_marks: dict[str, deque[Mark]] = {}
        self._order: deque[tuple[int, str, int]] = deque()
        self._kept: deque[LiveEvent] = deque(maxlen=KEPT)
        self._listeners: set[Listener] = set()
        self.reading = asyncio.Semaphore(MAX_READING)
        self.published_through = 0
        """The sequence up to which events were told, as far as they can be read."""
        self.forgotten_through = 0
        """The newest sequence that may have been a mark and is not remembered any more."""
        self.edition = ""
        """Goes behind the ids of events, and tells those of an earlier record; empty in the first."""
        self.new_from = 0
        """The sequence after which events are new in this record."""
        self.begins: dict[str, int] = {}
        """Since when the record of a service is whole, of those of which the broker has let events go."""
        self.last_change = 0
        """When the newest change of a status was stored."""
        self.evaluated_at: int | None = None
        """When the newest tick was stored that a monitor has evaluated, as one said; 0: none ever answered;
        None: none was asked yet."""

    def begin_edition(self, edition: str, new_from: int) -> None:
        """What is read is another record now. Whoever listens is let go, and comes back for what is new."""
        self.edition, self.new_from = edition, new_from
        for news in self._kept:
            news.written = ""
        self.let_go()

    def clear(self) -> None:
        """Forget everything: it was of another record."""
        self.index.clear()
        self.coverage = Coverage()
        self._recent_marks.clear()
        self._order.clear()
        self._kept.clear()
        self.begins = {}
        self.published_through = self.forgotten_through = 0

    # --- taking in

    def publish(self, changes: Iterable[Projection], *, to_listeners: bool = True) -> None:
        """Apply events in the order of the stream. Those that are new go to the listeners, if wanted."""
        for change in changes:
            self.index.apply(change)
            if change.seq <= self.published_through:
                continue
            self.published_through = change.seq
            if isinstance(change.event, StatusChanged):
                self.last_change = change.at
            self._remember(change)
            news = LiveEvent(change.seq, change.row)
            self._kept.append(news)
            for listener in self._listeners if to_listeners else ():
                listener.enqueue(news)

    def publish_heartbeats(self, heard: dict[str, Heard]) -> None:
        self.index.apply_heartbeats(heard)
        following = [it for it in self._listeners if it.heartbeats]
        if following:
            news = LiveEvent(None, {name: it.at for name, it in heard.items()})
            for listener in following:
                listener.enqueue(news)

    def _remember(self, change: Projection) -> None:
        if change.deletes:
            self._recent_marks.pop(change.name, None)
        elif not isinstance(change.event, IncidentEvent) and (
            found := mark_of(change.event, change.seq, change.at)
        ):
            self._recent_marks.setdefault(change.name, deque()).append(found)
            self._order.append((change.at, change.name, change.seq))
        while self._order and (self._order[0][0] < change.at - DAY or len(self._order) > MAX_MARKS):
            _, name, seq = self._order.popleft()
            self.forgotten_through = seq
            marks = self._recent_marks.get(name)
            while marks and marks[0].seq <= seq:
                marks.popleft()
            if not marks:
                self._recent_marks.pop(name, None)

    # --- asking

    def digest_at(
        self,
        now: datetime,
        gaps: Sequence[tuple[int, int]],
        runs: Mapping[Outcome, int],
        beside: digest.Beside = digest.NOTHING_BESIDE,
    ) -> digest.Digest:
        """What happened in the last day, as it would be sent now. `runs`: how many of that day ended how."""
        marks, begins = self._recent_marks, self.begins
        return digest.digest(self.index, marks, now, gaps=gaps, begins=begins, runs=runs, beside=beside)

    def recent_marks(self, name: str) -> Sequence[Mark]:
        """What marks the service's last day, and perhaps a bit of the time before."""
        return self._recent_marks.get(name, ())

    @property
    def kept_from(self) -> int:
        """Whoever saw this sequence or a later one can be told the rest from memory."""
        first = self._kept[0].seq if self._kept else None
        return first - 1 if first else self.published_through

    def kept_after(self, seq: int) -> list[LiveEvent]:
        return [news for news in self._kept if news.seq is not None and news.seq > seq]

    def full(self, client: str | None = None) -> bool:
        """Whether nobody may listen any more, or no stranger of this address. None: it is no stranger."""
        if len(self._listeners) >= MAX_LISTENERS:
            return True
        if client is None:
            return False
        strangers = [it.client for it in self._listeners if it.client]
        return len(strangers) >= MAX_ANONYMOUS or strangers.count(client) >= MAX_PER_CLIENT

    def let_go(self) -> None:
        """End what every listener waits for: the process is told to stop."""
        for listener in self._listeners:
            listener.let_go()

    @contextmanager
    def listening(self, client: str | None = None, *, heartbeats: bool = False) -> Iterator[Listener]:
        """A listener, who is told everything from now on; ask before whether it is `full`."""
        listener = Listener(client, heartbeats=heartbeats)
        self._listeners.add(listener)
        LISTENERS.set(len(self._listeners))
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
            LISTENERS.set(len(self._listeners))
