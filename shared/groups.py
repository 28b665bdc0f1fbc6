"""Group commit: what waits while one group of messages is on its way to a stream makes up the next one.

The broker confirms a group with one answer, so the price of storing, and of the disk above all, is shared by
all that are in it. There are two ways (NATS' ADR-50), and what they cost is measured as they are used:

- a *fast batch* stores message by message: cheapest where the broker does not sync each write to the disk;
- an *atomic batch* is stored as a whole with one sync, but takes some milliseconds to set up: cheapest from
  some ten messages on where each write is synced (`sync_interval: always`).
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog

from shared.broker import BrokerError, Busy, Link, NotStored
from shared.nats_internals import hpub_cmd

log = structlog.get_logger()

GROUP_MAX = 1000
"""Messages that the broker takes in one atomic batch."""
FEW = 8
"""Messages of a group from which on its time tells what one message costs."""
ATOMIC_AT_FIRST = 0.003
"""Seconds that setting up an atomic batch is taken to cost before one was measured."""
ATOMIC_EACH = 10e-6
"""Seconds that each message adds to it."""
RECENT = 16
"""Groups of each kind whose times are remembered. The shortest counts, for the others include waiting for
this process itself."""
HEADERS_MAX = 1024
"""Bytes that headers take, at most."""
SIZE_MAX = 512 * 1024
"""Bytes of payload in one group."""


class Message(NamedTuple):
    """`headers`: lines as they stand in NATS' protocol, each ended by CR LF; `block` makes them."""

    subject: str
    headers: bytes
    payload: bytes


def block(headers: dict[str, str]) -> bytes:
    return "".join(f"{key}: {value}\r\n" for key, value in headers.items()).encode()


Done = Callable[[BrokerError | None], None]
"""Is told once: None when it is stored."""


class _Group:
    """Messages that go together, and who is told about which of them: (index after the last, callback)."""

    __slots__ = ("atomic", "messages", "sent_at", "size", "stored", "waiters")

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.waiters: list[tuple[int, Done]] = []
        self.size = 0
        self.stored = 0
        self.atomic = False
        self.sent_at = 0.0

    def end(self, stored: int, why: str) -> None:
        """The first `stored` of them are stored, of the others it is not known."""
        for last, done in self.waiters:
            try:
                done(None if last <= stored else NotStored(why))
            except Exception:  # must not keep the others from being told
                log.exception("an answer could not be given")


class Groups:
    """Stores messages of one stream (with `allow_batched` and `allow_atomic`), in groups, in order."""

    def __init__(self, link: Link, *, timeout: float = 5.0, max_waiting: int = 20_000) -> None:
        """`timeout`: seconds that the broker has for its answer. `max_waiting`: messages that may wait."""
        self._link = link
        self.timeout = timeout
        self._max_waiting = max_waiting
        self._waiting: deque[_Group] = deque()
        self._count = 0
        self._on_its_way: _Group | None = None
        self._sent = 0
        self._longest_wait = 0.0
        self._inbox = ""
        self._loop: asyncio.AbstractEventLoop
        self._deadline: asyncio.TimerHandle
        self._message_takes: deque[float] = deque(maxlen=RECENT)
        self.on_end: Callable[[int, int, float | None], None] = lambda stored, not_stored, took: None
        """Is told of each group how many of its messages are stored, how many not, and after how many seconds
        the broker answered (None: it did not, or was not asked)."""
        self._atomic_takes = deque([ATOMIC_AT_FIRST], maxlen=RECENT)

    @property
    def waiting(self) -> int:
        """Messages that have not been answered yet."""
        return self._count

    def longest_wait(self) -> float:
        """Seconds that a group, and all behind it, has waited for the broker's answer, or to no avail: the
        most since this was asked last."""
        now = time.perf_counter() - self._on_its_way.sent_at if self._on_its_way else 0.0
        longest, self._longest_wait = max(now, self._longest_wait), 0.0
        return longest

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._inbox = self._link.nc.new_inbox()
        await self._link.listen(self._inbox + ".>", self._answered)
        self._link.on_lost.append(lambda: self._fail_all("the connection to the broker was lost"))

    async def stop(self) -> None:
        self._fail_all("shutting down")

    async def store(self, messages: Sequence[Message]) -> None:
        """Return when all of them are stored: at most GROUP_MAX. Raises NotStored (some may be stored all the
        same), or Busy (none is)."""
        stored: asyncio.Future[None] = self._loop.create_future()

        def done(error: BrokerError | None) -> None:
            if stored.done():
                return  # cancelled
            if error:
                stored.set_exception(error)
            else:
                stored.set_result(None)

        self.add(messages, done)
        await stored

    def add(self, messages: Sequence[Message], done: Done) -> None:
        """The same, telling `done`; at once if they cannot be sent."""
        size = 0
        for message in messages:
            size += len(message[2])
        if not (self._inbox and self._link.up):
            error: BrokerError | None = NotStored("the broker cannot be reached")
        elif self._count and self._count + len(messages) > self._max_waiting:
            error = Busy("too many messages wait for the broker")
        elif size + HEADERS_MAX > self._link.nc.max_payload:
            error = NotStored("the message is larger than the broker takes")
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
            group = _Group()
            self._waiting.append(group)
            if self._on_its_way is None and len(self._waiting) == 1:
                self._loop.call_soon(self._send_next)
        group.messages += messages
        group.size += size
        group.waiters.append((len(group.messages), done))
        self._count += len(messages)

    def _send_next(self) -> None:
        if self._on_its_way is None and self._waiting:
            self._on_its_way = self._waiting.popleft()
            self._send(self._on_its_way)

    def _send(self, group: _Group) -> None:
        self._sent += 1
        group.sent_at = time.perf_counter()
        self._deadline = self._loop.call_later(self.timeout, self._late, group)
        try:
            self._link.write(self._frames(group, f"{self._inbox}.{self._sent}"))
        except NotStored as error:
            self._end(group, 0, str(error))

    def _is_atomic(self, count: int) -> bool:
        """Whether that is clearly faster, as far as the groups before tell."""
        if count < FEW or not self._message_takes:
            return False
        atomic = min(self._atomic_takes) + count * ATOMIC_EACH
        return count * min(self._message_takes) > 1.5 * atomic

    def _frames(self, group: _Group, reply: str) -> bytes:
        count = len(group.messages)
        frames: list[bytes] = []
        if count == 1:
            frames.append(_frame(group.messages[0], reply))
        elif self._is_atomic(count):
            group.atomic = True
            batch = f"Nats-Batch-Id: {self._inbox[-12:]}{self._sent}\r\nNats-Batch-Sequence: ".encode()
            for n, message in enumerate(group.messages, 1):
                end = b"\r\n" if n < count else b"\r\nNats-Batch-Commit: 1\r\n"
                frames.append(_frame(message, reply if n == count else "", b"%b%d%b" % (batch, n, end)))
        else:
            for n, message in enumerate(group.messages, 1):
                step = _COMMIT if n == count else _ADD if n > 1 else _START
                frames.append(_frame(message, f"{reply}.{_NO_FLOW}.fail.{n}.{step}.$FI"))
        return b"".join(frames)

    def _answered(self, subject: bytes, _: bytes, data: bytes, __: bytes | None) -> None:
        group = self._on_its_way
        if group is None or subject[len(self._inbox) + 1 :].partition(b".")[0] != b"%d" % self._sent:
            return
        if not data:
            self._end(group, 0, "no stream takes this subject yet")
            return
        try:
            answer = json.loads(data.decode())
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            self._end(group, 0, "the broker's answer cannot be read")
            return
        count = len(group.messages)
        if error := answer.get("error"):
            self._end(group, 0, error.get("description", "refused by the broker"))
        elif "seq" in answer and "type" not in answer:
            group.stored = answer["count"] if "batch" in answer else group.stored + 1
            if "batch" in answer or group.stored == count:
                took = time.perf_counter() - group.sent_at
                self._measure(group, took)
                self._end(group, group.stored, "the broker did not take all of its group", took)

    def _measure(self, group: _Group, took: float) -> None:
        if group.atomic:
            self._atomic_takes.append(took - len(group.messages) * ATOMIC_EACH)
        elif len(group.messages) >= FEW:
            self._message_takes.append(took / len(group.messages))

    def _end(self, group: _Group, stored: int, why: str, took: float | None = None) -> None:
        if group is not self._on_its_way:
            return
        self._on_its_way = None
        self._longest_wait = max(self._longest_wait, time.perf_counter() - group.sent_at)
        self._deadline.cancel()
        self._count -= len(group.messages)
        self.on_end(stored, len(group.messages) - stored, took)
        group.end(stored, why)
        if self._waiting:
            self._loop.call_soon(self._send_next)

    def _late(self, group: _Group) -> None:
        if group is self._on_its_way:
            if not self._message_takes:  # or a disk that is too slow for the first one stays so for the next
                self._measure(group, self.timeout)
            self._fail_all(f"no answer from the broker within {self.timeout:g} s")

    def _fail_all(self, reason: str) -> None:
        waiting, self._waiting = self._waiting, deque()
        if self._on_its_way:
            self._end(self._on_its_way, 0, reason)
        for group in waiting:
            self._count -= len(group.messages)
            self.on_end(0, len(group.messages), None)
            group.end(0, reason)


_START, _ADD, _COMMIT = range(3)
_NO_FLOW = 65535
"""Messages after which the broker would answer before the end of a fast batch: more than a group has."""


def _frame(message: Message, reply: str, more: bytes = b"") -> bytes:
    lines = b"NATS/1.0\r\n%b%b\r\n" % (message.headers, more)
    return hpub_cmd(message.subject, reply, lines, message.payload)
