"""Other systems' protocols against made-up requests: never a server error, and nothing is lost for what it
says. `FUZZ=5000` tries so many of each kind; `make fuzz` does.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import brotli
import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.ingest.admission import _message
from services.ingest.content import finished, mended_name
from services.ingest.protocols import PROTOCOLS, gatus, healthchecks, sentry, uptime_kuma
from services.ingest.protocols.protocol import Asked, Beat, Protocol
from shared.contracts.events import Signal, valid_name
from shared.contracts.heartbeats import parse_heartbeat
from shared.http.problems import Problem
from shared.messaging import reader
from tests.fuzz.test_parsers import BODIES, JSON, dumped, fuzzed
from tests.servers import nats_server, service

KEYS = {"key": "its-service", "alias": "its-service"}


def anybody(_: str) -> bool:
    return True


WORDS = st.sampled_from(
    [
        "key",
        "alias",
        "token",
        "start",
        "fail",
        "log",
        "0",
        "255",
        "256",
        "external",
        "cron",
        "envelope",
        "7",
        "",
    ]
)
PARTS = st.lists(WORDS | st.text(max_size=8), min_size=1, max_size=5).map(tuple)
QUERY = st.dictionaries(
    st.sampled_from(["rid", "create", "status", "msg", "ping", "success", "error", "duration", "check_in_id"])
    | st.sampled_from(["environment", "sentry_key"]),
    st.sampled_from(
        ["", "up", "down", "true", "false", "ok", "error", "in_progress", "1", "10s", "1e999", "-0"]
    )
    | st.text(max_size=12),
)
CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "schedule": JSON
        | st.fixed_dictionaries(
            {"type": st.sampled_from(["crontab", "interval"]) | JSON, "value": JSON},
            optional={"unit": st.sampled_from(["minute", "hours", "year"]) | JSON},
        ),
        "schedule_type": JSON,
        "timezone": JSON | st.just("Europe/Berlin"),
        "checkin_margin": JSON,
        "max_runtime": JSON,
        "failure_issue_threshold": JSON,
        "recovery_threshold": JSON,
    },
)
CHECK_INS = st.fixed_dictionaries(
    {},
    optional={
        "monitor_slug": JSON | st.just("nightly"),
        "status": JSON | st.sampled_from(["ok", "error", "in_progress"]),
        "check_in_id": JSON,
        "duration": JSON,
        "environment": JSON,
        "monitor_config": CONFIGS | JSON,
    },
)
LINES = st.one_of(
    st.binary(max_size=30),
    JSON.map(dumped),
    CHECK_INS.map(dumped),
    st.fixed_dictionaries(
        {"type": JSON | st.sampled_from(["check_in", "event", "attachment"])}, optional={"length": JSON}
    ).map(dumped),
)
ENVELOPES = st.lists(LINES, max_size=6).map(lambda lines: b"\n".join([b"{}", *lines]))
ANY_BODY = BODIES | CHECK_INS.map(dumped) | ENVELOPES
ENCODINGS = st.sampled_from(["", "gzip", "deflate", "br", "GZIP", "identity", "gzip, gzip"])


def heard(beat: Beat) -> Signal:
    """The signal of a heartbeat as the monitor reads it; what it says is kept."""
    name = mended_name(beat.name, beat.warnings)
    content = finished(beat.body, beat.headers, beat.duration, beat.warnings)
    message = _message(name, content.headers, content.payload)
    found = parse_heartbeat(name, message.payload, reader.read_headers(b"NATS/1.0\r\n" + message.headers))
    assert found.duration == (None if beat.duration is None else round(beat.duration, 6))
    assert (found.body.message if found.body else None) == beat.body.message
    assert (found.body.limits if found.body else None) == (
        None if found.signal is Signal.LOG else beat.body.limits
    )
    assert len(found.warnings) == len(content.warnings)
    return found.signal


def translated(protocol: Protocol, asked: Asked, body: bytes) -> list[Beat]:
    """Raises Problem for what this protocol refuses."""
    try:
        address = protocol.read_address(asked)
        said = protocol.read(asked, address, body)
    except Problem as problem:
        assert problem.status in (400, 404, 413, 415)
        assert protocol.refuse(problem).status_code == problem.status
        raise
    assert protocol.answer(said, True).status_code in (200, 201, 202)
    return said.beats


@fuzzed
@given(st.sampled_from(PROTOCOLS), PARTS, QUERY, ENCODINGS, ANY_BODY)
def test_whatever_is_asked_is_a_heartbeat_or_refused(
    protocol: Protocol, parts: tuple[str, ...], query: dict[str, str], encoding: str, body: bytes
) -> None:
    headers = {"content-encoding": encoding, "content-type": "application/json"}
    try:
        beats = translated(protocol, Asked(parts, query, headers, KEYS.get, anybody), body)
    except Problem:
        return
    for beat in beats:
        heard(beat)


@fuzzed
@given(QUERY, ANY_BODY, st.text(max_size=20), ENCODINGS | st.just("zstd"))
@example({"ping": "1e999"}, b"\x00" * 100_000, "", "")
@example({}, b"\x1f\x8b is not gzip", "", "")
@example({}, zlib.compress(b" " * 9_000_000), "", "deflate")
def test_no_heartbeat_is_lost_for_what_it_says(
    query: dict[str, str], body: bytes, kind: str, encoding: str
) -> None:
    query = {key: value for key, value in query.items() if key not in ("rid", "sentry_key")}

    def signal(protocol: Protocol, *parts: str, **more: str) -> Signal:
        headers = {"content-type": kind, "content-encoding": encoding}
        (beat,) = translated(protocol, Asked(parts, query | more, headers, KEYS.get, anybody), body)
        if protocol is not sentry.PROTOCOL and body.strip():
            assert beat.body.message or not body.decode(errors="replace").strip("\ufeff").strip()
        return heard(beat)

    assert signal(healthchecks.PROTOCOL, "key", "fail") is Signal.FAIL
    assert signal(healthchecks.PROTOCOL, "token", "name") is Signal.SUCCESS
    assert signal(uptime_kuma.PROTOCOL, "key", status="down") is Signal.FAIL
    assert signal(gatus.PROTOCOL, "a_b", "external", success="false") is Signal.FAIL
    signal(sentry.PROTOCOL, "1", "cron", "name", "token")


@fuzzed
@given(st.lists(LINES, max_size=4), CHECK_INS, st.sampled_from(["gzip", "deflate", "br", ""]))
def test_a_check_in_is_found_before_whatever_else_an_envelope_holds(
    lines: list[bytes], check_in: dict[str, Any], encoding: str
) -> None:
    payload = json.dumps(check_in | {"monitor_slug": "nightly", "status": "error"}).encode()
    item = json.dumps({"type": "check_in", "length": len(payload)}).encode()
    raw = b"\n".join([b"{}", item, payload, *lines])
    raw = {"gzip": gzip.compress, "deflate": zlib.compress, "br": brotli.compress, "": bytes}[encoding](raw)
    first, *_ = translated(
        sentry.PROTOCOL, Asked(("1", "envelope"), {}, {"content-encoding": encoding}, KEYS.get, anybody), raw
    )
    assert (first.name, heard(first)) == ("nightly", Signal.FAIL)


@fuzzed
@given(st.text(max_size=140))
def test_every_name_can_be_mended(given_: str) -> None:
    warnings: list[str] = []
    name = mended_name(given_, warnings)
    assert valid_name(name)
    assert (name == given_) == (not warnings) == valid_name(given_)


@fuzzed
@given(
    st.text(max_size=20)
    | st.from_regex(r"[-+]?([0-9]{1,9}\.?[0-9]{0,3}(ns|us|ms|s|m|h)){0,4}", fullmatch=True)
)
def test_durations_of_go(text: str) -> None:
    try:
        assert 0 <= gatus.seconds_of(text) <= 1e8
    except ValueError as error:
        assert len(str(error)) < 200


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder: Path = tmp_path_factory.mktemp("fuzz")
    broker = nats_server(folder).start()
    ingest = service("ingest", folder, f"nats://127.0.0.1:{broker.port}").start()
    with httpx.Client(base_url=f"http://127.0.0.1:{ingest.port}", timeout=20) as client:
        while client.get("/readyz").status_code != 200:
            pass
        yield client
        assert client.get("/readyz").status_code == 200
    for server in (ingest, broker):
        server.kill()
    assert "Traceback" not in ingest.log.read_text()
    assert "request failed" not in ingest.log.read_text()


@fuzzed
@given(
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]),
    st.sampled_from(["/ping", "/api/push", "/api/v1/endpoints", "/api/7", "/api", "//ping", "/ping/"]),
    PARTS,
    QUERY,
    ENCODINGS,
    ANY_BODY,
)
def test_no_request_is_answered_with_a_server_error(
    client: httpx.Client,
    method: str,
    begin: str,
    parts: tuple[str, ...],
    query: dict[str, str],
    encoding: str,
    body: bytes,
) -> None:
    path = "/".join((begin, *(quote(part, safe="", errors="replace") for part in parts)))
    headers = {"content-encoding": encoding} if encoding else {}
    text = {key: value.encode(errors="replace").decode() for key, value in query.items()}
    url = f"{str(client.base_url).rstrip('/')}{path}"
    answer = client.request(method, url, params=text, headers=headers, content=body)
    assert answer.status_code in (200, 201, 202, 400, 401, 404, 405, 413, 415, 429), (path, answer.text)


@fuzzed
@given(st.lists(CHECK_INS, min_size=1, max_size=3), st.text(st.characters(exclude_categories=()), max_size=5))
@example([{}], "\ud800")  # half a character, which JSON may hold
def test_no_check_in_is_answered_with_a_server_error(
    client: httpx.Client, check_ins: list[dict[str, Any]], slug: str
) -> None:
    header: dict[str, Any] = {"dsn": f"http://{slug}@h/1", "event_id": slug}
    lines = [header]
    for each in check_ins:
        lines += [{"type": "check_in"}, {"monitor_slug": slug} | each]
    answers = [
        client.post("/api/7/envelope/", content=b"\n".join(json.dumps(line).encode() for line in lines)),
        client.post("/api/7/cron/name/token/", content=json.dumps(check_ins[0])),
    ]
    assert all(each.status_code in (202, 400, 401) for each in answers), [each.text for each in answers]
