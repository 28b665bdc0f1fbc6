"""From the moment a fall is due to the call that tells Telegram: idle, and under load."""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from benchmarks import processes
from benchmarks.feeder import name
from tests.telegram_standin import Standin

FALLS = 10
SILENT_AFTER = 3.0
"""Seconds: three times the interval that the services declare."""
APART = 5.7
"""Seconds between two heartbeats: falls come at any time between two ticks, and find the chat free, which
takes a message per second; first heartbeats and `down` after 12 s are told at other times."""
RATE, FLEET = 5000, 5000


def measure(folder: Path) -> dict[str, Any]:
    with Standin() as telegram:
        variables = {
            "telegram_bot_token": telegram.token,
            "telegram_chat_id": "42",
            "telegram_api_url": telegram.url,
            "digest_time": "",
        }
        with processes.system(folder, "ingest", "monitor", **variables) as system:
            names = {"services": [name(n) for n in range(FLEET)]}
            httpx.post(f"{system.url('ingest')}/heartbeats", json=names, timeout=60).raise_for_status()
            while system.metric("monitor", "registry_services") < FLEET:
                time.sleep(0.1)
            system.start("notifier")  # now, for its chat has a message per second to tell of 5,000 first ones
            results = {"idle": _falls(system, telegram, "idle")}
            seconds = str(FALLS * APART + SILENT_AFTER + 20)
            command = ["-m", "benchmarks.feeder", system.broker, str(FLEET), str(RATE), seconds]
            feeder = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
            time.sleep(3)
            results["loaded"] = _falls(system, telegram, "loaded")
            feeder.kill()
            feeder.wait()
            return results


def _falls(system: processes.System, telegram: Standin, prefix: str) -> dict[str, float]:
    due = {}
    with httpx.Client(base_url=system.url("ingest")) as client:
        for n in range(FALLS):
            began = time.time()
            client.post(f"/heartbeat/{prefix}-{n:02}?every={SILENT_AFTER / 3:g}s").raise_for_status()
            due[f"{prefix}-{n:02}"] = time.time() + SILENT_AFTER
            time.sleep(max(0.0, began + APART - time.time()))
    time.sleep(SILENT_AFTER + 2)
    late = []
    for service, at in due.items():
        told = [it["time"] for it in telegram.messages if f"{service}: alive → silent" in it["text"]]
        if not told:
            raise RuntimeError(f"{service} was not told")
        late.append((told[0] - at) * 1000)
    return {"p50_ms": statistics.median(late), "p99_ms": max(late)}


def table(result: dict[str, Any]) -> Iterator[str]:
    yield f"| due → Telegram, ticks of 1 s, {FALLS} falls | p50 ms | most ms |"
    yield "|---|---|---|"
    for key, title in {"idle": "idle", "loaded": f"at {RATE:,} heartbeats/s"}.items():
        yield f"| {title} | {result[key]['p50_ms']:,.0f} | {result[key]['p99_ms']:,.0f} |"
