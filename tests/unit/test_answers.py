"""What the bot answers about one service that has a schedule."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from services.notifier.bot.answers import service_status
from services.notifier.texts.message import LinkContext
from shared.contracts.events import Status, micros
from tests.histories import state_of

NOW = datetime(2026, 11, 23, 17, 30, tzinfo=UTC)
"""A Monday evening, in Berlin at 18:30."""
LINKS = LinkContext("https://registry.example", ZoneInfo("Europe/Berlin"))


def status(schedule: str, time_zone: str | None = None, heard: datetime | None = None) -> list[str]:
    since = micros(NOW - timedelta(hours=1))
    state = state_of("backup", Status.ALIVE, since, since)
    state.schedule, state.time_zone = schedule, time_zone
    return service_status(state, heard, heard, (), NOW, LINKS).plain_text.splitlines()


@pytest.mark.parametrize(
    ("schedule", "time_zone", "expected"),
    [
        ("0 3 * * *", None, ["due at 03:00 every day (Europe/Berlin)", "expected 03:00, in 8 h 30 min"]),
        ("0 3 * * *", "UTC", ["due at 03:00 every day (UTC)", "expected 03:00, in 9 h 30 min"]),
        ("0 19 * * *", None, ["due at 19:00 every day (Europe/Berlin)", "expected 19:00, in 30 min"]),
        (
            "Thu 2026-12-03 09:00",
            None,
            [
                "due systemd's OnCalendar=Thu 2026-12-03 09:00 (Europe/Berlin)",
                "expected 2026-12-03 09:00, in 9 d 14 h",
            ],
        ),
        ("2020-01-01 09:00", None, []),
        ("whenever", None, []),
        ("0 3 * * *", "Atlantis", []),
    ],
)
def test_it_says_when_it_is_due(schedule: str, time_zone: str | None, expected: list[str]) -> None:
    found = status(schedule, time_zone)
    assert [line for line in found if line.startswith(("due", "expected"))] == expected


def test_what_is_met_early_is_not_expected_any_more() -> None:
    def expected(heard: datetime) -> list[str]:
        return [line for line in status("0 19 * * *", heard=heard) if line.startswith("expected")]

    early = datetime(2026, 11, 23, 17, 45, tzinfo=UTC)
    assert expected(early - timedelta(seconds=1)) == ["expected 19:00, in 30 min"]
    assert expected(early) == ["expected Tue 19:00, in 1 d"]


def test_a_long_schedule_is_cut() -> None:
    assert len("\n".join(status("\n".join([f"{n} 3 * * *" for n in range(10)])))) < 800


def test_none_says_nothing_of_it() -> None:
    assert not any(line.startswith(("due", "expected")) for line in status(""))
