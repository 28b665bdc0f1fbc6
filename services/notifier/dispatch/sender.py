"""Sends one receiver's messages. Each is recorded before it is sent and after it: so a crash in between
repeats that one message, marked as a repeat, and loses none."""

import asyncio
import random
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from services.notifier.alerting.changes import Notice, StatusChange
from services.notifier.alerting.policy import EXPIRES_AFTER
from services.notifier.channels import channel as channels
from services.notifier.channels.channel import Backoff, Channel, Outcome
from services.notifier.dispatch.notification_log import MAX_THREADS, Intent, MessageKind
from services.notifier.dispatch.shown import ShownMessages, ShownService
from services.notifier.dispatch.sources.source import MESSAGES, MessageSource, ReceiverContext
from services.notifier.texts.incidents import incident_buttons
from services.notifier.texts.message import Buttons, OutgoingMessage, cut
from shared.contracts.events import moment
from shared.telemetry import tracing

log = structlog.get_logger()

MIN_POSTPONEMENT = 30.0
"""Seconds, at least, in which what was refused for an unknown reason lets other messages go first."""
ERROR_NOTE_INTERVAL = timedelta(minutes=1)
"""How often an error is recorded by itself."""
MAX_REASON = 300
BAD_TOKEN_RETRY = 30.0
"""Seconds between attempts while the credentials are refused."""


class Sender:
    def __init__(self, channel: Channel, context: ReceiverContext, shown: ShownMessages | None) -> None:
        self.channel, self._context, self._shown = channel, context, shown
        self._log, self._deps = context.log, context.deps
        self._backoff = Backoff()
        self._probe_backoff = Backoff(60.0, 3600.0)
        """Between attempts at a receiver that refuses messages for good."""
        self._refused: dict[MessageKind, tuple[object, datetime]] = {}
        """Of each kind of message what was refused for a reason that is not known, and since when."""
        self._postponed_until: dict[MessageKind, datetime] = {}
        self._moved_to: str | None = None
        """The new address, while it is being recorded."""
        self._error_noted = context.deps.now()
        self._maybe_delivered = context.log.state.sending is not None
        """Whether an attempt at what is being sent may have reached the receiver."""

    @property
    def address(self) -> str:
        return self._moved_to or self._log.state.chat or self.channel.chat

    def is_postponed(self, kind: MessageKind) -> bool:
        until = self._postponed_until.get(kind)
        return until is not None and until > self._deps.now()

    def was_refused(self, kind: MessageKind) -> bool:
        return kind in self._refused

    def reset_backoff(self) -> None:
        self._backoff.reset()
        self._probe_backoff.reset()

    async def send(self, source: MessageSource, message: OutgoingMessage, intent: Intent) -> float:
        """Send a message. Seconds to wait before anything else is sent."""
        falls = await self._falls(message)
        changed: dict[str, object] = {}
        if falls and self._shown:
            await self._shown.reserve()
            if (slots := self._shown.slots) != self._log.state.shown:
                changed["shown"] = slots
        if intent != self._log.state.sending:
            goes_on = self._log.state.sending is not None  # and names more services than before
            await self._log.update(sending=intent, **changed)
            self._maybe_delivered = self._maybe_delivered and goes_on
        elif changed:
            await self._log.update(**changed)
        message = replace(message, id=intent.message_id(message.through_seq, _newest_run(message)))
        if falls:
            message = replace(message, buttons=self._buttons(falls))
        traces = _traces(message) if source.kind is MessageKind.CHANGES and tracing.is_on() else [""]
        channel = {"registry.channel": self.channel.key.partition(".")[0]}
        with tracing.span("send", traces[0], channel, kind="CLIENT", links=traces[1:]) as span:
            outcome = await self.channel.send(self.address, message, self._reply_to(message))
            result = type(outcome).__name__.lower()
            span.set_attribute("registry.result", result)
        MESSAGES.labels(result).inc()
        if isinstance(outcome, channels.Sent) and outcome.message_id and falls and self._shown:
            await self._shown.remember(message, outcome.message_id, self.address, falls)
        if isinstance(outcome, channels.Sent):
            await self._deps.told(self.channel.name, message)
        return await self._handle_outcome(outcome, source, message, intent)

    async def _falls(self, message: OutgoingMessage) -> dict[str, ShownService]:
        """Of which incidents a message tells."""
        if not (message.falls and self._shown):
            return {}
        items: list[StatusChange | Notice] = [*message.changes, *message.notices]
        newest = {it.name: (it.name, it.seq, it.since) for it in items}
        told = [newest[name] for name in message.falls]
        incidents = await self._deps.incidents_of(told)
        return {
            name: ShownService(incident=found.id, began=moment(found.began_at), seq=seq)
            for name, seq, _ in told
            if (found := incidents.get(name))
        }

    def _buttons(self, falls: dict[str, ShownService]) -> Buttons:
        known = {name: self._deps.states.incidents.acknowledged(name) for name in falls}
        taken = {ack.incident for ack in known.values() if ack}
        rows = [(name, it.incident, it.incident in taken) for name, it in falls.items()]
        return incident_buttons(rows, len(falls))

    async def _handle_outcome(
        self, outcome: Outcome, source: MessageSource, message: OutgoingMessage, intent: Intent
    ) -> float:
        match outcome:
            case channels.Sent(message_id):
                await self._sent(source, message, intent, message_id)
                return 0
            case channels.Permanent(reason):
                return await self._switch_off(reason)
            case channels.Refused(reason):
                pause = await self._postpone(reason, source, message, intent)
                await self._note_error(outcome)
                return pause
            case channels.Migrated(chat):
                if self._deps.gives_way(self.channel, chat):  # or each message would come there twice
                    return await self._switch_off(f"it is {chat} now, which is a chat here already")
                await self.migrate(chat)
                pause = 0.0
            case channels.Limited(retry_after):
                pause = retry_after
            case channels.BadToken(reason):
                self._deps.on_token(reason)
                pause = BAD_TOKEN_RETRY
            case channels.Failed(reason, maybe_delivered):
                log.warning("message not sent; will be tried again", chat=self._log.key, reason=reason)
                self._maybe_delivered |= maybe_delivered
                pause = self._pause()
        await self._withdraw_intent()
        await self._note_error(outcome)
        return pause

    async def send_test(self, message: OutgoingMessage, within: float) -> Outcome:
        """Past all that wait, in its turn. TimeoutError: nothing is known after so many seconds."""
        ends = asyncio.get_running_loop().time() + within
        for _ in range(2):
            async with asyncio.timeout_at(ends):  # not while something is recorded
                await self.channel.turn(self.address)
                outcome = await self.channel.send(self.address, message, None)
            if not isinstance(outcome, channels.Migrated):
                break
            if self._deps.gives_way(self.channel, outcome.chat):
                return channels.Permanent(f"it is {outcome.chat} now, which is a chat here already")
            await self.migrate(outcome.chat)
        if isinstance(outcome, channels.Sent):
            await self._log.update(**self._delivered())
        elif isinstance(outcome, channels.BadToken):
            self._deps.on_token(outcome.reason)
        await self._note_error(outcome, at_once=True)
        return outcome

    def _delivered(self) -> dict[str, object]:
        """What is to be recorded once a message has arrived."""
        if self.channel.key.startswith("telegram."):  # of the others nothing follows for the bot token
            self._deps.on_token(None)
        changed: dict[str, object] = {"delivered_at": self._deps.now()}
        if self._log.state.off:
            changed |= self._context.switched_on()
            log.info("the chat takes messages again", chat=self._log.key)
        return changed

    async def _note_error(self, outcome: Outcome, *, at_once: bool = False) -> None:
        """Recorded with what is recorded next, or by itself if that is long in coming."""
        now, reason = self._deps.now(), cut(channels.reason_of(outcome), MAX_REASON)
        if not reason:
            return
        if at_once or now - self._error_noted > ERROR_NOTE_INTERVAL:
            self._error_noted = now
            await self._log.update(error=reason, error_at=now)
        else:
            await self._log.update_locally(error=reason, error_at=now)

    def _pause(self) -> float:
        return self._backoff.next() * random.uniform(0.8, 1.2)  # it only spreads  # nosec B311

    async def _withdraw_intent(self) -> None:
        """Unless an attempt may have reached the receiver, the next one may tell more, and is no repeat."""
        if not self._maybe_delivered:
            await self._log.update_locally(sending=None)

    async def _sent(
        self, source: MessageSource, message: OutgoingMessage, intent: Intent, message_id: int | None
    ) -> None:
        self.reset_backoff()
        self._refused.pop(source.kind, None)
        also = self._delivered() | {"threads": self._threads(message, message_id)}
        if self._shown and self._shown.slots != self._log.state.shown:
            also["shown"] = self._shown.slots
        await source.record_sent(message, intent, also)

    # --- a receiver that refuses messages

    async def _switch_off(self, reason: str) -> float:
        """The receiver refuses messages for good, as far as anybody knows. What waits for it is kept, and it
        is tried again with growing pauses, for bots are thrown out and let in again."""
        state = self._log.state
        if not state.off:
            what = "the chat is off: it refuses messages; it is tried again"
            log.error(what, chat=self._log.key, reason=reason)
        since = state.off_since or self._deps.now()
        intent = state.sending if self._maybe_delivered else None
        error = {"error": cut(reason, MAX_REASON), "error_at": self._deps.now()}
        await self._log.update(off=reason, off_since=since, sending=intent, **error)
        return self._probe_backoff.next()

    async def switch_on(self) -> None:
        await self._log.update(**self._context.switched_on())
        log.info("the chat is switched on again", chat=self._log.key)

    async def migrate(self, chat: str) -> None:
        """The group has a new number, for good."""
        if chat != self.address:
            log.warning("the chat has a new id", chat=self._log.key, new=chat)
            self._moved_to = chat
            await self._log.update(chat=chat)

    async def _postpone(
        self, reason: str, source: MessageSource, message: OutgoingMessage, intent: Intent
    ) -> float:
        """A message is refused for an unknown reason, which says nothing of the receiver. It is tried again
        for a day, and other messages go first. (Changes are all tried again together, and given up one by
        one: see `drop_expired`.)"""
        kind, now, what = source.kind, self._deps.now(), _subject(message, intent)
        before, since = self._refused.get(kind, (what, now))
        since = since if before == what else now
        self._refused[kind] = what, since
        log.warning("message refused; will be tried again", chat=self._log.key, of=kind, reason=reason)
        if now - since > EXPIRES_AFTER and kind is not MessageKind.CHANGES:
            log.error("message given up after a day of refusals", chat=self._log.key, of=kind, reason=reason)
            del self._refused[kind]
            await source.record_sent(message, intent, {"threads": self._threads(message, None)})
            return 0
        await self._withdraw_intent()
        pause = self._pause()
        if kind is not MessageKind.CHANGES and not self._maybe_delivered:
            self._postponed_until[kind] = now + timedelta(seconds=max(pause, MIN_POSTPONEMENT))
            return 0
        return pause

    # --- the thread of an incident

    def _reply_to(self, message: OutgoingMessage) -> int | None:
        return self._log.state.threads.get(message.about) if message.about else None

    def _threads(self, message: OutgoingMessage, message_id: int | None) -> dict[str, int]:
        """The message that told of each service that is down; only the newest are remembered."""
        known = self._log.state.threads
        threads = {name: id_ for name, id_ in known.items() if name not in message.recoveries}
        if message_id:
            for name in message.problems:
                threads.pop(name, None)
                threads[name] = message_id
        return dict(list(threads.items())[-MAX_THREADS:])


def _subject(message: OutgoingMessage, intent: Intent) -> object:
    notices = sorted((notice.name, notice.seq, notice.kind) for notice in message.notices)
    return intent.digest, intent.weekly, intent.deaf, notices, _newest_run(message)


def _newest_run(message: OutgoingMessage) -> int:
    return message.runs[-1].seq if message.runs else 0


def _traces(message: OutgoingMessage) -> list[str]:
    """Those of the changes that a message tells of: it is part of the first, and links to the others."""
    return list(dict.fromkeys(change.trace for change in message.changes if change.trace)) or [""]
