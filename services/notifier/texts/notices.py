"""What is told though no status has changed: reminders, what was withheld, and that the registry takes no
heartbeats. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from services.notifier.alerting.changes import FALLEN, AlertGroup, Deafness, Notice, NoticeKind, StatusChange
from services.notifier.texts import message as messages
from services.notifier.texts.changes import MAX_BLOCKS, MAX_EXCERPT, MAX_LINES, block, unowned
from services.notifier.texts.message import MAX_NAME, LinkContext, OutgoingMessage, Text, bold, cut, lines
from shared.contracts.durations import spoken
from shared.contracts.events import Status
from shared.contracts.zones import local
from shared.domain.digest import MARKS

_MAX_LINE = 260
"""UTF-16 units of a notice in one line, at most."""


def notice_message(
    notices: Sequence[Notice],
    links: LinkContext,
    through_seq: int,
    withheld: Mapping[str, StatusChange] = {},
    notes: Sequence[str] = (),
) -> OutgoingMessage:
    """Of reminders those that do not fit are counted. Of what was withheld as many of the first are told as
    fit by name (`notices` of the message). `withheld`: by service, the change that its notice makes up for,
    which reads as the change itself would have, where there are few."""
    told, body = _packed(notices, links, withheld)
    if messages.REPEAT not in notes and any(notice.maybe for notice in told):
        notes = [messages.REPEAT, *notes]
    text = lines([*notes, body])
    states = [it for it in told if it.kind not in (NoticeKind.REMINDER, NoticeKind.FLAPS)]
    about = told[0].name if len(told) == 1 else None
    falls = tuple(it.name for it in told if it.status in FALLEN and it.kind is not NoticeKind.FLAPS)
    return OutgoingMessage(
        text=text.html,
        plain_text=text.plain,
        silent=all(notice.status is Status.SILENT or not notice.has_sound for notice in told),
        through_seq=through_seq,
        problems=tuple(notice.name for notice in states if notice.status is not Status.ALIVE),
        recoveries=tuple(notice.name for notice in states if notice.status is Status.ALIVE),
        about=about,
        falls=falls,
        buttons=messages.service_buttons(falls[0]) if len(falls) == 1 else (),
        notices=tuple(told),
    )


def _packed(
    notices: Sequence[Notice], links: LinkContext, withheld: Mapping[str, StatusChange]
) -> tuple[Sequence[Notice], Text]:
    reminders = all(notice.kind is NoticeKind.REMINDER for notice in notices)
    blocks = _blocks(withheld.values(), links) if len(notices) <= MAX_BLOCKS else {}
    parts: list[Text] = []
    room = messages.MAX_BODY
    for count, notice in enumerate(notices):
        if notice.name in blocks:
            parts.append(blocks[notice.name])
            continue
        change = withheld.get(notice.name)
        rest = _what(notice, links)
        rest += f", {cut(messages.one_line(change.reason), MAX_EXCERPT)}" if change and change.reason else ""
        room -= messages.units(f"{cut(notice.name, MAX_NAME)}{rest}") + 6
        if room < 0 or (count >= MAX_LINES and not reminders):
            if not reminders:
                return _named(notices, links)
            parts.append(f"+{len(notices) - count} more: " + messages.home_link(links, "all services"))
            break
        parts.append(f"{_mark(notice)} " + bold(messages.service_link(notice.name, links)) + rest)
    return notices, messages.join("\n\n" if blocks else "\n", parts)


def _blocks(changes: Iterable[StatusChange], links: LinkContext) -> dict[str, Text]:
    """By service; empty if they may not all fit into one message, with lines of other notices."""
    found = {it.name: block(AlertGroup((it,)), links, it.stored_at) for it in changes}
    taken = sum(text.units for text in found.values())
    return found if taken + MAX_BLOCKS * _MAX_LINE <= messages.MAX_BODY else {}


def _mark(notice: Notice) -> str:
    return "🔁" if notice.kind is NoticeKind.FLAPS else MARKS[notice.status]


def _what(notice: Notice, links: LinkContext) -> str:
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
    why = f", {text}" if (text := unowned(notice.nobody_for)) else ""
    return f" still {notice.status} for {spoken(notice.at - notice.since)}, {since}{why}"


# --- many: only named, those alike together


def _named(notices: Sequence[Notice], links: LinkContext) -> tuple[Sequence[Notice], Text]:
    home = messages.home_link(links)
    room, groups, taken = messages.MAX_BODY - home.units - 100, dict[str, list[str]](), 0
    for notice in notices:
        name, alike = cut(notice.name, MAX_NAME), _alike(notice)
        room -= messages.units(name) + 2 + (0 if alike in groups else 40)
        if room < 0 and taken:
            break
        groups.setdefault(alike, []).append(name)
        taken += 1
    waiting = len(notices) - taken
    title = f"{taken} services" + (f", {waiting} more follow" if waiting else "")
    parts: list[Text | str] = [bold(title)]
    for alike, names in groups.items():
        parts += [bold(f"{alike} ({len(names)}):"), ", ".join(names)]
    return notices[:taken], lines([*parts, home])


def _alike(notice: Notice) -> str:
    said = {
        NoticeKind.CALM: f"calmed down, {notice.status}",
        NoticeKind.STAYS: f"flapping, stays {notice.status}",
        NoticeKind.FLAPS: "still flapping",
    }.get(notice.kind, "alive again" if notice.status is Status.ALIVE else f"still {notice.status}")
    return f"{_mark(notice)} {said}{', nobody has it in hand' if notice.nobody_for else ''}"


# --- the registry as a whole


def deafness_message(
    deafness: Deafness, now: datetime, links: LinkContext, through_seq: int, notes: Sequence[str] = ()
) -> OutgoingMessage:
    since, until = local(deafness.since, links.zone), deafness.until
    length = spoken((until or now) - deafness.since)
    if until and deafness.cut_off:
        said = f"The broker can be reached again, after {length}; heartbeats were taken all the while"
    elif until:
        said = (
            f"The registry takes heartbeats again. It could not from {since} to {local(until, links.zone)} "
            f"({length}): nobody was evaluated for that time"
        )
    elif deafness.cut_off:
        said = (
            f"The broker cannot be reached since {since}, for {length}: heartbeats may not be taken, and no "
            "change is told until it can"
        )
    else:
        said = (
            f"The registry takes no heartbeats since {since}, for {length}: nobody is evaluated until it does"
        )
    text = lines([*notes, f"📡 {said}"])
    return OutgoingMessage(text.html, text.plain, False, through_seq)
