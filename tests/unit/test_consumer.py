"""What goes wrong with an event is tried again from there on; no receiver misses one, or gets it twice."""

import asyncio
from typing import Any
from unittest.mock import patch

import pytest

from services.notifier import consumer as consumers
from services.notifier.alerting.policy import Reminders
from services.notifier.consumer import EventConsumer, EventLog
from services.notifier.dispatch.sources.changes import PendingChanges
from services.notifier.states import ServiceStates
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.faststream_broker import EventSubscription, ReceivedEvent
from shared.messaging.reader import Stored
from shared.settings import Settings
from tests.notified import NOW


def received(count: int) -> list[ReceivedEvent]:
    at = int(NOW.timestamp() * 1e6)
    return [
        ReceivedEvent(Stored(streams.status("web"), b"[", None, seq, at, 0), None, "not JSON")
        for seq in range(1, count + 1)
    ]


async def test_a_failure_ends_nothing_and_skips_nothing() -> None:
    link, states, begun = BrokerConnection(Settings(), "test"), ServiceStates(), list[int]()
    consumer = EventConsumer(EventLog(link, states), (), Reminders(states, ()))
    first, second, fails = PendingChanges(0), PendingChanges(0), 2
    got: list[tuple[str, int]] = []

    def enqueue_first(seq: int, change: Any) -> None:
        if seq > first.tail:
            got.append(("first", seq))
        first.enqueue(seq, change)

    def enqueue_second(seq: int, change: Any) -> None:
        nonlocal fails
        if seq == 3 and fails:
            fails -= 1
            raise RuntimeError("no room")
        got.append(("second", seq))
        second.enqueue(seq, change)

    async def run(_: EventSubscription, after: int, apply: Any) -> None:
        begun.append(after)
        await apply(received(5)[after:])
        await asyncio.Event().wait()

    consumer.subscribers += [enqueue_first, enqueue_second]
    consumer.position = 0
    with patch.object(EventSubscription, "run", run), patch.object(consumers, "RETRY_INTERVAL", 0.01):
        reading = asyncio.create_task(consumer._read())
        async with asyncio.timeout(5):
            while consumer.position < 5:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        reading.cancel()
        await asyncio.wait({reading})
    assert begun == [0, 2, 2]
    assert [seq for who, seq in got if who == "first"] == [1, 2, 3, 4, 5]
    assert [seq for who, seq in got if who == "second"] == [1, 2, 3, 4, 5]


async def test_a_read_that_stands_still_ends_the_process() -> None:
    link, states = BrokerConnection(Settings(), "test"), ServiceStates()
    consumer = EventConsumer(EventLog(link, states), (), Reminders(states, ()))

    async def end(_: BrokerConnection) -> tuple[int, int]:
        return 7, 0

    consumer.position = 6
    with (
        patch.object(BrokerConnection, "up", True),
        patch.object(consumers, "newest_event", end),
        patch.object(consumers, "STALL_TIMEOUT", 0.01),
        pytest.raises(consumers.ConsumerFailed, match="after 6"),
    ):
        await asyncio.wait_for(consumer._notice_stall(), 5)
