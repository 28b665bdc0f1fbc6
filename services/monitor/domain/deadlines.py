"""Which services a tick has to check: those with a transition that may be due, not all there are. Pure.

A service is kept under the second in which its next transition may be due. A heartbeat does not move it: when
that second comes and a heartbeat has come meanwhile, the service is put under a later second.
"""

from collections import defaultdict

from services.monitor.domain.buckets import BUCKETS
from services.monitor.domain.lifecycle import next_due
from services.monitor.domain.runs import quiet_until
from services.monitor.domain.service import ALIVE, SECOND, MonitoredService
from shared.domain.coverage import Coverage
from shared.domain.timetable import NEVER

AHEAD = 60
"""Deadlines that are further away than so many seconds are spread over the second half of that time, so that
a tick does not have to check all services at once."""


class DeadlineQueue:
    def __init__(self, at: int = 0) -> None:
        """`at`: the microsecond from which on deadlines are checked; 0: that of the first check."""
        self._due: defaultdict[int, list[MonitoredService]] = defaultdict(list)
        self._now = at // SECOND

    def schedule(self, service: MonitoredService, coverage: Coverage) -> None:
        """Have a service checked in the second in which its next transition is due, or before."""
        at = _next_due(service, coverage, self._now * SECOND)
        if at is None:
            service.scheduled = 0
        else:
            self._schedule(service, at)

    def remove(self, service: MonitoredService) -> None:
        service.scheduled = 0

    def overdue(self, at: int, coverage: Coverage) -> list[MonitoredService]:
        """The services with a transition that is due; they are to be scheduled again when it is recorded."""
        now = at // SECOND
        if not self._now:
            self._now = min(now, min(self._due, default=now))
        span = range(self._now, now + 1)
        seconds = span if len(span) < len(self._due) else sorted(s for s in self._due if s <= now)
        checked = [(second, service) for second in seconds for service in self._due.pop(second, ())]
        self._now = max(self._now, now)
        overdue, due = [], self._due
        for second, service in checked:
            if service.scheduled != second:  # scheduled for another second since, or checked a moment ago
                continue
            soonest = service.last_beat + service.patience.silent
            is_plain = service.status is ALIVE and not service.paused and service.job is None
            if soonest > at and is_plain:  # nearly always
                later = soonest // SECOND
                service.scheduled = later - _spread(later - now, service.bucket)
                due[service.scheduled].append(service)
                continue
            service.scheduled = 0
            next_at = _next_due(service, coverage, at)
            if next_at is not None and next_at <= at:
                overdue.append(service)
            elif next_at is not None:
                self._schedule(service, next_at)
        return overdue

    def _schedule(self, service: MonitoredService, at: int) -> None:
        second = max(at // SECOND, self._now)
        if not service.scheduled or not self._now <= service.scheduled <= second:
            service.scheduled = second - _spread(second - self._now, service.bucket) if self._now else second
            self._due[service.scheduled].append(service)


def _next_due(service: MonitoredService, coverage: Coverage, now: int) -> int | None:
    """When something may be due next; it is reckoned only where that is not known to be later than `now`."""
    known = quiet_until(service)
    at = known if known > now else next_due(service, coverage)
    if service.job:
        service.job.next_at = NEVER if at is None else at
    return at


def _spread(ahead: int, bucket: int) -> int:
    return ahead * bucket // (2 * BUCKETS) if ahead > AHEAD else 0
