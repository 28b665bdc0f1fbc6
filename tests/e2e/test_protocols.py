"""Other systems' protocols through the whole system: what arrives where people look, how long keys last."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.system import System
from tests.servers import service
from tests.telegram_standin import Standin

TOKEN = "ingest_token_of_this_test"
ADMIN = {"authorization": "Bearer api_token_of_this_test"}
RUN = "1b671a64-40d5-491e-99b0-da01ff1f3341"
HEX = RUN.replace("-", "")


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    """With two ingests."""
    with Standin() as telegram:
        system = System(
            tmp_path,
            telegram,
            ingest_token=TOKEN,
            api_token=ADMIN["authorization"].removeprefix("Bearer "),
            silent_after="15m",
            down_after="1h",
            dead_after="7d",
        )
        system.parts["ingest-2"] = service(
            "ingest", tmp_path, system.nats_url, ingest_token=TOKEN, tick="0.2s"
        )
        yield system.start()
        system.stop()


def got(system: System, path: str) -> dict[str, Any]:
    answer = system.http.get(system.url("api", path), headers=ADMIN)
    found: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
    return found


def awaited(system: System, path: str, is_there: Any, within: float = 20.0) -> dict[str, Any]:
    deadline = time.monotonic() + within
    while not (found := got(system, path)) or not is_there(found):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def asked(system: System, path: str, ingest: str = "ingest", **more: Any) -> int:
    return system.http.request(more.pop("method", "GET"), system.url(ingest, path), **more).status_code


def of_own(ping_url: str) -> str:
    """The path of a ping key."""
    return "/ping/" + ping_url.rpartition("/")[2]


def changed_within(system: System, path: str, status: int, within: float) -> None:
    """Every ingest answers so from some moment on, not later than that."""
    for ingest in ("ingest", "ingest-2"):
        began = time.monotonic()
        while (is_ := asked(system, path, ingest)) != status:
            assert time.monotonic() < began + within, f"still {is_}"
            time.sleep(0.01)


def test_what_each_protocol_says_arrives_where_people_look(system: System) -> None:
    # Healthchecks: a run with an id, by name and by key.
    assert asked(system, f"/ping/{TOKEN}/dump/start?create=1&rid={RUN}") == 201
    ping = of_own(awaited(system, "/service/dump", lambda it: it.get("ping_url"))["ping_url"])
    changed_within(system, f"{ping}/log", 200, 5)
    assert asked(system, f"{ping}/3?rid={RUN}", "ingest-2", method="POST", content=b"disk full") == 200
    runs = awaited(system, "/service/dump/runs", lambda it: it["items"] and it["items"][0]["ended_at"])
    (run,) = runs["items"]
    assert (run["outcome"], run["run"], run["exit_code"], run["message"]) == ("failure", RUN, 3, "disk full")
    assert awaited(system, "/service/dump", lambda it: it["status"] == "down")

    # Uptime Kuma: a duration that the client has measured.
    key = ping.rpartition("/")[2]
    assert asked(system, f"/api/push/{key}?status=up&msg=fine&ping=2500", method="PATCH") == 200
    assert awaited(system, "/service/dump", lambda it: it["status"] == "alive")
    newest = awaited(system, "/service/dump/heartbeats", lambda it: it["items"][0]["message"] == "fine")
    assert newest["items"][0]["duration"] == 2.5
    (change, *_) = awaited(system, "/service/dump/events", lambda it: it["items"])["items"]
    assert (change["data"]["to"], change["data"]["duration"]) == ("alive", 2.5)

    # Gatus.
    gatus = "/api/v1/endpoints/core_ext-ep/external?success=false&error=timeout&duration=1m30s"
    assert asked(system, gatus, method="POST", headers={"authorization": f"Bearer {TOKEN}"}) == 200
    awaited(system, "/service/core_ext-ep", lambda it: it["status"] == "down")
    newest = awaited(system, "/service/core_ext-ep/heartbeats", lambda it: it["items"])
    assert (newest["items"][0]["duration"], newest["items"][0]["message"]) == (90.0, "timeout")

    # Sentry: a schedule with its limits, which a person may change and a check-in does not change back.
    config = {
        "schedule": {"type": "crontab", "value": "0 3 * * *"},
        "timezone": "Europe/Berlin",
        "checkin_margin": 30,
        "max_runtime": 120,
        "failure_issue_threshold": 3,
        "recovery_threshold": 2,
    }
    check_in = {"check_in_id": HEX, "monitor_slug": "nightly job", "status": "in_progress"}
    auth = {"x-sentry-auth": f"Sentry sentry_version=7, sentry_key={TOKEN}"}

    def send(**fields: Any) -> None:
        item = json.dumps(check_in | fields)
        content = f'{{}}\n{{"type":"check_in","length":{len(item)}}}\n{item}\n'
        assert asked(system, "/api/1/envelope/", method="POST", content=content, headers=auth) == 202

    send(monitor_config=config)
    found = awaited(system, "/service/nightly-job", lambda it: it.get("schedule") and it["warnings"])
    assert (found["schedule"], found["time_zone"]) == ("0 3 * * *", "Europe/Berlin")
    assert (found["max_run"], found["fail_after"], found["recover_after"]) == ("2h", 3, 2)
    assert found["thresholds"]["down_after"] == "30m"
    assert "'nightly job' is kept as 'nightly-job'" in found["warnings"][0]
    send(monitor_config=config | {"max_runtime": 90})
    awaited(system, "/service/nightly-job", lambda it: it["max_run"] == "1h30m")
    send(status="ok", environment="prod")
    runs = awaited(system, "/service/nightly-job/runs", lambda it: it["items"] and it["items"][0]["ended_at"])
    assert (runs["items"][0]["outcome"], runs["items"][0]["run"]) == ("success", HEX)
    send(status="error", duration=0.01, check_in_id=HEX[::-1])  # no start was heard
    runs = awaited(system, "/service/nightly-job/runs", lambda it: it["items"][0]["outcome"] == "failure")
    assert (runs["items"][0]["run"], runs["items"][0]["duration"]) == (HEX[::-1], 0.01)
    assert got(system, "/service/nightly-job")["status"] != "down"  # it takes three

    answer = system.http.patch(
        system.url("api", "/service/nightly-job"),
        json={"max_run": "3h", "schedule": "0 4 * * *"},
        headers=ADMIN,
    )
    assert answer.status_code == 200
    send(monitor_config=config | {"max_runtime": 60}, status="ok")
    system.beat("nightly-job")
    time.sleep(1)
    found = got(system, "/service/nightly-job")
    assert (found["schedule"], found["max_run"]) == ("0 4 * * *", "3h")


def test_a_key_is_good_within_a_second_and_ends_within_one(system: System) -> None:
    made = system.http.post(
        system.url("api", "/service"), json={"name": "web", "aliases": ["old.id"]}, headers=ADMIN
    )
    assert made.status_code == 201
    ping = of_own(made.json()["ping_url"])
    changed_within(system, ping, 200, 1)
    changed_within(system, "/ping/old.id", 200, 1)
    renewed = system.http.post(system.url("api", "/service/web/ping-key"), headers=ADMIN)
    assert renewed.status_code == 200
    changed_within(system, ping, 404, 1)
    changed_within(system, of_own(renewed.json()["ping_url"]), 200, 1)
    changed_within(system, "/ping/old.id/fail", 200, 1)
    answer = system.http.patch(system.url("api", "/service/web"), json={"aliases": []}, headers=ADMIN)
    assert answer.status_code == 200
    changed_within(system, "/ping/old.id", 404, 1)
    assert system.http.delete(system.url("api", "/service/web"), headers=ADMIN).status_code == 204
    changed_within(system, of_own(renewed.json()["ping_url"]), 404, 1)
    for ingest in ("ingest", "ingest-2"):  # of a service with the same name, it leads nowhere
        assert asked(system, f"/ping/{TOKEN}/web?create=1", ingest) in (200, 201)
        assert asked(system, of_own(renewed.json()["ping_url"]), ingest) == 404
