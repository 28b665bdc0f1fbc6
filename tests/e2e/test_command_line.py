"""`registry` and `/exec.py` from another machine: another folder, no `.env`, an address and a token."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from shared import exec as wrapper
from tests.e2e.system import System
from tests.servers import Process, front_door, registry
from tests.telegram_standin import Standin

TOKEN = "of-the-registry-16"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with Standin() as telegram:
        token = dict.fromkeys(("api_token", "ingest_token"), TOKEN)
        system = System(
            tmp_path_factory.mktemp("system"),
            telegram,
            silent_after="1h",
            down_after="2h",
            dead_after="7d",
            **token,
        )
        for name in ("ingest", "api"):
            system.parts["ingest"].env[f"REGISTRY_{name.upper()}_PORT"] = str(system.parts[name].port)
        try:
            yield system.start()
        finally:
            system.stop()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture(params=["api", "ingest", "front door"])
def url(
    request: pytest.FixtureRequest, system: System, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Each address that a registry may be reached at."""
    if request.param in ("api", "ingest"):
        yield system.url(request.param, "")
        return
    ports = {name: system.parts[name].port for name in ("api", "ingest")}
    door: Process | None = front_door(tmp_path_factory.mktemp("door"), ports)
    if door is None:
        pytest.skip("caddy is not installed")
    door.start()
    yield f"http://127.0.0.1:{door.port}"
    door.kill()


def told(folder: Path, url: str, *line: str, token: str = TOKEN) -> "subprocess.CompletedProcess[str]":
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "REGISTRY_URL": url, "REGISTRY_TOKEN": token}
    return registry(folder, *line, env=env)


def test_a_command_is_run_and_reported_from_anywhere(system: System, url: str, elsewhere: Path) -> None:
    name = f"job-{time.monotonic_ns()}"
    done = told(elsewhere, url, "exec", name, "--", "sh", "-c", "echo all of it; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "all of it\n", "")
    (run,) = runs(elsewhere, url, name)
    assert (run["outcome"], run["exit_code"], run["message"]) == ("failure", 3, "all of it\n")
    assert run["started_at"]
    assert 0 <= run["duration"] < 5

    assert told(elsewhere, url, "beat", name, "--message", "done").stdout == f"{name}: stored\n"
    (answer,) = [told(elsewhere, url, "beat", name, "--every", "often", "--json")]
    assert json.loads(answer.stdout)["status"] == "ok"
    assert "every: " in answer.stderr

    refused = told(elsewhere, url, "beat", name, token="another")
    assert (refused.returncode, "401" in refused.stderr, "another" in refused.stderr) == (1, True, False)
    assert told(elsewhere, url, "beat", "a b").returncode == 2
    assert told(elsewhere, "nowhere", "beat", name).returncode == 2


def runs(folder: Path, url: str, name: str) -> list[dict[str, object]]:
    until = time.monotonic() + 20
    while True:
        done = told(folder, url, "runs", name, "--json")
        if done.returncode == 0 and (found := json.loads(done.stdout)) and found[0]["outcome"] != "running":
            return list(found)
        assert time.monotonic() < until, done.stderr


def test_the_wrapper_is_served_to_everybody_and_reports(system: System, url: str, elsewhere: Path) -> None:
    answer = httpx.get(f"{url}/exec.py")
    assert answer.status_code == 200
    assert httpx.head(f"{url}/exec.py").status_code == 200
    assert answer.content == Path(wrapper.__file__).read_bytes()
    (elsewhere / "beat").write_bytes(answer.content)
    env = {"PATH": os.environ["PATH"], "REGISTRY_URL": url, "REGISTRY_TOKEN": TOKEN}
    name = f"job-{time.monotonic_ns()}"
    command = [sys.executable, "beat", name, "--", "sh", "-c", "echo it; exit 0"]
    done = subprocess.run(command, cwd=elsewhere, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "it\n", "")
    (run,) = runs(elsewhere, url, name)
    assert (run["outcome"], run["message"]) == ("success", "it\n")


def test_each_of_the_two_says_where_the_other_is(system: System) -> None:
    ports = {name: system.parts[name].port for name in ("api", "ingest")}
    for host in ("127.0.0.1", "localhost"):
        for path in ("/heartbeat/a", "/heartbeat/a/start", "/heartbeats"):
            answer = httpx.post(f"http://{host}:{ports['api']}{path}", json={})
            assert answer.status_code == 404
            assert answer.json()["ingest"] == f"http://{host}:{ports['ingest']}"
        for path in ("/services", "/service/a", "/nothing"):
            answer = httpx.get(f"http://{host}:{ports['ingest']}{path}")
            assert answer.status_code == 404
            assert answer.json()["api"] == f"http://{host}:{ports['api']}"
    # A proxy has another address, and what is public is all that can be said there.
    for name, member in (("api", "ingest"), ("ingest", "api")):
        headers = {"Host": "127.0.0.1:9"}
        answer = httpx.get(
            system.url(name, "/heartbeat/a" if name == "api" else "/services"), headers=headers
        )
        assert answer.json()[member] == f"http://127.0.0.1:{ports['api']}"
