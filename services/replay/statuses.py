"""A service's past run through the monitor's own lifecycle, as it was configured or as it might have been.
Nothing is read or written.

The lifecycle says what follows from heartbeats and ticks, and its answer does not depend on where the ticks
fall. So each service is gone through by itself, with all that is known by now of when the registry was deaf.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from services.monitor.domain import epochs as epochs_
from services.monitor.domain import runs
from services.monitor.domain.epochs import Epoch
from services.monitor.domain.lifecycle import apply_while_paused, decide, is_quiet
from services.monitor.domain.service import (
    ALIVE,
    DOWN,
    UNKNOWN,
    Beat,
    MonitoredService,
    PausedReport,
    StatusTransition,
)
from services.monitor.state import MonitorState
from services.monitor.store.mapping import ConfigChange
from services.replay.history import FAILED, Moment
from shared.contracts.events import Signal
from shared.domain.coverage import Coverage
from shared.domain.service_state import belongs_to_this_life
from shared.domain.timetable import NEVER

Item = ConfigChange | Moment | Epoch


@dataclass
class Replayed:
    """`changes` in order. `known_since`: from when on they are what the record proves; 0: from the beginning.
    `silent`: of each moment before which heartbeats came all the time, the `silent_after` then in force, or 0
    where there was a schedule, by which each heartbeat is known."""

    changes: list[StatusTransition] = field(default_factory=list)
    known_since: int = 0
    silent: dict[int, int] = field(default_factory=dict)


class _State(MonitorState):
    """The monitor's, without what makes ticks quick."""

    def update_indexes(self, service: MonitoredService) -> None: ...

    def schedule(self, service: MonitoredService) -> None: ...


def _ignore(*_: object) -> None: ...


class LifecycleReplay:
    def __init__(
        self, coverage: Coverage, epochs: Sequence[Epoch], end: int, ticks: Sequence[tuple[int, int]] = ()
    ) -> None:
        """`end`: until when. `ticks`: of each when it was stored, and up to when it tells how services are;
        where none is given, there is one at every moment."""
        snapshots: Any = SimpleNamespace(touch=_ignore, save_everything=_ignore)
        self._state = _State(snapshots, epochs[0].default, epochs[0].time_zone)
        self._state.coverage, self._state.epochs = coverage, list(epochs)
        self._epochs, self._end, self._ticks = epochs, end, ticks
        self._service: MonitoredService | None = None
        self._out = Replayed()

    def replay(
        self,
        config: Sequence[ConfigChange],
        moments: Sequence[Moment],
        anchor: StatusTransition | None = None,
        before: Replayed | None = None,
    ) -> Replayed:
        """`anchor`: the newest change before all this. `before`: how it came out as it was recorded, where
        this is with another configuration."""
        state, self._out, self._service = self._state, Replayed(), None
        state.epoch_of = [self._epochs[0]] * len(state.epoch_of)
        try:
            for item in self._in_order(config, moments):
                if isinstance(item, Moment):
                    self._hear(item, before)
                elif isinstance(item, ConfigChange):
                    self._configure(item, anchor)
                    anchor = None
                else:
                    self._begin_epoch(item)
            if self._service:
                self._advance(self._service, max(self._end, 0))
        finally:
            self._forget()
        return self._out

    def _in_order(self, config: Sequence[ConfigChange], moments: Sequence[Moment]) -> Iterator[Item]:
        """A heartbeat is of the time before a change that was stored in the same moment, but for that which
        it has registered its service by."""
        items: list[tuple[int, int, int, Item]] = []
        for n, change in enumerate(config):
            registered = change.registered_at if change.registers else change.at
            at = min(change.at, registered)
            items.append((at, 0 if change.registers else 2, n, change))
        items += ((moment.beat.at, 1, n, moment) for n, moment in enumerate(moments))
        items += ((epoch.since, 3, n, epoch) for n, epoch in enumerate(self._epochs[1:]))
        items.sort(key=lambda item: item[:3])
        return (item for *_, item in items)

    # --- the configuration

    def _configure(self, change: ConfigChange, anchor: StatusTransition | None) -> None:
        state, service = self._state, self._service
        if service:
            self._advance(service, self._last_tick(change.at))
        if change.deletes:
            self._forget()
            return
        service = self._service = state.apply_change(change)
        if anchor:
            _begin_as(service, anchor)
        state.unclaimed.clear()
        state.undeclared.clear()
        state.unrecorded.clear()
        resumed, state.resumed = state.resumed, []
        for each in resumed:
            if each.said and each is service:
                self._decide(service, each.said)
                each.said = None

    def _forget(self) -> None:
        state, service = self._state, self._service
        if service:
            state.remove(service)
        state.unclaimed.clear()
        state.resumed.clear()
        state.put_off.clear()
        self._service = None

    def _begin_epoch(self, epoch: Epoch) -> None:
        state, service = self._state, self._service
        if service:
            self._advance(service, self._last_tick(epoch.since))
        state.epoch_of = [epoch] * len(state.epoch_of)
        if service is None:
            return
        job = service.job
        state.update_thresholds(service, epoch.since, scheduled=bool(job and job.timetable))
        if job:
            state.update_timetable(service, job, epoch.since)

    def _last_tick(self, at: int) -> int:
        """The last one before a change of the configuration, which counts from the next."""
        found = bisect_right(self._ticks, (at, NEVER))
        return self._ticks[found - 1][1] if found else 0 if self._ticks else at

    # --- heartbeats, and time

    def _hear(self, moment: Moment, before: Replayed | None) -> None:
        beat, service = moment.beat, self._service
        if service is None or not belongs_to_this_life(beat.at, service.registered_at):
            return
        if not service.last_beat < beat.at <= self._end or beat.signal is Signal.LOG:
            return
        rhythm, is_dense = service.rhythm, not moment.is_next and service.last_beat > 0
        if is_dense:
            is_dense = self._pass_over(service, moment, before)
        if service.paused:
            self._hear_paused(service, beat)
        elif _is_plain(service, beat):
            self._state.apply_heartbeat(service, beat.at, beat.signal)
        else:
            self._evaluate(service, beat)
        if is_dense:
            service.rhythm = rhythm

    def _pass_over(self, service: MonitoredService, moment: Moment, before: Replayed | None) -> bool:
        """Heartbeats came all the time until just before a moment. Whether they did: with a schedule each of
        them is known."""
        at, silent = moment.beat.at, service.patience.silent
        scheduled = bool(service.job and service.job.timetable)
        if before is None:
            self._out.silent[at] = 0 if scheduled else silent
            known = 0 if scheduled else silent
        else:
            known = before.silent.get(at, 0)
        if not known:
            return False
        if before is not None and (scheduled or silent * moment.may_pause < known):
            self._out.known_since = at  # there may have been pauses that were too short to be recorded
        if service.last_beat < at - 1:
            service.last_beat = at - 1
            if service.job and not service.paused:
                self._advance(service, at - 1)
        return True

    def _hear_paused(self, service: MonitoredService, beat: Beat) -> None:
        state = self._state
        if state.has_runs(service, beat):
            self._apply_facts(service, beat)
        if runs.declares(service, beat):
            state.use_declared(service, beat)
        apply_while_paused(service, beat)

    def _evaluate(self, service: MonitoredService, beat: Beat) -> None:
        state = self._state
        if state.has_runs(service, beat):
            if not is_quiet(service, beat.at):
                self._advance(service, beat.at)
            self._apply_facts(service, beat)
        self._decide(service, beat)
        if runs.declares(service, beat):
            state.use_declared(service, beat)
        state.apply_beat(service, beat)

    def _apply_facts(self, service: MonitoredService, beat: Beat) -> None:
        while fact := runs.beat_fact(service, beat, self._state.coverage):
            runs.apply_fact(service, fact)

    def _advance(self, service: MonitoredService, upto: int) -> None:
        """Nothing more was heard until then."""
        if service.job and is_quiet(service, upto):
            return
        while service.job and (fact := runs.due_fact(service, upto, self._state.coverage)):
            runs.apply_fact(service, fact)
        self._decide(service, upto)

    def _decide(self, service: MonitoredService, fact: Beat | PausedReport | int) -> None:
        coverage = self._state.coverage
        while transition := next(decide(service, fact, coverage), None):
            self._out.changes.append(transition._replace(reason="", message=None, trace=None))
            self._state.apply_transition(service, transition)


def _begin_as(service: MonitoredService, anchor: StatusTransition) -> None:
    """As it was by a change. What silence leads to is left to the lifecycle: its thresholds may be others."""
    if not belongs_to_this_life(anchor.since, service.registered_at, anchor.from_):
        return
    last = min(anchor.last_beat or anchor.since, anchor.since)
    failed = anchor.reason.startswith(FAILED)
    service.last_beat = last
    service.status, service.since = (DOWN, anchor.since) if failed else (ALIVE, last)
    if anchor.to is UNKNOWN:
        service.status, service.since = UNKNOWN, service.registered_at
    runs.expect_from(service, last)


def _is_plain(service: MonitoredService, beat: Beat) -> bool:
    """As in the monitor: it moves nothing but the time of the last heartbeat."""
    if service.status is not ALIVE or service.job or beat.signal is not Signal.SUCCESS:
        return False
    return beat.at < service.last_beat + service.patience.silent and not runs.declares(service, beat)


def epochs_of(default: Any, time_zone: str) -> list[Epoch]:
    """Where nobody says what the defaults were before, those of now held always."""
    return epochs_.first(default, time_zone)
