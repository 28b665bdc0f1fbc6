"""Publishing to a stream that waits until the broker has stored the message."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass

from shared.messaging import streams
from shared.messaging.batch_publisher import header_block
from shared.messaging.connection import BrokerConnection
from shared.messaging.errors import Busy, NoAnswer, NotStored, TooLarge, WrongSequence
from shared.messaging.nats_internals import hpub_cmd, pub_cmd


@dataclass(frozen=True, slots=True)
class Ack:
    seq: int
    duplicate: bool


class Publisher:
    """Publishes to JetStream without waiting for one answer before the next message is sent."""

    def __init__(self, link: BrokerConnection, *, timeout: float = 5.0, max_waiting: int = 20_000) -> None:
        self._link = link
        self.timeout = timeout
        self._max_waiting = max_waiting
        self._waiting: dict[bytes, tuple[float, asyncio.Future[Ack]]] = {}
        """Until when each answer is waited for, and by whom; the oldest first."""
        self._timer: asyncio.TimerHandle | None = None
        """For the oldest: to set one for each message and cancel it takes longer than to send it."""
        self._frames: list[bytes] = []
        """As the broker reads them; what this turn of the loop publishes is written at once."""
        self._count = 0
        self._inbox = ""
        self.on_append: Callable[[NotStored | None], None] = lambda _: None
        """Called for each event with why it was not stored although the broker is connected; None: it was."""

    async def start(self) -> None:
        self._inbox = self._link.nc.new_inbox()
        await self._link.listen(self._inbox + ".*", self._answered)
        self._link.on_lost.append(
            lambda: self._fail_all("the connection to the broker was lost before its answer")
        )

    async def stop(self) -> None:
        self._fail_all("shutting down")

    async def publish(self, subject: str, payload: bytes = b"", headers: dict[str, str] | None = None) -> Ack:
        """Store one message. Raises NotStored (unknown, or no), Busy (no), WrongSequence (no)."""
        if not (self._inbox and self._link.up):
            raise NotStored("the broker cannot be reached")
        if len(self._waiting) >= self._max_waiting:
            raise Busy("too many messages wait for the broker")
        lines = b"NATS/1.0\r\n%b\r\n" % header_block(headers) if headers else b""
        if len(lines) + len(payload) > self._link.nc.max_payload:
            raise TooLarge("the message is larger than the broker takes")
        self._count += 1
        token, loop = b"%d" % self._count, asyncio.get_running_loop()
        future: asyncio.Future[Ack] = loop.create_future()
        reply, until = f"{self._inbox}.{self._count}", loop.time() + self.timeout
        self._waiting[token] = until, future
        self._timer = self._timer or loop.call_at(until, self._time_out)
        try:
            if not self._frames:
                loop.call_soon(self._write)
            self._frames.append(
                hpub_cmd(subject, reply, lines, payload) if lines else pub_cmd(subject, reply, payload)
            )
            return await future
        finally:
            self._waiting.pop(token, None)

    async def append(
        self,
        subject: str,
        payload: bytes,
        *,
        after: int,
        event_id: str,
        kind: str,
        keys: str = "",
    ) -> Ack:
        """Store an event if `after` is still the subject's last sequence (0: none yet), or WrongSequence.
        `keys`: those of the service, if it configures one."""
        headers = {
            "Nats-Expected-Last-Subject-Sequence": str(after),
            "Nats-Msg-Id": event_id,
            streams.TYPE_HEADER: kind,
        }
        if keys:
            headers[streams.KEYS_HEADER] = keys
        try:
            ack = await self.publish(subject, payload, headers)
        except NotStored as error:
            if self._link.up and not isinstance(error, Busy):
                self.on_append(error)
            raise
        self.on_append(None)
        return ack

    def _write(self) -> None:
        frames, self._frames = self._frames, []
        try:
            self._link.write(b"".join(frames))
        except NotStored as error:
            self._fail_all(str(error))

    def _answered(self, subject: bytes, _: bytes, data: bytes, __: bytes | None) -> None:
        waiting = self._waiting.get(subject.rpartition(b".")[2])
        if waiting is None or (future := waiting[1]).done():
            return
        if not data:
            future.set_exception(NotStored("no stream takes this subject yet"))
            self._link.doubt()
            return
        answer = json.loads(data)
        if error := answer.get("error"):
            wrong = error.get("err_code") in _WRONG_SEQUENCE
            kind = WrongSequence if wrong else NotStored
            future.set_exception(kind(error.get("description", "refused by the broker")))
        else:
            future.set_result(Ack(answer["seq"], answer.get("duplicate", False)))

    def _time_out(self) -> None:
        loop, self._timer = asyncio.get_running_loop(), None
        for until, future in self._waiting.values():
            if until > loop.time():
                self._timer = loop.call_at(until, self._time_out)
                return
            if not future.done():
                future.set_exception(NoAnswer(f"no answer from the broker within {self.timeout:g} s"))

    def _fail_all(self, reason: str) -> None:
        self._frames.clear()
        for _, future in self._waiting.values():
            if not future.done():
                future.set_exception(NotStored(reason))


_WRONG_SEQUENCE = {10071, 10164}
