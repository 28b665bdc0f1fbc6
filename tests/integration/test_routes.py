"""Routes over HTTP: what is accepted, versions, the audit, a dry run with channels that a notifier names."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from nats.aio.msg import Msg

from shared.contracts.channels import ChannelReport, ReportPage
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from tests.integration.test_actors import ANA, CI, TOKENS, audit, said
from tests.integration.test_api import _api, client_of, eventually, link, refused
from tests.servers import Process

__all__ = ["link"]

DB = {
    "match": {"tags": ["db"], "status": ["down", "dead"]},
    "to": ["ops"],
    "quiet": "22:00-07:00 Europe/Berlin",
    "escalate": {"after": "15m", "to": ["ana"]},
    "remind": ["1h", "1d"],
}
REST = {"to": ["chat-ops"]}
READER = "a-read-token-of-24-letters"


@pytest.fixture
def api(tmp_path: Any, nats_url: str, mongo_url: str) -> Iterator[Process]:
    process = _api(tmp_path, nats_url, mongo_url, API_TOKEN=TOKENS, READ_TOKEN=READER).start()
    yield process
    process.kill()


@pytest.fixture
async def client(api: Process) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(api, Authorization=ANA) as client:
        yield client


@pytest.fixture
async def other(tmp_path: Any, nats_url: str, mongo_url: str) -> AsyncIterator[httpx.AsyncClient]:
    (tmp_path / "other").mkdir()
    process = _api(tmp_path / "other", nats_url, mongo_url, API_TOKEN=TOKENS).start()
    async with client_of(process, Authorization=CI) as client:
        yield client
    process.kill()


@pytest.fixture
async def notifier(link: BrokerConnection) -> None:
    """What answers which channels there are."""
    reports = [ChannelReport(name=name, kind="telegram") for name in ("ops", "ana", "chat-ops")]
    reports.append(ChannelReport(name="4711", kind="telegram", subscribed=True))

    async def answer(message: Msg) -> None:
        begins = int(message.data or b"0")
        page = ReportPage(reports=tuple(reports[begins : begins + 2]), total=len(reports))
        await message.respond(page.model_dump_json().encode())

    await link.nc.subscribe(streams.CHANNELS, cb=answer)


async def test_they_are_set_and_shown_as_they_were_typed(client: httpx.AsyncClient, notifier: None) -> None:
    answer = await client.get("/routes")
    assert (answer.json(), answer.headers["etag"]) == ({"routes": [], "version": 0}, '"0"')
    answer = await client.put("/routes", json={"routes": [DB, REST]}, headers={"If-Match": '"0"'})
    assert answer.status_code == 200, answer.text
    assert answer.json()["routes"] == [DB, REST]
    version = answer.json()["version"]
    assert (answer.headers["etag"], (await client.get("/routes")).json()) == (f'"{version}"', answer.json())
    stale = await client.put("/routes", json={"routes": []}, headers={"If-Match": '"0"'})
    assert str(version) in refused(stale, 412)
    again = await client.put("/routes", json=answer.json())  # as it was read
    assert again.json()["version"] == version, "nothing has changed"
    emptied = await client.put("/routes", json={"routes": []}, headers={"If-Match": f'"{version}"'})
    assert (emptied.json()["routes"], emptied.json()["version"] > version) == ([], True)
    rows = await audit(client)
    assert said(rows) == [
        ("token:ana", "config_set", {"routes": ([DB, REST], [])}),
        ("token:ana", "config_set", {"routes": (None, [DB, REST])}),
    ]
    assert {(row["service"], row["config"]) for row in rows} == {(None, "routes.all")}
    page = await client.get("/ui/audit", headers={"Accept": "text/html"})
    assert (page.status_code, page.text.count("routes config set")) == (200, 2)


async def test_what_is_refused(client: httpx.AsyncClient, notifier: None) -> None:
    async def put(*routes: Any) -> str:
        return refused(await client.put("/routes", json={"routes": routes}), 422)

    assert "no channel is called boss, night; " in await put(
        REST, {"to": ["boss", "ops"], "escalate": {"after": "5m", "to": ["night"]}}
    )
    assert "no channel is called 4711; " in await put({"to": ["4711"]}), "a subscriber follows no routes"
    assert "…" in await put({"to": [f"c{n}" for n in range(11)]})
    assert "nonsense" in await put({"to": ["ops"], "nonsense": 1})
    assert "quiet" in await put({"to": ["ops"], "quiet": "late"})
    assert "to or escalate is needed" in await put({"match": {"tags": ["db"]}})
    refused(await client.put("/routes", json=[DB]), 422)
    refused(await client.put("/routes", json={}), 422)
    refused(await client.put("/routes", json={"routes": [REST] * 201}), 422)
    assert (await client.get("/routes")).json() == {"routes": [], "version": 0}


async def test_while_no_notifier_says_which_channels_there_are(client: httpx.AsyncClient) -> None:
    refused(await client.put("/routes", json={"routes": [DB]}), 503)
    refused(await client.post("/routes/test", json={"name": "web", "tags": []}), 503)
    assert (await client.get("/routes")).json()["version"] == 0
    assert (await client.put("/routes", json={"routes": []})).status_code == 200, "names no channel"


async def test_who_may(client: httpx.AsyncClient, notifier: None) -> None:
    for headers, read, write in (
        ({"Authorization": ""}, 401, 401),
        ({"Authorization": f"Bearer {READER}"}, 200, 403),
        ({}, 200, 200),
    ):
        assert (await client.get("/routes", headers=headers)).status_code == read
        asked = await client.post("/routes/test", json={"name": "web", "tags": []}, headers=headers)
        assert asked.status_code == read
        assert (await client.put("/routes", json={"routes": []}, headers=headers)).status_code == write


async def test_several_who_set_them_at_once(
    client: httpx.AsyncClient, other: httpx.AsyncClient, notifier: None
) -> None:
    first = (await client.put("/routes", json={"routes": [REST]})).json()
    for who in (client, other):  # who was just told of a version may name it, whichever API is asked
        tag = f'"{first["version"]}"'
        first = (await who.put("/routes", json={"routes": [REST] * 2}, headers={"If-Match": tag})).json()
        assert "version" in first
    tag = f'"{first["version"]}"'
    answers = await asyncio.gather(
        *(
            who.put("/routes", json={"routes": [REST] * (n + 3)}, headers={"If-Match": tag})
            for n, who in enumerate([client, other] * 3)
        )
    )
    assert sorted(answer.status_code for answer in answers) == [200, *[412] * 5]
    answers = await asyncio.gather(
        *(who.put("/routes", json={"routes": [REST] * (n + 9)}) for n, who in enumerate([client, other]))
    )
    assert [answer.status_code for answer in answers] == [200, 200], "without a condition the last one wins"
    last = max((answer.json() for answer in answers), key=lambda it: int(it["version"]))
    for who in (client, other):
        await eventually(lambda who=who: _is(who, last))  # type: ignore[misc]


async def _is(client: httpx.AsyncClient, wanted: Any) -> bool:
    return bool((await client.get("/routes")).json() == wanted)


async def test_a_dry_run_says_who_would_hear(
    client: httpx.AsyncClient, notifier: None, link: BrokerConnection
) -> None:
    await client.put("/routes", json={"routes": [DB, REST]})
    await client.post("/service", json={"name": "pg", "tags": ["db"]})

    async def asked(**given: Any) -> Any:
        answer = await client.post("/routes/test", json={"name": "pg", **given})
        assert answer.status_code == 200, answer.text
        return answer.json()

    found = await asked(at="2026-11-27T21:30:00Z")
    assert (found["tags"], found["warnings"]) == (["db"], [])
    assert found["matched"] == [{"place": 0, "route": DB}]
    how = {it["channel"]: it for it in found["channels"]}
    assert how.keys() == {"ops", "ana", "chat-ops"}
    assert (how["ops"]["hears"], how["ops"]["routes"], how["ops"]["remind"]) == (
        "without_sound",
        [0],
        ["1h", "1d"],
    )
    assert (how["ana"]["hears"], how["ana"]["at"]) == ("escalates", "2026-11-27T21:45:00Z")
    assert (how["chat-ops"]["hears"], how["chat-ops"]["at"]) == ("not", None)
    silent = await asked(status="silent")
    assert [it["place"] for it in silent["matched"]] == [1]
    assert [it["place"] for it in (await asked(tags=["web"]))["matched"]] == [1]
    gone = await asked(routes=[{"to": ["boss"]}])
    assert gone["warnings"] == ["routes: no channel is called boss"]
    assert {it["hears"] for it in gone["channels"]} == {"at_once"}
    refused(await client.post("/routes/test", json={"name": "nobody"}), 404)
    for wrong in ({"name": "pg", "status": "unknown"}, {"name": "a b"}, {"name": "pg", "at": "x"}, {}):
        assert "<" not in refused(await client.post("/routes/test", json=wrong), 422), "no code"
    answer = await link.nc.request(streams.REBUILD, b"", timeout=60)
    assert json.loads(answer.data)["services"] == 1
    assert (await client.get("/routes")).json()["routes"] == [DB, REST]
