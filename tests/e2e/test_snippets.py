"""What the page Connect gives to copy, run as it stands there."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from services.api.dashboard.pages import snippets
from tests.broker import connect
from tests.e2e.system import System, until
from tests.telegram_standin import Standin

SHELL = ["sh", "-c"]


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    with Standin() as telegram:
        system = System(tmp_path, telegram, ingest_token="YOUR_INGEST_TOKEN").start()
        yield system
        system.stop()


def begin(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


async def by_nats(system: System, lines: str) -> None:
    """As the tool `nats` does with such lines: the subject, headers after -H, and the payload."""
    client, _ = await connect(system.nats_url)
    for line in lines.splitlines():
        _, _, subject, *headers, payload = shlex.split(line)
        said = dict(it.split(":", 1) for it in headers if it != "-H")
        await client.publish(subject, payload.encode(), headers=said or None)
    await client.close()


async def test_every_line_that_can_be_run_here_is_a_heartbeat(system: System, tmp_path: Path) -> None:
    url = system.url("ingest", "")
    texts = {it.id: it.text for it in snippets(url, "placeholder", token=True)}

    def of(id_: str, name: str) -> str:
        return texts[id_].replace("placeholder", name)

    cron = of("cron", "by-cron").removeprefix("0 3 * * *  ").replace("/usr/local/bin/backup", "true")
    unit = of("systemd", "by-systemd").splitlines()
    before = unit[0].removeprefix("ExecStartPre=-")
    after = unit[1].removeprefix("ExecStopPost=-")
    assert after.endswith("/${EXIT_STATUS:-fail}'")
    docker = of("docker", "by-docker").partition("&& ")[2]
    action = yaml.safe_load(of("github", "by-github"))[0]["run"]
    action = action.replace("${{ secrets.REGISTRY_INGEST_TOKEN }}", "YOUR_INGEST_TOKEN")
    action = action.replace("${{ job.status == 'success' && '/0' || '/fail' }}", "/0")
    asynchronous = of("python-async", "by-async") + "\nasyncio.run(asyncio.wait_for(beat(), 20))"
    commands = {
        "by-curl": [*SHELL, of("curl", "by-curl")],
        "by-cron": [*SHELL, cron],
        "by-systemd": [*SHELL, f"{before}; EXIT_STATUS=3 {after}"],
        "by-killed": [*SHELL, f"{before}; EXIT_STATUS=KILL {after}".replace("by-systemd", "by-killed")],
        "by-unstarted": [*SHELL, f"unset EXIT_STATUS; {after}".replace("by-systemd", "by-unstarted")],
        "by-docker": [*SHELL, docker],
        "by-github": [*SHELL, action],
        "by-python": [sys.executable, "-c", of("python", "by-python")],
        "by-async": [sys.executable, "-c", asynchronous],
        "by-url": [*SHELL, f"curl -fsS '{of('browser', 'by-url')}'"],
    }
    if node := shutil.which("node"):
        commands["by-node"] = [node, "-e", of("node", "by-node").replace("60_000", "200")]
    running = [begin(command, tmp_path) for command in commands.values()]
    try:
        await until(lambda: commands.keys() <= {it["name"] for it in system.api("/services")["items"]})
        await until(lambda: len(system.api("/service/by-systemd/heartbeats")["items"]) == 2)
        signals = [it["signal"] for it in system.api("/service/by-systemd/heartbeats")["items"]]
        assert signals == ["fail", "start"]
        await until(lambda: system.api("/service/by-cron")["last_duration"] is not None)
        for name in ("by-systemd", "by-killed", "by-unstarted"):
            await until(lambda name=name: system.api(f"/service/{name}")["status"] == "down")  # type: ignore[misc]
        assert system.api("/service/by-killed")["reason"] == "reported failure (KILL)"
        assert system.api("/service/by-cron")["schedule"] == "0 3 * * *"
        for name in ("by-systemd", "by-github"):
            assert system.api(f"/service/{name}")["every"] == "1d"
        await by_nats(system, of("nats", "by-nats"))
        await until(lambda: system.api("/service/by-nats")["status"] == "down")
        await until(lambda: system.api("/service/by-nats")["message"] == "disk full")
    finally:
        for process in running:
            process.kill()
            process.wait()
