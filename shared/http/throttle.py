"""Lets a few begin at a time, so that the loop is others' in between, however many come at once."""

import asyncio
from collections import deque

AT_ONCE = 8
"""In one turn of the loop: of what takes some milliseconds, if somebody has made it so."""


class Throttle:
    """`enter` before each piece of work that does not wait for anything."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._at_once = self._left = at_once
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """At once, unless so many have entered in this turn of the loop; then in the order they came."""
        loop = asyncio.get_running_loop()
        if self._left and not self._waiting:
            if self._left == self._at_once:
                loop.call_soon(self._next)
            self._left -= 1
            return
        waiter = loop.create_future()
        self._waiting.append(waiter)
        await waiter

    def _next(self) -> None:
        self._left = self._at_once
        while self._waiting and self._left:
            waiter = self._waiting.popleft()
            if not waiter.done():  # else who waited was cancelled
                waiter.set_result(None)
                self._left -= 1
        if self._left < self._at_once:
            asyncio.get_running_loop().call_soon(self._next)
