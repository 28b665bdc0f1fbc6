"""Reading in the record of events what is not in memory: pages for a chat that fell behind, the last day."""

from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import structlog
from prometheus_client import Counter

from services.notifier.alerting.changes import StatusChange
from services.notifier.deafness import DeafnessWatch
from services.notifier.states import ServiceStates
from shared.contracts.events import Event, ServiceDeleted, Signal, StatusChanged
from shared.contracts.events import moment as moment
from shared.contracts.heartbeats import parse_heartbeat
from shared.domain import digest
from shared.domain.service_state import belongs_to_this_life
from shared.domain.timeline import Mark, mark_of
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection, retry_until_done
from shared.messaging.errors import Unreadable
from shared.messaging.queries import last_sequence, newest, newest_before, truncated
from shared.messaging.reader import Reader, Stored
from shared.settings import Settings
from shared.telemetry import tracing

log = structlog.get_logger()

UNREADABLE = Counter("registry_unreadable_events_total", "Events passed over because they cannot be read")


def parse(stored: Stored) -> Event | None:
    """The event; None, counted and said, if it is none."""
    try:
        return streams.read_event(stored.subject, stored.data)
    except ValueError as error:
        report_unreadable(stored.subject, stored.seq, str(error))
        return None


def report_unreadable(subject: str, seq: int, error: str) -> None:
    UNREADABLE.inc()
    log.warning("event cannot be read; passed over", subject=subject[:200], seq=seq, error=error[:300])


class EventLog:
    """The stream SERVICES as the notifier asks it."""

    def __init__(self, link: BrokerConnection, states: ServiceStates) -> None:
        self._link = link
        self._states = states
        self._told_until: datetime | None = None
        self._told_through = 0

    def skip_told_before(self, told_until: datetime, told_through: int) -> None:
        """The record is another one. Changes dated up to then were told from the one that was there before,
        or should have been, if they are stored in this one after the sequence `told_through`."""
        self._told_until, self._told_through = told_until, told_through

    def was_told(self, event: StatusChanged, seq: int) -> bool:
        until = self._told_until
        return until is not None and seq > self._told_through and event.data.since <= until

    async def newest_sequence(self) -> int:
        found = await retry_until_done(
            "ask for the newest event", lambda: last_sequence(self._link, streams.SERVICES)
        )
        return found[0]

    async def load_states(self) -> None:
        """Take the newest state of every service into the fleet: of events that can be read, for whoever is
        reading all along passes over the others too."""
        reader = Reader(self._link, streams.SERVICES, streams.ALL_EVENTS, newest_per_subject=True)
        async for batch in reader.to_end():
            for stored in batch:
                if event := parse(stored):
                    self._states.apply(event, stored.seq, moment(stored.at))
                elif before := await self._read_before(stored.subject, stored.seq):
                    self._states.apply(before[0], before[1].seq, moment(before[1].at))

    async def change(self, event: StatusChanged, seq: int, stored_at: datetime) -> StatusChange:
        """The change as people are told of it, with what it left behind."""
        data = event.data
        began = self._states.since(event.name, data.from_, seq)
        if began is None and data.from_.badness > 1:
            began = await self._began(event, seq)
        return StatusChange(
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
            trace=tracing.traceparent_of(event),
            silenced=await self._was_silenced(event.name, seq),
        )

    async def _was_silenced(self, name: str, seq: int) -> bool:
        """Whether its configuration said, when a change was stored, that nobody is to be told of it."""
        if self._states.get(name).config_seq < seq:
            return self._states.is_silenced(name)
        config = await self._newest_before(streams.config(name), seq)
        if config is None:  # the broker has let it go
            return self._states.is_silenced(name)
        if isinstance(config, StatusChanged | ServiceDeleted):
            return False
        return config.data.config.paused or not config.data.config.notify

    async def _began(self, event: StatusChanged, seq: int) -> datetime | None:
        """When the status before `seq` had begun, from the event that began it."""
        before = await self._newest_before(streams.status(event.name), seq)
        if isinstance(before, StatusChanged) and before.data.to is event.data.from_:
            return before.data.since
        return None

    async def _newest_before(self, subject: str, seq: int) -> Event | None:
        """The newest event of a subject before a sequence that can be read; None if there is none."""
        return (found := await self._read_before(subject, seq)) and found[0]

    async def _read_before(self, subject: str, seq: int) -> tuple[Event, Stored] | None:
        while True:

            async def ask(before: int = seq) -> Stored | None:
                try:
                    return await newest_before(self._link, streams.SERVICES, subject, before)
                except Unreadable:  # nobody can say what was before it
                    return None

            stored = await retry_until_done(f"read what {subject} was before {seq}", ask)
            if stored is None:
                return None
            if event := parse(stored):
                return event, stored
            seq = stored.seq

    async def changes_after(self, after: int, most: int) -> tuple[list[StatusChange], int, bool]:
        """About `most` changes after a sequence, the sequence read last, and whether that was the end."""
        changes: list[StatusChange] = []
        reader = Reader(self._link, streams.SERVICES, streams.ALL_STATUS, after=after)
        async with aclosing(reader.to_end()) as batches:
            async for batch in batches:
                for stored in batch:
                    event = parse(stored)
                    if isinstance(event, StatusChanged) and not self.was_told(event, stored.seq):
                        changes.append(await self.change(event, stored.seq, moment(stored.at)))
                if len(changes) >= most:
                    break
        return changes, reader.position, reader.pending == 0

    async def last_heartbeat(self, name: str) -> datetime | None:
        """The newest sign of this life that the broker has; None: none."""
        subject, seq = streams.heartbeat(name), 0

        async def ask() -> Stored | None:
            if seq:
                return await newest_before(self._link, streams.HEARTBEATS, subject, seq)
            return await newest(self._link, streams.HEARTBEATS, subject)

        while found := await retry_until_done(f"read the newest heartbeat of {name}", ask):
            if parse_heartbeat(name, found.data, found.headers).signal is not Signal.LOG:
                at: datetime = moment(found.at)
                return at if belongs_to_this_life(found.at, self._states.get(name).registered_at) else None
            seq = found.seq
        return None

    async def marks_since(self, since: datetime) -> dict[str, list[Mark]]:
        """The changes of status since then, and when services were paused and resumed, in order."""
        begin, found = since.astimezone(UTC).isoformat().replace("+00:00", "Z"), dict[str, list[Mark]]()
        reader = Reader(self._link, streams.SERVICES, streams.ALL_EVENTS, since=begin)
        async for batch in reader.to_end():
            for stored in batch:
                if (event := parse(stored)) and (mark := mark_of(event, stored.seq, stored.at)):
                    found.setdefault(event.name, []).append(mark)
        return found


@dataclass(frozen=True)
class Digests:
    """What a digest says, from the record as it is when the digest is sent."""

    settings: Settings
    link: BrokerConnection
    states: ServiceStates
    event_log: EventLog
    deafness: DeafnessWatch

    async def lines(self, at: datetime, weekly: bool = False) -> list[str]:
        window = digest.WEEK if weekly else digest.WINDOW
        marks = await self.event_log.marks_since(at - window)
        gaps = await self.deafness.gaps(at, self.settings.deaf_after)
        oldest = await retry_until_done("look how far the record reaches", partial(truncated, self.link))
        begins = {name: found.begins for name, found in oldest.items()}
        found = digest.digest(self.states.services(), marks, at, window, gaps, begins, each=weekly)
        return (digest.weekly_lines if weekly else digest.lines)(found, self.settings.zone)
