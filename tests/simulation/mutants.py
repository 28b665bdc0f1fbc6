"""Bugs put into the monitor on purpose: a simulation that does not find each of them soon is worth nothing.

They are put in at the seam between the monitor and its journal where that is possible, so that they stay what
they are when the monitor is written anew.
"""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

from services.monitor.consume import Monitor
from services.monitor.domain.service import MonitoredService
from services.monitor.store.mapping import ConfigChange
from shared.contracts.events import ConfigEvent, StatusChanged
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

        def charging(it: MonitoredService, at: int) -> None:
            update(it, at)
            it.counted_from = (0, 0, 0)

        monitor.state.update_thresholds = charging  # type: ignore[method-assign]
        return monitor


class ForgetsOldDefaults(Process):
    """Evaluates what it reads again by the defaults of today."""

    async def load_versioned(self, key: str) -> tuple[bytes | None, int]:
        return None, (await super().load_versioned(key))[1]


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
]

CAUGHT_BY = {
    "NoExpectedSequence": 164,
    "ForgetsDeafness": 24,
    "TakesConfigurationAtOnce": 11,
    "TrustsAnyBucket": 4284,
    "TrustsAnyRecord": 161,
    "StartLiftsDown": 56,
    "ForgetsTheResumed": 300,
    "DeafInPauses": 650,
    "ChargesThePast": 31,
    "ForgetsOldDefaults": 11,
}
"""A seed that catches a mutant, where none of the first does: the suite need not look for one."""


@cache
def is_sound(seed: int) -> bool:
    """Whether the monitor as it is passes this seed."""
    return not simulate(seed)


def caught_by(mutant: type[Process], seeds: int, first: int = 0) -> tuple[int, str] | None:
    return first_caught(mutant, range(first, first + seeds), simulate, is_sound)
