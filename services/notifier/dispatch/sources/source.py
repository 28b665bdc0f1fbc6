"""What messages are made from. A receiver asks its sources in order; the first that has something to send
composes the message, and records later that it was sent."""

import asyncio
from abc import ABC, abstractmethod
from datetime import datetime

from prometheus_client import Counter

from services.notifier.dispatch.alert_states import AlertStates
from services.notifier.dispatch.dependencies import ReceiverDependencies
from services.notifier.dispatch.notification_log import Intent, MessageKind, NotificationLog
from services.notifier.texts.message import REPEAT, OutgoingMessage, late_note

MESSAGES = Counter("registry_messages_total", "Attempts to send a message, by how they ended", ["result"])
for _result in ("sent", "failed", "limited", "migrated", "permanent", "refused", "badtoken", "expired"):
    MESSAGES.labels(_result)

Draft = tuple[OutgoingMessage, Intent]


class ReceiverContext:
    """What the parts of one receiver share. `wake` is set when there may be something to send."""

    def __init__(self, channel: str, deps: ReceiverDependencies, log: NotificationLog) -> None:
        """`channel`: by its name."""
        self.deps, self.log, self.wake = deps, log, asyncio.Event()
        self.alerts = AlertStates(channel, deps, log, self.wake.set)
        self._late: tuple[datetime, datetime] | None = None
        """From when to when the receiver refused messages, if it takes them again."""

    def switched_on(self) -> dict[str, object]:
        """The receiver takes messages again. What is to be recorded of that."""
        now = self.deps.now()
        self._late = self.log.state.off_since or now, now
        return {"off": None, "off_since": None}

    def notes(self, unfinished: Intent | None, oldest: datetime | None = None) -> list[str]:
        """What stands above a message. `oldest`: when the first change was stored that it tells of."""
        state = self.log.state
        since = state.off_since if state.off else None
        if since is None and self._late and oldest and oldest <= self._late[1]:
            since = self._late[0]
        return [*([REPEAT] if unfinished else []), *([late_note(since, self.deps.links)] if since else [])]


class MessageSource(ABC):
    kind: MessageKind

    def __init__(self, context: ReceiverContext) -> None:
        self._deps, self._log, self._alerts = context.deps, context.log, context.alerts
        self._notes, self._wake = context.notes, context.wake

    @abstractmethod
    def is_waiting(self) -> bool:
        """Whether there may be something to send."""

    def has_read(self, unfinished: Intent) -> bool:
        """Whether all that an unfinished message tells of is there again, or cannot be all in memory."""
        return True

    @abstractmethod
    async def compose(self, unfinished: Intent | None) -> Draft | None:
        """The message to send now. `unfinished`: an attempt that may have arrived, and is to be repeated."""

    @abstractmethod
    async def record_sent(self, message: OutgoingMessage, intent: Intent, also: dict[str, object]) -> None:
        """Record that a message is done with, and `also` what else has changed, in one write."""
