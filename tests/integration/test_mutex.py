"""Who is alone among all APIs, with a real broker."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.api import mutex
from services.api.mutex import Mutex
from shared.http.problems import Problem
from shared.messaging.connection import BrokerConnection
from shared.messaging.errors import NotStored
from shared.settings import Settings


@pytest.fixture
async def links(nats_url: str) -> AsyncIterator[list[BrokerConnection]]:
    found = [BrokerConnection(Settings(nats_url=nats_url), f"api-{n}") for n in range(3)]
    for link in found:
        await link.connect()
    yield found
    for link in found:
        await link.close()


async def test_one_has_it_and_all_get_it(links: list[BrokerConnection]) -> None:
    has_it, most, times = 0, 0, 0

    async def use(held: Mutex) -> None:
        nonlocal has_it, most, times
        for _ in range(10):
            async with held.held():
                has_it += 1
                most, times = max(most, has_it), times + 1
                await asyncio.sleep(0.002)
                has_it -= 1

    each_in_its_process = [Mutex(link, "x") for link in links]
    await asyncio.gather(*(use(held) for held in each_in_its_process for _ in range(3)))
    assert (most, times) == (1, 90)


async def test_a_dead_holder_is_followed(
    links: list[BrokerConnection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the lease, by whoever is first; a dead one that wakes up does not free what is another's."""
    monkeypatch.setattr(mutex, "LEASE", 0.5)
    paused, second, third = (Mutex(link, "x") for link in links)
    loop = asyncio.get_running_loop()
    began = loop.time()
    wake, order = asyncio.Event(), []

    async def follow(name: str, held: Mutex) -> None:
        async with held.held():
            order.append((name, loop.time() - began))
            wake.set()
            await asyncio.sleep(0.3)
            order.append((name, loop.time() - began))

    async with asyncio.TaskGroup() as group:
        async with paused.held():
            group.create_task(follow("second", second))
            group.create_task(follow("third", third))
            await wake.wait()
        assert loop.time() - began > 0.5
    first, last = order[0][0], order[2][0]
    assert [name for name, _ in order] == [first, first, last, last]
    assert first != last
    async with asyncio.timeout(0.4), paused.held():
        pass


async def test_nobody_waits_or_holds_it_for_ever(
    links: list[BrokerConnection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutex, "PATIENCE", 0.3)
    holder, other = Mutex(links[0], "x"), Mutex(links[1], "x")
    async with holder.held():
        for waits in (holder, other):
            with pytest.raises(Problem) as refused:
                async with waits.held():
                    pytest.fail("two have it")
            assert refused.value.status == 503
    monkeypatch.setattr(mutex, "HELD_AT_MOST", 0.1)
    with pytest.raises(NotStored):
        async with other.held():
            await asyncio.sleep(1)
    with pytest.raises(KeyError):
        async with holder.held():
            raise KeyError
    async with other.held():
        pass


async def test_what_this_process_left_behind_is_its_own(links: list[BrokerConnection]) -> None:
    """The broker's answer was lost, though it had stored that it was taken."""
    held = Mutex(links[0], "x")
    await held._take()
    held._here.release()
    async with asyncio.timeout(1), held.held():
        pass
