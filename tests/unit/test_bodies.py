"""The room for bodies that are on their way: strangers leave half of it to who is known."""

import asyncio
import time
from typing import Any

import pytest
from starlette.requests import Request

from shared.http import bodies
from shared.http.bodies import ALL_MAX, OF_ADDRESS_MAX, OF_STRANGERS_MAX
from shared.http.problems import Problem

MIB = 1024 * 1024


class Sender:
    """Sends a part of a body, and the rest when it is told to."""

    def __init__(self, client: str | None, *, known: bool = False) -> None:
        self.rest = asyncio.Event()
        self._parts = [b"x" * (MIB - 1), b"x"]
        scope: dict[str, Any] = {"type": "http", "headers": [], "client": (client, 0) if client else None}
        self.task = asyncio.create_task(bodies.read(Request(scope | {"known": known}, self._receive)))

    async def _receive(self) -> dict[str, Any]:
        part = self._parts.pop(0)
        if not self._parts:
            await self.rest.wait()
        return {"type": "http.request", "body": part, "more_body": bool(self._parts)}


async def send(count: int, client: str | None, *, known: bool = False) -> list[Sender]:
    senders = [Sender(client, known=known) for _ in range(count)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return senders


def status(sender: Sender) -> int | None:
    """What it was refused with, if it was."""
    error = sender.task.exception() if sender.task.done() else None
    return error.status if isinstance(error, Problem) else None


async def test_a_stranger_fills_its_own_share_strangers_theirs_and_who_is_known_has_the_rest() -> None:
    share = OF_ADDRESS_MAX // MIB
    one = await send(share + 2, "198.51.100.1")
    assert {status(it) for it in one[: share - 1]} == {None}
    assert status(one[-1]) == 429
    others = [it for n in range(2, 5) for it in await send(share, f"198.51.100.{n}")]
    assert {status(it) for it in others} == {None, 429}
    assert bodies._on_their_way[bodies._STRANGERS] <= OF_STRANGERS_MAX
    known = await send((ALL_MAX - OF_STRANGERS_MAX) // MIB - 1, "198.51.100.1", known=True)
    assert {status(it) for it in known} == {None}
    for it in one + others + known:
        it.rest.set()
    await asyncio.gather(*(it.task for it in one + others + known), return_exceptions=True)
    assert all(len(it.task.result()) == MIB for it in known)
    assert bodies._on_their_way[bodies._STRANGERS] == 0
    assert +bodies._on_their_way == {}


@pytest.mark.parametrize("client", [None, "198.51.100.1"])
async def test_all_together_are_bounded_as_well(client: str | None) -> None:
    senders = await send(ALL_MAX // MIB + 2, client, known=True)
    assert status(senders[-1]) == 503
    for it in senders:
        it.rest.set()
    await asyncio.gather(*(it.task for it in senders), return_exceptions=True)
    assert +bodies._on_their_way == {}


async def test_what_takes_long_to_parse_keeps_nobody_waiting_and_its_room_until_then() -> None:
    before = asyncio.get_running_loop().time()
    longest = 0.0

    def parse(raw: bytes) -> int:
        time.sleep(0.1)
        return len(raw)

    def request(address: str) -> Request:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"x" * MIB, "more_body": False}

        return Request({"type": "http", "headers": [], "client": (address, 0)}, receive)

    tasks = [asyncio.create_task(bodies.parsed(parse, request(f"198.51.100.{n}"))) for n in range(5)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert bodies._on_their_way[bodies._STRANGERS] == 5 * MIB
    while not all(it.done() for it in tasks):
        await asyncio.sleep(0.01)
        now = asyncio.get_running_loop().time()
        longest, before = max(longest, now - before), now
    assert [it.result() for it in tasks] == [MIB] * 5
    assert longest < 0.3
    assert bodies._on_their_way[bodies._STRANGERS] == 0
