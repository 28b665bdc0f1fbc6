"""Every parser against made-up input: it reads it, or raises what it says it raises, and nothing else.

`FUZZ=5000` tries so many inputs of each kind; `make fuzz` does.
"""

import asyncio
import base64
import json
import os
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request

from services.api.http import auth, events
from services.api.http.models import RunItem
from services.api.http.requests import check_version, read_cursor, write_cursor
from services.api.projections.documents import add_heartbeat, project
from services.api.projections.runs import place, run_document
from services.api.queries.event_hub import EventHub
from services.api.settings import ApiSettings
from services.cli.settings import RunSettings
from services.ingest.admission import HeartbeatStore, _message
from services.ingest.auth import bearer
from services.ingest.content import bad_address, bad_name, read_content, read_signal, tidy
from services.ingest.http import _echo, _read_batch
from services.ingest.settings import IngestSettings
from services.monitor.domain.epochs import Epoch
from services.monitor.domain.service import EffectiveThresholds, MonitoredService
from services.monitor.settings import MonitorSettings
from services.monitor.store import mapping, snapshot_codec
from services.monitor.store.snapshot_codec import Bucket, Checkpoint, SnapshotPosition
from services.notifier.bot.actions import IncidentActions
from services.notifier.bot.commands import BotCommands
from services.notifier.bot.updates import Update, Updates
from services.notifier.channels.channel import Limited, Migrated, Sent
from services.notifier.channels.telegram import outcome
from services.notifier.dispatch.dependencies import ReceiverDependencies
from services.notifier.settings import NotifierSettings
from services.notifier.states import ServiceStates
from services.notifier.texts.message import LinkContext
from shared.contracts import durations
from shared.contracts.events import (
    ConfigData,
    HeartbeatBody,
    ServiceConfig,
    ServiceRegistered,
    Status,
    Tick,
    parse_event,
    valid_name,
)
from shared.contracts.heartbeats import parse_heartbeat, write_body
from shared.contracts.maintenance import Window
from shared.contracts.wanted import NewService, Wanted
from shared.domain.coverage import Coverage
from shared.domain.routing import Choice
from shared.http.problems import Problem
from shared.http.rate_limits import TrustedProxies
from shared.http.tokens import matches
from shared.messaging import nats_internals, reader, streams
from shared.messaging.batch_publisher import BatchPublisher, MessageGroup
from shared.messaging.connection import BrokerConnection
from shared.messaging.reader import Reader, Stored
from shared.settings import Settings, load

EXAMPLES = int(os.environ.get("FUZZ", "100"))

fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from(
        ["", "0", "-1", "5m", "1e9", "\ud800", "\x00", "a.b", "*", ">", "2026-01-01T00:00:00Z", 10**400]
    )
)
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
GOLDEN_FOLDER = Path(__file__).parents[1] / "contract" / "golden"
GOLDEN = [path.read_bytes() for path in sorted(GOLDEN_FOLDER.glob("**/*.json"))]
NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,20}(\.[A-Za-z0-9_-]{1,20}){0,3}", fullmatch=True)
DURATIONS = st.integers(1, 3650 * 86400 * 1000).map(lambda n: timedelta(milliseconds=n))
TIMES = st.integers(0, 7_000_000_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


@st.composite
def changed(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """JSON of ours in which a few things have been put in place of others."""
    whole = json.loads(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 3))):
        at = whole
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(at[key], dict | list) and draw(st.booleans()):
                at = at[key]
                continue
            at[key] = draw(JSON)
            break
    return dumped(whole)


# --- names and durations


@fuzzed
@given(st.text(max_size=140) | NAMES | st.from_regex(r"[A-Za-z0-9_.\-*> \n]{0,140}", fullmatch=True))
@example("a\n")
@example("a" * 129)
def test_names(name: str) -> None:
    rule = r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*"
    assert valid_name(name) == (bool(re.fullmatch(rule, name)) and len(name) <= 128)
    if valid_name(name):
        for subject in (
            streams.heartbeat(name),
            streams.config(name),
            streams.status(name),
            streams.tick(name),
        ):
            assert streams.name_in(subject) == name
            assert subject.isascii()
            assert not re.search(r"[\s*>]", subject)
    assert len(_echo(name)) <= 200
    streams.printable(name).encode("ascii")


@fuzzed
@given(st.text(max_size=30) | st.from_regex(r"([0-9]{1,9}[dhms.]?){0,5}", fullmatch=True))
@example("0.001s")
@example("999999d")
@example("8760h0.001s")
def test_durations(text: str) -> None:
    try:
        value = durations.parse(text)
    except ValueError:
        return
    assert timedelta() < value <= timedelta(days=3650)
    assert durations.parse(durations.write(value)) == value
    assert durations.write(durations.parse(durations.write(value))) == durations.write(value)
    assert durations.spoken(value)


@fuzzed
@given(DURATIONS)
def test_durations_that_are_written_can_be_read(value: timedelta) -> None:
    assert durations.parse(durations.write(value)) == value


# --- heartbeats


BODIES = (
    st.binary(max_size=300)
    | JSON.map(dumped)
    | st.fixed_dictionaries({}, optional={"message": JSON, "every": JSON, "metadata": JSON}).map(dumped)
    | st.fixed_dictionaries(
        {},
        optional={
            "message": st.text(),
            "every": DURATIONS.map(durations.write),
            "metadata": st.dictionaries(st.text(), JSON),
        },
    ).map(dumped)
)


STORED_MAX = 150_000
"""Bytes that the broker is given at most of one heartbeat."""


@fuzzed
@given(
    NAMES,
    BODIES,
    st.sampled_from(["", "application/json", "text/plain; charset=latin-1", "a/b+json; charset=x", ";;"])
    | st.text(),
    st.dictionaries(
        st.sampled_from(["every", "message", "msg", "status", "run", "intervall", "x"]) | st.text(max_size=9),
        st.sampled_from(["down", "up", ""]) | st.text(max_size=12) | DURATIONS.map(durations.write),
    ),
    st.sampled_from(["", "fail", "start", "log", "0", "00", "-3", "255", "KILL"]),
)
@example("a", b'{"metadata": {"x": [' + b",".join([b"1e15"] * 12_000) + b"]}}", "", {}, "")
@example("a", b"\x00" * 60_000, "", {}, "")
@example("a", b"\x01" * 1_000_000, "", {str(n) + "every": "" for n in range(1000)}, "log")
def test_what_ingest_takes_is_read_as_it_said(
    name: str, raw: bytes, kind: str, query: dict[str, str], signal: str
) -> None:
    headers, payload, warnings = read_content(signal, raw, kind, query)
    message = _message(name, headers, payload)
    assert len(message.payload) <= STORED_MAX
    assert all(len(each) <= 300 for each in warnings)
    found = parse_heartbeat(name, message.payload, reader.read_headers(b"NATS/1.0\r\n" + message.headers))
    assert list(found.warnings) == warnings
    assert write_body(found.body or HeartbeatBody(), warnings) == payload, "written again it stays as it is"
    if "status" not in query:
        assert (found.signal == "fail") == (signal in ("fail", "-3", "255", "KILL"))
    assert found.exit_code == ({"-3": -3, "255": 255, "KILL": "KILL"}.get(signal))
    add_heartbeat(None, Stored(message.subject, message.payload, headers, 1, 1, 0))


@fuzzed
@given(st.text(max_size=20) | st.from_regex(r"[+-]?[0-9]{1,11}|[A-Z]{1,4}", fullmatch=True))
@example("²")
@example("1_0")
def test_signals(word: str) -> None:
    with suppress(Problem):
        found = read_signal(word)
        ends_well = bool(re.fullmatch(r"[+-]?0+|", word))
        assert ends_well == (found == {})
        assert word in ("", "fail", "start", "log") or word[0] in "+-" or word[0].isalnum()


@fuzzed
@given(st.text(max_size=30) | st.text("/ a", max_size=12))
def test_addresses(path: str) -> None:
    tidied = tidy(path)
    assert tidied.startswith("/")
    assert not tidied.startswith("//")
    assert tidied.strip("/ ").split("/") == path.strip("/ ").split("/")
    for name in (path, tidied[1:]):
        assert (bad_name(name).status, bad_address(name).status) == (422, 422)
        dumped(bad_name(name).detail)


@fuzzed
@given(BODIES | st.lists(JSON, max_size=5).map(lambda names: dumped({"services": names})))
@example(b"[" * 100_000)
@example(b'{"services": ' + b"[" * 100_000)
def test_batches(raw: bytes) -> None:
    try:
        names, refused, warnings = _read_batch(raw)
        assert all(map(valid_name, names))
        dumped(refused)
        assert all(len(each) < 200 for each in warnings)
    except Problem as problem:
        assert problem.status == 422


@fuzzed
@given(st.text(max_size=140), BODIES, st.dictionaries(st.text(), st.text(), max_size=3))
@example("a", b"", {"Registry-Exit-Code": "9" * 5000})
@example("a", b"", {"Registry-Exit-Code": "-1"})
@example("a", b"", {"Registry-Signal": "nonsense"})
def test_heartbeats_as_they_stand_in_the_stream(name: str, payload: bytes, headers: dict[str, str]) -> None:
    for code in (None, *headers.values()):
        for signal in (None, *headers.values()):
            given_ = {
                k: v for k, v in (("Registry-Exit-Code", code), ("Registry-Signal", signal)) if v is not None
            }
            if valid_name(name):
                found = parse_heartbeat(name, payload, headers | given_)
                assert all(len(each) < 400 for each in found.warnings)
    with suppress(ValueError):
        since = Tick.model_validate_json(payload).open_since
        assert since is None or since.tzinfo


@fuzzed
@given(st.binary(max_size=200))
@example(b"")
@example(b"abcd")
@example(b"NATS/1.0")
@example(b"NATS/1.0 \xff")
@example(b"NATS/1.0\r\n\xff: x\r\nx: \xff\r\n\r\n")
def test_headers_as_they_come_from_the_broker(raw: bytes) -> None:
    for headers in (raw, b"NATS/1.0\r\n" + raw):
        assert all(isinstance(part, str) for pair in reader.read_headers(headers).items() for part in pair)
        nats_internals.legible_headers(headers).decode()


REPLIES = st.binary(max_size=60) | st.lists(st.text(max_size=8), max_size=14).map(
    lambda f: ".".join(f).encode()
)


@fuzzed
@given(st.binary(max_size=40), REPLIES, st.binary(max_size=40), st.none() | st.binary(max_size=40))
@example(b"heartbeat.\xff", b"$JS.ACK.S.C.1.1.1.1.0", b"", None)
@example(b"heartbeat.a", b"$JS.ACK.S.C.1.x.1.1.0", b"", None)
@example(b"heartbeat.a", b"$JS.ACK._.account.S.C.1.1.1.1.0", b"", None)
@example(b"heartbeat.a", b"$JS.ACK.S.C.1.1.1.1.0.0", b"", None)
def test_what_a_reader_is_told(subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
    it = Reader(BrokerConnection(Settings(), "fuzz"), "S", "s.>")
    it._received(subject, reply, data, headers)
    try:
        place = reader.delivered(reply)
    except ValueError:
        place = None
        assert it._broken, "what is not from the broker makes a new consumer"
    if place is None:
        assert it._buffer == []
    elif place.consumer_sequence != 1:
        assert (it._buffer, it._broken) == ([], True)
    else:
        (stored,) = it._buffer
        assert (stored.seq, stored.data, stored.at) == (place.sequence, data, place.stored_at)


@fuzzed
@given(st.binary(max_size=40), st.binary(max_size=80) | st.just(b"[]") | st.just(b"7"))
def test_what_the_broker_answers(tail: bytes, data: bytes) -> None:
    groups = BatchPublisher(BrokerConnection(Settings(), "fuzz"))
    loop = asyncio.new_event_loop()
    groups._loop, groups._inbox, groups._batch_id, groups._sent = loop, "_INBOX.x", "id", 1
    groups._on_its_way = MessageGroup(0.0)
    groups._deadline = loop.call_later(60, lambda: None)
    ours = len(tail) % 2 == 1
    groups._answered(b"_INBOX.x." + (b"id1" if ours else tail), b"", data, None)
    ended = groups._on_its_way is None
    if not ours and tail.partition(b".")[0] != b"id1":
        assert not ended, "an answer to another group"
    elif not data or not data.lstrip().startswith(b"{"):
        assert ended, "what cannot be read ends the wait for it"
    loop.close()


@fuzzed
@given(
    st.text()
    | st.from_regex(
        r"20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\.[0-9]{1,12})?Z", fullmatch=True
    )
)
def test_times_of_the_broker(text: str) -> None:
    with suppress(ValueError):
        assert isinstance(reader.micros(text), int)


# --- events


@fuzzed
@given(
    changed(GOLDEN) | JSON.map(dumped) | st.binary(max_size=200),
    st.sampled_from(["service.config.", "service.status."]),
    st.text(max_size=20),
)
def test_events(payload: bytes, prefix: str, name: str) -> None:
    with suppress(ValueError):
        event = parse_event(payload)
        assert parse_event(event.to_bytes()) == event
        name = event.name
        ServiceStates().apply(event, 1, datetime.now(UTC))
    with suppress(ValueError):
        change = project(Stored(prefix + name, payload, None, 7, 1_700_000_000_000_000, 0))
        assert change.seq == 7
        json.dumps(change.row)


@fuzzed
@given(
    changed([(GOLDEN_FOLDER / "run-recorded.json").read_bytes()])
    | JSON.map(dumped)
    | st.binary(max_size=200),
    st.just("my-service") | st.text(max_size=20),
)
def test_facts_about_runs(payload: bytes, name: str) -> None:
    with suppress(ValueError):
        found = run_document(Stored(f"run.{name}", payload, None, 7, 1_700_000_000_000_000, 0))
        assert found["seq"] == 7
        bson.encode(found)
        RunItem.model_validate(found)
        assert place(0) < found["place"] < place(2**63)


CONFIGS = st.builds(
    ServiceConfig,
    description=st.text(max_size=50),
    tags=st.lists(st.text(min_size=1, max_size=64), max_size=4).map(tuple),
    notify=st.booleans(),
    paused=st.booleans(),
    silent_after=st.none() | DURATIONS,
    every=st.none() | DURATIONS,
)


@fuzzed
@given(NAMES, CONFIGS, st.none() | TIMES, TIMES)
def test_events_that_are_written_can_be_read(
    name: str, config: ServiceConfig, registered: datetime | None, time: datetime
) -> None:
    try:
        event = ServiceRegistered(
            id="1",
            source="/fuzz",
            subject=name,
            time=time,
            data=ConfigData(config=config, registered_at=registered),
        )
        payload = event.to_bytes()
    except (ValidationError, ValueError):
        return
    assert parse_event(payload) == event
    mapping.config_change(event, 1, 1)


# --- snapshots


def _bucket() -> bytes:
    services = [
        MonitoredService(f"s{n}", n, EffectiveThresholds(1, 2, 3), own=(None, 2, None), status=status)
        for n, status in enumerate(Status)
    ]
    return snapshot_codec.dump(Bucket(Checkpoint(3, 4), Coverage(9, [(1, 2)]), 4, 0, services))


BUCKET = _bucket()
POSITION = SnapshotPosition(["a", "b"], Checkpoint(1, 2), Coverage(9, [(1, 2)]), [0] * 256, [0] * 256).dump()


@fuzzed
@given(st.binary(max_size=100) | JSON.map(dumped) | changed([POSITION]))
def test_positions(payload: bytes) -> None:
    with suppress(ValueError):
        SnapshotPosition.load(payload)
    assert SnapshotPosition.load(POSITION).dump() == POSITION


@fuzzed
@given(st.integers(0, len(BUCKET) - 1), st.integers(0, 255), st.binary(max_size=60), JSON)
def test_buckets(at: int, byte: int, tail: bytes, odd: Any) -> None:
    import zlib

    damaged = bytearray(BUCKET)
    damaged[at] = byte
    head, _, columns = zlib.decompress(BUCKET).partition(b"\n")
    for payload in (
        bytes(damaged),
        BUCKET[:at],
        BUCKET + tail,
        tail,
        zlib.compress(head + b"\n" + columns[: at * 3]),
        zlib.compress(head + b"\n" + columns + tail),
        zlib.compress(dumped(odd) + b"\n" + columns),
        *(zlib.compress(dumped(json.loads(head) | {key: odd}) + b"\n" + columns) for key in json.loads(head)),
    ):
        with suppress(ValueError):
            snapshot_codec.load(payload, [Epoch(0, EffectiveThresholds(1, 2, 3))])
    bucket = snapshot_codec.load(BUCKET, [Epoch(0, EffectiveThresholds(1, 2, 3))])
    assert snapshot_codec.dump(bucket) == BUCKET


# --- what the API is asked


@fuzzed
@given(st.text(max_size=60) | JSON.map(lambda value: base64.urlsafe_b64encode(dumped(value)).decode()))
@example("é" * 10)
@example("W1tb" * 400)
def test_cursors(text: str) -> None:
    for kinds in ((int,), (str,), (int, str), (str, int, str), ()):
        try:
            found = read_cursor(text, *kinds)
        except Problem as problem:
            assert problem.status == 422
        else:
            assert [type(part) for part in found] == list(kinds)


@fuzzed
@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.text(max_size=60), max_size=4))
def test_cursors_that_are_written_can_be_read(where: list[int | str]) -> None:
    assert read_cursor(write_cursor(*where), *map(type, where)) == where


@fuzzed
@given(st.text(max_size=40) | st.integers().map(str), st.sampled_from(["", "-c0ffee"]))
@example("9" * 5000, "")
@example("²", "")
@example("5-decade", "-c0ffee")
def test_ids_of_events_to_go_on_from(text: str, edition: str) -> None:
    hub = EventHub()
    hub.edition = edition
    try:
        found = events.sequence(text, hub)
    except Problem as problem:
        assert problem.status == 422
    else:
        assert found is None if not text else found is not None and 0 <= found < 10**18


@fuzzed
@given(st.text(max_size=60), st.integers(0, 10**6))
def test_versions_that_are_asked_for(text: str, version: int) -> None:
    with suppress(Problem):
        check_version(text, version)
    for good in (f'"{version}"', f'W/"{version}"', f'"x", "{version}"', "*", f"{text},{version}"):
        check_version(good, version)
    with pytest.raises(Problem):
        check_version(f'"{version + 1}"', version)


@fuzzed
@given(st.binary(max_size=60) | st.sampled_from([b"Basic ", b"bearer ", b"Basic Og==", b"Basic /w=="]))
def test_authorization(raw: bytes) -> None:
    for header in (raw, b"Bearer " + raw, b"Basic " + raw):
        request = Request({"type": "http", "headers": [(b"authorization", header)]})
        assert isinstance(auth.given_token(request), str)
        assert isinstance(bearer(header.decode("latin-1")), str)
        matches(auth.given_token(request), *ApiSettings(api_token="secret").api_token)


@fuzzed
@given(st.text(max_size=60), st.lists(st.text(max_size=30) | st.ip_addresses().map(str), max_size=4))
def test_addresses_of_proxies(peer: str, forwarded: list[str]) -> None:
    proxies = TrustedProxies(())
    for address in (peer, "127.0.0.1"):
        found = proxies.client(address, ", ".join(forwarded))
        assert found is None or proxies.client(found.removesuffix("/64")) in (found, None)


@fuzzed
@given(JSON.map(dumped) | st.dictionaries(st.sampled_from([*NewService.model_fields]), JSON).map(dumped))
def test_services_that_are_wanted(raw: bytes) -> None:
    for kind in (Wanted, NewService):
        with suppress(ValidationError):
            wanted = kind.model_validate_json(raw)
            config = wanted.whole()
            assert wanted.merged_into(config) == config
            assert ServiceConfig.model_validate_json(config.model_dump_json()) == config


CRON = st.lists(
    st.from_regex(
        r"(\*|[0-9]{1,2}|[0-9]{1,2}-[0-9]{1,2}|mon|jan|L|[0-9]#[0-9])(/[0-9]{1,2})?(,[0-9]{1,2})?",
        fullmatch=True,
    ),
    min_size=4,
    max_size=6,
).map(" ".join)
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/St_Johns", "Australia/Lord_Howe"])


@fuzzed
@given(
    st.dictionaries(st.sampled_from([*Window.model_fields]), JSON)
    | st.fixed_dictionaries(
        {
            "services": st.just(["a"]),
            "cron": CRON | st.text(max_size=20),
            "time_zone": ZONES | st.text(max_size=10),
            "duration": DURATIONS.map(durations.write) | st.just("1h"),
        }
    )
    | st.fixed_dictionaries(
        {"tags": st.just(["a"]), "starts_at": TIMES.map(str) | SCALARS, "ends_at": TIMES.map(str) | SCALARS}
    ),
    TIMES,
)
@example({"services": ["a"], "cron": "0 0 30 2 *", "duration": "1h"}, datetime(2026, 1, 1, tzinfo=UTC))
@example(
    {"services": ["a"], "starts_at": "0001-01-01T00:00:00+14:00", "ends_at": "9999-12-31T23:59:59-12:00"},
    datetime(2026, 1, 1, tzinfo=UTC),
)
def test_maintenance(raw: dict[str, Any], at: datetime) -> None:
    with suppress(ValidationError):
        window = Window.model_validate_json(dumped(raw))
        assert Window.model_validate_json(window.model_dump_json()) == window
        for span in (window.current(at), window.upcoming(at)):
            assert span is None or span[0] < span[1]
        if span := window.current(at):
            assert span[0] <= at < span[1]
        if span := window.upcoming(at):
            assert span[0] > at


# --- Telegram


MESSAGE = {
    "update_id": 7,
    "message": {
        "message_id": 1,
        "chat": {"id": 42},
        "text": "/status",
        "message_thread_id": 3,
        "is_topic_message": True,
    },
}
PRESSED = {"update_id": 8, "callback_query": {"id": "x", "data": "page:1", "message": MESSAGE["message"]}}


@fuzzed
@given(changed([dumped(MESSAGE), dumped(PRESSED)]) | JSON.map(dumped))
@example(b'{"update_id": 1e999}')
async def test_updates(raw: bytes) -> None:
    handled = []

    async def handle(update: Update) -> None:
        handled.append(update)

    class NoBot: ...

    updates = Updates(NoBot(), handle)  # type: ignore[arg-type]
    async with asyncio.TaskGroup() as group:
        updates._enqueue(json.loads(raw), group)
    assert updates._waiting == {}


@fuzzed
@given(
    st.integers(100, 599),
    changed(
        [b'{"ok": true, "result": {"message_id": 3}, "parameters": {"retry_after": 3}, "description": "x"}']
    ),
)
@example(400, b'{"description": "half a character: \\ud83d"}')
@example(429, b'{"parameters": {"retry_after": 1e999}}')
@example(429, b'{"parameters": 7}')
def test_answers_of_telegram(status: int, raw: bytes) -> None:
    answer = json.loads(raw)
    found = outcome(status, answer if isinstance(answer, dict) else {})
    if isinstance(found, Sent):
        assert status == 200
        assert answer["ok"]
    elif isinstance(found, Limited):
        assert 0 < found.retry_after <= 24 * 3600
    elif isinstance(found, Migrated):
        assert found.chat
    else:
        assert found.reason.encode()
        assert len(found.reason) <= 200


class _Said:
    """Where a bot would speak."""

    username = "registry_bot"

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.pace = self

    async def turn(self, *_: Any) -> None: ...

    async def ask(self, method: str, body: dict[str, Any]) -> Any:
        self.texts.append(body.get("text", ""))
        return outcome(200, {"ok": True, "result": {}})

    async def send(self, body: dict[str, Any]) -> Any:
        self.texts.append(body["text"])
        return outcome(200, {"ok": True, "result": {"message_id": 1}}), ""


class _Receivers(list["_Chat"]):
    async def subscribe(self, address: str) -> bool:
        return True

    unsubscribe = subscribe

    def subscriber(self, chat: str) -> "_Chat":
        return self[0]

    async def migrate(self, old: str, new: str) -> None: ...


CHOICES = TypeAdapter(Choice)


class _Chat:
    """A chat that is known."""

    address = "42"

    class state:
        off = None
        choice = Choice()

    async def choose(self, choice: Choice) -> None:
        assert CHOICES.validate_json(CHOICES.dump_json(choice)) == choice

    @staticmethod
    def is_at(chat: str) -> bool:
        return True

    @staticmethod
    def try_now() -> None: ...

    @staticmethod
    def mutes() -> dict[str, datetime]:
        return {"a<b": datetime(2030, 1, 1, tzinfo=UTC)}

    @staticmethod
    async def mute(name: str, until: datetime) -> bool:
        return True

    @staticmethod
    async def unmute(name: str) -> None: ...

    @staticmethod
    async def switch_on() -> str | None:
        return "kicked"


class _Log:
    """Where what people do would be stored."""

    def __init__(self, fleet: ServiceStates) -> None:
        self._fleet = fleet

    async def append(self, kind: Any, name: str, decide: Any, *_: Any, **more: Any) -> None:
        decide(self._fleet.incidents.state(name))


def _fleet() -> ServiceStates:
    fleet = ServiceStates()
    for n, name in enumerate(("web", "billing.worker", "x" * 128)):
        time = datetime(2026, 1, 1, tzinfo=UTC)
        fleet.apply(
            ServiceRegistered(id="1", source="/", subject=name, time=time, data=ConfigData()), n + 1, time
        )
    return fleet


WORDS = (
    st.text(max_size=200)
    | NAMES
    | st.sampled_from(["web", "2h", "billing.worker", "*", ">", "<b>", "\u202e", "x" * 4000])
)
WRITTEN = st.tuples(
    st.sampled_from(
        [
            "/start",
            "/stop",
            "/status",
            "/services",
            "/mute",
            "/unmute",
            "/digest",
            "/ack",
            "/incidents",
            "/only",
            "/all",
            "/quiet",
            "/help",
            "/x",
            "/STATUS@registry_bot",
        ]
    ),
    st.lists(WORDS, max_size=4),
).map(lambda it: " ".join([it[0], *it[1]]))
DATA = st.text(max_size=60) | st.tuples(st.sampled_from(["page", "ack", "mute", "details", ""]), WORDS).map(
    ":".join
)


@fuzzed
@given(WRITTEN | st.text(max_size=300), DATA)
@example("/status " + "&" * 5000, "page:999999999999")
async def test_commands(text: str, data: str) -> None:
    async def digest(_: datetime, weekly: bool) -> list[str]:
        return ["Digest", "<nothing>"]

    async def never(_: str) -> datetime | None:
        return None

    async def found(_: Any) -> None: ...

    said = _Said()
    at = datetime(2026, 2, 1, tzinfo=UTC)
    links = LinkContext("https://registry.example.com", Settings().zone)
    receivers = _Receivers([_Chat()])
    deps = ReceiverDependencies(links, digest, lambda: at, page=None, newest=None, states=_fleet())  # type: ignore[arg-type]
    log, known = _Log(deps.states), deps.states.incidents
    actions = IncidentActions(log, known, lambda: at, links, found)  # type: ignore[arg-type]
    commands = BotCommands(said, "secret", receivers, deps, never, never, actions)  # type: ignore[arg-type]
    for raw in (
        {"message": MESSAGE["message"] | {"text": text}},
        {"callback_query": PRESSED["callback_query"] | {"data": data}},
    ):  # type: ignore[operator]
        try:
            update = Update.model_validate(raw)
        except ValidationError:
            continue
        await commands.handle(update)
    for answer in said.texts:
        plain = re.sub(r"</?(b|i|code|a)( href=\"[^\"<>]*\")?>", "", answer)
        assert not re.search(r"[<>]|&(?!amp;|lt;|gt;|quot;|#\d+;)", plain), answer
        assert len(answer.encode("utf-16-le")) // 2 <= 4096 + len(answer) - len(plain)


# --- settings


KINDS = (IngestSettings, MonitorSettings, NotifierSettings, ApiSettings, RunSettings)
FIELDS = sorted({(kind, field) for kind in KINDS for field in kind.model_fields}, key=str)
VALUES = (
    st.text(st.characters(exclude_characters="\x00", exclude_categories=("Cs",)), max_size=40)
    | DURATIONS.map(durations.write)
    | st.integers().map(str)
    | st.sampled_from(
        [
            "http://[",
            "nats://a:99999",
            "nats://[::1",
            "10.0.0.0/8",
            "private",
            "100/s",
            "1/x",
            "true",
            ",,",
            "read",
            "[]",
            "{}",
            "::1",
        ]
    )
)


@fuzzed
@given(st.sampled_from(FIELDS), VALUES)
def test_settings(field: tuple[type[Settings], str], value: str) -> None:
    kind, name = field
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"REGISTRY_{name.upper()}", value)
        try:
            found = load(kind)
        except SystemExit as end:
            assert end.code == 2
        else:
            assert isinstance(found.is_public, bool)
            assert all(found.own_names)


assert HeartbeatStore
