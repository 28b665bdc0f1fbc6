"""The ways in which a broker's record becomes another one under running services."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import nats
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from shared.messaging import streams
from tests.faults.world import Load, World
from tests.servers import free_port

Change = Callable[[World, Load], Awaitable[None]]


async def keep_a_copy(world: World) -> None:
    """Of the broker's files, as they are now. The broker is killed for it, so that they are whole."""
    await world.kill("nats")
    copy = _copy(world)
    shutil.rmtree(copy, ignore_errors=True)
    await asyncio.to_thread(shutil.copytree, world.store, copy)
    await world.revive("nats")


def _copy(world: World) -> Path:
    return world.folder / "copy-of-nats"


async def _replace_store(world: World, new: Path | None) -> None:
    await world.kill("nats")
    await asyncio.to_thread(shutil.rmtree, world.store)
    if new:
        await asyncio.to_thread(shutil.copytree, new, world.store)


async def emptied(world: World, load: Load) -> None:
    """All of the broker's files are gone."""
    await _replace_store(world, None)
    await world.revive("nats")


async def an_older_copy(world: World, load: Load) -> None:
    """The files of a while ago are put back."""
    await _replace_store(world, _copy(world))
    await world.revive("nats")


async def an_older_copy_that_went_on(world: World, load: Load) -> None:
    """The same; and before the services can reach it again, it holds as much as before."""
    before = {name: await _last(world, name) for name in (streams.HEARTBEATS, streams.SERVICES)}
    await _replace_store(world, _copy(world))
    broker = world.parts["nats"]
    port, broker.port = broker.port, free_port()
    command = list(broker.command)
    broker.command[broker.command.index("-p") + 1] = str(broker.port)
    await world.revive("nats")
    client = await nats.connect(f"nats://127.0.0.1:{broker.port}")
    js = client.jetstream()
    for stream, last in before.items():
        subject = "tick.stranger" if stream == streams.HEARTBEATS else streams.status("stranger")
        while (await js.stream_info(stream)).state.last_seq < last + 50:
            for _ in range(200):
                await client.publish(subject, b"{}")
            await client.flush()
    await client.close()
    await world.kill("nats")
    broker.port, broker.command = port, command
    await world.revive("nats")


async def events_purged(world: World, load: Load) -> None:
    await _with(world, lambda js: js.purge_stream(streams.SERVICES))


async def heartbeats_purged(world: World, load: Load) -> None:
    await _with(world, lambda js: js.purge_stream(streams.HEARTBEATS))


async def events_of_one_service_purged(world: World, load: Load) -> None:
    for subject in (streams.config(load.steady[0]), streams.status(load.steady[1])):
        await _with(world, lambda js, subject=subject: js.purge_stream(streams.SERVICES, subject=subject))


async def newest_event_removed(world: World, load: Load) -> None:
    """While monitor and notifier are started, so that they wait for it."""

    async def remove(js: JetStreamContext) -> None:
        await js.delete_msg(streams.SERVICES, (await js.stream_info(streams.SERVICES)).state.last_seq)

    running = [name for name in ("monitor", "notifier") if world.parts[name].running]
    for name in running:
        await world.kill(name)
    await _with(world, remove)
    for name in running:
        await world.revive(name)


async def streams_made_anew(world: World, load: Load) -> None:
    """Without the connection being lost."""

    async def remove(js: JetStreamContext) -> None:
        for name in [info.config.name for info in await js.streams_info()]:
            await js.delete_stream(name or "")

    await _with(world, remove)


async def buckets_removed(world: World, load: Load) -> None:
    async def remove(js: JetStreamContext) -> None:
        for name in (streams.MONITOR_BUCKET, streams.NOTIFIER_BUCKET):
            with suppress(NotFoundError):
                await js.delete_key_value(name)

    await _with(world, remove)


async def _last(world: World, stream: str) -> int:
    found: list[int] = []

    async def ask(js: JetStreamContext) -> None:
        found.append((await js.stream_info(stream)).state.last_seq)

    await _with(world, ask)
    return found[0]


async def _with(world: World, do: Callable[[JetStreamContext], Awaitable[object]]) -> None:
    client = await nats.connect(world.nats_url)
    await do(client.jetstream())
    await client.close()


CHANGES: tuple[Change, ...] = (
    an_older_copy,
    emptied,
    an_older_copy_that_went_on,
    heartbeats_purged,
    events_purged,
    events_of_one_service_purged,
    newest_event_removed,
    streams_made_anew,
    buckets_removed,
)
