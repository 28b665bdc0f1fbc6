"""Healthchecks' Management API as its clients use it: with a real broker and a real database."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from services.api.healthchecks.checks import Spec
from shared.contracts.events import Status
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.publisher import Publisher
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
from tests.servers import Process, service

KEY = {"X-Api-Key": "writes"}
READS = {"X-Api-Key": "reads"}


@pytest.fixture
def api(tmp_path: Any, nats_url: str, mongo_url: str) -> Iterator[Process]:
    url = "https://registry.example"
    tokens = {"API_TOKEN": "writes", "READ_TOKEN": "reads", "INGEST_TOKEN": "sends"}
    process = _api(tmp_path, nats_url, mongo_url, PUBLIC_URL=url, **tokens).start()
    yield process
    process.kill()


@pytest.fixture
def notifier(tmp_path: Any, nats_url: str) -> Iterator[Process]:
    """With one channel; not started."""
    given = {"webhook_urls": "ops=http://127.0.0.1:1/", "webhook_secret": "sixteen-characters"}
    process = service("notifier", tmp_path, nats_url, digest_time="", **given)
    yield process
    process.kill()


@pytest.fixture
async def client(api: Process) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(api, **KEY) as client:
        yield client


async def beat(link: BrokerConnection, name: str, text: str = "", **headers: str) -> int:
    """As ingest stores it; its sequence."""
    ack = await link.js.publish(
        streams.heartbeat(name),
        text.encode(),
        headers={"Registry-Source": "http"}
        | {f"Registry-{key.title()}": each for key, each in headers.items()},
    )
    return ack.seq


async def test_a_check_is_created_read_changed_and_deleted(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        "/api/v3/checks/",
        json={"name": "My backup", "tags": "db nightly", "desc": "Dumps", "timeout": 3600, "grace": 600},
    )
    assert answer.status_code == 201
    check = answer.json()
    uuid = check["uuid"]
    assert check == {
        "name": "My backup",
        "slug": "my-backup",
        "tags": "db nightly",
        "desc": "Dumps",
        "grace": 600,
        "n_pings": 0,
        "status": "new",
        "started": False,
        "last_ping": None,
        "next_ping": None,
        "manual_resume": False,
        "methods": "",
        "subject": "",
        "subject_fail": "",
        "start_kw": "",
        "success_kw": "",
        "failure_kw": "",
        "filter_subject": False,
        "filter_body": False,
        "badge_url": check["badge_url"],
        "uuid": uuid,
        "ping_url": check["ping_url"],
        "update_url": f"https://registry.example/api/v3/checks/{uuid}",
        "pause_url": f"https://registry.example/api/v3/checks/{uuid}/pause",
        "resume_url": f"https://registry.example/api/v3/checks/{uuid}/resume",
        "channels": "",
        "timeout": 3600,
    }
    assert check["ping_url"].endswith(f"/ping/{uuid}")
    service = (await client.get("/service/my-backup")).json()
    assert service["ping_url"] == check["ping_url"]
    assert service["every"] == "1h"
    assert service["thresholds"] == {"silent_after": "1h5m", "down_after": "1h10m", "dead_after": "7d"}
    assert service["max_run"] == "10m"
    assert (service["tags"], service["description"]) == (["db", "nightly"], "Dumps")
    for path in (f"/api/v3/checks/{uuid}", f"/api/v3/checks/{uuid}/", f"/api/v3/checks/{uuid.upper()}"):
        assert (await client.get(path)).json() == check

    cron = {"schedule": "0 3 * * *", "tz": "Europe/Berlin", "grace": 1800}
    changed = (await client.post(f"/api/v3/checks/{uuid}", json=cron)).json()
    assert "timeout" not in changed
    assert {field: changed[field] for field in cron} == cron
    assert (changed["name"], changed["desc"]) == ("My backup", "Dumps")
    service = (await client.get("/service/my-backup")).json()
    assert (service["schedule"], service["time_zone"], service["every"]) == (
        "0 3 * * *",
        "Europe/Berlin",
        None,
    )
    assert service["thresholds"]["down_after"] == "30m"
    back = (await client.post(f"/api/v3/checks/{uuid}", json={"timeout": 120})).json()
    assert (back["timeout"], back["grace"]) == (120, 1800)
    assert "schedule" not in back
    gone = await client.delete(f"/api/v3/checks/{uuid}")
    assert (gone.status_code, gone.json()) == (200, back)
    for answer in (
        await client.get(f"/api/v3/checks/{uuid}"),
        await client.delete(f"/api/v3/checks/{uuid}"),
        await client.get("/api/v3/nothing"),
    ):
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/json")
        assert list(answer.json()) == ["error"]
    for path, methods in (
        ("/api/v3/checks/", "GET, HEAD, POST"),
        (f"/api/v3/checks/{uuid}", "GET, HEAD, POST, DELETE"),
        ("/service/my-backup", "GET, HEAD, PUT, PATCH, DELETE"),
        ("/static/page.js", "GET, HEAD"),
    ):
        wrong = await client.options(path)
        assert (wrong.status_code, wrong.headers["allow"]) == (405, methods)


async def test_versions_differ_as_they_do_in_healthchecks(
    client: httpx.AsyncClient, link: BrokerConnection, publisher: Publisher
) -> None:
    made = (await client.post("/api/v1/checks/", json={"name": "job"})).json()
    uuid = made["ping_url"].rpartition("/")[2]
    assert "uuid" not in made
    assert made["update_url"] == f"https://registry.example/api/v1/checks/{uuid}"
    assert (made["timeout"], made["grace"]) == (86400, 3600)
    await beat(link, "job")
    await change(publisher, "job", Status.ALIVE, 0)
    await beat(link, "job", signal="start")

    async def started() -> Any:
        return (await client.get(f"/api/v1/checks/{uuid}")).json()["started"]

    await eventually(started)
    statuses = [(await client.get(f"/api/v{v}/checks/{uuid}")).json()["status"] for v in (1, 2, 3)]
    assert statuses == ["started", "up", "up"]
    assert "uuid" not in (await client.get(f"/api/v2/checks/{uuid}")).json()


async def test_unique_makes_an_upsert(client: httpx.AsyncClient) -> None:
    wanted = {"name": "My backup", "tags": "db", "timeout": 600, "grace": 60}

    async def post(**more: Any) -> tuple[int, str, str]:
        answer = await client.post("/api/v3/checks/", json=wanted | more)
        return answer.status_code, answer.json()["slug"], answer.json()["uuid"]

    first = await post(unique=["name"])
    assert first[:2] == (201, "my-backup")
    for unique in (["name"], ["slug"], ["name", "tags"], ["tags", "timeout", "grace"]):
        assert await post(unique=unique, slug="my-backup") == (200, *first[1:])
    assert await post(unique=["name"], desc="another") == (200, *first[1:])
    assert (await client.get(f"/api/v3/checks/{first[2]}")).json()["desc"] == "another"
    assert (await post())[:2] == (201, "my-backup-2")
    assert (await post(unique=["name", "grace"], grace=120))[:2] == (201, "my-backup-3")
    by_slug = (await client.get("/api/v3/checks/?slug=my-backup-2")).json()["checks"]
    assert [each["name"] for each in by_slug] == ["My backup"]
    for query in ("slug=my-backup", "slug=my-backup&tag=db"):
        listed = (await client.get(f"/api/v3/checks/?{query}")).json()["checks"]
        assert [each["slug"] for each in listed] == ["my-backup", "my-backup-2", "my-backup-3"]
    assert (await client.get("/api/v3/checks/?slug=my-backup&tag=web")).json() == {"checks": []}
    assert (await post(unique=["slug"], slug=None))[0] == 201  # it says no slug
    assert (await client.get("/service/my-backup-2")).json()["ping_url"] == by_slug[0]["ping_url"]


async def test_upserts_at_once_make_one_check(client: httpx.AsyncClient) -> None:
    wanted = [{"name": f"once-{n}", "tags": "one", "unique": ["tags"]} for n in range(8)]
    answers = await asyncio.gather(*(client.post("/api/v3/checks/", json=each) for each in wanted))
    assert sorted(each.status_code for each in answers) == [200] * 7 + [201]
    assert len({each.json()["uuid"] for each in answers}) == 1


async def test_upserts_at_once_make_one_check_whichever_version_and_api_is_asked(
    client: httpx.AsyncClient, tmp_path: Any, nats_url: str, mongo_url: str, publisher: Publisher
) -> None:
    folder = tmp_path / "second"
    folder.mkdir()
    second = _api(folder, nats_url, mongo_url, API_TOKEN="writes").start()

    async def made_once(tag: str, *apis: httpx.AsyncClient) -> None:
        """Their names differ, so that none is in the way of another."""
        wanted = {"tags": tag, "unique": ["tags"]}
        answers = await asyncio.gather(
            *(
                apis[n % len(apis)].post(f"/api/v{n % 3 + 1}/checks/", json=wanted | {"name": f"{tag} {n}"})
                for n in range(6)
            )
        )
        assert sorted(each.status_code for each in answers) == [200] * 5 + [201]
        assert len({each.json()["ping_url"].rpartition("/")[2] for each in answers}) == 1

    try:
        async with client_of(second, **KEY) as other, busy(publisher):
            for n in range(8):
                await made_once(f"one-{n}", client)
                await made_once(f"two-{n}", client, other)
    finally:
        second.kill()


async def test_lists_are_narrowed_by_tags_and_slug(client: httpx.AsyncClient) -> None:
    for name, tags in (("a", "x y"), ("b", "x"), ("c", "")):
        await client.post("/api/v3/checks/", json={"name": name, "tags": tags})

    async def names(query: str) -> list[str]:
        answer = await client.get(f"/api/v2/checks{query}")
        assert answer.status_code == 200
        return [each["name"] for each in answer.json()["checks"]]

    assert await names("/") == await names("") == ["a", "b", "c"]
    assert await names("?tag=x") == ["a", "b"]
    assert await names("/?tag=x&tag=y") == ["a"]
    assert await names("/?slug=b") == ["b"]
    assert await names("/?slug=b&tag=y") == []


async def test_who_may_only_read_sees_no_way_to_ping(client: httpx.AsyncClient, api: Process) -> None:
    made = (await client.post("/api/v3/checks/", json={"name": "job", "channels": "mail"})).json()
    uuid = made["uuid"]
    assert made["channels"] == "mail"
    unique_key = hashlib.sha1(uuid.replace("-", "")[:16].encode()).hexdigest()
    async with client_of(api) as nobody:
        answers = [
            await nobody.get(path, headers=READS)
            for path in ("/api/v3/checks/", f"/api/v3/checks/{unique_key}", f"/api/v1/checks/{uuid}")
        ]
        for answer in answers:
            assert answer.status_code == 200
            assert uuid not in answer.text
            assert "ping" not in answer.text.replace("n_pings", "").replace("_ping", "")
        found = answers[1].json()
        hidden = {"uuid", "ping_url", "update_url", "pause_url", "resume_url", "channels"}
        assert found == {k: v for k, v in made.items() if k not in hidden} | {"unique_key": unique_key}
        assert (await nobody.get(f"/api/v3/checks/{unique_key}/flips/", headers=READS)).json() == {
            "flips": []
        }
        assert (await nobody.get("/api/v3/badges/", headers=READS)).status_code == 200
        for method, path in (
            ("POST", "checks/"),
            ("POST", f"checks/{uuid}"),
            ("DELETE", f"checks/{uuid}"),
            ("POST", f"checks/{uuid}/pause"),
            ("POST", f"checks/{uuid}/resume"),
            ("GET", f"checks/{uuid}/pings/"),
            ("GET", f"checks/{uuid}/pings/1/body"),
            ("GET", "channels/"),
        ):
            for headers, status in ((READS, 403), ({"X-Api-Key": "wrong"}, 401), ({}, 401)):
                answer = await nobody.request(method, f"/api/v3/{path}", headers=headers)
                assert (answer.status_code, list(answer.json())) == (status, ["error"]), (path, headers)
                if status == 401:
                    assert answer.json()["error"] == f"{'wrong' if headers else 'missing'} api key"
        assert (await nobody.post(f"/api/v3/checks/{unique_key}", headers=KEY)).status_code == 404
        for path in ("checks/", "badges/", f"checks/{uuid}", f"checks/{uuid}/flips/"):
            assert (await nobody.get(f"/api/v1/{path}")).status_code == 401
        in_body = await nobody.post("/api/v1/checks/", json={"api_key": "writes", "name": "by-body"})
        assert in_body.status_code == 201
        for key, status in (("wrong", 401), ("reads", 403), (None, 401), (["writes"], 401)):
            answer = await nobody.post("/api/v1/checks/", json={"api_key": key, "name": "no"})
            assert answer.status_code == status, key
        assert (await nobody.get("/api/v3/status/")).text == "OK"
        assert (await nobody.get("/api/v3/metrics/")).status_code == 401
        metrics = await nobody.get("/api/v3/metrics/", headers={"X-Metrics-Key": "reads"})
        assert set(metrics.json()) == {"ts", "max_ping_id", "max_notification_id", "num_unprocessed_flips"}


async def test_pause_and_resume(client: httpx.AsyncClient) -> None:
    uuid = (await client.post("/api/v3/checks/", json={"name": "job"})).json()["uuid"]
    not_paused = await client.post(f"/api/v3/checks/{uuid}/resume", content=b"null")
    assert (not_paused.status_code, not_paused.json()) == (409, {"error": "check is not paused"})
    for body in (b"", b"null", b"{}"):
        paused = await client.post(f"/api/v3/checks/{uuid}/pause", content=body)
        assert (paused.status_code, paused.json()["status"]) == (200, "paused")
    assert (await client.get("/service/job")).json()["paused"]
    resumed = await client.post(f"/api/v3/checks/{uuid}/resume/")
    assert (resumed.status_code, resumed.json()["status"]) == (200, "new")
    unknown = "11111111-2222-4333-8444-555555555555"
    for action in ("pause", "resume", "pings", "flips"):
        method = "POST" if action in ("pause", "resume") else "GET"
        assert (await client.request(method, f"/api/v3/checks/{unknown}/{action}")).status_code == 404


async def test_pings_and_their_bodies(client: httpx.AsyncClient, link: BrokerConnection) -> None:
    uuid = (await client.post("/api/v3/checks/", json={"name": "job"})).json()["uuid"]
    await client.post("/api/v3/checks/", json={"name": "other"})
    first = await beat(link, "job", '{"run": "r1"}', signal="start")
    log = await beat(link, "job", "a line", signal="log")
    last = await beat(link, "job", '{"message": "disk full", "run": "r1"}', signal="fail")
    foreign = await beat(link, "other", "secret")
    measured = await beat(link, "job", duration="2.5")
    pings = (await client.get(f"/api/v3/checks/{uuid}/pings")).json()["pings"]
    assert [(each["n"], each["type"], each["rid"]) for each in pings] == [
        (measured, "success", None),
        (last, "fail", "r1"),
        (log, "log", None),
        (first, "start", "r1"),
    ]
    assert pings[0]["duration"] == 2.5
    assert 0 < pings[1]["duration"] < 10
    assert "duration" not in pings[3]
    assert pings[0]["body_url"] is None
    assert pings[1]["body_url"] == f"https://registry.example/api/v3/checks/{uuid}/pings/{last}/body"
    assert set(pings[3]) == {
        *("type", "date", "n", "scheme", "remote_addr", "method", "ua", "rid", "body_url"),
    }
    body = await client.get(f"/api/v3/checks/{uuid}/pings/{last}/body")
    assert (body.text, body.headers["content-type"]) == ("disk full", "text/plain; charset=utf-8")
    for n in (measured, foreign, 0, 10**30):
        assert (await client.get(f"/api/v3/checks/{uuid}/pings/{n}/body")).status_code == 404
    assert (await client.get(f"/api/v3/checks/{uuid}")).json()["n_pings"] == 4
    assert [each["n_pings"] for each in (await client.get("/api/v3/checks/")).json()["checks"]] == [4, 1]


async def test_flips_are_falls_and_recoveries(
    client: httpx.AsyncClient, publisher: Publisher, link: BrokerConnection
) -> None:
    uuid = (await client.post("/api/v3/checks/", json={"name": "job"})).json()["uuid"]
    begin, after = now() + timedelta(seconds=1), 0
    path = (Status.ALIVE, Status.SILENT, Status.DOWN, Status.DEAD, Status.ALIVE)
    for hours, to in enumerate(path):
        after = await change(publisher, "job", to, after, begin + timedelta(hours=hours))

    async def flips(query: str = "", **headers: str) -> Any:
        return (await client.get(f"/api/v3/checks/{uuid}/flips/{query}", headers=headers)).json()

    async def all_of_them() -> bool:
        return len((await flips())["flips"]) == 3

    await eventually(all_of_them)
    found = (await flips())["flips"]
    assert [each["up"] for each in found] == [1, 0, 1]
    at = begin.replace(microsecond=0)
    assert found[1]["timestamp"] == (at + timedelta(hours=2)).isoformat()
    second = int(begin.timestamp()) + 2 * 3600
    assert len((await flips(f"?start={second - 60}"))["flips"]) == 2
    assert len((await flips(f"?end={second - 60}"))["flips"]) == 1
    assert len((await flips("?seconds=3600"))["flips"]) == 3
    assert await flips(**{"User-Agent": "py-healthchecks.io/0.4.4"}) == found
    for query in ("?start=abc", "?start=-1", "?seconds=99999999999999999999", "?seconds=1.5"):
        answer = await client.get(f"/api/v3/checks/{uuid}/flips/{query}")
        assert (answer.status_code, list(answer.json())) == (400, ["error"])


BREAK_A_RULE: list[tuple[dict[str, Any], str]] = [
    ({"timeout": 59}, "timeout is too small"),
    ({"timeout": 31_536_001}, "timeout is too large"),
    ({"timeout": True}, "timeout is not a number"),
    ({"grace": "600"}, "grace is not a number"),
    ({"name": 7}, "name is not a string"),
    ({"name": "x" * 101}, "name is too long"),
    ({"slug": "Upper"}, "slug does not match pattern"),
    ({"slug": "ends\n"}, "slug does not match pattern"),
    ({"schedule": "0 3 * * *", "tz": "Nowhere/City"}, "tz is not a valid timezone"),
    ({"tz": 7}, "tz is not a valid timezone"),
    ({"unique": ["uuid"]}, "an item in 'unique' has unexpected value"),
    ({"unique": "name"}, "unique is not an array"),
    ({"methods": "PUT"}, "methods has unexpected value"),
    ({"manual_resume": "yes"}, "manual_resume is not a boolean"),
    ({"desc": "x" * 2001}, "desc is too long"),
    ({"tags": "x" * 65}, "an item in 'tags' is too long"),
    ({"timeout": 1, "name": 7}, "name is not a string"),
]
"""Each with what Healthchecks itself would say."""
OUR_RULES: list[tuple[dict[str, Any], str]] = [
    ({"schedule": "often"}, "schedule: "),
    ({"tags": "a,b"}, "tags: "),
]


async def test_what_breaks_a_rule(client: httpx.AsyncClient) -> None:
    for body, why in BREAK_A_RULE:
        answer = await client.post("/api/v3/checks/", json=body)
        assert (answer.status_code, answer.json()) == (400, {"error": f"json validation error: {why}"}), body
    for body, begins in OUR_RULES:
        answer = await client.post("/api/v3/checks/", json=body)
        assert (answer.status_code, list(answer.json())) == (400, ["error"]), body
        assert answer.json()["error"].startswith(begins), body
    assert (await client.get("/services")).json()["total"] == 0


async def test_what_is_no_object_or_means_nothing(client: httpx.AsyncClient) -> None:
    for content, why in (
        (b"{", "could not parse request body"),
        (b"[1]", "json validation error: value is not an object"),
    ):
        answer = await client.post("/api/v3/checks/", content=content)
        assert (answer.status_code, answer.json()) == (400, {"error": why})
    assert (await client.post("/api/v3/checks/", content=b"{}")).json()["name"] == "check"
    assert (await client.post("/api/v3/checks/", json={"name": "备份"})).json()["name"] == "备份"
    kept = {"manual_resume": True, "methods": "POST", "start_kw": "go", "filter_body": True, "channels": "*"}
    made = (await client.post("/api/v3/checks/", json={"name": "kept", "color": "red"} | kept)).json()
    assert {field: made[field] for field in kept} == kept
    await client.patch("/service/kept", json={"tags": ["x"]})
    await client.put("/service/kept", json={"tags": ["y"]})
    again = (await client.get(f"/api/v3/checks/{made['uuid']}")).json()
    assert {field: again[field] for field in kept} == kept
    renamed = await client.post(f"/api/v3/checks/{made['uuid']}", json={"slug": "another"})
    assert (renamed.status_code, "slug" in renamed.json()["error"]) == (400, True)
    named = (await client.post(f"/api/v3/checks/{made['uuid']}", json={"name": "Kept well"})).json()
    assert (named["name"], named["slug"]) == ("Kept well", "kept")


async def test_a_full_registry_is_forbidden(tmp_path: Any, nats_url: str, mongo_url: str) -> None:
    process = _api(tmp_path, nats_url, mongo_url, MAX_SERVICES="1").start()
    try:
        async with client_of(process) as client:  # without tokens, on this machine: any key will do
            assert (await client.post("/api/v1/checks/", json={"name": "a"})).status_code == 201
            full = await client.post("/api/v1/checks/", json={"name": "b"}, headers={"X-Api-Key": "any"})
            assert (full.status_code, list(full.json())) == (403, ["error"])
    finally:
        process.kill()


async def test_services_that_were_made_otherwise_are_checks_too(
    client: httpx.AsyncClient, api: Process, publisher: Publisher, link: BrokerConnection
) -> None:
    api.kill()
    await register(publisher, "beats", older=True)  # of an older version, without a ping key
    api.start()

    async def ready() -> bool:
        return (await client.get("/readyz")).status_code == 200

    await eventually(ready)
    await client.post("/service", json={"name": "plain", "aliases": ["0b6e2f0e-6d3f-4ba7-8f4f-3f6d0f0b6a11"]})
    await client.post("/service", json={"name": "own", "every": "5m"})
    await client.post("/service", json={"name": "cron", "schedule": "@daily"})
    await client.post(
        "/service", json={"name": "late", "every": "5m", "silent_after": "2h", "down_after": "3h"}
    )

    async def all_of_them() -> Any:
        found = (await client.get("/api/v3/checks/")).json()["checks"]
        return found if len(found) == 5 else None

    checks = {each["slug"]: each for each in await eventually(all_of_them)}
    assert (checks["plain"]["timeout"], checks["plain"]["grace"]) == (900, 2700)
    assert (checks["own"]["timeout"], checks["own"]["grace"]) == (300, 3000)
    assert (checks["cron"]["schedule"], checks["cron"]["tz"], checks["cron"]["grace"]) == (
        "@daily",
        "UTC",
        3600,
    )
    by_alias = await client.get("/api/v3/checks/0B6E2F0E-6d3f-4ba7-8f4f-3f6d0f0b6a11")
    assert by_alias.json() == checks["plain"]
    # What says nothing of when it is due leaves that as it is.
    await client.post(f"/api/v3/checks/{checks['plain']['uuid']}", json={"tags": "x"})
    plain = (await client.get("/service/plain")).json()
    assert (plain["tags"], plain["every"], plain["threshold_sources"]["down_after"]) == (
        ["x"],
        None,
        "default",
    )
    await change(publisher, "late", Status.ALIVE, 0, now())
    await beat(link, "late")

    async def up() -> Any:
        found = (await client.get(f"/api/v3/checks/{checks['late']['uuid']}")).json()
        return found if found["status"] == "up" and found["last_ping"] else None

    found = await eventually(up)
    assert found["next_ping"] > found["last_ping"]


async def test_badges_of_tags(client: httpx.AsyncClient, api: Process, publisher: Publisher) -> None:
    await client.post("/api/v3/checks/", json={"name": "a", "tags": "x/y z"})
    found = (await client.get("/api/v3/badges/")).json()["badges"]
    assert set(found) == {"*", "x/y", "z"}
    assert set(found["z"]) == {"svg", "svg3", "json", "json3", "shields", "shields3"}
    async with client_of(api) as nobody:

        async def get(tag: str, kind: str) -> httpx.Response:
            return await nobody.get(found[tag][kind].removeprefix("https://registry.example"))

        assert (await get("z", "json")).json() == {"status": "up", "total": 1, "grace": 0, "down": 0}
        assert (await get("x/y", "svg")).headers["content-type"] == "image/svg+xml"
        await change(publisher, "a", Status.SILENT, 0)

        async def late() -> bool:
            return bool((await get("*", "json3")).json()["status"] == "late")

        await eventually(late)
        assert (await get("z", "json")).json()["status"] == "up"
        assert (await get("z", "shields3")).json()["color"] == "important"
        wrong = found["z"]["svg"].replace("/z.", "/x.").removeprefix("https://registry.example")
        assert (await nobody.get(wrong)).status_code == 404


ODD = [
    *(
        None,
        True,
        0,
        -1,
        60,
        10**30,
        1.5,
        "",
        " ",
        "x",
        "x" * 3000,
        "\0",
        "a\nb",
        "é" * 100,
        "/..?#%",
        "*/0 * * * *",
    ),
    *(
        [],
        {},
        [None],
        ["name"],
        ["x", 1],
        {"a": {}},
        "\N{BEL}",
        "0 3 * * *\n@daily",
        "UTC",
        "a" * 64 + " " + "b" * 65,
    ),
]


async def test_nothing_that_is_sent_is_a_server_error(client: httpx.AsyncClient) -> None:
    uuid = (await client.post("/api/v3/checks/", json={"name": "job"})).json()["uuid"]
    fields = [*Spec.model_fields, "api_key", "uuid"]
    for field in fields:
        for value in ODD:
            for path in ("checks/", f"checks/{uuid}"):
                answer = await client.post(
                    f"/api/v3/{path}", json={"unique": ["name"], "name": "job", field: value}
                )
                assert answer.status_code in (200, 201, 400), (field, value, answer.text)
                assert answer.json()
    for content in (
        b'{"name": "\\ud800"}',
        b"\xff",
        b"[" * 100_000,
        b"x" * 2_000_000,
        b'{"name": "a", "name": "b"}',
    ):
        answer = await client.post("/api/v3/checks/", content=content)
        assert answer.status_code in (201, 400), content[:20]
    for path in (
        "checks/%00",
        "checks/..%2f",
        "checks/" + "0" * 40,
        "checks/?tag=%00&slug=%ff",
        "badges/x/9/y.svg",
        "badges/x/" + "9" * 4301 + "/t.svg",
        f"checks/{uuid}/pings/" + "9" * 4301 + "/body",
        f"checks/{uuid}/pings/" + "9" * 19 + "/body",
        f"checks/{uuid}/pings/-1/body",
        f"checks/{uuid}/pings/%D9%A1/body",
    ):
        assert (await client.get(f"/api/v3/{path}")).status_code in (200, 404), path
    for path in ("/api/v4/checks/", "/api/v0/checks", "/api/", "/api/v3", "/api/v3/"):
        assert (await client.get(path)).status_code == 404, path
    assert (await client.get("/api/v3/checks/")).status_code == 200


async def test_the_requests_of_ansibles_module(
    client: httpx.AsyncClient, link: BrokerConnection, notifier: Process
) -> None:
    """As its `fetch_url` sends them: JSON without saying so, and `null` where there is nothing to send."""
    form = {"Content-Type": "application/x-www-form-urlencoded"}

    async def send(method: str, path: str, data: str | None = "null") -> httpx.Response:
        return await client.request(method, f"/api/v1/{path}", content=data, headers=form)

    login = await send("GET", "checks")
    assert (login.status_code, login.json()) == (200, {"checks": []})
    module = {
        "api_base_url": "https://registry.example",
        "name": "test hourly",
        "tags": "test hourly",
        "desc": "my hourly test check",
        "schedule": "0 * * * *",
        "tz": "UTC",
        "manual_resume": False,
        "methods": "",
        "channels": "",
        "unique": ["name"],
        "subject": None,
    }
    for status in (201, 200):
        answer = await send("POST", "checks/", json.dumps(module))
        assert answer.status_code == status
    check = answer.json()
    uuid = check["ping_url"].split("/")[-1]
    assert {
        "schedule": "0 * * * *",
        "tz": "UTC",
        "grace": 3600,
        "name": "test hourly",
    }.items() <= check.items()
    await beat(link, "test-hourly")
    assert [each["name"] for each in (await send("GET", "checks?tag=test&tag=hourly")).json()["checks"]] == [
        "test hourly"
    ]
    assert (await send("GET", f"checks/{uuid}")).json()["slug"] == "test-hourly"
    assert len((await send("GET", f"checks/{uuid}/pings")).json()["pings"]) == 1
    assert (await send("GET", f"checks/{uuid}/flips")).status_code == 200
    assert list((await send("GET", "badges")).json()["badges"]) == ["*", "hourly", "test"]
    assert (await send("GET", "channels")).status_code == 503
    notifier.start()

    async def answers() -> bool:
        return (await send("GET", "channels")).status_code == 200

    await eventually(answers, 20)
    (channel,) = (await send("GET", "channels")).json()["channels"]
    assert (channel["name"], channel["kind"]) == ("ops", "webhook")
    assert (await send("GET", "channels")).json() == {"channels": [channel]}
    assert UUID(channel["id"])
    assert (await send("POST", f"checks/{uuid}/pause")).status_code == 200
    assert (await send("DELETE", f"checks/{uuid}", None)).status_code == 200
    assert (await send("DELETE", f"checks/{uuid}", None)).status_code == 404
    wrong = await client.get("/api/v1/checks", headers={"X-Api-Key": "wrong"})
    assert wrong.status_code == 401


async def test_the_requests_of_terraforms_provider(client: httpx.AsyncClient) -> None:
    """It knows a check by the end of its update_url, finds it in the list, and compares what it reads."""
    wanted = {
        "channels": "0e5b1c7e-6f0f-4c5e-8a8e-0d6f6a4b7c11",
        "desc": "Nightly",
        "grace": 600,
        "methods": "POST",
        "name": "Backup of the database",
        "tags": "db prod",
        "timeout": 3600,
    }

    async def read(id_: str) -> dict[str, Any]:
        checks = (await client.get("/api/v1/checks/")).json()["checks"]
        return next((each for each in checks if each["update_url"].split("/")[-1] == id_), {})

    made = await client.post("/api/v1/checks/", json=wanted)
    assert made.status_code == 201
    id_ = made.json()["update_url"].split("/")[-1]
    assert wanted.items() <= (await read(id_)).items()
    for change_ in ({"grace": 900}, {"name": "Another name"}, {"tags": "db"}, {"methods": ""}):
        wanted |= change_
        assert (await client.post(f"/api/v1/checks/{id_}", json=wanted)).status_code == 200
        assert wanted.items() <= (await read(id_)).items()
    scheduled = wanted | {"schedule": "0 3 * * *", "tz": "Europe/Berlin"}
    await client.post(f"/api/v1/checks/{id_}", json=scheduled)
    assert (scheduled | {"timeout": None}).items() <= ({"timeout": None} | await read(id_)).items()
    assert (await client.delete(f"/api/v1/checks/{id_}")).json()["name"] == "Another name"
    assert await read(id_) == {}
