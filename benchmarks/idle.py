"""What the whole system takes when nearly nothing happens: `registry run` with 100 services."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from benchmarks import processes
from benchmarks.feeder import name
from services.cli.supervisor import free_port

SERVICES = 100
SETTLE, SECONDS = 15.0, 30.0


def measure(folder: Path) -> dict[str, Any]:
    ports = {service: free_port() for service in ("ingest", "api", "monitor", "notifier")}
    variables = {f"REGISTRY_{service.upper()}_PORT": str(port) for service, port in ports.items()} | {
        "REGISTRY_NATS_URL": f"nats://127.0.0.1:{free_port()}",
        "REGISTRY_MONGODB_URL": f"mongodb://127.0.0.1:{free_port()}/?journal=true",
        "REGISTRY_DATA_DIR": str(folder / "data"),
    }
    registry = Path(sys.executable).parent / "registry"
    system = processes.start([str(registry), "run"], folder, **variables)
    try:
        processes.wait_until_ready(f"http://127.0.0.1:{ports['api']}/readyz", 60)
        ingest = f"http://127.0.0.1:{ports['ingest']}"
        names = [name(n) for n in range(SERVICES)]
        httpx.post(f"{ingest}/heartbeats", json={"services": names}).raise_for_status()
        time.sleep(SETTLE)
        before = _usage(system.pid)
        for each in range(10):  # each service once a minute would be 50 of them
            time.sleep(SECONDS / 10)
            for n in range(5):
                httpx.post(f"{ingest}/heartbeat/{names[each * 5 + n]}").raise_for_status()
        after = _usage(system.pid)
    finally:
        processes.stop(system)
    return {
        who: {"core": (seconds - before[who][0]) / SECONDS, "resident_mb": resident / 1e6}
        for who, (seconds, resident) in after.items()
    }


def _usage(parent: int) -> dict[str, tuple[float, int]]:
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], check=True, capture_output=True, text=True)
    found = {}
    for line in listed.stdout.splitlines():
        pid, above, command = line.split(None, 2)
        if parent in (int(pid), int(above)):
            words = [word.rpartition("/")[2] for word in command.split()]
            parts = (word for word in words if word.startswith(("services.", "nats-server", "secantusd")))
            who = next(parts, "registry run")
            found[who] = processes.usage_of(int(pid))
    return found


def table(result: dict[str, Any]) -> Iterator[str]:
    yield f"| idle, {SERVICES} services | % of a core | MB |"
    yield "|---|---|---|"
    for who, it in result.items():
        yield f"| {who} | {100 * it['core']:.2f} | {it['resident_mb']:.0f} |"
    core, memory = (sum(it[key] for it in result.values()) for key in ("core", "resident_mb"))
    yield f"| all | {100 * core:.2f} | {memory:.0f} |"
