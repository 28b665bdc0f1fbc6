"""The broker, as commands beside it ask it."""

import asyncio

import nats
from nats.aio.client import Client

from shared.messaging.connection import access
from shared.settings import Settings


async def connect_once(settings: Settings) -> Client:
    """Tried once, for 5 s. Raises nats' errors, OSError or TimeoutError."""

    async def ignore(_: Exception) -> None: ...

    options = {**access(settings), "allow_reconnect": False, "connect_timeout": 3, "error_cb": ignore}
    return await asyncio.wait_for(nats.connect(**options), 5)
