"""What a test does with the broker directly: publish, tick, and read what was recorded."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import nats
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from shared.contracts.events import (
    ConfigurationEvent,
    ConfigurationRemoved,
    ConfigurationSet,
    Event,
    Setting,
    StatusChanged,
    event_id,
    parse_event,
)
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.settings import Settings


async def connect(url: str) -> tuple[Client, JetStreamContext]:
    client = await nats.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    return client, client.jetstream()


async def provisioned(url: str, kept: int = 100) -> BrokerConnection:
    """A link to a broker that has its streams."""
    link = BrokerConnection(Settings(nats_url=(url,), heartbeats_kept=kept), "test")
    await link.connect()
    return link


def configured(name: str, value: dict[str, Any] | None, actor: str | None = None) -> ConfigurationEvent:
    """An event of the registry's own configuration; None: it is removed."""
    now = datetime.now(UTC)
    about: dict[str, Any] = {"id": event_id(name, now), "source": "/test", "subject": name, "time": now}
    if value is None:
        return ConfigurationRemoved(**about, actor=actor)
    return ConfigurationSet(**about, actor=actor, data=Setting(value=value))


async def configure(js: JetStreamContext, name: str, value: dict[str, Any] | None) -> int:
    """Store one; its sequence."""
    event = configured(name, value)
    return (await js.publish(streams.subject_of(event), event.to_bytes())).seq


async def events(js: JetStreamContext) -> list[Event]:
    """Every event of configuration or status in the record, in order."""
    try:
        last = (await js.stream_info(streams.SERVICES)).state.last_seq
    except NatsError:
        return []
    found = []
    for seq in range(1, last + 1):
        message = await js.get_msg(streams.SERVICES, seq)
        if (message.subject or "").startswith((streams.config(""), streams.status(""))):
            found.append(parse_event(message.data or b""))
    return found


async def changes(js: JetStreamContext, name: str | None = None) -> list[StatusChanged]:
    return [
        event
        for event in await events(js)
        if isinstance(event, StatusChanged) and name in (None, event.subject)
    ]


async def statuses(js: JetStreamContext, name: str) -> list[str]:
    return [change.data.to.value for change in await changes(js, name)]


async def unearned(js: JetStreamContext, silent_after: float) -> list[StatusChanged]:
    """Falls of services that were heard within `silent_after` seconds before, by the record itself.

    On a loaded machine a client may be late with its beats; whoever falls then falls rightly.
    """
    found = []
    for change in await changes(js):
        if change.data.to != "silent":
            continue
        last, after = None, 0
        while True:
            try:
                message = await js.get_msg(
                    streams.HEARTBEATS, after + 1, subject=f"heartbeat.{change.subject}", next=True
                )
            except NotFoundError:
                break
            if message.time is None or message.time >= change.data.since:
                break
            last, after = message.time, message.seq or 0
        if last and (change.data.since - last).total_seconds() < silent_after - 0.001:
            found.append(change)
    return found


async def eventually(check: Callable[[], Awaitable[Any]], within: float = 20.0) -> Any:
    """The first true answer of `check`; fails with the last one after `within` seconds."""
    deadline = time.monotonic() + within
    while not (answer := await check()):
        assert time.monotonic() < deadline, f"still {answer!r} after {within} s"
        await asyncio.sleep(0.05)
    return answer


class Ticks:
    """Plays ingest's part: ticks without a break since `start`, as long as the block lasts."""

    def __init__(self, js: JetStreamContext, every: float = 0.1) -> None:
        self._js = js
        self._every = every
        self._instance = f"test-{time.monotonic_ns()}"

    async def __aenter__(self) -> "Ticks":
        ack = await self._js.publish(streams.tick(self._instance), b"{}")
        first = await self._js.get_msg(streams.HEARTBEATS, ack.seq)
        assert first.time
        self._payload = json.dumps({"open_since": iso(first.time)}).encode()
        self._task = asyncio.create_task(self._run())
        return self

    async def _run(self) -> None:
        while True:
            await self._js.publish(streams.tick(self._instance), self._payload)
            await asyncio.sleep(self._every)

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()


def iso(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")


class Beats:
    """Beats of these services every `every` seconds, straight to the broker, as long as the block lasts."""

    def __init__(self, nc: Client, names: list[str], every: float) -> None:
        self._nc = nc
        self._names = names
        self._every = every

    async def __aenter__(self) -> "Beats":
        self._task = asyncio.create_task(self._run())
        return self

    async def _run(self) -> None:
        while True:
            for name in self._names:
                await self._nc.publish(streams.heartbeat(name))
            await asyncio.sleep(self._every)

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
