"""Cursors: where a page ended, opaque to clients and never trusted. Pure."""

import base64
import binascii
import json

from shared.http.problems import Problem

_INT64 = range(-(2**63), 2**63)
_LONGEST = 2000


def write(*where: int | str) -> str:
    return base64.urlsafe_b64encode(json.dumps(where, separators=(",", ":")).encode()).decode().rstrip("=")


def read(cursor: str, *kinds: type[int] | type[str]) -> list[int | str]:
    """The parts of a cursor that `write` made of such kinds; Problem 422 if it is anything else."""
    try:
        if len(cursor) > _LONGEST:
            raise ValueError
        where = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        where = None
    if not isinstance(where, list) or [type(part) for part in where] != list(kinds):
        raise bad()
    if any(isinstance(part, int) and part not in _INT64 for part in where):
        raise bad()
    return where


def bad() -> Problem:
    return Problem(422, "cursor: not one that this list gave out; begin without it")
