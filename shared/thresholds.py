"""Which thresholds hold for a service: its own, those its declared interval gives, or the registry's. Pure.

Silent, down and dead, in this order, in any unit of time: microseconds in the monitor, timedeltas in the API.
"""

from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise
from typing import TypeVar

from shared.events import MICRO

T = TypeVar("T", int, timedelta)
Own = tuple[T | None, T | None, T | None]

GRACE_INTERVALS = 2
LONGEST_GRACE = timedelta(hours=1)
"""The grace that an interval gives: twice the interval, and at most this."""
DOWN_GRACES = 5
"""A service is silent one grace after its interval, and down that many after it."""


def of_interval(every: T) -> tuple[T, T]:
    """After how long a service that beats at this interval is silent, and down."""
    if isinstance(every, timedelta):
        grace = min(GRACE_INTERVALS * every, LONGEST_GRACE)
        return every + grace, every + DOWN_GRACES * grace
    limit = min(GRACE_INTERVALS * every, LONGEST_GRACE // MICRO)
    return every + limit, every + DOWN_GRACES * limit


def in_force(own: Own[T], every: T | None, default: tuple[T, T, T]) -> tuple[T, T, T]:
    """The thresholds after which a service is silent, down and dead.

    Each is the service's own, else what its declared interval gives, else the default. What is inherited
    makes way for what is more specific: down is at least twice silent, dead at least twice down. One that
    would not be shorter than the next is half of it.
    """
    silent, down, dead = default
    if every:
        silent, down = of_interval(every)
    own_silent, own_down, own_dead = own
    if own_silent:
        silent = own_silent
        down = max(down, 2 * silent)
    if own_down:
        down = own_down
    if every or own_silent or own_down:
        dead = max(dead, 2 * down)
    if own_dead:
        dead = own_dead
        if down >= dead and not own_down:
            down = (silent + dead) // 2 if own_silent and 2 * own_silent >= dead else dead // 2
    if silent >= down and not own_silent:
        silent = down // 2
    return silent, down, dead


def out_of_order(given: Sequence[T]) -> bool:
    """Whether thresholds that are set together, in their order, are not each longer than the one before."""
    return any(first >= second for first, second in pairwise(given))


def in_force_before(own: Own[T], every: T | None, default: tuple[T, T, T]) -> tuple[T, T, T]:
    """As it was before an interval gave a bounded grace: for the time in the record that was evaluated so."""
    if every and not any(own):
        down = 12 * every
        return 3 * every, down, default[2] if default[2] > down else 24 * every
    silent, down, dead = (mine or fallback for mine, fallback in zip(own, default, strict=True))
    return silent, max(down, silent), max(dead, down, silent)
