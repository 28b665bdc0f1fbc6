"""The record becomes another one, at any moment, under load; with and without somebody who starts again what
ended. FAULTS=full plays all ways one after the other."""

import asyncio
import json
import random
import re
import signal
from collections.abc import Callable

import httpx
import pytest

from shared.messaging import streams
from tests.broker import eventually
from tests.e2e.system import until
from tests.faults import checks, records
from tests.faults.records import Change
from tests.faults.test_faults import FAULTS, SEED, Note, build, only_full, telegram  # noqa: F401
from tests.faults.world import CHATS, Load, World

READY_WITHIN = 60.0
SAID = re.compile(r"warning.*the record is another one")
NOTICED = re.compile("the record is another one")
UNNOTICED = (
    records.an_older_copy,
    records.heartbeats_purged,
    records.newest_event_removed,
    records.buckets_removed,
)
"""Not by all services: what each knows is still there. (The copy is a moment old: who has looked before that,
and read nothing since, has lost nothing.)"""

pytestmark = pytest.mark.usefixtures("telegram")


def said(world: World, what: re.Pattern[str] = SAID) -> dict[str, int]:
    return {name: len(what.findall(world.parts[name].log.read_text())) for name in world.services}


class Listener:
    """Follows the live events as a browser does, with the id it saw last."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.heard: list[tuple[str, str]] = []
        self._id = ""

    async def __aenter__(self) -> "Listener":
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        async with httpx.AsyncClient(timeout=30) as client:
            while True:
                headers = {"Last-Event-ID": self._id} if self._id else {}
                try:
                    url = self._world.url("api", "/events")
                    async with client.stream("GET", url, headers=headers) as answer:
                        async for line in answer.aiter_lines():
                            if line.startswith("id: "):
                                self._id = line[4:]
                            elif line.startswith("data: "):
                                event = json.loads(line[6:])
                                self.heard.append((event["service"], event["type"]))
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(0.2)


async def change_the_record(
    world: World, load: Load, change: Change, listener: Listener, *, supervised: bool
) -> None:
    """Have the record become another one, and see that all goes on by itself."""
    before, noticed = said(world), said(world, NOTICED)
    paired = len(world.instances("notifier")) > 1
    falls = {name: _falls(world, name) for name in load.steady}
    pids = {name: world.parts[name].pid for name in world.services}
    await load.stir()
    if supervised:
        for name in world.services:
            await world.kill(name, signal.SIGKILL)
    await change(world, load)
    if supervised:
        for name in world.services:
            await world.revive(name)
    await load.until_answered(200)
    newcomer = f"newcomer.{random.randrange(10**9)}"
    load.begin(newcomer)

    async def as_if_nothing_had_happened() -> bool:
        if paired:  # of two that speak, one ends, and is started again by whoever watches it
            for name in world.instances("notifier"):
                if not world.parts[name].running:
                    await world.revive(name)
        found = await checks.statuses(world)
        wanted = [newcomer, *load.steady]
        return all(found.get(name) == "alive" for name in wanted) and all(
            world.get_ready(name) == 200 for name in world.services
        )

    await eventually(as_if_nothing_had_happened, READY_WITHIN)

    def shown() -> bool:
        items = world.api("/services?limit=500").get("items", [])
        found = {it["name"]: it["status"] for it in items}
        return all(found.get(name) == "alive" for name in (newcomer, *load.steady))

    await until(shown, READY_WITHIN)
    await until(lambda: (newcomer, "service.status_changed.v1") in listener.heard, READY_WITHIN)
    await load.until_told({newcomer: "alive"})
    late = load.ledger.late & set(load.steady)
    assert len(late) < len(load.steady), "this machine is too slow: all were late"
    fallen = [name for name in load.steady if name not in late and _falls(world, name) != falls[name]]
    assert not fallen, f"told down, though heard: {[await _story(world, name) for name in fallen]}"
    if not supervised:
        running = {name: world.parts[name].pid for name in world.services}
        if paired:
            running |= {name: pids[name] for name in world.instances("notifier")}
        if change is not records.newest_event_removed:
            assert running == pids
        for name, count in said(world).items():
            if paired and name in world.instances("notifier"):
                continue
            assert count <= before[name] + 1, f"{name} said it {count - before[name]} times"
            assert change in UNNOTICED or said(world, NOTICED)[name] > noticed[name], f"{name} is unaware"
    assert all(world.parts[name].running for name in world.services)


async def _story(world: World, name: str) -> list[str]:
    """What the record holds of a service, in the order of time."""
    of = ((streams.HEARTBEATS, streams.heartbeat(name)), (streams.SERVICES, f"service.*.{name}"))
    found = [it for stream, subject in of for it in await checks.everything(world.nats_url, stream, subject)]
    return [f"{it.at / 1e6:.3f} {it.seq} {it.data.decode()}" for it in sorted(found, key=lambda it: it.at)]


def _falls(world: World, name: str) -> int:
    return sum(
        line.endswith(("silent", "down", "dead")) for chat in CHATS for line, _ in world.lines(name, chat)
    )


async def play(world: World, changes: tuple[Change, ...], note: Note, *, supervised: bool) -> None:
    rng = random.Random(SEED)
    note("seed", SEED)
    world.start()
    async with Load(world, rng, leaving=4) as load, Listener(world) as listener:
        await load.until_told(dict.fromkeys((*load.steady, *load.leaving), "alive"))
        await records.keep_a_copy(world)
        await load.until_answered(200)
        for change in changes:
            began = asyncio.get_running_loop().time()
            await change_the_record(world, load, change, listener, supervised=supervised)
            note(change.__name__, round(asyncio.get_running_loop().time() - began, 1))
        await load.leave(*load.leaving)
        gone = dict.fromkeys(load.leaving, "down")

        async def are_down() -> bool:
            found = await checks.statuses(world)
            return all(found.get(name) == "down" for name in gone)

        await eventually(are_down, 40)
        await load.until_told(gone)
    for kind in ("ingest", "monitor"):
        for name in world.instances(kind):
            await asyncio.to_thread(world.parts[name].kill)
        await asyncio.sleep(0.5)
    record = await checks.Record.read(world)
    checks.each_change_is_one_event(record, from_its_start=records.events_purged not in changes)
    await checks.read_models_equal_a_rebuild(world, record)


SHORT = (records.an_older_copy, records.emptied)


async def test_the_record_becomes_another_one(build: Callable[..., World], record_property: Note) -> None:  # noqa: F811
    await play(build(), records.CHANGES if FAULTS else SHORT, record_property, supervised=False)


@only_full
async def test_the_record_becomes_another_one_while_all_is_restarted(
    build: Callable[..., World],  # noqa: F811
    record_property: Note,
) -> None:
    await play(build(), records.CHANGES, record_property, supervised=True)


PAIRED = (records.an_older_copy, records.emptied, records.events_purged, records.buckets_removed)


@only_full
async def test_the_record_becomes_another_one_under_two_of_each(
    build: Callable[..., World],  # noqa: F811
    record_property: Note,
) -> None:
    await play(build(pairs=True), PAIRED, record_property, supervised=False)
