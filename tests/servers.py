"""Real servers for tests: nats-server and the MongoDB-compatible server as processes on free ports."""

import contextlib
import itertools
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path


def _ports() -> Iterator[int]:
    """Ports that are never an outgoing connection's and never another test process's, over and over.

    A port from the kernel (bind to 0) may go to a client before its server starts, or while it is down.
    """
    ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    share = (ephemeral - 10_000) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    ports = range(10_000 + worker * share, 10_000 + (worker + 1) * share)
    start = random.randrange(share)
    return itertools.cycle([*ports[start:], *ports[:start]])


PORTS = _ports()


def free_port() -> int:
    for port in PORTS:
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("unreachable: the ports never end")


def program(name: str) -> str:
    """A program installed beside this Python."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"{name} is not installed"
    return found


def listening(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as sock:
        sock.settimeout(0.5)
        return sock.connect_ex((host, port)) == 0


class Forked:
    """`python ARGUMENTS` as a fork of a process that has the libraries in memory: a start costs a third.

    It offers what is used of `subprocess.Popen`.
    """

    def __init__(self, arguments: list[str], folder: Path, env: dict[str, str], out: Path, err: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.preloaded", __name__])
        self._process = context.Process(target=_run, args=(arguments, folder, env, out, err), daemon=True)
        self._process.start()
        assert self._process.pid
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("fork", timeout or 0)
        return self._process.exitcode


def _run(arguments: list[str], folder: Path, env: dict[str, str], out: Path, err: Path) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    for descriptor, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT), descriptor)
    is_module = arguments[0] == "-m"
    sys.argv = arguments[is_module:]
    if is_module:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


def registry(
    folder: Path, *arguments: str, env: dict[str, str], within: float = 60
) -> "subprocess.CompletedProcess[str]":
    """The command `registry` with these arguments, and how it ended. A fork as well."""
    with tempfile.TemporaryDirectory() as parent:
        out, err = Path(parent, "out"), Path(parent, "err")
        fork = Forked(["-m", "services.cli", *arguments], folder, env, out, err)
        try:
            code = fork.wait(within)
        except subprocess.TimeoutExpired:
            os.kill(fork.pid, signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(arguments, code, out.read_text(), err.read_text())


class Process:
    """A process that can be killed and started again on the same port with the same files."""

    def __init__(
        self,
        command: list[str],
        port: int,
        log: Path,
        env: dict[str, str] | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.command = command
        self.port = port
        self.log = log
        self.env = env or dict(os.environ)
        self.host = host
        """Where it listens; empty if that is not for us to see."""
        self.process: subprocess.Popen[bytes] | Forked | None = None

    def start(self, wait: float = 20.0) -> "Process":
        self.process = self._started()
        deadline = time.monotonic() + wait
        while wait and self.host and not listening(self.port, self.host):
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.02)
        return self

    def _started(self) -> subprocess.Popen[bytes] | Forked:
        with self.log.open("ab") as out:
            return subprocess.Popen(
                self.command,
                stdout=out,
                stderr=out,
                cwd=self.log.parent,
                env=self.env,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self, sig: int = signal.SIGKILL, wait: float = 15.0) -> int:
        """Send a signal to this process alone and wait for its end."""
        assert self.process
        if self.running:
            os.kill(self.process.pid, sig)
        return self.process.wait(wait)

    def stop(self) -> int:
        return self.kill(signal.SIGTERM)

    def signal(self, sig: int) -> None:
        """Send a signal. After SIGSTOP return when it stands still, which on two cores is not at once."""
        os.kill(self.pid, sig)
        while sig == signal.SIGSTOP and self.running and not self._still():
            time.sleep(0.001)

    def _still(self) -> bool:
        """Whether each of its threads is in the state T of proc(5)."""
        states = [it.read_text().rpartition(")")[2] for it in Path(f"/proc/{self.pid}/task").glob("*/stat")]
        return all(it.split()[0] == "T" for it in states)


class Service(Process):
    """One of the four, which start so often that it is worth a fork.

    Executed on its own by `make faults`, by `registry run`, and where the loader is another.
    """

    def _started(self) -> subprocess.Popen[bytes] | Forked:
        python, *arguments = self.command
        if python != sys.executable or "LD_PRELOAD" in self.env or "FAULTS" in os.environ:
            return super()._started()
        self.log.touch()
        return Forked(arguments, self.log.parent, self.env, self.log, self.log)


ACK_V2 = "feature_flags { js_ack_fc_v2: true }\n"
"""Has a nats-server 2.15 use the reply subjects of 2.16."""


def ack_v2_options(folder: Path, wanted: bool = False) -> list[str]:
    """For nats-server: the reply subjects of 2.16, if they are wanted here or NATS_ACK_V2=1 wants them."""
    if not (wanted or os.environ.get("NATS_ACK_V2") == "1"):
        return []
    (folder / "ack-v2.conf").write_text(ACK_V2)
    return ["-c", str(folder / "ack-v2.conf")]


def nats_server(folder: Path, host: str = "127.0.0.1", *, ack_v2: bool = False) -> Process:
    port = free_port()
    command = [program("nats-server"), "-js", "-sd", str(folder / "nats"), "-p", str(port), "-a", host]
    command += ack_v2_options(folder, ack_v2)
    return Process(command, port, folder / "nats.log", host=host)


def nats_cluster(folder: Path) -> dict[str, Process]:
    """Three nodes, by their names."""
    names = [f"nats-{n}" for n in (1, 2, 3)]
    clusters = {name: free_port() for name in names}
    routes = ",".join(f"nats://127.0.0.1:{port}" for port in clusters.values())
    found = {}
    for name in names:
        port = free_port()
        command = [
            program("nats-server"),
            "-js",
            "-sd",
            str(folder / name),
            "-p",
            str(port),
            "-a",
            "127.0.0.1",
        ]
        command += ["--server_name", name, "--cluster_name", "test", "--routes", routes]
        command += ["--cluster", f"nats://127.0.0.1:{clusters[name]}"]
        command += ack_v2_options(folder)
        found[name] = Process(command, port, folder / f"{name}.log")
    return found


def mongo_server(folder: Path, host: str = "127.0.0.1") -> Process:
    port = free_port()
    command = [
        program("secantusd-rs"),
        *("--host", host, "--port", str(port)),
        *("--storage-path", str(folder / "mongo"), "--log-level", "WARNING"),
        *("--cache-size", "128M", "--log-file-max", "64MB", "--sync-on-commit"),
    ]
    return Process(command, port, folder / "mongo.log", host=host)


CADDYFILE = Path(__file__).parents[1] / "deploy/Caddyfile"


def front_door(folder: Path, upstreams: dict[str, int], *, debug: bool = False) -> Process | None:
    """Caddy with the repository's file before these ports; None where it is not installed."""
    caddy, port, config = shutil.which("caddy"), free_port(), folder / "Caddyfile"
    text = CADDYFILE.read_text().replace(":8081", f":{free_port()}")
    config.write_text(text.replace("admin off", "admin off\n\tdebug", 1) if debug else text)
    env = {
        "HOME": str(folder),
        "REGISTRY_SITE": f"http://:{port}",
        **{f"REGISTRY_{name.upper()}": f"127.0.0.1:{own}" for name, own in upstreams.items()},
    }
    command = [caddy or "caddy", "run", "--config", str(config)]
    return Process(command, port, folder / "caddy.log", env=env) if caddy else None


def service(name: str, folder: Path, nats_url: str, **variables: str) -> Process:
    """One of the four services as a process, configured by the environment alone."""
    port = free_port()
    env = {
        **os.environ,
        "REGISTRY_NATS_URL": nats_url,
        f"REGISTRY_{name.upper()}_PORT": str(port),
        "REGISTRY_LOG_FORMAT": "console",
        **{f"REGISTRY_{key.upper()}": value for key, value in variables.items()},
    }
    log = folder / f"{name}-{port}.log"
    return Service([sys.executable, "-m", f"services.{name}"], port, log, env)
