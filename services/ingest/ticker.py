"""Ticks: the proof, in the stream itself, that a heartbeat could have been stored at that moment."""

import asyncio
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from prometheus_client import Counter

from shared.contracts.events import LATE, Tick, moment
from shared.http.server import Health
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.errors import NotStored
from shared.messaging.publisher import Publisher
from shared.messaging.queries import message_at

log = structlog.get_logger()

CLOCK_CHECK_INTERVAL = 60.0
"""Seconds between two looks at the broker's clock."""

TICKS = Counter("registry_ticks_total", "Ticks published, by whether the broker stored them", ["result"])
_STORED, _FAILED = TICKS.labels("stored"), TICKS.labels("failed")


class Ticker:
    """Publishes a tick per `interval`. `clock` counts seconds and does not stop in suspend.

    Each unbroken stretch has a subject of its own, so that its last tick, which proves the whole
    stretch, stays in the stream when the next one has begun.
    """

    def __init__(
        self,
        link: BrokerConnection,
        publisher: Publisher,
        health: Health,
        interval: timedelta,
        clock: Callable[[], float],
        obstacle: Callable[[], str],
    ) -> None:
        """`obstacle`: why not all heartbeats were taken since it was asked last; empty if they were."""
        self._obstacle = obstacle
        self._link = link
        self._publisher = publisher
        self._health = health
        self._interval = interval.total_seconds()
        self._longest = self._interval + LATE / 1e6
        """Seconds before itself for which a tick is a proof, at most: an ingest that stood still for longer
        took no heartbeats in that time."""
        self._clock = clock
        self._ahead: float | None = None
        """By how many seconds the broker's clock is ahead of ours: at least so many."""
        self._compared_at = 0.0
        self._begin()

    def _begin(self) -> None:
        """A new stretch: nothing is proved before its first tick."""
        self._instance = uuid.uuid4().hex[:12]
        self._open_since: datetime | None = None
        self._stored_at = self._clock()

    async def run(self) -> None:
        # What is lost with the connection is not known: the broker may come back with an older copy of its
        # files, and a tick must prove nothing of the time before.
        self._link.on_lost.append(self._begin)
        try:
            await self._run()
        finally:
            self._link.on_lost.remove(self._begin)

    async def _run(self) -> None:
        while True:
            began = self._clock()
            try:
                await self._tick()
                _STORED.inc()
                self._health.good("ticks")
            except NotStored as error:
                _FAILED.inc()
                if "ticks" not in self._health.missing:
                    log.warning("heartbeats may have been missed; nobody is blamed for it", why=str(error))
                self._health.bad("ticks", str(error))
                self._begin()
            await asyncio.sleep(max(0.0, began + self._interval - self._clock()))

    async def _tick(self) -> None:
        if self._clock() - self._stored_at > self._longest:
            log.warning("ticks were interrupted; heartbeats may have been missed", instance=self._instance)
            self._begin()
        sent = self._clock()
        if why := self._obstacle():
            raise NotStored(why)
        instance = self._instance
        open_until = self._by_the_broker(self._stored_at) if self._open_since else None
        tick = Tick(open_since=self._open_since, open_until=open_until, sent_at=self._by_the_broker(sent))
        lifetime = {"Nats-TTL": f"{streams.TICK_TTL.total_seconds():.0f}s"}
        ack = await self._publisher.publish(streams.tick(instance), tick.model_dump_json().encode(), lifetime)
        self._stored_at = self._clock()
        if self._stored_at - sent > LATE / 1e6:
            raise NotStored(f"the broker took {self._stored_at - sent:.1f} s to store a tick")
        if self._instance != instance:
            return
        if self._open_since is None or self._stored_at > self._compared_at + CLOCK_CHECK_INTERVAL:
            await self._compare(ack.seq)

    async def _compare(self, seq: int) -> None:
        """Learn from a tick that was just stored what the broker's clock says, and since when it is open."""
        instance = self._instance
        stored = await message_at(self._link, streams.HEARTBEATS, seq)
        if stored is None or self._instance != instance:
            return
        before, self._ahead = self._ahead, stored.at / 1e6 - self._stored_at
        self._compared_at = self._stored_at
        if self._open_since is None:
            self._open_since = moment(stored.at)
        elif before is not None and abs(self._ahead - before) > LATE / 1e6:
            log.warning("the broker's clock has jumped", seconds=self._ahead - before)
            self._begin()

    def _by_the_broker(self, at: float) -> datetime | None:
        return None if self._ahead is None else moment(int((at + self._ahead) * 1e6))
