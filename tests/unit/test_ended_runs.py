"""A start that comes after the end of its run."""

from services.ingest import ended_runs
from services.ingest.ended_runs import EndedRuns


def test_only_a_start_that_was_sent_before_the_end_is_late() -> None:
    ended = EndedRuns()
    assert not ended.is_late("a", "1", 5)
    ended.end("a", "1", 5)
    assert ended.is_late("a", "1", 4.999)
    assert not ended.is_late("a", "1", 5), "it begins again, with the same id"
    assert not ended.is_late("a", "2", 4)
    assert not ended.is_late("b", "1", 4)


def test_only_so_many_are_remembered() -> None:
    ended = EndedRuns()
    for n in range(ended_runs.MOST):
        ended.end("a", str(n), 5)
    ended.end("a", "0", 6)
    ended.end("a", "new", 5)
    assert ended.is_late("a", "0", 5)
    assert not ended.is_late("a", "1", 4)
    assert ended.is_late("a", "2", 4)
