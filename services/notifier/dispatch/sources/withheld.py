"""What was withheld of services, and is to be told now: how they are, or that they flap no more."""

from dataclasses import replace
from typing import Any

from services.notifier.alerting.changes import Notice, NoticeKind, StatusChange
from services.notifier.dispatch.notification_log import Intent, MessageKind
from services.notifier.dispatch.sources.reminders import ReminderSource
from services.notifier.dispatch.sources.source import Draft, MessageSource
from services.notifier.texts.message import OutgoingMessage
from services.notifier.texts.notices import notice_message
from shared.contracts.events import moment


class WithheldSource(MessageSource):
    kind = MessageKind.OWED

    def __init__(self, reminders: ReminderSource, *parts: Any) -> None:
        super().__init__(*parts)
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
        notes = self._notes.above(unfinished)
        message = notice_message(notices, self._deps.links, self._log.state.done, changes, notes)
        return message, unfinished or Intent(through=self._log.state.done, owed=message.notices)

    def _note_maybe_told(self, notice: Notice) -> None:
        """It is due no more, but the receiver may have been told it. (Of a recovery that may have been told
        the fall counts, which was.)"""
        alerts, name = self._alerts, notice.name
        withheld, flap_state = alerts.withheld.get(name), alerts.flapping.get(name)
        if withheld and withheld.seq == notice.seq:
            is_worse = notice.status.badness > withheld.told.badness
            told, since = (notice.status, notice.since) if is_worse else (withheld.told, withheld.told_since)
            alerts.withheld[name] = replace(withheld, told=told, maybe=True, told_since=since)
        if (
            flap_state
            and flap_state.flapping_since == notice.flapping_since
            and notice.kind is NoticeKind.CALM
        ):
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
