"""Whether heartbeats are taken, as far as it is ingest's own fault or the broker's if they are not."""

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.ingest.content import tidy
from shared.contracts.events import LATE

HEARTBEATS = "/heartbeat"


class Availability:
    """Gathers what was refused, for the ticks: they prove no time in which something was.

    What a client does wrong, or too often, is none of it: a stranger could keep everybody from being judged.
    """

    def __init__(self, longest_wait: Callable[[], float]) -> None:
        """`longest_wait`: seconds that heartbeats waited for the broker, at most, since it was asked."""
        self._longest_wait = longest_wait
        self._refused = ""
        self._shut = ""

    def refused(self, why: str) -> None:
        """A heartbeat, or a connection that may have brought one, was refused by our own fault."""
        self._refused = self._refused or why

    def shut(self, why: str) -> None:
        """Nothing more is taken."""
        self._shut = why

    def obstacle(self) -> str:
        """Why not all heartbeats were taken since this was asked last; empty if they were."""
        refused, self._refused = self._refused, ""
        waited = self._longest_wait()
        if waited > LATE / 1e6:
            refused = refused or f"heartbeats have waited for the broker for {waited:.1f} s"
        return self._shut or refused

    def watched(self, app: ASGIApp) -> ASGIApp:
        """The same app; what it answers to a heartbeat with 500 or more is refused by our own fault."""

        async def watching(scope: Scope, receive: Receive, send: Send) -> None:
            async def sent(message: Message) -> None:
                if message["type"] == "http.response.start" and message["status"] >= 500:
                    self.refused(f"a heartbeat was answered with {message['status']}")
                await send(message)

            heartbeat = scope["type"] == "http" and tidy(scope["path"]).startswith(HEARTBEATS)
            await app(scope, receive, sent if heartbeat else send)

        return watching
