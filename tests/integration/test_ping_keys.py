"""Ping keys and aliases, with a real broker and a real database: who sees them, and how long they live."""

import asyncio
import html
import os
import re
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from services.ingest.admission import KnownNames
from shared.contracts.events import (
    ConfigData,
    ServiceConfig,
    ServiceDeleted,
    ServiceUpdated,
    Status,
    parse_event,
)
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.publisher import Publisher
from shared.messaging.queries import newest
from tests.integration.test_api import (
    _api,
    busy,
    change,
    client_of,
    eventually,
    link,
    now,
    publisher,
    register,
)
from tests.servers import Process, registry, service

WRITES, READS = {"Authorization": "Bearer writes"}, {"Authorization": "Bearer reads"}
ALIAS = "2c9f6f5b-77d3-4c0e-9a43-1c0b7a9d5e21"


@pytest.fixture
def api(tmp_path: Any, nats_url: str, mongo_url: str) -> Iterator[Process]:
    tokens = {"API_TOKEN": "writes", "READ_TOKEN": "reads", "STATUS_PAGE": "*", "LOG_LEVEL": "debug"}
    process = _api(tmp_path, nats_url, mongo_url, **tokens).start()
    yield process
    process.kill()


@pytest.fixture
async def client(api: Process) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(api, **WRITES) as client:
        yield client


def key_in(answer: httpx.Response) -> str:
    """The key at the end of a ping URL, which is a UUID."""
    return str(uuid.UUID(answer.json()["ping_url"].rpartition("/ping/")[2]))


async def key_of(client: httpx.AsyncClient, name: str) -> str:
    return key_in(await client.get(f"/service/{name}"))


async def _stream(client: httpx.AsyncClient, **headers: str) -> str:
    """All changes that there were, as they are sent to listeners."""
    read = ""
    async with client.stream("GET", "/events?after=0", headers=headers) as answer:
        async for line in answer.aiter_lines():
            read += line
            if "status_changed" in read:
                return read
    return read


async def test_who_may_not_write_sees_neither(
    client: httpx.AsyncClient, api: Process, publisher: Publisher
) -> None:
    made = await client.post("/service", json={"name": "web", "aliases": [ALIAS, "plain-alias"]})
    first = key_in(made)
    assert made.json()["aliases"] == [ALIAS, "plain-alias"]
    key = key_in(await client.post("/service/web/ping-key"))
    await client.post("/service/web/pause")
    await client.post("/service/web/resume")
    await change(publisher, "web", Status.DOWN, 0)

    async def is_down() -> bool:
        return bool((await client.get("/service/web")).json()["status"] == "down")

    await eventually(is_down)
    at = now().isoformat().replace("+00:00", "Z")
    shown = ["/service/web", "/services", "/summary", "/ui/service/web"]
    shown_to_nobody = [
        f"/service/web?at={at}",
        "/service/web/events",
        "/service/web/heartbeats",
        "/service/web/runs",
        "/service/web/uptime",
        "/badge/web.svg",
        "/status",
        "/",
        "/openapi.json",
        "/metrics",
        "/maintenance",
    ]
    for path in shown:
        assert key in (await client.get(path)).text, path
    for path in shown_to_nobody:
        answer = await client.get(path)
        assert answer.status_code == 200, path
        assert not any(each in answer.text for each in (key, first, ALIAS, "plain-alias")), path
    secrets = (key, first, ALIAS, "plain-alias")
    async with client_of(api) as reader:
        logged_in = await reader.post("/ui/login", data={"token": "reads"})
        assert logged_in.status_code == 303
        for headers in (READS, {}):  # by token, then by the cookie
            for path in (*shown, *shown_to_nobody, "/ui/connect?name=web"):
                answer = await reader.get(path, headers=headers)
                assert answer.status_code == 200, path
                assert not any(each in answer.text for each in secrets), path
                assert answer.headers["referrer-policy"] == "same-origin"
            found = (await reader.get("/service/web", headers=headers)).json()
            assert (found["ping_url"], found["aliases"]) == (None, [])
        assert (await reader.post("/service/web/ping-key", headers=READS)).status_code == 403
        assert (await reader.post("/service/web/ping-key")).status_code == 401
        for headers in (READS, WRITES):
            sent = await _stream(reader, **headers)
            assert not any(each in sent for each in secrets)
    assert await key_of(client, "web") == key
    log = api.log.read_text()
    assert not any(each in log for each in secrets)


async def test_a_new_key_ends_the_old_one(client: httpx.AsyncClient, link: BrokerConnection) -> None:
    names = KnownNames(100)
    following = asyncio.create_task(names.follow(link))
    made = await client.post("/service", json={"name": "web", "aliases": [ALIAS]})
    old = key_in(made)

    async def leads(key: str, name: str | None) -> bool:
        return names.of_key(key) == name

    await eventually(lambda: leads(old, "web"), within=1)
    stale = await client.post("/service/web/ping-key", headers={"If-Match": '"1234"'})
    assert stale.status_code == 412
    renewed = await client.post("/service/web/ping-key", headers={"If-Match": made.headers["etag"]})
    assert renewed.status_code == 200
    new = key_in(renewed)
    assert new != old
    assert renewed.headers["etag"] == f'"{renewed.json()["version"]}"' != made.headers["etag"]
    assert renewed.json()["aliases"] == [ALIAS]
    await eventually(lambda: leads(old, None), within=1)
    assert (names.of_key(new), names.of_key(ALIAS.upper())) == ("web", "web")
    assert (await client.post("/service/nobody/ping-key")).status_code == 404
    await client.delete("/service/web")
    assert (await client.post("/service/web/ping-key")).status_code == 404
    await eventually(lambda: leads(new, None), within=1)
    assert names.of_key(ALIAS) is None
    again = await client.post("/service", json={"name": "web"})
    assert key_in(again) not in (old, new)
    await eventually(lambda: leads(key_in(again), "web"), within=1)
    following.cancel()


async def test_an_alias_leads_to_one_service(client: httpx.AsyncClient) -> None:
    await client.post("/service", json={"name": "a", "aliases": [ALIAS.upper()]})
    assert (await client.get("/service/a")).json()["aliases"] == [ALIAS]
    key = await key_of(client, "a")
    for taken in (ALIAS, ALIAS.upper(), key, key.upper()):
        for answer in (
            await client.post("/service", json={"name": "b", "aliases": ["free", taken]}),
            await client.put("/service/c", json={"aliases": [taken]}),
        ):
            assert answer.status_code == 409, taken
            assert taken not in answer.text
            assert ALIAS not in answer.text
    assert (await client.get("/services")).json()["total"] == 1
    await client.post("/service", json={"name": "b"})
    assert (await client.patch("/service/b", json={"aliases": [ALIAS]})).status_code == 409
    assert (await client.get("/service/b")).json()["aliases"] == []
    # What is its own already may be given again; a name is no alias.
    assert (await client.patch("/service/a", json={"aliases": [ALIAS, "b"]})).status_code == 200
    assert (await client.patch("/service/a", json={"description": "x"})).json()["aliases"] == [ALIAS, "b"]
    assert (await client.patch("/service/a", json={"aliases": None})).json()["aliases"] == []
    assert (await client.patch("/service/b", json={"aliases": [ALIAS]})).status_code == 200
    # A service gets another name: what led to the old one leads to the new one.
    assert (await client.delete("/service/b")).status_code == 204
    assert (await client.put("/service/b2", json={"aliases": [ALIAS]})).status_code == 201
    assert (await client.put("/service/b2", json={})).json()["aliases"] == []
    too_many = [f"alias-{n}" for n in range(21)]
    for wrong in (["a b"], ["x" * 129], [""], too_many, "one", [7]):
        answer = await client.patch("/service/a", json={"aliases": wrong})
        assert answer.status_code == 422
        assert "aliases" in answer.json()["detail"]
    assert (await client.patch("/service/a", json={"aliases": too_many[:20]})).status_code == 200


async def test_of_two_that_claim_an_alias_at_once_one_gets_it(client: httpx.AsyncClient) -> None:
    for n in range(10):
        claims = [{"name": f"{side}-{n}", "aliases": [f"alias-{n}"]} for side in "abc"]
        answers = await asyncio.gather(*(client.post("/service", json=each) for each in claims))
        assert sorted(each.status_code for each in answers) == [201, 409, 409]


async def test_of_two_that_claim_it_at_different_apis_one_gets_it_as_well(
    client: httpx.AsyncClient, tmp_path: Any, nats_url: str, mongo_url: str, link: BrokerConnection
) -> None:
    folder = tmp_path / "second"
    folder.mkdir()
    second = _api(folder, nats_url, mongo_url, API_TOKEN="writes").start()
    names = KnownNames(100)
    following = asyncio.create_task(names.follow(link))
    try:
        async with client_of(second, **WRITES) as other:
            for side in "ab":
                assert (await client.post("/service", json={"name": side})).status_code == 201
            for n in range(20):
                claim = {"aliases": [f"made-{n}"]}
                made = await asyncio.gather(
                    client.post("/service", json=claim | {"name": f"c-{n}"}),
                    other.post("/service", json=claim | {"name": f"d-{n}"}),
                    client.patch("/service/a", json={"description": f"{n}"}),  # it is in nobody's way
                )
                assert sorted(it.status_code for it in made) == [200, 201, 409], made[0].text + made[1].text
                claim = {"aliases": [f"changed-{n}"]}
                changed = await asyncio.gather(
                    client.patch("/service/a", json=claim), other.patch("/service/b", json=claim)
                )
                assert sorted(it.status_code for it in changed) == [200, 409], (
                    changed[0].text + changed[1].text
                )
                winner = "ab"[changed[0].status_code == 409]

                async def leads(alias: str = f"changed-{n}", winner: str = winner) -> bool:
                    return names.of_key(alias) == winner

                await eventually(leads, within=1)
                # It goes from one to the other at once, whoever is asked.
                assert (await client.patch(f"/service/{winner}", json={"aliases": []})).status_code == 200
                assert (await other.put("/service/e", json=claim)).status_code in (200, 201)
                assert (await client.patch("/service/a", json=claim)).status_code == 409
    finally:
        following.cancel()
        second.kill()


async def test_aliases_are_given_quickly_while_much_happens(
    client: httpx.AsyncClient, tmp_path: Any, nats_url: str, mongo_url: str, publisher: Publisher
) -> None:
    """To two APIs at once, beside 50 events a second: all of them, and each once."""
    folder = tmp_path / "second"
    folder.mkdir()
    second = _api(folder, nats_url, mongo_url, API_TOKEN="writes").start()

    async def give(api: httpx.AsyncClient, side: str) -> list[float]:
        took = []
        for n in range(40):
            began = asyncio.get_running_loop().time()
            answer = await api.post(
                "/service", json={"name": f"{side}-{n}", "aliases": [f"{side}-alias-{n}"]}
            )
            assert answer.status_code == 201, answer.text
            took.append(asyncio.get_running_loop().time() - began)
            claim = await api.patch(f"/service/{side}-{n}", json={"aliases": [f"both-{n}"]})
            assert claim.status_code in (200, 409), claim.text
            won[f"both-{n}"] += claim.status_code == 200
        return took

    won: Counter[str] = Counter()
    try:
        async with client_of(second, **WRITES) as other, busy(publisher):
            took = await asyncio.gather(give(client, "a"), give(other, "b"))
    finally:
        second.kill()
    assert set(won.values()) == {1}
    assert len(won) == 40
    seconds = sorted(took[0] + took[1])
    assert seconds[len(seconds) // 2] < 0.5
    assert seconds[-1] < 3


async def test_its_own_key_is_no_alias(client: httpx.AsyncClient, publisher: Publisher) -> None:
    """It would go on when the key is made another."""
    await client.post("/service", json={"name": "web", "aliases": [ALIAS]})
    key = await key_of(client, "web")
    for its_own in (key, key.upper()):
        for refused in (
            await client.patch("/service/web", json={"aliases": [ALIAS, its_own]}),
            await client.put("/service/web", json={"aliases": [its_own]}),
        ):
            assert refused.status_code == 422
            assert refused.json()["detail"].startswith("aliases: its own ping key is none")
            assert key not in refused.text
    # One that an older version took ends with the key.
    old = (await client.get("/service/web")).json()
    data = ConfigData(
        config=ServiceConfig(aliases=(ALIAS, key)), registered_at=old["registered_at"], ping_key=key
    )
    event = ServiceUpdated(id="older", source="/api", subject="web", time=now(), data=data)
    await publisher.append(
        streams.config("web"), event.to_bytes(), after=old["version"], event_id=event.id, kind=event.type
    )

    async def has_both() -> bool:
        return bool((await client.get("/service/web")).json()["aliases"] == [ALIAS, key])

    await eventually(has_both)
    assert (await client.patch("/service/web", json={"aliases": [key, ALIAS]})).status_code == 200
    assert (await client.post("/service/web/ping-key")).json()["aliases"] == [ALIAS]


async def test_what_else_changes_keeps_the_key(
    tmp_path: Any, nats_url: str, mongo_url: str, client: httpx.AsyncClient, link: BrokerConnection
) -> None:
    monitor = service("monitor", tmp_path, nats_url, tick="0.2s").start()
    try:
        await client.post("/service", json={"name": "web", "aliases": [ALIAS]})
        key = await key_of(client, "web")

        async def has(**wanted: Any) -> bool:
            found = (await client.get("/service/web")).json()
            return all(found[field] == value for field, value in wanted.items())

        await client.put("/service/web", json={"aliases": [ALIAS], "tags": ["x"]})
        await client.patch("/service/web", json={"description": "y"})
        await client.post("/service/web/pause")
        await client.post("/service/web/resume")
        assert await key_of(client, "web") == key
        await link.js.publish(streams.heartbeat("web"), b'{"every": "5m"}')
        await eventually(lambda: has(every="5m"))
        await link.js.publish(streams.heartbeat("web"), b'{"schedule": "0 3 * * *"}')
        await eventually(lambda: has(schedule="0 3 * * *", every=None))
        assert await key_of(client, "web") == key
        assert await has(aliases=[ALIAS])

        # Who registers by a heartbeat has a key as well, and another one in another life.
        async def own_key() -> str | None:
            answer = await client.get("/service/own")
            return key_in(answer) if answer.status_code == 200 else None

        await link.js.publish(streams.heartbeat("own"), b"")
        first = await eventually(own_key)
        await client.delete("/service/own")
        await link.js.publish(streams.heartbeat("own"), b"")
        assert await eventually(own_key) != first

        keys = {name: await key_of(client, name) for name in ("web", "own")}
        env = dict(os.environ) | {"REGISTRY_NATS_URL": nats_url, "REGISTRY_MONGODB_URL": mongo_url}
        rebuilt = await asyncio.to_thread(registry, tmp_path, "rebuild", "--json", env=env)
        assert rebuilt.returncode == 0, rebuilt.stderr
        assert {name: await key_of(client, name) for name in keys} == keys
        assert await has(aliases=[ALIAS])
        conflict = await client.post("/service", json={"name": "late", "aliases": [keys["own"]]})
        assert conflict.status_code == 409
    finally:
        monitor.kill()


async def test_services_of_an_older_version_get_a_key(
    client: httpx.AsyncClient, api: Process, publisher: Publisher
) -> None:
    api.kill()
    await register(publisher, "old", older=True, every="5m", tags=("x",))
    api.start()

    async def has_key() -> bool:
        answer = await client.get("/service/old")
        return answer.status_code == 200 and bool(answer.json()["ping_url"])

    await eventually(has_key)
    found = (await client.get("/service/old")).json()
    assert (found["every"], found["tags"]) == ("5m", ["x"])
    types = [each["type"] for each in (await client.get("/service/old/events")).json()["items"]]
    assert types == ["service.updated.v1", "service.registered.v1"]


async def test_the_form_sets_aliases(client: httpx.AsyncClient, api: Process) -> None:
    await client.post("/service", json={"name": "other", "aliases": ["taken"]})
    await client.post("/service", json={"name": "web"})
    async with client_of(api, Accept="text/html") as person:
        await person.post("/ui/login", data={"token": "writes"})

        async def send(aliases: str, **more: str) -> httpx.Response:
            page = (await person.get("/ui/service/web")).text
            hidden = dict(re.findall(r'name="(form_key|version)" value="(\w+)"', page))
            form = hidden | {"notify": "on", "notify_unusual": "on", "aliases": aliases} | more
            return await person.post("/ui/service/web/edit", data=form)

        async def aliases() -> list[str]:
            found: list[str] = (await client.get("/service/web")).json()["aliases"]
            return found

        assert (await send(f"{ALIAS.upper()}, one\r\n two,\r\n")).status_code == 303
        assert await aliases() == [ALIAS, "one", "two"]
        page = (await person.get("/ui/service/web")).text
        assert f"{ALIAS}\none\ntwo</textarea>" in page
        version = (await client.get("/service/web")).json()["version"]
        assert (await send(f"{ALIAS}\r\none\r\ntwo")).status_code == 303
        assert (await client.get("/service/web")).json()["version"] == version, "nothing was changed"
        refused = await send("one\r\nt/o")
        assert refused.status_code == 422
        assert "Aliases: 1-128 characters: letters, digits" in html.unescape(refused.text)
        assert "t/o</textarea>" in refused.text
        refused = await send("one", fail_after="9" * 4301)
        assert refused.status_code == 422
        refused = await send("taken")
        assert (refused.status_code, "Aliases: one of them leads to other already" in refused.text) == (
            409,
            True,
        )
        assert (await send(" ")).status_code == 303
        assert await aliases() == []


async def test_history_says_that_keys_changed(
    client: httpx.AsyncClient, api: Process, link: BrokerConnection
) -> None:
    """Never which; also after a rebuild, and where a page of it ends."""
    await client.post("/service", json={"name": "web"})
    await client.post("/service/web/ping-key")
    await client.patch("/service/web", json={"aliases": [ALIAS]})
    await client.patch("/service/web", json={"aliases": [], "description": "new"})
    await client.post("/service/web/pause")

    async def changed() -> list[tuple[str, list[str]]]:
        items, path = [], "/service/web/events?limit=2"
        while path:
            found = (await client.get(path)).json()
            items += [(it["type"].split(".")[1], it["changed"]) for it in found["items"]]
            path = found["next"] and f"/service/web/events?limit=2&cursor={found['next']}"
        return items

    there = [
        ("paused", ["configuration"]),
        ("updated", ["configuration", "aliases"]),
        ("updated", ["aliases"]),
        ("updated", ["ping_key"]),
        ("registered", []),
    ]
    assert await changed() == there
    async with client_of(api, Accept="text/html") as person:
        await person.post("/ui/login", data={"token": "reads"})
        page = html.unescape((await person.get("/ui/service/web")).text)
        for words in ("configuration changed, aliases changed", "aliases changed", "another ping key"):
            assert f"<span>{words}</span>" in page
    await link.nc.request("registry.rebuild", timeout=30)
    assert await changed() == there


async def test_the_page_of_a_service_makes_another_key(client: httpx.AsyncClient, api: Process) -> None:
    made = (await client.post("/service", json={"name": "web", "aliases": [ALIAS]})).json()["ping_url"]
    old = await key_of(client, "web")
    async with client_of(api, Accept="text/html") as person:
        await person.post("/ui/login", data={"token": "writes"})
        page = (await person.get("/ui/service/web")).text
        assert f"/ping/{old}<" in page
        assert ALIAS in page
        assert f"/ping/{old}" in (await person.get("/ui/connect?name=web")).text
        assert f"<code>curl -fsS -m 10 --retry 3 {made}</code>" in page
        assert 'href="/ui/service/web/ping-key"' in page
        assert "/ping-key" not in "".join(re.findall(r"<form[^>]*>", page)), "not by one click"
        asked = (await person.get("/ui/service/web/ping-key")).text
        assert await key_of(client, "web") == old
        (form_key, *_) = re.findall(r'ping-key"><input type="hidden" name="form_key" value="(\w+)"', asked)
        refused = await person.post("/ui/service/web/ping-key", data={"form_key": "made-up"})
        assert refused.status_code == 403
        assert await key_of(client, "web") == old
        done = await person.post("/ui/service/web/ping-key", data={"form_key": form_key})
        assert (done.status_code, done.headers["location"]) == (303, "/ui/service/web?done=ping-key#page")
        assert "It has another ping key." in (await person.get(done.headers["location"])).text
        assert await key_of(client, "web") != old
        await person.post("/ui/login", data={"token": "reads"})
        page = (await person.get("/ui/service/web")).text
        assert "ping-key" not in page
        assert "Ping URL" not in page
        assert "YOUR_PING_KEY" in (await person.get("/ui/connect?name=web")).text
        (reader_key, *_) = re.findall(r'name="form_key" value="(\w+)"', page)
        answer = await person.post("/ui/service/web/ping-key", data={"form_key": reader_key})
        assert answer.status_code == 403


async def test_a_ping_by_key_does_not_bring_a_deleted_service_back(
    client: httpx.AsyncClient, tmp_path: Any, nats_url: str, link: BrokerConnection, publisher: Publisher
) -> None:
    """Also one that ingest has accepted before it knew of the deletion."""
    ingest, monitor = (service(name, tmp_path, nats_url).start() for name in ("ingest", "monitor"))
    names = [f"job-{n}" for n in range(8)]
    try:
        async with client_of(ingest) as pings:
            await asyncio.gather(*(_ping_until_it_is_deleted(client, pings, name) for name in names))
        await publisher.publish(streams.heartbeat("last"))  # read after all of them

        async def all_are_read() -> bool:
            return await newest(link, streams.SERVICES, streams.config("last")) is not None

        await eventually(all_are_read)
        for name in names:
            event = await newest(link, streams.SERVICES, streams.config(name))
            assert event
            assert isinstance(parse_event(event.data), ServiceDeleted), name
    finally:
        ingest.kill()
        monitor.kill()


async def _ping_until_it_is_deleted(client: httpx.AsyncClient, pings: httpx.AsyncClient, name: str) -> None:
    key = key_in(await client.post("/service", json={"name": name}))
    codes, often = list[int](), asyncio.Event()

    async def ping() -> None:
        while not (codes.count(200) and codes[-1] == 404):
            codes.append((await pings.get(f"/ping/{key}")).status_code)
            if codes.count(200) == 20:
                often.set()

    pinging = [asyncio.create_task(ping()) for _ in range(3)]
    await asyncio.wait_for(often.wait(), 20)
    assert (await client.delete(f"/service/{name}")).status_code in (200, 204)
    await asyncio.wait_for(asyncio.gather(*pinging), 10)
