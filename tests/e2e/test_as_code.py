"""Configuration as code as an operator has it: a file, plan, apply, export, and REGISTRY_CONFIG."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.system import System, until
from tests.servers import service
from tests.telegram_standin import Standin

TOKEN, READER = "anas-secret-of-24-letters", "a-read-token-of-24-letters"
FILE = """\
version: 1
defaults: {silent_after: 20m}
templates:
  nightly: {schedule: "0 3 * * *", time_zone: Europe/Berlin, max_run: 2h}
services:
  backup.db: {template: nightly, tags: [db], description: "Dump of all databases", depends_on: [storage]}
  storage: {every: 1m}
  plain:
routes:
  - {match: {tags: [db]}, to: [ops], quiet: "22:00-07:00 Europe/Berlin", escalate: {after: 15m, to: [ana]}}
maintenance:
  - {tags: [db], cron: "0 3 * * sun", duration: 2h, time_zone: Europe/Berlin}
status_pages:
  - {path: public, title: Shop, groups: [{name: Databases, tags: [db]}, {name: B, services: [storage, no]}]}
"""


@pytest.fixture
def telegram() -> Iterator[Standin]:
    with Standin(chats=("42", "43")) as standin:
        yield standin


SETTINGS = {
    "telegram_chat_id": "ops=42,ana=43",
    "api_token": f"ana:{TOKEN}",
    "read_token": READER,
    "silent_after": "15m",
    "down_after": "1h",
    "dead_after": "7d",
}


@pytest.fixture
def system(tmp_path: Path, telegram: Standin) -> Iterator[System]:
    system = System(tmp_path, telegram, **SETTINGS)
    system.http.headers["Authorization"] = f"Bearer {TOKEN}"
    yield system.start()
    system.stop()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder without a .env."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "registry.yaml").write_text(FILE)
    return tmp_path / "elsewhere"


class Cli:
    def __init__(self, system: System, folder: Path) -> None:
        self.folder = folder
        self.env = {key: value for key, value in os.environ.items() if not key.startswith("REGISTRY_")}
        self.env |= {"REGISTRY_URL": system.url("api", ""), "REGISTRY_TOKEN": TOKEN}

    def __call__(
        self, *args: str, given: str | None = None, **env: str
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "services.cli", *args],
            cwd=self.folder,
            env=self.env | env,
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def write(self, text: str, name: str = "registry.yaml") -> None:
        (self.folder / name).write_text(text)


@pytest.fixture
def cli(system: System, elsewhere: Path) -> Cli:
    return Cli(system, elsewhere)


async def test_the_story_of_a_file(system: System, cli: Cli) -> None:
    planned = cli("plan", "registry.yaml")
    assert planned.returncode == 3, planned.stderr
    for line in (
        "+ backup.db",
        "    schedule      0 3 * * *",
        '    tags          ["db"]',
        "+ plain",
        "+ routes",
        "+ status page public",
        "6 to create, 0 as they are",
    ):
        assert line in planned.stdout.splitlines(), planned.stdout
    assert system.api("/services")["total"] == 0
    applied = cli("apply", "registry.yaml")
    assert applied.returncode == 0, applied.stderr
    assert "6 created, 0 as they are" in applied.stdout
    for again in (cli("plan", "registry.yaml"), cli("apply", "registry.yaml")):
        assert again.returncode == 0
        assert "Nothing w" in again.stdout

    exported = cli("export")
    assert exported.returncode == 0
    cli.write(exported.stdout, "exported.yaml")
    assert cli("plan", "exported.yaml").returncode == 0
    assert cli("apply", "-", given=exported.stdout).stdout.endswith("Nothing was changed.\n")
    assert "schedule: 0 3 * * *" in exported.stdout
    assert "template: nightly" in exported.stdout
    assert json.loads(cli("export", "--json").stdout)["defaults"] == {"silent_after": "20m"}

    # drift
    system.http.patch(system.url("api", "/service/storage"), json={"every": "7m", "max_run": "1h"})
    drift = cli("plan", "registry.yaml")
    assert drift.returncode == 3
    assert drift.stdout == (
        "~ storage\n    every    7m → 1m\n    max_run  1h → -\n1 to update, 5 as they are\n"
    )
    told = json.loads(cli("plan", "registry.yaml", "--json").stdout)
    assert [it["fields"] for it in told["changes"] if it["name"] == "storage"] == [
        {"every": ["7m", "1m"], "max_run": ["1h", None]}
    ]
    stale = told["etag"]
    assert cli("apply", "registry.yaml", "--if-match", stale).returncode == 0
    assert system.api("/service/storage")["every"] == "1m"
    refused = cli("apply", "registry.yaml", "--if-match", stale)
    assert (refused.returncode, "412" in refused.stderr) == (1, True)

    # what heartbeats declare does not override it, and shows
    system.http.post(system.url("ingest", "/heartbeat/storage"), json={"every": "5m"})
    system.http.post(system.url("ingest", "/heartbeat/plain"), json={"every": "5m"})
    warned = ["every: 5m is not used, as every 1m is configured"]
    await until(lambda: system.api("/service/storage")["warnings"] == warned)
    await until(lambda: system.api("/service/plain")["every"] == "5m")
    assert system.api("/service/storage")["every"] == "1m"
    assert cli("plan", "registry.yaml").returncode == 0

    # pruning
    less = FILE.replace("  storage: {every: 1m}\n", "").replace(", depends_on: [storage]", "")
    cli.write(less)
    left = cli("apply", "registry.yaml")
    assert "left as they are (--prune deletes them): storage" in left.stdout
    pruned = cli("plan", "registry.yaml", "--prune")
    assert (pruned.returncode, pruned.stdout.splitlines()[0]) == (3, "- storage")
    assert cli("apply", "registry.yaml", "--prune").returncode == 0
    assert system.http.get(system.url("api", "/service/storage")).status_code == 404
    audit = system.api("/audit?service=storage")["items"]
    assert {row["actor"] for row in audit} == {"file:registry.yaml", "token:ana"}


async def test_what_is_wrong_with_a_file_says_where(system: System, cli: Cli) -> None:
    cli.write(
        "version: 1\nservices:\n  storage:\n    every: whenever\n  a: {depends_on: [b]}\n"
        "  b: {depends_on: [a]}\n"
        '  c: {schedule: "61 * * * *"}\nroutes:\n  - {to: [nobody]}\n'
    )
    for command in ("plan", "apply"):
        refused = cli(command, "registry.yaml")
        assert refused.returncode == 2, refused.stdout
        assert [line.split(": ")[:2] for line in refused.stderr.splitlines()] == [
            ["registry.yaml:4:12", "services.storage.every"],
            ["registry.yaml:5:19", "services.a.depends_on"],
            ["registry.yaml:7:17", "services.c.schedule"],
            ["registry.yaml:9:11", "routes[0].to[0]"],
        ]
    for text, said in (
        ("a: [", "registry.yaml:2:1: the file:"),
        ("- 1", "registry.yaml:1:1: the file: Input should be"),
        ("version: 2", "registry.yaml:1:10: version: the only version is 1"),
        ("services: {}", "registry.yaml:1:1: version: it is needed"),
        ("version: 1\nservice: {}", "registry.yaml:2:1: service: there is no such field"),
    ):
        cli.write(text)
        refused = cli("plan", "registry.yaml")
        assert refused.returncode == 2
        assert refused.stderr.startswith(said), refused.stderr
    assert cli("plan", "missing.yaml").returncode == 2
    assert system.api("/services")["total"] == 0
    cli.write(FILE)
    assert cli("plan", "registry.yaml", REGISTRY_TOKEN=READER).returncode == 3
    assert cli("apply", "registry.yaml", REGISTRY_TOKEN=READER).returncode == 1
    reader = cli("export", REGISTRY_TOKEN=READER)
    assert reader.stdout.startswith("# Without aliases.")
    assert "without aliases" in reader.stderr
    assert cli("plan", "registry.yaml", REGISTRY_URL="http://127.0.0.1:9").returncode == 1


async def test_what_was_broken_off_is_finished_by_the_next_time(system: System, cli: Cli) -> None:
    count = 3000
    services = {f"svc-{n}": {"every": "5m", "tags": ["many"]} for n in range(count)}
    cli.write(json.dumps({"version": 1, "services": services}))
    applying = asyncio.create_task(asyncio.to_thread(cli, "apply", "registry.yaml"))
    await until(lambda: system.api("/services")["total"] > 0)
    system.parts["api"].kill()
    broken = await applying
    assert broken.returncode == 1, broken.stdout
    system.start("api")
    assert cli("apply", "registry.yaml").returncode == 0
    assert system.api("/services")["total"] == count
    assert cli("plan", "registry.yaml").returncode == 0


async def test_pages_show_who_manages_it(system: System, cli: Cli) -> None:
    assert cli("apply", "registry.yaml").returncode == 0
    page = system.http.get(system.url("api", "/ui/service/plain")).text
    assert "Managed by <code>registry.yaml</code>" in page
    assert "of its file's defaults" in page or "of its file&#39;s defaults" in page
    assert "This service is managed by <code>registry.yaml</code>" in page
    assert "when that file is applied again, it is there again" in (
        system.http.get(system.url("api", "/ui/service/plain/delete")).text
    )
    system.http.put(system.url("api", "/service/by.hand"), json={})
    assert "anaged by" not in system.http.get(system.url("api", "/ui/service/by.hand")).text
    public = system.http.get(system.url("api", "/status/public"), headers={"Authorization": ""})
    assert public.status_code == 200
    assert [
        part in public.text for part in ("Shop", "<h2>Databases</h2>", "backup.db", "storage", "plain")
    ] == [
        *[True] * 4,
        False,
    ]
    assert system.http.get(system.url("api", "/status/private")).status_code == 404


def _api_with(system: System, folder: Path, file: Path) -> Any:
    folder.mkdir()
    env = system.parts["api"].env
    variables = {
        key.removeprefix("REGISTRY_").lower(): value
        for key, value in env.items()
        if key.startswith("REGISTRY_") and key not in ("REGISTRY_NATS_URL", "REGISTRY_API_PORT")
    }
    return service("api", folder, system.nats_url, **variables, config=str(file))


async def test_a_file_is_applied_at_each_start(system: System, cli: Cli, tmp_path: Path) -> None:
    file = cli.folder / "registry.yaml"
    first, second = (_api_with(system, tmp_path / name, file) for name in ("first", "second"))
    for each in (first, second):
        each.start()

    def get(process: Any, path: str) -> httpx.Response:
        return httpx.get(
            f"http://127.0.0.1:{process.port}{path}", headers={"Authorization": f"Bearer {TOKEN}"}
        )

    for each in (first, second):
        await until(lambda each=each: get(each, "/readyz").status_code == 200)  # type: ignore[misc]
    assert get(first, "/service/backup.db").json()["managed_by"] == "file:registry.yaml"
    await until(lambda: get(first, "/routes").json()["routes"] != [])
    assert "the configuration file is applied" in first.log.read_text()
    history = get(first, "/service/storage/events").json()["items"]
    assert [row["type"] for row in history] == ["service.registered.v1"], "both, and it was made once"
    assert cli("plan", "registry.yaml").returncode == 0
    system.http.patch(system.url("api", "/service/storage"), json={"every": "7m"})
    second.stop()
    second.start()
    await until(lambda: get(second, "/readyz").status_code == 200)
    assert get(second, "/service/storage").json()["every"] == "1m"

    for text, said in (
        (
            FILE.replace("every: 1m", "every: whenever"),
            "registry.yaml:7:20: services.storage.every: 'whenever'",
        ),
        (FILE.replace("to: [ops]", "to: [nobody]"), "registry.yaml:10:32: routes[0].to[0]: no channel"),
    ):
        file.write_text(text)
        second.kill()
        second.log.write_text("")
        second.start(wait=0)
        assert second.process.wait(30) == 2, second.log.read_text()
        assert said in second.log.read_text()
    first.kill()


async def test_ten_thousand_services_are_planned_in_less_than_five_seconds(system: System, cli: Cli) -> None:
    services = {f"svc-{n}": {"every": "5m", "tags": [f"t{n % 50}"]} for n in range(10_000)}
    cli.write(json.dumps({"version": 1, "services": services}))
    began = time.monotonic()
    assert cli("plan", "registry.yaml").returncode == 3
    took = time.monotonic() - began
    assert took < 15, took
