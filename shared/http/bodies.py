"""Reading a request's body, bounded in size and time."""

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from shared.http.problems import Problem
from shared.http.protocol import stranger_of

_CLOSE = {"Connection": "close"}

BODY_MAX = 1024 * 1024
"""Bytes of a body, unless a route needs more."""

BODY_TIMEOUT = 10.0
"""Seconds a client gets to send its body."""

ALL_MAX = 32 * 1024 * 1024
"""Bytes of all bodies that are on their way at the same time."""
OF_ADDRESS_MAX = ALL_MAX // 4
"""The same of one address from which no right token is shown."""
OF_STRANGERS_MAX = ALL_MAX // 2
"""The same of all such addresses."""

LONG_BODY = 1024
"""Bytes of a body above which it is parsed beside the loop, as is one that comes compressed: many at once
would keep ticks waiting."""

T = TypeVar("T")

_strangers_parser, _parser = (ThreadPoolExecutor(1, f"parse-{whose}") for whose in ("strangers", "known"))
_ALL, _STRANGERS = "all", "all strangers"
_on_their_way: Counter[str] = Counter()
"""Bytes, of all together, of all strangers together, and by a stranger's address."""


async def read(request: Request, most: int = BODY_MAX) -> bytes:
    """The body as it is. Raises Problem as `parsed` does."""
    return await parsed(lambda raw: raw, request, most)


async def parsed(parse: Callable[[bytes], T], request: Request, most: int = BODY_MAX) -> T:
    """What `parse`, which may run in a thread, makes of the body; until then it counts as on its way. Raises
    what `parse` does, and Problem 413 if it is larger than `most` bytes, 408 if it does not come in time, 429
    if strangers send too much at once, 503 if all together do: 503 is our fault, and no stranger's doing."""
    stranger = stranger_of(request)
    counted_for = (_ALL, _STRANGERS, stranger) if stranger else (_ALL,)
    too_large = Problem(413, f"the body is larger than {most} bytes", headers=_CLOSE)
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for chunk in request.stream():
                body += chunk
                for whom in counted_for:
                    _on_their_way[whom] += len(chunk)
                if len(body) > most:
                    raise too_large
                if stranger and _on_their_way[stranger] > OF_ADDRESS_MAX:
                    raise Problem(429, "too much is sent from this address", retry_after=2, headers=_CLOSE)
                if stranger and _on_their_way[_STRANGERS] > OF_STRANGERS_MAX:
                    raise Problem(429, "too much is sent without a token", retry_after=2, headers=_CLOSE)
                if _on_their_way[_ALL] > ALL_MAX:
                    raise Problem(503, "too much is sent at the same time", retry_after=2, headers=_CLOSE)
        raw = bytes(body)
        if len(raw) <= LONG_BODY and "content-encoding" not in request.headers:
            return parse(raw)
        parser = _strangers_parser if stranger else _parser
        return await asyncio.get_running_loop().run_in_executor(parser, parse, raw)
    except TimeoutError:
        late = f"the body did not come within {BODY_TIMEOUT:g} s"
        raise Problem(408, late, headers=_CLOSE) from None
    except ClientDisconnect:
        raise Problem(400, "the body broke off") from None
    finally:
        for whom in counted_for:
            _on_their_way[whom] -= len(body)
        if stranger and not _on_their_way[stranger]:
            del _on_their_way[stranger]
