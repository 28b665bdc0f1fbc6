"""Which default thresholds were used from when on, as the monitors store it. Pure.

The history of a service follows from the streams and from the configuration at each moment. The registry's
defaults are in no stream, so each change of them is kept with its moment (an epoch): heartbeats that are read
again are evaluated as they were before, and a change causes no transition in the past.
"""

import json
from itertools import pairwise
from typing import NamedTuple

from services.monitor.domain.service import EffectiveThresholds

MAX_EPOCHS = 50
"""Epochs that are kept; of what was before, the oldest of them holds."""
KEY = "epochs"
"""In the monitors' bucket."""


class Epoch(NamedTuple):
    """`since`: microseconds since 1970 by the broker's clock. `bounded`: whether the grace that an interval
    gives is bounded, which it was not before. `time_zone`: of schedules that name none."""

    since: int
    default: EffectiveThresholds
    bounded: bool = True
    time_zone: str = "UTC"


def first(default: EffectiveThresholds, time_zone: str = "UTC") -> list[Epoch]:
    """Of a registry in which nothing has happened yet."""
    return [Epoch(0, default, time_zone=time_zone)]


def continued(
    known: list[Epoch], default: EffectiveThresholds, now: int, time_zone: str = "UTC"
) -> list[Epoch]:
    """With another epoch from now on if these defaults are not those of the newest."""
    if known[-1][1:] == (default, True, time_zone):
        return known
    begun = Epoch(max(now, known[-1].since + 1), default, time_zone=time_zone)
    kept = [*known, begun][-MAX_EPOCHS:]
    return [kept[0]._replace(since=0), *kept[1:]]


def upgraded(default: EffectiveThresholds, now: int, time_zone: str = "UTC") -> list[Epoch]:
    """Of a registry whose monitors wrote down none until now."""
    return [Epoch(0, default, bounded=False), Epoch(now, default, time_zone=time_zone)]


def bounded_since(epochs: list[Epoch]) -> int:
    """Since when the grace that an interval gives is bounded. A service that was resumed before is expected
    from then on only."""
    return next((epoch.since for epoch in epochs if epoch.bounded), 0)


def at(epochs: list[Epoch], since: int) -> Epoch:
    """The newest that had begun by then."""
    return next((epoch for epoch in reversed(epochs) if epoch.since <= since), epochs[0])


def dump(epochs: list[Epoch]) -> bytes:
    return json.dumps(
        [[*epoch.default, epoch.since, epoch.bounded, epoch.time_zone] for epoch in epochs]
    ).encode()


def load(payload: bytes) -> list[Epoch]:
    """ValueError: it is damaged. Versions without schedules wrote no time zone."""
    try:
        found = [
            Epoch(int(since), EffectiveThresholds(int(silent), int(down), int(dead)), bool(bounded), *zone)
            for silent, down, dead, since, bounded, *zone in json.loads(payload)
        ]
        if not all(isinstance(epoch.time_zone, str) for epoch in found):
            raise TypeError("a time zone is no text")
    except TypeError as error:
        raise ValueError(f"it is damaged: {error!r}") from None
    if not found or any(a.since >= b.since for a, b in pairwise(found)):
        raise ValueError("it is damaged: its moments are not in order")
    return found
