"""What others wrote, so that a terminal shows it and does not obey it. Pure."""

import re

_DIRECTIONS = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""They make text read in another order than it is written in."""
_ACTING = re.compile(f"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff{_DIRECTIONS}]")


def visible(text: str) -> str:
    r"""In one line, with \x1b and the like in place of control characters."""
    return _ACTING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def visible_lines(text: str, indent: str = "") -> str:
    """The same with its line breaks, and an indent behind each, so that no line passes for one of ours."""
    return f"\n{indent}".join(visible(line) for line in text.split("\n"))
