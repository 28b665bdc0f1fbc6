"""The whole system as processes: two servers, four services, and Telegram's stand-in."""

import asyncio
import re
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx

from tests.servers import Process, mongo_server, nats_server, service
from tests.telegram_standin import Standin

SERVICES = ("ingest", "monitor", "notifier", "api")


class System:
    """Every part can be killed and started again by its name."""

    def __init__(
        self,
        folder: Path,
        telegram: Standin,
        *,
        host: str = "127.0.0.1",
        brokers: dict[str, Process] | None = None,
        **variables: str,
    ) -> None:
        """`host`: where broker and database are bound."""
        self.telegram = telegram
        brokers = brokers or {"nats": nats_server(folder, host)}
        self.nats_url = ",".join(f"nats://{it.host}:{it.port}" for it in brokers.values())
        self.parts = {**brokers, "mongo": mongo_server(folder, host)}
        settings = {
            "mongodb_url": f"mongodb://{host}:{self.parts['mongo'].port}",
            "telegram_api_url": telegram.url,
            "telegram_bot_token": telegram.token,
            "telegram_chat_id": telegram.chats[0],
            "digest_time": "",
            "silent_after": "2s",
            "down_after": "4s",
            "dead_after": "1h",
            "tick": "0.2s",
            **variables,
        }
        for name in SERVICES:
            self.parts[name] = service(name, folder, self.nats_url, **settings)
            settings["ingest_port"] = str(self.parts["ingest"].port)
        self.http = httpx.Client(timeout=20)

    def start(self, *names: str, wait: bool = True) -> "System":
        for name in names or tuple(self.parts):
            self.parts[name].start()
        if wait:
            self.wait_until_ready()
        return self

    @property
    def services(self) -> list[str]:
        """The parts that say whether they are ready: a second one of a service is called `monitor-2`."""
        return [name for name in self.parts if name.partition("-")[0] in SERVICES]

    def wait_until_ready(self, within: float = 30.0) -> None:
        deadline = time.monotonic() + within
        for name in self.services:
            while self.get_ready(name) != 200:
                assert time.monotonic() < deadline, f"{name}: {self.parts[name].log.read_text()[-3000:]}"
                time.sleep(0.05)

    def get_ready(self, name: str) -> int:
        try:
            return self.http.get(self.url(name, "/readyz")).status_code
        except httpx.HTTPError:
            return 0

    def url(self, name: str, path: str) -> str:
        return f"http://{self.parts[name].host}:{self.parts[name].port}{path}"

    def beat(self, name: str, path: str = "") -> int:
        return self.http.post(self.url("ingest", f"/heartbeat/{name}{path}")).status_code

    def api(self, path: str) -> Any:
        return self.http.get(self.url("api", path)).json()

    def status(self, name: str) -> str:
        return str(self.api(f"/service/{name}").get("status"))

    def stop(self) -> None:
        self.http.close()
        for part in reversed(self.parts.values()):
            if part.process:
                part.kill()

    def told(self, name: str, *, repeats: bool = False, chat: str = "42") -> list[str]:
        """What people read of a service, as `alive → silent`, in order; marked repeats only if asked for."""
        return [change for change, repeat in self.lines(name, chat) if repeats or not repeat]

    def lines(self, name: str, chat: str) -> list[tuple[str, bool]]:
        """The same, each with whether its message is marked as a possible repeat."""
        found = []
        for message in [it for it in self.telegram.messages if it["chat"] == chat]:
            lines, repeat = message["text"].splitlines(), "repeat" in message["text"]
            for line, following in zip(lines, [*lines[1:], ""], strict=True):
                alone = re.search(rf"(?<![\w.-]){re.escape(name)}:? ((?:\w+ → )+\w+)", line)
                group = (
                    re.search(r"((?:\w+ → )+\w+) \(\d+\)", line) if name in following.split(", ") else None
                )
                if path := alone or group:
                    found += [(f"{a} → {b}", repeat) for a, b in pairwise(path[1].split(" → "))]
        return found


def beats_by_http(
    system: System, names: list[str], every: float, acknowledged: list[str]
) -> asyncio.Task[None]:
    """Keep these services beating over HTTP, and note each beat that was answered with 200."""

    async def run() -> None:
        async with httpx.AsyncClient(timeout=3) as client:

            async def beat(name: str) -> None:
                try:
                    answer = await client.post(system.url("ingest", f"/heartbeat/{name}"))
                except httpx.HTTPError:
                    return
                if answer.status_code == 200:
                    acknowledged.append(name)

            while True:
                await asyncio.gather(*(beat(name) for name in names), asyncio.sleep(every))

    return asyncio.create_task(run())


async def until(check: Callable[[], Any], within: float = 30.0) -> Any:
    """The first true answer of `check`; fails with the last after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        answer = await asyncio.to_thread(check)
        if answer:
            return answer
        assert time.monotonic() < deadline, f"still {answer!r} after {within} s"
        await asyncio.sleep(0.1)
