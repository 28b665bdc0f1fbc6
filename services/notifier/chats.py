"""One worker per chat: what waits for it, what it is being sent, and how far it has come.

Before a message is sent, the record says so; after it, that it is done. So a crash in between repeats that
one message, marked, and loses none. No chat waits for another.
"""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta

import structlog
from nats.js.kv import KeyValue
from prometheus_client import Counter, Gauge

from services.notifier import cursors
from services.notifier.cursors import Cursor, Sending
from services.notifier.incidents import Notice
from services.notifier.messages import Change, Look, Message, digest_message, notice_message, pack, stories
from services.notifier.target import BadToken, Failed, Limited, Migrated, Outcome, Permanent, Sent, Target
from shared import tracing
from shared.digest import digest_due, next_digest_at

log = structlog.get_logger()

MESSAGES = Counter("registry_messages_total", "Attempts to send a message, by how they ended", ["result"])
for _result in ("sent", "failed", "limited", "migrated", "permanent", "badtoken", "expired"):
    MESSAGES.labels(_result)
LAST_DIGEST = Gauge("registry_last_digest_timestamp_seconds", "When a digest was last sent")

MOST_MUTES = 500
WORTH_SENDING = timedelta(hours=24)
"""What is older is not sent any more."""
MOST_PENDING = 10_000
"""Changes held in memory per chat; what comes beyond is read again from the record in its turn."""
FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 60.0
WITH_BAD_TOKEN = 30.0
"""Seconds between attempts while the credentials are refused."""
LOOK_AGAIN = 30.0
"""Longest sleep: the clock may be set, and an idle chat's cursor moves on."""
LAST_CHANCE = 3.0
"""Seconds that a message on its way has to arrive when the process is told to end."""


@dataclass(frozen=True)
class Daily:
    """The digests: at what local time (None: never), on which weekday the one of the week (0: Monday; None:
    never), and how the lines of either are made now."""

    at: time | None
    lines: Callable[[datetime, bool], Awaitable[list[str]]]
    weekday: int | None = None


@dataclass(frozen=True)
class Surroundings:
    """What every chat shares. `page`: changes after a sequence, up to a number, read from the record;
    with the sequence read last, and whether that was the end. `holds`: whether a notice is still true."""

    look: Look
    daily: Daily
    now: Callable[[], datetime]
    page: Callable[[int, int], Awaitable[tuple[list[Change], int, bool]]]
    holds: Callable[[Notice], bool] = lambda _: True
    on_token: Callable[[str | None], None] = lambda _: None
    """Told whenever it shows that the credentials are refused (why) or good (None)."""
    on_record: Callable[[Exception | None], None] = lambda _: None
    """Told whenever a record could not be stored (why), or was (None)."""


class Pending:
    """What waits for a chat, in order. Bounded: what finds no room is skipped, and read again later."""

    def __init__(self, after: int) -> None:
        self.changes: deque[Change] = deque()
        self.tail = after
        """Every change up to here is in `changes`, or done, or not to be told."""
        self._skipped = after

    @property
    def behind(self) -> bool:
        return self._skipped > self.tail

    def offer(self, seq: int, change: Change | None) -> None:
        if seq <= self.tail:
            return
        if self.behind or len(self.changes) >= MOST_PENDING:
            self._skipped = seq
            return
        self.tail = seq
        if change:
            self.changes.append(change)

    async def refill(self, page: Callable[[int, int], Awaitable[tuple[list[Change], int, bool]]]) -> None:
        """Read what was skipped. At the record's end, whatever had been skipped by then has been read."""
        skipped = self._skipped
        changes, read, at_end = await page(self.tail, MOST_PENDING)
        self.changes += changes
        self.tail = max(read, skipped) if at_end else read

    def drop(self, through: int) -> None:
        while self.changes and self.changes[0].seq <= through:
            self.changes.popleft()


class Chat:
    """`open` it, put `offer` into the delivery's `offers`, and `run` until cancelled."""

    def __init__(self, target: Target, record: cursors.Record, around: Surroundings) -> None:
        self.target = target
        self._record = record
        record.on_write = around.on_record
        self._around = around
        self.pending = Pending(record.cursor.done)
        self._notices: deque[Notice] = deque(maxlen=MOST_PENDING)
        self._wake = asyncio.Event()
        self._backoff = FIRST_BACKOFF
        self._repeat = record.cursor.sending is not None
        """Whether an attempt at what is being sent may have reached the chat."""

    @property
    def key(self) -> str:
        return self.target.key

    @classmethod
    async def open(cls, target: Target, bucket: KeyValue, end: int, around: Surroundings) -> "Chat":
        """A chat that is new begins at the record's end; so does, once more, one that was switched off, or
        was told more than the record has: a backup was put back, or the broker emptied."""
        at, now = around.daily.at, around.now()
        today = digest_due(now, around.look.zone, at, None) if at else None
        fresh = Cursor(done=end, digest=today, weekly=today, notices=now)
        record = await cursors.load(bucket, target.key, fresh)
        if record.cursor.off:
            await record.write(fresh.model_copy(update={"digest": record.cursor.digest or today}))
        elif record.cursor.done > end:
            sending = record.cursor.sending
            if sending:
                other = sending.digest or sending.notices
                sending = sending.model_copy(update={"through": end}) if other else None
            await record.write(record.cursor.model_copy(update={"done": end, "sending": sending}))
        elif record.cursor.notices is None:  # an older version wrote it
            await record.write(record.cursor.model_copy(update={"notices": now, "weekly": today}))
        return cls(target, record, around)

    @property
    def cursor(self) -> Cursor:
        return self._record.cursor

    def offer(self, seq: int, change: Change | None) -> None:
        if self.cursor.off is None:
            self.pending.offer(seq, change)
            self._wake.set()

    @property
    def address(self) -> str:
        return self.cursor.chat or self.target.chat

    def muted(self) -> dict[str, datetime]:
        now = self._around.now()
        return {name: until for name, until in self.cursor.mutes.items() if until > now}

    async def mute(self, name: str, until: datetime) -> bool:
        """False: it has muted too many already."""
        mutes = {**self.muted(), name: until}
        if len(mutes) > MOST_MUTES:
            return False
        await self._write(mutes=mutes)
        return True

    async def unmute(self, name: str) -> None:
        await self._write(mutes={muted: until for muted, until in self.muted().items() if muted != name})

    async def forget(self) -> None:
        """Let go of its record, for good. Its `run` must have ended."""
        await self._record.forget()

    def remind(self, notice: Notice) -> None:
        if self.cursor.off is None and self.cursor.notices and notice.at > self.cursor.notices:
            self._notices.append(notice)
            self._wake.set()

    def oldest_unsent(self) -> datetime | None:
        return self.pending.changes[0].stored_at if self.pending.changes else None

    def digest_at(self, day: date | None) -> datetime | None:
        """When the digest of a day is due; None: there are no digests, or there is no day."""
        at = self._around.daily.at
        return datetime.combine(day, at, self._around.look.zone) if day and at else None

    def digest_overdue(self) -> float:
        """Seconds since a digest was due that the chat has not got yet."""
        due = self._digest_due() if self.cursor.off is None else None
        at = self.digest_at(due.digest) if due else None
        return max(0.0, (self._around.now() - at).total_seconds()) if at else 0.0

    async def run(self) -> None:
        while self.cursor.off is None:
            await self._until_there_is_something()
            await self.target.turn(self.address)
            message, sending = await self._compose()
            if message is None:
                continue
            attempt = asyncio.create_task(self._attempt(message, sending))
            try:
                pause = await asyncio.shield(attempt)
            except asyncio.CancelledError:
                await asyncio.wait({attempt}, timeout=LAST_CHANCE)
                attempt.cancel()
                raise
            await asyncio.sleep(pause)

    # --- what to send

    async def _until_there_is_something(self) -> None:
        while not self._has_something():
            if self.pending.behind and not self.pending.changes:
                await self.pending.refill(self._around.page)
                continue
            self._wake.clear()
            try:
                async with asyncio.timeout(self._until_next_look()):
                    await self._wake.wait()
            except TimeoutError:
                await self._move_on()

    def _has_something(self) -> bool:
        if sending := self.cursor.sending:
            return self.pending.tail >= sending.through or self.pending.behind
        return bool(self.pending.changes or self._notices or self._digest_due())

    def _digest_due(self) -> Sending | None:
        """The digest that is to be sent now; on its weekday the one of the week, then the daily one."""
        daily, now, zone = self._around.daily, self._around.now(), self._around.look.zone
        if daily.at is None:
            return None
        for weekly, last in ((True, self.cursor.weekly), (False, self.cursor.digest)):
            day = digest_due(now, zone, daily.at, last)
            if day and (not weekly or day.weekday() == daily.weekday):
                return Sending(through=self.cursor.done, digest=day, weekly=weekly)
        return None

    def _until_next_look(self) -> float:
        at = self._around.daily.at
        if at is None:
            return LOOK_AGAIN
        now = self._around.now()
        return min(LOOK_AGAIN, (next_digest_at(now, self._around.look.zone, at) - now).total_seconds())

    async def _move_on(self) -> None:
        """Let the cursor of an idle chat follow, so that a restart need not read far back."""
        if not self.pending.changes and not self.pending.behind and self.pending.tail > self.cursor.done:
            await self._write(done=self.pending.tail)

    async def _compose(self) -> tuple[Message | None, Sending]:
        """What comes next: what an earlier attempt left open, a digest, the changes that wait, notices."""
        await self._let_go_of_old()
        open_, look = self.cursor.sending, self._around.look
        repeat = open_ is not None
        digest = open_ if open_ and open_.digest else None if open_ else self._digest_due()
        if digest:
            lines = await self._around.daily.lines(self._around.now(), digest.weekly)
            return digest_message(lines, look, digest.through, repeat=repeat), digest
        if not (open_ and open_.notices):
            waiting = [c for c in self.pending.changes if open_ is None or c.seq <= open_.through]
            muted = self.muted()
            if stories(told := [c for c in waiting if c.name not in muted]):
                message = pack(told, look, repeat=repeat, doubted=self.cursor.doubted)
                return message, open_ or Sending(through=message.through_seq)
            if waiting or open_:
                await self._done_with(max(c.seq for c in waiting) if waiting else 0, open_)
                return None, Sending(through=self.cursor.done)
        upto = open_.notices if open_ and open_.notices else datetime.max.replace(tzinfo=UTC)
        notices = [
            it
            for it in self._notices
            if it.at <= upto and self._around.holds(it) and it.name not in self.muted()
        ]
        if notices:
            sending = open_ or Sending(through=self.cursor.done, notices=max(it.at for it in notices))
            return notice_message(notices, look, self.cursor.done, repeat=repeat), sending
        self._notices = deque((it for it in self._notices if it.at > upto), MOST_PENDING)
        if open_:
            await self._write(notices=open_.notices, sending=None)
        return None, Sending(through=self.cursor.done)

    async def _done_with(self, seq: int, open_: Sending | None) -> None:
        """Nothing is to be told of what waits up to `seq`, nor of what was left open."""
        self.pending.drop(seq)
        await self._write(done=max(self.cursor.done, seq, open_.through if open_ else 0), sending=None)

    async def _let_go_of_old(self) -> None:
        horizon = self._around.now() - WORTH_SENDING
        old = 0
        while self.pending.changes and self.pending.changes[0].stored_at < horizon:
            through = self.pending.changes.popleft().seq
            old += 1
        if old:
            log.error("changes older than a day were not sent", chat=self.key, changes=old)
            MESSAGES.labels("expired").inc(old)
            await self._write(done=through)

    # --- sending, and what became of it

    async def _attempt(self, message: Message, sending: Sending) -> float:
        """Send, and record it. Seconds to wait before anything else is sent."""
        if sending != self.cursor.sending:
            await self._write(sending=sending)
            self._repeat = False
        what = f"digest.{sending.digest}" if sending.digest else f"notices.{sending.notices}"
        told = not (sending.digest or sending.notices)
        message = replace(message, id=f"changes.{message.through_seq}" if told else what.replace(" ", "T"))
        traces = self._traces(message) if told and tracing.is_on() else [""]
        channel = self.key.partition(".")[0]
        with tracing.span(
            "send", traces[0], kind="CLIENT", links=traces[1:], registry_channel=channel
        ) as span:
            outcome = await self.target.send(self.address, message, self._reply_to(message))
            result = type(outcome).__name__.lower()
            span.note(registry_result=result)
        MESSAGES.labels(result).inc()
        return await self._settle(outcome, message, sending)

    def _traces(self, message: Message) -> list[str]:
        """Those of the changes that a message tells of: it is part of the first, and links to the others."""
        muted = self.muted()
        through = (it for it in self.pending.changes if it.seq <= message.through_seq)
        found = dict.fromkeys(it.trace for it in through if it.trace and it.name not in muted)
        return [trace for trace in found if trace] or [""]

    async def _settle(self, outcome: Outcome, message: Message, sending: Sending) -> float:
        match outcome:
            case Sent(message_id):
                await self._sent(message, sending, message_id)
                return 0
            case Permanent(reason):
                await self._switch_off(reason)
                return 0
            case Migrated(chat):
                log.warning("the chat has a new id", chat=self.key, new=chat)
                await self._write(chat=chat)
                self._not_delivered()
                return 0
            case Limited(retry_after):
                self._not_delivered()
                return retry_after
            case BadToken(reason):
                self._around.on_token(reason)
                self._not_delivered()
                return WITH_BAD_TOKEN
            case Failed(reason, maybe_delivered):
                log.warning("message not sent; will be tried again", chat=self.key, reason=reason)
                if maybe_delivered:
                    self._repeat = True
                self._not_delivered()
                pause = self._backoff * random.uniform(0.8, 1.2)  # it only spreads  # nosec B311
                self._backoff = min(self._backoff * 2, LONGEST_BACKOFF)
                return pause

    def _not_delivered(self) -> None:
        """Unless an attempt may have reached the chat, the next one may tell more, and is no repeat. (The
        record keeps the intent until then.)"""
        if not self._repeat:
            self._record.cursor = self.cursor.model_copy(update={"sending": None})

    async def _sent(self, message: Message, sending: Sending, message_id: int | None) -> None:
        self._backoff = FIRST_BACKOFF
        self._around.on_token(None)
        if sending.digest:
            LAST_DIGEST.set(self._around.now().timestamp())
            await self._write(sending=None, **{"weekly" if sending.weekly else "digest": sending.digest})
            return
        if sending.notices:
            self._notices = deque((it for it in self._notices if it.at > sending.notices), MOST_PENDING)
            await self._write(
                sending=None, notices=sending.notices, threads=self._threads(message, message_id)
            )
            return
        self.pending.drop(message.through_seq)
        idle = not self.pending.changes and not self.pending.behind
        await self._write(
            done=max(self.pending.tail, message.through_seq) if idle else message.through_seq,
            sending=sending if message.through_seq < sending.through else None,
            threads=self._threads(message, message_id),
            doubted=max(filter(None, (self.cursor.doubted, message.doubted)), default=None),
        )

    async def _switch_off(self, reason: str) -> None:
        log.error("chat switched off; mend it and start the notifier again", chat=self.key, reason=reason)
        await self._write(off=reason, sending=None)
        self.pending.changes.clear()
        self._notices.clear()

    # --- the thread of an incident

    def _reply_to(self, message: Message) -> int | None:
        return self.cursor.threads.get(message.about) if message.about else None

    def _threads(self, message: Message, message_id: int | None) -> dict[str, int]:
        """The message that told of each open fall; only the newest are remembered."""
        threads = {name: id_ for name, id_ in self.cursor.threads.items() if name not in message.risen}
        if message_id:
            for name in message.fallen:
                threads.pop(name, None)
                threads[name] = message_id
        return dict(list(threads.items())[-cursors.MOST_THREADS :])

    # --- the record

    async def _write(self, **changed: object) -> None:
        await self._record.update(**changed)


def oldest_unsent_seconds(chats: list[Chat], now: datetime) -> float:
    """How long the oldest change has waited that some chat has not got yet."""
    moments = [moment for chat in chats if (moment := chat.oldest_unsent())]
    return max(0.0, (now - min(moments, default=now)).total_seconds())
