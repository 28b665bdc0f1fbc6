"""Group commit: the messages that wait while one group is on its way to a stream make up the next group.

The broker confirms a batch with one answer, so the price of storing, and of the disk above all, is shared by
all that are in it. There are two kinds (NATS' ADR-50), and what they cost is measured as they are used:

- a *fast batch* stores message by message: cheapest where the broker does not sync each write to the disk;
- an *atomic batch* is stored as a whole with one sync, but takes some milliseconds to set up: cheapest from
  some ten messages on where each write is synced (`sync_interval: always`).

The broker has room for few open batches, and anybody who may publish may take it. So what is refused as a
batch is published again message by message, which needs no such room.
"""

import asyncio
import json
import secrets
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import structlog

from shared.messaging.batch_choice import BatchMode, BatchStrategy
from shared.messaging.connection import BrokerConnection
from shared.messaging.errors import BrokerError, Busy, NotStored, ShareExhausted, TooLarge
from shared.messaging.nats_internals import hpub_cmd

log = structlog.get_logger()

HEADERS_MAX = 1024
"""Bytes that headers take, at most."""
GROUP_MAX = 1000
"""Messages that the broker takes in one atomic batch."""
SIZE_MAX = 512 * 1024
"""Bytes of payload in one group."""
WAITING_MAX = 32 * 1024 * 1024
"""Bytes of payload that may wait in all."""
SHARE = 10
"""The messages of one sender may take a tenth of what may wait, so that it cannot fill it for all."""

_SINGLE = BatchMode(atomic=False, size=1)
_START, _ADD, _COMMIT = range(3)
_NO_FLOW = 65535
"""Messages after which the broker would answer before the end of a fast batch: more than a group has."""


class StreamMessage(NamedTuple):
    """`headers`: lines as they stand in NATS' protocol, each ended by CR LF; `header_block` makes them."""

    subject: str
    headers: bytes
    payload: bytes


def header_block(headers: dict[str, str]) -> bytes:
    """A line break in a value becomes a blank."""
    return "".join(f"{key}: {' '.join(value.splitlines())}\r\n" for key, value in headers.items()).encode()


OnStored = Callable[[BrokerError | None], None]
"""Is called once: with None when the messages are stored."""
Waiter = tuple[int, OnStored, str | None, int]
"""Who has added messages: the index behind the last of them, whom to call, their sender, their bytes."""


@dataclass(slots=True)
class MessageGroup:
    """Messages that go together, and who waits for them.

    They are sent in one batch, or in a few of them one after the other; the first `stored` messages are in
    the stream. `refused`: why the broker refused a batch. What is left then is in `single`, and is sent
    message by message.
    """

    since: float
    messages: list[StreamMessage] = field(default_factory=list)
    waiters: list[Waiter] = field(default_factory=list)
    size: int = 0
    sent_at: float = 0.0
    batch: BatchMode = _SINGLE
    stored: int = 0
    refused: str = ""
    single: dict[int, bool] | None = None
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
        """Tell all that wait whether their messages are stored, or the `reason` why they are not."""
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


class Backlog:
    """How much waits for the broker, in all and of each sender. Both are bounded."""

    def __init__(self, max_messages: int) -> None:
        self._max_messages = max_messages
        self.messages = 0
        self._bytes = 0
        self._messages_of: Counter[str] = Counter()
        self._bytes_of: Counter[str] = Counter()

    def refusal(self, sender: str | None, count: int, size: int) -> BrokerError | None:
        """Why so many messages of so many bytes may not wait as well; None: they may.

        Whatever is waiting, a sender that has nothing there yet may always add something.
        """
        if sender and (waiting := self._messages_of[sender]):
            size_of = self._bytes_of[sender] + size
            if (waiting + count) * SHARE > self._max_messages or size_of * SHARE > WAITING_MAX:
                return ShareExhausted("too many heartbeats of this address wait for the broker")
        if self.messages and (self.messages + count > self._max_messages or self._bytes + size > WAITING_MAX):
            return Busy("too many messages wait for the broker")
        return None

    def add(self, sender: str | None, count: int, size: int) -> None:
        """Negative: they wait no longer."""
        self.messages += count
        self._bytes += size
        if sender:
            self._messages_of[sender] += count
            self._bytes_of[sender] += size
            if not self._messages_of[sender]:
                del self._messages_of[sender], self._bytes_of[sender]


class BatchPublisher:
    """Stores messages of one stream (with `allow_batched` and `allow_atomic`), in groups, in order."""

    def __init__(self, link: BrokerConnection, *, timeout: float = 5.0, max_waiting: int = 20_000) -> None:
        """`timeout`: seconds that the broker has for its answer. `max_waiting`: messages that may wait."""
        self._link = link
        self.timeout = timeout
        self.backlog = Backlog(max_waiting)
        self._waiting: deque[MessageGroup] = deque()
        self._on_its_way: MessageGroup | None = None
        self._sent = 0
        self._longest_wait = 0.0
        self._inbox = ""
        self._batch_id = secrets.token_hex(6)
        """With a number behind it, the id of a batch: two of the same would be taken for one."""
        self._loop: asyncio.AbstractEventLoop
        self._deadline: asyncio.TimerHandle
        self._batching = BatchStrategy()
        self.on_end: Callable[[int, int, float | None], None] = lambda stored, not_stored, took: None
        """Called for each group: how many of its messages are stored, how many are not, and after how many
        seconds the broker answered (None: it did not, or was not asked)."""

    def longest_wait(self) -> float:
        """The longest time in seconds that a message has waited since this was last asked, stored or not."""
        oldest = self._on_its_way or (self._waiting[0] if self._waiting else None)
        now = time.perf_counter() - oldest.since if oldest else 0.0
        longest, self._longest_wait = max(now, self._longest_wait), 0.0
        return longest

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._inbox = self._link.nc.new_inbox()
        await self._link.listen(self._inbox + ".>", self._answered)
        self._link.on_lost.append(lambda: self._fail_all("the connection to the broker was lost"))

    async def stop(self) -> None:
        self._fail_all("shutting down")

    async def store(self, messages: Sequence[StreamMessage], sender: str | None = None) -> None:
        """Return when all are stored, at most GROUP_MAX. Raises NotStored (some may be), or Busy, TooLarge or
        ShareExhausted (none is). `sender`: uses only its share of what may wait; None: all of it."""
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_stored(error: BrokerError | None) -> None:
            if stored.done():
                return  # cancelled
            if error:
                stored.set_exception(error)
            else:
                stored.set_result(None)

        self.enqueue(messages, on_stored, sender)
        await stored

    def enqueue(
        self, messages: Sequence[StreamMessage], on_stored: OnStored, sender: str | None = None
    ) -> None:
        """The same, calling `on_stored`; at once if they cannot be sent."""
        size, count = 0, len(messages)
        for message in messages:
            size += len(message[2])
        if error := self._refusal(sender, count, size):
            if not isinstance(error, ShareExhausted):
                self.on_end(0, count, None)
            on_stored(error)
            return
        group = self._waiting[-1] if self._waiting else None
        if group is None or not group.has_room_for(count, size):
            group = MessageGroup(time.perf_counter())
            self._waiting.append(group)
            if self._on_its_way is None and len(self._waiting) == 1:
                self._loop.call_soon(self._send_next)
        group.add(messages, size, on_stored, sender)
        self.backlog.add(sender, count, size)

    def _refusal(self, sender: str | None, count: int, size: int) -> BrokerError | None:
        if not (self._inbox and self._link.up):
            return NotStored("the broker cannot be reached")
        if error := self.backlog.refusal(sender, count, size):
            return error
        if size + HEADERS_MAX > self._link.nc.max_payload:
            return TooLarge("the message is larger than the broker takes")
        return None

    # --- sending

    def _send_next(self) -> None:
        if self._on_its_way is None and self._waiting:
            group = self._on_its_way = self._waiting.popleft()
            self._deadline = self._loop.call_later(self.timeout, self._timed_out, group)
            self._send_batch(group)

    def _send_batch(self, group: MessageGroup) -> None:
        group.sent_at = time.perf_counter()
        count = len(group.messages) - group.stored
        group.batch = self._batching.choose(count, group.sent_at) if count > 1 else _SINGLE
        batch_id = self._next_batch_id()
        self._write(group, group.batch_frames(batch_id, f"{self._inbox}.{batch_id}"))

    def _send_single(self, group: MessageGroup, why: str) -> None:
        """After a batch was refused: what is left of the group, message by message."""
        group.refused = why
        group.single = dict.fromkeys(group.missing, False)
        self._write(group, group.single_frames(f"{self._inbox}.{self._next_batch_id()}"))

    def _next_batch_id(self) -> str:
        self._sent += 1
        return f"{self._batch_id}{self._sent}"

    def _write(self, group: MessageGroup, frames: bytes) -> None:
        try:
            self._link.write(frames)
        except NotStored as error:
            self._end(group, str(error))

    # --- the broker's answers

    def _answered(self, subject: bytes, _: bytes, data: bytes, __: bytes | None) -> None:
        group = self._on_its_way
        batch_id, _, index = subject[len(self._inbox) + 1 :].partition(b".")
        if group is None or batch_id != f"{self._batch_id}{self._sent}".encode():
            return
        if not data:
            self._end(group, "no stream takes this subject yet")
            return
        try:
            answer = json.loads(data.decode())
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            self._end(group, "the broker's answer cannot be read")
        elif group.single is not None:
            self._answered_single(group, group.single, int(index), answer)
        elif group.batch.size == 1:
            if "error" not in answer:
                group.stored += 1
            self._end(group, _reason(answer), self._measure(group))
        else:
            self._answered_batch(group, answer)

    def _answered_batch(self, group: MessageGroup, answer: dict[str, Any]) -> None:
        """A fast batch in which a message is refused ends with an answer that says how many before it are
        stored. Of one that is refused as a whole, and of a refused atomic batch, none is."""
        if "type" in answer:
            group.refused = group.refused or _reason(answer)
            return
        stored = answer["count"] if "batch" in answer else 0
        group.stored += stored
        if stored < group.batch.size:
            self._send_single(group, group.refused or _reason(answer))
            return
        took = self._measure(group)
        if group.stored == len(group.messages):
            self._end(group, "", took)
        else:
            self._send_batch(group)

    def _answered_single(
        self, group: MessageGroup, single: dict[int, bool], index: int, answer: dict[str, Any]
    ) -> None:
        if "error" in answer:
            single[index] = True
            group.refused = _reason(answer)
        else:
            single.pop(index, None)
        if all(single.values()):
            self._end(group, group.refused, self._measure(group))

    def _measure(self, group: MessageGroup) -> float:
        """How long the batch took; a refused one counts too, so that its kind is chosen no more."""
        now = time.perf_counter()
        self._batching.took(group.batch, now - group.sent_at, now)
        return now - group.sent_at

    # --- the end of a group

    def _end(self, group: MessageGroup, reason: str, took: float | None = None) -> None:
        """`took`: seconds that the broker took for its last answer; None: it did not give any."""
        if group is not self._on_its_way:
            return
        self._on_its_way = None
        self._deadline.cancel()
        self._finish(group, reason, took)
        if self._waiting:
            self._loop.call_soon(self._send_next)

    def _timed_out(self, group: MessageGroup) -> None:
        if group is self._on_its_way:
            self._measure(group)
            self._fail_all(f"no answer from the broker within {self.timeout:g} s")

    def _fail_all(self, reason: str) -> None:
        waiting, self._waiting = self._waiting, deque()
        if self._on_its_way:
            self._end(self._on_its_way, reason)
        for group in waiting:
            self._finish(group, reason, None)

    def _finish(self, group: MessageGroup, reason: str, took: float | None) -> None:
        self._longest_wait = max(self._longest_wait, time.perf_counter() - group.since)
        start = 0
        for end, _, sender, size in group.waiters:
            self.backlog.add(sender, start - end, -size)
            start = end
        missing = len(group.missing)
        self.on_end(len(group.messages) - missing, missing, took)
        group.end(reason)


def _reason(answer: dict[str, Any]) -> str:
    error = answer.get("error")
    return str(error.get("description", "refused by the broker")) if isinstance(error, dict) else ""
