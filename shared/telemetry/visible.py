"""Makes text of others harmless on a terminal. Pure."""

import re

_DIRECTIONS = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""They change the order in which text is shown."""
_CONTROL = re.compile(f"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff{_DIRECTIONS}]")


def visible(text: str) -> str:
    r"""The text in one line, with \x1b and the like in place of control characters."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def visible_lines(text: str, indent: str = "") -> str:
    """The same with its line breaks, each followed by an indent, so that no line looks like one of ours."""
    return f"\n{indent}".join(visible(line) for line in text.split("\n"))
