"""A short way for plain heartbeats: no body, no query, nothing to say but "I am alive".

uvicorn reads requests and keeps connections as ever; what it prepares for an ASGI app is left out, a scope,
a task and messages per request, for it costs several times as much as storing the heartbeat. Whatever is
not plain goes to the app.
"""

from services.ingest.admission import HeartbeatStore
from services.ingest.auth import IngestAuth, bearer
from services.ingest.http import OK, stored
from shared.contracts.events import TRACEPARENT_HEADER, valid_name
from shared.http import problems
from shared.http.problems import Problem
from shared.http.protocol import HEADERS_MAX, Connection, ConnectionLimits
from shared.messaging.errors import BrokerError
from shared.telemetry import tracing

PREFIX = b"/heartbeat/"
METHODS = (b"POST", b"GET", b"PUT")
"""HEAD is answered without a body: by the app."""
NOT_PLAIN = frozenset((b"transfer-encoding", b"expect", b"upgrade", b"sec-fetch-site", b"origin"))
LOOKED_AT = NOT_PLAIN | {b"content-length", b"authorization", b"host", b"x-forwarded-for"}


class _NoEvent:
    """Of uvicorn's events, for a request that nobody waits for."""

    def set(self) -> None: ...


class _FastResponse:
    """Stands where uvicorn has its cycle of request and response."""

    __slots__ = ("disconnected", "keep_alive", "more_body", "response_complete")
    message_event = _NoEvent()
    response_started = False

    def __init__(self, keep_alive: bool) -> None:
        self.keep_alive = keep_alive
        self.disconnected = self.response_complete = self.more_body = False


def fast_path(
    gate: HeartbeatStore, access: IngestAuth, limits: ConnectionLimits, port: int
) -> type[Connection]:
    """The protocol to serve the app with, at this port."""
    known, tokens = gate.names, access.tokens
    followed: set[bytes] = {TRACEPARENT_HEADER.encode()} if tracing.is_on() else set()
    not_plain, looked_at = NOT_PLAIN | followed, LOOKED_AT | followed
    hosts = {
        text.encode()
        for host in limits.hosts
        for name in (host, f"[{host}]")
        for text in (name, f"{name}:{port}")
    }
    dated: list[tuple[bytes, bytes]] | None = None
    ok = b""

    class FastPath(Connection):
        given = ""
        """The right token that the request shows."""

        def on_headers_complete(self) -> None:
            name = self._plain()
            if not name:
                super().on_headers_complete()
                return
            self.in_head = False
            beat = _FastResponse(self.parser.should_keep_alive())
            self.cycle = beat  # type: ignore[assignment]

            def done(error: BrokerError | None) -> None:
                self._answer(beat, gate.not_stored(error) if error else None)

            try:
                if self.given:
                    if not self.known:
                        self.meet()
                    access.enter(self.given, True, self.client_key)
                elif self.client_key and (problem := self.too_many()):
                    raise problem
                gate.add(name, done, None if self.given else self.client_key)
            except Problem as problem:
                self._answer(beat, problem)

        def _plain(self) -> str:
            """The name in a request that may take the short way; else nothing."""
            if not self.url.startswith(PREFIX) or not (self.cycle is None or self.cycle.response_complete):
                return ""
            name = self.url[len(PREFIX) :].decode("latin-1")
            if not (name in known or valid_name(name)) or self.parser.get_method() not in METHODS:
                return ""
            authorization = forwarded = b""
            if len(self.headers) > HEADERS_MAX:
                return ""
            for key, value in self.headers:
                if key not in looked_at:
                    continue
                if key == b"host":
                    if hosts and value not in hosts:
                        return ""
                elif key == b"authorization":
                    authorization = value
                elif key == b"x-forwarded-for":
                    forwarded = value
                elif key in not_plain or value != b"0":
                    return ""
            if tokens:
                given = bearer(authorization.decode("latin-1"))
                self.given = given if access.knows(given) else ""
                if access.needs_token and not self.given:
                    return ""
            if self.behind_proxy and (forwarded or self.client_key):
                self.client_key = self.forwarded_for(forwarded)
            return name if self.parser.get_http_version() == "1.1" else ""

        def _answer(self, beat: _FastResponse, problem: Problem | None) -> None:
            if beat.disconnected or self.transport.is_closing():
                return
            if problem or not beat.keep_alive:
                response = problems.response(problem) if problem else stored(OK)
                self.transport.write(self.written(response, close=not beat.keep_alive))
            else:
                nonlocal dated, ok
                if dated is not self.server_state.default_headers:  # uvicorn makes them anew each second
                    dated, ok = self.server_state.default_headers, self.written(stored(OK), close=False)
                self.transport.write(ok)
            beat.response_complete = True
            if self.flow.write_paused:
                self.transport.abort()  # a client that does not read its answers
            elif not beat.keep_alive:
                self.transport.close()
            self.on_response_complete()

    FastPath.limits = limits
    return FastPath
