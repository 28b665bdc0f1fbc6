"""What must hold of a history, whatever happened: worked out from the scenario, not from the monitor."""

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TypeVar

from services.monitor.domain.service import EffectiveThresholds
from shared.contracts.events import (
    FOUND_BY_HEADER,
    MICRO,
    Fact,
    GapData,
    GapRecorded,
    ServiceDeleted,
    ServiceRegistered,
    ServiceResumed,
    StatusChanged,
)
from shared.contracts.thresholds import in_force_before
from shared.messaging import streams
from tests.simulation import reference
from tests.simulation.memory import parse_event
from tests.simulation.model import BASE, NEVER, Broker
from tests.simulation.reference import Reference
from tests.simulation.run import LONGEST_GRACE, OF_SCHEDULE, history, micros, run_history, seconds
from tests.simulation.scenario import SECOND, Scenario

T = TypeVar("T")
Own = tuple[int | None, ...]
Spans = list[tuple[int, int]]
Defaults = list[tuple[int, EffectiveThresholds, bool]]
"""From when which defaults held, and whether an interval gave a bounded grace then."""
BY_FALLING = {"silent": 0, "down": 1, "dead": 2}


@dataclass
class Incarnation:
    """A service from its registration to its deletion, as its configuration tells it."""

    start: int
    end: int = NEVER
    thresholds: list[tuple[int, EffectiveThresholds]] = field(default_factory=list)
    """Which were in force from when."""
    owned: list[tuple[int, Own]] = field(default_factory=list)
    """From when it was configured with which thresholds."""
    intervals: list[tuple[int, int]] = field(default_factory=list)
    """From when which interval was known to the record."""
    undeclared: bool = False
    """A heartbeat declares an interval that the record does not know, or knows later."""
    paused: list[tuple[int, int]] = field(default_factory=list)
    """From a pause to the resuming after it."""
    unreadable: bool = False
    """Something among its configuration cannot be read, so what heartbeats declare may not be recorded."""
    declared: list[EffectiveThresholds] = field(default_factory=list)
    """What the intervals that its heartbeats declare give, recorded or not."""
    written_at: int = 0
    """When defaults were written down for the first time, if that was after other events: what was resumed
    before is expected from then on."""

    def waits_until(self, at: int) -> int:
        """From when it is expected at the latest, if it was resumed by then; 0: that delays nothing."""
        ends = [end for start, end in self.paused if start < at and end <= at]
        return self.written_at if ends and ends[-1] < self.written_at else 0


def first_difference(title: str, ours: Broker, other: Broker) -> str | None:
    """Where two histories part, in words."""
    mine, its = history(ours), history(other)
    for name in sorted({*mine, *its}):
        left, right = mine.get(name, []), its.get(name, [])
        for n, (a, b) in enumerate(zip_longest(left, right)):
            if a is not b and (a is None or b is None or a.to_bytes() != b.to_bytes()):
                told_a, told_b = (told(each) if each else "nothing" for each in (a, b))
                return f"{name}, change {n + 1}: recorded {told_a}; {title} {told_b}"
    return None


def first_difference_of_runs(scenario: Scenario, title: str, ours: Broker, other: Broker) -> str | None:
    """Where what is recorded of the runs parts."""
    mine, its = run_history(ours), run_history(other)
    for name in sorted({*mine, *its}):
        undecided = undecided_before_deletions(scenario, ours, name)
        left, right = (
            [fact for fact in history.get(name, []) if not _within(undecided, micros(fact.time))]
            for history in (mine, its)
        )
        for n, (a, b) in enumerate(zip_longest(left, right)):
            if a is not b and (a is None or b is None or a.to_bytes() != b.to_bytes()):
                told_a, told_b = (told_run(each) if each else "nothing" for each in (a, b))
                return f"{name}, run fact {n + 1}: recorded {told_a}; {title} {told_b}"
    return None


def undecided_before_deletions(scenario: Scenario, broker: Broker, name: str) -> Spans:
    """The time from what a tick had proved last to each deletion of a service. Whether heartbeats of that
    time were taken in depends on what is known by then; nobody is shown facts of a life that has ended."""
    found = list[tuple[int, int]]()
    for each in reference.settings(broker, name):
        if each.deletes:
            ticks = reference.ticks(scenario.heartbeats.facts)
            proved = [tick.until for tick in ticks if tick.at < each.counts_at]
            found.append((proved[-1] if proved else 0, each.counts_at))
    return found


def _within(spans: Spans, at: int) -> bool:
    return any(start < at <= end for start, end in spans)


def told_run(event: Fact) -> str:
    if isinstance(event, GapRecorded):
        return f"gap from {seconds(event.data.from_)} to {seconds(event.data.to)} {event.data.signal}"
    data = event.data
    due = f" expected {seconds(data.expected_at)}" if data.expected_at else ""
    begun = f" started {seconds(data.started_at)}" if data.started_at else ""
    words = " ".join(filter(None, (data.message, data.unusual, "told" if data.notify else "")))
    return f"{data.outcome} {data.run or ''} at {seconds(event.time)}{due}{begun} {data.key} {words}".strip()


def told(event: StatusChanged) -> str:
    data = event.data
    last = seconds(data.last_heartbeat)
    return f"{data.from_} -> {data.to} since {seconds(data.since)}, last heartbeat {last}, {data.reason!r}"


def config_added(before: Broker, after: Broker) -> str | None:
    """Undisturbed, the monitor finds all configuration there already."""
    config = [[e for e in broker.events if ".config." in e.subject] for broker in (before, after)]
    if len(config[0]) == len(config[1]):
        return None
    extra = config[1][len(config[0])]
    return f"undisturbed, configuration was added: {extra.subject} {extra.data[:300]!r}"


@dataclass(frozen=True)
class Heard:
    """The heartbeats of one service that say anything of its life, by their times."""

    good: list[int]
    failed: set[int]
    started: set[int]

    def verdict(self, after: int, upto: int) -> str | None:
        """What the heartbeats of a stretch say in the end: `alive`, `down`, or `started` if there are but
        starts; None if there are none."""
        mine = [at for at in self.good if after < at <= upto]
        ended = [at for at in mine if at not in self.started]
        if ended:
            return "down" if ended[-1] in self.failed else "alive"
        return "started" if mine else None


def lifted(status: str, verdict: str | None) -> str:
    """What a status becomes by what heartbeats say."""
    if verdict == "started":
        return status if status in ("down", "dead") else "alive"
    return verdict or status


def absolute(scenario: Scenario, broker: Broker) -> Iterator[str]:
    """Every way in which the history breaks what the contract promises."""
    recorded = history(broker)
    yield from (f"{name}: there is no such service" for name in recorded if name not in scenario.names)
    covered = Covered(scenario.stretches)
    epochs = defaults(broker)
    compared = set[str]()
    if scenario.kept is None:
        for name, problem, of_changes in _beside_reference(scenario, broker, recorded):
            if of_changes:
                compared.add(name)
            if problem:
                yield f"{name}: {problem}"
    yield from _of_runs(scenario, broker)
    yield from _of_registrations(scenario, broker)
    for name in scenario.names:
        if name in compared or name.startswith("j"):
            continue
        lives = incarnations(broker, name, epochs)
        facts = scenario.heartbeats.facts
        beats = [facts[i] for i in scenario.heartbeats.of.get(streams.heartbeat(name), ())]
        signals = {beat.at: (beat.headers or {}).get("Registry-Signal") for beat in beats if beat.good}
        heard = Heard(
            [beat.at for beat in beats if beat.good],
            {at for at, signal in signals.items() if signal == "fail"},
            {at for at, signal in signals.items() if signal == "start"},
        )
        for beat in beats:
            every = re.search(rb'"every": "(\d+)s"', beat.data)
            for life in lives:
                if every and beat.good and life.start <= beat.at <= life.end:
                    for _, default, bounded in epochs:
                        for own in ((None,) * 3, *(own for _, own in life.owned)):
                            life.declared.append(reckoned(own, int(every[1]) * SECOND, default, bounded))
                        if scenario.kept is not None:  # the beat that declares it may be gone
                            life.declared.append(default)
                    life.undeclared |= (newest_of(life.intervals, beat.at) or 0) != int(every[1]) * SECOND
        changes = recorded.get(name, [])
        newest = [beat.at for beat in beats]

        def gone(at: int, newest: list[int] = newest) -> bool:
            """Whether the broker may have let go of a heartbeat, so that nobody can know of it."""
            return scenario.kept is not None and len(newest) - bisect_right(newest, at) >= scenario.kept

        for problem in _of_service(changes, lives, heard, covered, gone, scenario.kept is None):
            yield f"{name}: {problem}"
        if scenario.kept is None and lives and lives[-1].end == NEVER:
            problem = _in_the_end(changes, lives[-1], heard, covered)
            if problem:
                yield f"{name}: {problem}"
        if scenario.kept is None:
            for problem in _of_resumes(changes, lives, heard, scenario.heartbeats.ats):
                yield f"{name}: {problem}"


def _beside_reference(
    scenario: Scenario, broker: Broker, recorded: dict[str, list[StatusChanged]]
) -> Iterator[tuple[str, str, bool]]:
    """Of each service: what is wrong with the facts about its runs and its gaps; and of one that is more than
    one that just beats: with its changes. The last says whether it is of those."""
    facts, known = scenario.heartbeats.facts, reference.epochs(broker)
    ticks, recorded_runs = reference.ticks(facts), run_history(broker)
    for name in scenario.names:
        mine = [facts[i] for i in scenario.heartbeats.of.get(streams.heartbeat(name), ())]
        messages = sorted([*ticks, *reference.heartbeats(mine)], key=lambda message: message.at)
        expected = Reference(broker, name, messages, known)
        if not expected.readable:
            continue
        if expected.ever_had_job:
            yield name, _first_other_change(recorded.get(name, []), expected.changes), True
        undecided = undecided_before_deletions(scenario, broker, name)
        runs = [fact for fact in recorded_runs.get(name, []) if not _within(undecided, micros(fact.time))]
        due = [fact for fact in expected.facts if not _within(undecided, fact.at)]
        yield name, _first_other_fact(runs, due), False


def _first_other_change(recorded: list[StatusChanged], expected: list[reference.Change]) -> str:
    for n, (change, due) in enumerate(zip_longest(recorded, expected)):
        is_same = (
            change
            and due
            and (
                change.data.from_,
                change.data.to,
                micros(change.data.since),
                micros(change.data.last_heartbeat) if change.data.last_heartbeat else 0,
            )
            == due[:4]
        )
        if not is_same:
            its = f"{due.from_} -> {due.to} since {in_seconds(due.since)} ({due.why})" if due else "nothing"
            left = told(change) if change else "nothing"
            return f"change {n + 1}: recorded {left}; the reference has {its}"
    return ""


def _of_reference(event: Fact) -> reference.Told:
    """A fact as the reference has it."""
    data, at = event.data, micros(event.time)
    if isinstance(data, GapData):
        return reference.Told(at, "gap", "gap", micros(data.from_), run=data.signal.value)
    return reference.Told(
        at,
        data.outcome.value,
        data.key,
        micros(data.started_at) if data.started_at else 0,
        micros(data.ended_at) if data.ended_at else 0,
        micros(data.expected_at) if data.expected_at else 0,
        data.run or "",
        data.unusual,
        data.notify,
    )


def _first_other_fact(recorded: list[Fact], expected: list[reference.Told]) -> str:
    for n, (event, due) in enumerate(zip_longest(recorded, expected)):
        its = _of_reference(event) if event else None
        if its != due:
            told_due = due and (
                f"{due.outcome} {due.run} at {in_seconds(due.at)} expected {in_seconds(due.occurrence)} "
                f"started {in_seconds(due.started)} {due.key} {due.unusual or ''} {'told' * due.notify}"
            )
            left = told_run(event) if event else "nothing"
            return f"run fact {n + 1}: recorded {left}; the reference has {told_due or 'nothing'}"
    return ""


def in_seconds(at: int) -> str:
    return f"{(at - BASE) / 1e6:.6f}" if at else "-"


def _of_runs(scenario: Scenario, broker: Broker) -> Iterator[str]:
    """What holds of the facts about runs whatever was lost: in order, none twice, and each of something."""
    facts = scenario.heartbeats.facts
    for name, events in run_history(broker).items():
        beats = {facts[i].at: facts[i] for i in scenario.heartbeats.of.get(streams.heartbeat(name), ())}
        if len({event.id for event in events}) < len(events):
            yield f"{name}: a fact about a run is recorded twice"
        ended, before = set[int](), 0
        for event in events:
            at = micros(event.time)
            if at < before:
                yield f"{name}: goes back in time: {told_run(event)}"
            before = at
            if isinstance(event, GapRecorded):
                if not (at in beats and micros(event.data.from_) in beats and event.data.from_ < event.time):
                    yield f"{name}: no heartbeats around the {told_run(event)}"
                continue
            data = event.data
            if data.ended_at:
                failed = (beats[at].headers or {}).get("Registry-Signal") == "fail" if at in beats else None
                if at in ended or failed is not (data.outcome == "failure"):
                    yield f"{name}: no heartbeat ends it: {told_run(event)}"
                ended.add(at)
            if data.started_at and micros(data.started_at) not in beats:
                yield f"{name}: no heartbeat began it: {told_run(event)}"
            if data.outcome == "missed" and not (data.expected_at and micros(data.expected_at) <= at):
                yield f"{name}: is not due yet: {told_run(event)}"


def _of_registrations(scenario: Scenario, broker: Broker) -> Iterator[str]:
    """A ping by key was meant for a service that there was, and brings none."""
    facts = scenario.heartbeats.facts
    by_key = {(fact.subject, fact.at) for fact in facts if fact.headers and FOUND_BY_HEADER in fact.headers}
    for message in broker.events:
        with suppress(ValueError):
            event = parse_event(message.data)
            if isinstance(event, ServiceRegistered) and event.data.registered_by == "heartbeat":
                assert event.data.registered_at
                if (streams.heartbeat(event.name), micros(event.data.registered_at)) in by_key:
                    yield f"{event.name}: a ping by key has registered it"


def _of_service(
    changes: list[StatusChanged],
    lives: list[Incarnation],
    heard: Heard,
    covered: "Covered",
    gone: Callable[[int], bool],
    all_known: bool,
) -> Iterator[str]:
    status, since, life = "unknown", 0, None
    if len({change.id for change in changes}) < len(changes):
        yield "a change is recorded twice"
    for change in changes:
        data, at = change.data, micros(change.data.since)
        now = next((life for life in reversed(lives) if life.start <= at), None)
        if now is None:
            yield f"changes before it is registered: {told(change)}"
            return
        if life is not None and at == now.start and at <= life.end and data.from_ == status:
            now = life  # in the very moment of the deletion
        if now is not life:
            if life is not None and life.start > now.start:
                yield f"a change of a life that has ended: {told(change)}"
            status, since, life = "unknown", 0, now
        if at > now.end:
            yield f"changes after it is deleted: {told(change)}"
        if data.from_ != status:
            yield f"was {status} before {told(change)}"
        if at < since:
            yield f"goes back in time, from {(since - BASE) / 1e6}: {told(change)}"
        if any(start < at < end for start, end in now.paused):
            yield f"changes while it is paused: {told(change)}"
        before, status, since = since, data.to.value, at
        last = micros(data.last_heartbeat) if data.last_heartbeat else 0
        if last not in heard.good or last < now.start:
            yield f"there is no such heartbeat: {told(change)}"
        elif data.reason.endswith("while it was paused"):  # a start may come in the moment of the resume
            if all_known:
                yield from _of_resume(change, at, last, now, heard, before)
        elif last == at:
            said = heard.verdict(at - 1, at)
            if lifted(data.from_.value, said) != data.to or data.to == data.from_:
                yield f"not what the heartbeat says: {told(change)}"
        else:
            yield from _of_fall(change, at, last, now, heard.good, covered, gone, before, all_known)


def _of_resume(
    change: StatusChanged, at: int, last: int, life: Incarnation, heard: Heard, before: int
) -> Iterator[str]:
    begun = next((start for start, end in life.paused if end == at), None)
    if begun is None:
        yield f"there is no resume: {told(change)}"
        return
    says = heard.verdict(begun, at) or heard.verdict(max(before, life.start - 1), at)
    if lifted(change.data.from_.value, says) != change.data.to:
        yield f"not what came in while it was paused: {told(change)}"
    if last != heard.good[bisect_right(heard.good, at) - 1]:
        yield f"not the newest heartbeat of the pause: {told(change)}"


def _of_resumes(
    changes: list[StatusChanged], lives: list[Incarnation], heard: Heard, facts: list[int]
) -> Iterator[str]:
    """What was heard in a pause counts as of its resume."""
    for life in lives:
        for begun, at in life.paused:
            known = bisect_right(facts, at)
            if at == NEVER or life.unreadable or known == len(facts) or facts[known] > life.end:
                continue  # nobody has come to look
            mine = [c.data for c in changes if life.start <= micros(c.data.since) <= life.end]
            before = [data for data in mine if micros(data.since) < at]
            status = before[-1].to.value if before else "unknown"
            to = lifted(status, heard.verdict(max(begun, life.start - 1), at))
            if to != status and not any(micros(data.since) == at and data.to == to for data in mine):
                yield f"was {status} when it was resumed at {(at - BASE) / 1e6}, and should be {to}"


def _of_fall(
    change: StatusChanged,
    at: int,
    last: int,
    life: Incarnation,
    good: list[int],
    covered: "Covered",
    gone: Callable[[int], bool],
    before: int,
    all_known: bool,
) -> Iterator[str]:
    to = change.data.to.value
    if to not in BY_FALLING:
        yield f"rises without a heartbeat: {told(change)}"
        return
    place = bisect_left(good, at)  # a heartbeat in the very moment in which the fall is due comes after it
    if good[place - 1] > last and gone(good[place - 1]):
        last = good[place - 1]
    if good[place - 1] > last:
        yield f"a false alarm, there is a heartbeat at {(good[place - 1] - BASE) / 1e6}: {told(change)}"
    after = good[place] if place < len(good) else NEVER
    deaf = covered.deaf(last, at)
    least = min(patience[BY_FALLING[to]] for patience in life_thresholds(life, last, after))
    least = min([least, *(patience[BY_FALLING[to]] for patience in life.declared)])
    if at - last - deaf < least:
        yield f"falls early, {deaf / 1e6} s deaf, {least / 1e6} s allowed: {told(change)}"
    if not all_known or life.undeclared:
        return
    # Who is paused in the very moment in which a fall is due, and resumed in it, has fallen before.
    counted_from = max([last, *(end for start, end in life.paused if start < at and end <= at)])
    promises = list(promised(life, counted_from, BY_FALLING[to], after))
    if expected := life.waits_until(at):
        promises += promised(life, max(counted_from, expected), BY_FALLING[to], after)
    if at < min(promises):
        yield f"falls for the past, {(min(promises) - BASE) / 1e6} was promised: {told(change)}"
    if not deaf and covered.is_known_at_once and at > max(before, *promises):
        yield f"falls late, {(max(promises) - BASE) / 1e6} was promised: {told(change)}"


def promised(life: Incarnation, counted_from: int, rung: int, upto: int) -> Iterator[int]:
    """When a fall is due, reckoned by the thresholds as they were put in force, one after the other; each of
    them may have been there when somebody looked. Those of the very moment from which it is counted may have
    come before it or after."""
    for before in (counted_from, counted_from - 1):
        first = [patience for since, patience in life.thresholds if since <= before]
        due = counted_from + (first[-1] if first else life.thresholds[0][1])[rung]
        yield due
        for since, patience in life.thresholds:
            if before < since <= upto:
                due = max(counted_from + patience[rung], min(due, since + patience[rung]))
                yield due


def life_thresholds(life: Incarnation, start: int, end: int) -> Iterator[EffectiveThresholds]:
    """Those in force at any moment of a stretch."""
    for n, (since, patience) in enumerate(life.thresholds):
        until = life.thresholds[n + 1][0] if n + 1 < len(life.thresholds) else NEVER
        if since <= end and start <= until:
            yield patience


def _in_the_end(
    changes: list[StatusChanged], life: Incarnation, heard: Heard, covered: "Covered"
) -> str | None:
    """After the quiet time a service is as bad as the silence that was observed, no better and no worse."""
    beats = [at for at in heard.good if at >= life.start]
    resumed = life.paused[-1][1] if life.paused else 0
    mine = [change for change in changes if micros(change.data.since) >= life.start]
    status = mine[-1].data.to.value if mine else "unknown"
    if resumed == NEVER or (life.unreadable and life.declared):
        return None
    if not beats:
        return None if status == "unknown" else f"{status} without a heartbeat"
    last = max(beats[-1], resumed)
    if covered.spans and last > covered.spans[-1][1]:
        return None  # no tick has proved yet what came before it
    changed = [*(since for since, _ in life.thresholds[1:]), life.waits_until(NEVER)]
    others = [since for since in changed if since > last]
    least, most = covered.since(max([last, *others]))[0], covered.since(last)[1]
    patience = life.thresholds[-1][1]
    floor = sum(least >= threshold for threshold in patience)
    ceiling = sum(most >= threshold for threshold in patience)
    ladder = ["alive", "silent", "down", "dead"]
    if heard.verdict(life.start - 1, NEVER) == "down":
        floor, ceiling = max(floor, 2), max(ceiling, 2)
    if beats[-1] in heard.started or resumed > beats[-1]:  # which lift nothing from down
        was = [change.data.to.value for change in mine if micros(change.data.since) <= last]
        if was and (was[-1] in ("down", "dead") or resumed > beats[-1]):
            floor, ceiling = (max(bound, ladder.index(was[-1])) for bound in (floor, ceiling))
    # A threshold that grew since takes nothing back.
    where = ladder.index(status) if status in ladder else -1
    if floor <= where and (where <= ceiling or others):
        return None
    return (
        f"is {status} in the end, not {ladder[floor]} to {ladder[ceiling]}; last heard {(last - BASE) / 1e6}"
    )


class Covered:
    """When ticks prove that the registry could be heard."""

    def __init__(self, stretches: list[tuple[int, int]]) -> None:
        self.spans: list[tuple[int, int]] = []
        self.is_known_at_once = True
        """No instance proves afterwards that the registry was open where another one had just begun."""
        for start, end in sorted(stretches):
            if self.spans and start <= self.spans[-1][1]:
                self.is_known_at_once = False
                self.spans[-1] = self.spans[-1][0], max(end, self.spans[-1][1])
            else:
                self.spans.append((start, end))

    def deaf(self, start: int, end: int) -> int:
        """Microseconds of a stretch that no tick covers."""
        return end - start - sum(max(0, min(b, end) - max(a, start)) for a, b in self.spans)

    def since(self, at: int) -> tuple[int, int]:
        """Observed silence since `at`, as of the last tick: in one piece, and altogether."""
        if not self.spans:
            return 0, 0
        last = self.spans[-1]
        return max(0, last[1] - max(last[0], at)), max(0, last[1] - at - self.deaf(at, last[1]))


def incarnations(broker: Broker, name: str, epochs: Defaults) -> list[Incarnation]:
    found: list[Incarnation] = []
    declared, subject = None, streams.config(name)
    for message in broker.events:
        if message.subject != subject:
            continue
        try:
            event = parse_event(message.data)
        except ValueError:
            for life in found[-1:]:
                life.unreadable = True
            continue
        assert not isinstance(event, StatusChanged)
        if isinstance(event, ServiceDeleted):
            if found:
                found[-1].end = message.at
                _resume(found[-1], message.at)
            continue
        data = event.data
        if isinstance(event, ServiceRegistered):
            found.append(Incarnation(micros(data.registered_at) if data.registered_at else message.at))
            declared = None
        life = found[-1]
        own = tuple(
            value and round(value.total_seconds() * SECOND)
            for value in (data.config.silent_after, data.config.down_after, data.config.dead_after)
        )
        every = data.config.every and round(data.config.every.total_seconds() * SECOND)
        at = message.at
        if data.declared_at and data.declared_at != declared:
            at = min(at, micros(data.declared_at))
            declared = data.declared_at
        if isinstance(event, ServiceRegistered):
            at = min(at, life.start)
        life.owned.append((life.start if isinstance(event, ServiceRegistered) else message.at, own))
        life.intervals.append((at, every or 0))
        if data.config.paused and not (life.paused and life.paused[-1][1] == NEVER):
            life.paused.append((message.at, NEVER))
        if isinstance(event, ServiceResumed):
            _resume(life, message.at)
    for life in found:
        life.thresholds = in_turn(life, epochs)
        life.written_at = next((since for since, _, bounded in epochs if bounded), 0)
    return found


def defaults(broker: Broker) -> Defaults:
    """As the monitors wrote them down."""
    found = json.loads(broker.kv.get("epochs", b"[]"))
    return [(since, EffectiveThresholds(*patience), bounded) for *patience, since, bounded, _ in found]


def in_turn(life: Incarnation, epochs: Defaults) -> list[tuple[int, EffectiveThresholds]]:
    """The thresholds from when on they were in force, by configuration and defaults."""
    moments = {at for at, _ in life.owned} | {at for at, _ in life.intervals} | {at for at, *_ in epochs}
    found: list[tuple[int, EffectiveThresholds]] = []
    for moment in sorted(at for at in moments if life.start <= at <= life.end):
        _, default, bounded = [each for each in epochs if each[0] <= moment][-1]
        every = newest_of(life.intervals, moment)
        at_once = [own for at, own in life.owned if at == moment]
        for own in at_once or [newest_of(life.owned, moment)]:
            patience = reckoned(own or (None,) * 3, every or 0, default, bounded)
            if not found or patience != found[-1][1]:
                found.append((moment, patience))
    return found


def newest_of(timeline: list[tuple[int, T]], moment: int) -> T | None:
    """What the newest entry of a timeline says that had begun by then."""
    return next((value for at, value in reversed(timeline) if at <= moment), None)


def reckoned(
    own: Own, every: int, default: EffectiveThresholds, bounded: bool, scheduled: bool = False
) -> EffectiveThresholds:
    """The thresholds as the contract has them, by who is more specific: the service, its interval, the
    registry."""
    if not bounded:
        return EffectiveThresholds(*in_force_before(own, every, default))  # type: ignore[arg-type]
    grace = min(2 * every, LONGEST_GRACE // MICRO)
    silent, down = every + grace, every + 5 * grace
    if scheduled:
        silent, down = (each // MICRO for each in OF_SCHEDULE)
    timed = bool(every or scheduled)
    by_interval = (silent, down, max(default.dead, 2 * down)) if timed else (None, None, None)
    ranked = [
        next((rank, value) for rank, value in enumerate(levels) if value)
        for levels in zip(own, by_interval, default, strict=True)
    ]
    for n in (1, 2):  # what is more specific pushes up what is inherited
        (before, shorter), (rank, value) = ranked[n - 1 : n + 1]
        if before < rank:
            ranked[n] = before, max(value, 2 * shorter)
    if own[2] and not own[1] and ranked[1][1] >= own[2]:
        ranked[1] = 0, before_that(own[2], every, own[0] or 0)
    if not own[0] and ranked[0][1] >= ranked[1][1]:
        ranked[0] = 0, before_that(ranked[1][1], every)
    return EffectiveThresholds(*(value for _, value in ranked))


def before_that(longer: int, *floors: int) -> int:
    """An inherited threshold that makes way: half of the next, but not below what is to be above it."""
    floor = max((it for it in floors if it < longer), default=0)
    return longer // 2 if longer // 2 > floor else floor + (longer - floor) // 2


def _resume(life: Incarnation, at: int) -> None:
    if life.paused and life.paused[-1][1] == NEVER:
        life.paused[-1] = life.paused[-1][0], at
