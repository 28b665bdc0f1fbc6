"""The registry's own configuration over HTTP: versions, who changed what, what older versions have left."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from shared.contracts.maintenance import Window
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from tests.integration.test_actors import ANA, CI, TOKENS, audit, log_in, said, submit
from tests.integration.test_api import _api, client_of, eventually, link
from tests.servers import Process

__all__ = ["link"]

NIGHTLY = {"tags": ["db"], "cron": "0 3 * * *", "duration": "1h", "time_zone": "Europe/Berlin"}


@pytest.fixture
def api(tmp_path: Any, nats_url: str, mongo_url: str) -> Iterator[Process]:
    process = _api(tmp_path, nats_url, mongo_url, API_TOKEN=TOKENS).start()
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


async def test_the_audit_says_who_changed_a_window_from_what_to_what(
    client: httpx.AsyncClient, other: httpx.AsyncClient, link: BrokerConnection
) -> None:
    made = (await client.post("/maintenance", json=NIGHTLY | {"title": "Backup"})).json()
    path, tag = f"/maintenance/{made['id']}", f'"{made["version"]}"'

    async def seen() -> bool:
        return (await other.get(path)).status_code == 200

    await eventually(seen)
    changed = await other.put(path, json=NIGHTLY | {"tags": ["db", "web"]}, headers={"If-Match": tag})
    assert changed.headers["etag"] != tag
    assert (await other.put(path, json=NIGHTLY, headers={"If-Match": tag})).status_code == 412
    await eventually(lambda: _version(client, path, changed.json()["version"]))
    assert (await client.delete(path)).status_code == 204
    rows = await audit(client)
    assert {(each["service"], each["config"]) for each in rows} == {(None, f"maintenance.{made['id']}")}
    fields = {"tags": ["db"], "cron": "0 3 * * *", "time_zone": "Europe/Berlin", "duration": "1h"}
    removed = fields | {"tags": ["db", "web"]}
    assert said(rows) == [
        ("token:ana", "config_removed", {field: (was, None) for field, was in removed.items()}),
        ("token:ci", "config_set", {"title": ("Backup", None), "tags": (["db"], ["db", "web"])}),
        ("token:ana", "config_set", {it: (None, new) for it, new in (fields | {"title": "Backup"}).items()}),
    ]
    assert await audit(client, "actor=token:ci&limit=1") == rows[1:2]
    assert await audit(client, "service=maintenance") == []
    assert await audit(other) == rows
    answer = await link.nc.request(streams.REBUILD, b"", timeout=60)
    assert json.loads(answer.data)["services"] == 0
    assert await audit(client) == await audit(other) == rows
    page = (await client.get("/ui/audit", headers={"Accept": "text/html"})).text
    assert page.count(f"maintenance window <code>{made['id']}</code>") == 3
    assert (await client.get("/services")).json()["total"] == 0


async def _version(client: httpx.AsyncClient, path: str, version: int) -> bool:
    return bool((await client.get(path)).json().get("version") == version)


async def test_forms_say_who_as_well(client: httpx.AsyncClient) -> None:
    await client.post("/service", json={"name": "web"})
    session = await log_in(client, "secret-of-ci-24-letters")
    headers = {"Authorization": ""}
    async with httpx.AsyncClient(base_url=client.base_url, headers=headers) as browser:
        await submit(browser, "/ui/service/web/maintenance", session, duration="2h")
        await submit(browser, "/ui/maintenance", session, **(NIGHTLY | {"tags": "db"}))
        ids = [each["id"] for each in (await client.get("/maintenance")).json()["items"]]
        for id_ in ids:
            await submit(browser, f"/ui/maintenance/{id_}/delete", session)
    found = await audit(client)
    assert len(ids) == 2
    assert [(each["actor"], each["type"]) for each in found[:4]] == [
        *[("token:ci", "registry.config_removed.v1")] * 2,
        *[("token:ci", "registry.config_set.v1")] * 2,
    ]


async def test_windows_of_an_older_version_are_taken_over_at_the_start(
    tmp_path: Any, nats_url: str, mongo_url: str, link: BrokerConnection
) -> None:
    now = datetime.now(UTC)
    window = Window(services=("web",), starts_at=now, ends_at=now + timedelta(hours=1), title="From before")
    bucket = await link.bucket(streams.MAINTENANCE_BUCKET)
    await bucket.put("0123456789ab", window.model_dump_json().encode())
    processes = [_api(_made(tmp_path / str(n)), nats_url, mongo_url, API_TOKEN=TOKENS) for n in range(2)]
    for process in processes:
        process.start(wait=0)
    try:
        async with client_of(processes[0], Authorization=ANA) as client:
            shown = (await client.get("/maintenance/0123456789ab")).json()
            assert (shown["active"], shown["window"]["title"]) == (True, "From before")

            async def taken_over() -> int:
                return int((await client.get("/maintenance/0123456789ab")).json()["version"])

            version = await eventually(taken_over)
            changed = await client.put(
                "/maintenance/0123456789ab", json=NIGHTLY, headers={"If-Match": f'"{version}"'}
            )
            assert changed.status_code == 200, changed.text
            [row] = await audit(client)
            assert row["actor"] == "token:ana", "nobody knows who made it"
            before = {each["field"]: each["before"] for each in row["changes"]}
            assert (before["title"], before["services"]) == ("From before", ["web"])
            subjects = (await link.js.stream_info(streams.SERVICES, subjects_filter=">")).state.subjects
            assert subjects == {"registry.config.maintenance.0123456789ab": 2}
    finally:
        for process in processes:
            process.kill()


def _made(folder: Any) -> Any:
    folder.mkdir()
    return folder


async def test_of_those_who_change_a_window_at_once_each_sees_who_was_first(
    client: httpx.AsyncClient, other: httpx.AsyncClient
) -> None:
    made = (await client.post("/maintenance", json=NIGHTLY)).json()
    path = f"/maintenance/{made['id']}"
    await eventually(lambda: _version(other, path, made["version"]))
    answers = await asyncio.gather(
        *(who.put(path, json=NIGHTLY | {"title": str(n)}) for n in range(5) for who in (client, other))
    )
    assert {answer.status_code for answer in answers} <= {200, 412}
    versions = [answer.json()["version"] for answer in answers if answer.status_code == 200]
    assert len(set(versions)) == len(versions) > 0
    await eventually(lambda: _version(other, path, max(versions)))
    assert len(await audit(client)) == len(versions) + 1
