"""What marked services in the last 90 days: with a real database, and how often it is asked."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from pymongo import monitoring

from services.api.projections.documents import Projection
from services.api.projections.store import Store
from services.api.queries import past
from services.api.queries.event_hub import DAY, EventHub
from services.api.queries.past import CachedFor, StatusHistory
from shared.contracts.events import Status, micros
from tests.histories import projected, status_event

NOW = datetime(2026, 11, 27, tzinfo=UTC)
TODAY = micros(NOW)
NAMES = [f"s{n}" for n in range(150)]


class Finds(monitoring.CommandListener):
    """Counts what is asked of the histories."""

    count = 0

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.count += str(event.command.get("find", "")).startswith("events_")

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...

    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...


@pytest.fixture
def finds() -> Iterator[Finds]:
    listener = Finds()
    monitoring.register(listener)
    yield listener
    monitoring._LISTENERS.command_listeners.remove(listener)


@pytest.fixture
async def store(finds: Finds, mongo_url: str) -> AsyncIterator[Store]:
    store = Store(mongo_url, "registry")
    await store.open()
    yield store
    store.close()


def fall(seq: int, name: str, days: float) -> Projection:
    at = TODAY - int(days * DAY)
    return projected(status_event(name, Status.ALIVE, Status.DOWN, at, at), seq, at)


def seqs(marks: dict[str, Any]) -> dict[str, list[int]]:
    return {name: sorted(mark.seq for mark in its) for name, its in marks.items()}


async def test_a_page_of_150_costs_one_query_and_the_next_none(store: Store, finds: Finds) -> None:
    hub = EventHub()
    kept = StatusHistory(store, hub, lambda: NOW)
    changes = [fall(1 + n, name, 80 - n / 10) for n, name in enumerate(NAMES)]
    changes += [fall(200, "s3", 91), fall(201, "s3", 50)]
    await store.live.apply(changes)
    hub.published_through = 201
    pages = await asyncio.gather(*(kept.marks(NAMES) for _ in range(20)))
    assert finds.count == 1, "whoever asks at the same time waits for the same"
    assert seqs(pages[0])["s3"] == [4, 201], "what is older than 90 days is left out"
    assert all(page == pages[0] for page in pages)

    # What happens from then on is known without asking, also when the database has had it earlier.
    newer = [fall(202, "s3", 0.01), fall(203, "s4", 0.01)]
    await store.live.apply(newer)
    hub.publish(newer)
    assert seqs(await kept.marks(NAMES)) == seqs(pages[0]) | {"s3": [4, 201, 202], "s4": [5, 203]}
    assert finds.count == 1
    await store.live.apply([ahead := fall(204, "s5", 0.001)])
    again = StatusHistory(store, hub, lambda: NOW)
    for _ in range(2):
        assert seqs(await again.marks(["s5"])) == {"s5": [6, 204]}
        hub.publish([ahead])
    assert finds.count == 2


async def test_what_the_board_forgot_is_read_again(
    store: Store, finds: Finds, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = EventHub()
    kept = StatusHistory(store, hub, lambda: NOW)
    await kept.marks(["a", "b"])
    changes = [fall(1, "a", 2), fall(2, "b", 0.5)]
    await store.live.apply(changes)
    hub.publish(changes)
    assert seqs(await kept.marks(["a", "b"])) == {"a": [1], "b": [2]}
    assert finds.count == 2, "the first is no longer in memory"

    view = await store.begin()
    await store.go_live(view)
    await kept.marks(["a"])
    assert finds.count == 3, "another generation is another past"
    monkeypatch.setattr(past, "MAX_MARKS", 10)
    await view.apply([fall(10 + n, f"s{n}", 1) for n in range(20)])
    await kept.marks([f"s{n}" for n in range(20)])
    assert sum(len(it.marks) for it in kept._kept.values()) <= 10
    assert past.LONGEST.days == 90


async def test_what_is_fresh_is_made_once_for_all() -> None:
    made, fresh, broken = 0, CachedFor[int](0.2), CachedFor[int](60)

    async def make() -> int:
        nonlocal made
        made += 1
        await asyncio.sleep(0.01)
        return made

    async def fail() -> int:
        await make()
        raise OSError

    assert await asyncio.gather(*(fresh.get(make) for _ in range(50))) == [1] * 50
    assert await fresh.get(make) == 1
    await asyncio.sleep(0.25)
    assert await fresh.get(make) == 2
    failed = await asyncio.gather(*(broken.get(fail) for _ in range(5)), return_exceptions=True)
    assert [type(it) for it in failed] == [OSError] * 5
    assert made == 3
    assert await broken.get(make) == 4, "what failed is tried again at once"
