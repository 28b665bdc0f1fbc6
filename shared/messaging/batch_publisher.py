"""Group commit: what waits while one group of messages is on its way to a stream makes up the next one.

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
from typing import Any, NamedTuple

import structlog

from shared.messaging.batch_choice import BatchMode, BatchStrategy
from shared.messaging.connection import BrokerConnection
from shared.messaging.errors import BrokerError, Busy, NotStored, ShareExhausted, TooLarge
from shared.messaging.nats_internals import hpub_cmd

log = structlog.get_logger()

GROUP_MAX = 1000
"""Messages that the broker takes in one atomic batch."""
HEADERS_MAX = 1024
"""Bytes that headers take, at most."""
SIZE_MAX = 512 * 1024
"""Bytes of payload in one group."""
WAITING_SIZE_MAX = 32 * 1024 * 1024
"""Bytes of payload that may wait in all."""
SHARE = 10
"""One sender's messages may take the tenth part of what may wait, so that it cannot fill it for all."""


class Message(NamedTuple):
    """`headers`: lines as they stand in NATS' protocol, each ended by CR LF; `block` makes them."""

    subject: str
    headers: bytes
    payload: bytes


def block(headers: dict[str, str]) -> bytes:
    return "".join(f"{key}: {value}\r\n" for key, value in headers.items()).encode()


Done = Callable[[BrokerError | None], None]
"""Is told once: None when it is stored."""


class _Batch:
    """Messages that go together, and who is told about which of them: (index after the last, callback).

    They are sent batch by batch, mostly all in one; `stored` are those of the batches before. What a batch
    was refused with stands in `refused`; the rest is `alone` then, each message for itself.
    """

    __slots__ = (
        "alone",
        "batch",
        "messages",
        "refused",
        "senders",
        "sent_at",
        "since",
        "size",
        "stored",
        "waiters",
    )

    def __init__(self, since: float) -> None:
        self.messages: list[Message] = []
        self.waiters: list[tuple[int, Done]] = []
        self.senders: list[tuple[str, int, int]] = []
        """Who has a share, with how many messages and bytes of it are in here."""
        self.size = 0
        self.since = since
        self.sent_at = 0.0
        self.batch = BatchMode(False, 1)
        self.stored = 0
        self.refused = ""
        self.alone: dict[int, bool] | None = None
        """By index, whether it was answered with a refusal; those that are stored are gone."""

    @property
    def missing(self) -> Sequence[int]:
        """The indexes, in order, of what is not known to be stored."""
        return range(self.stored, len(self.messages)) if self.alone is None else sorted(self.alone)

    def end(self, why: str) -> None:
        missing, first = self.missing, 0
        for last, done in self.waiters:
            at = bisect_left(missing, first)
            stored = at == len(missing) or missing[at] >= last
            first = last
            try:
                done(None if stored else NotStored(why))
            except Exception:  # must not keep the others from being told
                log.exception("an answer could not be given")


class BatchPublisher:
    """Stores messages of one stream (with `allow_batched` and `allow_atomic`), in groups, in order."""

    def __init__(
        self,
        link: BrokerConnection,
        *,
        timeout: float = 5.0,
        max_waiting: int = 20_000,
        batching: BatchStrategy | None = None,
    ) -> None:
        """`timeout`: seconds that the broker has for its answer. `max_waiting`: messages that may wait."""
        self._link = link
        self.timeout = timeout
        self._max_waiting = max_waiting
        self._waiting: deque[_Batch] = deque()
        self._count = 0
        self._size = 0
        self._count_of: Counter[str] = Counter()
        self._size_of: Counter[str] = Counter()
        """Of who has a share, how many messages wait, and how many bytes."""
        self._on_its_way: _Batch | None = None
        self._sent = 0
        self._longest_wait = 0.0
        self._inbox = ""
        self._batch_id = secrets.token_hex(6)
        """With a number behind it, the id of a batch: two of the same would be taken for one."""
        self._loop: asyncio.AbstractEventLoop
        self._deadline: asyncio.TimerHandle
        self._batching = batching or BatchStrategy()
        self.on_end: Callable[[int, int, float | None], None] = lambda stored, not_stored, took: None
        """Is told of each group how many of its messages are stored, how many not, and after how many seconds
        the broker answered (None: it did not, or was not asked)."""

    @property
    def waiting(self) -> int:
        """Messages that have not been answered yet."""
        return self._count

    def longest_wait(self) -> float:
        """Seconds that a message has waited to be stored, or did to no avail: the most since this was asked
        last."""
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

    async def store(self, messages: Sequence[Message], sender: str | None = None) -> None:
        """Return when all of them are stored: at most GROUP_MAX. Raises NotStored (some may be stored all the
        same), or Busy, ShareTaken or TooLarge (none is). `sender`: who has no more than a share of what may
        wait; None: nobody."""
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: BrokerError | None) -> None:
            if stored.done():
                return  # cancelled
            if error:
                stored.set_exception(error)
            else:
                stored.set_result(None)

        self.add(messages, done, sender)
        await stored

    def add(self, messages: Sequence[Message], done: Done, sender: str | None = None) -> None:
        """The same, telling `done`; at once if they cannot be sent."""
        size = 0
        for message in messages:
            size += len(message[2])
        if not (self._inbox and self._link.up):
            error: BrokerError | None = NotStored("the broker cannot be reached")
        elif sender and self._has_share_taken(sender, len(messages), size):
            done(ShareExhausted("too many heartbeats of this address wait for the broker"))
            return
        elif self._count and (
            self._count + len(messages) > self._max_waiting or self._size + size > WAITING_SIZE_MAX
        ):
            error = Busy("too many messages wait for the broker")
        elif size + HEADERS_MAX > self._link.nc.max_payload:
            error = TooLarge("the message is larger than the broker takes")
        else:
            error = None
        if error:
            self.on_end(0, len(messages), None)
            done(error)
            return
        group = self._waiting[-1] if self._waiting else None
        if (
            group is None
            or len(group.messages) + len(messages) > GROUP_MAX
            or (group.size and group.size + size > SIZE_MAX)
        ):
            group = _Batch(time.perf_counter())
            self._waiting.append(group)
            if self._on_its_way is None and len(self._waiting) == 1:
                self._loop.call_soon(self._send_next)
        group.messages += messages
        group.size += size
        group.waiters.append((len(group.messages), done))
        self._count += len(messages)
        self._size += size
        if sender:
            group.senders.append((sender, len(messages), size))
            self._count_of[sender] += len(messages)
            self._size_of[sender] += size

    def _has_share_taken(self, sender: str, count: int, size: int) -> bool:
        """Whether so much more is too much for it. Something it may always have there."""
        waiting, bytes_waiting = self._count_of[sender], self._size_of[sender]
        return waiting > 0 and (
            (waiting + count) * SHARE > self._max_waiting or (bytes_waiting + size) * SHARE > WAITING_SIZE_MAX
        )

    def _leaves(self, group: _Batch) -> None:
        """It does not wait any more."""
        self._count -= len(group.messages)
        self._size -= group.size
        for sender, count, size in group.senders:
            self._count_of[sender] -= count
            self._size_of[sender] -= size
            if not self._count_of[sender]:
                del self._count_of[sender], self._size_of[sender]

    def _send_next(self) -> None:
        if self._on_its_way is None and self._waiting:
            group = self._on_its_way = self._waiting.popleft()
            self._deadline = self._loop.call_later(self.timeout, self._late, group)
            self._send(group)

    def _send(self, group: _Batch) -> None:
        """The next batch of it."""
        self._sent += 1
        group.sent_at = time.perf_counter()
        count = len(group.messages) - group.stored
        group.batch = self._batching.choose(count, group.sent_at) if count > 1 else BatchMode(False, 1)
        self._write(group, self._frames(group))

    def _send_alone(self, group: _Batch, why: str) -> None:
        """What is left of it, after a batch was refused: each message for itself."""
        self._sent += 1
        group.refused = why
        group.alone = dict.fromkeys(group.missing, False)
        reply = f"{self._inbox}.{self._batch_id}{self._sent}"
        self._write(group, b"".join(_frame(group.messages[n], f"{reply}.{n}") for n in group.alone))

    def _write(self, group: _Batch, frames: bytes) -> None:
        try:
            self._link.write(frames)
        except NotStored as error:
            self._end(group, str(error))

    def _frames(self, group: _Batch) -> bytes:
        batch_id = f"{self._batch_id}{self._sent}"
        reply = f"{self._inbox}.{batch_id}"
        count = group.batch.size
        messages = group.messages[group.stored : group.stored + count]
        frames: list[bytes] = []
        if count == 1:
            frames.append(_frame(messages[0], reply))
        elif group.batch.atomic:
            batch = f"Nats-Batch-Id: {batch_id}\r\nNats-Batch-Sequence: ".encode()
            for n, message in enumerate(messages, 1):
                end = b"\r\n" if n < count else b"\r\nNats-Batch-Commit: 1\r\n"
                frames.append(_frame(message, reply if n == count else "", b"%b%d%b" % (batch, n, end)))
        else:
            for n, message in enumerate(messages, 1):
                step = _COMMIT if n == count else _ADD if n > 1 else _START
                frames.append(_frame(message, f"{reply}.{_NO_FLOW}.fail.{n}.{step}.$FI"))
        return b"".join(frames)

    def _answered(self, subject: bytes, _: bytes, data: bytes, __: bytes | None) -> None:
        group = self._on_its_way
        sent, _, more = subject[len(self._inbox) + 1 :].partition(b".")
        if group is None or sent != f"{self._batch_id}{self._sent}".encode():
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
        elif group.alone is not None:
            self._answered_alone(group, group.alone, int(more), answer)
        elif group.batch.size == 1:
            if "error" not in answer:
                group.stored += 1
            self._end(group, _reason(answer), self._took(group))
        else:
            self._answered_batch(group, answer)

    def _answered_batch(self, group: _Batch, answer: dict[str, Any]) -> None:
        """A fast batch in which a message is refused is ended by an answer that says how many before it are
        stored. One that is refused as a whole, and every atomic one, has none stored then."""
        if "type" in answer:
            group.refused = group.refused or _reason(answer)
            return
        stored = answer["count"] if "batch" in answer else 0
        group.stored += stored
        if stored < group.batch.size:
            self._send_alone(group, group.refused or _reason(answer))
            return
        took = self._took(group)
        if group.stored == len(group.messages):
            self._end(group, "", took)
        else:
            self._send(group)

    def _answered_alone(
        self, group: _Batch, alone: dict[int, bool], index: int, answer: dict[str, Any]
    ) -> None:
        if "error" in answer:
            alone[index] = True
            group.refused = _reason(answer)
        else:
            alone.pop(index, None)
        if all(alone.values()):
            self._end(group, group.refused, self._took(group))

    def _took(self, group: _Batch) -> float:
        """Also what was refused counts as what its batch took: so a kind that is refused is left."""
        now = time.perf_counter()
        self._batching.took(group.batch, now - group.sent_at, now)
        return now - group.sent_at

    def _end(self, group: _Batch, why: str, took: float | None = None) -> None:
        """`took`: seconds that the broker took for its last answer; None: it did not give any."""
        if group is not self._on_its_way:
            return
        self._on_its_way = None
        self._longest_wait = max(self._longest_wait, time.perf_counter() - group.since)
        self._deadline.cancel()
        self._leaves(group)
        not_stored = len(group.missing)
        self.on_end(len(group.messages) - not_stored, not_stored, took)
        group.end(why)
        if self._waiting:
            self._loop.call_soon(self._send_next)

    def _late(self, group: _Batch) -> None:
        if group is self._on_its_way:
            self._took(group)
            self._fail_all(f"no answer from the broker within {self.timeout:g} s")

    def _fail_all(self, reason: str) -> None:
        waiting, self._waiting = self._waiting, deque()
        if self._on_its_way:
            self._end(self._on_its_way, reason)
        for group in waiting:
            self._longest_wait = max(self._longest_wait, time.perf_counter() - group.since)
            self._leaves(group)
            self.on_end(0, len(group.messages), None)
            group.end(reason)


_START, _ADD, _COMMIT = range(3)
_NO_FLOW = 65535
"""Messages after which the broker would answer before the end of a fast batch: more than a group has."""


def _reason(answer: dict[str, Any]) -> str:
    error = answer.get("error")
    return str(error.get("description", "refused by the broker")) if isinstance(error, dict) else ""


def _frame(message: Message, reply: str, more: bytes = b"") -> bytes:
    lines = b"NATS/1.0\r\n%b%b\r\n" % (message.headers, more)
    return hpub_cmd(message.subject, reply, lines, message.payload)
