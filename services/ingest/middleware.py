"""What requests pass before they reach a route, and whether every heartbeat could be taken."""

import asyncio
from collections import deque
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.ingest.content import tidy
from shared.contracts.events import LATE

_HEARTBEATS = ("/heartbeat", "/ping", "/api/")
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


class Availability:
    """Remembers that a heartbeat was refused, for the ticks: a tick proves that all heartbeats since the one
    before could be stored, and no service that missed one is blamed for other times.

    What a client does wrong, or too often, does not count: a stranger could stop all evaluation with it.
    """

    def __init__(self, longest_wait: Callable[[], float]) -> None:
        """`longest_wait`: seconds that heartbeats waited for the broker, at most, since it was asked."""
        self._longest_wait = longest_wait
        self._refused = ""
        self._shut = ""

    def refused(self, why: str) -> None:
        """A heartbeat, or a connection that may have brought one, was refused, and the fault is ours."""
        self._refused = self._refused or why

    def shut(self, why: str) -> None:
        """From now on every heartbeat is refused."""
        self._shut = why

    def obstacle(self) -> str:
        """Why not all heartbeats were taken since this was asked last; empty if they were."""
        refused, self._refused = self._refused, ""
        waited = self._longest_wait()
        if waited > LATE / 1e6:
            refused = refused or f"heartbeats have waited for the broker for {waited:.1f} s"
        return self._shut or refused

    def watched(self, app: ASGIApp) -> ASGIApp:
        """The same app; an answer of 500 or more to a heartbeat counts as refused, and a slash or a blank too
        many in its address is let pass."""

        async def watching(scope: Scope, receive: Receive, send: Send) -> None:
            async def sent(message: Message) -> None:
                if message["type"] == "http.response.start" and message["status"] >= 500:
                    self.refused(f"a heartbeat was answered with {message['status']}")
                await send(message)

            if scope["type"] == "http" and (path := tidy(scope["path"])).startswith(_HEARTBEATS):
                await app({**scope, "path": path}, receive, sent)
            else:
                await app(scope, receive, send)

        return watching
