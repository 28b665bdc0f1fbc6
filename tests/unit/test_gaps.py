"""Gaps between heartbeats, given / when / then: which are recorded, and that they come once and in order."""

from types import SimpleNamespace
from typing import Any

import pytest

from services.monitor.domain.gaps import gap_before
from services.monitor.domain.service import Beat, EffectiveThresholds, Gap, Job, MonitoredService, RunFact
from services.monitor.record import Recorder
from services.monitor.store.mapping import gap_event, order_of, run_event
from shared.contracts.events import Outcome, Signal, parse_fact
from shared.domain.timetable import Timetable
from shared.messaging.errors import WrongSequence
from shared.messaging.publisher import Ack
from shared.messaging.reader import Stored

M = 60 * 10**6
LAST = 1_790_000_000 * 10**6


def service(**more: Any) -> MonitoredService:
    known = MonitoredService(
        "web", LAST - 99 * M, EffectiveThresholds(15 * M, 60 * M, 600 * M), last_beat=LAST
    )
    for field, value in more.items():
        setattr(known, field, value)
    return known


@pytest.mark.parametrize(
    ("known", "beat", "is_recorded"),
    [
        (service(), Beat(LAST + 15 * M // 2), False),
        (service(), Beat(LAST + 15 * M // 2 + 1), True),
        (service(), Beat(LAST + 999 * M, Signal.FAIL), True),
        (service(), Beat(LAST + 999 * M, Signal.LOG), False),
        (service(paused=True), Beat(LAST + 10 * M), True),
        (service(job=Job()), Beat(LAST + 10 * M, Signal.START), True),
        (service(job=Job(timetable=Timetable("0 3 * * *", "UTC"))), Beat(LAST + 10 * M), False),
        (service(last_beat=0), Beat(LAST), False),
        (service(), Beat(LAST), False),
        (service(), Beat(LAST - 99 * M), False),
        (service(unproved=LAST + M), Beat(LAST + 99 * M), False),
        (service(), Beat(LAST + 99 * M, after_hole=True), False),
    ],
)
def test_which_gaps_are_recorded(known: MonitoredService, beat: Beat, is_recorded: bool) -> None:
    expected = Gap(LAST, beat.at, beat.signal) if is_recorded else None
    assert gap_before(known, beat) == expected


def test_a_gap_comes_after_what_was_due_and_before_what_its_heartbeat_leads_to() -> None:
    at = LAST + 10 * M
    gap = Gap(LAST, at)
    overdue = RunFact(at, Outcome.OVERDUE, str(LAST), started=LAST)
    missed = RunFact(at, Outcome.MISSED, str(LAST), occurrence=LAST)
    ended = RunFact(at, Outcome.SUCCESS, str(LAST), started=LAST, ended=at)
    assert overdue.order < missed.order < gap.order < ended.order
    for fact in (overdue, missed, ended):
        assert order_of(parse_fact(run_event("web", fact).to_bytes())) == fact.order
    assert order_of(parse_fact(gap_event("web", gap).to_bytes())) == gap.order


class Runs:
    """The stream RUNS, as the recorder uses it."""

    def __init__(self) -> None:
        self.stored: list[Stored] = []

    async def append(self, subject: str, event: Any, after: int) -> Ack:
        if after != len(self.stored):
            raise WrongSequence("wrong last sequence")
        self.stored.append(Stored(subject, event.to_bytes(), None, after + 1, 0, 0))
        return Ack(after + 1, False)

    async def newest_event(self, subject: str) -> Stored | None:
        return self.stored[-1] if self.stored else None


async def test_a_gap_is_recorded_once_whoever_comes_across_it_and_however_often() -> None:
    """Two monitors, and one that begins again and reads everything anew."""
    runs = Runs()

    def recorder() -> Recorder:
        return Recorder(runs, SimpleNamespace(services={}), None, 10)  # type: ignore[arg-type]

    gaps = [Gap(LAST, LAST + 10 * M), Gap(LAST + 12 * M, LAST + 30 * M), Gap(LAST + 30 * M, LAST + 45 * M)]
    first, second, third = recorder(), recorder(), recorder()
    await first.record_gap(service(), gaps[0])
    await second.record_gap(service(), gaps[0])
    await second.record_gap(service(), gaps[1])
    await first.record_gap(service(), gaps[1])
    for gap in gaps:
        await third.record_gap(service(job=Job()), gap)
    assert [parse_fact(each.data) for each in runs.stored] == [gap_event("web", gap) for gap in gaps]
