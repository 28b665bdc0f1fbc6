"""Fixtures: each test gets servers of its own, so that it may kill them."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis  # imported late, at the bottom of a deep stack, it fails on Python 3.11
import pytest

from tests.servers import Process, mongo_server, nats_server

# Where Python is told not to keep what it compiled, each of a thousand processes would compile it all again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Whoever runs the tests in the background of a script has these ignored, and so would all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)

# On a busy machine nothing is wrong with a test whose examples take long to make.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[Process]:
    server = nats_server(tmp_path).start()
    yield server
    server.kill()


@pytest.fixture
def nats_url(nats: Process) -> str:
    return f"nats://127.0.0.1:{nats.port}"


@pytest.fixture
def mongo(tmp_path: Path) -> Iterator[Process]:
    server = mongo_server(tmp_path).start()
    yield server
    server.kill()


@pytest.fixture
def mongo_url(mongo: Process) -> str:
    return f"mongodb://127.0.0.1:{mongo.port}/?journal=true"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable for the registry and no .env file of the person who runs the tests reaches them."""
    for variable in [name for name in os.environ if name.startswith(("REGISTRY_", "OTEL_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
