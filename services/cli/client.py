"""What the command line says, and what it asks of the broker, ingest and the API."""

import asyncio
from typing import Any
from urllib.parse import urlsplit

import httpx
import nats
import typer
from nats.aio.client import Client
from pydantic import SecretStr

from shared.messaging.connection import access
from shared.settings import Settings
from shared.telemetry.visible import visible


def say(line: str, *, err: bool = False) -> None:
    """Print one line, in which nothing that others wrote acts on the terminal."""
    typer.echo(visible(line), err=err)


def warn(message: str) -> None:
    say(message, err=True)


async def connect_once(settings: Settings) -> Client:
    """Tried once, for 5 s. Raises nats' errors, OSError or TimeoutError."""

    async def ignore(_: Exception) -> None: ...

    options = {**access(settings), "allow_reconnect": False, "connect_timeout": 3, "error_cb": ignore}
    return await asyncio.wait_for(nats.connect(**options), 5)


class RequestFailed(Exception):
    """A request was refused, or nobody answered; says why."""


def ask(method: str, url: str, tokens: tuple[SecretStr, ...], **rest: Any) -> Any:
    """The answer as JSON. Raises RequestFailed."""
    secret = tokens[0].get_secret_value() if tokens else ""
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    try:
        response = httpx.request(method, url, headers=headers, timeout=15, trust_env=False, **rest)
    except (httpx.HTTPError, UnicodeError) as error:
        # What is said of a header that cannot be sent holds the token.
        sent = not isinstance(error, httpx.LocalProtocolError | UnicodeError)
        at = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"
        why = f"{at}: {error}" if sent else f"{at}: the token cannot be sent in a header"
        raise RequestFailed(why) from None
    if response.is_error:
        try:
            reason = response.json().get("detail", response.text)
        except ValueError:
            reason = response.text
        raise RequestFailed(f"{response.status_code}: {reason}")
    return response.json()
