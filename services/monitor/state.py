"""All services in memory, as their configuration wants them, with what is counted and scheduled of them. The
configuration is applied in the order in which it was stored among the heartbeats."""

import gc
from collections import deque

import structlog

from services.monitor.domain import buckets, epochs, gaps, lifecycle, runs
from services.monitor.domain.deadlines import DeadlineQueue
from services.monitor.domain.epochs import Epoch
from services.monitor.domain.mass_outage import CadenceIndex
from services.monitor.domain.service import (
    UNKNOWN,
    Beat,
    EffectiveThresholds,
    Gap,
    Job,
    MonitoredService,
    RunFact,
    StatusTransition,
)
from services.monitor.store import mapping
from services.monitor.store.event_store import EventStore
from services.monitor.store.mapping import ConfigChange
from services.monitor.store.snapshots import LoadedSnapshot, Snapshots
from shared.contracts.events import Signal, Status
from shared.domain.coverage import Coverage
from shared.domain.service_state import belongs_to_this_life
from shared.domain.timetable import EARLY, NEVER, Timetable
from shared.messaging import streams

log = structlog.get_logger()

MANY = 10_000
"""Services from which on the garbage collector does not look at them any more."""


class MonitorState:
    def __init__(self, snapshots: Snapshots, default: EffectiveThresholds, time_zone: str = "UTC") -> None:
        """`default`, `time_zone`: what the registry uses where a service has none of its own."""
        self.snapshots = snapshots
        self.services: dict[str, MonitoredService] = {}
        self.buckets: list[dict[str, MonitoredService]] = [{} for _ in range(buckets.BUCKETS)]
        self.coverage = Coverage()
        self.cadence = CadenceIndex()
        self.counts = dict.fromkeys(Status, 0)
        self.unclaimed: dict[str, tuple[int, StatusTransition]] = {}
        """The newest recorded transition of services that are not registered (yet), and its sequence."""
        self._deadlines = DeadlineQueue()
        self._default = default
        self._time_zone = time_zone
        self.upcoming: deque[ConfigChange] = deque()
        """Changes that were read, and are newer than the heartbeats that were."""
        self.upcoming_of: dict[str, deque[ConfigChange]] = {}
        """The same by service."""
        self.put_off: dict[str, deque[ConfigChange]] = {}
        """By service: changes that are newer than heartbeats of it that wait for a tick."""
        self.epochs = epochs.first(default, time_zone)
        self.epoch_of = self.epochs * buckets.BUCKETS
        """The epoch whose default thresholds the services of each bucket use."""
        self.upcoming_epochs: deque[Epoch] = deque()
        """Those that begin after the heartbeats that were read."""
        self.resumed: list[MonitoredService] = []
        """Services whose pause is over; what was reported during it is to be evaluated."""
        self.undeclared: list[tuple[MonitoredService, Beat]] = []
        """Heartbeats that declare what is to be recorded."""
        self.unrecorded: deque[tuple[MonitoredService, RunFact | Gap]] = deque()
        """Facts about runs that are applied, and gaps, to be recorded."""

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

    def restore(self, found: LoadedSnapshot) -> None:
        """Begin with what a snapshot holds."""
        self.epoch_of = [epochs.at(self.epochs, since) for since in found.epochs]
        oldest = min(epoch.since for epoch in self.epoch_of)
        self.upcoming_epochs.extend(epoch for epoch in self.epochs if epoch.since > oldest)
        self.coverage = found.coverage
        self._deadlines = DeadlineQueue(found.coverage.until)
        for service in found.services:
            self.add(service)
            self.update_indexes(service)
            if service.said and service.said.resumed_at:
                self.resumed.append(service)
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
        lifecycle.apply_heartbeat(service, at, signal)
        self.cadence.update(service)
        if not service.scheduled:  # its first heartbeat
            self.schedule(service)

    def has_runs(self, service: MonitoredService, beat: Beat) -> bool:
        """Whether runs are kept of a service. They are from its first start on."""
        if service.job is None and beat.signal is Signal.START:
            service.job = Job(self.epoch_of[service.bucket].time_zone)
        return service.job is not None

    def apply_beat(self, service: MonitoredService, beat: Beat) -> None:
        runs.apply_beat(service, beat)
        self.apply_heartbeat(service, beat.at, beat.signal)

    def apply_transition(self, service: MonitoredService, transition: StatusTransition) -> None:
        """`status_seq` of the service is that of the transition already."""
        self.counts[service.status] -= 1
        lifecycle.apply_transition(service, transition)
        self.counts[service.status] += 1
        self.snapshots.touch(service.bucket, service.status_seq)

    def apply_recorded(self, service: MonitoredService, transition: StatusTransition) -> None:
        """Apply a transition that another monitor recorded, unless it is from before the registration."""
        if belongs_to_this_life(transition.since, service.registered_at, transition.from_):
            self.apply_transition(service, transition)
            self.schedule(service)

    # --- the configuration

    def enqueue(self, change: ConfigChange) -> None:
        if change.seq <= self.snapshots.configured[buckets.bucket_of(change.name)]:
            return  # a service that it registered may be deleted in its bucket already, and must stay so
        self.upcoming.append(change)
        self.upcoming_of.setdefault(change.name, deque()).append(change)

    def applied_until(self, events_read: int) -> int:
        """The event up to which everything that was read has been applied."""
        waiting = [self.upcoming, *self.put_off.values()] if self.upcoming else self.put_off.values()
        return min((changes[0].seq - 1 for changes in waiting), default=events_read)

    def apply_until(self, at: int) -> None:
        """Apply the configuration that was stored before `at`, and the default thresholds of that time."""
        while self.upcoming and self.upcoming[0].at < at:
            change = self.upcoming.popleft()
            self._begin_epochs(change.at)
            rest = self.upcoming_of[change.name]
            rest.popleft()
            if not rest:
                del self.upcoming_of[change.name]
            service = self.services.get(change.name)
            if service is not None and change.seq <= service.config_seq:
                continue
            if service is not None and service.held and not self._ends_waiting(service, change):
                self.put_off.setdefault(change.name, deque()).append(change)
                continue
            if not change.deletes:
                self.apply_change(change)
            elif service is not None:
                self._remove(service, change)
        self._begin_epochs(at)

    @staticmethod
    def _ends_waiting(service: MonitoredService, change: ConfigChange) -> bool:
        """Whether heartbeats that wait for a tick are not evaluated any more after this change."""
        registers_anew = change.registers and change.registered_at > service.registered_at
        return change.deletes or registers_anew or change.paused

    def apply_put_off(self, service: MonitoredService, until: int = NEVER) -> None:
        """Apply the changes before `until` that have waited behind heartbeats of the service."""
        changes = self.put_off.get(service.name)
        while changes and changes[0].at < until:
            self.apply_change(changes.popleft())
        if changes is not None and not changes:
            del self.put_off[service.name]

    def apply_change(self, change: ConfigChange) -> MonitoredService:
        """The service as the configuration wants it, with what is already known of it."""
        service = self.services.get(change.name)
        if service and change.registers and change.registered_at > service.registered_at:
            self._remove(service, change)
            service = None
        if service and change.paused:
            for earlier in self.put_off.pop(change.name, ()):
                self._count_held(service, earlier.at)
                self.apply_change(earlier)
        is_new = service is None
        if service is None:
            service = self._new_service(change)
        service.config_seq = change.seq
        service.own, service.inherited = change.own, change.inherited
        declared = service.job.declared if service.job else ("", "")
        if change.by_hand or service.by_hand or change.declared_at >= (service.every_at or 1):
            service.every, service.every_at = change.every, change.declared_at or change.at
            service.by_hand, declared = change.by_hand, (change.schedule, change.time_zone)
        elif not declared[0]:  # the zone of the schedule that is yet to be declared
            declared = "", change.time_zone
        if is_new:
            service.patience = self.thresholds_of(service, scheduled=bool(declared[0]))
        else:
            scheduled, max_run = bool(declared[0]), change.max_run
            self.update_thresholds(service, change.at, scheduled=scheduled, max_run=max_run)
        self._update_job(service, declared, change, change.registered_at if is_new else change.at)
        self._pause_or_resume(service, change)
        self.snapshots.touch(service.bucket, service.config_seq)
        self.update_indexes(service)
        return service

    def _new_service(self, change: ConfigChange) -> MonitoredService:
        bucket = buckets.bucket_of(change.name)
        default = self.epoch_of[bucket].default
        service = MonitoredService(change.name, change.registered_at, default, bucket=bucket)
        self.add(service)
        if claim := self.unclaimed.pop(service.name, None):
            service.status_seq, transition = claim
            self.apply_recorded(service, transition)
        return service

    def _pause_or_resume(self, service: MonitoredService, change: ConfigChange) -> None:
        if change.resumes or (service.paused and not change.paused):
            lifecycle.resume(service, change.at, max(change.at, epochs.bounded_since(self.epochs)))
            if service.said:
                self.resumed.append(service)
        service.paused = change.paused
        if service.paused:
            self._count_held(service)

    def _count_held(self, service: MonitoredService, until: int = NEVER) -> None:
        """Heartbeats before `until` waited for a tick, and are not evaluated any more: a pause began."""
        held = service.held
        service.held = tuple(beat for beat in held if beat.at >= until)
        for beat in held:
            if service.last_beat < beat.at < until:
                if gap := gaps.gap_before(service, beat):
                    self.unrecorded.append((service, gap))
                while self.has_runs(service, beat) and (fact := runs.beat_fact(service, beat, self.coverage)):
                    runs.apply_fact(service, fact)
                    self.unrecorded.append((service, fact))
                if runs.declares(service, beat):
                    self.use_declared(service, beat)
                    self.undeclared.append((service, beat))
                lifecycle.apply_while_paused(service, beat)

    def use_declared(self, service: MonitoredService, beat: Beat) -> None:
        """Use the interval or the schedule that a heartbeat declares."""
        service.every, service.every_at = beat.every, beat.at
        if service.job:  # its runs go on, and are not to become overdue for the past
            recorded = service.recorded_beat
            if recorded == beat.at:  # by the transition that it has just led to
                service.recorded_beat = service.last_beat
            self.update_thresholds(service, beat.at, scheduled=bool(beat.schedule))
            service.recorded_beat = recorded
        service.patience = self.thresholds_of(service, scheduled=bool(beat.schedule))
        if beat.schedule or beat.limits or service.job:
            job = service.job = service.job or Job()
            job.declared, job.limits_heard = runs.declared_by(beat, job), beat.limits
            self.update_timetable(service, job, beat.at)

    def _update_job(
        self, service: MonitoredService, declared: tuple[str, str], change: ConfigChange, at: int
    ) -> None:
        if not (declared[0] or service.job or change.has_job):
            return
        job = service.job = service.job or Job()
        job.declared, job.early, job.limits_heard = declared, change.early, None
        job.max_run, job.notify_unusual = change.max_run, change.notify_unusual
        job.fail_after, job.recover_after = change.fail_after, change.recover_after
        self.update_timetable(service, job, at)

    def update_timetable(self, service: MonitoredService, job: Job, at: int) -> None:
        """Another schedule or zone may hold from `at` on. Nothing is expected of the time before."""
        schedule, time_zone = job.declared
        job.time_zone = time_zone or self.epoch_of[service.bucket].time_zone
        timetable = Timetable(schedule, job.time_zone, job.early or EARLY) if schedule else None
        before, job.timetable = job.timetable, timetable
        if not timetable or not before or timetable.is_another(before):
            job.offsets = ()
            runs.expect_from(service, at)

    def _remove(self, service: MonitoredService, change: ConfigChange) -> None:
        self.remove(service)
        self.put_off.pop(service.name, None)
        self.snapshots.touch(service.bucket, change.seq)
        if service.status_seq:  # an event from after the deletion, if it was read, is of the next service
            ended = change.at if change.deletes else change.registered_at - 1
            from_ = UNKNOWN if service.since > ended else service.status
            newest = StatusTransition(from_, service.status, service.since, service.recorded_beat, "")
            self.unclaimed[service.name] = service.status_seq, newest

    # --- thresholds, and the epochs of the registry's defaults

    def thresholds_of(self, service: MonitoredService, *, scheduled: bool) -> EffectiveThresholds:
        epoch = self.epoch_of[service.bucket]
        return mapping.effective_thresholds(service.own, service.every, epoch, scheduled, service.inherited)

    def update_thresholds(
        self, service: MonitoredService, at: int, *, scheduled: bool, max_run: int | None = None
    ) -> None:
        """The thresholds of a service, and how long its runs may take, may be different from `at` on, or
        count from other moments. `max_run`: the configured one, if that may be another."""
        patience, limit = self.thresholds_of(service, scheduled=scheduled), runs.limit(service)
        was_scheduled = bool(service.job and service.job.timetable)
        is_another = patience != service.patience or scheduled != was_scheduled
        if is_another:
            lifecycle.change_thresholds(service, patience, at, self.coverage.gaps)
        if service.job and max_run is not None:
            service.job.max_run = max_run
        runs.change_limit(service, limit, at, self.coverage.gaps)
        if is_another:
            self.update_indexes(service)

    def _begin_epochs(self, at: int) -> None:
        """Use other default thresholds for all services, if they begin before `at`."""
        while self.upcoming_epochs and self.upcoming_epochs[0].since < at:
            epoch = self.upcoming_epochs.popleft()
            for n, bucket in enumerate(self.buckets):
                if self.epoch_of[n].since < epoch.since:
                    self.epoch_of[n] = epoch
                    for service in bucket.values():
                        job = service.job
                        self.update_thresholds(service, epoch.since, scheduled=bool(job and job.timetable))
                        if job:
                            self.update_timetable(service, job, epoch.since)
                            self.update_indexes(service)
            self.snapshots.save_everything()

    async def load_epochs(self, event_store: EventStore) -> None:
        """Which defaults were used from when on, with ours from now on if they are different. If two monitors
        store that at the same time, the first one decides for both."""
        while True:
            payload, version = await event_store.load_versioned(epochs.KEY)
            known = None
            try:
                known = epochs.load(payload) if payload else None
            except ValueError as error:
                log.warning("which defaults held before cannot be read", why=str(error))
            last_event, now = await event_store.end(streams.SERVICES)
            if known and not await self.snapshots.are_before_epochs():
                found = epochs.continued(known, self._default, now, self._time_zone)
            elif last_event:
                found = epochs.upgraded(self._default, now, self._time_zone)
            else:
                found = epochs.first(self._default, self._time_zone)
            if found == known or await event_store.replace(epochs.KEY, epochs.dump(found), version):
                self.epochs = found
                return
