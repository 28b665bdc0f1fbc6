"""When services are due next, by their schedules."""

from datetime import datetime

from shared.contracts import schedules
from shared.contracts.schedules import Schedule

_MOST_KEPT = 20_000


def stored_schedule(text: str, time_zone: str) -> Schedule:
    """The schedule that a service has. One that cannot be read is never due: another version accepted it."""
    try:
        return schedules.parse(text, time_zone)
    except ValueError:
        return Schedule(())


class ComingMoments:
    """The next moment of each schedule is kept until it has passed: services often share a schedule."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], tuple[datetime, datetime | None]] = {}

    def first(self, text: str, time_zone: str, after: datetime) -> datetime | None:
        """The first moment later than `after`; None if there is none, or no schedule."""
        if not text:
            return None
        asked, found = self._found.get((text, time_zone), (None, None))
        if asked is None or after < asked or (found and found <= after):
            found = stored_schedule(text, time_zone).following(after)
            if len(self._found) >= _MOST_KEPT:
                self._found.clear()
            self._found[text, time_zone] = after, found
        return found
