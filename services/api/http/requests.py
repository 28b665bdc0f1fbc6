"""Small things that clients send: lists with commas, tags, conditions, and cursors, which say where a page
ended, are opaque to clients and never trusted. Pure."""

import base64
import binascii
import csv
import json
import unicodedata
from collections.abc import Callable, Iterable

from shared.http.problems import Problem

_INT64 = range(-(2**63), 2**63)
_LONGEST_CURSOR = 2000
_CONTROLS = {"Cc", "Zl", "Zp"}
"""Unicode's categories of what moves the line or the cursor."""


def listed(values: list[str]) -> list[str]:
    """What was given repeatedly, or with commas between, or both."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def check_tags(tags: Iterable[str], had: Iterable[str] = ()) -> None:
    """Problem 422 for a new tag with a comma, which lists have between tags, or a control character in it."""
    for tag in set(tags).difference(had):
        if "," in tag:
            raise Problem(422, f"tags: {tag!r} has a comma in it; make it two tags")
        if any(unicodedata.category(each) in _CONTROLS for each in tag):
            raise Problem(422, f"tags: {tag!r} has a control character in it")


def write_tags(tags: Iterable[str]) -> str:
    """In one line, with commas between. A tag of an older version that has one itself stands in quotes."""
    return ", ".join(
        '"' + tag.replace('"', '""') + '"' if "," in tag or tag.startswith('"') else tag for tag in tags
    )


def read_tags(line: str) -> list[str]:
    """The reverse of `write_tags`. Problem 422 for what is no such line."""
    try:
        rows = list(csv.reader([line], skipinitialspace=True, strict=True))
    except csv.Error:
        raise Problem(422, "tags: a quote is not closed, or something follows it") from None
    return [tag.strip() for row in rows for tag in row if tag.strip()]


def tags_asked_for(values: list[str], known: Callable[[str], bool]) -> list[str]:
    """The tags that a query names, repeated or with commas between; one that is known as it is counts as
    one, whatever stands in it."""
    return [tag for value in values for tag in ([value] if known(value) else listed([value]))]


def check_version(if_match: str | None, version: int | str) -> None:
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
