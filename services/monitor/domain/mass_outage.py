"""Finds out whether most services that sent heartbeats regularly stopped at the same time: then it may be the
registry that is cut off from them. Pure."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from itertools import accumulate

from services.monitor.domain.service import SECOND, MonitoredService
from shared.contracts.events import Doubt

REGULAR = 5
"""Heartbeats in a row from which on a service counts as regular: a few that somebody sent by hand do not."""


class CadenceIndex:
    """How many services send heartbeats regularly, by the second from which on each is late without another.
    Updated with each heartbeat, so that the number of those that stopped together is known at once."""

    def __init__(self) -> None:
        self.counts: defaultdict[int, int] = defaultdict(int)

    def update(self, service: MonitoredService) -> None:
        """Count a service again, after a heartbeat or a change of its configuration."""
        rhythm, silent = service.rhythm, service.patience.silent
        regular = 0 < rhythm <= silent and service.in_a_row >= REGULAR and not service.paused
        until = service.last_beat + min(max(2 * rhythm, rhythm + SECOND), silent)
        self._move(service, until // SECOND if regular else 0)

    def remove(self, service: MonitoredService) -> None:
        self._move(service, 0)

    def _move(self, service: MonitoredService, second: int) -> None:
        if second == service.quiet:
            return
        if service.quiet:
            self.counts[service.quiet] -= 1
            if not self.counts[service.quiet]:
                del self.counts[service.quiet]
        if second:
            self.counts[second] += 1
        service.quiet = second


class MassOutageDetector:
    """The cadence index at one moment: all transitions of a tick are compared with the same numbers."""

    FEWEST = 5
    """Services that must have stopped together before they count as a mass outage."""
    TOGETHER = 5
    """Services that stopped within so many seconds, or their longer rhythm, stopped together."""

    def __init__(self, cadence: CadenceIndex, now: int) -> None:
        self._now = now // SECOND
        self._seconds = sorted(cadence.counts)
        self._sums = [0, *accumulate(cadence.counts[second] for second in self._seconds)]

    def outage_of(self, service: MonitoredService) -> Doubt | None:
        """The outage that this service is part of, if most regular services stopped when it did."""
        if not service.quiet:
            return None
        window = max(self.TOGETHER, service.rhythm // SECOND)
        first = bisect_left(self._seconds, service.quiet - window)
        last = bisect_right(self._seconds, min(service.quiet + window, self._now))
        stopped = self._sums[last] - self._sums[first]
        of = self._sums[-1] - self._sums[first]
        if stopped < self.FEWEST or 2 * stopped <= of:
            return None
        return Doubt(stopped=stopped, of=of, within=max(1, self._seconds[last - 1] - self._seconds[first]))
