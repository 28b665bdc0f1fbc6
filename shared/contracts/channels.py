"""Channels as variables name them: `ops=-1001234567890`, `chat-ops=https://…`. Pure."""

import re
from collections.abc import Iterable, Sequence

NAME = "a name before one as in ops=…"
_NAMED = re.compile(r"([a-z][a-z0-9-]*)=(.*)", re.DOTALL)


def name_of(configured: str) -> str:
    """Empty if it has none. No address without a name looks as if it had one: none has `=` so early."""
    found = _NAMED.fullmatch(configured)
    return found[1] if found else ""


def address_of(configured: str) -> str:
    found = _NAMED.fullmatch(configured)
    return found[2] if found else configured


def named_twice(configured: Iterable[str]) -> str | None:
    """The first name that two of them have, if any."""
    names = [name for each in configured if (name := name_of(each))]
    return next((name for name in names if names.count(name) > 1), None)


def all_names(configured: Sequence[str], otherwise: Sequence[str]) -> list[str]:
    """Each one's own name, or else what it is called `otherwise`; a second of the same has -2 behind it."""
    own = list(map(name_of, configured))
    taken, found = {*own}, []
    for name, called in zip(own, otherwise, strict=True):
        count, unused = 1, name or called
        while not name and unused in taken:
            count += 1
            unused = f"{called}-{count}"
        taken.add(unused)
        found.append(unused)
    return found
