"""What the command line says, and asks of the broker, ingest and the API; what `exec` runs and reports."""

import asyncio
import json
import re
import signal
import subprocess
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import nats
import typer
from nats.aio.client import Client
from pydantic import SecretStr

from services.cli.target import Target, WrongVariable, find_target
from shared.contracts import durations
from shared.http.urls import is_public
from shared.messaging.connection import access
from shared.settings import Settings, stop
from shared.telemetry.visible import visible


def say(line: str, *, err: bool = False) -> None:
    """Print one line, in which nothing that others wrote acts on the terminal."""
    typer.echo(visible(line), err=err)


def warn(message: str) -> None:
    say(message, err=True)


async def connect_once(settings: Settings) -> Client:
    """Tried once, for 5 s. Raises nats' errors, OSError or TimeoutError."""

    async def ignore(_: Exception) -> None: ...

    options = {**access(settings), "allow_reconnect": False, "connect_timeout": 3, "error_cb": ignore}
    return await asyncio.wait_for(nats.connect(**options), 5)


SHOWN = 200
"""Characters of a message that a line shows."""


def run_line(run: dict[str, Any]) -> str:
    """One run, as the API tells of it, in one line."""
    at = run["started_at"] or (run["expected_at"] if run["outcome"] == "missed" else run["ended_at"])
    said = [f"{run['outcome']:8} {at}"]
    if run["duration"] is not None and not (run["unusual"] or "").startswith("took "):
        said.append(f"took {durations.spoken_seconds(run['duration'])}")
    if run["late_by"]:
        said.append(f"{durations.spoken_seconds(run['late_by'])} late")
    if run["exit_code"] is not None:
        said.append(f"exit code {run['exit_code']}")
    if run["run"]:
        said.append(f"run {run['run']}")
    message = run["message"] or ""
    shown = message if len(message) <= SHOWN else f"{message[:SHOWN]}…"
    return "  ".join([*said, *filter(None, (run["unusual"], shown))])


def service_lines(service: dict[str, Any]) -> list[str]:
    """One service, as the API tells of it, a field in each line."""
    reason, zone = service.get("reason"), service.get("time_zone")  # an older API says neither
    if reason and zone != "UTC" and _CLOCK.search(reason):  # as all the other times are
        service = service | {"reason": f"{reason} ({zone})"}
    return [f"{key:18} {_in_a_line(value)}" for key, value in service.items()]


_CLOCK = re.compile(r"\b\d\d:\d\d\b")


def _in_a_line(value: Any) -> Any:
    if value in (None, ""):
        return "-"
    return json.dumps(value) if isinstance(value, dict | list | bool) else value


class RequestFailed(Exception):
    """A request was refused, or nobody answered; says why. `status`: 0 if nobody answered; `problem`: what
    the answer's problem details say."""

    def __init__(self, why: str, status: int = 0, problem: dict[str, Any] | None = None) -> None:
        super().__init__(why)
        self.status, self.problem = status, problem or {}


_found: dict[str, str] = {}
"""Where the API is, for an address that has told us."""


def api(
    method: str,
    path: str,
    *,
    json: Any = None,
    params: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
    timeout: float = 15,
) -> httpx.Response:
    """The API's answer, wherever REGISTRY_URL or this machine's variables say that it is. `params` of None
    are left out; `timeout` in seconds. Raises RequestFailed; wrong variables end the process with code 2."""
    target = find()
    given = {key: value for key, value in (params or {}).items() if value is not None}
    rest: dict[str, Any] = {"json": json, "params": given, "headers": headers, "timeout": timeout}
    base = _found.get(target.api, target.api)
    try:
        return send(method, base + path, target.api_token, **rest)
    except RequestFailed as error:
        if not (other := elsewhere(base, error, "api")):
            raise
    _found[target.api] = other
    return send(method, other + path, target.api_token, **rest)


def find() -> Target:
    """The registry that is meant; wrong variables end the process with code 2."""
    try:
        return find_target()
    except WrongVariable as error:
        stop(str(error))


def elsewhere(base: str, error: RequestFailed, wanted: str) -> str:
    """The base URL of `wanted` (api, ingest), if the one that was asked is the other and says where it is;
    else nothing. Raises RequestFailed if that is another machine: a token is for the one it was given for."""
    other = error.problem.get(wanted)
    if error.status != 404 or not isinstance(other, str) or not is_public(other):
        return ""
    asked, told = urlsplit(base), urlsplit(other)
    if asked.hostname != told.hostname or (asked.scheme, told.scheme) == ("https", "http"):
        raise RequestFailed(f"{base} is not what takes this; set REGISTRY_URL to {other}", 404)
    return other.rstrip("/")


def send(method: str, url: str, token: str, *, timeout: float = 15, **rest: Any) -> httpx.Response:
    """One request. Raises RequestFailed for every answer of 400 and more."""
    headers = dict(rest.pop("headers", None) or {}) | ({"Authorization": f"Bearer {token}"} if token else {})
    at = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"
    try:
        response = httpx.request(method, url, headers=headers, timeout=timeout, trust_env=False, **rest)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        # What is said of a header that cannot be sent holds the token.
        sent = not isinstance(error, httpx.LocalProtocolError | UnicodeError)
        why = (
            f"{at}: {error or type(error).__name__}"
            if sent
            else f"{at}: the token cannot be sent in a header"
        )
        raise RequestFailed(why) from None
    if response.is_redirect:
        raise RequestFailed(
            f"{at} leads to {response.headers.get('location', '?')}; set REGISTRY_URL to that"
        )
    if response.is_error:
        try:
            problem = response.json()
        except ValueError:
            problem = {}
        problem = problem if isinstance(problem, dict) else {}
        said = problem.get("detail") or response.text[:SHOWN] or response.reason_phrase
        raise RequestFailed(f"{response.status_code}: {said}", response.status_code, problem)
    return response


def ask(method: str, url: str, tokens: tuple[SecretStr, ...], **rest: Any) -> Any:
    """The answer as JSON. Raises RequestFailed."""
    return send(method, url, tokens[0].get_secret_value() if tokens else "", **rest).json()


# --- registry exec


def run_reported(url: str, tokens: tuple[SecretStr, ...], command: list[str]) -> int:
    """Run a command for the service of this URL. Its exit code, also if the registry cannot be reached."""
    warned = _report(f"{url}/start", tokens, tries=1)
    if warned:
        warn(warned)
    code, message = _run(command)
    why = _report(f"{url}/{code}", tokens, tries=3, message=message)
    if why not in ("", warned):
        warn(why)
    return code


def _run(command: list[str]) -> tuple[int, str | None]:
    """Run it, passing signals on. The code, 128 + n if signal n ended it, and why it could not be run."""
    try:
        process = subprocess.Popen(command)  # what our own user gave  # nosec B603
    except OSError as error:
        message = f"{command[0]}: {error.strerror}"
        warn(message)
        return (127 if isinstance(error, FileNotFoundError) else 126), message
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: process.send_signal(received))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the command as well
    code = process.wait()
    return (128 - code, f"ended by signal {-code}") if code < 0 else (code, None)


def _report(url: str, tokens: tuple[SecretStr, ...], *, tries: int, message: str | None = None) -> str:
    """Why the registry was not told; empty if it was. A run that worked must not fail because of that."""
    why = ""
    for left in reversed(range(tries)):
        try:
            ask("POST", url, tokens, json={"message": message} if message else None)
            return ""
        except RequestFailed as error:
            why = f"the registry was not told: {error}"
            if left:
                time.sleep(1)
    return why
