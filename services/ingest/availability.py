"""Whether ingest could take every heartbeat. Only its own faults and the broker's count."""

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.ingest.content import tidy
from shared.contracts.events import LATE

HEARTBEATS = "/heartbeat"


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
        """The same app; an answer of 500 or more to a heartbeat counts as refused."""

        async def watching(scope: Scope, receive: Receive, send: Send) -> None:
            async def sent(message: Message) -> None:
                if message["type"] == "http.response.start" and message["status"] >= 500:
                    self.refused(f"a heartbeat was answered with {message['status']}")
                await send(message)

            heartbeat = scope["type"] == "http" and tidy(scope["path"]).startswith(HEARTBEATS)
            await app(scope, receive, sent if heartbeat else send)

        return watching
