"""Routes: who hears of what, and when without sound, later, or only if nobody has it in hand. Pure.

A route is written back as somebody would type it: what was left out stays out.
"""

import re
from datetime import date, datetime, time, timedelta
from fnmatch import translate
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    field_validator,
    model_serializer,
    model_validator,
)

from shared.contracts import zones
from shared.contracts.durations import Duration
from shared.contracts.events import Status
from shared.contracts.zones import ZoneName

MAX_ROUTES, MAX_NAMES = 200, 50

_Word = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)]
Names = Annotated[
    tuple[Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=128)], ...],
    Field(max_length=MAX_NAMES),
]
"""Channels by their names."""
Matched = Literal["alive", "silent", "down", "dead"]


class _Typed(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        serialize_by_alias=True,
        json_schema_mode_override="validation",
    )

    @model_serializer(mode="wrap")
    def _as_typed(self, dump: SerializerFunctionWrapHandler) -> Any:
        """Without what has its default value."""
        left_out = {
            field.alias or name
            for name, field in type(self).model_fields.items()
            if not field.is_required() and getattr(self, name) == field.default
        }
        return {key: value for key, value in dump(self).items() if key not in left_out}


class Match(_Typed):
    """All that is given must hold; nothing given: every service, in every status."""

    tags: Annotated[tuple[_Word, ...], Field(max_length=32)] = Field(default=(), description="Any of these.")
    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=128)] | None = (
        Field(default=None, description="A shell pattern such as `backup.*`; upper and lower case differ.")
    )
    status: tuple[Matched, ...] = Field(default=(), description="Any of these.", max_length=4)

    def is_about(self, name: str, tags: tuple[str, ...], status: Status) -> bool:
        return (
            (not self.status or status in self.status)
            and (not self.tags or not self._tags.isdisjoint(tags))
            and (self.name is None or self._name(name) is not None)
        )

    @cached_property
    def _tags(self) -> frozenset[str]:
        return frozenset(self.tags)

    @cached_property
    def _name(self) -> Any:
        return re.compile(translate(self.name or "*")).match


_HOURS = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])\s*-\s*([01]?[0-9]|2[0-3]):([0-5][0-9])", re.ASCII)
HOURS_ACCEPTED = "hours such as 22:00-07:00"


def _hours(text: str) -> str:
    """`7:00 - 9:00` as `07:00-09:00`. ValueError says what is accepted."""
    match = _HOURS.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text[:40]!r} is not {HOURS_ACCEPTED}")
    begin, end = (f"{int(match[i]):02}:{match[i + 1]}" for i in (1, 3))
    if begin == end:
        raise ValueError(f"{text[:40]!r}: begins when it ends; accepted: {HOURS_ACCEPTED}")
    return f"{begin}-{end}"


class Quiet(_Typed):
    """Hours of each day by the clock of a zone, also over midnight: `22:00-07:00`. On days when clocks are
    moved they begin and end when that clock first reaches the hour, or passes it."""

    hours: str
    time_zone: ZoneName | None = Field(default=None, description="Default: REGISTRY_TIMEZONE.")
    hold: bool = Field(default=False, description="Held till their end; else sent without sound.")

    @field_validator("hours")
    @classmethod
    def _readable(cls, hours: str) -> str:
        return _hours(hours)

    @classmethod
    def parse(cls, text: str) -> Self:
        """`22:00-07:00`, or with a zone behind it. ValueError says what is accepted."""
        return cls.model_validate(_quiet(text))

    def __str__(self) -> str:
        return f"{self.hours} {self.time_zone}" if self.time_zone else self.hours

    @model_serializer(mode="wrap")
    def _as_typed(self, dump: SerializerFunctionWrapHandler) -> Any:
        if not self.hold:
            return str(self)
        return {key: value for key, value in dump(self).items() if value is not None}

    def until(self, at: datetime, zone: ZoneInfo) -> datetime | None:
        """When the quiet hours end that there are at a moment; None: there are none then. `zone`: for those
        that name none. (From 1970 to 8999.)"""
        there = zones.zone(self.time_zone) if self.time_zone else zone
        day = at.astimezone(there).date()
        for begins in (day - timedelta(days=1), day):
            begin, end = _span(self.hours, begins, there)
            if begin <= at < end:
                return end
        return None


@lru_cache(maxsize=1024)
def _span(hours: str, day: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """When the hours begin on a day and when those end, in UTC."""
    first, last = (time.fromisoformat(part) for part in hours.split("-"))
    return _reached(day, first, zone), _reached(day + timedelta(days=last < first), last, zone)


_UTC = ZoneInfo("UTC")


def _reached(day: date, hour: time, zone: ZoneInfo) -> datetime:
    """When the clock of a zone first shows this hour of this day, or a later one if it skips it; in UTC."""
    naive = datetime.combine(day, hour)
    moment = naive.replace(tzinfo=zone).astimezone(_UTC)
    if moment.astimezone(zone).replace(tzinfo=None) == naive:
        return moment
    early, late = naive.replace(tzinfo=zone, fold=1).astimezone(_UTC), moment
    while late - early > timedelta(seconds=1):  # clocks are moved somewhere in between, on a whole second
        middle = early + timedelta(seconds=(late - early) // timedelta(seconds=2))
        if middle.astimezone(zone).replace(tzinfo=None) > naive:
            late = middle
        else:
            early = middle
    return late


_WITH_ZONE = re.compile(r"([0-9:\s-]+)\s([A-Za-z]\S*)", re.ASCII)


def _quiet(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    hours, zone = match.groups() if (match := _WITH_ZONE.fullmatch(value.strip())) else (value, None)
    return {"hours": hours, "time_zone": zone}


QuietHours = Annotated[Quiet, BeforeValidator(_quiet, json_schema_input_type=str | Quiet)]


class Escalation(_Typed):
    """`to` hear of it if nobody has it in hand so long `after` its fall to down."""

    after: Duration
    to: Annotated[Names, Field(min_length=1)]


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, dict | Escalation) else value


_Several = BeforeValidator(_several, json_schema_input_type=Escalation | tuple[Escalation, ...])


class Route(_Typed):
    match: Match = Match()
    to: Names = Field(default=(), description="Channels, by name.")
    continue_: bool = Field(
        default=False, alias="continue", description="The routes below are looked at as well."
    )
    quiet: QuietHours | None = Field(
        default=None,
        description="`22:00-07:00 Europe/Berlin`: hours in which `to` hear of it without sound; with "
        '`{"hours", "time_zone", "hold": true}` after them. An escalation is sent at its moment.',
    )
    escalate: Annotated[tuple[Escalation, ...], _Several, Field(max_length=10)] = Field(
        default=(), description="One, or a list."
    )
    remind: Annotated[tuple[Duration, ...], Field(max_length=20)] | None = Field(
        default=None,
        description="When to remind that it is down, since the fall; the last repeats. Empty: never. "
        "Default: REGISTRY_REMIND_AFTER.",
    )

    @field_validator("remind")
    @classmethod
    def _in_order(cls, remind: tuple[timedelta, ...] | None) -> tuple[timedelta, ...] | None:
        return remind and tuple(sorted(set(remind)))

    @model_validator(mode="after")
    def _told_to_somebody(self) -> Self:
        if not (self.to or self.escalate):
            raise ValueError("to or escalate is needed: channels, by name")
        return self

    @model_serializer(mode="wrap")
    def _as_typed(self, dump: SerializerFunctionWrapHandler) -> Any:
        typed = super()._as_typed(dump)
        if len(self.escalate) == 1:
            typed["escalate"] = typed["escalate"][0]
        return typed


class Routes(_Typed):
    """In order: the first that matches decides, and those below it as far as each has `continue`."""

    routes: Annotated[tuple[Route, ...], Field(max_length=MAX_ROUTES)] = ()

    @model_serializer(mode="wrap")
    def _as_typed(self, dump: SerializerFunctionWrapHandler) -> Any:
        return dump(self)

    @property
    def channels(self) -> dict[str, None]:
        """The names of all that are named, in order."""
        return {
            name: None for it in self.routes for to in (it.to, *(e.to for e in it.escalate)) for name in to
        }
