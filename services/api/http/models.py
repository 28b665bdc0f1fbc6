"""What goes in and out over HTTP: bodies with their rules, answers with their examples."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StrictBool,
    StringConstraints,
)

from shared.contracts import durations, thresholds
from shared.contracts.durations import Duration
from shared.contracts.events import NAME_RULE_IN_WORDS, ServiceConfig, Signal, Status, moment, valid_name
from shared.contracts.maintenance import Window
from shared.contracts.thresholds import Source
from shared.domain.service_state import ServiceState
from shared.http.problems import Problem

EXAMPLES: dict[str, Any] = json.loads(Path(__file__).with_name("examples.json").read_bytes())
THRESHOLDS = ("silent_after", "down_after", "dead_after")


def _example(value: JsonValue) -> ConfigDict:
    return ConfigDict(json_schema_extra={"example": value})


def _written(value: Any) -> Any:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"must be {durations.ACCEPTED}, in quotes")
    return value


def _tidy(tags: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(tags))


def _named(name: str) -> str:
    if not valid_name(name):
        raise ValueError(NAME_RULE_IN_WORDS)
    return name


Threshold = Annotated[Duration | None, BeforeValidator(_written), Field(examples=["15m"])]
Tag = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)]
Name = Annotated[str, AfterValidator(_named), Field(examples=["billing.worker"])]
Moment = Annotated[AwareDatetime, BeforeValidator(moment)]
"""Made of microseconds since 1970 UTC."""
MomentIfAny = Annotated[AwareDatetime | None, BeforeValidator(lambda at: moment(at) if at else None)]
"""The same, where 0 or None is never."""


class Wanted(BaseModel):
    """A configuration. What is absent or null is the default; in a PATCH, what is absent stays."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name | None = Field(default=None, description="If given, the one in the path.")
    description: Annotated[str, StringConstraints(max_length=2000)] | None = None
    tags: Annotated[tuple[Tag, ...], Field(max_length=32), AfterValidator(_tidy)] | None = None
    silent_after: Threshold = None
    down_after: Threshold = None
    dead_after: Threshold = None
    notify: StrictBool | None = Field(default=None, description="Whether its changes are sent.")

    def whole(self, old: ServiceConfig | None = None) -> ServiceConfig:
        """The configuration this is, with defaults for what it leaves out; from `old` only what nobody can
        write here."""
        kept = ServiceConfig(paused=old.paused, every=old.every) if old else ServiceConfig()
        return self.merged_into(kept)

    def merged_into(self, config: ServiceConfig) -> ServiceConfig:
        """`config` with what is given here; null sets a field back to its default."""
        default = ServiceConfig()
        given = {field: getattr(self, field) for field in self.model_fields_set - {"name"}}
        return config.model_copy(
            update={
                field: getattr(default, field) if value is None else value for field, value in given.items()
            }
        )


class NewService(Wanted):
    name: Name


def check_order(config: ServiceConfig) -> None:
    """Problem 422 unless those thresholds that are set together are in order; the others make way."""
    own = {field: value for field in THRESHOLDS if (value := getattr(config, field))}
    if thresholds.out_of_order(tuple(own.values())):
        found = ", ".join(f"{field} {durations.write(value)}" for field, value in own.items())
        raise Problem(422, f"silent_after < down_after < dead_after is needed; this would be {found}")


class ThresholdsInForce(BaseModel):
    silent_after: durations.Written
    down_after: durations.Written
    dead_after: durations.Written


class ThresholdSources(BaseModel):
    """`default`, `heartbeat` (the interval it declares), `service` (its own), or `derived`: it made way for
    one of its own."""

    silent_after: Source
    down_after: Source
    dead_after: Source


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
    every: str | None = Field(description="The interval that its heartbeats declare.")
    message: str | None = Field(description="What its newest heartbeat said, or the first part of it.")
    running_since: MomentIfAny = Field(description="When the run began that has not ended yet.")
    last_duration: float | None = Field(description="Seconds that the last finished run took.")
    warnings: list[str] = Field(description="What of its newest heartbeat could not be used as it was meant.")
    paused: bool
    notify: bool
    description: str
    tags: list[str]
    version: int = Field(description="Of the configuration; also the ETag.")
    links: Links

    # A field that is named as in the state is taken from there; what else there is, is computed here.
    @classmethod
    def of(
        cls, state: ServiceState, defaults: tuple[timedelta, timedelta, timedelta], public_url: str
    ) -> Self:
        """`defaults`: the registry's own thresholds, which hold where a service has none."""
        config, duration = state.configuration, state.last_duration
        own, every = (config.silent_after, config.down_after, config.dead_after), config.every
        computed = {
            "thresholds": dict(zip(THRESHOLDS, thresholds.in_force(own, every, defaults), strict=True)),
            "threshold_sources": dict(zip(THRESHOLDS, thresholds.sources(own, every, defaults), strict=True)),
            "every": durations.write(every) if every else None,
            "last_duration": None if duration is None else duration / 1e6,
            "version": state.config_seq,
            "links": {"self": f"{public_url.rstrip('/')}/service/{state.name}"},
        }
        same = {field: getattr(state, field) for field in cls.model_fields.keys() - computed.keys()}
        return cls.model_validate(same | computed)


class ServicePage(BaseModel):
    model_config = _example({"items": [EXAMPLES["service"]], "next": "WyJuYW1lIiwiYiIsImIiXQ", "total": 44})

    items: list[Service]
    next: str | None = Field(description="The cursor of the next page; null on the last.")
    total: int = Field(description="All services that match, on this page or not.")


class HistoryItem(BaseModel):
    seq: int
    type: str
    at: AwareDatetime = Field(description="When the broker stored it.")
    data: dict[str, Any]


class HistoryPage(BaseModel):
    model_config = _example(EXAMPLES["history"])

    items: list[HistoryItem]
    next: str | None


class HeardItem(BaseModel):
    """A heartbeat, as the broker keeps it."""

    at: AwareDatetime = Field(description="When the broker stored it.")
    signal: Signal
    exit_code: int | str | None = Field(description="Of a failure, if it told one: a number or a word.")
    message: str | None
    duration: float | None = Field(description="Seconds of the run that ended with it.")
    every: str | None = Field(description="The interval it declares.")
    metadata: dict[str, Any] | None
    source: str = Field(description="How it came: http, nats or mqtt.")
    warnings: list[str] = Field(description="What of it could not be used as it was meant.")


class HeardPage(BaseModel):
    model_config = _example({"items": [EXAMPLES["heartbeat"]]})

    items: list[HeardItem]


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

    counts: dict[Status, int]
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


class WindowPage(BaseModel):
    model_config = _example({"items": [EXAMPLES["window"]]})

    items: list[WindowView]
