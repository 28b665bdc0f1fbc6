"""Evaluates heartbeats and ticks: asks the lifecycle what follows from them, and has that recorded. If
another monitor was first, its event is applied, and the lifecycle is asked again."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from itertools import islice
from typing import TypeVar

from services.monitor.domain import gaps, runs
from services.monitor.domain.lifecycle import apply_while_paused, decidable, decide, is_quiet, next_due
from services.monitor.domain.mass_outage import MassOutageDetector
from services.monitor.domain.service import Beat, Gap, MonitoredService, PausedReport
from services.monitor.record import Recorder
from services.monitor.state import MonitorState
from services.monitor.store.event_store import EventStore
from shared.contracts.events import FOUND_BY_HEADER, SOURCE_HEADER, Signal
from shared.domain.service_state import belongs_to_this_life
from shared.messaging.connection import retry_until_done
from shared.messaging.reader import Stored

MAX_HELD = 100
"""Late heartbeats kept per service until a tick comes; without ticks nothing is evaluated anyway."""
MAX_CONCURRENT = 1000
"""Services that are evaluated at once, each waiting for the broker, however many there are to evaluate."""
T = TypeVar("T")
ReadBeat = tuple[Beat | None, Stored]
"""A heartbeat with its message; None: it is malformed."""


class Evaluator:
    def __init__(self, event_store: EventStore, state: MonitorState, recorder: Recorder, kept: int) -> None:
        """`kept`: messages that the broker keeps per subject."""
        self._event_store = event_store
        self._state = state
        self._recorder = recorder
        self._kept = kept
        self._late: dict[str, int] = {}
        """Services that hold heartbeats, with the sequence of the oldest."""
        self._hole_at = 0
        """When the first message was stored after messages that were removed before they were read."""
        self._proved_from = 0
        """The same, but only where somebody removed them, not the broker because it keeps so many: heartbeats
        may have been among them, so ticks prove nothing of the time before."""

    def note_hole(self, message: Stored) -> None:
        """Messages before this one are gone. The broker removes old ones itself only if we are far behind."""
        self._hole_at = message.at
        if message.pending < self._kept - 1:
            self._proved_from = message.at

    # --- heartbeats

    async def evaluate_all(self, read: dict[str, list[ReadBeat]]) -> None:
        """Evaluate these heartbeats, service by service; `read` is empty then."""
        if read:
            await _concurrently(self._evaluate_service, read.items())
            read.clear()

    async def _evaluate_service(self, named: tuple[str, list[ReadBeat]]) -> None:
        """One service's heartbeats of a batch, in order."""
        name, beats = named
        state = self._state
        for beat, message in beats:
            if beat is None:
                await self._skip(name, message)
                continue
            service = state.services.get(name)
            if service is None:
                headers = message.headers or {}
                if FOUND_BY_HEADER in headers:
                    continue  # its service was deleted since: what was stored before it is applied
                service = await self._recorder.register(name, beat, headers.get(SOURCE_HEADER) == "http")
            if beat.signal is Signal.LOG:  # no sign of life
                await self._skip(name, message)
                continue
            if service is None or not belongs_to_this_life(beat.at, service.registered_at):
                continue
            newest = state.snapshots.beats
            newest[service.bucket] = max(newest[service.bucket], message.seq)
            if service.paused:
                await self._evaluate_while_paused(service, beat)
                continue
            if service.unsure or await self._is_unproved(service, beat.at, message):
                beat = _after_hole(service, beat)
            if service.held or not decidable(service, beat, state.coverage):
                self._late.setdefault(name, message.seq)
                service.held = (*service.held[: MAX_HELD - 1], beat)
            else:
                await self._evaluate_heartbeat(service, beat, message)

    async def _skip(self, name: str, message: Stored) -> None:
        """No sign of life, but perhaps the oldest heartbeat that the broker has kept."""
        service = self._state.services.get(name)
        if service is not None and not service.held and await self._has_hole(service, message):
            self._assume_heard(service, message.at)

    async def _evaluate_heartbeat(
        self, service: MonitoredService, beat: Beat, read: Stored, detector: MassOutageDetector | None = None
    ) -> None:
        if self._state.has_runs(service, beat):
            beat = await self._evaluate_due(service, beat, read, detector)
        await self._record_gap(service, beat)
        await self._record_facts(service, beat)
        await self._transition(service, beat, read, detector)
        await self._recorder.declare_new(service, beat)
        self._state.apply_beat(service, beat)
        self._state.schedule(service)

    async def _evaluate_due(
        self, service: MonitoredService, beat: Beat, read: Stored, detector: MassOutageDetector | None
    ) -> Beat:
        """Record what was due before a heartbeat of a service with runs. It goes before the facts that the
        heartbeat leads to, because a run that ends does not count any more."""
        coverage = self._state.coverage
        if not beat.after_hole and beat.at > service.last_beat and not is_quiet(service, beat.at):
            upto = min(beat.at, coverage.until)
            await self._record_due(service, upto)
            await self._transition(service, upto, read, detector)
            if service.unsure:
                beat = _after_hole(service, beat)
        return beat

    async def _record_gap(self, service: MonitoredService, beat: Beat) -> None:
        """Record the gap before a heartbeat, unless the broker has removed others meanwhile unread."""
        gap = gaps.gap_before(service, beat)
        if gap and (self._hole_at <= gap.from_ or await self._are_all_kept(service)):
            await self._recorder.record_gap(service, gap)

    async def _are_all_kept(self, service: MonitoredService) -> bool:
        """Whether the broker still has what followed on the newest heartbeat of a service that was read."""
        ask = partial(self._event_store.oldest_heartbeat, service.name)
        oldest = await retry_until_done("read the oldest heartbeat", ask)
        return oldest is not None and oldest.at <= service.last_beat

    async def _record_facts(self, service: MonitoredService, beat: Beat) -> None:
        while fact := runs.beat_fact(service, beat, self._state.coverage):
            await self._recorder.record_run(service, fact)

    async def _record_due(self, service: MonitoredService, upto: int) -> None:
        while service.job and (fact := runs.due_fact(service, upto, self._state.coverage)):
            await self._recorder.record_run(service, fact)

    async def _evaluate_while_paused(self, service: MonitoredService, beat: Beat) -> None:
        service.unsure = False
        if beat.at > service.last_beat:
            await self._record_gap(service, beat)
            if self._state.has_runs(service, beat):
                await self._record_facts(service, beat)
            await self._recorder.declare_new(service, beat)
            apply_while_paused(service, beat)

    async def evaluate_resumed(self, read: Stored) -> None:
        """What was reported while services were paused counts from their resume on."""
        state = self._state
        while state.undeclared:
            await self._recorder.declare(*state.undeclared.pop())
        while state.unrecorded:
            service, fact = state.unrecorded.popleft()
            if isinstance(fact, Gap):
                await self._recorder.record_gap(service, fact)
            else:
                await self._recorder.record_run(service, fact, is_applied=True)
        if state.resumed:
            resumed, state.resumed = state.resumed, []
            await _concurrently(partial(self.evaluate_one_resumed, read), resumed)

    async def evaluate_one_resumed(self, read: Stored, service: MonitoredService) -> None:
        if service.said and self._state.services.get(service.name) is service:
            await self._transition(service, service.said, read, None)
            service.said = None
            self._state.schedule(service)

    # --- ticks

    def evaluated_until(self, read_until: int) -> int:
        """The sequence up to which every heartbeat that was read has been evaluated."""
        return min(read_until, *(seq - 1 for seq in self._late.values())) if self._late else read_until

    async def evaluate_tick(self, start: int, end: int, message: Stored) -> None:
        """The registry was listening from `start` to `end`: evaluate what is late, and what is overdue."""
        self._state.prove(min(max(start, self._proved_from), end), end)
        services, detector = self._state.services, None
        late, self._late = self._late, {}
        waiting = [service for name in sorted(late) if (service := services.get(name)) and service.held]
        if waiting:
            detector = MassOutageDetector(self._state.cadence, end)
            await _concurrently(partial(self._evaluate_held, message, detector), waiting)
            self._late.update((service.name, late[service.name]) for service in waiting if service.held)
        if overdue := self._state.overdue(end):
            detector = detector or MassOutageDetector(self._state.cadence, end)
            await _concurrently(partial(self._evaluate_overdue, message, end, detector), overdue)

    async def _evaluate_held(
        self, tick: Stored, detector: MassOutageDetector, service: MonitoredService
    ) -> None:
        beats, service.held = service.held, ()
        for n, beat in enumerate(beats):
            self._state.apply_put_off(service, beat.at)
            if service.job and not decidable(service, beat, self._state.coverage):
                service.held = beats[n:]  # the tick was long on its way, and proves nothing of that time
                return
            await self._evaluate_heartbeat(service, beat, tick, detector)
        self._state.apply_put_off(service)

    async def _evaluate_overdue(
        self, tick: Stored, at: int, detector: MassOutageDetector, service: MonitoredService
    ) -> None:
        if await self._is_unproved(service, at, tick):
            service.unsure = True
            return
        await self._record_due(service, at)
        await self._transition(service, at, tick, detector)
        self._state.schedule(service)

    # --- transitions

    async def _transition(
        self,
        service: MonitoredService,
        fact: Beat | PausedReport | int,
        read: Stored,
        detector: MassOutageDetector | None,
    ) -> None:
        """Record the transitions that follow from a fact, one after the other. `read`: its message."""
        coverage = self._state.coverage
        while (transition := next(decide(service, fact, coverage, detector), None)) is not None:
            if await self._recorder.record(service, transition):
                continue
            await self._recorder.apply_newest_status(service)
            if isinstance(fact, PausedReport):
                continue
            if await self._is_unproved(service, fact if isinstance(fact, int) else fact.at, read):
                if isinstance(fact, int):
                    service.unsure = True
                    return
                fact = _after_hole(service, fact)

    # --- messages that were removed before they were read

    async def _is_unproved(self, service: MonitoredService, until: int, read: Stored) -> bool:
        """Whether a transition would be due, or a run is open, but heartbeats are missing that might have
        prevented it, or ended the run."""
        if is_quiet(service, until):
            return False
        at, job = next_due(service, self._state.coverage), service.job
        is_due = (at is not None and at <= until) or (job is not None and bool(job.open_runs))
        return is_due and await self._has_hole(service, read)

    async def _has_hole(self, service: MonitoredService, read: Stored) -> bool:
        """Whether the broker has removed heartbeats of this service that we have not read. It can have done
        so only if we are far behind."""
        if read.pending < self._kept - 1:
            return False
        ask = partial(self._event_store.oldest_heartbeat, service.name)
        oldest = await retry_until_done("read the oldest heartbeat", ask)
        if oldest is None:  # all of them were removed, and nobody knows when the last one was
            self._assume_heard(service, max(service.unproved, self._hole_at))
            return False
        return oldest.at > max(service.heard, service.unproved)

    @staticmethod
    def _assume_heard(service: MonitoredService, at: int) -> None:
        """There may have been a heartbeat that the broker has removed."""
        service.unproved = at
        runs.assume_heard(service, at)


def _after_hole(service: MonitoredService, beat: Beat) -> Beat:
    """A heartbeat that follows on removed ones."""
    service.unsure = False
    runs.forget_open(service)
    return beat._replace(after_hole=True)


async def _concurrently(do: Callable[[T], Coroutine[None, None, None]], items: Iterable[T]) -> None:
    """`do` it with all items, MAX_CONCURRENT at a time."""
    rest = iter(items)

    async def worker(first: T) -> None:
        await do(first)
        for item in rest:
            await do(item)

    await asyncio.gather(*[worker(first) for first in islice(rest, MAX_CONCURRENT)])
