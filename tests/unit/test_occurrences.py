"""When cron is due and windows are open, held against a clock that is looked at minute by minute."""

from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shared.contracts.maintenance import Window, check_new
from shared.contracts.schedules import check_cron, following, latest
from tests.reference.reckoning import DAY, HOUR, MINUTE, Minutes, changes, cron_due

ZONES = [
    *("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "America/Nuuk"),
    *("Antarctica/Troll", "Africa/Casablanca", "America/Santiago", "Asia/Kolkata", "Asia/Kathmandu"),
    *("Pacific/Chatham", "America/Havana", "Europe/Dublin", "UTC"),
]


def due(expression: str, zone: ZoneInfo, start: datetime, end: datetime) -> list[datetime]:
    """Every minute at which cron runs. A day earlier, so that what a first pass had is known."""
    return [at for at in cron_due(expression, Minutes(zone, start - DAY, end)) if at >= start]


FIELDS = st.tuples(
    st.sampled_from(["0", "15", "30", "45", "59", "0,30", "*", "*/20", "*/7", "10-20"]),
    st.sampled_from(["0", "1", "2", "3", "23", "1,2", "*", "*/2", "0-3", "1-3/2"]),
    st.sampled_from(["*", "*", "*", "1", "25-31", "*/2"]),
    st.sampled_from(["*", "*", "*", "3,4,10,11"]),
    st.sampled_from(["*", "*", "*", "0", "6,0", "1-5"]),
).map(" ".join)


@st.composite
def near_a_change(draw: st.DrawFn) -> tuple[ZoneInfo, datetime]:
    """A zone, and a midnight from a day before its clocks are moved to two days after."""
    zone = ZoneInfo(draw(st.sampled_from(ZONES)))
    moved = changes(zone, draw(st.integers(2015, 2037))) or [datetime(2026, 3, 29, 1, tzinfo=UTC)]
    return zone, draw(st.sampled_from(moved)).replace(hour=0, minute=0) - DAY


quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@quick
@given(FIELDS, near_a_change(), st.integers(0, 3 * 1440 - 1), st.integers(0, 59))
@example("30 2 * * *", (ZoneInfo("Europe/Berlin"), datetime(2026, 10, 24, tzinfo=UTC)), 1500, 0)
@example("*/20 3 * * *", (ZoneInfo("Australia/Lord_Howe"), datetime(2026, 4, 3, tzinfo=UTC)), 2350, 0)
@example("30 23 * * *", (ZoneInfo("Africa/Cairo"), datetime(2026, 10, 28, tzinfo=UTC)), 3000, 30)
@example("15 0 * * *", (ZoneInfo("Africa/Cairo"), datetime(2026, 4, 23, tzinfo=UTC)), 1300, 30)
def test_what_follows_and_what_was_last_are_those_of_the_clock(
    cron: str, where: tuple[ZoneInfo, datetime], minutes: int, seconds: int
) -> None:
    zone, start = where
    all_of_them = list(due(cron, zone, start - DAY, start + 4 * DAY))
    at = start + minutes * MINUTE + timedelta(seconds=seconds)
    n = bisect_right(all_of_them, at)
    found = following(cron, zone, at)
    if n < len(all_of_them):
        assert found == all_of_them[n]
    else:
        assert found is None or found >= start + 4 * DAY
    before = all_of_them[n - 1] if n else None
    for within in (MINUTE, 90 * MINUTE, DAY):
        expected = before if before and before > at - within else None
        assert latest(cron, zone, at, within) == expected


@quick
@given(
    FIELDS,
    near_a_change(),
    st.sampled_from([1, 45, 60, 150, 1440, 3000]).map(lambda n: n * MINUTE),
    st.integers(0, 2 * 1440),
)
@example("30 2 * * *", (ZoneInfo("Europe/Berlin"), datetime(2026, 10, 24, tzinfo=UTC)), HOUR, 1440)
@example("45 2 * * *", (ZoneInfo("Europe/Berlin"), datetime(2026, 10, 24, tzinfo=UTC)), 3 * HOUR, 1440)
@example("30 1 * * *", (ZoneInfo("America/New_York"), datetime(2026, 10, 31, tzinfo=UTC)), HOUR, 1740)
def test_a_window_that_began_lasts_its_whole_duration(
    cron: str, where: tuple[ZoneInfo, datetime], length: timedelta, first: int
) -> None:
    zone, start = where
    window = Window(services=("a",), cron=cron, time_zone=zone.key, duration=length)
    began = list(due(cron, zone, start - length, start + 3 * DAY))
    for minute in range(first, first + 240, 7):
        at = start + minute * MINUTE
        n = bisect_right(began, at)
        expected = began[n - 1] if n and at < began[n - 1] + length else None
        assert window.current(at) == (expected and (expected, expected + length)), at


@pytest.mark.parametrize("minute", [30, 58, 59, 60, 75, 89])
def test_in_the_hour_that_comes_twice(minute: int) -> None:
    window = Window(services=("a",), cron="30 2 * * *", duration=HOUR, time_zone="Europe/Berlin")
    begins = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert window.current(datetime(2026, 10, 25, tzinfo=UTC) + minute * MINUTE) == (begins, begins + HOUR)
    assert window.current(begins + HOUR) is None


@pytest.mark.parametrize("at", [datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)])
@pytest.mark.parametrize("cron", ["0 3 * * *", "* * * * *", "0 0 29 2 *", "0 3 * * mon#5"])
@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Etc/GMT+12", "America/New_York", "UTC"])
def test_the_calendar_may_end(at: datetime, cron: str, zone: str) -> None:
    window = Window(services=("a",), cron=cron, duration=7 * DAY, time_zone=zone)
    for moment in (at, at + DAY if at.year == 1 else at - DAY):
        window.current(moment)
        window.upcoming(moment)


NEVER = ["0 0 */31 2 mon#5", "* * */31 * mon#5", "0 0 */31 * 1#5", "*/5 * */30 2 0#5"]


@pytest.mark.parametrize("cron", NEVER)
def test_what_never_comes_is_refused_in_words(cron: str) -> None:
    window = Window(services=("a",), cron=cron, duration=HOUR, time_zone="Europe/Berlin")
    with pytest.raises(ValueError, match="no such time ever comes"):
        check_new(window, datetime(2026, 11, 1, tzinfo=UTC))


@pytest.mark.parametrize("cron", ["", "* * * *", "0 3 * * * *", "0 0 31 2 *", "61 * * * *", "L * * * *"])
def test_what_is_no_cron_is_refused_in_words(cron: str) -> None:
    with pytest.raises(ValueError, match="five fields"):
        check_cron(cron)


def test_a_window_ends_within_the_calendar() -> None:
    window = Window.model_validate(
        {"services": ["a"], "starts_at": "2026-11-01T00:00Z", "ends_at": "9999-12-31T23:59:59-12:00"}
    )
    with pytest.raises(ValueError, match="ends_at: a moment between"):
        check_new(window, datetime(2026, 11, 1, tzinfo=UTC))
    assert window.current(datetime(2027, 1, 1, tzinfo=UTC)) == (window.starts_at, window.ends_at)
