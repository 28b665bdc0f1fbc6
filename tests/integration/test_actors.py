"""Who did it: what every way of changing a service leaves in the record."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.reader import Reader
from tests.integration.test_api import _api, client_of, link
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
