"""What must hold of a history, whatever happened: worked out from the scenario, not from the monitor."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from services.monitor.lifecycle import Patience
from shared import streams
from shared.events import (
    ServiceDeleted,
    ServiceRegistered,
    ServiceResumed,
    StatusChanged,
    parse_event,
)
from shared.thresholds import in_force
from tests.simulation.model import BASE, NEVER, Broker
from tests.simulation.run import history, micros, seconds
from tests.simulation.scenario import SECOND, Scenario

BY_FALLING = {"silent": 0, "down": 1, "dead": 2}


@dataclass
class Incarnation:
    """A service from its registration to its deletion, as its configuration tells it."""

    start: int
    end: int = NEVER
    thresholds: list[tuple[int, Patience]] = field(default_factory=list)
    """Which were in force from when."""
    paused: list[tuple[int, int]] = field(default_factory=list)
    """From a pause to the resuming after it."""
    unreadable: bool = False
    """Something among its configuration cannot be read, so what heartbeats declare may not be recorded."""
    declared: list[Patience] = field(default_factory=list)
    """What the intervals that its heartbeats declare give, recorded or not."""


def first_difference(title: str, ours: Broker, other: Broker) -> str | None:
    """Where two histories part, in words."""
    mine, its = history(ours), history(other)
    for name in sorted({*mine, *its}):
        left, right = mine.get(name, []), its.get(name, [])
        for n in range(max(len(left), len(right))):
            a, b = (told(events[n]) if n < len(events) else "nothing" for events in (left, right))
            if a != b or left[n].to_bytes() != right[n].to_bytes():
                return f"{name}, change {n + 1}: recorded {a}; {title} {b}"
    return None


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


def absolute(scenario: Scenario, broker: Broker) -> Iterator[str]:
    """Every way in which the history breaks what the contract promises."""
    recorded = history(broker)
    yield from (f"{name}: there is no such service" for name in recorded if name not in scenario.names)
    covered = Covered(scenario.stretches)
    for name in scenario.names:
        lives = incarnations(broker, name, scenario.patience)
        facts = scenario.heartbeats.facts
        beats = [facts[i] for i in scenario.heartbeats.of.get(streams.heartbeat(name), ())]
        good = [beat.at for beat in beats if beat.good]
        failed = {
            beat.at for beat in beats if beat.good and (beat.headers or {}).get("Registry-Signal") == "fail"
        }
        for beat in beats:
            every = re.search(rb'"every": "(\d+)s"', beat.data)
            for life in lives:
                if every and life.start <= beat.at <= life.end:
                    gives = in_force((None,) * 3, int(every[1]) * SECOND, scenario.patience)  # type: ignore[arg-type]
                    life.declared.append(Patience(*gives))
                    if scenario.kept is not None:  # the beat that declares it may be gone
                        life.declared.append(scenario.patience)
        changes = recorded.get(name, [])
        newest = [beat.at for beat in beats]

        def gone(at: int, newest: list[int] = newest) -> bool:
            """Whether the broker may have let go of a heartbeat, so that nobody can know of it."""
            return scenario.kept is not None and len(newest) - bisect_right(newest, at) >= scenario.kept

        for problem in _of_service(changes, lives, good, failed, covered, gone):
            yield f"{name}: {problem}"
        if scenario.kept is None and lives and lives[-1].end == NEVER:
            problem = _in_the_end(changes, lives[-1], good, failed, covered)
            if problem:
                yield f"{name}: {problem}"


def _of_service(
    changes: list[StatusChanged],
    lives: list[Incarnation],
    good: list[int],
    failed: set[int],
    covered: "Covered",
    gone: Callable[[int], bool],
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
        status, since = data.to.value, at
        last = micros(data.last_heartbeat) if data.last_heartbeat else 0
        if last not in good or last < now.start:
            yield f"there is no such heartbeat: {told(change)}"
        elif last == at:
            if (data.to == "down") != (at in failed) or data.to not in ("alive", "down"):
                yield f"not what the heartbeat says: {told(change)}"
        else:
            yield from _of_fall(change, at, last, now, good, covered, gone)


def _of_fall(
    change: StatusChanged,
    at: int,
    last: int,
    life: Incarnation,
    good: list[int],
    covered: "Covered",
    gone: Callable[[int], bool],
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
    for start, end in life.paused:
        back = bisect_left(good, end)
        until = good[back] if back < len(good) else NEVER
        if start < at < until and last < end:
            yield f"falls while it is paused: {told(change)}"


def life_thresholds(life: Incarnation, start: int, end: int) -> Iterator[Patience]:
    """Those in force at any moment of a stretch."""
    for n, (since, patience) in enumerate(life.thresholds):
        until = life.thresholds[n + 1][0] if n + 1 < len(life.thresholds) else NEVER
        if since <= end and start <= until:
            yield patience


def _in_the_end(
    changes: list[StatusChanged], life: Incarnation, good: list[int], failed: set[int], covered: "Covered"
) -> str | None:
    """After the quiet time a service is as bad as the silence that was observed, no better and no worse."""
    heard = [at for at in good if at >= life.start]
    if heard and covered.spans and heard[-1] > covered.spans[-1][1]:
        return None  # no tick has proved yet what came before it
    if life.unreadable and life.declared:
        return None
    mine = [change for change in changes if micros(change.data.since) >= life.start]
    status = mine[-1].data.to.value if mine else "unknown"
    if not heard:
        return None if status == "unknown" else f"{status} without a heartbeat"
    if life.paused and (life.paused[-1][1] == NEVER or heard[-1] < life.paused[-1][1]):
        return None
    last = heard[-1]
    least, most = covered.since(last)
    patience = life.thresholds[-1][1]
    floor = sum(observed >= threshold for observed in (least,) for threshold in patience)
    ceiling = sum(most >= threshold for threshold in patience)
    ladder = ["alive", "silent", "down", "dead"]
    if last in failed:
        floor, ceiling = max(floor, 2), max(ceiling, 2)
    # A threshold that grew since takes nothing back.
    grown = any(at > last for at, _ in life.thresholds[1:])
    where = ladder.index(status) if status in ladder else -1
    if floor <= where and (where <= ceiling or grown):
        return None
    return (
        f"is {status} in the end, not {ladder[floor]} to {ladder[ceiling]}; last heard {(last - BASE) / 1e6}"
    )


class Covered:
    """When ticks prove that the registry could be heard."""

    def __init__(self, stretches: list[tuple[int, int]]) -> None:
        self.spans: list[tuple[int, int]] = []
        for start, end in sorted(stretches):
            if self.spans and start <= self.spans[-1][1]:
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


def incarnations(broker: Broker, name: str, default: Patience) -> list[Incarnation]:
    found: list[Incarnation] = []
    declared = None
    for message in broker.events:
        if message.subject != streams.config(name):
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
        life.thresholds.append((at, Patience(*in_force(own, every, default))))  # type: ignore[arg-type]
        if data.config.paused and not (life.paused and life.paused[-1][1] == NEVER):
            life.paused.append((message.at, NEVER))
        if isinstance(event, ServiceResumed):
            _resume(life, message.at)
    return found


def _resume(life: Incarnation, at: int) -> None:
    if life.paused and life.paused[-1][1] == NEVER:
        life.paused[-1] = life.paused[-1][0], at
