"""Tags as people write them: in one line, with commas between. Pure.

A comma in a tag is refused, because lists of tags have commas between; services of older versions may have
such tags, which stand in quotes in that line.
"""

import csv
import unicodedata
from collections.abc import Callable, Iterable

from services.api.http.requests import listed
from shared.http.problems import Problem

_CONTROLS = {"Cc", "Zl", "Zp"}
"""Unicode's categories of what moves the line or the cursor."""


def check_allowed(tags: Iterable[str], had: Iterable[str] = ()) -> None:
    """Problem 422 for a tag with a comma or a control character in it, unless it was there before."""
    for tag in set(tags).difference(had):
        if "," in tag:
            raise Problem(422, f"tags: {tag!r} has a comma in it; make it two tags")
        if any(unicodedata.category(each) in _CONTROLS for each in tag):
            raise Problem(422, f"tags: {tag!r} has a control character in it")


def written(tags: Iterable[str]) -> str:
    return ", ".join(
        '"' + tag.replace('"', '""') + '"' if "," in tag or tag.startswith('"') else tag for tag in tags
    )


def read(line: str) -> list[str]:
    """The reverse of `written`. Problem 422 for what is no such line."""
    try:
        rows = list(csv.reader([line], skipinitialspace=True, strict=True))
    except csv.Error:
        raise Problem(422, "tags: a quote is not closed, or something follows it") from None
    return [tag.strip() for row in rows for tag in row if tag.strip()]


def asked_for(values: list[str], known: Callable[[str], bool]) -> list[str]:
    """The tags that a query names, repeated or with commas between; one that is known as it is counts as
    one, whatever stands in it."""
    return [tag for value in values for tag in ([value] if known(value) else listed([value]))]
