"""Who did it: what every way of changing a service leaves in the record."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from services.monitor.domain.service import Beat
from services.monitor.store import mapping
from shared.contracts.events import ServiceUpdated, micros
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.reader import Reader
from tests.integration.test_api import _api, client_of, eventually, link
from tests.servers import Process

__all__ = ["link"]

TOKENS = "ana:anas-secret-of-24-letters,ci:secret-of-ci-24-letters,unnamed-one-of-24-letters"
ANA, CI, NOBODY = (f"Bearer {each.rpartition(':')[2]}" for each in TOKENS.split(","))


@pytest.fixture
def api(tmp_path: Any, nats_url: str, mongo_url: str) -> Iterator[Process]:
    process = _api(tmp_path, nats_url, mongo_url, API_TOKEN=TOKENS).start()
    yield process
    process.kill()


@pytest.fixture
async def client(api: Process) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(api) as client:
        yield client


async def recorded(link: BrokerConnection) -> list[tuple[str, str | None]]:
    """The configuration events of the record, each with its actor."""
    read = Reader(link, streams.SERVICES, streams.ALL_CONFIG).to_end()
    found = [json.loads(each.data) for each in [one async for batch in read for one in batch]]
    return [(it["type"].split(".")[1], it.get("actor")) for it in found]


async def submit(client: httpx.AsyncClient, path: str, session: dict[str, str], **form: str) -> None:
    page = await client.get("/ui/connect", headers=session | {"Accept": "text/html"})
    key = re.findall(r'name="form_key" value="(\w+)"', page.text)[0]
    answer = await client.post(path, data=form | {"form_key": key}, headers=session)
    assert answer.status_code == 303, answer.text


async def log_in(client: httpx.AsyncClient, token: str) -> dict[str, str]:
    answer = await client.post("/ui/login", data={"token": token})
    assert answer.status_code == 303, answer.text
    client.cookies.clear()
    return {"Cookie": f"registry_session={answer.cookies['registry_session']}"}


async def test_every_way_of_changing_a_service_says_who(
    client: httpx.AsyncClient, link: BrokerConnection
) -> None:
    def by(who: str, **headers: str) -> dict[str, Any]:
        return {"headers": {"Authorization": who} | headers}

    await client.post("/service", json={"name": "web"}, **by(ANA))
    await client.put("/service/web", json={"tags": ["a"]}, **by(CI))
    await client.patch("/service/web", json={"every": "5m"}, **by(NOBODY))
    await client.patch("/service/web", json={"every": "5m"}, **by(ANA))  # nothing changes
    await client.post("/service/web/pause", **by("Bearer ana:anas-secret-of-24-letters"))
    await client.post("/service/web/resume", **by(CI))
    await client.post("/service/web/ping-key", **by(ANA))
    await client.delete("/service/web", **by(CI))
    await client.put("/service/web", json={}, **by(ANA))
    of_api = [
        ("registered", "token:ana"),
        ("updated", "token:ci"),
        ("updated", "token"),
        ("paused", "token:ana"),
        ("resumed", "token:ci"),
        ("updated", "token:ana"),
        ("deleted", "token:ci"),
        ("registered", "token:ana"),
    ]
    assert await recorded(link) == of_api

    session = await log_in(client, "ana:anas-secret-of-24-letters")
    page = "/ui/service/web"
    await submit(client, f"{page}/edit", session, description="x", notify="on", notify_unusual="on")
    await submit(client, f"{page}/pause", session)
    await submit(client, f"{page}/resume", session)
    await submit(client, f"{page}/ping-key", session)
    await submit(client, f"{page}/delete", session)
    kinds = ("updated", "paused", "resumed", "updated", "deleted")
    of_pages = [(kind, "token:ana") for kind in kinds]
    assert (await recorded(link))[len(of_api) :] == of_pages

    key = {"X-Api-Key": "secret-of-ci-24-letters"}
    made = (await client.post("/api/v3/checks/", json={"name": "job"}, headers=key)).json()
    check = f"/api/v3/checks/{made['ping_url'].rpartition('/')[2]}"
    await client.post(check, json={"api_key": "anas-secret-of-24-letters", "tags": "x"})
    await client.post(f"{check}/pause", headers=key)
    await client.post(f"{check}/resume", headers=key)
    await client.delete(check, headers=key)
    assert (await recorded(link))[len(of_api) + len(of_pages) :] == [
        ("registered", "token:ci"),
        ("updated", "token:ana"),
        ("paused", "token:ci"),
        ("resumed", "token:ci"),
        ("deleted", "token:ci"),
    ]


async def audit(client: httpx.AsyncClient, query: str = "") -> list[dict[str, Any]]:
    found, cursor = [], ""
    while True:
        answer = await client.get(f"/audit?{query}{cursor}", headers={"Authorization": ANA})
        assert answer.status_code == 200, answer.text
        found += answer.json()["items"]
        if not answer.json()["next"]:
            return found
        cursor = f"&cursor={answer.json()['next']}"


def said(rows: list[dict[str, Any]]) -> list[tuple[str, str, dict[str, tuple[Any, Any]] | None]]:
    """Who did what, and from what to what."""
    return [
        (
            each["actor"],
            each["type"].split(".")[1],
            None
            if each["changes"] is None
            else {it["field"]: (it["before"], it["after"]) for it in each["changes"]},
        )
        for each in rows
    ]


async def busy_day(client: httpx.AsyncClient) -> None:
    def by(who: str) -> dict[str, Any]:
        return {"headers": {"Authorization": who}}

    await client.post("/service", json={"name": "web", "every": "5m", "aliases": ["an-old-id"]}, **by(ANA))
    await client.patch("/service/web", json={"every": "10m", "tags": ["a", "b"], "notify": False}, **by(CI))
    await client.post("/service/web/ping-key", **by(ANA))
    await client.patch("/service/web", json={"every": None, "notify": None, "aliases": []}, **by(ANA))
    await client.post("/service/web/pause", **by(CI))
    await client.delete("/service/web", **by(ANA))
    await client.put("/service/web", json={"description": "anew"}, **by(CI))
    await client.put("/service/other", json={}, **by(NOBODY))


OF_WEB = [
    ("token:ci", "registered", {"description": (None, "anew")}),
    ("token:ana", "deleted", {"tags": (["a", "b"], None), "paused": (True, None)}),
    ("token:ci", "paused", {"paused": (False, True)}),
    (
        "token:ana",
        "updated",
        {"every": ("10m", None), "notify": (False, True), "aliases": (None, None)},
    ),
    ("token:ana", "updated", {"ping_key": (None, None)}),
    (
        "token:ci",
        "updated",
        {"every": ("5m", "10m"), "tags": ([], ["a", "b"]), "notify": (True, False)},
    ),
    ("token:ana", "registered", {"every": (None, "5m"), "aliases": (None, None)}),
]


async def test_the_audit_says_who_changed_what_from_what_to_what(client: httpx.AsyncClient) -> None:
    await busy_day(client)
    rows = await audit(client)
    assert said(rows) == [("token", "registered", {}), *OF_WEB]
    assert {each["service"] for each in rows} == {"web", "other"}
    assert await audit(client, "limit=1") == await audit(client, "limit=3") == rows
    assert said(await audit(client, "service=web&limit=2")) == OF_WEB
    assert await audit(client, "service=nobody") == await audit(client, "actor=token:eve") == []
    of_ana = [each for each in rows if each["actor"] == "token:ana"]
    assert await audit(client, "actor=token:ana&limit=2") == of_ana
    assert await audit(client, "actor=token:ana&service=other") == []
    for limit in (1, 2, 50):
        since = rows[3]["at"].replace("+", "%2B")
        assert await audit(client, f"since={since}&limit={limit}") == rows[:4]
    assert await audit(client, "since=2099-01-01T00:00:00Z") == []
    for wrong in ("service=a..b", "cursor=W10", "since=yesterday", "limit=0"):
        answer = await client.get(f"/audit?{wrong}", headers={"Authorization": ANA})
        assert answer.status_code == 422, wrong
    assert (await client.get("/audit")).status_code == 401


async def test_a_history_says_the_same(client: httpx.AsyncClient) -> None:
    await busy_day(client)
    headers = {"Authorization": ANA}
    rows = (await client.get("/service/web/events", headers=headers)).json()["items"]
    assert said(rows) == OF_WEB[:2], "of this life, and how the one before ended"
    assert "an-old-id" not in json.dumps(await audit(client))


async def test_the_audit_is_the_same_in_every_api_and_after_a_rebuild(
    client: httpx.AsyncClient, tmp_path: Any, nats_url: str, mongo_url: str, link: BrokerConnection
) -> None:
    await busy_day(client)
    before = await audit(client)
    (tmp_path / "other").mkdir()
    other = _api(tmp_path / "other", nats_url, mongo_url, API_TOKEN=TOKENS)
    other.start()
    try:
        async with client_of(other) as second:
            assert await audit(second) == before
            answer = await link.nc.request(streams.REBUILD, b"", timeout=60)
            assert json.loads(answer.data)["events"] == 8
            assert await audit(second) == before
            await client.patch("/service/web", json={"every": "1h"}, headers={"Authorization": CI})

            async def seen() -> bool:
                return said(await audit(second))[0] == ("token:ci", "updated", {"every": (None, "1h")})

            await eventually(seen)
            assert await audit(client) == await audit(second)
    finally:
        other.kill()


async def test_what_a_heartbeat_causes_and_what_older_versions_wrote(
    client: httpx.AsyncClient, link: BrokerConnection
) -> None:
    beat = Beat(micros(datetime.now(UTC)))
    registered = mapping.registration("job", beat)
    first = await link.js.publish(streams.config("job"), registered.to_bytes())
    old = ServiceUpdated(id="old", source="/api", subject="job", time=registered.time, data=registered.data)
    await link.js.publish(streams.config("job"), old.to_bytes())
    declares = mapping.declaration("job", beat._replace(at=beat.at + 5, every=60_000_000), old, first.seq)
    assert declares
    await link.js.publish(streams.config("job"), declares.to_bytes())

    async def there() -> bool:
        return len(await audit(client)) == 2

    await eventually(there)
    assert said(await audit(client, "actor=heartbeat")) == [
        ("heartbeat", "updated", {"every": (None, "1m")}),
        ("heartbeat", "registered", {}),
    ]
    answer = await client.get("/service/job/events", headers={"Authorization": ANA})
    assert [each["actor"] for each in answer.json()["items"]] == ["heartbeat", None, "heartbeat"]


async def test_pages_show_who_is_logged_in_and_who_changed_what(client: httpx.AsyncClient) -> None:
    await busy_day(client)
    await client.patch("/service/web", json={"description": "<b>x</b>"}, headers={"Authorization": CI})
    pages = {"Accept": "text/html"}
    assert (await client.get("/ui/audit", headers=pages)).status_code == 303, "to the login"
    session = await log_in(client, "anas-secret-of-24-letters") | pages
    page = await client.get("/ui/audit", headers=session)
    assert 'class="who"' in page.text
    assert "token:ci" in page.text
    assert "an-old-id" not in page.text
    assert "<b>x</b>" not in page.text
    only = await client.get("/ui/audit?actor=token&service=other", headers=session)
    assert "token:ci" not in only.text
    assert only.text.count("<time") == 1
    assert (await client.get("/ui/audit?service=a..b", headers=session)).status_code == 422
    service = await client.get("/ui/service/web", headers=session)
    assert "by token:ci" in service.text
    nameless = await log_in(client, "unnamed-one-of-24-letters") | pages
    assert 'class="who"' not in (await client.get("/ui/audit", headers=nameless)).text


async def test_without_tokens_it_was_anybody(
    tmp_path: Any, nats_url: str, mongo_url: str, link: BrokerConnection
) -> None:
    process = _api(tmp_path, nats_url, mongo_url).start()
    try:
        async with client_of(process) as client:
            await client.put("/service/web", json={})
        assert await recorded(link) == [("registered", "anonymous")]
    finally:
        process.kill()
