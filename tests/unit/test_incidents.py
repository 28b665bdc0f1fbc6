"""When reminders come due."""

from datetime import timedelta

import pytest

from tests.notified import ALIVE, DAY, DEAD, DOWN, HOUR, MINUTE, NOW, World


async def fallen(reminders: tuple[timedelta, ...] = (HOUR, 6 * HOUR, DAY)) -> World:
    world = World(reminders=reminders)
    world.register()
    await world.start()
    world.change(DOWN)
    return world


async def test_reminders_come_after_an_hour_six_hours_and_then_daily() -> None:
    world, found = await fallen(), []
    for minute in range(1, 4 * 24 * 60):
        at = NOW + timedelta(minutes=minute)
        found += [(it.at - NOW, at - NOW) for it in world.reminders.due(at)]
    assert [at for at, _ in found] == [HOUR, 6 * HOUR, DAY, 2 * DAY, 3 * DAY]
    assert all(at == noticed for at, noticed in found)


async def test_of_the_reminders_missed_only_the_newest_is_told() -> None:
    world = await fallen()
    assert [it.at - NOW for it in world.reminders.due(NOW + 2 * DAY + HOUR)] == [2 * DAY]
    assert [it.at - NOW for it in world.reminders.due(NOW + 3 * DAY)] == [3 * DAY]


@pytest.mark.parametrize("what", ["recovered", "dead", "deleted"])
async def test_no_reminder_of_what_is_not_down(what: str) -> None:
    world = await fallen()
    world.delete() if what == "deleted" else world.change(ALIVE if what == "recovered" else DEAD)
    assert list(world.reminders.due(NOW + 7 * DAY)) == []


async def test_no_reminders_at_all() -> None:
    world = await fallen(reminders=())
    assert list(world.reminders.due(NOW + 30 * DAY)) == []


async def test_a_reminder_is_told_once_whoever_restarts_when() -> None:
    world = await fallen()
    world.register("job")
    await world.passes(50 * MINUTE)
    await world.restart()
    world.stop()
    await world.passes(30 * MINUTE)
    await world.start()
    await world.settle()
    await world.restart()
    assert world.told() == ["down", "reminder: down"]
