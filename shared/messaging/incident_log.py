"""What is done about incidents, on its way into the record. Each event names the newest one of its service
that whoever acts has seen: of two at once one is first, and the other decides anew on what that one has done.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from functools import partial

from shared.contracts.events import IncidentData, IncidentEvent, event_id, moment
from shared.domain.incidents import IncidentState
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection, retry_until_done
from shared.messaging.errors import NotStored, WrongSequence
from shared.messaging.publisher import Publisher
from shared.messaging.queries import newest

Decide = Callable[[IncidentState], IncidentData | None]
"""From what is known of a service to what is to hold; None: it is so already. May raise what it likes."""

RETRY_INTERVAL = 0.3
MAX_REFUSED = 20.0
"""Seconds of a broker that is there, and stores nothing, before an event counts as not stored."""
MAX_RACES = 20
"""How often an event is decided anew, as others were faster, before it counts as not stored."""


class IncidentLog:
    """`known`: what is known of a service. `apply`: takes in an event that is stored, its sequence, and about
    when."""

    def __init__(
        self,
        link: BrokerConnection,
        publisher: Publisher,
        source: str,
        known: Callable[[str], Awaitable[IncidentState]],
        apply: Callable[[IncidentEvent, int, datetime], None],
    ) -> None:
        self._link, self._publisher, self._source = link, publisher, source
        self._known, self._apply = known, apply

    async def append(
        self,
        kind: type[IncidentEvent],
        name: str,
        decide: Decide,
        now: datetime,
        actor: str | None = None,
        within: float | None = None,
    ) -> IncidentEvent | None:
        """The event as it is stored; None: there was nothing to do. Raises what `decide` raises; and
        NotStored after so many seconds (None: only if the broker is there and refuses it), when it may be
        stored all the same."""
        try:
            async with asyncio.timeout(within):
                return await self._append(kind, name, decide, now, actor)
        except TimeoutError:
            raise NotStored("the broker has not stored it in time") from None

    async def _append(
        self, kind: type[IncidentEvent], name: str, decide: Decide, now: datetime, actor: str | None
    ) -> IncidentEvent | None:
        seen = 0
        for _ in range(MAX_RACES):
            state = await self._known(name)
            data, after = decide(state), max(state.incident_seq, seen)
            if data is None:
                return None
            id_ = event_id(name, kind, after, now.isoformat(), data.model_dump_json())
            event = kind(id=id_, source=self._source, subject=name, time=now, actor=actor, data=data)
            seen, is_stored = await self._store(event, after)
            if is_stored:
                self._apply(event, seen, now)
                return event
        raise NotStored("too many write at once")

    async def _store(self, event: IncidentEvent, after: int) -> tuple[int, bool]:
        """Its sequence; or that of somebody's who was faster, whose event is applied, and False. Tried until
        the broker answers: an attempt that was not answered may be stored, and is known by its id. NotStored
        from one that is there and stores nothing."""
        subject, refused_since = streams.incident(event.name), 0.0
        while True:
            try:
                ack = await self._publisher.append(
                    subject, event.to_bytes(), after=after, event_id=event.id, kind=event.type
                )
                return ack.seq, True
            except WrongSequence:
                break
            except NotStored:
                now = asyncio.get_running_loop().time()
                refused_since = (refused_since or now) if self._link.up else 0.0
                if refused_since and now - refused_since >= MAX_REFUSED:
                    raise
                await asyncio.sleep(RETRY_INTERVAL)
        ask = partial(newest, self._link, streams.SERVICES, subject)
        stored = await retry_until_done(f"read what was done about {event.name}", ask)
        if stored is None:
            return 0, False
        with suppress(ValueError):  # whoever cannot read it says what holds in its place
            found = streams.read_incident(subject, stored.data)
            if found.id == event.id:
                return stored.seq, True
            self._apply(found, stored.seq, moment(stored.at))
        return stored.seq, False
