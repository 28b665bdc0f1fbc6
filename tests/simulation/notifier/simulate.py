"""One seed of the notifier from its scenario to its verdict, and the same told at length."""

from tests.simulation.clock import Stuck
from tests.simulation.notifier import checks
from tests.simulation.notifier.run import Played, Process, disturbed, surroundings
from tests.simulation.notifier.scenario import Scenario, make
from tests.simulation.run import Failed
from tests.simulation.simulate import say


def simulate(seed: int, process: type[Process] = Process) -> list[str]:
    """What is wrong with the notifier, as this seed shows it; nothing, if all is well."""
    try:
        return checks.problems(disturbed(make(seed), process))
    except (Failed, Stuck) as error:
        return [str(error)]


def tell(seed: int, process: type[Process] = Process) -> bool:
    """Print everything that happened. Whether all is well."""
    scenario, trace = make(seed), list[str]()
    with surroundings():
        try:
            wrong = checks.problems(disturbed(scenario, process, trace))
        except (Failed, Stuck) as error:
            wrong = [str(error)]
    _tell_scenario(scenario)
    say("\n--- what happened")
    say("\n".join(trace))
    say("\n--- verdict")
    say("\n".join(wrong) or "all is well")
    return not wrong


def _tell_scenario(scenario: Scenario) -> None:
    say(f"seed {scenario.seed}: from {scenario.start:.3f} to {scenario.end:.3f}")
    say(f"calm from {scenario.calm_at:.3f} on")
    say(f"digest {scenario.digest} {scenario.zone}, week's {scenario.weekly}; reminders {scenario.reminders}")
    say(f"broker away: {scenario.outages}; Telegram: {scenario.troubles}")
    for phone in scenario.phones:
        configured = "configured" if phone.address in scenario.configured else "not configured"
        say(f"chat {phone.address}, {configured}, moves at {phone.moves_at}: {phone.troubles}")
    for n, seat in enumerate(scenario.seats):
        say(f"notifier n{n}: suspended {seat.suspended}, {seat.faults}")


def fingerprint(seeds: int) -> str:
    """Of everything that happens in the first seeds."""
    with surroundings():
        traces = [_trace(seed) for seed in range(seeds)]
    return "\n".join(traces)


def _trace(seed: int) -> str:
    trace = list[str]()
    disturbed(make(seed), Process, trace)
    return "\n".join(trace)


__all__ = ["Played", "fingerprint", "simulate", "tell"]
