"""Plays a scenario with the real monitor on the made-up broker, and again without disturbance."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from unittest.mock import patch

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

import shared.messaging.connection
import shared.messaging.reader
from services.monitor import consume, record, state
from services.monitor.consume import Monitor
from services.monitor.domain import buckets, epochs, runs
from services.monitor.domain.service import EffectiveThresholds
from services.monitor.store import event_store, mapping, snapshots
from shared.contracts import thresholds, zones
from shared.contracts.events import (
    ConfigData,
    ConfigEvent,
    Fact,
    ServiceConfig,
    ServiceDeleted,
    ServicePaused,
    ServiceRegistered,
    ServiceResumed,
    ServiceUpdated,
    StatusChanged,
)
from shared.domain import run_lengths
from shared.messaging import streams
from shared.messaging.errors import NotStored, WrongSequence
from shared.messaging.reader import Stored
from tests.simulation import memory
from tests.simulation.clock import VirtualLoop, play
from tests.simulation.jobs import Command
from tests.simulation.memory import parse_event, parse_fact
from tests.simulation.model import BASE, Broker, Heartbeats, Session
from tests.simulation.occurrences import MADE
from tests.simulation.scenario import Life, Scenario, Seat

BUCKETS = 3
LONGEST_GRACE = timedelta(seconds=2)
"""So that intervals of seconds are long ones."""
OF_SCHEDULE = (timedelta(seconds=3), timedelta(seconds=7))
"""The thresholds of whatever has a schedule and none of its own."""
DEAF, TELL_AGAIN = 1_500_000, 20_000_000
MAX_OPEN = 4
LENGTHS_KEPT, LENGTHS_NEEDED, SHORTEST_ODDITY = 8, 4, 100_000
SETTLES = 30.0
"""Seconds without a fact at the end, for what is still on its way."""


Rules = tuple[EffectiveThresholds, int, int, str]
"""Default thresholds, messages kept per subject, the limit of services, and the registry's zone."""


class Failed(AssertionError):
    """The monitor itself broke."""


class Process(Session):
    """What runs one monitor. Tests put broken ones in its place."""

    @staticmethod
    def broken() -> AbstractContextManager[object]:
        """What is wrong with it beside its methods."""
        return nullcontext()

    def monitor(self, rules: Rules) -> Monitor:
        return Monitor(self, *rules)  # type: ignore[arg-type]


def rules(life: Life, kept: int | None) -> Rules:
    return life.patience, kept or 1_000_000, 1000, life.time_zone


def disturbed(scenario: Scenario, process: type[Process] = Process, trace: list[str] | None = None) -> Broker:
    """Everything that the scenario has in store. The broker as it is in the end."""
    made: list[Broker] = []

    async def main(loop: VirtualLoop) -> None:
        broker = Broker(loop, scenario.heartbeats, (), scenario.outages, trace)
        made.append(broker)
        if scenario.upgraded:
            before = [epochs.Epoch(0, scenario.seats[0].lives[0].patience, bounded=False)]
            broker.replace(epochs.KEY, epochs.dump(before), 0)
        running: list[asyncio.Task[None]] = []
        up: set[int] = set()
        for n, seat in enumerate(scenario.seats):
            running.append(loop.create_task(_sit(scenario, broker, process, n, seat, up)))
        running.append(loop.create_task(_api(scenario, broker)))
        await asyncio.sleep(scenario.end + SETTLES)
        for task in running:
            if task.done():
                task.result()
        broker.close()

    play(main)
    return made[0]


async def _sit(
    scenario: Scenario, broker: Broker, process: type[Process], n: int, seat: Seat, up: set[int]
) -> None:
    """One seat's monitors, one after the other."""
    loop = broker.loop
    for count, life in enumerate(seat.lives):
        is_last = count == len(seat.lives) - 1
        await asyncio.sleep(max(0.0, min(life.delay, scenario.calm_at - loop.time())))
        if life.loses_snapshot and not up:
            broker.say("kv", "--- all snapshots in it are lost")
            broker.kv = {key: part for key, part in broker.kv.items() if key == epochs.KEY}
        if life.puts_back and not up:
            broker.say("events", "--- an older copy is put back")
            broker.put_back(broker.now() - round(life.puts_back * 1e6))
        session = process(
            broker,
            f"monitor{n}.{count}",
            Random(scenario.seed * 1000 + n * 100 + count),
            seat.faults,
            calm_at=scenario.calm_at,
            kill_at=0 if is_last else life.kill_at,
            suspended=seat.suspended,
        )
        broker.say(session.name, "--- starts")
        up.add(n)
        task = session.run(session.monitor(rules(life, scenario.kept)).run())
        dead = loop.create_task(session.dead.wait())
        timer = None
        if not is_last:
            left = min(life.lasts, max(0.0, scenario.calm_at - loop.time()))
            timer = loop.call_later(left, session.kill)
        await asyncio.wait((task, dead), return_when=asyncio.FIRST_COMPLETED)
        if not session.dead.is_set():
            _broke(session, task)
        if timer:
            timer.cancel()
        up.discard(n)


def _broke(session: Session, task: asyncio.Task[Any]) -> None:
    error = None if task.cancelled() else task.exception()
    raise Failed(f"{session.name} ended by itself: {error!r}") from error


def undisturbed(
    scenario: Scenario, past: Broker, process: type[Process] = Process, trace: Any = None
) -> Broker:
    """One monitor that comes when all is over and meets no fault: reads all facts, all configuration, and
    which defaults held since when."""
    config = [event for event in past.events if not event.subject.startswith("service.status.")]
    start = scenario.end + SETTLES
    return _alone(scenario, config, past.kv.get(epochs.KEY), start, start + SETTLES, process, trace)


def live(scenario: Scenario, process: type[Process] = Process, trace: Any = None) -> Broker:
    """One monitor that is there from the start and meets no fault."""
    return _alone(scenario, (), None, 0.0, scenario.end + SETTLES, process, trace)


def _alone(
    scenario: Scenario,
    events: Sequence[Stored],
    defaults: bytes | None,
    start: float,
    end: float,
    process: type[Process],
    trace: Any,
) -> Broker:
    made: list[Broker] = []

    async def main(loop: VirtualLoop) -> None:
        broker = Broker(loop, Heartbeats(scenario.heartbeats.facts), events, (), trace)
        made.append(broker)
        if defaults:
            broker.replace(epochs.KEY, defaults, 0)
        session = process(broker, "alone", Random(0), at_once=start > 0)
        monitor = session.monitor(rules(scenario.seats[0].lives[-1], None))
        monitor.snapshots.save_some = lambda *_: None  # type: ignore[method-assign] # nobody will read them
        task = session.run(monitor.run())
        await asyncio.sleep(end - start)
        if task.done():
            _broke(session, task)
        broker.close()

    play(main, start)
    return made[0]


# --- the API


async def _api(scenario: Scenario, broker: Broker) -> None:
    loop = broker.loop
    session = Session(broker, "api", Random(scenario.seed + 1), scenario.api_faults, calm_at=scenario.calm_at)
    for n, command in enumerate(scenario.commands):
        await asyncio.sleep(max(0.0, command.at - loop.time()))
        try:
            await _command(session, command, n)
        except NotStored:
            broker.say("api", f"gives up: {command.kind} {command.name}")


async def _command(session: Session, command: Command, n: int) -> None:
    """Decide on the newest configuration, append if it still is the newest, else decide again."""
    subject = streams.config(command.name)
    if command.kind == "garbage":
        await session.operation(
            "put garbage", subject, lambda: session.broker.append(subject, b'{"type": 1}')
        )
        return
    for attempt in range(10):
        newest = await session.newest_event(subject)
        event = _decide(command, newest, f"{n}-{attempt}", session.broker.now())
        if event is None:
            return
        try:
            await session.append(subject, event, newest.seq if newest else 0)
            return
        except WrongSequence:
            continue


_KINDS: dict[str, Any] = {
    "update": ServiceUpdated,
    "set": ServiceUpdated,
    "tune": ServiceUpdated,
    "pause": ServicePaused,
    "resume": ServiceResumed,
}


def _decide(command: Command, newest: Stored | None, event_id: str, now: int) -> ConfigEvent | None:
    old = None
    if newest is not None:
        try:
            old = parse_event(newest.data)
        except ValueError:
            return None
    about: dict[str, Any] = {
        "id": event_id,
        "source": "/api",
        "subject": command.name,
        "time": datetime.fromtimestamp(now / 1e6, UTC),
    }
    there = old is not None and not isinstance(old, ServiceDeleted)
    if command.kind == "set" and not there:
        command = replace(command, kind="register")
    if command.kind == "register":
        config = ServiceConfig.model_validate(command.config)
        return None if there else ServiceRegistered(**about, data=ConfigData(config=config))
    if not there:
        return None
    if command.kind == "delete":
        return ServiceDeleted(**about)
    assert old is not None
    assert newest is not None
    assert not isinstance(old, ServiceDeleted | StatusChanged)
    config, declared_at = old.data.config, old.data.declared_at
    if command.kind in ("set", "tune"):  # by hand, or all but when it is due
        kept = {} if command.kind == "set" else config.model_dump(include={"every", "schedule", "time_zone"})
        config = ServiceConfig.model_validate({**kept, **command.config, "paused": config.paused})
        if command.kind == "set":
            is_timed = bool(config.every or config.schedule)
            was_timed = bool(old.data.config.every or old.data.config.schedule)
            if is_timed:
                declared_at = None
            elif was_timed:  # what heartbeats have declared until now does not come back
                declared_at = datetime.fromtimestamp(now / 1e6, UTC)
    elif command.kind == "update":
        config = ServiceConfig.model_validate(
            {**command.config, "paused": config.paused, "every": config.every}
        )
    else:
        config = config.model_copy(update={"paused": command.kind == "pause"})
    if config == old.data.config and declared_at == old.data.declared_at:
        return None
    registered_at = old.data.registered_at or datetime.fromtimestamp(newest.at / 1e6, UTC)
    update = {"config": config, "registered_at": registered_at, "declared_at": declared_at}
    data = old.data.model_copy(update=update)
    event: ConfigEvent = _KINDS[command.kind](**about, data=data)
    return event


# --- around it


class Silent:
    """In place of a logger."""

    def __getattr__(self, level: str) -> Any:
        return _nothing


def _nothing(*_: object, **__: object) -> None:
    pass


@contextmanager
def surroundings() -> Iterator[None]:
    """No logs, no metrics, few buckets, and a wall clock that jumps at every look."""
    wild = Random(1)
    started = time.time()
    real_zone = zones.zone
    patches = (
        patch.object(zones, "zone", lambda name: MADE.get(name) or real_zone(name)),
        patch.object(runs, "DEAF", DEAF),
        patch.object(runs, "TELL_AGAIN", TELL_AGAIN),
        patch.object(runs, "MAX_OPEN", MAX_OPEN),
        patch.object(run_lengths, "KEPT", LENGTHS_KEPT),
        patch.object(run_lengths, "NEEDED", LENGTHS_NEEDED),
        patch.object(run_lengths, "LEAST", SHORTEST_ODDITY),
        patch.object(thresholds, "OF_SCHEDULE", OF_SCHEDULE),
        patch.object(buckets, "BUCKETS", BUCKETS),
        patch.object(consume, "log", Silent()),
        patch.object(state, "log", Silent()),
        patch.object(record, "log", Silent()),
        patch.object(snapshots, "log", Silent()),
        patch.object(event_store, "log", Silent()),
        patch.object(shared.messaging.connection, "log", Silent()),
        patch.object(shared.messaging.reader, "log", Silent()),
        patch.object(shared.messaging.connection, "_said_at", float("inf")),
        patch.object(time, "time", lambda: started + wild.uniform(-1e7, 1e7)),
        patch.object(thresholds, "LONGEST_GRACE", LONGEST_GRACE),
        patch.object(MetricWrapperBase, "labels", lambda metric, *_: metric),
        patch.object(Counter, "inc", _nothing),
        patch.object(Gauge, "set", _nothing),
        patch.object(Gauge, "set_function", _nothing),
        patch.object(Histogram, "time", lambda _: nullcontext()),
        patch.object(streams, "parse_event", memory.parse_event),
        patch.object(streams, "parse_run", memory.parse_run),
        patch.object(record, "parse_fact", memory.parse_fact),
        patch.object(consume, "parse_heartbeat", memory.parse_heartbeat),
        patch.object(consume, "Tick", memory.TICK),
    )
    with ExitStack() as stack:
        for each in patches:
            stack.enter_context(each)
        mapping.effective_thresholds.cache_clear()
        yield
    mapping.effective_thresholds.cache_clear()


def micros(time: datetime) -> int:
    return round(time.timestamp() * 1e6)


def history(broker: Broker) -> dict[str, list[StatusChanged]]:
    """The changes of each service, as they are recorded."""
    found: dict[str, list[StatusChanged]] = {}
    for event in broker.events:
        if event.subject.startswith("service.status."):
            change = parse_event(event.data)
            assert isinstance(change, StatusChanged)
            found.setdefault(streams.name_in(event.subject), []).append(change)
    return found


def run_history(broker: Broker) -> dict[str, list[Fact]]:
    """The facts about the runs of each service, and its gaps, as they are recorded."""
    found: dict[str, list[Fact]] = {}
    for event in broker.runs:
        found.setdefault(streams.name_in(event.subject), []).append(parse_fact(event.data))
    return found


def seconds(time: datetime | None) -> str:
    return "never" if time is None else f"{(micros(time) - BASE) / 1e6:.6f}"
