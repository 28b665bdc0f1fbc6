"""What each chat must have been told, worked out from the scenario and what the broker stored, not from the
notifier.

Much depends on what the notifier knew at a moment, which nobody can say to the second. So each check looks at
what is sure: it demands what nothing may have withheld, and forbids what something must have.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from services.notifier.alerting.changes import NoticeKind
from shared.contracts.events import (
    ConfigurationSet,
    ServiceDeleted,
    Status,
    StatusChanged,
    parse_event,
    parse_run,
)
from shared.messaging import streams
from shared.messaging.reader import Stored
from tests.simulation.model import BASE
from tests.simulation.notifier import incident_checks
from tests.simulation.notifier.routing import Audience, Heard
from tests.simulation.notifier.run import Played
from tests.simulation.notifier.scenario import DAY, HOUR, MINUTE, when
from tests.simulation.notifier.telegram import Phone, Shown
from tests.simulation.run import seconds

Span = tuple[float, float]
NEVER = float("inf")

FALLEN = (Status.DOWN, Status.DEAD)
TURNS, CALMS_DOWN, CALMS_SOON = 4, 30 * MINUTE, 5 * MINUTE
KEPT = DAY - HOUR
"""A chat that is off for longer misses what is older (with an hour for what is on its way)."""
MAX_PROBE = HOUR
"""Seconds until a chat that was off is tried again, at most."""

_NOTICE = re.compile(
    r"^\S+ (\S+?)(?: still (silent|down|dead) for| has calmed down: (\w+)| stays (\w+):"
    r"| (alive) again| is still flapping|: \w+ → (\w+)(?:\n.+)*?\nsince).*",
    re.MULTILINE,
)
_DIGEST = re.compile(r"(Daily|Weekly) digest, \w+ (\S+) ")


@dataclass(frozen=True, slots=True)
class Change:
    """A change of status as it is stored. `began`: when the status before it had."""

    seq: int
    at: float
    since: float
    from_: Status
    to: Status
    began: float

    @property
    def is_turn(self) -> bool:
        return self.from_ is not Status.UNKNOWN and Status.ALIVE in (self.from_, self.to)

    def __str__(self) -> str:
        return f"#{self.seq} ({self.from_} -> {self.to} at {self.since:.3f})"


@dataclass(frozen=True, slots=True)
class Run:
    """A run of an unusual length, as it is stored. `wanted`: it is to be told."""

    seq: int
    at: float
    since: float
    name: str
    wanted: bool

    def __str__(self) -> str:
        return f"the run #{self.seq} (of {self.name}, at {self.since:.3f})"


@dataclass
class Service:
    """One service as the record tells of it; spans of time in which nobody is to be told of it."""

    name: str
    changes: list[Change] = field(default_factory=list)
    paused: list[Span] = field(default_factory=list)
    muzzled: list[Span] = field(default_factory=list)
    """With `notify: false`."""
    absent: list[Span] = field(default_factory=list)
    tagged: list[Span] = field(default_factory=list)
    registered: float = NEVER
    """When it was first."""

    def until(self, n: int) -> float:
        """When the status that a change began is no more."""
        at = self.changes[n].at
        gone = min((start for start, _ in self.absent if start > at), default=NEVER)
        return min(gone, self.changes[n + 1].at if n + 1 < len(self.changes) else NEVER)

    def status(self, at: float) -> Status:
        return next((it.to for it in reversed(self.changes) if it.at <= at), Status.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Window:
    """Maintenance as it was written down from `known` until `dropped`."""

    known: float
    dropped: float
    start: float
    end: float
    services: tuple[str, ...]
    tags: tuple[str, ...]

    def may_be_about(self, it: Service) -> bool:
        return it.name in self.services or bool(self.tags and it.tagged)

    def is_about(self, it: Service, start: float, end: float) -> bool:
        """Whether it certainly is, all that time."""
        return it.name in self.services or bool(self.tags and covered(it.tagged, start, end))


def covered(spans: list[Span], start: float, end: float) -> bool:
    return any(a <= start and end < b for a, b in spans)


def touched(spans: list[Span], start: float, end: float) -> bool:
    return any(a <= end and start < b for a, b in spans)


def without(span: Span, spans: list[Span]) -> list[Span]:
    """What is left of a span."""
    left, at = [], span[0]
    for start, end in sorted(spans):
        if at < min(start, span[1]):
            left.append((at, min(start, span[1])))
        at = max(at, end)
    return [*left, (at, span[1])] if at < span[1] else left


def problems(played: Played) -> list[str]:
    """Everything that is wrong with what the chats were told."""
    facts = _Facts(played)
    found = []
    for phone in played.scenario.phones:
        mine = [it for it in played.telegram.shown if it.phone is phone and not it.is_answer]
        chat = _Chat(facts, phone, mine)
        found += [f"chat {phone.address}: {problem}" for problem in chat.problems()]
    return [*found, *incident_checks.problems(played, facts.stories, facts.settled)]


class _Facts:
    """What happened, without regard to who was told."""

    def __init__(self, played: Played) -> None:
        self.played = played
        self.scenario = scenario = played.scenario
        self.services = {name: Service(name) for name in scenario.names}
        self._read_events()
        self.runs = {stored.seq: _run(stored) for stored in self.played.world.runs}
        self.windows = self._read_windows()
        self.stories = {name: incident_checks.story(played, name) for name in scenario.names}
        self.audience = Audience(self)
        pace = 2 * scenario.paces.reminders
        self.settled = 150 + pace if scenario.calm_at <= scenario.start else 750 + pace
        """Seconds after which everything is told, once nothing is broken."""

    def margin(self, at: float) -> float:
        """Seconds after which the notifier knows what is stored."""
        well = self.scenario.calm_at <= self.scenario.start or at > self.scenario.calm_at + 750
        return 30 + self.scenario.paces.reminders if well else 750

    def _read_events(self) -> None:
        open_: dict[tuple[str, str], float] = {}
        for stored in self.played.world.events:
            try:
                event = parse_event(stored.data)
            except ValueError:
                continue
            at, it = (stored.at - BASE) / 1e6, self.services[event.name]
            if isinstance(event, StatusChanged):
                since, before = float(seconds(event.data.since)), it.changes[-1:]
                began = before[0].since if before else since
                it.changes.append(Change(stored.seq, at, since, event.data.from_, event.data.to, began))
                continue
            it.registered = min(it.registered, at)
            gone = isinstance(event, ServiceDeleted)
            config = None if gone else event.data.config  # type: ignore[union-attr]
            for kind, spans, holds in (
                ("absent", it.absent, gone),
                ("paused", it.paused, bool(config and config.paused)),
                ("muzzled", it.muzzled, bool(config and not config.notify)),
                ("tagged", it.tagged, bool(config and config.tags)),
            ):
                key = event.name, kind
                if holds:
                    open_.setdefault(key, at)
                elif key in open_:
                    spans.append((open_.pop(key), at))
        for (name, kind), start in open_.items():
            getattr(self.services[name], kind).append((start, NEVER))

    def _read_windows(self) -> list[Window]:
        found: dict[str, list[Window]] = {}
        for stored in self.played.world.events:
            if not stored.subject.startswith(streams.configuration("maintenance.")):
                continue
            at, its = (stored.at - BASE) / 1e6, found.setdefault(stored.subject, [])
            if its:
                its[-1] = Window(its[-1].known, at, *_pause(its[-1]))
            event = streams.read_configuration(stored.subject, stored.data)
            if isinstance(event, ConfigurationSet):
                its.append(_window(at, event.data.value))
        return [window for its in found.values() for window in its]

    # --- maintenance

    def is_hushed(self, it: Service, change: Change, at: float) -> bool:
        """Whether a fall certainly is not to be told at a moment, as a window covers all of it."""
        early = change.at - self.margin(change.at)
        return change.to.badness > change.from_.badness and any(
            w.known <= early
            and at < min(w.dropped, w.end)
            and w.start <= change.since <= change.at < w.end
            and w.is_about(it, early, at)
            for w in self.windows
        )

    def is_run_hushed(self, it: Service, run: Run, at: float) -> bool:
        """The same of a run."""
        early = run.at - self.margin(run.at)
        return any(
            w.known <= early
            and at < min(w.dropped, w.end)
            and w.start <= run.since <= run.at < w.end
            and w.is_about(it, early, at)
            for w in self.windows
        )

    def hushed_spans(self, it: Service) -> list[Span]:
        return [(w.start, w.end) for w in self.windows if w.may_be_about(it)]


def _run(stored: Stored) -> Run:
    event = parse_run(stored.data)
    since = float(seconds(event.time))
    return Run(stored.seq, (stored.at - BASE) / 1e6, since, event.name, event.data.notify)


def _window(at: float, content: dict[str, Any]) -> Window:
    start, end = (float(seconds(datetime.fromisoformat(content[key]))) for key in ("starts_at", "ends_at"))
    services, tags = tuple(content.get("services", ())), tuple(content.get("tags", ()))
    return Window(at, NEVER, start, end, services, tags)


def _pause(window: Window) -> tuple[Any, ...]:
    return window.start, window.end, window.services, window.tags


class _Chat:
    """One chat: what it was told, held against what it had to be told."""

    def __init__(self, facts: _Facts, phone: Phone, shown: list[Shown]) -> None:
        self.facts = facts
        self.scenario = facts.scenario
        self.phone = phone
        self.shown = shown
        self.sure: list[Span] = []
        """When it certainly was one of those that are told."""
        self.perhaps: list[Span] = []
        self._find_membership()
        self.muted: dict[str, list[Span]] = {}
        """When it may have muted a service; `silenced`: when it certainly had."""
        self.silenced: dict[str, list[Span]] = {}
        self._find_mutes()
        self.choices = [
            (it.at, played.answers[it].at if it in played.answers else NEVER, it.text)
            for played in [facts.played]
            for it in facts.scenario.commands
            if it.phone is phone and it.text.split()[0] in ("/only", "/all", "/quiet")
        ]
        self.well_from = self._well_from()
        self.told: dict[str, list[tuple[float, Change]]] = {name: [] for name in facts.services}
        """Each service's changes, with when it was told of each."""
        self.beliefs: dict[str, list[tuple[float, Status]]] = {name: [] for name in facts.services}
        self.digests: dict[tuple[str, str], float] = {}
        self.runs_told: set[int] = set()
        self.notices: list[tuple[float, str, str]] = []

    def problems(self) -> Iterator[str]:
        yield from self._read()
        for it in self.facts.services.values():
            for problem in (*self._missing(it), *self._believed(it), *self._reminded(it), *self._spared(it)):
                yield f"{it.name}: {problem}"
        yield from self._digested()
        yield from self._missing_runs()

    # --- who is told

    def _find_membership(self) -> None:
        played, scenario = self.facts.played, self.scenario
        if self.phone.address in scenario.configured:
            born = played.world.born.get(f"telegram.{self.phone.address}", NEVER)
            self.sure, self.perhaps = [(born, NEVER)], [(scenario.start - 120, NEVER)]
            return
        asked = sure = NEVER
        for command in [it for it in scenario.commands if it.phone is self.phone]:
            answered = played.answers[command].at if command in played.answers else NEVER
            if command.text.startswith("/start"):
                asked, sure = min(asked, command.at), min(sure, answered)
            elif command.text == "/stop":
                self.sure.append((sure, command.at))
                self.perhaps.append((asked, answered))
                asked = sure = NEVER
        self.sure.append((sure, NEVER))
        self.perhaps.append((asked, NEVER))

    def _find_mutes(self) -> None:
        """They hold for every chat."""
        for name, story in self.facts.stories.items():
            self.muted[name] = self.silenced[name] = story.muted

    def _well_from(self) -> float:
        """From when on it gets everything."""
        well = self.scenario.calm_at
        kinds = {it.kind for it in self.phone.troubles}
        if self.scenario.calm_at > self.scenario.start:
            well += self.facts.settled
            well += MAX_PROBE if kinds & {"kicked", "odd"} else 0
        return well

    # --- what it saw

    def _read(self) -> Iterator[str]:
        """Nothing twice without saying so, nothing out of order, nothing that is not so, nothing withheld."""
        seen, repeats = dict[Any, Shown](), 0
        by_seq = {change.seq: (it, change) for it in self.facts.services.values() for change in it.changes}
        for shown in self.shown:
            items = [*self._items(shown)]
            old = [item for item in items if item in seen]
            if not items:
                yield f"at {shown.at:.3f} it saw something odd: {shown.text[:100]!r}"
            # Another notifier's repeat may overtake what it repeats.
            before = [seen[item] for item in old]
            overtaken = all(it.is_marked and it.by != shown.by and shown.at - it.at < 1 for it in before)
            if old and not shown.is_marked and not overtaken:
                yield f"at {shown.at:.3f} it was told again, without a word of it: {old[0]}"
            repeats += bool(old)
            seen = dict.fromkeys(items, shown) | seen
            new = {it.name for it in shown.message.changes if ("change", it.seq) not in old}
            for change in shown.message.changes:
                it, fact = by_seq[change.seq]
                if it.name in new:
                    self.beliefs[it.name].append((shown.at, fact.to))
                if f" {it.name}: " not in shown.text:
                    yield f"at {shown.at:.3f} the text does not name {it.name}"
                if ("change", change.seq) in old:
                    continue
                newest = self.told[it.name][-1][1] if self.told[it.name] else fact
                # What is tried again may tell more than before, if nothing holds that back any more.
                if fact.seq < newest.seq and ("change", newest.seq) not in old:
                    yield f"at {shown.at:.3f} it was told {fact} after {newest}"
                self.told[it.name].append((shown.at, fact))
                yield from self._forbidden(it, fact, shown.at)
                yield from self._misrouted(it, fact.to, shown.at)
            yield from self._sounded(shown)
            yield from self._read_runs(shown)
            yield from self._read_notices(shown)
            if found := _DIGEST.match(shown.text):
                self.digests.setdefault((found[1], found[2]), shown.at)
            if not touched(self.perhaps, shown.at, shown.at) and not shown.is_marked:
                yield f"at {shown.at:.3f} it was told something though it was no subscriber"
        doubtful = sum(phone is self.phone for _, phone in self.facts.played.telegram.doubtful)
        ends = len(self.facts.played.ends)
        if repeats > doubtful + ends:
            yield f"{repeats} messages were repeated for {doubtful} lost answers and {ends} ends"

    def _items(self, shown: Shown) -> Iterator[Any]:
        yield from (("change", change.seq) for change in shown.message.changes)
        yield from (("run", run.seq) for run in shown.message.runs)
        if found := _DIGEST.match(shown.text):
            yield ("digest", shown.message.id)  # the date is that of when it was sent
        elif shown.text.startswith("📡"):  # it looks so rarely that it may take two short absences for one
            yield ("deafness", shown.message.id)
        elif not shown.message.changes:
            for found in _NOTICE.finditer(shown.text):
                ends = [*self.facts.services[found[1]].paused, *self.muted.get(found[1], ())]
                soon = any(end <= shown.at <= end + self.facts.settled for _, end in ends)
                soon |= "flapping:" in found[0]  # it may flap again as it did before
                yield "notice", found[0], shown.at if soon and not shown.is_marked else ""

    def _read_runs(self, shown: Shown) -> Iterator[str]:
        for told in shown.message.runs:
            run, it = self.facts.runs[told.seq], self.facts.services[told.name]
            self.runs_told.add(run.seq)
            if not run.wanted or run.name != told.name or f" {run.name}: took " not in shown.text:
                yield f"at {shown.at:.3f} it was told of {run}: {shown.text[:100]!r}"
            if not shown.message.silent:
                yield f"at {shown.at:.3f} {run} was told with a sound"
            if shown.at - run.since > DAY + self.facts.settled:
                yield f"{run} was told at {shown.at:.3f}"
            if self.facts.is_run_hushed(it, run, shown.at):
                yield f"{run} was told at {shown.at:.3f}, within maintenance"
            yield from self._forbidden(it, None, shown.at)

    def _read_notices(self, shown: Shown) -> Iterator[str]:
        if shown.message.changes or _DIGEST.match(shown.text):
            return
        for found in _NOTICE.finditer(shown.text):
            name, said = found[1], next(filter(None, found.groups()[1:]), None)
            it = self.facts.services[name]
            self.notices.append((shown.at, name, found[0]))
            if said:
                early = shown.at - self.facts.margin(shown.at) - 20
                so = {it.status(early), *(c.to for c in it.changes if early <= c.at <= shown.at)}
                if said not in so:
                    yield f"at {shown.at:.3f} it was told that {name} is {said}, which it was not"
                self.beliefs[name].append((shown.at, Status(said)))
                yield from self._misrouted(it, Status(said), shown.at)
            yield from self._forbidden(it, None, shown.at)

    def _forbidden(self, it: Service, change: Change | None, at: float) -> Iterator[str]:
        what = str(change or "a notice")
        early = at - self.facts.margin(at)
        for why, spans in (
            ("paused", it.paused),
            ("not to be told of", it.muzzled),
            ("muted", self.silenced.get(it.name, [])),
        ):
            if covered(spans, early, at):
                yield f"{it.name}: {what} was told at {at:.3f}, though it is {why}"
        if change and self.facts.is_hushed(it, change, at):
            yield f"{it.name}: {change} was told at {at:.3f}, within maintenance"

    def _misrouted(self, it: Service, status: Status, at: float) -> Iterator[str]:
        """It was told that it has fallen, though something certainly withheld that."""
        early = at - self.facts.margin(at)
        during = {it.status(early), *(c.to for c in it.changes if early <= c.at <= at)}
        heard = [span for span in self._heard(it) if span.start <= at and early < span.end]
        before = [believed for since, believed in self.beliefs[it.name] if since < at]
        whys = {span.why for span in heard}
        if during != {status} or status is Status.ALIVE or not whys or not all(whys):
            return
        if whys & {"perhaps parent", "perhaps another choice"}:
            return
        if "waiting" in whys and before and before[-1] in FALLEN:  # it was called, and is told as ever
            return
        yield f"{it.name} is {status}, which was told at {at:.3f}, though withheld: {', '.join(whys)}"

    def _sounded(self, shown: Shown) -> Iterator[str]:
        """A fall alone is heard, or not, as the routes say."""
        changes, notices = shown.message.changes, shown.message.notices
        items = [(change.name, change.to) for change in changes] or [(n.name, n.status) for n in notices]
        (name, status) = items[0] if len(items) == 1 else ("", Status.ALIVE)
        if status not in FALLEN:
            return
        it, early = self.facts.services[name], shown.at - self.facts.margin(shown.at)
        heard = [span for span in self._heard(it) if span.start <= shown.at and early < span.end]
        sounds = {span.has_sound for span in heard if not span.why}
        is_sure = len(sounds) == 1 and not any(span.why for span in heard)
        if is_sure and shown.message.silent in sounds:
            yield f"at {shown.at:.3f} {name} was told {'without' if shown.message.silent else 'with'} sound"

    # --- what it had to see

    def _withheld(self, it: Service) -> list[Span]:
        """When it may be that nothing is told of a service, whatever happens to it, but for maintenance."""
        return [*self._silenced(it), *self._unheard(it), *self._flapping(it)]

    def _heard(self, it: Service) -> list[Heard]:
        return self.facts.audience.of(self.phone.address, it, self.choices)

    def _unheard(self, it: Service) -> list[Span]:
        """When the routes, the subscriber's choice, or what it depends on may withhold that it has fallen."""
        return [(heard.start, heard.end) for heard in self._heard(it) if heard.why]

    def _silenced(self, it: Service) -> list[Span]:
        return [*it.paused, *it.muzzled, *it.absent, *self.muted.get(it.name, ())]

    def _flapping(self, it: Service) -> list[Span]:
        """When it may count as flapping: of what may have been told, so many turns within an hour."""
        turns: list[tuple[float, float]] = []
        """When each was, at the earliest and at the latest."""
        spans, withheld = [], False
        for n, change in enumerate(it.changes):
            up = change.to is Status.ALIVE
            turned = next((c for c in it.changes[n:] if (c.to is Status.ALIVE) is not up), None)
            at_last, last = (turned.at, turned.seq) if turned else (NEVER, NEVER)
            later = [at for at, name, _ in self.notices if name == it.name and change.at <= at <= at_last]
            later += [at for at, fact in self.told[it.name] if change.seq <= fact.seq < last]
            latest = max([change.since, *later])
            if change.from_ is Status.ALIVE and not up:
                withheld = not later and self._is_withheld(it, change)
            if change.is_turn and (later or not withheld):
                turns.append((change.since, latest))
        for n in range(TURNS - 1, len(turns)):
            if turns[n][0] - turns[n - TURNS + 1][1] <= HOUR + 1:
                until = turns[n][1]
                for change in it.changes:
                    if change.since >= until and change.since - until <= CALMS_DOWN + 1:
                        until = change.since
                spans.append((turns[n][0], until + CALMS_DOWN + 1))
        return spans

    def _is_withheld(self, it: Service, change: Change) -> bool:
        """Whether a fall certainly is told to nobody here, when it is recorded."""
        early, late = change.at - self.facts.margin(change.at), change.at + self.facts.margin(change.at)
        return (
            covered(it.muzzled, early, late)
            or covered(it.paused, early, late)
            or covered(self.silenced.get(it.name, []), early, late)
            or self.facts.is_hushed(it, change, late)
        )

    def _missing(self, it: Service) -> Iterator[str]:
        """Changes that nothing withheld, and that it was not told of."""
        told = {change.seq for _, change in self.told[it.name]}
        withheld = [*self._withheld(it), *self.facts.hushed_spans(it)]
        for n, change in enumerate(it.changes):
            by = max(change.at, self.well_from) + self.facts.settled
            if (
                change.seq in told
                or by > self.scenario.end
                or by - change.at > KEPT
                or not covered(self.sure, change.at - 0.001, by)
                or touched(withheld, min(change.since, change.began) - 1, by)
            ):
                continue
            if self._came_to_nothing(it, n, told) or self._waited(it, n):
                continue
            yield f"{change} was never told"

    def _missing_runs(self) -> Iterator[str]:
        """Those that nothing suppressed, as far as the notifier can have known when it read them."""
        for run in self.facts.runs.values():
            it = self.facts.services[run.name]
            by = max(run.at, self.well_from) + self.facts.settled
            called = [(heard.start, heard.end) for heard in self._heard(it) if heard.is_called]
            spans = [*self._silenced(it), *self._unheard(it), *called, *self.facts.hushed_spans(it)]
            withheld = [(start, end + self.facts.margin(end)) for start, end in spans]
            if (
                run.wanted
                and run.seq not in self.runs_told
                and by <= self.scenario.end
                and by - run.since <= KEPT
                and run.since >= it.registered + self.facts.margin(it.registered)
                and covered(self.sure, run.since - 1, by)
                and not touched(withheld, run.since - 1, by)
            ):
                yield f"{run} was never told"

    def _waited(self, it: Service, n: int) -> bool:
        """Whether it depends on something, so that a fall waits a little, and is told if it still holds; and
        its end, if the fall was told."""
        if it.name not in self.scenario.routing.parents:
            return False
        change, by = it.changes[n], it.until(n)
        if change.to is not Status.ALIVE:
            soon = max(change.at, self.well_from) + self.facts.settled
            return by < soon or any(
                s is change.to for at, s in self.beliefs[it.name] if change.at <= at <= soon
            )
        before = [s for at, s in self.beliefs[it.name] if at < change.at]
        return not before or before[-1] is Status.ALIVE

    def _came_to_nothing(self, it: Service, n: int, told: set[int]) -> bool:
        """Whether it fell silent and came back, or the other way round, before either could be told."""
        return any(
            self._is_nothing(*it.changes[i : i + 2], told) for i in (n - 1, n) if 0 <= i < len(it.changes) - 1
        )

    def _is_nothing(self, first: Change, second: Change, told: set[int]) -> bool:
        if {first.to, second.to} != {Status.SILENT, Status.ALIVE} or first.from_ is not second.to:
            return False
        in_time = second.at < max(first.at, self.well_from) + self.facts.settled
        return in_time and not {first.seq, second.seq} & told

    def _believed(self, it: Service) -> Iterator[str]:
        """Whenever nothing has happened for a while, the chat knows how the service is."""
        withheld = [*self._withheld(it), *self.facts.hushed_spans(it)]
        silenced = self._silenced(it)
        for n, change in enumerate(it.changes):
            # That it is back is told of each told fall, in maintenance too, and while it flaps.
            spans = [*(silenced if change.to is Status.ALIVE else withheld), (0.0, self.well_from)]
            unsettled = [(start, end + self.facts.settled) for start, end in spans]
            within = change.at + self.facts.settled, min(it.until(n), self.scenario.end)
            for start, end in without(within, unsettled):
                sure = next((a for a, b in self.sure if a <= change.at and end <= b), None)
                if sure is None or end - max(change.at, 0) > KEPT:
                    continue
                # What was deleted is another service when it comes again.
                sure = max([sure, *(back for _, back in it.absent if back <= change.at)])
                for at in {start, end - 0.001}:
                    believed = next((s for t, s in reversed(self.beliefs[it.name]) if sure <= t <= at), None)
                    right = {
                        Status.ALIVE: (None, Status.ALIVE),
                        Status.SILENT: (None, Status.ALIVE, Status.SILENT),
                    }.get(change.to, (change.to,))
                    if believed not in right:
                        yield f"at {at:.3f} it believes that it is {believed}, long after {change}"
                        return

    def _reminded(self, it: Service) -> Iterator[str]:
        """Of what stays down it is reminded in time, unless somebody has it in hand."""
        spans = [*self._withheld(it), *self.facts.hushed_spans(it), *self.facts.stories[it.name].acknowledged]
        unsettled = [(start, end + self.facts.settled) for start, end in spans]
        offsets = [offset.total_seconds() for offset in self.scenario.reminders]
        for n, change in enumerate(it.changes):
            if change.to is not Status.DOWN:
                continue
            for offset in offsets:
                due = change.since + offset
                by = due + self.facts.settled
                if (
                    due < max(self.well_from, change.at) + self.facts.settled
                    or by > min(it.until(n), self.scenario.end)
                    or not covered(self.sure, change.at, by)
                    or touched(unsettled, change.since - 1, by)
                ):
                    continue
                if not any(
                    due - 1 <= at <= by and name == it.name and "still down" in said
                    for at, name, said in self.notices
                ):
                    yield f"it was not reminded at {due:.3f} of {change}"

    def _spared(self, it: Service) -> Iterator[str]:
        """Of what flaps not each fall is told. (That it is back is told of each told fall.)"""
        falls = sorted((c.since, c.seq) for _, c in self.told[it.name] if c.from_ is Status.ALIVE)
        for n in range(TURNS - 1, len(falls)):
            four = falls[n - TURNS + 1 : n + 1]
            soon = all(b[0] - a[0] < CALMS_SOON for a, b in pairwise(four))
            soon &= covered(self.perhaps, four[0][0], four[-1][0])  # it did not leave and come back
            if soon and four[-1][0] - four[0][0] <= HOUR:
                yield f"it flaps, and its fall #{four[-1][1]} was told all the same"
                return

    # --- digests

    def _digested(self) -> Iterator[str]:
        scenario = self.scenario
        if scenario.digest is None:
            return
        day = when(scenario.start).astimezone(scenario.zone).date() - timedelta(days=1)
        while True:
            day += timedelta(days=1)
            due_at = datetime.combine(day, scenario.digest, tzinfo=scenario.zone)
            due = float(seconds(due_at))
            if due > scenario.end:
                return
            by = max(due, self.well_from) + self.facts.settled + scenario.paces.idle
            if by > scenario.end or not covered(self.sure, due - 1, by):
                continue
            if when(by).astimezone(scenario.zone).date() != day:
                continue
            kinds = ["Daily"] + (["Weekly"] if day.weekday() == scenario.weekly else [])
            for kind in kinds:
                if (kind, day.isoformat()) not in self.digests:
                    yield f"no {kind} digest of {day}, due at {due:.3f}"


# --- how many messages there are


@dataclass
class Tally:
    """Of several simulations: the incidents that there were, and of those that a chat was told of, once for
    each chat, what it was told of them, and in how many messages, repeats included."""

    incidents: int = 0
    told: int = 0
    messages: int = 0

    def add(self, played: Played) -> None:
        facts = _Facts(played)
        began: dict[int, tuple[str, int]] = {}
        """By the sequence of a change, its incident."""
        for it in facts.services.values():
            incident = None
            for change in it.changes:
                if change.from_.badness <= Status.ALIVE.badness < change.to.badness:
                    incident, self.incidents = (it.name, change.seq), self.incidents + 1
                if incident:
                    began[change.seq] = incident
                if change.to is Status.ALIVE:
                    incident = None
        told = set()
        for shown in played.telegram.shown:
            states = {(change.seq, change.to) for change in shown.message.changes}
            states |= {(it.seq, it.status) for it in shown.message.notices if it.kind in _TELLS}
            of_incidents = {(shown.phone.address, began[seq], to) for seq, to in states if seq in began}
            told |= of_incidents
            self.messages += len(of_incidents)
        self.told += len(told)


_TELLS = (NoticeKind.OWED, NoticeKind.STAYS)
