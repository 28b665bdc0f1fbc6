"""What a protocol of another system is: a translation of its requests into heartbeats, and of what became of
them into its answers. Pure. Who may send, and how a heartbeat is stored, is the same for all: see http.py."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from starlette.responses import Response

from shared.contracts.events import HeartbeatBody
from shared.http import problems
from shared.http.problems import Problem

ANY_WORD = "An ingest token; any word where none is set"
"""What stands in an address in the place of a token, for the documentation."""


class Asked(NamedTuple):
    """A request without its body. `parts`: of its address, after what all addresses of the protocol begin
    with. `of_key`: the service that a ping key or an alias leads to. `lets_in`: whether a token is good: of
    one in a body that is asked before the rest of it is read."""

    parts: tuple[str, ...]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    of_key: Callable[[str], str | None]
    lets_in: Callable[[str], bool]
    is_cut: bool = False
    """The query has more parameters than are read: what it says last may be that something failed."""


CUT = "query: it has more parameters than are read; it counts as a failure"


class Address(NamedTuple):
    """Who sends, and for which service. `secret`: None if it stands in the body."""

    secret: str | None
    service: str = ""
    """What `secret` is the key of."""
    needs_key: bool = False
    """No token is meant, so that `secret` counts as a wrong one unless it is a key."""
    name: str = ""
    """The service's name as the request writes it, where the address says it."""
    must_exist: bool = False
    """Whether the name is to be known already."""
    rest: str = ""


class Beat(NamedTuple):
    """One heartbeat as a request tells it. `headers`: its signal and exit code. `name`: as it is written."""

    name: str
    body: HeartbeatBody
    headers: dict[str, str]
    warnings: list[str]
    duration: float | None = None
    """Seconds, as the client has measured them."""
    sent_at: float | None = None
    """By the client's clock, seconds since 1970; None: it does not say."""


class Translation(NamedTuple):
    """What a whole request says. `secret`: where it stands in the body. `id`: what the answer repeats."""

    beats: list[Beat]
    secret: str = ""
    id: str = ""


class Documented(NamedTuple):
    """An address for the documentation, with its parameters and what each means."""

    path: str
    summary: str
    methods: tuple[str, ...]
    parameters: dict[str, str]
    body: bool = False


@dataclass(frozen=True)
class Protocol:
    """`read_address` raises Problem 404 where it leads nowhere, `read` 400 for what cannot be read at all.
    `refuse` says a problem in the protocol's own words."""

    name: str
    addresses: re.Pattern[str]
    """How all its addresses begin, without what `Asked.parts` has of them."""
    methods: tuple[str, ...]
    """HEAD counts as GET. None here: any."""
    documented: tuple[Documented, ...]
    read_address: Callable[[Asked], Address]
    read: Callable[[Asked, Address, bytes], Translation]
    answer: Callable[[Translation, bool], Response]
    """The second: whether the first heartbeat has registered its service."""
    answers: dict[int, str]
    """By status, for the documentation."""
    refuse: Callable[[Problem], Response] = problems.response


def not_found() -> Problem:
    return Problem(404, "not found")


def openapi_of(address: Documented) -> dict[str, Any]:
    """What the documentation says of it beside its answers."""
    parameters = [
        {
            "name": name,
            "in": "path" if f"{{{name}}}" in address.path else "query",
            "required": f"{{{name}}}" in address.path,
            "description": meaning,
            "schema": {"type": "string"},
        }
        for name, meaning in address.parameters.items()
    ]
    said: dict[str, Any] = {"parameters": parameters}
    if address.body:
        kinds = ("text/plain", "application/json", "application/octet-stream")
        content: dict[str, Any] = {kind: {"schema": {}} for kind in kinds}
        said["requestBody"] = {
            "content": content,
            "description": "The message, or what it says",
        }
    return said
