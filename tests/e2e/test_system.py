"""From a heartbeat to a message on a phone, with every process killed on the way."""

import asyncio
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.broker import changes, connect, statuses, unearned
from tests.e2e.system import SERVICES, System, beats_by_http, until
from tests.telegram_standin import Standin

FIRST = "unknown → alive"
FALLS = ["alive → silent", "silent → down"]


@pytest.fixture
def telegram() -> Iterator[Standin]:
    with Standin() as standin:
        yield standin


@pytest.fixture
def system(tmp_path: Path, telegram: Standin) -> Iterator[System]:
    system = System(tmp_path, telegram)
    yield system
    system.stop()


async def test_the_story(system: System, telegram: Standin) -> None:
    """A heartbeat, silence, messages; a heartbeat, and the message that it recovered."""
    system.start()
    assert system.beat("my-service") == 200
    await until(lambda: system.status("my-service") == "alive")
    await until(lambda: system.told("my-service") == [FIRST, *FALLS])
    assert [message["silent"] for message in telegram.messages] == [True, True, False]
    assert system.status("my-service") == "down"
    assert "down" in system.http.get(system.url("api", "/")).text
    link = system.http.get(system.url("api", "/ui/service/my-service"))
    assert "my-service is down" in link.text
    assert system.beat("my-service") == 200
    await until(lambda: system.told("my-service")[3:] == ["down → alive"])
    recovery = telegram.messages[-1]
    assert not recovery["silent"]
    assert "was down for" in recovery["text"]
    await until(lambda: system.status("my-service") == "alive")
    events = system.api("/service/my-service/events")["items"]
    assert [event["data"]["to"] for event in events[:4]] == ["alive", "down", "silent", "alive"]
    assert system.api("/summary")["counts"]["alive"] == 1


async def test_services_may_start_before_what_they_need_and_in_any_order(system: System) -> None:
    system.start(*reversed(SERVICES), wait=False)
    await until(
        lambda: all("waiting for the broker" in system.parts[name].log.read_text() for name in SERVICES)
    )
    assert all(system.parts[name].running for name in SERVICES)
    assert system.beat("web") == 503
    system.start("nats", wait=False)
    await until(lambda: system.beat("web") == 200)
    system.start("mongo")
    await until(lambda: system.status("web") in ("alive", "silent"))


async def test_each_process_is_killed_in_turn_under_load(system: System) -> None:
    """No alarm for whoever beats, no acknowledged heartbeat missing, nothing said twice."""
    system.start()
    steady, ending = [f"steady{i}" for i in range(15)], [f"ending{i}" for i in range(5)]
    acknowledged: list[str] = []
    load = beats_by_http(system, steady + ending, 0.3, acknowledged)
    await until(lambda: len(set(acknowledged)) == 20)
    for name in ("monitor", "notifier", "api", "mongo", "ingest", "nats"):
        await asyncio.to_thread(system.parts[name].kill)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(system.start, name)
        await asyncio.sleep(1.2)
    load.cancel()
    load = beats_by_http(system, steady, 0.3, acknowledged)
    await until(lambda: all(system.told(name) == [FIRST, *FALLS] for name in ending), within=30)
    await until(lambda: all(system.status(name) == "down" for name in ending))
    assert all(system.told(name) == [FIRST] for name in steady)
    load.cancel()
    repeats = [message for message in system.telegram.messages if "repeat" in message["text"]]
    assert len(repeats) <= 1
    nc, js = await connect(system.nats_url)
    for name in ending:
        assert await statuses(js, name) == ["alive", "silent", "down"]
    info = await js.stream_info("HEARTBEATS", subjects_filter="heartbeat.>")
    for name, stored in (info.state.subjects or {}).items():
        assert stored >= min(100, acknowledged.count(name.removeprefix("heartbeat."))), name
    await nc.close()


async def test_all_off_for_longer_than_every_threshold(tmp_path: Path, telegram: Standin) -> None:
    """Not one alarm on return; whoever stays away afterwards is found within its threshold."""
    system = System(tmp_path, telegram, silent_after="5s", down_after="7s").start()
    try:
        names = [f"s{i}" for i in range(10)]
        for name in names:
            assert system.beat(name) == 200
        await until(lambda: all(system.told(name) == [FIRST] for name in names))
        for part in reversed(system.parts.values()):
            part.stop()
        await asyncio.sleep(9)
        returned = datetime.now(UTC)
        system.start("nats", "mongo", "ingest", wait=False)
        await until(lambda: system.get_ready("ingest") == 200, within=30)
        for name in names[:5]:
            assert system.beat(name) == 200
        await asyncio.to_thread(system.start, "monitor", "notifier", "api")
        await until(lambda: all(system.told(name) == [FIRST, *FALLS] for name in names))
        nc, js = await connect(system.nats_url)
        for name in names:
            (fall,) = [it.data.since for it in await changes(js, name) if it.data.to == "silent"]
            assert 5 <= (fall - returned).total_seconds() < 5 + 10, "the process takes its time to start"
        await nc.close()
    finally:
        system.stop()


def judged_until(system: System) -> float:
    """Seconds since 1970 of the tick that the monitor judged last."""
    metrics = system.http.get(system.url("monitor", "/metrics")).text
    (lag,) = re.findall(r"^registry_tick_lag_seconds (\S+)$", metrics, re.MULTILINE)
    return time.time() - float(lag)


async def test_monitor_off_for_longer_than_down_after_while_100_services_beat(
    tmp_path: Path, telegram: Standin
) -> None:
    system = System(tmp_path, telegram, silent_after="4s", down_after="6s").start()
    try:
        names = [f"s{i}" for i in range(100)]
        load = beats_by_http(system, names, 0.5, [])
        await until(lambda: system.api("/summary")["counts"]["alive"] == 100, within=30)
        system.parts["monitor"].kill()
        await asyncio.sleep(8)
        await asyncio.to_thread(system.start, "monitor")
        await until(lambda: judged_until(system) > time.time() - 1)
        load.cancel()
        nc, js = await connect(system.nats_url)
        assert await unearned(js, 4) == []
        await nc.close()
    finally:
        system.stop()


async def test_without_the_database_alarms_go_on_and_reads_catch_up(system: System) -> None:
    system.start()
    assert system.beat("web") == 200
    await until(lambda: system.status("web") == "alive")
    system.parts["mongo"].kill()
    await until(lambda: system.told("web") == [FIRST, *FALLS])
    assert system.beat("new") == 200
    response = system.http.get(system.url("api", "/service/web"))
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert int(response.headers["retry-after"]) > 0
    system.start("mongo")
    await until(lambda: system.status("web") == "down")
    await until(lambda: system.status("new") in ("alive", "silent", "down"))


async def test_telegram_away_stops_nothing_and_loses_nothing(system: System, telegram: Standin) -> None:
    telegram.control("cut")
    system.start()
    assert system.beat("web") == 200
    await until(lambda: system.status("web") == "down")
    assert telegram.messages == []
    telegram.control("ok")
    await until(lambda: system.told("web", repeats=True) == [FIRST, *FALLS], within=30)


async def test_rebuilt_read_models_are_the_same(system: System) -> None:
    system.start()
    for name in ("a", "b.c"):
        assert system.beat(name) == 200
    created = system.http.post(
        system.url("api", "/service"), json={"name": "d", "silent_after": "3s", "tags": ["x"]}
    )
    assert created.status_code == 201
    await until(lambda: system.status("a") == system.status("b.c") == "down")
    before = [system.api("/services?sort=name"), system.api("/service/a/events")]
    nc, _ = await connect(system.nats_url)
    answer = await nc.request("registry.rebuild", timeout=30)
    assert b"services" in answer.data
    await nc.close()
    assert [system.api("/services?sort=name"), system.api("/service/a/events")] == before
