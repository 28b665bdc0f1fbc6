"""Schedules from outside: set over the API and the form, declared by heartbeats, previewed, and shown."""

import html
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest

from shared.messaging.publisher import Publisher
from tests.integration.test_api import (
    _api,
    api,
    client,
    client_of,
    eventually,
    link,
    now,
    publisher,
    refused,
    register,
    shows,
)
from tests.servers import Process, mongo_server, nats_server, service

Client = httpx.AsyncClient
NIGHTLY, BERLIN = "0 3 * * *", "Europe/Berlin"
OF_SCHEDULE = {"silent_after": "schedule", "down_after": "schedule", "dead_after": "default"}


def expected_is_next(service: dict[str, Any]) -> bool:
    return now() < datetime.fromisoformat(service["expected"]) <= now() + timedelta(hours=25)


async def test_everything_that_is_set_is_shown(client: Client) -> None:
    given = {
        "name": "backup",
        "schedule": f"  {NIGHTLY}\r\n0 15 * * sat ",
        "time_zone": BERLIN,
        "early": "5m",
        "max_run": "2h",
        "fail_after": 2,
        "recover_after": 3,
        "notify_unusual": False,
    }
    answer = await client.post("/service", json=given)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert made == (await client.get("/service/backup")).json()
    assert {key: made[key] for key in given} == given | {"schedule": f"{NIGHTLY}\n0 15 * * sat"}
    assert made["thresholds"] == {"silent_after": "15m", "down_after": "1h", "dead_after": "7d"}
    assert made["threshold_sources"] == OF_SCHEDULE
    assert made["every"] is None
    assert made["warnings"] == []
    assert made["expected"].endswith("Z")
    assert expected_is_next(made)
    (listed,) = (await client.get("/services")).json()["items"]
    assert listed == made
    (event,) = (await client.get("/service/backup/events")).json()["items"]
    assert event["data"]["config"]["schedule"] == made["schedule"]

    plain = (await client.put("/service/backup", json={})).json()
    assert {key: plain[key] for key in given} == {
        "name": "backup",
        "schedule": None,
        "time_zone": "UTC",
        "early": "15m",
        "max_run": None,
        "fail_after": 1,
        "recover_after": 1,
        "notify_unusual": True,
    }
    assert plain["expected"] is None
    assert plain["threshold_sources"] == dict.fromkeys(OF_SCHEDULE, "default")

    every = (await client.patch("/service/backup", json={"every": "1d", "max_run": "90m"})).json()
    assert (every["every"], every["max_run"], every["expected"]) == ("1d", "1h30m", None)
    assert every["thresholds"]["silent_after"] == "1d1h"
    by_service = {"silent_after": "service", "down_after": "service", "dead_after": "default"}
    assert every["threshold_sources"] == by_service, "of its own interval"

    own = (
        await client.patch("/service/backup", json={"every": None, "schedule": "@daily", "down_after": "2h"})
    ).json()
    assert own["thresholds"] == {"silent_after": "15m", "down_after": "2h", "dead_after": "7d"}
    assert own["threshold_sources"] == OF_SCHEDULE | {"down_after": "service"}
    then = (await client.get("/service/backup", params={"at": now().isoformat()})).json()
    assert (then["schedule"], then["expected"]) == ("@daily", own["expected"])


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"every": "1h", "schedule": NIGHTLY}, "schedule: only one of every and schedule may be set"),
        (
            {"schedule": "61 3 * * *"},
            "schedule: '61 3 * * *' is not a schedule: the minute must be 0 to 59",
        ),
        ({"schedule": "0 3 * *"}, "schedule: '0 3 * *' is not a schedule: cron has five fields"),
        (
            {"schedule": "0 3 * * * /usr/bin/backup"},
            "here are 6, without seconds and without a command",
        ),
        ({"schedule": "0 0 30 2 *"}, "schedule: '0 0 30 2 *' is not a schedule: it never comes"),
        ({"schedule": "*-02-30"}, "schedule: '*-02-30' is not a schedule: it never comes"),
        ({"schedule": "2020-01-01"}, "schedule: '2020-01-01' does not come any more after 20"),
        ({"schedule": " \n "}, "schedule: a schedule is empty: use cron such as"),
        ({"schedule": ""}, "schedule: a schedule is empty"),
        ({"schedule": "\n".join([NIGHTLY] * 11)}, "schedule: a schedule has at most 10 lines"),
        ({"schedule": "x" * 2001}, "schedule: String should have at most 2000 characters"),
        ({"schedule": 3}, "schedule: Input should be a valid string"),
        ({"schedule": "Mon 09:00 Mars/Olympus"}, "schedule: "),
        (
            {"schedule": NIGHTLY, "time_zone": "Mars/Olympus"},
            "time_zone: 'Mars/Olympus' must be an IANA time zone such as UTC or",
        ),
        ({"time_zone": "CEST"}, "time_zone: 'CEST' must be an IANA time zone such as UTC or Europe/Berlin"),
        ({"time_zone": ""}, "time_zone: '' must be an IANA time zone"),
        ({"every": "soon"}, "every: 'soon' is not a duration such as 30s, 15m, 1h"),
        ({"early": 15}, "early: must be a duration such as 30s, 15m, 1h, in quotes"),
        ({"max_run": "0s"}, "max_run: '0s' must be longer than zero and at most 3650d"),
        ({"fail_after": 0}, "fail_after: Input should be greater than or equal to 1"),
        ({"fail_after": 1001}, "fail_after: Input should be less than or equal to 1000"),
        ({"fail_after": True}, "fail_after: Input should be a valid integer"),
        ({"recover_after": "2"}, "recover_after: Input should be a valid integer"),
        ({"notify_unusual": "no"}, "notify_unusual: Input should be a valid boolean"),
    ],
)
async def test_what_cannot_be_is_refused_in_words(
    shared_client: Client, given: dict[str, Any], why: str
) -> None:
    for request in (
        shared_client.post("/service", json={"name": "new", **given}),
        shared_client.put("/service/new", json=given),
        shared_client.put("/service/there", json=given),
        shared_client.patch("/service/there", json=given),
    ):
        assert why in refused(await request, 422)
    refused(await shared_client.get("/service/new"), 404)


@pytest.fixture(scope="session")
def shared_url(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One API for all requests that change nothing; its own zone is Berlin."""
    folder = tmp_path_factory.mktemp("schedules")
    nats, mongo = nats_server(folder).start(), mongo_server(folder).start()
    urls = f"nats://127.0.0.1:{nats.port}", f"mongodb://127.0.0.1:{mongo.port}"
    process = _api(folder, *urls, TIMEZONE=BERLIN).start()
    yield f"http://127.0.0.1:{process.port}"
    for server in (process, mongo, nats):
        server.kill()


@pytest.fixture
async def shared_client(shared_url: str) -> AsyncIterator[Client]:
    async with Client(base_url=shared_url, timeout=10) as client:

        async def is_there() -> bool:
            return (await client.put("/service/there", json={})).status_code in (200, 201)

        await eventually(is_there)
        yield client


async def preview(client: Client, **wanted: Any) -> dict[str, Any]:
    answer = await client.post("/schedule/preview", json=wanted)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_preview_tells_the_next_moments_across_a_change_of_clocks(shared_client: Client) -> None:
    found = await preview(
        shared_client, schedule="30 2 * * *", time_zone=BERLIN, count=3, after="2026-10-24T12:00:00Z"
    )
    assert found == {
        "items": ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z", "2026-10-27T01:30:00Z"],
        "says": "at 02:30 every day",
    }
    spring = await preview(shared_client, schedule="30 2 * * *", count=2, after="2026-03-28T14:00:00+02:00")
    assert spring["items"] == ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"], "in the registry's zone"
    timer = await preview(shared_client, schedule="Mon..Fri 09:00", after="2026-11-27T12:00:00Z")
    assert timer["items"][0] == "2026-11-30T08:00:00Z"
    assert len(timer["items"]) == 5
    both = await preview(
        shared_client, schedule=f"{NIGHTLY}\n0 15 * * sat", count=2, after="2026-11-27T12:00:00Z"
    )
    assert both["items"] == ["2026-11-28T02:00:00Z", "2026-11-28T14:00:00Z"]
    assert both["says"] == "at 03:00 every day, and at 15:00 on Saturday"
    assert len((await preview(shared_client, schedule="* * * * *", count=100))["items"]) == 100
    last = await preview(
        shared_client, schedule="2026-12-24 16:00", time_zone="UTC", after="2026-11-27T12:00:00Z"
    )
    assert last["items"] == ["2026-12-24T16:00:00Z"], "the only one"


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ({}, "schedule: Field required"),
        ({"schedule": None}, "schedule: Input should be a valid string"),
        ({"schedule": "0 25 * * *"}, "schedule: '0 25 * * *' is not a schedule: the hour must be 0 to 23"),
        ({"schedule": "*-02-30"}, "schedule: '*-02-30' is not a schedule: it never comes"),
        ({"schedule": "2020-01-01"}, "schedule: '2020-01-01' does not come any more after 20"),
        (
            {"schedule": NIGHTLY, "time_zone": "Berlin"},
            "Berlin' must be an IANA time zone such as UTC or Europe/Berlin; do you mean",
        ),
        ({"schedule": NIGHTLY, "count": 0}, "count: Input should be greater than or equal to 1"),
        ({"schedule": NIGHTLY, "count": 101}, "count: Input should be less than or equal to 100"),
        ({"schedule": NIGHTLY, "count": "5"}, "count: Input should be a valid integer"),
        ({"schedule": NIGHTLY, "after": "2026-10-24T12:00:00"}, "after: Input should have timezone info"),
        (
            {"schedule": NIGHTLY, "after": "9500-01-01T00:00:00Z"},
            "after: a moment from the year 1970 to 8999",
        ),
        (
            {"schedule": NIGHTLY, "zone": BERLIN},
            "zone: Extra inputs are not permitted; do you mean time_zone?",
        ),
        ({"schedule": NIGHTLY, "colour": 1}, "colour: Extra inputs are not permitted"),
        ([], "body: "),
    ],
)
async def test_a_preview_is_refused_in_words(shared_client: Client, wanted: Any, why: str) -> None:
    assert why in refused(await shared_client.post("/schedule/preview", json=wanted), 422)


async def test_what_is_expected_of_a_service(shared_client: Client) -> None:
    path = "/service/there/expected"
    nothing = await shared_client.get(path)
    assert (nothing.status_code, nothing.json()) == (200, {"items": [], "says": None})
    refused(await shared_client.get("/service/nobody/expected"), 404)
    for count in ("0", "101", "x", ""):
        assert "count: " in refused(await shared_client.get(path, params={"count": count}), 422)
    try:
        answer = await shared_client.put("/service/there", json={"schedule": NIGHTLY})
        assert answer.json()["time_zone"] == BERLIN, "the registry's"
        found = (await shared_client.get(path)).json()
        assert found["says"] == "at 03:00 every day"
        assert len(found["items"]) == 5
        assert found["items"][0] == (await shared_client.get("/service/there")).json()["expected"]
        assert found["items"] == (await preview(shared_client, schedule=NIGHTLY, time_zone=BERLIN))["items"]
        (one,) = (await shared_client.get(path, params={"count": 1})).json()["items"]
        assert one == found["items"][0]
    finally:
        await shared_client.put("/service/there", json={})


async def test_what_was_met_early_is_not_expected_any_more(client: Client, publisher: Publisher) -> None:
    first = now().replace(microsecond=0) + timedelta(minutes=2)
    moments_ = [first, first + timedelta(hours=1)]
    written = [f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in moments_]
    lines = "\n".join(f"{at:%Y-%m-%d %H:%M:%S} UTC" for at in moments_)
    await client.post("/service", json={"name": "a", "schedule": lines, "early": "1m"})

    async def expected() -> tuple[str | None, list[str]]:
        items = (await client.get("/service/a/expected")).json()["items"]
        return (await client.get("/service/a")).json()["expected"], items

    async def heard() -> bool:
        return bool((await client.get("/service/a")).json()["last_heartbeat"])

    await publisher.publish("heartbeat.a", b"")
    await eventually(heard)
    assert await expected() == (written[0], written), "it came too early"
    await client.patch("/service/a", json={"early": "10m"})
    assert await expected() == (written[1], written[1:])
    page = (await client.get("/ui/service/a")).text
    of_service, of_form = page.split('class="moments"', 1)[1].split("</ol>", 1)[0], moments(page)
    assert (of_service.count("<li>"), len(of_form)) == (1, 2), "the form shows what the schedule means"
    await client.patch("/service/a", json={"schedule": lines.splitlines()[0]})
    assert await expected() == (None, [])


async def test_a_preview_needs_a_read_token_and_no_more(
    tmp_path: Path, nats_url: str, mongo_url: str
) -> None:
    tokens = {"API_TOKEN": "a" * 16, "READ_TOKEN": "r" * 16}
    process = _api(tmp_path, nats_url, mongo_url, **tokens).start()
    try:
        async with client_of(process) as client:
            body = {"schedule": NIGHTLY}
            refused(await client.post("/schedule/preview", json=body), 401)
            refused(await client.post("/schedule/preview", content=b"x" * 2_000_000), 401)
            for token in tokens.values():
                headers = {"Authorization": f"Bearer {token}"}
                answer = await client.post("/schedule/preview", json=body, headers=headers)
                assert answer.status_code == 200, answer.text
    finally:
        process.kill()


async def test_what_was_declared_gives_way_to_a_person_and_not_to_a_put_without_it(
    client: Client, publisher: Publisher
) -> None:
    await register(publisher, "a", declared_at=now(), schedule=NIGHTLY, time_zone=BERLIN)
    declared = await shows(client, "a", schedule=NIGHTLY)
    assert (declared["time_zone"], declared["threshold_sources"]) == (BERLIN, OF_SCHEDULE)

    async def last_event() -> dict[str, Any]:
        data: dict[str, Any] = (await client.get("/service/a/events")).json()["items"][0]["data"]
        return data

    put = (await client.put("/service/a", json={"tags": ["x"]})).json()
    assert (put["schedule"], put["time_zone"]) == (NIGHTLY, BERLIN)
    assert (await last_event())["declared_at"]

    assert "time_zone: " in refused(await client.put("/service/a", json={"time_zone": "UTC"}), 422)
    zone = (await client.patch("/service/a", json={"time_zone": "UTC"})).json()
    assert (zone["schedule"], zone["time_zone"]) == (NIGHTLY, "UTC")
    assert "declared_at" not in await last_event(), "from now on it is a person's"
    why = refused(await client.patch("/service/a", json={"every": "1d"}), 422)
    assert "set schedule to null to use this" in why
    every = (await client.patch("/service/a", json={"every": "1d", "schedule": None})).json()
    assert (every["every"], every["schedule"]) == ("1d", None)
    cleared = (await client.put("/service/a", json={})).json()
    assert (cleared["every"], cleared["schedule"]) == (None, None)


async def test_nothing_is_done_twice(client: Client, publisher: Publisher) -> None:
    await register(publisher, "a", declared_at=now(), every="5m")
    await shows(client, "a", every="5m")
    first = (await client.patch("/service/a", json={"every": "5m"})).json()
    assert first["threshold_sources"]["silent_after"] == "service", "it is a person's now"
    assert (await client.patch("/service/a", json={"every": "5m"})).json()["version"] == first["version"]


# --- heartbeats, with a monitor that records what they declare


@asynccontextmanager
async def heard(tmp_path: Path, nats_url: str) -> AsyncIterator[Client]:
    """A client of an ingest, beside a monitor."""
    parts = [service(name, tmp_path, nats_url).start() for name in ("ingest", "monitor")]
    try:
        async with Client(base_url=f"http://127.0.0.1:{parts[0].port}", timeout=20) as ingest:

            async def is_ready() -> bool:
                return (await ingest.get("/readyz")).status_code == 200

            await eventually(is_ready)
            yield ingest
    finally:
        for part in parts:
            part.kill()


async def beat(ingest: Client, path: str, **more: Any) -> list[str]:
    """The warnings of a heartbeat, which counts in any case."""
    answer = await ingest.post(f"/heartbeat/{path}", **more)
    assert answer.status_code == 200, answer.text
    warnings: list[str] = answer.json().get("warnings", [])
    return warnings


async def test_heartbeats_declare_until_a_person_decides(
    client: Client, tmp_path: Path, nats_url: str
) -> None:
    async with heard(tmp_path, nats_url) as ingest:
        zoned = {"schedule": NIGHTLY, "time_zone": BERLIN}
        assert await beat(ingest, "backup/start", params={**zoned, "run": "7"}) == []
        declared = await shows(client, "backup", **zoned, every=None)
        (item,) = (await client.get("/service/backup/heartbeats")).json()["items"]
        assert {key: item[key] for key in (*zoned, "every", "run")} == zoned | {"every": None, "run": "7"}
        assert declared["threshold_sources"] == OF_SCHEDULE
        assert expected_is_next(declared)
        assert (
            await beat(ingest, "backup", json={"schedule": "Mon..Fri 09:00", "message": "done", "run": "7"})
            == []
        )
        changed = await shows(client, "backup", schedule="Mon..Fri 09:00", message="done")
        assert changed["time_zone"] == BERLIN, "it needs to be said only once"

        (warning,) = await beat(ingest, "backup?every=5m&schedule=0+4+*+*+*")
        assert warning == "every: not used, as there is a schedule"
        assert (await shows(client, "backup", schedule="0 4 * * *"))["every"] is None
        assert (await shows(client, "backup", warnings=[warning]))["schedule"] == "0 4 * * *"

        await client.patch("/service/backup", json=zoned)
        assert await beat(ingest, "backup?every=5m") == []
        unused = f"every: 5m is not used, as '0 3 * * *' in {BERLIN} is configured"
        assert (await shows(client, "backup", warnings=[unused]))["schedule"] == NIGHTLY
        await beat(ingest, "backup", json={"schedule": "0 4 * * *"})
        unused = f"schedule: '0 4 * * *' is not used, as '0 3 * * *' in {BERLIN} is configured"
        assert (await shows(client, "backup", warnings=[unused]))["schedule"] == NIGHTLY
        await beat(ingest, "backup")
        await shows(client, "backup", warnings=[], **zoned)

        await client.patch("/service/backup", json={"schedule": None})
        assert (await shows(client, "backup", schedule=None))["expected"] is None
        await beat(ingest, "backup?every=10m")
        assert (await shows(client, "backup", every="10m"))["schedule"] is None
        await client.patch("/service/backup", json={"every": None})
        await shows(client, "backup", every=None)
        await beat(ingest, "backup?every=10m")
        await shows(client, "backup", every="10m")


async def test_a_schedule_that_is_over_is_said(client: Client, tmp_path: Path, nats_url: str) -> None:
    once = f"{now() - timedelta(days=2):%Y-%m-%d}"
    async with heard(tmp_path, nats_url) as ingest:
        await beat(ingest, "once", params={"schedule": once})
        over = f"schedule: {once!r} does not come any more"
        assert (await shows(client, "once", schedule=once, warnings=[over]))["expected"] is None
        assert over in html.unescape((await client.get("/ui/service/once")).text)
        await beat(ingest, "once", params={"schedule": NIGHTLY})
        await shows(client, "once", schedule=NIGHTLY, warnings=[])


async def test_the_zone_that_a_person_set_is_that_of_what_heartbeats_declare(
    client: Client, tmp_path: Path, nats_url: str
) -> None:
    kolkata = {"time_zone": "Asia/Kolkata"}
    async with heard(tmp_path, nats_url) as ingest:
        assert (await client.put("/service/backup", json={**kolkata, "max_run": "1s"})).status_code == 201
        await beat(ingest, "backup/start?every=5m")
        await shows(client, "backup", every="5m", **kolkata)
        down = await shows(client, "backup", status="down")
        began = datetime.fromisoformat(down["running_since"]).astimezone(ZoneInfo("Asia/Kolkata"))
        assert down["reason"] == f"the run that began {began:%H:%M} has not ended within 1s"
        for schedule in ("0 3 * * *", "0 4 * * *"):
            assert await beat(ingest, "backup", params={"schedule": schedule}) == []
            due = await shows(client, "backup", schedule=schedule, every=None, **kolkata)
            assert datetime.fromisoformat(due["expected"]).minute == 30
        zoned = {"schedule": "0 4 * * *", "time_zone": BERLIN}
        assert await beat(ingest, "backup", params=zoned) == []
        await shows(client, "backup", **zoned)
        await client.patch("/service/backup", json={"time_zone": None})
        await shows(client, "backup", schedule="0 4 * * *", time_zone="UTC")
        assert await beat(ingest, "backup", params=zoned) == []
        await shows(client, "backup", **zoned)


async def test_what_of_a_declaration_cannot_be_used_is_said(
    client: Client, tmp_path: Path, nats_url: str
) -> None:
    async with heard(tmp_path, nats_url) as ingest:
        for query, start in (
            ("schedule=61+3+*+*+*", "schedule: '61 3 * * *' is not a schedule: the minute must be 0 to 59"),
            ("schedule=", "schedule: a schedule is empty"),
            ("schedule=*-02-30", "schedule: '*-02-30' is not a schedule: it never comes"),
            ("time_zone=Europe/Berlin", "time_zone: not used without a schedule"),
            (
                "time_zone=Mars/Olympus&schedule=0+3+*+*+*",
                "time_zone: 'Mars/Olympus' must be an IANA time zone",
            ),
            ("run=" + "x" * 65, "run: "),
            (
                "timezone=Europe/Berlin",
                "timezone: not used; an address takes every, schedule, time_zone, run",
            ),
            ("cron=0+3+*+*+*", "cron: not used; an address takes"),
        ):
            (found,) = await beat(ingest, f"odd?{query}")
            assert found.startswith(start), found
        found = await beat(ingest, "quiet/log?every=5m&schedule=0+3+*+*+*&run=7")
        assert found == [f"{field}: a log declares nothing" for field in ("every", "schedule", "run")]
        quiet = await shows(client, "quiet", status="unknown")
        assert (quiet["every"], quiet["schedule"]) == (None, None)
        (item,) = (await client.get("/service/quiet/heartbeats")).json()["items"]
        assert item["warnings"] == found


def output(command: list[str], **more: Any) -> str:
    return str(subprocess.run(command, capture_output=True, text=True, check=True, **more).stdout)


async def test_the_lines_of_the_documents_do_as_they_say(
    api: Process, client: Client, tmp_path: Path, nats_url: str
) -> None:
    docs = Path(__file__).parents[2] / "docs"
    lines = re.findall(r"^curl .*", (docs / "schedules.md").read_text().split("```")[1], re.MULTILINE)
    heartbeats = (docs / "heartbeats.md").read_text().split("```")[1]
    (declaring,) = re.findall(r"^curl .*schedule=.*", heartbeats, re.MULTILINE)
    assert declaring.split("   ")[0] in (docs.parent / "README.md").read_text()
    async with heard(tmp_path, nats_url) as ingest:

        def said(line: str) -> dict[str, Any]:
            line = line.replace("127.0.0.1:8002", f"127.0.0.1:{api.port}")
            line = line.replace("http://127.0.0.1:8001", str(ingest.base_url).rstrip("/"))
            answer: dict[str, Any] = json.loads(output(["sh", "-c", line]))
            return answer

        created, expected, previewed = map(said, lines)
        assert (created["schedule"], created["time_zone"], created["max_run"]) == (NIGHTLY, BERLIN, "2h")
        assert expected["says"] == "at 03:00 every day"
        assert len(expected["items"]) == len(previewed["items"]) == 5
        assert said(declaring.replace("/backup?", "/other?")) == {"status": "ok"}
        await shows(client, "other", schedule=NIGHTLY, time_zone=BERLIN)


async def test_the_command_line_shows_the_schedule_and_the_next_moment(
    api: Process, client: Client, tmp_path: Path
) -> None:
    await client.put("/service/backup", json={"schedule": f"{NIGHTLY}\n0 15 * * sat", "time_zone": BERLIN})
    expected = (await client.get("/service/backup")).json()["expected"]
    env = {"PATH": os.environ["PATH"], "REGISTRY_API_PORT": str(api.port), "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-m", "services.cli", "status", "backup"]
    lines = dict(line.split(None, 1) for line in output(command, env=env, cwd=tmp_path).splitlines())
    assert (lines["schedule"], lines["time_zone"]) == (r"0 3 * * *\n0 15 * * sat", BERLIN)
    assert (lines["expected"].split()[0], lines["every"], lines["max_run"]) == (expected, "-", "-")


# --- the form


def field(page: str, name: str) -> str:
    """What stands in a field of the form."""
    if found := re.search(rf'<textarea name="{name}"[^>]*>([^<]*)</textarea>', page):
        return html.unescape(found[1])
    (tag,) = {each for each in re.findall("<input[^>]*>", page) if f' name="{name}"' in each}
    if "checkbox" in tag:
        return "on" if tag.endswith(" checked>") else ""
    value = re.search('value="([^"]*)"', tag)
    assert value
    return html.unescape(value[1])


FIELDS = [
    *("schedule", "time_zone", "every", "early", "silent_after", "down_after", "dead_after", "max_run"),
    *("fail_after", "recover_after", "tags", "depends_on", "description", "notify", "notify_unusual"),
]


def moments(page: str) -> list[str]:
    (place,) = re.findall(r'<div [^>]*id="moments".*?</div>', page, re.DOTALL)
    return re.findall(r"<li>(.*?)</li>", place)


class Form:
    """A browser without scripts: it sends the form back as the page shows it, with what somebody typed."""

    def __init__(self, client: Client, name: str) -> None:
        self.client, self.path = client, f"/ui/service/{name}"

    async def page(self) -> str:
        answer = await self.client.get(self.path)
        assert answer.status_code == 200, answer.text
        return answer.text

    async def send(self, **typed: str) -> httpx.Response:
        page = await self.page()
        filled = {name: field(page, name).replace("\n", "\r\n") for name in ("form_key", "version", *FIELDS)}
        filled |= typed
        unchecked = {name for name in ("notify", "notify_unusual") if not filled[name]}
        given = {name: text for name, text in filled.items() if name not in unchecked}
        return await self.client.post(f"{self.path}/edit", data=given)


async def test_the_form_sets_a_schedule_and_shows_the_next_moments(client: Client) -> None:
    await client.post("/service", json={"name": "a", "description": "One\n two"})
    form = Form(client, "a")
    assert moments(await form.page()) == []
    typed = {"schedule": NIGHTLY, "time_zone": BERLIN, "early": "5m", "max_run": "2h", "fail_after": "2"}
    answer = await form.send(**typed, recover_after="3", notify_unusual="")
    assert answer.headers["location"] == "/ui/service/a?done=edit#page"
    made = (await client.get("/service/a")).json()
    assert {key: made[key] for key in ("schedule", "time_zone", "early", "max_run")} == {
        key: typed[key] for key in ("schedule", "time_zone", "early", "max_run")
    }
    assert (made["fail_after"], made["recover_after"], made["notify_unusual"]) == (2, 3, False)
    assert (made["description"], made["notify"]) == ("One\n two", True)

    page = await form.page()
    assert {name: field(page, name) for name in typed} == typed
    expected = (await client.get("/service/a/expected")).json()["items"]
    assert [it.rsplit(" ", 1)[0] for it in moments(page)] == [
        f"{datetime.fromisoformat(each).astimezone(ZoneInfo(BERLIN)):%a %Y-%m-%d %H:%M}" for each in expected
    ]
    assert "at 03:00 every day" in page

    version = made["version"]
    await form.send()
    assert (await client.get("/service/a")).json()["version"] == version, "nothing was touched"
    await form.send(
        schedule="", time_zone="", every="1d", early="", max_run="", fail_after="", recover_after=""
    )
    plain = (await client.get("/service/a")).json()
    assert (plain["schedule"], plain["every"], plain["max_run"], plain["fail_after"]) == (None, "1d", None, 1)


async def test_what_was_typed_into_a_form_that_is_refused_is_still_there(client: Client) -> None:
    await client.post("/service", json={"name": "a", "schedule": NIGHTLY})
    form, before = Form(client, "a"), (await client.get("/service/a")).json()
    typed = {
        "schedule": "61 3 * * *\n# <nightly> & more",
        "time_zone": "Mars/Olympus",
        "early": "5m",
        "silent_after": "2h",
        "down_after": "1h",
        "max_run": "2h",
        "fail_after": "3",
        "tags": "a,  b",
        "description": "Typed\nwith care",
        "notify": "",
    }
    for more, why in (
        ({}, "Not saved: In the time zone: &#39;Mars/Olympus&#39; must be an IANA time zone"),
        ({"time_zone": BERLIN}, "silent_after &lt; down_after"),
        ({"time_zone": BERLIN, "down_after": "3h"}, "is not a schedule: the minute must be 0 to 59"),
        (
            {"time_zone": BERLIN, "down_after": "3h", "schedule": "@daily", "every": "1h"},
            "only one of every and",
        ),
        (
            {"time_zone": BERLIN, "down_after": "3h", "schedule": "@daily", "fail_after": "many"},
            "Down after so many failures: ",
        ),
        (
            {"time_zone": BERLIN, "down_after": "3h", "schedule": "@daily", "tags": 'a, "'},
            "a quote is not closed",
        ),
        ({"version": "999", "schedule": "@daily", "time_zone": BERLIN}, "read it again"),
    ):
        answer = await form.send(**typed | more)
        assert answer.status_code == (412 if "version" in more else 422), more
        assert why in answer.text, more
        wanted = {name: text for name, text in (typed | more).items() if name != "version"}
        assert {name: field(answer.text, name) for name in wanted} == wanted
        assert re.search(r'<details id="edit" open', answer.text)
        assert len(moments(answer.text)) == (5 if (typed | more)["schedule"] == "@daily" else 0)
    assert (await client.get("/service/a")).json() == before
    answer = await client.post(
        "/ui/service/a/maintenance", data=await form_key(form) | {"duration": "2 hours"}
    )
    assert field(answer.text, "duration") == "2 hours"


async def form_key(form: Form) -> dict[str, str]:
    return {"form_key": field(await form.page(), "form_key")}


async def test_the_form_leaves_alone_what_heartbeats_declare(client: Client, publisher: Publisher) -> None:
    await register(publisher, "a", declared_at=now(), schedule=NIGHTLY, time_zone=BERLIN)
    await shows(client, "a", schedule=NIGHTLY)
    form = Form(client, "a")
    page = await form.page()
    assert (field(page, "schedule"), field(page, "time_zone")) == ("", "")
    assert len(moments(page)) == 5
    await form.send(description="new")
    left = (await client.get("/service/a")).json()
    assert (left["description"], left["schedule"], left["time_zone"]) == ("new", NIGHTLY, BERLIN)
    data = (await client.get("/service/a/events")).json()["items"][0]["data"]
    assert data["declared_at"], "its heartbeats still may change it"
    await form.send(schedule="0 4 * * *")
    own = (await client.get("/service/a")).json()
    assert (own["schedule"], own["time_zone"]) == ("0 4 * * *", BERLIN)
    await form.send(schedule="", time_zone="")
    assert (await client.get("/service/a")).json()["schedule"] is None
