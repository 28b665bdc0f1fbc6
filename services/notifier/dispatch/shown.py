"""The messages of one receiver that told of falls, kept up to date: each says below its text who has it in
hand, what is muted, and what is alive again. Only channels that can edit have any.

Each is a record of its own in the broker's KV, in one of so many slots; the receiver's state names the slots
that are used, before the message is sent. What differs from what a message should say is edited, whenever
there is nothing to send.
"""

import asyncio
from datetime import datetime
from functools import partial

import structlog
from nats.js.errors import KeyNotFoundError
from prometheus_client import Counter
from pydantic import BaseModel, ValidationError

from services.notifier.channels import channel as channels
from services.notifier.channels.channel import Backoff, EditingChannel
from services.notifier.dispatch.dependencies import ReceiverDependencies
from services.notifier.dispatch.notification_log import NotificationLog
from services.notifier.texts import incidents as texts
from services.notifier.texts.incidents import Standing
from services.notifier.texts.message import OutgoingMessage, units
from shared.contracts.events import Moment, micros
from shared.domain.incidents import Incident
from shared.messaging.connection import retry_until_done, set_within

log = structlog.get_logger()

EDITS = Counter("registry_message_edits_total", "Attempts to edit a message, by how they ended", ["result"])
for _result in ("sent", "failed", "limited", "migrated", "permanent", "refused", "badtoken"):
    EDITS.labels(_result)

MAX_SHOWN = 200
"""Messages that are kept up to date per receiver, the newest."""
SAME_MESSAGE = 5.0
"""Seconds between two edits of one message."""
BAD_TOKEN_RETRY = 30.0


class ShownService(BaseModel, frozen=True):
    """One service as a message told of it: which incident, and the sequence of the change that was told. What
    is known of its end, if it is over."""

    incident: str
    began: Moment
    seq: int
    ended: Moment | None = None
    by: str | None = None
    deleted: bool = False


class ShownMessage(BaseModel, frozen=True):
    """`says`: what was added to it, and its buttons, by its newest edit."""

    message_id: int
    chat: str
    at: Moment
    html: str
    plain: str
    services: dict[str, ShownService]
    says: tuple[str, tuple[str, ...]] = ("", ())

    @property
    def is_over(self) -> bool:
        return all(it.ended or it.deleted for it in self.services.values())


class ShownMessages:
    """`reserve` a slot before a message is sent and `remember` it afterwards; `look` at a service again when
    something about its incident has changed; `run` until cancelled."""

    def __init__(self, channel: EditingChannel, log: NotificationLog, deps: ReceiverDependencies) -> None:
        self._channel, self._log, self._deps = channel, log, deps
        self._by_slot: dict[int, ShownMessage] = {}
        self._used = set(log.state.shown)
        self._reserved: int | None = None
        self._of: dict[str, set[int]] = {}
        """By service the slots of the messages that told of it."""
        self._dirty: dict[int, None] = {}
        self._wake, self._loaded = asyncio.Event(), asyncio.Event()
        self._edited_at: dict[int, float] = {}
        self._until: dict[int, datetime] = {}
        """When a mute ends that a message tells of."""
        self._backoff = Backoff(1.0)
        self._probe_backoff = Backoff(60.0, 3600.0)
        self.idle = asyncio.Event()
        """Set while there is nothing to send: messages go first."""

    def _key(self, slot: int) -> str:
        return f"shown.{self._log.key}.{slot}"

    @property
    def slots(self) -> tuple[int, ...]:
        """Those that are used, for the receiver's state."""
        return tuple(sorted(self._used | ({self._reserved} if self._reserved is not None else set())))

    # --- new messages

    async def reserve(self) -> None:
        """A slot for the next message: the first that is free, or that of the oldest message."""
        if self._reserved is not None:
            return
        if len(self._used) >= MAX_SHOWN:
            await self._loaded.wait()
        self._reserved = next((slot for slot in range(MAX_SHOWN) if slot not in self._used), None)
        if self._reserved is None and self._by_slot:
            self._reserved = min(self._by_slot, key=lambda slot: self._by_slot[slot].at)
            self._forget(self._reserved)

    async def remember(
        self, message: OutgoingMessage, message_id: int, chat: str, services: dict[str, ShownService]
    ) -> None:
        """Before it is recorded that the message was sent."""
        slot, self._reserved = self._reserved, None
        if slot is None:  # all of them are just being freed
            return
        shown = ShownMessage(
            message_id=message_id,
            chat=chat,
            at=self._deps.now(),
            html=message.text,
            plain=message.plain_text,
            services=services,
            says=("", _labels(message)),
        )
        await self._put(slot, shown)
        self._add(slot, shown)

    def _add(self, slot: int, shown: ShownMessage) -> None:
        self._used.add(slot)
        self._by_slot[slot] = shown
        for name in shown.services:
            self._of.setdefault(name, set()).add(slot)
        self._mark(slot)

    def _forget(self, slot: int) -> None:
        shown = self._by_slot.pop(slot, None)
        for name in shown.services if shown else ():
            of = self._of.get(name, set())
            of.discard(slot)
            if not of:
                self._of.pop(name, None)
        self._dirty.pop(slot, None)
        self._until.pop(slot, None)
        self._edited_at.pop(slot, None)

    # --- what may have to be edited

    def look(self, name: str) -> None:
        for slot in self._of.get(name, ()):
            self._mark(slot)

    def tick(self) -> None:
        """Mutes end by themselves."""
        now = self._deps.now()
        for slot in [slot for slot, until in self._until.items() if until <= now]:
            del self._until[slot]
            self._mark(slot)

    def _mark(self, slot: int) -> None:
        self._dirty[slot] = None
        self._wake.set()

    async def run(self) -> None:
        await self._load()
        while True:
            slot, wait = self._next()
            if slot is None:
                self._wake.clear()
                await set_within(self._wake, wait)
                continue
            edit = await self._compose(slot)
            if edit is None:
                continue
            if not self.idle.is_set() or self._log.state.off:
                await self._until_idle()
            elif pause := self._channel.edit_turn(edit[0].chat):
                await asyncio.sleep(pause)
            else:
                await asyncio.sleep(await self._edit(slot, *edit))

    async def _until_idle(self) -> None:
        if self._log.state.off:
            await asyncio.sleep(self._probe_backoff.next())
        await self.idle.wait()

    def _next(self) -> tuple[int | None, float]:
        """The message to look at; or in how many seconds to ask again."""
        now, soonest = asyncio.get_running_loop().time(), 3600.0
        for slot in self._dirty:
            wait = self._edited_at.get(slot, 0.0) + SAME_MESSAGE - now
            if wait <= 0 or slot not in self._edited_at:
                return slot, 0.0
            soonest = min(soonest, wait)
        return None, soonest

    async def _compose(self, slot: int) -> tuple[ShownMessage, OutgoingMessage] | None:
        """The message as it should be, and what becomes of it in the record; None: it is so already."""
        self._dirty.pop(slot, None)
        shown = self._by_slot.get(slot)
        if shown is None:
            return None
        if shown.chat != (self._log.state.chat or self._channel.chat):  # a group's do not move with it
            await self._drop(slot)
            return None
        states = self._deps.states
        if all(map(states.is_silenced, shown.services)):  # nothing is told of it
            return None
        services = {name: await self._standing(name, it) for name, it in shown.services.items()}
        if slot not in self._by_slot:
            return None
        shown = shown.model_copy(update={"services": services})
        now = self._deps.now()
        standings = [self._told(name, it, now) for name, it in services.items()]
        ends = [it.muted.until for it in standings if it.muted and it.muted.until and not it.ended]
        if ends:
            self._until[slot] = min(ends)
        room = texts.MAX_UNITS - units(shown.plain) - 2
        lines = texts.standing_lines(standings, shown.at, self._deps.links, room)
        rows = [
            (it.name, services[it.name].incident, it.acknowledged is not None)
            for it in standings
            if not (it.ended or it.deleted)
        ]
        buttons = texts.incident_buttons(rows, len(standings))
        message = texts.edited(shown.html, shown.plain, lines, buttons)
        says = lines, _labels(message)
        if says == self._by_slot[slot].says:
            if shown.is_over:
                await self._drop(slot)
            return None
        self._dirty[slot] = None
        return shown.model_copy(update={"says": says}), message

    async def _standing(self, name: str, it: ShownService) -> ShownService:
        """With its end, if it is over."""
        if it.ended or it.deleted:
            return it
        ended = await self._deps.incident_end(name, it.seq, Incident(it.incident, micros(it.began)))
        if ended is None:
            return it
        return it.model_copy(update={"ended": ended.at, "by": ended.by, "deleted": ended.deleted})

    def _told(self, name: str, it: ShownService, now: datetime) -> Standing:
        if it.ended or it.deleted or self._deps.states.is_silenced(name):
            return Standing(name, it.began, it.ended, it.by, it.deleted)
        incidents = self._deps.states.incidents
        ack, mute = incidents.acknowledged(name), incidents.muted(name, now)
        return Standing(
            name, it.began, acknowledged=ack if ack and ack.incident == it.incident else None, muted=mute
        )

    # --- edits

    async def _edit(self, slot: int, shown: ShownMessage, message: OutgoingMessage) -> float:
        """Seconds to wait before the next."""
        outcome = await self._channel.edit(shown.chat, shown.message_id, message)
        EDITS.labels(type(outcome).__name__.lower()).inc()
        match outcome:
            case channels.Sent():
                self._backoff.reset()
                self._probe_backoff.reset()
                if slot not in self._by_slot:
                    return 0.0
                self._edited_at[slot] = asyncio.get_running_loop().time()
                if shown.is_over:
                    await self._drop(slot)
                    return 0.0
                self._by_slot[slot] = shown
                await self._put(slot, shown)
                return 0.0
            case channels.Refused(reason):
                log.info("a message cannot be edited", chat=self._log.key, reason=reason)
                await self._drop(slot)
                return 0.0
            case channels.Migrated():
                for each in list(self._by_slot):
                    await self._drop(each)
                return 0.0
            case channels.Limited(retry_after):
                return retry_after
            case channels.BadToken(reason):
                self._deps.on_token(reason)
                return BAD_TOKEN_RETRY
            case channels.Permanent():
                return self._probe_backoff.next()
            case channels.Failed():
                return self._backoff.next()

    # --- the records

    async def _load(self) -> None:
        async def read(slot: int) -> None:
            if slot == self._reserved or slot in self._by_slot:
                return
            key = self._key(slot)
            content = await retry_until_done(f"read {key}", partial(self._get, key))
            if slot == self._reserved or slot in self._by_slot:
                return
            if content is None:
                self._used.discard(slot)
                return
            try:
                self._add(slot, ShownMessage.model_validate_json(content))
            except ValidationError as error:
                log.warning("what a message said cannot be read", key=key, why=str(error)[:300])
                self._used.discard(slot)

        await asyncio.gather(*(read(slot) for slot in self._log.state.shown))
        self._loaded.set()

    async def _get(self, key: str) -> bytes | None:
        try:
            return (await self._log.bucket.get(key)).value or None
        except KeyNotFoundError:
            return None

    async def _put(self, slot: int, shown: ShownMessage) -> None:
        key, content = self._key(slot), shown.model_dump_json().encode()
        await retry_until_done(f"record {key}", partial(self._log.bucket.put, key, content))

    async def _drop(self, slot: int) -> None:
        self._forget(slot)
        key = self._key(slot)
        await retry_until_done(f"forget {key}", partial(self._log.bucket.purge, key))
        if slot not in self._by_slot:
            self._used.discard(slot)


def _labels(message: OutgoingMessage) -> tuple[str, ...]:
    return tuple(data for row in message.buttons for _, data in row)
