"""Durations as people write them: `30s`, `15m`, `1h`, `7d`, `1h30m`. Pure."""

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_PATTERN = re.compile(
    r"(?:([0-9]{1,6})d)?(?:([0-9]{1,8})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9}(?:\.[0-9]{1,3})?)s)?"
)
FORM_PATTERN = rf"\s*(?=.*[1-9])(?:{_PATTERN.pattern})\s*"
"""The same for `pattern` in a form; only `parse` checks how long it is."""
_LONGEST = timedelta(days=3650)

ACCEPTED = "a duration such as 30s, 15m, 1h"


def parse(text: str) -> timedelta:
    """Read a duration longer than zero and at most ten years. ValueError says what is accepted."""
    match = _PATTERN.fullmatch(text.strip())
    if not match or not any(match.groups()):
        raise ValueError(f"{text!r} is not {ACCEPTED}")
    value = timedelta(
        seconds=sum(float(n) * unit for n, unit in zip(match.groups(), _UNITS.values(), strict=True) if n)
    )
    if not timedelta() < value <= _LONGEST:
        raise ValueError(f"{text!r} must be longer than zero and at most 3650d")
    return value


def write(value: timedelta) -> str:
    """The shortest exact form that `parse` reads back: `1h30m`, `0.5s`."""
    rest, parts = round(value.total_seconds() * 1000), []
    for unit, seconds in _UNITS.items():
        count, rest = divmod(rest, seconds * 1000) if unit != "s" else (rest / 1000, 0)
        if count:
            parts.append(f"{count:g}{unit}" if count < 1e6 else f"{count:.0f}{unit}")
    return "".join(parts) or "0s"


def spoken(value: timedelta) -> str:
    """In a sentence: the two largest units, `3 h 12 min`, `45 s`."""
    seconds = max(0, round(value.total_seconds()))
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds % 60, "s")]
    first = next((i for i, (n, _) in enumerate(parts) if n), len(parts) - 1)
    return " ".join(f"{n} {unit}" for n, unit in parts[first : first + 2] if n) or "0 s"


def spoken_seconds(seconds: float) -> str:
    """The same with fractions of a second below ten seconds, to the thousandth: `0.25 s`."""
    return f"{round(seconds, 3):.3g} s" if seconds < 10 else spoken(timedelta(seconds=seconds))


def _read(value: Any) -> Any:
    if isinstance(value, timedelta) and timedelta() < value <= _LONGEST:
        return value
    if not isinstance(value, str):
        raise ValueError(f"must be a string: {ACCEPTED}")
    return parse(value)


Duration = Annotated[timedelta, BeforeValidator(_read), PlainSerializer(write, return_type=str)]
"""A pydantic field that reads and writes the forms above."""

Written = Annotated[timedelta, PlainSerializer(write, return_type=str)]
"""The same for a field that is only written: it may be longer than `parse` accepts, such as 24 intervals."""
