"""A month of a large fleet replayed: how long it takes, and what it needs. The record is made up, as
messages of the streams; to read them from a broker takes some seconds more."""

import asyncio
import gc
import resource
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from random import Random
from zoneinfo import ZoneInfo

from services.monitor.domain import epochs
from services.monitor.domain.service import Beat, EffectiveThresholds, Gap, StatusTransition
from services.monitor.store import mapping
from services.replay.history import History
from services.replay.messages import Rules
from services.replay.run import Plan, Result, replay
from shared.contracts.events import ConfigData, ServiceConfig, Status, moment
from shared.messaging import streams
from shared.messaging.reader import Stored

SECOND = 10**6
DAY = 86_400 * SECOND
NOW = 1_790_000_000 * SECOND
SINCE = NOW - 30 * DAY
PATIENCE = EffectiveThresholds(900 * SECOND, 3600 * SECOND, 7 * DAY)
LIMIT_SECONDS, LIMIT_BYTES = 60, 1 << 30


def record(services: int, events: int) -> Iterator[Stored]:
    """Of each service its registration; then silences, each a gap and two or three changes; and the newest
    heartbeat."""
    for seq, (at, (subject, data)) in enumerate(_facts(services, events, Random(1)), 1):
        yield Stored(subject, data, None, seq, at, 0)


def _facts(services: int, events: int, rng: Random) -> Iterator[tuple[int, tuple[str, bytes]]]:
    tick = f'{{"open_since": "{moment(SINCE - 40 * DAY).isoformat()}"}}'.encode()
    yield NOW, (streams.tick("one"), tick)
    for n in range(services):
        name, began = f"fleet.{n % 100:02}.service-{n:06}", SINCE - 35 * DAY
        yield began, (streams.config(name), mapping.registration(name, Beat(began)).to_bytes())
        first = StatusTransition(Status.UNKNOWN, Status.ALIVE, began, began, "heartbeat")
        yield began, (streams.status(name), mapping.to_event(name, first).to_bytes())
        left, at = events // services - 3, SINCE + rng.randrange(2 * DAY)
        while left > 3:
            length = rng.choice((600, 1000, 1500, 5000)) * SECOND
            end = at + length
            yield end, (streams.run(name), mapping.gap_event(name, Gap(at, end)).to_bytes())
            left -= 1
            status = Status.ALIVE
            for to, after in ((Status.SILENT, PATIENCE.silent), (Status.DOWN, PATIENCE.down)):
                if length > after:
                    fall = StatusTransition(status, to, at + after, at, "no heartbeat")
                    yield at + after, (streams.status(name), mapping.to_event(name, fall).to_bytes())
                    status, left = to, left - 1
            if status is not Status.ALIVE:
                back = StatusTransition(status, Status.ALIVE, end, end, "heartbeat")
                yield end, (streams.status(name), mapping.to_event(name, back).to_bytes())
                left -= 1
            at = end + rng.randrange(4 * DAY)
            if at > NOW - DAY:
                break
        yield NOW - rng.randrange(600) * SECOND, (streams.heartbeat(name), b"")


def measure(services: int, events: int) -> tuple[Result, float, float, int]:
    """The result, the seconds of adding the record and of replaying it, and how many messages that were."""
    began = time.process_time()
    count = sum(1 for _ in record(services, events))
    making, began = time.process_time() - began, time.process_time()
    history = History(SINCE - DAY)
    for message in record(services, events):
        history.add(message)
    began += making
    names = list(history.services)
    new = ConfigData(config=ServiceConfig(silent_after=timedelta(minutes=20), down_after=timedelta(hours=2)))
    limits = timedelta(minutes=15), timedelta(hours=1), timedelta(days=7)
    rules = Rules(("ops", "boss"), ZoneInfo("UTC"), limits)
    plan = Plan(dict.fromkeys(names, new))
    gc.freeze()
    gc.set_threshold(100_000)
    gc.enable()
    took, began_at = time.process_time() - began, time.perf_counter()
    result = replay(history, plan, rules, epochs.first(PATIENCE), SINCE, processes=2)
    return result, took, time.perf_counter() - began_at, count


async def main() -> None:
    gc.disable()
    services, events = (int(each) for each in (sys.argv[1:] or ("100000", "1000000")))
    result, adding, replaying, count = measure(services, events)
    own, its = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    sys.stdout.write(
        f"{services:,} services, {count:,} messages; read {adding:.1f} s (CPU), replayed {replaying:.1f} s "
        f"(CPU of two processes {its.ru_utime:.1f} s); {own.ru_maxrss >> 10} MB, and each of the two at most "
        f"{its.ru_maxrss >> 10} MB with what they share; falls {result.falls}, messages {result.messages}, "
        f"{len(result.differences) + result.more_differences:,} differ, {len(result.unknown):,} unknown\n"
    )


if __name__ == "__main__":
    asyncio.run(main())
