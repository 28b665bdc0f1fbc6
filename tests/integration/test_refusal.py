"""What is refused, and how: slow, large, many, unknown, from elsewhere. And who is served all the while."""

import asyncio
import contextlib
import ipaddress
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from services.api.queries.event_hub import MAX_PER_CLIENT
from shared.http import protocol, server
from shared.http.protocol import ConnectionLimits
from shared.http.rate_limits import REMEMBERED, RateLimit, TokenGuessLimit, TrustedProxies
from tests.broker import eventually
from tests.e2e.system import System
from tests.integration.test_ingest import Start, start
from tests.names import BAD_NAMES
from tests.servers import service as process
from tests.telegram_standin import Standin

StartApi = Callable[..., httpx.Client]


@pytest.fixture
def start_api(tmp_path: Path, nats_url: str, mongo_url: str) -> Iterator[StartApi]:
    with contextlib.ExitStack() as ending:

        def start(**variables: str) -> httpx.Client:
            it = process("api", tmp_path, nats_url, mongodb_url=mongo_url, **variables).start()
            ending.callback(it.kill)
            client = ending.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{it.port}", timeout=20))
            while client.get("/readyz").status_code != 200:
                time.sleep(0.02)
            return client

        yield start


STRANGER = {"X-Forwarded-For": "203.0.113.7"}
OTHER = {"X-Forwarded-For": "203.0.113.8"}


# --- connections, in this process, so that what takes a minute takes a second


@contextlib.asynccontextmanager
async def serving(limits: ConnectionLimits) -> AsyncIterator[int]:
    """A server within these limits, and its port. `/endless` answers for ever; `/` answers at once."""

    async def endless(_: Any) -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 65536
                await asyncio.sleep(0)

        return StreamingResponse(parts())

    async def front(_: Any) -> PlainTextResponse:
        return PlainTextResponse("here")

    app = Starlette(routes=[Route("/endless", endless), Route("/", front, methods=["GET", "POST"])])
    sock = socket.create_server(("127.0.0.1", 0))
    done = asyncio.Event()

    async def work() -> None:
        await done.wait()

    running = asyncio.create_task(server._serve(app, work, sock, protocol.within(limits), lambda: None))
    try:
        yield sock.getsockname()[1]
    finally:
        done.set()
        await running


def hurry(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """Make this one short, and the others so long that they cannot stand in for it."""
    for name in ("HEAD_TIMEOUT", "BODY_TIMEOUT", "IDLE_TIMEOUT", "STALL_TIMEOUT"):
        monkeypatch.setattr(protocol, name, 1.5 if name == limit else 60.0)


async def closed(reader: asyncio.StreamReader, within: float = 6.0) -> bytes:
    """What still came until the connection was closed, or reset."""
    found = b""
    async with asyncio.timeout(within):
        with contextlib.suppress(ConnectionError):
            while part := await reader.read(1 << 20):
                found += part
    return found


async def drip(writer: asyncio.StreamWriter, text: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(text)
            await writer.drain()
            await asyncio.sleep(0.1)


GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
PARTS = b"Transfer-Encoding: chunked\r\n\r\n"
SLOW = {
    "silent": (b"", b"", b"", "HEAD_TIMEOUT"),
    "blanks": (b"", b"\r\n", b"", "HEAD_TIMEOUT"),
    "address": (b"GET /", b"x", b"408", "HEAD_TIMEOUT"),
    "head": (GET, b"X: y\r\n", b"408", "HEAD_TIMEOUT"),
    "second head": (GET + b"\r\nGET / HTT", b"", b"408", "HEAD_TIMEOUT"),
    "idle": (GET + b"\r\n", b"", b"here", "IDLE_TIMEOUT"),
    "body after its answer": (POST + b"Content-Length: 9999\r\n\r\n", b"x", b"here", "BODY_TIMEOUT"),
    "body in parts": (POST + PARTS, b"1\r\nx\r\n", b"here", "BODY_TIMEOUT"),
    "trailers": (POST + PARTS + b"0\r\n", b"X: y\r\n", b"here", "BODY_TIMEOUT"),
}


@pytest.mark.parametrize("kind", SLOW)
async def test_whoever_is_slow_is_let_go(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begin, then, said, limit = SLOW[kind]
    hurry(monkeypatch, limit)
    async with serving(ConnectionLimits()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begin)
        dripping = asyncio.create_task(drip(writer, then)) if then else None
        began = time.monotonic()
        answer = await closed(reader)
        assert said in answer if said else answer == b""
        assert time.monotonic() - began > 1.4
        if dripping:
            dripping.cancel()
        writer.close()


async def test_whoever_does_not_read_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, "STALL_TIMEOUT")
    limits = ConnectionLimits()
    async with serving(limits) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.sleep(5)
        assert await closed(reader) is not None
        writer.close()


async def test_whoever_reads_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("HEAD_TIMEOUT", "BODY_TIMEOUT", "IDLE_TIMEOUT", "STALL_TIMEOUT"):
        monkeypatch.setattr(protocol, limit, 1.5)
    async with serving(ConnectionLimits()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        end = time.monotonic() + 4
        while time.monotonic() < end:
            assert await reader.read(1 << 20)
        writer.close()


Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def begin(port: int, request: bytes = b"") -> Opened:
    """A connection that asks for this, and waits until something is said to it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    if request:
        writer.write(request)
        await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def is_open(connection: Opened) -> bool:
    """Whether it is answered once more."""
    reader, writer = connection
    writer.write(GET + b"\r\n")
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        return bool(await reader.readuntil(b"\r\n\r\n"))
    return False


KNOWN = b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer good\r\n\r\n"


def eight(monkeypatch: pytest.MonkeyPatch, *, counted: bool) -> tuple[ConnectionLimits, list[str]]:
    """Eight connections, two of one address if this machine is `counted`; what is said when full."""
    full: list[str] = []
    limits = ConnectionLimits(connections=8, on_full=full.append)
    limits.recognises = lambda request: request.headers.get("authorization") == "Bearer good"
    if counted:
        monkeypatch.setattr(limits.proxies, "_networks", ())
    return limits, full


async def test_who_only_waits_makes_way_for_who_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    limits, full = eight(monkeypatch, counted=False)
    async with serving(limits) as port:
        slow = [await begin(port), await asyncio.open_connection("127.0.0.1", port)]
        slow[1][1].write(POST + b"Content-Length: 99\r\n\r\nx")
        await asyncio.sleep(0.05)
        held = [await begin(port, GET + b"\r\n") for _ in range(6)]
        for _ in range(2):
            held.append(await begin(port, GET + b"\r\n"))
        assert [await is_open(it) for it in held] == [True] * 8
        assert await closed(slow[0][0]) == b""
        assert (await closed(slow[1][0])).count(b"HTTP/1.1") <= 1
        assert not full
        for _, writer in slow + held:
            writer.close()


async def test_who_is_worked_for_keeps_its_place_and_that_is_our_own_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits, full = eight(monkeypatch, counted=False)
    async with serving(limits) as port:
        endless = b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n"
        held = [await begin(port, endless) for _ in range(8)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answer = await closed(reader)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 10" in answer
        assert full == ["there are too many connections"]
        for _, other in [*held, (reader, writer)]:
            other.transport.abort()


async def test_one_address_has_so_many_connections_and_closes_no_door(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits, full = eight(monkeypatch, counted=True)
    async with serving(limits) as port:
        endless = b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n"
        held = [await begin(port, endless) for _ in range(2)]
        assert limits.open == {"127.0.0.1": 2}
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answer = await closed(reader)
        assert answer.startswith(b"HTTP/1.1 429")
        assert b"retry-after: 10" in answer
        assert not full
        for _, other in [*held, (reader, writer)]:
            other.transport.abort()

        async def none_left() -> bool:
            return not limits.open

        await eventually(none_left)


@pytest.mark.parametrize("counted", [True, False])
async def test_who_is_known_has_room_beside_all_connections_of_the_same_address(
    counted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits, full = eight(monkeypatch, counted=counted)
    async with serving(limits) as port:
        known = [await begin(port, KNOWN) for _ in range(5)]
        assert (limits.known, dict(limits.open)) == (5, {})
        hostile = [await begin(port) for _ in range(30)]
        known.append(await begin(port, KNOWN))
        hostile += [await begin(port) for _ in range(30)]
        assert [await is_open(it) for it in known] == [True] * 6
        assert limits.open["127.0.0.1"] <= 2
        assert not full
        for _, writer in known + hostile:
            writer.transport.abort()


async def test_those_who_are_known_leave_room_for_who_has_not_shown_its_token_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits, full = eight(monkeypatch, counted=False)
    async with serving(limits) as port:
        known = [await begin(port, KNOWN) for _ in range(20)]
        assert [await is_open(it) for it in known[-5:]] == [True] * 5
        assert limits.known <= 7
        assert not full
        for _, writer in known:
            writer.transport.abort()


# --- heads, on ingest as it is


async def exchange(port: int, *parts: bytes) -> bytes:
    """What the server says until it closes, to what is sent as far as it is taken."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send() -> None:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)

    sending = asyncio.create_task(send())
    try:
        return await closed(reader, 15)
    finally:
        sending.cancel()
        writer.close()


def _most_memory(pid: int) -> int:
    """Bytes that it ever had, now and for a moment."""
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[0]) * 1024


BEAT = b"POST /heartbeat/a HTTP/1.1\r\nHost: 127.0.0.1\r\n"
MUCH = [b"x" * 65536] * 1000
HEADS = {
    "endless header": (431, [BEAT + b"X: ", *MUCH]),
    "endless headers": (431, [BEAT, *[b"X-%d: y\r\n" % n * 100 for n in range(10_000)]]),
    "large header": (431, [BEAT + b"X: " + b"x" * 30_000 + b"\r\n\r\n"]),
    "many headers": (431, [BEAT + b"X: y\r\n" * 101 + b"\r\n"]),
    "endless address": (414, [b"GET /heartbeat/", *MUCH]),
    "endless method": (400, MUCH),
    "endless blanks": (431, [b"\r\n" * 32768] * 10),
    "noise": (400, [bytes(range(256)) * 100]),
    "TLS": (400, [bytes.fromhex("16030100a5010000a10303")]),
    "HTTP/2": (400, [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]),
    "no such version": (400, [b"GET /heartbeat/a HTTP/9.9\r\n\r\n"]),
    "two lengths": (400, [BEAT + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx"]),
    "length and parts": (400, [BEAT + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"]),
}


@contextlib.contextmanager
def steady(folder: Path, nats_url: str, most: int) -> Iterator[tuple[int, Callable[[], int]]]:
    """The port of an ingest that must not grow by more than `most` MiB, or fill its log; and a heartbeat."""
    ingest = process("ingest", folder, nats_url).start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{ingest.port}") as client:
            while client.get("/readyz").status_code != 200:
                time.sleep(0.02)
            before = _most_memory(ingest.pid)
            yield ingest.port, lambda: client.post("/heartbeat/a").status_code
            assert _most_memory(ingest.pid) - before < most * 1024 * 1024
        log = ingest.log.read_text()
        assert "Traceback" not in log, log[-3000:]
        assert len(log) < 5000
    finally:
        ingest.kill()


async def test_heads_that_are_none(tmp_path: Path, nats_url: str) -> None:
    with steady(tmp_path, nats_url, 10) as (port, beat):
        for kind, (status, parts) in HEADS.items():
            answer = await exchange(port, *parts)
            assert answer.startswith(b"HTTP/1.1 %d" % status), (kind, answer[:300])
            assert b"application/problem+json" in answer, kind
            assert b"connection: close" in answer, kind
            assert beat() == 200, kind


BODIES = {
    "endless parts": [
        BEAT + b"Transfer-Encoding: chunked\r\n\r\n",
        *[b"10000\r\n" + b"x" * 65536 + b"\r\n"] * 500,
    ],
    "endless chunk names": [BEAT + b"Transfer-Encoding: chunked\r\n\r\n1;", *MUCH],
    "endless trailer": [BEAT + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ", *MUCH],
    "more than was said": [BEAT + b"Content-Length: 2\r\n\r\n{}", *MUCH],
    "a bad part": [BEAT + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"],
    "upgrade": [
        BEAT + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        BEAT + b"Connection: close\r\n\r\n",
    ],
    "connect": [b"CONNECT a:1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", *MUCH],
    "pipelined": [(BEAT + b"Content-Length: 0\r\n\r\n") * 5000],
    "pipelined bodies": [(BEAT + b"Content-Length: 500000\r\n\r\n" + b"x" * 500_000) * 20],
}


async def test_bodies_that_never_end(tmp_path: Path, nats_url: str) -> None:
    with steady(tmp_path, nats_url, 16) as (port, beat):
        for kind, parts in BODIES.items():
            answer = await exchange(port, *parts)
            assert b"500 Internal" not in answer, (kind, answer)
            assert beat() == 200, kind


async def test_a_few_pipelined_requests_are_answered_in_order(start: Start) -> None:
    port = start().base_url.port
    assert port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"".join(
            b"GET /heartbeat/%b HTTP/1.1\r\nHost: 127.0.0.1\r\n%b\r\n"
            % (name, b"Connection: close\r\n" * last)
            for name, last in [(b"a", 0), (b"a%20b", 0), (b"c", 0), (b"d?every=soon", 0), (b"e", 1)]
        )
    )
    answer = await closed(reader)
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"422", b"200", b"200", b"200"]
    writer.close()


async def test_bodies_that_come_at_the_same_time_share_their_room(start: Start) -> None:
    client = start()
    port = client.base_url.port
    assert port
    head = b"POST /heartbeats HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2000000\r\n\r\n"
    answers = await asyncio.gather(*(exchange(port, head, b" " * 1_900_000) for _ in range(20)))
    statuses = sorted(answer[9:12] for answer in answers)
    assert (statuses[0], statuses[-1]) == (b"408", b"503"), statuses
    assert client.post("/heartbeat/a").status_code == 200


# --- rates


def refused(client: httpx.Client, headers: dict[str, str], path: str = "/heartbeat/a") -> httpx.Response:
    """Within 15 requests, for some time may have passed; who is somebody else would have more."""
    answers = (client.get(path, headers=headers) for _ in range(15))
    return next(answer for answer in answers if answer.status_code == 429)


async def test_a_rate_per_address(start: Start) -> None:
    client = start(rate_limit_per_address="3/s")
    for headers in (STRANGER, {"X-Forwarded-For": "2001:db8::1"}):
        got = [client.post("/heartbeat/a", headers=headers) for _ in range(20)]
        got += [client.post("/heartbeat/a?every=5m", headers=headers) for _ in range(20)]
        assert {answer.status_code for answer in got[:30]} == {200}
        answer = refused(client, headers)
        assert 1 <= int(answer.headers["Retry-After"]) <= 10
        assert answer.headers["Content-Type"] == "application/problem+json"
    refused(client, {"X-Forwarded-For": "2001:db8::2"})
    assert client.post("/heartbeat/a", headers={"X-Forwarded-For": "2001:db8:0:1::1"}).status_code == 200
    refused(client, STRANGER)
    refused(client, {"X-Forwarded-For": f"{'9.9.9.9, ' * 50}203.0.113.7"})
    refused(client, {"X-Forwarded-For": "203.0.113.7, 127.0.0.1"})
    refused(client, STRANGER, "/healthz")
    assert client.post("/heartbeat/a", headers=OTHER).status_code == 200
    assert {client.post("/heartbeat/a").status_code for _ in range(50)} == {200}
    await asyncio.sleep(1)
    assert client.post("/heartbeat/a", headers=STRANGER).status_code == 200


async def test_a_fleet_with_a_token_behind_one_address_is_not_held_up(start: Start) -> None:
    token = {"Authorization": "Bearer of-the-whole-fleet"}
    client = start(ingest_token="of-the-whole-fleet", rate_limit_per_address="1/s")
    for n in range(40):
        path = "/heartbeat/a" if n % 2 else "/heartbeat/a?every=5m"
        assert client.post(path, headers=STRANGER | token).status_code == 200
    names = {"services": ["a"] * 5000}
    assert client.post("/heartbeats", json=names, headers=STRANGER | token).status_code == 200
    assert client.post("/heartbeat/a", headers=STRANGER | token).status_code == 200
    metric = 'registry_requests_refused_total{status="429"}'
    assert f"{metric} 0.0" in client.get("/metrics").text
    assert {client.get("/healthz", headers=STRANGER).status_code for _ in range(20)} == {200, 429}
    assert f"{metric} 0.0" not in client.get("/metrics").text


def exhaust(client: httpx.Client, path: str) -> None:
    """Ask as a stranger until that is too often."""
    while client.get(path, headers=STRANGER).status_code != 429:
        pass


@pytest.mark.parametrize("anonymous", ["", "ingest"])
async def test_a_hostile_neighbour_takes_no_requests_from_who_is_known(start: Start, anonymous: str) -> None:
    client = start(ingest_token="good", anonymous=anonymous, rate_limit_per_address="1/s")
    good = STRANGER | {"Authorization": "Bearer good"}
    for path in ("/heartbeat/a", "/heartbeat/a?every=5m", "/heartbeats"):
        exhaust(client, "/heartbeat/a")
        body = {"services": ["a"] * 2000} if path == "/heartbeats" else None
        assert client.post(path, json=body, headers=good).status_code == 200
        path += ("&" if "?" in path else "?") + "token=good"
        assert client.post(path, json=body, headers=STRANGER).status_code == 200


async def test_a_hostile_neighbour_takes_no_requests_of_the_api(start_api: StartApi) -> None:
    client = start_api(api_token="good", rate_limit_per_address="1/s")
    login = client.post("/ui/login", data={"token": "good"}, headers=STRANGER)
    session = {"Cookie": f"registry_session={login.cookies['registry_session']}"}
    client.cookies.clear()
    exhaust(client, "/services")
    for shown in ({"Authorization": "Bearer good"}, session):
        assert {client.get("/services", headers=STRANGER | shown).status_code for _ in range(3)} == {200}


async def test_a_batch_counts_by_its_names(start: Start) -> None:
    client = start(rate_limit_per_address="1/s")
    names = {"services": ["a"] * 2000}
    assert client.post("/heartbeats", json=names, headers=STRANGER).status_code == 200
    answer = client.post("/heartbeat/a", headers=STRANGER)
    assert answer.status_code == 429
    assert 10 <= int(answer.headers["Retry-After"]) <= 12


async def test_a_rate_per_token(start: Start) -> None:
    client = start(ingest_token="one,two", rate_limit_per_token="2/s", rate_limit_per_address="")
    for n in range(20):
        path, headers = (
            ("/heartbeat/a?token=one", {}) if n % 2 else ("/heartbeat/a", {"Authorization": "Bearer one"})
        )
        assert client.post(path, headers=headers).status_code == 200
    assert "Retry-After" in refused(client, {"Authorization": "Bearer one"}).headers
    refused(client, {}, "/heartbeat/a?token=one")
    assert client.post("/heartbeat/a", headers={"Authorization": "Bearer two"}).status_code == 200


def test_a_rate_forgets_whom_it_has_not_heard_of() -> None:
    rate = RateLimit(1, 1)
    for n in range(REMEMBERED + 500):
        assert rate.spend(str(n), 100.0) == 0
        assert rate.spend("busy", 100.0 + n) == 0
    assert len(rate._spent) == REMEMBERED
    assert rate.spend("busy", 100.0 + n) == 1
    assert RateLimit(0).spend("anybody", 0.0) == 0


def test_a_right_token_is_heard_however_many_wrong_ones_came() -> None:
    guesses = TokenGuessLimit()
    for _ in range(10):
        assert guesses.check("bad", "wrong", False, 0.0) == 0
    assert guesses.check("bad", "wrong", False, 0.0) == 6
    assert guesses.check("bad", "good", True, 0.0) == 0
    assert guesses.check("other", "wrong", False, 0.0) == 0
    assert guesses.check(None, "wrong", False, 0.0) == 0
    assert guesses.check("bad", "wrong", False, 6.5) == 0


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.7", "", "203.0.113.7"),
        ("203.0.113.7", "198.51.100.1", "203.0.113.7"),  # it may say what it likes
        ("::ffff:203.0.113.7", "", "203.0.113.7"),
        ("2001:db8::7", "", "2001:db8::/64"),
        ("127.0.0.1", "", None),
        ("::1", "", None),
        ("10.1.2.3", "", None),
        ("10.1.2.3", "10.9.9.9", "10.9.9.9"),
        ("10.1.2.3", "10.9.9.9, 10.1.2.4", "10.9.9.9"),
        ("10.1.2.3", "127.0.0.1", None),
        ("10.1.2.3", "198.51.100.1", "198.51.100.1"),
        ("10.1.2.3", "198.51.100.1:4711", "198.51.100.1"),
        ("10.1.2.3", "[2001:db8::7]:4711", "2001:db8::/64"),
        ("10.1.2.3", "1.1.1.1, 198.51.100.1, 10.1.2.4", "198.51.100.1"),
        ("10.1.2.3", "198.51.100.1, nonsense", None),
        ("", "", None),
    ],
)
def test_whom_a_proxy_asks_for(peer: str, forwarded: str, client: str | None) -> None:
    assert TrustedProxies((ipaddress.ip_network("10.0.0.0/8"),)).client(peer, forwarded) == client


async def test_one_address_does_not_take_the_place_of_all_listeners(start_api: StartApi) -> None:
    port = start_api(api_token="good", anonymous="read").base_url.port

    async def listen(headers: dict[str, str]) -> tuple[bytes, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        lines = [f"{key}: {value}" for key, value in ({"Host": "localhost"} | headers).items()]
        writer.write("\r\n".join(["GET /events HTTP/1.1", *lines, "", ""]).encode())
        return (await reader.readuntil(b"\r\n\r\n"))[9:12], writer

    listening = [await listen(STRANGER) for _ in range(MAX_PER_CLIENT)]
    assert {status for status, _ in listening} == {b"200"}
    good = STRANGER | {"Authorization": "Bearer good"}
    more = [await listen(it) for it in (STRANGER, OTHER, {}, good)]
    assert [status for status, _ in more] == [b"503", b"200", b"200", b"200"]
    listening[0][1].close()
    await asyncio.sleep(0.2)
    more.append(await listen(STRANGER))
    assert more[-1][0] == b"200"
    for _, writer in listening + more:
        writer.close()


# --- tokens that are tried out


async def test_wrong_tokens_for_heartbeats(start: Start) -> None:
    client = start(ingest_token="good")
    wrong = [
        client.post("/heartbeat/a", headers=STRANGER | {"Authorization": f"Bearer {n}"}) for n in range(6)
    ]
    wrong += [client.post(f"/heartbeat/a?token={n}", headers=STRANGER) for n in range(6)]
    assert [answer.status_code for answer in wrong] == [401] * 10 + [429] * 2
    assert int(wrong[-1].headers["Retry-After"]) <= 6
    good = {"Authorization": "Bearer good"}
    assert client.post("/heartbeat/a", headers=STRANGER | good).status_code == 200
    assert client.post("/heartbeat/a?token=good", headers=STRANGER).status_code == 200
    assert client.post("/heartbeat/a", headers=STRANGER).status_code == 401
    assert client.post("/heartbeat/a", headers=OTHER | good).status_code == 200


async def test_the_api_reads_no_body_of_who_may_not_write(start_api: StartApi) -> None:
    """The answer comes though the body does not, and an odd content type does not change what is JSON."""
    client = start_api(api_token="good")
    head = (
        f"POST /service HTTP/1.1\r\nHost: 127.0.0.1:{client.base_url.port}\r\nContent-Length: 60000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", client.base_url.port or 0), timeout=5) as stranger:
        stranger.sendall(head.encode() + b"{")
        assert b" 401 " in stranger.recv(1000)
    for number, kind in enumerate(("application/json", "text/plain", "application/x-www-form-urlencoded")):
        headers = {"Content-Type": kind, "Authorization": "Bearer good"}
        made = client.post("/service", content=f'{{"name": "a{number}"}}', headers=headers)
        assert made.status_code == 201
        refused = client.post("/service", content=b"{", headers=headers)
        assert refused.json()["detail"].startswith("body: Invalid JSON: ")
        unlike = client.post("/service", content=b'{"name": "b", "tags": "x"}', headers=headers)
        assert unlike.json()["detail"] == "tags: Input should be a valid array"
        assert client.post("/service", content=b"[]", headers=headers).json()["detail"] == (
            "body: Input should be an object"
        )


async def test_wrong_tokens_for_the_api(start_api: StartApi) -> None:
    client = start_api(api_token="good")
    wrong = [client.get("/services", headers=STRANGER | {"Authorization": f"Bearer {n}"}) for n in range(4)]
    wrong += [
        client.post("/service", json={"name": "a"}, headers=STRANGER, auth=("a", str(n))) for n in range(4)
    ]
    wrong += [client.post("/ui/login", data={"token": str(n)}, headers=STRANGER) for n in range(4)]
    assert [answer.status_code for answer in wrong] == [401] * 10 + [429] * 2
    good = STRANGER | {"Authorization": "Bearer good"}
    assert client.post("/ui/login", data={"token": "good"}, headers=STRANGER).status_code == 303
    assert client.get("/services", headers=good).status_code == 200
    assert client.get("/", headers=good | {"Accept": "text/html"}).status_code == 200
    assert client.get("/services", headers=OTHER | {"Authorization": "Bearer good"}).status_code == 200
    assert client.get("/ui/login", headers=STRANGER).status_code == 200


# --- bytes that no library would send to the broker


HEADERS = [b"abcd", b"NATS/1.0", b"NATS/1.0\r\n\xff: a\r\n\r\n", b"NATS/1.0 \xff\xff\r\n\r\n"]
SUBJECTS = [b"heartbeat", b"service.config", b"service.status"]
FRAMES = [
    *(b"PUB %b.\xff 0\r\n\r\n" % subject for subject in SUBJECTS),
    *(
        b"HPUB %b.x %d %d\r\n%b\r\n" % (subject, len(headers), len(headers), headers)
        for subject in SUBJECTS
        for headers in HEADERS
    ),
]


def test_bad_names_get_in_nowhere(tmp_path: Path) -> None:
    with Standin() as telegram:
        system = System(tmp_path, telegram)
        try:
            system.start()
            assert system.beat("good") == 200
            _until(lambda: system.status("good") == "alive")
            for name in BAD_NAMES:
                _try_over_http(system, name)
                _publish_name(system.parts["nats"].port, name)
                for command in ("/status", "/mute", "/unmute"):
                    telegram.update(telegram.chats[0], f"{command} {name}")
            telegram.update(telegram.chats[0], "/status good")
            _until(lambda: any("good" in it["text"] and "alive" in it["text"] for it in telegram.messages))
            assert telegram.refused == []
            assert system.beat("after") == 200
            _until(lambda: system.status("after") == "alive")
            assert [it["name"] for it in system.api("/services")["items"]] == ["after", "good"]
            assert system.api("/maintenance")["items"] == []
            assert all(part.running for part in system.parts.values())
        finally:
            system.stop()


def _try_over_http(system: System, name: str) -> None:
    ingest, api = system.url("ingest", ""), system.url("api", "")
    quoted = quote(name, safe="").replace(".", "%2E")
    refused = {404, 414, 422, 405}
    window = {"services": [name], "cron": "0 3 * * *", "duration": "1h"}
    answers = [
        system.http.get(f"{ingest}/heartbeat/{quoted}"),
        system.http.post(f"{ingest}/heartbeat/{quoted}/fail", content="text"),
        system.http.get(f"{api}/service/{quoted}"),
        system.http.put(f"{api}/service/{quoted}", json={}),
        system.http.patch(f"{api}/service/{quoted}", json={}),
        system.http.delete(f"{api}/service/{quoted}"),
        system.http.post(f"{api}/service/{quoted}/pause"),
        system.http.get(f"{api}/service/{quoted}/events"),
        system.http.get(f"{api}/service/{quoted}/heartbeats"),
        system.http.get(f"{api}/service/{quoted}/uptime"),
        system.http.get(f"{api}/badge/{quoted}.svg"),
        system.http.get(f"{api}/ui/service/{quoted}"),
        system.http.post(f"{api}/service", json={"name": name}),
        system.http.post(f"{api}/maintenance", json=window),
    ]
    for answer in answers:
        assert answer.status_code in refused, (answer.request.method, name, answer.status_code)
    batch = system.http.post(f"{ingest}/heartbeats", json={"services": [name, 7, None, {"a": name}]})
    assert batch.json()["accepted"] == 0


def _publish_name(port: int, name: str) -> None:
    """The broker itself refuses some of them, by hanging up; white space would end the name there."""
    if name.split() != [name]:
        return
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock, contextlib.suppress(OSError):
        sock.recv(4096)
        sock.sendall(b'CONNECT {"verbose":false}\r\n')
        sock.sendall(b"PUB heartbeat.%b 0\r\n\r\nPING\r\n" % name.encode())
        sock.recv(4096)


def test_nobody_is_deaf_after_bytes_that_no_library_sends(tmp_path: Path) -> None:
    with Standin() as telegram:
        system = System(tmp_path, telegram)
        try:
            system.start()
            for n, frame in enumerate(FRAMES):
                _publish(system.parts["nats"].port, frame)
                assert system.beat(f"n{n}", "/fail") == 200
            _until(lambda: {system.status(f"n{n}") for n in range(len(FRAMES))} == {"down"})
            _until(lambda: all(system.told(f"n{n}") for n in range(len(FRAMES))))
            for name in ("monitor", "api", "notifier"):
                system.parts[name].stop()
            system.start("monitor", "api", "notifier")  # they read all of it again
            assert system.beat("after", "/fail") == 200
            _until(lambda: system.status("after") == "down")
        finally:
            system.stop()


def _publish(port: int, frame: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        sock.recv(4096)
        sock.sendall(b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\n')
        sock.sendall(frame + b"PING\r\n")
        assert b"PONG" in sock.recv(4096), frame


def _until(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.1)


# --- pages of other sites


async def test_by_another_name_nobody_comes_in_without_a_token(start: Start, start_api: StartApi) -> None:
    ingest, api = start(), start_api(public_url="https://registry.example.com")
    for client, path in ((ingest, "/heartbeat/a"), (api, "/services"), (api, "/"), (api, "/metrics")):
        for host in (
            "evil.example",
            "EVIL.example.:8001",
            "127.0.0.1.evil.example",
            "localhost.evil",
            "[a.b",
            "0.0.0.0:8002",
            "[::]:8002",
            "0",
            "169.254.169.254",
            "192.168.0.1",
            "me",
            "host.docker.internal",
        ):
            assert client.get(path, headers={"Host": host}).status_code == 421, (path, host)
        for host in (
            "127.0.0.1",
            "localhost:1",
            "LOCALHOST",
            "[::1]:8001",
            "my.localhost",
            "localhost.",
            "127.1.2.3:9",
        ):
            assert client.get(path, headers={"Host": host}).status_code == 200, (path, host)
    assert api.get("/services", headers={"Host": "registry.example.com"}).status_code == 200
    for hosts in (("evil.example", "localhost"), ("localhost", "evil.example")):
        twice = "".join(f"Host: {host}\r\n" for host in hosts)
        for url in (ingest.base_url, api.base_url):
            with socket.create_connection((url.host, url.port), timeout=5) as connection:
                connection.sendall(f"GET /metrics HTTP/1.1\r\n{twice}\r\n".encode())
                assert connection.recv(65_536).startswith(b"HTTP/1.1 421 ")
    assert (
        ingest.post("/heartbeats", json={"services": ["a"]}, headers={"Host": "evil.example"}).status_code
        == 421
    )


async def test_what_is_not_said_in_http_1_is_refused(start: Start) -> None:
    port = start().base_url.port
    assert port
    for path in (b"/heartbeat/a", b"/heartbeat/a?every=5m", b"/ping/any/a?create=1"):
        for version, hosts, status in (
            (b" HTTP/1.1", 1, b"20"),
            (b" HTTP/1.0", 0, b"20"),
            (b" HTTP/1.1", 2, b"400"),
            (b" HTTP/2.0", 1, b"400"),
            (b" HTTP/0.9", 1, b"400"),
            (b"", 0, b"400"),
        ):
            lines = b"Host: localhost\r\n" * hosts + b"Connection: close\r\n"
            answer = await exchange(port, b"GET %b%b\r\n%b\r\n" % (path, version, lines))
            assert answer.startswith(b"HTTP/1.1 " + status), (path, version, hosts)


async def test_with_a_token_names_do_not_matter(start: Start, start_api: StartApi) -> None:
    evil = {"Host": "evil.example", "Authorization": "Bearer good", "Sec-Fetch-Site": "cross-site"}
    assert start(ingest_token="good").get("/heartbeat/a", headers=evil).status_code == 200
    assert start(anonymous="ingest").get("/heartbeat/a", headers=evil).status_code == 200
    assert start_api(api_token="good").get("/services", headers=evil).status_code == 200


EVIL = "https://evil.example"


async def test_no_page_of_another_site_writes(start_api: StartApi) -> None:
    api = start_api()
    window = '{"services": ["a"], "cron": "0 3 * * *", "duration": "1h"}'
    own = f"http://127.0.0.1:{api.base_url.port}"
    api.post("/service", json={"name": "a"})
    form_key = re.findall(r'name="form_key" value="(\w+)"', api.get("/ui/service/a").text)[0]
    for send in (
        lambda headers: api.post("/service/a/pause", headers=headers),
        lambda headers: api.post("/maintenance", content=window, headers=headers),
        lambda headers: api.post("/ui/service/a/resume", data={"form_key": form_key}, headers=headers),
        lambda headers: api.put("/service/a", json={}, headers=headers),
    ):
        for foreign in (
            {"Origin": EVIL},
            {"Origin": "null"},
            {"Origin": "http://127.0.0.1:3000"},
            {"Origin": own, "Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ):
            assert send(foreign).status_code == 403, foreign
        for ours in ({}, {"Origin": own}, {"Sec-Fetch-Site": "same-origin"}):
            assert send(ours).status_code < 400, ours
    assert api.get("/services", headers={"Origin": EVIL}).status_code == 403
    assert api.get("/services", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200, "a link"


async def test_no_page_of_another_site_sends_heartbeats(start: Start) -> None:
    client = start()
    for send in (
        lambda headers: client.post("/heartbeat/a", headers=headers),
        lambda headers: client.post("/heartbeat/a", content="text", headers=headers),
        lambda headers: client.post("/heartbeats", json={"services": ["a"]}, headers=headers),
    ):
        for foreign in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": EVIL}, {"Origin": "null"}):
            assert send(foreign).status_code == 403
        assert send({"Origin": "http://localhost:3000"}).status_code == 200
        for site in ("same-site", "same-origin", "none"):
            assert send({"Sec-Fetch-Site": site}).status_code == 200
