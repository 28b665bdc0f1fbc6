"""What is made of a heartbeat, however it is written."""

import codecs
import json
import time
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.ingest.content import read_content
from shared.contracts.events import HeartbeatBody, Signal
from shared.contracts.heartbeats import (
    METADATA_DEPTH,
    METADATA_MAX,
    cut_message,
    excerpt,
    parse_heartbeat,
    quoted,
    read_body,
    read_exit_code,
    shortened,
    write_body,
)

JSON = "application/json"
FIVE = timedelta(minutes=5)


@pytest.mark.parametrize(
    "raw",
    [
        b"plain text",
        b" with blanks around\n",
        b"[]",
        b'["a", {"message": "no field of ours"}]',
        b'"ok"',
        b"42",
        b"true",
        b"null",
        b"{}",
        b'{"level": "error", "text": "disk full"}',
        b"{not json",
        b"message=disk+full&every=5m",
        b"2026-11-01 ERROR {\n",
        b"every: 5m",
    ],
)
def test_what_is_not_of_our_form_is_the_message_as_it_stands(raw: bytes) -> None:
    for kind in ("", "text/plain", "application/x-www-form-urlencoded", "no/such; charset=none"):
        assert read_body(raw, kind) == (HeartbeatBody(message=raw.decode()), [])
    body, warnings = read_body(raw, JSON)
    assert body == HeartbeatBody(message=raw.decode())
    is_json = raw[:1] in b'["4tn' or raw in (b"{}", b'{"level": "error", "text": "disk full"}')
    assert bool(warnings) == (not is_json), "only what is called JSON and is none"


@pytest.mark.parametrize("raw", [b"", b" ", b"\r\n\t ", codecs.BOM_UTF8])
def test_nothing_is_nothing(raw: bytes) -> None:
    assert read_body(raw) == (None, [])


GOOD = {"message": "m", "every": "5m", "metadata": {"k": [1, None, 1.5, "é"]}}


@pytest.mark.parametrize("kind", ["", JSON, "text/plain", "application/problem+json; charset=utf-8"])
def test_an_object_of_ours_is_read_whatever_it_is_called(kind: str) -> None:
    good = HeartbeatBody(message="m", every=FIVE, metadata=GOOD["metadata"])  # type: ignore[arg-type]
    text = json.dumps(GOOD, ensure_ascii=False)
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        assert read_body(text.encode(encoding), kind) == (good, []), encoding
    assert read_body(b"\n  " + text.encode(), kind) == (good, [])
    assert read_body(json.dumps(GOOD).encode("latin-1"), JSON + "; charset=ISO-8859-1") == (good, [])
    later = {"schedule": "0 3 * * *", "time_zone": "Europe/Berlin", "run": "a" * 64}
    assert read_body(json.dumps(GOOD | later).encode(), kind) == (good.model_copy(update=later), [])
    assert read_body(json.dumps(later).encode(), kind) == (HeartbeatBody(**later), [])
    nothing = {"message": None, "every": None, "metadata": None, "run": None}
    assert read_body(json.dumps(nothing).encode(), kind) == (HeartbeatBody(), [])


def test_odd_parameters_are_told_by_the_first_few_and_cost_little() -> None:
    query = {f"mesage{n}": "x" for n in range(1000)} | {"messsage": "late"}
    assert len(read_content("", b"", "", {"every": "5m", "token": "t", "empty": ""} | query).warnings) == 5
    with patch("services.ingest.content.get_close_matches", return_value=[]) as looked:
        read_content("", b"", "", query)
    assert looked.call_count == 5


BAD = [
    ("every", "whenever", "every: 'whenever' is not a duration such as 30s, 15m, 1h"),
    ("every", "", "every: '' is not a duration such as 30s, 15m, 1h"),
    ("every", 300, "every: 300 is not a duration such as 30s, 15m, 1h"),
    ("every", True, "every: true is not a duration such as 30s, 15m, 1h"),
    ("every", ["5m"], 'every: ["5m"] is not a duration such as 30s, 15m, 1h'),
    ("every", "0s", "every: '0s' must be longer than zero and at most 3650d"),
    ("every", "3651d", "every: '3651d' must be longer than zero and at most 3650d"),
    ("every", "-5m", "every: '-5m' is not a duration such as 30s, 15m, 1h"),
    ("metadata", ["a"], 'metadata: ["a"] is not an object such as {"host": "a1"}'),
    ("metadata", "é", """metadata: 'é' is not an object such as {"host": "a1"}"""),
    ("run", "x" * 65, f"run: '{'x' * 40}…' is not a text of at most 64 characters"),
    ("schedule", 7, "schedule: 7 is not a text of at most 2000 characters"),
]


@pytest.mark.parametrize(("field", "value", "warning"), BAD)
def test_a_bad_field_is_told_and_the_others_count(field: str, value: object, warning: str) -> None:
    body, warnings = read_body(json.dumps({"message": "m", field: value}).encode())
    assert (body, warnings) == (HeartbeatBody(message="m"), [warning])


def test_a_message_that_is_no_text_is_its_json() -> None:
    for value in (42, 1.5, True, ["a"], {"err": "disk full"}):
        body, (warning,) = read_body(json.dumps({"message": value, "every": "5m"}).encode())
        assert body == HeartbeatBody(message=json.dumps(value), every=FIVE)
        assert warning.startswith(f"message: {json.dumps(value)} is not a text")


def test_what_is_large_is_told_in_few_words() -> None:
    huge = {
        "message": "m",
        "every": "x" * 100_000,
        "metadata": [0] * 100_000,
        **{"z" * n: n for n in range(99)},
    }
    body, warnings = read_body(json.dumps(huge).encode())
    assert body == HeartbeatBody(message="m")
    assert len(warnings) == 3
    assert all(len(each) < 300 for each in warnings)


def test_metadata_is_bounded() -> None:
    deep: dict[str, object] = {}
    for _ in range(METADATA_DEPTH - 1):
        deep = {"k": deep}
    assert read_body(json.dumps({"metadata": deep}).encode()) == (HeartbeatBody(metadata=deep), [])
    for bad, why in (
        ({"k": deep}, "nested"),
        ({"k": "x" * METADATA_MAX}, "larger"),
        ({"k": "é" * (METADATA_MAX // 2)}, "larger"),
        ({"k": [1e15] * 12_000}, "larger"),
    ):
        body, (warning,) = read_body(json.dumps({"message": "m", "metadata": bad}).encode())
        assert body == HeartbeatBody(message="m")
        assert warning.startswith(f"metadata: {why}")
    body, (warning,) = read_body(b'{"message": "m", "metadata": {"n": 1e400}}')
    assert (body, warning.split(":")[0]) == (HeartbeatBody(message="m"), "metadata")
    body, _ = read_body(b'{"metadata": {"n": NaN, "\\ud800": "\\u0000 stays"}}')
    assert body == HeartbeatBody(metadata={"n": "NaN", "\ufffd": "\x00 stays"})


def test_what_is_too_deep_to_be_read_is_the_message() -> None:
    for raw in (b"[" * 60_000, b'{"message": "m", "metadata": ' + b'{"a":' * 60_000):
        body, warnings = read_body(raw, JSON)
        assert body == HeartbeatBody(message=shortened(raw.decode()))
        assert len(warnings) == 1


def test_bytes_are_read_as_they_say() -> None:
    assert read_body("déjà vu".encode("latin-1"), "text/plain; charset=ISO-8859-1")[0] == HeartbeatBody(
        message="déjà vu"
    )
    assert read_body("€".encode("cp1252"), 'text/plain; charset="windows-1252"')[0] == HeartbeatBody(
        message="€"
    )
    for encoding in ("utf-16", "utf-16-le", "utf-8", "shift_jis", "utf-8-sig"):
        assert read_body("日本".encode(encoding), f"text/plain;charset={encoding}")[0] == HeartbeatBody(
            message="日本"
        ), encoding
    assert read_body("日本".encode("utf-16"))[0] == HeartbeatBody(message="日本"), "its mark says it"
    for kind in (
        "",
        "text/plain; charset=utf-8",
        "x; charset=punycode",
        "x; charset=hex",
        "x; charset=cp9999",
    ):
        assert read_body(b"d\xe9j\xe0\x00vu", kind)[0] == HeartbeatBody(message="d\ufffdj\ufffd\ufffdvu"), (
            kind
        )
    assert read_body(b'{"message": "\\ud800 \\u0000 x"}')[0] == HeartbeatBody(message="\ufffd \ufffd x")


def test_of_a_long_message_beginning_and_end_are_kept() -> None:
    assert shortened("x" * 10_000) == "x" * 10_000
    assert (
        shortened("a" * 2_000 + "-" + "b" * 8_000) == f"{'a' * 2_000}\n[… 1 bytes left out …]\n{'b' * 8_000}"
    )
    log = "start\n" + "-" * 12_000 + "\nERROR: the reason\n"
    kept = shortened(log)
    assert kept.startswith(log[:2_000])
    assert kept.endswith(log[-8_000:])
    assert f"{len(log) - 10_000} bytes" in kept
    body, warnings = read_body(json.dumps({"message": log}).encode())
    assert (body, warnings) == (HeartbeatBody(message=kept), [])
    assert read_body(log.encode())[0] == HeartbeatBody(message=kept)


@given(st.text("aé日😀", min_size=1, max_size=40).map(lambda text: (text * 11_000)[:11_000]))
def test_no_character_is_ever_split(text: str) -> None:
    kept = shortened(text)
    raw = text.encode()
    head, middle, tail = kept.split("\n")
    assert text.startswith(head)
    assert text.endswith(tail)
    assert 2_000 - 3 <= len(head.encode()) <= 2_000
    assert 8_000 - 3 <= len(tail.encode()) <= 8_000
    assert middle == f"[… {len(raw) - len(head.encode()) - len(tail.encode())} bytes left out …]"


@given(st.text("aé日😀\n", min_size=1, max_size=40), st.integers(1_000, 30_000))
def test_an_excerpt_of_what_was_cut_says_how_much_is_left_out_of_the_whole(text: str, times: int) -> None:
    whole = (text * times)[:30_000]
    assert excerpt(cut_message(whole)) == excerpt(whole)
    assert shortened(excerpt(whole), 100, 200) == shortened(whole, 100, 200)


BODIES = (
    st.binary(max_size=200)
    | st.text(max_size=60).map(str.encode)
    | st.fixed_dictionaries(
        {},
        optional={
            "message": st.text()
            | st.integers()
            | st.sampled_from(["y" * 10_001, "é" * 9_000, "\x00" * 20_000]),
            "every": st.sampled_from(["5m", "x", 7, "9" * 99]),
            "metadata": st.dictionaries(st.text(max_size=4), st.text(max_size=4)) | st.text(),
            "warnings": st.lists(st.text(max_size=9)),
        },
    ).map(lambda fields: json.dumps(fields).encode())
)


@given(BODIES, st.sampled_from(["", JSON, "text/plain; charset=latin-1"]))
@example(json.dumps({"message": "\x01" * 20_000, "metadata": {"k": "\x01" * 10_000}}).encode(), "")
@example(b"\x01" * 1_000_000, "")
def test_what_is_stored_is_read_again_as_it_was(raw: bytes, kind: str) -> None:
    body, warnings = read_body(raw, kind)
    stored = write_body(body, warnings)
    assert len(stored) <= 150_000
    again = parse_heartbeat("a", stored, {"Registry-Source": "http"})
    assert (again.body or HeartbeatBody()) == (body or HeartbeatBody())
    assert list(again.warnings) == warnings
    assert write_body(again.body, list(again.warnings)) == stored


def test_what_older_versions_stored_is_whole() -> None:
    body = {"message": "日" * 10_000, "every": "5m", "metadata": {"k": "x" * 20_000}}
    beat = parse_heartbeat("a", json.dumps(body).encode(), {"Registry-Source": "http"})
    assert beat.body == HeartbeatBody(message="日" * 10_000, every=FIVE, metadata={"k": "x" * 20_000})
    assert beat.warnings == ()


def test_only_ingest_is_believed_what_it_warned_of() -> None:
    raw = b'{"message": "m", "warnings": ["made up"]}'
    assert parse_heartbeat("a", raw, {"Registry-Source": "http"}).warnings == ("made up",)
    (warning,) = parse_heartbeat("a", raw, None).warnings
    assert warning.startswith("warnings: not used")


@pytest.mark.parametrize(
    ("headers", "signal", "code", "told"),
    [
        ({}, "success", None, 0),
        ({"Registry-Signal": "fail"}, "fail", None, 0),
        ({"registry-signal": "fail", "REGISTRY-EXIT-CODE": "3"}, "fail", 3, 0),
        ({"Registry-Signal": " FAIL "}, "fail", None, 0),
        ({"Registry-Signal": "log"}, "log", None, 0),
        ({"Registry-Signal": "start"}, "start", None, 0),
        ({"Registry-Signal": ""}, "success", None, 0),
        ({"Registry-Signal": "explode"}, "success", None, 1),
        ({"Registry-Signal": "fail", "Registry-Exit-Code": "KILL"}, "fail", "KILL", 0),
        ({"Registry-Signal": "fail", "Registry-Exit-Code": "-1"}, "fail", -1, 0),
        ({"Registry-Signal": "fail", "Registry-Exit-Code": "٣"}, "fail", None, 1),
        ({"Registry-Signal": "fail", "Registry-Exit-Code": "9" * 5_000}, "fail", None, 1),
        ({"Registry-Exit-Code": "3"}, "success", 3, 1),
        ({"Registry-Exit-Code": "0"}, "success", 0, 0),
    ],
)
def test_headers_over_nats(headers: dict[str, str], signal: str, code: int | str | None, told: int) -> None:
    beat = parse_heartbeat("a", b"disk full", headers)
    assert (beat.signal, beat.exit_code, len(beat.warnings)) == (signal, code, told)
    assert beat.body == HeartbeatBody(message="disk full")
    assert all(len(each) < 200 for each in beat.warnings)


def test_a_log_declares_nothing() -> None:
    beat = parse_heartbeat("a", b'{"message": "m", "every": "5m"}', {"Registry-Signal": "log"})
    assert (beat.signal, beat.body) == (Signal.LOG, HeartbeatBody(message="m"))
    assert beat.warnings == ("every: a log declares nothing",)


@pytest.mark.parametrize(
    ("word", "code"),
    [
        *(("0", 0), ("-0", 0), ("+0", 0), ("000", 0), ("0000000000", 0), ("00", 0)),
        *(
            ("1", 1),
            ("+3", 3),
            ("-1", -1),
            ("256", 256),
            ("3221225786", 3221225786),
            ("-9999999999", -9999999999),
        ),
        *(
            ("KILL", "KILL"),
            ("SIGTERM", "SIGTERM"),
            ("FAIL", "FAIL"),
            ("USR1", "USR1"),
            ("RTMIN+3", "RTMIN+3"),
        ),
        *(("A", "A"), ("EXIT_FAILURE", "EXIT_FAILURE")),
    ],
)
def test_exit_codes(word: str, code: int | str) -> None:
    assert read_exit_code(word) == code


NO_CODES = ["-", "+", "12345678901", "1.0", "1e3", "0x1", "1_0", "²", "٣", "--1"]
NO_WORDS = ["kill", "Kill", "False", "9KILL", "_KILL", "ÄH", "fail", "KILL ", "KILL\n", "K" * 33, ""]


@pytest.mark.parametrize("word", [*NO_CODES, *NO_WORDS])
def test_what_is_no_exit_code_is_told_the_rule(word: str) -> None:
    with pytest.raises(ValueError, match="an integer of up to 10 digits, or an upper-case word such as KILL"):
        read_exit_code(word)


def test_a_large_body_of_the_worst_kind_is_read_at_once() -> None:
    size = 1024 * 1024
    for raw in (
        b"{" * size,
        b'{"a":' * (size // 5),
        b"\xff" * size,
        b'{"message":"' + b"\\ud800" * (size // 6),
    ):
        began = time.perf_counter()
        read_body(raw, "application/json; charset=punycode")
        assert time.perf_counter() - began < 1.0


def test_what_is_quoted_is_read_no_further_than_it_is_shown() -> None:
    assert quoted([0] * 100 + [object()]) == "[" + "0, " * 13 + "…"
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    assert quoted(deep) == "[" * 40 + "…"
    assert [quoted(it) for it in (7, None, {"a": [True]}, "x")] == ["7", "null", '{"a": [true]}', "'x'"]
