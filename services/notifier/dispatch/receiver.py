"""One worker per chat: what waits for it, what it is being sent, and how far it has come.

Before a message is sent, the record says so; after it, that it is done. So a crash in between repeats that
one message, marked, and loses none. No chat waits for another.
"""

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import takewhile
from typing import Any

import structlog
from nats.js.kv import KeyValue

from services.notifier.alerting.policy import (
    FLAPPING_WITHIN,
    Decision,
    FlapState,
    NothingDue,
    Suppression,
    Withheld,
    decide,
    flap_state_after,
    next_notice,
)
from services.notifier.alerting.texts import (
    Change,
    Deafness,
    LinkContext,
    Message,
    Notice,
    NoticeKind,
    deafness_message,
    digest_message,
    late_note,
    notice_message,
    pack,
)
from services.notifier.channels.channel import (
    BadToken,
    Channel,
    Failed,
    Limited,
    Migrated,
    Outcome,
    Permanent,
    Refused,
    Sent,
)
from services.notifier.dispatch import notification_log
from services.notifier.dispatch.metrics import LAST_DIGEST, MESSAGES
from services.notifier.dispatch.notification_log import Intent, MessageKind, ReceiverState
from services.notifier.states import ServiceStates
from shared.contracts.events import Status
from shared.contracts.maintenance import Window
from shared.domain.digest import digest_due, next_digest_at
from shared.telemetry import tracing

log = structlog.get_logger()

MAX_MUTES = 500
EXPIRES_AFTER = timedelta(hours=24)
"""What is older is not sent any more."""
MAX_PENDING = 10_000
"""Changes held in memory per chat; what comes beyond is read again from the record in its turn."""
FIRST_BACKOFF, MAX_BACKOFF = 0.5, 60.0
FIRST_PROBE, MAX_PROBE = 60.0, 3600.0
"""Seconds between attempts at a chat that refuses messages for good."""
MIN_ASIDE = 30.0
"""Seconds, at least, in which what was refused for an unknown reason lets other messages go first."""
BAD_TOKEN_RETRY = 30.0
"""Seconds between attempts while the credentials are refused."""
POLL_INTERVAL = 30.0
"""Longest sleep: the clock may be set, and an idle chat's cursor moves on."""
SHUTDOWN_GRACE = 3.0
"""Seconds that a message on its way has to arrive when the process is told to end."""


@dataclass(frozen=True)
class DigestSchedule:
    """The digests: at what local time (None: never), on which weekday the one of the week (0: Monday; None:
    never), and how the lines of either are made now."""

    at: time | None
    lines: Callable[[datetime, bool], Awaitable[list[str]]]
    weekday: int | None = None


@dataclass(frozen=True)
class ReceiverDependencies:
    """What every chat shares. `page`: changes after a sequence, up to a number, read from the record;
    with the sequence read last, and whether that was the end. `holds`: whether a notice is still true."""

    links: LinkContext
    digests: DigestSchedule
    now: Callable[[], datetime]
    page: Callable[[int, int], Awaitable[tuple[list[Change], int, bool]]]
    newest: Callable[[], Awaitable[int]]
    """The sequence of the record's newest event."""
    holds: Callable[[Notice], bool] = lambda _: True
    states: ServiceStates = field(default_factory=ServiceStates)
    maintenance_until: Callable[[str, datetime], datetime | None] = lambda name, at: None
    """When the maintenance of a service ends that there is at a moment, if there is any."""
    remind_after: tuple[timedelta, ...] = ()
    is_taken: Callable[[Channel, str], bool] = lambda channel, address: False
    """Whether another chat has an address that a chat's target has come to."""
    on_taken: "Callable[[ReceiverWorker], None]" = lambda chat: None
    """Told of a chat of which that is so."""
    deafness: Callable[[datetime], list[Deafness] | None] = lambda _: []
    """What is worth telling of the registry's deafness that did not end by a moment, oldest first; None: that
    is not known now."""
    on_token: Callable[[str | None], None] = lambda _: None
    """Told whenever it shows that the credentials are refused (why) or good (None)."""
    on_record: Callable[[Exception | None], None] = lambda _: None
    """Told whenever a record could not be stored (why), or was (None)."""


class PendingChanges:
    """What waits for a chat, in order. Bounded: what finds no room is skipped, and read again later."""

    def __init__(self, after: int) -> None:
        self.changes: deque[Change] = deque()
        self.tail = after
        """Every change up to here is in `changes`, or done, or not to be told."""
        self._skipped = after

    @property
    def behind(self) -> bool:
        return self._skipped > self.tail

    def enqueue(self, seq: int, change: Change | None) -> None:
        if seq <= self.tail:
            return
        if self.behind or len(self.changes) >= MAX_PENDING:
            self._skipped = seq
            return
        self.tail = seq
        if change:
            self.changes.append(change)

    def mark_missed(self, through: int) -> None:
        """Whatever was stored up to here may not have been offered."""
        self._skipped = max(self._skipped, through)

    async def refill(self, page: Callable[[int, int], Awaitable[tuple[list[Change], int, bool]]]) -> None:
        """Read what was skipped. At the record's end, whatever had been skipped by then has been read."""
        skipped = self._skipped
        changes, read, at_end = await page(self.tail, MAX_PENDING)
        self.changes += changes
        self.tail = max(read, skipped) if at_end else read

    def drop(self, through: int) -> None:
        while self.changes and self.changes[0].seq <= through:
            self.changes.popleft()


class ReceiverWorker:
    """`open` it, put `enqueue` into the delivery's `offers`, `tick` it each second, `run` until cancelled."""

    def __init__(
        self, channel: Channel, record: notification_log.NotificationLog, deps: ReceiverDependencies
    ) -> None:
        self.channel = channel
        self._record = record
        record.on_write = deps.on_record
        self._deps = deps
        self.pending = PendingChanges(record.cursor.done)
        self._withheld_by_name = dict(record.cursor.owed)
        self._flapping = dict(record.cursor.turns)
        self._timers: list[tuple[datetime, str]] = []
        """When to look again at what is owed of which service; the first is next."""
        self._next_timer: dict[str, datetime] = {}
        """Of each service the entry that counts."""
        self._due: dict[str, Notice] = {}
        """What is owed, and nothing holds it back any more."""
        self._reminders: deque[Notice] = deque(maxlen=MAX_PENDING)
        self._decisions: list[Decision] = []
        """Of the changes that are being sent, and those among them that are not told."""
        self._wake, self._retry_now = asyncio.Event(), asyncio.Event()
        self._backoff, self._probe = FIRST_BACKOFF, FIRST_PROBE
        self._refused: dict[MessageKind, tuple[object, datetime]] = {}
        """Of each kind of message what was refused for a reason that is not known, and since when."""
        self._aside: dict[MessageKind, datetime] = {}
        """Until when it is not tried."""
        self._late: tuple[datetime, datetime] | None = None
        """From when to when the chat refused messages, newest."""
        self._moved_to: str | None = None
        """Its address, if it has changed, while that is being recorded too."""
        self._cut_off: datetime | None = None
        """Since when the broker is away, if the chat was told so and it could not be recorded."""
        self._repeat = record.cursor.sending is not None
        """Whether an attempt at what is being sent may have reached the chat."""
        self._begin()

    @property
    def key(self) -> str:
        return self.channel.key

    @classmethod
    async def open(
        cls,
        channel: Channel,
        bucket: KeyValue,
        end: int,
        deps: ReceiverDependencies,
        *,
        anew: bool = False,
        known: ReceiverState | None = None,
    ) -> "ReceiverWorker":
        """A chat that is new begins at the record's end. So does one that was told more than the record has:
        a backup was put back, or the broker emptied. `anew`: the record is known to be another one
        than that of its cursor, which is `known` if it was in use until now."""
        at, now = deps.digests.at, deps.now()
        today = digest_due(now, deps.links.zone, at, None) if at else None
        fresh = ReceiverState(done=end, digest=today, weekly=today, notices=now, heard_until=now)
        record = await notification_log.load(bucket, channel.key, fresh)
        cursor = known or record.cursor
        if cursor.done > end and not anew:  # whoever spoke before went on while this one began
            end = await deps.newest()
        if cursor.off and cursor.off_since is None:  # by an older version, which kept nothing for it
            cursor = cursor.model_copy(update={"done": end, "off_since": now})
        if anew or cursor.done > end:
            sending = cursor.sending
            if sending:
                other = sending.of is not MessageKind.CHANGES
                sending = sending.model_copy(update={"through": end}) if other else None
            owed = {name: it for name, it in cursor.owed.items() if it.seq <= end and not anew}
            cursor = cursor.model_copy(update={"done": end, "sending": sending, "owed": owed})
        if cursor.notices is None:  # an older version wrote it
            cursor = cursor.model_copy(update={"notices": now, "weekly": today})
        if cursor.heard_until is None:  # so is this; what it would have told at the end of a window is owed
            owed = _owed_by_windows(deps, cursor)
            cursor = cursor.model_copy(update={"heard_until": now, "owed": owed})
        if cursor != record.cursor or cursor.sending:
            # What is tried again is intended by this notifier, or one that goes on could overwrite it unseen.
            await record.write(cursor)
        return cls(channel, record, deps)

    @property
    def cursor(self) -> ReceiverState:
        return self._record.cursor

    @property
    def address(self) -> str:
        return self._moved_to or self.cursor.chat or self.channel.chat

    def enqueue(self, seq: int, change: Change | None) -> None:
        self.pending.enqueue(seq, change)
        self._wake.set()

    def mark_missed(self, through: int) -> None:
        """Changes up to here may not have been offered to it; it reads them itself."""
        self.pending.mark_missed(through)
        self._wake.set()

    async def forget(self) -> None:
        """Let go of its record, for good. Its `run` must have ended."""
        await self._record.forget()

    def remind(self, notice: Notice) -> None:
        if self.cursor.notices and notice.at > self.cursor.notices:
            self._reminders.append(notice)
            self._wake.set()

    def oldest_unsent(self) -> datetime | None:
        return self.pending.changes[0].stored_at if self.pending.changes else None

    def digest_at(self, day: date | None) -> datetime | None:
        """When the digest of a day is due; None: there are no digests, or there is no day."""
        at = self._deps.digests.at
        return datetime.combine(day, at, self._deps.links.zone) if day and at else None

    def digest_overdue(self) -> float:
        """Seconds since a digest was due that the chat has not got yet."""
        due = self._digest_due() if self.cursor.off is None else None
        at = self.digest_at(due.digest) if due else None
        return max(0.0, (self._deps.now() - at).total_seconds()) if at else 0.0

    # --- what people ask of it

    def muted(self) -> dict[str, datetime]:
        now = self._deps.now()
        return {name: until for name, until in self.cursor.mutes.items() if until > now}

    async def mute(self, name: str, until: datetime) -> bool:
        """False: it has muted too many already."""
        if len({*self.muted(), name}) > MAX_MUTES:
            return False
        self._withhold_down(name)
        await self._write(mutes={**self._recent_mutes(), name: until}, owed=dict(self._withheld_by_name))
        self.evaluate(name)
        return True

    async def unmute(self, name: str) -> None:
        """What happened until now stays withheld."""
        await self._write(mutes={**self._recent_mutes(), name: self._deps.now()})
        self.evaluate(name)

    def _recent_mutes(self) -> dict[str, datetime]:
        """With those that ended while a change may still wait that was stored before that."""
        horizon = self._deps.now() - EXPIRES_AFTER
        recent = {name: until for name, until in self.cursor.mutes.items() if until > horizon}
        return dict(list(recent.items())[-2 * MAX_MUTES :])

    async def switch_on(self) -> str | None:
        """Somebody in it has asked for messages. Why it was off, if it was."""
        self.try_now()
        reason, since = self.cursor.off, self.cursor.off_since
        if reason:
            self._note_switched_on(since)
            await self._write(off=None, off_since=None)
            log.info("the chat is switched on again", chat=self.key)
        return reason

    def try_now(self) -> None:
        """Whatever it waits for before its next attempt."""
        self._backoff, self._probe = FIRST_BACKOFF, FIRST_PROBE
        self._retry_now.set()

    async def migrate(self, chat: str) -> None:
        """The group has a new number, for good."""
        if chat != self.address:
            log.warning("the chat has a new id", chat=self.key, new=chat)
            self._moved_to = chat
            await self._write(chat=chat)

    async def tell_cut_off(self, since: datetime, is_away: Callable[[], bool]) -> None:
        """Say that the broker is away, once, without the record, which is there: `run` records it later."""
        if self.cursor.deaf_since or self._cut_off:
            return
        links, deaf, backoff = self._deps.links, Deafness(since, cut_off=True), FIRST_BACKOFF
        while is_away():
            await self.channel.turn(self.address)
            message = deafness_message(deaf, self._deps.now(), links, self.cursor.done)
            id_ = Intent(through=self.cursor.done, deaf=deaf).message_id(self.cursor.done)
            outcome = await self.channel.send(self.address, replace(message, id=id_), None)
            if isinstance(outcome, Sent):
                self._cut_off = since
                self._wake.set()
                return
            await asyncio.sleep(outcome.retry_after if isinstance(outcome, Limited) else backoff)
            backoff = min(backoff * 2, MAX_BACKOFF)

    # --- what is owed

    def _begin(self) -> None:
        for name in [
            *self._withheld_by_name,
            *(name for name, it in self._flapping.items() if it.flapping_since),
        ]:
            self.evaluate(name)
        for name in self._deps.states.paused:
            self.configured(name)

    def tick(self) -> None:
        """Look at what has come due."""
        now = self._deps.now()
        while self._timers and self._timers[0][0] <= now:
            at, name = heapq.heappop(self._timers)
            if self._next_timer.get(name) == at:
                del self._next_timer[name]
                self.evaluate(name)
        if self._deafness_due():
            self._wake.set()

    def configured(self, name: str) -> None:
        """The service's configuration has changed. What is down when it is paused is told again when it is
        resumed and still down."""
        if self._deps.states.get(name).paused:
            self._withhold_down(name)
        self.evaluate(name)

    def window_removed(self, window: Window) -> None:
        """A window is no more, or no more the same."""
        for name in list(self._withheld_by_name):
            if window.is_about(name, self._deps.states.get(name).tags):
                self.evaluate(name)

    def evaluate(self, name: str) -> None:
        """Whether anything that is owed of a service is to be told now."""
        owed, turns = self._withheld_by_name.get(name), self._flapping.get(name)
        self._due.pop(name, None)
        if owed is None and not (turns and turns.flapping_since):
            return
        it, now = self._deps.states.get(name), self._deps.now()
        if it.status_seq > self.cursor.done:
            return  # a change that is not handled yet tells more
        found = next_notice(
            name, it, owed, turns, now, *self._suppression(name, now), self._deps.remind_after
        )
        if isinstance(found, Notice):
            self._due[name] = found
            self._wake.set()
        elif isinstance(found, datetime):
            if self._next_timer.get(name) != found:
                self._next_timer[name] = found
                heapq.heappush(self._timers, (found, name))
        elif found is NothingDue.FORGET:
            self._withheld_by_name.pop(name, None)
            if turns and turns.flapping_since:
                del self._flapping[name]

    def _suppression(self, name: str, now: datetime) -> tuple[Suppression, datetime | None]:
        """What keeps the service from being told of, and until when, if that is known."""
        if self._deps.states.is_silenced(name):
            return Suppression.ALL, None
        if (until := self.cursor.mutes.get(name)) and until > now:
            return Suppression.ALL, until
        if end := self._deps.maintenance_until(name, now):
            return Suppression.MAINTENANCE, end
        return Suppression.NONE, None

    def _suppression_of(self, change: Change) -> Suppression:
        """The same of a change. What was withheld when it was stored is so still."""
        hold, _ = self._suppression(change.name, self._deps.now())
        mute = self.cursor.mutes.get(change.name)
        if change.silenced or (mute and mute > change.stored_at):
            return Suppression.ALL
        if hold is not Suppression.NONE:
            return hold
        within = any(self._deps.maintenance_until(change.name, at) for at in (change.since, change.stored_at))
        return Suppression.MAINTENANCE if within else Suppression.NONE

    def _withhold_down(self, name: str) -> None:
        """What is down, and known to be, is told again when nothing holds it back any more."""
        it = self._deps.states.get(name)
        if name in self._withheld_by_name or not it.is_down or it.status_seq > self.cursor.done:
            return
        self._withheld_by_name[name] = Withheld(it.status_seq, it.status, told_since=it.since)

    def _decided(self, waiting: Sequence[Change], hold: Callable[[Change], Suppression]) -> list[Decision]:
        by_name: dict[str, list[Change]] = {}
        for change in waiting:
            by_name.setdefault(change.name, []).append(change)
        decisions = [
            decision
            for name, changes in by_name.items()
            for decision in decide(changes, self._withheld_by_name.get(name), self._flapping.get(name), hold)
        ]
        return sorted(decisions, key=lambda it: it.change.seq)

    def _apply_decisions(self, decisions: Sequence[Decision]) -> None:
        """How the services stand after these."""
        for it in decisions:
            name = it.change.name
            self._withheld_by_name.pop(name, None)
            if it.owed:
                self._withheld_by_name[name] = it.owed
            self._set_flap_state(name, it.turns)

    def _set_flap_state(self, name: str, turns: FlapState | None) -> None:
        self._flapping.pop(name, None)
        if turns:
            self._flapping[name] = turns
            if len(self._flapping) > MAX_PENDING:
                first = next(iter(self._flapping))
                if self._flapping[first].flapping_since is None:
                    del self._flapping[first]

    def _withheld_and_flapping(self) -> dict[str, object]:
        """What is owed, for the record. Of those that do not flap only who has turned before is worth it."""
        flapping = {name: it for name, it in self._flapping.items() if it.flapping_since}
        others = [it for it in self._flapping.items() if it[0] not in flapping and len(it[1].moments) > 1]
        return {
            "owed": dict(self._withheld_by_name),
            "turns": flapping | dict(others[-notification_log.MAX_TURNS :]),
        }

    # --- the loop

    async def run(self) -> None:
        while True:
            await self._wait_for_work()
            await self.channel.turn(self.address)
            found = await self._compose()
            if found is None:
                continue
            attempt = asyncio.create_task(self._attempt(*found))
            try:
                pause = await asyncio.shield(attempt)
            except asyncio.CancelledError:
                await asyncio.wait({attempt}, timeout=SHUTDOWN_GRACE)
                attempt.cancel()
                raise
            await self._pause(pause)

    async def _pause(self, seconds: float) -> None:
        self._retry_now.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._retry_now.wait()

    async def _wait_for_work(self) -> None:
        while not self._has_work():
            if self.pending.behind and not self.pending.changes:
                await self.pending.refill(self._deps.page)
                continue
            self._wake.clear()
            try:
                async with asyncio.timeout(self._until_next_look()):
                    await self._wake.wait()
            except TimeoutError:
                await self._advance_idle()

    def _has_work(self) -> bool:
        if sending := self.cursor.sending:
            changes = sending.of is MessageKind.CHANGES
            return not changes or self.pending.tail >= sending.through or self.pending.behind
        return bool(
            self.pending.changes
            or self._cut_off
            or (self._due and self._is_free(MessageKind.OWED))
            or (self._reminders and self._is_free(MessageKind.REMINDERS))
            or self._digest_due()
            or self._deafness_due()
        )

    def _is_free(self, of: MessageKind) -> bool:
        until = self._aside.get(of)
        return until is None or until <= self._deps.now()

    def _digest_due(self) -> Intent | None:
        """The digest that is to be sent now; on its weekday the one of the week, then the daily one."""
        digests, now, zone = self._deps.digests, self._deps.now(), self._deps.links.zone
        if digests.at is None or not self._is_free(MessageKind.DIGEST):
            return None
        for weekly, last in ((True, self.cursor.weekly), (False, self.cursor.digest)):
            day = digest_due(now, zone, digests.at, last)
            if day and (not weekly or day.weekday() == digests.weekday):
                return Intent(through=self.cursor.done, digest=day, weekly=weekly)
        return None

    def _deafness_due(self) -> Intent | None:
        """That the registry is deaf, or that it was, if the chat has not been told."""
        cursor = self.cursor
        if cursor.heard_until is None or not self._is_free(MessageKind.DEAFNESS):
            return None
        found = self._deps.deafness(cursor.heard_until)
        if found is None:
            return None
        if cursor.deaf_since:
            found = [it for it in found if it.until is None or it.until > cursor.deaf_since]
            if found and found[0].until is None:
                return None  # it lasts, as the chat knows
            over = found[0] if found else Deafness(cursor.deaf_since, self._deps.now(), cut_off=True)
            return Intent(through=cursor.done, deaf=over)
        return Intent(through=cursor.done, deaf=found[0]) if found else None

    def _until_next_look(self) -> float:
        at = self._deps.digests.at
        if at is None:
            return POLL_INTERVAL
        now = self._deps.now()
        return min(POLL_INTERVAL, (next_digest_at(now, self._deps.links.zone, at) - now).total_seconds())

    async def _advance_idle(self) -> None:
        """Let the cursor of an idle chat follow, so that a restart need not read far back."""
        if not self.pending.changes and not self.pending.behind and self.pending.tail > self.cursor.done:
            await self._write(done=self.pending.tail, **self._withheld_and_flapping())
        old = self._deps.now() - FLAPPING_WITHIN
        for name in [name for name, it in self._flapping.items() if not it.flapping_since and it.last < old]:
            del self._flapping[name]

    # --- what to send

    async def _compose(self) -> tuple[Message, Intent] | None:
        """What comes next: what an earlier attempt left open, else the first of these that there is."""
        if self._cut_off:
            await self._write(deaf_since=self._cut_off)
            self._cut_off = None
        await self._drop_expired()
        open_ = self.cursor.sending
        parts = {
            MessageKind.DEAFNESS: self._compose_deafness,
            MessageKind.DIGEST: self._compose_digest,
            MessageKind.CHANGES: self._compose_changes,
            MessageKind.OWED: self._compose_owed,
            MessageKind.REMINDERS: self._compose_reminders,
        }
        if open_:
            return await parts[open_.of](open_)
        for of in sorted(parts, key=lambda of: of is MessageKind.CHANGES and of in self._refused):
            if self._is_free(of) and (found := await parts[of](None)):
                return found
        return None

    def _header(self, open_: Intent | None, oldest: datetime | None = None) -> dict[str, Any]:
        """What stands above a message. `oldest`: when the first that it tells was stored."""
        off = self.cursor.off_since if self.cursor.off else None
        if off is None and self._late and oldest and oldest <= self._late[1]:
            off = self._late[0]
        return {"repeat": open_ is not None, "late": late_note(off, self._deps.links) if off else ""}

    async def _compose_deafness(self, open_: Intent | None) -> tuple[Message, Intent] | None:
        sending = open_ or self._deafness_due()
        if sending is None or sending.deaf is None:
            return None
        deps, notes = self._deps, self._header(open_)
        return deafness_message(sending.deaf, deps.now(), deps.links, sending.through, **notes), sending

    async def _compose_digest(self, open_: Intent | None) -> tuple[Message, Intent] | None:
        sending = open_ or self._digest_due()
        if sending is None:
            return None
        lines = await self._deps.digests.lines(self._deps.now(), sending.weekly)
        return digest_message(lines, self._deps.links, sending.through, **self._header(open_)), sending

    async def _compose_changes(self, open_: Intent | None) -> tuple[Message, Intent] | None:
        waiting = [it for it in self.pending.changes if open_ is None or it.seq <= open_.through]
        self._decisions = self._decided(waiting, self._suppression_of)
        if open_:
            self._decisions = [_maybe_told(it, open_) for it in self._decisions]
        if told := [it.change for it in self._decisions if it.is_sent]:
            notes = self._header(open_, waiting[0].stored_at)
            message = pack(told, self._deps.links, doubted=self.cursor.doubted, **notes)
            named = (*(open_.names if open_ else ()), *(it.name for it in message.changes))
            sending = open_ or Intent(through=message.through_seq)
            return message, sending.model_copy(update={"names": tuple(dict.fromkeys(named))})
        if waiting or open_:
            await self._skip(waiting, open_)
        return None

    async def _compose_owed(self, open_: Intent | None) -> tuple[Message, Intent] | None:
        for name in list(self._due):
            self.evaluate(name)
        if open_:
            for it in open_.owed:  # may have been told, but holds no more
                if self._is_still_due(it):
                    continue
                owed, turns = self._withheld_by_name.get(it.name), self._flapping.get(it.name)
                if owed and owed.seq == it.seq:  # of a recovery that may have been told the fall counts
                    is_worse = it.status.badness > owed.told.badness
                    told, since = (it.status, it.since) if is_worse else (owed.told, owed.told_since)
                    self._withheld_by_name[it.name] = replace(owed, told=told, maybe=True, told_since=since)
                if turns and turns.flapping_since == it.flapping_since and it.kind is NoticeKind.CALM:
                    self._flapping[it.name] = replace(turns, maybe=True)
            notices = [it for it in open_.owed if self._is_still_due(it)]
            if not notices:
                await self._write(sending=None, **self._withheld_and_flapping())
                return None
        else:
            notices = sorted(self._due.values(), key=lambda it: (it.since, it.name))
        if not notices:
            return None
        withheld = {it.name: change for it in notices if (change := self._withheld(it))}
        message = notice_message(notices, self._deps.links, self.cursor.done, withheld, **self._header(open_))
        return message, open_ or Intent(through=self.cursor.done, owed=message.notices)

    def _withheld(self, notice: Notice) -> Change | None:
        """The change that a notice makes up for, as if it were stored now; None if the chat believes already
        that it is so."""
        owed, it = self._withheld_by_name.get(notice.name), self._deps.states.get(notice.name)
        if notice.kind is not NoticeKind.OWED or owed is None or owed.told is notice.status:
            return None
        fall = it.fall
        return Change(
            notice.seq,
            notice.at,
            notice.name,
            owed.told,
            notice.status,
            notice.since,
            it.last_heartbeat,
            fall.reason if fall else "",
            owed.told_since,
            fall.message if fall else None,
            fall.duration if fall else None,
        )

    def _is_still_due(self, notice: Notice) -> bool:
        now = self._due.get(notice.name)
        return now is not None and (now.seq, now.kind) == (notice.seq, notice.kind)

    async def _compose_reminders(self, open_: Intent | None) -> tuple[Message, Intent] | None:
        upto = open_.notices if open_ and open_.notices else datetime.max.replace(tzinfo=UTC)
        told, rest, now = {}, [], self._deps.now()
        for it in self._reminders:
            if it.at > upto:
                rest.append(it)
            elif not self._deps.holds(it) or it.seq > self.cursor.done or it.name in self._withheld_by_name:
                continue
            elif self._suppression(it.name, now)[0] is Suppression.NONE:
                told[it.name] = it
            else:  # it is told when nothing holds it back any more
                self._withhold_down(it.name)
                self.evaluate(it.name)
        if told:
            notices = sorted(told.values())
            sending = open_ or Intent(through=self.cursor.done, notices=max(it.at for it in self._reminders))
            return notice_message(notices, self._deps.links, self.cursor.done, **self._header(open_)), sending
        if self._reminders or open_:
            mark = max([it.at for it in self._reminders if it.at <= upto], default=upto)
            self._reminders = deque(rest, MAX_PENDING)
            notices_until = open_.notices if open_ else max(mark, self.cursor.notices or mark)
            await self._write(notices=notices_until, sending=None, **self._withheld_and_flapping())
        return None

    async def _skip(self, waiting: Sequence[Change], open_: Intent | None) -> None:
        """Nothing is to be told of what waits, nor of what was left open."""
        self._apply_decisions(self._decisions)
        through = max([it.seq for it in waiting], default=0)
        self.pending.drop(through)
        done = max(self.cursor.done, through, open_.through if open_ else 0)
        await self._write(done=done, sending=None, **self._withheld_and_flapping())
        self._evaluate_all(self._decisions)

    def _evaluate_all(self, decisions: Sequence[Decision]) -> None:
        for name in dict.fromkeys(it.change.name for it in decisions):
            self.evaluate(name)

    async def _drop_expired(self) -> None:
        """Of changes that are not worth sending any more only what still holds is owed."""
        horizon = self._deps.now() - EXPIRES_AFTER
        old = list(takewhile(lambda it: it.stored_at < horizon, self.pending.changes))
        if not old:
            return
        log.error("changes older than a day were not sent", chat=self.key, changes=len(old))
        MESSAGES.labels("expired").inc(len(old))
        decisions = self._decided(old, lambda _: Suppression.ALL)
        self._apply_decisions(decisions)
        self.pending.drop(old[-1].seq)
        await self._write(done=old[-1].seq, **self._withheld_and_flapping())
        self._evaluate_all(decisions)

    # --- sending, and what became of it

    async def _attempt(self, message: Message, sending: Intent) -> float:
        """Send, and record it. Seconds to wait before anything else is sent."""
        if sending != self.cursor.sending:
            goes_on = self.cursor.sending is not None  # and names more services than before
            await self._write(sending=sending)
            self._repeat = self._repeat and goes_on
        message = replace(message, id=sending.message_id(message.through_seq))
        told = sending.of is MessageKind.CHANGES
        traces = _traces(message) if told and tracing.is_on() else [""]
        channel = {"registry.channel": self.key.partition(".")[0]}
        with tracing.span("send", traces[0], channel, kind="CLIENT", links=traces[1:]) as span:
            outcome = await self.channel.send(self.address, message, self._reply_to(message))
            result = type(outcome).__name__.lower()
            span.set_attribute("registry.result", result)
        MESSAGES.labels(result).inc()
        return await self._handle_outcome(outcome, message, sending)

    async def _handle_outcome(self, outcome: Outcome, message: Message, sending: Intent) -> float:
        match outcome:
            case Sent(message_id):
                await self._sent(message, sending, message_id)
                return 0
            case Permanent(reason):
                return await self._switch_off(reason)
            case Refused(reason):
                return await self._set_aside(reason, message, sending)
            case Migrated(chat):
                if self._deps.is_taken(self.channel, chat):  # or each message would come there twice
                    self._deps.on_taken(self)
                    return await self._switch_off(f"it is {chat} now, which is a chat here already")
                await self.migrate(chat)
                await self._withdraw_intent()
                return 0
            case Limited(retry_after):
                await self._withdraw_intent()
                return retry_after
            case BadToken(reason):
                self._deps.on_token(reason)
                await self._withdraw_intent()
                return BAD_TOKEN_RETRY
            case Failed(reason, maybe_delivered):
                log.warning("message not sent; will be tried again", chat=self.key, reason=reason)
                if maybe_delivered:
                    self._repeat = True
                await self._withdraw_intent()
                return self._next_backoff()

    def _next_backoff(self) -> float:
        pause = self._backoff * random.uniform(0.8, 1.2)  # it only spreads  # nosec B311
        self._backoff = min(self._backoff * 2, MAX_BACKOFF)
        return pause

    async def _withdraw_intent(self) -> None:
        """Unless an attempt may have reached the chat, the next one may tell more, and is no repeat. (The
        record keeps the intent until then.)"""
        if not self._repeat:
            await self._record.update_locally(sending=None)

    async def _sent(self, message: Message, sending: Intent, message_id: int | None) -> None:
        self._backoff, self._probe = FIRST_BACKOFF, FIRST_PROBE
        self._refused.pop(sending.of, None)
        self._deps.on_token(None)
        on: dict[str, object] = {}
        if self.cursor.off:
            self._note_switched_on(self.cursor.off_since)
            on = {"off": None, "off_since": None}
            log.info("the chat takes messages again", chat=self.key)
        await self._record_sent(message, sending, message_id, on)

    async def _record_sent(
        self, message: Message, sending: Intent, message_id: int | None, more: dict[str, object]
    ) -> None:
        """That a message is done with."""
        threads = self._threads(message, message_id)
        match sending.of:
            case MessageKind.DEAFNESS:
                assert sending.deaf
                until = sending.deaf.until
                since = None if until else sending.deaf.since
                told = {"deaf_since": since, "heard_until": until or self.cursor.heard_until}
                await self._write(sending=None, **told, **more)
            case MessageKind.DIGEST:
                LAST_DIGEST.set(self._deps.now().timestamp())
                day = {"weekly" if sending.weekly else "digest": sending.digest}
                await self._write(sending=None, **day, **more)
            case MessageKind.OWED:
                for it in message.notices:
                    self._due.pop(it.name, None)
                    if it.kind is not NoticeKind.FLAPS:
                        self._withheld_by_name.pop(it.name, None)
                    self._set_flap_state(it.name, flap_state_after(it, self._flapping.get(it.name)))
                passed = self._passed_reminders(message)
                standing = {**self._withheld_and_flapping(), **self._reminders_done(passed), **more}
                await self._write_without(passed, sending=None, threads=threads, **standing)
                for it in message.notices:
                    self.evaluate(it.name)
            case MessageKind.REMINDERS:
                upto = sending.notices
                assert upto
                passed = {it for it in self._reminders if it.at <= upto}
                standing = {**self._withheld_and_flapping(), **more}
                await self._write_without(passed, sending=None, notices=upto, threads=threads, **standing)
            case MessageKind.CHANGES:
                taken = [it for it in self._decisions if it.change.seq <= message.through_seq]
                self._apply_decisions(taken)
                self.pending.drop(message.through_seq)
                idle = not self.pending.changes and not self.pending.behind
                await self._write(
                    done=max(self.pending.tail, message.through_seq) if idle else message.through_seq,
                    sending=sending if message.through_seq < sending.through else None,
                    threads=threads,
                    doubted=max(filter(None, (self.cursor.doubted, message.doubted)), default=None),
                    **self._withheld_and_flapping(),
                    **more,
                )
                self._evaluate_all(taken)

    def _passed_reminders(self, message: Message) -> set[Notice]:
        """Those that were due before what is owed was told, which says the same."""
        told = {it.name: it.at for it in message.notices if it.kind is not NoticeKind.FLAPS}
        return {it for it in self._reminders if it.name in told and it.at <= told[it.name]}

    def _reminders_done(self, passed: set[Notice]) -> dict[str, object]:
        """How far reminders are done with once these are, for the record."""
        upto = max((it.at for it in passed), default=None)
        if upto is None or any(it.at <= upto for it in self._reminders if it not in passed):
            return {}
        return {"notices": upto}

    async def _switch_off(self, reason: str) -> float:
        """It refuses messages for good, as far as anybody knows: what it is owed is kept, and it is tried
        again with growing pauses, for bots are thrown out and let in again."""
        if not self.cursor.off:
            log.error("the chat is off: it refuses messages; it is tried again", chat=self.key, reason=reason)
        since = self.cursor.off_since or self._deps.now()
        await self._write(off=reason, off_since=since, sending=self.cursor.sending if self._repeat else None)
        pause = self._probe
        self._probe = min(self._probe * 2, MAX_PROBE)
        return pause

    def _note_switched_on(self, off_since: datetime | None) -> None:
        now = self._deps.now()
        self._late = off_since or now, now

    async def _set_aside(self, reason: str, message: Message, sending: Intent) -> float:
        """It is refused for a reason that nobody knows: that says nothing of the chat. It is tried again for
        as long as it is worth sending; nothing else waits for it, but changes for changes. (How long those
        are worth sending is seen to by `_drop_expired`, one by one.)"""
        now, what = self._deps.now(), _what(message, sending)
        before, since = self._refused.get(sending.of, (what, now))
        since = since if before == what else now
        self._refused[sending.of] = what, since
        log.warning("message refused; will be tried again", chat=self.key, of=sending.of, reason=reason)
        if now - since > EXPIRES_AFTER and sending.of is not MessageKind.CHANGES:
            log.error("message given up after a day of refusals", chat=self.key, of=sending.of, reason=reason)
            del self._refused[sending.of]
            await self._record_sent(message, sending, None, {})
            return 0
        await self._withdraw_intent()
        pause = self._next_backoff()
        if sending.of is not MessageKind.CHANGES and not self._repeat:
            self._aside[sending.of] = now + timedelta(seconds=max(pause, MIN_ASIDE))
            return 0
        return pause

    # --- the thread of an incident

    def _reply_to(self, message: Message) -> int | None:
        return self.cursor.threads.get(message.about) if message.about else None

    def _threads(self, message: Message, message_id: int | None) -> dict[str, int]:
        """The message that told of each open fall; only the newest are remembered."""
        threads = {name: id_ for name, id_ in self.cursor.threads.items() if name not in message.recoveries}
        if message_id:
            for name in message.problems:
                threads.pop(name, None)
                threads[name] = message_id
        return dict(list(threads.items())[-notification_log.MAX_THREADS :])

    # --- the record

    async def _write(self, **changed: object) -> None:
        await self._record.update(**changed)

    async def _write_without(self, passed: set[Notice], **changed: object) -> None:
        """Record that these reminders are done with. (Events that are read again may bring them once more
        until the record says so.)"""
        await self._write(**changed)
        self._reminders = deque((it for it in self._reminders if it not in passed), MAX_PENDING)


def _what(message: Message, sending: Intent) -> object:
    """What a message is about, whenever it is sent; changes as a whole."""
    notices = sorted((it.name, it.seq, it.kind) for it in message.notices)
    return sending.digest, sending.weekly, sending.deaf, notices


def _maybe_told(it: Decision, open_: Intent) -> Decision:
    """What is withheld now may have been told by an attempt before: then so is its recovery. (Of a recovery
    that may have been told the fall counts, which was.)"""
    if it.owed is None or it.change.name not in open_.names:
        return it
    told = max(it.owed.told, it.change.to, key=lambda status: status.badness)
    since = it.owed.told_since if told is it.owed.told else it.change.since
    return replace(it, owed=replace(it.owed, told=told, maybe=True, told_since=since))


def _owed_by_windows(deps: ReceiverDependencies, cursor: ReceiverState) -> dict[str, Withheld]:
    """What fell within maintenance that was not over when reminders had been told last."""
    owed = {}
    for name in deps.states:
        it = deps.states.get(name)
        end = deps.maintenance_until(name, it.since) if it.is_down else None
        if end and it.status_seq <= cursor.done and (cursor.notices is None or end > cursor.notices):
            owed[name] = Withheld(it.status_seq, Status.ALIVE)
    return owed


def _traces(message: Message) -> list[str]:
    """Those of the changes that a message tells of: it is part of the first, and links to the others."""
    return list(dict.fromkeys(it.trace for it in message.changes if it.trace)) or [""]
