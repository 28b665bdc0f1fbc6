"""A broker that could not write for a moment: its streams stay read-only until it restarts. What is said.

A limit on the size of its files does the same to the broker as a full disk does, and needs no privileges.
"""

import asyncio
import resource
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.messaging import streams
from shared.messaging.errors import READ_ONLY, NoAnswer
from shared.messaging.publisher import Publisher
from tests.broker import connect, eventually, provisioned
from tests.e2e.system import SERVICES, System, until
from tests.e2e.test_doctor import doctor
from tests.servers import Process, service
from tests.telegram_standin import Standin

WRITERS = ("ingest", "notifier", "api")
"""Without ticks the monitor has nothing to write."""


@pytest.fixture
def telegram() -> Any:
    with Standin(chats=("42",)) as standin:
        yield standin


async def test_all_say_so_and_go_on_after_the_restart(tmp_path: Path, telegram: Standin) -> None:
    system = System(tmp_path, telegram)
    try:
        system.start()
        stored = [system.beat("web"), system.beat("other", "/start")].count(200)
        await until(lambda: system.told("web") and system.told("other"))
        telegram.control("cut")
        assert system.beat("other", "/fail") == 200
        unsent = system.url("notifier", "/metrics")
        await until(lambda: "registry_unsent_changes 1.0" in system.http.get(unsent).text)

        pid = system.parts["nats"].pid
        limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, limits[1]))
        telegram.control("ok")
        beat, created = await asyncio.gather(
            asyncio.to_thread(system.beat, "web"),
            asyncio.to_thread(system.http.post, system.url("api", "/service"), json={"name": "new"}),
        )
        assert (beat, created.status_code) == (503, 503)
        await until(lambda: all(READ_ONLY in why(system, name) for name in WRITERS), within=25)
        assert [list(reasons(system, name)) for name in WRITERS] == [["ticks"], ["record"], ["record"]]
        code, found = doctor(tmp_path, **addresses(system))
        assert code == 1
        assert all("restart the broker" in found[name]["mend"] for name in WRITERS)

        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
        await asyncio.sleep(1)
        assert system.beat("web") == 503, "room alone does not mend it"
        assert system.get_ready("ingest") == system.get_ready("api") == 503
        system.parts["nats"].stop()
        system.start("nats")
        assert system.beat("web") == 200
        await until(lambda: "alive" in system.status("web"))
        await until(lambda: "alive → down" in system.told("other"))
        assert system.told("other").count("alive → down") == 1
        assert sum("repeat" in message["text"] for message in telegram.messages) <= 1
        nc, js = await connect(system.nats_url)
        info = await js.stream_info("HEARTBEATS", subjects_filter="heartbeat.>")
        assert sum((info.state.subjects or {}).values()) >= stored + 2
        await nc.close()
    finally:
        system.stop()


async def test_a_monitor_that_cannot_record_says_so(tmp_path: Path, nats: Process, nats_url: str) -> None:
    """Only the events' stream is read-only: heartbeats come in, and what follows from them is not stored."""
    link = await provisioned(nats_url)
    publisher = Publisher(link, timeout=0.5)
    await publisher.start()
    monitor = service("monitor", tmp_path, nats_url).start()
    try:
        await eventually(lambda: ready(monitor))
        limits = resource.prlimit(nats.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(nats.pid, resource.RLIMIT_FSIZE, (1, limits[1]))
        with pytest.raises(NoAnswer):
            await publisher.publish(streams.config("x"), b"{}")
        resource.prlimit(nats.pid, resource.RLIMIT_FSIZE, limits)
        await publisher.publish(streams.heartbeat("web"))

        async def said() -> bool:
            async with httpx.AsyncClient() as client:
                answer = await client.get(f"http://127.0.0.1:{monitor.port}/readyz")
            return READ_ONLY in answer.json().get("missing", {}).get("record", "")

        await eventually(said)
        nats.stop()
        nats.start()
        await eventually(lambda: ready(monitor))

        async def registered() -> bool:
            return (await link.js.stream_info(streams.SERVICES)).state.messages >= 1

        await eventually(registered)
    finally:
        monitor.kill()
        await publisher.stop()
        await link.close()


async def ready(process: Process) -> bool:
    async with httpx.AsyncClient() as client:
        return (await client.get(f"http://127.0.0.1:{process.port}/readyz")).status_code == 200


def reasons(system: System, name: str) -> dict[str, str]:
    return dict(system.http.get(system.url(name, "/readyz")).json().get("missing", {}))


def why(system: System, name: str) -> str:
    return " ".join(reasons(system, name).values())


def addresses(system: System) -> dict[str, str]:
    return {f"{name}_port": str(system.parts[name].port) for name in SERVICES} | {
        "nats_url": system.nats_url,
        "mongodb_url": f"mongodb://127.0.0.1:{system.parts['mongo'].port}",
    }
