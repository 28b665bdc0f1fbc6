"""Ten publishers one after the other on one broker: each must find the faster way of sending by itself."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.broker import provisioned
from tests.servers import nats_server

PUBLISHERS = 10
SERVICES = 10_000
SECONDS = 4.0
KEPT = 5
"""Heartbeats of a service, so that the stream is soon as full as it gets."""


def measure(folder: Path) -> dict[str, Any]:
    """Heartbeats a second of each, as fast as the broker takes them."""
    broker = nats_server(folder).start()
    url = f"nats://127.0.0.1:{broker.port}"
    rates = []
    try:
        asyncio.run(_provision(url))
        for _ in range(PUBLISHERS + 1):
            command = [sys.executable, "-m", "benchmarks.feeder", url, str(SERVICES), "0", str(SECONDS)]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            sent, took = out.splitlines()[-1].split()
            rates.append(round(int(sent) / float(took)))
    finally:
        broker.kill()
    rates = rates[1:]  # the first one fills the stream, and the broker lets go of nothing yet
    return {"rates": rates, "slowest_of_fastest": round(min(rates) / max(rates), 3)}


async def _provision(url: str) -> None:
    link = await provisioned(url, kept=KEPT)
    await link.close()


def table(result: dict[str, Any]) -> list[str]:
    rates = ", ".join(f"{rate:,}" for rate in result["rates"])
    return [
        f"{PUBLISHERS} publishers in turn, {SERVICES:,} services each, heartbeats/s: {rates}",
        f"the slowest has {result['slowest_of_fastest']:.2f} of the fastest",
    ]
