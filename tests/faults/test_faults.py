"""Each fault under a steady load, then everything that always holds. The short form of some of it is part of
`make test`; `make faults` runs it all. FAULTS_SEED plays the same again."""

import asyncio
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.broker import eventually
from tests.faults import checks, faults
from tests.faults.faults import Fault
from tests.faults.network import Network, Spread
from tests.faults.world import CHATS, Load, World
from tests.telegram_standin import Standin

FAULTS = os.environ.get("FAULTS")
"""`full`: all of them, each as long as it should; `all`: all of them, but short; else some, short."""
SEED = int(os.environ.get("FAULTS_SEED") or random.randrange(10**6))
READY_WITHIN = 30.0
Note = Callable[[str, object], None]

only_full = pytest.mark.skipif(not FAULTS, reason="part of `make faults`")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def telegram() -> Iterator[Standin]:
    with Standin(chats=CHATS) as standin:
        yield standin


@pytest.fixture
def build(tmp_path: Path, telegram: Standin) -> Iterator[Callable[..., World]]:
    with ExitStack() as stack:

        def build(kind: type[World] = World, **variables: object) -> World:
            world = kind(tmp_path, telegram, **variables)  # type: ignore[arg-type]
            stack.callback(world.stop)
            return world

        yield build


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[None]:
    """Under the broker's files."""
    store = tmp_path / "nats"
    store.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "registry-test", store], check=True)
    yield
    subprocess.run(["umount", "--lazy", store], check=True)


async def endure(
    world: World, fault: Fault, seconds: float, note: Note, *, chats: tuple[str, ...] = CHATS, lost: int = 0
) -> None:
    """Half of those that leave do so just before the fault, the others during it. `chats`: those that are
    told to the end. `lost`: answers of Telegram that were lost."""
    rng = random.Random(SEED)
    note("seed", SEED)
    world.start()
    async with Load(world, rng) as load:
        gone = {name: "down" for name in load.leaving}
        await load.until_told({name: "alive" for name in (*load.steady, *load.leaving)})
        await load.leave(*load.leaving[::2])
        leaving = load.leave_at_times(load.leaving[1::2], seconds)
        await asyncio.gather(fault(world, load, rng, seconds), leaving)
        note("ready after, s", round(await world.ready_within(READY_WITHIN), 1))
        ended = time.monotonic()

        async def are(wanted: dict[str, str]) -> bool:
            found = await checks.statuses(world)
            return all(found.get(name) == status for name, status in wanted.items())

        await eventually(partial(are, gone), within=60)
        note("falls found after, s", round(time.monotonic() - ended, 1))
        await load.until_told(gone, chats)
        for name in load.leaving[:3]:
            load.begin(name)
            gone[name] = "alive"
        await eventually(partial(are, gone), within=60)
        await load.until_told(gone, chats)
    # Or all would fall silent now, while they are compared: no ticks any more, and the last one is judged.
    for kind in ("ingest", "monitor"):
        for name in world.instances(kind):
            await asyncio.to_thread(world.parts[name].kill)
        await asyncio.sleep(0.5)
    record = await checks.Record.read(world)
    note("heartbeats", checks.nothing_acknowledged_is_missing(load, record))
    note("refused", load.ledger.refused + sum(n for code, n in load.ledger.answers.items() if code != 200))
    note("changes", checks.each_change_is_one_event(record))
    checks.every_fall_is_true_and_none_is_missing(load, record)
    repeats = checks.every_chat_was_told_once(load, record, chats)
    kills = sum(name.startswith("notifier") for name in world.killed)
    note("repeats", repeats)
    assert repeats <= (kills + lost) * len(CHATS), f"{repeats} repeats by {kills} kills"
    await checks.read_models_equal_a_rebuild(world, record)
    if world.store.exists():
        await checks.history_follows_from_the_stream(world, record, world.store)
    note("kills", len(world.killed))


def seconds(full: float, short: float) -> float:
    return full if FAULTS == "full" else short


async def test_any_process_is_killed_at_any_moment(
    build: Callable[..., World], record_property: Note
) -> None:
    await endure(build(), faults.kills, seconds(120, 12), record_property)


@only_full
async def test_the_broker_stops_and_comes_back(build: Callable[..., World], record_property: Note) -> None:
    await endure(build(), faults.broker_away, seconds(30, 6), record_property)


@only_full
async def test_the_database_is_frozen_and_killed(build: Callable[..., World], record_property: Note) -> None:
    await endure(build(), faults.database_away, seconds(120, 6), record_property)


@only_full
async def test_telegram_misbehaves(build: Callable[..., World], record_property: Note) -> None:
    await endure(build(), faults.telegram_misbehaves, seconds(60, 12), record_property, chats=("42",), lost=4)


_FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


@only_full
@pytest.mark.skipif(_FAKETIME is None, reason="libfaketime is not installed")
async def test_the_clock_of_a_service_jumps(build: Callable[..., World], record_property: Note) -> None:
    world = build()
    world.fake_clocks(str(_FAKETIME))
    await endure(world, faults.clocks, seconds(40, 8), record_property)


@only_full
@needs_root
async def test_the_disk_under_the_broker_is_full(
    small_disk: None, build: Callable[..., World], record_property: Note
) -> None:
    await endure(build(), faults.disk_full, seconds(10, 3), record_property)


@only_full
async def test_readers_stand_still_under_fifty_times_the_load(
    build: Callable[..., World], record_property: Note
) -> None:
    await endure(build(), faults.slow_consumers, seconds(15, 6), record_property)


@only_full
async def test_duplicates_within_and_outside_of_the_window(
    build: Callable[..., World], record_property: Note
) -> None:
    await endure(build(), faults.duplicates, seconds(12, 3), record_property)


@only_full
async def test_poison(build: Callable[..., World], record_property: Note) -> None:
    await endure(build(), faults.poison, seconds(12, 4), record_property)


@only_full
async def test_one_of_each_pair(build: Callable[..., World], record_property: Note) -> None:
    await endure(build(pairs=True), faults.one_of_each_pair, seconds(60, 10), record_property)


@only_full
async def test_a_node_of_the_brokers_cluster_is_killed(
    build: Callable[..., World], record_property: Note
) -> None:
    await endure(build(cluster=True), faults.a_node_of_three, seconds(45, 9), record_property)


@pytest.fixture
def network() -> Iterator[Network]:
    network = Network()
    yield network
    network.close()


@only_full
@needs_root
@pytest.mark.skipif(not (shutil.which("ip") and shutil.which("iptables")), reason="needs ip and iptables")
async def test_the_network_between_services_is_cut(
    network: Network, tmp_path: Path, record_property: Note
) -> None:
    with Standin(chats=CHATS, host=network.middle) as telegram:
        world = Spread(tmp_path, telegram, network=network)
        try:
            await endure(world, faults.network_cut, seconds(60, 12), record_property)
        finally:
            world.stop()
