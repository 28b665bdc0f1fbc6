"""What the page Connect gives to copy, run as it stands there."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.api.snippets import snippets
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


async def test_every_line_that_can_be_run_here_is_a_heartbeat(system: System, tmp_path: Path) -> None:
    url = system.url("ingest", "")
    texts = {it.id: it.text for it in snippets(url, "placeholder", token=True)}

    def of(id_: str, name: str) -> str:
        return texts[id_].replace("placeholder", name)

    cron = of("cron", "by-cron").removeprefix("0 3 * * *  ").replace("/usr/local/bin/backup", "true")
    unit = of("systemd", "by-systemd").splitlines()
    before = unit[0].removeprefix("ExecStartPre=-")
    after = unit[1].removeprefix("ExecStopPost=-").replace("$EXIT_STATUS", "3")
    docker = of("docker", "by-docker").partition("&& ")[2]
    action = of("github", "by-github").partition("run: ")[2]
    action = action.replace("${{ secrets.REGISTRY_INGEST_TOKEN }}", "YOUR_INGEST_TOKEN")
    action = action.replace("${{ job.status == 'success' && '/0' || '/fail' }}", "/0")
    asynchronous = of("python-async", "by-async") + "\nasyncio.run(asyncio.wait_for(beat(), 3))"
    commands = {
        "by-curl": [*SHELL, of("curl", "by-curl")],
        "by-cron": [*SHELL, cron],
        "by-systemd": [*SHELL, f"{before}; {after}"],
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
    finally:
        for process in running:
            process.kill()
            process.wait()
