"""A service that is paused and resumed is looked at in time, and never twice at once."""

from hypothesis import given
from hypothesis import strategies as st

from services.monitor.domain.deadlines import DeadlineQueue
from services.monitor.domain.lifecycle import apply_heartbeat, next_due, resume
from services.monitor.domain.service import ALIVE, SECOND, EffectiveThresholds, MonitoredService
from shared.domain.coverage import Coverage

PATIENCE = EffectiveThresholds(3 * SECOND, 6 * SECOND, 400 * SECOND)


def watched(bucket: int = 0) -> MonitoredService:
    it = MonitoredService("web", 0, PATIENCE, status=ALIVE, bucket=bucket)
    apply_heartbeat(it, SECOND)
    return it


def test_a_pause_and_a_resume_within_a_second_do_not_make_it_due_twice() -> None:
    deadlines, covered, it = DeadlineQueue(SECOND), Coverage(SECOND), watched()
    deadlines.schedule(it, covered)
    it.paused = True
    deadlines.schedule(it, covered)
    it.paused = False
    deadlines.schedule(it, covered)
    assert deadlines.overdue(10 * SECOND, covered) == [it]


steps = st.tuples(st.integers(0, 3), st.sampled_from(["beat", "pause", "resume", "drop", "look"]))


@given(st.lists(steps, max_size=60))
def test_each_is_found_when_it_is_due_and_once(steps: list[tuple[int, str]]) -> None:
    deadlines, covered = DeadlineQueue(SECOND), Coverage(SECOND)
    services = [watched(n * 80) for n in range(3)]
    for it in services:
        deadlines.schedule(it, covered)
    now = SECOND
    for n, (wait, step) in enumerate(steps):
        now += wait * SECOND + 1
        it = services[n % 3]
        if step == "beat":
            apply_heartbeat(it, now)
        elif step == "pause":
            it.paused = True
        elif step == "resume":
            it.paused = False
            resume(it, now, now)
        elif step == "drop":
            deadlines.remove(it)
            services[n % 3] = it = watched(it.bucket)
            apply_heartbeat(it, now)
        deadlines.schedule(it, covered)
        if step == "look":
            covered.prove(0, now)
            due = [it for it in services if (at := next_due(it, covered)) is not None and at <= now]
            fallen = deadlines.overdue(now, covered)
            assert sorted(map(id, fallen)) == sorted(map(id, due))
            for it in fallen:
                apply_heartbeat(it, now)
                deadlines.schedule(it, covered)
