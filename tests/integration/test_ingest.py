"""Ingest as a process on a real broker: what it stores, what it refuses, what it says without a broker."""

import asyncio
import contextlib
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.messaging import streams
from tests.broker import connect, eventually
from tests.servers import Process, service

Start = Callable[..., httpx.Client]


@pytest.fixture
def start(tmp_path: Path, nats_url: str) -> Iterator[Start]:
    """Start an ingest that is ready, and give a client for it; further variables may be given."""
    started: list[Process] = []
    clients: list[httpx.Client] = []

    def start(*, wait: bool = True, **variables: str) -> httpx.Client:
        process = service("ingest", tmp_path, nats_url, **variables).start()
        started.append(process)
        clients.append(httpx.Client(base_url=f"http://127.0.0.1:{process.port}", timeout=20))
        while wait and clients[-1].get("/readyz").status_code != 200:
            pass
        return clients[-1]

    yield start
    for client in clients:
        client.close()
    for process in started:
        process.kill()


async def stored(url: str, header: str = "Registry-Signal") -> list[tuple[str, bytes, str]]:
    """Subject, payload and signal (or another header) of every heartbeat in the stream."""
    nc, js = await connect(url)
    last = (await js.stream_info(streams.HEARTBEATS)).state.last_seq
    messages = [await js.get_msg(streams.HEARTBEATS, seq) for seq in range(1, last + 1)]
    await nc.close()
    return [
        (m.subject or "", m.data or b"", (m.headers or {}).get(header, ""))
        for m in messages
        if (m.subject or "").startswith("heartbeat.")
    ]


@pytest.mark.parametrize("method", ["POST", "GET", "HEAD", "PUT"])
async def test_a_heartbeat_is_stored_before_the_answer(method: str, nats_url: str, start: Start) -> None:
    response = start().request(method, "/heartbeat/my-service")
    assert response.status_code == 200
    assert method == "HEAD" or response.json() == {"status": "ok"}
    assert await stored(nats_url) == [("heartbeat.my-service", b"", "")]


async def test_bodies_and_signals(nats_url: str, start: Start) -> None:
    client = start()
    sent = [
        client.post("/heartbeat/a", json={"message": "m", "every": "5m", "metadata": {"k": [1]}}),
        client.post("/heartbeat/a", content="plain text", headers={"Content-Type": "text/plain"}),
        client.post("/heartbeat/a", content='{"message": "curl -d"}'),
        client.post("/heartbeat/a", content="{not json, so text"),
        client.post("/heartbeat/a", content=b"\xff text"),
        client.get("/heartbeat/a?every=1h30m"),
        client.post("/heartbeat/a/fail", content="it broke"),
        client.get("/heartbeat/a/start"),
        client.get("/heartbeat/a/0"),
        client.get("/heartbeat/a/255"),
        client.post("/heartbeat/a", content="x" * 20_000),
        client.post("/heartbeat/a/log", content="still at it"),
        client.get("/heartbeat/a?status=down&msg=disk%20full&ping="),
        client.get("/heartbeat/a?status=up&msg=OK&ping="),
    ]
    assert {response.status_code for response in sent} == {200}
    got = [
        (json.loads(payload) if payload else None, signal) for _, payload, signal in await stored(nats_url)
    ]
    assert got == [
        ({"message": "m", "every": "5m", "metadata": {"k": [1]}}, ""),
        ({"message": "plain text"}, ""),
        ({"message": "curl -d"}, ""),
        ({"message": "{not json, so text"}, ""),
        ({"message": "\N{REPLACEMENT CHARACTER} text"}, ""),
        ({"every": "1h30m"}, ""),
        ({"message": "it broke"}, "fail"),
        (None, "start"),
        (None, ""),
        (None, "fail"),
        ({"message": "x" * 2_000 + "\n[… 10000 bytes left out …]\n" + "x" * 8_000}, ""),
        ({"message": "still at it"}, "log"),
        ({"message": "disk full"}, "fail"),
        ({"message": "OK"}, ""),
    ]
    assert all(response.json() == {"status": "ok"} for response in sent)


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_every_signal_keeps_its_message_and_its_exit_code(
    method: str, nats_url: str, start: Start
) -> None:
    client = start()
    for signal in ("", "/fail", "/start", "/0", "/00", "/-0/", "/3", "/255", "/-1", "/3221225786", "/KILL"):
        for body in ({"content": "disk full"}, {"json": {"message": "disk full"}}):
            assert client.request(method, f"/heartbeat/a{signal}", **body).status_code == 200
    signals = [signal for _, payload, signal in await stored(nats_url)]
    assert signals[::2] == signals[1::2] == ["", "fail", "start", "", "", "", *["fail"] * 5]
    codes = await stored(nats_url, "Registry-Exit-Code")
    assert [code for _, _, code in codes][::2] == [*[""] * 6, "3", "255", "-1", "3221225786", "KILL"]
    assert {payload for _, payload, _ in codes} == {b'{"message":"disk full"}'}


BAD = [
    ("POST", "/heartbeat/a%20b", None, 422),
    ("POST", "/heartbeat/a%2Fb", None, 422),
    ("POST", "/heartbeat/a%00b", None, 422),
    ("POST", "/heartbeat/a%0A", None, 422),
    ("POST", "/heartbeat/.a", None, 422),
    ("POST", "/heartbeat/a..b", None, 422),
    ("POST", "/heartbeat/a.*", None, 422),
    ("POST", "/heartbeat/%3E", None, 422),
    ("POST", "/heartbeat/%E2%98%83", None, 422),
    ("POST", "/heartbeat/%ff", None, 422),
    ("POST", "/heartbeat/", None, 422),
    ("POST", "/heartbeat/" + "x" * 129, None, 422),
    ("POST", "/heartbeat/a//", None, 422),
    ("POST", "/heartbeat/a/12345678901", None, 422),
    ("POST", "/heartbeat/a/1.0", None, 422),
    ("POST", "/heartbeat/a/kill", None, 422),
    ("POST", "/heartbeat/a/%C2%B2", None, 422),
    ("POST", "/heartbeat/a/stop", None, 422),
    ("POST", "/heartbeat/a/fail/now", None, 422),
    ("POST", "/heartbeat/a%2Ffail", None, 422),
    ("POST", "/heartbeat/a", b'{"message": "' + b"x" * 1_048_576 + b'"}', 413),
    ("DELETE", "/heartbeat/a", None, 405),
    ("PATCH", "/heartbeat/a/fail", None, 405),
    ("GET", "/heartbeats", None, 405),
    ("GET", "/nothing", None, 404),
    ("POST", "/heartbeats", b"{", 422),
    ("POST", "/heartbeats", b"[]", 422),
    ("POST", "/heartbeats", b'{"services": "a"}', 422),
    ("POST", "/heartbeats", b"[" * 60_000, 422),
    ("POST", "/heartbeats", json.dumps({"services": ["a"] * 10_001}).encode(), 422),
    ("POST", "/heartbeats", b"x" * 2_100_000, 413),
]


async def test_bad_input_is_refused_with_the_reason_and_never_stored(nats_url: str, start: Start) -> None:
    client = start()
    for method, path, content, status in BAD:
        headers = {"Content-Type": "application/json"} if content else {}
        response = client.request(method, path, content=content, headers=headers)
        assert response.status_code == status, (method, path, (content or b"")[:40], response.text)
        assert response.headers["content-type"] == "application/problem+json"
        problem = response.json()
        assert problem["status"] == status
        assert problem["title"]
        assert problem["detail"]
        if status == 405:
            assert response.headers["allow"] == ("POST" if path == "/heartbeats" else "GET, HEAD, POST, PUT")

    def endless() -> Iterator[bytes]:
        for _ in range(17):
            yield b"x" * 65_536

    assert client.post("/heartbeat/a", content=endless()).status_code == 413
    assert await stored(nats_url) == []


ODD = [
    (b"{", "body: it cannot be read as JSON, so all of it is the message"),
    (b"all good", "body: it cannot be read as JSON"),
    (b"[]", ""),
    (b'"text"', ""),
    (b'{"message": 1}', "message: 1 is not a text"),
    (b'{"message": {"err": "disk full"}}', 'message: {"err": "disk full"} is not a text'),
    (b'{"message": "\\ud800"}', ""),
    (b'{"every": "5 minutes"}', "every: '5 minutes' is not a duration such as 30s, 15m, 1h"),
    (b'{"every": 99999999999999999999}', "every: 99999999999999999999 is not a duration"),
    (b'{"every": 0}', "every: 0 is not a duration"),
    (b'{"every": 1e12}', "every: 1000000000000.0 is not a duration"),
    (b'{"every": true}', "every: true is not a duration"),
    (b'{"metadata": []}', "metadata: [] is not an object"),
    (b"[" * 60_000, "body: it is too deeply nested"),
    (json.dumps({"message": "x" * 10_001}).encode(), ""),
    (b"\xef\xbb\xbf" + json.dumps({"message": "m"}).encode(), ""),
    (json.dumps({"message": "m"}).encode("utf-16"), ""),
    (b"x" * 1_048_576, "body: it cannot be read as JSON"),
]


async def test_no_heartbeat_is_lost_for_what_it_says(nats_url: str, start: Start) -> None:
    client = start()
    for content, warning in ODD:
        kind = {"Content-Type": "application/json"}
        response = client.post("/heartbeat/a/1", content=content, headers=kind)
        assert response.status_code == 200, (content[:40], response.text)
        answer = response.json()
        assert answer["status"] == "ok"
        assert len(answer.get("warnings", [])) == bool(warning), (content[:40], answer)
        assert answer.get("warnings", [""])[0].startswith(warning)
    for query, warning in (
        ("every=", "every: '' is not a duration such as 30s, 15m, 1h"),
        ("every=soon", "every: 'soon' is not a duration such as 30s, 15m, 1h"),
        ("every=0s", "every: '0s' must be longer than zero and at most 3650d"),
        ("status=sideways", "status: 'sideways' is not up or down"),
        ("intervall=5m", "intervall: not used; an address takes every"),
        ("run=" + "x" * 65, "run: 'xxxx"),
    ):
        (found,) = client.get(f"/heartbeat/a/1?{query}").json()["warnings"]
        assert found.startswith(warning)
    assert "warnings" not in client.get("/heartbeat/a/1?schedule=0+3+*+*+*&run=7&_=1").json()
    kept = await stored(nats_url)
    assert len(kept) == len(ODD) + 7
    assert {signal for _, _, signal in kept} == {"fail"}
    assert max(len(payload) for _, payload, _ in kept) < 150_000
    for count, warned in ((199, True), (200, False)):  # of more parameters than that nobody reads the rest
        answer = client.post(f"/heartbeat/many?{'a=1&' * count}every=whenever")
        assert (answer.status_code, "warnings" in answer.json()) == (200, warned)


async def test_a_slash_or_a_blank_too_many_is_let_go_by(nats_url: str, start: Start) -> None:
    client = start()
    paths = [
        "/heartbeat/s/",
        "/heartbeat/s%20",
        "/heartbeat/s/fail/",
        "/heartbeat/s%20/fail",
        "//heartbeat/s",
    ]
    for path in paths:
        assert client.get(str(client.base_url).rstrip("/") + path).status_code == 200, path
    assert client.post("/heartbeats/", json={"services": ["s"]}).json() == {"accepted": 1, "rejected": []}
    assert [signal for _, _, signal in await stored(nats_url)] == ["", "", "fail", "fail", "", ""]
    assert {subject for subject, _, _ in await stored(nats_url)} == {"heartbeat.s"}
    for path, why in (
        ("/heartbeat/a//", "more than one slash"),
        ("/heartbeat/a%20b", "' ' is none of these"),
        ("/heartbeat/" + "x" * 129, "it has 129 characters"),
        ("/heartbeat/a..b", "a dot stands"),
        ("/heartbeat/", "it is missing"),
        ("/heartbeat/a/kill", "'kill' is none of them"),
        ("/heartbeat/a/1/2", "more parts than one"),
    ):
        assert why in client.post(path).json()["detail"]


def test_what_a_batch_does_not_use_is_told(start: Start) -> None:
    answer = start().post("/heartbeats", json={"services": ["a"], "every": "5m", "message": "m"}).json()
    assert (answer["accepted"], answer["rejected"]) == (1, [])
    assert [each.partition(":")[0] for each in answer["warnings"]] == ["every", "message"]


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"


@pytest.mark.parametrize("pieces", [1, 5, 1000])
async def test_an_upgrade_that_is_offered_is_declined_and_the_body_read(
    pieces: int, nats_url: str, start: Start
) -> None:
    """As Java's HttpClient and `curl --http2` do, on a connection that goes on."""
    head = b"Host: localhost\r\n" + UPGRADE
    sent = [
        b"POST /heartbeat/a HTTP/1.1\r\n%bContent-Length: 9\r\n\r\ndisk full" % head,
        b"PUT /heartbeat/b/3 HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" % head,
        b"GET /heartbeat/c HTTP/1.1\r\n%b\r\n" % head,
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"POST /heartbeat/d HTTP/1.1\r\nHost: localhost\r\nConnection: close, Upgrade\r\nUpgrade: h2c\r\n"
        b"Content-Length: 30000\r\n\r\n" + b"x" * 30_000,
    ]
    base = start().base_url
    reader, writer = await asyncio.open_connection(base.host, base.port)
    data = b"".join(sent)
    step = max(1, 1200 // pieces)
    for i in range(0, 1200, step):
        writer.write(data[i : min(i + step, 1200)])
        await writer.drain()
        await asyncio.sleep(0)
    writer.write(data[1200:])
    answers = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200"] * 3 + [b"404", b"200"]
    kept = [(subject, payload[:23], signal) for subject, payload, signal in await stored(nats_url)]
    assert kept == [
        ("heartbeat.a", b'{"message":"disk full"}', ""),
        ("heartbeat.b", b'{"message":"abc"}', "fail"),
        ("heartbeat.c", b"", ""),
        ("heartbeat.d", b'{"message":"xxxxxxxxxxx', ""),
    ]


HALVES = [
    (b"POST /heartbeat/a HTTP/1.1\r\nHost: localhost\r\n\r\n", [b"200"]),
    (b"POST /heartbeat/a HTTP/1.0\r\n\r\n", [b"200"]),
    (b"POST /heartbeat/a HTTP/1.1\r\nContent-Length: 2\r\n\r\nok", [b"200"]),
    (b"POST /heartbeat/a HTTP/1.1\r\n\r\nGET /heartbeat/b/fail HTTP/1.1\r\n\r\n", [b"200", b"200"]),
    (b"GET /nothing HTTP/1.1\r\n\r\n", [b"404"]),
    (b"POST /heartbeat/a HTTP/1.1\r\nContent-Length: 3\r\n\r\nok", []),
    (b"POST /heartbeat/a HTTP/1.1\r\n", []),
    (b"", []),
]


@pytest.mark.parametrize(("request_", "statuses"), HALVES)
def test_who_says_no_more_is_still_answered(start: Start, request_: bytes, statuses: list[bytes]) -> None:
    """As `printf … | nc -N` does it; half a request has no answer, and nobody waits for the rest."""
    base = start().base_url
    with socket.create_connection((base.host, base.port), timeout=5) as connection:
        connection.sendall(request_)
        connection.shutdown(socket.SHUT_WR)
        answers = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == statuses


NAME_PARTS = st.text("ab._- %/2F\xe9", max_size=6) | st.sampled_from(["a", "a/fail", "a/0", "a/KILL", "%61"])


def test_the_short_way_and_the_long_one_give_the_same_answers(start: Start) -> None:
    """A header that means nothing sends a request the long way."""
    base = start(ingest_token="right").base_url

    def answer(request: bytes) -> tuple[bytes, list[bytes], bytes]:
        got = b""
        with socket.create_connection((base.host, base.port), timeout=10) as connection:
            connection.sendall(request)
            while b"\r\n\r\n" not in got:
                got += connection.recv(65_536) or pytest.fail(f"no answer to {request!r}")
            head, _, rest = got.partition(b"\r\n\r\n")
            length = int(re.findall(rb"(?i)content-length: (\d+)", head)[0])
            while len(rest) < length and not request.startswith(b"HEAD"):
                rest += connection.recv(65_536) or pytest.fail(f"half an answer to {request!r}")
        first, *lines = head.split(b"\r\n")
        return first, sorted(line for line in lines if not line.startswith(b"date:")), rest

    @settings(max_examples=80, deadline=None, database=None)
    @given(
        st.sampled_from([b"GET", b"POST", b"PUT", b"HEAD", b"DELETE"]),
        st.sampled_from(["/heartbeat/", "/heartbeat/", "//heartbeat/", "/heartbeats/", "/heartbeat"]),
        NAME_PARTS,
        st.sampled_from(["", "", "?", "?every=5m", "?every=x", "?token=right"]),
        st.sampled_from([b"", b"Bearer right", b"Bearer  right ", b"bearer right", b"Basic right"]),
        st.sampled_from([b"", b"0", b"00"]),
    )
    @example(b"POST", "/heartbeat/", "a", "", b"Bearer right", b"")
    @example(b"GET", "/heartbeat/", "x" * 128, "", b"Bearer right", b"0")
    def same(method: bytes, prefix: str, name: str, query: str, token: bytes, length: bytes) -> None:
        path = (prefix + name + query).replace(" ", "%20").encode("latin-1")
        lines = [b"%b %b HTTP/1.1" % (method, path), b"Host: %b:%d" % (base.host.encode(), base.port or 0)]
        lines += [b"Authorization: " + token] if token else []
        lines += [b"Content-Length: " + length] if length else []
        short, long = (b"\r\n".join([*lines, *more, b"", b""]) for more in ((), (b"Upgrade: nothing",)))
        assert answer(short) == answer(long)

    same()


async def test_many_in_one_request(nats_url: str, start: Start) -> None:
    client = start()
    names = [f"s{i}" for i in range(9_997)]
    response = client.post("/heartbeats", json={"services": [*names, "a b", 7, ""]})
    assert response.status_code == 200
    answer = response.json()
    assert answer["accepted"] == 9_997
    assert [entry["service"] for entry in answer["rejected"]] == ["a b", "7", ""]
    whys = [entry["reason"].rpartition("; ")[2] for entry in answer["rejected"]]
    assert whys == ["' ' is none of these", "7 is no string", "it is missing"]
    odd = client.post("/heartbeats", content=b'{"services": ["\\ud800"]}')
    assert (odd.status_code, odd.json()["accepted"]) == (200, 0)
    nc, js = await connect(nats_url)
    info = await js.stream_info(streams.HEARTBEATS, subjects_filter="heartbeat.>")
    assert len(info.state.subjects or {}) == 9_997
    await nc.close()


async def test_the_token_is_needed_when_it_is_set(nats_url: str, start: Start) -> None:
    client = start(ingest_token="secret")
    for path in ("/heartbeat/a", "/heartbeat/a/fail", "/heartbeats", "/heartbeat/a%20b"):
        assert client.post(path).status_code == 401
        assert client.post(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert client.post(path + "?token=wrong").status_code == 401
    assert client.post("/heartbeat/a", headers={"Authorization": "Bearer secret"}).status_code == 200
    assert client.post("/heartbeat/a?token=secret").status_code == 200
    assert client.get("/healthz").status_code == 200
    assert len(await stored(nats_url)) == 2
    assert start(ingest_token="secret", anonymous="ingest").post("/heartbeat/a").status_code == 200


async def test_the_limit_of_services_stops_new_ones_alone(start: Start) -> None:
    client = start(max_services="2")
    answers = [client.post(f"/heartbeat/{name}") for name in ("a", "b", "c", "a")]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 200]
    assert int(answers[2].headers["retry-after"]) > 0
    batch = client.post("/heartbeats", json={"services": ["a", "d"]}).json()
    assert batch["accepted"] == 1
    assert batch["rejected"][0]["service"] == "d"


async def test_without_a_broker_it_says_503_and_never_a_false_200(
    nats: Process, nats_url: str, start: Start
) -> None:
    client = start(max_services="2")
    assert client.post("/heartbeat/a").status_code == 200
    nats.kill()
    for path in ("/heartbeat/a", "/heartbeat/a/fail"):
        response = client.post(path)
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0
    assert client.post("/heartbeats", json={"services": ["a", "b"]}).status_code == 503
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200
    for name in "bcdefg":
        assert client.post(f"/heartbeat/{name}").status_code == 503
    nats.start()

    async def ready() -> bool:
        return client.get("/readyz").status_code == 200

    await eventually(ready)
    assert client.post("/heartbeat/a").status_code == 200
    assert client.post("/heartbeat/h").status_code == 200, "those that were not stored do not count"
    assert len(await stored(nats_url)) == 3


async def test_what_was_answered_with_200_is_stored_when_the_broker_is_killed(
    nats: Process, nats_url: str, start: Start
) -> None:
    """Heartbeats as fast as they go while the broker dies three times: none that was acknowledged is lost."""
    client = start(heartbeats_kept="10000")
    acknowledged: list[str] = []
    base = str(client.base_url)

    async def beat(worker: int) -> None:
        async with httpx.AsyncClient(base_url=base, timeout=10) as session:
            count = 0
            while not done.is_set():
                count += 1
                name = f"w{worker}-{count}"
                if (await session.post(f"/heartbeat/{name}")).status_code == 200:
                    acknowledged.append(f"heartbeat.{name}")

    done = asyncio.Event()
    workers = [asyncio.create_task(beat(i)) for i in range(8)]
    for _ in range(3):
        await asyncio.sleep(1)
        await asyncio.to_thread(nats.kill)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(nats.start)
        await asyncio.sleep(1)
    done.set()
    await asyncio.gather(*workers)
    nc, js = await connect(nats_url)
    info = await js.stream_info(streams.HEARTBEATS, subjects_filter="heartbeat.>")
    assert len(acknowledged) > 100
    assert set(acknowledged) <= set(info.state.subjects or {})
    await nc.close()


async def test_ticks_prove_since_when_it_is_open_and_begin_anew_after_an_outage(
    nats: Process, nats_url: str, start: Start
) -> None:
    start(tick="0.2s")
    await asyncio.sleep(1)
    nats.kill()
    await asyncio.sleep(1)
    nats.start()
    nc, js = await connect(nats_url)

    async def both() -> list[list[dict[str, str]]] | None:
        info = await js.stream_info(streams.HEARTBEATS, subjects_filter="tick.>")
        found = []
        for subject in sorted(info.state.subjects or {}):
            message = await js.get_last_msg(streams.HEARTBEATS, subject)
            found.append([json.loads(message.data or b"{}"), message.time])
        complete = len(found) == 2 and all(tick["open_since"] for tick, _ in found)
        return sorted(found, key=lambda entry: entry[1]) if complete else None

    (before, before_at), (after, _) = await eventually(both)
    assert before["open_since"] < before_at.isoformat() < after["open_since"]
    await nc.close()


def test_an_open_address_needs_a_token_or_a_word(tmp_path: Path, nats_url: str) -> None:
    process = service("ingest", tmp_path, nats_url, host="0.0.0.0")
    process.start(wait=0)
    assert process.process
    assert process.process.wait(10) == 2
    assert "REGISTRY_INGEST_TOKEN" in process.log.read_text()
    for allowed in ({"ingest_token": "x"}, {"anonymous": "ingest"}):
        process = service("ingest", tmp_path, nats_url, host="0.0.0.0", **allowed).start()
        assert process.stop() == 0


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("tick", "soon"),
        ("ingest_port", "http"),
        ("timezone", "Mars/Base"),
        ("silent_after", "2h"),
    ],
)
def test_a_wrong_value_stops_the_start_and_names_the_variable(
    variable: str, value: str, tmp_path: Path
) -> None:
    process = service("ingest", tmp_path, "nats://127.0.0.1:1", **{variable: value})
    process.start(wait=0)
    assert process.process
    assert process.process.wait(10) == 2
    output = process.log.read_text()
    assert f"REGISTRY_{variable.upper()}" in output
    assert value in output or variable == "silent_after"
    assert "Traceback" not in output


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:4222", "nats://user:secret@127.0.0.1:port"])
def test_a_wrong_broker_address_is_refused_without_its_password(url: str, tmp_path: Path) -> None:
    process = service("ingest", tmp_path, url)
    process.start(wait=0)
    assert process.process
    assert process.process.wait(10) == 2
    output = process.log.read_text()
    assert "REGISTRY_NATS_URL" in output
    assert "secret" not in output


async def exchange(client: httpx.Client, sent: bytes, seconds: float = 3) -> bytes:
    """What comes back on a connection of its own, until the server closes it or nothing more comes."""
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    writer.write(sent)
    received = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while part := await reader.read(65536):
                received += part
                if received.count(b"HTTP/1.") >= sent.count(b"HTTP/1.") and received.endswith(b"}"):
                    seconds = 0.3
                    break
    writer.close()
    return received


def request(method: str, path: str, *headers: str, version: str = "1.1", body: str = "") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: localhost", *headers, "", body]
    return "\r\n".join(lines).encode()


async def test_pipelined_requests_are_answered_in_order_plain_or_not(nats_url: str, start: Start) -> None:
    client = start()
    parts = [
        request("POST", "/heartbeat/a"),
        request("POST", "/heartbeat/b", "Content-Length: 2", body="hi"),
        request("POST", "/heartbeat/c", "Content-Length: 0"),
        request("GET", "/heartbeat/a..b"),
        request("PUT", "/heartbeat/d"),
        request("GET", "/healthz"),
        request("POST", "/heartbeat/e", "Transfer-Encoding: chunked", body="2\r\nok\r\n0\r\n\r\n"),
        request("GET", "/heartbeat/f?every=5m"),
        request("GET", "/heartbeat/g"),
    ]
    received = await exchange(client, b"".join(parts))
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200"] * 3 + [b"422"] + [b"200"] * 5
    found = [(subject, payload) for subject, payload, _ in await stored(nats_url)]
    assert [subject[10:] for subject, _ in found] == ["a", "b", "c", "d", "e", "f", "g"]
    assert [payload for _, payload in found if payload] == [
        b'{"message":"hi"}',
        b'{"message":"ok"}',
        b'{"every":"5m"}',
    ]


async def test_the_connection_is_kept_or_closed_as_the_client_asks(start: Start) -> None:
    client = start()
    kept = await exchange(client, request("GET", "/heartbeat/a") * 3, seconds=1)
    assert kept.count(b"200 OK") == 3
    assert kept.count(b"content-length: 15") == kept.count(b"date: ") == 3
    for ends in (
        request("GET", "/heartbeat/a", "Connection: close"),
        request("GET", "/heartbeat/a", version="1.0"),
    ):
        began = time.monotonic()
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(ends)
        received = await reader.read()  # to the end
        assert time.monotonic() - began < 4
        assert b"200 OK" in received
        assert b"connection: close" in received
        writer.close()


async def test_a_client_that_does_not_read_costs_nobody_else(start: Start) -> None:
    client = start()
    _, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    with contextlib.suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(8):
            while True:
                writer.write(request("GET", "/heartbeat/a") * 1000)
                await writer.drain()
    writer.transport.abort()
    assert client.post("/heartbeat/b").status_code == 200
    assert sum(client.get("/readyz").status_code == 200 for _ in range(20)) == 20
