"""The processes of `registry run`, each started again when it ends; among them the embedded servers."""

import asyncio
import ctypes
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import structlog
import typer

from shared.settings import stop
from shared.telemetry.visible import visible

log = structlog.get_logger()

LOOPBACK = ("127.0.0.1", "localhost", "::1")
STOP_TIMEOUT = 3.0
"""Seconds that a process may take to stop before it is killed."""
STEADY_AFTER = 30.0
"""Seconds after which a process has run long enough to be started again at once."""
MAX_BACKOFF = 10.0
WRONG_CONFIGURATION = 2


class Place(NamedTuple):
    """Where something listens. `variable`: what names it, without the prefix."""

    variable: str
    host: str
    port: int


@dataclass
class Child:
    """A process that is started again, after a growing pause, whenever it ends by itself."""

    name: str
    command: list[str]
    place: Place | None = None
    log: Path | None = None
    env: dict[str, str] = field(default_factory=dict)
    process: asyncio.subprocess.Process | None = None
    keeper: asyncio.Task[None] | None = None
    misconfigured: bool = False

    async def start(self) -> str:
        """Start it. Why it cannot be started; empty if it was."""
        try:
            with self.log.open("ab") if self.log else nullcontext() as out:
                self.process = await asyncio.create_subprocess_exec(
                    *self.command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    env=os.environ | self.env,
                    start_new_session=True,
                    preexec_fn=_end_with_parent if sys.platform == "linux" else None,
                )
        except (OSError, subprocess.SubprocessError) as error:
            return f"cannot be started ({getattr(error, 'strerror', None) or error})"
        return ""

    async def keep(self) -> None:
        """Start it again whenever it ends, until cancelled, or until it ends because it is misconfigured."""
        loop, wait = asyncio.get_running_loop(), 0.2
        while True:
            assert self.process
            started = loop.time()
            code = await self.process.wait()
            if code == WRONG_CONFIGURATION:
                self.misconfigured = True
                return
            if loop.time() - started > STEADY_AFTER:
                wait = 0.2
            why = f"ended ({_ending(code)})"
            while why:
                announce(f"{self.name} {why}; starting it again in {wait:.1f} s")
                await asyncio.sleep(wait)
                wait = min(wait * 2, MAX_BACKOFF)
                why = await self.start()

    async def stop(self) -> None:
        if self.keeper:
            self.keeper.cancel()
        if self.process is None or self.process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), STOP_TIMEOUT)
        except TimeoutError:
            announce(f"{self.name} did not stop within {STOP_TIMEOUT:g} s; ending it")
            with suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()


def _end_with_parent() -> None:
    """A child gets SIGTERM when the supervisor is killed, so that no orphan keeps a port (Linux)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def announce(text: str) -> None:
    """Tell the user what happens, in the log if that is JSON."""
    if structlog.is_configured():
        log.warning(text)
    else:
        typer.echo(visible(text), err=True)


# --- the embedded servers: NATS and a MongoDB-compatible database


def nats(urls: tuple[str, ...], data: Path, sync: str = "always") -> Child | None:
    """The NATS server for these URLs; None if they lead elsewhere. `sync`: how often it syncs to the disk."""
    url = urlsplit(urls[0])
    if len(urls) > 1 or url.hostname not in LOOPBACK:
        return None
    host, port = url.hostname or "127.0.0.1", url.port or 4222
    config = data / "nats.conf"
    config.touch()
    config.chmod(0o600)
    lines = [
        f"listen: {_quoted(f'{host}:{port}')}",
        'server_name: "registry"',
        # Every acknowledged write is on the disk: a power failure loses nothing that was answered with 200.
        f"jetstream {{ store_dir: {_quoted(str(data / 'nats'))}, sync_interval: {sync} }}",
        f"log_file: {_quoted(str(data / 'nats.log'))}",
        "log_size_limit: 10MB",
    ]
    if url.username and url.password:
        user, password = unquote(url.username), unquote(url.password)
        lines.append(f"authorization {{ user: {_quoted(user)}, password: {_quoted(password)} }}")
    config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [_program("nats-server"), "-c", str(config)]
    return Child("nats", command, Place("NATS_URL", host, port), data / "nats.out")


def _quoted(text: str) -> str:
    """As a string of nats-server's configuration, which knows no \\u."""
    return json.dumps(text, ensure_ascii=False)


def mongodb(url: str, data: Path) -> Child | None:
    """The MongoDB-compatible server for this URL; None if it leads elsewhere than to this machine."""
    parts = urlsplit(url)
    if "," in parts.netloc or parts.hostname not in LOOPBACK:
        return None
    host, port = parts.hostname or "127.0.0.1", parts.port or 27017
    # Its files are not compatible between releases; they are disposable, for the streams are the record.
    store = data / f"mongodb-{importlib.metadata.version('secantusdb')}"
    command = [
        _program("secantusd-rs"),
        *("--host", host, "--port", str(port), "--storage-path", str(store), "--log-level", "WARNING"),
        *("--cache-size", "128M", "--log-file-max", "64MB", "--sync-on-commit"),
    ]
    return Child("mongodb", command, Place("MONGODB_URL", host, port), data / "mongodb.log")


def _program(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        stop(f"{name} is not installed. Run `make setup`, or install the package with its extra `embedded`.")
    return found
