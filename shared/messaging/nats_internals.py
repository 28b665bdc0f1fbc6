"""What nats-py does not promise to keep, in one place; tests/unit/test_internals.py names each part."""

from collections.abc import Callable, Mapping

import structlog
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.protocol.command import hpub_cmd, pub_cmd

__all__ = ["hpub_cmd", "intercept", "parse_headers", "pub_cmd", "subscription_id", "write"]

log = structlog.get_logger()

Taker = Callable[[bytes, bytes, bytes, bytes | None], None]
"""Takes a message's subject, reply, payload, and headers as they stand in NATS' protocol."""


def intercept(client: Client, takers: Mapping[int, Taker]) -> None:
    """Have the messages of some subscriptions, by their ids, taken as they are read from the connection."""
    usual = client._process_msg

    async def process(sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        try:
            if taker := takers.get(sid):
                taker(subject, reply, data, headers)
            else:
                await usual(sid, legible(subject), reply, data, legible_headers(headers))
        except Exception:  # or the client would never read from this connection again
            log.exception("a message could not be taken in", subject=repr(subject[:200]))

    client._process_msg = process  # type: ignore[method-assign]


def subscription_id(subscription: Subscription) -> int:
    return subscription._id


def write(client: Client, frames: bytes) -> None:
    """Raises OSError, RuntimeError, or AttributeError while there is no connection."""
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
