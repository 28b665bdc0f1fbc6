"""A world in which each service is a host of its own: a network namespace with a cable to a bridge, at which
broker, database and Telegram's stand-in are. For root on Linux."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from tests.faults.world import World
from tests.telegram_standin import Standin

TOKEN = "for-the-tests-of-the-network"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Network:
    """The bridge and its hosts; `close` takes all of it away."""

    def __init__(self) -> None:
        self._tag = f"rt{os.getpid() % 100_000}"
        self._subnet = f"10.77.{os.getpid() % 250 + 1}"
        self.hosts: dict[str, int] = {}
        self._rules: list[list[str]] = []
        ip("link", "add", self._tag, "type", "bridge")
        ip("addr", "add", f"{self.middle}/24", "dev", self._tag)
        ip("link", "set", self._tag, "up")

    @property
    def middle(self) -> str:
        return f"{self._subnet}.254"

    def add(self, name: str) -> str:
        """A host, by its address."""
        number = self.hosts[name] = len(self.hosts) + 1
        space, cable = self.space(name), self.cable(name)
        ip("netns", "add", space)
        ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
        ip("link", "set", cable, "master", self._tag, "up")
        for words in (
            ("addr", "add", f"{self._subnet}.{number}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            ip("-n", space, *words)
        return f"{self._subnet}.{number}"

    def space(self, name: str) -> str:
        return f"{self._tag}-{self.hosts[name]}"

    def cable(self, name: str) -> str:
        return f"{self._tag}v{self.hosts[name]}"

    def draw(self, name: str) -> None:
        """Nothing reaches this host, and nothing comes from it."""
        ip("link", "set", self.cable(name), "down")

    def silence(self, name: str, *ports: int) -> None:
        """Nothing that this host sends to these ports in the middle arrives; all else does."""
        for port in ports:
            rule = ["INPUT", "-s", f"{self._subnet}.{self.hosts[name]}", "-p", "tcp", "--dport", str(port)]
            subprocess.run(["iptables", "-I", *rule, "-j", "DROP"], check=True)
            self._rules.append([*rule, "-j", "DROP"])

    def mend(self) -> None:
        for name in self.hosts:
            ip("link", "set", self.cable(name), "up")
        while self._rules:
            subprocess.run(["iptables", "-D", *self._rules.pop()], check=True)

    def close(self) -> None:
        for name in self.hosts:
            with suppress(subprocess.CalledProcessError):
                ip("netns", "del", self.space(name))
        with suppress(subprocess.CalledProcessError):
            self.mend()
        with suppress(subprocess.CalledProcessError):
            ip("link", "del", self._tag)


class Spread(World):
    """Each service on its own host of `network`."""

    def __init__(self, folder: Path, telegram: Standin, *, network: Network, **more: Any) -> None:
        more |= {"api_token": TOKEN, "ingest_token": TOKEN, "anonymous": "ingest,read"}
        super().__init__(folder, telegram, host=network.middle, **more)
        self.network = network
        for name in self.services:
            part = self.parts[name]
            assert part.env is not None
            part.env["REGISTRY_HOST"] = address = network.add(name)
            part.host = address if name.partition("-")[0] in ("ingest", "api") else ""
            part.command = ["ip", "netns", "exec", network.space(name), *part.command]

    def get_ready(self, name: str) -> int:
        """Asked from the service's own host: not every one of them serves others."""
        if self.parts[name].host:
            with suppress(httpx.HTTPError):
                return self.http.get(self.url(name, "/readyz")).status_code
            return 0
        url = f"http://127.0.0.1:{self.parts[name].port}/readyz"
        command = ["curl", "-s", "-m", "3", "-o", "/dev/null", "-w", "%{http_code}", url]
        asked = ["ip", "netns", "exec", self.network.space(name), *command]
        return int(subprocess.run(asked, capture_output=True, text=True).stdout or 0)
