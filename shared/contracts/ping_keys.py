"""Ping keys and aliases: each leads to one service, and whoever has it may send that service's heartbeats and
nothing else. So they are secrets, and stand in no log, metric, trace or error. Pure."""

import re
import uuid

ALIAS_RULE = r"^[A-Za-z0-9_.~-]{1,128}$"
ALIAS_RULE_IN_WORDS = "1-128 characters: letters, digits, '_', '.', '~' and '-'"
ALIASES_MAX = 20
"""Of one service."""

_ALIAS = re.compile(ALIAS_RULE.rstrip("$") + r"\Z")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def new() -> str:
    """A random UUID, as the key of a service."""
    return str(uuid.uuid4())


def is_uuid(text: str) -> bool:
    return _UUID.fullmatch(text) is not None


def is_alias(text: str) -> bool:
    return _ALIAS.match(text) is not None


def canonical(text: str) -> str:
    """The one way in which a key or an alias is written: a UUID in lower case, everything else as it is."""
    return text.lower() if is_uuid(text) else text
