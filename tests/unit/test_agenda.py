"""Whatever is noted is looked at in time, however its beats and its looks fall; and not much more often."""

from hypothesis import given
from hypothesis import strategies as st

from services.monitor.domain.deadlines import AHEAD, DeadlineQueue
from services.monitor.domain.lifecycle import next_due
from services.monitor.domain.service import ALIVE, SECOND, EffectiveThresholds, MonitoredService
from shared.domain.coverage import Coverage

START = 1_700_000_000 * SECOND
seconds = st.integers(0, 400)


def watched(name: str, silent: int, bucket: int = 0) -> MonitoredService:
    patience = EffectiveThresholds(silent * SECOND, 2 * silent * SECOND, 4 * silent * SECOND)
    return MonitoredService(name, START, patience, status=ALIVE, since=START, last_beat=START, bucket=bucket)


@given(
    services=st.lists(st.tuples(st.integers(1, 300), st.integers(0, 255)), min_size=1, max_size=6),
    steps=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5)), max_size=60),
)
def test_a_fall_is_found_by_the_first_look_after_it_is_due(
    services: list[tuple[int, int]], steps: list[tuple[int, int]]
) -> None:
    """Each step: so many seconds pass, one service beats, and it is looked."""
    coverage, deadlines, at = Coverage(), DeadlineQueue(START), START
    here = [watched(f"s{n}", silent, bucket) for n, (silent, bucket) in enumerate(services)]
    for it in here:
        deadlines.schedule(it, coverage)
    fallen: set[str] = set()
    for passed, which in steps:
        at += passed * SECOND
        if which < len(here) and here[which].name not in fallen:
            here[which].last_beat = at
        found = {it.name for it in deadlines.overdue(at, coverage)}
        due = {it.name for it in here if it.name not in fallen and (next_due(it, coverage) or at + 1) <= at}
        assert found == due
        fallen |= found


def test_a_beat_costs_nothing_and_far_looks_are_spread() -> None:
    coverage, deadlines = Coverage(), DeadlineQueue(START)
    here = [watched(f"s{n}", 900, bucket=n) for n in range(256)]
    for it in here:
        deadlines.schedule(it, coverage)
    looks = {it.scheduled for it in here}
    due = START // SECOND + 900
    assert max(looks) <= due
    assert min(looks) >= due - 450
    assert len(looks) > 200, "not all in one second"
    near = [watched(f"n{n}", AHEAD, bucket=n) for n in range(256)]
    for it in near:
        deadlines.schedule(it, coverage)
    assert {it.scheduled for it in near} == {START // SECOND + AHEAD}, "those that are due soon are not"


def test_what_is_dropped_or_paused_is_not_found() -> None:
    coverage, deadlines = Coverage(), DeadlineQueue(START)
    dropped, paused, other = (watched(name, 5) for name in ("dropped", "paused", "other"))
    for it in (dropped, paused, other):
        deadlines.schedule(it, coverage)
    deadlines.remove(dropped)
    paused.paused = True
    assert deadlines.overdue(START + 60 * SECOND, coverage) == [other]
