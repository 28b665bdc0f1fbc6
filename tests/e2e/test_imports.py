"""From another system to this one: its checks are imported and applied, and what pings its ids is heard."""

import asyncio
import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.system import System, until
from tests.imported import services_of
from tests.servers import registry
from tests.telegram_standin import Standin

TOKEN = "of-the-registry-16"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with Standin() as telegram:
        token = dict.fromkeys(("api_token", "ingest_token"), TOKEN)
        limits = {"silent_after": "1h", "down_after": "2h", "dead_after": "7d"}
        system = System(tmp_path_factory.mktemp("system"), telegram, **limits, **token)
        system.http.headers.update(HEADERS)
        try:
            yield system.start()
        finally:
            system.stop()


def imported(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    done = registry(folder, "import", *arguments, env={"PATH": os.environ["PATH"], "TZ": "Europe/Berlin"})
    assert done.returncode == 0, done.stderr
    return done


def apply(system: System, folder: Path, text: str) -> dict[str, str]:
    """What is done with each service; nothing is left to do after that."""
    (folder / "registry.yaml").write_text(text)
    env = {"PATH": os.environ["PATH"], "REGISTRY_URL": system.url("api", ""), "REGISTRY_TOKEN": TOKEN}
    planned = registry(folder, "plan", "registry.yaml", "--json", env=env)
    done = registry(folder, "apply", "registry.yaml", "--json", env=env)
    assert (planned.returncode, done.returncode) == (3, 0), planned.stderr + done.stderr
    assert registry(folder, "plan", "registry.yaml", env=env).returncode == 0
    return {change["name"]: change["action"] for change in json.loads(done.stdout)["changes"]}


def shown(system: System, name: str) -> dict[str, Any]:
    return dict(system.http.get(system.url("api", f"/service/{name}")).json())


async def test_checks_of_healthchecks_come_over_its_api_and_their_ids_go_on(
    system: System, tmp_path: Path
) -> None:
    """Our own API speaks Healthchecks'."""
    checks = [
        {"name": "My backup", "tags": "db nightly", "desc": "Dumps", "timeout": 3600, "grace": 600},
        {"name": "report", "schedule": "0 3 * * 1-5", "tz": "Europe/Berlin", "grace": 1800},
        {"name": "weekly", "schedule": "Mon 09:00", "tz": "Asia/Tokyo", "grace": 90},
        {"name": "off", "timeout": 60, "grace": 60},
    ]
    url = system.url("api", "/api/v3/checks/")
    made = [system.http.post(url, json=check, headers={"X-Api-Key": TOKEN}).json() for check in checks]
    uuids = {check["slug"]: check["uuid"] for check in made}
    system.http.post(f"{url}{uuids['off']}/pause", headers={"X-Api-Key": TOKEN})
    before = {name: shown(system, name) for name in uuids}
    done = imported(tmp_path, "healthchecks", system.url("api", ""), "--key", TOKEN)
    assert TOKEN not in done.stdout + done.stderr
    assert imported(tmp_path, "healthchecks", system.url("api", ""), "--key", TOKEN).stdout == done.stdout
    services = services_of(done.stdout)
    assert {name: fields["aliases"] for name, fields in services.items()} == {
        n: [u] for n, u in uuids.items()
    }

    for name in uuids:
        assert system.http.delete(system.url("api", f"/service/{name}")).status_code == 204
    assert apply(system, tmp_path, done.stdout) == dict.fromkeys(uuids, "create")
    for name, was in before.items():
        now = shown(system, name)
        for field in ("every", "schedule", "time_zone", "thresholds", "max_run", "tags", "paused"):
            assert now[field] == was[field], (name, field)
    assert shown(system, "my-backup")["description"] == "My backup: Dumps"
    await until(lambda: system.http.get(system.url("ingest", f"/ping/{uuids['report']}")).text == "OK")
    await until(lambda: system.status("report") == "alive")


async def test_tokens_of_kuma_and_gatus_go_on(system: System, tmp_path: Path) -> None:
    monitor = {"id": 1, "type": "push", "name": "Push it", "interval": 60, "pushToken": "pushpushpush"}
    (tmp_path / "kuma.json").write_text(json.dumps({"version": "1.23", "monitorList": [monitor]}))
    assert apply(system, tmp_path, imported(tmp_path, "uptime-kuma", "kuma.json").stdout) == {
        "Push-it": "create"
    }
    push = system.url("ingest", "/api/push/pushpushpush?status=up")
    await until(lambda: system.http.get(push).json() == {"ok": True})
    endpoint = "{name: ext ep, group: Core, token: potato, heartbeat: {interval: 1h}}"
    (tmp_path / "gatus.yaml").write_text(f"external-endpoints: [{endpoint}]")
    assert apply(system, tmp_path, imported(tmp_path, "gatus", "gatus.yaml").stdout) == {
        "core_ext-ep": "create"
    }
    report = system.url("ingest", "/api/v1/endpoints/core_ext-ep/external?success=true")
    potato = {"Authorization": "Bearer potato"}
    await until(lambda: system.http.post(report, headers=potato).status_code == 200)
    await until(lambda: system.status("core_ext-ep") == "alive" and system.status("Push-it") == "alive")


async def test_jobs_of_cron_and_systemd_are_applied_and_report_as_their_lines_say(
    system: System, tmp_path: Path
) -> None:
    """The wrapper is the one that the registry serves."""
    beat = tmp_path / "beat"
    beat.write_text(system.http.get(system.url("ingest", "/exec.py")).text)
    (tmp_path / "tab").write_text("# Dumps\n0 3 * * * cd / && echo 100\\% | tee %given\n5 * * * * true\n")
    (tmp_path / "a.timer").write_text("[Timer]\nOnCalendar=Mon 09:00 Asia/Tokyo\nRandomizedDelaySec=1h\n")
    assert apply(system, tmp_path, imported(tmp_path, "crontab", "tab").stdout) == {
        "tee": "create",
        "true": "create",
    }
    assert shown(system, "tee")["time_zone"] == "Europe/Berlin"
    assert apply(system, tmp_path, imported(tmp_path, "systemd", str(tmp_path)).stdout) == {"a": "create"}
    assert shown(system, "a")["thresholds"]["silent_after"] == "1h15m"
    line = imported(tmp_path, "crontab", "tab", "--rewrite").stdout.splitlines()[2]
    command = line.split(maxsplit=5)[5].replace("/usr/local/bin/beat", f"{sys.executable} {beat}")
    env = {"PATH": os.environ["PATH"], "REGISTRY_URL": system.url("ingest", ""), "REGISTRY_TOKEN": TOKEN}
    run = partial(subprocess.run, ["/bin/sh", "-c", command], env=env, capture_output=True)
    assert (await asyncio.to_thread(run)).returncode == 0
    await until(lambda: system.status("true") == "alive")


# --- Healthchecks' own answers


@pytest.fixture
def healthchecks() -> Iterator[tuple[str, dict[str, tuple[int, Any]], list[str]]]:
    """Its address, what it answers to each path, and the keys that it was shown."""
    answers: dict[str, tuple[int, Any]] = {}
    keys: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.append(self.headers["X-Api-Key"])
            status, body = answers.get(self.path, (404, {"error": "not found"}))
            content = json.dumps(body).encode()
            self.send_response(status)
            if status == 302:
                self.send_header("Location", body)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}", answers, keys
        server.shutdown()


def _check(number: int, **more: Any) -> dict[str, Any]:
    uuid = f"{number:08x}-1f2b-4c55-9d0e-0f6c0d1d7a52"
    check = {
        "name": f"Job {number}",
        "slug": f"job-{number}",
        "tags": "",
        "desc": "",
        "grace": 3600,
        "status": "up",
    }
    return check | {"timeout": 86400, "uuid": uuid, "ping_url": f"https://hc-ping.com/{uuid}"} | more


def test_a_thousand_checks_over_http_take_less_than_five_seconds(healthchecks: Any, tmp_path: Path) -> None:
    url, answers, keys = healthchecks
    answers["/api/v3/checks/"] = 200, {"checks": [_check(number) for number in range(1000)]}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "services.cli", "import", "healthchecks", url, "--key", "the-key"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert len(services_of(done.stdout)) == 1000
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 5
    assert keys == ["the-key"]
    assert "the-key" not in done.stdout + done.stderr


def test_an_older_one_is_asked_by_the_version_that_it_has(healthchecks: Any, tmp_path: Path) -> None:
    url, answers, _ = healthchecks
    check = _check(1)
    uuid = check.pop("uuid")
    answers["/below/api/v1/checks/"] = 200, {"checks": [check]}
    assert services_of(imported(tmp_path, "healthchecks", f"{url}/below/", "--key", "k").stdout)["job-1"][
        "aliases"
    ] == [uuid]


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, {"error": "wrong api key"}, "does not accept the key (401)"),
        (302, "https://u:hunter2@elsewhere.example/x", "leads to https://elsewhere.example"),
        (500, {}, "answers 500"),
        (200, [], "no list of objects"),
    ],
)
def test_what_is_no_answer_of_healthchecks_is_said_in_words(
    healthchecks: Any, tmp_path: Path, status: int, body: Any, said: str
) -> None:
    url, answers, keys = healthchecks
    answers["/api/v3/checks/"] = status, body
    env = {"PATH": os.environ["PATH"]}
    done = registry(tmp_path, "import", "healthchecks", url, "--key", "the-key", env=env)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "hunter2" not in done.stderr
    assert done.stdout == ""
    assert len(keys) == 1
