"""What becomes of a record that is kept within bounds: what is gone is not known, and never made up."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.api.projections.projector import Projector
from services.api.projections.store import Store
from services.api.queries import history
from services.api.queries.event_hub import EventHub
from shared.contracts.events import (
    ConfigData,
    ServiceConfig,
    ServiceDeleted,
    ServiceRegistered,
    ServiceUpdated,
    Status,
    StatusData,
    micros,
    status_changed,
)
from shared.domain.timeline import Now, segments
from shared.http.problems import Problem
from shared.http.server import Health
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.queries import truncated
from shared.settings import Settings
from tests.broker import eventually
from tests.histories import everything
from tests.servers import Process, free_port, program

ALIVE, DOWN, UNKNOWN = Status.ALIVE, Status.DOWN, Status.UNKNOWN
KEPT = 5
GOLDEN = Path(__file__).parent.parent / "contract" / "golden"


@pytest.fixture
async def link(nats_url: str) -> AsyncIterator[BrokerConnection]:
    link = BrokerConnection(Settings(nats_url=(nats_url,), events_kept=KEPT), "test", keeps_streams=True)
    await link.connect()
    yield link
    await link.close()


async def change(link: BrokerConnection, name: str, was: Status, to: Status) -> None:
    data = StatusData(from_=was, to=to, since=datetime.now(UTC), last_heartbeat=None, reason="x")
    await link.js.publish(streams.status(name), status_changed(name, data).to_bytes())


async def flap(link: BrokerConnection, name: str, times: int) -> None:
    for n in range(times):
        await change(link, name, *((ALIVE, DOWN) if n % 2 else (DOWN, ALIVE)))


async def configure(
    link: BrokerConnection,
    name: str,
    kind: type[ServiceRegistered | ServiceUpdated],
    born: datetime,
    **config: object,
) -> None:
    data = ConfigData(config=ServiceConfig(**config), registered_at=born)  # type: ignore[arg-type]
    event = kind(id=str(datetime.now(UTC)), source="/test", subject=name, time=born, data=data)
    await link.js.publish(streams.config(name), event.to_bytes())


async def delete(link: BrokerConnection, name: str) -> None:
    now = datetime.now(UTC)
    event = ServiceDeleted(id=f"{now}", source="/test", subject=name, time=now, data={})  # type: ignore[arg-type]
    await link.js.publish(streams.config(name), event.to_bytes())


async def test_of_a_flapper_the_newest_events_are_kept_and_the_time_before_is_unobserved(
    link: BrokerConnection, mongo_url: str
) -> None:
    born = datetime.now(UTC)
    for name in ("calm", "flapper", "full", "reborn"):
        await configure(link, name, ServiceRegistered, born)
        await change(link, name, UNKNOWN, ALIVE)
    early = datetime.now(UTC)
    await flap(link, "flapper", 12)
    await flap(link, "full", KEPT - 1)
    await delete(link, "reborn")
    reborn = datetime.now(UTC)
    await configure(link, "reborn", ServiceRegistered, reborn)
    for n in range(KEPT + 2):
        await configure(link, "reborn", ServiceUpdated, reborn, description=str(n))
    done = (GOLDEN / "incident-noted.json").read_bytes().replace(b'"my-service"', b'"calm"')
    for _ in range(KEPT + 2):
        await link.js.publish(streams.incident("calm"), done)

    left = await truncated(link)
    lost = {name for name, it in left.items() if it.begins}
    assert lost == {"flapper", "reborn"}, "what is exactly full has lost nothing"
    assert micros(early) < left["flapper"].begins
    assert left["reborn"].registered_at == micros(reborn)

    store, hub = Store(mongo_url, "registry"), EventHub()
    projector = Projector(link, store, hub, Health("database", "projection"), lambda: datetime.now(UTC))
    running = asyncio.create_task(projector.run())
    try:

        async def rows(name: str, count: int) -> bool:
            with suppress(Exception):
                return len(await store.live.history(name, None, 100)) == count
            return False

        await eventually(lambda: rows("flapper", 1 + KEPT))
        await eventually(lambda: rows("reborn", KEPT))  # nothing of its former life, though its end is gone
        await eventually(lambda: rows("calm", 2 + KEPT))
        assert hub.begins["flapper"] == left["flapper"].begins

        # While it goes on, the read models know more than the record; what is let go of goes there too.
        await flap(link, "flapper", 4)
        for _ in range(3):
            await link.js.publish(streams.incident("calm"), done)
        await eventually(lambda: rows("calm", 2 + KEPT + 3))
        await eventually(lambda: rows("flapper", 1 + KEPT + 4))
        await projector._shorten(store.live)
        assert await rows("flapper", 1 + KEPT)
        assert await rows("calm", 2 + KEPT)
        services, events = await everything(store.live)
        await projector.rebuild()
        assert await everything(store.live) == (services, events), "dropped and rebuilt they are equal"
    finally:
        running.cancel()
        store.close()

    now = micros(datetime.now(UTC))
    found = segments(
        hub.recent_marks("flapper"), Now(DOWN, False, micros(born), now), 0, (), hub.begins["flapper"]
    )
    assert [it.state for it in found[:2]] == ["nothing", "unobserved"]
    assert found[1].end == hub.begins["flapper"]

    for name in ("flapper", "reborn"):
        with pytest.raises(Problem, match="begins at"):
            await history.as_of(link, name, early)
    calm = await history.as_of(link, "calm", early)
    assert calm
    assert calm.status == "alive"
    with pytest.raises(Problem, match="begins at"):
        await history.as_of(link, "reborn", reborn)
    assert await history.as_of(link, "flapper", datetime.now(UTC))
    assert await history.as_of(link, "flapper", born - timedelta(1)) is None, "there was no such service"


async def test_a_bound_that_is_lowered_holds_for_what_is_there(link: BrokerConnection, nats_url: str) -> None:
    await flap(link, "flapper", KEPT)
    lower = BrokerConnection(Settings(nats_url=(nats_url,), events_kept=2), "test", keeps_streams=True)
    await lower.connect()
    assert (await lower.js.stream_info(streams.SERVICES)).state.messages == 2
    await lower.close()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Process]:
    """A broker that has room for 300 MB."""
    port = free_port()
    config = tmp_path / "small.conf"
    config.write_text(
        f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{tmp_path}/small", max_file: 300MB }}\n'
    )
    server = Process([program("nats-server"), "-c", str(config)], port, tmp_path / "small.log").start()
    yield server
    server.kill()


async def test_a_broker_that_is_small_has_its_streams_within_its_room(
    small: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "SPARE", 100)
    url = f"nats://127.0.0.1:{small.port}"
    settings = Settings(nats_url=(url,), max_services=1, heartbeats_kept=5, heartbeats_bytes=10**10)
    link = BrokerConnection(settings, "test", keeps_streams=True)
    await asyncio.wait_for(link.connect(), 10)
    info = await link.js.stream_info(streams.HEARTBEATS)
    assert info.config.max_bytes == 10**10 // 32
    for n in range(200):
        await link.js.publish(streams.heartbeat(f"stranger-{n}"))
    info = await link.js.stream_info(streams.HEARTBEATS)
    assert (info.state.messages, info.state.last_seq) == (105, 200), "the oldest go, nothing is refused"
    assert await streams.filled(link.js, streams.HEARTBEATS) == 1
    assert await streams.filled(link.js, streams.SERVICES) == 0
    await link.close()
