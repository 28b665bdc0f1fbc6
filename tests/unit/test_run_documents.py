"""Runs as the read models hold them: facts as documents, and what heartbeats tell of runs by their ids."""

import asyncio
import json
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.http.models import RunItem
from services.api.projections.documents import Heard, add_heartbeat, dump, load
from services.api.projections.projector import _Heartbeats
from services.api.projections.runs import open_run, place, run_document
from services.cli.remote import run_row, service_fields
from shared.contracts.events import (
    DURATION_HEADER,
    Outcome,
    RunData,
    Signal,
    moment,
    run_key,
    run_recorded,
)
from shared.domain.service_state import ServiceState
from shared.messaging.connection import BrokerConnection
from shared.messaging.reader import OVER_HTTP, Stored

SECOND = 1_000_000
START, SUCCESS, FAIL = Signal.START, Signal.SUCCESS, Signal.FAIL


def beat(at: int, signal: Signal = SUCCESS, run: str = "", measured: str = "") -> Stored:
    body = json.dumps({"run": run}).encode() if run else b""
    headers = {"Registry-Signal": signal.value} if signal is not SUCCESS else OVER_HTTP
    if measured:
        headers = {**headers, DURATION_HEADER: measured}
    return Stored("heartbeat.a", body, headers, at, at * SECOND, 0)


def heard(*beats: Stored) -> ServiceState:
    found: Heard | None = None
    for each in beats:
        found = add_heartbeat(found, each)
    assert found
    return found.applied_to(ServiceState("a", 1, True, registered_at=1))


def test_a_run_ends_with_what_has_its_id() -> None:
    begun = [beat(1, START, "a"), beat(2, START, "b"), beat(3, START)]
    state = heard(*begun)
    assert state.open_runs == (("a", SECOND), ("b", 2 * SECOND), ("", 3 * SECOND))
    assert (state.running_since(10 * SECOND), state.last_duration) == (3 * SECOND, None)
    state = heard(*begun, beat(7, FAIL, "a"))
    assert (state.open_runs, state.last_duration) == ((("b", 2 * SECOND), ("", 3 * SECOND)), 6 * SECOND)
    state = heard(*begun, beat(7, FAIL, "a"), beat(8), beat(9, SUCCESS, "c"))
    assert (state.open_runs, state.last_duration) == ((("b", 2 * SECOND),), 5 * SECOND)
    again = heard(*begun, beat(6, START, "b"))
    assert again.open_runs[-1] == ("b", 6 * SECOND), "it began again"


def test_a_run_took_as_long_as_its_sender_measured() -> None:
    assert heard(beat(1, START), beat(7, measured="4.5")).last_duration == 4.5 * SECOND
    assert heard(beat(1), beat(7, measured="4.5")).last_duration == 4.5 * SECOND
    assert heard(beat(1, START), beat(7)).last_duration == 6 * SECOND
    registered_by_its_start = heard(beat(3, START), beat(7, measured="4.5"))
    registered_by_its_start.registered_at = 3 * SECOND
    assert registered_by_its_start.last_duration == 4 * SECOND, "not longer than since its start"


def test_the_end_of_a_run_counts_where_its_start_did() -> None:
    assert heard(beat(1)).counted_at == heard(beat(1, START)).counted_at == SECOND
    assert heard(beat(1, START), beat(5)).counted_at == SECOND
    assert heard(beat(1, START), beat(5), beat(6)).counted_at == 6 * SECOND
    assert heard(beat(1, START, "a"), beat(3, START, "b"), beat(5, SUCCESS, "a")).counted_at == 3 * SECOND
    assert ServiceState("a", 1, True, registered_at=1).counted_at == 0


def test_what_has_taken_too_long_when_others_were_heard_will_never_end() -> None:
    state = heard(beat(1, START, "a"))
    assert state.running_since(limit=1) == SECOND, "nothing else was heard since"
    state = heard(beat(1, START, "a"), beat(9))
    assert state.running_since(limit=9 * SECOND) == SECOND
    assert state.running_since(limit=8 * SECOND) is None
    assert state.open_runs == (("a", SECOND),)
    young = ServiceState("a", 1, True, registered_at=2 * SECOND)
    found = add_heartbeat(add_heartbeat(None, beat(1, START)), beat(3, START, "b"))
    assert found
    assert found.applied_to(young).open_runs == (("b", 3 * SECOND),), "the other is of an earlier life"


def test_only_so_many_runs_are_open() -> None:
    state = heard(*(beat(n, START, f"run-{n}") for n in range(1, 151)))
    assert state.open_runs[0] == ("run-51", 51 * SECOND)
    assert len(state.open_runs) == 100


@given(
    st.lists(st.tuples(st.sampled_from([START, SUCCESS, FAIL]), st.sampled_from(["", "a", "b"])), min_size=1)
)
def test_a_state_is_the_same_after_its_document(beats: list[tuple[Signal, str]]) -> None:
    state = heard(*(beat(n + 1, *each) for n, each in enumerate(beats)))
    assert load(dump(state)) == state


def test_a_document_of_an_older_version_knows_of_one_run() -> None:
    document = dump(heard(beat(1, START)))
    del document["heartbeat"]["open"]
    assert load(document).open_runs == (("", SECOND),)
    document["heartbeat"]["signal"] = "success"
    assert load(document).open_runs == ()


def test_places_are_in_the_order_of_time() -> None:
    moments = [0, 1, 9, 10, 2**40, 250_000_000_000_000_000]
    assert sorted(place(at, "9") for at in reversed(moments)) == [place(at, "9") for at in moments]
    assert place(10) < place(10, "") + "a" < place(11)
    run = open_run("a", "7", 10)
    assert (run["place"], run["outcome"], run["run"]) == (place(10, "10-7"), "running", "7")
    assert open_run("a", "", 10)["run"] is None
    fact = RunData(key=run_key(10, ""), outcome=Outcome.RUNNING, started_at=moment(10))
    recorded = Stored("run.a", run_recorded("a", fact, moment(20)).to_bytes(), None, 1, 20, 0)
    assert open_run("a", "", 10)["place"] == run_document(recorded)["place"], "recorded, it stays there"


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"outcome": "missed", "expected_at": "T1"}, "missed T1 T1 - "),
        (
            {"outcome": "running", "started_at": "T1", "expected_at": "T0", "run": "7"},
            "running T1 T1 - run 7",
        ),
        (
            {"ended_at": "T2", "expected_at": "T1", "late_by": 90.0, "message": "x" * 300},
            f"success T2 T2 - 1 min 30 s late; {'x' * 200}…",
        ),
        (
            {"outcome": "failure", "started_at": "T1", "ended_at": "T2", "duration": 0.25, "exit_code": 3}
            | {"late_by": 0.0, "unusual": "took 0.25 s, usually 3 s"},
            "failure T1 T1 0.25 s exit code 3; took 0.25 s, usually 3 s",
        ),
    ],
)
def test_a_line_of_the_command_line(fields: dict[str, Any], line: str) -> None:
    row = run_row(dict.fromkeys(RunItem.model_fields) | {"outcome": "success"} | fields)
    assert " ".join(row) == line


@pytest.mark.parametrize(
    ("reason", "zone", "said"),
    [
        ("expected 03:00, not started", "Europe/Berlin", "expected 03:00, not started (Europe/Berlin)"),
        ("expected 03:00, not started", "UTC", "expected 03:00, not started"),
        ("exit code 3", "Europe/Berlin", "exit code 3"),
        (None, "Europe/Berlin", "-"),
    ],
)
def test_the_command_line_says_the_zone_of_a_reason(reason: str | None, zone: str, said: str) -> None:
    fields = service_fields({"reason": reason, "time_zone": zone, "paused": False, "tags": ["a"]})
    assert dict(fields) == {"reason": said, "time_zone": zone, "paused": "false", "tags": '["a"]'}


async def test_the_start_that_registered_a_service_is_written_before_the_end_that_follows() -> None:
    """They may be written by two tasks: what a name sent before it was known, and what comes after."""
    known: set[str] = set()
    heard, written = _Heartbeats(cast(BrokerConnection, None), known.__contains__), list[int]()

    async def write(what: dict[str, Heard]) -> None:
        await asyncio.sleep(0.01 if what["a"].seq == 1 else 0)
        written.append(what["a"].seq)

    heard.add([beat(1, START)])
    known.add("a")
    first = asyncio.create_task(heard.write_the_new(["a"], write))
    await asyncio.sleep(0)
    heard.add([beat(2)])
    await asyncio.gather(first, heard.write(write))
    assert written == [1, 2]
