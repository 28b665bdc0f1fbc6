"""Uptime Kuma's push clients, and Gatus' external endpoints."""

import signal
import subprocess
import time

from tests.clients.conftest import INGEST_TOKEN, Client, Registry, full, signals
from tests.clients.test_healthchecks import borgmatic

pytestmark = full

APYKUMA = """
import asyncio
import aiohttp
import apykuma

async def main():
    loop = await apykuma.start("URL?status=up&msg=OK&ping=", interval=60)
    await asyncio.sleep(1)
    loop.cancel()
    async with aiohttp.ClientSession() as session:
        response = await apykuma.ping(session, "URL?status=down&msg=disk%20full&ping=12.5")
        assert response.status == 200
        response = await apykuma.ping(session, "URL")
        assert response.status == 200
        response = await apykuma.ping(session, "URL".rpartition("/")[0] + "/wrong")
        assert response.status == 404

asyncio.run(main())
"""


def test_apykuma(registry: Registry, client: Client) -> None:
    url = f"{registry.ingest}/api/push/{registry.key('apykuma')}"
    client.python(APYKUMA.replace("URL", url))
    heard = registry.heartbeats("apykuma", 3)
    assert signals(heard) == ["success", "fail", "success"]
    assert [it["message"] for it in heard[:2]] == ["OK", "disk full"]
    assert heard[1]["duration"] == 0.0125
    assert registry.service("apykuma")["warnings"] == []


KUMACUB = """
[log]
level = "DEBUG"

[[checks]]
name = "disk usage"
executor.command = "/bin/sh"
executor.args = ["-c", "echo 'DISK OK - 5% used | /=5%'"]
publisher.url = "BASE"
publisher.push_token = "GOOD"

[[checks]]
name = "load"
executor.command = "/bin/sh"
executor.args = ["-c", "sleep 0.3; echo 'LOAD CRITICAL - 17'; exit 2"]
publisher.url = "BASE"
publisher.push_token = "BAD"

[[checks]]
name = "nobody's"
executor.command = "/bin/true"
publisher.url = "BASE"
publisher.push_token = "wrong-token"
"""


def test_kumacub(registry: Registry, kumacub: Client) -> None:
    config = KUMACUB.replace("BASE", registry.ingest)
    config = config.replace("GOOD", registry.key("disk")).replace("BAD", registry.key("load"))
    (kumacub.folder / "config.toml").write_text(config)
    log = kumacub.folder / "log"
    with log.open("w") as out:
        daemon = subprocess.Popen(
            [kumacub.env["PATH"].partition(":")[0] + "/kumacub", "daemon"],
            env=kumacub.env | {"KUMACUB__CONFIG": str(kumacub.folder / "config.toml")},
            stdout=out,
            stderr=out,
        )
    try:
        [good] = registry.heartbeats("disk", 1)
        [bad] = registry.heartbeats("load", 1)
        deadline = time.monotonic() + 15
        while "Failed to push check result" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(10)
    assert (good["signal"], good["message"]) == ("success", "DISK OK - 5% used")
    assert (bad["signal"], bad["message"]) == ("fail", "LOAD CRITICAL - 17")
    assert 0.3 <= bad["duration"] < 5
    assert log.read_text().count("Failed to push check result") == 1
    service = registry.service("load", lambda it: it["status"] == "down")
    assert service["warnings"] == []


BORGMATIC = """
repositories:
    - path: FOLDER/repository
source_directories:
    - FOLDER/source
uptime_kuma:
    push_url: URL
"""


def test_borgmatic(registry: Registry, client: Client) -> None:
    url = f"{registry.ingest}/api/push/{registry.key('borgmatic-kuma')}"
    hooks = BORGMATIC.replace("URL", url)
    assert "Uptime Kuma error" not in borgmatic(client, hooks)
    (client.folder / "broken").touch()
    assert "Uptime Kuma error" not in borgmatic(client, hooks, ends=1)
    heard = registry.heartbeats("borgmatic-kuma", 4)
    assert [(it["signal"], it["message"]) for it in heard] == [
        ("success", "start"),
        ("success", "finish"),
        ("success", "start"),
        ("fail", "fail"),
    ]
    registry.service("borgmatic-kuma", lambda it: it["status"] == "down")


GATUS = "curl -sS -w '%{http_code}' -X POST -H 'Authorization: Bearer TOKEN' BASE/api/v1/endpoints/"


def test_gatus(registry: Registry, client: Client) -> None:
    """The lines of its documentation: the endpoint's key is its group and its name."""
    line = GATUS.replace("BASE", registry.ingest)
    known = line.replace("TOKEN", INGEST_TOKEN)
    for query in (
        "success=true&duration=10s",
        "success=false&error=disk%20full&duration=1m2.5s",
        "success=true",
    ):
        assert (
            client.run("sh", "-c", f"{known}core_ext-ep-test/external?{query.replace('&', chr(92) + '&')}")
            == "200"
        )
    assert client.run("sh", "-c", f"{known}core_ext-ep-test/external").endswith("400")
    assert client.run("sh", "-c", f"{known}core_ext-ep-test/external?success=maybe").endswith("400")
    assert client.run("sh", "-c", f"{line}core_ext-ep-test/external?success=true").endswith("401")
    heard = registry.heartbeats("core_ext-ep-test", 3)
    assert signals(heard) == ["success", "fail", "success"]
    assert heard[1]["message"] == "disk full"
    assert [it["duration"] for it in heard] == [10, 62.5, None]


GATUS_API = """
import asyncio
import aiohttp
from gatus_api.client import GatusClient, GatusClientError

async def main():
    async with aiohttp.ClientSession() as session:
        try:
            await GatusClient("BASE", session, token="TOKEN").get_endpoints_statuses()
        except GatusClientError as error:
            print(error)

asyncio.run(main())
"""


def test_gatus_api_only_reads(registry: Registry, client: Client) -> None:
    """It sends no heartbeats: all it can do is to read what Gatus has measured, which is not served here."""
    said = client.python(GATUS_API.replace("BASE", registry.ingest).replace("TOKEN", INGEST_TOKEN))
    assert said.startswith("Gatus API returned status code 4")
