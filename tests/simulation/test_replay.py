"""Made-up disasters, replayed: what the monitor recorded in them follows from the record once more, and the
same configuration makes no difference."""

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from unittest.mock import patch
from zoneinfo import ZoneInfo

import pytest

from services.monitor.domain import epochs, runs
from services.replay.history import History
from services.replay.messages import Rules
from services.replay.run import Plan, Result, replay
from services.replay.statuses import LifecycleReplay
from shared.contracts.events import MICRO, ConfigData, ServiceDeleted
from shared.contracts.routes import Routes
from shared.messaging.reader import Stored
from tests.simulation.model import BASE, Broker
from tests.simulation.run import disturbed, surroundings
from tests.simulation.scenario import Scenario, make

SEEDS = 60
ODD = 0.04
"""The part of the services of which the record need not explain all, where each heartbeat is kept: what was
configured in the very microsecond of a heartbeat, or while the broker was away. It says so then."""
LIKE_NONE = Routes.model_validate({"routes": [{"to": ["ops", "ana"]}]})
"""As if there were none, but everything that is told has to be gone through."""


@pytest.fixture(autouse=True)
def made_up() -> Iterator[None]:
    with surroundings():
        yield


@cache
def played() -> list[tuple[Scenario, Broker]]:
    """Those in which nothing of the streams is lost."""
    with surroundings():
        scenarios = [make(seed) for seed in range(SEEDS)]
        whole = [
            it
            for it in scenarios
            if it.kept is None and not any(life.puts_back for seat in it.seats for life in seat.lives)
        ]
        return [(scenario, disturbed(scenario)) for scenario in whole]


def history_of(scenario: Scenario, broker: Broker, *, only_newest: bool) -> History:
    """`only_newest`: of the heartbeats of each service one is kept; gaps and runs tell of the others."""
    history, facts = History(begin=1), scenario.heartbeats.facts
    newest = {fact.subject: n for n, fact in enumerate(facts)}
    for message in (*broker.events, *broker.runs):
        history.add(message)
    for n, fact in enumerate(facts):
        if not only_newest or fact.subject.startswith("tick.") or newest[fact.subject] == n:
            history.add(Stored(fact.subject, fact.data, fact.headers, n + 1, fact.at, 0))
    return history


def replayed(*, only_newest: bool, channels: tuple[str, ...] = ("ops", "ana")) -> Iterator[Result]:
    """Each with the configuration of the services that had one all the time, and all of them with routes."""
    for scenario, broker in played():
        history = history_of(scenario, broker, only_newest=only_newest)
        known = epochs.load(broker.kv["epochs"])
        silent, down, dead = (length * MICRO for length in known[-1].default)
        rules = Rules(channels, ZoneInfo("UTC"), (silent, down, dead), (timedelta(seconds=5),))
        plan = Plan(dict(_unchanged(history)), LIKE_NONE)
        yield replay(history, plan, rules, known, BASE, history.ticks())


def _unchanged(history: History) -> Iterator[tuple[str, ConfigData]]:
    for name, known in history.services.items():
        given = [event.data for _, _, event in known.configuration() if not isinstance(event, ServiceDeleted)]
        configs = {data.config.model_copy(update={"paused": False}).model_dump_json() for data in given}
        if len(configs) == 1:
            yield name, given[-1]


@pytest.mark.parametrize("only_newest", [False, True])
def test_the_same_configuration_is_no_difference(only_newest: bool) -> None:
    count = Counter[str]()
    for result in replayed(only_newest=only_newest):
        assert result.differences == []
        assert result.falls[0] == result.falls[1]
        assert result.messages[0] == result.messages[1]
        count.update(falls=result.falls[0], messages=result.messages[0])
    assert count["falls"] > 100
    assert count["messages"] > 100


def unexplained() -> float:
    """The part of the services whose recorded changes do not follow from what is known."""
    results = list(replayed(only_newest=False))
    return sum(len(result.unknown) for result in results) / sum(result.services for result in results)


def test_what_was_recorded_follows_from_the_record() -> None:
    assert unexplained() <= ODD


def test_of_a_lifecycle_that_is_another_one_it_is_said_that_it_explains_nothing() -> None:
    """The guard of the test above: what a run that has not ended leads to is forgotten."""
    with patch.object(runs, "due_fact", lambda *_: None):
        assert unexplained() > ODD
    with patch.object(LifecycleReplay, "_begin_epoch", lambda *_: None):
        assert unexplained() > ODD
