"""The whole system with a broker that replies as NATS 2.16 does."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.messaging.reader import ACK_PREFIX
from tests.broker import connect
from tests.e2e.system import System, until
from tests.servers import nats_server
from tests.telegram_standin import Standin


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    with Standin() as telegram:
        system = System(tmp_path, telegram, brokers={"nats": nats_server(tmp_path, ack_v2=True)})
        yield system
        system.stop()


async def test_every_reader_reads_on(system: System) -> None:
    """Ingest, which knows the names; the monitor; the notifier; the API's projector, history and windows."""
    system.start()
    nc, js = await connect(system.nats_url)
    sub = await js.pull_subscribe("heartbeat.*", stream="HEARTBEATS")
    assert system.beat("web") == 200
    (message,) = await sub.fetch(1)
    assert message.reply.startswith(ACK_PREFIX.decode())
    assert len(message.reply.split(".")) >= 11, "this broker replies as one before 2.16 does"
    await nc.close()
    await until(lambda: system.told("web") == ["unknown → alive", "alive → silent", "silent → down"])
    assert system.status("web") == "down"
    window = {"services": ["other"], "cron": "0 3 * * sun", "duration": "2h", "time_zone": "UTC"}
    assert system.http.post(system.url("api", "/maintenance"), json=window).status_code == 201
    await asyncio.to_thread(system.parts["notifier"].kill)
    await asyncio.to_thread(system.parts["api"].kill)
    await asyncio.to_thread(system.start, "notifier", "api")
    assert system.beat("web", "/fail") == 200
    assert system.beat("web") == 200
    await until(lambda: system.told("web")[3:] == ["down → alive"])
    await until(lambda: system.status("web") == "alive")
    assert [it["signal"] for it in system.api("/service/web/heartbeats")["items"]] == [
        *("success", "fail", "success")
    ]
    assert system.api("/maintenance")["items"]
