"""Messages that are sent to the broker together, and how they are written in NATS' protocol."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog

from shared.messaging.batch_choice import BatchMode
from shared.messaging.errors import BrokerError, NotStored
from shared.messaging.nats_internals import hpub_cmd

log = structlog.get_logger()

GROUP_MAX = 1000
"""Messages that the broker takes in one atomic batch."""
SIZE_MAX = 512 * 1024
"""Bytes of payload in one group."""

_START, _ADD, _COMMIT = range(3)
_NO_FLOW = 65535
"""Messages after which the broker would answer before the end of a fast batch: more than a group has."""


class StreamMessage(NamedTuple):
    """`headers`: lines as they stand in NATS' protocol, each ended by CR LF; `header_block` makes them."""

    subject: str
    headers: bytes
    payload: bytes


def header_block(headers: dict[str, str]) -> bytes:
    return "".join(f"{key}: {value}\r\n" for key, value in headers.items()).encode()


OnStored = Callable[[BrokerError | None], None]
"""Is called once: with None when the messages are stored."""


Waiter = tuple[int, OnStored, str | None, int]
"""Who has added messages: the index behind the last of them, whom to call, their sender, their bytes."""


class MessageGroup:
    """Messages that go together, and who waits for them.

    They are sent in one batch, or in a few of them one after the other; the first `stored` messages are in
    the stream. `refused`: why the broker refused a batch. What is left then is in `single`, and is sent
    message by message.
    """

    __slots__ = ("batch", "messages", "refused", "sent_at", "since", "single", "size", "stored", "waiters")

    def __init__(self, since: float) -> None:
        self.messages: list[StreamMessage] = []
        self.waiters: list[Waiter] = []
        self.size = 0
        self.since = since
        self.sent_at = 0.0
        self.batch = BatchMode(False, 1)
        self.stored = 0
        self.refused = ""
        self.single: dict[int, bool] | None = None
        """By index, whether it was answered with a refusal; those that are stored are removed."""

    def has_room_for(self, count: int, size: int) -> bool:
        return len(self.messages) + count <= GROUP_MAX and not (self.size and self.size + size > SIZE_MAX)

    def add(
        self, messages: Sequence[StreamMessage], size: int, on_stored: OnStored, sender: str | None
    ) -> None:
        self.messages += messages
        self.size += size
        self.waiters.append((len(self.messages), on_stored, sender, size))

    @property
    def missing(self) -> Sequence[int]:
        """The indexes, in order, of the messages that are not known to be stored."""
        return range(self.stored, len(self.messages)) if self.single is None else sorted(self.single)

    def end(self, reason: str) -> None:
        """Tell all that wait whether their messages are stored. `reason`: why those are not that are
        missing."""
        missing, first = self.missing, 0
        for end, on_stored, _, _ in self.waiters:
            at = bisect_left(missing, first)
            stored = at == len(missing) or missing[at] >= end
            first = end
            try:
                on_stored(None if stored else NotStored(reason))
            except Exception:  # must not keep the others from being told
                log.exception("an answer could not be given")

    def batch_frames(self, batch_id: str, reply: str) -> bytes:
        """The next batch, as the broker reads it."""
        count = self.batch.size
        messages = self.messages[self.stored : self.stored + count]
        if count == 1:
            return _frame(messages[0], reply)
        frames: list[bytes] = []
        if self.batch.atomic:
            batch = f"Nats-Batch-Id: {batch_id}\r\nNats-Batch-Sequence: ".encode()
            for n, message in enumerate(messages, 1):
                end = b"\r\n" if n < count else b"\r\nNats-Batch-Commit: 1\r\n"
                frames.append(_frame(message, reply if n == count else "", b"%b%d%b" % (batch, n, end)))
        else:
            for n, message in enumerate(messages, 1):
                step = _COMMIT if n == count else _ADD if n > 1 else _START
                frames.append(_frame(message, f"{reply}.{_NO_FLOW}.fail.{n}.{step}.$FI"))
        return b"".join(frames)

    def single_frames(self, reply: str) -> bytes:
        """What is left, each message for itself."""
        return b"".join(_frame(self.messages[n], f"{reply}.{n}") for n in self.missing)


def _frame(message: StreamMessage, reply: str, more: bytes = b"") -> bytes:
    lines = b"NATS/1.0\r\n%b%b\r\n" % (message.headers, more)
    return hpub_cmd(message.subject, reply, lines, message.payload)
