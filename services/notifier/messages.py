"""What people read: changes of status and the daily digest as texts for Telegram. Pure.

Every text is made twice from the same pieces, with markup and without: the plain one goes to the log,
and to Telegram should it refuse the markup. Lengths are those of the plain one, in UTF-16 units.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import blake2b
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

MOST_STEPS = 4
"""Changes of one service whose statuses are all written out; of more only the first and the last."""

Form = Callable[["Story", "Look"], tuple[str, str]]
"""Makes a story's text, with markup and without."""

_NOTICE_LINE = 260
"""UTF-16 units of a notice in one line, at most."""

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
    flaps: int = 0
    """With this change it is flapping: its turns within the hour."""
    still_flaps: bool = False
    """It has been flapping since an earlier change."""
    trace: str | None = None
    """The `traceparent` it belongs to."""
    quiet: bool = False
    """Its service was paused, or not to be told of, when it was stored."""


class Kind(StrEnum):
    """What a notice tells of a service."""

    REMINDER = "reminder"
    """It is still down."""
    OWED = "owed"
    """How it is, which was withheld until now."""
    STAYS = "stays"
    """It flaps, and is down for some minutes now."""
    CALM = "calm"
    """It flaps no more."""
    FLAPS = "flaps"
    """It still flaps."""


@dataclass(frozen=True, slots=True, order=True)
class Notice:
    """Something to tell because of the time, or because nothing holds it back any more. `seq`, `status`,
    `since`: of the change that it is about. `flapped`: how many changes it made while it flapped, since
    `flapping_since`. `maybe`: an earlier attempt may have told it."""

    at: datetime
    name: str
    seq: int
    status: Status
    since: datetime
    flapped: int = 0
    kind: Kind = Kind.REMINDER
    flapping_since: datetime | None = None
    maybe: bool = False


@dataclass(frozen=True, slots=True)
class Deafness:
    """The registry could take no heartbeats. `until`: None while it lasts. `cut_off`: all that is known is
    that the notifier cannot reach the broker."""

    since: datetime
    until: datetime | None = None
    cut_off: bool = False


@dataclass(frozen=True, slots=True)
class Story:
    """What became of one service while a chat waited: told at once, whatever happened in between."""

    changes: tuple[Change, ...]

    @property
    def name(self) -> str:
        return self.changes[0].name

    @property
    def last(self) -> Change:
        return self.changes[-1]

    @property
    def path(self) -> str:
        """`alive → silent → down`."""
        first, last = self.changes[0].from_, self.last.to
        if len(self.changes) > MOST_STEPS:
            return f"{first} → … → {last} ({len(self.changes)} changes)"
        return " → ".join([first, *(change.to for change in self.changes)])

    @property
    def flaps(self) -> int:
        return max(change.flaps for change in self.changes)

    @property
    def is_flapping(self) -> bool:
        return bool(self.flaps) or self.last.still_flaps

    @property
    def came_to_nothing(self) -> bool:
        """Fell silent and came back before anybody was told."""
        return self.changes[0].from_ is self.last.to and not any(map(loud, self.changes))


def stories(changes: Iterable[Change]) -> list[Story]:
    """What there is to tell, in the order in which it began."""
    by_name: dict[str, list[Change]] = {}
    for change in changes:
        by_name.setdefault(change.name, []).append(change)
    return [it for its in by_name.values() if not (it := Story(tuple(its))).came_to_nothing]


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
    changes: tuple[Change, ...] = ()
    """What it tells, for channels that are no people."""
    id: str = ""
    """The same when it is sent again."""
    about: str | None = None
    """The service, if the message is about one alone."""
    buttons: tuple[tuple[tuple[str, str], ...], ...] = ()
    """Rows of buttons: what each says, and what comes back when it is pressed."""
    doubted: datetime | None = None
    """Since when the newest of its changes holds that the registry doubts."""
    notices: tuple[Notice, ...] = ()
    """What it tells because of the time."""


def loud(change: Change) -> bool:
    return change.to in _FALLEN or change.from_ in _FALLEN


def pack(
    pending: Sequence[Change],
    look: Look,
    *,
    repeat: bool = False,
    doubted: datetime | None = None,
    late: str = "",
) -> Message:
    """As many of the pending changes, in order, as one message holds: at least the first that has something
    to tell (`stories` must find one).

    In the richest form that holds all of them, else in the one that holds most. So what was packed once is
    packed alike when it is alone. `doubted`: the newest doubted change that the chat knows of.
    """
    texts, room = None, ROOM
    told = stories(pending)
    names = {story.name for story in told}
    pending = [change for change in pending if change.name in names]
    if _warning(pending, doubted):
        told, room = stories(map(_without_doubt, pending)), ROOM - MOST_WARNING
    if len(told) <= MOST_BLOCKS:
        texts = _one_by_one(told, look, room, _block, "\n\n")
    if texts is None and len(told) <= MOST_LINES:
        texts = _one_by_one(told, look, room, _line, "\n") or _one_by_one(told, look, room, _short_line, "\n")
    taken, texts = (pending, texts) if texts else _storm(pending, look, room)
    html, plain = texts
    if warning := _warning(taken, doubted):
        html, plain = f"⚠️ <b>{warning}</b>\n\n{html}", f"⚠️ {warning}\n\n{plain}"
    heads = _heads(repeat, late)
    html, plain = "\n".join([*map(escape, heads), html]), "\n".join([*heads, plain])
    last = {it.name: it.last for it in stories(taken)}
    about = next(iter(last)) if len(last) == 1 else None
    return Message(
        text=html,
        plain_text=plain,
        silent=not any(loud(change) for change in taken),
        through_seq=taken[-1].seq,
        fallen=tuple(name for name, change in last.items() if change.to is not Status.ALIVE),
        risen=tuple(name for name, change in last.items() if change.to is Status.ALIVE),
        changes=tuple(taken),
        about=about,
        buttons=_buttons(about) if about and last[about].to in _FALLEN else (),
        doubted=_newest_doubted(taken),
    )


def _buttons(name: str) -> tuple[tuple[tuple[str, str], ...], ...]:
    return ((("Mute 1h", f"mute:{short(name)}"), ("Details", f"details:{short(name)}")),)


def short(name: str) -> str:
    """A service in the 64 bytes that come back from a button."""
    return blake2b(name.encode(), digest_size=8).hexdigest()


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


def digest_message(
    lines: Sequence[str], look: Look, through_seq: int, *, repeat: bool = False, late: str = ""
) -> Message:
    """The daily digest, from `shared.digest.lines`."""
    head = _heads(repeat, late)
    home = f"{look.public_url}/"
    html = [*head, f"<b>{escape(lines[0])}</b>", *map(escape, lines[1:]), "", anchor(home, "All services")]
    return Message("\n".join(html), "\n".join([*head, *lines, "", home]), True, through_seq)


def notice_message(
    notices: Sequence[Notice],
    look: Look,
    through_seq: int,
    withheld: Mapping[str, Change] = {},
    *,
    repeat: bool = False,
    late: str = "",
) -> Message:
    """Reminders, or what was owed. Of reminders those that do not fit are counted; of what was owed as many
    of the first are told as fit by name (`notices` of the message). `withheld`: by service, the change that
    its notice makes up for, which reads as the change itself would have, where there are few."""
    reminders = all(it.kind is Kind.REMINDER for it in notices)
    blocks = _blocks(withheld.values(), look) if len(notices) <= MOST_BLOCKS else {}
    html: list[str] = []
    plain: list[str] = []
    room = ROOM
    for told, notice in enumerate(notices):
        change = withheld.get(notice.name)
        if notice.name in blocks:
            html.append(blocks[notice.name][0])
            plain.append(blocks[notice.name][1])
            continue
        name, rest = cut(notice.name, MOST_NAME), _notice(notice, look)
        rest += f", {cut(' '.join(change.reason.split()), MOST_SAID)}" if change and change.reason else ""
        room -= units(f"{name}{rest}") + 6
        if room < 0 or (told >= MOST_LINES and not reminders):
            if not reminders:
                notices, html, plain = _many_notices(notices, look)
                break
            more, home = f"+{len(notices) - told} more", f"{look.public_url}/"
            html.append(f"{more}: {anchor(home, 'all services')}")
            plain.append(f"{more}: {home}")
            break
        mark = _notice_mark(notice)
        html.append(f"{mark} <b>{anchor(service_url(name, look), name)}</b>{escape(rest)}")
        plain.append(f"{mark} {name}{rest}")
    heads = _heads(repeat or any(it.maybe for it in notices), late)
    between = "\n\n" if blocks else "\n"
    states = [it for it in notices if it.kind not in (Kind.REMINDER, Kind.FLAPS)]
    about = notices[0].name if len(notices) == 1 else None
    return Message(
        text="\n".join([*map(escape, heads), between.join(html)]),
        plain_text="\n".join([*heads, between.join(plain)]),
        silent=all(it.status is Status.SILENT for it in notices),
        through_seq=through_seq,
        fallen=tuple(it.name for it in states if it.status is not Status.ALIVE),
        risen=tuple(it.name for it in states if it.status is Status.ALIVE),
        about=about,
        buttons=_buttons(about) if about and withheld and notices[0].status in _FALLEN else (),
        notices=tuple(notices),
    )


def deafness_message(
    it: Deafness, now: datetime, look: Look, through_seq: int, *, repeat: bool = False, late: str = ""
) -> Message:
    """That the registry takes no heartbeats, or none for a while that is over."""
    since, length = local(it.since, look.zone), spoken((it.until or now) - it.since)
    if it.until and it.cut_off:
        text = f"The broker can be reached again, after {length}; heartbeats were taken all the while"
    elif it.until:
        text = (
            f"The registry takes heartbeats again. It could not from {since} to {local(it.until, look.zone)} "
            f"({length}): nobody was evaluated for that time"
        )
    elif it.cut_off:
        text = (
            f"The broker cannot be reached since {since}, for {length}: heartbeats may not be taken, and no "
            "change is told until it can"
        )
    else:
        text = (
            f"The registry takes no heartbeats since {since}, for {length}: nobody is evaluated until it does"
        )
    lines = [*_heads(repeat, late), f"📡 {text}"]
    return Message("\n".join(map(escape, lines)), "\n".join(lines), False, through_seq)


def _heads(repeat: bool, late: str) -> list[str]:
    return [*([REPEAT] if repeat else []), *([late] if late else [])]


def late_note(since: datetime, look: Look) -> str:
    """Above what was kept for a chat that refused messages."""
    return f"(late: this chat took no messages since {local(since, look.zone)})"


def _notice_mark(notice: Notice) -> str:
    return "🔁" if notice.kind is Kind.FLAPS else MARKS[notice.status]


def _notice(notice: Notice, look: Look) -> str:
    since = f"since {local(notice.since, look.zone)}"
    match notice.kind:
        case Kind.CALM:
            changes = f"{notice.flapped} changes while it was flapping"
            return f" has calmed down: {notice.status} {since}, {changes}"
        case Kind.STAYS:
            return f" stays {notice.status}: {since}, after {notice.flapped} changes; it is flapping"
        case Kind.FLAPS:
            length = spoken(notice.at - (notice.flapping_since or notice.since))
            return f" is still flapping: {notice.flapped} changes in {length}"
    if notice.status is Status.ALIVE:
        return f" alive again {since}"
    return f" still {notice.status} for {spoken(notice.at - notice.since)}, {since}"


def _many_notices(notices: Sequence[Notice], look: Look) -> tuple[Sequence[Notice], list[str], list[str]]:
    """As many of the first as can be named; those alike stand together."""
    home = f"{look.public_url}/"
    room, groups, taken = ROOM - units(home) - 100, dict[str, list[Notice]](), 0
    for notice in notices:
        alike = _alike(notice)
        room -= units(cut(notice.name, MOST_NAME)) + 2 + (0 if alike in groups else 40)
        if room < 0 and taken:
            break
        groups.setdefault(alike, []).append(notice)
        taken += 1
    waiting = len(notices) - taken
    title = f"{taken} services" + (f", {waiting} more follow" if waiting else "")
    html, plain = [f"<b>{title}</b>"], [title]
    for alike, those in groups.items():
        heading = f"{alike} ({len(those)}):"
        names = ", ".join(cut(it.name, MOST_NAME) for it in those)
        html.append(f"<b>{heading}</b>\n{escape(names)}")
        plain.append(f"{heading}\n{names}")
    return notices[:taken], [*html, anchor(home, "All services")], [*plain, home]


def _alike(notice: Notice) -> str:
    match notice.kind:
        case Kind.CALM:
            said = f"calmed down, {notice.status}"
        case Kind.STAYS:
            said = f"flapping, stays {notice.status}"
        case Kind.FLAPS:
            said = "still flapping"
        case _:
            said = "alive again" if notice.status is Status.ALIVE else f"still {notice.status}"
    return f"{_notice_mark(notice)} {said}"


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


def escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def anchor(url: str, text: str) -> str:
    return f'<a href="{escape(url).replace(chr(34), "&quot;")}">{escape(text)}</a>'


def service_url(name: str, look: Look) -> str:
    return f"{look.public_url}/ui/service/{quote(name, safe='')}"


# --- few changes: a block or a line each


def _one_by_one(
    told: Sequence[Story], look: Look, room: int, form: Form, between: str
) -> tuple[str, str] | None:
    """None if they do not fit into one message."""
    forms = [form(story, look) for story in told]
    plain = between.join(plain for _, plain in forms)
    if units(plain) > room:
        return None
    return between.join(html for html, _ in forms), plain


def _block(story: Story, look: Look, now: datetime | None = None) -> tuple[str, str]:
    """`now`: when it is told, if that is later than usual."""
    change, name = story.last, cut(story.name, MOST_NAME)
    url = service_url(name, look)
    told = (
        _what_happened(change),
        _said(story),
        f"since {local(change.since, look.zone)}" + (f", for {spoken(now - change.since)}" if now else ""),
        _last_heartbeat(change, look),
        _flapping(story),
    )
    details = [text for text in told if text]
    mark = MARKS[change.to]
    html = [f"{mark} <b>{anchor(url, name)}</b>: {story.path}", *map(escape, details)]
    plain = [f"{mark} {name}: {story.path}", *details, url]
    return "\n".join(html), "\n".join(plain)


def _blocks(changes: Iterable[Change], look: Look) -> dict[str, tuple[str, str]]:
    """By service; empty if they may not all fit into one message, with lines of other notices."""
    found = {it.name: _block(Story((it,)), look, it.stored_at) for it in changes}
    taken = sum(units(plain) for _, plain in found.values())
    return found if taken + MOST_BLOCKS * _NOTICE_LINE <= ROOM else {}


def _flapping(story: Story) -> str:
    """That it flaps, and what of it is told next: always that it is back from what was told."""
    if not story.is_flapping:
        return ""
    how = f"flapping: {story.flaps} turns within an hour" if story.flaps else "still flapping"
    then = {
        Status.ALIVE: "down for 5 min or calm for 30 min",
        Status.SILENT: "back, down for 5 min or calm for 30 min",
    }.get(story.last.to, "back")
    return f"🔁 {how}; next you hear when it is {then}"


def _line(story: Story, look: Look) -> tuple[str, str]:
    html, plain = _short_line(story, look)
    failed = "failed " if story.last.to is not Status.ALIVE else ""
    more = "".join(f", {text}" for text in (_took(story.last, failed), _said(story)) if text)
    return html + escape(more), plain + more


def _short_line(story: Story, look: Look) -> tuple[str, str]:
    change, name = story.last, cut(story.name, MOST_NAME)
    rest = f" {story.path} since {local(change.since, look.zone)}"
    rest += f", {length}" if (length := _how_long(change)) else f", {_last_heartbeat(change, look)}"
    rest += ", flapping 🔁" if story.is_flapping else ""
    mark = MARKS[change.to]
    return f"{mark} {anchor(service_url(name, look), name)}{escape(rest)}", f"{mark} {name}{rest}"


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


def _said(story: Story) -> str:
    """What its newest heartbeat with a message had to say, in one line."""
    message = next((change.message for change in reversed(story.changes) if change.message), None)
    text = " ".join((message or "").split())
    return f"“{cut_middle(text, MOST_SAID)}”" if text else ""


def _how_long(change: Change) -> str:
    if change.to is not Status.ALIVE or change.from_ is Status.UNKNOWN or change.began is None:
        return ""
    return f"was {change.from_} for {spoken(change.since - change.began)}"


def _spoken(seconds: float) -> str:
    return spoken(timedelta(seconds=seconds))


# --- a storm: names under the changes they share


_HEADING = 140
"""UTF-16 units that a group's heading takes, at most."""
_MORE = 10
"""And what may stand behind a name."""


def _storm(pending: Sequence[Change], look: Look, room: int) -> tuple[Sequence[Change], tuple[str, str]]:
    home = f"{look.public_url}/"
    taken = _that_fit(pending, room - units(home) - 100)
    groups: dict[str, list[Story]] = {}
    for story in stories(taken):
        groups.setdefault(story.path, []).append(story)
    waiting = len(pending) - len(taken)
    title = f"{len(taken)} changes" + (f", {waiting} more follow" if waiting else "")
    html, plain = [f"<b>{title}</b>"], [title]
    for path, alike in groups.items():
        mark, rest = MARKS[alike[0].last.to], f" ({len(alike)}), {_when(alike, look)}:\n"
        names = ", ".join(cut(it.name, MOST_NAME) + (" 🔁" if it.is_flapping else "") for it in alike)
        html.append(f"{mark} <b>{path}</b>{rest}{escape(names)}")
        plain.append(f"{mark} {path}{rest}{names}")
    return taken, ("\n".join([*html, anchor(home, "All services")]), "\n".join([*plain, home]))


def _that_fit(pending: Sequence[Change], room: int) -> Sequence[Change]:
    """As many of the first as can be named in so many units: at least one."""
    known: dict[str, tuple[Change, ...]] = {}
    paths: set[str] = set()
    for count, change in enumerate(pending):
        if change.name not in known:
            flaps = bool(change.flaps) or change.still_flaps
            room -= units(cut(change.name, MOST_NAME)) + 2 + _MORE * flaps
        known[change.name] = (*known.get(change.name, ()), change)
        path = Story(known[change.name]).path
        room -= 0 if path in paths else _HEADING
        paths.add(path)
        if count and room < 0:
            return pending[:count]
    return pending


def _when(alike: Sequence[Story], look: Look) -> str:
    first, last = (f(it.last.since for it in alike) for f in (min, max))
    when, until = f"since {local(first, look.zone)}", local(last, look.zone)
    return when if when.endswith(until) else f"{when} to {until}"
