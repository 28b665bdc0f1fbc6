"""Routes, dependencies and maintenance windows as people set them, in the whole system; and in an update."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from shared.contracts.maintenance import Window
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.settings import Settings
from tests.e2e.system import System, until
from tests.e2e.test_backup import registry
from tests.telegram_standin import Standin

TOKEN = "ana:the-api-tokens-secret"


@pytest.fixture
def telegram() -> Iterator[Standin]:
    with Standin(chats=("42", "43")) as standin:
        yield standin


@pytest.fixture
def system(tmp_path: Path, telegram: Standin) -> Iterator[System]:
    system = System(tmp_path, telegram, telegram_chat_id="ops=42,boss=43", api_token=TOKEN, tick="0.5s")
    system.http.headers["Authorization"] = f"Bearer {TOKEN}"
    yield system
    system.stop()


def put(system: System, path: str, body: dict[str, Any]) -> Any:
    return system.http.put(system.url("api", path), json=body)


@pytest.mark.timeout(150)
async def test_a_route_by_tag_and_an_escalation_from_the_setting_to_the_message(
    system: System, tmp_path: Path
) -> None:
    system.start()
    wrong = put(system, "/routes", {"routes": [{"to": ["night"]}]})
    assert (wrong.status_code, "no channel is called night; " in wrong.text) == (422, True)
    route = {"match": {"tags": ["db"]}, "to": ["ops"], "escalate": {"after": "8s", "to": ["boss"]}}
    assert put(system, "/routes", {"routes": [route]}).status_code == 200
    for name, config in (
        ("pg", {"tags": ["db"], "depends_on": ["disk"]}),
        ("disk", {}),
        ("web", {"tags": ["front"]}),
    ):
        assert put(system, f"/service/{name}", config).status_code == 201
    circle = put(system, "/service/disk", {"depends_on": ["pg"]})
    assert (circle.status_code, "disk → pg → disk" in circle.text) == (422, True)
    asked = {"name": "pg", "status": "down"}
    tried = system.http.post(system.url("api", "/routes/test"), json=asked).json()
    assert {it["channel"]: it["hears"] for it in tried["channels"]} == {"ops": "at_once", "boss": "escalates"}

    assert system.beat("web", "/fail") == system.beat("pg", "/fail") == 200
    await until(lambda: system.told("web") and system.told("web", chat="43") and system.told("pg"))
    assert system.told("pg", chat="43") == [], "not yet"
    await until(lambda: "pg" in "".join(it["text"] for it in system.telegram.messages if it["chat"] == "43"))

    # A new notifier, and a copy of the record in a broker that was emptied, have the routes as well.
    copied = registry(tmp_path, system.nats_url, "backup", "copy")
    assert copied.returncode == 0, copied.stderr
    assert put(system, "/routes", {"routes": []}).status_code == 200
    for name in ("ingest", "monitor", "notifier", "api"):
        system.parts[name].stop()
    restored = registry(tmp_path, system.nats_url, "restore", "copy", "--replace")
    assert restored.returncode == 0, restored.stderr
    system.start("ingest", "monitor", "notifier", "api")
    assert system.api("/routes")["routes"] == [route]
    [row] = [row for row in system.api("/audit?limit=500")["items"] if row["config"]]
    assert (row["actor"], row["changes"]) == (
        "token:ana",
        [{"field": "routes", "before": None, "after": [route]}],
    )
    system.beat("pg")
    await until(lambda: "down → alive" in system.told("pg"))


@pytest.mark.timeout(90)
async def test_an_update_in_the_middle_of_maintenance_tells_nothing(system: System) -> None:
    """The notifier is updated first, and no API has taken anything over yet."""
    system.start("nats", wait=False)
    link = BrokerConnection(Settings(nats_url=(system.nats_url,)), "test")
    await link.connect()
    now = datetime.now(UTC)
    window = Window(services=("web",), starts_at=now, ends_at=now + timedelta(hours=1), title="From before")
    bucket = await link.bucket(streams.MAINTENANCE_BUCKET)
    await bucket.put("0123456789ab", window.model_dump_json().encode())
    await link.close()
    system.start("ingest", "monitor", "notifier", wait=False)
    await until(lambda: all(system.get_ready(name) == 200 for name in ("ingest", "monitor", "notifier")))
    assert system.beat("web", "/fail") == system.beat("other", "/fail") == 200
    await until(lambda: system.told("other"))
    system.start("mongo", "api", wait=False)
    system.wait_until_ready()
    await until(lambda: system.api("/maintenance")["items"][0]["version"])
    assert system.beat("other") == system.beat("another", "/fail") == 200
    await until(lambda: system.told("another"))
    assert system.told("web") == []
    gone = system.http.delete(system.url("api", "/maintenance/0123456789ab"))
    assert gone.status_code == 204, gone.text
    await until(lambda: system.told("web"))
    [row] = [row for row in system.api("/audit")["items"] if row["config"]]
    assert (row["config"], row["actor"]) == ("maintenance.0123456789ab", "token:ana")
    assert {"field": "title", "before": "From before", "after": None} in row["changes"]
