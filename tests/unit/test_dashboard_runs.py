"""What pages show of schedules and runs: words, a chart, a calendar, and a zone that seems wrong."""

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from services.api.dashboard import editing
from services.api.dashboard import runs as drawn
from services.api.dashboard.rendering import templates
from services.api.http.models import RunItem
from services.api.queries import runs as queries
from services.api.queries.coming import zone_hint
from services.api.queries.runs import LastDays, Occurrence
from shared.contracts import schedules
from shared.contracts.events import Outcome, micros
from shared.domain.service_state import ServiceState

BERLIN, OURS = ZoneInfo("Europe/Berlin"), ZoneInfo("UTC")
TOLERANCE = timedelta(minutes=15)
SUCCESS, FAILURE, RUNNING, OVERDUE, MISSED = Outcome


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-{text}+00:00")


@pytest.mark.parametrize(
    ("due", "zone", "said"),
    [
        ("11-27 03:00", OURS, "03:00"),
        ("11-26 23:00:30", OURS, "23:00:30"),
        ("11-27 09:00", OURS, "Fri 09:00"),
        ("11-26 23:30", BERLIN, "00:30 CET"),
        ("12-02 09:00", OURS, "Wed 09:00"),
        ("12-03 09:00", OURS, "2026-12-03 09:00"),
    ],
)
def test_a_moment_is_named_as_shortly_as_it_is_clear(due: str, zone: ZoneInfo, said: str) -> None:
    assert drawn.clock(at(due), at("11-26 20:00"), zone, OURS) == said


def run(
    outcome: Outcome = SUCCESS, start: str | None = None, took: float | None = None, **more: Any
) -> RunItem:
    begun = micros(at(start)) if start else None
    nothing = dict.fromkeys(("expected_at", "late_by", "run", "exit_code", "message", "unusual"))
    ended = begun + int(took * 1e6) if begun and took is not None else None
    facts = {"started_at": begun, "ended_at": ended, "duration": took, "outcome": outcome}
    return RunItem.model_validate(nothing | facts | more)


def test_moments_of_one_minute_are_told_apart() -> None:
    _, found = editing.preview("*:*:0/30", "UTC", datetime(2026, 11, 28, tzinfo=UTC))
    assert found[:2] == ["Sat 2026-11-28 00:00:30 UTC", "Sat 2026-11-28 00:01 UTC"]


def test_lateness_in_words() -> None:
    assert [drawn.lateness(it) for it in (None, 0.4, -0.4, 5, 7200.0, -120)] == [
        "", "on time", "on time", "5 s late", "2 h late", "2 min early",
    ]  # fmt: skip
    assert [drawn.too_late(it, TOLERANCE) for it in (None, 899, 900, -4000)] == [False, False, True, False]


def test_where_a_run_stands() -> None:
    due = micros(at("11-26 03:00"))
    assert drawn.placed(run(start="11-26 03:01", expected_at=due)) == ("began", at("11-26 03:01"))
    assert drawn.placed(run(ended_at=due + 10**6, expected_at=due)) == ("ended", at("11-26 03:00:01"))
    assert drawn.placed(run(MISSED, expected_at=due)) == ("due", at("11-26 03:00"))


def test_columns_of_runs() -> None:
    found = [
        run(RUNNING, "11-26 07:00"),
        run(MISSED, expected_at=micros(at("11-26 06:00"))),
        run(FAILURE, "11-26 05:00", 30.0, late_by=1800.0, unusual="took 30 s, usually 3 min"),
        run(start="11-26 04:00", took=60.0),
    ]
    chart = drawn.run_chart(found, OURS)
    assert chart
    assert [(c.height, c.outcome, c.unusual) for c in chart.columns] == [
        (1.0, SUCCESS, False), (0.5, FAILURE, True), (0, MISSED, False), (0, RUNNING, False),
    ]  # fmt: skip
    assert [c.title for c in chart.columns] == [
        "began Nov 26 04:00:00: success, took 1 min",
        "began Nov 26 05:00:00: failure, 30 min late, took 30 s, usually 3 min",
        "due Nov 26 06:00:00: missed",
        "began Nov 26 07:00:00: running",
    ]
    assert (chart.most, chart.usual) == ("1 min", None)
    assert drawn.run_chart(found[:2], OURS) is None, "no length is known"


def test_the_usual_lengths_are_those_of_successes() -> None:
    found = [run(start=f"11-{day:02} 04:00", took=100.0) for day in range(1, 20)]
    found[3] = run(FAILURE, "11-04 04:00", 1000.0)
    chart = drawn.run_chart(found, OURS)
    assert chart
    assert chart.usual
    low, high, says = chart.usual
    assert low == high == pytest.approx(0.1)
    assert says == "usually 1 min 40 s"


def occurrence(due: str, outcome: Outcome = SUCCESS, late_by: float | None = 2.0) -> Occurrence:
    return Occurrence(micros(at(due)), outcome, None if outcome is MISSED else late_by)


TODAY = date(2026, 11, 27)


def by_day(*due: Occurrence, day: date = TODAY) -> drawn.Day:
    return drawn.calendar({day: due}, TODAY, TOLERANCE, OURS).days[(day - TODAY).days - 1]


def test_the_days_of_a_calendar() -> None:
    found = drawn.calendar({}, TODAY, TOLERANCE, OURS)
    assert len(found.days) == 90
    assert found.summary == "In the last 90 days: nothing recorded"
    assert found.days[0].title == "Sun Aug 30: nothing recorded"
    assert (found.days[0].x, found.days[0].y, found.days[1].x, found.days[1].y) == (0, 6, 1, 0)
    assert (found.days[-1].x, found.days[-1].y, found.weeks) == (13, 4, 14)
    assert found.months == [(1, "Sep"), (5, "Oct"), (9, "Nov")]
    assert len({(day.x, day.y) for day in found.days}) == 90


@pytest.mark.parametrize(
    ("due", "kind", "said"),
    [
        (occurrence("11-27 03:00"), "met", "due 03:00: met, 2 s late"),
        (occurrence("11-27 03:00", late_by=-120), "met", "due 03:00: met, 2 min early"),
        (occurrence("11-27 03:00", late_by=900), "late", "due 03:00: met, 15 min late"),
        (occurrence("11-27 03:00", FAILURE, 7200), "failed", "due 03:00: failed, 2 h late"),
        (occurrence("11-27 03:00", OVERDUE), "failed", "due 03:00: has not ended in time, 2 s late"),
        (occurrence("11-27 03:00", MISSED), "missed", "due 03:00: missed"),
        (occurrence("11-27 03:00", RUNNING, None), "running", "due 03:00: running"),
    ],
)
def test_a_day_with_one_occurrence(due: Occurrence, kind: str, said: str) -> None:
    day = by_day(due)
    assert (day.kind, day.title) == (kind, f"Fri Nov 27, {said}")


def test_a_day_with_several_shows_the_worst_and_counts_them() -> None:
    due = [occurrence(f"11-26 {hour:02}:00") for hour in range(20)]
    due += [occurrence("11-26 20:00", FAILURE), occurrence("11-26 21:00", late_by=1e4)]
    day = by_day(*due, day=date(2026, 11, 26))
    assert (day.kind, day.title) == ("failed", "Thu Nov 26: 20 met, 1 late, 1 failed")
    assert day.share == round(1 / 22, 3)
    assert by_day(*due, occurrence("11-26 22:00", MISSED), day=date(2026, 11, 26)).kind == "missed"
    found = drawn.calendar({date(2026, 11, 26): due, TODAY: due[-1:]}, TODAY, TOLERANCE, OURS)
    assert found.summary == "In the last 90 days: 20 met, 2 late, 1 failed"


def test_a_picture_says_in_words_and_shapes_what_its_colours_say() -> None:
    parts = templates.get_template("parts.html").module
    due = occurrence("11-27 03:00", FAILURE)
    shown = str(parts.calendar(drawn.calendar({TODAY: [due]}, TODAY, TOLERANCE, OURS)))
    assert shown.count("<rect") == shown.count("<title>") + 6, "and six in the legend"
    assert shown.count('class="sign"') == 4, "one that failed, and three in the legend"
    assert "Fri Nov 27, due 03:00: failed" in shown
    assert "part" not in shown
    few = [occurrence("11-27 03:00", FAILURE), *(occurrence(f"11-27 {n}:00") for n in range(10, 19))]
    shown = str(parts.calendar(drawn.calendar({TODAY: few}, TODAY, TOLERANCE, OURS)))
    assert re.findall('class="part ([a-z-]+)"', shown) == ["d-failed"], "one of ten is not all of the day"
    assert shown.count("<rect") == shown.count("<title>") + 6
    none_in_time = [occurrence(f"11-27 {n}:00", MISSED) for n in (10, 11)]
    none_in_time.append(occurrence("11-27 12:00", late_by=1e4))
    shown = str(parts.calendar(drawn.calendar({TODAY: none_in_time}, TODAY, TOLERANCE, OURS)))
    assert re.findall('class="part ([a-z-]+)"', shown) == ["d-missed"]
    assert (shown.count('"d-late"'), shown.count('"d-met"')) == (2, 1), "nothing was met in time"
    chart = drawn.run_chart([run(FAILURE, "11-26 05:00", 30.0, unusual="<so>")], OURS)
    shown = str(parts.run_chart(chart))
    assert re.findall('class="mark ([a-z-]+)"', shown) == ["unusual", "o-failure"]
    assert "&lt;so&gt;" in shown
    assert "<so>" not in shown
    assert len(set(drawn.SHAPES.values())) == len(Outcome) == len(drawn.SHAPES)


@pytest.mark.parametrize(
    ("minutes", "said"),
    [
        ((120, 121, 119), "came 2 h after each expected time, three times in a row: is the time zone right?"),
        (
            (-60, -61, -60),
            "came 1 h before each expected time, three times in a row: is the time zone right?",
        ),
        ((120, 120, 60), ""),
        ((0, 120, 120), ""),
        ((120, 120, 0), ""),
        ((120, 120), ""),
        ((), ""),
    ],
)
def test_runs_that_are_off_by_the_same_hours(minutes: Sequence[int], said: str) -> None:
    came = [at(f"11-{27 - n} 03:00") + timedelta(minutes=off) for n, off in enumerate(minutes)]
    assert zone_hint(schedules.parse("0 3 * * *", "UTC"), came) == said


def test_a_zone_that_was_corrected_is_not_doubted_any_more() -> None:
    came = [at(f"11-{day} 02:00") for day in (27, 26, 25)]
    assert zone_hint(schedules.parse("0 3 * * *", "UTC"), came).startswith("came 1 h before")
    assert zone_hint(schedules.parse("0 3 * * *", "Europe/Berlin"), came) == ""
    assert zone_hint(schedules.parse("* * * * *", "UTC"), came) == ""
    assert zone_hint(schedules.parse("0 3 1 1 *", "UTC"), came) == ""
    assert zone_hint(schedules.parse("0 3 * * *", "UTC"), [datetime.max.replace(tzinfo=UTC)] * 3) == ""


class FakeView(SimpleNamespace):
    """A database that counts how often it is asked."""

    generation = 1
    asked = 0

    def __init__(self, *due: datetime) -> None:
        self.rows = [{"expected_at": micros(it), "outcome": "success", "late_by": 1.0} for it in due]

    async def occurrences(self, name: str, since: int, until: int) -> list[dict[str, Any]]:
        self.asked += 1
        return [row for row in self.rows if since <= row["expected_at"] < until]


async def test_days_begin_at_midnight_where_the_schedule_is() -> None:
    hours = [at("10-24 00:00") + timedelta(hours=n) for n in range(72)]
    view: Any = FakeView(*hours)
    found = await queries.days(view, ServiceState("job"), 0, micros(at("12-01 00:00")), BERLIN)
    assert {f"{day:%d}": len(due) for day, due in found.items()} == {"24": 22, "25": 25, "26": 24, "27": 1}
    assert found == {day: [it for it in map(each, hours) if it_is(it, day)] for day in found}, (
        "as each is by itself"
    )


def each(due: datetime) -> Occurrence:
    return Occurrence(micros(due), SUCCESS, 1.0)


def it_is(it: Occurrence, day: date) -> bool:
    return datetime.fromtimestamp(it.expected_at / 1e6, UTC).astimezone(BERLIN).date() == day


async def test_many_occurrences_are_read_once_in_a_while() -> None:
    state, until = ServiceState("job"), micros(at("12-01 00:00"))
    few: Any = FakeView(*(at("11-01 00:00") + timedelta(minutes=n) for n in range(queries.MANY)))
    many: Any = FakeView(*(at("11-01 00:00") + timedelta(minutes=n) for n in range(queries.MANY + 1)))
    kept = LastDays()
    for view, reads in ((few, 3), (many, 1)):
        for _ in range(3):
            found = await kept.get(view, state, 0, until, OURS)
            assert sum(map(len, found.values())) == len(view.rows)
        assert view.asked == reads
    await kept.get(many, state, 0, until, BERLIN)
    assert many.asked == 2, "the days of another zone"
    many.generation = 2
    await kept.get(many, state, 0, until, BERLIN)
    assert many.asked == 3, "read models that were built anew"
    impatient = LastDays(age=0.0)
    for _ in range(2):
        await impatient.get(many, state, 0, until, OURS)
    assert many.asked == 5
