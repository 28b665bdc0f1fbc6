"""When services are due next, by their schedules."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import islice, takewhile

from shared.contracts.events import MICRO
from shared.contracts.schedules import Schedule
from shared.domain import zone_hints
from shared.domain.timetable import NEVER, Timetable

_MOST_KEPT = 20_000
_HALF_A_DAY = timedelta(hours=12)
_MOST_IN_A_DAY = 25
"""Moments of a schedule within a day; by one with more, nothing is off by whole hours."""


class ComingMoments:
    """The next moment of each schedule is kept until it has passed: services often share a schedule."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], tuple[int, int]] = {}

    def first(self, timetable: Timetable, after: int) -> int:
        """The first moment later than `after`; NEVER if there is none."""
        of = timetable.schedule, timetable.time_zone
        asked, found = self._found.get(of, (NEVER, 0))
        if not asked <= after < found:
            found = timetable.following(after)
            if len(self._found) >= _MOST_KEPT:
                self._found.clear()
            self._found[of] = after, found
        return found


def zone_hint(schedule: Schedule, came: Iterable[datetime]) -> str:
    """What is said where the last runs came off by the same whole or half hours, against the schedule as it
    is now; else nothing. `came`: when they did, the newest first."""
    offsets = list[int]()
    for at in islice(came, zone_hints.IN_A_ROW):
        offsets.append(zone_hints.half_hours(_offset(schedule, at)))
        if not offsets[-1]:
            break
    return zone_hints.zone_hint(tuple(offsets))


def _offset(schedule: Schedule, at: datetime) -> int:
    """Microseconds from the nearest moment that was due within half a day; 0 without one, or with many."""
    try:
        since, until = at - _HALF_A_DAY, at + _HALF_A_DAY
    except OverflowError:  # at the ends of the calendar
        return 0
    coming = takewhile(lambda due: due <= until, schedule.upcoming(since))
    near = list(islice(coming, _MOST_IN_A_DAY + 1))
    if not near or len(near) > _MOST_IN_A_DAY:
        return 0
    return (at - min(near, key=lambda due: abs(at - due))) // MICRO
