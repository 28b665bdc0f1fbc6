"""Commands: what is wanted of a service becomes an event, and the event a new state.

Each is decided on the read model and appended only if nobody has written since; whoever loses that race
reads the winning event and decides again. What was stored is projected at once, so that the next read
sees it.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import structlog
from nats.errors import Error as NatsError

from services.api import dependencies, timing
from services.api.http.models import check_order
from services.api.http.requests import check_tags, check_version
from services.api.mutex import Mutex
from services.api.projections.documents import project
from services.api.projections.store import DatabaseUnavailable, Store
from services.api.queries.event_hub import EventHub
from shared.contracts import events, ping_keys
from shared.contracts.events import ConfigData, ConfigEvent, ServiceConfig, event_id
from shared.contracts.wanted import THRESHOLDS, NewService, Wanted
from shared.domain.service_state import ServiceState
from shared.http.problems import LIMIT_REACHED, LIMIT_RETRY_AFTER, Problem
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.errors import BrokerError, NotStored, WrongSequence
from shared.messaging.publisher import Publisher
from shared.messaging.queries import message_at, newest
from shared.messaging.reader import Stored

log = structlog.get_logger()

GIVEN_EVERY = 5
"""Seconds between two searches for services that have no ping key."""
READS, READ_EVERY = 200, 0.01
"""How often, and after how many seconds each, it is looked whether the read models are behind."""
TRIES = 10
"""How often a command is decided anew before it tells the client that too many write at once."""

SHOWN_MAX = 12
"""Services of a circle that are named."""

_NOTHING_SET = ServiceConfig()

Decide = Callable[[ServiceState | None], ConfigEvent | None]
"""From the state to the event that follows; None: it is as wanted already. Raises Problem."""


@dataclass
class Commands:
    """One method per command; each returns the service as it then is. `actor`: who causes it, as
    `ApiAuth.actor` says."""

    link: BrokerConnection
    publisher: Publisher
    store: Store
    hub: EventHub
    now: Callable[[], datetime]
    max_services: int
    time_zone: str = "UTC"
    """The registry's, where a service has none."""
    creating: int = 0
    """Services that are being created, and are not in `hub` yet."""

    def __post_init__(self) -> None:
        self._mutex = Mutex(self.link, "mutex")

    async def create(self, wanted: NewService, *, actor: str | None) -> ServiceState:
        name, config = wanted.name, wanted.whole()
        check_order(config)

        def decide(state: ServiceState | None) -> ConfigEvent:
            if state and state.exists:
                raise Problem(409, f"{name} is registered already")
            return self._registered(name, config, actor)

        return await self._change(name, decide, wanted)

    async def replace(
        self, name: str, wanted: Wanted, if_match: str | None, *, actor: str | None
    ) -> tuple[ServiceState, bool]:
        """The whole configuration anew; whether it is paused stays, and what its heartbeats declare. What is
        not there is created, unless the client names a version of it. The second: whether it was created."""
        check_order(wanted.whole())
        created = False

        def decide(state: ServiceState | None) -> ConfigEvent | None:
            nonlocal created
            created = not (state and state.exists)
            if not created:
                new = partial(timing.replaced, wanted, now=self.now())
                return self._updating(events.ServiceUpdated, name, if_match, new, actor)(state)
            if if_match is not None:
                raise Problem(412, f"there is no service {name}")
            return self._registered(name, wanted.whole(), actor)

        return await self._change(name, decide, wanted), created

    async def merge(
        self, name: str, wanted: Wanted, if_match: str | None, *, actor: str | None
    ) -> ServiceState:
        def merged(old: ConfigData) -> ConfigData:
            new = timing.merged(wanted, old, self.now())
            if wanted.model_fields_set.intersection(THRESHOLDS):
                check_order(new.config)
            return new

        update = self._updating(events.ServiceUpdated, name, if_match, merged, actor)
        return await self._change(name, update, wanted)

    async def set_paused(
        self, name: str, paused: bool, if_match: str | None, *, actor: str | None
    ) -> ServiceState:
        def changed(old: ConfigData) -> ConfigData:
            return old.model_copy(update={"config": old.config.model_copy(update={"paused": paused})})

        kind = events.ServicePaused if paused else events.ServiceResumed
        return await self._change(name, self._updating(kind, name, if_match, changed, actor))

    async def renew_ping_key(self, name: str, if_match: str | None, *, actor: str | None) -> ServiceState:
        def renewed(old: ConfigData) -> ConfigData:
            """Nothing leads to it by the old key any more, also where that is an alias of its own."""
            aliases = tuple(alias for alias in old.config.aliases if alias != old.ping_key)
            config = old.config.model_copy(update={"aliases": aliases})
            return old.model_copy(update={"ping_key": ping_keys.new(), "config": config})

        update = self._updating(events.ServiceUpdated, name, if_match, renewed, actor)
        return await self._change(name, update)

    async def give_ping_keys(self) -> None:
        """Give one to each service that an older version registered, for ever: one may still be running."""
        while True:
            await asyncio.sleep(GIVEN_EVERY)
            try:
                for name in list(self.hub.index.without_key):
                    await self._give_ping_key(name)
            except (BrokerError, NatsError, DatabaseUnavailable) as error:
                log.info("services that have no ping key yet get one later", why=str(error))

    async def _give_ping_key(self, name: str) -> None:
        def given(old: ConfigData) -> ConfigData:
            return old if old.ping_key else old.model_copy(update={"ping_key": ping_keys.new()})

        with suppress(Problem):
            await self._change(name, self._updating(events.ServiceUpdated, name, None, given, None))

    async def delete(self, name: str, if_match: str | None, *, actor: str | None) -> None:
        def decide(state: ServiceState | None) -> ConfigEvent:
            existing(name, state, if_match)
            return events.ServiceDeleted(**self.envelope(name), actor=actor)

        await self._change(name, decide)

    def _registered(self, name: str, config: ServiceConfig, actor: str | None) -> events.ServiceRegistered:
        check_tags(config.tags)
        self._check_timing(config)
        self._check_dependencies(name, config.depends_on)
        if len(self.hub.index) + self.creating >= self.max_services:
            raise Problem(429, LIMIT_REACHED, retry_after=LIMIT_RETRY_AFTER)
        data = ConfigData(config=config, ping_key=ping_keys.new())
        return events.ServiceRegistered(**self.envelope(name), actor=actor, data=data)

    def _check_timing(self, config: ServiceConfig, was: ServiceConfig = _NOTHING_SET) -> None:
        timing.check(config, was, self.time_zone, self.now())

    def _check_dependencies(self, name: str, depends_on: tuple[str, ...]) -> None:
        """Problem 422 if it would depend on itself."""

        def parents(other: str) -> tuple[str, ...]:
            state = self.hub.index.get(other)
            return state.depends_on if state else ()

        if name in depends_on:
            raise Problem(422, f"depends_on: {name} cannot depend on itself")
        if way := dependencies.circle(name, depends_on, parents):
            shown = " → ".join(way if len(way) <= SHOWN_MAX else (*way[: SHOWN_MAX - 2], "…", name))
            raise Problem(422, f"depends_on: it would depend on itself: {shown}")

    def _updating(
        self,
        kind: type[events.ServiceUpdated | events.ServicePaused | events.ServiceResumed],
        name: str,
        if_match: str | None,
        new: Callable[[ConfigData], ConfigData],
        actor: str | None,
    ) -> Decide:
        def decide(state: ServiceState | None) -> ConfigEvent | None:
            there = existing(name, state, if_match)
            old = there.data
            data = new(old)
            if data == old:
                return None
            check_tags(data.config.tags, old.config.tags)
            if data.ping_key in set(data.config.aliases).difference(old.config.aliases):
                raise Problem(422, "aliases: its own ping key is none; that would not end with another key")
            self._check_timing(data.config, old.config)
            if set(data.config.depends_on).difference(old.config.depends_on):
                self._check_dependencies(name, data.config.depends_on)
            return kind(**self.envelope(name), actor=actor, data=data)

        return decide

    async def _change(self, name: str, decide: Decide, wanted: Wanted | None = None) -> ServiceState:
        """Decide, append, project. Aliases and dependencies that are wanted are decided on while nobody else
        gives any. Problem 409 if an alias leads to another service already."""
        if wanted is None or not (wanted.aliases or wanted.depends_on):
            return await self.append_decided(name, decide)
        async with self.alone():
            if wanted.aliases and (other := await self.store.live.with_key(*wanted.aliases, but=name)):
                raise Problem(409, f"aliases: one of them leads to {other} already")
            return await self.append_decided(name, decide)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Nobody else of whichever API gives aliases or dependencies, or looks whether a check is there,
        meanwhile; what they did before is in the read models. Other changes go on beside."""
        async with self._mutex.held():
            await self.caught_up(streams.ALL_EVENTS)
            yield

    async def caught_up(self, subjects: str) -> None:
        """Wait until what was stored by now under these subjects is in the read models. Problem 503."""
        message = await newest(self.link, streams.SERVICES, subjects)
        for _ in range(READS):
            if message is None or self.hub.published_through >= message.seq:
                return
            await asyncio.sleep(READ_EVERY)
        raise Problem(503, "still reading the record", retry_after=1)

    async def append_decided(self, name: str, decide: Decide) -> ServiceState:
        """That it is refused, or as wanted already, may rest on a read model that is behind, so that is said
        only after asking the record itself."""
        state, of_the_record = await self.store.live.get(name), False
        after = state.config_seq if state else 0
        for _ in range(TRIES):
            try:
                event = decide(state)
            except Problem:
                if of_the_record:
                    raise
                event = None
            if event is None:
                if of_the_record and state is not None:
                    return state
                (state, after), of_the_record = await self._refreshed(name), True
                continue
            creates = isinstance(event, events.ServiceRegistered)
            self.creating += creates
            try:
                return await self._append(event, after)
            except WrongSequence:
                (state, after), of_the_record = await self._refreshed(name), True
            finally:
                self.creating -= creates
        raise Problem(503, f"too many writers change {name} at once", retry_after=1)

    async def _append(self, event: ConfigEvent, after: int) -> ServiceState:
        return await self.stored(await self.append(event, after))

    async def append(self, event: ConfigEvent, after: int) -> int:
        """Store one event; its sequence. It is in the read models once the projector has read it. Raises
        WrongSequence, NotStored."""
        subject = streams.config(event.name)
        ack = await self.publisher.append(
            subject,
            event.to_bytes(),
            after=after,
            event_id=event.id,
            kind=event.type,
            keys=events.keys_of(event),
        )
        return ack.seq

    async def projected(self, seq: int, within: float) -> bool:
        """Whether what is stored at a sequence gets into the read models within so many seconds."""
        for _ in range(round(within / READ_EVERY)):
            if self.hub.published_through >= seq:
                return True
            await asyncio.sleep(READ_EVERY)
        return False

    async def stored(self, seq: int) -> ServiceState:
        """Project what was just stored at a sequence, so that the next read sees it."""
        message = await message_at(self.link, streams.SERVICES, seq)
        if message is None:
            raise NotStored("it is stored, but cannot be read back yet")
        return await self._projected(message)

    async def _refreshed(self, name: str) -> tuple[ServiceState | None, int]:
        """The state by the newest configuration event in the record, which is projected on the way, and
        that event's sequence. One that cannot be read counts for nothing, but stands in the way."""
        message = await newest(self.link, streams.SERVICES, streams.config(name))
        if message is None:
            if state := await self.store.live.get(name):
                self.link.doubt()
                raise Problem(503, f"the record has nothing of {state.name}; reading it", retry_after=1)
            return None, 0
        try:
            state = await self._projected(message)
        except ValueError:
            for _ in range(READS):
                if await self.store.live.checkpoint(streams.SERVICES) >= message.seq:
                    break
                await asyncio.sleep(READ_EVERY)
            else:
                raise Problem(503, "still reading the record", retry_after=1) from None
            return await self.store.live.get(name), message.seq
        return state, state.config_seq

    async def _projected(self, message: Stored) -> ServiceState:
        change = project(message)
        await self.store.apply(change)
        self.hub.index.apply(change)
        state = await self.store.live.get(change.name)
        assert state is not None
        return state

    def envelope(self, name: str) -> dict[str, Any]:
        now = self.now()
        return {
            "id": event_id(name, now.isoformat(), uuid.uuid4()),
            "source": "/api",
            "subject": name,
            "time": now,
        }


def existing(name: str, state: ServiceState | None, if_match: str | None = None) -> ServiceState:
    """The state. Problem 404 for a service that was never here or is deleted, 412 for another version."""
    if state is None or not state.exists:
        raise Problem(404, f"there is no service {name}")
    check_version(if_match, state.config_seq)
    return state
