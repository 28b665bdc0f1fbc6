"""What a batch of events is held against before it is applied."""

from types import SimpleNamespace
from typing import Any

from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.faststream_broker import EventSubscription, FastStreamBroker, ReceivedEvent
from shared.settings import Settings


class Batches:
    """Given to the handler as FastStream would."""

    def __init__(self) -> None:
        link = BrokerConnection(Settings(), "test")
        self.subscription = EventSubscription(link, FastStreamBroker(link))
        self.subscription._apply = self._apply
        self.applied: list[int] = []
        self.acknowledged: list[int] = []
        self.fails = False

    async def _apply(self, received: list[ReceivedEvent]) -> None:
        if self.fails:
            raise RuntimeError("no room")
        self.applied += [it.stored.seq for it in received]

    async def deliver(self, *places: tuple[int, int]) -> None:
        """Messages by sequence and by the broker's count of them."""

        async def ack() -> None:
            self.acknowledged.extend(seq for seq, _ in places)

        raw = [
            SimpleNamespace(
                reply=f"$JS.ACK.SERVICES.c.1.{seq}.{count}.1795754804038901969.0",
                subject=streams.status("web"),
                data=b"",
                headers=None,
            )
            for seq, count in places
        ]
        unread: Any = [ValueError("not JSON")] * len(raw)
        message: Any = SimpleNamespace(raw_message=raw, ack=ack)
        await self.subscription._on_events(unread, message)

    @property
    def begins_anew(self) -> bool:
        return self.subscription._wake.is_set()


async def test_sequences_may_have_holes_and_the_count_may_not() -> None:
    batches = Batches()
    await batches.deliver((3, 1), (7, 2))
    assert not batches.begins_anew
    await batches.deliver((9, 4))
    assert batches.begins_anew
    assert batches.applied == batches.acknowledged == [3, 7]


async def test_what_was_applied_is_acknowledged_again_and_not_applied() -> None:
    batches = Batches()
    await batches.deliver((1, 1), (2, 2))
    await batches.deliver((1, 3), (2, 4), (3, 5))
    assert batches.applied == [1, 2, 3]
    assert batches.acknowledged == [1, 2, 1, 2, 3]
    assert not batches.begins_anew


async def test_nothing_is_applied_behind_what_failed() -> None:
    batches = Batches()
    await batches.deliver((1, 1))
    batches.fails = True
    await batches.deliver((2, 2))
    batches.fails = False
    await batches.deliver((3, 3))
    assert batches.begins_anew
    assert batches.applied == batches.acknowledged == [1]
    assert batches.subscription.position == 1
