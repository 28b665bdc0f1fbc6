"""Other systems' clients in environments of their own, and the whole system that they send to: by one base
URL, through the front door, where Caddy is installed."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.system import System
from tests.servers import front_door
from tests.telegram_standin import Standin

ENVIRONMENTS = Path(__file__).parents[2] / ".venv/clients"
FULL = os.environ.get("CLIENTS") == "full"
API_TOKEN, READ_TOKEN, INGEST_TOKEN = "api-token-Xq7", "read-token-Xq8", "ingest_token_Xq9"
"""The last as a Sentry DSN can have it: letters, digits and `_`."""

full = pytest.mark.skipif(not FULL, reason="other systems' clients: make clients")


class Registry:
    """The system as a client's user knows it: base URLs, tokens, and what the API says of a service."""

    def __init__(self, system: System, front: str = "") -> None:
        """`front`: the one base URL of all, if there is a front door."""
        self._system = system
        system.http.headers["Authorization"] = f"Bearer {API_TOKEN}"
        self.ingest = front or system.url("ingest", "")
        self.api = front or system.url("api", "")
        self.http = system.http
        self._secrets = [API_TOKEN, READ_TOKEN, INGEST_TOKEN]

    def check_logs(self) -> None:
        """No token and no key stands in what the services have logged."""
        for name in self._system.services:
            log = self._system.parts[name].log.read_text()
            assert not [it for it in self._secrets if it in log], f"{name}: {log[-5000:]}"

    def make(self, name: str, **fields: Any) -> str:
        """The ping URL of a new service, which can be used: at the latest a second after it was made."""
        answer = self.http.put(f"{self.api}/service/{name}", json=fields)
        assert answer.status_code == 201, answer.text
        time.sleep(1)
        url: str = answer.json()["ping_url"]
        assert url.startswith(f"{self.ingest}/ping/")
        self._secrets.append(url.rpartition("/")[2])
        return url

    def key(self, name: str, **fields: Any) -> str:
        return self.make(name, **fields).rpartition("/")[2]

    def service(self, name: str, until: Callable[[Any], Any] = lambda it: "name" in it) -> Any:
        """What GET /service/NAME says, as soon as `until` is true of it."""
        return self._until(f"/service/{name}", until)

    def heartbeats(self, name: str, count: int) -> list[Any]:
        """All heartbeats, oldest first, as soon as there are so many."""
        found = self._until(
            f"/service/{name}/heartbeats?limit=100", lambda it: len(it.get("items", ())) >= count
        )
        assert len(found["items"]) == count, found
        return list(reversed(found["items"]))

    def runs(self, name: str, *outcomes: str) -> list[Any]:
        """Its runs, oldest first, as soon as they ended like this."""
        found = self._until(
            f"/service/{name}/runs",
            lambda it: sorted(run["outcome"] for run in it.get("items", ())) == sorted(outcomes),
        )
        return list(reversed(found["items"]))

    def _until(self, path: str, until: Callable[[Any], Any], within: float = 15) -> Any:
        deadline = time.monotonic() + within
        while not until(said := self.http.get(self.api + path).json()):
            assert time.monotonic() < deadline, json.dumps(said)
            time.sleep(0.1)
        return said


def signals(heartbeats: list[Any]) -> list[str]:
    return [it["signal"] for it in heartbeats]


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder = tmp_path_factory.mktemp("registry")
    settings = {
        "ingest_token": INGEST_TOKEN,
        "api_token": API_TOKEN,
        "read_token": READ_TOKEN,
        "silent_after": "15m",
        "down_after": "1h",
        "dead_after": "7d",
    }
    with Standin() as telegram:
        system = System(folder, telegram, **settings)
        system.parts["api"].env["REGISTRY_INGEST_PORT"] = str(system.parts["ingest"].port)
        ports = {name: system.parts[name].port for name in ("ingest", "api")}
        front = front_door(folder, ports)
        for name in ports if front else ():
            system.parts[name].env |= {
                "REGISTRY_HOST": "0.0.0.0",
                "REGISTRY_PUBLIC_URL": f"http://127.0.0.1:{front.port}",
                "REGISTRY_TRUSTED_PROXIES": "private",
            }
        try:
            system.start()
            registry = Registry(system, f"http://127.0.0.1:{front.start().port}" if front else "")
            yield registry
            registry.check_logs()
        finally:
            system.stop()
            if front and front.process:
                front.kill()


class Client:
    """Runs what people write with a client, in the environment where it is installed."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder = folder
        self.env = {
            "PATH": f"{programs}:{folder}:{os.environ['PATH']}",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "NO_PROXY": "*",
        }

    def run(self, *command: str, ends: int = 0, within: float = 60, **env: str) -> str:
        """What the command wrote; it must end with this exit code."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.env | env,
            timeout=within,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode == ends, done.stdout
        return done.stdout

    def python(self, code: str, ends: int = 0, **env: str) -> str:
        return self.run("python", "-c", code, ends=ends, **env)


def _programs(environment: str) -> Path:
    """Where an environment's programs are. Without it: a failure in `make clients`, else a skip."""
    folder = ENVIRONMENTS / environment
    if not (folder / "installed").exists():
        say = pytest.fail if FULL else pytest.skip
        say(f"other systems' clients are not installed: make {folder.relative_to(ENVIRONMENTS.parents[1])}")
    return folder / ("bin" if environment != "node" else "node_modules/.bin")


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(tmp_path, _programs("python" if FULL else "short"))


@pytest.fixture
def kumacub(tmp_path: Path) -> Client:
    return Client(tmp_path, _programs("kumacub"))


@pytest.fixture
def node(tmp_path: Path) -> Client:
    programs = _programs("node")
    (tmp_path / "node_modules").symlink_to(programs.parent)
    assert shutil.which("node"), "Node is not installed"
    return Client(tmp_path, programs)
