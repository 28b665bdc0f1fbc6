"""HEAD wherever GET answers: the same status and headers, no body (RFC 9110, 9.3.2)."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadAsGet:
    """ASGI middleware. What a GET would go on streaming is ended as soon as its headers are known."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        heads: list[Message] = []
        known = asyncio.Event()

        async def keep_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                heads.append(message)
                known.set()

        async def answer() -> None:
            try:
                await self._app({**scope, "method": "GET"}, receive, keep_head)
            finally:
                known.set()

        answering = asyncio.create_task(answer())
        try:
            await known.wait()
            if heads:
                await send(heads[0])
                await send({"type": "http.response.body", "body": b""})
            else:
                await answering  # raises what the app has raised
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
