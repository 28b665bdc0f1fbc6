"""Ticks: the proof, in the stream itself, that a heartbeat could have been stored at that moment."""

import asyncio
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog
from prometheus_client import Counter

from shared import streams
from shared.broker import Link, NotStored, Publisher, message_at
from shared.events import Tick
from shared.service import Health

log = structlog.get_logger()

TICKS = Counter("registry_ticks_total", "Ticks published, by whether the broker stored them", ["result"])


class Ticker:
    """Publishes a tick per `interval`. `clock` counts seconds and does not stop in suspend.

    Each unbroken stretch has a subject of its own, so that its last tick, which proves the whole
    stretch, stays in the stream when the next one has begun.
    """

    def __init__(
        self,
        link: Link,
        publisher: Publisher,
        health: Health,
        interval: timedelta,
        clock: Callable[[], float],
    ) -> None:
        self._link = link
        self._publisher = publisher
        self._health = health
        self._interval = interval.total_seconds()
        self._longest = publisher.timeout + self._interval
        self._clock = clock
        self._begin()

    def _begin(self) -> None:
        """A new stretch: nothing is proved before its first tick."""
        self._instance = uuid.uuid4().hex[:12]
        self._open_since: datetime | None = None
        self._stored_at = self._clock()

    async def run(self) -> None:
        while True:
            began = self._clock()
            try:
                await self._tick()
                TICKS.labels("stored").inc()
                self._health.good("ticks")
            except NotStored as error:
                TICKS.labels("failed").inc()
                self._health.bad("ticks", str(error))
                self._begin()
            await asyncio.sleep(max(0.0, began + self._interval - self._clock()))

    async def _tick(self) -> None:
        if self._clock() - self._stored_at > self._longest:
            log.warning("ticks were interrupted; heartbeats may have been missed", instance=self._instance)
            self._begin()
        ack = await self._publisher.publish(
            streams.tick(self._instance),
            Tick(open_since=self._open_since).model_dump_json().encode(),
            {"Nats-TTL": f"{streams.TICK_TTL.total_seconds():.0f}s"},
        )
        self._stored_at = self._clock()
        if self._open_since is None:
            first = await message_at(self._link, streams.HEARTBEATS, ack.seq)
            if first is not None:
                self._open_since = datetime.fromtimestamp(first.at / 1e6, UTC)
