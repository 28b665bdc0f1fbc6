"""Events read with FastStream from a real broker: each once and in order, whatever becomes of either."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from faststream.nats.message import NatsBatchMessage
from nats.js.api import ConsumerInfo

from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.errors import NotStored
from shared.messaging.faststream_broker import EventSubscription, FastStreamBroker, ReceivedEvent
from shared.messaging.publisher import Publisher
from tests.broker import connect, eventually
from tests.integration.test_broker import link, publisher
from tests.servers import Process


class Applied:
    """What a subscription has applied, with what goes wrong on the way."""

    def __init__(self, link: BrokerConnection) -> None:
        self.subscription = EventSubscription(link, FastStreamBroker(link))
        self.seen: list[int] = []
        self.more = asyncio.Event()
        self.before: Callable[[list[ReceivedEvent]], Awaitable[None]] | None = None

    async def apply(self, received: list[ReceivedEvent]) -> None:
        if self.before:
            await self.before(received)
        self.seen += [it.stored.seq for it in received]
        self.more.set()

    async def reached(self, seq: int) -> None:
        while not await self.has(seq):
            self.more.clear()
            await self.more.wait()

    async def has(self, seq: int) -> bool:
        return bool(self.seen) and self.seen[-1] >= seq


@asynccontextmanager
async def running(applied: Applied, after: int = 0) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(applied.subscription.run(after, applied.apply))
    yield task
    task.cancel()
    await asyncio.wait({task})


async def put(publisher: Publisher, count: int, data: bytes = b"{}") -> int:
    """Store so many messages. The sequence of the last."""
    acks = await asyncio.gather(*(publisher.publish(streams.status(f"s{n}"), data) for n in range(count)))
    return max(ack.seq for ack in acks)


async def consumers(link: BrokerConnection) -> list[ConsumerInfo]:
    return await link.js.consumers_info(streams.SERVICES)


async def test_everything_comes_once_and_in_order_though_the_broker_is_killed(
    nats: Process, link: BrokerConnection, publisher: Publisher
) -> None:
    applied, stored = Applied(link), []
    async with running(applied):
        for count in range(300):
            if count in (100, 200):
                await asyncio.to_thread(nats.kill)
                await asyncio.to_thread(nats.start)
            try:
                stored.append((await publisher.publish(streams.status(f"s{count}"))).seq)
            except NotStored:
                await asyncio.sleep(0.1)
        await eventually(lambda: applied.has(stored[-1]), within=15)
    assert applied.seen == sorted(set(applied.seen))
    assert set(stored) <= set(applied.seen)


async def test_it_begins_after_a_sequence_and_acknowledges_all_that_it_applied(
    link: BrokerConnection, publisher: Publisher
) -> None:
    last = await put(publisher, 50)
    applied = Applied(link)
    async with running(applied, after=20):
        await eventually(lambda: applied.has(last))
        assert applied.seen == [*range(21, 51)]
        await eventually(lambda: _acknowledged(link))
    assert await consumers(link) == [], "it lets go of its consumer"


async def _acknowledged(link: BrokerConnection) -> bool:
    return [it.num_ack_pending for it in await consumers(link)] == [0]


async def test_a_lone_event_comes_at_once(link: BrokerConnection, publisher: Publisher) -> None:
    """FastStream's own batches wait until they are full or their time is up."""
    applied = Applied(link)
    async with running(applied):
        await eventually(lambda: consumers(link))
        took = []
        for _ in range(5):
            began = time.monotonic()
            last = await put(publisher, 1)
            async with asyncio.timeout(10):
                await applied.reached(last)
            took.append(time.monotonic() - began)
    assert min(took) < 0.2


async def test_a_consumer_that_is_gone_is_replaced(link: BrokerConnection, publisher: Publisher) -> None:
    applied = Applied(link)
    async with running(applied):
        await eventually(lambda: applied.has(1) if applied.seen else put(publisher, 1))
        for _ in range(2):
            [consumer] = await consumers(link)
            await link.js.delete_consumer(streams.SERVICES, consumer.name)
            last = await put(publisher, 3)
            await eventually(lambda last=last: applied.has(last))  # type: ignore[misc]
    assert applied.seen == [*range(1, last + 1)]


async def test_events_that_are_lost_on_their_way_are_noticed_and_come_before_later_ones(
    nats_url: str, link: BrokerConnection, publisher: Publisher
) -> None:
    """Here another takes a few of them from the consumer."""
    applied = Applied(link)
    client, _ = await connect(nats_url)
    async with running(applied):
        await eventually(lambda: consumers(link))
        [consumer] = await consumers(link)
        inbox = client.new_inbox()
        thief = await client.subscribe(inbox)
        held = asyncio.Event()

        async def hold(_: list[ReceivedEvent]) -> None:
            await held.wait()

        applied.before = hold
        await put(publisher, 1)
        await eventually(lambda: _delivered(link, 1))
        await put(publisher, 5)
        ask = json.dumps({"batch": 3, "no_wait": True}).encode()
        await client.publish(f"$JS.API.CONSUMER.MSG.NEXT.SERVICES.{consumer.name}", ask, inbox)
        assert [(await thief.next_msg(5)).subject for _ in range(3)]
        held.set()
        await eventually(lambda: applied.has(6))
    assert applied.seen == [1, 2, 3, 4, 5, 6]
    await client.close()


async def _delivered(link: BrokerConnection, count: int) -> bool:
    [consumer] = await consumers(link)
    assert consumer.delivered
    return consumer.delivered.consumer_seq >= count


async def test_what_is_delivered_again_is_applied_once(
    link: BrokerConnection, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied, acknowledge = Applied(link), NatsBatchMessage.ack
    applied.subscription._config.ack_wait = 0.3

    async def lost(_: NatsBatchMessage) -> None: ...

    monkeypatch.setattr(NatsBatchMessage, "ack", lost)
    async with running(applied):
        await put(publisher, 3)
        await eventually(lambda: _delivered(link, 6))
        monkeypatch.setattr(NatsBatchMessage, "ack", acknowledge)
        await eventually(lambda: _acknowledged(link))
        await put(publisher, 3)
        await eventually(lambda: applied.has(6))
    assert applied.seen == [1, 2, 3, 4, 5, 6]


async def test_what_could_not_be_applied_comes_again_and_nothing_before_it(
    link: BrokerConnection, publisher: Publisher
) -> None:
    await put(publisher, 5)
    applied, fails = Applied(link), True

    async def fail(received: list[ReceivedEvent]) -> None:
        if fails and received[-1].stored.seq >= 3:
            raise RuntimeError("no room")

    applied.before = fail
    task = asyncio.create_task(applied.subscription.run(0, applied.apply))
    await put(publisher, 5)
    with pytest.raises(RuntimeError, match="no room"):
        await asyncio.wait_for(task, 10)
    fails = False
    async with running(applied, after=applied.subscription.position):
        await eventually(lambda: applied.has(10))
    assert applied.seen == [*range(1, 11)]


async def test_one_that_cannot_be_read_costs_the_others_nothing(
    link: BrokerConnection, publisher: Publisher
) -> None:
    received: list[ReceivedEvent] = []

    async def note(batch: list[ReceivedEvent]) -> None:
        received.extend(batch)

    applied = Applied(link)
    applied.before = note
    good = b'{"specversion":"1.0","id":"1","source":"/t","type":"service.deleted.v1","subject":"web",'
    good += b'"time":"2026-11-27T18:00:00Z","data":{}}'
    for subject, data in (
        (streams.config("web"), good),
        (streams.config("web"), b"["),
        (streams.config("web"), b"[" * 100_000),
        (streams.config("other"), good),
        (streams.config("web"), good),
    ):
        await publisher.publish(subject, data)
    async with running(applied):
        await eventually(lambda: applied.has(5))
    assert [it.event is not None for it in received] == [True, False, False, False, True]
    assert "has no place there" in received[3].problem
