"""The monitor with many services: how long it takes to start, what it holds, what a tick costs.

The streams and the snapshot are written directly, as a monitor that ran before would have left them: its
services beat once a minute, and its last snapshot is some seconds old.
"""

import asyncio
import gc
import statistics
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import processes
from services.cli.supervisor import free_port
from services.monitor.domain import buckets
from services.monitor.domain.deadlines import DeadlineQueue
from services.monitor.domain.service import SECOND, Beat, EffectiveThresholds, MonitoredService
from services.monitor.store import mapping, snapshot_codec
from services.monitor.store.event_store import EventStore
from services.monitor.store.snapshot_codec import Bucket, Checkpoint, SnapshotPosition
from shared.contracts.events import Status
from shared.domain.coverage import Coverage
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.publisher import Publisher
from shared.messaging.queries import last_sequence
from shared.settings import Settings

SIZES = (10_000, 100_000, 1_000_000)
FALLS = 10_000
TICKS = 10
BEHIND = 5
"""Seconds of beats since the snapshot, to be read again at the start."""
PERIOD = 60
"""Seconds between two beats of a service."""
PATIENCE = EffectiveThresholds(15 * 60 * SECOND, 60 * 60 * SECOND, 7 * 86400 * SECOND)


async def fill(link: BrokerConnection, count: int) -> list[str]:
    """Write `count` services into streams and snapshot. The names of those that are to fall together."""
    names = [f"fleet.{n % 100:02}.service-{n:07}" for n in range(count)]
    now = time.time_ns() // 1000
    events, _ = await _publish(
        link,
        streams.SERVICES,
        ((streams.config(name), mapping.registration(name, Beat(now)).to_bytes()) for name in names),
    )
    beats, now = await _publish(link, streams.HEARTBEATS, ((streams.heartbeat(name), b"") for name in names))
    reach = Checkpoint(beats, events)
    parts: list[list[MonitoredService]] = [[] for _ in range(buckets.BUCKETS)]
    falling = names[:: count // FALLS] if count >= FALLS * 10 else []
    apart = set(falling)
    for n, name in enumerate(names):
        beat = now - (n * PERIOD * SECOND // count)
        if name in apart:
            beat = now - PATIENCE.silent + (TICKS + 60) * SECOND
        it = MonitoredService(
            name, now - 86400 * SECOND, PATIENCE, status=Status.ALIVE, since=now - 86400 * SECOND
        )
        it.last_beat, it.rhythm, it.config_seq = beat, PERIOD * SECOND, n + 1
        it.bucket = buckets.bucket_of(name)
        parts[it.bucket].append(it)
    publisher = Publisher(link)
    await publisher.start()
    event_store = EventStore(link, publisher, await link.bucket(streams.MONITOR_BUCKET))
    for bucket, services in enumerate(parts):
        await event_store.save(
            f"bucket.{bucket}", snapshot_codec.dump(Bucket(reach, Coverage(now), events, 0, services))
        )
    position = SnapshotPosition(
        await event_store.identity(),
        reach,
        Coverage(now),
        [beats] * buckets.BUCKETS,
        [events] * buckets.BUCKETS,
    )
    await event_store.save("position", position.dump())
    await publisher.stop()
    recent = [name for name in names[: BEHIND * count // PERIOD] if name not in apart]
    await _publish(link, streams.HEARTBEATS, ((streams.heartbeat(name), b"") for name in recent))
    return falling


async def _publish(
    link: BrokerConnection, stream: str, messages: Iterable[tuple[str, bytes]]
) -> tuple[int, int]:
    """Store them, some thousands at once: the broker drops what waits beyond its bound. The stream's last
    sequence, and the time."""
    rest, found = iter(messages), await last_sequence(link, stream)
    while part := list(islice(rest, 5000)):
        wanted = found[0] + len(part)
        for subject, payload in part:
            await link.nc.publish(subject, payload)
        while found[0] < wanted:
            found = await last_sequence(link, stream)
    return found


async def size(count: int, folder: Path) -> dict[str, float]:
    with processes.broker(folder, durable=False) as (url, _):
        link = await connect(url)
        falling = await fill(link, count)
        await link.close()
    with processes.broker(folder) as (url, _):
        link = await connect(url)
        port = free_port()
        variables = {
            "REGISTRY_NATS_URL": url,
            "REGISTRY_MONITOR_PORT": str(port),
            "REGISTRY_HEARTBEATS_KEPT": "2",
            "REGISTRY_MAX_SERVICES": "10000000",
        }
        began = time.perf_counter()
        monitor = processes.python("services.monitor", folder, **variables)
        try:
            base = f"http://127.0.0.1:{port}"
            await asyncio.to_thread(processes.wait_until_ready, f"{base}/readyz", 120)
            found = {
                "start_s": time.perf_counter() - began,
                "resident_mb": processes.usage_of(monitor.pid)[1] / 1e6,
            }
            found |= await _ticks(link, base)
            if falling:
                found |= await _falls(link, len(falling))
            return found
        finally:
            processes.stop(monitor)
            await link.close()


async def connect(url: str) -> BrokerConnection:
    link = BrokerConnection(Settings(nats_url=(url,), heartbeats_kept=2), "bench")
    await link.connect()
    return link


async def _tick(link: BrokerConnection, since: str) -> None:
    await link.js.publish(streams.tick("bench"), b'{"open_since": "%s"}' % since.encode())


async def _ticks(link: BrokerConnection, base: str) -> dict[str, float]:
    """The cost of ticks at which nothing is due, as the monitor itself measures it."""
    since = mapping.moment((await last_sequence(link, streams.HEARTBEATS))[1] - 3600 * SECOND).isoformat()
    before = _histogram(base)
    for _ in range(TICKS):
        await _tick(link, since)
        await asyncio.sleep(1)
    after = _histogram(base)
    count, total = (after[key] - before[key] for key in ("count", "sum"))
    slowest = min(le for le in after if isinstance(le, float) and after[le] - before[le] == count)
    return {"tick_ms": 1000 * total / count, "tick_most_ms": 1000 * slowest}


def _histogram(base: str) -> dict[Any, float]:
    found: dict[Any, float] = {}
    for family in text_string_to_metric_families(httpx.get(f"{base}/metrics").text):
        for sample in family.samples if family.name == "registry_tick_seconds" else ():
            if "le" in sample.labels:
                found[float(sample.labels["le"])] = sample.value
            else:
                found[sample.name.rpartition("_")[2]] = sample.value
    return found


async def _falls(link: BrokerConnection, count: int) -> dict[str, float]:
    """From the tick at which they are due to the last of them in the record."""
    start, now = await last_sequence(link, streams.SERVICES)
    since = mapping.moment(now - 3600 * SECOND).isoformat()
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        began = time.perf_counter()
        await _tick(link, since)
        await asyncio.sleep(0.2)
        if (await last_sequence(link, streams.SERVICES))[0] > start:
            break
        await asyncio.sleep(0.8)
    found = start
    while found < start + count:
        if time.monotonic() > deadline:
            raise RuntimeError("the falls did not come")
        await asyncio.sleep(0.02)
        found, _ = await last_sequence(link, streams.SERVICES)
    return {"falls_s": time.perf_counter() - began, "falls": count}


def looks(count: int) -> dict[str, float]:
    """What ticks cost in half an hour in which all services beat and none falls, without the broker.

    Each service is looked at again and again to see whether it is due; this is all that a tick does then.
    """
    now = time.time_ns() // 1000 // SECOND * SECOND
    deadlines, coverage = DeadlineQueue(now), Coverage(now)
    fleet = []
    for n in range(count):
        it = MonitoredService(f"service-{n:07}", now, PATIENCE, status=Status.ALIVE, rhythm=PERIOD * SECOND)
        it.last_beat, it.bucket = now - (n % PERIOD) * SECOND, buckets.bucket_of(it.name)
        deadlines.schedule(it, coverage)
        fleet.append(it)
    gc.freeze()
    costs = []
    for second in range(1, 1801):
        at = now + second * SECOND
        for it in fleet[-second % PERIOD :: PERIOD]:
            it.last_beat = at
        began = time.perf_counter()
        fallen = deadlines.overdue(at, coverage)
        costs.append((time.perf_counter() - began) * 1000)
        assert not fallen
    gc.unfreeze()
    cuts = statistics.quantiles(costs, n=100)
    return {"look_p50_ms": cuts[49], "look_p99_ms": cuts[98], "look_most_ms": max(costs)}


def measure(folder: Path, sizes: tuple[int, ...] = SIZES) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for count in sizes:
        place = folder / str(count)
        place.mkdir()
        results[str(count)] = asyncio.run(size(count, place))
    least, most = results[str(sizes[0])], results[str(sizes[-1])]
    grown = (most["resident_mb"] - least["resident_mb"]) * 1e6
    results["looks"] = looks(sizes[-1])
    results["bytes_per_service"] = grown / (sizes[-1] - sizes[0]) if len(sizes) > 1 else 0
    return results


def table(results: dict[str, Any]) -> Iterator[str]:
    yield f"| monitor, services | start s | memory MB | a tick ms, mean | most | {FALLS:,} falls s |"
    yield "|---|---|---|---|---|---|"
    for count, row in results.items():
        if count.isdigit():
            overdue_transitions = f"{row['falls_s']:.1f}" if "falls_s" in row else "-"
            yield (
                f"| {int(count):,} | {row['start_s']:.1f} | {row['resident_mb']:.0f} | {row['tick_ms']:.2f} "
                f"| ≤ {row['tick_most_ms']:g} | {overdue_transitions} |"
            )
    cost = "p50 {look_p50_ms:.2f}, p99 {look_p99_ms:.1f}, most {look_most_ms:.1f} ms".format(
        **results["looks"]
    )
    yield ""
    yield f"{results['bytes_per_service']:.0f} bytes per service; ticks of half an hour, nothing due: {cost}."
