"""`registry backup` of a system that runs, `registry restore` into a new one: nothing false or twice."""

import asyncio
import json
import os
import subprocess
import zipfile
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from nats.js.errors import NotFoundError

from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from tests import servers
from tests.broker import changes, connect, events, eventually, provisioned
from tests.e2e.system import System, beats_by_http, until
from tests.servers import Process
from tests.telegram_standin import Standin

STEADY = [f"steady{i}" for i in range(20)]


def registry(folder: Path, nats_url: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return servers.registry(folder, *arguments, env={**os.environ, "REGISTRY_NATS_URL": nats_url})


async def record(url: str) -> list[Any]:
    nc, js = await connect(url)
    found = await events(js)
    await nc.close()
    return found


def models(system: System) -> list[Any]:
    made = system.api("/service/made")
    made["ping_url"] = made["ping_url"].rpartition("/")[2]  # each system has ports of its own
    return [
        system.api("/service/gone/events?limit=100"),
        made,
        system.api("/maintenance"),
    ]


async def test_a_copy_of_a_live_system_goes_on_in_a_new_one(tmp_path: Path) -> None:
    """Copied under load; put back, after longer than every threshold, into a new broker and a new database.
    Then put back once more over what has happened since."""
    file = tmp_path / "registry.backup"
    with Standin(chats=("42",)) as telegram:
        same = {"silent_after": "7s", "down_after": "9s", "public_url": "https://registry.example"}
        old, new = (System(folder(tmp_path, it), telegram, **same) for it in "ab")
        try:
            old.start()
            assert old.beat("late") == old.beat("gone", "/fail") == 200
            assert old.http.post(old.url("api", "/service"), json={"name": "made", "tags": ["x"]}).is_success
            window = {"tags": ["x"], "starts_at": "2031-01-01T00:00:00Z", "ends_at": "2031-01-02T00:00:00Z"}
            assert old.http.post(old.url("api", "/maintenance"), json=window).is_success
            load = beats_by_http(old, [*STEADY, "late"], 0.2, [])
            await until(lambda: old.status("gone") == "down" and old.told("gone") and old.told(STEADY[-1]))
            await until(lambda: all(old.told(name) for name in STEADY))
            done = await asyncio.to_thread(registry, tmp_path, old.nats_url, "backup", str(file), "--json")
            assert done.returncode == 0, done.stderr
            copied = {it["stream"]: it["last_seq"] for it in json.loads(done.stdout)}
            assert file.stat().st_mode & 0o777 == 0o600
            busy = registry(tmp_path, old.nats_url, "restore", str(file), "--replace")
            assert (busy.returncode, "stop ingest, monitor, notifier and api first" in busy.stderr) == (
                1,
                True,
            )
            before, history = models(old), await record(old.nats_url)
            load.cancel()
            for part in reversed(old.parts.values()):
                part.stop()
            messages = len(telegram.messages)
            await asyncio.sleep(7.5)  # longer than silent_after

            new.start("nats", "mongo", wait=False)
            done = await asyncio.to_thread(registry, tmp_path, new.nats_url, "restore", str(file), "--json")
            assert (done.returncode, json.loads(done.stdout)[1]["last_seq"]) == (0, copied["HEARTBEATS"]), (
                done
            )
            assert await record(new.nats_url) == history[: copied["SERVICES"]]
            back, load = await lives_on(new)
            assert models(new) == before
            await until(lambda: new.told("late")[1:2] == ["alive → silent"])  # judged again, from now on
            assert all("late" in it["text"] for it in telegram.messages[messages:]), "the others went on"
            nc, js = await connect(new.nats_url)
            fall = next(it for it in await changes(js, "late") if it.data.to == "silent")
            assert fall.data.since > back, "not in the time in which the registry was away"
            assert await changes(js, STEADY[0]) == [it for it in history if it.subject == STEADY[0]][1:]

            load.cancel()
            assert new.beat("gone") == 200
            await until(lambda: new.told("gone")[-1:] == ["down → alive"])
            rest = (await js.stream_info(streams.SERVICES)).state.last_seq
            for name in ("ingest", "monitor", "notifier", "api"):
                new.parts[name].stop()
            over = registry(tmp_path, new.nats_url, "restore", str(file))
            assert (over.returncode, "--replace" in over.stderr) == (1, True)
            over = registry(tmp_path, new.nats_url, "restore", str(file), "--replace")
            assert over.returncode == 0, over.stderr
            new.start("ingest", "monitor", wait=False)
            await until(lambda: new.get_ready("ingest") == 200)
            for i in range(rest):  # so that the database's checkpoint is not ahead of the stream
                assert new.beat(f"other{i}") == 200

            async def grown() -> bool:
                return (await js.stream_info(streams.SERVICES)).state.last_seq > rest

            await eventually(grown)
            new.start("api", "notifier")
            assert models(new) == before
            await nc.close()
        finally:
            old.stop()
            new.stop()


async def lives_on(system: System) -> tuple[datetime, asyncio.Task[None]]:
    """Start the services; who was beating goes on. When the broker stored the first of it, and that load."""
    system.start("ingest", wait=False)
    await until(lambda: system.get_ready("ingest") == 200)
    for name in STEADY:
        assert system.beat(name) == 200
    nc, js = await connect(system.nats_url)
    found = await js.get_last_msg(streams.HEARTBEATS, streams.heartbeat(STEADY[0]))
    await nc.close()
    assert found.time
    load = beats_by_http(system, STEADY, 0.2, [])
    await asyncio.to_thread(system.start, "monitor", "notifier", "api")
    log = system.parts["monitor"].log.read_text()
    assert "reading everything again" not in log, "the snapshot is as good as it was"
    return found.time, load


def folder(parent: Path, name: str) -> Path:
    made = parent / name
    made.mkdir()
    return made


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def flipped(raw: bytes) -> bytes:
    return raw[:300] + bytes([raw[300] ^ 1]) + raw[301:]


def empty(raw: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [cut, flipped, empty])
async def test_a_damaged_file_changes_nothing(
    tmp_path: Path, nats: Process, nats_url: str, damage: Any
) -> None:
    link = await provisioned(nats_url)
    await link.js.publish(streams.heartbeat("web"), b"x" * 1000)
    file = tmp_path / "copy"
    assert registry(tmp_path, nats_url, "backup", str(file)).returncode == 0
    file.write_bytes(damage(file.read_bytes()))
    done = registry(tmp_path, nats_url, "restore", str(file), "--replace")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert (await link.js.stream_info(streams.HEARTBEATS)).state.messages == 1
    await link.close()


async def test_what_is_in_the_file_must_be_what_the_manifest_says(
    tmp_path: Path, nats: Process, nats_url: str
) -> None:
    link = await provisioned(nats_url)
    file, other = tmp_path / "copy", tmp_path / "other"
    assert registry(tmp_path, nats_url, "backup", str(file)).returncode == 0
    with zipfile.ZipFile(file) as good, zipfile.ZipFile(other, "w") as bad:
        for name in good.namelist():
            bad.writestr(name, good.read(name) + (b"more" if name == streams.SERVICES else b""))
    done = registry(tmp_path, nats_url, "restore", str(other), "--replace")
    assert (done.returncode, "checksum of SERVICES" in done.stderr) == (1, True), done.stderr
    assert (await link.js.stream_info(streams.SERVICES)).state.messages == 0
    await link.close()


async def test_runs_are_in_the_copy_and_a_copy_without_them_is_as_good(
    tmp_path: Path, nats: Process, nats_url: str
) -> None:
    """The latter is that of a version which recorded no runs."""
    link = await provisioned(nats_url)
    for n in range(3):
        await link.js.publish(streams.run("job"), str(n).encode())
    with_runs, without = tmp_path / "with", tmp_path / "without"
    done = registry(tmp_path, nats_url, "backup", str(with_runs), "--json")
    copied = [it["stream"] for it in json.loads(done.stdout)]
    assert copied.index(streams.SERVICES) < copied.index(streams.RUNS)
    await link.js.delete_stream(streams.RUNS)
    assert registry(tmp_path, nats_url, "backup", str(without)).returncode == 0
    for file, wanted in ((with_runs, [b"0", b"1", b"2"]), (without, None), (with_runs, [b"0", b"1", b"2"])):
        done = registry(tmp_path, nats_url, "restore", str(file), "--replace")
        assert done.returncode == 0, done.stderr
        assert await _facts(link) == wanted
    await link.close()


async def _facts(link: BrokerConnection) -> list[bytes | None] | None:
    """What stands in RUNS; None: there is no such stream."""
    try:
        last = (await link.js.stream_info(streams.RUNS)).state.last_seq
    except NotFoundError:
        return None
    return [(await link.js.get_msg(streams.RUNS, seq)).data for seq in range(1, last + 1)]


async def test_what_is_wrong_is_said(tmp_path: Path, nats: Process, nats_url: str) -> None:
    assert registry(tmp_path, nats_url, "restore", "nowhere").returncode == 2
    assert registry(tmp_path, nats_url, "backup", "no/folder/file").returncode == 2
    nothing = registry(tmp_path, nats_url, "backup", "file")
    assert (nothing.returncode, "there is no stream HEARTBEATS" in nothing.stderr) == (1, True), (
        nothing.stderr
    )
    assert not list(tmp_path.glob("file*"))
    nats.kill()
    away = registry(tmp_path, "nats://198.51.100.1:4222", "backup", "file")
    assert (away.returncode, "cannot be reached" in away.stderr) == (1, True), away.stderr
