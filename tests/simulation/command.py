"""The command line of the simulation."""

import argparse
import gc
import os
import sys
import time
from collections.abc import Iterator
from multiprocessing import get_context

from tests.simulation.mutants import MUTANTS, caught_by
from tests.simulation.run import surroundings
from tests.simulation.simulate import simulate, tell, tidy

CHUNK = 100


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds are tried")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="only this one, with everything that happened")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument(
        "--mutants", action="store_true", help="put bugs into the monitor; each must be caught"
    )
    parser.add_argument("--most", type=int, default=20, help="failing seeds after which to stop")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return 0 if tell(options.seed) else 1
    if options.mutants:
        return _mutants(options.seeds)
    return _many(options.first, options.seeds, options.jobs, options.most)


def _many(first: int, seeds: int, jobs: int, most: int) -> int:
    chunks = [range(at, min(at + CHUNK, first + seeds)) for at in range(first, first + seeds, CHUNK)]
    began = said = time.monotonic()
    done = failed = 0
    for count, failures in _results(chunks, jobs):
        done += count
        for seed, problem in failures:
            failed += 1
            _say(f"seed {seed} fails: {problem}\n  replay with: make simulate SEED={seed}\n")
        if time.monotonic() - said > 10:
            said = time.monotonic()
            _say(f"{done} of {seeds} seeds, {failed} failed, {done / (said - began):.0f} a second\n")
        if failed >= most:
            break
    _say(f"{done} seeds, {failed} failed, {time.monotonic() - began:.1f} s\n")
    return 1 if failed else 0


def _mutants(seeds: int) -> int:
    lived = 0
    with surroundings():
        for mutant in MUTANTS:
            began, caught = time.monotonic(), caught_by(mutant, seeds)
            lived += caught is None
            how = f"caught by seed {caught[0]}: {caught[1]}" if caught else f"NOT CAUGHT by {seeds} seeds"
            _say(f"{mutant.__name__} ({time.monotonic() - began:.1f} s): {how}\n")
    return 1 if lived else 0


def _say(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()


def _results(chunks: list[range], jobs: int) -> Iterator[tuple[int, list[tuple[int, str]]]]:
    if jobs == 1:
        yield from map(chunk, chunks)
        return
    with get_context("fork").Pool(jobs) as pool:
        yield from pool.imap(chunk, chunks)


def chunk(seeds: range) -> tuple[int, list[tuple[int, str]]]:
    """How many were tried, and those that failed with their first problem."""
    failures = []
    gc.disable()
    with surroundings():
        for n, seed in enumerate(seeds):
            if problems := simulate(seed):
                failures.append((seed, problems[0]))
            tidy(n)
    return len(seeds), failures
