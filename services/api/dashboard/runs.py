"""What the dashboard shows of schedules and runs: when a service is due, its last runs, a calendar. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from services.api.http.models import RunItem
from services.api.queries.runs import Occurrence
from shared.contracts.durations import spoken, spoken_seconds
from shared.contracts.events import MICRO, Outcome, moment
from shared.contracts.zones import in_a_word, in_zone
from shared.domain import run_lengths
from shared.domain.run_lengths import Usual

DAYS = 90
"""Of the calendar, with today."""
SHAPES = {
    Outcome.SUCCESS: "✓",
    Outcome.FAILURE: "✕",
    Outcome.RUNNING: "▸",
    Outcome.OVERDUE: "▼",
    Outcome.MISSED: "○",
}
"""A shape per outcome, because colour alone tells some people nothing."""
KINDS = ("missed", "failed", "late", "running", "met")
"""What may have become of an occurrence; of a day's, the first of these is shown."""


def clock(at: datetime, now: datetime, zone: ZoneInfo, ours: ZoneInfo) -> str:
    """A moment by the clock of its zone, which is named where it is not ours: `Mon 09:00`, `03:00 CET`."""
    return in_a_word(at, now, zone) + ("" if zone == ours else f" {in_zone(at, zone):%Z}")


def lateness(late_by: float | None) -> str:
    """`12 min late`, `2 min early`, `on time`; nothing where it counts for no occurrence first."""
    if late_by is None:
        return ""
    if abs(late_by) < 1:
        return "on time"
    return f"{spoken(timedelta(seconds=abs(late_by)))} {'late' if late_by > 0 else 'early'}"


def too_late(late_by: float | None, tolerance: timedelta) -> bool:
    """Whether a run came so late that it was silent."""
    return late_by is not None and late_by >= tolerance.total_seconds()


def placed(run: RunItem) -> tuple[str, datetime]:
    """When a run began, or else what is known instead, and what that is."""
    if run.started_at:
        return "began", run.started_at
    if run.ended_at and run.outcome is not Outcome.MISSED:
        return "ended", run.ended_at
    return "due", run.expected_at or run.ended_at or moment(0)


# --- how long runs took


class RunColumn(NamedTuple):
    """`height` from 0 to 1."""

    height: float
    outcome: Outcome
    unusual: bool
    title: str


class RunChart(NamedTuple):
    """Columns, oldest first. `most`: what the full height stands for; `usual`: where the usual lengths begin
    and end, from 0 to 1, and what they are in words."""

    columns: list[RunColumn]
    most: str
    usual: tuple[float, float, str] | None


def run_chart(runs: Sequence[RunItem], zone: ZoneInfo) -> RunChart | None:
    """How long runs took. `runs`: newest first. None where that is known of none."""
    took = [run.duration for run in runs if run.duration is not None]
    if not took:
        return None
    usual = _usual(runs)
    most = max(*took, usual.high * _MICRO if usual else 0, 0.001)
    columns = [
        RunColumn(round((run.duration or 0) / most, 4), run.outcome, bool(run.unusual), _told(run, zone))
        for run in reversed(runs)
    ]
    bounds = usual and (usual.low * _MICRO / most, usual.high * _MICRO / most, usual.says)
    return RunChart(columns, spoken_seconds(most), bounds)


_MICRO = MICRO.total_seconds()


def _usual(runs: Sequence[RunItem]) -> Usual | None:
    """What would be usual for the next one."""
    lengths = [run.duration for run in runs if run.outcome is Outcome.SUCCESS and run.duration is not None]
    return run_lengths.usual([round(length / _MICRO) for length in reversed(lengths)])


def _told(run: RunItem, zone: ZoneInfo) -> str:
    word, at = placed(run)
    took = None if run.duration is None else f"took {spoken_seconds(run.duration)}"
    tail = filter(None, (lateness(run.late_by), run.unusual or took))
    return ", ".join((f"{word} {in_zone(at, zone):%b %d %H:%M:%S}: {run.outcome}", *tail))


# --- a calendar


class Day(NamedTuple):
    """`x`: its week; `y`: its day of the week; both from 0. `kind`: the worst of `KINDS`, or `nothing`;
    `share`: of how many of its occurrences, so that one of a hundred does not look like all; `rest`: what
    became of most of the others."""

    x: int
    y: int
    kind: str
    title: str
    share: float = 1.0
    rest: str = "nothing"


class Month(NamedTuple):
    x: int
    name: str


class Calendar(NamedTuple):
    days: list[Day]
    weeks: int
    months: list[Month]
    summary: str


def calendar(
    found: Mapping[date, Sequence[Occurrence]], today: date, tolerance: timedelta, zone: ZoneInfo
) -> Calendar:
    """What became of the occurrences of the last days, by the day on which they were due in `zone`. One that
    was met `tolerance` or more after it was due was met late."""
    first = today - timedelta(days=DAYS - 1)
    monday = first - timedelta(days=first.weekday())
    days, months, in_all = list[Day](), list[Month](), Counter[str]()
    for n in range(DAYS):
        day = first + timedelta(days=n)
        week, weekday = divmod((day - monday).days, 7)
        due = found.get(day, ())
        kinds = Counter(kind(each, tolerance) for each in due)
        in_all += kinds
        worst = next((each for each in KINDS if each in kinds), "nothing")
        others = [each for each in KINDS if each in kinds and each != worst]
        rest = max(others, key=lambda each: kinds[each], default="nothing")
        title = f"{day:%a %b %d}{_of_a_day(due, kinds, tolerance, zone)}"
        share = round(kinds[worst] / len(due), 3) if due else 1.0
        days.append(Day(week, weekday, worst, title, share, rest))
        if day.day == 1:
            months.append(Month(week, f"{day:%b}"))
    weeks = days[-1].x + 1
    return Calendar(days, weeks, months, f"In the last {DAYS} days: {_counted(in_all) or 'nothing recorded'}")


def kind(each: Occurrence, tolerance: timedelta) -> str:
    """Which of `KINDS` became of an occurrence."""
    match each.outcome:
        case Outcome.MISSED | Outcome.RUNNING:
            return each.outcome.value
        case Outcome.SUCCESS:
            return "late" if too_late(each.late_by, tolerance) else "met"
    return "failed"


def _of_a_day(due: Sequence[Occurrence], kinds: Counter[str], tolerance: timedelta, zone: ZoneInfo) -> str:
    if not due:
        return ": nothing recorded"
    if len(due) > 1:
        return f": {_counted(kinds)}"
    (each,) = due
    what = "has not ended in time" if each.outcome is Outcome.OVERDUE else kind(each, tolerance)
    if what == "late":
        what = "met"
    late = f", {lateness(each.late_by)}" if each.late_by is not None else ""
    return f", due {in_zone(moment(each.expected_at), zone):%H:%M}: {what}{late}"


def _counted(kinds: Mapping[str, int]) -> str:
    """`87 met, 2 late, 1 missed`."""
    return ", ".join(f"{kinds[each]} {each}" for each in reversed(KINDS) if kinds.get(each))
