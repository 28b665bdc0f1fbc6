"""What nats-py does not promise to keep, in one place; tests/unit/test_internals.py names each part."""

from collections.abc import Callable, Coroutine
from typing import Any

from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.protocol.command import hpub_cmd

__all__ = ["hpub_cmd", "intercept", "parse_headers", "subscription_id", "write"]

Process = Callable[[int, bytes, bytes, bytes, bytes], Coroutine[Any, Any, None]]
"""Takes a message: the subscription's id, subject, reply, payload, headers as in NATS' protocol."""


def intercept(client: Client, replacement: Callable[[Process], Process]) -> None:
    """Have each message that comes in taken by what `replacement` makes of the client's own way."""
    client._process_msg = replacement(client._process_msg)  # type: ignore[method-assign, assignment]


def subscription_id(subscription: Subscription) -> int:
    return subscription._id


def write(client: Client, frames: bytes) -> None:
    """Send at once what stands in NATS' protocol. Raises OSError, RuntimeError, or AttributeError while
    there is no connection."""
    client._transport.write(frames)  # type: ignore[union-attr]


def parse_headers(lines: bytes) -> dict[str, str]:
    """The headers of a message, without the protocol's first line."""
    return Client._parse_header_lines(lines)


def legible(subject: bytes) -> bytes:
    """The broker passes any bytes on; the client ends at what is not UTF-8."""
    return subject if subject.isascii() else subject.decode(errors="replace").encode()


def legible_headers(raw: bytes) -> bytes:
    """None rather than those that are not what the client takes for granted."""
    return legible(raw) if raw and raw.startswith((b"NATS/1.0\r\n", b"NATS/1.0 ")) else b""
