"""What a chat was told of each service, and what it is owed: withheld changes, and flapping. Pure.

A change is withheld while its service is paused, muted, in maintenance, set to `notify: false`, or flapping.
What a chat then believes differs from what is, and that is kept by name until the chat is told, or there is
nothing to tell any more. A recovery of what was told is held back by no window and no flapping.

A turn is a change of direction that was told: a fall after a rise, or the other way round. A service that
falls further, silent → down → dead, takes no turn.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, auto

from services.notifier.alerting.changes import Notice, NoticeKind, StatusChange
from services.notifier.alerting.grouping import AlertGroup
from shared.contracts.events import Status, moment
from shared.domain.service_state import ServiceState

FLAPPING_TURNS = 4
"""That many turns within HOUR are flapping."""
FLAPPING_WITHIN = timedelta(hours=1)
CALM_AFTER = timedelta(minutes=30)
"""Without a change for that long a service flaps no more."""
STAYS_DOWN_AFTER = timedelta(minutes=5)
"""What flaps, and is then down for that long, is told to be down."""

_FALLEN = {Status.DOWN, Status.DEAD}


class Suppression(Enum):
    """What keeps a change from being told."""

    NONE = auto()
    MAINTENANCE = auto()
    """A recovery of what was told is told all the same."""
    ALL = auto()
    """Paused, muted, or not to be told at all."""


@dataclass(frozen=True, slots=True)
class Withheld:
    """Changes of one service that were withheld. `seq`: the newest. `told`: what the chat believes it to be.
    `maybe`: an attempt that nobody knows the end of may have told it. `told_since`: since when it was as it
    is believed to be, if that is known."""

    seq: int
    told: Status
    maybe: bool = False
    told_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class FlapState:
    """Those of one service that were told. `up`: the direction of the newest. `flapping_since`: when it began
    to flap, if it does; `last`: its newest change; `changes`: how many since it flaps, its turns included.
    `reminded`: until when it was said that it still flaps. `maybe`: an attempt that nobody knows the end of
    may have told that it has calmed down."""

    moments: tuple[datetime, ...]
    up: bool
    last: datetime
    flapping_since: datetime | None = None
    changes: int = 0
    reminded: datetime | None = None
    maybe: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a change is told, and how the service stands with the chat after it."""

    change: StatusChange
    is_sent: bool
    owed: Withheld | None
    turns: FlapState | None


def decide(
    changes: Sequence[StatusChange],
    owed: Withheld | None,
    turns: FlapState | None,
    hold: Callable[[StatusChange], Suppression],
) -> list[Decision]:
    """Of changes of one service that wait for a chat, in order, which are told. What fell silent and came
    back before anybody was told is not."""
    decisions = list(_decide(changes, owed, turns, hold))
    told = tuple(it.change for it in decisions if it.is_sent)
    if told and AlertGroup(told).came_to_nothing:
        return list(_decide(changes, owed, turns, lambda _: Suppression.ALL))
    return decisions


def _decide(
    changes: Sequence[StatusChange],
    owed: Withheld | None,
    turns: FlapState | None,
    hold: Callable[[StatusChange], Suppression],
) -> Iterator[Decision]:
    for change in changes:
        if change.from_ is Status.UNKNOWN:  # it was registered anew
            owed = turns = None
        if turns and turns.flapping_since and change.since - turns.last >= CALM_AFTER:
            turns = None
        believed = owed.told if owed else change.from_
        flaps = turns is not None and turns.flapping_since is not None
        is_back = change.to is Status.ALIVE and believed.badness > change.to.badness
        is_settled = owed is not None and change.to is believed and change.to not in _FALLEN
        held = Suppression.ALL if is_settled else hold(change)
        is_told = (is_back and held is not Suppression.ALL) or (held is Suppression.NONE and not flaps)
        if turns and flaps:
            turns = replace(turns, last=change.since, changes=turns.changes + 1, maybe=False)
            change = replace(change, still_flaps=True)
        elif is_told and change.from_ is not Status.UNKNOWN:
            turns = _with_turn(turns, believed is Status.ALIVE, change.to is Status.ALIVE, change.since)
            if turns and turns.flapping_since:
                change = replace(change, flaps=FLAPPING_TURNS)
        if is_told or is_settled:
            owed = None
        elif owed:
            owed = replace(owed, seq=change.seq)
        else:
            owed = Withheld(change.seq, believed, told_since=change.began)
        yield Decision(change, is_told, owed, turns)


def _with_turn(turns: FlapState | None, was_up: bool, up: bool, at: datetime) -> FlapState | None:
    if up == (turns.up if turns else was_up):
        return turns
    moments = (*(turns.moments if turns else ()), at)[-FLAPPING_TURNS:]
    if len(moments) == FLAPPING_TURNS and at - moments[0] <= FLAPPING_WITHIN:
        return FlapState(moments, up, at, flapping_since=at, changes=FLAPPING_TURNS)
    return FlapState(moments, up, at)


class NothingDue(Enum):
    """What becomes of a service of which there is nothing to tell."""

    KEEP = auto()
    """Something has to change first."""
    FORGET = auto()
    """The chat knows how it is."""


def next_notice(
    name: str,
    it: ServiceState,
    owed: Withheld | None,
    turns: FlapState | None,
    now: datetime,
    hold: Suppression,
    until: datetime | None,
    reminders: Sequence[timedelta] = (),
) -> Notice | datetime | NothingDue:
    """What a chat that has taken in all changes of a service is to be told of it now; or when to look again.
    `until`: when what holds it back ends by itself, if it does."""
    if not it.exists or it.status is Status.UNKNOWN:
        return NothingDue.FORGET
    fallen = it.status in _FALLEN
    is_back = owed is not None and not fallen and it.status.badness < owed.told.badness
    if hold is Suppression.ALL or (hold is Suppression.MAINTENANCE and not is_back):
        return until or NothingDue.KEEP

    def notice(kind: NoticeKind) -> Notice:
        changes, since = (turns.changes, turns.flapping_since) if turns else (0, None)
        maybe = (owed is not None and owed.maybe) or (
            kind is NoticeKind.CALM and turns is not None and turns.maybe
        )
        return Notice(now, name, it.status_seq, it.status, moment(it.since), changes, kind, since, maybe)

    if is_back:
        return notice(NoticeKind.OWED)
    if turns and turns.flapping_since:
        quiet = now - turns.last
        if quiet >= CALM_AFTER:
            return NothingDue.FORGET if fallen and not owed else notice(NoticeKind.CALM)
        if fallen and owed and quiet >= STAYS_DOWN_AFTER:
            return notice(NoticeKind.OWED if owed.told is it.status else NoticeKind.STAYS)
        looks = [turns.last + CALM_AFTER] + ([turns.last + STAYS_DOWN_AFTER] if fallen and owed else [])
        if at := next_reminder(reminders, turns.flapping_since, turns.reminded or turns.flapping_since):
            if at <= now:
                return notice(NoticeKind.FLAPS)
            looks.append(at)
        return min(looks)
    if owed and fallen:
        return notice(NoticeKind.OWED)
    # That something is silent is told when it falls silent, or not at all; but then neither is its return.
    if owed and it.status is Status.SILENT and owed.told is not Status.SILENT:
        return NothingDue.KEEP
    return NothingDue.FORGET


def flap_state_after(notice: Notice, turns: FlapState | None) -> FlapState | None:
    """How often it turned, when a notice was told. (No notice makes it flap: only a change does.)"""
    if notice.kind is NoticeKind.CALM:
        return None
    if turns and turns.flapping_since:
        return replace(turns, reminded=notice.at) if notice.kind is NoticeKind.FLAPS else turns
    if notice.kind is NoticeKind.OWED:
        up = notice.status is Status.ALIVE
        turned = _with_turn(turns, not up, up, notice.at)
        return replace(turned, flapping_since=None, changes=0) if turned else None
    return turns


def next_reminder(reminders: Sequence[timedelta], since: datetime, after: datetime) -> datetime | None:
    """The first after a moment, of those at `reminders` after `since`; the last of them repeats."""
    if not reminders:
        return None
    *once, last = reminders
    repeats = max(1, (after - since) // last + 1)
    return min(at for it in (*once, repeats * last) if (at := since + it) > after)
