"""Publishers one after the other on one broker: each must find the faster way of sending by itself."""

import asyncio
import subprocess
import sys
from operator import truediv
from pathlib import Path
from statistics import median
from typing import Any

from tests.broker import provisioned
from tests.servers import nats_server

ROUNDS = 10
SERVICES = 10_000
SECONDS = 2.0
KINDS = ("fast", "", "atomic")
"""What each publisher of a round sends; the second chooses."""
KEPT = 1000
"""Heartbeats of a service: more than come, for a full stream takes half as many every other time."""


def measure(folder: Path) -> dict[str, Any]:
    """Heartbeats a second of each, as fast as the broker takes them, and the share that went in fast batches
    of those that choose."""
    broker = nats_server(folder).start()
    url = f"nats://127.0.0.1:{broker.port}"
    rates: dict[str, list[int]] = {kind: [] for kind in KINDS}
    shares = []
    try:
        asyncio.run(_provision(url))
        for _ in range(ROUNDS):
            for kind in KINDS:
                command = ["-m", "benchmarks.feeder", url, str(SERVICES), "0", str(SECONDS), kind]
                out = subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True)
                sent, took, share = map(float, out.stdout.splitlines()[-1].split())
                rates[kind].append(round(sent / took))
                if not kind:
                    shares.append(round(share, 3))
    finally:
        broker.kill()
    best = max((rates["fast"], rates["atomic"]), key=median)
    return {
        "chosen": rates[""],
        "fast": rates["fast"],
        "atomic": rates["atomic"],
        "fast_shares": shares,
        "chosen_of_best": round(median(map(truediv, rates[""], best)), 3),
        "slowest_of_fastest": _spread(rates[""]),
        "slowest_of_fastest_of_best": _spread(best),
    }


def _spread(rates: list[int]) -> float:
    return round(min(rates) / max(rates), 3)


async def _provision(url: str) -> None:
    link = await provisioned(url, kept=KEPT)
    await link.close()


def table(result: dict[str, Any]) -> list[str]:
    def row(kind: str) -> str:
        return ", ".join(f"{rate:,}" for rate in result[kind])

    shares = ", ".join(f"{share:.0%}" for share in result["fast_shares"])
    return [
        f"{ROUNDS} publishers in turn, {SERVICES:,} services each, heartbeats/s: {row('chosen')}",
        f"beside each, one that sends nothing but fast batches: {row('fast')}",
        f"and one that sends nothing but atomic ones: {row('atomic')}",
        f"of those that chose, went in fast batches: {shares}",
        f"they have {result['chosen_of_best']:.2f} of the better kind (median of the rounds)",
        f"their slowest has {result['slowest_of_fastest']:.2f} of their fastest; of the better kind's it is "
        f"{result['slowest_of_fastest_of_best']:.2f}",
    ]
