"""What is told though no status has changed. Of services: how they are, which was withheld, that they flap no
more, and reminders that they are still down. Of the registry: digests, and that it takes no heartbeats."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime

from prometheus_client import Gauge

from services.notifier.alerting.changes import Deafness, Notice, NoticeKind, StatusChange
from services.notifier.channels.channel import Backoff, Limited, Sent
from services.notifier.dispatch.notification_log import Intent, MessageKind
from services.notifier.dispatch.sender import Sender
from services.notifier.dispatch.sources.source import Draft, MessageSource, ReceiverContext
from services.notifier.texts.changes import MAX_BLOCKS
from services.notifier.texts.message import OutgoingMessage, digest_message
from services.notifier.texts.notices import deafness_message, notice_message
from shared.contracts.events import moment
from shared.domain.digest import digest_due, next_digest_at

LAST_DIGEST = Gauge("registry_last_digest_timestamp_seconds", "When a digest was last sent")

MAX_REMINDERS = 10_000


class ReminderSource(MessageSource):
    kind = MessageKind.REMINDERS

    def __init__(self, context: ReceiverContext) -> None:
        super().__init__(context)
        self._waiting: deque[Notice] = deque(maxlen=MAX_REMINDERS)

    def is_waiting(self) -> bool:
        return bool(self._waiting)

    def add(self, reminder: Notice) -> None:
        """Unless this reminder is done with already, or one of others'."""
        done_until = self._log.state.notices
        is_own = reminder.schedule == self._alerts.reminders_of(reminder.name)
        if is_own and done_until is not None and reminder.at > done_until:
            self._waiting.append(reminder)
            self._wake.set()

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
                or self._alerts.is_acknowledged(name)
            ):
                continue
            elif not self._alerts.suppress(name, now):  # else it is told when nothing suppresses it any more
                told[name] = replace(reminder, has_sound=self._alerts.has_sound(name))
        if told:
            newest = max(reminder.at for reminder in self._waiting)
            intent = unfinished or Intent(through=done, notices=newest)
            notes = self._notes(unfinished)
            return notice_message(sorted(told.values()), self._deps.links, done, notes=notes), intent
        if self._waiting or unfinished:
            await self._skip(unfinished, until, later)
        return None

    async def _skip(self, unfinished: Intent | None, until: datetime, later: list[Notice]) -> None:
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
            notices = [
                replace(notice, has_sound=alerts.due[notice.name].has_sound)
                for notice in unfinished.owed
                if alerts.is_still_due(notice)
            ]
            if not notices:
                await self._log.update(sending=None, **alerts.as_record())
        else:
            notices = sorted(alerts.due.values(), key=lambda notice: (notice.since, notice.name))
        if not notices:
            return None
        few = len(notices) <= MAX_BLOCKS
        changes = {notice.name: change for notice in notices if (change := self._change_of(notice, few))}
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

    def _change_of(self, notice: Notice, is_at_length: bool) -> StatusChange | None:
        """The change that a notice makes up for, as if it were stored now; None if the receiver knows."""
        withheld, state = self._alerts.withheld.get(notice.name), self._deps.states.get(notice.name)
        if notice.kind is not NoticeKind.OWED or withheld is None or withheld.told is notice.status:
            return None
        problem = self._deps.states.problems.get(notice.name)
        change = StatusChange(
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
            has_sound=notice.has_sound,
            nobody_for=notice.nobody_for,
        )
        return replace(change, remark=self._alerts.remark(change)) if is_at_length else change

    async def record_sent(self, message: OutgoingMessage, intent: Intent, also: dict[str, object]) -> None:
        for notice in message.notices:
            self._alerts.notice_sent(notice)
        said = self._reminders.said_by(message)
        changed = {**self._alerts.as_record(), **self._reminders.done_with(said), **also}
        await self._log.update(sending=None, **changed)
        self._reminders.remove(said)
        for notice in message.notices:
            self._alerts.evaluate(notice.name)


# --- the registry as a whole


class DigestSource(MessageSource):
    kind = MessageKind.DIGEST

    def is_waiting(self) -> bool:
        return self._due() is not None

    def _due(self) -> Intent | None:
        """The digest that is to be sent now. On its weekday the one of the week comes first."""
        deps, state, now = self._deps, self._log.state, self._deps.now()
        if deps.digest_at is None:
            return None
        for weekly, last in ((True, state.weekly), (False, state.digest)):
            day = digest_due(now, deps.links.zone, deps.digest_at, last)
            if day and (not weekly or day.weekday() == deps.weekly_on):
                return Intent(through=state.done, digest=day, weekly=weekly)
        return None

    async def compose(self, unfinished: Intent | None) -> Draft | None:
        intent = unfinished or self._due()
        if intent is None:
            return None
        lines = await self._deps.digest_lines(self._deps.now(), intent.weekly)
        notes = self._notes(unfinished)
        return digest_message(lines, self._deps.links, intent.through, notes), intent

    async def record_sent(self, message: OutgoingMessage, intent: Intent, also: dict[str, object]) -> None:
        LAST_DIGEST.set(self._deps.now().timestamp())
        day = {"weekly" if intent.weekly else "digest": intent.digest}
        await self._log.update(sending=None, digest_sent=intent.digest, **day, **also)

    def sent_at(self) -> datetime | None:
        """When the newest daily digest that was sent was due."""
        return self._due_at(self._log.state.digest)

    def overdue(self) -> float:
        """Seconds since a digest was due that is still to be sent."""
        due = self._due()
        at = self._due_at(due.digest) if due else None
        return max(0.0, (self._deps.now() - at).total_seconds()) if at else 0.0

    def seconds_until_next(self) -> float:
        at, now = self._deps.digest_at, self._deps.now()
        if at is None:
            return float("inf")
        return (next_digest_at(now, self._deps.links.zone, at) - now).total_seconds()

    def _due_at(self, day: date | None) -> datetime | None:
        at = self._deps.digest_at
        return datetime.combine(day, at, self._deps.links.zone) if day and at else None


class DeafnessSource(MessageSource):
    kind = MessageKind.DEAFNESS

    cut_off_since: datetime | None = None
    """Since when the broker is away, if the receiver was told so and it could not be recorded."""

    def is_waiting(self) -> bool:
        return self._next() is not None

    def _next(self) -> Intent | None:
        """What the receiver has not been told yet."""
        state = self._log.state
        found = self._deps.deafness(state.heard_until) if state.heard_until else None
        if found is None:
            return None
        if state.deaf_since:
            found = [it for it in found if it.until is None or it.until > state.deaf_since]
            if found and found[0].until is None:
                return None  # it lasts, as the receiver knows
            over = found[0] if found else Deafness(state.deaf_since, self._deps.now(), cut_off=True)
            return Intent(through=state.done, deaf=over)
        return Intent(through=state.done, deaf=found[0]) if found else None

    async def compose(self, unfinished: Intent | None) -> Draft | None:
        intent = unfinished or self._next()
        if intent is None or intent.deaf is None:
            return None
        notes, now = self._notes(unfinished), self._deps.now()
        return deafness_message(intent.deaf, now, self._deps.links, intent.through, notes), intent

    async def record_sent(self, message: OutgoingMessage, intent: Intent, also: dict[str, object]) -> None:
        assert intent.deaf
        until = intent.deaf.until
        since = None if until else intent.deaf.since
        heard_until = until or self._log.state.heard_until
        await self._log.update(sending=None, deaf_since=since, heard_until=heard_until, **also)

    async def send_cut_off(self, sender: Sender, since: datetime, is_away: Callable[[], bool]) -> None:
        """Say that the broker is away, once, without the record, which is there: it is recorded later."""
        state = self._log.state
        if state.deaf_since or self.cut_off_since:
            return
        deaf, backoff = Deafness(since, cut_off=True), Backoff()
        id_ = Intent(through=state.done, deaf=deaf).message_id(state.done)
        while is_away():
            await sender.channel.turn(sender.address)
            message = deafness_message(deaf, self._deps.now(), self._deps.links, state.done)
            outcome = await sender.channel.send(sender.address, replace(message, id=id_), None)
            if isinstance(outcome, Sent):
                self.cut_off_since = since
                self._wake.set()
                return
            pause = backoff.next()
            await asyncio.sleep(outcome.retry_after if isinstance(outcome, Limited) else pause)

    async def record_cut_off(self) -> None:
        if self.cut_off_since:
            await self._log.update(deaf_since=self.cut_off_since)
            self.cut_off_since = None
