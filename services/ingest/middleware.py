"""What requests pass before they reach a route."""

import asyncio
from collections import deque

from starlette.types import ASGIApp, Receive, Scope, Send

from services.ingest.content import tidy

AT_ONCE = 8
"""In one turn of the event loop: a request that is made to be slow takes some milliseconds."""


class Throttle:
    """Lets a few begin at a time, so that other work goes in between, however many come at once. `enter`
    before each piece of work that does not wait for anything."""

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


class Throttled:
    """So many requests that come at once are not begun at once: ticks and plain heartbeats go in between.
    Known clients do not wait for strangers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._strangers, self._known = Throttle(), Throttle()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stranger = scope["type"] == "http" and scope["client"] and not scope.get("known")
        await (self._strangers if stranger else self._known).enter()
        await self._app(scope, receive, send)


class TidyAddress:
    """Lets a slash or a blank too many pass."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (path := tidy(scope["path"])).startswith("/heartbeat"):
            scope = {**scope, "path": path}
        await self._app(scope, receive, send)
