"""What the command line asks of the API, wherever it is, and of the broker."""

import json as json_text
import ssl
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx

from services.cli.tables import say
from services.cli.target import Target, WrongVariable, find_target
from shared.http.urls import is_public

SHOWN = 200
"""Characters of an answer that is no problem details."""
STILL_THERE = 40.0
"""Seconds without a word after which a stream of events has broken off: something comes every 15."""


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
        say(str(error), err=True)
        raise SystemExit(2) from None


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
    """One request. Raises RequestFailed for every answer of 300 and more."""
    headers = dict(rest.pop("headers", None) or {}) | _authorized(token)
    try:
        response = httpx.request(
            method, url, headers=headers, timeout=timeout, trust_env=False, verify=trusted(url), **rest
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise RequestFailed(f"{_at(url)}: {error or type(error).__name__}") from None
    if response.is_redirect or response.is_error:
        raise refused(response)
    return response


def refused(response: httpx.Response) -> RequestFailed:
    """What an answer of 300 and more says, which was read."""
    if response.is_redirect:
        location = response.headers.get("location", "?")
        return RequestFailed(f"{_at(str(response.url))} leads to {location}; set REGISTRY_URL to that")
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    problem = problem if isinstance(problem, dict) else {}
    said = problem.get("detail") or response.text[:SHOWN] or response.reason_phrase
    return RequestFailed(f"{response.status_code}: {said}", response.status_code, problem)


def trusted(url: str) -> ssl.SSLContext | bool:
    """What certificates are held against: the machine's own, and where it has none those of certifi."""
    if not url.startswith("https:"):
        return True
    import certifi

    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


def _authorized(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _at(url: str) -> str:
    return f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"


def stream(path: str, last: str | None = None) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """Server-sent events of the API, with their ids, until it ends; `last`: go on after this one. Raises
    RequestFailed, and as `api` does."""
    target = find()
    base = _found.get(target.api, target.api)
    try:
        yield from _events(base + path, target.api_token, last)
    except RequestFailed as error:
        if not (other := elsewhere(base, error, "api")):
            raise
        _found[target.api] = other
        yield from _events(other + path, target.api_token, last)


def _events(url: str, token: str, last: str | None) -> Iterator[tuple[str | None, dict[str, Any]]]:
    headers = _authorized(token) | {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
    timeout = httpx.Timeout(15, read=STILL_THERE)
    try:
        with httpx.stream(
            "GET", url, headers=headers, timeout=timeout, trust_env=False, verify=trusted(url)
        ) as response:
            if response.is_error:
                response.read()
                raise refused(response)
            id_, data = None, list[str]()
            for line in response.iter_lines():
                field, _, value = line.partition(": ")
                if field == "id":
                    id_ = value
                elif field == "data":
                    data.append(value)
                elif not line and data:
                    yield id_, json_text.loads("\n".join(data))
                    data = []
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise RequestFailed(f"{_at(url)}: {error or type(error).__name__}") from None
