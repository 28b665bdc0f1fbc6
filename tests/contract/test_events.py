"""Golden files: every version of every event that was ever written must parse for ever, and stay as it is."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from services.api.projections.documents import project
from services.api.projections.runs import run_document
from services.monitor.store import mapping
from services.notifier.alerting.policy import next_reminder
from services.notifier.states import ServiceStates
from shared.contracts import events
from shared.contracts.configuration import StatusPage
from shared.contracts.events import (
    ConfigData,
    ConfigurationEvent,
    ConfigurationSet,
    Event,
    HeartbeatBody,
    IncidentEvent,
    Signal,
    Status,
    StatusChanged,
    Tick,
    parse_configuration,
    parse_event,
    parse_incident,
    valid_name,
)
from shared.contracts.heartbeats import parse_heartbeat, read_body, write_body
from shared.contracts.maintenance import Window
from shared.contracts.routes import Routes
from shared.messaging import streams
from shared.messaging.reader import Stored

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(GOLDEN.glob("**/service.*.json"))
FOLDERS = [GOLDEN, *sorted(it for it in GOLDEN.iterdir() if it.is_dir())]


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_golden_events_parse_and_are_written_again_the_same(file: Path) -> None:
    written = json.loads(file.read_text())
    event = parse_event(file.read_bytes())
    assert event.type == file.stem
    assert holds(json.loads(event.to_bytes()), written)


INCIDENTS = sorted(GOLDEN.glob("incident-*.json"))


@pytest.mark.parametrize("file", INCIDENTS, ids=lambda file: file.stem)
def test_golden_events_of_incidents_parse_and_are_written_again_the_same(file: Path) -> None:
    event = parse_incident(file.read_bytes())
    assert event.type == f"service.{file.stem.removeprefix('incident-')}.v1"
    assert holds(json.loads(event.to_bytes()), json.loads(file.read_text()))
    assert streams.read_incident("service.incident.my-service", file.read_bytes()) == event
    for subject in ("service.incident.other", "service.status.my-service"):
        with pytest.raises(ValueError, match="has no place"):
            streams.read_incident(subject, file.read_bytes())
    with pytest.raises(ValidationError):
        parse_event(file.read_bytes())


def test_every_type_of_incidents_has_its_golden_file() -> None:
    types = {kind.model_fields["type"].default for kind in IncidentEvent.__args__}
    assert types == {json.loads(file.read_text())["type"] for file in INCIDENTS}


SETTINGS = sorted(GOLDEN.glob("configuration-*.json"))
KINDS: dict[str, type[BaseModel]] = {"routes": Routes, "maintenance": Window, "status_page": StatusPage}


@pytest.mark.parametrize("file", SETTINGS, ids=lambda file: file.stem)
def test_golden_events_of_configuration_parse_and_are_written_again_the_same(file: Path) -> None:
    written = file.read_bytes()
    event = parse_configuration(written)
    assert json.loads(event.to_bytes()) == json.loads(written)
    assert streams.read_configuration(f"registry.config.{event.kind}.{event.key}", written) == event
    for subject in ("registry.config.routes.other", f"service.config.{event.name}", ""):
        with pytest.raises(ValueError, match="has no place"):
            streams.read_configuration(subject, written)
    if isinstance(event, ConfigurationSet):
        value = KINDS[event.kind].model_validate(event.data.value)
        assert value.model_dump(mode="json", exclude_defaults=event.kind != "routes") == event.data.value
    with pytest.raises(ValidationError):
        parse_event(written)


def test_every_type_and_kind_of_configuration_has_its_golden_file() -> None:
    found = [json.loads(file.read_text()) for file in SETTINGS]
    assert {each["type"] for each in found} == {
        kind.model_fields["type"].default for kind in ConfigurationEvent.__args__
    }
    assert {each["subject"].partition(".")[0] for each in found} == KINDS.keys()


@pytest.mark.parametrize(
    "change",
    [
        {"until": None},
        {"until_alive": True},
        {"incident": "1"},
        {"by": ""},
        {"until": "9000-01-01T00:00:00Z"},
    ],
)
def test_a_mute_has_one_end(change: dict[str, Any]) -> None:
    written = json.loads((GOLDEN / "incident-acknowledged.json").read_text())
    written["data"]["muted"] |= change
    with pytest.raises(ValidationError):
        parse_incident(json.dumps(written).encode())


def holds(rewritten: object, written: object) -> bool:
    """Whether all that was written is there again; fields that were added since are absent in it, or null."""
    if not (isinstance(rewritten, dict) and isinstance(written, dict)):
        return rewritten == written
    return written.keys() <= rewritten.keys() and all(
        holds(value, written[key]) if key in written else value is None for key, value in rewritten.items()
    )


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_type_has_its_golden_file(folder: Path) -> None:
    """In the folders: as older versions wrote it, with as little in it as can be, and with everything."""
    types = {kind.model_fields["type"].default for kind in Event.__args__}
    assert types == {file.stem for file in folder.glob("service.*.json")}


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_every_reader_takes_what_older_versions_wrote(file: Path) -> None:
    event = parse_event(file.read_bytes())
    kind = "status" if isinstance(event, StatusChanged) else "config"
    assert (
        project(Stored(f"service.{kind}.{event.name}", file.read_bytes(), None, 7, 8, 0)).name == event.name
    )
    ServiceStates().apply(event, 7, event.time)
    if isinstance(event, StatusChanged):
        assert (
            mapping.to_event(event.name, mapping.to_transition(event)).id
            == events.status_changed(event.name, event.data).id
        )
    else:
        assert mapping.config_change(event, 7, 8).seq == 7


def test_golden_run() -> None:
    written = (GOLDEN / "run-recorded.json").read_bytes()
    event = streams.read_run("run.my-service", written)
    assert json.loads(event.to_bytes()) == json.loads(written)
    assert events.run_recorded(event.name, event.data, event.time) == event, "the id follows from the content"
    found = run_document(Stored("run.my-service", written, None, 7, 8, 0))
    assert (found["_id"], found["seq"], found["is_first"]) == ("my-service 1793498400000000", 7, True)
    for subject in ("run.other", "run.my-service.", "service.status.my-service", ""):
        with pytest.raises(ValueError, match="has no place"):
            streams.read_run(subject, written)


def test_golden_gap() -> None:
    """As it stands in the stream, where runs are read without it."""
    written = (GOLDEN / "gap.json").read_bytes()
    stored = json.dumps(json.loads(written), separators=(",", ":")).encode()
    event = streams.read_fact("run.my-service", stored)
    assert isinstance(event, events.GapRecorded)
    assert event.to_bytes() == stored
    assert events.gap_recorded(event.name, event.data) == event, "the id follows from the content"
    assert events.is_gap(stored)
    assert (
        b'"signal"'
        not in event.model_copy(
            update={"data": event.data.model_copy(update={"signal": Signal.SUCCESS})}
        ).to_bytes()
    )
    run = events.parse_run((GOLDEN / "run-recorded.json").read_bytes())
    quoting = run.model_copy(update={"data": run.data.model_copy(update={"message": stored.decode()})})
    assert not events.is_gap(quoting.to_bytes())
    assert events.parse_fact(quoting.to_bytes()) == quoting
    with pytest.raises(ValueError, match="has no place"):
        streams.read_fact("run.other", stored)


def test_a_change_without_a_trace_says_nothing_of_traces() -> None:
    written = json.loads((GOLDEN / "service.status_changed.v1.json").read_text())
    for none in (None, "00-1", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", 7):
        event = parse_event(json.dumps(written | {"traceparent": none}).encode())
        assert b"traceparent" not in event.to_bytes()


def test_an_event_that_nobody_caused_says_nothing_of_actors() -> None:
    written = json.loads((GOLDEN / "service.deleted.v1.json").read_text())
    for actor in ({}, {"actor": None}):
        assert b"actor" not in parse_event(json.dumps(written | actor).encode()).to_bytes()
    assert (
        b'"actor":"heartbeat"'
        in parse_event(json.dumps(written | {"actor": "heartbeat"}).encode()).to_bytes()
    )


def test_golden_heartbeat_and_tick() -> None:
    heartbeat = parse_heartbeat("web", (GOLDEN / "heartbeat.json").read_bytes(), {"Registry-Signal": "fail"})
    assert heartbeat.signal is Signal.FAIL
    assert heartbeat.body == HeartbeatBody.model_validate(
        {"message": "disk full", "every": "5m", "metadata": {"host": "a1"}}
    )
    tick = Tick.model_validate_json((GOLDEN / "tick.json").read_bytes())
    assert tick.open_since
    assert tick.open_since.isoformat() == "2026-11-01T12:00:00.123456+00:00"


def test_golden_heartbeat_with_warnings_as_ingest_stores_it() -> None:
    stored = (GOLDEN / "heartbeat-with-warnings.json").read_bytes().rstrip(b"\n")
    heartbeat = parse_heartbeat("web", stored, {"Registry-Signal": "fail", "Registry-Source": "http"})
    assert heartbeat.body == HeartbeatBody.model_validate(
        {"message": "disk full", "metadata": {"host": "a1"}}
    )
    assert heartbeat.warnings == (
        "every: 'whenever' is not a duration such as 30s, 15m, 1h",
        "colour: not used; a heartbeat has message, every, schedule, time_zone, run, metadata",
    )
    given = b'{"message": "disk full", "metadata": {"host": "a1"}, "every": "whenever", "colour": "red"}'
    assert write_body(*read_body(given)) == stored


def test_the_content_of_a_status_change() -> None:
    event = parse_event((GOLDEN / "service.status_changed.v1.json").read_bytes())
    assert isinstance(event, StatusChanged)
    assert (event.subject, event.data.from_, event.data.to) == ("my-service", Status.SILENT, Status.DOWN)
    assert event.data.since == event.time
    again = events.status_changed(event.subject, event.data, event.traceparent)
    assert again == event, "the same change always makes the same event, id and all"


NEVER = [
    "0001-01-01T00:00:00+23:59",
    "1969-12-31T23:59:59Z",
    "9000-01-01T00:00:00Z",
    "9999-12-31T23:59:59-23:59",
]


@pytest.mark.parametrize("when", NEVER)
def test_moments_from_which_nothing_can_be_reckoned_make_it_no_event(when: str) -> None:
    changed = json.loads((GOLDEN / "service.status_changed.v1.json").read_text())
    registered = json.loads((GOLDEN / "service.registered.v1.json").read_text())
    given: list[dict[str, Any]] = [changed | {"time": when}]
    given += [changed | {"data": changed["data"] | {field: when}} for field in ("since", "last_heartbeat")]
    given += [
        registered | {"data": registered["data"] | {field: when}}
        for field in ("registered_at", "declared_at")
    ]
    for each in given:
        with pytest.raises(ValidationError):
            parse_event(json.dumps(each).encode())


@pytest.mark.parametrize("since", ["1970-01-01T00:00:00Z", "8999-12-31T23:58:59.999999-00:01"])
def test_from_all_other_moments_reminders_can_be_reckoned(since: str) -> None:
    written = json.loads((GOLDEN / "service.status_changed.v1.json").read_text())
    event = parse_event(json.dumps(written | {"data": written["data"] | {"since": since}}).encode())
    assert isinstance(event, StatusChanged)
    at = event.data.since
    assert next_reminder((timedelta(hours=1), timedelta(days=3650)), at, at) == at + timedelta(hours=1)
    assert next_reminder((timedelta(days=3650),), at, at + timedelta(days=3650)) == at + timedelta(days=7300)


@pytest.mark.parametrize(
    "subject",
    [
        "service.status.other",
        "service.config.my-service",
        "service.status.my-service.",
        "heartbeat.my-service",
        "",
    ],
)
def test_an_event_counts_in_its_own_subject_alone(subject: str) -> None:
    payload = (GOLDEN / "service.status_changed.v1.json").read_bytes()
    assert streams.read_event("service.status.my-service", payload) == parse_event(payload)
    with pytest.raises(ValueError, match="has no place"):
        streams.read_event(subject, payload)


def test_fields_that_are_added_later_do_not_disturb() -> None:
    written = json.loads((GOLDEN / "service.registered.v1.json").read_text())
    written["traceparent"] = "00-1"
    written["data"]["config"]["runbook"] = "later"
    event = parse_event(json.dumps(written).encode())
    assert isinstance(event.data, ConfigData)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"{}",
        b'{"type": "service.registered.v2"}',
        b'{"type": "service.deleted.v1", "id": "1", "source": "x", "subject": "a b", "time": "2026-01-01"}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_what_is_no_event_is_a_value_error(payload: bytes) -> None:
    with pytest.raises(ValidationError):
        parse_event(payload)


@pytest.mark.parametrize("name", ["a", "A-z_0.9", "x" * 128, "a.b.c", "-", "_"])
def test_good_names(name: str) -> None:
    assert valid_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", "a.", ".a", "a..b", "a b", "a\n", "é", "a/b", "*", ">", "x" * 129, "a\x00"]
)
def test_bad_names(name: str) -> None:
    assert not valid_name(name)
    with pytest.raises(ValueError, match="bad name"):
        parse_heartbeat(name, b"", None)
