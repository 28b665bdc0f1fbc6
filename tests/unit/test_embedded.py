"""What `registry run` starts for an address, and what stands in its files and its command line."""

import json
import subprocess
from pathlib import Path

import pytest

from services.cli import processes
from tests.servers import program


@pytest.mark.parametrize(
    "urls", [("nats://elsewhere:4222",), ("nats://127.0.0.1:1", "nats://127.0.0.1:2"), ("nats://10.0.0.1",)]
)
def test_nothing_is_started_for_a_broker_elsewhere(urls: tuple[str, ...], tmp_path: Path) -> None:
    assert processes.nats(urls, tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_started_for_a_database_elsewhere(tmp_path: Path) -> None:
    for url in ("mongodb://elsewhere", "mongodb://127.0.0.1:1,127.0.0.1:2", "mongodb+srv://a.example"):
        assert processes.mongodb(url, tmp_path) is None


@pytest.mark.parametrize("password", ["plain", "a/b@c", '"q\\', "1e5", "$NATS", "ü%"])
def test_the_broker_has_its_password_from_a_file_of_ours(password: str, tmp_path: Path) -> None:
    from urllib.parse import quote

    (tmp_path / "nats.conf").touch(0o644)
    server = processes.nats((f"nats://u:{quote(password, safe='')}@localhost:4333",), tmp_path)
    assert server
    assert server.place == ("NATS_URL", "localhost", 4333)
    config = Path(server.command[-1])
    assert config.stat().st_mode & 0o777 == 0o600
    assert password not in " ".join(server.command)
    assert f"password: {json.dumps(password, ensure_ascii=False)}" in config.read_text()
    assert "sync_interval: always" in config.read_text()
    checked = subprocess.run(
        [program("nats-server"), "-t", "-c", str(config)], capture_output=True, timeout=20
    )
    assert checked.returncode == 0, checked.stderr


def test_the_database_has_a_folder_by_its_version_and_no_secret_in_its_command(tmp_path: Path) -> None:
    server = processes.mongodb("mongodb://u:hunter2@[::1]:4334/?journal=true", tmp_path)
    assert server
    assert server.place == ("MONGODB_URL", "::1", 4334)
    assert "hunter2" not in " ".join(server.command)
    assert any(it.startswith(str(tmp_path / "mongodb-")) for it in server.command)


def test_a_program_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        processes.mongodb("mongodb://127.0.0.1", tmp_path)
    assert ended.value.code == 2
