"""How `registry run` and the services end, and what they say of it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.cli import processes, supervisor
from services.cli.processes import Child, Place
from services.cli.settings import RunSettings
from services.cli.supervisor import choose_ports, is_free
from shared.http import server
from shared.http.protocol import ConnectionLimits, within
from tests.servers import free_port


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    for module in (processes, supervisor):
        monkeypatch.setattr(module, "announce", found.append)
    return found


@pytest.fixture
async def child(tmp_path: Path) -> AsyncIterator[Child]:
    """A program that ends at once."""
    child = Child("web", [str(tmp_path / "web")])
    put(tmp_path / "web", "exit 7")
    yield child
    await child.stop()


def put(file: Path, line: str) -> None:
    new = file.with_suffix(".new")  # one that runs cannot be written to
    new.write_text(f"#!/bin/sh\n{line}\n")
    new.chmod(0o755)
    new.rename(file)


async def until(check: Any) -> None:
    async with asyncio.timeout(20):
        while not check():  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)


async def test_what_cannot_be_started_again_is_said_and_tried_again(
    child: Child, tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "MAX_BACKOFF", 0.05)
    assert await child.start() == ""
    assert child.process
    await child.process.wait()  # the shell has read it
    (tmp_path / "web").unlink()
    child.keeper = asyncio.create_task(child.keep())
    await until(lambda: len(lines) >= 3)
    assert lines[0].startswith("web ended (exit code 7); starting it again")
    assert lines[1].startswith("web cannot be started (No such file or directory); starting it again")
    put(tmp_path / "web", "exec sleep 60")
    await until(lambda: child.process and child.process.returncode is None)
    assert not child.keeper.done()


async def test_it_ends_with_2_when_something_is_configured_wrongly(child: Child, tmp_path: Path) -> None:
    put(tmp_path / "web", "exit 2")
    await child.start()
    await asyncio.wait_for(child.keep(), 20)
    assert child.misconfigured


def test_run_ends_with_1_when_something_cannot_be_started(
    tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = {name: free_port() for name in ("ingest_port", "monitor_port", "notifier_port", "api_port")}
    elsewhere = {"nats_url": ("nats://broker",), "mongodb_url": "mongodb://database"}
    settings = RunSettings(data_dir=tmp_path, **ports, **elsewhere)
    monkeypatch.setattr(supervisor, "_servers", lambda *_: [Child("nats", [str(tmp_path / "none")])])
    assert supervisor.run(settings) == 1
    assert lines[0] == "nats cannot be started (No such file or directory)"


def test_no_two_listen_at_one_port(capsys: pytest.CaptureFixture[str]) -> None:
    """Ports that nobody asked for give way."""
    one, other, broker = free_port(), free_port(), free_port()
    places = [Place("NATS_URL", "127.0.0.1", broker)]
    given = {"ingest_port": one, "api_port": other}

    def ports(**more: Any) -> dict[str, int]:
        return choose_ports(RunSettings(_env_file=None, **{**given, **more}), places)  # type: ignore[call-arg]

    assert len(set(ports().values())) == 4
    default = RunSettings.model_fields["monitor_port"].default
    if is_free("127.0.0.1", default):
        assert ports(api_port=default)["monitor"] != default
    for wrong in (
        {"api_port": one},
        {"monitor_port": one},
        {"monitor_port": other, "metrics_host": "0.0.0.0"},
        {"notifier_port": broker},
        {"ingest_port": broker},
    ):
        with pytest.raises(SystemExit, match="2"):
            ports(**wrong)
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "already; accepted: another one" in said


def test_a_folder_that_cannot_be_had_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended:
        supervisor.run(RunSettings(data_dir=tmp_path / "file" / "data"))
    assert ended.value.code == 2
    assert "REGISTRY_DATA_DIR=" in capsys.readouterr().err


async def serve(work: Any) -> int:
    sock = server._bind("127.0.0.1", 0, "X_PORT", False)
    return await asyncio.wait_for(
        server._serve(None, work, sock, within(ConnectionLimits()), lambda: None), 20
    )


async def for_ever() -> None:
    await asyncio.Event().wait()


async def test_a_service_whose_server_crashes_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(_: object) -> None:
        raise RuntimeError("the server")

    monkeypatch.setattr(server._Server, "every_second", crash)
    assert await serve(for_ever) == 1


async def test_a_service_whose_work_crashes_ends_with_1() -> None:
    async def crash() -> None:
        await asyncio.sleep(0)
        raise RuntimeError("the work")

    assert await serve(crash) == 1


async def test_a_service_that_is_told_to_stop_ends_with_0() -> None:
    import os
    import signal

    async def told() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await for_ever()

    assert await serve(told) == 0
