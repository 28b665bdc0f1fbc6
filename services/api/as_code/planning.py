"""What a configuration would change, and what is wrong with it. Pure.

What holds already is no change. That a file manages a thing from now on is none either, but is stored.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from difflib import get_close_matches
from itertools import count
from typing import Any, Literal, NamedTuple

from services.api import dependencies, timing
from services.api.http.requests import check_tags
from shared.contracts import durations, maintenance, schedules
from shared.contracts.configuration import (
    FIELDS,
    Configuration,
    Effective,
    Fault,
    StatusPage,
)
from shared.contracts.configuration_file import Path
from shared.contracts.events import ConfigData, ServiceConfig
from shared.contracts.maintenance import Window
from shared.contracts.routes import Routes
from shared.contracts.thresholds import FIELDS as THRESHOLDS
from shared.contracts.wanted import Wanted, check_order
from shared.domain.service_state import ServiceState
from shared.http.problems import Problem

Kind = Literal["service", "routes", "maintenance", "status_page"]
Action = Literal["create", "update", "delete", "nothing"]
Fields = dict[str, tuple[Any, Any]]
"""From what to what."""
SHOWN_MAX = 12
"""Services of a circle that are named."""


class Change(NamedTuple):
    """`is_adopted`: from now on the file manages it. `new`: what is to be stored, None: it is deleted.
    `after`: the sequence that this was decided on."""

    kind: Kind
    name: str
    action: Action
    fields: Fields
    is_adopted: bool = False
    new: Any = None
    after: int = 0

    @property
    def is_written(self) -> bool:
        return self.action != "nothing" or self.is_adopted


# --- services


def desired(wanted: Effective, state: ServiceState | None, owner: str, now: datetime) -> ConfigData:
    """What is to be stored of a service. What its heartbeats declare stays, where the file says nothing of
    it; so does the zone of a schedule that they declare. (A new one has no ping key yet.)"""
    if state is None:
        new, its = ConfigData(config=wanted.wanted.whole(paused=wanted.paused or False)), wanted.inherited
    else:
        old, given, its = state.data, wanted.wanted, wanted.inherited
        if old.declared_at and old.config.schedule and not (given.schedule or given.every):
            given = _without(given, "time_zone")
            its = {key: of for key, of in its.items() if key != "time_zone"}
        new = timing.replaced(given, old, now)
    update: dict[str, Any] = {"template": wanted.template, "inherited": its}
    if wanted.paused is not None:
        update["paused"] = wanted.paused
    return new.model_copy(update={"config": new.config.model_copy(update=update), "managed_by": owner})


def _without(wanted: Wanted, left_out: str) -> Wanted:
    given = {key: getattr(wanted, key) for key in wanted.model_fields_set if key != left_out}
    return Wanted.model_construct(_fields_set=set(given), **given)


_NOTHING_SET = ServiceConfig()


def service_change(
    name: str, wanted: Effective, state: ServiceState | None, owner: str, now: datetime
) -> Change:
    new = desired(wanted, state, owner, now)
    if state is None:
        found = differences(_NOTHING_SET, new.config, is_new=True)
        return Change("service", name, "create", found, True, new)
    old = state.data
    if new == old:
        return Change("service", name, "nothing", {}, after=state.config_seq)
    found = differences(old.config, new.config)
    action: Action = "update" if found else "nothing"
    return Change("service", name, action, found, old.managed_by != owner, new, state.config_seq)


def differences(old: ServiceConfig, new: ServiceConfig, *, is_new: bool = False) -> Fields:
    """Field by field, and where only what a field is inherited from is another: `inherited.silent_after`."""
    found = {
        key: (None if is_new else _plain(was), _plain(value))
        for key in (*FIELDS, "paused", "template")
        if (was := getattr(old, key)) != (value := getattr(new, key))
    }
    if is_new:
        return found
    for key in {**old.inherited, **new.inherited}:
        was_from, from_ = old.inherited.get(key), new.inherited.get(key)
        if was_from != from_ and key not in found:
            found[f"inherited.{key}"] = was_from, from_
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, timedelta):
        return durations.write(value)
    return list(value) if isinstance(value, tuple) else value


# --- what is wrong


@dataclass
class Checks:
    """`zone`: the registry's, where a service has none. `get`: a service that is there."""

    configuration: Configuration
    zone: str
    now: datetime
    get: Callable[[str], ServiceState | None]
    _read: dict[tuple[str, str], str | None] = field(default_factory=dict)
    """What is wrong with each schedule in its zone."""

    def of_parts(self) -> Iterator[Fault]:
        """Of all but the services."""
        yield from _out_of_order(self.configuration.defaults, ("defaults",))
        for name, template in self.configuration.templates.items():
            path: Path = ("templates", name)
            yield from _out_of_order(template, path)
            if template.every and template.schedule:
                yield Fault((*path, "schedule"), "only one of every and schedule may be set")
            if template.schedule:
                yield from self._schedule(template.schedule, template.time_zone, (*path, "schedule"))
            yield from _bad_tags(template.tags or (), (), (*path, "tags"))
        for n, window in enumerate(self.configuration.maintenance or ()):
            yield from _bad_window(window, ("maintenance", n), self.now)
        seen: dict[str, int] = {}
        for n, page in enumerate(self.configuration.status_pages or ()):
            if page.path in seen:
                yield Fault(("status_pages", n, "path"), f"status_pages[{seen[page.path]}] has it already")
            seen.setdefault(page.path, n)

    def of_service(self, name: str, wanted: Effective) -> Iterator[Fault]:
        """Of one of them alone."""
        service, path = self.configuration.services[name], ("services", name)
        if service.template is not None and service.template not in self.configuration.templates:
            near = get_close_matches(service.template, self.configuration.templates, 1)
            hint = f"; do you mean {near[0]}?" if near else ""
            yield Fault((*path, "template"), f"there is no such template{hint}")
        yield from _out_of_order(service, path)
        state, given = self.get(name), wanted.wanted
        if given.every and given.schedule:
            yield Fault((*path, "schedule"), "only one of every and schedule may be set")
        if given.schedule and wanted.path("schedule")[:1] != ("templates",):
            was = (state.schedule, state.time_zone) if state else None
            if was != (given.schedule, given.time_zone):
                yield from self._schedule(given.schedule, given.time_zone, wanted.path("schedule"))
        yield from _bad_tags(given.tags or (), state.tags if state else (), wanted.path("tags"))
        if state and state.ping_key in (given.aliases or ()) and state.ping_key not in state.aliases:
            yield Fault((*path, "aliases"), "its own ping key is none; that would not end with another key")

    def _schedule(self, schedule: str, time_zone: str | None, path: Path) -> Iterator[Fault]:
        key = schedule, time_zone or self.zone
        if key not in self._read:
            self._read[key] = None
            try:
                schedules.parse(*key, self.now)
            except ValueError as error:
                self._read[key] = str(error)
        if why := self._read[key]:
            yield Fault(path, why)


def _out_of_order(config: Any, path: Path) -> Iterator[Fault]:
    try:
        check_order(config)
    except ValueError as error:
        first = next(key for key in THRESHOLDS if getattr(config, key))
        yield Fault((*path, first), str(error))


def _bad_tags(tags: Iterable[str], had: Iterable[str], path: Path) -> Iterator[Fault]:
    try:
        check_tags(tags, had)
    except Problem as problem:
        yield Fault(path, problem.detail.removeprefix("tags: "))


def _bad_window(window: Window, path: Path, now: datetime) -> Iterator[Fault]:
    try:
        maintenance.check_new(window, now)
    except ValueError as error:
        part, _, why = str(error).partition(": ")
        yield Fault((*path, part), why)
    yield from _bad_tags(window.tags, (), (*path, "tags"))


def doubled_aliases(
    configuration: Configuration, gone: frozenset[str], states: Iterable[ServiceState]
) -> Iterator[Fault]:
    """Aliases that lead to two services, of the file or another. `gone`: services that will be deleted."""
    services = configuration.services
    if not any(service.aliases for service in services.values()):
        return
    leads_to: dict[str, str] = {}
    for state in states:
        if state.name in gone:
            continue
        if state.ping_key:
            leads_to[state.ping_key] = state.name
        if state.name not in services:
            leads_to |= dict.fromkeys(state.aliases, state.name)
    for name, service in services.items():
        for n, alias in enumerate(service.aliases or ()):
            if (other := leads_to.setdefault(alias, name)) != name:
                yield Fault(("services", name, "aliases", n), f"it leads to {other} already")


def circles(
    depends_on: Mapping[str, tuple[str, ...]], get: Callable[[str], ServiceState | None]
) -> Iterator[Fault]:
    """Services that would depend on themselves. `depends_on`: of those of the file."""

    def parents(name: str) -> Iterable[str]:
        if name in depends_on:
            return depends_on[name]
        state = get(name)
        return state.depends_on if state else ()

    for way in dependencies.circles(depends_on, parents):
        if not (name := next((each for each in way if each in depends_on), "")):
            continue
        at = way.index(name)
        way = (*way[at:], *way[:at])
        where: Path = ("services", name, "depends_on")
        if len(way) == 1:
            yield Fault(where, f"{name} cannot depend on itself")
            continue
        shown = (*way, name) if len(way) < SHOWN_MAX else (*way[: SHOWN_MAX - 2], "…", name)
        yield Fault(where, f"it would depend on itself: {' → '.join(shown)}")


def unknown_channels(routes: Routes, channels: frozenset[str]) -> Iterator[Fault]:
    for n, route in enumerate(routes.routes):
        named: list[tuple[Path, tuple[str, ...]]] = [(("to",), route.to)]
        named += [(("escalate", each, "to"), step.to) for each, step in enumerate(route.escalate)]
        for where, names in named:
            for m, name in enumerate(names):
                if name not in channels:
                    yield Fault(("routes", n, *where, m), f"no channel is called {name}")


# --- the registry's own parts


def window_value(window: Window) -> dict[str, Any]:
    return window.model_dump(mode="json", exclude_defaults=True)


def page_value(page: StatusPage) -> dict[str, Any]:
    return page.model_dump(mode="json", exclude_defaults=True)


def _content(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True)


def window_id(window: Window, n: int = 0) -> str:
    """Of a window that a file makes: follows from its content. `n`: for another one, where that is taken."""
    return hashlib.sha256((_content(window_value(window)) + n * "+").encode()).hexdigest()[:12]


def part_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Fields:
    return {key: (old.get(key), new.get(key)) for key in {**old, **new} if old.get(key) != new.get(key)}


class StoredWindow(NamedTuple):
    id: str
    window: Window
    managed_by: str | None
    version: int


def window_changes(
    wanted: Iterable[Window], stored: Iterable[StoredWindow], owner: str, now: datetime
) -> tuple[list[Change], list[StoredWindow]]:
    """What to do about the windows, and those that the file made once and has no more.

    A window is known by its content. One that was changed in the file keeps its id: it takes the place of the
    file's own window that is most like it. One that is over is not made any more.
    """
    by_content: dict[str, list[StoredWindow]] = {}
    for each in sorted(stored, key=lambda it: (it.managed_by != owner, it.id)):
        by_content.setdefault(_content(window_value(each.window)), []).append(each)
    changes, missing, used = list[Change](), dict[str, Window](), set[str]()
    for window in wanted:
        content = _content(window_value(window))
        if content in missing:
            continue
        if not (found := by_content.get(content)):
            missing[content] = window
        elif found[0].id not in used:
            used.add(found[0].id)
            is_adopted = found[0].managed_by != owner
            changes.append(
                Change("maintenance", found[0].id, "nothing", {}, is_adopted, window, found[0].version)
            )
    there = [it for found in by_content.values() for it in found]
    left = [it for it in there if it.managed_by == owner and it.id not in used]
    taken = {it.id for it in there}
    for window in missing.values():
        if window.ends_at and window.ends_at <= now:
            continue
        value = window_value(window)
        like, likeness = None, 0
        for each in left:
            if (its := _likeness(each.window, window)) > likeness:
                like, likeness = each, its
        if like:
            left.remove(like)
            fields = part_differences(window_value(like.window), value)
            changes.append(Change("maintenance", like.id, "update", fields, False, window, like.version))
            continue
        id_ = next(it for n in count() if (it := window_id(window, n)) not in taken)
        taken.add(id_)
        changes.append(Change("maintenance", id_, "create", part_differences({}, value), True, window))
    return changes, left


def _likeness(one: Window, other: Window) -> int:
    its, value = window_value(one), window_value(other)
    return sum(its.get(key) == value[key] for key in value)
