"""What people read: changes of status and the daily digest as texts for Telegram. Pure.

Every text is made twice from the same pieces, with markup and without: the plain one goes to the log,
and to Telegram should it refuse the markup. Lengths are those of the plain one, in UTF-16 units.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from urllib.parse import quote
from zoneinfo import ZoneInfo

from shared.digest import MARKS, local
from shared.durations import spoken
from shared.events import Doubt, Status

ROOM = 3900
"""UTF-16 units for the body, of Telegram's 4,096; the rest is for the notes around it."""
MOST_BLOCKS = 5
"""Up to this many changes are told at length, one block each."""
MOST_LINES = 40
"""Up to this many get a line each; more are a storm, and only named."""
MOST_REASON = 300
MOST_NAME = 128
MOST_SAID = 200
MOST_WARNING = 120
"""UTF-16 units for the registry's doubt of itself."""
SAME_EPISODE = timedelta(hours=1)
"""The doubt is not said again for a change that follows the last doubted one by no more than this."""

Form = Callable[["Change", "Look"], tuple[str, str]]
"""Makes a change's text, with markup and without."""

REPEAT = "(possible repeat: an earlier attempt may have reached you)"

_FALLEN = {Status.DOWN, Status.DEAD}


@dataclass(frozen=True, slots=True)
class Change:
    """A change of status on its way to people. `seq`, `stored_at`: its place in the record."""

    seq: int
    stored_at: datetime
    name: str
    from_: Status
    to: Status
    since: datetime
    last_heartbeat: datetime | None
    reason: str
    began: datetime | None
    """When the status it left had begun; None if that is not known."""
    message: str | None = None
    duration: float | None = None
    doubt: Doubt | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """Where links lead, and whose clock is on the wall."""

    public_url: str
    zone: ZoneInfo


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `through_seq`: everything up to this change is told by it or by earlier ones."""

    text: str
    plain_text: str
    silent: bool
    through_seq: int
    fallen: tuple[str, ...] = ()
    risen: tuple[str, ...] = ()
    about: str | None = None
    """The service, if the message is about one alone."""
    doubted: datetime | None = None
    """Since when the newest of its changes holds that the registry doubts."""


def loud(change: Change) -> bool:
    return change.to in _FALLEN or change.from_ in _FALLEN


def pack(
    pending: Sequence[Change], look: Look, *, repeat: bool = False, doubted: datetime | None = None
) -> Message:
    """As many of the pending changes, in order, as one message holds: at least the first.

    In the richest form that holds all of them, else in the one that holds most. So what was packed once is
    packed alike when it is alone. `doubted`: the newest doubted change that the chat knows of.
    """
    texts, told, room = None, pending, ROOM
    if _warning(pending, doubted):
        told, room = [_without_doubt(change) for change in pending], ROOM - MOST_WARNING
    if len(pending) <= MOST_BLOCKS:
        texts = _one_by_one(told, look, room, _block, "\n\n")
    if texts is None and len(pending) <= MOST_LINES:
        texts = _one_by_one(told, look, room, _line, "\n") or _one_by_one(told, look, room, _short_line, "\n")
    taken, texts = (pending, texts) if texts else _storm(pending, look, room)
    html, plain = texts
    if warning := _warning(taken, doubted):
        html, plain = f"⚠️ <b>{warning}</b>\n\n{html}", f"⚠️ {warning}\n\n{plain}"
    if repeat:
        html, plain = f"{REPEAT}\n{html}", f"{REPEAT}\n{plain}"
    last = {change.name: change for change in taken}
    return Message(
        text=html,
        plain_text=plain,
        silent=not any(loud(change) for change in taken),
        through_seq=taken[-1].seq,
        fallen=tuple(name for name, change in last.items() if change.to is not Status.ALIVE),
        risen=tuple(name for name, change in last.items() if change.to is Status.ALIVE),
        about=taken[0].name if len(last) == 1 else None,
        doubted=_newest_doubted(taken),
    )


def _newest_doubted(changes: Sequence[Change]) -> datetime | None:
    return max((change.since for change in changes if change.doubt), default=None)


def _warning(changes: Sequence[Change], doubted: datetime | None) -> str:
    """That it may be the registry that is cut off, as it knew last; empty if the chat has been told."""
    newest = _newest_doubted(changes)
    if newest is None or (doubted and newest - doubted <= SAME_EPISODE):
        return ""
    doubt = next(change.doubt for change in reversed(changes) if change.doubt)
    text = (
        f"{doubt.stopped} of {doubt.of} services stopped within {_spoken(doubt.within)}: "
        "the registry may be cut off"
    )
    return cut(text, MOST_WARNING - 5)


def _without_doubt(change: Change) -> Change:
    """Its own reason alone, where the doubt is said above."""
    return replace(change, reason=change.reason.partition(";")[0]) if change.doubt else change


def digest_message(lines: Sequence[str], look: Look, through_seq: int, *, repeat: bool = False) -> Message:
    """The daily digest, from `shared.digest.lines`."""
    head = [REPEAT] if repeat else []
    home = f"{look.public_url}/"
    html = [*head, f"<b>{escape(lines[0])}</b>", *map(escape, lines[1:]), "", _anchor(home, "All services")]
    return Message("\n".join(html), "\n".join([*head, *lines, "", home]), True, through_seq)


def units(text: str) -> int:
    """Length as Telegram counts it."""
    return len(text.encode("utf-16-le")) // 2


def cut(text: str, most: int) -> str:
    """At most `most` UTF-16 units, never half a character."""
    if units(text) <= most:
        return text
    return text.encode("utf-16-le")[: (most - 1) * 2].decode("utf-16-le", errors="ignore") + "…"


def escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _anchor(url: str, text: str) -> str:
    return f'<a href="{escape(url).replace(chr(34), "&quot;")}">{escape(text)}</a>'


def _service_url(name: str, look: Look) -> str:
    return f"{look.public_url}/ui/service/{quote(name, safe='')}"


# --- few changes: a block or a line each


def _one_by_one(
    pending: Sequence[Change], look: Look, room: int, form: Form, between: str
) -> tuple[str, str] | None:
    """None if they do not fit into one message."""
    forms = [form(change, look) for change in pending]
    plain = between.join(plain for _, plain in forms)
    if units(plain) > room:
        return None
    return between.join(html for html, _ in forms), plain


def _block(change: Change, look: Look) -> tuple[str, str]:
    name = cut(change.name, MOST_NAME)
    url = _service_url(name, look)
    arrow = f"{change.from_} → {change.to}"
    details = [f"since {local(change.since, look.zone)}", _last_heartbeat(change, look)]
    if told := _what_happened(change):
        details.insert(0, told)
    if said := _said(change):
        details.insert(1 if told else 0, said)
    mark = MARKS[change.to]
    html = [f"{mark} <b>{_anchor(url, name)}</b>: {arrow}", *map(escape, details)]
    plain = [f"{mark} {name}: {arrow}", *details, url]
    return "\n".join(html), "\n".join(plain)


def _line(change: Change, look: Look) -> tuple[str, str]:
    html, plain = _short_line(change, look)
    failed = "failed " if change.to is not Status.ALIVE else ""
    more = "".join(f", {text}" for text in (_took(change, failed), _said(change)) if text)
    return html + escape(more), plain + more


def _short_line(change: Change, look: Look) -> tuple[str, str]:
    name = cut(change.name, MOST_NAME)
    rest = f" {change.from_} → {change.to} since {local(change.since, look.zone)}"
    rest += f", {length}" if (length := _how_long(change)) else f", {_last_heartbeat(change, look)}"
    mark = MARKS[change.to]
    return f"{mark} {_anchor(_service_url(name, look), name)}{escape(rest)}", f"{mark} {name}{rest}"


def _last_heartbeat(change: Change, look: Look) -> str:
    if change.last_heartbeat is None:
        return "never heard"
    return f"last heartbeat {local(change.last_heartbeat, look.zone)}"


def _what_happened(change: Change) -> str:
    """How long it lasted, for a recovery; that it is the first heartbeat; or the reason of a fall."""
    if change.to is not Status.ALIVE:
        return f"{cut(' '.join(change.reason.split()), MOST_REASON)} {_took(change)}".strip()
    told = "first heartbeat" if change.from_ is Status.UNKNOWN else _how_long(change)
    return ", ".join(filter(None, (told, _took(change))))


def _took(change: Change, failed: str = "") -> str:
    """How long the run was that ended with it: `ran 12 s`, or `after 12 s` for a failure."""
    if change.duration is None:
        return ""
    return f"{'ran' if change.to is Status.ALIVE else f'{failed}after'} {_spoken(change.duration)}"


def _said(change: Change) -> str:
    """What its heartbeat had to say, in one line."""
    text = " ".join((change.message or "").split())
    return f"“{cut(text, MOST_SAID)}”" if text else ""


def _how_long(change: Change) -> str:
    if change.to is not Status.ALIVE or change.from_ is Status.UNKNOWN or change.began is None:
        return ""
    return f"was {change.from_} for {spoken(change.since - change.began)}"


def _spoken(seconds: float) -> str:
    return spoken(timedelta(seconds=seconds))


# --- a storm: names under the change they share


@dataclass(slots=True)
class _Group:
    """Services that changed alike, in order."""

    from_: Status
    to: Status
    first: datetime
    last: datetime
    names: list[str] = field(default_factory=list)

    def heading(self, look: Look) -> tuple[str, str]:
        count = f"({len(self.names)})"
        when, until = f"since {local(self.first, look.zone)}", local(self.last, look.zone)
        if not when.endswith(until):
            when += f" to {until}"
        arrow = f"{self.from_} → {self.to}"
        return (
            f"{MARKS[self.to]} <b>{arrow}</b> {count}, {when}:",
            f"{MARKS[self.to]} {arrow} {count}, {when}:",
        )


_HEADING = 120
"""UTF-16 units that a group's heading takes, at most."""


def _storm(pending: Sequence[Change], look: Look, room: int) -> tuple[Sequence[Change], tuple[str, str]]:
    home = f"{look.public_url}/"
    groups: list[_Group] = []
    last_group: dict[str, int] = {}
    room -= units(home) + 100
    count = 0
    for change in pending:
        name = cut(change.name, MOST_NAME)
        at = _group_for(change, groups, last_group)
        room -= units(name) + 2 + (_HEADING if at == len(groups) else 0)
        if count and room < 0:
            break
        if at == len(groups):
            groups.append(_Group(change.from_, change.to, change.since, change.since))
        group = groups[at]
        group.first, group.last = min(group.first, change.since), max(group.last, change.since)
        group.names.append(name)
        last_group[change.name] = at
        count += 1
    waiting = len(pending) - count
    title = f"{count} changes" + (f", {waiting} more follow" if waiting else "")
    headings = [group.heading(look) for group in groups]
    names = [", ".join(group.names) for group in groups]
    html = [f"<b>{title}</b>", *_under((h for h, _ in headings), map(escape, names))]
    plain = [title, *_under((p for _, p in headings), names)]
    return pending[:count], (
        "\n".join([*html, _anchor(home, "All services")]),
        "\n".join([*plain, home]),
    )


def _group_for(change: Change, groups: Sequence[_Group], last_group: dict[str, int]) -> int:
    """The group to join; never one before another that names the same service, so that its changes stay
    in order. `len(groups)`: a new one."""
    earliest = last_group.get(change.name, -1) + 1
    for at in range(len(groups) - 1, earliest - 1, -1):
        if groups[at].from_ is change.from_ and groups[at].to is change.to:
            return at
    return len(groups)


def _under(headings: Iterable[str], names: Iterable[str]) -> list[str]:
    return [f"{heading}\n{listed}" for heading, listed in zip(headings, names, strict=True)]
