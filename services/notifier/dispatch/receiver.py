"""One receiver's worker: waits for something to send, composes it, sends it. None waits for another."""

import asyncio
from datetime import datetime

from services.notifier.alerting.changes import StatusChange, UnusualRun
from services.notifier.alerting.policy import active_mutes, with_mute
from services.notifier.channels.channel import Channel, EditingChannel
from services.notifier.dispatch.dependencies import ReceiverDependencies
from services.notifier.dispatch.notification_log import Intent, MessageKind, NotificationLog, ReceiverState
from services.notifier.dispatch.sender import Sender
from services.notifier.dispatch.shown import ShownMessages
from services.notifier.dispatch.sources import notices
from services.notifier.dispatch.sources.changes import ChangeSource, PendingChanges, PendingRuns
from services.notifier.dispatch.sources.runs import RunSource
from services.notifier.dispatch.sources.source import MessageSource, ReceiverContext
from services.notifier.texts.message import OutgoingMessage
from shared.domain.routing import Choice
from shared.messaging.connection import set_within

POLL_INTERVAL = 30.0
"""Longest sleep: the clock may be set, and an idle receiver's record moves on."""
SHUTDOWN_GRACE = 3.0
"""Seconds that a message on its way has to arrive when the process is told to end."""


class ReceiverWorker:
    """`run` until cancelled. Everything that may lead to a message is given to it meanwhile."""

    def __init__(self, channel: Channel, log: NotificationLog, deps: ReceiverDependencies) -> None:
        log.record.on_write = deps.on_record
        self.channel, self.log, self._deps = channel, log, deps
        context = ReceiverContext(channel.name, deps, log)
        self.alerts, self._wake, self._retry_now = context.alerts, context.wake, asyncio.Event()
        self.shown = ShownMessages(channel, log, deps) if isinstance(channel, EditingChannel) else None
        self.sender = Sender(channel, context, self.shown)
        self.deafness, self.digest = notices.DeafnessSource(context), notices.DigestSource(context)
        self._changes, self.reminders = ChangeSource(context), notices.ReminderSource(context)
        self._runs = RunSource(context)
        withheld = notices.WithheldSource(context, self.reminders)
        self._sources = (self.deafness, self.digest, self._changes, withheld, self.reminders, self._runs)

    @property
    def address(self) -> str:
        return self.sender.address

    def is_at(self, chat: str) -> bool:
        """Also by the number that its group had before it became a supergroup."""
        return chat in (self.address, self.channel.chat)

    @property
    def state(self) -> ReceiverState:
        return self.log.state

    @property
    def pending(self) -> PendingChanges:
        return self._changes.pending

    @property
    def pending_runs(self) -> PendingRuns:
        return self._runs.pending

    # --- the loop

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send_all())
            if self.shown:
                group.create_task(self.shown.run())

    async def _send_all(self) -> None:
        while True:
            await self._wait_for_work()
            await self.channel.turn(self.address)
            composed = await self._compose()
            if composed is None:
                continue
            attempt = asyncio.create_task(self.sender.send(*composed))
            try:
                pause = await asyncio.shield(attempt)
            except asyncio.CancelledError:
                await asyncio.wait({attempt}, timeout=SHUTDOWN_GRACE)
                attempt.cancel()
                raise
            self._retry_now.clear()
            await set_within(self._retry_now, pause)

    async def _wait_for_work(self) -> None:
        while not self._has_work():
            if self.pending.behind and not self.pending.changes:
                await self.pending.refill(self._deps.page)
                continue
            if self.pending_runs.behind and not self.pending_runs.changes:
                await self.pending_runs.refill(self._deps.run_page)
                continue
            self._wake.clear()
            if self.shown:
                self.shown.idle.set()
            woken = await set_within(self._wake, min(POLL_INTERVAL, self.digest.seconds_until_next()))
            if self.shown:
                self.shown.idle.clear()
            if not woken:
                await self._changes.advance_idle(self._runs.progress())
                self.alerts.forget_old_turns()

    def _has_work(self) -> bool:
        if unfinished := self.state.sending:
            return all(
                source.has_read(unfinished) for source in self._sources if source.kind is unfinished.of
            )
        return self.deafness.cut_off_since is not None or any(map(self._is_ready, self._sources))

    def _is_ready(self, source: MessageSource) -> bool:
        return not self.sender.is_postponed(source.kind) and source.is_waiting()

    async def _compose(self) -> tuple[MessageSource, OutgoingMessage, Intent] | None:
        """What comes next: what an earlier attempt left unfinished, else of the first source that has any."""
        await self.deafness.record_cut_off()
        await self._changes.drop_expired()
        unfinished = self.state.sending
        if unfinished:
            sources = [source for source in self._sources if source.kind is unfinished.of]
        else:  # changes that were refused let others go first
            refused = self.sender.was_refused(MessageKind.CHANGES)
            sources = sorted(self._sources, key=lambda it: refused and it.kind is MessageKind.CHANGES)
        for source in sources:
            is_postponed = unfinished is None and self.sender.is_postponed(source.kind)
            if not is_postponed and (draft := await source.compose(unfinished)):
                return source, *draft
        return None

    # --- what may lead to a message

    def enqueue(self, seq: int, change: StatusChange | None) -> None:
        """The event at a sequence: a change, or nothing that is sent."""
        self.pending.enqueue(seq, change)
        if change or self.pending.behind or self.state.sending:
            self._wake.set()

    def enqueue_run(self, seq: int, run: UnusualRun | None) -> None:
        """The fact about a run at a sequence of theirs."""
        self.pending_runs.enqueue(seq, run)
        self._wake.set()

    def tick(self) -> None:
        self.alerts.tick()
        if self.shown:
            self.shown.tick()
        if self._is_ready(self.deafness):
            self._wake.set()

    # --- how it stands

    def digest_overdue(self) -> float:
        """Seconds since a digest was due that is still to be sent."""
        return self.digest.overdue() if not self.state.off and self._is_ready(self.digest) else 0.0

    # --- what people ask of it

    def mutes(self) -> dict[str, datetime]:
        """Of an older version, which muted in one chat alone."""
        return active_mutes(self.state.mutes, self._deps.now())

    async def unmute(self, name: str) -> None:
        """What happened until now stays withheld."""
        now = self._deps.now()
        await self.log.update(mutes=with_mute(self.state.mutes, name, now, now))
        self.alerts.evaluate(name)

    async def choose(self, choice: Choice) -> None:
        """What a subscriber wants to hear. What is down and was not told because of the choice before is told
        now."""
        await self.log.update(choice=choice)
        self.alerts.routes_changed()

    async def switch_on(self) -> str | None:
        """Somebody in the chat has asked for messages. Why it was off, if it was."""
        self.try_now()
        reason = self.state.off
        if reason:
            await self.sender.switch_on()
        return reason

    def try_now(self) -> None:
        """Whatever it waits for before its next attempt."""
        self.sender.reset_backoff()
        self._retry_now.set()
