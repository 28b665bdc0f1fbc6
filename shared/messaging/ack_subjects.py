"""Reply subjects of messages that JetStream delivers: they say where a message stands in its stream.

    $JS.ACK.<stream>.<consumer>.<deliveries>.<stream sequence>.<consumer sequence>.<stored at>.<pending>
    $JS.ACK.<domain>.<account>.<stream>.<consumer>. … the same … [.<more>]

The second form is the default from NATS 2.16 on, and to be had on 2.15 with the feature flag `js_ack_fc_v2`
(NATS' ADR-15).
"""

from typing import NamedTuple

PREFIX = b"$JS.ACK."
_FIRST = 9
"""Tokens of the first form. The second has at least two more, and may end in more of them."""


class Delivered(NamedTuple):
    """`consumer_sequence` counts what a consumer has delivered. `stored_at`: microseconds since 1970 UTC."""

    sequence: int
    consumer_sequence: int
    stored_at: int
    pending: int


def parse(reply: bytes) -> Delivered | None:
    """None: no message of a stream, but word about the request. Raises ValueError: not from the broker."""
    if not reply.startswith(PREFIX):
        return None
    tokens = reply.split(b".")
    start = _stream_token(tokens) + 3
    sequence, delivered, stored_at, pending = tokens[start : start + 4]
    return Delivered(int(sequence), int(delivered), int(stored_at) // 1000, int(pending))


def _stream_token(tokens: list[bytes]) -> int:
    """Which one is the stream's name. Raises ValueError if it is neither form."""
    count = len(tokens)
    if count == _FIRST:
        return 2
    if count >= _FIRST + 2:
        return 4
    raise ValueError("neither form of $JS.ACK")
