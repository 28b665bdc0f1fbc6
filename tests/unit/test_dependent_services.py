"""`depends_on`: whose fall is held back while what it depends on is down, and when it is told after all."""

from datetime import timedelta

import pytest

from services.notifier.alerting.dependencies import Dependencies, own_silent_after
from services.notifier.states import ServiceStates
from shared.contracts.events import Status
from shared.domain.service_state import ServiceState
from tests.notified import ALIVE, DAY, DEAD, DOWN, HOUR, MINUTE, SECOND, SILENT, World

OWED_DOWN = ["owed: down"]
GRACE = 15 * MINUTE
"""The silent_after of every service here."""


async def world(*, chats: int = 1) -> World:
    """`web` depends on `db`, and that on `router`."""
    it = World(chats, ())
    it.register("router")
    it.register("db", depends_on=("router",))
    it.register(depends_on=("db",))
    it.register("other")
    await it.start()
    return it


@pytest.mark.parametrize("parent", ["db", "router"])
@pytest.mark.parametrize("steps", [(DOWN,), (SILENT, DOWN), (SILENT, DOWN, DEAD)])
async def test_a_fall_is_not_told_while_what_it_depends_on_is_down(
    parent: str, steps: tuple[Status, ...]
) -> None:
    it = await world()
    await it.then(DOWN, name=parent)
    for to in steps:
        await it.then(to)
    await it.restart()
    await it.passes(3 * HOUR, 30)
    assert it.told() == []
    await it.then(ALIVE)
    await it.then(ALIVE, name=parent)
    await it.passes(HOUR, 10)
    assert it.told() == []
    first = "owed: down" if parent == "db" else "down"
    assert it.told(name=parent) == [first, "alive"]


@pytest.mark.parametrize("off", [False, True])
async def test_what_is_still_down_when_its_own_silent_after_is_over_is_told(off: bool) -> None:
    it = await world()
    await it.then(DOWN, name="db")
    await it.then(DOWN)
    await it.then(ALIVE, HOUR, "db")
    if off:
        await it.restart()
    await it.passes(GRACE - SECOND, 10)
    assert it.told() == []
    if off:
        it.stop()
    it.now += SECOND
    await it.restart() if off else await it.settle()
    assert it.told() == OWED_DOWN
    await it.then(ALIVE)
    assert it.told() == [*OWED_DOWN, "alive"]


async def test_what_became_down_after_the_parents_return_waits_too_if_it_was_silent_before() -> None:
    it = await world()
    await it.then(DOWN, name="db")
    await it.then(SILENT)
    await it.then(ALIVE, name="db")
    await it.then(DOWN)
    await it.passes(GRACE - 2 * MINUTE, 10)
    assert it.told() == []
    await it.passes(MINUTE)
    assert it.told() == OWED_DOWN


@pytest.mark.parametrize("late", [False, True])
async def test_what_falls_in_the_same_tick_is_held_back_whatever_comes_first(late: bool) -> None:
    it = await world()
    it.change(DOWN, since=it.now - 20 * MINUTE if late else None)
    await it.settle()
    it.now += SECOND
    it.change(DOWN, "db")
    await it.passes(HOUR, 10)
    assert it.told() == []
    await it.then(ALIVE, name="db")
    await it.passes(GRACE - SECOND, 10)
    assert it.told() == []
    await it.passes(SECOND)
    assert it.told() == OWED_DOWN


@pytest.mark.parametrize("to", [SILENT, DOWN])
async def test_it_waits_no_longer_than_that_for_what_does_not_fall(to: Status) -> None:
    it = await world()
    await it.then(to)
    assert it.told() == []
    await it.passes(2 * SECOND - timedelta(microseconds=1))
    assert it.told() == []
    await it.passes(timedelta(microseconds=1))
    assert it.told() == [f"owed: {to}"]
    assert "web: alive → " in it.texts[0]
    await it.then(ALIVE)
    assert it.told() == [f"owed: {to}", "alive"]


@pytest.mark.parametrize("it_is", ["without parents", "of parents that do not exist", "of paused parents"])
async def test_others_are_told_at_once(it_is: str) -> None:
    it = await world()
    if it_is == "without parents":
        it.register()
    elif it_is == "of paused parents":
        for name in ("db", "router"):
            it.register(name, paused=True)
    else:
        it.register(depends_on=("db", "nobody"))
        it.delete("db")
    await it.then(DOWN)
    assert it.told() == ["down"]


async def test_a_recovery_of_a_told_fall_is_told_at_once() -> None:
    it = await world()
    await it.then(DOWN)
    await it.passes(MINUTE)
    await it.then(DOWN, name="db")
    await it.then(DEAD)
    await it.then(ALIVE)
    assert it.told() == [*OWED_DOWN, "alive"]


async def test_what_falls_after_the_return_is_told() -> None:
    it = await world()
    await it.then(DOWN, name="db")
    await it.then(ALIVE, name="db")
    await it.then(DOWN)
    await it.passes(2 * SECOND)
    assert it.told() == OWED_DOWN


@pytest.mark.parametrize("what", ["deleted", "paused", "not depended on any more"])
async def test_a_parent_that_counts_no_more_holds_nothing_back(what: str) -> None:
    it = await world()
    await it.then(DOWN, name="db")
    await it.then(DOWN)
    await it.passes(MINUTE)
    assert it.told() == []
    if what == "deleted":
        it.delete("db")
    elif what == "paused":
        it.register("db", paused=True, depends_on=("router",))
    else:
        it.register()
    await it.settle()
    assert it.told() == OWED_DOWN


async def test_a_parent_that_is_resumed_and_still_down_holds_back_what_falls_then() -> None:
    it = await world()
    await it.then(DOWN, name="db")
    it.register("db", paused=True)
    it.register("db")
    await it.then(DOWN)
    await it.passes(HOUR)
    assert it.told() == []


async def test_it_is_held_back_until_the_last_of_them_is_back() -> None:
    it = await world()
    await it.then(DOWN, name="db")
    await it.then(DOWN, name="router")
    await it.then(DOWN)
    await it.then(ALIVE, name="db")
    await it.passes(HOUR, 10)
    assert it.told() == []
    await it.then(ALIVE, name="router")
    await it.passes(GRACE)
    assert it.told() == OWED_DOWN


async def test_reminders_of_what_was_told_before_wait_as_well() -> None:
    it = World(1, (HOUR, DAY))
    it.register("db")
    it.register(depends_on=("db",))
    await it.start()
    await it.then(DOWN)
    await it.passes(5 * MINUTE, 5)
    await it.then(DOWN, name="db")
    await it.passes(2 * HOUR, 10)
    assert it.told() == OWED_DOWN
    await it.then(ALIVE, name="db")
    await it.passes(GRACE, 5)
    assert it.told() == [*OWED_DOWN, *OWED_DOWN]


# --- what is said of them


async def test_the_message_of_a_parent_counts_what_depends_on_it() -> None:
    it = await world()
    it.change(SILENT)
    it.change(DOWN, "db")
    it.change(DOWN, "router")
    await it.settle()
    assert "\n2 that depend on it are down too\n" in it.texts[0]
    await it.then(ALIVE)
    await it.then(ALIVE, name="router")
    assert "still down and held back: db" in it.texts[-1]


async def test_nothing_is_said_of_what_is_well_or_paused() -> None:
    it = await world()
    it.register("db", paused=True, depends_on=("router",))
    await it.then(DOWN, name="db")
    await it.then(DOWN, name="router")
    await it.then(ALIVE, name="router")
    assert len(it.texts) == 2
    assert not any("depend" in text or "held" in text for text in it.texts)


async def test_what_is_named_is_bounded() -> None:
    it = World(1, ())
    it.register("router")
    names = [f"s{n:02}" for n in range(30)]
    for name in names:
        it.register(name, depends_on=("router",))
    await it.start()
    for name in ("router", *names):
        it.change(DOWN, name)
    await it.settle()
    assert "30 that depend on it are down too" in it.texts[0]
    await it.then(ALIVE, name="router")
    assert "held back: s00, s01, s02, s03, s04 and 25 more" in it.texts[-1]


# --- which


def test_circles_and_many_ancestors_come_to_an_end() -> None:
    states = ServiceStates()
    found = Dependencies(states, lambda _: GRACE)
    for n in range(3000):
        _configure(states, f"s{n}", f"s{n + 1}")
    _configure(states, "s3000", "s0")
    assert len(list(found._ancestors("s0"))) == 1000
    assert len(list(found.descendants("s0"))) == 3000


def _configure(states: ServiceStates, name: str, *parents: str) -> None:
    state = ServiceState(name, config_seq=1, exists=True, depends_on=parents)
    states._by_name[name] = state
    for watcher in states.watchers:
        watcher(name)


def test_the_threshold_in_force_is_that_of_its_interval_or_its_own() -> None:
    silent_after = own_silent_after((15 * MINUTE, HOUR, DAY))
    hour = HOUR // timedelta(microseconds=1)
    assert silent_after(ServiceState("a")) == 15 * MINUTE
    assert silent_after(ServiceState("a", every=hour)) == 2 * HOUR
    assert silent_after(ServiceState("a", silent_after=3 * hour)) == 3 * HOUR


async def test_a_fall_that_is_read_after_the_return_waits_as_well() -> None:
    it = await world()
    it.stop()
    it.change(DOWN, "db")
    it.now += MINUTE
    it.change(DOWN)
    it.now += HOUR
    it.change(ALIVE, "db")
    await it.restart()
    await it.passes(GRACE - SECOND, 5)
    assert it.told() == []
    await it.passes(SECOND)
    assert it.told() == OWED_DOWN
