"""The daily and the weekly digest."""

from datetime import date, datetime

from prometheus_client import Gauge

from services.notifier.dispatch.notification_log import Intent, MessageKind
from services.notifier.dispatch.sources.source import Draft, MessageSource
from services.notifier.texts.message import OutgoingMessage
from services.notifier.texts.registry import digest_message
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
