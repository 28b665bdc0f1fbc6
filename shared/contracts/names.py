"""A service's name made of any text, for what comes from other systems. Pure."""

import re

from shared.contracts.events import NAME_MAX

_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9_.-]")
_ODD_DOT = re.compile(r"^\.|(?<=\.)\.|\.\Z")


def mended(given: str) -> str:
    """The name with `-` for each character that is not allowed in one, cut where it is too long."""
    return _ODD_DOT.sub("-", _NOT_ALLOWED.sub("-", given[:NAME_MAX])) or "-"
