"""Who says when a service is expected: what a person sets, what its heartbeats declare, and what wins."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.api import timing
from services.api.queries.coming import ComingMoments
from shared.contracts import schedules
from shared.contracts.events import ConfigData, ServiceConfig, micros, moment
from shared.contracts.wanted import Wanted
from shared.domain.service_state import ServiceState
from shared.domain.timetable import NEVER, Timetable
from shared.http.problems import Problem

NOW = datetime(2026, 11, 27, 22, 0, tzinfo=UTC)
BEFORE = NOW - timedelta(hours=1)
NIGHTLY, MORNING = "0 3 * * *", "0 9 * * 1-5"
BERLIN, TOKYO = "Europe/Berlin", "Asia/Tokyo"


def by_hand(**config: Any) -> ConfigData:
    return ConfigData(config=ServiceConfig(**config))


def declared(**config: Any) -> ConfigData:
    return ConfigData(config=ServiceConfig(**config), declared_at=BEFORE)


def shown(data: ConfigData) -> tuple[str | None, str | None, str | None, str]:
    """Its timing, and who said it."""
    config, at = data.config, data.declared_at
    who = "person" if at is None else "heartbeat" if at == BEFORE else "cleared" if at == NOW else str(at)
    return config.model_dump(mode="json")["every"], config.schedule, config.time_zone, who


PATCHES: list[tuple[ConfigData, dict[str, Any], tuple[str | None, str | None, str | None, str]]] = [
    # what does not speak of the timing leaves it as it is
    (declared(every="5m"), {"tags": ["a"]}, ("5m", None, None, "heartbeat")),
    (declared(schedule=NIGHTLY), {"early": "5m", "max_run": "1h"}, (None, NIGHTLY, None, "heartbeat")),
    (by_hand(every="5m"), {"down_after": "2h"}, ("5m", None, None, "person")),
    # a person decides, also where it is what the heartbeats say
    (declared(every="5m"), {"every": "10m"}, ("10m", None, None, "person")),
    (declared(every="5m"), {"every": "5m"}, ("5m", None, None, "person")),
    (
        by_hand(),
        {"schedule": NIGHTLY, "time_zone": BERLIN},
        (None, NIGHTLY, BERLIN, "person"),
    ),
    # the last one given wins over a declared other one
    (declared(schedule=NIGHTLY, time_zone=TOKYO), {"every": "5m"}, ("5m", None, None, "person")),
    (declared(every="5m"), {"schedule": NIGHTLY}, (None, NIGHTLY, None, "person")),
    (declared(every="5m"), {"schedule": NIGHTLY, "every": None}, (None, NIGHTLY, None, "person")),
    # null clears, by an event that is newer than all that was declared: read again, it does not come back
    (by_hand(schedule=NIGHTLY), {"schedule": None}, (None, None, None, "cleared")),
    (by_hand(schedule=NIGHTLY), {"schedule": None, "every": "1d"}, ("1d", None, None, "person")),
    (declared(every="5m"), {"every": None}, (None, None, None, "cleared")),
    (declared(schedule=NIGHTLY, time_zone=TOKYO), {"schedule": None}, (None, None, None, "cleared")),
    (declared(every="5m"), {"schedule": None}, ("5m", None, None, "heartbeat")),
    (declared(), {"every": None}, (None, None, None, "heartbeat")),
    # who sets the zone of a declared schedule has decided on it; null decides nothing
    (declared(schedule=NIGHTLY), {"time_zone": BERLIN}, (None, NIGHTLY, BERLIN, "person")),
    (
        declared(schedule=NIGHTLY, time_zone=TOKYO),
        {"time_zone": None},
        (None, NIGHTLY, None, "cleared"),
    ),
    (declared(every="5m"), {"time_zone": TOKYO}, ("5m", None, TOKYO, "heartbeat")),
    (by_hand(), {"time_zone": TOKYO}, (None, None, TOKYO, "person")),
]


@pytest.mark.parametrize(("old", "given", "wanted"), PATCHES)
def test_a_patch(old: ConfigData, given: dict[str, Any], wanted: tuple[Any, ...]) -> None:
    assert shown(timing.merged(Wanted(**given), old, NOW)) == wanted


def test_a_patch_does_not_replace_what_a_person_set() -> None:
    with pytest.raises(Problem, match=r"every: only one .* set schedule to null to use this"):
        timing.merged(Wanted(every="5m"), by_hand(schedule=NIGHTLY), NOW)
    with pytest.raises(Problem, match=r"schedule: only one .* set every to null"):
        timing.merged(Wanted(schedule=NIGHTLY), by_hand(every="5m"), NOW)


@pytest.mark.parametrize(
    "old", [by_hand(), by_hand(every="5m"), declared(every="5m"), declared(schedule=NIGHTLY)]
)
def test_both_at_once_are_refused_also_over_declared_ones(old: ConfigData) -> None:
    both = Wanted(every="5m", schedule=NIGHTLY)
    for new in (timing.merged(both, old, NOW), timing.replaced(both, old, NOW)):
        with pytest.raises(Problem, match="schedule: only one of every and schedule may be set"):
            timing.check(new.config, old.config, "UTC", NOW)


PUTS: list[tuple[ConfigData, dict[str, Any], tuple[str | None, str | None, str | None, str]]] = [
    (declared(every="5m"), {}, ("5m", None, None, "heartbeat")),
    (declared(schedule=NIGHTLY, time_zone=TOKYO), {}, (None, NIGHTLY, TOKYO, "heartbeat")),
    (declared(schedule=NIGHTLY), {"every": None, "schedule": None}, (None, NIGHTLY, None, "heartbeat")),
    (by_hand(every="5m"), {}, (None, None, None, "cleared")),
    (by_hand(schedule=NIGHTLY, time_zone=TOKYO), {"tags": ["a"]}, (None, None, None, "cleared")),
    (declared(every="5m"), {"schedule": NIGHTLY}, (None, NIGHTLY, None, "person")),
    (declared(schedule=NIGHTLY, time_zone=TOKYO), {"every": "1d"}, ("1d", None, None, "person")),
    (declared(every="5m"), {"time_zone": TOKYO}, ("5m", None, TOKYO, "heartbeat")),
]


@pytest.mark.parametrize(("old", "given", "wanted"), PUTS)
def test_a_put(old: ConfigData, given: dict[str, Any], wanted: tuple[Any, ...]) -> None:
    once = timing.replaced(Wanted(**given), old, NOW)
    assert shown(once) == wanted
    assert timing.replaced(Wanted(**given), once, NOW) == once, "the same again changes nothing"


def test_a_put_sets_no_zone_for_what_heartbeats_declare() -> None:
    with pytest.raises(Problem, match="time_zone: its heartbeats declare the schedule"):
        timing.replaced(Wanted(time_zone=BERLIN), declared(schedule=NIGHTLY), NOW)


def test_clearing_counts_also_where_this_clock_is_behind_the_brokers() -> None:
    ahead = ConfigData(config=ServiceConfig(every="5m"), declared_at=NOW + timedelta(minutes=1))
    cleared = timing.merged(Wanted(every=None), ahead, NOW)
    assert cleared.declared_at
    assert ahead.declared_at
    assert cleared.declared_at > ahead.declared_at


def test_schedules_are_checked_when_they_change_and_not_again() -> None:
    once = ServiceConfig(schedule="2026-11-27 21:00")  # of OnCalendar, and over
    with pytest.raises(
        Problem, match=r"schedule: '2026-11-27 21:00' does not come any more after 2026-11-27"
    ):
        timing.check(once, ServiceConfig(), "UTC", NOW)
    timing.check(once.model_copy(update={"tags": ("a",)}), once, "UTC", NOW)
    timing.check(once, ServiceConfig(), "America/New_York", NOW)  # there it is yet to come
    with pytest.raises(
        Problem, match=r"schedule: '61 3 \* \* \*' is not a schedule: the minute must be 0 to 59"
    ):
        timing.check(ServiceConfig(schedule="61 3 * * *"), once, "UTC", NOW)
    with pytest.raises(Problem, match="schedule: a schedule is empty"):
        timing.check(ServiceConfig(schedule=""), ServiceConfig(), "UTC", NOW)


def _state(**fields: Any) -> ServiceState:
    return ServiceState("a", heartbeat_seq=1, heartbeat_at=1, **fields)


def test_what_a_heartbeat_declares_and_a_person_has_set_otherwise_is_said() -> None:
    day, minute = 86_400_000_000, 60_000_000
    every = _state(every=day, heartbeat_declared=(5 * minute, None, None))
    assert timing.unused(every, "UTC") == ["every: 5m is not used, as every 1d is configured"]
    every.heartbeat_declared = (None, NIGHTLY, None)
    assert timing.unused(every, "UTC") == ["schedule: '0 3 * * *' is not used, as every 1d is configured"]
    every.heartbeat_declared = (day, None, None)
    assert timing.unused(every, "UTC") == []

    schedule = _state(schedule=NIGHTLY, time_zone=BERLIN, heartbeat_declared=(day, None, None))
    has = "as '0 3 * * *' in Europe/Berlin is configured"
    assert timing.unused(schedule, "UTC") == [f"every: 1d is not used, {has}"]
    schedule.heartbeat_declared = (None, NIGHTLY, None)
    assert timing.unused(schedule, "UTC") == [], "it names no zone"
    schedule.heartbeat_declared = (None, NIGHTLY, TOKYO)
    assert timing.unused(schedule, "UTC") == [f"schedule: '0 3 * * *' in Asia/Tokyo is not used, {has}"]
    schedule.declared_at = 1  # what is there was declared, so nobody is overruled
    assert timing.unused(schedule, "UTC") == []
    assert timing.unused(_state(heartbeat_declared=(day, None, None)), "UTC") == [], "not recorded yet"


def test_the_next_moment_is_kept_until_it_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    coming, asked = ComingMoments(), []
    parse = schedules.parse
    monkeypatch.setattr(schedules, "parse", lambda *args: asked.append(args) or parse(*args))

    def first(after: datetime) -> str:
        return f"{moment(coming.first(Timetable('30 2 * * *', BERLIN), micros(after))):%d %H:%M}"

    assert first(NOW) == first(NOW + timedelta(hours=3)) == "28 01:30"
    assert len(asked) == 1
    assert first(datetime(2026, 11, 28, 1, 29, 59, tzinfo=UTC)) == "28 01:30"
    assert first(datetime(2026, 11, 28, 1, 30, tzinfo=UTC)) == "29 01:30"
    assert first(NOW) == "28 01:30", "the past is asked for as well"
    assert coming.first(Timetable("what an older version took", "UTC"), micros(NOW)) == NEVER
    assert coming.first(Timetable("2026-11-28", "UTC"), micros(NOW + timedelta(days=2))) == NEVER


def test_moments_of_several_lines_come_in_order_and_once() -> None:
    schedule = schedules.parse("0 3 * * *\n0 */3 * * *\n2026-11-28 04:30", "UTC")
    found = [f"{at:%d %H:%M}" for at, _ in zip(schedule.upcoming(NOW), range(5), strict=False)]
    assert found == ["28 00:00", "28 03:00", "28 04:30", "28 06:00", "28 09:00"]


def test_the_lines_in_the_documents_are_what_they_say() -> None:
    text = (Path(__file__).parents[2] / "docs" / "schedules.md").read_text()
    table = text.split("| line | meaning |", 1)[1].split("\n\n", 1)[0]
    rows = [row.split("|")[1:3] for row in table.splitlines()[2:]]
    good = [
        line
        for lines, meaning in rows
        for line in re.findall("`(.*?)`", lines)
        if "refused in" not in meaning
    ]
    bad = [
        line for lines, meaning in rows for line in re.findall("`(.*?)`", lines) if "refused in" in meaning
    ]
    for line in good:
        timing.read(line, "UTC", NOW)
    for line in bad:
        with pytest.raises(Problem, match="schedule: "):
            timing.read(line, "UTC", NOW)
    assert (len(good), len(bad)) == (13, 3)
