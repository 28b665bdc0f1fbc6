"""`depends_on` of a service: what is accepted, shown and recorded, and that no circle comes to be."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from graphlib import TopologicalSorter
from random import Random
from typing import Any

import httpx
import pytest

from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.reader import Reader
from tests.integration.test_api import _api, client_of, eventually, link, refused
from tests.integration.test_schedules import Form, field
from tests.servers import Process

__all__ = ["link"]


@pytest.fixture
def api(tmp_path: Any, nats_url: str, mongo_url: str) -> Iterator[Process]:
    process = _api(tmp_path, nats_url, mongo_url).start()
    yield process
    process.kill()


@pytest.fixture
async def client(api: Process) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(api) as client:
        yield client


@pytest.fixture
async def other(tmp_path: Any, nats_url: str, mongo_url: str) -> AsyncIterator[httpx.AsyncClient]:
    (tmp_path / "other").mkdir()
    process = _api(tmp_path / "other", nats_url, mongo_url).start()
    async with client_of(process) as client:
        yield client
    process.kill()


async def test_they_are_set_shown_and_recorded(client: httpx.AsyncClient, link: BrokerConnection) -> None:
    made = await client.post("/service", json={"name": "web", "depends_on": ["db", "net.uplink", "db"]})
    assert made.status_code == 201, made.text
    assert made.json()["depends_on"] == ["db", "net.uplink"]
    assert made.json()["warnings"] == ["depends_on: not registered: db, net.uplink"]
    await client.put("/service/db", json={})
    shown = (await client.get("/service/web")).json()
    assert (shown["depends_on"], shown["warnings"]) == (
        ["db", "net.uplink"],
        ["depends_on: not registered: net.uplink"],
    )
    await client.patch("/service/web", json={"tags": ["a"]})
    assert (await client.get("/service/web")).json()["depends_on"] == ["db", "net.uplink"], "it stays"
    await client.patch("/service/web", json={"depends_on": ["db"]})
    assert (await client.get("/services")).json()["items"][1]["warnings"] == []
    [row, *_] = (await client.get("/service/web/events")).json()["items"]
    assert row["changes"] == [{"field": "depends_on", "before": ["db", "net.uplink"], "after": ["db"]}]
    answer = await link.nc.request(streams.REBUILD, b"", timeout=60)
    assert json.loads(answer.data)["services"] == 2
    assert (await client.get("/service/web")).json()["depends_on"] == ["db"]
    await client.put("/service/web", json={})
    assert (await client.get("/service/web")).json()["depends_on"] == []
    read = Reader(link, streams.SERVICES, streams.config("web")).to_end()
    configs = [json.loads(it.data)["data"]["config"] for it in [one async for each in read for one in each]]
    assert [config.get("depends_on") for config in configs] == [
        ["db", "net.uplink"],
        ["db", "net.uplink"],
        ["db"],
        None,
    ], "an event that says nothing of it is as it always was"


async def test_what_is_refused(client: httpx.AsyncClient) -> None:
    for wrong in ("db", ["a b"], [7], [f"s{n}" for n in range(33)], {"db": True}):
        assert "depends_on" in refused(await client.put("/service/web", json={"depends_on": wrong}), 422)
    itself = {"depends_on": ["db", "web"]}
    for answer in (
        await client.put("/service/web", json=itself),
        await client.post("/service", json={"name": "web", **itself}),
    ):
        assert refused(answer, 422) == "depends_on: web cannot depend on itself"
    refused(await client.get("/service/web"), 404)
    for name, parent in (("web", "app"), ("app", "db"), ("db", "disk")):
        assert (await client.put(f"/service/{name}", json={"depends_on": [parent]})).is_success
    closed = "depends_on: it would depend on itself: disk → web → app → db → disk"
    assert refused(await client.put("/service/disk", json={"depends_on": ["x", "web"]}), 422) == closed
    made = await client.post("/service", json={"name": "disk", "depends_on": ["web"]})
    assert refused(made, 422) == closed
    assert (await client.put("/service/disk", json={"depends_on": ["x"]})).is_success
    changed = await client.patch("/service/disk", json={"depends_on": ["web"]})
    assert refused(changed, 422) == closed
    assert (await client.patch("/service/db", json={"depends_on": None})).is_success
    assert (await client.patch("/service/disk", json={"depends_on": ["web"]})).is_success
    await client.delete("/service/web")
    assert (await client.put("/service/db", json={"depends_on": ["disk"]})).is_success, "web is no more"
    again = await client.put("/service/web", json={"depends_on": ["db"]})
    assert "web → db → disk → web" in refused(again, 422)


async def test_two_who_would_close_a_circle_do_not_both_pass(
    client: httpx.AsyncClient, other: httpx.AsyncClient, link: BrokerConnection
) -> None:
    rng = Random(7)
    names = [f"s{n}" for n in range(6)]
    for round_ in range(4):
        wanted = [(rng.choice(names), rng.sample(names, 2)) for _ in range(12)]
        answers = await asyncio.gather(
            *(
                who.put(f"/service/{name}", json={"depends_on": parents})
                for n, (name, parents) in enumerate(wanted)
                for who in ((client, other)[n % 2],)
            )
        )
        assert {answer.status_code for answer in answers} <= {200, 201, 422}, round_
        graph: dict[str, list[str]] = {}
        async for batch in Reader(link, streams.SERVICES, streams.ALL_CONFIG).to_end():
            for stored in batch:
                config = json.loads(stored.data)["data"]["config"]
                graph[streams.name_in(stored.subject)] = config.get("depends_on", [])
                list(TopologicalSorter(graph).static_order())  # raises CycleError


async def test_what_another_api_has_just_recorded_counts(
    client: httpx.AsyncClient, other: httpx.AsyncClient
) -> None:
    for n in range(5):
        a, b = f"a{n}", f"b{n}"
        assert (await client.put(f"/service/{a}", json={"depends_on": [b]})).is_success
        assert "would depend on itself" in refused(
            await other.put(f"/service/{b}", json={"depends_on": [a]}), 422
        )


async def test_the_form_has_them(client: httpx.AsyncClient) -> None:
    await client.post("/service", json={"name": "web", "depends_on": ["db", "net"]})
    form = Form(client, "web")
    assert field(await form.page(), "depends_on") == "db, net"
    assert "not registered: db, net" in await form.page()
    await form.send()
    assert (await client.get("/service/web")).json()["depends_on"] == ["db", "net"]
    await form.send(depends_on=" net,\tdisk storage ")
    assert (await client.get("/service/web")).json()["depends_on"] == ["net", "disk", "storage"]
    answer = await form.send(depends_on="web")
    assert (answer.status_code, "Depends on: web cannot depend on itself" in answer.text) == (422, True)
    await form.send(depends_on="")

    async def gone() -> bool:
        return bool((await client.get("/service/web")).json()["depends_on"] == [])

    await eventually(gone)
