"""The registry's own outages, with the real front door, monitor and broker: they make nobody silent."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from tests.broker import changes, connect, eventually, statuses
from tests.servers import Process, service

RULES = {"silent_after": "1s", "down_after": "2s", "dead_after": "1h", "tick": "0.2s"}
Start = Callable[[str], Process]


@pytest.fixture
def start(tmp_path: Path, nats_url: str) -> Iterator[Start]:
    started: list[Process] = []

    def start(name: str) -> Process:
        started.append(service(name, tmp_path, nats_url, **RULES).start())
        return started[-1]

    yield start
    for process in started:
        process.kill()


async def beat(ingest: Process, name: str) -> None:
    """A heartbeat, as soon as it is taken."""
    async with httpx.AsyncClient() as client:

        async def taken() -> bool:
            return (await client.post(f"http://127.0.0.1:{ingest.port}/heartbeat/{name}")).is_success

        await eventually(taken)


@pytest.mark.parametrize("away", ["ingest", "ingest frozen", "broker", "broker frozen"])
async def test_its_own_outage_makes_nobody_silent(
    away: str, nats: Process, nats_url: str, start: Start
) -> None:
    """Away for longer than `down_after`: who stays silent afterwards falls its threshold after the return."""
    ingest = start("ingest")
    start("monitor")
    nc, js = await connect(nats_url)
    await beat(ingest, "web")
    await eventually(lambda: statuses(js, "web"))
    off = ingest if away.startswith("ingest") else nats
    if away.endswith("frozen"):  # what was on its way, a tick too, is stored when it goes on
        off.signal(signal.SIGSTOP)
    else:
        off.kill()
    await asyncio.sleep(2.5)
    returned = datetime.now(UTC)
    if away.endswith("frozen"):
        off.signal(signal.SIGCONT)
    else:
        off.start()

    async def fallen() -> bool:
        return nc.is_connected and len(await changes(js, "web")) > 1

    await eventually(fallen)
    fall = (await changes(js, "web"))[1].data
    assert fall.to == "silent"
    assert 1 <= (fall.since - returned).total_seconds() < 1 + 3, "the process takes its time to start"
    await nc.close()


async def test_while_one_of_two_front_doors_is_open_nothing_is_credited(nats_url: str, start: Start) -> None:
    one, two = start("ingest"), start("ingest")
    start("monitor")
    nc, js = await connect(nats_url)
    await beat(two, "other")
    await beat(one, "web")
    one.kill()

    async def silent() -> list[str]:
        return (await statuses(js, "web"))[1:]

    await eventually(silent, within=1 + 5)
    first, fall, *_ = [change.data for change in await changes(js, "web")]
    assert fall.to == "silent"
    assert (fall.since - first.since).total_seconds() == pytest.approx(1)
    await nc.close()


async def test_idle_connections_leave_the_door_open_for_others(nats_url: str, tmp_path: Path) -> None:
    ingest = service("ingest", tmp_path, nats_url, **RULES, max_connections="20").start()
    try:
        await beat(ingest, "web")
        idle = [await asyncio.open_connection("127.0.0.1", ingest.port) for _ in range(25)]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{ingest.port}") as client:
            for n in range(30):
                assert (await client.post(f"/heartbeat/s{n % 6}")).status_code == 200
            assert (await client.get("/readyz")).status_code == 200
        for _, writer in idle:
            writer.close()
    finally:
        ingest.kill()


async def test_who_stops_proves_nothing_from_then_on(nats_url: str, start: Start) -> None:
    ingest = start("ingest")
    await beat(ingest, "web")
    nc, js = await connect(nats_url)
    _, slow = await asyncio.open_connection("127.0.0.1", ingest.port)
    slow.write(b"POST /heartbeat/web HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nx")
    await asyncio.sleep(0.2)
    told = datetime.now(UTC)
    assert await asyncio.to_thread(ingest.stop) == 0
    assert (datetime.now(UTC) - told).total_seconds() > 2, "it did not wait for who was still sending"
    last = await js.get_last_msg("HEARTBEATS", "tick.>")
    assert last.time
    assert (last.time - told).total_seconds() < 0.5
    slow.close()
    await nc.close()
