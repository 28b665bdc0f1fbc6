"""Ten years of a punctual job in every time zone, and of one that stays away once: no broker, only the core.

When the job runs is reckoned here, day by day, from what its clock shows: cron once in a repeated hour, right
after it what falls into a skipped one, and in both passes where it has a star; systemd nothing twice, and
nothing that is skipped. Each seed is one zone with a schedule; with the odd ones one run is left out.
"""

import zoneinfo
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from importlib.resources import files
from random import Random
from zoneinfo import ZoneInfo

from services.monitor.domain import runs
from services.monitor.domain.lifecycle import apply_heartbeat, apply_transition, decide
from services.monitor.domain.service import (
    Beat,
    EffectiveThresholds,
    Job,
    MonitoredService,
    RunFact,
    StatusTransition,
)
from shared.contracts import zones
from shared.contracts.events import Signal, micros
from shared.domain.coverage import Coverage
from shared.domain.timetable import Timetable

MINUTE, HOUR = 60_000_000, 3_600_000_000
SILENT, DOWN, DEAD = 15 * MINUTE, HOUR, 168 * HOUR
FIRST, LAST = date(2026, 1, 2), date(2035, 12, 31)
START = datetime(2025, 12, 31, tzinfo=UTC)


@dataclass(frozen=True)
class Case:
    """`kind`: `day`, `clock` or `systemd`; `times`: hours and minutes; `weekday`: only on this one."""

    zone: str
    text: str
    kind: str
    times: list[tuple[int, int]]
    weekday: int | None
    leaves_out: bool


@cache
def names() -> list[str]:
    """All zones of the locked package; of those that are the same under several names, one."""
    assert zones.DATA_VERSION
    folder = files("tzdata") / "zoneinfo"
    every = sorted(zoneinfo.available_timezones())
    return sorted({folder.joinpath(name).read_bytes(): name for name in every}.values())


def make(seed: int) -> Case:
    rng, every = Random(seed), names()
    zone, leaves_out = every[seed // 2 % len(every)], bool(seed % 2)
    hour, minute = rng.choice((0, 1, 2, 2, 3, rng.randrange(24))), rng.choice((0, 15, 30, rng.randrange(60)))
    kind = rng.choice(("day", "day", "clock", "systemd", "weekly", "twice"))
    times, weekday, text = [(hour, minute)], None, f"{minute} {hour} * * *"
    if kind == "clock":
        times, text = [(each, minute) for each in range(0, 24, 6)], f"{minute} */6 * * *"
    elif kind == "systemd":
        text = f"*-*-* {hour:02}:{minute:02}"
    elif kind == "weekly":
        weekday, text = 6, f"{minute} {hour} * * 0"
    elif kind == "twice":
        other = (hour + rng.choice((1, 2, 12))) % 24
        times, text = [(hour, minute), (other, minute)], f"{minute} {hour},{other} * * *"
    return Case(zone, text, kind if kind in ("clock", "systemd") else "day", times, weekday, leaves_out)


def occurrences(case: Case) -> list[int]:
    """When the job runs, in microseconds."""
    zone, found, day = ZoneInfo(case.zone), set[datetime](), FIRST
    while day <= LAST:
        if case.weekday in (None, day.weekday()):
            for hour, minute in case.times:
                found |= set(_of_day(datetime(day.year, day.month, day.day, hour, minute), zone, case.kind))  # noqa: DTZ001
        day += timedelta(days=1)
    return sorted(map(micros, found))


def _of_day(wall: datetime, zone: ZoneInfo, kind: str) -> Iterator[datetime]:
    first, second = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if first.astimezone(zone).replace(tzinfo=None) == wall:
        yield first
        if kind == "clock" and second != first:
            yield second
    elif kind == "day":
        yield _jump(zone, first)


def _jump(zone: ZoneInfo, after: datetime) -> datetime:
    """The change of the clocks that is the last before a moment."""
    before = after - timedelta(hours=25)
    offset = after.astimezone(zone).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = before + timedelta(seconds=(after - before) // timedelta(seconds=2))
        if middle.astimezone(zone).utcoffset() == offset:
            after = middle
        else:
            before = middle
    return after


class Core:
    """One service, and what the monitor does around it."""

    def __init__(self, case: Case) -> None:
        job = Job(case.zone, timetable=Timetable(case.text, case.zone))
        patience = EffectiveThresholds(SILENT, DOWN, DEAD)
        self.service = MonitoredService("backup", micros(START), patience, job=job)
        self.coverage = Coverage(until=micros(START))
        self.changes: list[StatusTransition] = []
        self.facts: list[RunFact] = []
        runs.expect_from(self.service, micros(START))

    def tick(self, now: int) -> None:
        self.coverage.prove(micros(START), now)
        while fact := runs.due_fact(self.service, now, self.coverage):
            self._record(fact)
        self._decide(now)

    def beat(self, at: int, signal: Signal) -> None:
        beat = Beat(at, signal)
        self.tick(at)  # as the monitor, which evaluates what is due at that very moment before it
        while fact := runs.beat_fact(self.service, beat, self.coverage):
            self._record(fact)
        self._decide(beat)
        runs.apply_beat(self.service, beat)
        apply_heartbeat(self.service, at, signal)

    def _decide(self, fact: Beat | int) -> None:
        while transition := next(decide(self.service, fact, self.coverage), None):
            self.changes.append(transition)
            apply_transition(self.service, transition)

    def _record(self, fact: RunFact) -> None:
        self.facts.append(fact)
        runs.apply_fact(self.service, fact)


def simulate(seed: int) -> list[str]:
    """What is wrong with ten years."""
    case = make(seed)
    return list(_problems(case, Random(seed + 1)))


def _problems(case: Case, rng: Random) -> Iterator[str]:
    due, core = occurrences(case), Core(case)
    left_out = rng.randrange(1, len(due) - 1) if case.leaves_out else 0
    beats: list[tuple[int, Signal]] = []
    first_of: dict[int, int] = {}
    jitter, starts = rng.choice((0, 1, 14)), rng.random() < 0.4
    for n, at in enumerate(due):
        if left_out and n == left_out:
            continue
        before = at - due[n - 1] if n else HOUR
        after = due[n + 1] - at if n + 1 < len(due) else HOUR
        early, late = (min(jitter * MINUTE, each // 2 - MINUTE) for each in (before, after))
        begun = at + rng.randint(-max(0, early), max(0, late))
        first_of[n] = begun
        if starts:
            beats.append((begun, Signal.START))
            begun += rng.randint(1, min(50 * MINUTE, after // 4))
        beats.append((begun, Signal.SUCCESS))
    for when, signal in beats:
        core.beat(when, signal)
    core.tick(due[-1] + 14 * MINUTE if not starts else beats[-1][0])
    missed = [fact for fact in core.facts if fact.outcome == "missed"]
    met = [fact.occurrence for fact in core.facts if fact.is_first and fact.outcome == "success"]
    told = [(change.to.value, change.since) for change in core.changes]
    expected = [("alive", beats[0][0])]
    others = due[:left_out] + due[left_out + 1 :] if left_out else due
    facts = [
        fact for fact in core.facts if fact.outcome != "running"
    ]  # that one is longer than usual is none
    if met != others or len(facts) != len(met) + len(missed):
        wrong = sorted({*met} ^ {*others})[:3]
        yield f"{case}: counted otherwise: {', '.join(map(_said, wrong)) or 'twice'}"
    if left_out:
        at, back = due[left_out], first_of[left_out + 1]
        falls = [("silent", at + SILENT), ("down", at + DOWN), ("dead", at + DEAD)]
        expected += [fall for fall in falls if fall[1] <= back] + [
            ("alive", next(when for when, signal in beats if when >= back and signal is Signal.SUCCESS))
        ]
        if starts and back < at + DOWN:  # a start lifts what is silent, and not what is down
            expected[-1] = ("alive", back)
        noticed = min(at + DOWN, due[left_out + 1], back)
        if [(fact.occurrence, fact.at) for fact in missed] != [(at, noticed)]:
            yield f"{case}: missed at {_said(at)}, and recorded {missed}"
    elif missed:
        yield f"{case}: nothing was missed, and recorded is {missed[:2]}"
    if told != expected:
        yield f"{case}: it went {told[:6]}, and should have {expected}"


def _said(at: int) -> str:
    return f"{datetime.fromtimestamp(at / 1e6, UTC):%Y-%m-%d %H:%M}"


def tell(seed: int) -> bool:
    """Print what is wrong with one seed."""
    import sys

    found = simulate(seed)
    sys.stdout.write("\n".join([f"seed {seed}: {make(seed)}", *found, "" if found else "all is well"]) + "\n")
    return not found


@contextmanager
def surroundings() -> Iterator[None]:
    yield
