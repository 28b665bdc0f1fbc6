"""Reading in the record of events what is not in memory: pages for a chat that fell behind, the last day."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from datetime import UTC, datetime

import structlog
from nats.errors import Error as NatsError
from prometheus_client import Counter

from services.notifier.fleet import Fleet
from services.notifier.incidents import Incidents
from services.notifier.messages import Change
from shared import digest, streams, tracing
from shared.broker import Link, NotStored, Reader, Stored, newest, until_done
from shared.events import Event, Status, StatusChanged, parse_event
from shared.events import moment as moment

log = structlog.get_logger()

UNREADABLE = Counter("registry_unreadable_events_total", "Events passed over because they cannot be read")


def parse(stored: Stored) -> Event | None:
    """The event; None, counted and said, if it is none."""
    try:
        return parse_event(stored.data)
    except ValueError as error:
        unreadable(stored.subject, stored.seq, str(error))
        return None


def unreadable(subject: str, seq: int, error: str) -> None:
    UNREADABLE.inc()
    log.warning("event cannot be read; passed over", subject=subject[:200], seq=seq, error=error[:300])


class History:
    """The stream SERVICES as the notifier asks it."""

    def __init__(
        self,
        link: Link,
        fleet: Fleet,
        incidents: Incidents,
        hushed_until: Callable[[str, datetime], datetime | None],
    ) -> None:
        self._hushed_until = hushed_until
        self._link = link
        self._fleet = fleet
        self._incidents = incidents

    async def fold(self) -> None:
        """Take the newest state of every service into the fleet."""
        reader = Reader(self._link, streams.SERVICES, streams.ALL_EVENTS, newest_per_subject=True)
        async with aclosing(reader.batches()) as batches:
            async for batch in batches:
                for stored in batch:
                    if event := parse(stored):
                        self._fleet.take(event, stored.seq, moment(stored.at))
                if reader.pending == 0:
                    return

    async def change(self, event: StatusChanged, seq: int, stored_at: datetime) -> Change | None:
        """The change to tell people, with what it left behind; None if they are not to be told."""
        meaning = self._incidents.take(event, seq)
        if self._fleet.is_quiet(event.name) or not meaning.told:
            return None
        data = event.data
        began = self._fleet.since(event.name, data.from_, seq)
        if began is None and data.from_.badness > 1:
            began = await self._began(event, seq)
        if self._is_hushed(event, stored_at, began):
            return None
        return Change(
            seq,
            stored_at,
            event.name,
            data.from_,
            data.to,
            data.since,
            data.last_heartbeat,
            data.reason,
            began,
            data.message,
            data.duration,
            data.doubt,
            meaning.flaps,
            tracing.of_change(event),
        )

    def _is_hushed(self, event: StatusChanged, stored_at: datetime, began: datetime | None) -> bool:
        """Whether maintenance keeps it from being told: a fall within it, or a recovery within the same that
        the fall was in."""
        data = event.data
        if data.to is not Status.ALIVE:
            return any(self._hushed_until(event.name, at) for at in (data.since, stored_at))
        end = self._hushed_until(event.name, began) if began else None
        return end is not None and end > data.since

    async def recall(self, through: int, since: datetime) -> None:
        """Learn what the changes up to a sequence, stored since a moment, meant."""
        async for batch in self._status_since(since):
            for stored in batch:
                event = parse(stored) if stored.seq <= through else None
                if isinstance(event, StatusChanged):
                    self._incidents.take(event, stored.seq)

    async def _began(self, event: StatusChanged, seq: int) -> datetime | None:
        """When the status before `seq` had begun, from the event that began it."""
        question = {"multi_last": [streams.status(event.name)], "up_to_seq": seq - 1}

        async def ask() -> bytes:
            request = f"$JS.API.DIRECT.GET.{streams.SERVICES}"
            try:
                answer = await self._link.nc.request(request, json.dumps(question).encode(), timeout=3)
            except NatsError as error:
                raise NotStored(str(error) or repr(error)) from None
            return answer.data

        try:
            before = parse_event(await until_done(f"read what {event.name} was before", ask))
        except ValueError:  # nothing stands there, or nothing that can be read
            return None
        if isinstance(before, StatusChanged) and before.data.to is event.data.from_:
            return before.data.since
        return None

    async def page(self, after: int, most: int) -> tuple[list[Change], int, bool]:
        """About `most` changes after a sequence, the sequence read last, and whether that was the end."""
        changes: list[Change] = []
        reader = Reader(self._link, streams.SERVICES, streams.ALL_STATUS, after=after)
        async with aclosing(reader.batches()) as batches:
            async for batch in batches:
                for stored in batch:
                    event = parse(stored)
                    if isinstance(event, StatusChanged):
                        change = await self.change(event, stored.seq, moment(stored.at))
                        changes += [change] if change else []
                if len(changes) >= most or reader.pending == 0:
                    break
        return changes, reader.position, reader.pending == 0

    async def last_heartbeat(self, name: str) -> datetime | None:
        """The newest that the broker has, whether it is well formed or not; None: none."""

        async def ask() -> Stored | None:
            return await newest(self._link, streams.HEARTBEATS, streams.heartbeat(name))

        found = await until_done(f"read the newest heartbeat of {name}", ask)
        return moment(found.at) if found else None

    async def transitions(self, since: datetime) -> list[digest.Transition]:
        """The changes of status since then, in order."""
        return [change async for batch in self._status_since(since) for change in _transitions(batch)]

    async def _status_since(self, since: datetime) -> AsyncIterator[list[Stored]]:
        begin = since.astimezone(UTC).isoformat().replace("+00:00", "Z")
        reader = Reader(self._link, streams.SERVICES, streams.ALL_STATUS, since=begin)
        async with aclosing(reader.batches()) as batches:
            async for batch in batches:
                yield batch
                if reader.pending == 0:
                    return


def _transitions(batch: list[Stored]) -> Iterator[digest.Transition]:
    for stored in batch:
        event = parse(stored)
        if isinstance(event, StatusChanged):
            yield digest.Transition(event.name, event.data.from_, event.data.to, event.data.since)
