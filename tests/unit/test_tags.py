"""Tags in one line and back, and what none may have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.http.requests import check_tags, read_tags, tags_asked_for, write_tags
from shared.http.problems import Problem

TAGS = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=20)


@given(st.lists(TAGS.map(str.strip).filter(bool), max_size=5))
def test_what_is_written_is_read_back(chosen: list[str]) -> None:
    assert read_tags(write_tags(chosen)) == chosen


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("", []),
        (" , ,", []),
        ("a, b ,c", ["a", "b", "c"]),
        ('"a,b", c', ["a,b", "c"]),
        ('say "hi"', ['say "hi"']),
    ],
)
def test_what_people_write(line: str, found: list[str]) -> None:
    assert read_tags(line) == found


def test_a_quote_that_is_not_closed_is_refused() -> None:
    with pytest.raises(Problem, match="a quote is not closed"):
        read_tags('"a, b')


@pytest.mark.parametrize("tag", ["a,b", ",", "a\nb", "\x1b[2J", "a\x00", "\x85", "a\u2028b"])
def test_what_no_list_can_hold_is_refused_but_stays_where_it_is(tag: str) -> None:
    with pytest.raises(Problem, match="has a"):
        check_tags(["x", tag])
    check_tags(["x", tag], had=[tag])


def test_a_tag_that_is_known_is_one() -> None:
    known = {"a,b", "c"}.__contains__
    assert tags_asked_for(["a,b"], known) == ["a,b"]
    assert tags_asked_for(["c,d", " e "], known) == ["c", "d", "e"]
