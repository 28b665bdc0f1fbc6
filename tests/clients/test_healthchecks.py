"""Clients of Healthchecks' pings: what each sends, and what the registry then says."""

import pytest

from tests.clients.conftest import INGEST_TOKEN, Client, Registry, full, signals

pytestmark = full

DECORATOR = """
from healthchecks_decorator import healthcheck

@healthcheck(url="URL", send_start=True, send_diagnostics=True)
def good():
    return {"rows": 12, "table": "users"}

@healthcheck(url="URL", send_start=True)
def bad():
    raise ValueError("boom")

@healthcheck
def plain():
    return 1

good()
plain()
bad()
"""


def test_healthchecks_decorator(registry: Registry, client: Client) -> None:
    url = registry.make("decorated")
    said = client.python(DECORATOR.replace("URL", url), ends=1, HEALTHCHECK_URL=url)
    assert "ValueError: boom" in said
    heard = registry.heartbeats("decorated", 5)
    assert signals(heard) == ["start", "success", "success", "start", "fail"]
    assert heard[1]["message"] == "rows=12&table=users"
    assert len(registry.runs("decorated", "success", "failure")) == 2
    service = registry.service("decorated", lambda it: it["status"] == "down")
    assert service["reason"] == "reported failure"
    assert service["warnings"] == []


WRAPPER = """
import asyncio
from healthchecks_wrapper import HealthCheck

with HealthCheck("URL"):
    pass

async def main():
    async with HealthCheck("URL"):
        pass

asyncio.run(main())
with HealthCheck("URL", suppress_exceptions=True):
    raise ValueError("boom")
"""


def test_healthchecks_wrapper(registry: Registry, client: Client) -> None:
    url = registry.make("wrapped")
    assert client.python(WRAPPER.replace("URL", url)) == ""
    heard = registry.heartbeats("wrapped", 6)
    assert signals(heard) == ["start", "success", "start", "success", "start", "fail"]
    assert heard[-1]["message"].startswith("Traceback")
    assert heard[-1]["message"].rstrip().endswith("ValueError: boom")
    assert len(registry.runs("wrapped", "success", "success", "failure")) == 3
    assert registry.service("wrapped", lambda it: it["status"] == "down")["warnings"] == []


PYHEALTHCHECKS = """
import asyncio
import aiohttp
from pyhealthchecks.pyhealthchecks import HealthChecks

async def main():
    async with aiohttp.ClientSession() as session:
        server = HealthChecks(asyncio.get_running_loop(), "URL", session)
        for signal in ("/start", "", "/log", "/fail", "/0", "/3"):
            server.update_url(ping_url="URL" + signal)
            assert await server.update_connection(), signal
            assert server.status()
        server.update_url("URL".rpartition("/")[0] + "/00000000-0000-4000-8000-000000000000")
        assert await server.update_connection() is None

asyncio.run(main())
"""


def test_pyhealthchecks(registry: Registry, client: Client) -> None:
    url = registry.make("py")
    client.python(PYHEALTHCHECKS.replace("URL", url))
    heard = registry.heartbeats("py", 6)
    assert signals(heard) == ["start", "success", "log", "fail", "success", "fail"]
    assert heard[-1]["exit_code"] == 3
    assert (
        registry.service("py", lambda it: it["status"] == "down")["reason"]
        == "reported failure (exit code 3)"
    )


PINGS = """
import asyncio
from healthchecks_io import AsyncClient, CheckTrap, Client
from healthchecks_io.client.exceptions import BadAPIRequestError, CheckNotFoundError

given = dict(ping_key="TOKEN", ping_url="BASE/ping/", api_url="SITE/api/")
client = Client(**given)
for by in ({"uuid": "KEY"}, {"slug": "by-slug"}):
    assert client.start_ping(**by, data="begins") == (True, "OK")
    assert client.success_ping(**by, data='{"it": "is a log"}') == (True, "OK")
    assert client.fail_ping(**by, data="broke") == (True, "OK")
    assert client.exit_code_ping(0, **by) == (True, "OK")
    assert client.exit_code_ping(254, **by) == (True, "OK")
for wrong in ({"uuid": "00000000-0000-4000-8000-000000000000"}, {"slug": "nobody"}):
    try:
        client.success_ping(**wrong)
        raise AssertionError("it was found")
    except CheckNotFoundError:
        pass
try:
    client.exit_code_ping(256, uuid="KEY")
    raise AssertionError("256 was taken")
except BadAPIRequestError as error:
    assert "invalid url format" in str(error)

with CheckTrap(client, uuid="KEY") as trap:
    trap.add_log("line 1")
    trap.add_log("line 2")
with CheckTrap(client, slug="by-slug", suppress_exceptions=True):
    raise ValueError("boom")

async def main():
    async with AsyncClient(**given) as client:
        async with CheckTrap(client, uuid="KEY"):
            pass
        assert await client.exit_code_ping(3, uuid="KEY") == (True, "OK")

asyncio.run(main())
"""


def test_healthchecks_io_pings(registry: Registry, client: Client) -> None:
    key = registry.key("by-key")
    registry.make("by-slug")
    code = PINGS.replace("KEY", key).replace("BASE", registry.ingest).replace("SITE", registry.api)
    client.python(code.replace("TOKEN", INGEST_TOKEN))
    each = ["start", "success", "fail", "success", "fail"]
    heard = registry.heartbeats("by-key", 10)
    assert signals(heard) == [*each, "start", "success", "start", "success", "fail"]
    assert [it["message"] for it in heard[:3]] == ["begins", '{"it": "is a log"}', "broke"]
    assert heard[6]["message"] == "line 1\nline 2"
    assert [it["exit_code"] for it in heard] == [None] * 4 + [254] + [None] * 4 + [3]
    assert all(it["warnings"] == [] for it in heard)
    heard = registry.heartbeats("by-slug", 7)
    assert signals(heard) == [*each, "start", "fail"]
    assert heard[-1]["message"].startswith("boom\n")


BORGMATIC = """
repositories:
    - path: FOLDER/repository
      label: local
source_directories:
    - FOLDER/source
healthchecks:
    ping_url: URL
    send_logs: true
"""
BORG = """#!/bin/sh
# What borgmatic asks of borg, without any.
case "$*" in
*--version*) echo "borg 1.4.0" ;;
*create*)
    [ ! -e FOLDER/broken ] || { echo "Repository FOLDER/repository does not exist." >&2; exit 2; }
    i=0
    while [ $i -lt 2200 ]; do
        echo "A /srv/files/some/rather/long/path/of/a/file/number/$i" >&2
        i=$((i + 1))
    done ;;
esac
"""


def borgmatic(client: Client, hooks: str, *, ends: int = 0) -> str:
    """Runs it with a borg that does nothing, and 100 kB of logs."""
    for name, text in (("borg", BORG), ("config.yaml", hooks)):
        (client.folder / name).write_text(text.replace("FOLDER", str(client.folder)))
    (client.folder / "borg").chmod(0o755)
    (client.folder / "source").mkdir(exist_ok=True)
    return client.run(
        *("borgmatic", "create", "--list", "--config", "config.yaml"),
        *("--verbosity", "1", "--monitoring-verbosity", "2", "--syslog-verbosity", "-2"),
        ends=ends,
    )


@pytest.mark.parametrize("by", ["key", "slug"])
def test_borgmatic(registry: Registry, client: Client, by: str) -> None:
    name = f"borgmatic-{by}"
    hooks = BORGMATIC
    if by == "key":
        url = registry.make(name)
    else:
        url, hooks = f"{registry.ingest}/ping/{INGEST_TOKEN}/{name}", f"{BORGMATIC}    create_slug: true\n"
    said = borgmatic(client, hooks.replace("URL", url))
    assert "Healthchecks error" not in said
    heard = registry.heartbeats(name, 3)
    assert signals(heard) == ["start", "log", "success"]
    assert "bytes left out" in heard[-1]["message"]
    [run] = registry.runs(name, "success")
    assert run["duration"] > 0
    assert registry.service(name, lambda it: it["status"] == "alive")["warnings"] == []

    (client.folder / "broken").touch()
    borgmatic(client, hooks.replace("URL", url), ends=1)
    heard = registry.heartbeats(name, 6)
    assert signals(heard)[3:] == ["start", "log", "fail"]
    assert "returned non-zero exit status 2" in heard[-1]["message"]
    registry.service(name, lambda it: it["status"] == "down")
