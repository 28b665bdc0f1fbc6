"""What is known of a service: one state, folded from its events and from what its heartbeats come to. Pure.

Of configuration, status and heartbeats the newest counts, by its sequence in the stream. So events may come
twice and in any order. What happened before the newest registration belongs to an earlier service of the same
name, and does not count. Times are microseconds since 1970 UTC.
"""

from dataclasses import dataclass, field, fields
from datetime import timedelta
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from shared.contracts import events
from shared.contracts.events import (
    Acknowledgement,
    ConfigData,
    Event,
    IncidentEvent,
    Mute,
    ServiceConfig,
    Signal,
    Status,
    StatusChanged,
    micros,
    moment,
)


def belongs_to_this_life(at: int, registered_at: int, left: Status | None = None) -> bool:
    """Whether what happened at `at` happened to the service that was registered at `registered_at`, and not
    to one of the same name that was deleted before. `left`: of a change, the status that it left; the first
    of a life leaves unknown, and alone can be of the very moment of the registration."""
    return at > registered_at or (at == registered_at and left in (None, Status.UNKNOWN))


PAUSED = "paused"


class Incident(NamedTuple):
    """`is_guessed`: the change that began it was not seen; it is called by the first that was."""

    id: str
    began_at: int
    is_guessed: bool = False


def incident_after(before: Incident | None, event: StatusChanged) -> Incident | None:
    """The incident that a change leaves open. `before`: the one that was open."""
    data = event.data
    if data.to.badness <= Status.ALIVE.badness:
        return None
    begins = data.from_.badness <= Status.ALIVE.badness
    return before if before and not begins else Incident(event.id, micros(data.since), not begins)


class WithIncident:
    """What follows for a service from its newest change and from what people did, of whoever has these
    fields."""

    __slots__ = ()
    exists: bool
    registered_at: int
    changed_at: int
    changed_from: Status
    begun: Incident | None
    """The incident that the newest change left open, of whichever life."""
    incident_seq: int
    acted_at: int
    """When the newest event about incidents was stored."""
    last_acknowledgement: Acknowledgement | None
    last_mute: Mute | None

    @property
    def incident(self) -> Incident | None:
        """The current one."""
        if self.exists and belongs_to_this_life(self.changed_at, self.registered_at, self.changed_from):
            return self.begun
        return None

    @property
    def acknowledged(self) -> Acknowledgement | None:
        """Who has the current incident in hand."""
        known, incident = self.last_acknowledgement, self.incident
        return known if known and incident and known.incident == incident.id else None

    def muted(self, now: int) -> Mute | None:
        """The mute that holds at `now`."""
        known = self.last_mute
        if not (known and self.exists and belongs_to_this_life(self.acted_at, self.registered_at)):
            return None
        if known.until is not None:
            return known if now < micros(known.until) else None
        return known if self.incident and self.incident.id == known.incident else None


def act(state: Any, event: IncidentEvent, seq: int, stored_at: int) -> None:
    """Take in what somebody did about an incident, if that is news. `state`: one `WithIncident`."""
    if seq > state.incident_seq:
        state.incident_seq, state.acted_at = seq, stored_at
        state.last_acknowledgement, state.last_mute = event.data.acknowledged, event.data.muted


Declared = tuple[int | None, str | None, str | None]
"""The interval, the schedule and the time zone that a heartbeat declares."""
NOTHING_DECLARED: Declared = (None, None, None)


@dataclass(slots=True)
class ServiceState(WithIncident):
    """Everything that the newest events and heartbeats say of one service. `status`, `since` and
    `last_heartbeat` follow from the other fields, as do the properties, and leave out what belongs to an
    earlier life. A sequence of 0: there was no such event yet."""

    name: str
    config_seq: int = 0
    exists: bool = False
    """Whether it is registered, and not deleted."""
    registered_at: int = 0
    """Since when its heartbeats and changes count; of a deleted service, when it was deleted."""
    registered_by: Literal["heartbeat", "api"] = "api"
    declared_at: int | None = None
    """When the heartbeat was that declared `every` or `schedule`; None where a person or a file did."""
    declared_limits: tuple[str, ...] = ()
    """The fields that a heartbeat declared beside those; see `events.Limits`."""
    managed_by: str | None = None
    """The file that made its configuration: `file:registry.yaml`."""
    ping_key: str | None = None
    """A secret, as are the aliases; None: an older version registered it."""
    description: str = ""
    tags: tuple[str, ...] = ()
    notify: bool = True
    paused: bool = False
    silent_after: int | None = None
    down_after: int | None = None
    dead_after: int | None = None
    every: int | None = None
    schedule: str | None = None
    time_zone: str | None = None
    early: int | None = None
    max_run: int | None = None
    fail_after: int | None = None
    recover_after: int | None = None
    notify_unusual: bool = True
    aliases: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    template: str | None = None
    """Of that file."""
    inherited: dict[str, Literal["template", "defaults"]] = field(default_factory=dict)
    """The fields that are not its own; see `ServiceConfig`."""
    as_check: dict[str, str | bool] = field(default_factory=dict)
    """What Healthchecks' API keeps of it."""

    status_seq: int = 0
    changed_from: Status = Status.UNKNOWN
    changed_to: Status = Status.UNKNOWN
    changed_at: int = -1
    heard_before_change: int = 0
    """The newest heartbeat that the change knew of; 0: none."""
    change_reason: str | None = None
    begun: Incident | None = None

    incident_seq: int = 0
    acted_at: int = -1
    last_acknowledgement: Acknowledgement | None = None
    last_mute: Mute | None = None

    heartbeat_seq: int = 0
    heartbeat_at: int = 0
    heartbeat_signal: Signal = Signal.SUCCESS
    heartbeat_message: str | None = None
    heartbeat_warnings: tuple[str, ...] = ()
    """What of the newest heartbeat could not be used as it was meant."""
    heartbeat_declared: Declared = NOTHING_DECLARED
    last_run: tuple[int, int] | None = None
    """Start and end of the last run that has ended."""
    heartbeat_open: tuple[tuple[str, int], ...] = ()
    """Of each run that has not ended the sender's id, or nothing, and the start; the newest last."""

    status: Status = field(init=False)
    since: int = field(init=False)
    """Since when it has this status."""
    last_heartbeat: int = field(init=False)
    """0: never."""

    def __post_init__(self) -> None:
        self.derive()

    def derive(self) -> None:
        """Bring what follows from the other fields up to date, after one of them was set."""
        if self._is_changed:
            self.status, self.since = self.changed_to, self.changed_at
        else:
            self.status, self.since = Status.UNKNOWN, self.registered_at
        newest = max(self.heartbeat_at, self.heard_before_change)
        self.last_heartbeat = newest if belongs_to_this_life(newest, self.registered_at) else 0

    @property
    def _is_changed(self) -> bool:
        """Whether its newest change came in this life."""
        return belongs_to_this_life(self.changed_at, self.registered_at, self.changed_from)

    @property
    def counted_as(self) -> str:
        """Under what it counts wherever services are counted: its status, or `paused`, as what is paused is
        not evaluated."""
        return PAUSED if self.paused else self.status.value

    @property
    def reason(self) -> str | None:
        """What changed its status last; None before the first change."""
        return self.change_reason if self._is_changed else None

    @property
    def is_heard(self) -> bool:
        """Whether its newest heartbeat, as far as heartbeats are folded, came in this life."""
        return self.heartbeat_seq > 0 and belongs_to_this_life(self.heartbeat_at, self.registered_at)

    @property
    def message(self) -> str | None:
        return self.heartbeat_message if self.is_heard else None

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.heartbeat_warnings if self.is_heard else ()

    @property
    def declared(self) -> Declared:
        return self.heartbeat_declared if self.is_heard else NOTHING_DECLARED

    @property
    def open_runs(self) -> tuple[tuple[str, int], ...]:
        """The runs of this life that have begun and not ended: the sender's id, or nothing, and the start."""
        known = self.heartbeat_open if self.is_heard else ()
        return tuple(run for run in known if belongs_to_this_life(run[1], self.registered_at))

    def running_since(self, limit: int) -> int | None:
        """When the newest run began that has not ended yet. One that had taken longer than `limit`
        (microseconds) when something else was heard does not count: most likely it will never end."""
        starts = [started for _, started in self.open_runs if self.heartbeat_at - started < limit]
        return max(starts, default=None)

    @property
    def counted_at(self) -> int:
        """When it was there last, for its schedule: the end of a run counts where its start did. 0: never."""
        run = self.last_run if self.is_heard else None
        newest = run[0] if run and run[1] == self.last_heartbeat else self.last_heartbeat
        return max([newest, *(started for _, started in self.open_runs)])

    @property
    def last_duration(self) -> int | None:
        """Microseconds that the last finished run took, if all of it was in this life."""
        run = self.last_run if self.is_heard else None
        return run[1] - run[0] if run and belongs_to_this_life(run[0], self.registered_at) else None

    @property
    def is_down(self) -> bool:
        return self.exists and self.status in (Status.DOWN, Status.DEAD)

    @property
    def configuration(self) -> ServiceConfig:
        """What its newest configuration event carried."""
        return ServiceConfig(
            description=self.description,
            tags=self.tags,
            notify=self.notify,
            paused=self.paused,
            silent_after=_duration(self.silent_after),
            down_after=_duration(self.down_after),
            dead_after=_duration(self.dead_after),
            every=_duration(self.every),
            schedule=self.schedule,
            time_zone=self.time_zone,
            early=_duration(self.early),
            max_run=_duration(self.max_run),
            fail_after=self.fail_after,
            recover_after=self.recover_after,
            notify_unusual=self.notify_unusual,
            aliases=self.aliases,
            depends_on=self.depends_on,
            template=self.template,
            inherited=self.inherited,
            as_check=self.as_check,
        )

    @property
    def data(self) -> ConfigData:
        """The same, with what else that event said."""
        return ConfigData(
            config=self.configuration,
            registered_at=moment(self.registered_at),
            registered_by=self.registered_by,
            declared_at=moment(self.declared_at) if self.declared_at else None,
            declared_limits=self.declared_limits,
            managed_by=self.managed_by,
            ping_key=self.ping_key,
        )


_FIELDS = tuple(each.name for each in fields(ServiceState))
_STARTS = [
    _FIELDS.index(first) for first in ("config_seq", "status_seq", "incident_seq", "heartbeat_seq", "status")
]
PARTS = {_FIELDS[start]: _FIELDS[start:end] for start, end in pairwise(_STARTS)}
"""The fields that are as new as each sequence, and the sequence itself: those that follow it above."""


def is_news(state: ServiceState, event: Event | IncidentEvent, seq: int) -> bool:
    """Whether an event at `seq` is newer than what the state knows of its kind."""
    if isinstance(event, StatusChanged):
        return seq > state.status_seq
    return seq > (state.incident_seq if isinstance(event, IncidentEvent) else state.config_seq)


def apply(state: ServiceState, event: Event | IncidentEvent, seq: int, stored_at: int) -> ServiceState:
    """The same state, after an event that stands in the stream at `seq`, if that is news."""
    if is_news(state, event, seq):
        if isinstance(event, StatusChanged):
            _change(state, event, seq)
        elif isinstance(event, IncidentEvent):
            act(state, event, seq, stored_at)
        else:
            _configure(state, event, seq, stored_at)
        state.derive()
    return state


def merge(state: ServiceState, other: ServiceState) -> ServiceState:
    """The same state, with what another one of the same service knows that is newer."""
    earlier = min(state, other, key=lambda it: it.status_seq).begun
    for seq, part in PARTS.items():
        if getattr(other, seq) > getattr(state, seq):
            _copy(state, other, part)
    if earlier and state.begun and state.begun.is_guessed:
        state.begun = earlier
    state.derive()
    return state


def _change(state: ServiceState, event: StatusChanged, seq: int) -> None:
    data = event.data
    state.status_seq = seq
    state.changed_from, state.changed_to = data.from_, data.to
    state.changed_at = micros(data.since)
    state.heard_before_change = micros(data.last_heartbeat) if data.last_heartbeat else 0
    state.change_reason = data.reason
    state.begun = incident_after(state.begun, event)


def _configure(state: ServiceState, event: events.ConfigEvent, seq: int, stored_at: int) -> None:
    """A deletion leaves nothing but itself, which keeps older events from bringing the service back."""
    if isinstance(event, events.ServiceDeleted):
        _copy(state, _BLANK, PARTS["config_seq"])
        state.config_seq, state.registered_at = seq, stored_at
        return
    data, config = event.data, event.data.config
    state.config_seq, state.exists = seq, True
    state.registered_at = micros(data.registered_at) if data.registered_at else stored_at
    state.registered_by = data.registered_by
    state.declared_at = micros(data.declared_at) if data.declared_at else None
    state.declared_limits, state.ping_key = data.declared_limits, data.ping_key
    state.description, state.tags, state.aliases = config.description, config.tags, config.aliases
    state.notify, state.paused = config.notify, config.paused
    state.silent_after, state.down_after = _length(config.silent_after), _length(config.down_after)
    state.dead_after, state.every = _length(config.dead_after), _length(config.every)
    state.schedule, state.time_zone, state.early = config.schedule, config.time_zone, _length(config.early)
    state.max_run, state.notify_unusual = _length(config.max_run), config.notify_unusual
    state.fail_after, state.recover_after = config.fail_after, config.recover_after
    state.depends_on, state.as_check = config.depends_on, config.as_check
    state.template, state.inherited, state.managed_by = config.template, config.inherited, data.managed_by


def _copy(to: ServiceState, other: ServiceState, part: tuple[str, ...]) -> None:
    for each in part:
        setattr(to, each, getattr(other, each))


_BLANK = ServiceState("")


def _length(duration: timedelta | None) -> int | None:
    return None if duration is None else duration // events.MICRO


def _duration(length: int | None) -> timedelta | None:
    return None if length is None else length * events.MICRO
