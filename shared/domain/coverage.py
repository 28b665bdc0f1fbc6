"""What ticks prove: when the registry could be heard. Pure; times in microseconds since 1970 UTC."""

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Coverage:
    """When the registry could be heard: everything up to `until`, less the gaps.

    Fed with the stretches that ticks prove. What no stretch covers is added to every deadline.
    """

    MOST_GAPS = 1000

    until: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list)

    def prove(self, start: int, end: int) -> bool:
        """A tick stored at `end` says that its instance has stored ticks without a break since `start`.

        Whether that takes back a gap, or a part of one: some transitions are due earlier then.
        """
        taken_back = False
        if self.gaps and start < self.gaps[-1][1]:
            left = [piece for gap in self.gaps for piece in _less(gap, start, end)]
            taken_back = left != self.gaps
            self.gaps = left
        if start > self.until:
            self.gaps = [*self.gaps, (self.until, start)]
            if len(self.gaps) > self.MOST_GAPS:  # what is forgotten must not be charged to anybody
                self.gaps[:2] = [(self.gaps[0][0], self.gaps[1][1])]
        self.until = max(self.until, end)
        return taken_back

    def gaps_until(self, now: int, patience: int) -> list[tuple[int, int]]:
        """When the registry was deaf; also since its last tick, if that is longer ago than `patience`."""
        return [*self.gaps, (self.until, now)] if now - self.until > patience else self.gaps


def expiry(start: int, patience: int, gaps: list[tuple[int, int]], rhythm: int = 0) -> int:
    """When `patience` is over that began at `start`.

    Time during which the registry did not listen (a gap) is added in full. A heartbeat that was sent in a gap
    was lost by our fault, so after a gap there is also time for the next one: twice the rhythm, if there is
    one, and at most the patience.
    """
    at, first = start + patience, len(gaps)
    while first and gaps[first - 1][1] > start:  # nearly always there is none, or only the last
        first -= 1
    for begin, end in gaps[first:]:
        if begin >= at:
            break
        grace = min(patience, 2 * rhythm) if rhythm else patience
        at = max(at + end - max(begin, start), end + grace)
    return at


def _less(gap: tuple[int, int], start: int, end: int) -> Iterator[tuple[int, int]]:
    """What is left of a gap when [start, end] turns out to have been covered after all."""
    if gap[0] < min(start, gap[1]):
        yield gap[0], min(start, gap[1])
    if max(end, gap[0]) < gap[1]:
        yield max(end, gap[0]), gap[1]
