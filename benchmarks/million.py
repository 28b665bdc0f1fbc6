"""A million services that beat once a minute, for five minutes: monitor, broker, publisher on one machine.
Before that as many heartbeats per second of fewer services, to see whether one costs the same."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import monitor, processes

SERVICES, PERIOD, MINUTES = 1_000_000, 60.0, 5
RATE = SERVICES / PERIOD
FEWER, SECONDS = (100, 10_000, 100_000), 20.0


def measure(folder: Path) -> dict[str, Any]:
    sizes = {str(count): _size(folder, count, SECONDS) for count in FEWER}
    return {"sizes": sizes | {str(SERVICES): _size(folder, SERVICES, MINUTES * 60.0)}}


def _size(folder: Path, services: int, seconds: float) -> dict[str, Any]:
    place = folder / str(services)
    place.mkdir()
    with processes.broker(place, durable=False) as (url, _):
        asyncio.run(_register(url, services))
    with processes.system(place, "ingest", "monitor", durable=False, heartbeats_kept="2") as system:
        before, read = system.usage(), system.metric("monitor", "registry_heartbeats_read_total")
        feeder, began, lag = _feed(system, services, seconds), time.perf_counter(), []
        while feeder.poll() is None:
            time.sleep(5)
            lag.append(system.metric("monitor", "registry_tick_lag_messages"))
        took, usage = time.perf_counter() - began, system.usage()
        read = system.metric("monitor", "registry_heartbeats_read_total") - read
        spent = {name: usage[name][0] - before[name][0] for name in ("broker", "monitor")}
        return {
            "per_second": read / took,
            "behind_s": max(lag) / RATE,
            "silent": system.metric("monitor", "registry_services", status="silent"),
            "cores": {name: seconds / took for name, seconds in spent.items()},
            "each_us": {name: seconds / read * 1e6 for name, seconds in spent.items()},
            "resident_mb": {name: usage[name][1] / 1e6 for name in usage},
        }


async def _register(url: str, services: int) -> None:
    link = await monitor.connect(url)
    await monitor.fill(link, services)
    await link.close()


def _feed(system: processes.System, services: int, seconds: float) -> subprocess.Popen[bytes]:
    numbers = map(str, (services, RATE, seconds))
    command = [sys.executable, "-m", "benchmarks.feeder", system.broker, *numbers]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def table(result: dict[str, Any]) -> Iterator[str]:
    yield (
        f"| {RATE:,.0f} heartbeats/s straight to NATS, of so many services | µs each, broker | monitor "
        "| taken in/s | a tick behind, at most, s | falsely silent | MB, broker | monitor |"
    )
    yield "|---" * 8 + "|"
    for count, it in result["sizes"].items():
        each, memory = it["each_us"], it["resident_mb"]
        yield (
            f"| {int(count):,} | {each['broker']:.1f} | {each['monitor']:.1f} | {it['per_second']:,.0f} "
            f"| {it['behind_s']:.2f} | {it['silent']:.0f} "
            f"| {memory['broker']:,.0f} | {memory['monitor']:,.0f} |"
        )
    most = result["sizes"][str(SERVICES)]
    yield ""
    yield (
        f"The million for {MINUTES} minutes: "
        + ", ".join(f"{who} {cores:.2f} cores" for who, cores in most["cores"].items())
        + "."
    )
