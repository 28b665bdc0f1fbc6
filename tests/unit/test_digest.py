"""The daily digest: once per local date whatever the clocks do, and readable at any size."""

import random
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from shared.contracts.events import Status, micros
from shared.domain import digest
from shared.domain.digest import digest_due, due_at, next_digest_at
from shared.domain.service_state import ServiceState
from shared.domain.timeline import Mark
from tests.histories import state_of

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
UTC_ZONE = ZoneInfo("UTC")
BERLIN = ZoneInfo("Europe/Berlin")


def service(name: str, status: Status, hours: float = 1, paused: bool = False) -> ServiceState:
    since = micros(NOW - timedelta(hours=hours))
    return state_of(name, status, since, micros(NOW - timedelta(days=30)), paused=paused)


def change(from_: Status, to: Status, at: datetime) -> Mark:
    return Mark(1, micros(at), to, from_)


def test_a_time_that_the_clocks_skip_fires_an_hour_later_by_the_clock() -> None:
    assert due_at(date(2026, 3, 29), BERLIN, time(2, 30)) == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


def test_a_time_that_comes_twice_fires_the_first_time_only() -> None:
    day = date(2026, 10, 25)
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert due_at(day, BERLIN, time(2, 30)) == first
    assert digest_due(first, BERLIN, time(2, 30), None) == day
    assert digest_due(first + timedelta(hours=1), BERLIN, time(2, 30), day) is None


def test_late_on_the_same_day_but_not_on_the_next() -> None:
    at = time(9)
    assert digest_due(datetime(2026, 11, 23, 23, 59, tzinfo=UTC), UTC_ZONE, at, None) == date(2026, 11, 23)
    assert digest_due(datetime(2026, 11, 24, 0, 1, tzinfo=UTC), UTC_ZONE, at, None) is None
    assert digest_due(datetime(2026, 11, 23, 8, 59, tzinfo=UTC), UTC_ZONE, at, None) is None


@pytest.mark.parametrize("at", [time(0, 0), time(2, 15), time(2, 30), time(9, 0), time(23, 30)])
@pytest.mark.parametrize(
    "zone",
    [
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Asia/Kolkata",
        "America/Nuuk",
        "Africa/Cairo",
    ],
)
def test_exactly_one_per_local_date_over_three_years_with_restarts(zone: str, at: time) -> None:
    place, rng = ZoneInfo(zone), random.Random(f"{zone} {at}")
    now = datetime(2025, 1, 1, 12, tzinfo=place).astimezone(UTC)
    end = now + timedelta(days=3 * 365)
    last = digest_due(now, place, at, None)
    begin = last or (now.astimezone(place).date() - timedelta(days=1))
    sent: list[date] = []
    while now < end:
        due = next_digest_at(now, place, at)
        assert due > now
        now = due if rng.random() < 0.8 else now + timedelta(minutes=rng.randint(1, 12 * 60))
        now = min(now, due)
        for _ in range(rng.choice([1, 1, 2])):  # a restart looks again
            if day := digest_due(now, place, at, last):
                sent.append(day)
                last = day
    assert sent == [begin + timedelta(days=n + 1) for n in range(len(sent))]
    assert abs(len(sent) - 3 * 365) <= 1


def test_uptime_counts_what_was_down_and_never_rounds_up_to_all() -> None:
    halfway = NOW - timedelta(hours=12)
    changes = [
        change(Status.ALIVE, Status.DOWN, halfway),
        change(Status.DOWN, Status.ALIVE, halfway + timedelta(hours=6)),
    ]
    services = [service("a", Status.ALIVE), service("b", Status.ALIVE, 48), service("d", Status.DEAD, 200)]
    found = digest.digest(services, {"a": changes}, NOW)
    assert found.uptime == pytest.approx(1 - 6 / 48)
    assert "Uptime over 24 h: 87.5 %" in digest.plain(found, UTC_ZONE)
    short = {"b": [change(Status.DOWN, Status.ALIVE, NOW - WINDOW_LESS_A_SECOND)]}
    text = digest.plain(digest.digest([service("b", Status.ALIVE, 20)], short, NOW), UTC_ZONE)
    assert "99.99 %" in text


def test_what_is_muted_or_in_maintenance_counts_under_its_status_too_and_who_has_it_is_named() -> None:
    services = [service("a", Status.ALIVE), service("b", Status.DOWN), service("c", Status.SILENT)]
    beside = digest.Beside({"a", "gone"}, {"a", "b"}, {"b": "telegram:Ana (4711)", "c": "token:ci"})
    first, *rest = digest.status_lines(digest.digest(services, {}, NOW, beside=beside), UTC_ZONE)
    assert first == "✅ 1 alive · ⏳ 1 silent · 🔻 1 down · 🔕 1 muted · 🔧 2 in maintenance"
    assert [line.rpartition(", ")[2] for line in rest if " since " in line] == ["✋ Ana", "✋ ci"]


WINDOW_LESS_A_SECOND = digest.WINDOW - timedelta(seconds=1)


def test_changes_before_the_newest_registration_do_not_count() -> None:
    new = state_of("a", Status.ALIVE, micros(NOW), micros(NOW - timedelta(hours=1)))
    old = [change(Status.ALIVE, Status.DOWN, NOW - timedelta(hours=h)) for h in (9, 8, 7, 6)]
    gone = [change(Status.ALIVE, Status.DOWN, NOW - timedelta(hours=2))] * 9
    found = digest.digest([new], {"a": old, "gone": gone}, NOW)
    assert found.flappers == ()
    assert found.uptime == 1


def test_three_services_at_a_glance() -> None:
    services = [
        service("api", Status.ALIVE, 48),
        service("worker", Status.DOWN, 3),
        service("cron", Status.SILENT, 0.5),
        service("old", Status.DEAD, 300),
        service("resting", Status.DOWN, 3, paused=True),
    ]
    text = digest.plain(digest.digest(services, {}, NOW), BERLIN)
    assert "worker since 2026-11-23 10:00:00 CET, for 3 h" in text
    assert "cron since 2026-11-23 12:30:00 CET, for 30 min" in text
    assert "api" in text
    assert "1 dead" in text
    assert "old" not in text
    assert "1 paused" in text
    assert "resting" not in text


def test_three_thousand_services_fit() -> None:
    status = [Status.ALIVE, Status.SILENT, Status.DOWN, Status.DEAD]
    services = [service(f"{i:04}-" + "x" * (i % 120), status[i % 4], i / 10) for i in range(3000)]
    falls = [change(Status.ALIVE, Status.DOWN, NOW - timedelta(hours=n)) for n in (4, 3, 2, 1)]
    text = digest.plain(digest.digest(services, {it.name: falls for it in services}, NOW), BERLIN)
    assert len(text.encode("utf-16-le")) // 2 <= 4000
    assert "Down (750)" in text
    assert "more" in text


def test_nothing_to_tell_is_said() -> None:
    assert "No services yet" in digest.plain(digest.digest([], {}, NOW), UTC_ZONE)
