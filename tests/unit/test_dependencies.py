"""Which services may depend on which, held against a sort that knows nothing of how circles are found."""

from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.api.dependencies import circle

NAMES = st.sampled_from("abcdefg")
WRITES = st.lists(st.tuples(NAMES, st.lists(NAMES, max_size=4, unique=True)), max_size=40)


def has_circle(graph: dict[str, list[str]]) -> bool:
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError:
        return True
    return False


@given(WRITES)
def test_what_is_accepted_never_has_a_circle_and_what_is_refused_would(
    writes: list[tuple[str, list[str]]],
) -> None:
    graph = defaultdict[str, list[str]](list)
    for name, wanted in writes:
        way = circle(name, wanted, graph.__getitem__)
        would_be = graph | {name: wanted}
        assert (way is not None) == has_circle(would_be)
        if way is None:
            graph[name] = wanted
            continue
        assert way[0] == way[-1] == name
        assert all(parent in would_be[child] for child, parent in pairwise(way))
        assert len(set(way)) == len(way) - 1


def test_a_long_way_is_found_without_recursion() -> None:
    graph: dict[str, Any] = {str(n): [str(n + 1)] for n in range(10_000)}
    way = circle("10000", ["0"], lambda each: graph.get(each, ()))
    assert way is not None
    assert (way[:3], way[-2:]) == (("10000", "0", "1"), ("9999", "10000"))
