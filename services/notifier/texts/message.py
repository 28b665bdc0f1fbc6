"""A message on its way to a receiver, and what all messages have in common. Pure.

Texts have two forms: with Telegram's markup, and plain. The plain one goes to the log and to other channels,
and to Telegram should it refuse the markup. Lengths are those of the plain one, in UTF-16 units.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from urllib.parse import quote
from zoneinfo import ZoneInfo

from services.notifier.alerting.changes import Notice, StatusChange, UnusualRun
from shared.contracts.events import Status
from shared.contracts.zones import local
from shared.domain.digest import MARKS


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


MAX_BODY = 3900
"""UTF-16 units for the body, of Telegram's 4,096; the rest is for the notes above it."""
MAX_NAME = 128
REPEAT = "(possible repeat: an earlier attempt may have reached you)"

Buttons = tuple[tuple[tuple[str, str], ...], ...]
"""Rows of buttons: what each says, and what comes back when it is pressed."""


@dataclass(frozen=True, slots=True)
class LinkContext:
    """Where links lead, and in which time zone times are written."""

    public_url: str
    zone: ZoneInfo


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """`through_seq`: everything up to this change is told by this message or by earlier ones."""

    text: str
    plain_text: str
    silent: bool
    through_seq: int
    problems: tuple[str, ...] = ()
    recoveries: tuple[str, ...] = ()
    changes: tuple[StatusChange, ...] = ()
    """What it tells, for channels that are read by programs."""
    id: str = ""
    """The same when it is sent again."""
    about: str | None = None
    """The service, if the message is about one alone."""
    buttons: Buttons = ()
    doubted: datetime | None = None
    """Since when the newest of its changes holds that the registry doubts."""
    notices: tuple[Notice, ...] = ()
    """What it tells though nothing has changed."""
    falls: tuple[str, ...] = ()
    """The services that it says are down, or dead."""
    runs: tuple[UnusualRun, ...] = ()
    """The runs of an unusual length that it tells of."""


def late_note(since: datetime, links: LinkContext) -> str:
    """Above what was kept for a receiver that refused messages."""
    return f"(late: this chat took no messages since {local(since, links.zone)})"


def digest_message(
    digest: Sequence[str], links: LinkContext, through_seq: int, notes: Sequence[str] = ()
) -> OutgoingMessage:
    """`digest`: from `shared.domain.digest`; its first line is the title."""
    title, *rest = digest
    text = lines([*notes, bold(title), *rest, "", home_link(links)])
    return OutgoingMessage(text.html, text.plain, True, through_seq)


def channel_test_message(channel: str, now: datetime, links: LinkContext) -> OutgoingMessage:
    said = f"It was sent to the channel {channel} {local(now, links.zone)}; nothing has happened."
    text = lines([bold("Test message of the registry"), said, "", home_link(links)])
    return OutgoingMessage(text.html, text.plain, False, 0, id=f"test.{now.isoformat()}")


def answer(text: Text, buttons: Buttons = ()) -> OutgoingMessage:
    """A message that tells of no change."""
    return OutgoingMessage(text.html, text.plain, True, 0, buttons=buttons)


def answer_lines(*texts: str) -> OutgoingMessage:
    return answer(lines(texts))


def service_buttons(name: str) -> Buttons:
    return ((("Mute 1h", f"mute:{button_key(name)}"), ("Details", f"details:{button_key(name)}")),)


def button_key(name: str) -> str:
    """A service in the 64 bytes that come back from a button."""
    return blake2b(name.encode(), digest_size=8).hexdigest()


def service_url(name: str, links: LinkContext) -> str:
    return f"{links.public_url}/ui/service/{quote(name, safe='')}"


def service_link(name: str, links: LinkContext) -> Text:
    name = cut(name, MAX_NAME)
    return link(service_url(name, links), name)


def service_block(name: str, status: Status, title: str, details: Iterable[str], links: LinkContext) -> Text:
    """In the plain form with the address, as nothing can be linked there."""
    heading = f"{MARKS[status]} " + bold(service_link(name, links)) + f": {title}"
    return lines([heading, *details]) + Text("", f"\n{service_url(cut(name, MAX_NAME), links)}")


def home_link(links: LinkContext, words: str = "All services") -> Text:
    """In the plain form the address itself."""
    home = f"{links.public_url}/"
    return link(home, words, plain=home)
