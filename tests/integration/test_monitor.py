"""The monitor as a process on a real broker. The test plays ingest: it beats and ticks."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nats.js import JetStreamContext

from shared import streams
from shared.broker import Publisher
from shared.events import (
    ConfigData,
    ServiceConfig,
    ServiceDeleted,
    ServicePaused,
    ServiceRegistered,
    ServiceResumed,
)
from tests.broker import Beats, Ticks, changes, connect, events, eventually, provisioned, statuses
from tests.servers import Process, service

QUICK = {"silent_after": "1s", "down_after": "2s", "dead_after": "4s"}
Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path, nats_url: str) -> Iterator[Start]:
    """Start a monitor; further variables may be given."""
    started: list[Process] = []

    def start(**variables: str) -> Process:
        started.append(service("monitor", tmp_path, nats_url, **{**QUICK, **variables}).start())
        return started[-1]

    yield start
    for process in started:
        process.kill()


async def has(js: JetStreamContext, name: str, *expected: str) -> bool:
    return await statuses(js, name) == list(expected)


async def test_the_whole_life_of_a_service(nats_url: str, start: Start) -> None:
    start()
    nc, js = await connect(nats_url)
    await provisioned(nats_url)
    async with Ticks(js):
        await nc.publish("heartbeat.web", b"")
        await eventually(lambda: has(js, "web", "alive", "silent", "down", "dead"))
        await nc.publish("heartbeat.web", b'{"message": "back"}')
        await eventually(lambda: has(js, "web", "alive", "silent", "down", "dead", "alive"))
    registered, first, silent, down, dead, back = await events(js)
    assert isinstance(registered, ServiceRegistered)
    beat = first.data.since
    assert [round((c.data.since - beat).total_seconds(), 6) for c in (silent, down, dead)] == [1, 2, 4]
    assert {c.data.last_heartbeat for c in (first, silent, down, dead)} == {beat}
    assert back.data.from_ == "dead"
    assert registered.data.registered_at == beat
    await nc.close()


async def test_a_failure_is_down_at_once(nats_url: str, start: Start) -> None:
    start(silent_after="1m", down_after="2m", dead_after="3m")
    nc, js = await connect(nats_url)
    await provisioned(nats_url)
    await nc.publish("heartbeat.job", b"", headers={"Registry-Signal": "fail"})
    await eventually(lambda: has(js, "job", "down"))
    await nc.close()


async def test_nothing_malformed_gets_in_or_in_the_way(nats_url: str, start: Start) -> None:
    monitor = start()
    nc, js = await connect(nats_url)
    await provisioned(nats_url)
    noise = [
        ("heartbeat.*", b""),
        ("heartbeat.>", b""),
        ("heartbeat.a..b", b""),
        ("heartbeat." + "x" * 129, b""),
        ("heartbeat.\N{SNOWMAN}", b""),
        ("heartbeat.web", b"{not json"),
        ("heartbeat.web", b"[" * 60_000),
        ("heartbeat.web", b"\xff\xfe" * 500_000),
        ("heartbeat.web", json.dumps({"message": "x" * 10_001}).encode()),
        ("tick.someone", b"never"),
        ("tick.someone", b'{"open_since": "yesterday"}'),
        ("service.config.web", b"not an event"),
        ("service.status.web", b'{"type": "service.status_changed.v99"}'),
    ]
    for subject, payload in noise:
        await nc.publish(subject, payload)
    await nc.publish("heartbeat.web", b"", headers={"Registry-Signal": "nonsense"})
    await nc.publish("heartbeat.fine", b"")
    stream = streams.SERVICES

    async def names() -> set[str]:
        last = (await js.stream_info(stream)).state.last_seq
        return {(await js.get_msg(stream, seq)).subject or "" for seq in range(1, last + 1)}

    await eventually(lambda: _contains(names, "service.status.fine"))
    assert await names() == {
        *("service.config.web", "service.status.web"),  # the noise itself
        *("service.config.fine", "service.status.fine"),
    }
    assert monitor.running
    lines = [line for line in monitor.log.read_text().splitlines() if "malformed" in line and "=web" in line]
    assert len(lines) <= 2, "logged once per service and minute"
    # An event nobody can read does not lock its service out for ever.
    await nc.publish("heartbeat.web", b"")
    await eventually(lambda: _contains(lambda: _statuses_of_web(js), "alive"))
    await nc.close()


async def _statuses_of_web(js: JetStreamContext) -> set[str]:
    message = await js.get_last_msg(streams.SERVICES, "service.status.web")
    return {json.loads(message.data or b"{}").get("data", {}).get("to", "")}


async def _contains(names: Callable[[], object], name: str) -> bool:
    return name in await names()  # type: ignore[misc, operator]


async def test_a_monitor_that_was_off_raises_no_alarm_for_services_that_kept_beating(
    nats_url: str, start: Start
) -> None:
    """Off for three times `down_after`, with so few heartbeats kept that most of them are gone."""
    kept = {"heartbeats_kept": "5"}
    monitor = start(**kept)
    nc, js = await connect(nats_url)
    await provisioned(nats_url, kept=5)
    names = [f"s{i}" for i in range(20)]
    async with Ticks(js):
        async with Beats(nc, names, every=0.2):
            await eventually(lambda: _count(js, 20))
            monitor.kill()
            await asyncio.sleep(6)
            start(**kept)
            await asyncio.sleep(2)
            assert len(await changes(js)) == 20, "only the first heartbeats"
        await eventually(lambda: _count(js, 60))
    await nc.close()


async def _count(js: JetStreamContext, at_least: int) -> bool:
    return len(await changes(js)) >= at_least


async def test_a_monitor_that_was_off_finds_what_happened_meanwhile_with_the_same_dates(
    nats_url: str, start: Start
) -> None:
    monitor = start()
    nc, js = await connect(nats_url)
    await provisioned(nats_url)
    async with Ticks(js):
        await nc.publish("heartbeat.web", b"")
        await eventually(lambda: has(js, "web", "alive"))
        monitor.kill()
        await asyncio.sleep(1.5)
        await nc.publish("heartbeat.web", b"")
        await asyncio.sleep(0.5)
        start()
        await eventually(lambda: _count(js, 3))
    first, silent, back, *_ = await changes(js, "web")
    assert [c.data.to.value for c in (first, silent, back)] == ["alive", "silent", "alive"]
    assert silent.data.since.timestamp() == pytest.approx(first.data.since.timestamp() + 1, abs=1e-5)
    assert back.data.since > silent.data.since
    await nc.close()


async def test_time_without_ticks_is_credited(nats_url: str, start: Start) -> None:
    """Ingest is away for longer than `dead_after`: nobody falls before the threshold after its return."""
    start()
    nc, js = await connect(nats_url)
    await provisioned(nats_url)
    async with Ticks(js):
        await nc.publish("heartbeat.web", b"")
        await eventually(lambda: has(js, "web", "alive"))
    await asyncio.sleep(5)
    async with Ticks(js):
        returned = asyncio.get_running_loop().time()
        await asyncio.sleep(0.6)
        assert await statuses(js, "web") == ["alive"]
        await eventually(lambda: has(js, "web", "alive", "silent"), within=2)
        assert asyncio.get_running_loop().time() - returned < 1 + 0.5
    await nc.close()


async def test_two_monitors_record_each_change_once_and_one_may_go(nats_url: str, start: Start) -> None:
    one, _ = start(), start()
    nc, js = await connect(nats_url)
    await provisioned(nats_url)
    names = [f"s{i}" for i in range(50)]
    async with Ticks(js):
        for name in names:
            await nc.publish(streams.heartbeat(name), b"")
        await eventually(lambda: _count(js, 100))
        one.kill()
        await eventually(lambda: _count(js, 200))
        await asyncio.sleep(0.5)
    for name in names:
        assert await statuses(js, name) == ["alive", "silent", "down", "dead"]
    assert len(await events(js)) == 250
    await nc.close()


async def test_kill_9_again_and_again_under_load(nats_url: str, start: Start) -> None:
    """Each service beats for a while and stops; the monitor dies every second. The history is exact."""
    monitor = start()
    nc, js = await connect(nats_url)
    await provisioned(nats_url)
    names = [f"s{i}" for i in range(100)]
    async with Ticks(js):
        async with Beats(nc, names, every=0.3):
            for _ in range(3):
                await asyncio.sleep(0.8)
                monitor.kill()
                monitor = start()
        for _ in range(3):
            await asyncio.sleep(0.8)
            monitor.kill()
            monitor = start()
        await eventually(lambda: _count(js, 400), within=15)
        await asyncio.sleep(0.5)
    for name in names:
        assert await statuses(js, name) == ["alive", "silent", "down", "dead"]
    ids = [event.id for event in await events(js)]
    assert len(ids) == len(set(ids)) == 500
    await nc.close()


async def test_the_broker_is_killed_and_comes_back(nats: Process, nats_url: str, start: Start) -> None:
    start()
    nc, js = await connect(nats_url)
    await provisioned(nats_url)
    async with Ticks(js):
        await nc.publish("heartbeat.web", b"")
        await eventually(lambda: has(js, "web", "alive"))
    nats.kill()
    await asyncio.sleep(3)
    nats.start()
    await eventually(lambda: _is_connected(nc))
    async with Ticks(js):
        await asyncio.sleep(0.5)
        assert await statuses(js, "web") == ["alive"]
        await eventually(lambda: has(js, "web", "alive", "silent", "down"))
    await nc.close()


async def _is_connected(nc: object) -> bool:
    return bool(getattr(nc, "is_connected", False))


async def test_a_service_has_its_own_thresholds_and_can_be_deleted(nats_url: str, start: Start) -> None:
    start()
    nc, js = await connect(nats_url)
    link = await provisioned(nats_url)
    publisher = Publisher(link)
    await publisher.start()
    config = ServiceConfig.model_validate({"silent_after": "0.3s"})
    event = ServiceRegistered(
        id="1", source="/test", subject="web", time="2026-01-01T00:00:00Z", data=ConfigData(config=config)
    )
    subject = streams.config("web")
    ack = await publisher.append(subject, event.to_bytes(), after=0, event_id="1", kind=event.type)
    async with Ticks(js):
        await asyncio.sleep(0.3)
        await nc.publish("heartbeat.web", b"")
        await eventually(lambda: has(js, "web", "alive", "silent"))
        first, silent = await changes(js, "web")
        assert (silent.data.since - first.data.since).total_seconds() == pytest.approx(0.3)
        deleted = ServiceDeleted(id="2", source="/test", subject="web", time="2026-01-01T00:00:00Z")
        await publisher.append(subject, deleted.to_bytes(), after=ack.seq, event_id="2", kind=deleted.type)
        await asyncio.sleep(3)
        assert await statuses(js, "web") == ["alive", "silent"], "a deleted service is not judged"
        await nc.publish("heartbeat.web", b"")
        await eventually(lambda: has(js, "web", "alive", "silent", "alive", "silent"))
    *_, again, silent = await changes(js, "web")
    assert again.data.from_ == "unknown"
    assert (silent.data.since - again.data.since).total_seconds() == pytest.approx(1), "the default again"
    await publisher.stop()
    await nc.close()


async def test_a_paused_service_is_not_judged_and_starts_afresh(nats_url: str, start: Start) -> None:
    start()
    nc, js = await connect(nats_url)
    publisher = Publisher(await provisioned(nats_url))
    await publisher.start()

    async def configure(kind: type[ServicePaused] | type[ServiceResumed], after: int) -> int:
        data = ConfigData(config=ServiceConfig(paused=kind is ServicePaused), registered_at=registered_at)
        event = kind(id=str(after), source="/test", subject="web", time=registered_at, data=data)
        ack = await publisher.append(
            streams.config("web"), event.to_bytes(), after=after, event_id=event.id, kind=event.type
        )
        return ack.seq

    async with Ticks(js):
        await nc.publish("heartbeat.web", b"")
        await eventually(lambda: has(js, "web", "alive"))
        registered_at = (await changes(js, "web"))[0].data.since
        seq = await configure(ServicePaused, 1)
        await asyncio.sleep(3)
        await configure(ServiceResumed, seq)
        await asyncio.sleep(2)
        assert await statuses(js, "web") == ["alive"], "not judged before its first heartbeat"
        await nc.publish("heartbeat.web", b"")
        await eventually(lambda: has(js, "web", "alive", "silent", "down"))
    await publisher.stop()
    await nc.close()


async def test_registration_stops_at_the_limit(nats_url: str, start: Start) -> None:
    start(max_services="2")
    nc, js = await connect(nats_url)
    await provisioned(nats_url)
    for name in ("a", "b", "c"):
        await nc.publish(streams.heartbeat(name), b"")
    await asyncio.sleep(1)
    assert {event.subject for event in await events(js)} == {"a", "b"}
    await nc.close()
