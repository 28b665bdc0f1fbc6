"""Which services are to be looked at when, so that a tick costs what may be due and not what there is. Pure.

Services stand under the second at which their next fall may be due. A heartbeat moves none of them: who is
found to have beaten since is noted down anew.
"""

from collections import defaultdict

from services.monitor.domain.lifecycle import ALIVE, SECOND, MonitoredService, next_due
from services.monitor.store.mapping import BUCKETS
from shared.domain.coverage import Coverage

AHEAD = 60
"""Seconds from which on looks are spread, over the second half of the time until they are needed."""


class DeadlineQueue:
    def __init__(self, at: int = 0) -> None:
        """`at`: the moment from which on it is looked, in microseconds; 0: the first look's."""
        self._due: defaultdict[int, list[MonitoredService]] = defaultdict(list)
        self._now = at // SECOND

    def note(self, it: MonitoredService, coverage: Coverage) -> None:
        """See to it that a service is looked at in the second its next fall is due, or before."""
        at = next_due(it, coverage)
        if at is None:
            it.scheduled = 0
        else:
            self._note(it, at)

    def drop(self, it: MonitoredService) -> None:
        it.scheduled = 0

    def overdue(self, at: int, coverage: Coverage) -> list[MonitoredService]:
        """Those with a fall due, to be noted anew when it is recorded."""
        now = at // SECOND
        if not self._now:
            self._now = min(now, min(self._due, default=now))
        span = range(self._now, now + 1)
        seconds = span if len(span) < len(self._due) else sorted(s for s in self._due if s <= now)
        looked = [(second, it) for second in seconds for it in self._due.pop(second, ())]
        self._now = max(self._now, now)
        fallen, due = [], self._due
        for second, it in looked:
            if it.scheduled != second:  # noted for another second since, or looked at a moment ago
                continue
            soonest = it.last_beat + it.patience.silent
            if soonest > at and it.status is ALIVE and not it.paused:  # nearly always
                later = soonest // SECOND
                it.scheduled = later - _spread(later - now, it.bucket)
                due[it.scheduled].append(it)
                continue
            it.scheduled = 0
            overdue_transitions = next_due(it, coverage)
            if overdue_transitions is not None and overdue_transitions <= at:
                fallen.append(it)
            elif overdue_transitions is not None:
                self._note(it, overdue_transitions)
        return fallen

    def _note(self, it: MonitoredService, at: int) -> None:
        second = max(at // SECOND, self._now)
        if not it.scheduled or not self._now <= it.scheduled <= second:
            it.scheduled = second - _spread(second - self._now, it.bucket) if self._now else second
            self._due[it.scheduled].append(it)


def _spread(ahead: int, bucket: int) -> int:
    return ahead * bucket // (2 * BUCKETS) if ahead > AHEAD else 0
