"""Maintenance windows: when changes of some services are recorded, but not sent. Pure."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, AwareDatetime, BaseModel, Field, StringConstraints, model_validator

from shared.contracts import zones
from shared.contracts.durations import Duration
from shared.contracts.events import ServiceName
from shared.contracts.schedules import check_cron, following, latest
from shared.contracts.zones import ZoneName

SHORTEST, LONGEST = timedelta(minutes=1), timedelta(days=7)
"""Of a window that comes again."""

_UTC = ZoneInfo("UTC")

Span = tuple[datetime, datetime]


def _utc(moment: datetime) -> datetime:
    """In UTC, as all times are inside; what has none in the calendar stays, as older versions accepted it."""
    return zones.in_zone(moment, _UTC)


Moment = Annotated[AwareDatetime, AfterValidator(_utc)]


class Window(BaseModel, frozen=True, extra="forbid"):
    """Once, from `starts_at` to `ends_at`; or again and again, at `cron` in `time_zone`, for `duration`."""

    title: Annotated[str, StringConstraints(strip_whitespace=True, max_length=200)] = ""
    services: Annotated[tuple[ServiceName, ...], Field(max_length=1000)] = ()
    tags: Annotated[
        tuple[Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)], ...],
        Field(max_length=32),
    ] = Field(default=(), description="Every service with any of these tags.")
    starts_at: Moment | None = None
    ends_at: Moment | None = None
    cron: Annotated[str, StringConstraints(max_length=200), AfterValidator(check_cron)] | None = None
    time_zone: ZoneName = "UTC"
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
        names, any_of = self._asked_for
        return name in names or not any_of.isdisjoint(tags)

    @cached_property
    def _asked_for(self) -> tuple[frozenset[str], frozenset[str]]:
        """Services and tags as sets, as many services are asked for at once."""
        return frozenset(self.services), frozenset(self.tags)

    def current(self, at: datetime) -> Span | None:
        """When the occurrence that `at` falls into begins and ends."""
        if self.starts_at and self.ends_at:
            return (self.starts_at, self.ends_at) if self.starts_at <= at < self.ends_at else None
        if not (self.cron and self.duration):
            return None
        start = _latest(self.cron, self.time_zone, at.replace(microsecond=0), self.duration)
        return _span(start, self.duration) if start else None

    def upcoming(self, at: datetime) -> Span | None:
        """The next occurrence that begins after `at`."""
        if self.starts_at and self.ends_at:
            return (self.starts_at, self.ends_at) if self.starts_at > at else None
        if not (self.cron and self.duration):
            return None
        start = following(self.cron, zones.zone(self.time_zone), at)
        return _span(start, self.duration) if start else None


@lru_cache(maxsize=4096)
def _latest(cron: str, time_zone: str, at: datetime, within: timedelta) -> datetime | None:
    """The same moments are asked for thousands of times when many services fail; a search takes 0.1 ms."""
    return latest(cron, zones.zone(time_zone), at, within)


def check_new(window: Window, now: datetime) -> None:
    """ValueError for a new window that would be of no use. (Stored ones may be.)"""
    for field in ("starts_at", "ends_at"):
        moment: datetime | None = getattr(window, field)
        if moment and moment.utcoffset():
            raise ValueError(f"{field}: a moment between the years 1 and 9999, in UTC")
    if window.cron and not window.upcoming(now):
        raise ValueError("cron: no such time ever comes")


def _span(start: datetime, length: timedelta) -> Span | None:
    """None if the calendar ends before the window does."""
    try:
        return start, start + length
    except OverflowError:
        return None


def in_maintenance(
    windows: Iterable[Window], services: Iterable[tuple[str, Iterable[str]]], at: datetime
) -> set[str]:
    """Those of the services (names and tags) for which a window is open at a moment."""
    open_ = [window for window in windows if window.current(at)]
    if not open_:
        return set()
    return {name for name, tags in services if any(window.is_about(name, tags) for window in open_)}


def maintenance_until(
    windows: Iterable[Window], name: str, tags: Iterable[str], at: datetime
) -> datetime | None:
    """When the last of the windows ends that are open for this service at this moment; None: none is."""
    ends = [span[1] for window in windows if window.is_about(name, tags) and (span := window.current(at))]
    return max(ends, default=None)
