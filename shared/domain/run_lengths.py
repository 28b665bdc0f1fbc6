"""Which length of a run is unusual, measured by those of the runs before it. Pure; whole microseconds.

The usual range is that of the last KEPT without the shortest and the longest (of all KEPT, two of each), so
that outliers do not widen it. A run is unusual where it is beyond this range by half as much again, and, on a
scale of ratios, by twice as far as the range goes from its median; beyond four times the range it always is.
So a steady job is held to little, and a noisy one, a growing one or one of two kinds to nothing that it does
all the time.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

from shared.contracts import durations
from shared.contracts.events import MICRO

KEPT = 30
NEEDED = 14
"""Durations that must be known before another one can be unusual."""
LEAST = timedelta(seconds=2) // MICRO
"""What is nearer to the usual range than this is not worth a word."""

_ROUNDED = timedelta(minutes=10) // MICRO
"""From this on seconds are left out."""


class Usual(NamedTuple):
    """The usual range, and the bounds beyond which a run is unusual; `shortest` 0: none is too short."""

    low: int
    high: int
    shortest: int
    longest: int

    @property
    def says(self) -> str:
        low, high = (_spoken(each) for each in (self.low, self.high))
        if low == high:
            return f"usually {low}"
        number, _, unit = low.partition(" ")
        return f"usually {number if high.endswith(f' {unit}') and ' ' not in unit else low} to {high}"


def usual(known: Sequence[int]) -> Usual | None:
    """What is usual by these durations, the newest last; None: too few are known."""
    if len(known) < NEEDED:
        return None
    ordered = sorted(known[-KEPT:])
    left_out = 1 + (len(ordered) == KEPT)
    low, median, high = ordered[left_out], max(1, ordered[len(ordered) // 2]), ordered[-1 - left_out]
    longest = max(min(max(high * 3 // 2, high**3 // median**2), 4 * high), high + LEAST)
    shortest = min(max(min(low * 2 // 3, low**3 // median**2), low // 4), low - LEAST)
    return Usual(low, high, max(0, shortest), longest)


def unusual(duration: int, known: Sequence[int]) -> str | None:
    """`took 3 s, usually 12 to 15 min`, or None."""
    bounds = usual(known)
    if bounds is None or bounds.shortest <= duration <= bounds.longest:
        return None
    return f"took {_spoken(duration)}, {bounds.says}"


def too_long(known: Sequence[int]) -> tuple[int, str] | None:
    """After how long a run that has not ended is longer than all before and unusual, and what to say then."""
    bounds = usual(known)
    if bounds is None:
        return None
    longest = max(bounds.longest, *known[-KEPT:]) + 1
    return longest, f"has run for {_spoken(longest)}, {bounds.says}"


def _spoken(duration: int) -> str:
    if duration >= _ROUNDED:
        return durations.spoken(timedelta(minutes=round(duration * MICRO / timedelta(minutes=1))))
    return durations.spoken_seconds(duration / 1_000_000)
