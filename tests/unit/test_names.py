"""The limit of services, as ingest keeps it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.admission import KnownNames


def test_names_let_in_and_registered_ones_are_counted_once() -> None:
    names = KnownNames(2)
    assert [names.admit(name) for name in "aab"] == [True, True, True]
    names.registered("a")
    names.registered("b")
    assert not names.admit("c")
    assert names.admit("a")


def test_a_name_whose_heartbeat_was_not_stored_takes_no_place() -> None:
    names = KnownNames(1)
    assert names.admit("a")
    names.forget("a")
    assert names.admit("b")


def test_a_registered_name_is_not_forgotten_because_one_heartbeat_was_not_stored() -> None:
    names = KnownNames(1)
    names.registered("a")
    names.forget("a")
    assert "a" in names


@pytest.mark.parametrize("full", ["registered", "let in"])
def test_after_all_were_deleted_there_is_room_again(full: str) -> None:
    names = KnownNames(3)
    for name in "abc":
        assert names.admit(name)
        if full == "registered":
            names.registered(name)
    assert not names.admit("d")
    for name in "abc":
        names.deleted(name)
    assert [names.admit(name) for name in "defg"] == [True, True, True, False]


@given(
    st.lists(
        st.tuples(st.sampled_from(["admit", "registered", "deleted", "forget"]), st.sampled_from("abcde"))
    )
)
def test_no_more_are_let_in_than_there_is_room_for(steps: list[tuple[str, str]]) -> None:
    names, registered, let_in = KnownNames(3), set[str](), set[str]()
    for step, name in steps:
        room = name in registered | let_in or len(registered | let_in) < 3
        answer = getattr(names, step)(name)
        match step:
            case "admit":
                assert answer is room
                let_in |= {name} - registered if room else set()
            case "registered":
                registered.add(name)
                let_in.discard(name)
            case "deleted":
                registered.discard(name)
                let_in.discard(name)
            case "forget":
                let_in.discard(name)
