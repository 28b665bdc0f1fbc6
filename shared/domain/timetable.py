"""When a service is expected: the occurrences of its schedule, in microseconds since 1970 UTC. Pure."""

from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import NamedTuple

from shared.contracts import schedules, thresholds
from shared.contracts.events import MICRO, micros, moment

EARLY = thresholds.EARLY // MICRO
NEVER = 1 << 62
"""Later than any moment: no occurrence is left."""
_SECOND, _FIRST_STEP = timedelta(seconds=1) // MICRO, timedelta(minutes=2) // MICRO
_FARTHEST = timedelta(days=3660) // MICRO


@dataclass(frozen=True, slots=True)
class Timetable:
    """A schedule in its zone. `early`: so long before an occurrence a heartbeat counts for it, at most."""

    schedule: str
    time_zone: str
    early: int = EARLY

    def is_another(self, other: "Timetable") -> bool:
        """Whether it has other occurrences."""
        return (self.schedule, self.time_zone) != (other.schedule, other.time_zone)

    def following(self, at: int) -> int:
        """The first occurrence later than `at`; NEVER if none is left."""
        return _following(self.schedule, self.time_zone, at)

    def before(self, at: int) -> int:
        """The last occurrence before `at`; 0 if there was none in ten years."""
        return max(_before(line, self.time_zone, at) for line in self.schedule.splitlines())

    def opens(self, occurrence: int, previous: int) -> int:
        """From when on a heartbeat counts for an occurrence and not for the one before."""
        if occurrence >= NEVER:
            return NEVER
        return occurrence - min(self.early, (occurrence - previous) // 2)

    def is_met(self, coming: int, at: int) -> bool:
        """Whether a heartbeat at `at` counts for the occurrence that comes next."""
        return at >= coming - self.early and at >= self.opens(coming, self.before(coming))

    def awaited(self, coming: int, at: int) -> int:
        """The occurrence that comes next, or the one after it, if a heartbeat at `at` has met it early."""
        return self.following(coming) if self.is_met(coming, at) else coming

    def counts_for(self, at: int) -> tuple[int, int]:
        """The occurrence that a heartbeat at `at` counts for (0: none), and the one after that."""
        coming = self.following(at)
        if self.is_met(coming, at):
            return coming, self.following(coming)
        return (self.before(coming) if coming < NEVER else self.before(at + 1)), coming


class Expectation(NamedTuple):
    """The first occurrence that no heartbeat has met, and the one before it."""

    met: int
    occurrence: int

    def met_by(self, timetable: Timetable, at: int, most: int) -> "tuple[Expectation, list[int]] | None":
        """What is expected after a heartbeat at `at`, and the occurrences that it passes over, up to `most`.
        None: it counts for one that is met already."""
        if at < timetable.opens(self.occurrence, self.met):
            return None
        passed, met, coming = list[int](), self.occurrence, timetable.following(self.occurrence)
        while at >= timetable.opens(coming, met):
            passed.append(met)
            met, coming = coming, timetable.following(coming)
            if len(passed) > most:
                return Expectation(*timetable.counts_for(at)), passed[:most]
        return Expectation(met, coming), passed


NOTHING_EXPECTED = Expectation(0, NEVER)


def first_expectation(timetable: Timetable, since: int, heard: int) -> Expectation:
    """What is expected of a service whose heartbeats count since `since`, if the newest was `heard` (0: none
    was)."""
    met, coming = timetable.counts_for(heard) if heard else (0, 0)
    if coming <= since:
        coming = timetable.following(since)
        met = timetable.before(coming if coming < NEVER else since + 1)
    return Expectation(met, coming)


@lru_cache(maxsize=100_000)
def _following(schedule: str, time_zone: str, at: int) -> int:
    """Services often share a schedule, and then their occurrences too."""
    found = schedules.stored(schedule, time_zone).following(moment(at))
    return NEVER if found is None else micros(found)


def _before(line: str, time_zone: str, at: int) -> int:
    step = _FIRST_STEP
    while (found := _following(line, time_zone, at - step)) >= at:
        if step > _FARTHEST:
            return 0
        step *= 4
    while step:  # there may be millions between them, and to look beyond the last one may take long
        step = step // 64 // _SECOND * _SECOND
        while (later := _following(line, time_zone, found + step)) < at:
            found = later
    return found
