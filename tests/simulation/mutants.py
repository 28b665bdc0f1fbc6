"""Bugs put into the monitor on purpose: a simulation that does not find each of them soon is worth nothing.

They are put in at the seam between the monitor and its journal where that is possible, so that they stay what
they are when the monitor is written anew.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Any
from unittest.mock import patch
from zoneinfo import ZoneInfo

from oncalendar import BaseIterator

from services.monitor.consume import Monitor
from services.monitor.domain import gaps, runs
from services.monitor.domain.service import Beat, Gap, Job, MonitoredService, OpenRun, RunFact
from services.monitor.state import MonitorState
from services.monitor.store import snapshot_codec
from services.monitor.store.mapping import ConfigChange
from shared.contracts import schedules
from shared.contracts.events import FOUND_BY_HEADER, ConfigEvent, Signal, Status, StatusChanged
from shared.domain import timetable
from shared.messaging import streams
from shared.messaging.errors import NotStored, WrongSequence
from shared.messaging.publisher import Ack
from shared.messaging.reader import Stored
from shared.messaging.record_watch import StreamMark
from tests.simulation.catching import first_caught
from tests.simulation.model import NEVER, ModelReader
from tests.simulation.run import Process, Rules
from tests.simulation.simulate import simulate


class _Reader:
    """A reader that tells lies."""

    def __init__(self, reader: ModelReader, lie: Callable[[Stored], Stored]) -> None:
        self._reader = reader
        self._lie = lie

    def batches(self) -> "_Reader":
        return self

    def __aiter__(self) -> "_Reader":
        return self

    async def __anext__(self) -> list[Stored]:
        return [self._lie(message) for message in await self._reader.__anext__()]

    async def aclose(self) -> None:
        await self._reader.aclose()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)


class WallClock(Process):
    """Judges by the clock on the wall, not by when the tick was stored."""

    def reader(self, stream: str, *subjects: str, **options: Any) -> Any:
        def lie(message: Stored) -> Stored:
            return message._replace(at=self.broker.now()) if message.subject[:5] == "tick." else message

        return _Reader(super().reader(stream, *subjects, **options), lie)


class EvolvesFirst(Process):
    """Goes on as if a change were stored as soon as it is on its way."""

    _promised = 0

    async def append(self, subject: str, event: StatusChanged | ConfigEvent, after: int | None) -> Ack:
        if isinstance(event, StatusChanged):
            task = self._loop.create_task(self._later(subject, event))
            del task
            self._promised = max(self._promised, self.broker.end(streams.SERVICES)[0]) + 1
            return Ack(self._promised, False)
        return await super().append(subject, event, after)

    async def _later(self, subject: str, event: StatusChanged) -> None:
        newest = self.broker.newest(subject)
        try:
            await super().append(subject, event, newest.seq if newest else 0)
        except (NotStored, WrongSequence):
            return


class NoExpectedSequence(Process):
    """Appends whatever anybody has appended in the meantime."""

    async def append(self, subject: str, event: StatusChanged | ConfigEvent, after: int | None) -> Ack:
        return await super().append(subject, event, None)


class ForgetsDeafness(Process):
    """Does not know after a restart when the registry was deaf before it."""

    async def load(self, key: str) -> bytes | None:
        part = await super().load(key)
        if key == "position" and part:
            position = json.loads(part)
            return json.dumps({**position, "coverage": {**position["coverage"], "gaps": []}}).encode()
        return part


class BelievesRepetition(Process):
    """Takes a heartbeat that is delivered once more for a new one: it revives who is silent."""

    def monitor(self, rules: Rules) -> Monitor:
        now = self.broker.now

        class Credulous(Monitor):
            async def process_batch(self, batch: list[Stored]) -> None:
                newest, self._read_until = self._read_until, 0
                await super().process_batch(
                    [
                        m._replace(at=now()) if m.seq <= newest and m.subject.startswith("heartbeat.") else m
                        for m in batch
                    ]
                )
                self._read_until = max(newest, self._read_until)

        return Credulous(self, *rules)  # type: ignore[arg-type]


class TakesConfigurationAtOnce(Process):
    """Goes by the configuration as soon as it is read, not where it stands among the heartbeats."""

    def monitor(self, rules: Rules) -> Monitor:
        class Hasty(Monitor):
            def apply_event(self, message: Stored) -> None:
                super().apply_event(message)
                self.state.apply_until(NEVER)

        return Hasty(self, *rules)  # type: ignore[arg-type]


class TrustsAnyBucket(Process):
    """Takes every part of a snapshot to go as far as the position says, whoever wrote it."""

    async def load(self, key: str) -> bytes | None:
        part = await super().load(key)
        if key == "position" and part:
            position = json.loads(part)
            nothing = [0] * len(position["beats"])
            return json.dumps({**position, "beats": nothing, "events": nothing}).encode()
        return part


class TrustsAnyRecord(Process):
    """Takes a snapshot to be good for whatever record it finds."""

    async def differs(self, marks: list[StreamMark]) -> str | None:
        return None


class DeafToTheWinner(Process):
    """Having lost a race, looks at the winner's number and not at what it says."""

    async def newest_event(self, subject: str) -> Stored | None:
        found = await super().newest_event(subject)
        if found is not None and subject.startswith("service.status."):
            return found._replace(data=b"{}")
        return found


class _Reworded(Process):
    """Reads heartbeats with a certain signal as if they were successes."""

    signal = ""

    def reader(self, stream: str, *subjects: str, **options: Any) -> Any:
        def lie(message: Stored) -> Stored:
            if (message.headers or {}).get("Registry-Signal") == self.signal:
                return message._replace(headers=None)
            return message

        return _Reader(super().reader(stream, *subjects, **options), lie)


class StartLiftsDown(_Reworded):
    """Takes the start of a run for a success, also of a service that is down."""

    signal = "start"


class LogIsLife(_Reworded):
    """Takes a log for a sign of life."""

    signal = "log"


class ForgetsTheResumed(Process):
    """Does not expect a service after its resume before it is heard again."""

    def monitor(self, rules: Rules) -> Monitor:
        monitor = super().monitor(rules)
        apply = monitor.state.apply_change

        def forgetful(change: ConfigChange) -> MonitoredService:
            it = apply(change)
            it.unsure = it.unsure or change.resumes
            return it

        monitor.state.apply_change = forgetful  # type: ignore[method-assign]
        return monitor


class DeafInPauses(Process):
    """Knows nothing at the resume of what came in while the service was paused."""

    def monitor(self, rules: Rules) -> Monitor:
        async def deaf(read: Stored, it: MonitoredService) -> None:
            it.said = None

        monitor = super().monitor(rules)
        monitor.evaluator.evaluate_one_resumed = deaf  # type: ignore[method-assign]
        return monitor


class ChargesThePast(Process):
    """Goes by new thresholds as if they had always held."""

    def monitor(self, rules: Rules) -> Monitor:
        monitor = super().monitor(rules)
        update = monitor.state.update_thresholds

        def charging(it: MonitoredService, at: int, *, scheduled: bool, max_run: int | None = None) -> None:
            update(it, at, scheduled=scheduled, max_run=max_run)
            it.counted_from = (0, 0, 0)

        monitor.state.update_thresholds = charging  # type: ignore[method-assign]
        return monitor


class ForgetsOldDefaults(Process):
    """Evaluates what it reads again by the defaults of today."""

    async def load_versioned(self, key: str) -> tuple[bytes | None, int]:
        return None, (await super().load_versioned(key))[1]


# --- of schedules and runs


class _Patched(Process):
    """Has another function in place of one of the product."""

    place: Any
    name: str

    @staticmethod
    def instead(real: Any) -> Any:
        raise NotImplementedError

    @classmethod
    @contextmanager
    def broken(cls) -> Iterator[None]:  # type: ignore[override]
        caches = timetable._following, schedules._parsed
        try:
            with patch.object(cls.place, cls.name, cls.instead(getattr(cls.place, cls.name))):
                for cache_ in caches if cls.place is schedules else caches[:1]:
                    cache_.cache_clear()
                yield
        finally:
            for cache_ in caches if cls.place is schedules else caches[:1]:
                cache_.cache_clear()


class NaiveLocalTime(_Patched):
    """Compares times of day as they stand on the clock, so that a repeated one is that of the second pass."""

    place, name = schedules, "_next_of_systemd"

    @staticmethod
    def instead(real: Any) -> Any:
        def naive(expression: str, zone: ZoneInfo, lost_until: Any, after: datetime) -> datetime:
            wall = after.astimezone(zone).replace(tzinfo=None)
            found = next(BaseIterator(expression, wall)).replace(tzinfo=zone, fold=1).astimezone(UTC)
            right: datetime = found if found > after else real(expression, zone, lost_until, after)
            return right

        return naive


class MetTwice(_Patched):
    """Every run for an occurrence has the occurrence's key."""

    place, name = runs, "_begun"

    @staticmethod
    def instead(real: Any) -> Any:
        def first(service: MonitoredService, job: Job, beat: Beat) -> OpenRun:
            run: OpenRun = real(service, job, beat)
            return run._replace(key=str(run.occurrence)) if run.occurrence else run

        return first


class EarlyIsForTheLast(_Patched):
    """A heartbeat shortly before an occurrence counts for the one before."""

    place, name = timetable.Timetable, "opens"

    @staticmethod
    def instead(real: Any) -> Any:
        return lambda self, occurrence, previous: occurrence


class EndCountsAtItsEnd(_Patched):
    """The end of a run counts for the occurrence at its end, not for that at its start."""

    place, name = runs, "apply_beat"

    @staticmethod
    def instead(real: Any) -> Any:
        def apply(service: MonitoredService, beat: Beat) -> None:
            start = service.job.ended_start if service.job else 0
            if service.job:
                service.job.ended_start = 0
            real(service, beat)
            if service.job:
                service.job.ended_start = start

        return apply


class NothingForgiven(_Patched):
    """Demands what was due while the registry was deaf."""

    place, name = runs, "_forgiving"

    @staticmethod
    def instead(real: Any) -> Any:
        return lambda *_: None


class ScheduleOfThePast(_Patched):
    """A schedule that is changed holds for the time since the last heartbeat."""

    place, name = runs, "expect_from"

    @staticmethod
    def instead(real: Any) -> Any:
        return lambda service, at: real(service, min(at, service.last_beat or at))


class FailuresAddUp(_Patched):
    """A success between failures does not begin their count anew."""

    place, name = runs, "apply_beat"

    @staticmethod
    def instead(real: Any) -> Any:
        def apply(service: MonitoredService, beat: Beat) -> None:
            before = service.job.failures if service.job else 0
            real(service, beat)
            if service.job and beat.signal is Signal.SUCCESS:
                service.job.failures = before

        return apply


class LooksAtStatus(_Patched):
    """What is down misses nothing, so what is recorded depends on what is known of the status."""

    place, name = runs, "_missed"

    @staticmethod
    def instead(real: Any) -> Any:
        return lambda service, *rest: None if service.status is Status.DOWN else real(service, *rest)


class AnySuccessEndsARun(_Patched):
    """A success ends the newest run, whatever its id."""

    place, name = runs, "_open"

    @staticmethod
    def instead(real: Any) -> Any:
        return lambda job, run: job.open_runs[-1] if job.open_runs else None


class RunsOutliveHoles(_Patched):
    """Takes a run for open that may have ended with a heartbeat that the broker has removed unread."""

    place, name = runs, "forget_open"

    @staticmethod
    def instead(real: Any) -> Any:
        return lambda service: None


class ConfiguresWhatWaits(_Patched):
    """A change of the configuration holds for heartbeats before it that wait for a tick."""

    place, name = MonitorState, "_ends_waiting"

    @staticmethod
    def instead(real: Any) -> Any:
        return staticmethod(lambda service, change: True)


class GapsOfAll(_Patched):
    """Counts a gap from the heartbeat before the last one."""

    place, name = gaps, "gap_before"

    @staticmethod
    def instead(real: Any) -> Any:
        def before(service: MonitoredService, beat: Beat) -> Gap | None:
            gap = real(service, beat)
            return gap._replace(from_=gap.from_ - service.rhythm) if gap else None

        return before


class GapsAtRisk(Process):
    """Goes on before a gap is stored: it is lost when the monitor is killed then."""

    def monitor(self, rules: Rules) -> Monitor:
        monitor = super().monitor(rules)
        recorder, later = monitor._recorder, set[Any]()
        real = recorder.record_gap

        async def record(service: MonitoredService, gap: Gap) -> None:
            task = self._loop.create_task(real(service, gap))
            later.add(task)

        recorder.record_gap = record  # type: ignore[method-assign]
        return monitor


class ForgetsOpenRuns(_Patched):
    """A snapshot does not hold the runs that are open."""

    place, name = snapshot_codec, "_load_job"

    @staticmethod
    def instead(real: Any) -> Any:
        def load(*given: Any) -> Job:
            job: Job = real(*given)
            job.open_runs = ()
            return job

        return load


class RegistersByKey(Process):
    """Takes a ping by key for a service that is not known as the first heartbeat of one."""

    def reader(self, stream: str, *subjects: str, **options: Any) -> Any:
        def lie(message: Stored) -> Stored:
            headers = message.headers or {}
            said = {key: value for key, value in headers.items() if key != FOUND_BY_HEADER}
            return message._replace(headers=said or None)

        return _Reader(super().reader(stream, *subjects, **options), lie)


class MissedByBoth(Process):
    """Each monitor records what it finds of runs, whatever another one has recorded."""

    async def append(self, subject: str, event: Any, after: int | None) -> Ack:
        if not subject.startswith("run."):
            return await super().append(subject, event, after)
        renamed = event.model_copy(update={"id": f"{event.id}-{self.name}"})
        return await super().append(subject, renamed, None)


class HalfTheOrder(_Patched):
    """Takes a fact to be recorded as soon as another one of the same moment is."""

    place, name = RunFact, "order"

    @staticmethod
    def instead(real: Any) -> Any:
        return property(lambda fact: (fact.at, 0, ""))


MUTANTS: list[type[Process]] = [
    WallClock,
    EvolvesFirst,
    NoExpectedSequence,
    ForgetsDeafness,
    BelievesRepetition,
    TakesConfigurationAtOnce,
    TrustsAnyBucket,
    TrustsAnyRecord,
    DeafToTheWinner,
    StartLiftsDown,
    LogIsLife,
    ForgetsTheResumed,
    DeafInPauses,
    ChargesThePast,
    ForgetsOldDefaults,
    NaiveLocalTime,
    MetTwice,
    EarlyIsForTheLast,
    EndCountsAtItsEnd,
    NothingForgiven,
    ScheduleOfThePast,
    FailuresAddUp,
    LooksAtStatus,
    AnySuccessEndsARun,
    ConfiguresWhatWaits,
    ForgetsOpenRuns,
    RegistersByKey,
    MissedByBoth,
    HalfTheOrder,
    GapsOfAll,
    GapsAtRisk,
]

CAUGHT_BY = {
    "NoExpectedSequence": 96,
    "ForgetsDeafness": 24,
    "TakesConfigurationAtOnce": 11,
    "TrustsAnyBucket": 2128,
    "StartLiftsDown": 56,
    "ForgetsTheResumed": 300,
    "DeafInPauses": 650,
    "ChargesThePast": 44,
    "ForgetsOldDefaults": 11,
    "NaiveLocalTime": 52,
    "EndCountsAtItsEnd": 30,
    "NothingForgiven": 34,
    "ScheduleOfThePast": 68,
    "FailuresAddUp": 107,
    "LooksAtStatus": 26,
    "AnySuccessEndsARun": 26,
    "ForgetsOpenRuns": 35,
    "HalfTheOrder": 40,
    "ConfiguresWhatWaits": 205,
}
"""A seed that catches a mutant, where none of the first does: the suite need not look for one."""


@cache
def is_sound(seed: int) -> bool:
    """Whether the monitor as it is passes this seed."""
    return not simulate(seed)


def caught_by(mutant: type[Process], seeds: int, first: int = 0) -> tuple[int, str] | None:
    return first_caught(mutant, range(first, first + seeds), simulate, is_sound)
