"""Wires the notifier: settings, broker, channels, digest, HTTP front."""

import asyncio
import re
from datetime import UTC, datetime, time, timedelta
from functools import partial
from typing import Annotated, Any

import structlog
from nats.js.kv import KeyValue
from prometheus_client import Gauge
from pydantic import AfterValidator, BeforeValidator, SecretStr, model_validator
from pydantic_settings import NoDecode
from starlette.applications import Starlette

from services.notifier.alerting.reminders import Reminders
from services.notifier.alerting.texts import LinkContext
from services.notifier.bot.commands import BotActions, BotCommands
from services.notifier.bot.subscribers import Subscribers
from services.notifier.bot.updates import Updates
from services.notifier.channels import webhook
from services.notifier.channels.apprise import AppriseChannel, NotInstalled
from services.notifier.channels.channel import BadToken, Channel, Failed
from services.notifier.channels.log import LogChannel
from services.notifier.channels.telegram import Bot, TelegramChannel
from services.notifier.consumer import EventConsumer, asyncapi_document
from services.notifier.deadman import DeadmanSwitch
from services.notifier.deafness import TOLD_AFTER, DeafnessWatch
from services.notifier.dispatch import seen_record
from services.notifier.dispatch.notification_log import ReceiverState
from services.notifier.dispatch.receiver import (
    LAST_DIGEST,
    DigestSchedule,
    ReceiverDependencies,
    ReceiverWorker,
    oldest_unsent_seconds,
)
from services.notifier.dispatch.seen_record import SeenRecord
from services.notifier.event_log import EventLog
from services.notifier.lease import Lease
from services.notifier.states import ServiceStates
from shared.contracts import durations
from shared.contracts.events import moment
from shared.contracts.maintenance import Window, maintenance_until
from shared.domain import digest
from shared.http import asyncapi, server, urls
from shared.http.protocol import limits_of, within
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection, retry_until_done
from shared.messaging.errors import READ_ONLY
from shared.messaging.queries import last_sequence
from shared.messaging.record_watch import AnotherRecord, Marks, RecordWatch, judge, told_before
from shared.messaging.stream_identity import Comparison
from shared.messaging.truncation import truncated
from shared.messaging.window_bucket import Windows
from shared.settings import (
    CommaSeparated,
    Concealed,
    HttpUrl,
    HttpUrls,
    Port,
    SecretHttpUrl,
    Settings,
    TimeOfDay,
    listens_on_loopback,
    load,
    stop,
)
from shared.telemetry import logs, tracing

log = structlog.get_logger()

OLDEST_UNSENT = Gauge(
    "registry_oldest_unsent_seconds", "Age of the oldest change that a chat has not got yet"
)
UNSENT = Gauge("registry_unsent_changes", "Changes that wait for a chat, counted once for each")
CHATS = Gauge("registry_chats", "Chats that are sent something")
CHATS_OFF = Gauge("registry_chats_off", "Chats that are not sent anything, because they refuse it for good")
DIGEST_OVERDUE = Gauge(
    "registry_digest_overdue_seconds", "Time since a digest was due that some chat has not got yet"
)

CHECK_TOKEN_AGAIN = 30.0
CUT_OFF = TOLD_AFTER
"""How long the broker may be away before that is told."""
UNSENT_IS_WRONG = 300.0
"""Seconds that a change may wait for some chat before the deadman's switch is let go."""
REMEMBER_EVERY = 10.0
"""Seconds between two notes of which record the cursors are."""
RECORDED_WITHIN = timedelta(seconds=5)
"""A change may be recorded so long after its date: what is dated later than that before the end of a record
may not have been told from it."""

_CHAT = re.compile(r"(-?\d{1,20}|@\w{3,64})(:\d{1,18})?", re.ASCII)


def _chats(chats: tuple[str, ...]) -> tuple[str, ...]:
    for chat in chats:
        if not _CHAT.fullmatch(chat):
            raise ValueError(
                f"{chat!r}; accepted: a chat's number, @channel, or either with :topic behind it"
            )
    return tuple(dict.fromkeys(chats))


def _secret(given: SecretStr) -> SecretStr:
    if not re.fullmatch(r"([A-Za-z0-9_-]{8,64})?", given.get_secret_value(), re.ASCII):
        raise ValueError("not accepted")
    return given


def _schemes(given: tuple[str, ...]) -> tuple[str, ...]:
    if not all(map(urls.has_scheme, given)):
        raise ValueError("not accepted")
    return given


def _words(value: Any) -> Any:
    return tuple(value.split()) if isinstance(value, str) else value


def _key(given: SecretStr) -> SecretStr:
    webhook.signing_key(given.get_secret_value())
    return given


_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def _weekday(value: Any) -> Any:
    if not isinstance(value, str) or not value.strip():
        return None
    if value.strip().lower()[:3] not in _DAYS:
        raise ValueError("accepted: mon, tue, wed, thu, fri, sat, sun, or nothing")
    return _DAYS.index(value.strip().lower()[:3])


def _reminders(value: Any) -> Any:
    """In order, without doubles; `0` or nothing: none."""
    if not isinstance(value, str):
        return value
    parts = [part.strip() for part in value.split(",") if part.strip()]
    return tuple(sorted({durations.parse(part) for part in parts})) if parts != ["0"] else ()


class NotifierSettings(Settings):
    notifier_port: Port = 8004
    digest_time: TimeOfDay = time(9)
    weekly_digest: Annotated[int | None, BeforeValidator(_weekday)] = None
    remind_after: Annotated[tuple[timedelta, ...], NoDecode, BeforeValidator(_reminders)] = (
        timedelta(hours=1),
        timedelta(hours=6),
        timedelta(days=1),
    )
    deadman_url: SecretHttpUrl = SecretStr("")
    webhook_urls: HttpUrls = ()
    webhook_secret: Annotated[
        SecretStr,
        AfterValidator(_key),
        Concealed("16 or more characters, or whsec_ and base64 behind it"),
    ] = SecretStr("")
    webhook_private: bool = False
    apprise_urls: Annotated[
        tuple[str, ...],
        NoDecode,
        BeforeValidator(_words),
        AfterValidator(_schemes),
        Concealed("Apprise URLs such as ntfy://TOPIC, several separated by blanks"),
    ] = ()
    telegram_bot_token: SecretStr = SecretStr("")
    telegram_chat_id: Annotated[CommaSeparated, AfterValidator(_chats)] = ()
    telegram_invite: Annotated[
        SecretStr, AfterValidator(_secret), Concealed("8 to 64 letters, digits, _ and -")
    ] = SecretStr("")
    telegram_api_url: HttpUrl = "https://api.telegram.org"

    @model_validator(mode="after")
    def _together(self) -> "NotifierSettings":
        if self.weekly_digest is not None and self.digest_time is None:
            raise ValueError("REGISTRY_WEEKLY_DIGEST needs a REGISTRY_DIGEST_TIME")
        if self.webhook_urls and len(self.webhook_secret.get_secret_value()) < SHORTEST_KEY:
            needed = f"REGISTRY_WEBHOOK_SECRET of {SHORTEST_KEY} or more characters"
            raise ValueError(f"REGISTRY_WEBHOOK_URLS needs a {needed}")
        return self

    @property
    def token(self) -> str:
        return self.telegram_bot_token.get_secret_value().strip()


SHORTEST_KEY = 16


def _apprise(url: str) -> AppriseChannel:
    try:
        return AppriseChannel(url)
    except NotInstalled:
        stop("REGISTRY_APPRISE_URLS needs the extra: pip install 'services-registry[apprise]'")
    except ValueError as error:
        stop(f"REGISTRY_APPRISE_URLS: {error}")


def _others(settings: NotifierSettings) -> list[Channel]:
    """The channels besides Telegram. Each is one line here."""
    secret, private = settings.webhook_secret.get_secret_value(), settings.webhook_private
    return [
        *(webhook.WebhookChannel(url, secret, private=private) for url in settings.webhook_urls),
        *(_apprise(url) for url in settings.apprise_urls),
    ]


def now() -> datetime:
    return datetime.now(UTC)


class Notifier:
    """The parts, built once; `work` runs them."""

    def __init__(self, settings: NotifierSettings, before: "Notifier | None" = None) -> None:
        """`before`: the one that this one takes the place of, as the record is another one now."""
        self._settings = settings
        self._before = before
        self._bot = Bot(settings.telegram_api_url, settings.token) if settings.token else None
        parts = ("broker", "delivery", *(("telegram",) if self._bot else ()))
        self.health: server.Health = before.health if before else server.Health(*parts)
        self._link = BrokerConnection(settings, "notifier")
        self.watch = RecordWatch(self._link, buckets=(streams.NOTIFIER_BUCKET, streams.MAINTENANCE_BUCKET))
        self.watch.on_another = lambda why: self.health.bad("delivery", why)
        self.health.follow(self._link)
        self.health.good("record")
        self._states = ServiceStates()
        self._states.on_config = self._configured
        self._windows = Windows(self._link, self._window_removed)
        self._listener = DeafnessWatch(self._link)
        self._reminders = Reminders(self._states, settings.remind_after)
        self._event_log = EventLog(self._link, self._states)
        self.consumer = EventConsumer(
            self._link, settings.nats_url, self._states, self._event_log, self._reminders
        )
        self._others = _others(settings)
        self._chats: list[ReceiverWorker] = []
        self._running: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup
        self._subscribers: Subscribers
        self._joining = asyncio.Lock()
        self._bucket: KeyValue
        self._remembered_at = float("-inf")
        self._lease: Lease | None = None
        self._deps = ReceiverDependencies(
            links=LinkContext(settings.public_url.rstrip("/"), settings.zone),
            digests=DigestSchedule(settings.digest_time, self._digest, settings.weekly_digest),
            now=now,
            page=self._event_log.changes_after,
            newest=self._newest,
            holds=self._reminders.is_current,
            states=self._states,
            maintenance_until=self._maintenance_until,
            remind_after=settings.remind_after,
            is_taken=self._is_taken,
            on_taken=self._on_taken,
            deafness=lambda after: self._listener.deafness(after, now()),
            on_token=self._on_token,
            on_record=self._on_record,
        )

    async def work(self) -> None:
        """Raises AnotherRecord, alone or in a group, when another Notifier is to begin anew."""
        try:
            bucket = await self._connect()
            await self.watch.once(lambda: self._speak(bucket))
        finally:
            if self._lease:
                await self._lease.release()
            await self.consumer.stop()
            await self._link.close()
            if self._bot:
                await self._bot.close()

    async def _speak(self, bucket: KeyValue) -> None:
        self._lease = Lease(self._link, bucket)
        await self._lease.acquire(self._stand_by)
        await self._open(bucket)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lease.watch())
            group.create_task(self.consumer.watch())
            group.create_task(self._keep_reminding())
            group.create_task(self._windows.follow())
            group.create_task(self._listener.follow(now))
            group.create_task(self._keep_telling_cut_off(group))
            if url := self._settings.deadman_url.get_secret_value():
                group.create_task(DeadmanSwitch(url, self._link, self._hindered).run())
            if self._bot:
                group.create_task(self._check_token(self._bot))
                if self._settings.telegram_chat_id or self._settings.telegram_invite.get_secret_value():
                    updates = Updates(self._bot, self._commands(self._bot).handle)
                    group.create_task(updates.run())
            self._group = group
            for chat in self._chats:
                self._running[chat.key] = group.create_task(chat.run())

    @property
    def chats(self) -> list[ReceiverWorker]:
        return self._chats

    @property
    def left(self) -> SeenRecord:
        """The record that was there before, when it was seen last."""
        return SeenRecord(events=self.watch.marks[streams.SERVICES], seen_at=self.watch.left_at or 0)

    @property
    def that_spoke(self) -> "Notifier":
        """Who knows what chats were told: this one, or if it never came to it the one before."""
        return self if self._chats or self._before is None else self._before

    @property
    def subscribed(self) -> dict[str, datetime]:
        return self._subscribers.since

    async def _connect(self) -> KeyValue:
        """The bucket that the notifier's records are in, when the broker is there."""
        self._link.adopt(await self.consumer.broker.connect())
        await self._link.provision()
        self.health.good("broker")
        return await self._link.bucket(streams.NOTIFIER_BUCKET)

    def _maintenance_until(self, name: str, at: datetime) -> datetime | None:
        return maintenance_until(self._windows.by_id.values(), name, self._states.get(name).tags, at)

    def _window_removed(self, window: Window) -> None:
        for chat in self._chats:
            chat.window_removed(window)

    def _configured(self, name: str) -> None:
        for chat in self._chats:
            chat.configured(name)

    def _stand_by(self) -> None:
        for part in list(self.health.missing):
            self.health.good(part)

    async def _open(self, bucket: KeyValue) -> None:
        """Learn how things are, and start reading where the chat that is furthest behind stands."""
        end = await self._newest()
        await self._event_log.load_states()
        await self._windows.load()
        self._bucket, self._subscribers = bucket, Subscribers(bucket)
        seen, before, anew = await seen_record.load(bucket), self._before, False
        if before and seen and seen.seen_at > before.left.seen_at:
            before = None  # another notifier has spoken since
        if before:
            seen = before.left
        if seen and (decision := await self._compare(seen)) is not Comparison.SAME:
            log.info("the cursors are of another record", why=decision.value)
            told = await told_before(self._link, seen.seen_at)
            self._event_log.skip_told_before(moment(seen.seen_at) - RECORDED_WITHIN, told)
            if decision is not Comparison.PURGED:  # else the sequences are what they were
                end, anew = told, True
        known: dict[str, ReceiverState] = {}
        if before and before.chats:  # this very process wrote them last
            known = {chat.key: chat.cursor for chat in before.chats}
        await self._subscribers.load()
        await self._subscribers.claim(before.subscribed if known and before else None)
        for channel in self._channels():
            chat = await ReceiverWorker.open(
                channel, bucket, end, self._deps, anew=anew, known=known.get(channel.key)
            )
            if self._is_taken(channel, chat.address):
                log.warning("two chats are one, which is told once", left_out=chat.key, address=chat.address)
                await self._end(chat)
            else:
                self._chats.append(chat)
        self._before = None
        await self._remember(self.watch.marks)
        self.watch.on_look = self._remember
        chats = self._chats
        self._measure()
        self.consumer.subscribers += [chat.enqueue for chat in chats]
        after = min(chat.cursor.done for chat in chats)
        for name in self._states:
            self._reminders.watch(name, min(chat.cursor.notices or now() for chat in chats))
        self._remind()
        await self.consumer.start(after)
        self.health.good("delivery")
        log.info("notifying", chats=[chat.key for chat in chats], after=after, newest=end)

    async def _newest(self) -> int:
        newest: tuple[int, int] = await retry_until_done(
            "ask for the newest event", lambda: last_sequence(self._link, streams.SERVICES)
        )
        return newest[0]

    async def _compare(self, seen: SeenRecord) -> Comparison:
        question = partial(judge, self._link, streams.SERVICES, seen.events)
        decision: Comparison = (await retry_until_done("compare the record", question))[0]
        return decision

    async def _remember(self, marks: Marks) -> None:
        """Note of which record the cursors are, once in a while."""
        clock = asyncio.get_running_loop().time()
        if clock > self._remembered_at + REMEMBER_EVERY:
            self._remembered_at = clock
            seen = SeenRecord(events=marks[streams.SERVICES], seen_at=self.watch.seen_at)
            await seen_record.save(self._bucket, seen)

    def _measure(self) -> None:
        chats = self._chats
        OLDEST_UNSENT.set_function(
            lambda: oldest_unsent_seconds([it for it in chats if not it.cursor.off], now())
        )
        UNSENT.set_function(lambda: sum(len(chat.pending.changes) for chat in chats))
        CHATS.set_function(lambda: sum(chat.cursor.off is None for chat in chats))
        CHATS_OFF.set_function(lambda: sum(chat.cursor.off is not None for chat in chats))
        DIGEST_OVERDUE.set_function(lambda: max((chat.digest_overdue() for chat in chats), default=0.0))
        if sent := [at for chat in chats if (at := chat.digest_at(chat.cursor.digest))]:
            LAST_DIGEST.set(max(sent).timestamp())

    # --- those who subscribe themselves

    def _commands(self, bot: Bot) -> BotCommands:
        doors = BotActions(
            chats=lambda: self._chats,
            subscribe=self._subscribe,
            unsubscribe=self._unsubscribe,
            migrate=self._migrate,
            digest=lambda at: self._digest(at, False),
            last_heartbeat=self._event_log.last_heartbeat,
            now=now,
        )
        invite = self._settings.telegram_invite.get_secret_value()
        return BotCommands(bot, self._states, self._deps.links, doors, invite)

    async def _subscribe(self, address: str) -> bool:
        """Begin with what comes next."""
        assert self._bot
        channel = TelegramChannel(self._bot, address)
        async with self._joining:
            if any(address == chat.address or channel.key == chat.key for chat in self._chats):
                return True  # the latter: a group that has a new number, by its old one
            if not await self._subscribers.add(address, now()):
                return False
            chat = await ReceiverWorker.open(channel, self._bucket, await self._newest(), self._deps)
            if self._is_taken(channel, chat.address):  # a group that has got its new number meanwhile
                await self._end(chat)
                return True
            self._chats.append(chat)
            chat.mark_missed(self.consumer.position)  # what came while its record was written
            self.consumer.subscribers.append(chat.enqueue)
            self._running[chat.key] = self._group.create_task(chat.run())
            log.info("a chat has subscribed", chat=chat.key)
        return True

    async def _unsubscribe(self, address: str) -> bool:
        """Not who was configured. A group that has a new number is known here by its old one."""
        async with self._joining:
            leaving = [it for it in self._chats if it.address == address and self._subscribed_as(it)]
            for chat in leaving:
                await self._end(chat)
                log.info("a chat has unsubscribed", chat=chat.key)
        return bool(leaving)

    async def _migrate(self, old: str, new: str) -> None:
        for chat in [chat for chat in self._chats if chat.address == old]:
            if self._is_taken(chat.channel, new):
                self._on_taken(chat)
            else:
                await chat.migrate(new)

    def _on_taken(self, chat: ReceiverWorker) -> None:
        """It is another chat now: who leaves by that one means both."""

        async def end() -> None:
            async with self._joining:
                if chat in self._chats:
                    await self._end(chat)

        self._group.create_task(end())

    async def _end(self, chat: ReceiverWorker) -> None:
        """A subscriber is no more; who was configured stays."""
        if address := self._subscribed_as(chat):
            if chat in self._chats:
                await asyncio.wait({self._leave(chat)})
            await chat.forget()
            await self._subscribers.remove(address)

    def _subscribed_as(self, chat: ReceiverWorker) -> str | None:
        """By which address; None: it was configured."""
        if self._bot is None:
            return None
        subscribers = self._subscribers.since.keys() - set(self._settings.telegram_chat_id)
        return next((it for it in subscribers if TelegramChannel(self._bot, it).key == chat.key), None)

    def _is_taken(self, channel: Channel, address: str) -> bool:
        topic = getattr(channel, "topic", None)
        others = (chat for chat in self._chats if chat.channel is not channel and chat.address == address)
        return any(getattr(chat.channel, "topic", None) == topic for chat in others)

    def _leave(self, chat: ReceiverWorker) -> "asyncio.Task[None]":
        self._chats.remove(chat)
        self.consumer.subscribers.remove(chat.enqueue)
        running = self._running.pop(chat.key)
        running.cancel()
        return running

    def _remind(self) -> None:
        for notice in self._reminders.due(now()):
            for chat in self._chats:
                chat.remind(notice)
        for chat in self._chats:
            chat.tick()

    async def _keep_reminding(self) -> None:
        while True:
            await asyncio.sleep(1)
            self._remind()

    async def _keep_telling_cut_off(self, group: asyncio.TaskGroup) -> None:
        """When the broker is away for long, nothing can be read nor recorded: it is told all the same."""
        loop, lost_at, since, told = asyncio.get_running_loop(), 0.0, now(), False
        while True:
            await asyncio.sleep(1)
            if self._link.up:
                lost_at, told = 0.0, False
                continue
            if not lost_at:
                lost_at, since = loop.time(), self._listener.until or now()
            if not told and loop.time() - lost_at >= CUT_OFF.total_seconds():
                told = True
                for chat in self._chats:
                    group.create_task(chat.tell_cut_off(since, lambda: not self._link.up))

    def _channels(self) -> list[Channel]:
        channels: list[Channel] = []
        if self._bot:
            configured = self._settings.telegram_chat_id
            addresses = dict.fromkeys((*configured, *self._subscribers.since))
            channels += [TelegramChannel(self._bot, chat) for chat in addresses]
        return [*channels, *self._others] or [LogChannel()]

    async def _digest(self, at: datetime, weekly: bool) -> list[str]:
        window = digest.WEEK if weekly else digest.WINDOW
        changes = await self._event_log.transitions_since(at - window)
        gaps = await self._listener.gaps(at, self._settings.deaf_after)
        oldest = await retry_until_done("look how far the record reaches", partial(truncated, self._link))
        begins = {name: it.begins for name, it in oldest.items()}
        found = digest.digest(self._states.services(), changes, at, window, gaps, begins)
        return (digest.weekly_lines if weekly else digest.lines)(found, self._settings.zone)

    def _hindered(self) -> str | None:
        """Why messages do not reach people, if so."""
        if self.health.missing:
            return ", ".join(f"{part}: {reason}" for part, reason in self.health.missing.items())
        if all(chat.cursor.off for chat in self._chats):
            return "every chat refuses messages"
        waited = oldest_unsent_seconds([chat for chat in self._chats if not chat.cursor.off], now())
        return "a change waits too long to be sent" if waited > UNSENT_IS_WRONG else None

    def _on_record(self, error: Exception | None) -> None:
        if error is None:
            self.health.good("record")
        elif self._link.up:
            said = str(error) or type(error).__name__
            self.health.bad("record", f"{said}; {READ_ONLY}" if isinstance(error, TimeoutError) else said)

    def _on_token(self, refused: str | None) -> None:
        if refused is None:
            self.health.good("telegram")
        elif self.health.missing.get("telegram") != (reason := f"the bot token is refused: {refused}"):
            log.error("telegram refuses the bot token; messages wait", reason=refused)
            self.health.bad("telegram", reason)

    async def _check_token(self, bot: Bot) -> None:
        """Until Telegram takes the token. That it cannot be reached makes nothing unready: messages wait."""
        while isinstance(outcome := await bot.check(), BadToken | Failed):
            self._on_token(outcome.reason if isinstance(outcome, BadToken) else None)
            await asyncio.sleep(CHECK_TOKEN_AGAIN)
        self._on_token(None)


def main() -> None:
    logs.begin("notifier")
    settings = load(NotifierSettings)
    logs.configure("notifier", settings.log_level, settings.log_format)
    tracing.start("notifier")
    notifier = Notifier(settings)
    docs = asyncapi_document(notifier.consumer)

    async def work() -> None:
        current = notifier
        while True:
            try:
                await current.work()
                return
            except AnotherRecord:
                current = Notifier(settings, current.that_spoke)

    app = Starlette(routes=[*notifier.health.routes(), asyncapi.route(docs)])
    server.run(
        app,
        work,
        http=within(limits_of(settings, loopback_only=listens_on_loopback(settings.metrics_host))),
        host=settings.metrics_host,
        port=settings.notifier_port,
        variable="NOTIFIER_PORT",
        any_port="notifier_port" not in settings.model_fields_set,
    )


if __name__ == "__main__":
    main()
