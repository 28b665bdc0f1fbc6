"""The monitor as a process on a real broker. The test plays ingest: it beats and ticks."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from nats.js import JetStreamContext
from nats.js.errors import BucketNotFoundError, KeyNotFoundError, NotFoundError

from services.monitor.domain import buckets
from services.monitor.domain.epochs import Epoch
from services.monitor.domain.service import EffectiveThresholds
from services.monitor.store import mapping, snapshot_codec
from shared.contracts.events import (
    ConfigData,
    ServiceConfig,
    ServiceDeleted,
    ServicePaused,
    ServiceRegistered,
    ServiceResumed,
    ServiceUpdated,
    Status,
)
from shared.messaging import streams
from shared.messaging.publisher import Publisher
from shared.messaging.reader import BY_KEY, OVER_HTTP
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


async def began(js: JetStreamContext, name: str, *expected: str) -> bool:
    return (await statuses(js, name))[: len(expected)] == list(expected)


async def stories(js: JetStreamContext) -> dict[str, list[str]]:
    """The statuses of every service, in order."""
    found: dict[str, list[str]] = {}
    for change in await changes(js):
        found.setdefault(change.subject, []).append(change.data.to.value)
    return found


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


async def test_no_heartbeat_is_lost_for_what_it_says(nats_url: str, start: Start) -> None:
    start()
    nc, js = await connect(nats_url)
    await provisioned(nats_url)
    fail = {"Registry-Signal": "fail"}
    odd = [
        (b"disk full", fail),
        (b"disk full", {"registry-signal": "fail", "registry-exit-code": "KILL"}),
        (b'{"every": "soon", "message": 7}', fail),
        (b"[" * 60_000, fail),
        (b"\xff\xfe" * 500_000, fail),
        (json.dumps({"message": "x" * 10_001, "metadata": {"x": "y" * 100_000}}).encode(), fail),
        (b"", {"Registry-Signal": "explode"}),
        (b"", {"Registry-Signal": "start", "Registry-Exit-Code": "\N{ARABIC-INDIC DIGIT THREE}"}),
    ]
    for n, (payload, headers) in enumerate(odd):
        await nc.publish(f"heartbeat.odd{n}", payload, headers=headers)
    expected = {
        f"odd{n}": ["down" if "fail" in headers.values() else "alive"] for n, (_, headers) in enumerate(odd)
    }
    await eventually(lambda: _are(js, expected))
    told = {change.subject: (change.data.message, change.data.reason) for change in await changes(js)}
    assert told["odd0"] == ("disk full", "reported failure")
    assert told["odd1"] == ("disk full", "reported failure (KILL)")
    await nc.close()


async def _are(js: JetStreamContext, expected: dict[str, list[str]]) -> bool:
    return await stories(js) == expected


async def test_a_log_registers_and_is_no_sign_of_life(nats_url: str, start: Start) -> None:
    start(silent_after="1s", down_after="2m", dead_after="3m")
    nc, js = await connect(nats_url)
    await provisioned(nats_url)
    log = {"Registry-Signal": "log"}
    async with Ticks(js):
        await nc.publish("heartbeat.new", b"hello", headers=log)
        await js.publish("heartbeat.web", b"")
        for _ in range(4):
            await asyncio.sleep(0.4)
            await nc.publish("heartbeat.web", b"still at it", headers=log)
        await eventually(lambda: has(js, "web", "alive", "silent"))
    assert {"service.config.new", "service.config.web"} <= set(await _names(js))
    assert "service.status.new" not in await _names(js)
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
        ("heartbeat.\N{SNOWMAN}", b"\xff\xfe" * 500_000),
        ("tick.someone", b"never"),
        ("tick.someone", b'{"open_since": "yesterday"}'),
        ("service.config.web", b"not an event"),
        ("service.status.web", b'{"type": "service.status_changed.v99"}'),
    ]
    for subject, payload in noise:
        await nc.publish(subject, payload)
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
    complaints = re.findall(r"malformed message .*?\bname=(\S+)", monitor.log.read_text())
    assert max(Counter(complaints).values()) <= 2, "logged once per service, and again in the next minute"
    assert "x" * 129 in complaints
    # An event nobody can read does not lock its service out for ever.
    await nc.publish("heartbeat.web", b"")
    await eventually(lambda: _contains(lambda: _statuses_of_web(js), "alive"))
    await nc.close()


async def test_what_cannot_be_read_is_counted_and_kept_aside_with_its_origin(
    nats_url: str, start: Start
) -> None:
    monitor = start()
    nc, js = await connect(nats_url)
    await provisioned(nats_url)
    noise = [
        ("heartbeat." + "x" * 129, b""),
        ("heartbeat.\N{SNOWMAN}", b""),
        ("heartbeat.\N{SNOWMAN}", b"\xff\xfe" * 500_000),
        ("tick.someone", b"never"),
        ("service.config.web", b"not an event"),
        ("service.status.web", b'{"type": "service.status_changed.v99"}'),
    ]

    async def follows_events() -> bool:
        return "watching" in monitor.log.read_text()

    await eventually(follows_events)
    await js.publish("service.incident.web", b"what the monitor does not read")
    stored = [(subject, (await js.publish(subject, payload)).seq, payload) for subject, payload in noise]

    async def aside() -> list[Any]:
        last = (await js.stream_info(streams.ASIDE)).state.last_seq
        found = [await js.get_msg(streams.ASIDE, seq) for seq in range(1, last + 1)]
        return found if len(found) >= len(noise) else []

    kept = {}
    for message in await eventually(aside):
        headers = message.headers or {}
        assert headers["Registry-Reason"]
        kept[headers["Registry-Subject"], int(headers["Registry-Sequence"])] = message.data or b""
    assert kept == {
        (subject.encode("ascii", "backslashreplace").decode(), seq): payload[: 64 * 1024]
        for subject, seq, payload in stored
    }
    async with httpx.AsyncClient() as client:
        metrics = await client.get(f"http://127.0.0.1:{monitor.port}/metrics")
    counted = re.findall(r'registry_malformed_messages_total\{kind="(\w+)"\} (\d+)', metrics.text)
    assert sorted(counted) == [("event", "2"), ("heartbeat", "3"), ("tick", "1")]
    noise_itself = ["service.incident.web", "service.config.web", "service.status.web"]
    assert await _names(js) == noise_itself, "and no more"
    await nc.close()


async def _names(js: JetStreamContext) -> list[str]:
    """The subject of every event, readable or not."""
    last = (await js.stream_info(streams.SERVICES)).state.last_seq
    return [(await js.get_msg(streams.SERVICES, seq)).subject or "" for seq in range(1, last + 1)]


async def test_a_configuration_that_does_not_validate_is_passed_over_and_its_service_judged(
    nats_url: str, start: Start
) -> None:
    start(down_after="1m", dead_after="2m")
    nc, js = await connect(nats_url)
    await provisioned(nats_url)
    async with Ticks(js):
        beat = await js.publish("heartbeat.web", b"")
        await eventually(lambda: _contains(lambda: _names(js), "service.status.web"))
        updated = config_event(ServiceUpdated, silent_after="20s", tags=["fine"]).to_bytes()
        await js.publish(streams.config("web"), updated.replace(b'["fine"]', b"7"))
        await js.publish(streams.config("other"), updated)  # nobody may speak for another service
        await eventually(lambda: _contains(lambda: _statuses_of_web(js), "silent"))
    silent = json.loads((await js.get_last_msg(streams.SERVICES, "service.status.web")).data or b"")
    since = datetime.fromisoformat(silent["data"]["since"]).timestamp()
    assert since == pytest.approx(await stored_at(js, beat.seq) + 1, abs=1e-5), "by the thresholds before"
    await nc.close()


def config_event(kind: type[ServiceRegistered | ServiceUpdated], **config: object) -> Any:
    """Of `web`, with this configuration."""
    return kind(
        id=f"{kind.__name__} {config}",
        source="/test",
        subject="web",
        time="2026-01-01T00:00:00Z",
        data=ConfigData(config=ServiceConfig.model_validate(config)),
    )


async def stored_at(js: JetStreamContext, seq: int) -> float:
    """When a heartbeat was stored."""
    time = (await js.get_msg(streams.HEARTBEATS, seq)).time
    assert time
    return time.timestamp()


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
            await asyncio.to_thread(start, **kept)
            await asyncio.sleep(2)
            assert len(await changes(js)) == 20, "only the first heartbeats"
        await eventually(lambda: _count(js, 60))
    await nc.close()


async def test_what_was_removed_before_a_monitor_read_it_proves_nothing(nats_url: str, start: Start) -> None:
    """Ticks say that the door was open all the time, but the heartbeats of a part of it were purged."""
    patient = {"silent_after": "2s", "down_after": "1m", "dead_after": "2m"}
    monitor = start(**patient)
    nc, js = await connect(nats_url)
    await provisioned(nats_url)
    async with Ticks(js):
        async with Beats(nc, ["web"], every=0.1):
            await eventually(lambda: has(js, "web", "alive"))
            monitor.kill()
            await asyncio.sleep(3)
        await js.purge_stream(streams.HEARTBEATS)
        purged_at = await stored_at(js, (await js.publish("tick.other", b"{}")).seq)
        await asyncio.to_thread(start, **patient)
        await eventually(lambda: has(js, "web", "alive", "silent"), within=20)
    _, silent = await changes(js, "web")
    assert silent.data.since.timestamp() > purged_at + 1.5
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
        await eventually(lambda: has(js, "web", "alive", "silent"), within=4)
        assert asyncio.get_running_loop().time() - returned < 1 + 2
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
    assert await stories(js) == {name: ["alive", "silent", "down", "dead"] for name in names}
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
                monitor = await asyncio.to_thread(start)  # the beats go on meanwhile
        for _ in range(3):
            await asyncio.sleep(0.8)
            monitor.kill()
            monitor = start()
        await eventually(lambda: _count(js, 400), within=15)
        await asyncio.sleep(0.5)
    assert await stories(js) == {name: ["alive", "silent", "down", "dead"] for name in names}
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


async def test_what_a_paused_service_says_counts_as_of_the_resume_from_when_it_is_expected(
    nats_url: str, start: Start
) -> None:
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
        await nc.publish("heartbeat.web", b"disk full", headers={"Registry-Signal": "fail"})
        await asyncio.sleep(1)
        assert await statuses(js, "web") == ["alive"], "nothing is recorded while it is paused"
        await configure(ServiceResumed, seq)
        await eventually(lambda: has(js, "web", "alive", "down", "dead"))
    _, down, dead = await changes(js, "web")
    assert (down.data.reason, down.data.message) == ("reported failure while it was paused", "disk full")
    assert (dead.data.since - down.data.since).total_seconds() == pytest.approx(4, abs=1e-5), "expected again"
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
    for name in ("d", "e", "f"):  # ingest has let them in, before it knew of those
        await nc.publish(streams.heartbeat(name), b"", headers=OVER_HTTP)

    async def registered() -> bool:
        return {event.subject for event in await events(js)} == {"a", "b", "d", "e"}

    await eventually(registered)
    await nc.close()


async def test_a_heartbeat_whose_service_was_found_by_a_key_registers_nothing(
    nats_url: str, start: Start
) -> None:
    """It counts for what the API has created just before it, and not for what is deleted or unknown."""
    start()
    nc, js = await connect(nats_url)
    publisher = Publisher(await provisioned(nats_url))
    await publisher.start()
    now = datetime.now(UTC)
    data = ConfigData(config=ServiceConfig(), registered_at=now)
    made = ServiceRegistered(id="made", source="/test", subject="made", time=now, data=data)
    await publisher.append(streams.config("made"), made.to_bytes(), after=0, event_id="made", kind=made.type)
    signals: tuple[dict[str, str], ...] = ({}, {"Registry-Signal": "fail"}, {"Registry-Signal": "log"})
    async with Ticks(js):
        for name in ("gone", "made"):
            for signal in signals:
                await nc.publish(streams.heartbeat(name), b"", headers=BY_KEY | signal)
        await nc.publish(streams.heartbeat("web"), b"", headers=OVER_HTTP)
        await eventually(lambda: has(js, "web", "alive"))
        await eventually(lambda: has(js, "made", "alive", "down"))
    assert {event.subject for event in await events(js)} == {"made", "web"}
    await publisher.stop()
    await nc.close()


# --- what beats declare


async def test_a_declared_interval_judges_and_is_recorded_once(nats_url: str, start: Start) -> None:
    """With two monitors, one after a kill, and one that reads everything again."""
    slow = {"silent_after": "10s", "down_after": "20s", "dead_after": "40s"}
    monitors = [start(**slow), start(**slow)]
    nc, js = await connect(nats_url)
    await provisioned(nats_url)
    every = b'{"every": "0.1s"}'

    async def overdue_transitions(beat: int) -> list[float]:
        """How long after it the first two came."""
        last = {"silent": 0.0, "down": 0.0}
        for change in await changes(js, "web"):
            last[change.data.to.value] = change.data.since.timestamp()
        at = await stored_at(js, beat)
        return [round(last[status] - at, 4) for status in ("silent", "down")]

    async def declared() -> list[ServiceUpdated]:
        return [event for event in await events(js) if isinstance(event, ServiceUpdated)]

    async with Ticks(js):
        await nc.publish("heartbeat.at-once", every)
        await nc.publish("heartbeat.web", b"")
        await eventually(lambda: has(js, "web", "alive"))
        beat = (await js.publish("heartbeat.web", every)).seq
        await eventually(lambda: has(js, "web", "alive", "silent", "down"))
        assert await overdue_transitions(beat) == [0.3, 1.1]
        (update,) = await declared()
        assert (update.subject, update.data.declared_at) == ("web", update.time)
        assert update.time.timestamp() == pytest.approx(await stored_at(js, beat), abs=1e-5)
        for monitor in monitors:
            monitor.kill()
        start(**slow)
        again = (await js.publish("heartbeat.web", every)).seq
        await eventually(lambda: began(js, "web", "alive", "silent", "down", "alive", "silent"))
        assert (await overdue_transitions(again))[0] == 0.3
        assert len(await declared()) == 1
    registered = {e.subject: e.data for e in await events(js) if isinstance(e, ServiceRegistered)}
    assert registered["at-once"].config.every == update.data.config.every
    assert registered["at-once"].declared_at == registered["at-once"].registered_at
    assert (await statuses(js, "at-once"))[:3] == ["alive", "silent", "down"]
    await nc.close()


async def test_configured_thresholds_win_over_a_declared_interval(nats_url: str, start: Start) -> None:
    start(down_after="1m", dead_after="2m")
    nc, js = await connect(nats_url)
    await provisioned(nats_url)
    event = config_event(ServiceRegistered, silent_after="0.5s")
    await js.publish(streams.config("web"), event.to_bytes())
    async with Ticks(js):
        await js.publish("heartbeat.web", b'{"every": "0.1s"}')
        await eventually(lambda: has(js, "web", "alive", "silent"))
        first, silent = await changes(js, "web")
        assert (silent.data.since - first.data.since).total_seconds() == pytest.approx(0.5)
    newest = (await js.get_last_msg(streams.SERVICES, streams.config("web"))).data or b""
    config = json.loads(newest)["data"]["config"]
    assert (config["silent_after"], config["every"]) == ("0.5s", "0.1s"), "both are kept"
    await nc.close()


async def test_other_defaults_make_nothing_fall_for_the_past(nats_url: str, start: Start) -> None:
    """Neither at the restart, nor where all is read again without a snapshot."""
    slow, quick = ({"silent_after": f"{n}s", "down_after": "60s", "dead_after": "90s"} for n in (30, 1))
    monitor = start(**slow)
    nc, js = await connect(nats_url)
    await provisioned(nats_url)
    async with Ticks(js):
        for _ in range(2):
            await js.publish("heartbeat.web", b"")
            await asyncio.sleep(1)  # longer than the new threshold
        await eventually(lambda: has(js, "web", "alive"))
        monitor.kill()
        await js.publish("heartbeat.web", b"")
        await put_back(js, "position", b"lost")
        start(**quick)
        await eventually(lambda: has(js, "web", "alive", "silent"))
    kept = json.loads(await saved(js, "epochs"))
    _, silent = await changes(js, "web")
    assert [defaults[0] for defaults in kept] == [30_000_000, 1_000_000]
    assert silent.data.since.timestamp() == pytest.approx(kept[1][3] / 1e6 + 1, abs=1e-5)
    await nc.close()


# --- runs


async def test_a_run_is_overdue_and_its_end_says_how_long_it_took(nats_url: str, start: Start) -> None:
    start(down_after="1m", dead_after="2m")
    nc, js = await connect(nats_url)
    await provisioned(nats_url)
    started = {"Registry-Signal": "start"}
    failed = {"Registry-Signal": "fail", "Registry-Exit-Code": "3"}
    async with Ticks(js):
        await nc.publish("heartbeat.job", b"", headers=started)
        await eventually(lambda: has(js, "job", "alive", "silent"))
        await nc.publish("heartbeat.job", b'{"message": "done"}')
        await eventually(lambda: has(js, "job", "alive", "silent", "alive"))
        ack = await js.publish("heartbeat.job", b"", headers=started)
        await nc.publish("heartbeat.job", b'{"message": "disk full"}', headers=failed)
        await eventually(lambda: has(js, "job", "alive", "silent", "alive", "down"))
    began, overdue, done, broke = [change.data for change in await changes(js, "job")]
    assert re.fullmatch(r"the run that began \d\d:\d\d has not ended within 1s", overdue.reason)
    assert (overdue.since - began.since).total_seconds() == pytest.approx(1)
    assert done.duration == pytest.approx((done.since - began.since).total_seconds())
    assert (done.reason, done.message) == ("heartbeat", "done")
    assert (broke.reason, broke.message) == ("reported failure (exit code 3)", "disk full")
    assert broke.duration == pytest.approx(broke.since.timestamp() - await stored_at(js, ack.seq), abs=1e-5)
    assert (began.duration, overdue.duration, overdue.message) == (None, None, None)
    await nc.close()


# --- doubt


async def test_a_stream_of_runs_that_is_removed_is_made_again_and_nothing_begins_anew(
    nats_url: str, start: Start
) -> None:
    nc, js = await connect(nats_url)
    monitor = start(silent_after="1m", down_after="2m", dead_after="4m")
    await provisioned(nats_url)
    async with Ticks(js):

        async def runs(n: int) -> bool:
            with suppress(NotFoundError):
                return (await js.stream_info(streams.RUNS)).state.messages == n
            return False

        async def run() -> None:
            await js.publish("heartbeat.job", b"", headers={"Registry-Signal": "start"})
            await js.publish("heartbeat.job", b"")

        await run()
        await eventually(lambda: runs(1))
        await run()
        await eventually(lambda: runs(2))
        await js.delete_stream(streams.RUNS)
        await run()
        await eventually(lambda: runs(1))
        await js.purge_stream(streams.RUNS)
        await run()
        await eventually(lambda: runs(1))
        await js.publish("heartbeat.job", b"", headers={"Registry-Signal": "fail"})
        await eventually(lambda: has(js, "job", "alive", "down"))
    assert "the record is another one" not in monitor.log.read_text()
    await nc.close()


async def test_when_most_stop_at_once_their_falls_say_that_the_registry_may_be_cut_off(
    nats_url: str, start: Start
) -> None:
    """Ten of twelve stop; one more stops alone, long after, and has less patience."""
    start(silent_after="8s", down_after="1m", dead_after="2m")
    nc, js = await connect(nats_url)
    await provisioned(nats_url)
    await js.publish(streams.config("web"), config_event(ServiceRegistered, silent_after="1s").to_bytes())
    together = [f"s{i}" for i in range(10)]
    async with Ticks(js), Beats(nc, ["other"], every=0.2):
        async with Beats(nc, ["web"], every=0.2):
            async with Beats(nc, together, every=0.2):
                await eventually(lambda: _count(js, 12))
                await asyncio.sleep(1.5)
            await asyncio.sleep(7.5)
        await eventually(lambda: has(js, "web", "alive", "silent"))
        await eventually(lambda: _count(js, 12 + 11))
    for name in together:
        _, silent = await changes(js, name)
        assert silent.data.doubt
        assert (silent.data.doubt.stopped, silent.data.doubt.of) == (10, 12)
        within = silent.data.doubt.within
        assert 1 <= within <= 3
        detector = f"10 of 12 services stopped within {within} s, the registry may be cut off"
        assert silent.data.reason == f"no heartbeat for 8s; {detector}"
    _, alone = await changes(js, "web")
    assert (alone.data.doubt, alone.data.reason) == (None, "no heartbeat for 1s")
    await nc.close()


# --- snapshots


async def saved(js: JetStreamContext, key: str) -> bytes:
    """A part of the monitor's snapshot; empty if there is none yet."""
    try:
        return (await (await js.key_value(streams.MONITOR_BUCKET)).get(key)).value or b""
    except (BucketNotFoundError, KeyNotFoundError):
        return b""


async def put_back(js: JetStreamContext, key: str, value: bytes) -> None:
    await (await js.key_value(streams.MONITOR_BUCKET)).put(key, value)


async def test_a_part_of_the_snapshot_that_a_monitor_behind_put_back_changes_nothing(
    nats_url: str, start: Start
) -> None:
    rules = {"silent_after": "2s", "down_after": "1m", "dead_after": "2m"}
    monitor = start(**rules)
    nc, js = await connect(nats_url)
    await provisioned(nats_url)

    bucket = f"bucket.{buckets.bucket_of('web')}"

    async def alive_in_snapshot(beat_after: int = 0) -> bytes:
        value = await saved(js, bucket)
        found = snapshot_codec.load(value, [Epoch(0, EffectiveThresholds(1, 2, 3))]).services if value else ()
        good = any(it.status is Status.ALIVE and it.last_beat > beat_after for it in found)
        return value if good else b""

    async with Ticks(js):
        async with Beats(nc, ["web"], every=0.2):
            old = await eventually(alive_in_snapshot)
            await nc.publish("heartbeat.web", b"", headers={"Registry-Signal": "fail"})
            await eventually(lambda: has(js, "web", "alive", "down", "alive"))
            back = mapping.micros((await changes(js, "web"))[-1].data.since)
            await eventually(lambda: alive_in_snapshot(beat_after=back + 1_500_000))
        monitor.kill()
        last = await js.get_last_msg(streams.HEARTBEATS, "heartbeat.web")
        await put_back(js, bucket, old)
        start(**rules)
        await eventually(lambda: has(js, "web", "alive", "down", "alive", "silent"))
        silent = (await changes(js, "web"))[-1].data
        assert last.time
        assert silent.since.timestamp() == pytest.approx(last.time.timestamp() + 2, abs=1e-5)
    await nc.close()


async def test_a_restart_reads_only_the_last_seconds_again(nats_url: str, start: Start) -> None:
    monitor = start(silent_after="10s", down_after="20s", dead_after="30s")
    nc, js = await connect(nats_url)
    await provisioned(nats_url)
    names = [f"s{i}" for i in range(20)]
    async with Ticks(js), Beats(nc, names, every=0.1):
        await eventually(lambda: _count(js, 20))
        await asyncio.sleep(3.5)
        monitor.kill()
        killed = (await js.stream_info(streams.HEARTBEATS)).state.last_seq
        again = start(silent_after="10s", down_after="20s", dead_after="30s")
        after = int(await eventually(lambda: _read_after(again)))
        assert await stored_at(js, killed) - await stored_at(js, after) < 2.5
        assert len(await changes(js)) == 20
    await nc.close()


async def _read_after(monitor: Process) -> str:
    """After which heartbeat it says that it reads."""
    said = re.search(r"watching .*\bafter=(\d+)", monitor.log.read_text())
    return said[1] if said else ""


async def test_a_snapshot_of_streams_that_are_gone_leaves_no_ghosts(nats_url: str, start: Start) -> None:
    """Not even when the new streams have grown past the old ones."""
    monitor = start()
    nc, js = await connect(nats_url)
    await provisioned(nats_url)
    async with Ticks(js):
        await nc.publish("heartbeat.old", b"")
        await eventually(lambda: saved(js, f"bucket.{buckets.bucket_of('old')}"))
        await eventually(lambda: saved(js, "position"))
    monitor.kill()
    ends = [
        (await js.stream_info(stream)).state.last_seq for stream in (streams.HEARTBEATS, streams.SERVICES)
    ]
    for stream in (streams.HEARTBEATS, streams.SERVICES):
        await js.delete_stream(stream)
    await provisioned(nats_url)
    monitor = start(silent_after="1m", down_after="2m", dead_after="3m")
    async with Ticks(js):
        for n in range(max(ends)):
            await nc.publish(f"heartbeat.new{n}", b"")
        await eventually(lambda: _is_saved_beyond(js, *ends))
        monitor.kill()
        again = start()
        assert int(await eventually(lambda: _read_after(again))) > 0
        await eventually(lambda: has(js, "new0", "alive", "silent", "down", "dead"))
        assert "service.status.old" not in await _names(js)
    await nc.close()


async def _is_saved_beyond(js: JetStreamContext, beats: int, events: int) -> bool:
    position = json.loads(await saved(js, "position") or b'{"reach": {"heartbeats": 0, "events": 0}}')
    return position["reach"]["heartbeats"] > beats and position["reach"]["events"] > events


@pytest.mark.parametrize("damage", [{"position": b'{"format": 1}'}, {"position": b"x"}, {"bucket": b"x"}])
async def test_a_snapshot_of_another_format_or_damaged_is_ignored_and_everything_read_again(
    damage: dict[str, bytes], nats_url: str, start: Start
) -> None:
    rules = {"silent_after": "0.6s", "down_after": "1m", "dead_after": "2m"}
    monitor = start(**rules)
    nc, js = await connect(nats_url)
    await provisioned(nats_url)
    async with Ticks(js):
        await nc.publish("heartbeat.web", b"")
        await eventually(lambda: has(js, "web", "alive", "silent"))
        await eventually(lambda: saved(js, "position"))
        monitor.kill()
        before = await events(js)
        for key, value in damage.items():
            await put_back(js, key if key == "position" else f"bucket.{buckets.bucket_of('web')}", value)
        again = start(**rules)
        assert await eventually(lambda: _read_after(again)) == "0"
        await nc.publish("heartbeat.web", b"")
        await eventually(lambda: has(js, "web", "alive", "silent", "alive", "silent"))
        assert (await events(js))[: len(before)] == before
    *_, back, silent = await changes(js, "web")
    assert (silent.data.since - back.data.since).total_seconds() == pytest.approx(0.6)
    await nc.close()
