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

from shared.contracts.durations import spoken, spoken_seconds
from shared.contracts.events import Doubt, Status
from shared.contracts.zones import local
from shared.domain.digest import MARKS

MAX_BODY = 3900
"""UTF-16 units for the body, of Telegram's 4,096; the rest is for the notes around it."""
MAX_BLOCKS = 5
"""Up to this many changes are told at length, one block each."""
MAX_LINES = 40
"""Up to this many get a line each; more are a storm, and only named."""
MAX_REASON = 300
MAX_NAME = 128
MAX_EXCERPT = 200
MAX_WARNING = 120
"""UTF-16 units for the registry's doubt of itself."""
SAME_EPISODE = timedelta(hours=1)
"""The doubt is not said again for a change that follows the last doubted one by no more than this."""

MAX_STEPS = 4
"""Changes of one service whose statuses are all written out; of more only the first and the last."""

Renderer = Callable[["AlertGroup", "LinkContext"], tuple[str, str]]
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
    silenced: bool = False
    """Its service was paused, or not to be told of, when it was stored."""


class NoticeKind(StrEnum):
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
    kind: NoticeKind = NoticeKind.REMINDER
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
class AlertGroup:
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
        if len(self.changes) > MAX_STEPS:
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
        return self.changes[0].from_ is self.last.to and not any(map(is_loud, self.changes))


def group_by_service(changes: Iterable[Change]) -> list[AlertGroup]:
    """What there is to tell, in the order in which it began."""
    by_name: dict[str, list[Change]] = {}
    for change in changes:
        by_name.setdefault(change.name, []).append(change)
    return [it for its in by_name.values() if not (it := AlertGroup(tuple(its))).came_to_nothing]


@dataclass(frozen=True, slots=True)
class LinkContext:
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
    problems: tuple[str, ...] = ()
    recoveries: tuple[str, ...] = ()
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


def is_loud(change: Change) -> bool:
    return change.to in _FALLEN or change.from_ in _FALLEN


def pack(
    pending: Sequence[Change],
    links: LinkContext,
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
    texts, room = None, MAX_BODY
    told = group_by_service(pending)
    names = {story.name for story in told}
    pending = [change for change in pending if change.name in names]
    if _warning(pending, doubted):
        told, room = group_by_service(map(_without_doubt, pending)), MAX_BODY - MAX_WARNING
    if len(told) <= MAX_BLOCKS:
        texts = _one_by_one(told, links, room, _block, "\n\n")
    if texts is None and len(told) <= MAX_LINES:
        texts = _one_by_one(told, links, room, _line, "\n") or _one_by_one(
            told, links, room, _short_line, "\n"
        )
    taken, texts = (pending, texts) if texts else _storm(pending, links, room)
    html, plain = texts
    if warning := _warning(taken, doubted):
        html, plain = f"⚠️ <b>{warning}</b>\n\n{html}", f"⚠️ {warning}\n\n{plain}"
    heads = _header_lines(repeat, late)
    html, plain = "\n".join([*map(escape, heads), html]), "\n".join([*heads, plain])
    last = {it.name: it.last for it in group_by_service(taken)}
    about = next(iter(last)) if len(last) == 1 else None
    return Message(
        text=html,
        plain_text=plain,
        silent=not any(is_loud(change) for change in taken),
        through_seq=taken[-1].seq,
        problems=tuple(name for name, change in last.items() if change.to is not Status.ALIVE),
        recoveries=tuple(name for name, change in last.items() if change.to is Status.ALIVE),
        changes=tuple(taken),
        about=about,
        buttons=_buttons(about) if about and last[about].to in _FALLEN else (),
        doubted=_newest_doubted(taken),
    )


def _buttons(name: str) -> tuple[tuple[tuple[str, str], ...], ...]:
    return ((("Mute 1h", f"mute:{button_key(name)}"), ("Details", f"details:{button_key(name)}")),)


def button_key(name: str) -> str:
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
        f"{doubt.stopped} of {doubt.of} services stopped within {spoken_seconds(doubt.within)}: "
        "the registry may be cut off"
    )
    return cut(text, MAX_WARNING - 5)


def _without_doubt(change: Change) -> Change:
    """Its own reason alone, where the doubt is said above."""
    return replace(change, reason=change.reason.partition(";")[0]) if change.doubt else change


def digest_message(
    lines: Sequence[str], links: LinkContext, through_seq: int, *, repeat: bool = False, late: str = ""
) -> Message:
    """The daily digest, from `shared.domain.digest.lines`."""
    head = _header_lines(repeat, late)
    home = f"{links.public_url}/"
    html = [*head, f"<b>{escape(lines[0])}</b>", *map(escape, lines[1:]), "", anchor(home, "All services")]
    return Message("\n".join(html), "\n".join([*head, *lines, "", home]), True, through_seq)


def notice_message(
    notices: Sequence[Notice],
    links: LinkContext,
    through_seq: int,
    withheld: Mapping[str, Change] = {},
    *,
    repeat: bool = False,
    late: str = "",
) -> Message:
    """Reminders, or what was owed. Of reminders those that do not fit are counted; of what was owed as many
    of the first are told as fit by name (`notices` of the message). `withheld`: by service, the change that
    its notice makes up for, which reads as the change itself would have, where there are few."""
    reminders = all(it.kind is NoticeKind.REMINDER for it in notices)
    blocks = _blocks(withheld.values(), links) if len(notices) <= MAX_BLOCKS else {}
    html: list[str] = []
    plain: list[str] = []
    room = MAX_BODY
    for told, notice in enumerate(notices):
        change = withheld.get(notice.name)
        if notice.name in blocks:
            html.append(blocks[notice.name][0])
            plain.append(blocks[notice.name][1])
            continue
        name, rest = cut(notice.name, MAX_NAME), _notice(notice, links)
        rest += f", {cut(' '.join(change.reason.split()), MAX_EXCERPT)}" if change and change.reason else ""
        room -= units(f"{name}{rest}") + 6
        if room < 0 or (told >= MAX_LINES and not reminders):
            if not reminders:
                notices, html, plain = _many_notices(notices, links)
                break
            more, home = f"+{len(notices) - told} more", f"{links.public_url}/"
            html.append(f"{more}: {anchor(home, 'all services')}")
            plain.append(f"{more}: {home}")
            break
        mark = _notice_mark(notice)
        html.append(f"{mark} <b>{anchor(service_url(name, links), name)}</b>{escape(rest)}")
        plain.append(f"{mark} {name}{rest}")
    heads = _header_lines(repeat or any(it.maybe for it in notices), late)
    between = "\n\n" if blocks else "\n"
    states = [it for it in notices if it.kind not in (NoticeKind.REMINDER, NoticeKind.FLAPS)]
    about = notices[0].name if len(notices) == 1 else None
    return Message(
        text="\n".join([*map(escape, heads), between.join(html)]),
        plain_text="\n".join([*heads, between.join(plain)]),
        silent=all(it.status is Status.SILENT for it in notices),
        through_seq=through_seq,
        problems=tuple(it.name for it in states if it.status is not Status.ALIVE),
        recoveries=tuple(it.name for it in states if it.status is Status.ALIVE),
        about=about,
        buttons=_buttons(about) if about and withheld and notices[0].status in _FALLEN else (),
        notices=tuple(notices),
    )


def deafness_message(
    it: Deafness, now: datetime, links: LinkContext, through_seq: int, *, repeat: bool = False, late: str = ""
) -> Message:
    """That the registry takes no heartbeats, or none for a while that is over."""
    since, length = local(it.since, links.zone), spoken((it.until or now) - it.since)
    if it.until and it.cut_off:
        text = f"The broker can be reached again, after {length}; heartbeats were taken all the while"
    elif it.until:
        until = local(it.until, links.zone)
        text = (
            f"The registry takes heartbeats again. It could not from {since} to {until} ({length}): nobody "
            "was evaluated for that time"
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
    lines = [*_header_lines(repeat, late), f"📡 {text}"]
    return Message("\n".join(map(escape, lines)), "\n".join(lines), False, through_seq)


def _header_lines(repeat: bool, late: str) -> list[str]:
    return [*([REPEAT] if repeat else []), *([late] if late else [])]


def late_note(since: datetime, links: LinkContext) -> str:
    """Above what was kept for a chat that refused messages."""
    return f"(late: this chat took no messages since {local(since, links.zone)})"


def _notice_mark(notice: Notice) -> str:
    return "🔁" if notice.kind is NoticeKind.FLAPS else MARKS[notice.status]


def _notice(notice: Notice, links: LinkContext) -> str:
    since = f"since {local(notice.since, links.zone)}"
    match notice.kind:
        case NoticeKind.CALM:
            changes = f"{notice.flapped} changes while it was flapping"
            return f" has calmed down: {notice.status} {since}, {changes}"
        case NoticeKind.STAYS:
            return f" stays {notice.status}: {since}, after {notice.flapped} changes; it is flapping"
        case NoticeKind.FLAPS:
            length = spoken(notice.at - (notice.flapping_since or notice.since))
            return f" is still flapping: {notice.flapped} changes in {length}"
    if notice.status is Status.ALIVE:
        return f" alive again {since}"
    return f" still {notice.status} for {spoken(notice.at - notice.since)}, {since}"


def _many_notices(
    notices: Sequence[Notice], links: LinkContext
) -> tuple[Sequence[Notice], list[str], list[str]]:
    """As many of the first as can be named; those alike stand together."""
    home = f"{links.public_url}/"
    room, groups, taken = MAX_BODY - units(home) - 100, dict[str, list[Notice]](), 0
    for notice in notices:
        alike = _alike(notice)
        room -= units(cut(notice.name, MAX_NAME)) + 2 + (0 if alike in groups else 40)
        if room < 0 and taken:
            break
        groups.setdefault(alike, []).append(notice)
        taken += 1
    waiting = len(notices) - taken
    title = f"{taken} services" + (f", {waiting} more follow" if waiting else "")
    html, plain = [f"<b>{title}</b>"], [title]
    for alike, those in groups.items():
        heading = f"{alike} ({len(those)}):"
        names = ", ".join(cut(it.name, MAX_NAME) for it in those)
        html.append(f"<b>{heading}</b>\n{escape(names)}")
        plain.append(f"{heading}\n{names}")
    return notices[:taken], [*html, anchor(home, "All services")], [*plain, home]


def _alike(notice: Notice) -> str:
    match notice.kind:
        case NoticeKind.CALM:
            said = f"calmed down, {notice.status}"
        case NoticeKind.STAYS:
            said = f"flapping, stays {notice.status}"
        case NoticeKind.FLAPS:
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


def service_url(name: str, links: LinkContext) -> str:
    return f"{links.public_url}/ui/service/{quote(name, safe='')}"


# --- few changes: a block or a line each


def _one_by_one(
    told: Sequence[AlertGroup], links: LinkContext, room: int, form: Renderer, between: str
) -> tuple[str, str] | None:
    """None if they do not fit into one message."""
    forms = [form(story, links) for story in told]
    plain = between.join(plain for _, plain in forms)
    if units(plain) > room:
        return None
    return between.join(html for html, _ in forms), plain


def _block(story: AlertGroup, links: LinkContext, now: datetime | None = None) -> tuple[str, str]:
    """`now`: when it is told, if that is later than usual."""
    change, name = story.last, cut(story.name, MAX_NAME)
    url = service_url(name, links)
    told = (
        _what_happened(change),
        _excerpt(story),
        f"since {local(change.since, links.zone)}" + (f", for {spoken(now - change.since)}" if now else ""),
        _last_heartbeat(change, links),
        _flapping(story),
    )
    details = [text for text in told if text]
    mark = MARKS[change.to]
    html = [f"{mark} <b>{anchor(url, name)}</b>: {story.path}", *map(escape, details)]
    plain = [f"{mark} {name}: {story.path}", *details, url]
    return "\n".join(html), "\n".join(plain)


def _blocks(changes: Iterable[Change], links: LinkContext) -> dict[str, tuple[str, str]]:
    """By service; empty if they may not all fit into one message, with lines of other notices."""
    found = {it.name: _block(AlertGroup((it,)), links, it.stored_at) for it in changes}
    taken = sum(units(plain) for _, plain in found.values())
    return found if taken + MAX_BLOCKS * _NOTICE_LINE <= MAX_BODY else {}


def _flapping(story: AlertGroup) -> str:
    """That it flaps, and what of it is told next: always that it is back from what was told."""
    if not story.is_flapping:
        return ""
    how = f"flapping: {story.flaps} turns within an hour" if story.flaps else "still flapping"
    then = {
        Status.ALIVE: "down for 5 min or calm for 30 min",
        Status.SILENT: "back, down for 5 min or calm for 30 min",
    }.get(story.last.to, "back")
    return f"🔁 {how}; next you hear when it is {then}"


def _line(story: AlertGroup, links: LinkContext) -> tuple[str, str]:
    html, plain = _short_line(story, links)
    failed = "failed " if story.last.to is not Status.ALIVE else ""
    more = "".join(f", {text}" for text in (_run_time(story.last, failed), _excerpt(story)) if text)
    return html + escape(more), plain + more


def _short_line(story: AlertGroup, links: LinkContext) -> tuple[str, str]:
    change, name = story.last, cut(story.name, MAX_NAME)
    rest = f" {story.path} since {local(change.since, links.zone)}"
    rest += f", {length}" if (length := _how_long(change)) else f", {_last_heartbeat(change, links)}"
    rest += ", flapping 🔁" if story.is_flapping else ""
    mark = MARKS[change.to]
    return f"{mark} {anchor(service_url(name, links), name)}{escape(rest)}", f"{mark} {name}{rest}"


def _last_heartbeat(change: Change, links: LinkContext) -> str:
    if change.last_heartbeat is None:
        return "never heard"
    return f"last heartbeat {local(change.last_heartbeat, links.zone)}"


def _what_happened(change: Change) -> str:
    """How long it lasted, for a recovery; that it is the first heartbeat; or the reason of a fall."""
    if change.to is not Status.ALIVE:
        return f"{cut(' '.join(change.reason.split()), MAX_REASON)} {_run_time(change)}".strip()
    told = "first heartbeat" if change.from_ is Status.UNKNOWN else _how_long(change)
    return ", ".join(filter(None, (told, _run_time(change))))


def _run_time(change: Change, failed: str = "") -> str:
    """How long the run was that ended with it: `ran 12 s`, or `after 12 s` for a failure."""
    if change.duration is None:
        return ""
    return f"{'ran' if change.to is Status.ALIVE else f'{failed}after'} {spoken_seconds(change.duration)}"


def _excerpt(story: AlertGroup) -> str:
    """What its newest heartbeat with a message had to say, in one line."""
    message = next((change.message for change in reversed(story.changes) if change.message), None)
    text = " ".join((message or "").split())
    return f"“{cut_middle(text, MAX_EXCERPT)}”" if text else ""


def _how_long(change: Change) -> str:
    if change.to is not Status.ALIVE or change.from_ is Status.UNKNOWN or change.began is None:
        return ""
    return f"was {change.from_} for {spoken(change.since - change.began)}"


# --- a storm: names under the changes they share


_HEADING = 140
"""UTF-16 units that a group's heading takes, at most."""
_MORE = 10
"""And what may stand behind a name."""


def _storm(
    pending: Sequence[Change], links: LinkContext, room: int
) -> tuple[Sequence[Change], tuple[str, str]]:
    home = f"{links.public_url}/"
    taken = _fitting(pending, room - units(home) - 100)
    groups: dict[str, list[AlertGroup]] = {}
    for story in group_by_service(taken):
        groups.setdefault(story.path, []).append(story)
    waiting = len(pending) - len(taken)
    title = f"{len(taken)} changes" + (f", {waiting} more follow" if waiting else "")
    html, plain = [f"<b>{title}</b>"], [title]
    for path, alike in groups.items():
        mark, rest = MARKS[alike[0].last.to], f" ({len(alike)}), {_when(alike, links)}:\n"
        names = ", ".join(cut(it.name, MAX_NAME) + (" 🔁" if it.is_flapping else "") for it in alike)
        html.append(f"{mark} <b>{path}</b>{rest}{escape(names)}")
        plain.append(f"{mark} {path}{rest}{names}")
    return taken, ("\n".join([*html, anchor(home, "All services")]), "\n".join([*plain, home]))


def _fitting(pending: Sequence[Change], room: int) -> Sequence[Change]:
    """As many of the first as can be named in so many units: at least one."""
    known: dict[str, tuple[Change, ...]] = {}
    paths: set[str] = set()
    for count, change in enumerate(pending):
        if change.name not in known:
            flaps = bool(change.flaps) or change.still_flaps
            room -= units(cut(change.name, MAX_NAME)) + 2 + _MORE * flaps
        known[change.name] = (*known.get(change.name, ()), change)
        path = AlertGroup(known[change.name]).path
        room -= 0 if path in paths else _HEADING
        paths.add(path)
        if count and room < 0:
            return pending[:count]
    return pending


def _when(alike: Sequence[AlertGroup], links: LinkContext) -> str:
    first, last = (f(it.last.since for it in alike) for f in (min, max))
    when, until = f"since {local(first, links.zone)}", local(last, links.zone)
    return when if when.endswith(until) else f"{when} to {until}"
