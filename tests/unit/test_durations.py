"""Durations, read and written."""

import re
from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.durations import FORM_PATTERN, parse, spoken, spoken_seconds, write


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("15m", 900), ("1h", 3600), ("7d", 604800), ("1h30m", 5400), ("0.5s", 0.5), (" 2s ", 2)],
)
def test_read(text: str, seconds: float) -> None:
    assert parse(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "0s", "15", "m", "-1s", "1w", "1m1h", "1 h", "4000d", "1e3s", "٣s", "9" * 30 + "s"]
)
def test_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|longer"):
        parse(text)


DURATIONS = [
    *("30s", "15m", "1h", "7d", "1h30m", "0.5s", " 2s ", "1d2h3m4.567s", "3650d", "10m0s", "0h1m"),
    *("", "0s", "0d0s", "15", "m", "-1s", "1w", "5ms", "1.5h", "1m1h", "1 h", "1e3s", "٣s", "9" * 30 + "s"),
    *("1s1s", "1.2345s", "1,5s", ".5s", "PT5M", "s", "1H", "1_0s"),
]
"""Read by some; `tests/browser` asks a browser about the same."""


@pytest.mark.parametrize("text", DURATIONS)
def test_a_form_takes_what_the_server_reads(text: str) -> None:
    try:
        read = bool(parse(text))
    except ValueError:
        read = False
    assert bool(re.fullmatch(FORM_PATTERN, text)) == read


@given(st.timedeltas(timedelta(milliseconds=1), timedelta(days=3650)))
def test_what_is_written_is_read_back(value: timedelta) -> None:
    value = timedelta(milliseconds=max(1, value // timedelta(milliseconds=1)))
    assert parse(write(value)) == value


@given(st.text(max_size=20))
def test_reading_never_fails_otherwise(text: str) -> None:
    with suppress(ValueError):
        value = parse(text)
        assert timedelta() < value <= timedelta(days=3650)
        assert parse(write(value)) == value


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59, "59 s"), (3600, "1 h"), (11530, "3 h 12 min"), (90061, "1 d 1 h")]
)
def test_spoken(seconds: int, text: str) -> None:
    assert spoken(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.000853, "0.001 s"), (0.25, "0.25 s"), (9.5, "9.5 s"), (12.4, "12 s")]
)
def test_spoken_with_fractions(seconds: float, text: str) -> None:
    assert spoken_seconds(seconds) == text
