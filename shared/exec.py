#!/usr/bin/env python3
"""Run a command and report it to a heartbeat registry: start, end, exit code, duration and output.

    beat NAME -- COMMAND ...    runs it, and exits with its code, whatever the registry does
    beat NAME                   sends one heartbeat

REGISTRY_URL is the registry's address, REGISTRY_TOKEN its token if it asks for one; --url URL before NAME
goes first. The output is passed on unchanged, and the first 2 kB and the last 8 kB of it are sent. What the
command writes to a terminal is not sent: it stays the command's own.

One file without dependencies, for Python 3.8 and newer on Linux, macOS and BSD.
"""

# `registry exec` runs the same. Nothing but what the command needs is imported before it has been started.
from __future__ import annotations

import errno
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from typing import Any

URL = ""
"""For where REGISTRY_URL is not set. The registry that serves this file may have put its own in."""
NAME_RULE = "a name has 1 to 128 letters, digits, _, - and single dots between them"
FIRST, LAST = 2000, 8000
"""Bytes of the output that are sent."""
ATTEMPT = 3.0
"""Seconds for one request."""
PATIENCE, WITHOUT_START = 5.0, 3.0
"""Seconds that the end of a command may wait for its report: after the start was stored, and else."""
PAUSE = 0.5
"""Seconds before the end is reported again."""
STILL_OPEN = 0.1
"""Seconds that are waited for output of a process which the command has left behind."""
PASSED_ON = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)


class NotTold(Exception):
    """The registry did not store it; says why. `final`: asking again would not help."""

    def __init__(self, why: str, final: bool = False) -> None:
        super().__init__(why)
        self.final = final


class Registry:
    """Where heartbeats go. `url` may be the API's address as well: it says where they are taken."""

    def __init__(self, url: str, token: str, wrong: str = "") -> None:
        """`wrong`: why there can be none."""
        self.url, self.token, self.wrong = url.strip().rstrip("/"), token.strip(), wrong

    def post(
        self,
        path: str,
        fields: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = ATTEMPT,
    ) -> dict[str, Any]:
        """The answer, once it is stored. Raises NotTold."""
        import json

        if self.wrong or not self.url:
            raise NotTold(self.wrong or "REGISTRY_URL is not set", final=True)
        if not (self.token.isascii() and self.token.isprintable()):
            raise NotTold("REGISTRY_TOKEN cannot be sent in a header", final=True)
        body = json.dumps(fields).encode() if fields else b""
        sent = dict(headers or {}, **({"Authorization": "Bearer " + self.token} if self.token else {}))
        if body:
            sent["Content-Type"] = "application/json"
        for _ in range(3):
            status, location, raw = request(self.url, path, body, sent, timeout)
            try:
                answer = json.loads(raw.decode("utf-8", "replace"))
            except ValueError:
                answer = {}
            answer = answer if isinstance(answer, dict) else {}
            if 200 <= status < 300:
                return dict(answer)
            if 300 <= status < 400:
                other = location[: -len(path)] if location.endswith(path) else ""
            else:
                other = str(answer.get("ingest", "")) if status == 404 else ""
            if not other:
                break
            if not _same_registry(self.url, other):
                raise NotTold("no heartbeats are taken there; set REGISTRY_URL to " + other, final=True)
            self.url = other.rstrip("/")
        why = f"{status}: {answer.get('detail') or location or 'no heartbeat was stored'}"
        raise NotTold(why, final=status not in (408, 429) and status < 500)


def _same_registry(asked: str, told: str) -> bool:
    """Whether a token may go there too: to the same machine, and not in the clear where it was not before."""
    from urllib.parse import urlsplit

    before, after = urlsplit(asked), urlsplit(told)
    schemes = (before.scheme, after.scheme)
    return before.hostname == after.hostname and schemes in (
        ("http", "http"),
        ("http", "https"),
        ("https", "https"),
    )


_tls: list[ssl.SSLContext] = []


def request(
    base: str, path: str, body: bytes, headers: dict[str, str], timeout: float
) -> tuple[int, str, bytes]:
    """Status, Location and body of the answer to a POST. Raises NotTold. (http.client takes longer to import
    than all of this to run.)"""
    import socket
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(base)
        host, port, prefix = parts.hostname or "", parts.port, parts.path.rstrip("/")
    except ValueError:
        host, port, prefix = "", None, ""
    if not host or parts.scheme not in ("http", "https") or not (prefix + host).isprintable() or " " in base:
        raise NotTold("REGISTRY_URL is no address such as https://registry.example.com", final=True)
    where = parts.netloc.rpartition("@")[2]
    lines = [f"POST {prefix}{path} HTTP/1.1", f"Host: {where}"]
    lines += [f"{key}: {value}" for key, value in headers.items()]
    lines += [f"Content-Length: {len(body)}", "User-Agent: registry-exec", "Connection: close", "", ""]
    at = f"{parts.scheme}://{where}"
    try:
        with socket.create_connection(
            (host, port or (443 if parts.scheme == "https" else 80)), timeout
        ) as sock:
            if parts.scheme == "https":
                import ssl

                if not _tls:
                    _tls.append(ssl.create_default_context())
                with _tls[0].wrap_socket(sock, server_hostname=host) as secured:
                    answer = _exchange(secured, "\r\n".join(lines).encode() + body)
            else:
                answer = _exchange(sock, "\r\n".join(lines).encode() + body)
    except (OSError, ValueError) as error:  # the latter: no name of a host
        said = str(error) if isinstance(error, OSError) else "it is no address"
        raise NotTold(f"{at}: {said or type(error).__name__}") from None
    head, _, content = answer.partition(b"\r\n\r\n")
    first, _, fields = head.decode("latin-1").partition("\r\n")
    words = first.split(" ", 2)
    if not (words[0].startswith("HTTP/") and len(words) > 1 and words[1].isdigit()):
        raise NotTold(at + ": that was no answer of HTTP")
    known = {}
    for line in fields.split("\r\n"):
        key, _, value = line.partition(":")
        known[key.strip().lower()] = value.strip()
    if known.get("transfer-encoding", "").lower() == "chunked":
        content = _without_chunks(content)
    return int(words[1]), known.get("location", ""), content


def _exchange(sock: Any, sent: bytes) -> bytes:
    sock.sendall(sent)
    found = b""
    while len(found) < 65536:
        try:
            data = sock.recv(65536)
        except ConnectionResetError:
            break
        if not data:
            break
        found += data
    return found


def _without_chunks(content: bytes) -> bytes:
    found = b""
    while content:
        size, _, content = content.partition(b"\r\n")
        try:
            length = int(size.partition(b";")[0], 16)
        except ValueError:
            break
        if length <= 0:
            break
        found, content = found + content[:length], content[length + 2 :]
    return found


class Output:
    """The first and the last bytes of what a command has written."""

    def __init__(self) -> None:
        self.first = self.last = b""
        self.left_out = 0

    def add(self, data: bytes) -> None:
        room = FIRST - len(self.first)
        if room > 0:
            self.first, data = self.first + data[:room], data[room:]
        last = self.last + data
        self.left_out += max(0, len(last) - LAST)
        self.last = last[-LAST:]

    def text(self) -> str:
        if not self.left_out:
            return (self.first + self.last).decode("utf-8", "replace")
        first, last = (part.decode("utf-8", "replace").strip("\ufffd") for part in (self.first, self.last))
        return f"{first}\n[… {self.left_out} bytes left out …]\n{last}"


class Reports:
    """Tells of the start and the end of one run, in a thread beside the command."""

    def __init__(self, registry: Registry, name: str) -> None:
        import threading

        self.registry, self.path = registry, "/heartbeat/" + name
        self.run_id = os.urandom(8).hex()
        self.why = ""
        """Why the registry does not know it; empty if it does."""
        self.started, self._ended = threading.Event(), threading.Event()
        self._end: tuple[int, dict[str, Any], dict[str, str]] | None = None
        self._thread = threading.Thread(target=self._report, daemon=True)
        self._thread.start()

    def end(self, code: int, seconds: float, message: str) -> None:
        """Report the end, for as long as may be waited for it."""
        fields = {"run": self.run_id}
        if message.strip():
            fields["message"] = message
        self._end = code, fields, {"Registry-Duration": f"{seconds:.3f}"}
        self.why = self.why or "no answer in time"
        until = time.monotonic() + PATIENCE
        self._ended.set()
        self._thread.join(WITHOUT_START)
        if self.started.is_set():
            self._thread.join(max(0.0, until - time.monotonic()))

    def _report(self) -> None:
        why = self._told("/start", {"run": self.run_id}, {})
        if not why:
            self.started.set()
        self._ended.wait()
        if self._end is None:
            return
        code, fields, headers = self._end
        until = time.monotonic() + (PATIENCE if self.started.is_set() else 0)
        while True:
            why = self._told(f"/{code}", fields, headers)
            if not why or self.final or time.monotonic() + PAUSE > until:
                break
            time.sleep(PAUSE)
        self.why = why

    def _told(self, path: str, fields: dict[str, Any], headers: dict[str, str]) -> str:
        self.final = False
        try:
            self.registry.post(self.path + path, fields, headers)
        except NotTold as error:
            self.final = error.final
            return str(error)
        except Exception as error:  # whatever it is, the command must not fail because of it
            return f"{type(error).__name__}: {error}"
        return ""


def run(registry: Registry, name: str, command: list[str], say: Callable[[str], None]) -> int:
    """Run a command and report it. Its exit code, 128 + n if signal n ended it; 126 or 127 if it cannot be
    run."""
    process = _Process(command)
    reports = None
    try:
        why = process.start()
    except OSError as error:  # too many open files, for example: then without us
        say(f"the registry was not told: {error}")
        if process.woken:
            os.close(process.woken)  # the way to the command may need one to be found
        os.execvp(command[0], command)  # what our own user gave  # nosec B606
    try:
        reports = Reports(registry, name)
    except Exception as error:  # no thread, for example
        say(f"the registry was not told: {error!r}")
    code = process.wait() if not why else process.code
    seconds = time.monotonic() - process.started_at
    if why:
        say(why)
    elif process.signal:
        why = f"ended by signal {process.signal}{_name_of(process.signal)}"
    if reports:
        said = process.output.text()
        reports.end(code, seconds, "\n".join(filter(None, (said.rstrip("\n") if why else said, why))))
        if reports.why:
            say("the registry was not told: " + reports.why)
    return code


def _name_of(number: int) -> str:
    try:
        return f" ({signal.Signals(number).name})"
    except ValueError:
        return ""


class _Process:
    """A command whose output is passed on, and to which signals are."""

    def __init__(self, command: list[str]) -> None:
        self.command = command
        self.output = Output()
        self.code, self.signal = 0, 0
        self.pid = self.woken = 0
        self.early: list[int] = []
        """Signals that came before there was a process."""
        self.ended = False
        self.streams: dict[int, int] = {}
        """What is read, and the descriptor that it is written to."""
        self.started_at = time.monotonic()

    def start(self) -> str:
        """Why it cannot be started; empty if it was."""
        for number in (0, 1, 2):  # else what is opened here would take the place of one that is closed
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_RDWR)
        self.woken, wake = os.pipe()
        for end in (self.woken, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in PASSED_ON:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as with nohup
                signal.signal(number, self._pass_on)
        actions: list[tuple[Any, ...]] = []
        written: dict[int, int] = {}
        for number in (1, 2):
            if os.isatty(number):
                continue
            if number == 2 and 1 in written and _same_file(1, 2):
                actions.append((os.POSIX_SPAWN_DUP2, written[1], 2))  # one pipe keeps the order
                continue
            end, written[number] = os.pipe()
            self.streams[end] = number
            actions.append((os.POSIX_SPAWN_DUP2, written[number], number))
        why = ""
        self.started_at = time.monotonic()
        ignored = [getattr(signal, each) for each in ("SIGPIPE", "SIGXFSZ") if hasattr(signal, each)]
        try:
            self.pid = os.posix_spawnp(
                self.command[0], self.command, os.environ, file_actions=actions, setsigdef=ignored
            )
        except (OSError, ValueError) as error:
            self.code = 127 if getattr(error, "errno", 0) == errno.ENOENT else 126
            self.ended = True
            why = f"{self.command[0]}: {getattr(error, 'strerror', None) or error}"
        for end in written.values():
            os.close(end)
        for number in self.early:
            self._pass_on(number)
        return why

    def _pass_on(self, number: int, _frame: object = None) -> None:
        if self.ended:  # and nothing but its report is waited for
            os._exit(self.code)
        if not self.pid:
            self.early.append(number)
        elif not (number in (signal.SIGINT, signal.SIGQUIT) and _at_a_terminal()):
            try:
                os.kill(self.pid, number)
            except OSError:  # it is of another user, or has ended this moment
                pass

    def wait(self) -> int:
        """Pass its output on until it has ended. Its exit code."""
        poll = select.poll()
        for end in (self.woken, *self.streams):
            poll.register(end, select.POLLIN)
        until: float | None = None
        while True:
            left = None if until is None else max(0.0, until - time.monotonic()) * 1000
            found = poll.poll(left)
            for end, _ in found:
                if end == self.woken:
                    _drain(end)
                elif not self._pass(end):
                    poll.unregister(end)
                    os.close(end)
                    del self.streams[end]
            if not self.ended and self._has_ended():
                until = time.monotonic() + STILL_OPEN
            if self.ended and (not self.streams or not found):
                break
        for end, number in self.streams.items():
            _leave_to_another(end, number)
        return self.code

    def _has_ended(self) -> bool:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return False
        self.signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        self.code = 128 + self.signal if self.signal else os.WEXITSTATUS(status)
        self.ended = True
        return True

    def _pass(self, end: int) -> bool:
        """Whether there may be more: neither the command nor who reads its output has closed it."""
        data = os.read(end, 65536)
        if not data:
            return False
        self.output.add(data)
        return _write(self.streams[end], data)


def _write(number: int, data: bytes) -> bool:
    """False if nobody reads it any more: then the command is to see that itself."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(number, rest) :]
        except BlockingIOError:
            ready = select.poll()
            ready.register(number, select.POLLOUT)
            ready.poll()
        except BrokenPipeError:
            return False
        except OSError:  # a full disk: the command goes on
            return True
    return True


def _drain(end: int) -> None:
    try:
        while os.read(end, 512):
            pass
    except BlockingIOError:
        pass


def _same_file(one: int, other: int) -> bool:
    return os.path.sameopenfile(one, other)


def _at_a_terminal() -> bool:
    """Whether a terminal sends Ctrl-C to us, and so to the command as well."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _leave_to_another(end: int, number: int) -> None:
    """What a process that was left behind writes goes where it would have gone."""
    try:
        os.posix_spawnp(
            "cat",
            ["cat"],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, end, 0), (os.POSIX_SPAWN_DUP2, number, 1)],
        )
    except OSError:
        pass


def valid_name(name: str) -> bool:
    parts = name.split(".")
    return (
        len(name) <= 128
        and name.isascii()
        and all(part and part.replace("_", "a").replace("-", "a").isalnum() for part in parts)
    )


def _of_the_environment(url: str) -> Registry:
    return Registry(url or os.environ.get("REGISTRY_URL") or URL, os.environ.get("REGISTRY_TOKEN", ""))


def main(
    arguments: list[str],
    program: str = "beat",
    find: Callable[[str], Registry] = _of_the_environment,
) -> int:
    """The exit code. `find`: the registry, given what --url says or nothing."""

    def say(text: str) -> None:
        _write(2, (f"{program}: {text}\n").encode("utf-8", "backslashreplace"))

    rest, url = list(arguments), ""
    while rest and rest[0].startswith("-") and rest[0] != "--":
        option, _, value = rest.pop(0).partition("=")
        if option in ("-h", "--help"):
            _write(1, (__doc__ or "").replace("    beat", "    " + program).encode())
            return 0
        if option != "--url" or not (value or rest):
            say(f"{option} is no option of it; see {program} --help")
            return 2
        url = value or rest.pop(0)
    name, command = (rest[0] if rest else ""), rest[1:]
    dashes = command[:1] == ["--"]
    command = command[dashes:]
    if name in ("", "--") or (dashes and not command):
        say(f"{program} NAME -- COMMAND ... is needed; see {program} --help")
        return 2
    if not valid_name(name):
        say(f"{name!r} is no service's name: {NAME_RULE}")
        return 2
    if command:
        return run(find(url), name, command, say)
    try:
        find(url).post("/heartbeat/" + name, timeout=15)
    except NotTold as error:
        say(f"the registry was not told: {error}")
        return 1
    return 0


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # without waiting for what may still be tried in a thread
