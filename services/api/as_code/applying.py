"""Plans a configuration against what is there, and makes it so.

Each thing is stored by an event of its own, decided on the sequence that was planned with. So what was broken
off is finished by the next try, and what somebody changes meanwhile is decided on anew.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import structlog

from services.api.as_code import planning
from services.api.as_code.exporting import export
from services.api.as_code.planning import Change, Checks, StoredWindow
from services.api.commands import Commands, existing
from services.api.configuration import Configuration as StoredParts
from services.api.projections.store import DatabaseUnavailable
from services.api.routes import StoredRoutes
from shared.contracts import events, ping_keys
from shared.contracts.configuration import (
    Configuration,
    ConfigurationFaults,
    Effective,
    Fault,
    effective,
    managed_by,
    parse,
)
from shared.contracts.configuration_file import written
from shared.contracts.events import ConfigData, ConfigEvent
from shared.contracts.routes import Routes
from shared.domain.service_state import ServiceState
from shared.http.problems import Problem
from shared.messaging import streams
from shared.messaging.errors import BrokerError, NotStored, WrongSequence
from shared.messaging.stored_config import ROUTES, page_name, window_name

log = structlog.get_logger()

AT_ONCE = 1000
"""Services that are planned before others get a turn, and that are stored while nobody else gives aliases."""
WAITING = 200
"""Events that wait for the broker's answer at the same time."""
PROJECTED_WITHIN = 120.0
"""Seconds that an answer waits until the read models have all that was stored."""
FAULTS_MAX = 200
"""That are told of at once."""
TRIES = 5
"""How often a part of the registry is decided on anew because somebody else was faster."""


@dataclass
class Plan:
    """`left`: what the file made once and has no more, which only pruning deletes."""

    owner: str
    changes: list[Change] = field(default_factory=list)
    left: list[Change] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    etag: str = ""
    wanted: dict[str, Effective] = field(default_factory=dict)

    @property
    def to_write(self) -> list[Change]:
        return [change for change in self.changes if change.is_written]


@dataclass
class Applied:
    """`failed`: what could not be stored, and why."""

    written: int = 0
    failed: list[tuple[Change, str]] = field(default_factory=list)


class Refused(Problem):
    """422 with all that is wrong, each with its path."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        shown = self.faults[:FAULTS_MAX]
        told = "; ".join(f"{written(fault.path)}: {fault.why}" for fault in shown[:5])
        more = f"; and {len(self.faults) - 5} more" if len(self.faults) > 5 else ""
        errors = [
            {"path": list(fault.path), "at": written(fault.path), "why": fault.why, "of_key": fault.of_key}
            for fault in shown
        ]
        super().__init__(422, told + more, also={"errors": errors, "error_count": len(self.faults)})


@dataclass
class AsCode:
    """`channels`: which there are that routes may name. Raises Problem 503 if nobody knows."""

    commands: Commands
    parts: StoredParts
    routes: StoredRoutes
    channels: Callable[[], Awaitable[frozenset[str]]]

    # --- what is there

    def export(self, *, with_aliases: bool) -> dict[str, Any]:
        stored = self.parts.stored
        return export(
            self.commands.hub.index,
            stored.routes.routes,
            stored.windows.values(),
            stored.pages.values(),
            with_aliases=with_aliases,
        )

    def etag(self, owner: str | None = None, names: Iterable[str] | None = None) -> str:
        """Of all that is there; or of these services, what `owner` manages, and the registry's own parts."""
        index, stored = self.commands.hub.index, self.parts.stored
        if names is None:
            seqs = [f"{state.name} {state.config_seq}" for state in index]
        else:
            its = {*names, *(state.name for state in index if state.managed_by == owner)}
            seqs = [f"{name} {state.config_seq if (state := index.get(name)) else 0}" for name in its]
        of_parts = [ROUTES, *map(window_name, stored.windows), *map(page_name, stored.pages)]
        seqs += [f"{name} {stored.version(name)}" for name in of_parts]
        return hashlib.sha256("\n".join(sorted(seqs)).encode()).hexdigest()[:32]

    # --- planning

    async def read(self, data: Any) -> tuple[Configuration, list[Fault]]:
        """What was sent, as far as it can be read. Raises Refused if nothing can."""
        try:
            return await asyncio.to_thread(parse, data)
        except ConfigurationFaults as error:
            raise Refused(error.faults) from None

    async def plan(
        self,
        configuration: Configuration,
        file: str,
        *,
        prune: bool = False,
        with_aliases: bool = True,
        is_dry: bool = False,
        faults: Iterable[Fault] = (),
    ) -> Plan:
        """What it would change. `with_aliases`: else nothing is said or found out about them; `faults`: what
        is known to be wrong already. Raises Problem 503."""
        await self.commands.caught_up(streams.ALL_EVENTS)
        commands, now = self.commands, self.commands.now()
        index = commands.hub.index
        plan = Plan(managed_by(file), faults=list(faults))
        plan.etag = self.etag(plan.owner, configuration.services)
        checks = Checks(configuration, commands.time_zone, now, index.get)
        plan.faults += checks.of_parts()
        depends_on: dict[str, tuple[str, ...]] = {}
        for n, name in enumerate(configuration.services):
            if n % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
            state, wanted = index.get(name), effective(configuration, name)
            if not with_aliases:
                wanted = wanted._replace(wanted=_with(wanted.wanted, aliases=state.aliases if state else ()))
            if found := list(checks.of_service(name, wanted)):
                plan.faults += found
                continue
            plan.wanted[name] = wanted
            depends_on[name] = wanted.wanted.depends_on or ()
            try:
                plan.changes.append(planning.service_change(name, wanted, state, plan.owner, now))
            except Problem as problem:
                plan.faults.append(Fault(("services", name), problem.detail))
        gone = [it for it in index if it.managed_by == plan.owner and it.name not in configuration.services]
        for state in sorted(gone, key=lambda it: it.name):
            plan.left.append(Change("service", state.name, "delete", {}, after=state.config_seq))
        names = frozenset(state.name for state in gone) if prune else frozenset()
        if with_aliases:
            plan.faults += planning.doubled_aliases(configuration, names, index)
        plan.faults += planning.circles(depends_on, lambda name: None if name in names else index.get(name))
        created = sum(change.action == "create" for change in plan.changes)
        if created and len(index) - len(names) + created > commands.max_services:
            why = (
                f"{len(index) - len(names) + created} would be there, and at most {commands.max_services} may"
            )
            plan.faults.append(Fault(("services",), f"{why} (REGISTRY_MAX_SERVICES)"))
        await self._plan_parts(plan, configuration, is_dry=is_dry)
        if prune:
            plan.changes = [*plan.left, *plan.changes]
            plan.left = []
        return plan

    async def _plan_parts(self, plan: Plan, configuration: Configuration, *, is_dry: bool) -> None:
        stored, owner = self.parts.stored, plan.owner
        if configuration.routes is None:
            if stored.managed_by(ROUTES) == owner and stored.routes.routes:
                plan.left.append(Change("routes", "all", "delete", {}, new=Routes()))
        else:
            routes = Routes(routes=configuration.routes)
            plan.changes.append(self._route_change(routes, owner))
            if routes != stored.routes and routes.channels:
                try:
                    plan.faults += planning.unknown_channels(routes, await self.channels())
                except Problem as problem:
                    if not is_dry:
                        raise
                    why = f"whether there are its channels is not known: {problem.detail}"
                    plan.warnings.append(f"routes: {why}")
        windows = [
            StoredWindow(id_, window, stored.managed_by(window_name(id_)), stored.version(window_name(id_)))
            for id_, window in stored.windows.items()
        ]
        changes, left = planning.window_changes(
            configuration.maintenance or (), windows, owner, self.commands.now()
        )
        plan.changes += changes
        plan.left += [Change("maintenance", it.id, "delete", {}, after=it.version) for it in left]
        pages = {page.path: page for page in configuration.status_pages or ()}
        for path, page in pages.items():
            there, name = stored.pages.get(path), page_name(path)
            fields = planning.part_differences(
                planning.page_value(there) if there else {}, planning.page_value(page)
            )
            action: planning.Action = "nothing" if there == page else "update" if there else "create"
            is_adopted = stored.managed_by(name) != owner
            plan.changes.append(
                Change("status_page", path, action, fields, is_adopted, page, stored.version(name))
            )
        for path in stored.pages:
            name = page_name(path)
            if path not in pages and stored.managed_by(name) == owner:
                plan.left.append(Change("status_page", path, "delete", {}, after=stored.version(name)))

    def _route_change(self, routes: Routes, owner: str) -> Change:
        stored = self.parts.stored
        if routes == stored.routes:
            is_adopted = stored.managed_by(ROUTES) != owner and bool(stored.version(ROUTES))
            return Change("routes", "all", "nothing", {}, is_adopted, routes, stored.version(ROUTES))
        was, now = stored.routes.model_dump(mode="json"), routes.model_dump(mode="json")
        action: planning.Action = "update" if stored.version(ROUTES) else "create"
        fields = planning.part_differences(was, now)
        return Change("routes", "all", action, fields, True, routes, stored.version(ROUTES))

    # --- making it so

    async def apply(self, plan: Plan) -> Applied:
        """Store what is to be changed. What could not be is told, and the next try does it."""
        clock, done = asyncio.get_running_loop().time, Applied()
        began = clock()
        of_services = [change for change in plan.to_write if change.kind == "service"]
        alone = [change for change in of_services if self._is_exclusive(change)]
        chosen = {change.name for change in alone}
        for change in plan.to_write:
            if change.kind != "service":
                await self._one(done, change, self._write_part(change, plan.owner))
        beside = [change for change in of_services if change.name not in chosen]
        newest = await self._write_services(plan, beside, done)
        for n in range(0, len(alone), AT_ONCE):
            portion = alone[n : n + AT_ONCE]
            await self.commands.projected(newest, PROJECTED_WITHIN)
            try:
                async with self.commands.alone():
                    newest = max(newest, await self._write_exclusively(plan, portion, done))
            except (BrokerError, Problem) as error:
                why = error.detail if isinstance(error, Problem) else str(error)
                told = {change.name for change, _ in done.failed}
                done.failed += [(change, why) for change in portion if change.name not in told]
        stored = clock()
        is_projected = not newest or await self.commands.projected(newest, PROJECTED_WITHIN)
        if done.written:
            took = {"stored_in": round(stored - began, 2), "read_in": round(clock() - stored, 2)}
            log.info("a configuration is applied", by=plan.owner, events=done.written, **took)
        if not is_projected:
            plan.warnings.append("all of it is stored, and not all of it shows yet: the read models follow")
        return done

    def _is_exclusive(self, change: Change) -> bool:
        """Whether it gives a service aliases or something to depend on."""
        if change.action == "delete":
            return False
        state, new = self._state(change.name), change.new.config
        was = (state.aliases, state.depends_on) if state else ((), ())
        return bool({*new.aliases} - {*was[0]} or {*new.depends_on} - {*was[1]})

    async def _write_exclusively(self, plan: Plan, portion: list[Change], done: Applied) -> int:
        index = self.commands.hub.index
        wanted = {change.name: plan.wanted[change.name].wanted for change in portion}
        owned = {alias: name for name, it in wanted.items() for alias in it.aliases or ()}
        taken: dict[str, str] = {}
        for state in index if owned else ():
            its = () if state.name in plan.wanted else state.aliases  # checked in the file itself
            for key in (state.ping_key, *its):
                if key in owned and owned[key] != state.name:
                    taken[owned[key]] = state.name
        depends_on = {name: it.depends_on or () for name, it in wanted.items()}
        in_circle = {fault.path[1] for fault in planning.circles(depends_on, index.get)}
        good = []
        for change in portion:
            if change.name in taken:
                done.failed.append((change, f"aliases: one of them leads to {taken[change.name]} already"))
            elif change.name in in_circle:
                done.failed.append((change, "depends_on: it would depend on itself by now"))
            else:
                good.append(change)
        return await self._write_services(plan, good, done)

    async def _write_services(self, plan: Plan, changes: list[Change], done: Applied) -> int:
        """Store them beside each other. The sequence of the newest event."""
        room, newest = asyncio.Semaphore(WAITING), 0

        async def write(change: Change) -> None:
            nonlocal newest
            async with room:
                seq = await self._one(done, change, self._write_service(plan, change))
                newest = max(newest, seq or 0)

        async with asyncio.TaskGroup() as group:
            for change in changes:
                group.create_task(write(change))
        return newest

    @staticmethod
    async def _one(done: Applied, change: Change, writing: Awaitable[int | None]) -> int | None:
        """Do one, and note how it went. Returns what it does."""
        try:
            seq = await writing
        except Problem as problem:
            done.failed.append((change, problem.detail))
        except (BrokerError, DatabaseUnavailable) as error:
            done.failed.append((change, f"not known to be stored: {error}"))
        else:
            done.written += seq is not None
            return seq
        return None

    async def _write_service(self, plan: Plan, change: Change) -> int | None:
        """The sequence of its event; None: somebody has made it so meanwhile."""
        event = self._event(plan.owner, change.name, change.action, change.new, self._state(change.name))
        try:
            return await self.commands.append(event, change.after)
        except (WrongSequence, NotStored):  # somebody was faster, or it is not known: the record says
            pass
        wrote = False

        def decide(state: ServiceState | None) -> ConfigEvent | None:
            nonlocal wrote
            if change.action == "delete":
                there = existing(change.name, state)
                if there.managed_by != plan.owner:
                    raise Problem(404, "another manages it by now")
                wrote = True
                return self._event(plan.owner, change.name, "delete", None, there)
            known = state if state and state.exists else None
            wanted, now = plan.wanted[change.name], self.commands.now()
            again = planning.service_change(change.name, wanted, known, plan.owner, now)
            wrote = again.is_written
            return self._event(plan.owner, change.name, again.action, again.new, known) if wrote else None

        try:
            state = await self.commands.append_decided(change.name, decide)
        except Problem as problem:
            if change.action == "delete" and problem.status == 404:
                return None
            raise
        return state.config_seq if wrote else None

    def _state(self, name: str) -> ServiceState | None:
        return self.commands.hub.index.get(name)

    def _event(
        self,
        owner: str,
        name: str,
        action: planning.Action,
        new: ConfigData | None,
        state: ServiceState | None,
    ) -> ConfigEvent:
        about = self.commands.envelope(name) | {"actor": owner}
        if new is None:
            return events.ServiceDeleted(**about)
        if action == "create":
            data = new.model_copy(update={"ping_key": ping_keys.new()})
            return events.ServiceRegistered(**about, data=data)
        was = state.paused if state else False
        kind: type[events.ServiceUpdated | events.ServicePaused | events.ServiceResumed] = (
            events.ServiceUpdated
            if new.config.paused == was
            else events.ServicePaused
            if new.config.paused
            else events.ServiceResumed
        )
        return kind(**about, data=new)

    async def _write_part(self, change: Change, owner: str) -> int | None:
        """The same of a part of the registry's own configuration."""
        name, value = _part(change)
        stored = self.parts.stored
        for _ in range(TRIES):
            is_ours = stored.managed_by(name) == owner
            if is_ours and self._has(change) if value is not None else not is_ours:
                return None
            after = stored.version(name)
            created = value is not None and not after
            try:
                return await self.parts.write(name, value, after, owner, created=created, managed_by=owner)
            except Problem as problem:
                if problem.status != 412:
                    raise
                await self.parts.refresh(name)
        raise Problem(503, "too many writers change it at once", retry_after=1)

    def _has(self, change: Change) -> bool:
        """Whether it is so already."""
        stored = self.parts.stored
        if change.kind == "routes":
            return bool(stored.routes == change.new)
        there = stored.windows if change.kind == "maintenance" else stored.pages
        return bool(there.get(change.name) == change.new)


def _part(change: Change) -> tuple[str, dict[str, Any] | None]:
    """Its name as events have it, and its value."""
    if change.kind == "routes":
        return ROUTES, change.new.model_dump(mode="json")
    if change.kind == "maintenance":
        value = planning.window_value(change.new) if change.new else None
        return window_name(change.name), value
    return page_name(change.name), planning.page_value(change.new) if change.new else None


def _with(wanted: Any, **fields: Any) -> Any:
    """The same with other fields."""
    given = {key: getattr(wanted, key) for key in wanted.model_fields_set} | fields
    return type(wanted).model_construct(_fields_set=set(given), **given)
