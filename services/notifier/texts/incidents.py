"""What a message that told of falls says of their incidents below its text: who has them in hand, what is
muted, what is alive again. And the buttons under it. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from services.notifier.texts.message import (
    MAX_NAME,
    Buttons,
    LinkContext,
    OutgoingMessage,
    answer_lines,
    button_key,
    cut,
    cut_middle,
    escape,
    one_line,
    units,
)
from shared.contracts.durations import spoken
from shared.contracts.events import Acknowledgement, Mute
from shared.contracts.zones import in_a_word
from shared.domain.digest import MARKS
from shared.domain.incidents import person
from shared.domain.service_state import ServiceState

MAX_UNITS = 4096
MAX_WRITTEN_OUT = 3
"""Up to this many services have their own lines and buttons; of more is counted."""
MAX_NAMED = 5
MAX_NOTE = 100
MAX_LISTED, MAX_LIST = 40, 3500
"""Open incidents in an answer, and its UTF-16 units."""
MAX_ID = 8
"""Of an incident's id, so much stands in a button."""
MAX_LABEL = 20
"""UTF-16 units of a service's name on a button."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How one incident stands that a message told of. `by`: who had it in hand when it ended."""

    name: str
    began: datetime
    ended: datetime | None = None
    by: str | None = None
    deleted: bool = False
    acknowledged: Acknowledgement | None = None
    muted: Mute | None = None


def standing_lines(standings: Sequence[Standing], at: datetime, links: LinkContext, room: int) -> str:
    """In so many UTF-16 units; empty where there is nothing to say. `at`: when the message was sent."""
    if len(standings) <= MAX_WRITTEN_OUT:
        lines = [line for it in standings for line in _each(it, at, links, len(standings) > 1)]
    else:
        lines = _counted(standings)
    if lines and units("\n".join(lines)) > room:
        lines = [cut(_shortest(standings), room)]
    return "\n".join(lines)


def _each(it: Standing, at: datetime, links: LinkContext, is_named: bool) -> Iterable[str]:
    before = f"{cut(it.name, MAX_NAME)}: " if is_named else ""
    if it.deleted:
        yield f"🗑 {before}deleted"
    elif it.ended:
        had = f" · {person(it.by)} had it" if it.by else ""
        yield f"✅ {before}alive again after {spoken(it.ended - it.began)}{had}"
    else:
        if ack := it.acknowledged:
            note = f": {cut(one_line(ack.note), MAX_NOTE)}" if ack.note else ""
            yield f"✋ {before}{person(ack.by)} has it, {clock(ack.at, at, links)}{note}"
        if it.muted:
            yield f"🔕 {before}{muted_until(it.muted, at, links)}"


def muted_until(mute: Mute, now: datetime, links: LinkContext) -> str:
    until = clock(mute.until, now, links) if mute.until else "it is alive again"
    return f"muted until {until} by {person(mute.by)}"


def clock(at: datetime, now: datetime, links: LinkContext) -> str:
    """To the minute."""
    return in_a_word(at.replace(second=0, microsecond=0), now, links.zone)


def incident_details(
    ack: Acknowledgement | None, mute: Mute | None, now: datetime, links: LinkContext
) -> list[str]:
    return list(_each(Standing("", now, acknowledged=ack, muted=mute), now, links, is_named=False))


def _counted(standings: Sequence[Standing]) -> list[str]:
    over = sum(bool(it.ended or it.deleted) for it in standings)
    going_on = [it for it in standings if not (it.ended or it.deleted)]
    lines = [f"✅ all {over} are alive again"] if over == len(standings) else []
    if over and not lines:
        lines.append(f"✅ {over} of {len(standings)} are alive again")
    owners: dict[str, list[str]] = {}
    for it in going_on:
        if it.acknowledged:
            owners.setdefault(it.acknowledged.by, []).append(it.name)
    for by, names in sorted(owners.items(), key=lambda it: -len(it[1]))[:MAX_WRITTEN_OUT]:
        lines.append(f"✋ {person(by)} has {_named(names)}")
    if more := len(owners) - MAX_WRITTEN_OUT:
        lines += [f"✋ +{more} more have some in hand"] if more > 0 else []
    if muted := [it.name for it in going_on if it.muted]:
        lines.append(f"🔕 muted: {_named(muted)}")
    return lines


def _named(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMED
    named = ", ".join(cut(name, MAX_NAME) for name in names[:MAX_NAMED])
    return named + (f" and {more} more" if more > 0 else "")


def _shortest(standings: Sequence[Standing]) -> str:
    counts = (
        ("✅", sum(bool(it.ended or it.deleted) for it in standings)),
        ("✋", sum(bool(it.acknowledged and not it.ended) for it in standings)),
        ("🔕", sum(bool(it.muted and not it.ended) for it in standings)),
    )
    return " ".join(f"{sign} {count}" for sign, count in counts if count)


# --- buttons


def incident_buttons(going_on: Sequence[tuple[str, str, bool]], told: int) -> Buttons:
    """Under a message that told of so many falls a row for each service that is still down: its name, its
    incident, and whether somebody has it in hand. Of several each row begins with the name."""
    return tuple(_row(*each, told > 1) for each in going_on) if told <= MAX_WRITTEN_OUT else ()


def _row(name: str, incident: str, is_taken: bool, is_named: bool) -> tuple[tuple[str, str], ...]:
    key = button_key(name)
    about, before = f"{key}:{incident[:MAX_ID]}", f"{cut_middle(name, MAX_LABEL)}: " if is_named else ""
    own = ("I have it", f"ack:{about}"), ("Mute 1h", f"mute:{about}"), ("Details", f"details:{key}")
    (label, data), *rest = own[is_taken:]
    return (before + label, data), *rest


def edited(html: str, plain: str, lines: str, buttons: Buttons) -> OutgoingMessage:
    """A message that was sent, with what holds now."""
    text = OutgoingMessage(html, plain, True, 0, buttons=buttons)
    if not lines:
        return text
    return OutgoingMessage(f"{html}\n\n{escape(lines)}", f"{plain}\n\n{lines}", True, 0, buttons=buttons)


# --- the list of open incidents


def open_incidents(
    services: Iterable[tuple[ServiceState, datetime, Acknowledgement | None, Mute | None]],
    now: datetime,
    links: LinkContext,
) -> OutgoingMessage:
    """Worst first, the longest of each first. With when each began."""
    ordered = sorted(services, key=lambda it: (-it[0].status.badness, it[1], it[0].name))
    if not ordered:
        return answer_lines("No open incidents: everything is alive.")
    said, room = [f"{len(ordered)} open incident{'s' if len(ordered) > 1 else ''}"], MAX_LIST
    for count, (state, began, ack, mute) in enumerate(ordered):
        line = f"{MARKS[state.status]} {cut(state.name, MAX_NAME)}: {state.status} for {spoken(now - began)}"
        line += f" ✋ {person(ack.by)}" if ack else ""
        line += " 🔕" if mute else ""
        room -= units(line) + 1
        if room < 0 or count >= MAX_LISTED:
            said.append(f"+{len(ordered) - count} more")
            break
        said.append(line)
    return answer_lines(*said)
