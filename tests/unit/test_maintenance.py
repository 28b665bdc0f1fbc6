"""When a maintenance window is open: once, or by cron in its own time zone, also when clocks are moved."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.contracts import maintenance
from shared.contracts.maintenance import Window, maintenance_until


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


ONCE = Window(services=("web",), starts_at=at("2026-11-01T10:00"), ends_at=at("2026-11-01T12:00"))
SUNDAYS = Window(tags=("db",), cron="0 3 * * sun", time_zone="Europe/Berlin", duration=timedelta(hours=2))
NIGHTLY = Window(tags=("db",), cron="30 2 * * *", time_zone="Europe/Berlin", duration=timedelta(hours=1))

OFTEN = Window(tags=("x",), cron="*/7 * * * *", duration=timedelta(minutes=3))


@pytest.mark.parametrize(
    ("window", "moment", "span"),
    [
        (ONCE, "2026-11-01T09:59:59", None),
        (ONCE, "2026-11-01T10:00", ("2026-11-01T10:00", "2026-11-01T12:00")),
        (ONCE, "2026-11-01T11:59:59", ("2026-11-01T10:00", "2026-11-01T12:00")),
        (ONCE, "2026-11-01T12:00", None),
        (SUNDAYS, "2026-11-01T01:59:59", None),
        (SUNDAYS, "2026-11-01T02:00", ("2026-11-01T02:00", "2026-11-01T04:00")),
        (SUNDAYS, "2026-11-01T03:59:59", ("2026-11-01T02:00", "2026-11-01T04:00")),
        (SUNDAYS, "2026-11-01T04:00", None),
        (SUNDAYS, "2026-11-02T02:30", None),
        (SUNDAYS, "2026-07-05T01:30", ("2026-07-05T01:00", "2026-07-05T03:00")),
        (NIGHTLY, "2026-03-29T01:10", ("2026-03-29T01:00", "2026-03-29T02:00")),  # 02:30 is skipped: at 03:00
        (
            NIGHTLY,
            "2026-10-25T00:45",
            ("2026-10-25T00:30", "2026-10-25T01:30"),
        ),  # the first of two
        (NIGHTLY, "2026-10-25T01:45", None),
    ],
)
def test_current(window: Window, moment: str, span: tuple[str, str] | None) -> None:
    assert window.current(at(moment)) == (span and (at(span[0]), at(span[1])))


def test_a_window_of_many_services_is_asked_as_quickly_as_one_of_few() -> None:
    many = Window.model_validate({**dict(ONCE), "services": tuple(f"s{n}" for n in range(1000))})
    assert many.is_about("s999", ())
    assert not many.is_about("web", ("db",))
    assert isinstance(many._asked_for[0], frozenset)
    same = Window.model_validate_json(many.model_dump_json())
    assert same == many, "what it remembers is no part of it"
    assert hash(same) == hash(many)


def test_upcoming() -> None:
    assert SUNDAYS.upcoming(at("2026-11-01T02:00")) == (at("2026-11-08T02:00"), at("2026-11-08T04:00"))
    assert ONCE.upcoming(at("2026-10-01T00:00")) == (ONCE.starts_at, ONCE.ends_at)
    assert ONCE.upcoming(at("2026-11-01T10:00")) is None


@given(
    st.sampled_from([SUNDAYS, NIGHTLY, OFTEN]),
    st.integers(0, 2 * 366 * 86400).map(lambda seconds: at("2026-01-01T00:00") + timedelta(seconds=seconds)),
)
def test_what_is_current_contains_the_moment_and_what_is_next_begins_after_it(
    window: Window, moment: datetime
) -> None:
    if current := window.current(moment):
        assert current[0] <= moment < current[1]
    following = window.upcoming(moment)
    assert following
    assert following[0] > moment
    assert window.current(following[0]) == following


def test_the_last_end_counts_and_only_of_those_that_are_about_it() -> None:
    longer = ONCE.model_copy(update={"ends_at": at("2026-11-01T13:00"), "services": ("web", "job")})
    moment = at("2026-11-01T11:00")
    assert maintenance_until([ONCE, longer], "web", (), moment) == at("2026-11-01T13:00")
    assert maintenance_until([ONCE], "job", ("db",), moment) is None
    assert maintenance_until([SUNDAYS], "any", ("x", "db"), at("2026-11-01T03:00")) == at("2026-11-01T04:00")


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"services": ["a"]},
        {"services": ["a"], "starts_at": "2026-11-01T10:00Z"},
        {"services": ["a"], "starts_at": "2026-11-01T10:00Z", "ends_at": "2026-11-01T10:00Z"},
        {"services": ["a"], "starts_at": "2026-11-01T10:00", "ends_at": "2026-11-01T11:00Z"},
        {"starts_at": "2026-11-01T10:00Z", "ends_at": "2026-11-01T11:00Z"},
        {"services": ["a b"], "cron": "0 3 * * *", "duration": "1h"},
        {"services": ["a"], "cron": "0 3 * *", "duration": "1h"},
        {"services": ["a"], "cron": "0 3 * * * *", "duration": "1h"},
        {"services": ["a"], "cron": "99 3 * * *", "duration": "1h"},
        {"services": ["a"], "cron": "0 3 * * *"},
        {"services": ["a"], "cron": "0 3 * * *", "duration": "8d"},
        {"services": ["a"], "cron": "0 3 * * *", "duration": "1h", "time_zone": "Mars/Base"},
        {"services": ["a"], "cron": "0 3 * * *", "duration": "1h", "ends_at": "2026-11-01T11:00Z"},
        {"tags": [""], "cron": "0 3 * * *", "duration": "1h"},
    ],
)
def test_what_no_window_is(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Window.model_validate(wrong)


def test_a_window_by_cron_is_looked_for_once_a_second_however_many_ask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A storm asks three times for each change that waits, and again for each message made of them."""
    looks: list[datetime] = []
    look = maintenance.latest

    def counted(cron: str, zone: ZoneInfo, moment: datetime, within: timedelta) -> datetime | None:
        looks.append(moment)
        return look(cron, zone, moment, within)

    monkeypatch.setattr(maintenance, "latest", counted)
    maintenance._latest.cache_clear()
    start = at("2026-11-01T02:00")
    for n in range(1000):
        moment = start + timedelta(milliseconds=n)
        assert SUNDAYS.current(moment) == (start, start + timedelta(hours=2))
    assert looks == [start]
    assert SUNDAYS.current(start - timedelta(microseconds=1)) is None
    assert SUNDAYS.current(start + timedelta(hours=2)) is None
