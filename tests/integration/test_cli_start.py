"""How fast `registry beat` and `registry exec` start, and what the command line shows at a terminal."""

import os
import pty
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.integration.test_exec import Registry, registry

HEAVY = {
    "typer",
    "rich",
    "click",
    "pydantic",
    "pydantic_settings",
    "httpx",
    "nats",
    "faststream",
    "structlog",
}
LINES = (["beat", "a"], ["exec", "a", "--", "true"])


def environment(url: str, **more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "REGISTRY_URL": url, **more}


@pytest.mark.parametrize("line", LINES)
def test_they_import_none_of_the_libraries(line: list[str], registry: Registry, tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "services.cli", *line]
    env = environment(registry.url)
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "services" in imported
    assert not imported & HEAVY
    assert registry.paths[0].startswith("/heartbeat/a")


def seconds(command: list[str], env: dict[str, str], folder: Path) -> float:
    begun = time.monotonic()
    subprocess.run(command, env=env, cwd=folder, check=True, capture_output=True)
    return time.monotonic() - begun


@pytest.mark.parametrize("line", LINES)
def test_they_start_in_less_than_150_ms(line: list[str], registry: Registry, tmp_path: Path) -> None:
    """The best of several, and, where the machine is slow, in less than five times what Python takes."""
    command, env = [sys.executable, "-m", "services.cli", *line], environment(registry.url)
    ours, bare = [], []
    for attempt in range(30):
        ours.append(seconds(command, env, tmp_path))
        bare.append(seconds([sys.executable, "-c", "pass"], env, tmp_path))
        if attempt > 3 and min(ours) < max(0.15, 5 * min(bare)):
            return
    pytest.fail(f"{min(ours):.3f} s, and Python alone {min(bare):.3f} s")


def at_a_terminal(command: list[str], env: dict[str, str], folder: Path) -> bytes:
    ours, theirs = pty.openpty()
    found = b""

    def read() -> None:
        nonlocal found
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:  # nobody has it open any more
                return
            found += data

    reader = threading.Thread(target=read)
    reader.start()
    subprocess.run(command, env=env, cwd=folder, stdout=theirs, check=True)
    os.close(theirs)
    reader.join(10)
    os.close(ours)
    return found


def test_colours_are_for_terminals_that_want_them(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "show.py").write_text(
        "from services.cli.tables import show\n"
        "rows = [('down', 'a', 'x' * 300), ('alive', 'b\\x1b[2J', '')]\n"
        "show(('status', 'name', 'reason'), rows, nothing='')\n"
    )
    command = [sys.executable, "show.py"]
    env = environment(registry.url, TERM="xterm", COLUMNS="80")
    shown = at_a_terminal(command, env, tmp_path)
    assert b"\x1b[31mdown" in shown
    assert b"\x1b[2J" not in shown
    assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).splitlines())) == 80
    shown = at_a_terminal(command, env | {"NO_COLOR": "1"}, tmp_path)
    assert b"down" in shown
    assert b"\x1b[31m" not in shown
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    heading, down, alive = done.stdout.splitlines()
    assert heading == "STATUS  NAME      REASON"
    assert down == f"down    a         {'x' * 300}"
    assert alive == "alive   b\\x1b[2J"
