"""That the registry takes no heartbeats, or that it could not for a while."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from services.notifier.alerting.changes import Deafness
from services.notifier.channels.channel import Limited, Sent
from services.notifier.dispatch.notification_log import Intent, MessageKind
from services.notifier.dispatch.sender import Backoff, Sender
from services.notifier.dispatch.sources.source import Draft, MessageSource
from services.notifier.texts.message import OutgoingMessage
from services.notifier.texts.registry import deafness_message


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
