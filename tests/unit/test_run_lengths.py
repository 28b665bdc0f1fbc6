"""What is said of the lengths of made-up jobs; the table of decision 19."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.run_lengths import KEPT, NEEDED, too_long, unusual, usual

SECOND = 1_000_000
_random = Random(1)
JOBS = {
    "steady": [_random.randint(720, 900) * SECOND for _ in range(KEPT)],
    "very steady": [int(_random.gauss(600, 5) * SECOND) for _ in range(KEPT)],
    "noisy": [_random.randint(60, 600) * SECOND for _ in range(KEPT)],
    "growing": [int(100 * 1.02**n * SECOND) for n in range(KEPT)],
    "two modes": [(600 if n % 7 == 6 else 10) * SECOND for n in range(KEPT)],
    "short": [_random.randint(40, 70) * 1000 for _ in range(KEPT)],
}
lengths = st.integers(1, 10**12)


@pytest.mark.parametrize("job", JOBS)
def test_nothing_is_said_of_what_a_job_does_all_the_time(job: str) -> None:
    known = JOBS[job]
    assert [unusual(known[n], known[:n]) for n in range(NEEDED, KEPT)] == [None] * (KEPT - NEEDED)


@pytest.mark.parametrize(
    ("job", "seconds", "said"),
    [
        ("steady", 3, "took 3 s, usually 12 to 15 min"),
        ("steady", 480, "took 8 min, usually 12 to 15 min"),
        ("steady", 700, None),
        ("steady", 1300, None),
        ("steady", 1800, "took 30 min, usually 12 to 15 min"),
        ("very steady", 300, "took 5 min, usually 9 min 48 s to 10 min"),
        ("noisy", 30, None),
        ("noisy", 900, None),
        ("noisy", 3600, "took 1 h, usually 1 min 35 s to 9 min 37 s"),
        ("two modes", 300, None),
        ("two modes", 3600, "took 1 h, usually 10 s to 10 min"),
        ("short", 0.001, None),
        ("short", 1.9, None),
        ("short", 60, "took 1 min, usually 0.047 to 0.07 s"),
    ],
)
def test_what_is_clearly_longer_or_shorter_is_said(job: str, seconds: float, said: str | None) -> None:
    assert unusual(int(seconds * SECOND), JOBS[job]) == said


@pytest.mark.parametrize("outliers", [(12,), (3, 29)])
def test_outliers_do_not_hide_the_next_one(outliers: tuple[int, ...]) -> None:
    known = [(36_000 if n in outliers else 600 + n) * SECOND for n in range(KEPT)]
    assert unusual(30_000 * SECOND, known) == "took 8 h 20 min, usually 10 min"


def test_while_it_runs_it_is_said_only_when_it_is_longer_than_all_before() -> None:
    known = [600 * SECOND] * 20 + [7200 * SECOND]
    assert too_long(known) == (7200 * SECOND + 1, "has run for 2 h, usually 10 min")
    assert too_long(known[: NEEDED - 1]) is None


@given(st.lists(lengths, min_size=NEEDED, max_size=40))
def test_bounds_are_around_the_range_and_follow_from_the_last_alone(known: list[int]) -> None:
    found = usual(known)
    assert found
    assert 0 <= found.shortest <= found.low <= found.high <= found.longest
    assert found.longest <= max(4 * found.high, found.high + 2 * SECOND)
    assert usual([10**12] * 5 + known[-KEPT:]) == usual(known[-KEPT:]) or len(known) < KEPT


@given(st.lists(lengths, min_size=NEEDED, max_size=KEPT), st.integers(2, 1000))
def test_what_is_said_does_not_depend_on_their_order(known: list[int], seed: int) -> None:
    mixed = known.copy()
    Random(seed).shuffle(mixed)
    assert usual(mixed) == usual(known)


@given(st.lists(lengths, max_size=NEEDED - 1), lengths)
def test_of_too_few_nothing_is_said(known: list[int], length: int) -> None:
    assert unusual(length, known) is None
