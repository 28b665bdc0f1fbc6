"""What every benchmark does with processes: start them, wait for them, look at them, end them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from prometheus_client.parser import text_string_to_metric_families

from services.cli import processes as embedded
from services.cli.supervisor import free_port


def start(command: list[str], folder: Path, **env: str) -> subprocess.Popen[bytes]:
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=os.environ | env)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(30)


@contextmanager
def broker(folder: Path, *, durable: bool = True) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """URL and process of a NATS server as `registry run` embeds it; or not synced to disk, to fill it."""
    url = f"nats://127.0.0.1:{free_port()}"
    server = embedded.nats((url,), folder)
    assert server
    if not durable:
        config = folder / "nats.conf"
        config.write_text(config.read_text().replace("sync_interval: always", "sync_interval: 2m"))
    process = start(server.command, folder)
    try:
        wait_until_listening(url)
        yield url, process
    finally:
        stop(process)


def wait_until_listening(url: str) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", urlsplit(url).port or 0)):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens at {url}")


def python(module: str, folder: Path, **env: str) -> subprocess.Popen[bytes]:
    return start([sys.executable, "-m", *module.split()], folder, **env)


def wait_until_ready(url: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"{url} did not become ready")


def usage_of(pid: int) -> tuple[float, int]:
    """Of a process: seconds of processor time since its start, bytes of memory."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds, int(fields[21]) * os.sysconf("SC_PAGE_SIZE")


class System:
    """A broker, a database if the API is among them, and some of the services, as processes."""

    def __init__(self, broker: str, folder: Path, env: dict[str, str]) -> None:
        self.broker = broker
        self._folder = folder
        self._env = env
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ports: dict[str, int] = {}

    def start(self, *services: str) -> None:
        """Start them, and return when they are ready."""
        for service in services:
            self.ports[service] = free_port()
            port = {f"REGISTRY_{service.upper()}_PORT": str(self.ports[service])}
            self.processes[service] = python(f"services.{service}", self._folder, **self._env, **port)
        for service in services:
            wait_until_ready(f"{self.url(service)}/readyz", 120)

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.ports[service]}"

    def metric(self, service: str, metric: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(httpx.get(f"{self.url(service)}/metrics").text)
            for sample in family.samples
            if sample.name == metric and labels.items() <= sample.labels.items()
        )

    def usage(self) -> dict[str, tuple[float, int]]:
        """By process: seconds of processor time since its start, bytes of memory."""
        return {name: usage_of(process.pid) for name, process in self.processes.items()}


@contextmanager
def system(folder: Path, *services: str, durable: bool = True, **variables: str) -> Iterator[System]:
    """Started and ready. `variables`: of the registry's, without their prefix, in lower case."""
    with broker(folder, durable=durable) as (url, server):
        env = {"REGISTRY_NATS_URL": url, "REGISTRY_MAX_SERVICES": "10000000"}
        env |= {f"REGISTRY_{key.upper()}": value for key, value in variables.items()}
        found = System(url, folder, env)
        found.processes["broker"] = server
        try:
            if "api" in services:
                env["REGISTRY_MONGODB_URL"] = f"mongodb://127.0.0.1:{free_port()}/?journal=true"
                database = embedded.mongodb(env["REGISTRY_MONGODB_URL"], folder)
                assert database
                found.processes["database"] = start(database.command, folder)
            found.start(*services)
            yield found
        finally:
            for name in reversed(found.processes):
                if name != "broker":
                    stop(found.processes[name])
