"""A short way for plain heartbeats: no body, no query, nothing to say but "I am alive".

uvicorn reads requests and keeps connections as ever; what it prepares for an ASGI app is left out, a scope,
a task and messages per request, for it costs several times as much as storing the heartbeat. Whatever is
not plain goes to the app.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Self

from starlette.responses import Response

from services.ingest.admission import HeartbeatStore
from services.ingest.auth import IngestAuth, bearer
from services.ingest.http import OK, of_secret_address, stored
from services.ingest.protocols import healthchecks
from shared.contracts.events import TRACEPARENT_HEADER, valid_name
from shared.http import problems
from shared.http.problems import Problem
from shared.http.protocol import HEADERS_MAX, Connection, ConnectionLimits
from shared.messaging.errors import BrokerError
from shared.telemetry import tracing

PREFIX, PING = b"/heartbeat/", b"/ping/"
METHODS = (b"POST", b"GET", b"PUT")
"""HEAD is answered without a body: by the app. So is PUT of a ping, which is none."""
NOT_PLAIN = frozenset(
    (b"transfer-encoding", b"expect", b"upgrade", b"sec-fetch-site", b"origin", b"registry-duration")
)
READ = frozenset((b"content-length", b"authorization", b"host", b"x-forwarded-for"))


class _FastResponse:
    """Stands where uvicorn has its cycle of request and response."""

    __slots__ = ("answers", "disconnected", "keep_alive", "more_body", "response_complete")
    message_event = asyncio.Event()  # uvicorn sets it, and here nobody waits for it
    response_started = False

    def __init__(self, keep_alive: bool, answers: "_Answers") -> None:
        self.keep_alive, self.answers = keep_alive, answers
        self.disconnected = self.response_complete = self.more_body = False


class _Answers:
    """How heartbeats of one kind are answered. What most are answered is written once for all connections.
    (No attribute of their class, which would make Python forget what it knows of the class with each
    change.)"""

    __slots__ = ("headers", "ok", "refuse", "written")

    def __init__(self, ok: Callable[[], Response], refuse: Callable[[Problem], Response]) -> None:
        self.ok, self.refuse = ok, refuse
        self.headers: list[tuple[bytes, bytes]] | None = None
        self.written = b""


class FastPath(Connection):
    """Serves one connection. What it needs is the class's: `configured` makes such a class."""

    store: HeartbeatStore
    auth: IngestAuth
    hosts: frozenset[bytes]
    """What `Host` may say, if not everything."""
    not_plain = NOT_PLAIN
    """Headers of requests that go to the app."""
    looked_at = NOT_PLAIN | READ
    given = ""
    """The right token that the request shows, or the service whose ping key it shows: what it is counted for,
    however the key is written."""
    of_heartbeats: _Answers
    of_pings: _Answers

    @classmethod
    def configured(
        cls, store: HeartbeatStore, auth: IngestAuth, limits: ConnectionLimits, port: int
    ) -> type[Self]:
        """The protocol to serve the app with, at this port."""
        names = [name for host in limits.hosts for name in (host, f"[{host}]")]
        not_plain = NOT_PLAIN | ({TRACEPARENT_HEADER.encode()} if tracing.is_on() else set())
        attributes = {
            "store": store,
            "auth": auth,
            "limits": limits,
            "hosts": frozenset(text.encode() for name in names for text in (name, f"{name}:{port}")),
            "not_plain": not_plain,
            "looked_at": not_plain | READ,
            "of_heartbeats": _Answers(lambda: stored(OK), problems.response),
            "of_pings": _Answers(
                lambda: of_secret_address(healthchecks.ok()),
                lambda problem: of_secret_address(healthchecks.refuse(problem)),
            ),
        }
        return type("ConfiguredFastPath", (cls,), attributes)

    def on_headers_complete(self) -> None:
        name = self._plain_heartbeat()
        if not name:
            super().on_headers_complete()
            return
        self.in_head = False
        answers = self.of_heartbeats if self.url.startswith(PREFIX) else self.of_pings
        response = _FastResponse(self.parser.should_keep_alive(), answers)
        self.cycle = response  # type: ignore[assignment]
        try:
            if self.given:
                if not self.known:
                    self.mark_known()
                self.auth.enter(self.given, True, self.client_key)
            elif self.client_key and (problem := self.too_many()):
                raise problem
            sender, by_key = None if self.given else self.client_key, answers is self.of_pings
            self.store.add(name, partial(self._done, response), sender, by_key)
        except Problem as problem:
            self._answer(response, problem)

    def _plain_heartbeat(self) -> str:
        """The name in a request that may take the short way; else nothing."""
        if not (self.cycle is None or self.cycle.response_complete):
            return ""
        self.given = ""
        if self.url.startswith(PREFIX):
            name = self.url[len(PREFIX) :].decode("latin-1")
            if not (name in self.store.names or valid_name(name)):
                return ""
        elif self.url.startswith(PING) and self.parser.get_method() != b"PUT":
            self.given = name = self.store.names.of_key(self.url[len(PING) :].decode("latin-1")) or ""
        else:
            return ""
        if not name or self.parser.get_method() not in METHODS:
            return ""
        authorization = forwarded = host = b""
        if len(self.headers) > HEADERS_MAX:
            return ""
        hosts, not_plain, looked_at = self.hosts, self.not_plain, self.looked_at
        for key, value in self.headers:
            if key not in looked_at:
                continue
            if key == b"host":
                if host or (hosts and value not in hosts):
                    return ""
                host = value or b"-"
            elif key == b"authorization":
                authorization = value
            elif key == b"x-forwarded-for":
                forwarded = value
            elif key in not_plain or value != b"0":
                return ""
        if self.auth.tokens and not self.given:
            given = bearer(authorization.decode("latin-1"))
            self.given = given if self.auth.knows(given) else ""
            if self.auth.needs_token and not self.given:
                return ""
        if self.behind_proxy and (forwarded or self.client_key):
            self.client_key = self.forwarded_for(forwarded)
        return name if self.parser.get_http_version() == "1.1" else ""

    def _done(self, response: _FastResponse, error: BrokerError | None) -> None:
        self._answer(response, self.store.not_stored(error) if error else None)

    def _answer(self, response: _FastResponse, problem: Problem | None) -> None:
        if response.disconnected or self.transport.is_closing():
            return
        answers = response.answers
        if problem or not response.keep_alive:
            answer = answers.refuse(problem) if problem else answers.ok()
            self.transport.write(self.written(answer, close=not response.keep_alive))
        else:
            headers = self.server_state.default_headers
            if answers.headers is not headers:  # uvicorn makes them anew each second
                answers.headers, answers.written = headers, self.written(answers.ok(), close=False)
            self.transport.write(answers.written)
        response.response_complete = True
        if self.flow.write_paused:
            self.transport.abort()  # a client that does not read its answers
        elif not response.keep_alive:
            self.transport.close()
        self.on_response_complete()
