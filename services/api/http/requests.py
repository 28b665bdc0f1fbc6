"""Small things that clients send: lists with commas, conditions, and cursors.

A cursor says where a page ended; it is opaque to clients and never trusted. Pure.
"""

import base64
import binascii
import json

from shared.http.problems import Problem

_INT64 = range(-(2**63), 2**63)
_LONGEST_CURSOR = 2000


def listed(values: list[str]) -> list[str]:
    """What was given repeatedly, or with commas between, or both."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def check_version(if_match: str | None, version: int) -> None:
    """Problem 412 unless the client's condition is `*` or names this version, quoted or weak."""
    if if_match is None or if_match.strip() == "*":
        return
    if str(version) not in {tag.strip().removeprefix("W/").strip('"') for tag in if_match.split(",")}:
        raise Problem(412, f"the version is {version} by now; read it again")


def write_cursor(*where: int | str) -> str:
    return base64.urlsafe_b64encode(json.dumps(where, separators=(",", ":")).encode()).decode().rstrip("=")


def read_cursor(cursor: str, *kinds: type[int] | type[str]) -> list[int | str]:
    """The parts of a cursor that `write_cursor` made of such kinds; Problem 422 if it is anything else."""
    try:
        if len(cursor) > _LONGEST_CURSOR:
            raise ValueError
        where = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        where = None
    if not isinstance(where, list) or [type(part) for part in where] != list(kinds):
        raise bad_cursor()
    if any(isinstance(part, int) and part not in _INT64 for part in where):
        raise bad_cursor()
    return where


def bad_cursor() -> Problem:
    return Problem(422, "cursor: not one that this list gave out; begin without it")
