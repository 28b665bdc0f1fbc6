"""Which thresholds a service has: its own, those of its declared interval, or the registry's. Pure.

Silent, down and dead, in this order, in any unit of time: microseconds in the monitor, timedeltas in the API.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Final, TypeVar

from shared.contracts.events import MICRO

T = TypeVar("T", int, timedelta)
Own = tuple[T | None, T | None, T | None]
FIELDS = ("silent_after", "down_after", "dead_after")
Inherited = tuple[str | None, str | None, str | None]
"""Of each threshold what it is inherited from: TEMPLATE, DEFAULTS, or None for the service's own."""
TEMPLATE: Final = "template"
DEFAULTS: Final = "defaults"
OWN: Inherited = (None, None, None)

GRACE_INTERVALS = 2
LONGEST_GRACE = timedelta(hours=1)
"""The grace for an interval is twice the interval, and at most this."""
OF_SCHEDULE = (timedelta(minutes=15), timedelta(hours=1))
"""How long after the expected moment a service with a schedule is silent, and down."""
EARLY = timedelta(minutes=15)
"""So long before the expected moment a heartbeat counts for it, unless the service has another one."""
DOWN_GRACES = 5
"""A service is silent one grace after its interval, and down so many graces after it."""


def of_interval(every: T) -> tuple[T, T]:
    """After how long a service with this interval is silent, and down."""
    if isinstance(every, timedelta):
        grace = min(GRACE_INTERVALS * every, LONGEST_GRACE)
        return every + grace, every + DOWN_GRACES * grace
    limit = min(GRACE_INTERVALS * every, LONGEST_GRACE // MICRO)
    return every + limit, every + DOWN_GRACES * limit


def _of_schedule(like: T) -> tuple[T, T]:
    silent, down = OF_SCHEDULE
    return (silent, down) if isinstance(like, timedelta) else (silent // MICRO, down // MICRO)


def inheritance(inherited: Mapping[str, str]) -> Inherited:
    """Of `ServiceConfig.inherited`, what is said of the thresholds."""
    silent, down, dead = (inherited.get(field) for field in FIELDS) if inherited else OWN
    return silent, down, dead


def in_force(
    given: Own[T],
    every: T | None,
    default: tuple[T, T, T],
    *,
    scheduled: bool = False,
    inherited: Inherited = OWN,
) -> tuple[T, T, T]:
    """The thresholds after which a service is silent, down and dead.

    Each is the service's own, else its template's, else what its schedule or interval gives, else that of its
    file's defaults, else the default. `given` holds those of the service, the template and the file, and
    `inherited` tells them apart. What is inherited makes way for what is more specific: down is at least
    twice silent, dead at least twice down, and what would not be shorter than the next is (`_shorter`). No
    inherited one is below the interval, unless an own one above it is.
    """
    *_, (_, _, limits) = _layers(given, every, default, scheduled, inherited)
    return limits


_TIMING = "timing"


def _layers(
    given: Own[T], every: T | None, default: tuple[T, T, T], scheduled: bool, inherited: Inherited
) -> Iterator[tuple[str | None, Own[T], tuple[T, T, T]]]:
    """What has a say, the least first: what it sets, and what is in force after it."""
    limits, nothing = default, (None, None, None)
    if inherited != OWN:
        limits = _over(own := _of(DEFAULTS, given, inherited), limits)
        yield DEFAULTS, own, limits
    if scheduled or every:
        silent, down = of_interval(every) if every and not scheduled else _of_schedule(limits[0])
        limits = silent, down, max(limits[2], 2 * down)
        yield _TIMING, nothing, limits
    if inherited != OWN:
        limits = _over(own := _of(TEMPLATE, given, inherited), limits, every)
        yield TEMPLATE, own, limits
        given = _of(None, given, inherited)
    yield None, given, _over(given, limits, every)


def _of(layer: str | None, given: Own[T], inherited: Inherited) -> Own[T]:
    silent, down, dead = (value if of == layer else None for value, of in zip(given, inherited, strict=True))
    return silent, down, dead


def _over(own: Own[T], limits: tuple[T, T, T], every: T | None = None) -> tuple[T, T, T]:
    """These instead of `limits`, which make way."""
    silent, down, dead = limits
    own_silent, own_down, own_dead = own
    if own_silent:
        silent = own_silent
        down = max(down, 2 * silent)
    if own_down:
        down = own_down
    if own_silent or own_down:
        dead = max(dead, 2 * down)
    if own_dead:
        dead = own_dead
        if down >= dead and not own_down:
            down = _shorter(dead, every, own_silent)
    if silent >= down and not own_silent:
        silent = _shorter(down, every)
    return silent, down, dead


def _shorter(than: T, *floors: T | None) -> T:
    """Half of it; but if a floor below it is not below that half, the middle between the longest and it."""
    floor = max((each for each in floors if each and each < than), default=None)
    return than // 2 if floor is None or than // 2 > floor else floor + (than - floor) // 2


class Source(StrEnum):
    """Where a threshold comes from."""

    DEFAULT = "default"
    DEFAULTS = DEFAULTS
    """Those of the file that manages the service."""
    HEARTBEAT = "heartbeat"
    """The interval that the service's heartbeats declare."""
    SCHEDULE = "schedule"
    """What holds for every schedule."""
    TEMPLATE = TEMPLATE
    """Of the file that manages it."""
    SERVICE = "service"
    """Its own configuration."""
    DERIVED = "derived"
    """It made way for one of its own configuration, or of its file's."""


def source_of(inherited: str | None) -> Source:
    return Source(inherited) if inherited else Source.SERVICE


def sources(
    given: Own[T],
    every: T | None,
    default: tuple[T, T, T],
    *,
    scheduled: bool = False,
    inherited: Inherited = OWN,
    timing: Source = Source.HEARTBEAT,
) -> list[Source]:
    """Where each of the thresholds of `in_force` comes from. `timing`: where `every` or the schedule does."""
    found, before = [Source.DEFAULT] * 3, default
    for layer, own, limits in _layers(given, every, default, scheduled, inherited):
        for which in range(3):
            if layer == _TIMING and (which < 2 or limits[which] != before[which]):
                found[which] = timing
            elif own[which]:
                found[which] = source_of(layer)
            elif limits[which] != before[which]:
                found[which] = Source.DERIVED
        before = limits
    return found


def out_of_order(given: Sequence[T]) -> bool:
    """Whether one of these thresholds, in their order, is not longer than the one before."""
    return any(first >= second for first, second in pairwise(given))


def in_force_before(own: Own[T], every: T | None, default: tuple[T, T, T]) -> tuple[T, T, T]:
    """The same as it was before the grace was limited, for the part of the history that was evaluated so."""
    if every and not any(own):
        down = 12 * every
        return 3 * every, down, default[2] if default[2] > down else 24 * every
    silent, down, dead = (mine or fallback for mine, fallback in zip(own, default, strict=True))
    return silent, max(down, silent), max(dead, down, silent)
