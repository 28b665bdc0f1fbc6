"""What goes in and out over HTTP: bodies with their rules, answers with their examples."""

import json
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StrictBool,
    StrictInt,
    StringConstraints,
    model_serializer,
    model_validator,
)

from shared.contracts import durations, events, thresholds, wanted
from shared.contracts.channels import ChannelReport
from shared.contracts.configuration import FILE, FILE_RULE
from shared.contracts.durations import Duration
from shared.contracts.events import (
    MICRO,
    Mute,
    Outcome,
    ServiceConfig,
    Signal,
    Status,
    moment,
)
from shared.contracts.maintenance import Window
from shared.contracts.routes import MAX_ROUTES, Matched, Route, Routes
from shared.contracts.thresholds import Source
from shared.contracts.wanted import THRESHOLDS, Lines, Name, Tag
from shared.contracts.zones import ZoneName
from shared.domain.service_state import ServiceState
from shared.http.problems import Problem

EXAMPLES: dict[str, Any] = json.loads(Path(__file__).with_name("examples.json").read_bytes())
MOMENTS, MOMENTS_MAX = 5, 100
"""How many moments of a schedule are shown unless another count is asked for, and at most."""


def _example(value: JsonValue) -> ConfigDict:
    return ConfigDict(json_schema_extra={"example": value})


Moment = Annotated[AwareDatetime, BeforeValidator(moment)]
"""Made of microseconds since 1970 UTC."""
MomentIfAny = Annotated[AwareDatetime | None, BeforeValidator(lambda at: moment(at) if at else None)]
"""The same, where 0 or None is never."""


def check_order(config: ServiceConfig) -> None:
    """Problem 422 unless those thresholds that are set together are in order; the others make way."""
    try:
        wanted.check_order(config)
    except ValueError as error:
        raise Problem(422, str(error)) from None


class ThresholdsInForce(BaseModel):
    silent_after: durations.Written
    down_after: durations.Written
    dead_after: durations.Written


class ThresholdSources(BaseModel):
    """`default` (the registry's), `defaults` (of the file that manages it), `heartbeat` (what its heartbeats
    declare, or of the interval that they declare), `schedule` (of every schedule), `template` (of the file),
    `service` (its own, or of its own interval), or `derived`: it made way for one of these."""

    silent_after: Source
    down_after: Source
    dead_after: Source


class Acknowledged(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    by: str = Field(description="Who has it in hand, as `actor` says it.", examples=["token:ana"])
    at: AwareDatetime
    note: str | None


class CurrentIncident(BaseModel):
    """The incident that a service has: since it left alive or unknown downwards."""

    id: str
    began_at: AwareDatetime
    acknowledged: Acknowledged | None

    @classmethod
    def of(cls, state: ServiceState) -> Self | None:
        if (incident := state.incident) is None:
            return None
        known = state.acknowledged
        acknowledged = Acknowledged.model_validate(known) if known else None
        return cls(id=incident.id, began_at=moment(incident.began_at), acknowledged=acknowledged)


class Muted(BaseModel):
    """Its changes are sent to nobody: `until` a moment, or `until_alive`; the other is absent."""

    until: AwareDatetime | None = None
    until_alive: bool | None = None
    by: str
    at: AwareDatetime

    @classmethod
    def of(cls, mute: Mute | None) -> Self | None:
        if mute is None:
            return None
        return cls(until=mute.until, until_alive=mute.until_alive or None, by=mute.by, at=mute.at)

    @model_serializer(mode="wrap")
    def _one_end(self, dump: Any) -> dict[str, Any]:
        return {key: value for key, value in dump(self).items() if value is not None}


class Links(BaseModel):
    self: str


class Service(BaseModel):
    """One service as it is now."""

    model_config = _example(EXAMPLES["service"])

    name: str
    status: Status
    since: Moment = Field(description="Since when it has this status.")
    last_heartbeat: MomentIfAny
    reason: str | None = Field(description="What changed its status; null before the first change.")
    registered_at: Moment
    registered_by: Literal["heartbeat", "api"]
    thresholds: ThresholdsInForce
    threshold_sources: ThresholdSources
    every: str | None = Field(description="How often it beats, configured or declared by its heartbeats.")
    schedule: str | None = Field(description="When it is due, configured or declared by its heartbeats.")
    time_zone: str = Field(description="Of its schedule, and of the times in reasons.")
    expected: AwareDatetime | None = Field(
        description="When it is due next, and no heartbeat has come for it; null without a schedule."
    )
    early: durations.Written
    max_run: str | None = Field(description="A run that takes longer is overdue; null: see `thresholds`.")
    fail_after: int
    recover_after: int
    notify_unusual: bool
    message: str | None = Field(description="What its newest heartbeat said, or the first part of it.")
    running_since: MomentIfAny = Field(description="When the newest run began that has not ended yet.")
    last_duration: float | None = Field(description="Seconds that the last finished run took.")
    warnings: list[str] = Field(
        description="What of its newest heartbeat cannot be used as it was meant, or is configured "
        "otherwise; that its schedule is over; and which services it depends on that there are not"
    )
    ping_url: str | None = Field(
        description="Sends its heartbeats without a token; null for whoever may not write."
    )
    depends_on: list[str] = Field(description="While one of these is down, a fall of this one is not told.")
    managed_by: str | None = Field(
        description="The file that made its configuration: `file:registry.yaml`; null: people did, or nobody."
    )
    template: str | None = Field(description="Of that file, from which it has what `inherited` names.")
    inherited: dict[str, Literal["template", "defaults"]] = Field(
        description="The fields that are not its own, and which part of that file they are from."
    )
    aliases: list[str] = Field(description="Empty for whoever may not write.")
    paused: bool
    incident: CurrentIncident | None = Field(description="Null while it is alive, or was never heard.")
    muted: Muted | None
    notify: bool
    description: str
    tags: list[str]
    version: int = Field(description="Of the configuration; also the ETag.")
    links: Links

    # A field that is named as in the state is taken from there; what else there is, is computed.
    @classmethod
    def of(
        cls, state: ServiceState, defaults: tuple[timedelta, timedelta, timedelta], **computed: Any
    ) -> Self:
        """`defaults`: the registry's own thresholds, which hold where a service has none."""
        config, duration = state.configuration, state.last_duration
        own, every = (config.silent_after, config.down_after, config.dead_after), config.every
        scheduled = config.schedule is not None
        inherited = thresholds.inheritance(config.inherited)
        in_force = thresholds.in_force(own, every, defaults, scheduled=scheduled, inherited=inherited)
        timing = (
            Source.SCHEDULE
            if scheduled
            else Source.HEARTBEAT
            if state.declared_at is not None
            else thresholds.source_of(config.inherited.get("every"))
        )
        found = thresholds.sources(
            own, every, defaults, scheduled=scheduled, inherited=inherited, timing=timing
        )
        by_heartbeat = dict.fromkeys(state.declared_limits, Source.HEARTBEAT)
        sources = [by_heartbeat.get(field, source) for field, source in zip(THRESHOLDS, found, strict=True)]
        longest = config.max_run or in_force[1]
        computed |= {
            "incident": CurrentIncident.of(state),
            "thresholds": dict(zip(THRESHOLDS, in_force, strict=True)),
            "threshold_sources": dict(zip(THRESHOLDS, sources, strict=True)),
            "running_since": state.running_since(longest // MICRO),
            "every": durations.write(every) if every else None,
            "early": config.early or thresholds.EARLY,
            "max_run": durations.write(config.max_run) if config.max_run else None,
            "fail_after": config.fail_after or 1,
            "recover_after": config.recover_after or 1,
            "last_duration": None if duration is None else duration / 1e6,
            "version": state.config_seq,
        }
        same = {field: getattr(state, field) for field in cls.model_fields.keys() - computed.keys()}
        return cls.model_validate(same | computed)


class SchedulePreview(BaseModel):
    """A schedule that is not set, and which of its moments are wanted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schedule: Lines
    time_zone: ZoneName | None = Field(default=None, description="Absent: the registry's.")
    count: Annotated[StrictInt, Field(ge=1, le=MOMENTS_MAX)] = MOMENTS
    after: events.Moment | None = Field(default=None, description="Absent: now.")


class ExpectedMoments(BaseModel):
    model_config = _example(EXAMPLES["expected"])

    items: list[AwareDatetime] = Field(description="The next moments, in UTC.")
    says: str | None = Field(description="The schedule in words; null without one.")


class ServicePage(BaseModel):
    model_config = _example({"items": [EXAMPLES["service"]], "next": "WyJuYW1lIiwiYiIsImIiXQ", "total": 44})

    items: list[Service]
    next: str | None = Field(description="The cursor of the next page; null on the last.")
    total: int = Field(description="All services that match, on this page or not.")


class FieldChange(BaseModel):
    """A field of the configuration that was made another."""

    field: str = Field(examples=["silent_after"])
    before: JsonValue = Field(description="Null: not set. Of `ping_key` and `aliases` nothing is shown.")
    after: JsonValue


class HistoryItem(BaseModel):
    seq: int
    type: str
    at: AwareDatetime = Field(description="When the broker stored it.")
    data: dict[str, Any]
    changed: list[Literal["configuration", "ping_key", "aliases"]] = Field(
        description="What it made another, as far as the configuration before it is kept. Neither keys nor "
        "aliases are shown."
    )
    actor: str | None = Field(description="Who did it; null: nobody in particular, or it is not recorded.")
    changes: list[FieldChange] | None = Field(
        description="What it changed from what to what; null where the configuration before it is not kept."
    )


class HistoryPage(BaseModel):
    model_config = _example(EXAMPLES["history"])

    items: list[HistoryItem]
    next: str | None


class AuditItem(BaseModel):
    """What somebody did."""

    seq: int
    at: AwareDatetime = Field(description="When the broker stored it.")
    actor: str = Field(
        description="`token:ana`, `token` (one without a name), `anonymous` (none was needed), "
        "`telegram:Ana (4711)`, `file:registry.yaml`, `heartbeat`.",
        examples=["token:ana"],
    )
    service: str | None = Field(description="Null where it was done to the registry itself.")
    config: str | None = Field(
        default=None,
        description="The part of the registry's own configuration: its kind and which, with a dot between.",
        examples=["maintenance.5c0f1f0a9d3e", "routes.all"],
    )
    type: str
    changes: list[FieldChange] | None = Field(
        description="From what to what; null where the configuration before it is not kept."
    )


class AuditPage(BaseModel):
    model_config = _example({"items": [EXAMPLES["audited"]], "next": None})

    items: list[AuditItem]
    next: str | None = Field(description="The cursor of the next page; null on the last.")


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]


class AckWanted(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    note: Text | None = None


class MuteWanted(BaseModel):
    """One of them: for how long, until when, or until the incident is over."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    for_: Duration | None = Field(default=None, alias="for", examples=["2h"])
    until: events.Moment | None = None
    until_alive: StrictBool | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(each is not None for each in (self.for_, self.until, self.until_alive or None)) != 1:
            raise ValueError("one of for, until and until_alive is needed")
        return self


class NoteWanted(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    text: Text


class IncidentItem(BaseModel):
    model_config = _example(EXAMPLES["incident"])

    id: str
    service: str
    began_at: AwareDatetime
    ended_at: AwareDatetime | None = Field(
        description="When it was alive again, or its service deleted; null while it lasts."
    )
    seconds: float = Field(default=0, description="How long it took, or lasts already.")
    acknowledged: Acknowledged | None = Field(description="Who has it in hand, or had at its end.")


class IncidentPage(BaseModel):
    model_config = _example({"items": [EXAMPLES["incident"]], "next": None})

    items: list[IncidentItem]
    next: str | None = Field(description="The cursor of the next page; null on the last.")


class IncidentEventItem(BaseModel):
    """A change of status, a message that was sent, or what somebody did."""

    seq: int
    type: str
    at: AwareDatetime = Field(description="When the broker stored it.")
    actor: str | None
    data: dict[str, Any]


class IncidentWhole(IncidentItem):
    model_config = _example(EXAMPLES["incident"] | {"events": EXAMPLES["incident_events"]})

    events: list[IncidentEventItem] = Field(description="All that happened in it, oldest first.")


class HeardItem(BaseModel):
    """A heartbeat, as the broker keeps it."""

    at: AwareDatetime = Field(description="When the broker stored it.")
    signal: Signal
    exit_code: int | str | None = Field(description="Of a failure, if it told one: a number or a word.")
    message: str | None
    duration: float | None = Field(description="Seconds of the run that ended with it.")
    run: str | None = Field(description="The sender's id of the run that began or ended with it.")
    every: str | None = Field(description="The interval it declares.")
    schedule: str | None = Field(description="The schedule it declares.")
    time_zone: str | None = Field(description="Of that schedule; null: the one known before.")
    metadata: dict[str, Any] | None
    source: str = Field(description="How it came: http, nats or mqtt.")
    warnings: list[str] = Field(description="What of it could not be used as it was meant.")


class HeardPage(BaseModel):
    model_config = _example({"items": [EXAMPLES["heartbeat"]]})

    items: list[HeardItem]


class RunItem(BaseModel):
    """A run, or an occurrence for which nothing came."""

    model_config = ConfigDict(extra="ignore")

    started_at: MomentIfAny = Field(description="Null where no start was heard.")
    ended_at: MomentIfAny
    duration: float | None = Field(
        description="Seconds, of a run that has ended: as its sender measured it, else since its start."
    )
    outcome: Outcome = Field(
        description="overdue: it has not ended in time; missed: it was due, and nothing came."
    )
    expected_at: MomentIfAny = Field(description="When the occurrence was due that it counts for.")
    late_by: float | None = Field(
        description="Seconds from then to its start, or to its end without one; of the first run for it."
    )
    run: str | None = Field(description="The sender's id of it.")
    exit_code: int | str | None
    message: str | None
    unusual: str | None = Field(description="In words, where its length is unusual.")


class RunPage(BaseModel):
    model_config = _example({"items": [EXAMPLES["run"]], "next": None})

    items: list[RunItem]
    next: str | None = Field(description="The cursor of the next page; null on the last.")


class Seconds(BaseModel):
    """Seconds in each state. `unobserved`: the registry itself could not be heard."""

    alive: float
    silent: float
    down: float
    dead: float
    unknown: float
    paused: float
    unobserved: float


class Uptime(BaseModel):
    model_config = ConfigDict(json_schema_extra={"example": EXAMPLES["uptime"]}, populate_by_name=True)

    window: str
    uptime: float | None = Field(
        description="The share of the evaluated and observed time in which it was alive or silent."
    )
    from_: AwareDatetime = Field(alias="from", description="When the window began, or it was registered.")
    to: AwareDatetime
    seconds: Seconds


class NextDigest(BaseModel):
    at: datetime | None = Field(description="Null when the digest is switched off.")
    text: str


class Summary(BaseModel):
    model_config = _example(EXAMPLES["summary"] | {"worst": [EXAMPLES["service"]]})

    counts: dict[Status, int] = Field(description="Of the services that are evaluated.")
    paused: int
    muted: int = Field(description="Of those that are evaluated; they are in `counts` as well.")
    maintenance: int = Field(description="The same, of those in a maintenance window.")
    total: int
    worst: list[Service] = Field(
        description="Up to 10 services that are down, silent or dead, in this order."
    )
    next_digest: NextDigest


class WindowView(BaseModel):
    """A window, and when it is next, or now."""

    model_config = _example(EXAMPLES["window"])

    id: str
    window: Window
    active: bool = Field(description="Whether it is open now.")
    starts_at: AwareDatetime | None = Field(description="Of the occurrence that is now, or next.")
    ends_at: AwareDatetime | None
    version: int = Field(description="Also the ETag.")


class RoutesWanted(Routes):
    """All of them; that there are to be none has to be said. Also as they were read."""

    routes: Annotated[tuple[Route, ...], Field(max_length=MAX_ROUTES)]
    version: int | None = Field(default=None, exclude=True, description="Counts for nothing: see `If-Match`.")


class RoutesView(BaseModel):
    """The routes, in order, and their version."""

    model_config = _example(EXAMPLES["routes"])

    routes: tuple[Route, ...]
    version: int = Field(description="Also the ETag; 0: they were never set.")


class RouteTest(BaseModel):
    """What is asked about: a service in a status at a moment. None of it has to be so."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    tags: Annotated[tuple[Tag, ...], Field(max_length=32)] | None = Field(
        default=None, description="Absent: those of the service."
    )
    status: Matched = "down"
    at: events.Moment | None = Field(default=None, description="Absent: now.")
    down_since: events.Moment | None = Field(
        default=None, description="When it fell to down. Absent: at that moment, if it is down or dead."
    )
    acknowledged: StrictBool = Field(default=False, description="Whether somebody has it in hand.")
    routes: Annotated[tuple[Route, ...], Field(max_length=MAX_ROUTES)] | None = Field(
        default=None, description="Routes that are not set, to try them. Absent: those that are."
    )


class Heard(StrEnum):
    """How a channel hears of something: at once, without sound, escalated (nobody had it in hand), when quiet
    hours end, if nobody has it in hand by then, or not at all."""

    AT_ONCE = "at_once"
    NO_SOUND = "without_sound"
    ESCALATED = "escalated"
    HELD = "held"
    WAITS = "escalates"
    NOT = "not"


class ChannelHears(BaseModel):
    channel: str
    hears: Heard
    at: AwareDatetime | None = Field(description="When it is told; null: it is not.")
    routes: list[int] = Field(description="The places of the routes that say so, from 0.")
    remind: list[str] | None = Field(default=None, description="Null: as REGISTRY_REMIND_AFTER has it.")
    why: str


class RouteMatched(BaseModel):
    place: int = Field(description="Among the routes, from 0.")
    route: Route


class RoutesTested(BaseModel):
    """Who would hear of it by the routes alone. (Maintenance, mutes, pauses, flapping and what it depends on
    may hold it back besides.)"""

    model_config = _example(EXAMPLES["routes_tested"])

    at: AwareDatetime
    tags: list[str]
    matched: list[RouteMatched] = Field(description="The routes that decide, in order.")
    channels: list[ChannelHears] = Field(description="Every channel but subscribers, who follow no routes.")
    warnings: list[str]


class ConfigurationPosted(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    configuration: dict[str, Any] = Field(description="As in a file; /registry.schema.json says how.")
    file: Annotated[str, Field(pattern=FILE_RULE)] = Field(
        default=FILE, description="The file's name, without its folder: what it makes is managed by it."
    )
    prune: StrictBool = Field(default=False, description="Delete what the file once made and has no more.")


class ChangeItem(BaseModel):
    kind: Literal["service", "routes", "maintenance", "status_page"]
    name: str
    action: Literal["create", "update", "delete", "nothing"]
    fields: dict[str, tuple[JsonValue, JsonValue]] = Field(
        description="From what to what. `managed_by` alone is no change of what there is: the action is "
        "nothing. `inherited.…`: only what a value is inherited from is another."
    )


class FailedItem(BaseModel):
    kind: str
    name: str
    why: str


class ConfigurationApplied(BaseModel):
    """What was changed, or would be. One with failures is finished by sending it again."""

    model_config = _example(EXAMPLES["applied"])

    changes: list[ChangeItem] = Field(description="All that the file has, also what stays as it is.")
    left: list[ChangeItem] = Field(description="What the file once made and has no more: `prune` deletes it.")
    warnings: list[str]
    etag: str = Field(description="Also the ETag; of all that the file is about, as it is now.")
    applied: int = Field(description="Events that were stored.")
    failed: list[FailedItem]


class WindowPage(BaseModel):
    model_config = _example({"items": [EXAMPLES["window"]]})

    items: list[WindowView]


class ChannelList(BaseModel):
    model_config = _example({"items": [EXAMPLES["channel"]]})

    items: list[ChannelReport]


class Tested(BaseModel):
    model_config = _example({"delivered": True})

    delivered: bool


class SwitchedOn(BaseModel):
    model_config = _example({"on": True, "was_off": "Forbidden: bot was kicked from the group chat"})

    on: bool
    was_off: str | None = Field(description="Why it was off, if it was.")
