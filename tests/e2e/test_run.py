"""`registry run`: one command, everything as child processes, from the outside."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests import servers
from tests.servers import Process, free_port, program

REGISTRY = [program("registry")]


class Run:
    """`registry run` in a folder of its own, on ports of its own but for those that give way."""

    def __init__(self, folder: Path) -> None:
        self.ports = {name: free_port() for name in ("nats", "mongo", "ingest", "api")}
        self.env = {
            **os.environ,
            "REGISTRY_NATS_URL": f"nats://127.0.0.1:{self.ports['nats']}",
            "REGISTRY_MONGODB_URL": f"mongodb://127.0.0.1:{self.ports['mongo']}",
            "REGISTRY_INGEST_PORT": str(self.ports["ingest"]),
            "REGISTRY_API_PORT": str(self.ports["api"]),
            "REGISTRY_SILENT_AFTER": "2s",
            "REGISTRY_DOWN_AFTER": "4s",
            "REGISTRY_LOG_FORMAT": "console",
        }
        self.log = folder / "run.log"
        self.process = Process([*REGISTRY, "run"], self.ports["api"], self.log, self.env)

    def start(self) -> "Run":
        began = time.monotonic()
        self.log.write_text("")
        self.process.start(wait=0)
        while "The registry is ready" not in self.output:
            assert self.process.running, self.output
            assert time.monotonic() - began < 30, self.output
            time.sleep(0.05)
        return self

    @property
    def output(self) -> str:
        return self.log.read_text()

    def program(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*REGISTRY, *words], env=self.env, cwd=self.log.parent, capture_output=True, text=True, timeout=60
        )

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The same as a fork, which costs a fifth."""
        return servers.registry(self.log.parent, *words, env=self.env)

    def children(self) -> dict[str, int]:
        """Process ids by name."""
        listing = subprocess.run(
            ["ps", "--ppid", str(self.process.pid), "-o", "pid=,args="],
            capture_output=True,
            text=True,
            check=True,
        )
        found = {}
        for line in listing.stdout.splitlines():
            pid, args = line.split(None, 1)
            for name in ("nats-server", "secantusd-rs", "ingest", "monitor", "notifier", "api"):
                if re.search(rf"(services\.|/){name}( |$)", args):
                    found[name] = int(pid)
        return found

    def until(self, text: str, within: float = 20.0) -> None:
        deadline = time.monotonic() + within
        while text not in self.output:
            assert time.monotonic() < deadline, self.output[-3000:]
            time.sleep(0.05)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path)
    yield run
    if run.process.running:
        run.process.kill(signal.SIGTERM)


@pytest.mark.timeout(300)  # each start is that of six programs
def test_one_command_and_all_that_can_be_done_with_it_until_the_next_start(run: Run) -> None:
    run.start()
    _the_printed_curl_line_then_the_story_in_the_log(run)
    _commands(run)
    _exec_reports_a_command_and_ends_as_it_did(run)
    _two_runs_do_not_share_a_folder(run)
    assert run.command("beat", "kept").returncode == 0
    run.until("kept: unknown → alive")
    began = time.monotonic()
    assert run.process.kill(signal.SIGTERM) == 0
    assert time.monotonic() - began < 10
    assert run.command("services").returncode == 1
    _the_data_is_there_again(run)


def _the_printed_curl_line_then_the_story_in_the_log(run: Run) -> None:
    (line,) = re.findall(r"^ *(curl .*)$", run.output, re.MULTILINE)
    answer = subprocess.run(line, shell=True, capture_output=True, text=True, check=True, timeout=10)
    assert json.loads(answer.stdout) == {"status": "ok"}
    run.until("my-service: alive → silent")
    run.until("my-service: silent → down")
    sent = run.program("beat", "my-service", "--message", "back\x1b[2J")
    assert (sent.returncode, sent.stdout) == (0, "my-service: stored\n")
    run.until("my-service: down → alive")


def _commands(run: Run) -> None:
    listed = run.command("services", "--json")
    assert [item["name"] for item in json.loads(listed.stdout)] == ["my-service"]
    shown = [run.command("services").stdout, run.command("status", "my-service").stdout, run.output]
    assert all("my-service" in it and "\x1b" not in it for it in shown)
    assert json.loads(run.command("status", "my-service", "--json").stdout)["name"] == "my-service"
    missing = run.command("status", "nobody")
    assert missing.returncode == 1
    assert "404" in missing.stderr
    assert run.command("beat", "bad name").returncode == 2
    assert run.command("beat").returncode == 2
    assert json.loads(run.command("rebuild", "--json").stdout)["services"] == 1
    assert run.command("runs", "my-service", "--json").stdout == "[]\n"
    assert run.command("runs", "my-service", "--outcome", "late").returncode == 2
    assert run.command("runs", "my-service", "--limit", "501").returncode == 2
    assert run.program("services", "--help").returncode == 0


def _the_data_is_there_again(run: Run) -> None:
    run.start()
    assert json.loads(run.command("status", "kept", "--json").stdout)["name"] == "kept"
    run.until("kept: alive → silent")
    assert "unknown → alive" not in run.output, "nothing is said twice"
    assert run.process.kill(signal.SIGINT) == 0


@pytest.mark.timeout(300)
def test_whatever_dies_is_started_again_and_no_orphan_is_left(run: Run) -> None:
    for name in ("monitor", "notifier"):  # or both runs could find the same one free at once
        run.env[f"REGISTRY_{name.upper()}_PORT"] = str(free_port())
    run.start()
    _whatever_dies_is_started_again(run)
    _no_orphan_is_left_when_the_supervisor_is_killed(run)
    run.start()


def _whatever_dies_is_started_again(run: Run) -> None:
    assert run.command("beat", "web").returncode == 0
    children = run.children()
    assert len(children) == 6
    for pid in children.values():
        os.kill(pid, signal.SIGKILL)
    for name in ("nats", "mongodb", "ingest", "monitor", "notifier", "api"):
        run.until(f"{name} ended (signal 9); starting it again")
    deadline = time.monotonic() + 30
    while any(_ready(run.ports[name]) != 200 for name in ("ingest", "api")):
        assert time.monotonic() < deadline, run.output
        time.sleep(0.1)
    assert json.loads(run.command("status", "web", "--json").stdout)["name"] == "web"
    run.until("web: silent → down", within=30)


def _ready(port: int) -> int:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code
    except httpx.HTTPError:
        return 0


def _no_orphan_is_left_when_the_supervisor_is_killed(run: Run) -> None:
    children = run.children()
    run.process.kill(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in children.values()):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("name", ["nats", "mongo", "ingest", "api"])
def test_a_port_that_is_taken_is_named_with_its_variable(name: str, run: Run) -> None:

    variable = {"nats": "REGISTRY_NATS_URL", "mongo": "REGISTRY_MONGODB_URL"}.get(
        name, f"REGISTRY_{name.upper()}_PORT"
    )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", run.ports[name]))
        taken.listen()
        refused = run.command("run")
    assert refused.returncode == 2
    assert str(run.ports[name]) in refused.stderr
    assert variable in refused.stderr


def test_a_wrong_value_anywhere_stops_everything_with_code_2(run: Run) -> None:
    run.env["REGISTRY_REMIND_AFTER"] = "noon"
    refused = run.command("run")
    assert refused.returncode == 2
    assert refused.stderr.count("REGISTRY_REMIND_AFTER='noon'") == 1


def _two_runs_do_not_share_a_folder(run: Run) -> None:
    second = Run(run.log.parent).command("run")
    assert second.returncode == 2
    assert "REGISTRY_DATA_DIR" in second.stderr


def _exec_reports_a_command_and_ends_as_it_did(run: Run) -> None:
    def heard(name: str) -> list[dict[str, object]]:
        url = f"http://127.0.0.1:{run.ports['api']}/service/{name}/heartbeats"
        deadline = time.monotonic() + 20
        while True:
            answer = httpx.get(url)
            if answer.status_code == 200 and len(answer.json()["items"]) == 2:
                return list(answer.json()["items"])
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.1)

    good = run.program("exec", "job", "--", "sh", "-c", "sleep 0.3; echo done -v --json")
    assert (good.returncode, good.stdout) == (0, "done -v --json\n")
    end, start = heard("job")
    assert (start["signal"], end["signal"]) == ("start", "success")
    assert 0.3 <= float(str(end["duration"])) < 5
    assert run.command("exec", "bad", "--", "sh", "-c", "exit 7").returncode == 7
    assert heard("bad")[0]["exit_code"] == 7
    deadline = time.monotonic() + 20
    while not (ended := json.loads(run.program("runs", "bad", "--outcome", "failure", "--json").stdout)):
        assert time.monotonic() < deadline, "the monitor has recorded no run"
    assert (ended[0]["exit_code"], ended[0]["duration"] > 0) == (7, True)
    heading, line = run.program("runs", "bad").stdout.splitlines()
    assert (heading.split()[0], line[:11]) == ("OUTCOME", "failure  20")
    killed = run.command("exec", "killed", "--", "sh", "-c", "kill -9 $$")
    assert killed.returncode == 137
    assert heard("killed")[0]["message"] == "ended by signal 9 (SIGKILL)"
    assert run.command("exec", "none", "--", "no-such-program").returncode == 127
    assert run.command("exec", "a b", "--", "true").returncode == 2
    nowhere = {**run.env, "REGISTRY_INGEST_PORT": str(free_port())}
    away = servers.registry(run.log.parent, "exec", "job", "--", "sh", "-c", "exit 3", env=nowhere)
    assert away.returncode == 3
    assert away.stderr.count("refused") == 1
