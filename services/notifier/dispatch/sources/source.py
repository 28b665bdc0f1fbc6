"""What messages are made from. A receiver asks its sources in order; the first that has something to send
composes the message, and records later that it was sent."""

from abc import ABC, abstractmethod
from datetime import datetime

from services.notifier.dispatch.alert_states import AlertStates
from services.notifier.dispatch.dependencies import ReceiverDependencies
from services.notifier.dispatch.notification_log import Intent, MessageKind, NotificationLog
from services.notifier.texts.message import REPEAT, LinkContext, OutgoingMessage, late_note

Draft = tuple[OutgoingMessage, Intent]


class Notes:
    """What stands above a message: that it may be a repeat, and that it is late."""

    def __init__(self, log: NotificationLog, links: LinkContext) -> None:
        self._log = log
        self._links = links
        self._late: tuple[datetime, datetime] | None = None

    def switched_on(self, since: datetime, now: datetime) -> None:
        """The receiver takes messages again, which it has refused since then."""
        self._late = since, now

    def above(self, unfinished: Intent | None, oldest: datetime | None = None) -> list[str]:
        """`oldest`: when the first change was stored that the message tells of."""
        state = self._log.state
        since = state.off_since if state.off else None
        if since is None and self._late and oldest and oldest <= self._late[1]:
            since = self._late[0]
        return [*([REPEAT] if unfinished else []), *([late_note(since, self._links)] if since else [])]


class MessageSource(ABC):
    kind: MessageKind

    def __init__(
        self, deps: ReceiverDependencies, log: NotificationLog, notes: Notes, alerts: AlertStates
    ) -> None:
        self._deps, self._log, self._notes, self._alerts = deps, log, notes, alerts

    @abstractmethod
    def is_waiting(self) -> bool:
        """Whether there may be something to send."""

    @abstractmethod
    async def compose(self, unfinished: Intent | None) -> Draft | None:
        """The message to send now, with what is to be recorded before. `unfinished`: an attempt that may have
        reached the receiver, which is to be repeated."""

    @abstractmethod
    async def record_sent(self, message: OutgoingMessage, intent: Intent, also: dict[str, object]) -> None:
        """Record that a message is done with, and `also` what else has changed, in one write."""
