"""How many may begin in one turn of the loop."""

import asyncio
from typing import Any

from services.ingest.middleware import AT_ONCE, Throttle, Throttled


async def test_so_many_begin_in_a_turn_of_the_loop_in_the_order_they_came() -> None:
    throttle, begun = Throttle(3), list[int]()

    async def work(n: int) -> None:
        await throttle.enter()
        begun.append(n)

    tasks = [asyncio.create_task(work(n)) for n in range(20)]
    tasks[7].cancel()
    most, before = 0, 0
    while not all(it.done() for it in tasks):
        await asyncio.sleep(0)
        most, before = max(most, len(begun) - before), len(begun)
    assert most == 3
    assert begun == [n for n in range(20) if n != 7]


async def test_who_comes_alone_does_not_wait() -> None:
    throttle = Throttle(1)
    for _ in range(3):
        taking = throttle.enter()
        try:
            taking.send(None)
        except StopIteration:
            await asyncio.sleep(0)
        else:
            raise AssertionError("it waits")


async def test_who_is_known_does_not_wait_for_strangers() -> None:
    begun: list[Any] = []

    async def app(scope: Any, *_: Any) -> None:
        begun.append(scope["client"])

    async def nothing(*_: Any) -> Any: ...

    in_turn = Throttled(app)
    scopes = [{"type": "http", "client": (str(n), 0)} for n in range(3 * AT_ONCE)]
    scopes.append({"type": "http", "client": ("known", 0), "known": True})
    scopes.append({"type": "http", "client": None})
    tasks = [asyncio.create_task(in_turn(scope, nothing, nothing)) for scope in scopes]
    await asyncio.sleep(0)
    assert begun == [(str(n), 0) for n in range(AT_ONCE)] + [("known", 0), None]
    await asyncio.gather(*tasks)
    assert len(begun) == len(scopes)
