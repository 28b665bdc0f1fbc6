"""What becomes of one service, reckoned plainly: every heartbeat, tick and change of its configuration in
turn, with occurrences from a table, and nothing that is saved, raced for or read again.

It shares with the product how deadlines grow by the registry's own deafness (`coverage`), and which lengths
of runs are unusual (`run_lengths`); both have tests of their own.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from services.monitor.domain.service import EffectiveThresholds
from shared.contracts.events import (
    FOUND_BY_HEADER,
    ServiceDeleted,
    ServiceRegistered,
    ServiceResumed,
    StatusChanged,
)
from shared.domain import run_lengths
from shared.domain.coverage import Coverage, expiry
from shared.messaging import streams
from tests.simulation import occurrences
from tests.simulation.memory import parse_event, parse_tick
from tests.simulation.model import NEVER, Broker, Fact
from tests.simulation.run import DEAF, MAX_OPEN, TELL_AGAIN, micros

SECOND = 1_000_000
EARLY = 900 * SECOND
NONE_YET = EffectiveThresholds(0, 0, 0)
LADDER = ("unknown", "alive", "silent", "down", "dead")


class Change(NamedTuple):
    """`why`: `heartbeat`, `hangs` (a run has not ended), or `quiet`."""

    from_: str
    to: str
    since: int
    last: int
    why: str


class Told(NamedTuple):
    """A fact about a run; or a gap, from `started` to `at`."""

    at: int
    outcome: str
    key: str
    started: int = 0
    ended: int = 0
    occurrence: int = 0
    run: str = ""
    unusual: str | None = None
    notify: bool = False


class Said(NamedTuple):
    """A heartbeat."""

    at: int
    signal: str
    run: str
    every: int
    schedule: str
    zone: str
    by_key: bool


@dataclass(frozen=True)
class Settings:
    """What a configuration event sets. `counts_at`: when it was stored, or registered by a heartbeat."""

    counts_at: int
    registers: bool
    deletes: bool = False
    resumes: bool = False
    paused: bool = False
    own: tuple[int | None, ...] = (None, None, None)
    every: int = 0
    schedule: str = ""
    zone: str = ""
    declared_at: int = 0
    early: int = 0
    max_run: int = 0
    fail_after: int = 1
    recover_after: int = 1
    notify_unusual: bool = True
    readable: bool = True

    @property
    def by_hand(self) -> bool:
        return not self.declared_at and bool(self.every or self.schedule)

    @property
    def asks_for_more(self) -> bool:
        counted = self.fail_after > 1 or self.recover_after > 1
        own = self.schedule or self.zone or self.early or self.max_run
        return bool(own) or counted or not self.notify_unusual


class Defaults(NamedTuple):
    """The registry's own from `since` on."""

    since: int
    patience: EffectiveThresholds
    bounded: bool
    zone: str


class Message(NamedTuple):
    """A tick with what it proves (`gaps` as they are known then), or a heartbeat."""

    at: int
    said: Said | None = None
    end: int = 0
    until: int = 0
    gaps: tuple[tuple[int, int], ...] = ()


def ticks(facts: Sequence[Fact]) -> list[Message]:
    """All ticks, with what is known after each of when the registry could be heard. Of the same facts it is
    asked for again and again."""
    global _ticks_of
    if _ticks_of[0] is not facts:
        _ticks_of = facts, _ticks(facts)
    return _ticks_of[1]


_ticks_of: tuple[Sequence[Fact], list[Message]] = (), []


def _ticks(facts: Sequence[Fact]) -> list[Message]:
    coverage, found = Coverage(), []
    for fact in facts:
        if fact.subject.startswith("tick."):
            start, end = parse_tick(fact.data).proves(fact.at)
            coverage.prove(start, end)
            found.append(Message(fact.at, None, end, coverage.until, tuple(coverage.gaps)))
    return found


def heartbeats(facts: Iterable[Fact]) -> list[Message]:
    """Those of one service that say something of its life."""
    found = []
    for fact in facts:
        headers = fact.headers or {}
        body = json.loads(fact.data) if fact.data.startswith(b"{") else {}
        schedule = body.get("schedule", "")
        every = int(body["every"][:-1]) * SECOND if "every" in body and not schedule else 0
        zone = body.get("time_zone", "") if schedule else ""
        signal = headers.get("Registry-Signal", "success")
        if fact.good:
            by_key, run = FOUND_BY_HEADER in headers, body.get("run", "")
            found.append(Message(fact.at, Said(fact.at, signal, run, every, schedule, zone, by_key)))
    return found


def settings(broker: Broker, name: str) -> list[Settings]:
    found, subject = [], streams.config(name)
    for message in broker.events:
        if message.subject != subject:
            continue
        try:
            event = parse_event(message.data)
        except ValueError:
            found.append(Settings(message.at, registers=False, readable=False))
            continue
        assert not isinstance(event, StatusChanged)
        if isinstance(event, ServiceDeleted):
            found.append(Settings(message.at, registers=False, deletes=True))
            continue
        config, data = event.data.config, event.data
        registers = isinstance(event, ServiceRegistered)
        at = message.at
        if registers and data.registered_at:
            at = min(at, micros(data.registered_at))

        def length(value: object) -> int:
            return round(value.total_seconds() * SECOND) if value else 0  # type: ignore[attr-defined]

        found.append(
            Settings(
                at,
                registers,
                resumes=isinstance(event, ServiceResumed),
                paused=config.paused,
                own=tuple(
                    length(v) or None for v in (config.silent_after, config.down_after, config.dead_after)
                ),
                every=length(config.every),
                schedule=config.schedule or "",
                zone=config.time_zone or "",
                declared_at=micros(data.declared_at) if data.declared_at else 0,
                early=length(config.early),
                max_run=length(config.max_run),
                fail_after=config.fail_after or 1,
                recover_after=config.recover_after or 1,
                notify_unusual=config.notify_unusual,
            )
        )
    return found


def epochs(broker: Broker) -> list[Defaults]:
    found = json.loads(broker.kv.get("epochs", b"[]"))
    return [Defaults(at, EffectiveThresholds(*each), bounded, zone) for *each, at, bounded, zone in found]


@dataclass
class Run:
    started: int
    run: str
    key: str
    occurrence: int
    counted_from: int = 0
    is_overdue: bool = False
    found_at: int = 0
    is_told: bool = False


@dataclass
class Life:
    """A service from its registration to its deletion."""

    registered_at: int
    silent_down_dead: EffectiveThresholds = NONE_YET
    status: str = "unknown"
    since: int = 0
    last: int = 0
    rhythm: int = 0
    last_was_start: bool = False
    counted_from: tuple[int, ...] = (0, 0, 0)
    resumed_at: int = 0
    has_job: bool = False
    is_paused: bool = False
    in_pause: list[Said] = field(default_factory=list)
    by_hand: bool = False
    every: int = 0
    every_at: int = 0
    when: tuple[str, str] = ("", "")
    """Its schedule and zone as they were declared."""
    zone: str = ""
    own: tuple[int | None, ...] = (None, None, None)
    set: Settings = Settings(0, registers=True)
    timetable: tuple[str, str, int] | None = None
    met: int = 0
    """Nothing up to this occurrence is waited for."""
    expected_from: int = 0
    """Nothing that was due up to then is expected of it, or counts as met."""
    missed_until: int = 0
    settled_until: int = 0
    """What was late already when an older run succeeded makes nothing fall again."""
    runs: list[Run] = field(default_factory=list)
    hangs: int = 0
    """When a run was found overdue first since the last success; 0: none was."""
    failures: int = 0
    successes: int = 0
    ended_at: int = 0
    lengths: list[int] = field(default_factory=list)
    told_at: int = -NEVER
    held: list[Said] = field(default_factory=list)
    put_off: list[Settings] = field(default_factory=list)
    """What was configured while heartbeats were held."""


class Reference:
    """`changes` and `facts` of one service; `ever_had_job`: whether it is more than one that beats."""

    def __init__(self, broker: Broker, name: str, messages: list[Message], known: list[Defaults]) -> None:
        self.changes: list[Change] = []
        self.facts: list[Told] = []
        self.ever_had_job = False
        self.was_held = False
        self._life: Life | None = None
        self._until, self._gaps = 0, list[tuple[int, int]]()
        self._ahead = settings(broker, name)
        self.readable = all(each.readable for each in self._ahead)
        self._epochs, self._coming = known[0], known[1:]
        self._known = known
        self._resumed = list[tuple[Life, int]]()
        self._was_taken_back = False
        """Whether a tick has proved that the registry was listening in what was thought to be a gap."""
        if self.readable:
            for message in messages:
                self._configure(message.at, message.said is not None and not message.said.by_key)
                if message.said:
                    self._heard(message.said)
                else:
                    self._ticked(message)
            # what is configured after the last message has no consequences yet

    # --- the configuration

    def _configure(self, at: int, registers: bool) -> None:
        """Apply what was configured before `at`. `registers`: a heartbeat came then, and may register."""
        while self._ahead:
            first = self._ahead[0]
            is_now = first.counts_at < at or (first.registers and registers and first.counts_at == at)
            if not is_now:
                break
            self._begin_epochs(first.counts_at)
            self._ahead.pop(0)
            life = self._life
            ends = first.deletes or first.registers or first.paused
            if life and life.held and not ends:
                life.put_off.append(first)
                continue
            while life and life.put_off and first.paused:
                self._hear_held(life, life.put_off[0].counts_at)
                self._apply(life.put_off.pop(0))
            self._apply(first)
        self._begin_epochs(at)
        resumed, self._resumed = self._resumed, []
        for life, since in resumed:
            if life is self._life and life.in_pause:
                self._resume(life, since)

    def _begin_epochs(self, at: int) -> None:
        while self._coming and self._coming[0].since < at:
            self._epochs = self._coming.pop(0)
            if life := self._life:
                limit = self._limit(life)
                self._use(life, self._epochs.since)
                self._other_limit(life, limit, self._epochs.since)
                if life.has_job:
                    self._new_timetable(life, self._epochs.since)

    def _apply(self, change: Settings) -> None:
        if change.deletes:
            self._life = None
            return
        life, is_new = self._life, self._life is None or change.registers
        at = change.counts_at
        if life is None or change.registers:
            life = self._life = Life(change.counts_at)
        limit, life.own = self._limit(life), change.own
        if change.by_hand or life.by_hand or change.declared_at >= (life.every_at or 1):
            life.every, life.every_at = change.every, change.declared_at or at
            life.by_hand, life.when = change.by_hand, (change.schedule, change.zone)
        elif not life.when[0]:
            life.when = "", change.zone
        if is_new:
            life.silent_down_dead = self._patience(life)
        else:
            self._use(life, at)
        life.set = change
        self._other_limit(life, limit, at)
        if life.when[0] or life.has_job or change.asks_for_more:
            life.has_job = True
            self._new_timetable(life, at)
        self._pause_or_resume(life, change, at)

    def _pause_or_resume(self, life: Life, change: Settings, at: int) -> None:
        if change.resumes or (life.is_paused and not change.paused):
            written = next((each.since for each in self._known if each.bounded), 0)
            life.resumed_at = max(at, written)
            life.counted_from = (life.resumed_at,) * 3
            if life.timetable:
                self._expect_from(life, at)
            for run in life.runs:
                run.counted_from = at
            if life.in_pause:
                self._resumed.append((life, at))
        life.is_paused = change.paused
        if life.is_paused:
            self._hear_held(life, NEVER)

    def _hear_held(self, life: Life, until: int) -> None:
        while life.held and life.held[0].at < until:
            self._heard_in_pause(life, life.held.pop(0))

    def _resume(self, life: Life, at: int) -> None:
        """What was heard in the pause takes effect."""
        said, life.in_pause = life.in_pause, []
        ended = [each for each in said if each.signal != "start"]
        to = self._after(life, life.status, ended[-1] if ended else said[0], more=0)
        if to != life.status and at > life.since and at >= life.last:
            self._change(life, to, at, life.last, "heartbeat")

    def _patience(self, life: Life) -> EffectiveThresholds:
        from tests.simulation.checks import reckoned

        defaults = self._epochs
        return reckoned(life.own, life.every, defaults.patience, defaults.bounded, bool(life.when[0]))

    def _use(self, life: Life, at: int) -> None:
        """Perhaps other thresholds, or counted from other moments: nothing falls for the past by that, and
        nothing falls later than it would have."""
        new, old = self._patience(life), life.silent_down_dead
        if new != old or bool(life.timetable) != bool(life.when[0]):
            heard = life.held[-1].at if life.held else 0
            due = [
                self._expires(life, max(heard, counted, self._base(life, rung)), old[rung])
                for rung, counted in enumerate(life.counted_from)
            ]
            since = (min(at, due[rung] - new[rung]) for rung in range(3))
            life.counted_from = tuple(max(life.resumed_at, each) for each in since)
        life.silent_down_dead = new

    def _other_limit(self, life: Life, old: int, at: int) -> None:
        new = self._limit(life)
        for run in life.runs if new != old else ():  # which none becomes overdue for the past by
            due = expiry(max(run.started, run.counted_from), old, self._gaps)
            run.counted_from = max(life.resumed_at, min(at, due - new))

    def _new_timetable(self, life: Life, at: int) -> None:
        text, zone = life.when
        found = (text, zone or self._epochs.zone, life.set.early or EARLY) if text else None
        before, life.timetable = life.timetable, found
        if found and not (before and found[:2] == before[:2]):
            self._expect_from(life, at)

    def _expect_from(self, life: Life, at: int) -> None:
        """Only what comes after `at` is expected, less what was met early."""
        assert life.timetable
        text, zone, early = life.timetable
        life.expected_from = at
        met = occurrences.counts_for(text, zone, life.last, early) if life.last else 0
        life.met = life.missed_until = max(met, occurrences.last(text, zone, at))

    # --- heartbeats

    def _heard(self, said: Said) -> None:
        life = self._life
        if life is None or said.at < life.registered_at or said.signal == "log" or said.at <= life.last:
            return
        if life.is_paused:
            self._heard_in_pause(life, said)
        elif life.held or any(self._until < at <= said.at for at in self._all_due(life)):
            life.held.append(said)
            self.was_held = True
        else:
            self._evaluate(life, said)

    def _heard_in_pause(self, life: Life, said: Said) -> None:
        self._begin_job(life, said)
        self._record_gap(life, said)
        if life.has_job:
            self._facts_of(life, said)
        self._declare(life, said)
        life.in_pause.append(said)
        self._take(life, said)

    def _evaluate(self, life: Life, said: Said) -> None:
        self._begin_job(life, said)
        self._advance(life, min(said.at, self._until))
        self._record_gap(life, said)
        if life.has_job:
            self._facts_of(life, said)
        to = self._after(life, life.status, said, more=1)
        if to != life.status:
            self._change(life, to, said.at, said.at, "heartbeat")
        self._declare(life, said)
        self._take(life, said)

    def _record_gap(self, life: Life, said: Said) -> None:
        if life.last and not life.timetable and (said.at - life.last) * 2 > life.silent_down_dead.silent:
            self.facts.append(Told(said.at, "gap", "gap", life.last, run=said.signal))

    def _begin_job(self, life: Life, said: Said) -> None:
        if said.signal == "start":
            life.has_job = True

    def _after(self, life: Life, status: str, said: Said, more: int) -> str:
        """The status after a heartbeat. `more`: 1 if it is not counted yet."""
        is_down = status in ("down", "dead")
        fail_after = life.set.fail_after if life.has_job else 1
        recover_after = life.set.recover_after if life.has_job else 1
        if said.signal == "fail":
            if fail_after == 1 or life.failures + more >= fail_after:
                return "down"
            return status if is_down else "alive"
        if said.signal == "start":
            return status if is_down else "alive"
        enough = recover_after == 1 or life.successes + more >= recover_after
        return "alive" if enough or not is_down else status

    def _declare(self, life: Life, said: Said) -> None:
        """The interval or schedule that it declares, unless somebody else has set one."""
        if life.by_hand:
            return
        when = said.schedule, said.zone or life.when[1]
        is_new = when != life.when if said.schedule else said.every not in (0, life.every)
        if not is_new:
            return
        limit = self._limit(life)
        life.every, life.every_at, life.when = said.every, said.at, when
        life.has_job |= bool(said.schedule)
        self._use(life, said.at)
        self._other_limit(life, limit, said.at)
        if life.has_job:
            self._new_timetable(life, said.at)

    def _take(self, life: Life, said: Said) -> None:
        """Count it, open its run, and meet what it counts for."""
        ended = self.facts and self.facts[-1].ended == said.at and self.facts[-1].started
        if life.has_job:
            if said.signal == "fail":
                life.failures, life.successes = life.failures + 1, 0
            elif said.signal == "success":
                life.failures, life.hangs = 0, 0
                recovered = self.changes and self.changes[-1].since == said.at and life.status == "alive"
                life.successes = 0 if recovered else life.successes + 1
            if said.signal == "start":
                life.runs = [each for each in life.runs if each.run != said.run]
                if len(life.runs) >= MAX_OPEN:
                    life.runs.remove(min(life.runs, key=lambda run: run.started))
                occurrence, key = self._key(life, said)
                life.runs.append(Run(said.at, said.run, key, occurrence))
            if ended and said.signal == "success":
                life.settled_until = said.at - life.silent_down_dead.silent
            if life.timetable and not ended:
                text, zone, early = life.timetable
                life.met = max(
                    life.met if life.last else 0, occurrences.counts_for(text, zone, said.at, early)
                )
                life.missed_until = max(life.missed_until, life.met)
        if not life.last_was_start or said.signal == "start":
            life.rhythm = said.at - life.last if life.last else 0
        life.last_was_start = said.signal == "start"
        life.last = said.at

    def _key(self, life: Life, said: Said) -> tuple[int, str]:
        """Which occurrence a run counts for that begins with this heartbeat, and its key: that of the
        occurrence, if it is the first for it."""
        own = f"{said.at}-{said.run}"
        if not life.timetable:
            return 0, own
        text, zone, early = life.timetable
        found = occurrences.counts_for(text, zone, said.at, early)
        is_first = not life.last or found > life.met
        found = found if is_first else life.met
        if found <= life.expected_from:
            return 0, own
        is_taken = any(run.key == str(found) for run in life.runs)
        return found, str(found) if is_first and not is_taken else own

    # --- facts about runs

    def _facts_of(self, life: Life, said: Said) -> None:
        """In the order of facts of one moment: what is missed, what gives way, what ends."""
        run = next((each for each in life.runs if each.run == said.run), None)
        is_end = said.signal != "start"
        if not (is_end and run):
            for occurrence in self._passed(life, said):
                life.missed_until = occurrence
                self.facts.append(Told(said.at, "missed", str(occurrence), occurrence=occurrence))
        if not is_end:
            if run is None and len(life.runs) >= MAX_OPEN:
                run = min(life.runs, key=lambda each: each.started)
            if run and not run.is_overdue:
                self._record(said.at, "overdue", run)
            if run:
                life.runs.remove(run)
            return
        outcome = "failure" if said.signal == "fail" else "success"
        life.ended_at = said.at
        if run:
            life.runs.remove(run)
            words = notify = None
            if outcome == "success":
                length = said.at - run.started
                words = run_lengths.unusual(length, life.lengths)
                notify = (
                    bool(words) and not run.is_told and not life.is_paused and self._may_tell(life, said.at)
                )
                life.lengths.append(length)
            if notify:
                life.told_at = said.at
            self._record(said.at, outcome, run, ended=said.at, unusual=words, notify=bool(notify))
        elif life.timetable:
            occurrence, key = self._key(life, said)
            self.facts.append(Told(said.at, outcome, key, 0, said.at, occurrence, said.run))

    def _record(
        self,
        at: int,
        outcome: str,
        run: Run,
        ended: int = 0,
        unusual: str | None = None,
        notify: bool = False,
    ) -> None:
        self.facts.append(
            Told(at, outcome, run.key, run.started, ended, run.occurrence, run.run, unusual, notify)
        )

    def _may_tell(self, life: Life, at: int) -> bool:
        return life.set.notify_unusual and at >= life.told_at + TELL_AGAIN

    def _passed(self, life: Life, said: Said) -> Iterator[int]:
        """The occurrences that nothing has met, up to the one that this heartbeat counts for."""
        if not life.timetable or not life.last or life.is_paused:
            return
        text, zone, early = life.timetable
        now = occurrences.counts_for(text, zone, said.at, early)
        each = first = occurrences.following(text, zone, life.met)
        dead = expiry(first, life.silent_down_dead.dead, self._gaps)
        while each < now:
            if life.missed_until < each <= dead and not self._is_forgiven(life, each):
                yield each
            each = occurrences.following(text, zone, each)

    def _limit(self, life: Life) -> int:
        return (life.set.max_run if life.has_job else 0) or life.silent_down_dead.down

    def _facts_due(self, life: Life) -> Iterator[tuple[int, int, str, Run | None, int]]:
        """When, in which order of the same moment, which, of which run or occurrence."""
        if not life.has_job or life.is_paused or not life.last:
            return
        for run in life.runs:
            if not run.is_overdue:
                at = expiry(max(run.started, run.counted_from), self._limit(life), self._gaps)
                yield at, 0, "overdue", run, 0
            longest = None if run.is_told else run_lengths.too_long(life.lengths)
            if longest:
                at = max(run.started + longest[0], run.counted_from, life.ended_at + 1)
                yield at, 1, "running", run, 0
        if life.timetable:
            text, zone, _ = life.timetable
            first = self._first_unmet(life)
            each = occurrences.following(text, zone, max(life.missed_until, life.met))
            each = first if each <= first else self._unforgiven(life, each)
            if each < NEVER:
                at = occurrences.following(text, zone, each)
                if each == first:
                    at = min(at, expiry(each, life.silent_down_dead.down, self._gaps))
                at = max(at, life.ended_at + 1)
                if at <= expiry(first, life.silent_down_dead.dead, self._gaps):
                    yield at, 2, "missed", None, each

    def _record_due(self, life: Life, upto: int) -> None:
        while True:
            due = min(
                self._facts_due(life), key=lambda d: (d[:2], d[3].key if d[3] else str(d[4])), default=None
            )
            if due is None or due[0] > upto:
                return
            at, rank, outcome, run, occurrence = due
            facts = self.facts
            newest = facts[-1] if facts else None
            newest_rank = 3 if newest and newest.ended else 2 if newest and newest.key == "gap" else 0
            if self._was_taken_back and newest and (at, rank) < (newest.at, newest_rank):
                self.facts = []  # it is due earlier than was thought, and before what is recorded
            if run is None:
                life.missed_until = occurrence
                self.facts.append(Told(at, outcome, str(occurrence), occurrence=occurrence))
            elif outcome == "overdue":
                run.is_overdue, run.found_at = True, at
                life.hangs = life.hangs or at
                self._record(at, outcome, run)
            else:
                run.is_told = True
                longest = run_lengths.too_long(life.lengths)
                notify = self._may_tell(life, at)
                if notify:
                    life.told_at = at
                self._record(at, outcome, run, unusual=longest and longest[1], notify=notify)
            if self.facts is not facts:
                self.facts = facts

    # --- what is waited for

    def _first_unmet(self, life: Life) -> int:
        assert life.timetable
        return self._unforgiven(life, occurrences.following(*life.timetable[:2], life.met))

    def _unforgiven(self, life: Life, each: int) -> int:
        assert life.timetable
        while self._is_forgiven(life, each):
            each = occurrences.following(*life.timetable[:2], each)
        return each

    def _is_forgiven(self, life: Life, occurrence: int) -> bool:
        """The registry was deaf for a while, as a heartbeat for it was due."""
        if occurrence >= NEVER or not life.timetable:
            return False
        begin, end = occurrences.opens(*life.timetable[:2], occurrence, life.timetable[2]), occurrence
        end += life.silent_down_dead.silent
        enough = min(DEAF, (end - begin) // 2)
        return any(min(until, end) - max(since, begin) >= enough for since, until in self._gaps)

    # --- statuses

    def _base(self, life: Life, rung: int) -> int:
        """From when on the patience for silent, down or dead counts."""
        if life.timetable:
            text, zone, _ = life.timetable
            first = occurrences.following(text, zone, max(life.met, life.settled_until))
            return self._unforgiven(life, first)
        since = life.since if rung == 0 else 0  # silent for a run that hangs: once, not again and again
        holding = [
            run.started
            for run in life.runs
            if run.started >= since and (not run.is_overdue or (life.hangs and run.found_at >= life.hangs))
        ]
        if life.has_job and not life.set.max_run and rung < 2 and holding:
            return min(life.last, *holding)
        return life.last

    def _expires(self, life: Life, start: int, patience: int) -> int:
        if start >= NEVER:
            return NEVER
        return expiry(start, patience, self._gaps, 0 if life.timetable else life.rhythm)

    def _falls_due(self, life: Life) -> Iterator[tuple[str, int, str]]:
        if life.is_paused or not life.last:
            return
        for rung, to in enumerate(("silent", "down", "dead")):
            if LADDER.index(to) <= LADDER.index(life.status):
                continue
            start = max(self._base(life, rung), life.counted_from[rung])
            at, why = self._expires(life, start, life.silent_down_dead[rung]), "quiet"
            if life.has_job and life.set.max_run and not life.timetable and to != "dead":
                limits = (
                    expiry(max(run.started, run.counted_from), self._limit(life), self._gaps)
                    for run in life.runs
                    if not run.is_overdue
                )
                at = max([at, life.hangs, *limits])
            if life.hangs and to == "down" and life.hangs <= at:
                at, why = life.hangs, "hangs"
            at = max(at, life.since)
            if at < NEVER and not (to == "silent" and life.hangs and life.hangs <= at):
                yield to, at, why

    def _all_due(self, life: Life) -> list[int]:
        return [at for _, at, _ in self._falls_due(life)] + [due[0] for due in self._facts_due(life)]

    def _advance(self, life: Life, upto: int) -> None:
        self._record_due(life, upto)
        since = 0
        for to, at, why in list(self._falls_due(life)):
            since = max(since, at)
            if since > upto:
                return
            self._change(life, to, since, life.last, why)

    def _change(self, life: Life, to: str, at: int, last: int, why: str) -> None:
        self.changes.append(Change(life.status, to, at, last, why))
        self.ever_had_job |= life.has_job
        life.status, life.since = to, at
        if to != "silent":
            life.successes = 0

    def _ticked(self, tick: Message) -> None:
        self._was_taken_back |= not {*self._gaps} <= {*tick.gaps}
        self._until, self._gaps = tick.until, list(tick.gaps)
        life = self._life
        if life is None:
            return
        held, life.held = life.held, []
        for n, said in enumerate(held):
            while life.put_off and life.put_off[0].counts_at < said.at:
                self._apply(life.put_off.pop(0))
            if life.has_job and any(self._until < at <= said.at for at in self._all_due(life)):
                life.held = held[n:]
                break
            self._evaluate(life, said)
        while life.put_off and not life.held:
            self._apply(life.put_off.pop(0))
        if not life.is_paused:
            self._advance(life, tick.end)
        self.ever_had_job |= life.has_job
