"""The command line of the simulations."""

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

from tests.simulation import mutants as monitor_mutants
from tests.simulation import punctual
from tests.simulation import run as monitor_run
from tests.simulation import simulate as monitor
from tests.simulation.notifier import incident_mutants
from tests.simulation.notifier import mutants as notifier_mutants
from tests.simulation.notifier import run as notifier_run
from tests.simulation.notifier import simulate as notifier


@dataclass(frozen=True)
class Simulation:
    """Of one service. `simulate`: what a seed finds wrong. `tell`: all of it at length; is all well?"""

    simulate: Callable[[int], list[str]]
    tell: Callable[[int], bool]
    surroundings: Callable[[], AbstractContextManager[None]]
    mutants: list[Any]
    caught_by: Callable[[Any, int], tuple[int, str] | None]
    most: int = 1 << 62
    """Seeds that tell anything new."""


SIMULATIONS = {
    "monitor": Simulation(
        monitor.simulate,
        monitor.tell,
        monitor_run.surroundings,
        list(monitor_mutants.MUTANTS),
        monitor_mutants.caught_by,
    ),
    "notifier": Simulation(
        notifier.simulate,
        notifier.tell,
        notifier_run.surroundings,
        [*notifier_mutants.MUTANTS, *incident_mutants.MUTANTS],
        notifier_mutants.caught_by,
    ),
    "punctual": Simulation(
        punctual.simulate,
        punctual.tell,
        punctual.surroundings,
        [],
        lambda mutant, seeds: None,
        most=4 * len(punctual.names()),
    ),
}

CHUNK = 100


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--of", choices=[*SIMULATIONS], help="only one of them")
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds are tried")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="only this one, with everything that happened")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument(
        "--mutants", action="store_true", help="put bugs into the services; each must be caught"
    )
    parser.add_argument("--most", type=int, default=20, help="failing seeds after which to stop")
    options = parser.parse_args(arguments)
    chosen = [options.of] if options.of else [*SIMULATIONS]
    if options.seed is not None:
        return 0 if all([SIMULATIONS[name].tell(options.seed) for name in chosen]) else 1
    if options.mutants:
        return max(_mutants(SIMULATIONS[name], options.seeds) for name in chosen)
    return max(
        _many(name, options.first, min(options.seeds, SIMULATIONS[name].most), options.jobs, options.most)
        for name in chosen
    )


def _many(name: str, first: int, seeds: int, jobs: int, most: int) -> int:
    gc.freeze()  # what is imported stays: it need not be looked at whenever garbage is collected
    chunks = [range(at, min(at + CHUNK, first + seeds)) for at in range(first, first + seeds, CHUNK)]
    began = said = time.monotonic()
    done = failed = 0
    for count, failures in _results(name, chunks, jobs):
        done += count
        for seed, problem in failures:
            failed += 1
            _say(f"seed {seed} fails: {problem}\n  replay with: make simulate OF={name} SEED={seed}\n")
        if time.monotonic() - said > 10:
            said = time.monotonic()
            _say(f"{name}: {done} of {seeds} seeds, {failed} failed, {done / (said - began):.0f} a second\n")
        if failed >= most:
            break
    _say(f"{name}: {done} seeds, {failed} failed, {time.monotonic() - began:.1f} s\n")
    return 1 if failed else 0


def _mutants(simulation: Simulation, seeds: int) -> int:
    lived = 0
    with simulation.surroundings():
        for mutant in simulation.mutants:
            began, caught = time.monotonic(), simulation.caught_by(mutant, seeds)
            lived += caught is None
            how = f"caught by seed {caught[0]}: {caught[1]}" if caught else f"NOT CAUGHT by {seeds} seeds"
            _say(f"{mutant.__name__} ({time.monotonic() - began:.1f} s): {how}\n")
    return 1 if lived else 0


def _say(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()


def _results(name: str, chunks: list[range], jobs: int) -> Iterator[tuple[int, list[tuple[int, str]]]]:
    if jobs == 1:
        yield from map(partial(chunk, name), chunks)
        return
    with get_context("fork").Pool(jobs) as pool:
        yield from pool.imap(partial(chunk, name), chunks)


def chunk(name: str, seeds: range) -> tuple[int, list[tuple[int, str]]]:
    """How many were tried, and those that failed with their first problem."""
    failures, simulation = [], SIMULATIONS[name]
    gc.disable()
    with simulation.surroundings():
        for n, seed in enumerate(seeds):
            if problems := simulation.simulate(seed):
                failures.append((seed, problems[0]))
            monitor.tidy(n)
    return len(seeds), failures
