"""What operators look at, with ever more services; and the read models built anew."""

import asyncio
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from benchmarks import processes
from benchmarks.feeder import name
from shared.contracts.events import Status
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.publisher import Publisher
from shared.settings import Settings
from tests import fleets

SIZES = (1000, 10_000, 100_000)
REBUILT = 10_000
"""Services with which the read models are built anew."""
READS = {
    "the first page": "/",
    "one service": "/ui/service/{name}",
    "a page of the list": "/services?limit=50&sort=-last_heartbeat",
    "the summary": "/summary",
}
TIMES = 15


def measure(folder: Path, sizes: tuple[int, ...] = SIZES) -> dict[str, Any]:
    results = {}
    for count in sizes:
        place = folder / str(count)
        place.mkdir()
        with processes.broker(place, durable=False) as (url, _):
            asyncio.run(_write(url, count))
        with processes.system(place, "api") as system:
            results[str(count)] = _reads(system.url("api"), count)
            results[str(count)]["resident_mb"] = system.usage()["api"][1] / 1e6
            if count == REBUILT:
                results[str(count)]["rebuild_s"] = asyncio.run(_rebuild(system.broker))
    return results


async def _write(url: str, count: int) -> None:
    """One in a hundred is down, the others alive."""
    link = await _link(url)
    publisher = Publisher(link, timeout=30)
    await publisher.start()
    now = datetime.now(UTC)
    ago = timedelta(hours=3)
    fleet = (
        fleets.fallen(name(n), now, Status.DOWN, ago) if n % 100 == 0 else fleets.calm(name(n), now)
        for n in range(count)
    )
    await fleets.heard_since(publisher, now - timedelta(days=90))
    await fleets.write(publisher, list(fleet))
    await publisher.stop()
    await link.close()


async def _rebuild(url: str) -> float:
    link = await _link(url)
    began = time.perf_counter()
    answer = await link.nc.request(streams.REBUILD, b"", timeout=300)
    if b"error" in answer.data:
        raise RuntimeError(answer.data.decode())
    took = time.perf_counter() - began
    await link.close()
    return took


async def _link(url: str) -> BrokerConnection:
    link = BrokerConnection(Settings(nats_url=(url,)), "bench")
    await link.connect()
    return link


def _reads(base: str, count: int) -> dict[str, Any]:
    found = {}
    with httpx.Client(base_url=base, timeout=30) as client:
        for title, path in READS.items():
            took = []
            for n in range(TIMES):
                began = time.perf_counter()
                client.get(path.format(name=name(n * count // TIMES))).raise_for_status()
                took.append((time.perf_counter() - began) * 1000)
            found[title] = statistics.median(took)
    return found


def table(results: dict[str, Any]) -> Iterator[str]:
    yield f"| API, ms (medians of {TIMES}) | {' | '.join(f'{int(count):,} services' for count in results)} |"
    yield "|---" * (len(results) + 1) + "|"
    for title in READS:
        yield f"| {title} | {' | '.join(f'{it[title]:.1f}' for it in results.values())} |"
    yield f"| memory, MB | {' | '.join(str(round(it['resident_mb'])) for it in results.values())} |"
    for count, it in results.items():
        if "rebuild_s" in it:
            yield ""
            yield f"Read models of {int(count):,} services built anew in {it['rebuild_s']:.1f} s."
