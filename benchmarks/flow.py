"""Heartbeats through the whole: the batch endpoint, straight to the broker, and on into the monitor's state
and the API's."""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from benchmarks import ingest, processes
from benchmarks.feeder import name
from shared.messaging import streams

BATCH = 10_000
ROUNDS = 5
SERVICES = 10_000
SECONDS = 3.0
SUSTAINED = {"default": 18.0, "always": 60.0}
"""Seconds."""


def measure(folder: Path) -> dict[str, Any]:
    results = {}
    for mode, seconds in SUSTAINED.items():
        durable = mode == "always"
        results[mode] = _mode(folder / mode, durable=durable)
        results[mode]["sustained"] = _sustained(folder / f"{mode}-all", durable=durable, seconds=seconds)
    return results


def _mode(folder: Path, *, durable: bool) -> dict[str, Any]:
    folder.mkdir()
    with processes.system(folder, "ingest", "monitor", durable=durable, heartbeats_kept="5") as system:
        names = {"services": [name(n) for n in range(BATCH)]}
        took = []
        for _ in range(ROUNDS + 1):
            began = time.perf_counter()
            answer = httpx.post(f"{system.url('ingest')}/heartbeats", json=names, timeout=60)
            took.append(time.perf_counter() - began)
            assert answer.json()["accepted"] == BATCH, answer.text
        _caught_up(system)
        return {
            "batch": BATCH / statistics.median(took[1:]),  # the first registers them
            "direct": statistics.median(_direct(system) for _ in range(ROUNDS)),
        }


def _direct(system: processes.System) -> float:
    """Heartbeats per second, from the first that is sent to the last that is in the monitor's state."""
    before, began = system.metric("monitor", "registry_heartbeats_read_total"), time.perf_counter()
    sent = feed(system, SERVICES, 0, SECONDS).split()[0]
    while system.metric("monitor", "registry_heartbeats_read_total") < before + int(sent):
        time.sleep(0.01)
    return int(sent) / (time.perf_counter() - began)


def feed(system: processes.System, services: int, rate: float, seconds: float) -> str:
    command = [
        sys.executable,
        "-m",
        "benchmarks.feeder",
        system.broker,
        str(services),
        str(rate),
        str(seconds),
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]


def _caught_up(system: processes.System) -> None:
    deadline = time.monotonic() + 60
    while system.metric("monitor", "registry_services") < BATCH:
        if time.monotonic() > deadline:
            raise RuntimeError("the monitor did not register them")
        time.sleep(0.1)


def _sustained(folder: Path, *, durable: bool, seconds: float) -> dict[str, Any]:
    """All that 64 connections get through, with everything running: how far the others are behind."""
    folder.mkdir()
    with processes.system(folder, "ingest", "monitor", "api", "notifier", durable=durable) as system:
        ingest.fill(system.url("ingest"))
        while _behind(system)["monitor"]:
            time.sleep(0.1)
        idle = system.usage()
        began = time.perf_counter()
        runs, behind = [], []
        for _ in range(6):
            runs.append(ingest.load(system.ports["ingest"], 64, seconds / 6, folder))
            behind.append(_behind(system))
        took = time.perf_counter() - began
        usage = system.usage()
        return {
            "per_second": sum(run["per_second"] for run in runs) / len(runs),
            "p99_ms": max(run["p99_ms"] for run in runs),
            "behind": behind,
            "cores": {name: (usage[name][0] - idle[name][0]) / took for name in usage},
            "resident_mb": {name: (idle[name][1] / 1e6, usage[name][1] / 1e6) for name in usage},
        }


def _behind(system: processes.System) -> dict[str, float]:
    """Heartbeats that are stored, and not in the state of each."""
    stored = system.metric("ingest", "registry_heartbeats_total", result="stored")
    return {
        "monitor": max(0.0, stored - system.metric("monitor", "registry_heartbeats_read_total")),
        "api": system.metric("api", "registry_projection_lag_messages", stream=streams.HEARTBEATS),
    }


def table(result: dict[str, Any]) -> Iterator[str]:
    yield "| heartbeats/s | sync_interval default | always |"
    yield "|---|---|---|"
    titles = {
        "batch": "POST /heartbeats, 10,000 names each, one after the other",
        "direct": "straight to NATS, until in the monitor's state",
    }
    default, always = result["default"], result["always"]
    for key, title in titles.items():
        yield f"| {title} | {default[key]:,.0f} | {always[key]:,.0f} |"
    whole = [it["sustained"] for it in (default, always)]
    rates = " | ".join(f"{it['per_second']:,.0f}" for it in whole)
    yield f"| all services, over HTTP, 64 connections, {SUSTAINED['always']:.0f} s with `always` | {rates} |"
    for who in ("monitor", "api"):
        most = " | ".join(f"{max(it[who] for it in each['behind']):,.0f}" for each in whole)
        yield f"| … of them not in the state of the {who}, at most | {most} |"
    yield ""
    yield "| process | MB idle | MB under load | cores under load (`always`) |"
    yield "|---|---|---|---|"
    for process, (idle, loaded) in whole[1]["resident_mb"].items():
        yield f"| {process} | {idle:.0f} | {loaded:.0f} | {whole[1]['cores'][process]:.2f} |"
