"""Names of time zones and moments at the ends of the calendar, which raise something of their own each."""

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from services.api.settings import ApiSettings
from shared.contracts import zones
from shared.contracts.events import micros, moment
from shared.contracts.maintenance import Window
from shared.settings import load

NO_ZONES = ["", ".", "..", "Europe", "Europe/", "/etc/passwd", "../../etc/passwd", "Mars/Base", "a\0b"]
NO_ZONES += ["x" * 10_000, "Zürich", "\ud800", "tzdata.zi", "zone.tab", "Europe/Berlin\n", "UTC "]


@pytest.mark.parametrize("name", NO_ZONES)
def test_what_is_no_zone_is_refused_in_words(name: str) -> None:
    with pytest.raises(ValueError, match="an IANA time zone such as UTC"):
        zones.zone(name)
    with pytest.raises(ValueError, match="an IANA time zone such as UTC"):
        Window(services=("a",), cron="0 3 * * *", duration=timedelta(hours=1), time_zone=name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Europe/berlin", "Europe/Berlin"),
        ("Berlin", "Europe/Berlin"),
        ("new york", "America/New_York"),
        ("utc", "UTC"),
        ("CEST", None),
        ("Mars/Berlin", None),
        ("berlin" + " " * 100, None),
    ],
)
def test_a_zone_that_is_nearly_one_is_named(name: str, meant: str | None) -> None:
    with pytest.raises(ValueError, match="an IANA time zone") as refused:
        zones.zone(name)
    assert str(refused.value) == f"must be {zones.ACCEPTED}" + (f"; do you mean {meant}?" if meant else "")


def test_what_is_one_is_read() -> None:
    assert zones.zone("Europe/Berlin") == ZoneInfo("Europe/Berlin")


def test_a_wrong_zone_in_the_settings_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REGISTRY_TIMEZONE", "Europe")
    with pytest.raises(SystemExit):
        load(ApiSettings)
    assert "REGISTRY_TIMEZONE" in capsys.readouterr().err


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Etc/GMT+12", "Europe/Berlin", "UTC"])
@pytest.mark.parametrize(
    "at",
    [
        datetime.max.replace(tzinfo=UTC),
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
    ],
)
def test_the_ends_of_the_calendar_are_shown_everywhere(at: datetime, zone: str) -> None:
    assert zones.local(at, ZoneInfo(zone))
    assert abs(moment(micros(at)) - at) <= timedelta(hours=14)


def test_a_moment_in_a_word() -> None:
    now, berlin = datetime(2026, 11, 23, 22, 30, tzinfo=UTC), ZoneInfo("Europe/Berlin")
    said = {
        hours: zones.in_a_word(now + timedelta(hours=hours), now, berlin)
        for hours in (-170, -100, -1, 0, 11, 12, 13, 144, 150)
    }
    assert said == {
        -170: "2026-11-16 21:30", -100: "Thu 19:30", -1: "22:30", 0: "23:30", 11: "10:30", 12: "11:30",
        13: "Tue 12:30", 144: "Sun 23:30", 150: "2026-11-30 05:30",
    }  # fmt: skip
    assert zones.in_a_word(now - timedelta(hours=1), now + timedelta(hours=1), berlin) == "Mon 22:30"
