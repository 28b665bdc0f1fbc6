"""What a change means to people who have been told of others before: flapping, and reminders. Pure.

A turn is a change of direction: a fall after a rise, or the other way round. A service that falls further,
silent → down → dead, takes no turn.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from services.notifier.fleet import Fleet
from shared.events import Status, StatusChanged
from shared.maintenance import Window

TURNS = 4
"""That many turns within HOUR are flapping."""
HOUR = timedelta(hours=1)
CALM = timedelta(minutes=30)
"""Without a change for that long a service flaps no more."""
MOST_REMEMBERED = 32
"""Changes per service whose meaning is known, for chats that are behind."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """Of one change. `told`: people hear of it. `flaps`: with it the service is flapping; its turns."""

    told: bool = True
    flaps: int = 0


@dataclass(slots=True)
class _Recent:
    """What one service did lately."""

    up: bool
    last: datetime
    turns: deque[datetime] = field(default_factory=lambda: deque(maxlen=TURNS))
    flapping_since: datetime | None = None
    changes: int = 0
    """Since it flaps."""
    meanings: deque[tuple[int, Meaning]] = field(default_factory=lambda: deque(maxlen=MOST_REMEMBERED))


@dataclass(frozen=True, slots=True, order=True)
class Notice:
    """Something to tell because of the time: a service is still down, or has calmed down. `seq`, `status`,
    `since`: of the change that it is about. `flapped`: how many changes it made while it flapped; 0: it is a
    reminder."""

    at: datetime
    name: str
    seq: int
    status: Status
    since: datetime
    flapped: int = 0


class Incidents:
    """Fed with every change of status in order; a change that was there before means what it meant then."""

    def __init__(
        self,
        fleet: Fleet,
        reminders: tuple[timedelta, ...],
        hushed_until: Callable[[str, datetime], datetime | None] = lambda name, at: None,
    ) -> None:
        """`reminders`: when to remind that a service is down, counted from when it fell; the last repeats.
        `hushed_until`: when the maintenance of a service ends that there is at a moment, if there is any."""
        self._fleet = fleet
        self._hushed_until = hushed_until
        self._reminders = reminders
        self._recent: dict[str, _Recent] = {}
        self._coming: list[Notice] = []
        self._there: set[Notice] = set()
        """The same without those that were taken back."""

    def take(self, event: StatusChanged, seq: int) -> Meaning:
        data = event.data
        if data.from_ is Status.UNKNOWN:
            self._recent.pop(event.name, None)
            return Meaning()
        it = self._recent.get(event.name)
        if it is None:
            it = self._recent[event.name] = _Recent(data.from_ is Status.ALIVE, data.since)
        if it.meanings and seq <= it.meanings[-1][0]:
            return next((meaning for at, meaning in it.meanings if at == seq), Meaning())
        meaning = self._judge(it, event)
        it.meanings.append((seq, meaning))
        it.last = data.since
        if it.flapping_since:
            self._add(Notice(data.since + CALM, event.name, seq, data.to, data.since, it.changes))
        return meaning

    def _judge(self, it: _Recent, event: StatusChanged) -> Meaning:
        since, up = event.data.since, event.data.to is Status.ALIVE
        if it.flapping_since and since - it.last >= CALM:
            it.flapping_since = None
            it.turns.clear()
        turned, it.up = up != it.up, up
        if turned:
            it.turns.append(since)
        if it.flapping_since:
            it.changes += 1
            return Meaning(told=False)
        if turned and len(it.turns) == TURNS and since - it.turns[0] <= HOUR:
            it.flapping_since, it.changes = since, TURNS
            return Meaning(flaps=TURNS)
        return Meaning()

    def watch(self, name: str, after: datetime) -> None:
        """If a service is down, remind of it, beginning with what comes next after `after`. A fall within
        maintenance was not told: it is when that ends, if nothing has changed."""
        it = self._fleet.known(name)
        if it.status in (Status.DOWN, Status.DEAD):
            end = self._hushed_until(name, it.since)
            if end and end > after:
                self._add(Notice(end, name, it.status_seq, it.status, it.since))
        if it.status is Status.DOWN and (at := self._next_reminder(it.since, after)):
            self._add(Notice(at, name, it.status_seq, it.status, it.since))

    def _next_reminder(self, since: datetime, after: datetime) -> datetime | None:
        if not self._reminders:
            return None
        *once, last = self._reminders
        repeats = max(1, (after - since) // last + 1)
        return min(at for it in (*once, repeats * last) if (at := since + it) > after)

    def freed(self, window: Window, now: datetime) -> None:
        """A window is no more, or no more the same: what fell within it is told when nothing else keeps it
        quiet, be that now, and not when the window would have ended."""
        for name in self._fleet:
            it = self._fleet.known(name)
            if it.status not in (Status.DOWN, Status.DEAD) or not window.is_about(name, it.tags):
                continue
            span = window.current(it.since)
            if span and span[1] > now:
                notice = Notice(span[1], name, it.status_seq, it.status, it.since)
                self._there.discard(notice)
                end = self._hushed_until(name, it.since)
                self._add(replace(notice, at=max(end or now, now)))

    def _add(self, notice: Notice) -> None:
        if notice not in self._there:
            self._there.add(notice)
            heapq.heappush(self._coming, notice)

    def due(self, now: datetime) -> Iterator[Notice]:
        """What is to be told by now, if it still holds; of several reminders of one service the newest."""
        while self._coming and self._coming[0].at <= now:
            notice = heapq.heappop(self._coming)
            if notice not in self._there:
                continue  # taken back
            self._there.discard(notice)
            if not self.holds(notice):
                continue
            if end := self._hushed_until(notice.name, notice.at):
                self._add(replace(notice, at=end))
                continue
            while not notice.flapped and (following := self._next_reminder(notice.since, notice.at)):
                if following > now:
                    self._add(replace(notice, at=following))
                    break
                notice = replace(notice, at=following)
            yield notice

    def holds(self, notice: Notice) -> bool:
        """Whether nothing has happened since that makes it pointless."""
        it = self._fleet.known(notice.name)
        return it.is_told and it.status_seq == notice.seq and it.since >= it.registered_at

    def forget(self, before: datetime) -> None:
        """Let go of services that have not changed since."""
        for name in [name for name, it in self._recent.items() if it.last < before]:
            del self._recent[name]
