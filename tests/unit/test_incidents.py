"""What a change means after those before it: flapping, calming down, reminders."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from services.notifier.fleet import Fleet
from services.notifier.incidents import CALM, Incidents, Meaning, Notice
from shared.events import (
    ConfigData,
    ServiceConfig,
    ServiceDeleted,
    ServiceRegistered,
    Status,
    StatusChanged,
    StatusData,
    status_changed,
)
from shared.maintenance import Window, hushed_until

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
UNKNOWN, ALIVE, SILENT, DOWN, DEAD = Status
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
REMINDERS = (HOUR, 6 * HOUR, DAY)


class World:
    """A fleet of `web`, and what is told of it."""

    def __init__(self, reminders: tuple[timedelta, ...] = REMINDERS) -> None:
        self.fleet = Fleet()
        self.windows: dict[str, Window] = {}
        self.incidents = Incidents(
            self.fleet, reminders, lambda name, at: hushed_until(self.windows.values(), name, (), at)
        )
        self.seq = 0
        self.register()

    def register(self, **config: bool) -> None:
        self.seq += 1
        data = ConfigData(config=ServiceConfig(**config), registered_at=NOW - DAY)
        event = ServiceRegistered(id=f"r{self.seq}", source="/test", subject="web", time=NOW, data=data)
        self.fleet.take(event, self.seq, NOW)

    def change(self, from_: Status, to: Status, at: timedelta) -> Meaning:
        self.seq += 1
        event = changed(from_, to, at)
        meaning = self.incidents.take(event, self.seq)
        self.fleet.take(event, self.seq, NOW)
        self.incidents.watch("web", event.data.since)
        return meaning

    def walk(self, *path: Status, every: timedelta = MINUTE, start: timedelta = timedelta()) -> list[Meaning]:
        return [self.change(a, b, start + n * every) for n, (a, b) in enumerate(pairwise(path))]

    def due(self, at: timedelta) -> list[Notice]:
        return list(self.incidents.due(NOW + at))

    def window(self, id_: str, at: timedelta, until: timedelta | None) -> None:
        """Open since an hour before NOW, and set anew at a moment; None: it is deleted."""
        before = self.windows.pop(id_, None)
        if until is not None:
            self.windows[id_] = Window(services=("web",), starts_at=NOW - HOUR, ends_at=NOW + until)
        if before:
            self.incidents.freed(before, NOW + at)


def changed(from_: Status, to: Status, at: timedelta) -> StatusChanged:
    data = StatusData(from_=from_, to=to, since=NOW + at, last_heartbeat=None, reason="test")
    return status_changed("web", data)


TOLD, FLAPS, NOT_TOLD = Meaning(), Meaning(flaps=4), Meaning(told=False)


def test_the_fourth_turn_within_an_hour_is_flapping_and_then_nothing_is_told() -> None:
    ways = World().walk(ALIVE, DOWN, ALIVE, DOWN, ALIVE, DOWN, ALIVE)
    assert ways == [TOLD, TOLD, TOLD, FLAPS, NOT_TOLD, NOT_TOLD]
    assert World().walk(ALIVE, DOWN, ALIVE, DOWN, ALIVE, every=20 * MINUTE)[-1] == FLAPS
    assert World().walk(ALIVE, DOWN, ALIVE, DOWN, ALIVE, every=21 * MINUTE)[-1] == TOLD


def test_falling_further_and_the_first_heartbeat_are_no_turns() -> None:
    life = (UNKNOWN, ALIVE, SILENT, DOWN, DEAD, ALIVE, SILENT, DOWN, DEAD, ALIVE)
    assert World().walk(*life) == [*[TOLD] * 8, FLAPS]


def test_it_is_over_after_half_an_hour_without_a_change_and_said_once() -> None:
    world = World(reminders=())
    world.walk(ALIVE, DOWN, ALIVE, DOWN, ALIVE, DOWN)
    last = 4 * MINUTE
    assert world.due(last + CALM - MINUTE) == []
    (notice,) = world.due(last + CALM)
    assert (notice.status, notice.since, notice.flapped) == (DOWN, NOW + last, 5)
    assert world.due(last + 2 * CALM) == []
    assert world.change(DOWN, ALIVE, last + CALM) == TOLD
    assert world.walk(ALIVE, DOWN, ALIVE, DOWN, start=last + CALM + MINUTE) == [TOLD, TOLD, FLAPS]


def test_a_change_while_it_flaps_puts_the_outcome_off() -> None:
    world = World(reminders=())
    world.walk(ALIVE, DOWN, ALIVE, DOWN, ALIVE)
    world.change(ALIVE, DOWN, 20 * MINUTE)
    assert world.due(20 * MINUTE + CALM - MINUTE) == []
    assert [it.status for it in world.due(20 * MINUTE + CALM)] == [DOWN]


def test_a_change_that_is_read_again_means_what_it_meant() -> None:
    world = World()
    path = (ALIVE, DOWN, ALIVE, DOWN, ALIVE, DOWN)
    first = world.walk(*path)
    again = [
        world.incidents.take(changed(a, b, n * MINUTE), n + 2) for n, (a, b) in enumerate(pairwise(path))
    ]
    assert again == first
    assert len(world.due(DAY)) > 0


def test_reminders_come_after_an_hour_six_hours_and_then_daily() -> None:
    world = World()
    world.change(SILENT, DOWN, timedelta())
    found = []
    for minute in range(1, 4 * 24 * 60):
        found += [(it.at - NOW, timedelta(minutes=minute)) for it in world.due(minute * MINUTE)]
    assert [at for at, _ in found] == [HOUR, 6 * HOUR, DAY, 2 * DAY, 3 * DAY]
    assert all(at == noticed for at, noticed in found)


def test_of_the_reminders_missed_only_the_newest_is_told() -> None:
    world = World()
    world.change(SILENT, DOWN, timedelta())
    assert [it.at - NOW for it in world.due(2 * DAY + HOUR)] == [2 * DAY]
    assert [it.at - NOW for it in world.due(3 * DAY)] == [3 * DAY]
    late = World()
    late.change(SILENT, DOWN, timedelta())
    late.incidents._coming.clear()
    late.incidents.watch("web", NOW + 7 * HOUR)
    assert [it.at - NOW for it in late.due(DAY)] == [DAY]


@pytest.mark.parametrize("what", ["recovered", "dead", "paused", "hushed", "deleted"])
def test_no_reminder_of_what_is_not_down_or_not_to_be_told(what: str) -> None:
    world = World()
    world.change(SILENT, DOWN, timedelta())
    if what in ("recovered", "dead"):
        world.change(DOWN, ALIVE if what == "recovered" else DEAD, MINUTE)
    elif what == "deleted":
        event = ServiceDeleted(id="d", source="/test", subject="web", time=NOW)
        world.fleet.take(event, 99, NOW)
    else:
        world.register(**{"paused": True} if what == "paused" else {"notify": False})
    assert world.due(7 * DAY) == []


def test_no_reminders_at_all() -> None:
    world = World(reminders=())
    world.change(SILENT, DOWN, timedelta())
    assert world.due(30 * DAY) == []


def test_what_did_not_change_for_long_is_forgotten() -> None:
    world = World()
    world.walk(ALIVE, DOWN, ALIVE)
    world.incidents.forget(NOW)
    assert world.incidents._recent
    world.incidents.forget(NOW + HOUR)
    assert not world.incidents._recent


def fallen_within(**windows: timedelta) -> World:
    world = World(reminders=())
    for id_, until in windows.items():
        world.window(id_, timedelta(), until)
    world.change(SILENT, DOWN, timedelta())
    return world


@pytest.mark.parametrize(
    ("until", "told"),
    [(10 * MINUTE, 10 * MINUTE), (90 * MINUTE, 90 * MINUTE), (2 * MINUTE, 5 * MINUTE), (None, 5 * MINUTE)],
    ids=["shortened", "lengthened", "ended", "deleted"],
)
def test_a_window_set_anew_tells_when_it_is_over_and_once(until: timedelta | None, told: timedelta) -> None:
    world = fallen_within(w=HOUR)
    world.window("w", 5 * MINUTE, until)
    assert world.due(told - MINUTE) == []
    assert [it.at - NOW for it in world.due(told)] == [told]
    assert world.due(2 * DAY) == []


def test_a_window_taken_back_tells_nothing_while_another_is_open() -> None:
    world = fallen_within(w=HOUR, v=20 * MINUTE)
    world.window("w", 5 * MINUTE, None)
    assert world.due(19 * MINUTE) == []
    assert [it.at - NOW for it in world.due(20 * MINUTE)] == [20 * MINUTE]
    assert world.due(2 * DAY) == []


def test_a_window_that_is_over_and_then_deleted_tells_nothing_again() -> None:
    world = fallen_within(w=HOUR)
    assert len(world.due(HOUR)) == 1
    world.window("w", 2 * HOUR, None)
    assert world.due(2 * DAY) == []
