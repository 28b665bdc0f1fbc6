"""`registry.yaml` with comments, and the list of what is left over, as they are printed. Pure.

The same entries are the same bytes. Texts are written so that no reader of YAML takes them for anything else.
"""

import re
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from services.cli.imports.draft import Draft

WIDTH = 110
_PLAIN = re.compile(r"[A-Za-z_](?:[A-Za-z0-9_./-]*[A-Za-z0-9_])?")
_WORDS = frozenset(("true", "false", "null", "yes", "no", "on", "off", "y", "n"))
_LENGTH = re.compile(r"(?=[0-9])(?:[0-9]+d)?(?:[0-9]+h)?(?:[0-9]+m)?(?:[0-9]+(?:\.[0-9]+)?s)?")
_SHORT = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}
KEYS_ARE_SECRETS = (
    "The aliases are secrets: whoever has one can send the heartbeats of its service, and nothing else."
)


def as_yaml(draft: Draft, made_by: str, intro: Iterable[str] = ()) -> str:
    """The file. `made_by`: the command, without secrets."""
    lines = [*_comment(f"Made by `{made_by}`.")]
    for paragraph in intro if draft.entries else ():
        lines += _comment(paragraph)
    if any("aliases" in entry.fields for entry in draft.entries):
        lines += _comment(KEYS_ARE_SECRETS)
    if draft.leftovers:
        lines += ["#", "# Not carried over:"]
        for line in leftover_lines(draft):
            lines += _comment(line, "# - ", "#   ")
    lines += ["version: 1", "services:" if draft.entries else "services: {}"]
    for entry in draft.entries:
        lines += _comment(entry.comment, "  # ", "  # ")
        lines.append(f"  {scalar(entry.name)}:" + ("" if entry.fields else " {}"))
        lines += (f"    {key}: {_value(value)}" for key, value in entry.fields.items())
    return "\n".join(lines) + "\n"


def leftover_lines(draft: Draft) -> Iterator[str]:
    for why, whose in draft.leftovers.items():
        yield f"{why}: {', '.join(whose)}" if whose else why


def _comment(text: str, first: str = "# ", rest: str = "# ") -> list[str]:
    r"""In lines, with \x1b and the like in place of control characters."""
    text = "".join(each if each.isprintable() else _escaped(each) for each in text)
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(map(scalar, value))}]"
    return scalar(value)


def scalar(text: str) -> str:
    """A text as YAML."""
    if (_PLAIN.fullmatch(text) and text.lower() not in _WORDS) or _LENGTH.fullmatch(text):
        return text
    return (
        '"'
        + "".join(_escaped(each) if each in '"\\' or not each.isprintable() else each for each in text)
        + '"'
    )


def _escaped(character: str) -> str:
    if short := _SHORT.get(character):
        return short
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
