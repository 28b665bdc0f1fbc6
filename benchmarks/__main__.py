"""`make bench`: ingest beside its floor, a bare app that stores nothing, A B A B in one run.

Prints a table and writes `benchmarks/results/latest.json`. Machines are noisy: read the ratio.
"""

import asyncio
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from services.cli import embedded
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


def start(command: list[str], folder: Path, **env: str) -> subprocess.Popen[bytes]:
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=os.environ | env)


def wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"{url} did not become ready")


def measure(folder: Path) -> dict[str, list[dict[str, float]]]:
    nats_port, floor_port, ingest_port = free_port(), free_port(), free_port()
    url = f"nats://127.0.0.1:{nats_port}"
    server = embedded.nats((url,), folder)
    assert server
    (folder / "floor.py").write_text(FLOOR)
    floor = [sys.executable, "-m", "uvicorn", "floor:app", "--port", str(floor_port), "--no-access-log"]
    variables = {"REGISTRY_NATS_URL": url, "REGISTRY_INGEST_PORT": str(ingest_port)}
    processes = [
        start(server.command, folder),
        start([*floor, "--log-level", "warning"], folder),
        start([sys.executable, "-m", "services.ingest"], folder, **variables),
    ]
    try:
        wait_until_ready(f"http://127.0.0.1:{floor_port}/")
        wait_until_ready(f"http://127.0.0.1:{ingest_port}/readyz")
        results: dict[str, list[dict[str, float]]] = {"floor": [], "ingest": []}
        for _ in range(ROUNDS):
            results["floor"].append(asyncio.run(load(floor_port)))
            results["ingest"].append(asyncio.run(load(ingest_port)))
        return results
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
            process.wait(10)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder))
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in results.items()
    }
    ratio = medians["ingest"]["per_second"] / medians["floor"]["per_second"]
    lines = [f"{'':28}{'heartbeats/s':>14}{'p50 ms':>9}{'p99 ms':>9}"]
    titles = {"floor": "bare app, stores nothing", "ingest": "ingest, synced to disk"}
    for name, title in titles.items():
        row = medians[name]
        lines.append(f"{title:28}{row['per_second']:14,.0f}{row['p50_ms']:9.1f}{row['p99_ms']:9.1f}")
    lines.append(f"ratio {ratio:.2f} (medians of {ROUNDS} x {SECONDS:g} s, {CONNECTIONS} connections)")
    sys.stdout.write("\n".join(lines) + "\n")
    machine = {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    target = Path(__file__).parent / "results" / "latest.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({"machine": machine, "ratio": ratio, "runs": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
