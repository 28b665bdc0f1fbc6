"""How much waits for the broker, in all and of each sender. Both are bounded."""

from collections import Counter

from shared.messaging.errors import BrokerError, Busy, ShareExhausted

MAX_BYTES = 32 * 1024 * 1024
"""Bytes of payload that may wait in all."""
SHARE = 10
"""The messages of one sender may take a tenth of what may wait, so that it cannot fill it for all."""


class Backlog:
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
            if (waiting + count) * SHARE > self._max_messages or size_of * SHARE > MAX_BYTES:
                return ShareExhausted("too many heartbeats of this address wait for the broker")
        if self.messages and (self.messages + count > self._max_messages or self._bytes + size > MAX_BYTES):
            return Busy("too many messages wait for the broker")
        return None

    def add(self, sender: str | None, count: int, size: int) -> None:
        self.messages += count
        self._bytes += size
        if sender:
            self._messages_of[sender] += count
            self._bytes_of[sender] += size

    def remove(self, sender: str | None, count: int, size: int) -> None:
        self.messages -= count
        self._bytes -= size
        if sender:
            self._messages_of[sender] -= count
            self._bytes_of[sender] -= size
            if not self._messages_of[sender]:
                del self._messages_of[sender], self._bytes_of[sender]
