"""Reading a request's body, bounded in size and time."""

import asyncio

from starlette.requests import Request

from shared.events import HEARTBEAT_MAX
from shared.problems import Problem

BODY_MAX = HEARTBEAT_MAX
"""Bytes of a body, unless a route needs more."""

BODY_WITHIN = 10.0
"""Seconds a client gets to send its body."""


async def read(request: Request, most: int = BODY_MAX) -> bytes:
    """The body. Raises Problem 413 if it is larger than `most` bytes, 408 if it does not come in time."""
    too_large = Problem(413, f"the body is larger than {most} bytes", headers={"Connection": "close"})
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length[:20]) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_WITHIN):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise too_large
    except TimeoutError:
        raise Problem(408, f"the body did not come within {BODY_WITHIN:g} s") from None
    return bytes(body)
