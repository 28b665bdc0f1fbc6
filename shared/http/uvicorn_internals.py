"""What uvicorn does not promise to keep, in one place; tests/unit/test_internals.py names each part."""

import asyncio
import contextlib
from collections.abc import Iterator

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

__all__ = ["STATUS_LINE", "Protocol", "Server"]


class Protocol(HttpToolsProtocol):
    """Serves one connection, with what uvicorn does but for its timers, its upgrades, and its scope for
    requests that no app will see.

    Who makes a class of it may use these attributes: app, client, connections, cycle, expect_100_continue,
    flow, headers, parser, pipeline, scope, server_state, transport, url.
    """

    url = b""

    def owes_answer(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def on_message_begin(self) -> None:
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def make_scope(self) -> None:
        """What `on_message_begin` left out."""
        head = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = head
        self.scope["headers"] = list(self.headers)  # those that may follow the body are not among them

    def on_message_complete(self) -> None:
        if not self.cycle.response_complete:
            self.cycle.more_body = False
            self.cycle.message_event.set()


class Server(uvicorn.Server):
    """Signals are left to others, and `every_second` is called in place of uvicorn's ten looks a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # renews the date
            self.every_second()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._ending.wait()

    def every_second(self) -> None: ...

    @property
    def open_connections(self) -> list[object]:
        return list(self.server_state.connections)

    def end(self) -> None:
        self.should_exit = True
        self._ending.set()
