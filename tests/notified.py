"""Chats between a made-up record and a made-up bucket, with a clock that is set: what they are told.

The chats, their cursors and all that decides are the real ones; only time, broker and network are made up.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from zoneinfo import ZoneInfo

from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from services.notifier.alerting.changes import Deafness, StatusChange, UnusualRun
from services.notifier.alerting.dependencies import Dependencies
from services.notifier.alerting.policy import Reminders
from services.notifier.channels.channel import Outcome, Refused, Sent
from services.notifier.dispatch.dependencies import ReceiverDependencies
from services.notifier.dispatch.opening import open_receiver
from services.notifier.dispatch.receiver import ReceiverWorker
from services.notifier.states import ServiceStates
from services.notifier.texts.message import LinkContext, OutgoingMessage
from shared.contracts import events
from shared.contracts.events import (
    ConfigData,
    IncidentData,
    IncidentEvent,
    ServiceAcknowledged,
    ServiceConfig,
    ServiceDeleted,
    ServiceMuted,
    ServiceRegistered,
    ServiceReleased,
    ServiceUnmuted,
    Status,
    StatusData,
    micros,
    status_changed,
)
from shared.contracts.maintenance import Window, maintenance_until
from shared.contracts.routes import Routes
from shared.domain import incidents
from shared.domain.incidents import Incident, IncidentState
from shared.domain.routing import Router
from shared.messaging import streams

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
UNKNOWN, ALIVE, SILENT, DOWN, DEAD = Status
SECOND, MINUTE, HOUR, DAY = (timedelta(seconds=n) for n in (1, 60, 3600, 86400))
SHORT = "took 3 s, usually 12 to 15 min"
REMINDERS = (HOUR, 6 * HOUR, DAY)
ANA, BEN = "telegram:Ana (4711)", "token:ben"


@dataclass
class Entry:
    value: bytes
    revision: int


class Bucket:
    """A bucket of the broker, as the cursors use it."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.revision = 0

    async def get(self, key: str) -> Entry:
        if key not in self.entries:
            raise KeyNotFoundError
        return self.entries[key]

    async def put(self, key: str, value: bytes) -> int:
        return await self.update(key, value, self.entries[key].revision if key in self.entries else 0)

    async def purge(self, key: str) -> None:
        self.entries.pop(key, None)

    async def update(self, key: str, value: bytes, last: int) -> int:
        if last != (self.entries[key].revision if key in self.entries else 0):
            raise KeyWrongLastSequenceError
        self.revision += 1
        self.entries[key] = Entry(value, self.revision)
        return self.revision


class Inbox:
    """A channel that takes everything, or answers as it is told."""

    def __init__(self, key: str = "inbox") -> None:
        self.key = self.chat = self.name = key
        self.messages: list[OutgoingMessage] = []
        self.answers: list[Outcome] = []
        self.always: Outcome | None = None
        self.refuses: Callable[[OutgoingMessage], bool] = lambda _: False
        self.attempts = 0

    async def turn(self, chat: str) -> None: ...

    async def send(self, chat: str, message: OutgoingMessage, reply_to: int | None) -> Outcome:
        self.attempts += 1
        if self.refuses(message):
            return Refused("Bad Request: odd")
        answer = self.answers.pop(0) if self.answers else self.always or Sent(len(self.messages) + 1)
        if isinstance(answer, Sent):
            self.messages.append(message)
        return answer

    @property
    def texts(self) -> list[str]:
        return [message.plain_text for message in self.messages]


class World:
    """Services, windows, and the notifier's chats; `restart` forgets what is not in the bucket."""

    def __init__(self, chats: int = 1, reminders: tuple[timedelta, ...] = REMINDERS) -> None:
        self.now = NOW
        self.bucket = Bucket()
        self.inboxes = [Inbox(f"inbox.{n}") for n in range(chats)]
        self.windows: dict[str, Window] = {}
        self._remind_after = reminders
        self.events: list[tuple[Any, datetime]] = []
        self.incidents: dict[str, IncidentState] = {}
        self._muted: set[int] = set()
        """The changes that were stored while their service was muted."""
        self.runs: list[UnusualRun] = []
        self.status: dict[str, Status] = {}
        self.deaf: list[Deafness] | None = []
        self.chats: list[ReceiverWorker] = []
        self.is_on = False
        self._router = Router(Routes(), [it.name for it in self.inboxes])

    async def start(self) -> None:
        self.states = ServiceStates()
        self.reminders = Reminders(self.states, self._remind_after)
        self.reminders.schedules_of = self._schedules_of
        self.dependencies = Dependencies(self.states, lambda _: 15 * MINUTE, 2 * SECOND)
        self.states.watchers.append(self._parent_changed)
        for seq, (event, at) in self._newest_of_each():
            self._fold(seq, event, at)
        for name in self.states.incidents.unresolved():
            if incident := self.folded(name).incident:
                self.states.incidents.resolve(name, incident)
        deps = ReceiverDependencies(
            LinkContext("http://x", ZoneInfo("UTC")),
            self._no_digest,
            lambda: self.now,
            self._page,
            self._newest,
            states=self.states,
            maintenance_until=self.maintenance_until,
            reminders=self.reminders,
            dependencies=self.dependencies,
            router=lambda: self._router,
            deafness=self._deafness,
            run_page=self._run_page,
            newest_run=self._newest_run,
        )
        end = len(self.events)
        self.chats = [
            await open_receiver(inbox, cast(KeyValue, self.bucket), end, deps) for inbox in self.inboxes
        ]
        self.states.on_config = lambda name: (
            [chat.alerts.configuration_changed(name) for chat in self.chats] and None
        )
        self.states.on_incident = lambda event, seq: (
            [chat.alerts.incident_changed(event, seq) for chat in self.chats] and None
        )
        after = min(chat.state.done for chat in self.chats)
        for name in self.states:
            self.reminders.watch(name, min(chat.state.notices or self.now for chat in self.chats))
        self.is_on = True
        for seq, (event, at) in enumerate(self.events[after:], after + 1):
            self._deliver(seq, event, at)
        for run in self.runs:
            self._deliver_run(run)

    def _newest_of_each(self) -> list[tuple[int, tuple[Any, datetime]]]:
        """As the broker gives the newest event of each subject."""
        found = {streams.subject_of(it[0]): (seq, it) for seq, it in enumerate(self.events, 1)}
        return sorted(found.values(), key=lambda it: it[0])

    def _configuration_changed(self, name: str) -> None:
        for chat in self.chats:
            chat.alerts.configuration_changed(name)

    def stop(self) -> None:
        self.is_on, self.chats = False, []

    async def restart(self) -> None:
        self.stop()
        await self.start()
        await self.settle()

    async def settle(self) -> None:
        """Let every chat do all it can do now."""
        for notice in self.reminders.due(self.now) if self.is_on else ():
            for chat in self.chats:
                chat.reminders.add(notice)
        for chat in self.chats:
            chat.tick()
            while chat._has_work():
                if (found := await chat._compose()) and await chat.sender.send(*found) > 0:
                    break

    async def passes(self, length: timedelta, steps: int = 1) -> None:
        for _ in range(steps):
            self.now += length / steps
            if self.is_on:
                await self.settle()

    def maintenance_until(self, name: str, at: datetime) -> datetime | None:
        return maintenance_until(self.windows.values(), name, self.states.get(name).tags, at)

    def window(self, id_: str, starts: timedelta, ends: timedelta | None, **about: Any) -> None:
        """Of `web`, from and to so long after NOW; None: it is deleted."""
        before = self.windows.pop(id_, None)
        if ends is not None:
            about = about or {"services": ("web",)}
            self.windows[id_] = Window(starts_at=NOW + starts, ends_at=NOW + ends, **about)
        for chat in self.chats if before else ():
            chat.alerts.window_removed(before) if before else None

    # --- routes

    def routes(self, *routes: dict[str, Any]) -> None:
        """From now on. The chats are `inbox.0`, `inbox.1` …"""
        self._router = Router(Routes.model_validate({"routes": routes}), [it.name for it in self.inboxes])
        if self.is_on:
            self.reminders.schedules_changed()
            for chat in self.chats:
                chat.alerts.routes_changed()

    def _schedules_of(self, name: str) -> set[tuple[timedelta, ...]]:
        found = self._router.schedules(name, self.states.get(name).tags)
        return {self._remind_after if it is None else it for it in found}

    def _parent_changed(self, name: str) -> None:
        for chat in self.chats:
            chat.alerts.parent_changed(name)

    # --- events

    def register(self, name: str = "web", registered_at: datetime = NOW - DAY, **config: Any) -> None:
        """Or set anew."""
        data = ConfigData(config=ServiceConfig(**config), registered_at=registered_at)
        self._append(ServiceRegistered(id="r", source="/test", subject=name, time=self.now, data=data))

    def delete(self, name: str = "web") -> None:
        self._append(ServiceDeleted(id="d", source="/test", subject=name, time=self.now))

    def change(
        self, to: Status, name: str = "web", since: datetime | None = None, message: str | None = None
    ) -> None:
        from_ = self.status.get(name, ALIVE)
        self.status[name] = to
        data = StatusData(
            from_=from_, to=to, since=since or self.now, last_heartbeat=None, reason="test", message=message
        )
        self._append(status_changed(name, data))

    def run(self, name: str = "web", says: str = SHORT, ago: timedelta = timedelta(), **more: Any) -> None:
        """One of an unusual length, that ended or was noticed so long ago, is recorded now."""
        since = self.now - ago
        given = {"outcome": events.Outcome.SUCCESS, "started_at": since - MINUTE, "duration": 60.0, **more}
        quiet = (self.is_on and self.states.is_silenced(name)) or self.is_muted(name)
        self.runs.append(
            UnusualRun(len(self.runs) + 1, self.now, name, since, says=says, silenced=quiet, **given)
        )
        if self.is_on:
            self._deliver_run(self.runs[-1])

    def _deliver_run(self, run: UnusualRun) -> None:
        for chat in self.chats:
            chat.enqueue_run(run.seq, run)

    async def _newest_run(self) -> int:
        return len(self.runs)

    async def _run_page(self, after: int, most: int) -> tuple[list[UnusualRun], int, bool]:
        found = self.runs[after : after + most]
        return found, found[-1].seq if found else len(self.runs), after + most >= len(self.runs)

    async def then(self, to: Status, after: timedelta = MINUTE, name: str = "web") -> None:
        """Some time passes, and then it changes."""
        await self.passes(after)
        self.change(to, name)
        await self.settle()

    # --- what people do

    def mute(self, name: str = "web", until: datetime | None = None, by: str = ANA) -> None:
        """`until`: None is until it is alive."""
        self._act(ServiceMuted, name, incidents.mute(self.folded(name), self.now, by, until))

    def unmute(self, name: str = "web") -> None:
        self._act(ServiceUnmuted, name, incidents.unmute(self.folded(name), self.now))

    def acknowledge(self, name: str = "web", by: str = ANA) -> None:
        self._act(ServiceAcknowledged, name, incidents.acknowledge(self.folded(name), self.now, by))

    def release(self, name: str = "web") -> None:
        self._act(ServiceReleased, name, incidents.release(self.folded(name), self.now))

    def folded(self, name: str = "web") -> IncidentState:
        return self.incidents.setdefault(name, IncidentState())

    def is_muted(self, name: str = "web") -> bool:
        return self.folded(name).muted(micros(self.now)) is not None

    def _act(self, kind: Any, name: str, data: IncidentData | None) -> None:
        if data is not None:
            id_ = f"i{len(self.events)}"
            self._append(kind(id=id_, source="/test", subject=name, time=self.now, data=data, actor=ANA))

    def _append(self, event: Any) -> None:
        self.events.append((event, self.now))
        seq, state = len(self.events), self.folded(event.name)
        incidents.apply(state, event, seq, micros(self.now))
        if self.is_muted(event.name):
            self._muted.add(seq)
        if self.is_on:
            self._deliver(len(self.events), event, self.now)

    def _deliver(self, seq: int, event: Any, at: datetime) -> None:
        change = self._change(seq, event, at)
        is_act = isinstance(event, IncidentEvent) and (event.data.acknowledged or event.data.muted)
        if (change or is_act) and (incident := self._incident_before(event.name, seq)):
            self.states.incidents.resolve(event.name, incident)
        self._fold(seq, event, at)
        if change:
            self.reminders.watch(event.name, event.data.since)
        for chat in self.chats:
            chat.enqueue(seq, change)

    def _incident_before(self, name: str, seq: int) -> Incident | None:
        state = IncidentState()
        for n, (event, at) in enumerate(self.events[: seq - 1], 1):
            if event.name == name:
                incidents.apply(state, event, n, micros(at))
        return state.incident

    def _fold(self, seq: int, event: Any, at: datetime) -> None:
        if isinstance(event, IncidentEvent):
            self.states.apply_incident(event, seq, at, in_turn=True)
        else:
            self.states.apply(event, seq, at)

    def _change(self, seq: int, event: Any, at: datetime) -> StatusChange | None:
        if event.type != "service.status_changed.v1":
            return None
        it, said = event.data, (ServiceRegistered, ServiceDeleted)
        configs = [e for e, _ in self.events[: seq - 1] if e.name == event.name and isinstance(e, said)]
        config = configs[-1].data.config if configs and isinstance(configs[-1], ServiceRegistered) else None
        quiet = config is not None and (config.paused or not config.notify)
        quiet = quiet or seq in self._muted
        return StatusChange(
            seq, at, event.name, it.from_, it.to, it.since, it.last_heartbeat, it.reason, None, silenced=quiet
        )

    async def _newest(self) -> int:
        return len(self.events)

    async def _page(self, after: int, most: int) -> tuple[list[StatusChange], int, bool]:
        found = [self._change(n, *it) for n, it in enumerate(self.events[after:], after + 1)]
        changes = [it for it in found if it][:most]
        return changes, changes[-1].seq if changes else len(self.events), len(changes) < most

    async def _no_digest(self, at: datetime, weekly: bool) -> list[str]:
        return []

    def _deafness(self, after: datetime) -> list[Deafness] | None:
        if self.deaf is None:
            return None
        return [it for it in self.deaf if it.until is None or it.until > after]

    # --- what was told

    def told(self, chat: int = 0, name: str = "web") -> list[str]:
        """Of one service: `down`, `alive flaps`, `alive still flaps`, or `owed: down`, in order."""
        found = []
        for message in self.inboxes[chat].messages:
            found += [
                f"{it.to}{' still' * it.still_flaps}{' flaps' * (bool(it.flaps) or it.still_flaps)}"
                for it in message.changes
                if it.name == name
            ]
            found += [f"{it.kind}: {it.status}" for it in message.notices if it.name == name]
            found += [it.says for it in message.runs if it.name == name]
        return found

    @property
    def texts(self) -> list[str]:
        return self.inboxes[0].texts
