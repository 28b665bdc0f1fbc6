"""A few seconds of the notifier's simulation. `make simulate SEEDS=100000` runs as many as wanted."""

import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest

from tests.simulation.command import chunk
from tests.simulation.notifier import incident_mutants
from tests.simulation.notifier.checks import Tally, problems
from tests.simulation.notifier.mutants import CAUGHT_BY, MUTANTS, caught_by
from tests.simulation.notifier.routing import ROUTED
from tests.simulation.notifier.run import Process, disturbed, surroundings
from tests.simulation.notifier.scenario import make

SECONDS = 2.0
FEW = 5


def test_each_chat_is_told_what_it_has_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    began, seed, failures = time.monotonic(), 0, list[tuple[int, str]]()
    while not failures and time.monotonic() - began < SECONDS:
        failures = chunk("notifier", range(seed, seed + FEW))[1]
        seed += FEW
    with capsys.disabled():
        sys.stdout.write(f"\n{seed} simulations of the notifier in {time.monotonic() - began:.1f} s\n")
    assert not failures, "".join(
        f"\nseed {seed}: {problem}\nreplay with: make simulate OF=notifier SEED={seed}"
        for seed, problem in failures
    )


@pytest.mark.timeout(400)
def test_of_a_thousand_incidents_with_routes_each_news_is_told_little_more_than_once() -> None:
    """Repeats after a kill, and where nobody knows whether a message has arrived, included."""
    tally, seeds = Tally(), (seed for seed in count(1000) if seed % 11 in ROUTED)
    with surroundings():
        while tally.incidents < 1000:
            seed = next(seeds)
            played = disturbed(make(seed))
            assert not problems(played), f"replay with: make simulate OF=notifier SEED={seed}"
            tally.add(played)
    assert tally.told > tally.incidents
    assert tally.messages <= 1.2 * tally.told


def test_a_seed_means_the_same_in_every_process() -> None:
    program = (
        "from tests.simulation.notifier.simulate import fingerprint; import sys;"
        "sys.stdout.write(fingerprint(4))"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parents[3],
            env={"PYTHONHASHSEED": hash_seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for hash_seed in ("1", "2")
    ]
    told = {process.communicate()[0] for process in running}
    assert all(process.returncode == 0 for process in running)
    assert len(told) == 1


@pytest.mark.parametrize("mutant", [*MUTANTS, *incident_mutants.MUTANTS], ids=lambda mutant: mutant.__name__)
def test_a_bug_put_in_on_purpose_is_found(mutant: type[Process]) -> None:
    first = (CAUGHT_BY | incident_mutants.CAUGHT_BY)[mutant.__name__]
    with surroundings():
        assert caught_by(mutant, 20, first)
