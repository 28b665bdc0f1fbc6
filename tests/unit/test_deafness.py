"""What ticks prove of the registry's own deafness, and what of it is worth telling."""

import json
from datetime import datetime, timedelta

from services.notifier.alerting.changes import Deafness
from services.notifier.deafness import STARTUP_GRACE, TickCoverage
from shared.contracts.events import micros
from shared.messaging.reader import Stored
from tests.notified import HOUR, MINUTE, NOW, SECOND


def heard(*stretches: tuple[timedelta, timedelta]) -> TickCoverage:
    """From and to so long after NOW; each by the last tick of an instance of its own."""
    found = TickCoverage()
    for n, (start, end) in enumerate(stretches):
        found.take(tick(start, end, n))
    return found


def tick(start: timedelta, end: timedelta, n: int = 0) -> Stored:
    content = json.dumps({"open_since": (NOW + start).isoformat()}).encode()
    return Stored(f"tick.{n}", content, None, n + 1, micros(NOW + end), 0)


def known(it: TickCoverage, at: datetime, after: datetime = NOW - HOUR) -> list[Deafness] | None:
    it.caught_up(NOW)
    return it.deafness(after, at)


def test_what_is_longer_than_five_minutes_is_told_and_nothing_of_before_the_first_tick() -> None:
    it = heard((-HOUR, timedelta()), (5 * MINUTE, HOUR), (HOUR + 6 * MINUTE, 2 * HOUR))
    gap = Deafness(NOW + HOUR, NOW + HOUR + 6 * MINUTE)
    assert known(it, NOW + 2 * HOUR) == [gap]
    assert known(it, NOW + 2 * HOUR, after=NOW + HOUR + 6 * MINUTE) == []
    assert known(heard((timedelta(), timedelta())), NOW) == []
    assert known(TickCoverage(), NOW + HOUR) == []


def test_it_lasts_when_no_tick_comes() -> None:
    it = heard((-HOUR, timedelta()))
    assert known(it, NOW + 5 * MINUTE) == []
    assert known(it, NOW + 5 * MINUTE + SECOND) == [Deafness(NOW)]
    it.take(tick(HOUR, HOUR, 1))
    assert known(it, NOW + HOUR) == [Deafness(NOW, NOW + HOUR)]


def test_after_a_start_or_a_lost_connection_ingest_has_time_for_its_first_tick() -> None:
    it = heard((-HOUR, timedelta()))
    later = NOW + HOUR
    assert it.deafness(NOW - HOUR, later) is None, "not all was read"
    it.caught_up(later)
    assert it.deafness(NOW - HOUR, later) is None
    assert it.deafness(NOW - HOUR, later + STARTUP_GRACE) == [Deafness(NOW)]
    it.lost()
    assert it.deafness(NOW - HOUR, later + STARTUP_GRACE) is None


def test_a_second_ingest_that_was_there_all_the_while_takes_a_gap_back() -> None:
    it = heard((-HOUR, timedelta()), (HOUR, 2 * HOUR), (-HOUR, 2 * HOUR + SECOND))
    assert known(it, NOW + 2 * HOUR) == []


def test_what_is_no_tick_proves_nothing() -> None:
    it = heard((-HOUR, timedelta()))
    it.take(Stored("tick.x", b"{", None, 9, micros(NOW + HOUR), 0))
    assert it.until == NOW
