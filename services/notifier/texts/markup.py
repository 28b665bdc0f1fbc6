"""Texts in two forms: with Telegram's markup, and plain. The plain one goes to the log and to other channels,
and to Telegram should it refuse the markup. Lengths are those of the plain one, in UTF-16 units. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Text:
    """The same words in both forms. Strings that are added, before or behind, are escaped in the one."""

    html: str
    plain: str

    def __add__(self, other: "Text | str") -> "Text":
        more = as_text(other)
        return Text(self.html + more.html, self.plain + more.plain)

    def __radd__(self, other: str) -> "Text":
        return as_text(other) + self

    @property
    def units(self) -> int:
        return units(self.plain)


def as_text(text: Text | str) -> Text:
    return Text(escape(text), text) if isinstance(text, str) else text


def bold(text: Text | str) -> Text:
    text = as_text(text)
    return Text(f"<b>{text.html}</b>", text.plain)


def link(url: str, words: str, plain: str | None = None) -> Text:
    """`plain`: what stands in the plain form, if not the words."""
    html = f'<a href="{escape(url).replace(chr(34), "&quot;")}">{escape(words)}</a>'
    return Text(html, words if plain is None else plain)


def join(between: str, texts: Iterable[Text | str]) -> Text:
    parts = [as_text(text) for text in texts]
    return Text(between.join(part.html for part in parts), between.join(part.plain for part in parts))


def lines(texts: Iterable[Text | str]) -> Text:
    return join("\n", texts)


def escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def units(text: str) -> int:
    """Length as Telegram counts it."""
    return len(text.encode("utf-16-le")) // 2


def cut(text: str, most: int) -> str:
    """At most `most` UTF-16 units, never half a character."""
    if units(text) <= most:
        return text
    return text.encode("utf-16-le")[: (most - 1) * 2].decode("utf-16-le", errors="ignore") + "…"


def cut_middle(text: str, most: int) -> str:
    """The same, but of a longer text the end is kept as well: that is where a log says what went wrong."""
    if units(text) <= most:
        return text
    tail = text.encode("utf-16-le")[-(most * 2 // 3) * 2 :].decode("utf-16-le", errors="ignore")
    return cut(text, most - units(tail)) + tail


def one_line(text: str) -> str:
    return " ".join(text.split())
