"""The reader of `registry.yaml`: YAML 1.2, and where what is wrong stands."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts import configuration
from shared.contracts.configuration_file import DEPTH_MAX, FileFault, Position, read, write


def test_values_and_keys_have_their_places() -> None:
    document = read("version: 1\nservices:\n  a:\n    every: soon\n    tags: [x, y]\n")
    assert document.data == {"version": 1, "services": {"a": {"every": "soon", "tags": ["x", "y"]}}}
    assert document.values["services", "a", "every"] == Position(4, 12)
    assert document.keys["services", "a", "every"] == Position(4, 5)
    assert document.values["services", "a", "tags", 1] == Position(5, 15)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("22:00", "22:00"),
        ("2026-11-01", "2026-11-01"),
        ("0123", 123),
        ("0o17", 15),
        ("0x1f", 31),
        ("1e3", 1000.0),
        ("1_000", "1_000"),
        ("true", True),
        ("~", None),
        ("", None),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("0 3 * * *", "0 3 * * *"),
    ],
)
def test_scalars_are_those_of_the_core_schema(text: str, value: Any) -> None:
    found = read(f"a: {text}").data["a"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3", "r.yaml:3:1: a: it is there already, in line 1"),
        ("s:\n  a: {}\n  a: {}", "r.yaml:3:3: s.a: it is there already, in line 2"),
        ("a: *x", "r.yaml:1:4: a: there is no &x before"),
        ("a: &x [*x]", "r.yaml:1:8: a[0]: there is no &x before"),
        ("<<: {a: 1}", "r.yaml:1:1: the file: << is of YAML 1.1; use a template"),
        ("[1]: 2", "r.yaml:1:1: the file: a key must be a text"),
        ("a: [1,\nb", "r.yaml:3:1: the file: did not find expected"),
        ("a: @daily", "r.yaml:1:4: the file: found character that cannot start any token; put what"),
        ("a: 1\n---\nb: 2", "r.yaml:2:1: the file: only one document is expected"),
        ("[" * 100_000, f"r.yaml:1:{DEPTH_MAX + 1}: the file: it is deeper than {DEPTH_MAX} levels"),
        (b"a: \xff", "r.yaml:1:1: the file: byte 3 is no UTF-8"),
    ],
)
def test_what_cannot_be_read_says_where(text: str | bytes, said: str) -> None:
    with pytest.raises(FileFault) as raised:
        read(text, "r.yaml")
    assert str(raised.value).startswith(said)


def test_aliases_do_not_make_a_small_file_a_large_one() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(FileFault, match="more than 2000000 values"):
        read("\n".join(lines))
    assert read("\n".join(lines[:3])).data["a2"][9][9][9] == "x"


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20) | st.sampled_from(
    [
        "no",
        "on",
        "y",
        "~",
        "null",
        "1e3",
        "0o17",
        "0123",
        "22:00",
        "=",
        "<<",
        ".inf",
        "- a",
        "a: b",
        "2026-11-01",
    ]
)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**9), 10**9) | texts,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(texts.filter(lambda key: key != "<<"), inner, max_size=4)
        ),
    )
)
def test_what_is_written_is_read_back_the_same(data: Any) -> None:
    found = read(write(data)).data
    assert (found, repr(found)) == (data, repr(data))


BROKEN = """\
version: 1
templates:
  nightly: {schedule: "0 3 * * *", evry: 5m}
services:
  bad one: {}
  storage:
    every: whenever
    tags: [db, 3]
  good: {every: 5m}
routes:
  - {to: [ops], escalate: {after: 15, to: [ana]}}
status_pages:
  - {path: Public, title: Shop}
"""


def test_all_that_is_wrong_is_told_with_its_place() -> None:
    document = read(BROKEN)
    found, faults = configuration.parse(document.data)
    told = sorted(document.fault(fault.path, fault.why, of_key=fault.of_key) for fault in faults)
    assert told == [
        "registry.yaml:11:35: routes[0].escalate.after: must be a string: a duration such as 30s, 15m, 1h",
        "registry.yaml:13:12: status_pages[0].path: lower-case letters and digits, with single hyphens "
        "between them",
        "registry.yaml:3:36: templates.nightly.evry: there is no such field",
        "registry.yaml:5:3: services.bad one: 1-128 characters: letters, digits, '_', '-', and single dots "
        "between them",
        "registry.yaml:7:12: services.storage.every: 'whenever' is not a duration such as 30s, 15m, 1h",
        "registry.yaml:8:16: services.storage.tags[1]: Input should be a valid string",
    ]
    assert list(found.services) == ["good"], "the rest is looked at all the same"


def test_what_holds_for_a_service_is_its_own_its_templates_or_of_the_defaults() -> None:
    text = """\
version: 1
defaults: {silent_after: 20m, max_run: 1h, time_zone: Europe/Berlin}
templates:
  nightly: {schedule: "0 3 * * *", max_run: 2h, tags: [night]}
services:
  a: {template: nightly, max_run: null}
  b: {template: nightly, every: 5m, silent_after: 1h}
  c:
"""
    found, _ = configuration.parse(read(text).data)
    a, b, c = (configuration.effective(found, name) for name in "abc")
    assert a.inherited == {
        "schedule": "template",
        "silent_after": "defaults",
        "tags": "template",
        "time_zone": "defaults",
    }
    assert a.wanted.whole().max_run is None
    assert a.path("schedule") == ("templates", "nightly", "schedule")
    assert b.inherited == {"max_run": "template", "tags": "template"}
    assert b.wanted.schedule is None, "its own interval takes the place of the template's schedule"
    assert c.inherited == {"silent_after": "defaults", "max_run": "defaults"}


SCHEMA = Path(__file__).parents[2] / "docs" / "registry.schema.json"


def test_the_schema_is_what_the_models_make() -> None:
    """`SCHEMA=write` makes it anew."""
    made = json.dumps(configuration.schema(), indent=2) + "\n"
    if os.environ.get("SCHEMA") == "write":
        SCHEMA.write_text(made)
    assert SCHEMA.read_text() == made


def test_the_schema_knows_every_field_and_how_durations_are_written() -> None:
    definitions = configuration.schema()["$defs"]
    assert definitions["FileService"]["properties"].keys() == {*configuration.FIELDS, "template", "paused"}
    assert definitions["Template"]["properties"].keys() == {*configuration.FIELDS, "paused"} - {"aliases"}
    pattern = definitions["Defaults"]["properties"]["silent_after"]["anyOf"][0]["pattern"]
    assert all(re.search(pattern, text) for text in ("30s", "15m", "1h30m", "7d", "0.5s"))
    assert not any(re.search(pattern, text) for text in ("5", "PT5M", "5 m", "whenever"))
