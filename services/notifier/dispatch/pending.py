"""Which changes wait for a receiver, in order. What finds no room is read from the record in its turn."""

from collections import deque
from collections.abc import Awaitable, Callable
from datetime import timedelta

from services.notifier.alerting.changes import StatusChange

MAX_PENDING = 10_000
"""Changes held in memory per receiver."""
EXPIRES_AFTER = timedelta(hours=24)
"""What is older is not sent any more."""

Pages = Callable[[int, int], Awaitable[tuple[list[StatusChange], int, bool]]]
"""Reads changes after a sequence, up to a number of them. Also says which sequence was read last, and whether
that was the record's end."""


class PendingChanges:
    def __init__(self, after: int) -> None:
        self.changes: deque[StatusChange] = deque()
        self.tail = after
        """Every change up to here is in `changes`, or done, or not to be sent."""
        self._skipped = after

    @property
    def behind(self) -> bool:
        return self._skipped > self.tail

    def enqueue(self, seq: int, change: StatusChange | None) -> None:
        if seq <= self.tail:
            return
        if self.behind or len(self.changes) >= MAX_PENDING:
            self._skipped = seq
            return
        self.tail = seq
        if change:
            self.changes.append(change)

    def mark_missed(self, through: int) -> None:
        """Whatever was stored up to here may not have been enqueued."""
        self._skipped = max(self._skipped, through)

    async def refill(self, page: Pages) -> None:
        """Read what was skipped. At the record's end, whatever had been skipped by then has been read."""
        skipped = self._skipped
        changes, read, at_end = await page(self.tail, MAX_PENDING)
        self.changes += changes
        self.tail = max(read, skipped) if at_end else read

    def drop(self, through: int) -> None:
        while self.changes and self.changes[0].seq <= through:
            self.changes.popleft()
