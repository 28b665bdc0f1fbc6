"""An hour's worth of abuse in a short time, against ingest and API as they are, while one client behaves.

`python -m tests.faults.abuse 120` runs it and prints what was seen.
"""

import asyncio
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.servers import Process, mongo_server, nats_server, service

AN_HOUR = 1200
"""Attempts of each of 18 kinds: six a second for an hour."""
HELD = 250
"""Connections that each kind of abuse leaves open, at most; the oldest is dropped then."""
TOKEN = "a-good-token"
GOOD = {"Authorization": f"Bearer {TOKEN}"}
WITHIN = 3.0
"""Seconds that the good client's heartbeat, or its question to the API, may take."""
MIB = 1024 * 1024
MAY_HAVE = {"broker": 160 * MIB}
"""Its caches fill slowly: by large messages alone to 90 MiB in 100 s, where it stays."""
BODIES = (("/heartbeat/good", "ingest"), ("/heartbeats", "ingest"), ("/service", "api"))
BATCH = json.dumps({"services": ["good"] * 100}).encode()
LARGEST_BATCH = json.dumps({"services": [f"{'x' * 120}{n}" for n in range(10_000)]}).encode()
LARGEST = json.dumps({"message": "x" * 10_000, "metadata": {"x": "y" * 50_000}}).encode()


@dataclass
class Seen:
    """`slowest` in seconds; `memory` in bytes, two samples a second."""

    attempts: Counter[str] = field(default_factory=Counter)
    answers: dict[str, Counter[str]] = field(default_factory=dict)
    beats: Counter[int] = field(default_factory=Counter)
    slowest: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    memory: dict[str, list[int]] = field(default_factory=dict)
    log: dict[str, int] = field(default_factory=dict)

    def growth(self) -> dict[str, tuple[int, int]]:
        """Of each process, the medians of the second and of the last quarter."""
        found = {}
        for name, samples in self.memory.items():
            quarter = len(samples) // 4
            second, last = samples[quarter : 2 * quarter], samples[-quarter:]
            found[name] = int(statistics.median(second)), int(statistics.median(last))
        return found

    def problems(self) -> list[str]:
        """What should not have been."""
        found = [
            f"{name} grew from {before // MIB} to {after // MIB} MiB"
            for name, (before, after) in self.growth().items()
            if after > max(before * 1.1 + 10 * MIB, MAY_HAVE.get(name, 0))
        ]
        found += [f"the good client was answered {status}" for status in self.beats if status != 200]
        found += [f"{kind} was answered 500" for kind, counts in self.answers.items() if counts["500"]]
        found += [
            f"the good client waited {took:.2f} s for {what}"
            for what, took in self.slowest.items()
            if took > WITHIN
        ]
        return found


class Abuser:
    """All kinds of it. Each attempt is one call; what it leaves open is dropped when there is too much."""

    def __init__(self, ports: dict[str, int], seen: Seen, seed: int) -> None:
        self._ports = ports
        self._seen = seen
        self._random = random.Random(seed)
        self._held: dict[str, deque[asyncio.StreamWriter]] = {}
        self._numbers = itertools.count()

    def kinds(self) -> list[Callable[[], Awaitable[None]]]:
        return [
            self.silence,
            self.slow_head,
            self.slow_body,
            self.huge_body,
            self.huge_head,
            self.huge_address,
            self.noise,
            self.bad_names,
            self.new_names,
            self.wrong_tokens,
            self.batch,
            self.large_messages,
            self.deaf_listener,
            self.late_listener,
            self.upgrade,
            self.other_versions,
            self.pipelining,
            self.cut_off,
        ]

    async def _open(self, port: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._ports[port], limit=4096)

    def _hold(self, kind: str, writer: asyncio.StreamWriter) -> None:
        held = self._held.setdefault(kind, deque())
        held.append(writer)
        if len(held) > HELD:
            held.popleft().transport.abort()

    def _address(self) -> str:
        """One of many addresses, as a proxy would say it."""
        n = self._random.getrandbits(32)
        kind = (f"203.0.{n >> 8 & 255}.{n & 255}", f"2001:db8:{n >> 16:x}:{n & 65535:x}::1")
        return f"X-Forwarded-For: {self._random.choice(kind)}"

    def _head(self, method: str, path: str, *headers: str, good: bool = True) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", self._address(), *headers]
        if good:
            lines.append(f"Authorization: Bearer {TOKEN}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def _say(self, kind: str, port: str, *parts: bytes) -> None:
        """Send as much of it as is taken, and note the answer."""
        reader, writer = await self._open(port)
        try:
            async with asyncio.timeout(15):
                with suppress(ConnectionError):
                    for part in parts:
                        writer.write(part)
                        await writer.drain()
                answer = await reader.readline()
            word = answer.split()[1].decode() if answer.startswith(b"HTTP/1.1 ") else "closed"
        except (ConnectionError, TimeoutError, ValueError) as error:
            word = type(error).__name__
        finally:
            writer.transport.abort()
        self._seen.answers.setdefault(kind, Counter())[word] += 1

    def _port(self) -> str:
        return self._random.choice(("ingest", "api"))

    async def silence(self) -> None:
        _, writer = await self._open(self._port())
        self._hold("silence", writer)

    async def _drip(self, kind: str, begin: bytes, then: bytes) -> None:
        reader, writer = await self._open(self._port())
        self._hold(kind, writer)
        with suppress(ConnectionError):
            writer.write(begin)
            while not reader.at_eof() and not writer.is_closing():
                writer.write(then)
                await writer.drain()
                await asyncio.sleep(1)

    async def slow_head(self) -> None:
        await self._drip("slow head", b"POST /heartbeat/a HTTP/1.1\r\nHost: 127.0.0.1\r\n", b"X: y\r\n")

    async def slow_body(self) -> None:
        path = self._random.choice(("/heartbeat/good", "/heartbeats", "/service", "/ui/login"))
        await self._drip("slow body", self._head("POST", path, "Content-Length: 60000"), b"x")

    async def huge_body(self) -> None:
        path, port = self._random.choice(BODIES)
        chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        head = self._head("POST", path, "Transfer-Encoding: chunked")
        await self._say("huge body", port, head, *itertools.repeat(chunk, 60))

    async def huge_head(self) -> None:
        head = self._head("POST", "/heartbeat/good")[:-2]
        lines = (b"X-%d: " % next(self._numbers) + b"x" * 4000 + b"\r\n" for _ in range(200))
        await self._say("huge head", self._port(), head, *lines)

    async def huge_address(self) -> None:
        await self._say("huge address", self._port(), b"GET /", *itertools.repeat(b"x" * 8192, 100))

    async def noise(self) -> None:
        noise = self._random.randbytes(self._random.randrange(1, 5000))
        await self._say("noise", self._port(), noise + b"\r\n\r\n")

    async def bad_names(self) -> None:
        name = "".join(self._random.choice("ab.*>%00/~ ") for _ in range(self._random.randrange(1, 150)))
        await self._say("bad names", "ingest", self._head("GET", "/heartbeat/" + name.replace(" ", "%20")))
        await self._say("bad names", "api", self._head("GET", "/service/" + name.replace(" ", "%20")))

    async def new_names(self) -> None:
        await self._say("new names", "ingest", self._head("GET", f"/heartbeat/new-{next(self._numbers)}"))

    async def wrong_tokens(self) -> None:
        wrong = self._head("GET", "/heartbeat/a", f"Authorization: Bearer {next(self._numbers)}", good=False)
        await self._say("wrong tokens", "ingest", wrong)
        await self._say("wrong tokens", "api", wrong.replace(b"/heartbeat/a", b"/services"))

    async def batch(self) -> None:
        body = LARGEST_BATCH if self._random.random() < 0.1 else BATCH
        head = self._head("POST", "/heartbeats", f"Content-Length: {len(body)}")
        await self._say("batch", "ingest", head, body)

    async def large_messages(self) -> None:
        head = self._head("POST", "/heartbeat/good", f"Content-Length: {len(LARGEST)}")
        await self._say("large messages", "ingest", head, LARGEST)

    async def deaf_listener(self) -> None:
        """Listens to events, and never reads them."""
        _, writer = await self._open("api")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(self._head("GET", "/events?heartbeats=true"))
        self._hold("deaf listener", writer)

    async def late_listener(self) -> None:
        """Wants to hear everything from the beginning, and leaves."""
        await self._say("late listener", "api", self._head("GET", "/events?after=0"))

    async def upgrade(self) -> None:
        headers = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
        await self._say("upgrade", self._port(), self._head("GET", "/events", *headers, good=False))

    async def other_versions(self) -> None:
        version = self._random.choice((b" HTTP/1.0", b"", b" HTTP/2.0", b" HTTP/1.1 and more"))
        await self._say("other versions", self._port(), b"GET /healthz%b\r\n\r\n" % version)

    async def pipelining(self) -> None:
        await self._say("pipelining", self._port(), self._head("GET", "/healthz") * 500)

    async def cut_off(self) -> None:
        """In the middle of a request, without a word."""
        _, writer = await self._open(self._port())
        writer.write(self._head("POST", "/heartbeat/good", "Content-Length: 100") + b"half")
        with suppress(ConnectionError):
            await writer.drain()
        writer.transport.abort()

    def drop_all(self) -> None:
        for held in self._held.values():
            for writer in held:
                writer.transport.abort()


async def run(seconds: float, folder: Path, *, per_second: float = AN_HOUR / 120, seed: int = 1) -> Seen:
    """Everything at once for so long; `per_second`: attempts of each kind."""
    seen = Seen()
    parts = {"broker": nats_server(folder).start(), "database": mongo_server(folder).start()}
    url = f"nats://127.0.0.1:{parts['broker'].port}"
    settings = {
        "mongodb_url": f"mongodb://127.0.0.1:{parts['database'].port}/?journal=true",
        "max_services": "500",
        "heartbeats_kept": "5",  # so that the stream is as large as it gets before the second quarter
        "ingest_token": TOKEN,
        "api_token": TOKEN,
        "rate_limit_per_address": "100/s",
    }
    try:
        for name in ("ingest", "monitor", "api"):
            parts[name] = service(name, folder, url, **settings).start()
        await asyncio.to_thread(_ready, parts)
        abuser = Abuser({name: parts[name].port for name in ("ingest", "api")}, seen, seed)
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for kind in abuser.kinds():
                group.create_task(_keep_at(kind, per_second, end, seen))
            for name, method, path in (("ingest", "POST", "/heartbeat/good"), ("api", "GET", "/summary")):
                address = f"http://127.0.0.1:{parts[name].port}{path}"
                group.create_task(asyncio.to_thread(_behave, method, address, end, seen))
            pids = {name: parts[name].pid for name in ("broker", "ingest", "api")}
            group.create_task(_sample(pids, end, seen))
        abuser.drop_all()
        seen.log = {name: part.log.stat().st_size for name, part in parts.items()}
        for name in ("ingest", "api"):
            text = parts[name].log.read_text()
            if "Traceback" in text:
                raise AssertionError(text[text.index("Traceback") - 500 :][:3000])
    finally:
        for part in parts.values():
            part.kill()
    return seen


def _ready(parts: dict[str, Process]) -> None:
    with httpx.Client() as client:
        for name in ("ingest", "api"):
            while client.get(f"http://127.0.0.1:{parts[name].port}/readyz").status_code != 200:
                time.sleep(0.05)
        beat = client.post(f"http://127.0.0.1:{parts['ingest'].port}/heartbeat/good", headers=GOOD)
        assert beat.status_code == 200


async def _keep_at(attempt: Callable[[], Awaitable[None]], per_second: float, end: float, seen: Seen) -> None:
    """Begin attempts at this rate, whatever becomes of those before."""
    running: set[asyncio.Task[None]] = set()
    following = time.monotonic()
    while (now := time.monotonic()) < end:
        if len(running) < 20 * per_second:
            seen.attempts[attempt.__name__] += 1
            task = asyncio.create_task(_try(attempt))
            running.add(task)
            task.add_done_callback(running.discard)
        following = max(following + 1 / per_second, now - 1)
        await asyncio.sleep(max(0.0, following - now))
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def _try(attempt: Callable[[], Awaitable[None]]) -> None:
    with suppress(OSError):
        await attempt()


def _behave(method: str, url: str, end: float, seen: Seen) -> None:
    """Ask ten times a second, over one connection, and be answered. In a thread of its own, which does not
    wait for the abuse."""
    with httpx.Client(headers=GOOD, timeout=10) as client:
        while time.monotonic() < end:
            began = time.monotonic()
            seen.beats[client.request(method, url).status_code] += 1
            took = time.monotonic() - began
            seen.slowest[url.rpartition("/")[2]] = max(seen.slowest[url.rpartition("/")[2]], took)
            time.sleep(max(0.0, 0.1 - took))


async def _sample(pids: dict[str, int], end: float, seen: Seen) -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    while time.monotonic() < end:
        for name, pid in pids.items():
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            seen.memory.setdefault(name, []).append(pages * page)
        await asyncio.sleep(0.5)


def lines(seen: Seen) -> Iterator[str]:
    yield f"attempts: {sum(seen.attempts.values())}, of each kind about {min(seen.attempts.values())}"
    for kind, counts in seen.answers.items():
        yield f"  {kind}: " + ", ".join(f"{word} {n}" for word, n in counts.most_common())
    yield f"the good clients: {dict(seen.beats)}, slowest {dict(seen.slowest)} s"
    for name, (before, after) in seen.growth().items():
        yield f"{name}: {before / MIB:.0f} MiB in the second quarter, {after / MIB:.0f} in the last"
        series = [round(it / MIB) for it in seen.memory[name]]
        yield f"  MiB over time: {series[:: max(1, len(series) // 12)]}"
    yield f"logs, bytes: {seen.log}"
    yield from (f"WRONG: {problem}" for problem in seen.problems())


def main(arguments: list[str]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        seen = asyncio.run(run(float(arguments[0]) if arguments else 120, Path(folder)))
    sys.stdout.write("\n".join(lines(seen)) + "\n")
    return 1 if seen.problems() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
