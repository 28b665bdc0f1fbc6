"""The faults: each breaks a world for so many seconds and leaves everything started again."""

import asyncio
import random
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import nats
from nats.errors import Error as NatsError

from shared.messaging import streams
from tests.faults.network import Spread
from tests.faults.world import Load, World

Fault = Callable[[World, Load, random.Random, float], Awaitable[None]]


async def kills(world: World, load: Load, rng: random.Random, seconds: float) -> None:
    """`kill -9` of any process at any moment; sometimes of two, and some hang before. Each at least once."""
    end, due = time.monotonic() + seconds, rng.sample(list(world.parts), len(world.parts))
    while time.monotonic() < end or due:
        victims = [due.pop() if due else rng.choice(list(world.parts))]
        if rng.random() < 0.25:
            victims.append(rng.choice([name for name in world.parts if name not in victims]))
        for name in victims:
            if name == "nats" or rng.random() < 0.2:  # then something is always on its way to it
                world.parts[name].signal(signal.SIGSTOP)
                await asyncio.sleep(rng.uniform(0.2, 1))
            await world.kill(name)
        await asyncio.sleep(rng.uniform(0, 1.5))
        for name in victims:
            await world.revive(name)
        await asyncio.sleep(rng.uniform(0.2, 2.5))


async def broker_away(world: World, load: Load, rng: random.Random, seconds: float) -> None:
    """Frozen, then stopped in order, then killed; in the full form longer than everybody's threshold."""
    world.parts["nats"].signal(signal.SIGSTOP)
    await asyncio.sleep(seconds / 3)
    world.parts["nats"].signal(signal.SIGCONT)
    await asyncio.sleep(1.5)
    for sig in (signal.SIGTERM, signal.SIGKILL):
        await world.kill("nats", sig)
        await asyncio.sleep(seconds / 3)
        assert await load.try_one() == 503
        await world.revive("nats")
        await asyncio.sleep(1.5)


async def database_away(world: World, load: Load, rng: random.Random, seconds: float) -> None:
    """Frozen, then killed. Heartbeats and judging go on."""
    before = load.ledger.total
    world.parts["mongo"].signal(signal.SIGSTOP)
    await asyncio.sleep(seconds / 2)
    world.parts["mongo"].signal(signal.SIGCONT)
    await asyncio.sleep(1)
    await world.kill("mongo")
    await asyncio.sleep(seconds / 2)
    assert load.ledger.total - before > seconds  # of some sixty a second
    assert world.get_ready("ingest") == world.get_ready("monitor") == 200
    await world.revive("mongo")


async def telegram_misbehaves(world: World, load: Load, rng: random.Random, seconds: float) -> None:
    """Limits, errors, hanging, cut lines, lost answers; in the end one chat is gone for good."""
    modes = [
        {"mode": "429", "retry_after": 2},
        {"mode": "500"},
        {"mode": "cut"},
        {"mode": "lost", "times": 1, "chat": "42"},
        {"mode": "hang", "seconds": seconds / 6},
    ]
    rng.shuffle(modes)
    for mode in modes:
        world.telegram.control(**mode)  # type: ignore[arg-type]
        await load.stir()
        await asyncio.sleep(seconds / 6)
    world.telegram.control("ok")
    world.telegram.control("403", chat="43")
    await asyncio.sleep(seconds / 6)


async def clocks(world: World, load: Load, rng: random.Random, seconds: float) -> None:
    """Of one service after the other, an hour ahead, and back."""
    for name in world.services:
        world.clock(name).write_text("+3600\n")
        await asyncio.sleep(seconds / len(world.services))
        world.clock(name).write_text("+0\n")


async def disk_full(world: World, load: Load, rng: random.Random, seconds: float) -> None:
    """The broker's files meet the end of the disk. Room alone does not bring it back: it is started again."""
    filler = world.store / "filler"
    _fill(filler)
    await load.until_answered(503)
    await asyncio.sleep(seconds)
    assert world.get_ready("ingest") == 503, "ready, though nothing can be stored"
    filler.unlink()
    await world.kill("nats", signal.SIGTERM)
    await world.revive("nats")


def _fill(path: Path) -> None:
    block = bytes(64 * 1024)
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(block)


async def slow_consumers(world: World, load: Load, rng: random.Random, seconds: float) -> None:
    """Fifty times the load, while one reader after the other stands still, and a stranger reads nothing."""
    deaf = socket.create_connection(("127.0.0.1", world.parts["nats"].port))
    deaf.sendall(b'CONNECT {"verbose":false}\r\nSUB > 1\r\n')
    flood = asyncio.create_task(load.flood(3000))
    for name in ("monitor", "api", "notifier"):
        world.parts[name].signal(signal.SIGSTOP)
        await asyncio.sleep(seconds / 3)
        world.parts[name].signal(signal.SIGCONT)
    flood.cancel()
    deaf.close()


async def duplicates(world: World, load: Load, rng: random.Random, seconds: float) -> None:
    """The same ids within the broker's window, which it drops, and after it, which it stores; and events of
    the record again, with their ids."""
    client = await nats.connect(world.nats_url)
    js = client.jetstream()
    info = await js.stream_info(streams.HEARTBEATS)
    config = info.config
    config.duplicate_window = 1.0
    await js.update_stream(config)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name in load.steady[:6]:
            headers = {"Nats-Msg-Id": f"again-{name}"}
            first, second = [await js.publish(streams.heartbeat(name), headers=headers) for _ in range(2)]
            assert second.duplicate, first
        await asyncio.sleep(1.2)
    for name in load.steady[:6]:
        newest = await js.get_last_msg(streams.SERVICES, streams.status(name))
        assert newest.headers
        assert newest.data
        again = await js.publish(
            streams.status(name), newest.data, headers={"Nats-Msg-Id": newest.headers["Nats-Msg-Id"]}
        )
        assert again.duplicate
    await client.close()


async def poison(world: World, load: Load, rng: random.Random, seconds: float) -> None:
    """Noise on every subject that anything here reads."""
    client = await nats.connect(world.nats_url)
    end = time.monotonic() + seconds
    names = [*load.steady[:5], "poison", "a..b", ".", "*", ">", "x" * 200, "naïve", "poison.$SYS"]
    noise = [
        b"{",
        b"\xff\xfe",
        b"[" * 5000,
        b"null",
        b'{"every": "-1s"}',
        rng.randbytes(900_000),
        b'{"every": 1e999}',
    ]
    noise += [b'{"message": 1}', b'{"type": "service.status_changed.v1"}', b'{"open_since": "x"}']
    head = {"Registry-Signal": "explode", "Registry-Exit-Code": "٣"}
    while time.monotonic() < end:
        for name in names:
            subjects = [streams.heartbeat(name), streams.tick(name)]
            if name not in load.steady:
                subjects += [streams.config(name), streams.status(name)]
            for subject in subjects:
                with suppress(NatsError, ValueError):
                    await client.publish(subject, rng.choice(noise), headers=rng.choice([None, head]))
        await client.flush()
        await asyncio.sleep(0.3)
    await client.close()


async def one_of_each_pair(world: World, load: Load, rng: random.Random, seconds: float) -> None:
    """Of two of each service one is killed or hangs, and comes back; never both."""
    end = time.monotonic() + seconds
    kinds = ["monitor", "notifier", "ingest", "api"]
    while time.monotonic() < end or kinds:
        kind = kinds.pop() if kinds else rng.choice(["monitor", "notifier", "ingest", "api"])
        name = rng.choice(world.instances(kind))
        if rng.random() < 0.4:
            world.killed.append(name)  # what hangs for long is relieved, like what was killed
            world.parts[name].signal(signal.SIGSTOP)
            await asyncio.sleep(rng.uniform(1, 3))
            world.parts[name].signal(signal.SIGCONT)
        else:
            await world.kill(name)
            await asyncio.sleep(rng.uniform(0.5, 2))
        await asyncio.sleep(rng.uniform(0.5, 2))
        if not world.parts[name].running:
            await world.revive(name)


async def a_node_of_three(world: World, load: Load, rng: random.Random, seconds: float) -> None:
    """One node of the broker's cluster after the other is killed, whoever leads, and comes back."""
    nodes = [name for name in world.parts if name.startswith("nats")]
    for name in rng.sample(nodes, len(nodes)):
        await world.kill(name)
        await load.until_answered(200)
        await asyncio.sleep(seconds / len(nodes) / 2)
        await world.revive(name)
        await asyncio.sleep(seconds / len(nodes) / 2)


async def network_cut(world: World, load: Load, rng: random.Random, seconds: float) -> None:
    """Of one host after the other nothing more reaches the broker, though clients still reach the host; then
    all cables are drawn at once."""
    assert isinstance(world, Spread)
    broker, database = world.parts["nats"].port, world.parts["mongo"].port
    share = seconds / (len(world.services) + 2)
    for name in rng.sample(world.services, len(world.services)):
        world.network.silence(name, broker)
        await asyncio.sleep(share)
        if name == "ingest":
            assert await load.try_one() == 503
        world.network.mend()
        await asyncio.sleep(0.5)
    world.network.silence("api", database)
    await asyncio.sleep(share)
    world.network.mend()
    for name in world.services:
        world.network.draw(name)
    await asyncio.sleep(share)
    world.network.mend()
