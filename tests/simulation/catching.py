"""Which seed tells a program with a bug put into it from the program as it is."""

from collections.abc import Callable
from typing import TypeVar

P = TypeVar("P")


def first_caught(
    mutant: P,
    seeds: range,
    simulate: Callable[[int, P], list[str]],
    is_sound: Callable[[int], bool],
) -> tuple[int, str] | None:
    """The first seed that tells the mutant from the program as it is, and how; None if no seed does.
    A bug that cannot even be put in, because the program has changed, is not caught."""
    for seed in seeds:
        problems = simulate(seed, mutant)
        if problems and any(it in problems[0] for it in ("TypeError", "AttributeError", "ImportError")):
            raise RuntimeError(f"{mutant} is broken itself: {problems[0]}")
        if problems and is_sound(seed):
            return seed, problems[0]
    return None
