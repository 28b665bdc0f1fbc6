"""Maintenance windows: when falls of some services are recorded, but not sent. Pure."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from shared.durations import Duration
from shared.events import ServiceName

SHORTEST, LONGEST = timedelta(minutes=1), timedelta(days=7)
"""Of a window that comes again."""
_MINUTE = timedelta(minutes=1)

Span = tuple[datetime, datetime]


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError("an IANA time zone such as Europe/Berlin") from None
    return name


def _cron(expression: str) -> str:
    try:
        CronSim(expression, datetime(2026, 1, 1))  # noqa: DTZ001 - only its form is looked at
    except CronSimError as error:
        raise ValueError(f"a cron expression of five fields such as '0 3 * * sun' ({error})") from None
    if len(expression.split()) != 5:
        raise ValueError("a cron expression has five fields")
    return expression


class Window(BaseModel):
    """Once, from `starts_at` to `ends_at`; or again and again, at `cron` in `time_zone`, for `duration`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: Annotated[str, StringConstraints(strip_whitespace=True, max_length=200)] = ""
    services: Annotated[tuple[ServiceName, ...], Field(max_length=1000)] = ()
    tags: Annotated[
        tuple[Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)], ...],
        Field(max_length=32),
    ] = Field(default=(), description="Every service with any of these tags.")
    starts_at: AwareDatetime | None = None
    ends_at: AwareDatetime | None = None
    cron: Annotated[str, StringConstraints(max_length=200), AfterValidator(_cron)] | None = None
    time_zone: Annotated[str, AfterValidator(_zone)] = "UTC"
    duration: Duration | None = None

    @model_validator(mode="after")
    def _whole(self) -> "Window":
        if not (self.services or self.tags):
            raise ValueError("services or tags are needed")
        if self.cron:
            if self.starts_at or self.ends_at or self.duration is None:
                raise ValueError("cron goes with duration, and without starts_at and ends_at")
            if not SHORTEST <= self.duration <= LONGEST:
                raise ValueError("duration: 1m to 7d")
        elif not (self.starts_at and self.ends_at) or self.duration:
            raise ValueError("either starts_at and ends_at, or cron and duration, are needed")
        elif self.starts_at >= self.ends_at:
            raise ValueError("starts_at must be before ends_at")
        return self

    def is_about(self, name: str, tags: Iterable[str]) -> bool:
        return name in self.services or not set(self.tags).isdisjoint(tags)

    def current(self, at: datetime) -> Span | None:
        """When the occurrence that `at` falls into begins and ends."""
        if self.starts_at and self.ends_at:
            return (self.starts_at, self.ends_at) if self.starts_at <= at < self.ends_at else None
        start = self._occurrence(at.replace(second=0, microsecond=0) + _MINUTE, back=True)
        if start is None or self.duration is None or at >= start + self.duration:
            return None
        return start, start + self.duration

    def upcoming(self, at: datetime) -> Span | None:
        """The next occurrence that begins after `at`."""
        if self.starts_at and self.ends_at:
            return (self.starts_at, self.ends_at) if self.starts_at > at else None
        start = self._occurrence(at, back=False)
        return (start, start + self.duration) if start and self.duration else None

    def _occurrence(self, at: datetime, *, back: bool) -> datetime | None:
        """The nearest before or after `at`, by the clock of its zone; None: there is none within 50 years."""
        zone = ZoneInfo(self.time_zone)
        found: Any = next(CronSim(self.cron or "", at.astimezone(zone), reverse=back), None)
        return found.astimezone(at.tzinfo) if found else None


def hushed_until(windows: Iterable[Window], name: str, tags: Iterable[str], at: datetime) -> datetime | None:
    """When the last of the windows ends that are open for this service at this moment; None: none is."""
    ends = [span[1] for it in windows if it.is_about(name, tags) and (span := it.current(at))]
    return max(ends, default=None)
