"""Which changes a receiver is told, which notices of what it was not told, and when it is reminded. Pure.

A change is withheld while its service is paused, muted, in maintenance, set to `notify: false`, or flapping;
while a service is down that it depends on; and where the routes, or the subscriber, say that the receiver
does not hear of it, or not yet. The receiver then believes something else than what is. That is kept by
service until the receiver is told, or until there is nothing to tell any more. If it was told that a service
is down, only a pause, a mute or `notify: false` withholds that the service is back.

A turn is a change of direction that the receiver was told of: worse after better, or the other way round. A
service that gets worse again, silent → down → dead, takes no turn.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, auto
from zoneinfo import ZoneInfo

from services.notifier.alerting.changes import (
    FALLEN,
    AlertGroup,
    Notice,
    NoticeKind,
    StatusChange,
    UnusualRun,
)
from services.notifier.alerting.dependencies import Dependencies
from services.notifier.states import ServiceStates
from shared.contracts.events import Status, micros, moment
from shared.domain.routing import EVERYBODY, Rule
from shared.domain.service_state import ServiceState, belongs_to_this_life

EXPIRES_AFTER = timedelta(hours=24)
"""What is older is not sent any more."""
MAX_MUTES = 500
FLAPPING_TURNS = 4
"""A service that takes so many turns within FLAPPING_WITHIN is flapping."""
FLAPPING_WITHIN = timedelta(hours=1)
CALM_AFTER = timedelta(minutes=30)
"""A service that does not change for that long is not flapping any more."""
STAYS_DOWN_AFTER = timedelta(minutes=5)
"""Of a service that is flapping and is then down for that long, the receiver is told so."""

LATE = timedelta(minutes=1)
"""An escalation that is told later than that says how long it really is since the fall."""


class Suppression(Enum):
    """What keeps a change from being told."""

    NONE = auto()
    MAINTENANCE = auto()
    """That a service is back is told all the same, if the receiver knows that it was down. Also what the
    receiver does not hear of, or not yet, and what depends on something that is down."""
    ALL = auto()
    """Paused, muted, or not to be told at all."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`until`: when the suppression ends by itself, if it does. `has_sound`: if it is told, it may be heard.
    `is_delayed`: it is told at `until` even if it is no more than silent. `is_for_parent`: something that it
    depends on is down. `not_before`: until then that may turn out. `nobody_for`: it is told as nobody has had
    it in hand for so long."""

    suppression: Suppression = Suppression.NONE
    until: datetime | None = None
    has_sound: bool = True
    is_delayed: bool = False
    is_for_parent: bool = False
    not_before: datetime | None = None
    nobody_for: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Withheld:
    """Changes of one service that were withheld. `seq`: the newest. `told`: the status that the receiver
    believes, and `told_since`: since when the service had it, if that is known. `maybe`: an attempt whose end
    nobody knows may have told the receiver the present status. `down_since`: when it fell to down, if it has.
    `not_before`: the newest waits until then at least. `is_delayed`, `is_for_parent`: as it was judged."""

    seq: int
    told: Status
    maybe: bool = False
    told_since: datetime | None = None
    down_since: datetime | None = None
    not_before: datetime | None = None
    is_delayed: bool = False
    is_for_parent: bool = False

    def maybe_told(self, status: Status, since: datetime) -> "Withheld":
        """Of the two that the receiver may believe the worse counts: then it is told that it is back."""
        worse = replace(self, told=status, told_since=since) if status.badness > self.told.badness else self
        return replace(worse, maybe=True)


@dataclass(frozen=True, slots=True)
class FlapState:
    """The newest turns of one service, at `moments`; `up`: whether the last one was for the better. `last`:
    when the service changed last. `flapping_since`: since when it is flapping, if it is; `changes`: how many
    it has made since, its turns included. `reminded`: when the receiver was told last that it is still
    flapping. `maybe`: an attempt whose end nobody knows may have told that it has calmed down."""

    moments: tuple[datetime, ...]
    up: bool
    last: datetime
    flapping_since: datetime | None = None
    changes: int = 0
    reminded: datetime | None = None
    maybe: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a change is sent, and what is withheld of its service after it."""

    change: StatusChange
    is_sent: bool
    withheld: Withheld | None
    flap_state: FlapState | None


def decide(
    changes: Sequence[StatusChange],
    withheld: Withheld | None,
    flap_state: FlapState | None,
    judge: "Judge",
) -> list[Decision]:
    """Of one service, in order. Not sent is also what became silent and came back before it was told."""
    decisions = list(_decide(changes, withheld, flap_state, judge))
    sent = tuple(it.change for it in decisions if it.is_sent)
    if sent and AlertGroup(sent).came_to_nothing:
        return list(_decide(changes, withheld, flap_state, lambda *_: Verdict(Suppression.ALL)))
    return decisions


Judge = Callable[[StatusChange, Withheld | None], Verdict]
"""What is to be done about a change of a service of which something is withheld, or nothing."""


def _decide(
    changes: Sequence[StatusChange],
    withheld: Withheld | None,
    flap_state: FlapState | None,
    judge: Judge,
) -> Iterator[Decision]:
    for change in changes:
        if change.from_ is Status.UNKNOWN:  # it was registered anew
            withheld = flap_state = None
        if flap_state and flap_state.flapping_since and change.since - flap_state.last >= CALM_AFTER:
            flap_state = None
        believed = withheld.told if withheld else change.from_
        is_flapping = flap_state is not None and flap_state.flapping_since is not None
        is_back = change.to is Status.ALIVE and believed.badness > change.to.badness
        is_settled = withheld is not None and change.to is believed and change.to not in FALLEN
        verdict = Verdict(Suppression.ALL) if is_settled else judge(change, withheld)
        is_sent = (is_back and verdict.suppression is not Suppression.ALL) or (
            verdict.suppression is Suppression.NONE and not is_flapping
        )
        if not verdict.has_sound or verdict.nobody_for:
            change = replace(change, has_sound=verdict.has_sound, nobody_for=verdict.nobody_for)
        if flap_state and is_flapping:
            flap_state = replace(flap_state, last=change.since, changes=flap_state.changes + 1, maybe=False)
            change = replace(change, still_flaps=True)
        elif is_sent and change.from_ is not Status.UNKNOWN:
            was_up, is_up = believed is Status.ALIVE, change.to is Status.ALIVE
            flap_state = _with_turn(flap_state, was_up, is_up, change.since)
            if flap_state and flap_state.flapping_since:
                change = replace(change, flaps=FLAPPING_TURNS)
        if is_sent or is_settled:
            withheld = None
        else:
            known = withheld or Withheld(change.seq, believed, told_since=change.began)
            withheld = replace(
                known,
                seq=change.seq,
                down_since=down_since(change, withheld),
                not_before=verdict.not_before,
                is_delayed=verdict.is_delayed,
                is_for_parent=known.is_for_parent or verdict.is_for_parent,
            )
        yield Decision(change, is_sent, withheld, flap_state)


def down_since(change: StatusChange, withheld: Withheld | None) -> datetime | None:
    """When the service fell to down; None: with this change it is not."""
    if change.to not in FALLEN:
        return None
    if withheld and withheld.down_since:
        return withheld.down_since
    return change.began or change.since if change.from_ in FALLEN else change.since


def _with_turn(flap_state: FlapState | None, was_up: bool, up: bool, at: datetime) -> FlapState | None:
    if up == (flap_state.up if flap_state else was_up):
        return flap_state
    moments = (*(flap_state.moments if flap_state else ()), at)[-FLAPPING_TURNS:]
    if len(moments) == FLAPPING_TURNS and at - moments[0] <= FLAPPING_WITHIN:
        return FlapState(moments, up, at, flapping_since=at, changes=FLAPPING_TURNS)
    return FlapState(moments, up, at)


class NothingDue(Enum):
    """What becomes of a service of which there is nothing to tell."""

    KEEP = auto()
    """Something has to change first."""
    FORGET = auto()
    """The receiver knows its status."""


def next_notice(
    name: str,
    state: ServiceState,
    withheld: Withheld | None,
    flap_state: FlapState | None,
    now: datetime,
    verdict: Verdict,
    reminders: Sequence[timedelta] = (),
) -> Notice | datetime | NothingDue:
    """What a receiver that has been given all changes of a service is to be told of it now; or when to ask
    again."""
    if not state.exists or state.status is Status.UNKNOWN:
        return NothingDue.FORGET
    is_down = state.is_down
    is_back = withheld is not None and not is_down and state.status.badness < withheld.told.badness
    suppression = verdict.suppression
    if suppression is Suppression.ALL or (suppression is Suppression.MAINTENANCE and not is_back):
        return verdict.until or NothingDue.KEEP

    def notice(kind: NoticeKind) -> Notice:
        changes, since = (flap_state.changes, flap_state.flapping_since) if flap_state else (0, None)
        maybe = (withheld is not None and withheld.maybe) or (
            kind is NoticeKind.CALM and flap_state is not None and flap_state.maybe
        )
        return Notice(
            now,
            name,
            state.status_seq,
            state.status,
            moment(state.since),
            changes,
            kind,
            since,
            maybe,
            has_sound=verdict.has_sound,
            nobody_for=verdict.nobody_for,
        )

    if is_back:
        return notice(NoticeKind.OWED)
    if flap_state and flap_state.flapping_since:
        quiet = now - flap_state.last
        if quiet >= CALM_AFTER:
            return NothingDue.FORGET if is_down and not withheld else notice(NoticeKind.CALM)
        if is_down and withheld and quiet >= STAYS_DOWN_AFTER:
            return notice(NoticeKind.OWED if withheld.told is state.status else NoticeKind.STAYS)
        began = flap_state.flapping_since
        reminder = next_reminder(reminders, began, flap_state.reminded or began)
        if reminder and reminder <= now:
            return notice(NoticeKind.FLAPS)
        stays_down = flap_state.last + STAYS_DOWN_AFTER if is_down and withheld else None
        return min(filter(None, (flap_state.last + CALM_AFTER, stays_down, reminder)))
    if withheld and is_down:
        return notice(NoticeKind.OWED)
    # That a service is silent is alerted at once or never, unless it had to wait for a moment that was known.
    # If it was not, neither is its return.
    if withheld and state.status is Status.SILENT and withheld.told is not Status.SILENT:
        return notice(NoticeKind.OWED) if withheld.is_delayed else NothingDue.KEEP
    return NothingDue.FORGET


def flap_state_after(notice: Notice, flap_state: FlapState | None) -> FlapState | None:
    """After a notice was told. (No notice makes a service flap: only a change does.)"""
    if notice.kind is NoticeKind.CALM:
        return None
    if flap_state and flap_state.flapping_since:
        return replace(flap_state, reminded=notice.at) if notice.kind is NoticeKind.FLAPS else flap_state
    if notice.kind is NoticeKind.OWED:
        up = notice.status is Status.ALIVE
        turned = _with_turn(flap_state, not up, up, notice.at)
        return replace(turned, flapping_since=None, changes=0) if turned else None
    return flap_state


# --- what suppresses


@dataclass(frozen=True)
class Suppressor:
    """`maintenance_until`: when the maintenance ends that a service is in at a moment, if it is in any.
    `mutes`: those of an older version, which held for one receiver alone. `rule`: how the receiver hears of a
    service, by its tags and a status; None: not at all. `zone`: of quiet hours that name none."""

    states: ServiceStates
    maintenance_until: Callable[[str, datetime], datetime | None]
    mutes: Callable[[], Mapping[str, datetime]]
    rule: Callable[[str, tuple[str, ...], Status], Rule | None]
    zone: ZoneInfo
    dependencies: Dependencies

    def of_service(self, name: str, now: datetime, withheld: Withheld | None = None) -> Verdict:
        """`withheld`: what is withheld of it; None: the receiver knows how it is."""
        silenced = self._silenced(name, now)
        if silenced.suppression is not Suppression.NONE:
            return silenced
        state = self.states.get(name)
        believed = withheld.told if withheld else state.status
        is_for_parent = withheld is not None and withheld.is_for_parent
        since = (withheld and withheld.down_since) or moment(state.since)
        if state.status.badness > Status.ALIVE.badness:
            if withheld and withheld.not_before and withheld.not_before > now:
                return Verdict(Suppression.MAINTENANCE, withheld.not_before)
            hold = self.dependencies.hold(name, moment(state.since), now, was_held=is_for_parent)
            if hold:
                return Verdict(Suppression.MAINTENANCE, hold.until, is_for_parent=True)
        return self._heard(state, state.status, believed, since if state.is_down else None, now)

    def of_change(
        self, change: StatusChange | UnusualRun, now: datetime, withheld: Withheld | None = None
    ) -> Verdict:
        """A change that was suppressed when it was stored, or when it happened, is so still."""
        mute = self.mutes().get(change.name)
        if change.silenced or (mute and mute > change.stored_at):
            return Verdict(Suppression.ALL)
        silenced = self._silenced(change.name, now)
        if silenced.suppression is not Suppression.NONE:
            return silenced
        if any(self.maintenance_until(change.name, at) for at in (change.since, change.stored_at)):
            return Verdict(Suppression.MAINTENANCE)
        state = self.states.get(change.name)
        if isinstance(change, UnusualRun):
            return self._heard(state, state.status, state.status, None, now)
        if change.to.badness > Status.ALIVE.badness:
            was_held = withheld is not None and withheld.is_for_parent
            hold = self.dependencies.hold(change.name, change.since, now, was_held=was_held, is_new=True)
            if hold and hold.is_only_to_see:
                return Verdict(Suppression.MAINTENANCE, hold.until, is_delayed=True, not_before=hold.until)
            if hold:
                return Verdict(Suppression.MAINTENANCE, hold.until, is_for_parent=True)
        believed = withheld.told if withheld else change.from_
        return self._heard(state, change.to, believed, down_since(change, withheld), now)

    def _silenced(self, name: str, now: datetime) -> Verdict:
        """By people, for every receiver or for this one."""
        if self.states.is_silenced(name):
            return Verdict(Suppression.ALL)
        mute, until = self.states.incidents.muted(name, now), self.mutes().get(name)
        if mute or (until and until > now):
            ends = [it for it in (mute and mute.until, until) if it and it > now]
            return Verdict(Suppression.ALL, None if mute and mute.until_alive else max(ends))
        if end := self.maintenance_until(name, now):
            return Verdict(Suppression.MAINTENANCE, end)
        return Verdict()

    def _heard(
        self, state: ServiceState, status: Status, believed: Status, since: datetime | None, now: datetime
    ) -> Verdict:
        """By the routes. That it is back is heard as the fall was. `since`: when it fell to down."""
        is_back = status is Status.ALIVE and believed.badness > status.badness
        rule = self.rule(state.name, state.tags, believed) if is_back else None
        rule = rule or self.rule(state.name, state.tags, status)
        if rule is None:
            return Verdict(Suppression.MAINTENANCE)
        if rule is EVERYBODY:
            return Verdict()
        has_owner = rule.after is not None and self._has_owner(state.name)
        hearing = rule.at(now, self.zone, since, is_acknowledged=has_owner)
        is_told = believed in FALLEN
        if hearing.waits and not (is_told and not rule.quiet):  # else what was escalated is told as ever
            is_held = hearing.until is not None and bool(rule.quiet)
            return Verdict(Suppression.MAINTENANCE, hearing.until, hearing.has_sound, is_delayed=is_held)
        nobody_for = None
        if hearing.is_escalated and not is_told and since and rule.after:
            is_late = now - since - rule.after > LATE
            nobody_for = now - since if is_late else rule.after
        return Verdict(has_sound=hearing.has_sound, nobody_for=nobody_for)

    def _has_owner(self, name: str) -> bool:
        return self.states.incidents.acknowledged(name) is not None

    def is_run_told(self, run: UnusualRun, now: datetime) -> bool:
        """Unlike what happens to a status, what is suppressed of runs, or too old, is never told."""
        state = self.states.get(run.name)
        return (
            now - run.since <= EXPIRES_AFTER
            and state.exists
            and state.notify_unusual
            and belongs_to_this_life(micros(run.since), state.registered_at)
            and self.of_change(run, now).suppression is Suppression.NONE
        )


def active_mutes(mutes: Mapping[str, datetime], now: datetime) -> dict[str, datetime]:
    return {name: until for name, until in mutes.items() if until > now}


def with_mute(
    mutes: Mapping[str, datetime], name: str, until: datetime, now: datetime
) -> dict[str, datetime]:
    """Also keeps mutes that have ended while a change may still wait that was stored before their end."""
    recent = active_mutes(mutes, now - EXPIRES_AFTER)
    return {**dict(list(recent.items())[-2 * MAX_MUTES :]), name: until}


# --- reminders that services are down


def next_reminder(reminders: Sequence[timedelta], since: datetime, after: datetime) -> datetime | None:
    """The first after a moment, of those at `reminders` after `since`; the last of them repeats."""
    if not reminders:
        return None
    *once, last = reminders
    repeats = max(1, (after - since) // last + 1)
    return min(at for it in (*once, repeats * last) if (at := since + it) > after)


class Reminders:
    """Told of every fall by `watch`, in any order, also twice."""

    def __init__(self, states: ServiceStates, after: tuple[timedelta, ...]) -> None:
        """`after`: when to remind that a service is down, counted from when it fell; the last repeats."""
        self._states = states
        self.after = after
        self.schedules_of: Callable[[str], Iterable[tuple[timedelta, ...]]] = lambda _: (after,)
        """All those by which some receiver is reminded of a service."""
        self._queue: list[Notice] = []
        self._looked_at: datetime | None = None

    def watch(self, name: str, after: datetime) -> None:
        """If a service is down, remind of it, beginning with what comes next after `after`."""
        it = self._states.get(name)
        if it.status is not Status.DOWN:
            return
        since = moment(it.since)
        for schedule in self.schedules_of(name):
            if at := next_reminder(schedule, since, after):
                notice = Notice(at, name, it.status_seq, it.status, since, schedule=schedule)
                heapq.heappush(self._queue, notice)

    def schedules_changed(self) -> None:
        """Begin anew with what was not due yet."""
        self._queue.clear()
        if self._looked_at:
            for name in self._states:
                self.watch(name, self._looked_at)

    def due(self, now: datetime) -> Iterator[Notice]:
        """Reminders that are due by now and still hold; of several of one schedule the newest."""
        self._looked_at = now
        while self._queue and self._queue[0].at <= now:
            notice = heapq.heappop(self._queue)
            if not self.is_current(notice) or notice in self._queue[:1]:  # it was watched twice
                continue
            while following := next_reminder(notice.schedule, notice.since, notice.at):
                if following > now:
                    heapq.heappush(self._queue, replace(notice, at=following))
                    break
                notice = replace(notice, at=following)
            yield notice

    def is_current(self, notice: Notice) -> bool:
        """Whether nothing has happened since that makes it pointless."""
        it = self._states.get(notice.name)
        return it.exists and it.status_seq == notice.seq and it.status is not Status.UNKNOWN
