"""Ping keys and aliases: how they are written, and where they may stand."""

import json
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from services.api.projections.documents import dump, load, project
from services.ingest.admission import KnownNames
from shared.contracts import events, ping_keys
from shared.contracts.events import parse_event
from shared.contracts.wanted import Wanted
from shared.domain.service_state import ServiceState, apply
from shared.http import problems
from shared.http.problems import explain
from shared.messaging.reader import Stored

MOST = Path(__file__).parents[1] / "contract" / "golden" / "2026-11-3-most"
KEY = "7c1b2a3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
ALIASES = ("3f0d2c9e-8a51-4d7b-9c3e-5b1f6a7d8e90", "gJ8xQ~old.1")


def registered() -> tuple[events.ServiceRegistered, Stored]:
    payload = (MOST / "service.registered.v1.json").read_bytes()
    event = parse_event(payload)
    assert isinstance(event, events.ServiceRegistered)
    return event, Stored(f"service.config.{event.name}", payload, None, 7, 8, 0)


def test_a_key_is_another_random_uuid_each_time() -> None:
    keys = {ping_keys.new() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(ping_keys.is_uuid(key) and key == ping_keys.canonical(key) for key in keys)


@pytest.mark.parametrize("alias", ["a", "A-b_c.d~e", "x" * 128, ".", "0" * 40])
def test_an_alias(alias: str) -> None:
    assert Wanted(aliases=(alias,)).aliases == (alias,)


@pytest.mark.parametrize("alias", ["", "x" * 129, "a b", "a/b", "é", "a\n", "a%20b", "a,b", "a\0", 7, None])
def test_what_is_no_alias(alias: object) -> None:
    with pytest.raises(ValidationError) as refused:
        Wanted.model_validate({"aliases": [alias]})
    assert "pattern" not in explain(refused.value.errors())


def test_a_uuid_is_the_same_in_capitals_and_stands_once() -> None:
    given = ("3F0D2C9E-8A51-4D7B-9C3E-5B1F6A7D8E90", *ALIASES, "GJ8XQ~old.1")
    assert Wanted(aliases=given).aliases == (*ALIASES, "GJ8XQ~old.1")


def test_there_are_at_most_twenty() -> None:
    twenty = [f"alias-{n}" for n in range(20)]
    assert len(Wanted.model_validate({"aliases": twenty}).aliases or ()) == 20
    with pytest.raises(ValidationError):
        Wanted.model_validate({"aliases": [*twenty, "one-more"]})


def test_an_event_names_what_it_leaves_its_service() -> None:
    event, _ = registered()
    assert events.keys_of(event) == " ".join((KEY, *ALIASES))
    deleted = parse_event((MOST / "service.deleted.v1.json").read_bytes())
    assert events.keys_of(deleted) == ""


def test_the_history_shows_neither() -> None:
    _, stored = registered()
    row = json.dumps(project(stored).row)
    assert KEY not in row
    assert not any(alias in row for alias in ALIASES)


def test_the_state_and_its_document_keep_both() -> None:
    event, _ = registered()
    state = apply(ServiceState(event.name), event, 7, 8)
    assert (state.ping_key, state.aliases) == (KEY, ALIASES)
    again = load(json.loads(json.dumps(dump(state))))
    assert (again.ping_key, again.aliases) == (KEY, ALIASES)
    assert again == state
    assert state.configuration == event.data.config


def test_an_event_that_says_nothing_of_them_is_written_as_it_was_before() -> None:
    written = (MOST.parent / "service.registered.v1.json").read_bytes()
    again = json.loads(parse_event(written).to_bytes())
    assert not {"ping_key", "declared_limits"} & again["data"].keys()
    assert not {"aliases", "as_check"} & again["data"]["config"].keys()


def test_a_key_that_two_claim_leads_to_the_first_until_it_lets_go() -> None:
    names = KnownNames(100)
    names.is_complete = True
    names.registered("first", f"{KEY} old")
    names.registered("second", f"own {KEY}")
    assert [names.of_key(key) for key in (KEY, KEY.upper(), "old", "own", "OLD", "none", "")] == [
        *("first", "first", "first", "second"),
        *(None, None, None),
    ]
    names.registered("first", "new")
    assert (names.of_key("old"), names.of_key("new")) == (None, "first")
    names.deleted("second")
    assert names.of_key("own") is None


@pytest.mark.parametrize(
    ("path", "logged"),
    [
        (f"/ping/{KEY}/start", "/ping/…"),
        (f"/api/push/{KEY}", "/api/…"),
        (f"/api/v3/checks/{KEY}", "/api/…"),
        ("/service/web", "/service/web"),
        ("/", "/"),
        ("", ""),
    ],
)
def test_a_log_has_no_path_with_a_key(path: str, logged: str) -> None:
    assert problems._without_keys(path) == logged


def test_no_key_is_good_while_its_end_may_be_missed() -> None:
    names = KnownNames(2)
    names.registered("a", "key")
    assert names.of_key("key") is None
    names.is_complete = True
    assert names.of_key("key") == "a"
    names._fall_behind()
    assert names.of_key("key") is None


def test_what_is_a_token_as_well_is_the_token() -> None:
    names = KnownNames(2, (SecretStr("token"),))
    names.is_complete = True
    names.registered("a", "token key")
    assert (names.of_key("token"), names.of_key("key")) == (None, "a")
    names.deleted("a")
    assert names.of_key("key") is None
