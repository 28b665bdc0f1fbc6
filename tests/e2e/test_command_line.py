"""`registry` and `/exec.py` from another machine: another folder, no `.env`, an address and a token."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

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
    done = told(elsewhere, "nowhere", "exec", name, "--", "sh", "-c", "exit 3")
    assert (done.returncode, done.stderr.count("REGISTRY_URL")) == (3, 1)


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


def said(elsewhere: Path, url: str, *line: str, code: int = 0) -> str:
    done = told(elsewhere, url, *line)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def data(elsewhere: Path, url: str, *line: str) -> Any:
    done = told(elsewhere, url, *line, "--json")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return json.loads(done.stdout)


def test_every_command_works_from_anywhere(system: System, url: str, elsewhere: Path) -> None:
    web, db = (f"{name}-{time.monotonic_ns()}" for name in ("web", "db"))
    assert (
        said(elsewhere, url, "set", web, "--every", "5m", "--tag", "a", "--tag", "b")
        == f"{web}: registered\n"
    )
    assert said(elsewhere, url, "set", web, "max_run=2h", "tags=c,d", "every=") == f"{web}: changed\n"
    service = data(elsewhere, url, "status", web)
    assert (service["every"], service["max_run"], service["tags"]) == (None, "2h", ["c", "d"])
    assert (
        data(elsewhere, url, "set", db, "--fail-after", "1", "notify_unusual=no")["notify_unusual"] is False
    )
    assert "do you mean" in said(elsewhere, url, "set", db, "evry=5m", code=2)
    assert "every" in said(elsewhere, url, "set", db, "every=often", code=2)
    assert "FIELD=VALUE" in said(elsewhere, url, "set", db, "every", code=2)
    assert said(elsewhere, url, "set", db, code=2)

    said(elsewhere, url, "beat", db)
    said(elsewhere, url, "exec", db, "--", "sh", "-c", "echo disk full; exit 1", code=1)
    until(lambda: data(elsewhere, url, "status", db)["status"] == "down")
    until(lambda: "disk full" in (data(elsewhere, url, "status", db)["message"] or ""))
    shown = said(elsewhere, url, "services", "--search", db)
    assert shown.splitlines()[0].split() == ["STATUS", "NAME", "SINCE", "HEARD", "REASON"]
    assert "down" in shown
    assert "disk full" in shown
    assert "\x1b" not in shown
    assert [it["name"] for it in data(elsewhere, url, "services", "--tag", "c", "--search", web)] == [web]
    assert "disk full" in said(elsewhere, url, "status", db)
    until(lambda: data(elsewhere, url, "runs", db, "--outcome", "failure"))
    assert "exit code 1; " in said(elsewhere, url, "runs", db)
    (run,) = data(elsewhere, url, "runs", db, "--outcome", "failure")
    assert (run["message"], run["exit_code"]) == ("disk full\n", 1)

    (incident,) = data(elsewhere, url, "incidents", "--open", "--service", db)
    assert db in said(elsewhere, url, "incidents", "--service", db)
    assert said(elsewhere, url, "ack", db, "--note", "on it") == f"{db}: you have it\n"
    assert "on it" in said(elsewhere, url, "incidents", incident["id"])
    assert data(elsewhere, url, "incidents", incident["id"])["acknowledged"]["note"] == "on it"
    assert "token has it" in said(elsewhere, url, "services", "--search", db)
    said(elsewhere, url, "release", db)
    assert said(elsewhere, url, "mute", db, "2h") == f"{db}: muted for 2h\n"
    assert data(elsewhere, url, "status", db)["muted"]["until"]
    assert "muted until" in said(elsewhere, url, "services", "--search", db)
    said(elsewhere, url, "unmute", db)
    assert data(elsewhere, url, "mute", db, "--until-alive")["muted"]["until_alive"] is True
    said(elsewhere, url, "mute", db, code=2)
    said(elsewhere, url, "mute", db, "soon", code=2)
    assert "alive → down" in said(elsewhere, url, "events", db)
    assert data(elsewhere, url, "events", db, "--limit", "1")
    said(elsewhere, url, "events", code=2)

    assert said(elsewhere, url, "pause", web, db) == f"{web}: paused\n{db}: paused\n"
    assert "paused" in said(elsewhere, url, "services", "--search", web)
    assert [it["paused"] for it in data(elsewhere, url, "resume", web, db)] == [False, False]
    assert "409" in said(elsewhere, url, "ack", web, code=1)

    window = data(elsewhere, url, "maintenance", "add", "--service", web, "--for", "2h", "--title", "move")
    assert window["active"]
    often = said(elsewhere, url, "maintenance", "add", "--tag", "c", "--cron", "0 3 * * sun", "--for", "2h")
    listed = said(elsewhere, url, "maintenance", "list")
    assert "move" in listed
    assert "0 3 * * sun" in listed
    assert said(elsewhere, url, "maintenance").splitlines()[0] == listed.splitlines()[0]
    for id_ in (window["id"], often.partition(":")[0]):
        assert said(elsewhere, url, "maintenance", "end", id_) == f"{id_}: ended\n"
    said(elsewhere, url, "maintenance", "end", window["id"], code=1)
    said(elsewhere, url, "maintenance", "add", "--for", "2h", code=2)
    said(elsewhere, url, "maintenance", "add", "--tag", "c", "--for", "long", code=2)

    nobody = f"{web}-nobody"
    output = said(elsewhere, url, "delete", web, nobody, db, code=1)
    assert f"{web}: deleted\n" in output
    assert f"{nobody}: 404" in output
    assert f"{db}: deleted\n" in output
    assert "404" in said(elsewhere, url, "status", web, code=1)
    assert said(elsewhere, url, "services", "--search", web) == "no services\n"


def until(check: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 20
    while not (found := check()):
        assert time.monotonic() < deadline
    return found


def test_events_are_followed_as_they_happen(system: System, url: str, elsewhere: Path) -> None:
    name = f"watched-{time.monotonic_ns()}"
    env = {"PATH": os.environ["PATH"], "REGISTRY_URL": url, "REGISTRY_TOKEN": TOKEN, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "services.cli", "events", name, "--follow", "--json"]
    process = subprocess.Popen(command, cwd=elsewhere, env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    lines: list[dict[str, Any]] = []

    def read() -> None:
        assert process.stdout
        lines.extend(json.loads(line) for line in process.stdout)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()

    def heard() -> bool:  # until it listens
        told(elsewhere, url, "beat", name, "--fail")
        told(elsewhere, url, "beat", name)
        return len(lines) > 1

    try:
        until(heard)
        assert {line["service"] for line in lines} == {name}
        assert "service.status_changed.v1" in {line["type"] for line in lines}
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait(10)
    reader.join(10)


def test_a_wrong_token_is_told_and_never_shown(system: System, url: str, elsewhere: Path) -> None:
    for line in (["services"], ["status", "a"], ["pause", "a"], ["events", "--follow"], ["maintenance"]):
        done = told(elsewhere, url, *line, token="SECRET-of-another")
        assert done.returncode == 1
        assert "401" in done.stderr
        assert "SECRET" not in done.stdout + done.stderr


def test_the_doctor_looks_from_here(system: System, url: str, elsewhere: Path) -> None:
    def doctor(code: int, **env: str) -> dict[str, Any]:
        given = {"PATH": os.environ["PATH"], "REGISTRY_URL": url, "REGISTRY_TOKEN": TOKEN, **env}
        done = registry(elsewhere, "doctor", "--json", env=given)
        assert done.returncode == code, done.stdout + done.stderr
        assert "SECRET" not in done.stdout
        return {it["part"]: it for it in json.loads(done.stdout)}

    found = doctor(0, REGISTRY_SILENT_AFTR="1h")
    assert found["token"]["said"] == "reads and writes"
    assert found["heartbeats"]["ok"]
    wanted = "REGISTRY_SILENT_AFTR: did you mean REGISTRY_SILENT_AFTER?"
    assert found["variable REGISTRY_SILENT_AFTR"]["said"] == wanted
    (elsewhere / ".env").write_text("REGISTRY_PUBLIK_URL=a\n")
    assert "REGISTRY_PUBLIC_URL" in doctor(0)["variable REGISTRY_PUBLIK_URL"]["said"]
    found = doctor(1, REGISTRY_TOKEN="SECRET-of-another")
    assert (found["api"]["ok"], found["api"]["said"]) == (False, "the token is refused")
    found = doctor(1, REGISTRY_URL="http://127.0.0.1:9")
    assert not found["api"]["ok"]


def test_it_says_its_version_and_helps_a_shell(elsewhere: Path) -> None:
    env = {"PATH": os.environ["PATH"]}
    assert registry(elsewhere, "--version", env=env).stdout == f"registry {version('services-registry')}\n"
    named = env | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # else it is the shell that runs this
    script = registry(elsewhere, "--show-completion", "bash", env=named)
    assert "_REGISTRY_COMPLETE" in script.stdout.upper() or "COMPLETE" in script.stdout
    for command in ("beat", "exec", "services", "set", "maintenance"):
        done = registry(elsewhere, command, "--help", env=env)
        assert done.returncode == 0
        assert done.stdout
