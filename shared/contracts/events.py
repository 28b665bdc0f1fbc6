"""The event contracts: what stands in the streams, for ever. Pure.

CloudEvents 1.0 in JSON. A type name ends in its version; a field may be added, none may change its
meaning. `tests/contract/golden/` holds what each version wrote, which must parse for ever.
"""

import hashlib
import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    TypeAdapter,
    field_validator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from shared.contracts import ping_keys
from shared.contracts.durations import Duration

NAME_RULE = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$"
NAME_MAX = 128
_NAME = re.compile(NAME_RULE.rstrip("$") + r"\Z")
NAME_RULE_IN_WORDS = "1-128 characters: letters, digits, '_', '-', and single dots between them"

_EPOCH, MICRO = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


def micros(time: datetime) -> int:
    """Microseconds since 1970 UTC."""
    return (time - _EPOCH) // MICRO


def moment(micros: int) -> datetime:
    """The same as a moment; beyond the calendar, its first or last one."""
    try:
        return _EPOCH + micros * MICRO
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC) if micros > 0 else datetime.min.replace(tzinfo=UTC)


_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


def _reckonable(at: datetime) -> datetime:
    """A moment to which any threshold can be added, in any time zone, without leaving the calendar."""
    if not _FIRST <= at < _LAST:
        raise ValueError("a moment from the year 1970 to 8999")
    return at


Moment = Annotated[AwareDatetime, AfterValidator(_reckonable)]

ServiceName = Annotated[str, Field(pattern=NAME_RULE, min_length=1, max_length=NAME_MAX)]


def valid_name(name: str) -> bool:
    return len(name) <= NAME_MAX and _NAME.match(name) is not None


class Status(StrEnum):
    """Where a service is in its life, best first."""

    UNKNOWN = "unknown"
    ALIVE = "alive"
    SILENT = "silent"
    DOWN = "down"
    DEAD = "dead"

    @property
    def badness(self) -> int:
        return _ORDER.index(self)


_ORDER = tuple(Status)


SIGNAL_HEADER = "Registry-Signal"
EXIT_CODE_HEADER = "Registry-Exit-Code"
DURATION_HEADER = "Registry-Duration"
"""Seconds that the run took which ends with a heartbeat, as its sender measured them."""
SOURCE_HEADER = "Registry-Source"
"""`http` on what came through ingest; what was published straight to the broker has none."""
FOUND_BY_HEADER = "Registry-Found-By"
"""`key` where a ping key or an alias named the service. Such a heartbeat registers nothing: its service may
just have been deleted."""


TRACEPARENT_HEADER = "traceparent"
TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""Which trace something belongs to, as W3C's Trace Context writes it."""


def sampled(traceparent: str | None) -> str | None:
    """The same if it is one whose trace is recorded; everything else counts for nothing."""
    if traceparent and TRACEPARENT.fullmatch(traceparent) and int(traceparent[-2:], 16) & 1:
        return traceparent
    return None


class Signal(StrEnum):
    """What a heartbeat says. A log is only kept, and is no sign of life."""

    SUCCESS = "success"
    START = "start"
    FAIL = "fail"
    LOG = "log"


class _Contract(BaseModel, frozen=True, populate_by_name=True, hide_input_in_errors=True):
    """What is wrong with one is logged, and may not show the keys that it holds."""


SCHEDULE_MAX = 2000
"""Characters."""
COUNT_MAX = 1000
DEPENDS_ON_MAX = 32
"""Services that one may depend on directly."""
Times = Annotated[int, Field(ge=1, le=COUNT_MAX)]


class Limits(_Contract):
    """What a heartbeat declares of its service beside when it is due, as Sentry's check-ins do."""

    down_after: Duration | None = None
    max_run: Duration | None = None
    fail_after: Times | None = None
    recover_after: Times | None = None


class HeartbeatBody(_Contract):
    """The optional JSON body of a heartbeat, over HTTP and over NATS."""

    message: str | None = None
    every: Duration | None = Field(default=None, description="The interval this service beats at.")
    schedule: str | None = Field(default=None, description="When it is due: cron, or systemd's OnCalendar.")
    time_zone: str | None = Field(default=None, description="IANA name of the zone of `schedule`.")
    run: str | None = Field(default=None, description="The sender's id of the run that begins or ends.")
    metadata: dict[str, Any] | None = None
    limits: SkipJsonSchema[Limits | None] = Field(
        default=None, description="Only of what ingest has translated from another system's protocol."
    )


class Heartbeat(NamedTuple):
    """`exit_code`: a number, or a word such as KILL. `warnings`: what of it cannot be used as it is meant."""

    signal: Signal
    body: HeartbeatBody | None
    exit_code: int | str | None
    traceparent: str | None = None
    warnings: tuple[str, ...] = ()
    duration: float | None = None
    """Seconds that the run took, as its sender measured them."""


LATE = 1_000_000
"""Microseconds from which on a tick was under way for too long to prove that time."""


class Tick(_Contract):
    """Published by each ingest once per tick: a heartbeat could have been stored at this moment.

    `open_since` is the broker's time of the first tick of an unbroken run; absent in that first one.
    """

    open_since: Moment | None = None
    open_until: AwareDatetime | None = Field(
        default=None,
        description="When the tick before was stored (the broker's clock), or a little earlier.",
    )
    sent_at: AwareDatetime | None = Field(
        default=None, description="When this one was sent, by the broker's clock, or a little earlier."
    )

    def proves(self, stored_at: int) -> tuple[int, int]:
        """From when to when the registry could be heard, if this was stored at `stored_at`; microseconds.

        What waits for a network or a broker that stands still says nothing of that time, though it is stored
        in the end.
        """
        if self.open_since is None:
            return stored_at, stored_at
        end, sent_at, until = stored_at, self.sent_at, self.open_until
        if sent_at and until and stored_at - micros(sent_at) > LATE:
            end = min(micros(until), stored_at)
        return min(micros(self.open_since), end), end


class Thresholds(_Contract):
    """How long after its last heartbeat a service falls. Absent: the registry's default."""

    silent_after: Duration | None = None
    down_after: Duration | None = None
    dead_after: Duration | None = None


def _is_default(value: object) -> bool:
    """Fields that came later are not written where they say nothing, so that events stay what they were."""
    return value is None or value in ((), {})


def _is_false(value: object) -> bool:
    return value is False


def _is_success(value: object) -> bool:
    return value is Signal.SUCCESS


class ServiceConfig(Thresholds):
    """The whole configuration of a service; every configuration event carries all of it."""

    description: str = Field(default="", max_length=2000)
    tags: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = Field(default=(), max_length=32)
    notify: bool = Field(default=True, description="Whether its changes are sent.")
    paused: bool = False
    every: Duration | None = Field(
        default=None,
        description="How often it beats; it gives the thresholds that are not configured.",
    )
    schedule: str | None = Field(
        default=None,
        exclude_if=_is_default,
        max_length=SCHEDULE_MAX,
        description="When it is due: lines of cron or of systemd's OnCalendar. Thresholds count from there.",
    )
    time_zone: str | None = Field(
        default=None,
        exclude_if=_is_default,
        max_length=64,
        description="Of `schedule`. Absent: the registry's.",
    )
    early: Duration | None = Field(
        default=None,
        exclude_if=_is_default,
        description="So long before it is due a heartbeat counts for it. Absent: 15m.",
    )
    max_run: Duration | None = Field(
        default=None, exclude_if=_is_default, description="A run that takes longer is overdue."
    )
    fail_after: Times | None = Field(
        default=None,
        exclude_if=_is_default,
        description="So many failures in a row make it down. Absent: 1.",
    )
    recover_after: Times | None = Field(
        default=None, exclude_if=_is_default, description="So many successes bring it back. Absent: 1."
    )
    notify_unusual: bool = Field(
        default=True, exclude_if=bool, description="Whether runs of an unusual length are told."
    )
    aliases: tuple[Annotated[str, Field(pattern=ping_keys.ALIAS_RULE)], ...] = Field(
        default=(),
        exclude_if=_is_default,
        max_length=ping_keys.ALIASES_MAX,
        description="What leads to it as its ping key does: ids that it had in another system.",
    )
    depends_on: tuple[ServiceName, ...] = Field(
        default=(),
        exclude_if=_is_default,
        max_length=DEPENDS_ON_MAX,
        description="Services: while one of them is down, a fall of this one is not told.",
    )
    template: str | None = Field(
        default=None,
        exclude_if=_is_default,
        max_length=64,
        description="The template of its file. Its values stand in the fields themselves.",
    )
    inherited: dict[str, Literal["template", "defaults"]] = Field(
        default={},
        exclude_if=_is_default,
        description="The fields that are not the service's own, and which part of its file they are from.",
    )
    as_check: dict[str, str | bool] = Field(
        default={},
        exclude_if=_is_default,
        description="What clients of Healthchecks' API set of it that means nothing here, such as a name "
        "with blanks in it; shown to them again.",
    )


class ConfigData(_Contract):
    config: ServiceConfig = ServiceConfig()
    registered_at: Moment | None = Field(
        default=None,
        description="Broker's time from which heartbeats count. Absent: when this event was stored.",
    )
    registered_by: Literal["heartbeat", "api"] = "api"
    declared_at: Moment | None = Field(
        default=None,
        description="Broker's time of the heartbeat that declared `config.every` or `config.schedule`. "
        "Absent: a person or a file did, and no heartbeat changes it.",
    )
    declared_limits: tuple[str, ...] = Field(
        default=(),
        exclude_if=_is_default,
        description="The fields of `config` that a heartbeat declared beside those: see `Limits`.",
    )
    managed_by: str | None = Field(
        default=None,
        exclude_if=_is_default,
        max_length=200,
        description="The file that made this configuration: `file:registry.yaml`. Absent: people do it.",
    )
    ping_key: str | None = Field(
        default=None,
        exclude_if=_is_default,
        max_length=64,
        description="Whoever has it may send the service's heartbeats. Absent: an older version "
        "registered it, and the API is to give it one.",
    )


Count = Annotated[int, Field(ge=0, le=10**9)]


class Doubt(_Contract):
    """Most services that beat regularly fell quiet at once: perhaps it is the registry that is cut off."""

    stopped: Count
    of: Count = Field(description="Services that had been beating regularly until then.")
    within: Count = Field(description="Seconds between the first and the last that stopped, at least 1.")


class StatusData(_Contract):
    from_: Status = Field(alias="from")
    to: Status
    since: Moment = Field(description="When it fell due, or the heartbeat that changed it.")
    last_heartbeat: Moment | None
    reason: str
    message: str | None = Field(
        default=None,
        description="What the heartbeat that changed it had to say, or its beginning and its end.",
    )
    duration: float | None = Field(
        default=None,
        ge=0,
        le=1e9,
        allow_inf_nan=False,
        description="Seconds of the run that ended with the heartbeat that changed it.",
    )
    doubt: Doubt | None = None


class _CloudEvent(_Contract):
    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str
    subject: ServiceName
    time: Moment
    datacontenttype: Literal["application/json"] = "application/json"

    @property
    def name(self) -> str:
        return self.subject

    def to_bytes(self) -> bytes:
        return self.model_dump_json(by_alias=True, exclude_none=False).encode()


class _CausedEvent(_CloudEvent):
    actor: str | None = Field(
        default=None,
        exclude_if=_is_default,
        description="CloudEvents' extension: who caused it, such as `token:ana`, `telegram:Ana (4711)`, "
        "`file:registry.yaml`, `heartbeat`. Absent: nobody, or an older version wrote it.",
    )


class ServiceRegistered(_CausedEvent):
    type: Literal["service.registered.v1"] = "service.registered.v1"
    data: ConfigData


class ServiceUpdated(_CausedEvent):
    type: Literal["service.updated.v1"] = "service.updated.v1"
    data: ConfigData


class ServicePaused(_CausedEvent):
    type: Literal["service.paused.v1"] = "service.paused.v1"
    data: ConfigData


class ServiceResumed(_CausedEvent):
    type: Literal["service.resumed.v1"] = "service.resumed.v1"
    data: ConfigData


class Deletion(_Contract):
    """A deletion carries nothing but itself."""


class ServiceDeleted(_CausedEvent):
    type: Literal["service.deleted.v1"] = "service.deleted.v1"
    data: Deletion = Deletion()


class StatusChanged(_CloudEvent):
    type: Literal["service.status_changed.v1"] = "service.status_changed.v1"
    traceparent: str | None = Field(
        default=None, description="CloudEvents' extension: the trace of the heartbeat that changed it."
    )
    data: StatusData

    @field_validator("traceparent", mode="before")
    @classmethod
    def _only_what_is_one(cls, given: object) -> str | None:
        return sampled(given) if isinstance(given, str) else None

    def to_bytes(self) -> bytes:
        exclude = None if self.traceparent else {"traceparent"}
        return self.model_dump_json(by_alias=True, exclude_none=False, exclude=exclude).encode()


Who = Annotated[str, Field(min_length=1, max_length=200)]
Note = Annotated[str, Field(min_length=1, max_length=2000)]
IncidentId = Annotated[str, Field(min_length=1, max_length=64)]


class Acknowledgement(_Contract):
    """Somebody has an incident in hand. It holds while that incident is the current one of its service."""

    incident: IncidentId
    by: Who
    at: Moment
    note: Note | None = None


class Mute(_Contract):
    """The changes of a service are sent to nobody: until a moment, or until an incident of it is over."""

    until: Moment | None = None
    until_alive: bool = False
    incident: IncidentId | None = Field(default=None, description="Of `until_alive`: which one that ends it.")
    by: Who
    at: Moment

    @model_validator(mode="after")
    def _has_one_end(self) -> Self:
        if (self.until is None) != self.until_alive or self.until_alive != (self.incident is not None):
            raise ValueError("either until, or until_alive with its incident")
        return self


class Told(_Contract):
    """A message about the service that a channel was sent."""

    channel: Annotated[str, Field(min_length=1, max_length=200, description="Its name.")]
    at: Moment
    status: Status = Field(description="What the message said that the service is.")
    what: Literal["change", "reminder", "owed", "escalation"] = Field(
        description="`owed`: what had been withheld; `escalation`: nobody had it in hand."
    )


class IncidentData(_Contract):
    """What holds after the event, so that the newest of a service says all."""

    incident: IncidentId | None = Field(
        default=None,
        description="Which it is about: the id of the change that began it. Absent: a mute outside of one.",
    )
    acknowledged: Acknowledgement | None = None
    muted: Mute | None = None
    note: Note | None = Field(default=None, description="What was noted, of that type alone.")
    told: Told | None = Field(default=None, description="Who was told what, of that type alone.")


class ServiceAcknowledged(_CausedEvent):
    type: Literal["service.acknowledged.v1"] = "service.acknowledged.v1"
    data: IncidentData


class ServiceReleased(_CausedEvent):
    """Nobody has it in hand any more."""

    type: Literal["service.released.v1"] = "service.released.v1"
    data: IncidentData


class ServiceMuted(_CausedEvent):
    type: Literal["service.muted.v1"] = "service.muted.v1"
    data: IncidentData


class ServiceUnmuted(_CausedEvent):
    type: Literal["service.unmuted.v1"] = "service.unmuted.v1"
    data: IncidentData


class ServiceNoted(_CausedEvent):
    type: Literal["service.noted.v1"] = "service.noted.v1"
    data: IncidentData


class ServiceTold(_CausedEvent):
    """A channel was sent a message about the service. If the notifier is killed in that moment it is sent,
    and recorded, once more."""

    type: Literal["service.told.v1"] = "service.told.v1"
    data: IncidentData


class Setting(_Contract):
    """One part of the registry's own configuration, whole."""

    value: dict[str, JsonValue] = Field(description="As its kind has it.")
    created: bool = Field(
        default=False, exclude_if=_is_false, description="Whether there was none of it before."
    )
    managed_by: str | None = Field(
        default=None,
        exclude_if=_is_default,
        max_length=200,
        description="The file that made it: `file:registry.yaml`. Absent: people did.",
    )


class _ConfigurationEvent(_CausedEvent):
    """`subject`: the kind, a dot, and which of it: `routes.all`, `maintenance.5c0f1f0a9d3e`."""

    @property
    def kind(self) -> str:
        return self.subject.partition(".")[0]

    @property
    def key(self) -> str:
        """Which of its kind."""
        return self.subject.partition(".")[2]


class ConfigurationSet(_ConfigurationEvent):
    type: Literal["registry.config_set.v1"] = "registry.config_set.v1"
    data: Setting


class ConfigurationRemoved(_ConfigurationEvent):
    type: Literal["registry.config_removed.v1"] = "registry.config_removed.v1"
    data: Deletion = Deletion()


class Outcome(StrEnum):
    """How a run ended, or what is known of it until it does. `overdue`: it has not ended in time. `missed`:
    it was due, and no heartbeat came for it."""

    SUCCESS = "success"
    FAILURE = "failure"
    RUNNING = "running"
    OVERDUE = "overdue"
    MISSED = "missed"


class RunData(_Contract):
    """One run of a service, as far as it is known; what comes later of the same `key` replaces it."""

    key: str = Field(max_length=100, description="Which run of the service it is.")
    outcome: Outcome
    started_at: Moment | None = Field(default=None, description="Absent: no start was heard.")
    ended_at: Moment | None = None
    duration: float | None = Field(
        default=None, ge=0, le=1e9, allow_inf_nan=False, description="Seconds, of a run that has ended."
    )
    expected_at: Moment | None = Field(default=None, description="When the occurrence was due it counts for.")
    late_by: float | None = Field(
        default=None, description="Seconds from `expected_at` to the start, or to the end without one."
    )
    run: str | None = Field(default=None, max_length=64, description="The sender's own id of it.")
    exit_code: int | str | None = None
    message: str | None = None
    unusual: str | None = Field(default=None, description="In words, where its length is unusual.")
    notify: bool = Field(default=False, description="Whether that is sent: at most once in 24 h.")


class RunRecorded(_CloudEvent):
    """A fact about one run. Stands in RUNS, in the order of `time`."""

    type: Literal["service.run_recorded.v1"] = "service.run_recorded.v1"
    data: RunData


class GapData(_Contract):
    """Between two signs of life was more time than half of the `silent_after` then in force."""

    from_: Moment = Field(alias="from", description="When the one before was stored.")
    to: Moment = Field(description="When the next one was stored.")
    signal: Signal = Field(
        default=Signal.SUCCESS, exclude_if=_is_success, description="What the next one said, if no success."
    )


class GapRecorded(_CloudEvent):
    """A gap between the heartbeats of a service without a schedule. Stands in RUNS among the facts about its
    runs, in the order of `time`. From gaps and runs follows when it beat, whatever is kept of heartbeats."""

    type: Literal["service.gap.v1"] = "service.gap.v1"
    data: GapData


ConfigEvent = ServiceRegistered | ServiceUpdated | ServicePaused | ServiceResumed | ServiceDeleted
Event = ConfigEvent | StatusChanged
Fact = RunRecorded | GapRecorded
"""What stands in RUNS."""
IncidentEvent = (
    ServiceAcknowledged | ServiceReleased | ServiceMuted | ServiceUnmuted | ServiceNoted | ServiceTold
)
"""What people do about incidents, and who is told of them. Beside `Event`: the monitor judges nothing by
it."""
ConfigurationEvent = ConfigurationSet | ConfigurationRemoved
"""Of the registry itself, and of no service; the newest of each subject says all."""


def keys_of(event: Event | Fact) -> str:
    """The ping key and the aliases that an event leaves its service, with blanks between."""
    if isinstance(event, ServiceDeleted | StatusChanged | RunRecorded | GapRecorded):
        return ""
    return " ".join(filter(None, (event.data.ping_key, *event.data.config.aliases)))


_EVENT: TypeAdapter[Event] = TypeAdapter(
    Annotated[Event, Field(discriminator="type")], config=ConfigDict(hide_input_in_errors=True)
)


def parse_event(payload: bytes) -> Event:
    """Read an event of any known version. pydantic.ValidationError (a ValueError) if it is none."""
    return _EVENT.validate_json(payload)


_INCIDENT: TypeAdapter[IncidentEvent] = TypeAdapter(
    Annotated[IncidentEvent, Field(discriminator="type")], config=ConfigDict(hide_input_in_errors=True)
)


def parse_incident(payload: bytes) -> IncidentEvent:
    """Read what somebody did about an incident. pydantic.ValidationError (a ValueError) if it is none."""
    return _INCIDENT.validate_json(payload)


_CONFIGURATION: TypeAdapter[ConfigurationEvent] = TypeAdapter(
    Annotated[ConfigurationEvent, Field(discriminator="type")], config=ConfigDict(hide_input_in_errors=True)
)


def parse_configuration(payload: bytes) -> ConfigurationEvent:
    """Read a part of the registry's own configuration. pydantic.ValidationError (a ValueError) if it is no
    such event."""
    return _CONFIGURATION.validate_json(payload)


def parse_run(payload: bytes) -> RunRecorded:
    """Read a fact about a run. pydantic.ValidationError (a ValueError) if it is no such event."""
    return RunRecorded.model_validate_json(payload)


def is_gap(payload: bytes) -> bool:
    """Whether a message of RUNS is a gap: what reads runs passes it over."""
    return b'"type":"service.gap.v1"' in payload  # in no text, where quotes are escaped


def parse_fact(payload: bytes) -> Fact:
    """Read what stands in RUNS. pydantic.ValidationError (a ValueError) if it is no such event."""
    return GapRecorded.model_validate_json(payload) if is_gap(payload) else parse_run(payload)


ACTOR_HEARTBEAT = "heartbeat"
"""The actor of what follows from a heartbeat: a registration, or a declaration."""


def event_id(*content: object) -> str:
    """An id that follows from the content: the same change always has the same id."""
    return hashlib.sha256("\n".join(map(str, content)).encode()).hexdigest()[:32]


def status_changed(name: str, data: StatusData, traceparent: str | None = None) -> StatusChanged:
    """The event of one change. Its id follows from the names of both statuses and the date; and from whether
    a heartbeat of that very moment came before it, as one may lift a service that falls again at once."""
    since, last = data.since.astimezone(UTC).isoformat(), data.last_heartbeat
    heard = ("heard",) if last and last >= data.since and data.to.badness > Status.ALIVE.badness else ()
    return StatusChanged(
        id=event_id(name, data.from_, data.to, since, *heard),
        source="/monitor",
        subject=name,
        time=data.since,
        traceparent=traceparent,
        data=data,
    )


def run_key(at: int, run: str) -> str:
    """Which run of its service one is that met no occurrence: by when it began, or was heard (microseconds),
    and the sender's id of it."""
    return f"{at}-{run}"


def run_recorded(name: str, data: RunData, at: datetime) -> RunRecorded:
    """The event of one fact about a run. Its id follows from what it says of which run, and from when."""
    return RunRecorded(
        id=event_id(name, "run", data.key, data.run, data.outcome, at.astimezone(UTC).isoformat()),
        source="/monitor",
        subject=name,
        time=at,
        data=data,
    )


def gap_recorded(name: str, data: GapData) -> GapRecorded:
    """The event of one gap. Its id follows from the service and its two ends."""
    ends = (data.from_.astimezone(UTC).isoformat(), data.to.astimezone(UTC).isoformat())
    return GapRecorded(
        id=event_id(name, "gap", *ends), source="/monitor", subject=name, time=data.to, data=data
    )
