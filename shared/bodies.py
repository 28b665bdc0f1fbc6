"""Reading a request's body, bounded in size and time."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from shared.problems import Problem

BODY_MAX = 1024 * 1024
"""Bytes of a body, unless a route needs more."""

BODY_WITHIN = 10.0
"""Seconds a client gets to send its body."""

ALL_MAX = 32 * 1024 * 1024
"""Bytes of all bodies that are on their way at the same time."""
_on_their_way = 0


async def read(request: Request, most: int = BODY_MAX) -> bytes:
    """The body. Raises Problem 413 if it is larger than `most` bytes, 408 if it does not come in time, 503 if
    too much comes at once."""
    global _on_their_way
    too_large = Problem(413, f"the body is larger than {most} bytes", headers={"Connection": "close"})
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length[:20]) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_WITHIN):
            async for chunk in request.stream():
                body += chunk
                _on_their_way += len(chunk)
                if len(body) > most:
                    raise too_large
                if _on_their_way > ALL_MAX:
                    close = {"Connection": "close"}
                    raise Problem(503, "too much is sent at the same time", retry_after=2, headers=close)
    except TimeoutError:
        late = f"the body did not come within {BODY_WITHIN:g} s"
        raise Problem(408, late, headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise Problem(400, "the body broke off") from None
    finally:
        _on_their_way -= len(body)
    return bytes(body)
