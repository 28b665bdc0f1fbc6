"""uvicorn's HTTP protocol within limits: of how many connect, how long they take, and how much they send.

One look per second at all connections takes the place of a timer for each.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httptools
import structlog
from starlette.requests import Request
from starlette.responses import Response

from shared.http import problems
from shared.http.origins import host_of, is_loopback
from shared.http.problems import Problem
from shared.http.rate_limits import FORWARDED_MAX, REFUSED, RateLimit, TrustedProxies
from shared.http.uvicorn_internals import STATUS_LINE, Protocol
from shared.settings import Settings

HEAD_TIMEOUT = 10.0
"""Seconds from connecting, or from a request's first byte, until its head must be there."""
BODY_TIMEOUT = 25.0
"""Seconds from a request's first byte, or from its answer, until its body must be there."""
IDLE_TIMEOUT = 75.0
"""Seconds that a connection may wait for its next request."""
STALL_TIMEOUT = 30.0
"""Seconds that a client may leave what was sent to it unread."""
LINGER = 2.0
"""Seconds that a client has to read why it is refused."""

HEAD_MAX = 16 * 1024
"""Bytes of a request's first line and headers; up to SLICE more may pass."""
SLICE = 8 * 1024
"""Bytes that are parsed at once where much comes, so that limits are noticed in time."""
HEADERS_MAX = 100
PARAMETERS_MAX = 200
"""Parameters of an address that are read: thousands take milliseconds, before anything is counted."""
REQUEST_MAX = 4 * 1024 * 1024
"""Bytes of a request in all, with what chunked transfer adds to its body."""
NONE = -1
PIPELINED_MAX = 16
"""Requests that may wait in a connection for the answer to the one before."""
PIPELINED_BODY_MAX = 64 * 1024
OTHER_FILES = 50
_TOO_MANY = Problem(503, "there are too many connections", retry_after=10)
_TOO_MANY_STRANGERS = Problem(429, "there are too many connections without a token", retry_after=10)
_TOO_SLOW = Problem(408, "the request was not there yet when its place was needed for others")
_TOO_MANY_HEADERS = Problem(431, f"there are more than {HEADERS_MAX} headers")

log = structlog.get_logger()


@dataclass
class ConnectionLimits:
    """Of one server. `hosts`: the names it goes by, if no other shall lead to other."""

    connections: int = 2000
    per_address: RateLimit = field(default_factory=lambda: RateLimit(0))
    proxies: TrustedProxies = field(default_factory=lambda: TrustedProxies(()))
    hosts: frozenset[str] = frozenset()
    now: float = 0.0
    """Seconds, renewed once a second."""
    open: Counter[str] = field(default_factory=Counter)
    """Strangers' connections by address; none of this machine or of a proxy."""
    recognises: Callable[[Request], bool] = lambda _: False
    """Whether a request shows a right token. Whoever did is no stranger on that connection any more."""
    known: int = 0
    """Connections on which a right token was shown."""
    turn: int = 0
    """Counts connections and answers: who has waited for longest has the lowest of its own."""
    on_full: Callable[[str], None] = lambda _: None
    """Called with why a connection was refused though it was not strangers who had too many."""

    def fit(self, files: int) -> None:
        """Leave some of so many open files to the broker's connection and the like."""
        if self.connections > (most := max(1, files - OTHER_FILES)):
            log.warning("fewer connections than wished, for this process may not open more", most=most)
            self.connections = most

    @property
    def connections_per_address(self) -> int:
        """Of a stranger."""
        return max(1, self.connections // 4)

    @property
    def connections_known(self) -> int:
        """The rest is for those who have not shown their token yet."""
        return self.connections - self.connections // 8

    def knows(self, host: str) -> bool:
        """Whether this `Host` may lead here, whatever its port: by a name of this machine's own loopback, or
        one of `hosts`. Everything else, `0.0.0.0` as well, may be what a page of another site has chosen."""
        return not self.hosts or (name := host_of(host)) in self.hosts or is_loopback(name)


def client_of(request: Request) -> str | None:
    """Whom a request is counted as; None: nobody is counted."""
    return request.client.host if request.client else None


def stranger_of(request: Request) -> str | None:
    """Its address, if it is a stranger's; None for whoever has shown a right token."""
    return None if request.scope.get("known") else client_of(request)


class Connection(Protocol):
    """Serves one connection. `limits` are the class's: `within` makes such a class."""

    limits: ConnectionLimits

    client_key: str | None = None
    """Who is counted: a stranger's address, or for whom a proxy asks."""
    behind_proxy = False
    in_head = True
    """The head of a request is awaited: the first one's, or one that has begun."""
    size = 0
    """Bytes of the request that is not all there, up to the last piece; NONE: there is none."""
    since = 0.0
    """When it began, or when the last answer was given."""
    ignores_input = refused = False
    """Nothing is read any more; `refused`: because of an error that was answered."""
    known = False
    """A right token was shown."""
    turn = 0
    """Of the limits' turns, the one since which it waits."""
    stalled_since: float | None = None
    offers_upgrade = False
    """The request offers another protocol, and was not given to the app yet."""

    # --- the connection

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        limits = self.limits
        self.since = limits.now
        self._next_turn()
        self.client_key = limits.proxies.client(self.client[0] if self.client else "")
        self.behind_proxy = self.client_key is None
        if self.client_key:
            limits.open[self.client_key] += 1
        if self.client_key and limits.open[self.client_key] > limits.connections_per_address:
            if not self._make_room(self.client_key):
                self._refuse_connection(_TOO_MANY_STRANGERS)
        elif len(self.connections) > limits.connections and not self._make_room():
            if limits.open.total() > limits.connections - limits.connections_known:
                self._refuse_connection(_TOO_MANY_STRANGERS)
            else:
                self._refuse_connection(_TOO_MANY)
                limits.on_full(_TOO_MANY.detail)

    def _next_turn(self) -> None:
        self.limits.turn += 1
        self.turn = self.limits.turn

    def _refuse_connection(self, why: Problem) -> None:
        self._refuse(why)
        self.transport.close()  # without waiting until it is read

    def _make_room(self, of: str | None = None) -> bool:
        """Whether others made way for this connection: strangers whose request is not there yet, those of the
        address with the most connections first, then who has waited longest; some at once, for looking takes
        time. `of`: of this address only. If there are none, somebody known who has nothing to say."""
        waiting = [other for other in self._others() if not other.known and of in (None, other.counted_for)]
        count = self.limits.open
        waiting.sort(key=lambda other: (-count[other.counted_for or ""], other.turn))
        if not waiting and of is None:
            known = [other for other in self._others() if other.known]
            waiting = sorted(known, key=lambda other: other.turn)[:1]
        for other in waiting[: 1 + len(waiting) // 50]:
            other.close_for_others()
        return bool(waiting)

    def _others(self) -> "Iterator[Connection]":
        for other in self.connections:
            if other is not self and isinstance(other, Connection) and not other.is_being_answered():
                yield other

    def is_being_answered(self) -> bool:
        """A request of it is all there, and not answered."""
        return self.size == NONE and not self.in_head and self.owes_answer()

    @property
    def counted_for(self) -> str | None:
        """The address that `limits.open` counts this connection for."""
        return None if self.behind_proxy or self.known else self.client_key

    def close_for_others(self) -> None:
        if self.ignores_input or self.transport.is_closing():
            self.transport.abort()
            return
        if self.size > 0:
            self._refuse(_TOO_SLOW)
        self.transport.close()

    def mark_known(self) -> None:
        """A right token was shown: this is no stranger, and has its place beside all strangers."""
        limits = self.limits
        self._uncount()
        self.known = True
        limits.known += 1
        if limits.known > limits.connections_known:
            idle = [other for other in self._others() if other.known]
            if idle:
                min(idle, key=lambda other: other.turn).close_for_others()

    def _uncount(self) -> None:
        count = self.limits.open
        if key := self.counted_for:
            count[key] -= 1
            if not count[key]:
                del count[key]

    def connection_lost(self, exc: Exception | None) -> None:
        self._uncount()
        self.limits.known -= self.known
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.stalled_since = self.limits.now

    def resume_writing(self) -> None:
        super().resume_writing()
        self.stalled_since = None

    def check_timeouts(self) -> None:
        """Called once a second: ends what takes too long."""
        now = self.limits.now
        waits = now - self.since
        ending = self.refused or self.transport.is_closing()
        stalled = self.stalled_since is not None and now - self.stalled_since > STALL_TIMEOUT
        if stalled or (ending and waits > (LINGER if self.refused else STALL_TIMEOUT)):
            self.transport.abort()
        elif self.headers is None and waits > HEAD_TIMEOUT:
            self.transport.close()  # it never said anything
        elif self.in_head and waits > HEAD_TIMEOUT:
            self._refuse(Problem(408, f"the request did not come within {HEAD_TIMEOUT:g} s"))
        elif self.size > NONE and waits > BODY_TIMEOUT:
            self._refuse(Problem(408, f"the body did not come within {BODY_TIMEOUT:g} s"))
        elif waits > IDLE_TIMEOUT and not self.owes_answer():
            self.transport.close()

    def on_response_complete(self) -> None:
        self.since = self.limits.now
        self._next_turn()
        super().on_response_complete()

    def _refuse(self, problem: Problem) -> None:
        """Say why, if it is not too late, and end. What still comes is let go by, so that this is read."""
        if self.ignores_input or self.transport.is_closing():
            return
        self.ignores_input = self.refused = True
        self.since = self.limits.now
        if self.owes_answer() or (self.size > NONE and not self.in_head):
            self.transport.abort()
            return
        REFUSED.labels(problem.status).inc()
        self.transport.write(self.written(problems.response(problem), close=True))
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def written(self, response: Response, *, close: bool) -> bytes:
        """An answer that no app gave, as it goes over the connection."""
        lines = [*self.server_state.default_headers, *response.raw_headers]
        if close:
            lines.append((b"connection", b"close"))
        head = b"".join(b"%b: %b\r\n" % line for line in lines)
        return b"%b%b\r\n%b" % (STATUS_LINE[response.status_code], head, bytes(response.body))

    def finish(self) -> None:
        """Close after an answer; if its request still comes, not before the client could read the answer."""
        if self.transport.is_closing():
            return
        if self.size > NONE and not self.in_head and self.transport.can_write_eof():
            self.ignores_input = self.refused = True
            self.since = self.limits.now
            self.transport.write_eof()
        else:
            self.transport.close()

    # --- what comes in

    def data_received(self, data: bytes) -> None:
        if not data.isascii() and (self.size <= 0 or (self.in_head and not self.headers)):
            data = _escaped(data)
        start = 0
        try:
            whole = data if len(data) <= SLICE else memoryview(data)
            for start in range(0, len(data), SLICE):
                if self.ignores_input:
                    return
                part = whole[start : start + SLICE]
                self.parser.feed_data(part)
                if self.size > NONE:
                    self._check_size(len(part))
        except httptools.HttpParserUpgrade as offer:
            if self.offers_upgrade:
                self._decline_upgrade(memoryview(data)[start + offer.args[0] :])
            else:  # CONNECT
                self._stop_reading()
        except httptools.HttpParserError:
            if self.in_head and self.headers and len(self.headers) > HEADERS_MAX:
                self._refuse(_TOO_MANY_HEADERS)
            else:
                self._refuse(Problem(400, "this is not HTTP"))

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio asks whether to stay open
        """Who says no more, as `nc -N` does, still gets an answer; unless it is a stream that has begun."""
        answers = self.is_being_answered() and not self.cycle.response_started
        if answers:
            self.cycle.keep_alive = False
        return answers

    def _decline_upgrade(self, rest: memoryview) -> None:
        """Read the request again as if it had not offered another protocol, for which its body is taken."""
        lines = [b"%b: %b\r\n" % line for line in self.headers if line[0] != b"upgrade"]
        first = b"%b %b HTTP/%b\r\n" % (
            self.parser.get_method(),
            self.url,
            self.parser.get_http_version().encode(),
        )
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"%b%b\r\n%b" % (first, b"".join(lines), bytes(rest)))

    def _check_size(self, more: int) -> None:
        """The request that is not all there."""
        if not self.size:
            self.since = self.limits.now
        self.size += more
        if self.headers and len(self.headers) > HEADERS_MAX:
            self._refuse(_TOO_MANY_HEADERS)
        elif self.size <= HEAD_MAX:
            return
        elif self.in_head and len(self.url) > HEAD_MAX // 2:
            self._refuse(Problem(414, f"the address is longer than {HEAD_MAX // 2} bytes"))
        elif self.in_head:
            self._refuse(Problem(431, f"the headers are larger than {HEAD_MAX} bytes"))
        elif self.size > REQUEST_MAX:
            self._refuse(Problem(413, f"the request is larger than {REQUEST_MAX} bytes"))

    def _stop_reading(self) -> None:
        self.ignores_input = True
        if self.owes_answer():
            self.cycle.keep_alive = False
        else:
            self.transport.close()

    # --- what the parser says

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.size = 0
        self.in_head = True
        self.offers_upgrade = False

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self.offers_upgrade = True
            return
        if len(self.headers) > HEADERS_MAX or len(self.pipeline) >= PIPELINED_MAX:
            raise ValueError("too much")
        self.in_head = False
        parameters = self.url.split(b"&", PARAMETERS_MAX)
        self.url = b"&".join(parameters[:PARAMETERS_MAX])
        self.make_scope()
        self.scope["is_cut"] = len(parameters) > PARAMETERS_MAX  # type: ignore[typeddict-unknown-key]
        problem = self._objection()
        if problem:
            self.app, app = problems.response(problem), self.app
            super().on_headers_complete()
            self.app = app
        else:
            super().on_headers_complete()
        self.cycle.transport = _Transport(self)  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        if self.pipeline and len(self.cycle.body) > PIPELINED_BODY_MAX:
            raise ValueError("too large a request waits in this connection")

    def on_message_complete(self) -> None:
        if self.offers_upgrade:
            return
        self.size = NONE
        super().on_message_complete()

    def _objection(self) -> Problem | None:
        """Why the app is not to see this request."""
        forwarded, hosts = b"", list[str]()
        for key, value in self.headers:
            if key == b"host":
                hosts.append(value.decode("latin-1"))
            elif key == b"x-forwarded-for":
                forwarded = value
        if not all(map(self.limits.knows, filter(None, hosts))):
            REFUSED.labels(421).inc()
            return Problem(421, "this address is not known under that name; see REGISTRY_PUBLIC_URL")
        if len(hosts) > 1:
            return Problem(400, "there is more than one Host")
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            return Problem(400, "this server speaks HTTP/1.1")
        if self.behind_proxy:
            self.client_key = self.forwarded_for(forwarded)
        self.scope["client"] = (self.client_key, 0) if self.client_key else None
        self.scope["raw_path"], _, self.scope["query_string"] = self.url.partition(b"?")
        if not self.limits.recognises(Request(self.scope)):  # type: ignore[arg-type]
            return self.too_many()
        self.scope["known"] = True  # type: ignore[typeddict-unknown-key]
        if not self.known:
            self.mark_known()
        return None

    def forwarded_for(self, forwarded: bytes) -> str | None:
        """Whom a request that came from a proxy, or from this machine, is counted as."""
        if not forwarded:
            return None
        peer = self.client[0] if self.client else ""
        return self.limits.proxies.client(peer, forwarded[-FORWARDED_MAX:].decode("latin-1"))

    def too_many(self) -> Problem | None:
        wait = self.limits.per_address.spend(self.client_key, time.monotonic())
        if not wait:
            return None
        REFUSED.labels(429).inc()
        return Problem(429, "too many requests from this address", retry_after=wait)


def _escaped(data: bytes) -> bytes:
    """With an address as it was typed (curl sends `?msg=größer` so) in the form that the parser takes."""
    line, end, rest = data.partition(b"\n")
    return b"%b%b%b" % (_NOT_ASCII.sub(lambda found: b"%%%02X" % ord(found[0]), line), end, rest)


_NOT_ASCII = re.compile(rb"[\x80-\xff]")


class _Transport:
    """What uvicorn does with a connection to answer a request."""

    def __init__(self, connection: Connection) -> None:
        self._write = connection.transport.write
        self.is_closing = connection.transport.is_closing
        self.close = connection.finish

    def write(self, data: bytes) -> None:
        """Nothing, to who was let go while its answer was made."""
        if not self.is_closing():
            self._write(data)


def limits_of(settings: Settings, *, loopback_only: bool) -> ConnectionLimits:
    """`loopback_only`: nothing but being on this machine is asked for. Then no page of another site may come
    in by a name of its own that it lets lead here."""
    return ConnectionLimits(
        settings.max_connections,
        RateLimit(settings.rate_limit_per_address),
        TrustedProxies(settings.trusted_proxies),
        settings.own_names if loopback_only else frozenset(),
    )


def within(limits: ConnectionLimits) -> type[Connection]:
    return type("Limited", (Connection,), {"limits": limits})
