"""What waits for a receiver: changes of status, and runs of an unusual length, each in their order. What
finds no room is read from the record in its turn."""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Generic, TypeVar

import structlog

from services.notifier.alerting.changes import StatusChange, UnusualRun
from services.notifier.alerting.policy import EXPIRES_AFTER, Decision
from services.notifier.dispatch.notification_log import Intent, MessageKind
from services.notifier.dispatch.sources.source import MESSAGES, Draft, MessageSource, ReceiverContext
from services.notifier.texts.changes import MAX_BLOCKS, changes_message
from services.notifier.texts.message import OutgoingMessage

log = structlog.get_logger()

MAX_PENDING = 10_000
"""Changes held in memory per receiver."""

Item = TypeVar("Item", StatusChange, UnusualRun)


class Pending(Generic[Item]):
    def __init__(self, after: int) -> None:
        self.changes: deque[Item] = deque()
        self.tail = after
        """Every change up to here is in `changes`, or done, or not to be sent."""
        self._skipped = after

    @property
    def behind(self) -> bool:
        return self._skipped > self.tail

    def enqueue(self, seq: int, change: Item | None) -> None:
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

    async def refill(self, page: Callable[[int, int], Awaitable[tuple[list[Item], int, bool]]]) -> None:
        """Read what was skipped. At the record's end, whatever had been skipped by then has been read."""
        skipped = self._skipped
        changes, read, at_end = await page(self.tail, MAX_PENDING)
        self.changes += changes
        self.tail = max(read, skipped) if at_end else read

    def drop(self, through: int) -> None:
        while self.changes and self.changes[0].seq <= through:
            self.changes.popleft()


PendingChanges = Pending[StatusChange]
PendingRuns = Pending[UnusualRun]


class ChangeSource(MessageSource):
    kind = MessageKind.CHANGES

    def __init__(self, context: ReceiverContext) -> None:
        super().__init__(context)
        self.pending = PendingChanges(self._log.state.done)
        self._decisions: list[Decision] = []
        """Of the changes that are being sent, and of those among them that are withheld."""

    def is_waiting(self) -> bool:
        return bool(self.pending.changes)

    def has_read(self, unfinished: Intent) -> bool:
        return self.pending.tail >= unfinished.through or self.pending.behind

    async def compose(self, unfinished: Intent | None) -> Draft | None:
        waiting = [it for it in self.pending.changes if unfinished is None or it.seq <= unfinished.through]
        self._decisions = self._alerts.decide(waiting)
        if unfinished:
            self._decisions = [_maybe_told(decision, unfinished) for decision in self._decisions]
        if sent := [decision.change for decision in self._decisions if decision.is_sent]:
            notes = self._notes(unfinished, waiting[0].stored_at)
            if len({it.name for it in sent}) <= MAX_BLOCKS:
                sent = [replace(it, remark=self._alerts.remark(it)) for it in sent]
            message = changes_message(sent, self._deps.links, notes, doubted=self._log.state.doubted)
            names = (*(unfinished.names if unfinished else ()), *(it.name for it in message.changes))
            intent = unfinished or Intent(through=message.through_seq)
            return message, intent.model_copy(update={"names": tuple(dict.fromkeys(names))})
        if waiting or unfinished:
            await self._skip(waiting, unfinished)
        return None

    async def _skip(self, waiting: Sequence[StatusChange], unfinished: Intent | None) -> None:
        """Nothing of what waits is to be sent, nor of what was left unfinished."""
        through = max([change.seq for change in waiting], default=0)
        self.pending.drop(through)
        done = max(self._log.state.done, through, unfinished.through if unfinished else 0)
        await self._record(self._decisions, done=done, sending=None)

    async def record_sent(self, message: OutgoingMessage, intent: Intent, also: dict[str, object]) -> None:
        self.pending.drop(message.through_seq)
        idle = not self.pending.changes and not self.pending.behind
        await self._record(
            [it for it in self._decisions if it.change.seq <= message.through_seq],
            done=max(self.pending.tail, message.through_seq) if idle else message.through_seq,
            sending=intent if message.through_seq < intent.through else None,
            doubted=max(filter(None, (self._log.state.doubted, message.doubted)), default=None),
            **also,
        )

    async def drop_expired(self) -> None:
        """Of changes that are not worth sending any more only the state that they led to is kept."""
        horizon = self._deps.now() - EXPIRES_AFTER
        old = list(takewhile(lambda change: change.stored_at < horizon, self.pending.changes))
        if not old:
            return
        log.error("changes older than a day were not sent", chat=self._log.key, changes=len(old))
        MESSAGES.labels("expired").inc(len(old))
        self.pending.drop(old[-1].seq)
        await self._record(self._alerts.decide(old, all_suppressed=True), done=old[-1].seq)

    async def _record(self, decisions: Sequence[Decision], **changed: object) -> None:
        self._alerts.apply(decisions)
        await self._log.update(**self._alerts.as_record(), **changed)
        for name in dict.fromkeys(decision.change.name for decision in decisions):
            self._alerts.evaluate(name)

    async def advance_idle(self, also: dict[str, object]) -> None:
        """Let the record of an idle receiver follow, so that a restart need not read far back."""
        pending = self.pending
        if not pending.changes and not pending.behind and pending.tail > self._log.state.done:
            await self._log.update(done=pending.tail, **self._alerts.as_record(), **also)
        elif also:
            await self._log.update(**also)


def _maybe_told(decision: Decision, unfinished: Intent) -> Decision:
    """What is withheld now may have been told by the unfinished attempt."""
    change, withheld = decision.change, decision.withheld
    if withheld is None or change.name not in unfinished.names:
        return decision
    return replace(decision, withheld=withheld.maybe_told(change.to, change.since))
