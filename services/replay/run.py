"""The past once as it was configured and once as it might have been, and what differs. Nothing is read or
written."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from typing import Any, NamedTuple

from services.monitor.domain.epochs import Epoch
from services.monitor.domain.service import StatusTransition
from services.monitor.store.mapping import config_change
from services.replay.history import History, ServiceHistory
from services.replay.messages import Configured, Item, Message, MessageReplay, Rules
from services.replay.statuses import LifecycleReplay
from shared.contracts.events import (
    ConfigData,
    ConfigEvent,
    ServiceConfig,
    ServiceDeleted,
    ServiceRegistered,
    Status,
    micros,
)
from shared.contracts.maintenance import Window
from shared.contracts.routes import Routes

MAX_LISTED = 1000
"""Services that differ, and are told of one by one."""
AT_ONCE = 1000
"""Services whose past is in memory at the same time."""
FALLEN = (Status.SILENT, Status.DOWN, Status.DEAD)
Config = list[tuple[int, int, ConfigEvent]]


class Plan(NamedTuple):
    """Another configuration, all the time: of these services, but for whether they are paused; the routes,
    where they are others; windows by id that would be added or changed, or removed (None)."""

    services: Mapping[str, ConfigData]
    routes: Routes | None = None
    windows: Mapping[str, Window | None] = {}


class Pair(NamedTuple):
    """What became of the same silence, or failure, of a service: when it was told, or fell due, and when it
    would have been; None: not at all. `channel`, `what`: of a message. `about`: the heartbeat before a
    silence, or that of a failure."""

    status: Status
    about: int
    was: int | None
    would: int | None
    channel: str = ""
    what: str = ""
    sound: tuple[bool, bool] = (True, True)


@dataclass
class Difference:
    service: str
    falls: list[Pair] = field(default_factory=list)
    messages: list[Pair] = field(default_factory=list)


@dataclass
class Result:
    """`unknown`: of each service that the record does not reach for, from when on it does (None: never), and
    why. `falls`, `messages`: how many there were, and would have been."""

    since: int
    until: int
    services: int = 0
    changed: int = 0
    falls: tuple[int, int] = (0, 0)
    messages: tuple[int, int] = (0, 0)
    differences: list[Difference] = field(default_factory=list)
    """Of the first services, by name."""
    more_differences: int = 0
    unknown: dict[str, tuple[int | None, str]] = field(default_factory=dict)

    def add(self, part: "Result") -> None:
        """Of other services."""
        self.services, self.changed = self.services + part.services, self.changed + part.changed
        self.falls = self.falls[0] + part.falls[0], self.falls[1] + part.falls[1]
        self.messages = self.messages[0] + part.messages[0], self.messages[1] + part.messages[1]
        self.unknown |= part.unknown
        found = sorted([*self.differences, *part.differences], key=lambda it: it.service)
        self.differences = found[:MAX_LISTED]
        self.more_differences += part.more_differences + len(found) - len(self.differences)


@dataclass(slots=True)
class _Compared:
    """One service: its configuration and its changes, as they were and as they would have been."""

    config: Config
    would_config: Config
    was: list[StatusTransition]
    would: list[StatusTransition]
    acts: Sequence[Item]
    known_since: int = 0

    @property
    def tells_otherwise(self) -> bool:
        """Whether something else is told of it, whatever others do."""
        return self.was != self.would or _told_by(self.config) != _told_by(self.would_config)


UNEXPLAINED = "what is recorded of the time before cannot be explained by what is known"
SHORTER = "shorter pauses than these were not recorded"
UNREADABLE = "something of its configuration cannot be read"
NEVER_THERE = "it was not there"


def replay(
    history: History,
    plan: Plan,
    rules: Rules,
    epochs: Sequence[Epoch],
    since: int,
    ticks: Sequence[tuple[int, int]] = (),
    margin: int = 0,
    processes: int = 1,
) -> Result:
    """From `since` until a little (`margin`) before the newest tick, in so many processes at once."""
    coverage = history.coverage()
    until = max(coverage.until - margin, since)
    whole = _Replay(history, plan, rules, LifecycleReplay(coverage, epochs, until, ticks), since, until)
    groups = list(_together(history, plan))
    result = Result(since, until)
    for part in map(whole.some, groups) if processes == 1 else _in_processes(whole, groups, processes):
        result.add(part)
    unseen = plan.services.keys() - history.services.keys()
    result.unknown |= dict.fromkeys(unseen, (None, NEVER_THERE))
    result.differences.sort(key=lambda it: it.service)
    return result


def _in_processes(whole: "_Replay", groups: list[list[str]], processes: int) -> Iterator[Result]:
    """They share the history as it is in memory, and each goes through some of the groups."""
    with get_context("fork").Pool(processes, _begin, (whole,)) as pool:
        yield from pool.imap_unordered(_some, groups)


_whole: list["_Replay"] = []


def _begin(whole: "_Replay") -> None:
    _whole.append(whole)


def _some(names: list[str]) -> Result:
    return _whole[0].some(names)


class _Replay:
    def __init__(
        self,
        history: History,
        plan: Plan,
        rules: Rules,
        lifecycle: LifecycleReplay,
        since: int,
        until: int,
    ) -> None:
        self._history, self._plan, self._rules, self._lifecycle = history, plan, rules, lifecycle
        self._since, self._until = since, until
        self._was, self._would = _timelines(history, plan)

    def some(self, names: Iterable[str]) -> Result:
        """Services of which none depends on one that is not among them."""
        result, plan, until = Result(self._since, self._until), self._plan, self._until
        compared: dict[str, _Compared] = {}
        for name in names:
            known = self._history.services[name]
            if config := [each for each in known.configuration() if each[1] <= until]:
                compared[name] = _compare(
                    self._lifecycle, known, config, plan.services.get(name), self._history, result
                )
            elif name in plan.services:
                result.unknown[name] = None, NEVER_THERE
        result.services = len(compared)
        chosen = _affected(compared, self._was != self._would)
        told = [
            _messages(compared, chosen, self._rules, timeline, until, is_would=is_would)
            for timeline, is_would in ((self._was, False), (self._would, True))
        ]
        _collect(result, compared, chosen, told)
        return result


def _together(history: History, plan: Plan) -> Iterator[list[str]]:
    """The services, some at a time: those together of which one depends on another."""
    leads_to: dict[str, set[str]] = {}
    for name, known in history.services.items():
        new = plan.services.get(name)
        parents = set(new.config.depends_on if new else ())
        if any(b'"depends_on":[' in data for _, _, data in known.config):
            for _, _, event in known.configuration():
                if not isinstance(event, ServiceDeleted):
                    parents.update(event.data.config.depends_on)
        for parent in parents & history.services.keys():
            leads_to.setdefault(parent, set()).add(name)
            leads_to.setdefault(name, set()).add(parent)
    seen, waiting = set[str](), list[str]()
    for name in sorted(history.services):
        if name not in seen:
            group = {name}
            _spread(group, leads_to)
            seen |= group
            waiting += group
            if len(waiting) >= AT_ONCE:
                yield waiting
                waiting = []
    yield waiting


def _compare(
    lifecycle: LifecycleReplay,
    known: ServiceHistory,
    config: Config,
    new: ConfigData | None,
    history: History,
    result: Result,
) -> _Compared:
    name, since = known.name, result.since
    changes = [config_change(event, seq, at) for seq, at, event in config]
    anchor = known.anchor()
    moments = known.moments(history.gaps_since, anchor)
    known.beats.clear()
    was = lifecycle.replay(changes, moments, anchor)
    recorded = [each for each in known.changes if each[2] <= result.until]
    known.changes = []
    known_since = _explained_since(was.changes, recorded, since)
    if known_since:
        result.unknown[name] = known_since, UNEXPLAINED
    would, would_config = was, config
    if new is not None:
        would_config = [(seq, at, _as_wanted(event, new)) for seq, at, event in config]
        wanted = [config_change(event, seq, at) for seq, at, event in would_config]
        if wanted != changes:
            result.changed += 1
            would = lifecycle.replay(wanted, moments, anchor, was)
            if would.known_since > max(since, known_since):
                known_since = would.known_since
                result.unknown[name] = known_since, SHORTER
    if not known.is_readable:
        known_since = result.until
        result.unknown[name] = None, UNREADABLE
    acts: list[Item] = [(at, name, event) for _, at, event in known.acts]
    return _Compared(config, would_config, was.changes, would.changes, acts, known_since)


def _as_wanted(event: ConfigEvent, wanted: ConfigData) -> ConfigEvent:
    """The same event with another configuration. Whether it was paused stays, and what a heartbeat declared,
    where nothing else says when it is due."""
    if isinstance(event, ServiceDeleted):
        return event
    data, new = event.data, wanted.config
    changed: dict[str, Any] = {"paused": event.data.config.paused}
    declared_at = data.declared_at
    if wanted.declared_at is None and (new.every or new.schedule):
        declared_at = None
    elif declared_at:
        old = data.config
        changed |= {"every": old.every, "schedule": old.schedule, "time_zone": old.time_zone}
    else:
        changed |= {"every": None, "schedule": None}
    config = new.model_copy(update=changed)
    return event.model_copy(
        update={"data": data.model_copy(update={"config": config, "declared_at": declared_at})}
    )


def _explained_since(
    replayed: Sequence[StatusTransition], recorded: Sequence[tuple[Status, Status, int]], since: int
) -> int:
    """From when on both are the same; 0: from `since` on."""
    mine = [each[:3] for each in replayed if each.since >= since]
    its = [each for each in recorded if each[2] >= since]
    while mine and its and mine[-1] == its[-1]:
        mine.pop()
        its.pop()
    return max((at for *_, at in (*mine[-1:], *its[-1:])), default=-1) + 1


# --- what is told


def _timelines(history: History, plan: Plan) -> tuple[list[Configured], list[Configured]]:
    """The routes and windows in force, as they were and as they would have been."""
    routes, windows = Routes(), dict[str, Window]()
    was = [Configured(0, routes, windows)]
    for at, name, value in history.settings:
        kind, _, key = name.partition(".")
        if kind == "maintenance":
            windows = {id_: window for id_, window in windows.items() if id_ != key}
            if window := _read(Window, value):
                windows[key] = window
        elif name == "routes.all":
            routes = _read(Routes, value) or Routes()
        else:
            continue
        was.append(Configured(at, routes, windows))
    would = was
    if plan.routes is not None:
        would = [it._replace(routes=plan.routes) for it in would]
    if plan.windows:
        would = [it._replace(windows=_with(it.windows, plan.windows)) for it in would]
    return was, would


def _with(windows: dict[str, Window], others: Mapping[str, Window | None]) -> dict[str, Window]:
    return {id_: window for id_, window in (windows | others).items() if window is not None}  # type: ignore[operator]


def _read(kind: type[Any], value: Mapping[str, Any] | None) -> Any:
    """What cannot be read counts as not set."""
    try:
        return None if value is None else kind.model_validate(value)
    except ValueError:
        return None


def _told_by(config: Config) -> list[tuple[Any, ...]]:
    """What of the configuration says who is told."""
    return [
        () if isinstance(event, ServiceDeleted) else _telling(event.data.config) for _, _, event in config
    ]


def _telling(config: ServiceConfig) -> tuple[Any, ...]:
    holding = (config.silent_after, config.down_after, config.dead_after, config.every, config.schedule)
    return config.tags, config.notify, config.depends_on, holding if config.depends_on else ()


def _affected(compared: Mapping[str, _Compared], routes_differ: bool) -> set[str]:
    """The services of which something else may be told: with another past, or of which others are told; what
    depends on such; and all that these depend on, as it may hold them back."""
    if routes_differ:
        found = {name for name, it in compared.items() if it.was or it.would}
    else:
        found = {name for name, it in compared.items() if it.tells_otherwise}
    children, parents = dict[str, set[str]](), dict[str, set[str]]()
    for name, it in compared.items():
        for _, _, event in (*it.config, *(it.would_config if it.would_config is not it.config else ())):
            if isinstance(event, ServiceDeleted):
                continue
            for parent in event.data.config.depends_on:
                children.setdefault(parent, set()).add(name)
                parents.setdefault(name, set()).add(parent)
    _spread(found, children)
    _spread(found, parents)
    return found & compared.keys()


def _spread(found: set[str], neighbours: Mapping[str, set[str]]) -> None:
    waiting = list(found) if neighbours else []
    while waiting:
        new = neighbours.get(waiting.pop(), set()) - found
        found |= new
        waiting += new


def _messages(
    compared: Mapping[str, _Compared],
    chosen: Iterable[str],
    rules: Rules,
    timeline: Sequence[Configured],
    until: int,
    *,
    is_would: bool,
) -> dict[str, list[Message]]:
    items: list[tuple[int, int, int, Item]] = []
    for n, name in enumerate(sorted(chosen)):
        it = compared[name]
        for _, at, event in it.would_config if is_would else it.config:
            if isinstance(event, ServiceRegistered) and event.data.registered_at:
                at = min(at, micros(event.data.registered_at))
            items.append((at, 0, n, (at, name, event)))
        items += ((each.since, 1, n, (each.since, name, each)) for each in (it.would if is_would else it.was))
        items += ((act[0], 2, n, act) for act in it.acts)
    items.sort(key=lambda item: item[:3])
    found: dict[str, list[Message]] = {}
    for message in MessageReplay(rules, timeline).run((item for *_, item in items), until):
        found.setdefault(message.service, []).append(message)
    return found


# --- what differs


def _collect(
    result: Result,
    compared: Mapping[str, _Compared],
    chosen: set[str],
    told: Sequence[Mapping[str, list[Message]]],
) -> None:
    falls, messages = list(result.falls), list(result.messages)
    for name, it in compared.items():
        begin = max(result.since, it.known_since)
        was, would = ([each for each in side if each.since >= begin] for side in (it.was, it.would))
        found = Difference(name)
        for n, side in enumerate((was, would)):
            falls[n] += sum(each.to in FALLEN for each in side)
        most = None if len(result.differences) < MAX_LISTED else 1
        if was != would:
            found.falls = list(islice(_falls_that_differ(was, would), most))
        if name in chosen:
            sides = [[each for each in side.get(name, ()) if each.at >= begin] for side in told]
            messages[0], messages[1] = messages[0] + len(sides[0]), messages[1] + len(sides[1])
            if sides[0] != sides[1]:
                found.messages = list(islice(_messages_that_differ(*sides), most))
        if most is not None:
            result.more_differences += bool(found.falls or found.messages)
        elif found.falls or found.messages:
            result.differences.append(found)
    result.falls, result.messages = (falls[0], falls[1]), (messages[0], messages[1])


def _falls_that_differ(was: Iterable[StatusTransition], would: Iterable[StatusTransition]) -> Iterator[Pair]:
    sides = [
        [((it.to, it.last_beat or 0), it.since, it) for it in side if it.to in FALLEN]
        for side in (was, would)
    ]
    for (to, about), one, other in _paired(*sides):
        if one is None or other is None or one.since != other.since:
            yield Pair(to, about, one and one.since, other and other.since)


def _messages_that_differ(was: Iterable[Message], would: Iterable[Message]) -> Iterator[Pair]:
    sides = [
        [((it.channel, it.status, it.what, it.about), it.at, it) for it in side] for side in (was, would)
    ]
    for (channel, status, what, about), one, other in _paired(*sides):
        sound = one.has_sound if one else True, other.has_sound if other else True
        if one is None or other is None or one.at != other.at or sound[0] != sound[1]:
            yield Pair(status, about, one and one.at, other and other.at, channel, what, sound)


def _paired(was: list[Any], would: list[Any]) -> Iterator[tuple[Any, Any, Any]]:
    """What has the same key, in the order in which it came; then by time."""
    waiting: dict[Any, list[Any]] = {}
    for key, at, it in would:
        waiting.setdefault(key, []).append((at, it))
    found = []
    for key, at, it in was:
        others = waiting.get(key)
        other = others.pop(0)[1] if others else None
        found.append((at, key, it, other))
    found += ((at, key, None, it) for key, others in waiting.items() for at, it in others)
    found.sort(key=lambda each: each[0])
    return ((key, one, other) for _, key, one, other in found)
