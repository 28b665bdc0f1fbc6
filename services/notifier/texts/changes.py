"""Changes of status as a message, in the richest form that holds them all. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from services.notifier.alerting.changes import FALLEN, AlertGroup, StatusChange, group_by_service
from services.notifier.texts import message as messages
from services.notifier.texts.message import MAX_NAME, LinkContext, OutgoingMessage, Text, bold, cut, lines
from shared.contracts.durations import spoken, spoken_seconds
from shared.contracts.events import Status
from shared.contracts.zones import local
from shared.domain.digest import MARKS

MAX_BLOCKS = 5
"""Up to this many services are told at length, one block each."""
MAX_LINES = 40
"""Up to this many get a line each; more are a storm, and only named."""
MAX_HELD = 5
"""Services that are named as held back."""
MAX_WARNING = 120
"""UTF-16 units for the registry's doubt of itself."""
SAME_EPISODE = timedelta(hours=1)
"""The doubt is not said again for a change that follows the last doubted one by no more than this."""


def changes_message(
    pending: Sequence[StatusChange],
    links: LinkContext,
    notes: Sequence[str] = (),
    doubted: datetime | None = None,
) -> OutgoingMessage:
    """As many of the first as one message holds, at least one, in the richest form that holds all of them. So
    what was packed once is packed alike when it is alone. `doubted`: the newest doubted change that the
    receiver knows of."""
    names = {group.name for group in group_by_service(pending)}
    pending = [change for change in pending if change.name in names]
    taken, body = _packed(pending, links, is_doubted=bool(_warning(pending, doubted)))
    if warning := _warning(taken, doubted):
        body = "⚠️ " + bold(warning) + "\n\n" + body
    text = lines([*notes, body])
    last = {group.name: group.last for group in group_by_service(taken)}
    falls = tuple(name for name, change in last.items() if change.to in FALLEN)
    return OutgoingMessage(
        text=text.html,
        plain_text=text.plain,
        silent=not any(change.is_loud and change.has_sound for change in taken),
        through_seq=taken[-1].seq,
        problems=tuple(name for name, change in last.items() if change.to is not Status.ALIVE),
        recoveries=tuple(name for name, change in last.items() if change.to is Status.ALIVE),
        changes=tuple(taken),
        about=next(iter(last)) if len(last) == 1 else None,
        falls=falls,
        buttons=messages.service_buttons(falls[0]) if len(falls) == 1 else (),
        doubted=_newest_doubted(taken),
    )


def _packed(
    pending: Sequence[StatusChange], links: LinkContext, is_doubted: bool
) -> tuple[Sequence[StatusChange], Text]:
    groups, room = group_by_service(pending), messages.MAX_BODY
    if is_doubted:
        groups, room = group_by_service(map(_without_doubt, pending)), messages.MAX_BODY - MAX_WARNING
    forms: list[tuple[Callable[[AlertGroup, LinkContext], Text], str]] = []
    if len(groups) <= MAX_BLOCKS:
        forms.append((block, "\n\n"))
    if len(groups) <= MAX_LINES:
        forms += [(line, "\n"), (short_line, "\n")]
    for form, between in forms:
        text = messages.join(between, [form(group, links) for group in groups])
        if text.units <= room:
            return pending, text
    return storm(pending, links, room)


# --- the registry's doubt of itself


def _newest_doubted(changes: Sequence[StatusChange]) -> datetime | None:
    return max((change.since for change in changes if change.doubt), default=None)


def _warning(changes: Sequence[StatusChange], doubted: datetime | None) -> str:
    """That it may be the registry that is cut off, as it knew last; empty if the receiver knows already."""
    newest = _newest_doubted(changes)
    if newest is None or (doubted and newest - doubted <= SAME_EPISODE):
        return ""
    doubt = next(change.doubt for change in reversed(changes) if change.doubt)
    text = (
        f"{doubt.stopped} of {doubt.of} services stopped within {spoken_seconds(doubt.within)}: "
        "the registry may be cut off"
    )
    return cut(text, MAX_WARNING - 5)


def _without_doubt(change: StatusChange) -> StatusChange:
    """Its own reason alone, where the doubt, which stands at its end, is said above."""
    own, _, _ = change.reason.rpartition(";")
    return replace(change, reason=own) if change.doubt and own else change


# --- one service: as a block of lines, or as one line

MAX_REASON = 300
MAX_EXCERPT = 200
_MAX_DUE = 100


def block(group: AlertGroup, links: LinkContext, now: datetime | None = None) -> Text:
    """`now`: when it is told, if that is later than usual."""
    change = group.last
    since = f"since {local(change.since, links.zone)}"
    details = (
        _what_happened(change),
        _excerpt(group),
        f"{since}, for {spoken(now - change.since)}" if now else since,
        _last_heartbeat(change, links),
        unowned(next((it.nobody_for for it in reversed(group.changes) if it.nobody_for), None)),
        change.remark,
        _flapping(group),
    )
    return messages.service_block(group.name, change.to, group.path, filter(None, details), links)


def line(group: AlertGroup, links: LinkContext) -> Text:
    failed = "failed " if group.last.to is not Status.ALIVE else ""
    more = (_run_time(group.last, failed), _excerpt(group), unowned(group.last.nobody_for))
    return short_line(group, links) + "".join(f", {text}" for text in more if text)


def short_line(group: AlertGroup, links: LinkContext) -> Text:
    change = group.last
    rest = f" {group.path} since {local(change.since, links.zone)}"
    rest += f", {_how_long(change) or _what_was_due(change) or _last_heartbeat(change, links)}"
    rest += ", flapping 🔁" if group.is_flapping else ""
    return f"{MARKS[change.to]} " + messages.service_link(group.name, links) + rest


def unowned(length: timedelta | None) -> str:
    """Why it is told to somebody who would not have heard of it yet."""
    return f"nobody has had it in hand for {spoken(length)}" if length else ""


def fallen_with(count: int) -> str:
    """What depends on a service that has fallen, and is silent, down or dead too."""
    which = "1 that depends on it is" if count == 1 else f"{count} that depend on it are"
    return f"{which} down too" if count else ""


def held_back(names: Sequence[str]) -> str:
    """What depends on a service that is back, and is not, and was not told."""
    if not names:
        return ""
    more = f" and {len(names) - MAX_HELD} more" if len(names) > MAX_HELD else ""
    named = ", ".join(cut(name, MAX_NAME) for name in sorted(names)[:MAX_HELD])
    return f"still down and held back: {named}{more}"


def _flapping(group: AlertGroup) -> str:
    """That it is flapping, and when the receiver hears of it next."""
    if not group.is_flapping:
        return ""
    how = f"flapping: {group.flaps} turns within an hour" if group.flaps else "still flapping"
    then = {
        Status.ALIVE: "down for 5 min or calm for 30 min",
        Status.SILENT: "back, down for 5 min or calm for 30 min",
    }.get(group.last.to, "back")
    return f"🔁 {how}; next you hear when it is {then}"


def _last_heartbeat(change: StatusChange, links: LinkContext) -> str:
    if change.last_heartbeat is None:
        return "never heard"
    return f"last heartbeat {local(change.last_heartbeat, links.zone)}"


_DUE = ("expected ", "the run that began ")
"""How the reason of a fall begins that says what was due: a start by the schedule, or the end of a run."""


def _what_was_due(change: StatusChange) -> str:
    """`expected 03:00, not started`, if that is why it fell: of such services that says the most."""
    is_due = change.to is not Status.ALIVE and change.reason.startswith(_DUE)
    return cut(messages.one_line(change.reason.partition(";")[0]), _MAX_DUE) if is_due else ""


def _what_happened(change: StatusChange) -> str:
    """How long it lasted, for a recovery; that it is the first heartbeat; or the reason of a fall."""
    if change.to is not Status.ALIVE:
        return f"{cut(messages.one_line(change.reason), MAX_REASON)} {_run_time(change)}".strip()
    told = "first heartbeat" if change.from_ is Status.UNKNOWN else _how_long(change)
    return ", ".join(filter(None, (told, _run_time(change))))


def _run_time(change: StatusChange, failed: str = "") -> str:
    """How long the run was that ended with it: `ran 12 s`, or `after 12 s` for a failure."""
    if change.duration is None:
        return ""
    length = spoken_seconds(change.duration)
    return f"{'ran' if change.to is Status.ALIVE else f'{failed}after'} {length}"


def _excerpt(group: AlertGroup) -> str:
    """What its newest heartbeat with a message had to say, in one line."""
    message = next((change.message for change in reversed(group.changes) if change.message), None)
    text = messages.one_line(message or "")
    return f"“{messages.cut_middle(text, MAX_EXCERPT)}”" if text else ""


def _how_long(change: StatusChange) -> str:
    if change.to is not Status.ALIVE or change.from_ is Status.UNKNOWN or change.began is None:
        return ""
    return f"was {change.from_} for {spoken(change.since - change.began)}"


# --- many: services are only named, under the change that they share

_HEADING = 140
"""UTF-16 units that a group's heading takes, at most."""
_FLAPPING_MARK = 10
"""And what may stand behind a name."""


def storm(
    pending: Sequence[StatusChange], links: LinkContext, room: int
) -> tuple[Sequence[StatusChange], Text]:
    """As many of the first as can be named, and the text."""
    home = messages.home_link(links)
    taken = _fitting(pending, room - home.units - 100)
    groups: dict[str, list[AlertGroup]] = {}
    for group in group_by_service(taken):
        groups.setdefault(group.path, []).append(group)
    waiting = len(pending) - len(taken)
    parts = [bold(f"{len(taken)} changes" + (f", {waiting} more follow" if waiting else ""))]
    for path, alike in groups.items():
        heading = f"{MARKS[alike[0].last.to]} " + bold(path) + f" ({len(alike)}), {_when(alike, links)}:"
        names = ", ".join(cut(it.name, MAX_NAME) + (" 🔁" if it.is_flapping else "") for it in alike)
        parts += [heading, lines([names])]
    return taken, lines([*parts, home])


def _fitting(pending: Sequence[StatusChange], room: int) -> Sequence[StatusChange]:
    """As many of the first as can be named in so many units: at least one."""
    known: dict[str, tuple[StatusChange, ...]] = {}
    paths: set[str] = set()
    for count, change in enumerate(pending):
        if change.name not in known:
            flaps = bool(change.flaps) or change.still_flaps
            room -= messages.units(cut(change.name, MAX_NAME)) + 2 + _FLAPPING_MARK * flaps
        known[change.name] = (*known.get(change.name, ()), change)
        path = AlertGroup(known[change.name]).path
        room -= 0 if path in paths else _HEADING
        paths.add(path)
        if count and room < 0:
            return pending[:count]
    return pending


def _when(alike: Sequence[AlertGroup], links: LinkContext) -> str:
    first, last = (f(group.last.since for group in alike) for f in (min, max))
    when, until = f"since {local(first, links.zone)}", local(last, links.zone)
    return when if when.endswith(until) else f"{when} to {until}"
