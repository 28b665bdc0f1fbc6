"""Healthchecks' Management API: its client, and what its Terraform provider and Ansible module request.

The last two, and runitor, are in no package list: these are their requests, as read in their sources.
"""

from typing import Any

import httpx

from tests.clients.conftest import API_TOKEN, INGEST_TOKEN, READ_TOKEN, Client, Registry, full, signals

pytestmark = full

MANAGEMENT = """
import asyncio
from healthchecks_io import AsyncClient, CheckCreate, CheckUpdate, Client
from healthchecks_io.client.exceptions import CheckNotFoundError, HCAPIAuthError

urls = dict(api_url="SITE/api/", ping_url="BASE/ping/", api_version=VERSION)
client = Client(api_key="WRITES", **urls)
made = client.create_check(
    CheckCreate(name="NAME", tags="prod db", desc="a description", timeout=3600, grace=600, unique=["name"])
)
assert (made.name, made.slug, made.status, made.n_pings) == ("NAME", "NAME", "new", 0), made
assert (made.timeout, made.grace, made.tags, made.desc) == (3600, 600, "prod db", "a description"), made
assert made.ping_url == "BASE/ping/" + made.uuid, made
again = client.create_check(CheckCreate(name="NAME", tags="prod", timeout=7200, grace=900, unique=["name"]))
assert (again.uuid, again.timeout, again.tags) == (made.uuid, 7200, "prod"), again
assert [it.name for it in client.get_checks(tags=["prod"]) if it.name == "NAME"] == ["NAME"]
assert client.get_checks(tags=["prod", "nobody's"]) == []
assert client.get_check(made.uuid).name == "NAME"

cron = client.update_check(made.uuid, CheckUpdate(schedule="0 3 * * *", tz="Europe/Vienna"))
assert cron.uuid == made.uuid
assert client.get_check(made.uuid).timeout is None

import time
time.sleep(1)
assert client.start_ping(uuid=made.uuid) == (True, "OK")
assert client.success_ping(uuid=made.uuid, data="all well") == (True, "OK")
assert client.fail_ping(uuid=made.uuid, data="broke") == (True, "OK")
deadline = time.monotonic() + 10
while len(pings := client.get_check_pings(made.uuid)) < 3 or client.get_check(made.uuid).status != "down":
    assert time.monotonic() < deadline, pings
    time.sleep(0.2)
assert [it.type for it in pings] == ["fail", "success", "start"], pings
assert pings[1].duration is not None and len({it.number_of_pings for it in pings}) == 3, pings
flips = client.get_check_flips(made.uuid, seconds=3600)
assert 0 in [it.up for it in flips], flips
assert client.get_badges()["*"].svg.startswith("http")
integrations = client.get_integrations()
assert all(it.id and it.kind for it in integrations), integrations

assert client.pause_check(made.uuid).status == "paused"
reader = Client(api_key="READS", **urls)
[read] = [it for it in reader.get_checks() if it.name == "NAME"]
assert read.unique_key and not read.ping_url and read.uuid is None, read
assert reader.get_check(read.unique_key).name == "NAME"
for wrong in (Client(api_key="wrong", **urls).get_checks, lambda: reader.delete_check(made.uuid)):
    try:
        wrong()
        raise AssertionError("it was let in")
    except HCAPIAuthError:
        pass

async def main():
    async with AsyncClient(api_key="WRITES", **urls) as client:
        assert (await client.delete_check(made.uuid)).name == "NAME"
        try:
            await client.get_check(made.uuid)
            raise AssertionError("it is still there")
        except CheckNotFoundError:
            pass

asyncio.run(main())
"""


def test_healthchecks_io(registry: Registry, client: Client) -> None:
    for version in (1, 2, 3):
        code = MANAGEMENT.replace("SITE", registry.api).replace("BASE", registry.ingest)
        code = code.replace("VERSION", str(version)).replace("WRITES", API_TOKEN).replace("READS", READ_TOKEN)
        client.python(code.replace("NAME", f"managed-v{version}"))


def test_terraform(registry: Registry) -> None:
    """`go-healthchecksio`: it finds its check by the last part of `update_url`, and follows no redirect."""
    with httpx.Client(
        base_url=f"{registry.api}/api/v1",
        headers={
            "Content-Type": "application/json",
            "X-Api-Key": API_TOKEN,
            "User-Agent": "Go-http-client/1.1",
        },
    ) as go:

        def ask(method: str, path: str, body: Any = None) -> Any:
            answer = go.request(method, path, json=body) if body else go.request(method, path)
            assert answer.status_code < 300, answer.text
            return answer.json()

        wanted = {"channels": "", "methods": "", "name": "by-terraform", "tags": "iac prod"}
        made = ask("POST", "/checks/", wanted | {"desc": "a check", "grace": 120, "timeout": 300})
        id_ = made["update_url"].rpartition("/")[2]
        [read] = [it for it in ask("GET", "/checks/")["checks"] if it["update_url"].endswith(id_)]
        assert (read["name"], read["tags"], read["timeout"], read["grace"]) == (
            *("by-terraform", "iac prod"),
            *(300, 120),
        )
        changed = ask(
            "POST", f"/checks/{id_}", wanted | {"schedule": "0 3 * * *", "tz": "Europe/Vienna", "grace": 600}
        )
        assert (changed["schedule"], changed["tz"], changed["grace"]) == ("0 3 * * *", "Europe/Vienna", 600)
        assert registry.service("by-terraform")["schedule"] == "0 3 * * *"
        assert all(it["kind"] and it["id"] for it in ask("GET", "/channels/")["channels"])
        assert ask("POST", f"/checks/{id_}/pause")["status"] == "paused"
        assert ask("DELETE", f"/checks/{id_}")["name"] == "by-terraform"
        missing = go.delete(f"/checks/{id_}")
        assert missing.status_code == 404
        assert "error" in missing.json()


def test_ansible(registry: Registry) -> None:
    """`community.healthchecksio`: JSON that is called a form, and `null` where there is nothing to send."""
    headers = {
        "X-Api-Key": API_TOKEN,
        "Content-Type": "application/x-www-form-urlencoded",
        "User-Agent": "ansible-httpget",
    }
    with httpx.Client(base_url=f"{registry.api}/api/v1", headers=headers) as ansible:

        def ask(method: str, path: str, body: Any = None) -> Any:
            raw = httpx.Request(method, "http://x", json=body).content if body else b"null"
            return ansible.request(method, path, content=raw if method != "DELETE" else None)

        assert ask("GET", "checks").status_code == 200
        wanted = {
            **{
                "name": "by-ansible",
                "desc": "my hourly test check",
                "tags": "test hourly",
                "unique": ["name"],
            },
            **{
                "api_base_url": "https://registry.example",
                "channels": "",
                "methods": "",
                "manual_resume": False,
            },
        }
        simple = wanted | {"timeout": 60, "grace": 3600, "slug": ""}
        made = ask("POST", "checks/", simple)
        assert made.status_code == 201, made.text
        uuid = made.json()["ping_url"].split("/")[-1]
        cron = wanted | {"timeout": None, "grace": 3600, "schedule": "0 * * * *", "tz": "UTC", "slug": None}
        again = ask("POST", "checks/", cron)
        assert again.status_code == 200, again.text
        assert again.json()["ping_url"].split("/")[-1] == uuid
        service = registry.service("by-ansible")
        assert (service["schedule"], service["tags"]) == ("0 * * * *", ["test", "hourly"])

        for signal in ("", "/start", "/log", "/fail", "/0"):
            answer = httpx.head(f"{registry.ingest}/ping/{uuid}{signal}", headers=headers)
            assert answer.status_code == 200
        heard = registry.heartbeats("by-ansible", 5)
        assert signals(heard) == ["success", "start", "log", "fail", "success"]
        for path in (
            *("badges", "channels", "checks?tag=test&tag=hourly", f"checks/{uuid}"),
            *(f"checks/{uuid}/pings", f"checks/{uuid}/flips"),
        ):
            answer = ask("GET", path)
            assert answer.status_code == 200, (path, answer.text)
        [listed] = ask("GET", "checks?tag=test&tag=hourly").json()["checks"]
        assert listed["name"] == "by-ansible"
        assert len(ask("GET", f"checks/{uuid}/pings").json()["pings"]) == 5
        paused = ask("POST", f"checks/{uuid}/pause")
        assert (paused.status_code, paused.json()["status"]) == (200, "paused")
        assert ask("DELETE", f"checks/{uuid}").status_code == 200
        assert ask("DELETE", f"checks/{uuid}").status_code == 404
    wrong = httpx.get(f"{registry.api}/api/v1/checks", headers={"X-Api-Key": "wrong"})
    assert wrong.status_code == 401
    assert httpx.get(f"{registry.api}/api/v1/checks", headers={"X-Api-Key": READ_TOKEN}).status_code == 200


RUN = "6f5a2d1c-7d55-4a39-9d0c-0d3a6f3b1a11"


def test_runitor(registry: Registry) -> None:
    """It repeats 408, 429 and some of 5xx; anything else but 200 and 201 is final."""
    url = registry.make("by-runitor")
    agent = {"User-Agent": "runitor/v1.4.1 (+https://bdd.fi/x/runitor)", "Content-Type": "text/plain"}
    query = f"?create=1&rid={RUN}"
    started = httpx.post(f"{url}/start?rid={RUN}", headers=agent)
    assert (started.status_code, started.headers["Ping-Body-Limit"]) == (200, "10000")
    assert httpx.post(f"{url}/0?rid={RUN}", headers=agent, content="output").status_code == 200
    assert httpx.post(f"{url}/3", headers=agent, content=b"x" * 10_000).status_code == 200
    for path in ("/log", "/fail", ""):
        assert httpx.post(f"{url}{path}?rid={RUN}", headers=agent, content="output").status_code == 200
    heard = registry.heartbeats("by-runitor", 6)
    assert signals(heard) == ["start", "success", "fail", "log", "fail", "success"]
    assert (heard[0]["run"], heard[1]["message"], heard[2]["exit_code"]) == (RUN, "output", 3)
    assert heard[2]["message"] == "x" * 10_000

    by_slug = f"{registry.ingest}/ping/{INGEST_TOKEN}/runitor-by-slug"
    assert httpx.post(f"{by_slug}/start", headers=agent).status_code == 404
    assert httpx.post(f"{by_slug}/start{query}", headers=agent).status_code == 201
    assert httpx.post(f"{by_slug}/0{query}", headers=agent).status_code == 200
    [run] = registry.runs("runitor-by-slug", "success")
    assert run["run"] == RUN
