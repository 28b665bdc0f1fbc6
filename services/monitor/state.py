"""All services in memory, with what is counted and scheduled of them."""

import gc
from collections.abc import Iterable

from services.monitor.domain import buckets
from services.monitor.domain.deadlines import DeadlineQueue
from services.monitor.domain.lifecycle import apply_heartbeat, apply_transition
from services.monitor.domain.mass_outage import CadenceIndex
from services.monitor.domain.service import MonitoredService, StatusTransition
from services.monitor.store.snapshots import Snapshots
from shared.contracts.events import Signal, Status
from shared.domain.coverage import Coverage
from shared.domain.service_state import belongs_to_this_life

MANY = 10_000
"""Services from which on the garbage collector does not look at them any more."""


class MonitorState:
    def __init__(self, snapshots: Snapshots) -> None:
        self.snapshots = snapshots
        self.services: dict[str, MonitoredService] = {}
        self.buckets: list[dict[str, MonitoredService]] = [{} for _ in range(buckets.BUCKETS)]
        self.coverage = Coverage()
        self.cadence = CadenceIndex()
        self.counts = dict.fromkeys(Status, 0)
        self.unclaimed: dict[str, tuple[int, StatusTransition]] = {}
        """The newest recorded transition of services that are not registered (yet), and its sequence."""
        self._deadlines = DeadlineQueue()

    def add(self, service: MonitoredService) -> None:
        self.services[service.name] = service
        self.buckets[service.bucket][service.name] = service
        self.counts[service.status] += 1

    def remove(self, service: MonitoredService) -> None:
        del self.services[service.name]
        del self.buckets[service.bucket][service.name]
        self.counts[service.status] -= 1
        self._deadlines.remove(service)
        self.cadence.remove(service)

    def restore(self, services: Iterable[MonitoredService], coverage: Coverage) -> None:
        """Begin with what a snapshot holds."""
        self.coverage = coverage
        self._deadlines = DeadlineQueue(coverage.until)
        for service in services:
            self.add(service)
            self.update_indexes(service)
        if len(self.services) > MANY:
            gc.freeze()  # they are here to stay: going through them again and again takes seconds

    def update_indexes(self, service: MonitoredService) -> None:
        """Count and schedule a service again, after a change of its configuration."""
        self.cadence.update(service)
        self.schedule(service)

    def schedule(self, service: MonitoredService) -> None:
        self._deadlines.schedule(service, self.coverage)

    def overdue(self, at: int) -> list[MonitoredService]:
        return self._deadlines.overdue(at, self.coverage)

    def prove(self, start: int, end: int) -> None:
        """A tick has proved that the registry was listening in this time."""
        if self.coverage.prove(start, end):
            for service in self.services.values():
                self.schedule(service)

    def apply_heartbeat(self, service: MonitoredService, at: int, signal: Signal) -> None:
        apply_heartbeat(service, at, signal)
        self.cadence.update(service)
        if not service.scheduled:  # its first heartbeat
            self.schedule(service)

    def apply_transition(self, service: MonitoredService, transition: StatusTransition) -> None:
        """`status_seq` of the service is that of the transition already."""
        self.counts[service.status] -= 1
        apply_transition(service, transition)
        self.counts[service.status] += 1
        self.snapshots.touch(service.bucket, service.status_seq)

    def apply_recorded(self, service: MonitoredService, transition: StatusTransition) -> None:
        """Apply a transition that another monitor recorded, unless it is from before the registration."""
        if belongs_to_this_life(transition.since, service.registered_at, transition.from_):
            self.apply_transition(service, transition)
            self.schedule(service)
