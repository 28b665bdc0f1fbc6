"""Plans, applies and exports of made-up configurations: what holds already is never changed."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api import timing
from services.api.as_code.exporting import export
from services.api.as_code.planning import (
    Change,
    Checks,
    StoredWindow,
    circles,
    doubled_aliases,
    part_differences,
    service_change,
    window_changes,
)
from services.api.dependencies import circles as found_circles
from shared.contracts import configuration
from shared.contracts.configuration import Configuration, effective, managed_by
from shared.contracts.configuration_file import read, write
from shared.contracts.events import ConfigData, ServiceConfig, ServiceDeleted, ServiceUpdated
from shared.contracts.wanted import Wanted
from shared.domain.service_state import ServiceState, apply
from shared.http.problems import Problem

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
OWNER = managed_by("registry.yaml")
NAMES = ("a", "b", "c.d", "e-f")


@dataclass
class Registry:
    """What there is, without broker and database."""

    states: dict[str, ServiceState] = field(default_factory=dict)
    windows: dict[str, StoredWindow] = field(default_factory=dict)
    seq: int = 0

    def store(self, name: str, data: ConfigData | None) -> None:
        self.seq += 1
        about: dict[str, Any] = {"id": str(self.seq), "source": "/api", "subject": name, "time": NOW}
        event = ServiceUpdated(**about, data=data) if data else ServiceDeleted(**about)
        state = self.states.setdefault(name, ServiceState(name))
        apply(state, event, self.seq, self.seq * 1_000_000)

    def get(self, name: str) -> ServiceState | None:
        state = self.states.get(name)
        return state if state and state.exists else None

    def plan(self, wanted: Configuration, owner: str = OWNER) -> list[Change]:
        changes = [
            service_change(name, effective(wanted, name), self.get(name), owner, NOW)
            for name in wanted.services
        ]
        return changes + window_changes(wanted.maintenance or (), self.windows.values(), owner, NOW)[0]

    def apply(self, wanted: Configuration, owner: str = OWNER) -> None:
        """With pruning: what is left of an older file may have another template of the same name."""
        for name, state in self.states.items():
            if state.exists and state.managed_by == owner and name not in wanted.services:
                self.store(name, None)
        for change in self.plan(wanted, owner):
            if not change.is_written:
                continue
            if change.kind == "service":
                self.store(change.name, change.new)
            else:
                self.windows[change.name] = StoredWindow(change.name, change.new, owner, 1)

    def export(self) -> dict[str, Any]:
        existing = [state for state in self.states.values() if state.exists]
        return export(existing, (), [it.window for it in self.windows.values()], ())


def changed(changes: list[Change]) -> list[Change]:
    return [change for change in changes if change.action != "nothing"]


lengths = st.sampled_from(["30s", "5m", "1h30m", "2d"])
scalars: dict[str, st.SearchStrategy[Any]] = {
    "early": lengths,
    "max_run": lengths,
    "fail_after": st.integers(1, 3),
    "recover_after": st.integers(1, 3),
    "notify": st.booleans(),
    "notify_unusual": st.booleans(),
    "silent_after": st.sampled_from(["5m", "10m"]),
    "down_after": st.sampled_from(["1h", "2h"]),
    "dead_after": st.sampled_from(["1d", "30d"]),
}
zones = st.sampled_from(["UTC", "Europe/Berlin"])
shareable = scalars | {
    "time_zone": zones,
    "description": st.sampled_from(["", "x", "no", "1e3", "two\nlines", "ends with\n"]),
    "tags": st.lists(st.sampled_from(["db", "web", "on"]), max_size=2, unique=True),
    "depends_on": st.just(["zzz"]),
    "paused": st.booleans(),
}
timings = st.sampled_from(
    [{}, {}, {"every": "5m"}, {"schedule": "0 3 * * *"}, {"schedule": None}, {"every": None}]
)


def maybe_null(of: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={key: it | st.none() for key, it in of.items()})


templates = st.builds(lambda fields, when: fields | when, maybe_null(shareable), timings)
services = st.builds(
    lambda fields, when, aliases, template: fields | when | aliases | template,
    maybe_null(shareable),
    timings,
    st.sampled_from([{}, {"aliases": ["old-id"]}]),
    st.sampled_from([{}, {"template": "t"}, {"template": "u"}]),
)
windows = st.builds(
    lambda tags, hours, title: {"tags": tags, "cron": "0 3 * * sun", "duration": hours, "title": title},
    st.sampled_from([["db"], ["web"]]),
    st.sampled_from(["1h", "2h"]),
    st.sampled_from(["", "Sundays"]),
)
configurations = st.fixed_dictionaries(
    {
        "version": st.just(1),
        "services": st.dictionaries(st.sampled_from(NAMES), services, max_size=4),
        "templates": st.fixed_dictionaries({"t": templates, "u": templates}),
    },
    optional={
        "defaults": maybe_null(scalars | {"time_zone": zones}),
        "maintenance": st.lists(windows, max_size=3),
    },
).map(lambda data: configuration.Configuration.model_validate(data))

edits = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        maybe_null({key: it for key, it in shareable.items() if key != "paused"}),
        timings,
        st.booleans(),
    ),
    max_size=4,
)


def edit(registry: Registry, what: list[tuple[str, dict[str, Any], dict[str, Any], bool]]) -> None:
    """As people do, or heartbeats that declare something."""
    for name, fields, when, declares in what:
        state = registry.get(name)
        if state is None:
            config = ServiceConfig(every=timedelta(minutes=5)) if declares else ServiceConfig()
            registry.store(name, ConfigData(config=config, declared_at=NOW if declares else None))
            continue
        wanted = Wanted.model_validate(fields | when)
        try:
            registry.store(name, timing.merged(wanted, state.data, NOW))
        except Problem:
            continue


@given(edits, configurations, edits, configurations)
def test_what_is_applied_or_exported_changes_nothing_the_next_time(
    before: Any, first: Configuration, meanwhile: Any, second: Configuration
) -> None:
    registry = Registry()
    edit(registry, before)
    for wanted, then in ((first, meanwhile), (second, [])):
        registry.apply(wanted)
        assert not [change for change in registry.plan(wanted) if change.is_written], "applied twice"
        edit(registry, then)
        exported = registry.export()
        again = Configuration.model_validate(read(write(exported)).data)
        for owner in (OWNER, managed_by("other.yaml")):
            assert changed(registry.plan(again, owner)) == [], exported
        elsewhere = Registry()
        elsewhere.apply(again)
        assert json.dumps(elsewhere.export()) == json.dumps(exported), "made anew from what was exported"


@given(configurations, edits)
def test_a_plan_says_what_was_changed_by_hand_and_an_apply_makes_it_good(
    wanted: Configuration, meanwhile: Any
) -> None:
    registry = Registry()
    registry.apply(wanted)
    was = {name: state.data for name in wanted.services if (state := registry.get(name))}
    edit(registry, meanwhile)
    planned = {change.name for change in changed(registry.plan(wanted))}
    for name, data in was.items():
        state = registry.get(name)
        assert state
        if state.data.config == data.config:
            assert name not in planned
    registry.apply(wanted)
    for name, data in was.items():
        state = registry.get(name)
        assert state
        if state.declared_at is None and data.declared_at is None:
            assert state.data == data


def test_a_service_that_was_there_is_managed_from_then_on_and_that_is_no_change() -> None:
    registry = Registry()
    registry.store("a", ConfigData(config=ServiceConfig(tags=("x",))))
    (change,) = registry.plan(Configuration(version=1, services={"a": {"tags": ["x"]}}))  # type: ignore[dict-item]
    assert (change.action, change.fields, change.is_adopted) == ("nothing", {}, True)


def test_where_only_the_source_of_a_field_is_another_that_is_a_change() -> None:
    registry = Registry()
    data = {"version": 1, "templates": {"t": {"max_run": "1h"}}, "services": {"a": {"template": "t"}}}
    registry.apply(Configuration.model_validate(data))
    own = data | {"services": {"a": {"template": "t", "max_run": "1h"}}}
    (change,) = changed(registry.plan(Configuration.model_validate(own)))
    assert change.fields == {"inherited.max_run": ("template", None)}


def test_a_schedules_zone_that_heartbeats_declare_stays_and_stops_nothing() -> None:
    registry = Registry()
    config = ServiceConfig(schedule="0 3 * * *", time_zone="UTC")
    registry.store("a", ConfigData(config=config, declared_at=NOW))
    wanted = Configuration.model_validate({"version": 1, "services": {"a": {"time_zone": "Europe/Berlin"}}})
    assert changed(registry.plan(wanted)) == []


def test_windows_are_known_by_what_they_say() -> None:
    def wanted(*values: dict[str, Any]) -> list[Any]:
        data = {"version": 1, "maintenance": values}
        return list(Configuration.model_validate(data).maintenance or ())

    sundays = {"title": "S", "tags": ["db"], "cron": "0 3 * * sun", "duration": "2h"}
    over = {"tags": ["db"], "starts_at": "2026-01-01T00:00:00Z", "ends_at": "2026-01-02T00:00:00Z"}
    (window,) = wanted(sundays)
    by_hand = StoredWindow("by-hand", window, None, 3)
    (change,), left = window_changes([window], [by_hand], OWNER, NOW)
    assert (change.action, change.name, change.is_adopted, left) == ("nothing", "by-hand", True, [])
    ours = StoredWindow("ours", window, OWNER, 3)
    (change,), left = window_changes(wanted(sundays | {"duration": "3h"}), [ours], OWNER, NOW)
    assert (change.action, change.name, change.fields) == ("update", "ours", {"duration": ("2h", "3h")})
    (change,), left = window_changes(
        wanted({"title": "T", "services": ["x"], "cron": "0 4 * * *", "duration": "1h"}), [ours], OWNER, NOW
    )
    assert (change.action, [it.id for it in left]) == ("create", ["ours"])
    assert window_changes(wanted(over), [], OWNER, NOW) == ([], []), "it is over"
    changes, _ = window_changes(wanted(sundays, sundays), [], OWNER, NOW)
    assert len(changes) == 1
    taken = StoredWindow(changes[0].name, wanted(over)[0], None, 9)
    (change,), _ = window_changes([window], [taken], OWNER, NOW)
    assert change.name != taken.id


def test_what_is_wrong_with_a_service_names_the_part_that_says_it() -> None:
    data = {
        "version": 1,
        "defaults": {"time_zone": "Europe/Berlin"},
        "templates": {"bad": {"schedule": "61 * * * *"}, "t": {"tags": ["a,b"]}},
        "services": {
            "a": {"template": "bad"},
            "b": {"template": "t"},
            "c": {"schedule": "0 0 30 2 *"},
            "d": {"silent_after": "2h", "down_after": "1h"},
        },
    }
    wanted = Configuration.model_validate(data)
    checks = Checks(wanted, "UTC", NOW, lambda _: None)
    found = list(checks.of_parts())
    for name in wanted.services:
        found += checks.of_service(name, effective(wanted, name))
    assert {fault.path for fault in found} == {
        ("templates", "bad", "schedule"),
        ("templates", "t", "tags"),
        ("services", "c", "schedule"),
        ("services", "d", "silent_after"),
    }


def test_aliases_lead_to_one_service() -> None:
    registry = Registry()
    registry.store("there", ConfigData(config=ServiceConfig(aliases=("x",)), ping_key="key"))
    registry.store("moves", ConfigData(config=ServiceConfig(aliases=("y",))))

    def doubled(services: dict[str, Any], gone: frozenset[str] = frozenset()) -> list[str]:
        wanted = Configuration.model_validate({"version": 1, "services": services})
        faults = doubled_aliases(wanted, gone, registry.states.values())
        return [f"{fault.path[1]} {fault.why}" for fault in faults]

    assert doubled({"a": {"aliases": ["x"]}}) == ["a it leads to there already"]
    assert doubled({"a": {"aliases": ["key"]}}) == ["a it leads to there already"]
    assert doubled({"a": {"aliases": ["x"]}}, frozenset({"there"})) == []
    assert doubled({"a": {"aliases": ["y"]}, "moves": {}}) == []
    assert doubled({"a": {"aliases": ["z"]}, "b": {"aliases": ["z"]}}) == ["b it leads to a already"]


@given(st.dictionaries(st.integers(0, 7), st.lists(st.integers(0, 9), max_size=3), max_size=8))
def test_a_circle_is_found_if_and_only_if_there_is_one(graph: dict[int, list[int]]) -> None:
    def parents(name: str) -> list[str]:
        return [str(each) for each in graph.get(int(name), [])]

    found = list(found_circles(map(str, graph), parents))
    for way in found:
        for one, following in zip(way, (*way[1:], way[0]), strict=True):
            assert following in parents(one)

    def reaches(name: str) -> bool:
        seen, waiting = set[str](), parents(name)
        while waiting:
            if (here := waiting.pop()) == name:
                return True
            if here not in seen:
                seen.add(here)
                waiting += parents(here)
        return False

    assert bool(found) == any(reaches(str(name)) for name in graph)


def test_a_long_chain_is_no_circle_and_takes_no_long() -> None:
    depends_on = {f"s{n}": (f"s{n + 1}",) for n in range(50_000)}
    assert list(circles(depends_on, lambda _: None)) == []
    depends_on["s49999"] = ("s0",)
    (fault,) = circles(depends_on, lambda _: None)
    assert "…" in fault.why


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [({}, {"a": 1}, {"a": (None, 1)}), ({"a": 1}, {}, {"a": (1, None)}), ({"a": 1}, {"a": 1}, {})],
)
def test_differences_of_parts(old: Any, new: Any, expected: Any) -> None:
    assert part_differences(old, new) == expected


def test_whether_it_is_paused_stays_unless_the_file_says() -> None:
    registry = Registry()
    registry.store("a", ConfigData(config=ServiceConfig(paused=True)))
    for says, paused in (({}, True), ({"paused": False}, False), ({"paused": True}, True), ({}, True)):
        registry.apply(Configuration.model_validate({"version": 1, "services": {"a": says}}))
        state = registry.get("a")
        assert state
        assert state.paused is paused
