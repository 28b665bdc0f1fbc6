"""One seed from its scenario to its verdict, and the same told at length."""

import gc
import hashlib
import sys

from services.monitor.domain.service import EffectiveThresholds
from tests.simulation import checks
from tests.simulation.clock import Stuck
from tests.simulation.model import BASE, Broker
from tests.simulation.run import (
    Failed,
    Process,
    disturbed,
    history,
    live,
    run_history,
    surroundings,
    undisturbed,
)
from tests.simulation.scenario import Scenario, make


def simulate(seed: int, process: type[Process] = Process) -> list[str]:
    """What is wrong with the monitor, as this seed shows it; nothing, if all is well."""
    scenario = make(seed)
    try:
        with process.broken():
            broker = disturbed(scenario, process)
            return [problem for problem, _ in problems(scenario, broker, process)]
    except (Failed, Stuck) as error:
        return [str(error)]


def problems(
    scenario: Scenario, broker: Broker, process: type[Process]
) -> list[tuple[str, tuple[str, Broker] | None]]:
    """Each with the history that it is held against, if there is one."""
    found: list[tuple[str, tuple[str, Broker] | None]] = [
        (problem, None) for problem in checks.absolute(scenario, broker)
    ]
    if scenario.kept is not None:
        return found
    others = [("undisturbed", undisturbed(scenario, broker, process))]
    if added := checks.config_added(broker, others[0][1]):
        found.append((added, others[0]))
    if not scenario.commands and not scenario.upgraded and len(_defaults(scenario)) == 1:
        others.append(("live", live(scenario, process)))
    for title, other in others:
        if difference := checks.first_difference(title, broker, other):
            found.append((difference, (title, other)))
        if difference := checks.first_difference_of_runs(scenario, title, broker, other):
            found.append((difference, (title, other)))
    return found


def _defaults(scenario: Scenario) -> list[EffectiveThresholds]:
    """Those that its monitors are given, one after the other."""
    return list(dict.fromkeys(life.patience for seat in scenario.seats for life in seat.lives))


def tell(seed: int, process: type[Process] = Process) -> bool:
    """Print everything that happened. Whether all is well."""
    scenario, trace = make(seed), list[str]()
    with surroundings():
        wrong: list[tuple[str, tuple[str, Broker] | None]] = []
        broker = None
        try:
            broker = disturbed(scenario, process, trace)
            wrong = problems(scenario, broker, process)
        except (Failed, Stuck) as error:
            wrong = [(str(error), None)]
    defaults = "; ".join(", ".join(f"{p / 1e6:g}" for p in patience) for patience in _defaults(scenario))
    say(f"seed {seed}: thresholds {defaults} s{', upgraded' if scenario.upgraded else ''}")
    say(f"keeps {scenario.kept or 'everything'}; calm at {scenario.calm_at:g}, ends at {scenario.end:g}")
    for title, spans in (("broker away", scenario.outages), *_suspensions(scenario)):
        if spans:
            say(f"{title}: " + ", ".join(f"{start:.3f}-{end:.3f}" for start, end in spans))
    for n, seat in enumerate(scenario.seats):
        say(f"monitor{n}: {seat.faults}")
    say("\n--- what happened")
    facts = [
        f"{(fact.at - BASE) / 1e6:9.3f}  #{n + 1:<7} {fact.subject} {fact.data.decode()} {fact.headers or ''}"
        f"{'' if fact.good else ' (malformed)'}"
        for n, fact in enumerate(scenario.heartbeats.facts)
    ]
    say("\n".join(sorted([*facts, *trace], key=lambda line: float(line[:9]))))
    if broker:
        say("\n--- recorded")
        _tell_history(broker)
    told = set()
    for _, against in wrong:
        if against and against[0] not in told:
            told.add(against[0])
            say(f"\n--- {against[0]}")
            _tell_history(against[1])
    say("\n--- verdict")
    say("\n".join(problem for problem, _ in wrong) or "all is well")
    return not wrong


def say(line: str) -> None:
    sys.stdout.write(line + "\n")


def fingerprint(seeds: int) -> str:
    """Of everything that happens in the first seeds."""
    content = hashlib.sha256()
    with surroundings():
        for seed in range(seeds):
            trace = list[str]()
            disturbed(make(seed), Process, trace)
            content.update("\n".join(trace).encode())
    return content.hexdigest()


def _suspensions(scenario: Scenario) -> list[tuple[str, list[tuple[float, float]]]]:
    return [(f"monitor{n} suspended", seat.suspended) for n, seat in enumerate(scenario.seats)]


def _tell_history(broker: Broker) -> None:
    for name, changes in sorted(history(broker).items()):
        for change in changes:
            say(f"{name}: {checks.told(change)}")
    for name, facts in sorted(run_history(broker).items()):
        for fact in facts:
            say(f"{name}: {checks.told_run(fact)}")


def tidy(count: int) -> None:
    """Garbage is collected between seeds, which is quicker than within them."""
    if count % 50 == 0:
        gc.collect()
