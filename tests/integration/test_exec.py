"""The wrapper in one file, as it is served, with each Python that is here, and a registry that can be bad."""

import ast
import asyncio
import contextlib
import json
import os
import pty
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from starlette.applications import Starlette

from shared import exec as wrapper
from shared.contracts.events import valid_name
from shared.contracts.heartbeats import cut_message
from shared.http.siblings import exec_py
from shared.settings import Settings
from tests.servers import free_port

SECRET = "TOKEN-of-sixteen-x"


def served(**settings: str) -> bytes:
    app = Starlette(routes=[exec_py(Settings(_env_file=None, **settings))])  # type: ignore[arg-type,call-arg]

    async def get() -> bytes:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://registry") as http:
            return (await http.get("/exec.py")).content

    return asyncio.run(get())


def pythons() -> list[str]:
    """From 3.8 on, one of each version; this one at least."""
    found = {sys.version_info[1]: sys.executable}
    for minor in range(8, 14):
        places = Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python")
        for python in filter(None, (shutil.which(f"python3.{minor}"), *map(str, sorted(places)))):
            asked = subprocess.run(
                [python, "-c", "import sys; print(sys.version_info[1])"], capture_output=True
            )
            if asked.returncode == 0 and int(asked.stdout) == minor:
                found.setdefault(minor, python)
    return list(found.values())


class Request(NamedTuple):
    path: str
    fields: dict[str, Any]
    headers: dict[str, str]


Answer = tuple[int, dict[str, str], bytes]
OK: Answer = (200, {}, b'{"status":"ok"}')


class Registry(ThreadingHTTPServer):
    def __init__(self) -> None:
        self.seen: list[Request] = []
        self.answer: Callable[[Request], Answer] = lambda _: OK
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {key.lower(): value for key, value in self.headers.items()}
                request = Request(self.path, json.loads(raw or b"{}"), headers)
                registry.seen.append(request)
                status, headers, content = registry.answer(request)
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def paths(self) -> list[str]:
        return [request.path for request in self.seen]


@pytest.fixture
def registry() -> Iterator[Registry]:
    server = Registry()
    yield server
    server.shutdown()
    server.server_close()


def until(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def beat(tmp_path: Path) -> Path:
    file = tmp_path / "beat"
    file.write_bytes(served())
    file.chmod(0o755)
    return file


def environment(url: str, **more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "REGISTRY_URL": url, **more}


def wrapped(beat: Path, url: str, *line: str, **rest: Any) -> "subprocess.CompletedProcess[bytes]":
    command = [rest.pop("python", sys.executable), str(beat), "backup", "--", *line]
    env = rest.pop("env", environment(url))
    return subprocess.run(command, capture_output=True, env=env, cwd=beat.parent, timeout=30, **rest)


def started(beat: Path, url: str, *line: str, **rest: Any) -> "subprocess.Popen[bytes]":
    command = [sys.executable, str(beat), "backup", "--", *line]
    env = environment(url)
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=env, start_new_session=True, **rest)


def test_it_is_written_for_python_3_8() -> None:
    ast.parse(served(), feature_version=(3, 8))
    imported = {
        name.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(served()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert {(each or "").partition(".")[0] for each in imported} <= sys.stdlib_module_names


def test_what_is_served_is_the_file_with_the_public_address_if_there_is_one() -> None:
    source = Path(wrapper.__file__).read_bytes()
    assert served() == source
    assert source.startswith(b"#!/usr/bin/env python3\n")
    known = served(public_url="https://registry.example.com/")
    assert known == source.replace(b'\nURL = ""\n', b'\nURL = "https://registry.example.com"\n')
    assert known != source


@pytest.mark.parametrize(
    "name", ["a", "A.b-c_9", "", ".", "a..b", "a.", "a/b", "ä", "x" * 128, "x" * 129, "a\n"]
)
def test_it_knows_the_names_that_services_may_have(name: str) -> None:
    assert wrapper.valid_name(name) == valid_name(name)


@pytest.mark.parametrize("python", pythons())
def test_the_output_is_unchanged_and_the_code_kept(python: str, beat: Path, registry: Registry) -> None:
    script = r"printf 'a\0\377\n'; printf 'oh\n' >&2; cat; exit 7"
    done = wrapped(beat, registry.url, "sh", "-c", script, python=python, input=b"in\r\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"a\0\xff\nin\r\n", b"oh\n")
    assert registry.paths == ["/heartbeat/backup/start", "/heartbeat/backup/7"]
    start, end = registry.seen
    assert start.fields["run"] == end.fields["run"]
    assert sorted(end.fields["message"]) == sorted("a\0\ufffd\nin\r\noh\n")
    assert 0 <= float(end.headers["registry-duration"]) < 10


def test_it_is_executable_and_may_be_told_the_address(beat: Path, registry: Registry) -> None:
    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run([beat, "--url", registry.url, "backup", "--", "true"], env=env, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    done = subprocess.run([beat, f"--url={registry.url}", "web"], env=env, capture_output=True)
    assert (done.returncode, registry.paths[-1]) == (0, "/heartbeat/web")
    beat.write_bytes(served(public_url=registry.url))
    done = subprocess.run([beat, "backup", "--", "true"], env=env, capture_output=True)
    assert (done.returncode, done.stderr, len(registry.seen)) == (0, b"", 5)


@pytest.mark.parametrize(
    "line", [[], ["--"], ["backup", "--"], ["a b", "--", "true"], ["--every", "5m", "a"]]
)
def test_wrong_use_is_code_2(beat: Path, line: list[str], registry: Registry) -> None:
    env = environment(registry.url)
    done = subprocess.run([sys.executable, beat, *line], env=env, capture_output=True, text=True)
    assert (done.returncode, registry.seen) == (2, [])
    assert done.stderr.startswith("beat: ")


def test_of_a_long_output_the_beginning_and_the_end_are_sent(beat: Path, registry: Registry) -> None:
    script = "import sys; [sys.stdout.write(f'{n:07}\\n') for n in range(500_000)]"
    done = wrapped(beat, registry.url, sys.executable, "-c", script)
    message = registry.seen[-1].fields["message"]
    assert done.stdout == b"".join(b"%07d\n" % n for n in range(500_000))
    assert cut_message(message) == cut_message(done.stdout.decode())
    assert len(message.encode()) < 10_100


def test_both_outputs_into_one_file_keep_their_order(beat: Path, registry: Registry, tmp_path: Path) -> None:
    script = "for n in 1 2 3 4 5 6 7 8 9; do echo $n; echo $n >&2; done"
    with (tmp_path / "log").open("wb") as log:
        subprocess.run(
            [sys.executable, beat, "backup", "--", "sh", "-c", script],
            stdout=log,
            stderr=log,
            env=environment(registry.url),
            check=True,
        )
    written = "".join(f"{n}\n{n}\n" for n in range(1, 10))
    assert (tmp_path / "log").read_text() == registry.seen[-1].fields["message"] == written


@pytest.mark.parametrize(
    ("line", "code"), [(["no-such-thing"], 127), (["/etc"], 126), (["/etc/passwd"], 126)]
)
def test_what_cannot_be_run_has_the_shell_s_code(
    line: list[str], code: int, beat: Path, registry: Registry
) -> None:
    done = wrapped(beat, registry.url, *line)
    assert done.returncode == code
    assert registry.paths[-1] == f"/heartbeat/backup/{code}"
    assert registry.seen[-1].fields["message"].startswith(line[0])
    assert line[0] in done.stderr.decode()


def read_line(process: "subprocess.Popen[bytes]") -> bytes:
    assert process.stdout
    return process.stdout.readline()


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT]
)
def test_signals_reach_the_command(number: signal.Signals, beat: Path, registry: Registry) -> None:
    process = started(beat, registry.url, "sh", "-c", "echo ready; read line", stdin=subprocess.PIPE)
    assert read_line(process) == b"ready\n"
    process.send_signal(number)
    assert process.wait(10) == 128 + number
    assert registry.paths[-1] == f"/heartbeat/backup/{128 + number}"
    assert registry.seen[-1].fields["message"] == f"ready\nended by signal {int(number)} ({number.name})"
    name = number.name.removeprefix("SIG")
    script = f"trap 'echo bye; exit 5' {name}; echo ready; while :; do sleep 0.05; done"
    process = started(beat, registry.url, "sh", "-c", script)
    assert read_line(process) == b"ready\n"
    process.send_signal(number)
    assert read_line(process) == b"bye\n"
    assert process.wait(10) == 5


def test_what_is_ignored_stays_ignored_and_pipes_end_as_without_it(beat: Path, registry: Registry) -> None:
    script = "from signal import *; print([getsignal(n) == SIG_IGN for n in (SIGHUP, SIGTERM)])"
    line = f"trap '' HUP; exec {sys.executable} {beat} backup -- {sys.executable} -c '{script}'"
    done = subprocess.run(["sh", "-c", line], env=environment(registry.url), capture_output=True, text=True)
    assert done.stdout == "[True, False]\n"
    line = f"{sys.executable} {beat} backup -- yes | head -1"
    pipe = subprocess.PIPE
    env = environment(registry.url)
    process = subprocess.Popen(["sh", "-c", line], env=env, stdout=pipe, stderr=pipe, start_new_session=True)
    try:
        assert process.communicate(timeout=20) == (b"y\n", b"")
        until(lambda: len(registry.seen) == 4)  # the shell waits for what is last in a pipe
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert registry.paths[-1] == "/heartbeat/backup/141"


def test_a_command_at_a_terminal_keeps_it(beat: Path, registry: Registry) -> None:
    ours, theirs = pty.openpty()
    script = "import os; print(os.isatty(0), os.isatty(1), os.isatty(2))"
    command = [sys.executable, beat, "backup", "--", sys.executable, "-c", script]
    subprocess.run(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(registry.url), check=True
    )
    assert os.read(ours, 100) == b"True True True\r\n"
    assert "message" not in registry.seen[-1].fields
    os.close(ours)
    os.close(theirs)


def test_files_that_are_open_reach_the_command(beat: Path, registry: Registry, tmp_path: Path) -> None:
    script = "sh -c 'echo said; echo three >&3; exit 4' <&- >&-"
    line = f"exec 3>{tmp_path}/three; exec {sys.executable} {beat} backup -- {script}"
    done = subprocess.run(["sh", "-c", line], env=environment(registry.url), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (4, "")
    assert (tmp_path / "three").read_text() == "three\n"
    assert registry.paths == ["/heartbeat/backup/start", "/heartbeat/backup/4"]
    assert registry.seen[-1].fields["message"] == "said\n"


def test_what_the_command_leaves_behind_may_go_on_writing(beat: Path, registry: Registry) -> None:
    script = "(while [ ! -e go ]; do sleep 0.05; done; echo late; echo late >&2) & echo soon"
    process = started(beat, registry.url, "sh", "-c", script, cwd=beat.parent, stderr=subprocess.PIPE)
    assert process.wait(10) == 0
    (beat.parent / "go").touch()
    assert process.communicate(timeout=10) == (b"soon\nlate\n", b"late\n")
    assert registry.seen[-1].fields["message"] == "soon\n"


def seconds(
    beat: Path, url: str, *line: str, **rest: Any
) -> tuple[float, "subprocess.CompletedProcess[bytes]"]:
    begun = time.monotonic()
    done = wrapped(beat, url, *line, **rest)
    return time.monotonic() - begun, done


def test_a_registry_that_is_away_costs_the_command_nothing(beat: Path) -> None:
    took, done = seconds(beat, f"http://127.0.0.1:{free_port()}", "sh", "-c", "echo out; exit 3")
    assert (done.returncode, done.stdout) == (3, b"out\n")
    assert done.stderr.count(b"the registry was not told") == 1
    assert took < 2
    for url in (
        "",
        "nowhere",
        "http://",
        "ftp://a",
        "http://u:SECRET@\x01",
        "http://[",
        "http://name.invalid",
    ):
        done = wrapped(beat, url.replace("\x01", "é"), "sh", "-c", "echo out; exit 3")
        assert (done.returncode, done.stdout) == (3, b"out\n")
        assert done.stderr.count(b"\n") == 1
        assert b"SECRET" not in done.stderr


def test_a_registry_that_never_answers_holds_the_end_up_for_seconds(beat: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        took, done = seconds(beat, url, "sh", "-c", "date +%s.%N; exit 3")
    assert done.returncode == 3
    assert took < wrapper.WITHOUT_START + 2
    # The command did not wait: it was run when it would have been.
    assert time.time() - float(done.stdout) > wrapper.WITHOUT_START - 0.5
    assert b"the registry was not told" in done.stderr


def test_the_end_is_reported_again_while_the_registry_restarts(beat: Path, registry: Registry) -> None:
    def answer(request: Request) -> Answer:
        again = registry.paths.count("/heartbeat/backup/0") < 3
        return (503, {}, b"{}") if request.path.endswith("/0") and again else OK

    registry.answer = answer
    done = wrapped(beat, registry.url, "true")
    assert (done.returncode, done.stderr) == (0, b"")
    assert registry.paths == ["/heartbeat/backup/start", *["/heartbeat/backup/0"] * 3]


def test_a_refusal_is_said_once_and_the_token_never(beat: Path, registry: Registry) -> None:
    registry.answer = lambda _: (401, {}, b'{"detail": "the ingest token is needed"}')
    env = environment(registry.url, REGISTRY_TOKEN=SECRET)
    done = wrapped(beat, registry.url, "true", env=env)
    assert done.returncode == 0
    assert done.stderr == b"beat: the registry was not told: 401: the ingest token is needed\n"
    assert {request.headers["authorization"] for request in registry.seen} == {f"Bearer {SECRET}"}
    env = environment(registry.url, REGISTRY_TOKEN=f"{SECRET}\nX-Evil: 1")
    done = wrapped(beat, registry.url, "true", env=env)
    assert SECRET.encode() not in done.stderr
    assert not any("x-evil" in request.headers for request in registry.seen)


def test_it_goes_where_the_api_says_on_the_same_machine_only(beat: Path, registry: Registry) -> None:
    other = Registry()
    env = environment(registry.url, REGISTRY_TOKEN=SECRET)
    for answer in (
        lambda request: (404, {}, json.dumps({"ingest": other.url}).encode()),
        lambda request: (308, {"Location": other.url + request.path}, b""),
    ):
        registry.answer = answer
        done = wrapped(beat, registry.url, "true", env=env)
        assert (done.returncode, done.stderr) == (0, b"")
        assert other.paths == ["/heartbeat/backup/start", "/heartbeat/backup/0"]
        assert {request.headers["authorization"] for request in other.seen} == {f"Bearer {SECRET}"}
        assert registry.paths == ["/heartbeat/backup/start"]  # asked once
        other.seen.clear()
        registry.seen.clear()
    elsewhere = other.url.replace("127.0.0.1", "localhost")
    for answer in (
        lambda request: (404, {}, json.dumps({"ingest": elsewhere}).encode()),
        lambda request: (307, {"Location": elsewhere + request.path}, b""),
    ):
        registry.answer = answer
        done = wrapped(beat, registry.url, "true", env=env)
        assert done.returncode == 0
        assert f"set REGISTRY_URL to {elsewhere}".encode() in done.stderr
    assert not other.seen
    other.shutdown()
    other.server_close()


def test_at_most_50_ms_are_added_to_a_job(beat: Path, registry: Registry) -> None:
    """Beside Python's own start, which is the machine's; the best of several, for others use it too."""
    bare, plain, with_it = [], [], []
    for attempt in range(40):
        with_it.append(seconds(beat, registry.url, "sleep", "0.1")[0])
        for found, command in ((plain, ["sleep", "0.1"]), (bare, [sys.executable, "-c", "pass"])):
            begun = time.monotonic()
            subprocess.run(command, check=True, capture_output=True)
            found.append(time.monotonic() - begun)
        if attempt > 4 and min(with_it) - min(plain) - min(bare) < 0.05:
            return
    pytest.fail(f"{min(with_it):.3f} s with it, {min(plain):.3f} s without, {min(bare):.3f} s for Python")


def test_a_command_that_may_not_be_signalled_goes_on(beat: Path, registry: Registry, tmp_path: Path) -> None:
    """As one that `sudo` runs."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\ndef kill(*_):\n    raise PermissionError(1, 'no')\nos.kill = kill\n"
    )
    env = environment(registry.url, PYTHONPATH=str(tmp_path))
    command = [sys.executable, beat, "backup", "--", "sh", "-c", "echo ready; read line; exit 6"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=env, start_new_session=True)
    assert read_line(process) == b"ready\n"
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(b"\n", timeout=10)
    assert (process.returncode, errors) == (6, b"")


def test_without_room_for_its_pipes_the_command_is_run_all_the_same(beat: Path, registry: Registry) -> None:
    for files in (6, 7, 8, 9):  # with fewer, Python itself does not start
        line = f"ulimit -n {files}; exec {sys.executable} {beat} backup -- sh -c 'echo out; exit 3'"
        done = subprocess.run(["bash", "-c", line], env=environment(registry.url), capture_output=True)
        assert (done.returncode, done.stdout) == (3, b"out\n")


def test_an_answer_in_chunks_is_read(beat: Path, registry: Registry) -> None:
    content = b'{"detail": "no token"}'
    assert wrapper._without_chunks(b'5\r\n{"det\r\n11;a=b\r\nail": "no token"}\r\n0\r\n\r\n') == content
    assert wrapper._without_chunks(b"") == wrapper._without_chunks(b"zz\r\n") == b""


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_over_https_with_a_certificate_that_is_trusted(
    beat: Path, registry: Registry, tmp_path: Path
) -> None:
    files = ["-keyout", tmp_path / "key", "-out", tmp_path / "certificate"]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *files, *names]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    registry.socket = context.wrap_socket(registry.socket, server_side=True)
    url = registry.url.replace("http:", "https:")
    done = wrapped(beat, url, "true")
    assert done.returncode == 0
    assert b"certificate" in done.stderr
    assert registry.seen == []
    env = environment(url, SSL_CERT_FILE=str(tmp_path / "certificate"), REGISTRY_TOKEN=SECRET)
    done = wrapped(beat, url, "true", env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert registry.paths == ["/heartbeat/backup/start", "/heartbeat/backup/0"]
    # Nothing that was encrypted goes on in the clear.
    other = Registry()
    registry.answer = lambda request: (307, {"Location": other.url + request.path}, b"")
    assert b"set REGISTRY_URL to " in wrapped(beat, url, "true", env=env).stderr
    assert other.seen == []
    other.shutdown()
    other.server_close()
