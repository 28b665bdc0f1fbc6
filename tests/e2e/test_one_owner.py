"""The story of an incident with two channels, as the page about it tells: a route by tag, quiet hours, an
escalation, a button, and everywhere the same who has it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.system import System, until
from tests.telegram_standin import Standin

OPS, BOSS = "42", "-1001"
SLOW = {"silent_after": "1h", "down_after": "2h", "dead_after": "7d"}
ROUTE = {
    "match": {"tags": ["db"]},
    "to": ["ops"],
    "quiet": "00:00-23:59 Europe/Berlin",
    "escalate": {"after": "3s", "to": ["boss"]},
}


@pytest.fixture
def telegram() -> Iterator[Standin]:
    with Standin(chats=(OPS, BOSS)) as standin:
        yield standin


@pytest.fixture
def system(tmp_path: Path, telegram: Standin) -> Iterator[System]:
    system = System(
        tmp_path,
        telegram,
        telegram_chat_id=f"ops={OPS},boss={BOSS}",
        api_token="ana:anas-secret-of-24-letters",
    )
    system.http.headers["Authorization"] = "Bearer anas-secret-of-24-letters"
    yield system.start()
    system.stop()


def sent(telegram: Standin, chat: str, *words: str) -> list[dict[str, Any]]:
    """The messages in a chat, as they read now, that have all of these words."""
    return [
        it for it in telegram.messages if it["chat"] == chat and all(word in it["text"] for word in words)
    ]


async def test_one_incident_one_owner(system: System, telegram: Standin) -> None:
    http, url = system.http, system.url
    answer = http.put(url("api", "/routes"), json={"routes": [ROUTE | {"to": ["opps"]}]})
    assert answer.status_code == 422
    assert "opps" in answer.json()["detail"]
    assert http.put(url("api", "/routes"), json={"routes": [ROUTE]}).status_code == 200
    asked = {"name": "backup.db", "tags": ["db"], "status": "down"}
    tried = http.post(url("api", "/routes/test"), json=asked).json()
    assert {"ops", "boss"} <= {it["channel"] for it in tried["channels"]}, tried

    http.post(url("api", "/service"), json={"name": "backup.db", "tags": ["db"]} | SLOW)
    http.post(url("api", "/service"), json={"name": "web"} | SLOW)
    system.beat("backup.db")
    system.beat("web")
    await until(lambda: system.told("backup.db") and system.told("web", chat=BOSS))
    system.beat("backup.db", "/fail")
    (fall,) = await until(lambda: sent(telegram, OPS, "backup.db", "alive → down"))
    assert fall["silent"], "it is a quiet hour"
    assert not sent(telegram, BOSS, "backup.db")
    assert [it["text"] for it in fall["buttons"]] == ["I have it", "Mute 1h", "Details"]
    (late,) = await until(lambda: sent(telegram, BOSS, "backup.db", "nobody has had it in hand"))

    button = next(it["callback_data"] for it in late["buttons"] if it["text"] == "I have it")
    telegram.update("-1666", data=button, message_id=late["message_id"], person="Eve")
    telegram.update(BOSS, data=button, message_id=late["message_id"], person="Ben")
    for chat in (OPS, BOSS):
        await until(lambda chat=chat: sent(telegram, chat, "backup.db", "✋ Ben has it"))
    incident = system.api("/service/backup.db")["incident"]
    assert incident["acknowledged"]["by"] == "telegram:Ben (7)"
    assert http.post(url("api", "/service/backup.db/ack")).json()["by"] == "telegram:Ben (7)"
    audit = system.api("/audit?service=backup.db")["items"]
    assert audit[0]["actor"] == "telegram:Ben (7)"
    assert audit[0]["type"] == "service.acknowledged.v1"
    for path in ("/", "/ui/service/backup.db", "/ui/audit"):
        page = http.get(url("api", path), headers={"Accept": "text/html"}).text
        assert "Ben" in page, path

    telegram.update(OPS, "/status")
    said = await until(lambda: sent(telegram, OPS, "1 down", "✋ Ben"))
    summary = system.api("/summary")
    assert said[-1]["text"].splitlines()[0] == summary["next_digest"]["text"].splitlines()[1]

    system.beat("backup.db")
    for chat in (OPS, BOSS):
        await until(lambda chat=chat: sent(telegram, chat, "backup.db", "Ben had it"))
        await until(lambda chat=chat: sent(telegram, chat, "backup.db", "down → alive"))
    whole = system.api(f"/incident/{incident['id']}")
    told = [it["data"]["told"] for it in whole["events"] if it["type"] == "service.told.v1"]
    assert [(it["channel"], it["what"]) for it in told][:2] == [("ops", "change"), ("boss", "escalation")]
    assert {(it["channel"], it["status"]) for it in told} >= {("ops", "alive"), ("boss", "alive")}
    assert whole["ended_at"]

    before = len(sent(telegram, BOSS, "backup.db"))
    system.beat("backup.db", "/fail")
    await until(lambda: system.status("backup.db") == "down")
    assert http.post(url("api", "/service/backup.db/ack"), json={"note": "on it"}).status_code == 200
    await until(lambda: sent(telegram, OPS, "✋ ana has it", "on it"))
    await asyncio.sleep(4)
    assert len(sent(telegram, BOSS, "backup.db")) == before, "no escalation after an acknowledgement"
