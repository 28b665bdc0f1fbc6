"""Who is told of what, and between which seconds: routes, escalations, quiet hours and dependencies, with
every process real."""

import asyncio
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.system import System, until
from tests.telegram_standin import Standin

OPS, BOSS = "42", "43"
LATE = 3.0
"""Seconds in which a message comes that is due: the notifier looks each second, and machines are slow."""
ALL_DAY = {"silent_after": "20h", "down_after": "21h"}


@pytest.fixture
def telegram() -> Iterator[Standin]:
    with Standin(chats=(OPS, BOSS)) as standin:
        yield standin


@pytest.fixture
def system(tmp_path: Path, telegram: Standin) -> Iterator[System]:
    system = System(
        tmp_path,
        telegram,
        telegram_chat_id="ops=42,boss=43",
        silent_after="1h",
        down_after="2h",
        dead_after="3d",
    )
    yield system
    system.stop()


async def configure(system: System, *routes: dict[str, Any], **services: dict[str, Any]) -> None:
    for name, config in services.items():
        answer = system.http.put(system.url("api", f"/service/{name}"), json=config)
        assert answer.status_code == 201, answer.text
        assert system.beat(name) == 200
    log = system.parts["notifier"].log
    known = log.read_text().count("routes are in force")
    answer = system.http.put(system.url("api", "/routes"), json={"routes": routes})
    assert answer.status_code == 200, answer.text
    await until(lambda: not routes or log.read_text().count("routes are in force") > known)


def messages(system: System, name: str, chat: str) -> list[dict[str, Any]]:
    """Those that say that a service is down, or was and is not any more."""
    return [
        it
        for it in system.telegram.messages
        if it["chat"] == chat and re.search(rf" {name}: .*down", it["text"])
    ]


async def told(system: System, name: str, chat: str, count: int = 1, within: float = 30.0) -> dict[str, Any]:
    found = await until(
        lambda: len(messages(system, name, chat)) >= count and messages(system, name, chat), within
    )
    return dict(found[count - 1])


async def alive(system: System, *names: str) -> None:
    await until(lambda: all(system.status(name) == "alive" for name in names))


@pytest.mark.timeout(120)
async def test_an_escalation_comes_at_its_moment_unless_somebody_has_it_in_hand(system: System) -> None:
    system.start()
    after = 8.0
    route = {"match": {"tags": ["db"]}, "to": ["ops"], "escalate": {"after": f"{after:.0f}s", "to": ["boss"]}}
    tagged = {"tags": ["db"]}
    await configure(system, route, pg=tagged, taken=tagged, back=tagged, web={})
    await alive(system, "pg", "taken", "back", "web")
    began = time.time()
    for name in ("pg", "taken", "back", "web"):
        assert system.beat(name, "/fail") == 200
    for name in ("pg", "taken", "back", "web"):
        assert (await told(system, name, OPS))["time"] < began + LATE
    assert (await told(system, "web", BOSS))["time"] < began + LATE, "what no route matches goes to everybody"
    assert system.http.post(system.url("api", "/service/taken/ack"), json={}).status_code == 200
    assert system.beat("back") == 200
    system.parts["notifier"].kill()
    system.start("notifier")
    called = await told(system, "pg", BOSS)
    assert began + after - 0.2 <= called["time"] <= began + after + LATE
    assert "nobody has had it in hand for 8 s" in called["text"]
    assert not called["silent"]
    await asyncio.sleep(max(0.0, began + after + LATE - time.time()))  # a time in which nothing may come
    assert messages(system, "taken", BOSS) == messages(system, "back", BOSS) == []
    released = time.time()
    assert system.http.delete(system.url("api", "/service/taken/ack")).status_code == 200
    assert (await told(system, "taken", BOSS))["time"] < released + LATE
    assert system.beat("pg") == system.beat("taken") == 200
    for name in ("pg", "taken"):
        for chat in (OPS, BOSS):
            assert "down → alive" in (await told(system, name, chat, 2))["text"]
    assert messages(system, "back", BOSS) == []


def _next_minute(after: float) -> datetime:
    """The first full minute that is at least so many seconds away."""
    soon = datetime.now(UTC) + timedelta(seconds=after)
    return soon.replace(second=0, microsecond=0) + timedelta(minutes=1)


@pytest.mark.timeout(150)
async def test_quiet_hours_take_the_sound_or_hold_till_their_end(system: System) -> None:
    system.start()
    end = _next_minute(15)
    hours = f"{end - timedelta(hours=3):%H:%M}-{end:%H:%M}"
    held = {"match": {"tags": ["held"]}, "to": ["ops"], "quiet": {"hours": hours, "hold": True}}
    soft = {"match": {"tags": ["soft"]}, "to": ["ops"], "quiet": f"{hours} UTC"}
    before: dict[str, Any] = {"tags": ["held"]}
    await configure(system, late=before, over=before, was=before, soft={"tags": ["soft"]}, loud={})
    await alive(system, "late", "over", "was", "soft", "loud")
    assert system.beat("was", "/fail") == 200
    await told(system, "was", OPS)
    await configure(system, held, soft)
    for name in ("late", "over", "soft"):
        assert system.beat(name, "/fail") == 200
    assert (await told(system, "soft", OPS))["silent"]
    assert system.beat("loud", "/fail") == 200
    assert not (await told(system, "loud", OPS))["silent"]
    assert messages(system, "soft", BOSS) == []
    await until(lambda: system.status("over") == "down")
    assert system.beat("over") == system.beat("was") == 200
    back = await told(system, "was", OPS, 2)
    assert back["silent"], "a told outage is over: that is never held, and has no sound"
    assert back["time"] < end.timestamp()
    system.parts["notifier"].kill()
    system.start("notifier")
    at_its_end = await told(system, "late", OPS, within=100)
    assert end.timestamp() <= at_its_end["time"] <= end.timestamp() + LATE
    assert not at_its_end["silent"]
    assert messages(system, "over", OPS) == []
    assert system.beat("soft", "") == 200
    assert not (await told(system, "soft", OPS, 2))["silent"]


@pytest.mark.timeout(120)
async def test_what_depends_on_something_that_is_down_waits_for_its_return(system: System) -> None:
    system.start()
    patient, silent_after = {"depends_on": ["storage"], **ALL_DAY}, 5.0
    own = {"depends_on": ["storage"], "silent_after": f"{silent_after:.0f}s", "down_after": "20h"}
    await configure(
        system, storage=ALL_DAY, own=own, returns=patient, alone=ALL_DAY, other={"depends_on": ["alone"]}
    )
    await alive(system, "storage", "own", "returns", "alone", "other")
    began = time.time()
    for name in ("own", "returns", "other", "storage"):  # the child's fall is stored first
        assert system.beat(name, "/fail") == 200
    assert (await told(system, "storage", OPS))["time"] < began + LATE
    waited = await told(system, "other", OPS)
    assert began + 1 <= waited["time"] <= began + 1.2 + LATE, "a tick and a second"
    await asyncio.sleep(2.0)  # a time in which nothing may come
    assert messages(system, "own", OPS) == messages(system, "returns", OPS) == []
    system.parts["notifier"].kill()
    system.start("notifier")
    back = time.time()
    assert system.beat("storage") == system.beat("returns") == 200
    over = await told(system, "storage", OPS, 2)
    assert "still down and held back: own" in over["text"]
    found = await told(system, "own", OPS)
    assert back + silent_after - 0.2 <= found["time"] <= back + silent_after + LATE
    assert system.beat("own") == 200
    await told(system, "own", OPS, 2)
    assert messages(system, "returns", OPS) == []
