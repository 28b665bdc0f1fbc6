"""All receivers: the channels that were configured, and the chats that subscribed themselves."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import structlog
from nats.js.kv import KeyValue
from prometheus_client import Gauge
from pydantic import TypeAdapter

from services.notifier import deafness
from services.notifier.alerting.changes import StatusChange, UnusualRun
from services.notifier.channels.channel import Channel
from services.notifier.channels.configured import LogChannel
from services.notifier.channels.telegram import Bot, TelegramChannel
from services.notifier.dispatch.dependencies import ReceiverDependencies
from services.notifier.dispatch.notification_log import ReceiverState
from services.notifier.dispatch.opening import StartingPoint, open_receiver
from services.notifier.dispatch.receiver import ReceiverWorker
from services.notifier.dispatch.sources.notices import LAST_DIGEST
from shared.contracts.events import IncidentEvent
from shared.contracts.maintenance import Window
from shared.contracts.routes import Routes
from shared.domain.routing import Router
from shared.messaging.connection import BrokerConnection
from shared.messaging.kv_record import KvRecord

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

MAX_WAIT = 300.0
"""Seconds that a change may wait for some receiver before the deadman's switch is let go."""
SUBSCRIBERS_KEY, MAX_SUBSCRIBERS = "subscribers", 1000

_SUBSCRIBERS = TypeAdapter(dict[str, datetime])


class Subscribers:
    """`load`, `claim`, then `add` and `remove`. `since`: from when on each chat has been subscribed."""

    def __init__(self, bucket: KeyValue) -> None:
        self._record = KvRecord(bucket, SUBSCRIBERS_KEY)
        self.since: dict[str, datetime] = {}

    async def load(self) -> None:
        self.since = _SUBSCRIBERS.validate_json(await self._record.read() or b"{}")

    async def claim(self, since: dict[str, datetime] | None = None) -> None:
        """Write what is known, or `since`, which is certain. Another notifier that goes on writing is refused
        from then on: neither would know whom the other has added."""
        async with self._record.lock:
            await self._write(self.since if since is None else since)

    async def add(self, chat: str, since: datetime) -> bool:
        """False: there are too many already."""
        async with self._record.lock:
            if chat not in self.since and len(self.since) >= MAX_SUBSCRIBERS:
                return False
            await self._write({**self.since, chat: since})
        return True

    async def remove(self, chat: str) -> None:
        async with self._record.lock:
            await self._write({other: since for other, since in self.since.items() if other != chat})

    async def _write(self, since: dict[str, datetime]) -> None:
        await self._record.write(_SUBSCRIBERS.dump_json(since))
        self.since = since


class Receivers:
    """`open` once, then `start`. From then on chats may `subscribe` and `unsubscribe`."""

    def __init__(self, configured: Sequence[Channel], deps: ReceiverDependencies, bot: Bot | None) -> None:
        self._configured = configured
        self._names = [it.name for it in configured] or [LogChannel.name]
        self._router = Router(Routes(), self._names)
        self._deps = replace(deps, gives_way=self._gives_way, router=lambda: self._router)
        self._bot = bot
        self._workers: list[ReceiverWorker] = []
        self._running: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup
        self._subscribers: Subscribers
        self._joining = asyncio.Lock()
        self._bucket: KeyValue
        self._position = 0
        """The sequence of the event that was read last."""
        self._run_position = 0
        """And of the fact about a run."""

    def __iter__(self) -> Iterator[ReceiverWorker]:
        return iter(self._workers)

    async def open(self, bucket: KeyValue, start: StartingPoint) -> None:
        before = start.handover
        states = before.receivers if before else {}
        self._bucket, self._subscribers = bucket, Subscribers(bucket)
        await self._subscribers.load()
        await self._subscribers.claim(before.subscribers if before and states else None)
        for channel in self._channels():
            worker = await open_receiver(
                channel, bucket, start.end, self._deps, anew=start.anew, known=states.get(channel.key)
            )
            if self._is_taken(channel, worker.address):
                log.warning(
                    "two chats are one, which is told once",
                    left_out=worker.channel.key,
                    address=worker.address,
                )
                await self._end(worker)
            else:
                self._workers.append(worker)
        self._measure()

    def start(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        for worker in self._workers:
            self._running[worker.channel.key] = group.create_task(worker.run())

    def _channels(self) -> list[Channel]:
        known = {channel.key for channel in self._configured}
        subscribed = [TelegramChannel(self._bot, it) for it in self._subscribers.since] if self._bot else []
        return [*self._configured, *(it for it in subscribed if it.key not in known)] or [LogChannel()]

    # --- how they stand

    @property
    def done_through(self) -> int:
        """Up to here no receiver needs to read the record again."""
        return min(worker.state.done for worker in self._workers)

    @property
    def runs_done_through(self) -> int:
        """The same of facts about runs."""
        return min(worker.state.runs or 0 for worker in self._workers)

    def states(self) -> dict[str, ReceiverState]:
        return {worker.channel.key: worker.state for worker in self._workers}

    def named(self, name: str) -> ReceiverWorker | None:
        return next((worker for worker in self._workers if worker.channel.name == name), None)

    def is_subscribed(self, worker: ReceiverWorker) -> bool:
        """Whether it was not configured."""
        return isinstance(worker.channel, TelegramChannel) and worker.channel not in self._configured

    def subscribers(self) -> dict[str, datetime]:
        return self._subscribers.since

    def problem(self) -> str | None:
        """Why messages do not reach people, if so."""
        if all(worker.state.off for worker in self._workers):
            return "every chat refuses messages"
        return "a change waits too long to be sent" if self._oldest_unsent_seconds() > MAX_WAIT else None

    def _oldest_unsent_seconds(self) -> float:
        """How long the oldest change has waited that some receiver has not got yet, of those that are on."""
        on = [worker for worker in self._workers if not worker.state.off]
        now, waiting = self._deps.now(), [worker.pending.changes for worker in on]
        oldest = min((changes[0].stored_at for changes in waiting if changes), default=now)
        return max(0.0, (now - oldest).total_seconds())

    def _measure(self) -> None:
        all_ = self._workers
        OLDEST_UNSENT.set_function(self._oldest_unsent_seconds)
        UNSENT.set_function(lambda: sum(len(worker.pending.changes) for worker in all_))
        CHATS.set_function(lambda: sum(worker.state.off is None for worker in all_))
        CHATS_OFF.set_function(lambda: sum(worker.state.off is not None for worker in all_))
        DIGEST_OVERDUE.set_function(lambda: max((worker.digest_overdue() for worker in all_), default=0.0))
        if sent := [at for worker in all_ if (at := worker.digest.sent_at())]:
            LAST_DIGEST.set(max(sent).timestamp())

    # --- what all of them are given

    def enqueue(self, seq: int, change: StatusChange | None) -> None:
        self._position = seq
        for worker in self._workers:
            worker.enqueue(seq, change)

    def enqueue_run(self, seq: int, run: UnusualRun | None) -> None:
        self._run_position = seq
        for worker in self._workers:
            worker.enqueue_run(seq, run)

    def configuration_changed(self, name: str) -> None:
        for worker in self._workers:
            worker.alerts.configuration_changed(name)

    def incident_changed(self, event: IncidentEvent, seq: int) -> None:
        for worker in self._workers:
            worker.alerts.incident_changed(event, seq)

    def standing_changed(self, name: str) -> None:
        for worker in self._workers:
            if worker.shown:
                worker.shown.look(name)

    def window_removed(self, window: Window) -> None:
        for worker in self._workers:
            worker.alerts.window_removed(window)

    def parent_changed(self, name: str) -> None:
        """A service that others may depend on has changed, or was configured."""
        for worker in self._workers:
            worker.alerts.parent_changed(name)

    def set_routes(self, routes: Routes) -> None:
        self._router = Router(routes, self._names)
        if unknown := [name for name in routes.channels if name not in self._names]:
            log.warning("routes name channels that there are not", channels=unknown, known=self._names)
        log.info("routes are in force", routes=len(routes.routes))
        self._deps.reminders.schedules_changed()
        for worker in self._workers:
            worker.alerts.routes_changed()

    def schedules_of(self, name: str) -> Iterable[tuple[timedelta, ...]]:
        """All those by which some receiver is reminded of a service."""
        after, tags = self._deps.reminders.after, self._deps.states.get(name).tags
        return {after if it is None else it for it in self._router.schedules(name, tags)}

    def watch_all(self) -> None:
        """Have everybody reminded of what is down already."""
        after = min(worker.state.notices or self._deps.now() for worker in self._workers)
        for name in self._deps.states:
            self._deps.reminders.watch(name, after)

    def tick(self) -> None:
        """Look at what has come due."""
        for notice in self._deps.reminders.due(self._deps.now()):
            for worker in self._workers:
                worker.reminders.add(notice)
        for worker in self._workers:
            worker.tick()

    async def keep_ticking(self) -> None:
        while True:
            await asyncio.sleep(1)
            self.tick()

    async def watch_broker(self, link: BrokerConnection, last_heard: Callable[[], datetime | None]) -> None:
        """Tell everybody that the broker has been away for long. `last_heard`: when there was a heartbeat."""
        loop, lost_at, since = asyncio.get_running_loop(), 0.0, self._deps.now()
        while True:
            await asyncio.sleep(1)
            if link.up:
                lost_at = 0.0
            elif not lost_at:
                lost_at, since = loop.time(), last_heard() or self._deps.now()
            elif loop.time() - lost_at >= deafness.TOLD_AFTER.total_seconds():
                lost_at = float("inf")  # until it is back
                for worker in self._workers:
                    say_so = worker.deafness.send_cut_off(worker.sender, since, lambda: not link.up)
                    self._group.create_task(say_so)

    # --- chats that subscribe themselves

    async def subscribe(self, address: str) -> bool:
        """Begin with what comes next. False: there are too many already."""
        assert self._bot
        channel = TelegramChannel(self._bot, address)
        async with self._joining:
            if any(
                address == worker.address or channel.key == worker.channel.key for worker in self._workers
            ):
                return True  # the latter: a group that has a new number, by its old one
            if not await self._subscribers.add(address, self._deps.now()):
                return False
            worker = await open_receiver(channel, self._bucket, await self._deps.newest(), self._deps)
            if self._is_taken(channel, worker.address):  # a group that has got its new number meanwhile
                await self._end(worker)
                return True
            worker.pending.mark_missed(self._position)  # what came while its record was written
            worker.pending_runs.mark_missed(self._run_position)
            self._workers.append(worker)
            self._running[worker.channel.key] = self._group.create_task(worker.run())
            log.info("a chat has subscribed", chat=worker.channel.key)
        return True

    async def unsubscribe(self, address: str) -> bool:
        """False: it was configured. A group that has a new number is known here by its old one as well."""
        leaving = await self._end_all(lambda it: it.is_at(address) and bool(self._subscribed_as(it)))
        for worker in leaving:
            log.info("a chat has unsubscribed", chat=worker.channel.key)
        return bool(leaving)

    def subscriber(self, address: str) -> ReceiverWorker | None:
        """Who has this chat; None: it was configured."""
        return next((it for it in self._workers if it.address == address and self._subscribed_as(it)), None)

    async def migrate(self, old: str, new: str) -> None:
        for worker in [worker for worker in self._workers if worker.address == old]:
            if not self._gives_way(worker.channel, new):
                await worker.sender.migrate(new)

    def _is_taken(self, channel: Channel, address: str) -> bool:
        """Whether another receiver has this chat, and topic. Of what is no chat, the address is not all: two
        webhooks may have one host."""
        if not isinstance(channel, TelegramChannel):
            return False
        others = (it for it in self._workers if it.channel is not channel and it.address == address)
        chats = (it.channel for it in others if isinstance(it.channel, TelegramChannel))
        return any(chat.topic == channel.topic for chat in chats)

    def _gives_way(self, channel: Channel, address: str) -> bool:
        """Whether its chat is another receiver's now. Then it ends: who leaves by that one means both."""
        if is_taken := self._is_taken(channel, address):
            self._group.create_task(self._end_all(lambda worker: worker.channel is channel))
        return is_taken

    async def _end_all(self, which: Callable[[ReceiverWorker], bool]) -> list[ReceiverWorker]:
        async with self._joining:
            ending = list(filter(which, self._workers))
            for worker in ending:
                await self._end(worker)
        return ending

    async def _end(self, worker: ReceiverWorker) -> None:
        """A subscriber is no more; who was configured stays."""
        if address := self._subscribed_as(worker):
            if worker in self._workers:
                self._workers.remove(worker)
                running = self._running.pop(worker.channel.key)
                running.cancel()
                await asyncio.wait({running})
            await worker.log.forget()
            await self._subscribers.remove(address)

    def _subscribed_as(self, worker: ReceiverWorker) -> str | None:
        """By which address; None: it was configured."""
        if self._bot is None or worker.channel.key in {channel.key for channel in self._configured}:
            return None
        subscribers = self._subscribers.since
        return next(
            (it for it in subscribers if TelegramChannel(self._bot, it).key == worker.channel.key), None
        )
