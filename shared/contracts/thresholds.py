"""Which thresholds a service has: its own, those of its declared interval, or the registry's. Pure.

Silent, down and dead, in this order, in any unit of time: microseconds in the monitor, timedeltas in the API.
"""

from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from itertools import pairwise
from typing import TypeVar

from shared.contracts.events import MICRO

T = TypeVar("T", int, timedelta)
Own = tuple[T | None, T | None, T | None]

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


def in_force(
    own: Own[T], every: T | None, default: tuple[T, T, T], *, scheduled: bool = False
) -> tuple[T, T, T]:
    """The thresholds after which a service is silent, down and dead.

    Each is the service's own, else what its schedule or interval gives, else the default. What is inherited
    makes way for what is more specific: down is at least twice silent, dead at least twice down, and what
    would not be shorter than the next is (`_shorter`). No inherited one is below the interval, unless an own
    one above it is.
    """
    silent, down, dead = default
    if scheduled or every:
        silent, down = of_interval(every) if every and not scheduled else _of_schedule(silent)
        dead = max(dead, 2 * down)
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
    HEARTBEAT = "heartbeat"
    """The interval that the service's heartbeats declare."""
    SCHEDULE = "schedule"
    """What holds for every schedule."""
    SERVICE = "service"
    """Its own configuration."""
    DERIVED = "derived"
    """It made way for one of its own configuration."""


def sources(
    own: Own[T],
    every: T | None,
    default: tuple[T, T, T],
    *,
    scheduled: bool = False,
    declared: bool = True,
) -> list[Source]:
    """Where each of the thresholds of `in_force` comes from. `declared`: a heartbeat has declared `every`."""
    inherited = in_force((None, None, None), every, default, scheduled=scheduled)
    timing = Source.SCHEDULE if scheduled else Source.HEARTBEAT if declared else Source.SERVICE
    return [
        Source.SERVICE
        if mine
        else Source.DERIVED
        if value != before
        else timing
        if value != fallback or ((every or scheduled) and which < 2)
        else Source.DEFAULT
        for which, (mine, value, before, fallback) in enumerate(
            zip(own, in_force(own, every, default, scheduled=scheduled), inherited, default, strict=True)
        )
    ]


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
