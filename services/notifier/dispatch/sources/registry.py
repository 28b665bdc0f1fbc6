"""What is told of the registry as a whole: the digest of the day and of the week, and that it takes no
heartbeats, or could not for a while."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime

from prometheus_client import Gauge

from services.notifier.alerting.changes import Deafness
from services.notifier.channels.channel import Backoff, Limited, Sent
from services.notifier.dispatch.notification_log import Intent, MessageKind
from services.notifier.dispatch.sender import Sender
from services.notifier.dispatch.sources.source import Draft, MessageSource
from services.notifier.texts.message import OutgoingMessage
from services.notifier.texts.registry import deafness_message, digest_message
from shared.domain.digest import digest_due, next_digest_at

LAST_DIGEST = Gauge("registry_last_digest_timestamp_seconds", "When a digest was last sent")


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
        await self._log.update(sending=None, **day, **also)

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

    async def send_cut_off(self, sender: Sender, since: datetime, is_away: Callable[[], bool]) -> bool:
        """Say that the broker is away, once, without the record, which is there. Whether it was said."""
        state = self._log.state
        if state.deaf_since or self.cut_off_since:
            return False
        deaf, backoff = Deafness(since, cut_off=True), Backoff()
        id_ = Intent(through=state.done, deaf=deaf).message_id(state.done)
        while is_away():
            await sender.channel.turn(sender.address)
            message = deafness_message(deaf, self._deps.now(), self._deps.links, state.done)
            outcome = await sender.channel.send(sender.address, replace(message, id=id_), None)
            if isinstance(outcome, Sent):
                self.cut_off_since = since
                return True
            pause = backoff.next()
            await asyncio.sleep(outcome.retry_after if isinstance(outcome, Limited) else pause)
        return False

    async def record_cut_off(self) -> None:
        if self.cut_off_since:
            await self._log.update(deaf_since=self.cut_off_since)
            self.cut_off_since = None
