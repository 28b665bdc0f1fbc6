"""The whole system under a steady load, whose clients keep a ledger of what was answered with 200."""

import asyncio
import itertools
import random
import signal
import time
from collections import defaultdict
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import nats
from nats.errors import Error as NatsError

from shared.messaging import streams
from tests.broker import eventually
from tests.e2e.system import SERVICES, System, until
from tests.servers import Process, nats_cluster, service
from tests.telegram_standin import Standin

EVERY = 0.4
"""Seconds between two heartbeats of a service."""
SILENT, DOWN = 4.0, 7.0
"""Seconds after which a service falls."""
CHATS = ("42", "43")
RULES = {
    "silent_after": f"{SILENT:g}s",
    "down_after": f"{DOWN:g}s",
    "heartbeats_kept": "10000",
    "telegram_chat_id": ",".join(CHATS),
    "log_level": "info",
}


class World(System):
    """Two chats. With `pairs` two of each service, with `cluster` a broker of three nodes."""

    def __init__(
        self, folder: Path, telegram: Standin, *, pairs: bool = False, cluster: bool = False, **more: Any
    ) -> None:
        if cluster:
            more |= {"brokers": nats_cluster(folder), "nats_replicas": "3"}
        super().__init__(folder, telegram, **(RULES | more))
        self.folder = folder
        if pairs:
            for name in SERVICES:
                self.parts[f"{name}-2"] = self.another(name)
        self.killed: list[str] = []

    def another(self, name: str) -> Process:
        """One more of a service, as the first is configured."""
        first = self.parts[name]
        assert first.env
        given = {key: value for key, value in first.env.items() if not key.endswith(("_PORT",))}
        twin = service(name, self.folder, self.nats_url)
        assert twin.env
        twin.env |= given
        return twin

    def instances(self, kind: str) -> list[str]:
        return [name for name in self.parts if name.partition("-")[0] == kind]

    @property
    def store(self) -> Path:
        """The folder of the broker's files."""
        return self.folder / "nats"

    def clock(self, name: str) -> Path:
        """Says by how much the clock of a service is off, once `fake_clocks` has been called."""
        return self.folder / f"clock-{name}"

    def fake_clocks(self, library: str) -> None:
        for name in self.services:
            self.clock(name).write_text("+0\n")
            env = self.parts[name].env
            assert env is not None
            env |= {
                "LD_PRELOAD": library,
                "FAKETIME_TIMESTAMP_FILE": str(self.clock(name)),
                "FAKETIME_CACHE_DURATION": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }

    async def kill(self, name: str, sig: int = signal.SIGKILL) -> None:
        self.killed.append(name)
        await asyncio.to_thread(self.parts[name].kill, sig)

    async def revive(self, name: str) -> None:
        await asyncio.to_thread(self.parts[name].start)

    async def ready_within(self, seconds: float) -> float:
        """Seconds until every service is ready."""
        began = time.monotonic()
        await asyncio.to_thread(self.wait_until_ready, seconds)
        return time.monotonic() - began


class Ledger:
    """What the clients know for certain."""

    def __init__(self) -> None:
        self.acknowledged: dict[str, int] = defaultdict(int)
        """Heartbeats answered with 200, or acknowledged by JetStream."""
        self.marked: dict[str, set[str]] = defaultdict(set)
        """The marks of those that had one."""
        self.refused = 0
        self.answers: dict[int, int] = defaultdict(int)
        self.late: set[str] = set()
        """Those whose client, on a machine that is too slow, let nearly the threshold pass between two
        answers or errors: they may have fallen silent, and rightly so."""
        self._newest: dict[str, float] = {}

    @property
    def total(self) -> int:
        return sum(self.acknowledged.values())

    def ended(self, name: str) -> None:
        """A request of its, however it ended."""
        now = time.monotonic()
        if now - self._newest.get(name, now) > SILENT - 0.5:
            self.late.add(name)
        self._newest[name] = now

    def begin(self, name: str) -> None:
        self._newest.pop(name, None)


class Load:
    """Services that beat until told to leave: most over HTTP, plain or with a mark in their body, some
    straight to the broker with a `Nats-Msg-Id`, each third of those sent twice."""

    def __init__(self, world: World, rng: random.Random, *, steady: int = 20, leaving: int = 8) -> None:
        self.world = world
        self.ledger = Ledger()
        self.steady = [f"steady.{n:02}" for n in range(steady)]
        self.leaving = [f"leaving.{n:02}" for n in range(leaving)]
        self._rng = rng
        self._beating: dict[str, asyncio.Task[None]] = {}
        self._count = itertools.count(1)

    async def __aenter__(self) -> "Load":
        self._http = httpx.AsyncClient(timeout=1.5, limits=httpx.Limits(max_connections=200))
        self._nc = await nats.connect(
            self.world.nats_url.split(","), max_reconnect_attempts=-1, reconnect_time_wait=0.1
        )
        self._js = self._nc.jetstream(timeout=2)
        for name in (*self.steady, *self.leaving):
            self.begin(name)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leave(*self._beating)  # all at once, or the first would fall before the last has left
        await self._http.aclose()
        with suppress(NatsError, TimeoutError):
            await asyncio.wait_for(self._nc.close(), 5)

    def begin(self, name: str) -> None:
        self.ledger.begin(name)
        self._beating[name] = asyncio.create_task(self._beat(name, int(name.rpartition(".")[2])))

    async def leave(self, *names: str) -> None:
        """No heartbeat of theirs is on its way when this returns."""
        tasks = [self._beating.pop(name) for name in names if name in self._beating]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _beat(self, name: str, number: int) -> None:
        how = self._direct if number % 4 == 3 else self._over_http
        await asyncio.sleep(self._rng.uniform(0, EVERY))
        while True:
            began = time.monotonic()
            # Shielded: what is on its way is waited for, so that the ledger is complete.
            one = asyncio.ensure_future(how(name, number))
            try:
                await asyncio.shield(one)
            except asyncio.CancelledError:
                await one
                raise
            await asyncio.sleep(max(0.01, began + EVERY - time.monotonic()))

    async def _over_http(self, name: str, number: int) -> None:
        """At one ingest, or if it does not take it at the next."""
        count = next(self._count)
        mark = f"{name}/{count}" if count % 2 else ""
        ingests = self.world.instances("ingest")
        for n in range(len(ingests)):
            url = self.world.url(ingests[(count // 2 + n) % len(ingests)], f"/heartbeat/{name}")
            try:
                answer = await self._http.post(url, json={"message": mark} if mark else None)
            except httpx.HTTPError:
                self.ledger.refused += 1
                continue
            finally:
                self.ledger.ended(name)
            self.ledger.answers[answer.status_code] += 1
            if answer.status_code == 200:
                self.acknowledge(name, mark)
                return

    async def _direct(self, name: str, _: int) -> None:
        count = next(self._count)
        mark = f"{name}/{count}"
        body = b'{"message": "%s"}' % mark.encode()
        for again in range(2 if count % 3 == 0 else 1):
            try:
                ack = await self._js.publish(streams.heartbeat(name), body, headers={"Nats-Msg-Id": mark})
            except (NatsError, OSError, TimeoutError):
                self.ledger.refused += 1
                return
            finally:
                if not again:  # the second is not stored: it says nothing of when the service was heard
                    self.ledger.ended(name)
            if not ack.duplicate:
                self.acknowledge(name, mark)

    def acknowledge(self, name: str, mark: str) -> None:
        self.ledger.acknowledged[name] += 1
        if mark:
            self.ledger.marked[name].add(mark)

    async def try_one(self) -> int:
        """What a heartbeat is answered now."""
        ingest = self.world.instances("ingest")[0]
        answer = await self._http.post(self.world.url(ingest, f"/heartbeat/{self.steady[0]}"), timeout=10)
        if answer.status_code == 200:
            self.acknowledge(self.steady[0], "")
        return answer.status_code

    async def beat_once(self, name: str) -> int:
        """What one heartbeat of another service is answered."""
        ingest = self.world.instances("ingest")[0]
        url = self.world.url(ingest, f"/heartbeat/{name}")
        return (await self._http.post(url, timeout=10)).status_code

    async def stir(self) -> None:
        """One more service fails with its first sign, so that there is something to tell."""
        ingest = self.world.instances("ingest")[0]
        url = self.world.url(ingest, f"/heartbeat/stirred.{next(self._count)}/fail")
        (await self._http.post(url, timeout=10)).raise_for_status()

    async def until_answered(self, status: int, within: float = 20.0) -> None:
        async def answered() -> bool:
            return await self.try_one() == status

        await eventually(answered, within)

    async def flood(self, rate: int) -> None:
        """So many plain heartbeats a second more, of those that beat anyway; until cancelled."""
        while True:
            for n in range(rate // 20):
                await self._nc.publish(streams.heartbeat(self.steady[n % len(self.steady)]))
            await asyncio.sleep(0.05)

    async def leave_at_times(self, names: list[str], within: float) -> None:
        """One after the other, at moments within so many seconds."""
        waits = sorted(self._rng.uniform(0, within) for _ in names)
        for name, wait in zip(names, [waits[0], *(b - a for a, b in pairwise(waits))], strict=True):
            await asyncio.sleep(wait)
            await self.leave(name)

    async def until_told(self, endings: dict[str, str], chats: tuple[str, ...] = CHATS) -> None:
        """Until the last that each of these chats knows of each service is that it became so."""

        def told() -> bool:
            return all(
                (self.world.lines(name, chat) or [("", False)])[-1][0].endswith(f"→ {status}")
                for name, status in endings.items()
                for chat in chats
            )

        await until(told, within=90)
