"""What every benchmark does with processes: start them, wait for them, look at them, end them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from services.cli import embedded
from services.cli.supervisor import free_port


def start(command: list[str], folder: Path, **env: str) -> subprocess.Popen[bytes]:
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=os.environ | env)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(30)


@contextmanager
def broker(folder: Path, *, durable: bool = True) -> Iterator[str]:
    """The URL of a NATS server of its own, as `registry run` embeds it; or not synced to disk, to fill it."""
    url = f"nats://127.0.0.1:{free_port()}"
    server = embedded.nats((url,), folder)
    assert server
    if not durable:
        config = folder / "nats.conf"
        config.write_text(config.read_text().replace("sync_interval: always", "sync_interval: 2m"))
    process = start(server.command, folder)
    try:
        yield url
    finally:
        stop(process)


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


def resident(process: subprocess.Popen[bytes]) -> int:
    """Bytes of memory that a process holds."""
    pages = Path(f"/proc/{process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
