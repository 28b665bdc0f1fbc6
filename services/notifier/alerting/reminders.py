"""Reminders that services are down: when each comes due. Pure."""

import heapq
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from services.notifier.alerting.changes import Notice
from services.notifier.alerting.policy import next_reminder
from services.notifier.states import ServiceStates
from shared.contracts.events import Status, moment


class Reminders:
    """Told of every fall by `watch`, in any order, also twice."""

    def __init__(self, states: ServiceStates, after: tuple[timedelta, ...]) -> None:
        """`after`: when to remind that a service is down, counted from when it fell; the last repeats."""
        self._states = states
        self.after = after
        self._queue: list[Notice] = []
        self._queued: set[Notice] = set()

    def watch(self, name: str, after: datetime) -> None:
        """If a service is down, remind of it, beginning with what comes next after `after`."""
        it = self._states.get(name)
        since = moment(it.since)
        if it.status is Status.DOWN and (at := next_reminder(self.after, since, after)):
            self._add(Notice(at, name, it.status_seq, it.status, since))

    def _add(self, notice: Notice) -> None:
        if notice not in self._queued:
            self._queued.add(notice)
            heapq.heappush(self._queue, notice)

    def due(self, now: datetime) -> Iterator[Notice]:
        """Reminders that are due by now and still hold; of several of one service the newest."""
        while self._queue and self._queue[0].at <= now:
            notice = heapq.heappop(self._queue)
            self._queued.discard(notice)
            if not self.is_current(notice):
                continue
            while following := next_reminder(self.after, notice.since, notice.at):
                if following > now:
                    self._add(replace(notice, at=following))
                    break
                notice = replace(notice, at=following)
            yield notice

    def is_current(self, notice: Notice) -> bool:
        """Whether nothing has happened since that makes it pointless."""
        it = self._states.get(notice.name)
        return it.exists and it.status_seq == notice.seq and it.status is not Status.UNKNOWN
