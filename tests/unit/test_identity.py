"""Which streams are taken for the one that was read, and which for another."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.messaging.connection import StreamPosition
from shared.messaging.record_watch import Comparison, Eviction, StreamMark, compare

BEFORE = StreamMark(created="2026-11-27T04:18:00.123456789Z", last=100, at=5_000, messages=80, subjects=10)
READ = StreamPosition(100, 5_000)


def test_a_stream_that_went_on_is_the_same() -> None:
    assert compare(BEFORE, BEFORE, READ, 5_000) is Comparison.SAME
    now = replace(BEFORE, last=150, at=9_000, messages=130, subjects=12)
    assert compare(BEFORE, now, READ, 5_000) is Comparison.SAME
    assert compare(BEFORE, now, StreamPosition(120, 6_000), 6_000) is Comparison.SAME


def test_one_that_was_made_anew_is_another_however_long_it_is() -> None:
    for last in (0, 100, 1_000):
        now = StreamMark("2026-11-27T05:00:00Z", last, 9_000, last, 1)
        assert compare(BEFORE, now, READ) is Comparison.ANOTHER


def test_one_that_is_shorter_than_what_was_known_is_an_older_copy() -> None:
    shorter = replace(BEFORE, last=99, at=4_900, messages=79)
    assert compare(BEFORE, shorter, StreamPosition(90, 4_000), 4_000) is Comparison.OLDER
    assert compare(BEFORE, replace(BEFORE, last=110), StreamPosition(111, 5_500)) is Comparison.OLDER


def test_an_older_copy_that_new_messages_have_overtaken_has_another_message_there() -> None:
    overtaken = replace(BEFORE, last=300, at=99_000, messages=280)
    assert compare(BEFORE, overtaken, READ, 70_000) is Comparison.OLDER


def test_where_that_message_is_gone_the_first_later_one_tells() -> None:
    now = replace(BEFORE, last=300, at=99_000, messages=200)
    assert compare(BEFORE, now, READ, None, 60, evicts=Eviction.ANY) is Comparison.OLDER
    assert compare(BEFORE, now, READ, None, 101, evicts=Eviction.ANY) is Comparison.SAME
    assert compare(BEFORE, now, READ, None, None, evicts=Eviction.ANY) is Comparison.SAME


def test_what_is_missing_was_removed_unless_the_broker_lets_it_go() -> None:
    now = replace(BEFORE, last=110, messages=89)
    assert compare(BEFORE, now, READ, 5_000) is Comparison.PURGED
    assert compare(BEFORE, now, READ, 5_000, evicts=Eviction.ONE_FOR_ONE) is Comparison.SAME
    more = replace(now, messages=79)
    assert compare(BEFORE, more, READ, 5_000, evicts=Eviction.ONE_FOR_ONE) is Comparison.PURGED
    fewer = replace(now, subjects=9)
    assert compare(BEFORE, fewer, READ, 5_000, evicts=Eviction.ONE_FOR_ONE) is Comparison.PURGED
    assert compare(BEFORE, replace(now, messages=1), READ, evicts=Eviction.ANY) is Comparison.SAME


def test_a_bound_that_is_lowered_is_no_purge_unless_a_subject_is_gone() -> None:
    bounded, fewer = replace(BEFORE, kept=20), replace(BEFORE, messages=20, kept=2)
    for before in (BEFORE, bounded):
        assert compare(before, fewer, READ, 5_000, evicts=Eviction.ONE_FOR_ONE) is Comparison.SAME
        gone = replace(fewer, subjects=9)
        assert compare(before, gone, READ, 5_000, evicts=Eviction.ONE_FOR_ONE) is Comparison.PURGED
    for kept in (20, 30, -1):
        purged = replace(BEFORE, messages=20, kept=kept)
        assert compare(bounded, purged, READ, 5_000, evicts=Eviction.ONE_FOR_ONE) is Comparison.PURGED


def test_an_empty_stream_is_the_same_until_it_is_made_anew() -> None:
    empty = StreamMark("2026-11-27T05:00:00Z", 0, 0, 0, 0)
    assert compare(empty, empty, StreamPosition(0, 0)) is Comparison.SAME
    first = replace(empty, last=3, at=7, messages=3, subjects=1)
    assert compare(empty, first, StreamPosition(0, 0)) is Comparison.SAME


@pytest.mark.parametrize("evicts", Eviction)
@given(data=st.data())
def test_any_history_is_told_from_any_copy_of_it(evicts: Eviction, data: st.DataObject) -> None:
    """A stream as a list of times; a copy of a part of it goes on in a time of its own."""
    times = data.draw(st.lists(st.integers(1, 1000), min_size=2, max_size=30, unique=True).map(sorted))
    known = data.draw(st.integers(1, len(times)))
    gone = data.draw(st.sets(st.integers(1, len(times))) if evicts is Eviction.ANY else st.just(set()))
    new = data.draw(st.lists(st.integers(2000, 3000), max_size=30, unique=True).map(sorted))
    position = StreamPosition(known, times[known - 1])
    before = StreamMark("t", known, position.at, known, 1)

    def verdict(stream: list[int]) -> Comparison:
        there = {seq: at for seq, at in enumerate(stream, 1) if seq not in gone or seq > len(times)}
        now = StreamMark("t", len(stream), stream[-1] if stream else 0, len(there), 1)
        later = min((seq for seq, at in there.items() if at > position.at), default=None)
        return compare(before, now, position, there.get(known), later, evicts=evicts)

    assert verdict([*times, *new]) is Comparison.SAME
    copied = data.draw(st.integers(0, known - 1))
    copy = [*times[:copied], *new]
    seen = any(seq not in gone for seq in range(copied + 1, known + 1))
    if len(copy) < known or seen:
        assert verdict(copy) is Comparison.OLDER
