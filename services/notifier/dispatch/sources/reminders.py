"""Reminders that services are still down."""

from collections import deque
from datetime import UTC, datetime
from typing import Any

from services.notifier.alerting.changes import Notice, NoticeKind
from services.notifier.dispatch.notification_log import Intent, MessageKind
from services.notifier.dispatch.sources.source import Draft, MessageSource
from services.notifier.texts.message import OutgoingMessage
from services.notifier.texts.notices import notice_message

MAX_REMINDERS = 10_000


class ReminderSource(MessageSource):
    kind = MessageKind.REMINDERS

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._waiting: deque[Notice] = deque(maxlen=MAX_REMINDERS)

    def is_waiting(self) -> bool:
        return bool(self._waiting)

    def add(self, reminder: Notice) -> bool:
        """False: this reminder is done with already."""
        done_until = self._log.state.notices
        if done_until is None or reminder.at <= done_until:
            return False
        self._waiting.append(reminder)
        return True

    async def compose(self, unfinished: Intent | None) -> Draft | None:
        until = unfinished.notices if unfinished and unfinished.notices else datetime.max.replace(tzinfo=UTC)
        told, later, done, now = {}, [], self._log.state.done, self._deps.now()
        for reminder in self._waiting:
            name = reminder.name
            if reminder.at > until:
                later.append(reminder)
            elif not self._deps.holds(reminder) or reminder.seq > done or name in self._alerts.withheld:
                continue
            elif not self._alerts.suppress(name, now):  # else it is told when nothing suppresses it any more
                told[name] = reminder
        if told:
            newest = max(reminder.at for reminder in self._waiting)
            intent = unfinished or Intent(through=done, notices=newest)
            notes = self._notes.above(unfinished)
            return notice_message(sorted(told.values()), self._deps.links, done, notes=notes), intent
        if self._waiting or unfinished:
            await self._skip(unfinished, until, later)
        return None

    async def _skip(self, unfinished: Intent | None, until: datetime, later: list[Notice]) -> None:
        """None of those that are due is to be sent."""
        passed = max([reminder.at for reminder in self._waiting if reminder.at <= until], default=until)
        self._waiting = deque(later, MAX_REMINDERS)
        done_until = unfinished.notices if unfinished else max(passed, self._log.state.notices or passed)
        await self._log.update(notices=done_until, sending=None, **self._alerts.as_record())

    async def record_sent(self, message: OutgoingMessage, intent: Intent, also: dict[str, object]) -> None:
        until = intent.notices
        assert until
        passed = {reminder for reminder in self._waiting if reminder.at <= until}
        await self._log.update(sending=None, notices=until, **self._alerts.as_record(), **also)
        self.remove(passed)

    def said_by(self, message: OutgoingMessage) -> set[Notice]:
        """Those that were due before a notice of the same service was told, which says the same."""
        told = {it.name: it.at for it in message.notices if it.kind is not NoticeKind.FLAPS}
        return {it for it in self._waiting if it.name in told and it.at <= told[it.name]}

    def done_with(self, passed: set[Notice]) -> dict[str, object]:
        """For the log: until when reminders are done with once these are."""
        until = max((reminder.at for reminder in passed), default=None)
        if until is None or any(it.at <= until for it in self._waiting if it not in passed):
            return {}
        return {"notices": until}

    def remove(self, passed: set[Notice]) -> None:
        """Only once it is recorded: until then events that are read again may bring them once more."""
        self._waiting = deque((it for it in self._waiting if it not in passed), MAX_REMINDERS)
