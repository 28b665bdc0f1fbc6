"""`registry run`: the embedded servers and the four services, kept alive, started and stopped in order."""

import asyncio
import fcntl
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit

import httpx
import structlog
import typer

from services.cli import processes
from services.cli.processes import WRONG_CONFIGURATION, Child, Place, announce
from services.cli.settings import SERVICES, RunSettings
from shared.http.urls import near
from shared.settings import PREFIX, stop
from shared.telemetry import logs

log = structlog.get_logger()

READY_TIMEOUT = 60.0


def run(settings: RunSettings) -> int:
    """Run everything until SIGTERM or Ctrl-C. The exit code: 0 after a stop, 1 if something could not be
    started, 2 if something is configured wrongly."""
    if settings.log_format == "json":
        logs.configure("run", settings.log_level, settings.log_format)
    data = settings.data_dir.resolve()
    lock = _lock(data)
    try:
        return asyncio.run(_run(settings, data))
    finally:
        lock.close()


def _lock(data: Path) -> TextIO:
    """Create the data folder if it is not there, and lock it for this process alone."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        lock = (data / "lock").open("w")
    except OSError as error:
        stop(f"REGISTRY_DATA_DIR={str(data)!r} is not accepted: a folder to write in ({error.strerror})")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stop(f"REGISTRY_DATA_DIR={str(data)!r} is in use by another `registry run`")
    return lock


async def _run(settings: RunSettings, data: Path) -> int:
    servers = _servers(settings, data)
    ports = choose_ports(settings, [server.place for server in servers if server.place])
    for server in servers:
        if server.log:
            server.log.unlink(missing_ok=True)
    services = _services(ports)
    stopping = asyncio.Event()
    for sig in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sig, stopping.set)
    try:
        for child in servers + services:
            if why := await child.start():
                announce(f"{child.name} {why}")
                return 1
            child.keeper = asyncio.create_task(child.keep())
        keepers = [child.keeper for child in servers + services if child.keeper]
        stop_wanted = asyncio.create_task(stopping.wait())
        ready = asyncio.create_task(_announce(settings, ports))
        await asyncio.wait([*keepers, stop_wanted, ready], return_when=asyncio.FIRST_COMPLETED)
        if ready.done() and not ready.result():
            announce(f"not ready within {READY_TIMEOUT:g} s; see the lines above and {data}")
        await asyncio.wait([*keepers, stop_wanted], return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
    finally:
        announce("stopping")
        for step in (services[:1], services[1:], servers):  # first ingest, last the servers that all need
            await asyncio.gather(*(child.stop() for child in step))
        announce("stopped")
    return WRONG_CONFIGURATION if any(child.misconfigured for child in servers + services) else 0


def _servers(settings: RunSettings, data: Path) -> list[Child]:
    embedded = processes.nats(settings.nats_url, data), processes.mongodb(settings.mongodb_url, data)
    return [server for server in embedded if server]


def _services(ports: dict[str, int]) -> list[Child]:
    return [
        Child(
            name, [sys.executable, "-m", f"services.{name}"], env={f"{PREFIX}{name.upper()}_PORT": str(port)}
        )
        for name, port in ports.items()
    ]


@asynccontextmanager
async def broker(settings: RunSettings) -> AsyncIterator[None]:
    """Make sure that the broker runs: the embedded one is started for a while if it is to be on this machine
    and nothing is there. It syncs everything to the disk at its end, not each message."""
    data = settings.data_dir.resolve()
    url = urlsplit(settings.nats_url[0])
    host, port = url.hostname or "", url.port or 4222
    ours = len(settings.nats_url) == 1 and host in processes.LOOPBACK
    if not ours or not is_free(host, port):
        yield
        return
    lock = _lock(data)
    child = processes.nats(settings.nats_url, data, sync="2m")
    assert child
    announce(f"no broker is running; starting the embedded one of {data} for this")
    try:
        if why := await child.start():
            raise OSError(f"the broker {why}")
        async with asyncio.timeout(READY_TIMEOUT):
            while is_free(host, port):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)
        yield
    finally:
        await child.stop()
        os.sync()
        lock.close()


async def _announce(settings: RunSettings, ports: dict[str, int]) -> bool:
    """Wait until all are ready, then print where everything is. False if that took too long."""
    async with httpx.AsyncClient(timeout=2, trust_env=False) as client:
        try:
            async with asyncio.timeout(READY_TIMEOUT):
                for name, port in ports.items():
                    url = f"http://{near(settings.bound_to(name))}:{port}/readyz"
                    while not await _is_ready(client, url):  # noqa: ASYNC110 - another process
                        await asyncio.sleep(0.1)
        except TimeoutError:
            return False
    if structlog.is_configured():
        for line in filter(None, _welcome(settings, ports).splitlines()):
            log.info(line.strip())
    else:
        typer.echo(_welcome(settings, ports))
    return True


async def _is_ready(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code == 200
    except httpx.HTTPError:
        return False


def _welcome(settings: RunSettings, ports: dict[str, int]) -> str:
    base, inner = f"http://{near(settings.host)}", f"http://{near(settings.metrics_host)}"
    has_token = settings.ingest_token and "ingest" not in settings.anonymous
    token = "-H 'Authorization: Bearer YOUR_INGEST_TOKEN' " if has_token else ""
    return f"""
The registry is ready.

  dashboard    {base}:{ports["api"]}/
  API          {base}:{ports["api"]}/docs
  heartbeats   {base}:{ports["ingest"]}/heartbeat/<service_name>
  events       {inner}:{ports["monitor"]}/asyncapi and {inner}:{ports["notifier"]}/asyncapi

Send a heartbeat:

  curl -fsS -X POST {token}{base}:{ports["ingest"]}/heartbeat/my-service
"""


# --- where the services listen, and whether they can


def choose_ports(settings: RunSettings, servers: Sequence[Place] = ()) -> dict[str, int]:
    """The ports of the services: free ones for default ports that are taken. Ends the process with code 2 if
    another port is taken, or is wanted by two; `servers`: where the embedded servers listen."""
    ports: dict[str, int] = {name: getattr(settings, f"{name}_port") for name in SERVICES}
    ours = list(servers)
    gives_way = {each for each in ("monitor", "notifier") if f"{each}_port" not in settings.model_fields_set}
    for name in sorted(ports, key=gives_way.__contains__):
        place = Place(f"{name.upper()}_PORT", settings.bound_to(name), ports[name])
        if name in gives_way and (_holder(place, ours) or not is_free(*place[1:])):
            ports[name] = free_port()
            place = place._replace(port=ports[name])
        ours.append(place)
    for n, place in enumerate(ours):
        variable, host, port = place
        if other := _holder(place, ours[:n]):
            stop(f"{PREFIX}{variable}: port {port} is that of {PREFIX}{other} already; accepted: another one")
        if not is_free(host, port):
            stop(f"port {port} on {host} is taken (or not ours to use): set {PREFIX}{variable} to a free one")
    return ports


def _holder(place: Place, others: Iterable[Place]) -> str:
    """The variable of the one among `others` that listens at the same place; empty: none does."""
    for other in others:
        hosts = {place.host, other.host}
        if place.port == other.port and (len(hosts) == 1 or any(map(_is_everywhere, hosts))):
            return other.variable
    return ""


def _is_everywhere(host: str) -> bool:
    """Whether what is bound to it listens at each address of this machine."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_unspecified
    return False


def is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except (OSError, UnicodeError):  # the latter: it cannot be the name of a host
            return False
    return True


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
