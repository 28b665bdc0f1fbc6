"""What requests in other systems' protocols say, and to whom they lead."""

import gzip
import json
import time
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import brotli
import pytest
from pydantic import SecretStr
from starlette.types import Receive, Scope, Send

from services.ingest.auth import IngestAuth
from services.ingest.content import mended_name
from services.ingest.middleware import Availability
from services.ingest.protocols import PROTOCOLS, gatus, healthchecks, sentry, uptime_kuma
from services.ingest.protocols.protocol import Address, Asked, Protocol, Translation
from shared.contracts.events import SIGNAL_HEADER, valid_name
from shared.http.problems import Problem
from shared.http.rate_limits import RateLimit

UUID = "5d3a8e0c-7a64-4c0a-9f7e-2b1d7c3e9a10"
KEYS = {UUID: "backup", "alias": "backup", "other-alias": "other"}


def anybody(_: str) -> bool:
    return True


def asked(*parts: str, headers: Mapping[str, str] | None = None, **query: str) -> Asked:
    return Asked(parts, query, headers or {}, KEYS.get, anybody)


def read(protocol: Protocol, request: Asked, body: bytes = b"") -> Translation:
    return protocol.read(request, protocol.read_address(request), body)


@pytest.mark.parametrize(
    ("parts", "address"),
    [
        ((UUID,), Address(UUID, "backup")),
        ((UUID, "start"), Address(UUID, "backup", rest="start")),
        (("alias", "other"), Address("alias", "backup", rest="other")),
        (("x" + UUID[1:],), Address("x" + UUID[1:], needs_key=True)),
        (("0" + UUID[1:], "name"), Address("0" + UUID[1:], needs_key=True)),
        (("token",), Address("token", needs_key=True)),
        (("token", "alias"), Address("token", name="alias", must_exist=True)),
        (("token", "name", "7"), Address("token", name="name", must_exist=True, rest="7")),
    ],
)
def test_a_ping_leads_by_key_or_by_name(parts: tuple[str, ...], address: Address) -> None:
    assert healthchecks.read_address(asked(*parts)) == address


def test_only_create_1_registers() -> None:
    for given, must_exist in (("1", False), ("0", True), ("true", True), ("", True), ("11", True)):
        assert healthchecks.read_address(asked("t", "n", create=given)).must_exist is must_exist


@pytest.mark.parametrize("parts", [("t", "n", "0", "1"), ("t", ""), (UUID, "start", "0")])
def test_where_no_ping_leads(parts: tuple[str, ...]) -> None:
    with pytest.raises(Problem, match="not found"):
        healthchecks.read_address(asked(*parts))


def test_a_push_needs_a_key() -> None:
    assert uptime_kuma.read_address(asked("alias")) == Address("alias", "backup", needs_key=True)
    assert uptime_kuma.read_address(asked("nobody")) == Address("nobody", needs_key=True)


@pytest.mark.parametrize(
    ("secret", "name", "service"),
    [("alias", "backup", "backup"), ("alias", UUID, "backup"), ("alias", "other", ""), ("t", "backup", "")],
)
def test_gatus_takes_a_key_for_its_own_service_only(secret: str, name: str, service: str) -> None:
    request = asked(name, "external", headers={"authorization": f"Bearer {secret}"}, success="true")
    assert gatus.read_address(request) == Address(secret, service, name=name)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("10s", 10),
        ("1m30s", 90),
        ("250ms", 0.25),
        ("1h2m3s4ms5us6ns", 3723.004005006),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("5.s", 5),
        ("0", 0),
        ("+2s", 2),
        ("7µs", 7e-6),
        ("7μs", 7e-6),
        ("100ms100ms", 0.2),
    ],
)
def test_durations_as_go_writes_them(written: str, seconds: float) -> None:
    assert gatus.seconds_of(written) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "written", ["10", "s", "10 s", "1d", "-1s", "1e3s", "1m ", "", "٣s", "1s-1s", "9" * 20 + "h", "."]
)
def test_what_is_no_duration_of_go(written: str) -> None:
    with pytest.raises(ValueError, match="is not a"):
        gatus.seconds_of(written)


def test_what_is_no_duration_is_refused_at_once() -> None:
    begun = time.process_time()
    for part in ("1" * 20 + "s", "1" * 20 + "." + "1" * 20 + "ms", ".1m"):
        with pytest.raises(ValueError, match="is not a"):
            gatus.seconds_of(part * 5 + "x")
    assert time.process_time() - begun < 0.5


@pytest.mark.parametrize(
    ("code", "signal"), [("0" * 8000, {}), ("0" * 8000 + "7", {"Registry-Signal": "fail"}), ("000", {})]
)
def test_an_exit_code_may_be_written_with_zeros_before_it(code: str, signal: dict[str, str]) -> None:
    (beat,) = read(healthchecks.PROTOCOL, asked(UUID, code)).beats
    assert {key: beat.headers[key] for key in signal} == signal
    assert bool(beat.headers) == bool(signal)
    with pytest.raises(Problem, match="invalid url format"):
        read(healthchecks.PROTOCOL, asked(UUID, "0" * 8000 + "256"))


def test_sentrys_token_stands_in_the_address_a_header_the_query_or_the_envelope() -> None:
    header = {"x-sentry-auth": "Sentry sentry_version=7, sentry_key=abc, sentry_client=x/1"}
    assert sentry.read_address(asked("1", "cron", "n", "abc")) == Address("abc", name="n")
    assert sentry.read_address(asked("1", "cron", "n", headers=header)) == Address("abc", name="n")
    assert sentry.read_address(asked("1", "cron", "n", sentry_key="abc")) == Address("abc", name="n")
    assert sentry.read_address(asked("1", "envelope", headers=header)) == Address("abc", rest="envelope")
    request = asked("1", "envelope")
    assert sentry.read_address(request) == Address(None, rest="envelope")
    said = read(sentry.PROTOCOL, request, b'{"dsn": "https://abc:old@o1.ingest.example/7"}\n')
    assert (said.secret, said.beats) == ("abc", [])


BOMB = bytes(100_000_000)


@pytest.mark.parametrize(("encoding", "pack"), [("br", brotli.compress), ("gzip", gzip.compress)])
def test_what_unpacks_to_too_much_costs_no_more_than_the_limit(
    encoding: str, pack: Callable[..., bytes]
) -> None:
    content = pack(BOMB, 1) if encoding == "gzip" else pack(BOMB, quality=1)
    request = asked("1", "envelope", headers={"content-encoding": encoding})
    tracemalloc.start()
    try:
        with pytest.raises(Problem, match="unpacked, it is larger"):
            read(sentry.PROTOCOL, request, content)
        assert tracemalloc.get_traced_memory()[1] < 3 * sentry.UNPACKED_MAX
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "content",
    [
        b"{}" + b"\n" * 1_000_000 + b"{}",
        b"{}\n" + b'{"length":0}\n' * 80_000,
        b"{}\n" * 350_000,
        b"{}\n[" + b"[]," * 340_000,
    ],
)
def test_an_envelope_of_nothing_but_lines_is_read_at_once(content: bytes) -> None:
    began = time.process_time()
    with pytest.raises(Problem, match=r"10000 lines|cannot be read"):
        read(sentry.PROTOCOL, asked("1", "envelope"), content)
    assert time.process_time() - began < 2


def test_an_envelope_is_not_read_before_its_token_is_known_to_be_good() -> None:
    item = b'{"type": "check_in"}\n{"monitor_slug": "n", "status": "ok"}\n'
    for secret, count in (("abc", 1), ("wrong", 0), ("", 0)):
        request = asked("1", "envelope")._replace(lets_in="abc".__eq__)
        dsn = f"https://{secret}@h/7" if secret else ""
        said = read(sentry.PROTOCOL, request, json.dumps({"dsn": dsn}).encode() + b"\n" + item)
        assert (said.secret, len(said.beats)) == (secret, count)
    for tokens, good in (((SecretStr("abc"),), ["abc"]), ((), ["abc", "wrong", ""])):
        auth = IngestAuth(tokens, RateLimit(0), RateLimit(0))
        assert [each for each in ("abc", "wrong", "") if auth.lets_in(each)] == good


def check_in(**fields: Any) -> Any:
    body = json.dumps(fields).encode()
    (beat,) = read(sentry.PROTOCOL, asked("1", "cron", "n", "t", status="ok"), body).beats
    return beat


@pytest.mark.parametrize(
    ("schedule", "declared"),
    [
        ({"type": "interval", "value": 90, "unit": "minute"}, "1h30m"),
        ({"type": "interval", "value": 3, "unit": "hours"}, "3h"),
        ({"type": "interval", "value": 2, "unit": "week"}, "14d"),
        ({"type": "interval", "value": 1, "unit": "year"}, "365d"),
        ({"type": "interval", "value": "5", "unit": "minute"}, "5m"),
        ([10, "minute"], "10m"),
    ],
)
def test_an_interval_of_sentrys(schedule: Any, declared: str) -> None:
    beat = check_in(monitor_config={"schedule": schedule})
    assert beat.body.model_dump(mode="json")["every"] == declared
    assert not beat.warnings


@pytest.mark.parametrize("value", [-1, 0, 1.5, True, "x", None, [], {}, 10**400, 1e300])
@pytest.mark.parametrize("kind", ["interval", "crontab", "x", None, 7])
def test_a_schedule_that_cannot_be_used_is_a_warning(value: Any, kind: Any) -> None:
    beat = check_in(
        monitor_config={"schedule": {"type": kind, "value": value, "unit": "hour"}}, status="error"
    )
    assert (beat.body.every, beat.body.schedule) == (None, None)
    assert bool(beat.warnings) == (value is not None)
    assert beat.headers == {"Registry-Signal": "fail"}


@pytest.mark.parametrize("field", ["checkin_margin", "max_runtime", "failure_issue_threshold"])
@pytest.mark.parametrize("value", [-1, True, "x", [], {}, 10**400, 1e300, float("inf"), 10**7])
def test_limits_that_cannot_be_used_are_warnings(field: str, value: Any) -> None:
    beat = check_in(monitor_config={field: value, "recovery_threshold": 2})
    assert beat.body.limits.model_dump(exclude_none=True) == {"recover_after": 2}
    (warning,) = beat.warnings
    assert warning.startswith(f"{field}: ")


@pytest.mark.parametrize("value", [-1, True, "x", [], {}, 10**400, 1e300, float("nan")])
def test_a_duration_that_cannot_be_used_is_a_warning(value: Any) -> None:
    beat = check_in(duration=value)
    assert beat.duration is None
    assert beat.warnings[0].startswith("duration: ")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("a b/c", "a-b-c"),
        ("Größe", "Gr--e"),
        (".a..b.", "-a.-b-"),
        ("...", "---"),
        ("", "-"),
        ("\0", "-"),
        ("x" * 128 + ".y", "x" * 128),
        ("x" * 127 + ".y", "x" * 127 + "-"),
    ],
)
def test_a_name_that_breaks_the_rule_is_mended(given: str, name: str) -> None:
    warnings: list[str] = []
    assert mended_name(given, warnings) == name
    assert valid_name(name)
    assert warnings[0].startswith("name: ")
    assert mended_name(name, warnings) == name
    assert len(warnings) == 1


def test_a_name_of_a_megabyte_keeps_nobody_waiting() -> None:
    begun = time.process_time()
    assert mended_name("é" * 4_000_000, []) == "-" * 128
    assert time.process_time() - begun < 0.1


def test_a_key_is_needed_where_one_is_meant_whatever_tokens_there_are() -> None:
    for tokens in ((), (SecretStr("token"),)):
        auth = IngestAuth(tokens, RateLimit(0), RateLimit(0), clock=lambda: 0.0)
        for _ in range(10):
            with pytest.raises(Problem) as wrong:
                auth.enter("guess", good=False, client="203.0.113.1", needed=True)
            assert wrong.value.status == 401
        with pytest.raises(Problem) as too_many:
            auth.enter("guess", good=False, client="203.0.113.1", needed=True)
        assert too_many.value.status == 429
        assert int(too_many.value.headers["Retry-After"]) > 0
        auth.enter("key", good=True, client="203.0.113.1", needed=True)


@pytest.mark.parametrize("path", ["/ping/a", "//ping/a/", "/api/push/a", "/api/1/envelope/", "/heartbeat/a"])
async def test_a_heartbeat_that_could_not_be_stored_is_remembered_in_every_protocol(path: str) -> None:
    availability = Availability(lambda: 0.0)

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        assert not scope["path"].startswith("//")
        await send({"type": "http.response.start", "status": 503, "headers": []})

    async def nothing(*_: Any) -> Any: ...

    await availability.watched(app)({"type": "http", "path": path}, nothing, nothing)
    assert availability.obstacle()


def test_each_address_is_of_one_protocol() -> None:
    for path, name in (
        ("/ping/a", "Healthchecks"),
        ("/api/push/a", "Uptime Kuma"),
        ("/api/v1/endpoints/a_b/external", "Gatus"),
        ("/api/42/cron/a/b", "Sentry"),
        ("/api/v1/checks", ""),
        ("/pings", ""),
        ("/api/pushed/a", ""),
    ):
        assert [it.name for it in PROTOCOLS if it.addresses.match(path)] == ([name] if name else [])


@pytest.mark.parametrize(
    ("status", "body", "fails"),
    [
        ("errored", b"", True),
        ("errored", b'{"environment": "x"}', True),
        ("", b'{"status": "err', True),
        ("", b'\xef\xbb\xbf {"status": "err', True),
        ("", "größer".encode("latin-1"), True),
        ("", b'{"status": ' + b"[" * 100_000, True),
        ("", gzip.compress(b'{"status": "error"}', mtime=0)[:-9], True),
        ("", b'{"status": 7}', True),
        ("ok", b'{"status": "err', False),
        ("", b"", False),
        ("", "größer".encode(), False),
        ("", b"[1]", False),
        ("", b'{"environment": "x"}', False),
        ("", b'{"mine": "x"}', False),
    ],
)
def test_a_check_in_whose_failure_cannot_be_read_is_one(status: str, body: bytes, fails: bool) -> None:
    request = asked("1", "cron", "n", "abc", **({"status": status} if status else {}))
    (beat,) = read(sentry.PROTOCOL, request, body).beats
    assert (beat.headers == {SIGNAL_HEADER: "fail"}) == fails
    assert any("counts as a failure" in warning for warning in beat.warnings) == fails


def test_what_stands_behind_more_parameters_than_are_read_may_be_a_failure() -> None:
    cron = asked("1", "cron", "n", "abc", status="ok")
    for protocol, request in ((uptime_kuma.PROTOCOL, asked(UUID, status="up")), (sentry.PROTOCOL, cron)):
        for is_cut, headers in ((False, {}), (True, {SIGNAL_HEADER: "fail"})):
            (beat,) = read(protocol, request._replace(is_cut=is_cut)).beats
            assert (beat.headers, bool(beat.warnings)) == (headers, is_cut)


def test_all_members_of_an_envelope_are_read() -> None:
    item = b'{"type": "check_in"}\n{"monitor_slug": "n", "status": "ok"}\n'
    parts = [b"{}\n", *[item] * 3]
    (one, *_) = packed = [gzip.compress(part) for part in parts]
    said = read(sentry.PROTOCOL, asked("1", "envelope"), b"".join(packed) + b"\0" * 9)
    assert len(said.beats) == 3
    for content in (b"".join(packed)[:-9], one + gzip.compress(BOMB, 1), gzip.compress(b"") * 40_000):
        began = time.process_time()
        with pytest.raises(Problem, match=r"unpacked|members"):
            read(sentry.PROTOCOL, asked("1", "envelope"), content)
        assert time.process_time() - began < 2
