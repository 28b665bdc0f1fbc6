"""Ingest beside its floor, a bare app that stores nothing, A B A B in one run.

Its services have all their heartbeats kept already, so that the broker lets go of one for each that it
stores, as it does in the long run.
"""

import asyncio
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from benchmarks import processes
from services.cli.supervisor import free_port

ROUNDS = 5
SECONDS = 2.0
CONNECTIONS = (64, 256)
MODES = ("default", "always")
SERVICES = 1000
KEPT = 100
PREFIX = "bench.service-"
"""Of their names; a number follows."""
FLOOR = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"15")]})
        await send({"type": "http.response.body", "body": b'{"status":"ok"}'})
"""
WRK = """
local n, requests = 0, {}
init = function()
  for i = 1, %d do requests[i] = wrk.format("POST", "/heartbeat/%s" .. i .. "%s") end
end
request = function() n = n %% #requests + 1; return requests[n] end
done = function(summary, latency)
  local e = summary.errors
  print("RESULT", summary.requests / summary.duration * 1e6, latency:percentile(50) / 1e3,
        latency:percentile(99) / 1e3, e.connect + e.read + e.write + e.status + e.timeout)
end
"""


def load(
    port: int, connections: int, seconds: float, folder: Path, prefix: str = PREFIX, query: str = ""
) -> dict[str, float]:
    """As many heartbeats as so many keep-alive connections get through: per second, and latencies in
    milliseconds. By wrk, or without it by a small loop here, which takes more of the machine."""
    if not shutil.which("wrk"):
        return asyncio.run(_load(port, connections, seconds, prefix, query))
    script = folder / "load.lua"
    script.write_text(WRK % (SERVICES, prefix, query))
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds:g}s",
        "-s",
        str(script),
        f"http://127.0.0.1:{port}",
    ]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result = re.search(r"RESULT\s+(\S+)\s+(\S+)\s+(\S+)\s+(\S+)", said)
    if not result or float(result[4]):
        raise RuntimeError(said)
    return dict(zip(("per_second", "p50_ms", "p99_ms"), map(float, result.groups()), strict=False))


async def _load(port: int, connections: int, seconds: float, prefix: str, query: str) -> dict[str, float]:
    end = time.perf_counter() + seconds
    latencies: list[float] = []

    async def connection(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (began := time.perf_counter()) < end:
            number = number % SERVICES + 1
            line = f"POST /heartbeat/{prefix}{number}{query} HTTP/1.1"
            writer.write(f"{line}\r\nHost: ::1\r\nContent-Length: 0\r\n\r\n".encode())
            if not (answer := await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200"):
                raise RuntimeError(answer.decode())
            await reader.readexactly(15)
            latencies.append((time.perf_counter() - began) * 1000)
        writer.close()

    await asyncio.gather(*(connection(n * SERVICES // connections) for n in range(connections)))
    cuts = statistics.quantiles(latencies, n=100)
    return {"per_second": len(latencies) / seconds, "p50_ms": cuts[49], "p99_ms": cuts[98]}


def fill(url: str) -> None:
    """As many heartbeats of each service as the broker keeps."""
    names = [f"bench.service-{n % SERVICES + 1}" for n in range(10_000)]
    for _ in range(SERVICES * KEPT // len(names) + 1):
        httpx.post(f"{url}/heartbeats", json={"services": names}, timeout=60).raise_for_status()


def measure(
    folder: Path,
    modes: tuple[str, ...] = MODES,
    connections: tuple[int, ...] = CONNECTIONS,
    rounds: int = ROUNDS,
) -> dict[str, Any]:
    floor_port = free_port()
    (folder / "floor.py").write_text(FLOOR)
    floor = f"uvicorn floor:app --port {floor_port} --no-access-log --log-level warning"
    results: dict[str, Any] = {}
    bare = processes.python(floor, folder)
    try:
        processes.wait_until_ready(f"http://127.0.0.1:{floor_port}/")
        for mode in modes:
            place = folder / mode
            place.mkdir()
            with processes.system(place, "ingest", durable=mode == "always") as system:
                fill(system.url("ingest"))
                ports = {"floor": floor_port, "ingest": system.ports["ingest"]}
                for count in connections:
                    runs: dict[str, list[dict[str, float]]] = {"floor": [], "ingest": []}
                    for _ in range(rounds):
                        for name, port in ports.items():
                            runs[name].append(load(port, count, SECONDS, folder))
                    results[f"{mode} {count}"] = _summary(runs)
    finally:
        processes.stop(bare)
    return results


def _summary(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    pairs = zip(runs["ingest"], runs["floor"], strict=True)
    return {
        "ratio": statistics.median(it["per_second"] / floor["per_second"] for it, floor in pairs),
        "medians": {
            name: {key: statistics.median(run[key] for run in each) for key in each[0]}
            for name, each in runs.items()
        },
        "runs": runs,
    }


def table(results: dict[str, Any]) -> Iterator[str]:
    yield "| ingest: sync_interval, connections | floor/s | ingest/s | ratio | ingest p50 ms | p99 ms |"
    yield "|---|---|---|---|---|---|"
    for key, result in results.items():
        floor, it = result["medians"]["floor"], result["medians"]["ingest"]
        yield (
            f"| {key.replace(' ', ', ')} | {floor['per_second']:,.0f} | {it['per_second']:,.0f} "
            f"| {result['ratio']:.2f} | {it['p50_ms']:.1f} | {it['p99_ms']:.1f} |"
        )
