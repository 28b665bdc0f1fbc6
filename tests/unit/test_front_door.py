"""What the front door lets through, as far as its file says it."""

import re
from pathlib import Path

import pytest

RULES = re.findall(
    r"header_regexp Content-Length (\S+)", (Path(__file__).parents[2] / "deploy/Caddyfile").read_text()
)


EDGES = [1_048_499, 1_048_575, 1_048_576, 1_048_577, 1_048_579, 1_048_580, 1_048_599, 1_048_600, 1_048_999]
OTHERS = [
    0,
    1,
    99_999,
    100_000,
    999_999,
    1_000_000,
    1_049_000,
    1_050_000,
    1_100_000,
    1_999_999,
    2_000_000,
    10**7,
]


@pytest.mark.parametrize("size", [*EDGES, *OTHERS])
def test_bodies_of_up_to_a_mebibyte_reach_the_services(size: int) -> None:
    usual, batch = RULES
    assert bool(re.search(usual, str(size))) == (size > 1_048_576)
    assert bool(re.search(batch, str(size))) == (size >= 3_000_000)
