"""Which default thresholds held when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.monitor.domain import epochs
from services.monitor.domain.epochs import MAX_EPOCHS, Epoch
from services.monitor.domain.service import EffectiveThresholds

ONE, OTHER = EffectiveThresholds(1, 2, 3), EffectiveThresholds(4, 5, 6)


def test_the_same_defaults_begin_nothing() -> None:
    known = epochs.first(ONE)
    assert epochs.continued(known, ONE, 100) == known


def test_other_defaults_hold_from_when_they_are_written_down() -> None:
    found = epochs.continued(epochs.first(ONE), OTHER, 100)
    assert found == [Epoch(0, ONE), Epoch(100, OTHER)]
    assert [epochs.at(found, moment).default for moment in (0, 99, 100, 101)] == [ONE, ONE, OTHER, OTHER]


def test_an_upgrade_bounds_the_graces_from_then_on() -> None:
    found = epochs.upgraded(ONE, 100)
    assert found == [Epoch(0, ONE, bounded=False), Epoch(100, ONE)]
    assert epochs.bounded_since(found) == 100
    assert epochs.bounded_since(epochs.first(ONE)) == 0


@given(st.lists(st.tuples(st.integers(0, 1000), st.sampled_from([ONE, OTHER])), max_size=80))
def test_they_are_in_order_bounded_and_read_as_written(steps: list[tuple[int, EffectiveThresholds]]) -> None:
    found = epochs.first(ONE)
    for now, default in steps:
        found = epochs.continued(found, default, now)
    assert found[0].since == 0
    assert len(found) <= MAX_EPOCHS
    assert epochs.load(epochs.dump(found)) == found
    assert not steps or found[-1].default == steps[-1][1]


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b"{}", b"7", b"[[1]]", b"[[1,2,3,0,true],[1,2,3,0,true]]", b"[7]", b"[[1,2,0,true]]"],
)
def test_what_is_damaged_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        epochs.load(payload)
