"""What notifiers and APIs keep in a real broker, and read out of it, without their processes."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from services.api.projections.projector import Projector
from services.api.projections.store import ReadRecord, Store, View
from services.api.queries import history
from services.api.queries.event_hub import EventHub
from services.ingest.admission import KnownNames
from services.notifier import lease as leases
from services.notifier.dispatch.receivers import MAX_SUBSCRIBERS, SUBSCRIBERS_KEY, Subscribers
from services.notifier.lease import Lease
from shared.contracts.events import (
    ConfigData,
    ServiceConfig,
    ServiceRegistered,
    Status,
    StatusData,
    status_changed,
)
from shared.http.server import Health
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.kv_record import Superseded
from shared.messaging.record_watch import StreamMark
from tests.broker import eventually, provisioned

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
async def link(nats_url: str) -> AsyncIterator[BrokerConnection]:
    link = await provisioned(nats_url)
    yield link
    await link.close()


async def test_subscribers_who_come_at_once_are_all_there_after_a_restart(link: BrokerConnection) -> None:
    bucket = await link.bucket(streams.NOTIFIER_BUCKET)
    subscribers = Subscribers(bucket)
    await subscribers.load()
    assert await asyncio.gather(*(subscribers.add(str(n), NOW) for n in range(20))) == [True] * 20
    await asyncio.gather(subscribers.remove("3"), subscribers.add("4", NOW + timedelta(1)))
    again = Subscribers(bucket)
    await again.load()
    assert again.since == subscribers.since
    assert again.since.keys() == {str(n) for n in range(20)} - {"3"}
    assert again.since["4"] == NOW + timedelta(1)


async def test_there_are_only_so_many_subscribers_and_one_who_writes(link: BrokerConnection) -> None:
    bucket = await link.bucket(streams.NOTIFIER_BUCKET)
    subscribers = Subscribers(bucket)
    await subscribers.load()
    subscribers.since = {str(n): NOW for n in range(MAX_SUBSCRIBERS)}
    assert await subscribers.add("7", NOW), "who is one already"
    assert not await subscribers.add("new", NOW)
    await bucket.put(SUBSCRIBERS_KEY, b"{}")
    with pytest.raises(Superseded):
        await subscribers.remove("7")


async def test_one_holds_the_lease_and_the_next_takes_it_when_it_is_let_go(
    link: BrokerConnection, nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "POLL_INTERVAL", 0.05)
    other = await provisioned(nats_url)
    bucket, waits = await link.bucket(streams.NOTIFIER_BUCKET), asyncio.Event()
    first, second = Lease(link, bucket), Lease(other, await other.bucket(streams.NOTIFIER_BUCKET))
    await asyncio.wait_for(first.acquire(lambda: None), 5)
    waiting = asyncio.create_task(second.acquire(waits.set))
    await asyncio.wait_for(waits.wait(), 5)
    assert not waiting.done()
    await first.release()
    await asyncio.wait_for(waiting, 5)
    with pytest.raises(Superseded):
        await asyncio.wait_for(first.watch(), 5)
    third = asyncio.create_task(first.acquire(lambda: None))
    await other.close()  # as if it were killed: the broker knows that nobody answers
    await asyncio.wait_for(third, 5)


async def test_names_of_a_record_that_is_gone_take_no_place_in_the_next(link: BrokerConnection) -> None:
    names = KnownNames(2)
    names.registered("registered")
    assert names.admit("let.in")
    assert not names.admit("new")
    following = asyncio.create_task(names.follow(link))

    async def there_is_room() -> bool:
        return names.admit("new")

    await eventually(there_is_room)
    assert "registered" not in names
    following.cancel()


async def test_the_streams_tell_the_last_heartbeats_and_what_a_service_was(link: BrokerConnection) -> None:
    config = ConfigData(config=ServiceConfig(tags=("db",)), registered_at=NOW)
    event = ServiceRegistered(id="1", source="/test", subject="web", time=NOW, data=config)
    await link.js.publish(streams.config("web"), event.to_bytes())
    for signal, body in (("start", b""), ("success", b'{"message": "done"}'), ("fail", b"disk full")):
        await link.js.publish(streams.heartbeat("web"), body, headers={"Registry-Signal": signal})
    between = datetime.now(UTC)
    fell = StatusData(
        from_=Status.ALIVE,
        to=Status.DOWN,
        since=between + timedelta(hours=1),
        last_heartbeat=between,
        reason="x",
    )
    await link.js.publish(streams.status("web"), status_changed("web", fell).to_bytes())
    found = await history.heartbeats(link, "web", 0, 2)
    assert [(it.signal, it.message) for it in found] == [("fail", "disk full"), ("success", "done")]
    assert found[1].duration is not None
    assert await history.heartbeats(link, "other", 0, 9) == []
    assert await history.as_of(link, "web", between - timedelta(hours=1)) is None, "not registered yet"
    then = await history.as_of(link, "web", between)
    assert then
    assert then.status_seq == 0, "the fall is later"
    assert then.heartbeat_signal == "fail"
    later = await history.as_of(link, "web", between + timedelta(hours=2))
    assert later
    assert later.status == "down"


async def test_an_api_that_starts_learns_what_another_takes_in_meanwhile(
    link: BrokerConnection, mongo_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads on where it stands itself, not where the read models do that both write."""
    stores, hubs = [Store(mongo_url, "registry") for _ in range(2)], [EventHub(), EventHub()]
    projectors = [
        Projector(link, store, hub, Health("database", "projection"), lambda: datetime.now(UTC))
        for store, hub in zip(stores, hubs, strict=True)
    ]
    fill = projectors[1]._fill

    async def register(name: str) -> None:
        data = ConfigData(config=ServiceConfig(), registered_at=NOW)
        event = ServiceRegistered(id=name, source="/test", subject=name, time=NOW, data=data)
        await link.js.publish(streams.config(name), event.to_bytes())

    async def knows(n: int, name: str) -> bool:
        return hubs[n].index.knows(name)

    async def filled(view: View) -> None:
        await fill(view)
        await register("meanwhile")
        await eventually(lambda: is_written(view))

    async def is_written(view: View) -> bool:
        return await view.checkpoint(streams.SERVICES) == 2

    monkeypatch.setattr(projectors[1], "_fill", filled)
    await register("before")
    running = [asyncio.create_task(projectors[0].run())]
    await eventually(lambda: knows(0, "before"))
    running.append(asyncio.create_task(projectors[1].run()))
    await eventually(lambda: knows(1, "before"))
    await eventually(lambda: knows(1, "meanwhile"))
    for task, store in zip(running, stores, strict=True):
        task.cancel()
        store.close()


async def test_read_models_at_whose_position_another_message_stands_are_of_another_record(
    link: BrokerConnection, mongo_url: str
) -> None:
    """As where an older copy of the streams was put back and went on while the API was off."""
    config = ConfigData(config=ServiceConfig(), registered_at=NOW)
    event = ServiceRegistered(id="1", source="/test", subject="web", time=NOW, data=config)
    await link.js.publish(streams.config("web"), event.to_bytes())
    await link.js.publish(streams.heartbeat("web"))
    store, health = Store(mongo_url, "registry"), Health("database", "projection")
    projector = Projector(link, store, EventHub(), health, lambda: datetime.now(UTC))
    running = asyncio.create_task(projector.run())

    async def caught_up() -> bool:
        return not health.missing

    await eventually(caught_up)
    running.cancel()
    view = store.live
    for stream in (streams.SERVICES, streams.HEARTBEATS):
        assert await projector._left_another_record(view) is None
        position = await view.position(stream)
        assert (position.seq, position.at > 0) == (1, True)
        await view.save_checkpoint(stream, 1, position.at + 1)
        await view.save_record(*_of_before(await view.record()))
        assert await projector._left_another_record(view)
        await view.save_checkpoint(stream, 1, position.at)
    store.close()


def _of_before(known: ReadRecord) -> tuple[str, dict[str, StreamMark]]:
    """As it was noted some messages before."""
    return known.made, {name: replace(mark, last=0, at=0, messages=0) for name, mark in known.marks.items()}
