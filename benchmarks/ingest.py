"""Ingest beside its floor, a bare app that stores nothing, A B A B in one run."""

import asyncio
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import processes
from services.cli.supervisor import free_port

ROUNDS = 5
SECONDS = 3.0
CONNECTIONS = 64
FLOOR = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"15")]})
        await send({"type": "http.response.body", "body": b'{"status":"ok"}'})
"""


async def load(port: int) -> dict[str, float]:
    """As many heartbeats as CONNECTIONS keep-alive connections get through; latencies in milliseconds."""
    request = b"POST /heartbeat/bench HTTP/1.1\r\nHost: bench\r\nContent-Length: 0\r\n\r\n"
    end = time.perf_counter() + SECONDS
    latencies: list[float] = []

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (began := time.perf_counter()) < end:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(head.decode())
            await reader.readexactly(15)
            latencies.append((time.perf_counter() - began) * 1000)
        writer.close()

    await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))
    cuts = statistics.quantiles(latencies, n=100)
    return {"per_second": len(latencies) / SECONDS, "p50_ms": cuts[49], "p99_ms": cuts[98]}


def measure(folder: Path) -> dict[str, Any]:
    floor_port, ingest_port = free_port(), free_port()
    (folder / "floor.py").write_text(FLOOR)
    floor = f"uvicorn floor:app --port {floor_port} --no-access-log --log-level warning"
    runs: dict[str, list[dict[str, float]]] = {"floor": [], "ingest": []}
    with processes.broker(folder) as (url, _):
        variables = {"REGISTRY_NATS_URL": url, "REGISTRY_INGEST_PORT": str(ingest_port)}
        running = [
            processes.python(floor, folder),
            processes.python("services.ingest", folder, **variables),
        ]
        try:
            processes.wait_until_ready(f"http://127.0.0.1:{floor_port}/")
            processes.wait_until_ready(f"http://127.0.0.1:{ingest_port}/readyz")
            for _ in range(ROUNDS):
                runs["floor"].append(asyncio.run(load(floor_port)))
                runs["ingest"].append(asyncio.run(load(ingest_port)))
        finally:
            for process in running:
                processes.stop(process)
    medians = {
        name: {key: statistics.median(run[key] for run in each) for key in each[0]}
        for name, each in runs.items()
    }
    return {
        "ratio": medians["ingest"]["per_second"] / medians["floor"]["per_second"],
        "medians": medians,
        "runs": runs,
    }


def table(result: dict[str, Any]) -> Iterator[str]:
    yield f"{'':28}{'heartbeats/s':>14}{'p50 ms':>9}{'p99 ms':>9}"
    for name, title in {"floor": "bare app, stores nothing", "ingest": "ingest, synced to disk"}.items():
        row = result["medians"][name]
        yield f"{title:28}{row['per_second']:14,.0f}{row['p50_ms']:9.1f}{row['p99_ms']:9.1f}"
    yield f"ratio {result['ratio']:.2f} (medians of {ROUNDS} x {SECONDS:g} s, {CONNECTIONS} connections)"
