"""What receivers are told of changes, by the notifier's own rules: routes, quiet hours, escalation,
maintenance, mutes, dependencies, flapping, reminders. Each arrives at once, and nothing is sent. Digests
and runs of unusual length are no part of it.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

from pydantic import BaseModel

from services.monitor.domain.service import StatusTransition
from services.notifier.alerting.changes import Notice, NoticeKind, StatusChange
from services.notifier.alerting.dependencies import Dependencies, own_silent_after
from services.notifier.alerting.policy import Reminders
from services.notifier.dispatch.alert_states import AlertStates
from services.notifier.states import ServiceStates
from shared.contracts.events import (
    Acknowledgement,
    ConfigEvent,
    IncidentEvent,
    Status,
    StatusChanged,
    StatusData,
    micros,
    moment,
)
from shared.contracts.maintenance import Window, maintenance_until
from shared.contracts.routes import Routes
from shared.domain.routing import Choice, Router

Contract = TypeVar("Contract", bound=BaseModel)
_NO_FIELDS: set[str] = set()
Thresholds = tuple[timedelta, timedelta, timedelta]


class Rules(NamedTuple):
    """What the notifier is configured with. `channels`: those that there are, by name. `zone`: of quiet hours
    that name none. `same_tick`: for how long a fall waits for those of the same tick."""

    channels: tuple[str, ...]
    zone: ZoneInfo
    default: Thresholds
    remind_after: tuple[timedelta, ...] = ()
    same_tick: timedelta = timedelta(seconds=2)


class Configured(NamedTuple):
    """The routes and the maintenance windows (by id) from a moment on."""

    at: int
    routes: Routes
    windows: dict[str, Window]


class Message(NamedTuple):
    """`about`: what tells silences, or failures, of a service apart. `what`: `change`, `reminder`, `owed`,
    `flapping` or `escalation`."""

    at: int
    channel: str
    service: str
    status: Status
    about: int
    what: str
    has_sound: bool


Happening = StatusTransition | ConfigEvent | IncidentEvent
Item = tuple[int, str, Happening]
"""When it was stored, of which service, and what."""


class MessageReplay:
    """`run` it once."""

    def __init__(self, rules: Rules, configured: Sequence[Configured]) -> None:
        self._rules, self._configured = rules, list(configured)
        self._now = moment(0)
        self._states = ServiceStates()
        self._dependencies = Dependencies(self._states, own_silent_after(rules.default), rules.same_tick)
        self._reminders = _Reminders(self._states, rules.remind_after)
        self._router, self._windows = Router(Routes(), rules.channels), dict[str, Window]()
        self._seq = 0
        self._about: dict[str, int] = {}
        """By service, the silence or failure that its newest change is of."""
        self.messages: list[Message] = []
        deps: Any = SimpleNamespace(
            states=self._states,
            now=lambda: self._now,
            maintenance_until=self._maintenance_until,
            links=SimpleNamespace(zone=rules.zone),
            dependencies=self._dependencies,
            router=lambda: self._router,
            reminders=self._reminders,
        )
        named = {channel for each in configured for channel in each.routes.channels}
        others = tuple(channel for channel in rules.channels if channel not in named)
        heard_alike = [(channel,) for channel in rules.channels if channel in named] + [others] * bool(others)
        self._receivers = {channels[0]: _Receiver(channels, deps) for channels in heard_alike}
        self._reminders.schedules_of = self._schedules_of
        self._states.watchers.append(self._parent_changed)

    def run(self, items: Iterable[Item], until: int) -> list[Message]:
        """`items` in the order of the record."""
        for at, name, what in items:
            self._pass_time(at)
            self._seq += 1
            self._happen(at, name, what)
            self._settle()
        self._pass_time(until)
        return self.messages

    # --- time

    def _pass_time(self, until: int) -> None:
        """What is due before a moment happens; then it is that moment."""
        while (due := self._next_due()) is not None and micros(due) < until:
            self._now = max(self._now, due)
            self._configure()
            for receiver in self._receivers.values():
                receiver.tick()
            for reminder in self._reminders.due(self._now):
                for receiver in self._receivers.values():
                    self._remind(receiver, reminder)
            self._settle()
        self._now = moment(until)
        self._configure()

    def _next_due(self) -> datetime | None:
        found = [receiver.next_timer for receiver in self._receivers.values()]
        found.append(self._reminders.next_at)
        found.append(moment(self._configured[0].at) if self._configured else None)
        return min(filter(None, found), default=None)

    def _configure(self) -> None:
        while self._configured and self._configured[0].at <= micros(self._now):
            new = self._configured.pop(0)
            self._router = Router(new.routes, self._rules.channels)
            gone = [it for id_, it in self._windows.items() if new.windows.get(id_) != it]
            self._windows = new.windows
            for receiver in self._receivers.values():
                receiver.routes_changed()
                for window in gone:
                    receiver.window_removed(window)
            self._reminders.schedules_changed()
            self._settle()

    # --- what happens

    def _happen(self, at: int, name: str, what: Happening) -> None:
        if isinstance(what, StatusTransition):
            self._change(name, _event(name, what), what)
        elif isinstance(what, IncidentEvent):
            self._act(what, moment(at))
        else:
            self._states.apply(what, self._seq, moment(at))
            for receiver in self._receivers.values():
                receiver.done = self._seq
                receiver.configuration_changed(name)

    def _change(self, name: str, event: StatusChanged, transition: StatusTransition) -> None:
        data, states = event.data, self._states
        mute = states.incidents.muted(name, self._now)
        if mute and mute.until_alive and min(data.from_.badness, data.to.badness) <= Status.ALIVE.badness:
            mute = None
        change = StatusChange(
            self._seq,
            self._now,
            name,
            data.from_,
            data.to,
            data.since,
            data.last_heartbeat,
            data.reason,
            states.since(name, data.from_, self._seq),
            silenced=states.is_silenced(name) or mute is not None,
        )
        if data.to.badness > Status.ALIVE.badness:
            self._about[name] = transition.last_beat or 0
        states.apply(event, self._seq, self._now)
        self._reminders.watch(name, data.since)
        for receiver in self._receivers.values():
            receiver.done = self._seq
            decisions = receiver.decide([change])
            receiver.apply(decisions)
            for decision in decisions:
                if decision.is_sent:
                    what = "escalation" if decision.change.nobody_for else "change"
                    self._tell(receiver, name, data.to, what, decision.change.has_sound)
            receiver.evaluate(name)

    def _act(self, event: IncidentEvent, at: datetime) -> None:
        """What somebody did about an incident counts for the one that there is now, whatever its id."""
        incident = self._states.incidents.state(event.name).incident
        data, id_ = event.data, incident.id if incident else None
        held: Acknowledgement | None = data.acknowledged
        if held:
            held = held.model_copy(update={"incident": id_}) if id_ else None
        mute = data.muted
        if mute and mute.until_alive:
            mute = mute.model_copy(update={"incident": id_}) if id_ else None
        data = data.model_copy(update={"incident": id_, "acknowledged": held, "muted": mute})
        event = event.model_copy(update={"data": data})
        self._states.apply_incident(event, self._seq, at, in_turn=True)
        for receiver in self._receivers.values():
            receiver.done = self._seq - 1
            receiver.incident_changed(event, self._seq)
            receiver.done = self._seq

    def _parent_changed(self, name: str) -> None:
        for receiver in self._receivers.values():
            receiver.parent_changed(name)

    def _maintenance_until(self, name: str, at: datetime) -> datetime | None:
        if not self._windows:
            return None
        return maintenance_until(self._windows.values(), name, self._states.get(name).tags, at)

    def _schedules_of(self, name: str) -> set[tuple[timedelta, ...]]:
        return {receiver.reminders_of(name) for receiver in self._receivers.values()}

    # --- what is told

    def _settle(self) -> None:
        """Tell all notices that are due now."""
        for receiver in self._receivers.values():
            while receiver.due:
                notice = receiver.due.pop(next(iter(receiver.due)))
                what = "owed" if notice.kind is NoticeKind.OWED else "flapping"
                what = "escalation" if notice.nobody_for else what
                self._tell(receiver, notice.name, notice.status, what, notice.has_sound)
                receiver.notice_sent(notice)
                receiver.evaluate(notice.name)

    def _remind(self, receiver: "_Receiver", reminder: Notice) -> None:
        name = reminder.name
        if reminder.schedule != receiver.reminders_of(name) or not self._reminders.is_current(reminder):
            return
        if name in receiver.withheld or receiver.is_acknowledged(name):
            return
        if not receiver.suppress(name, self._now):
            self._tell(receiver, name, reminder.status, "reminder", receiver.has_sound(name))

    def _tell(self, receiver: "_Receiver", name: str, status: Status, what: str, has_sound: bool) -> None:
        at, about = micros(self._now), self._about.get(name, 0)
        self.messages += (
            Message(at, channel, name, status, about, what, has_sound) for channel in receiver.channels
        )


def _event(name: str, change: StatusTransition) -> StatusChanged:
    """The event of a change, as far as it matters here."""
    since, last = moment(change.since), change.last_beat
    data = _made(
        StatusData,
        from_=change.from_,
        to=change.to,
        since=since,
        last_heartbeat=None if last is None else moment(last),
        reason=change.reason,
        message=None,
        duration=None,
        doubt=None,
    )
    return _made(StatusChanged, id=f"{change.since} {change.to}", subject=name, time=since, data=data)


def _made(kind: type[Contract], **fields: Any) -> Contract:
    """What `model_construct` makes, in a tenth of the time: there are a million of them."""
    made = kind.__new__(kind)
    for slot, value in (
        ("__dict__", fields),
        ("__pydantic_fields_set__", _NO_FIELDS),
        ("__pydantic_extra__", None),
        ("__pydantic_private__", None),
    ):
        object.__setattr__(made, slot, value)
    return made


class _Reminders(Reminders):
    @property
    def next_at(self) -> datetime | None:
        return self._queue[0].at if self._queue else None


class _Receiver(AlertStates):
    """Channels that hear the same, and have nothing to remember but this."""

    def __init__(self, channels: tuple[str, ...], deps: Any) -> None:
        self.channels = channels
        self._kept = SimpleNamespace(owed={}, turns={}, mutes={}, choice=Choice(), done=0)
        log: Any = SimpleNamespace(state=self._kept)
        super().__init__(channels[0], deps, log, lambda: None)

    @property
    def done(self) -> int:
        """The sequence of the newest change that it was given."""
        return int(self._kept.done)

    @done.setter
    def done(self, seq: int) -> None:
        self._kept.done = seq

    @property
    def next_timer(self) -> datetime | None:
        return self._timers[0][0] if self._timers else None
