"""What the front door lets through, as far as its file says it."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CADDYFILE = Path(__file__).parents[2] / "deploy/Caddyfile"
RULES = re.findall(r"header_regexp Content-Length (\S+)", CADDYFILE.read_text())


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


def adapted(tmp_path: Path, **variables: str) -> dict[str, Any]:
    """The file as Caddy itself reads it."""
    caddy = shutil.which("caddy")
    if not caddy:
        pytest.skip("caddy is not installed")
    done = subprocess.run(
        [caddy, "adapt", "--config", str(CADDYFILE), "--validate"],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"HOME": str(tmp_path), **variables},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(next(line for line in done.stdout.splitlines() if line[:1] == "{"))
    return found


def within(config: object, key: str) -> list[Any]:
    """Every value of this key, however deep."""
    if isinstance(config, list):
        return [it for each in config for it in within(each, key)]
    if not isinstance(config, dict):
        return []
    return [it for k, v in config.items() for it in ([v] if k == key else []) + within(v, key)]


def test_caddy_reads_the_file_and_several_ingests_take_turns(tmp_path: Path) -> None:
    for given, expected in (({}, ["ingest:8001"]), ({"REGISTRY_INGEST": "a:1 b:2"}, ["a:1", "b:2"])):
        config = adapted(tmp_path, **given)
        assert within(config, "dial") == [*expected, *expected, "api:8002", "api:8002"]
        assert [it["policy"] for it in within(config, "selection_policy")] == ["round_robin"] * 2
        assert set(within(config, "max_size")) == {4_000_000, 18_000_000}


def test_what_the_front_refuses_itself_is_told_in_problem_details(tmp_path: Path) -> None:
    config = adapted(tmp_path)
    (errors,) = within(config, "errors")
    told = [json.loads(body) for body in within(errors, "body")]
    assert [it["status"] for it in told] == [413, 503]
    assert within(errors, "Retry-After") == [["2"]]
    assert within(errors, "Content-Type") == [["application/problem+json"]] * 2
