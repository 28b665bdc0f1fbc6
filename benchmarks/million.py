"""A million services that beat once a minute, for five minutes: monitor, broker, publisher on one machine."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import processes

SERVICES, PERIOD, MINUTES = 1_000_000, 60.0, 5
REGISTERED_WITHIN = 420


def measure(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = {}
    with processes.system(folder, "ingest", "monitor", durable=False, heartbeats_kept="2") as system:
        began = time.perf_counter()
        _feed(system, SERVICES / PERIOD, PERIOD + 1).wait()
        while system.metric("monitor", "registry_services") < SERVICES:
            if time.perf_counter() - began > REGISTERED_WITHIN:
                raise RuntimeError("the monitor did not register them")
            time.sleep(1)
        results["registered_s"] = time.perf_counter() - began
        before, read = system.usage(), system.metric("monitor", "registry_heartbeats_read_total")
        feeder, began, lag = _feed(system, SERVICES / PERIOD, MINUTES * 60.0), time.perf_counter(), []
        while feeder.poll() is None:
            time.sleep(5)
            lag.append(system.metric("monitor", "registry_tick_lag_messages"))
        took, usage = time.perf_counter() - began, system.usage()
        read = system.metric("monitor", "registry_heartbeats_read_total") - read
        results["per_second"] = read / took
        results["behind_s"] = max(lag) / (SERVICES / PERIOD)
        results["silent"] = system.metric("monitor", "registry_services", status="silent")
        results["cores"] = {name: (usage[name][0] - before[name][0]) / took for name in usage}
        results["resident_mb"] = {name: usage[name][1] / 1e6 for name in usage}
    return results


def _feed(system: processes.System, rate: float, seconds: float) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.feeder",
        system.broker,
        str(SERVICES),
        str(rate),
        str(seconds),
    ]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def table(result: dict[str, Any]) -> Iterator[str]:
    yield f"| {SERVICES:,} services, once a minute each, {MINUTES} min | |"
    yield "|---|---|"
    yield f"| registered within | {result['registered_s']:.0f} s |"
    yield f"| heartbeats taken into the monitor's state | {result['per_second']:,.0f}/s |"
    yield f"| a tick behind the newest heartbeat, at most | {result['behind_s']:.2f} s |"
    yield f"| falsely silent | {result['silent']:.0f} |"
    for name, cores in result["cores"].items():
        yield f"| {name} | {cores:.2f} cores, {result['resident_mb'][name]:,.0f} MB |"
