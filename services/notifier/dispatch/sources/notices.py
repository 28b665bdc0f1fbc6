"""What is told of services though they have not changed: how they are, which was withheld, that they flap no
more, and reminders that they are still down."""

from collections import deque
from dataclasses import replace
from datetime import UTC, datetime

from services.notifier.alerting.changes import Notice, NoticeKind, StatusChange
from services.notifier.dispatch.notification_log import Intent, MessageKind
from services.notifier.dispatch.sources.source import Draft, MessageSource, ReceiverContext
from services.notifier.texts.message import OutgoingMessage
from services.notifier.texts.notices import notice_message
from shared.contracts.events import moment

MAX_REMINDERS = 10_000


class ReminderSource(MessageSource):
    kind = MessageKind.REMINDERS

    def __init__(self, context: ReceiverContext) -> None:
        super().__init__(context)
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
            elif (
                not self._deps.reminders.is_current(reminder)
                or reminder.seq > done
                or name in self._alerts.withheld
            ):
                continue
            elif not self._alerts.suppress(name, now):  # else it is told when nothing suppresses it any more
                told[name] = reminder
        if told:
            newest = max(reminder.at for reminder in self._waiting)
            intent = unfinished or Intent(through=done, notices=newest)
            notes = self._notes(unfinished)
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


class WithheldSource(MessageSource):
    kind = MessageKind.OWED

    def __init__(self, context: ReceiverContext, reminders: ReminderSource) -> None:
        super().__init__(context)
        self._reminders = reminders

    def is_waiting(self) -> bool:
        return bool(self._alerts.due)

    async def compose(self, unfinished: Intent | None) -> Draft | None:
        alerts = self._alerts
        for name in list(alerts.due):
            alerts.evaluate(name)
        if unfinished:
            for notice in unfinished.owed:
                if not alerts.is_still_due(notice):
                    self._note_maybe_told(notice)
            notices = [notice for notice in unfinished.owed if alerts.is_still_due(notice)]
            if not notices:
                await self._log.update(sending=None, **alerts.as_record())
        else:
            notices = sorted(alerts.due.values(), key=lambda notice: (notice.since, notice.name))
        if not notices:
            return None
        changes = {notice.name: change for notice in notices if (change := self._change_of(notice))}
        notes = self._notes(unfinished)
        message = notice_message(notices, self._deps.links, self._log.state.done, changes, notes)
        return message, unfinished or Intent(through=self._log.state.done, owed=message.notices)

    def _note_maybe_told(self, notice: Notice) -> None:
        """It is due no more, but the receiver may have been told it."""
        alerts, name = self._alerts, notice.name
        withheld, flap_state = alerts.withheld.get(name), alerts.flapping.get(name)
        if withheld and withheld.seq == notice.seq:
            alerts.withheld[name] = withheld.maybe_told(notice.status, notice.since)
        is_calm = notice.kind is NoticeKind.CALM
        if is_calm and flap_state and flap_state.flapping_since == notice.flapping_since:
            alerts.flapping[name] = replace(flap_state, maybe=True)

    def _change_of(self, notice: Notice) -> StatusChange | None:
        """The change that a notice makes up for, as if it were stored now; None if the receiver believes
        already that it is so."""
        withheld, state = self._alerts.withheld.get(notice.name), self._deps.states.get(notice.name)
        if notice.kind is not NoticeKind.OWED or withheld is None or withheld.told is notice.status:
            return None
        problem = self._deps.states.problems.get(notice.name)
        return StatusChange(
            notice.seq,
            notice.at,
            notice.name,
            withheld.told,
            notice.status,
            notice.since,
            moment(state.last_heartbeat) if state.last_heartbeat else None,
            problem.reason if problem else "",
            withheld.told_since,
            problem.message if problem else None,
            problem.duration if problem else None,
        )

    async def record_sent(self, message: OutgoingMessage, intent: Intent, also: dict[str, object]) -> None:
        for notice in message.notices:
            self._alerts.notice_sent(notice)
        said = self._reminders.said_by(message)
        changed = {**self._alerts.as_record(), **self._reminders.done_with(said), **also}
        await self._log.update(sending=None, **changed)
        self._reminders.remove(said)
        for notice in message.notices:
            self._alerts.evaluate(notice.name)
