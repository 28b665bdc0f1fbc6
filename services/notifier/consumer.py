"""The record of events. `EventConsumer` gives every one in order to the states of all services, and to every
receiver; `EventLog` reads what is not in memory: pages for a chat that fell behind, the last day.

The receivers' cursors say what is done, and an event that comes again changes nothing. So whatever goes wrong
here is tried again from the last event that was taken in. Only one that cannot be read is passed over.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial

import structlog
from prometheus_client import Counter

from services.notifier.alerting.changes import StatusChange
from services.notifier.alerting.policy import Reminders
from services.notifier.deafness import DeafnessWatch
from services.notifier.incidents import Ended
from services.notifier.states import ServiceStates
from shared.contracts.events import (
    Event,
    IncidentData,
    IncidentEvent,
    Outcome,
    ServiceDeleted,
    Signal,
    Status,
    StatusChanged,
    micros,
    moment,
)
from shared.contracts.heartbeats import parse_heartbeat
from shared.domain import digest
from shared.domain.incidents import Incident
from shared.domain.service_state import belongs_to_this_life
from shared.domain.timeline import Mark, mark_of
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection, retry_until_done
from shared.messaging.errors import Unreadable
from shared.messaging.faststream_broker import EventSubscription, FastStreamBroker, ReceivedEvent
from shared.messaging.queries import (
    first_after,
    last_sequence,
    newest,
    newest_before,
    newest_event,
    truncated,
)
from shared.messaging.reader import PENDING, Reader, Stored
from shared.settings import Settings
from shared.telemetry import tracing

log = structlog.get_logger()

UNREADABLE = Counter("registry_unreadable_events_total", "Events passed over because they cannot be read")
PENDING.labels(streams.SERVICES)
CONFIG_AND_STATUS = streams.ALL_CONFIG, streams.ALL_STATUS
MAX_QUESTIONS = 64
"""To the broker at once, about when incidents began."""
RETRY_INTERVAL = 1.0
"""Seconds before events are read again that could not be applied."""
STALL_TIMEOUT = 30.0
"""Seconds after which a read that is behind and does not move is given up."""


def parse(stored: Stored) -> Event | None:
    """The event; None, counted and said, if it is none."""
    try:
        return streams.read_event(stored.subject, stored.data)
    except ValueError as error:
        report_unreadable(stored.subject, stored.seq, str(error))
        return None


def _read_incident(stored: Stored) -> IncidentEvent | None:
    try:
        return streams.read_incident(stored.subject, stored.data)
    except ValueError as error:
        report_unreadable(stored.subject, stored.seq, str(error))
        return None


def report_unreadable(subject: str, seq: int, error: str) -> None:
    UNREADABLE.inc()
    log.warning("event cannot be read; passed over", subject=subject[:200], seq=seq, error=error[:300])


class EventLog:
    """The stream SERVICES as the notifier asks it."""

    def __init__(self, link: BrokerConnection, states: ServiceStates) -> None:
        self.link, self.states = link, states
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
        ask = partial(last_sequence, self.link, streams.SERVICES)
        return (await retry_until_done("ask for the newest event", ask))[0]

    async def load_states(self) -> None:
        """Learn how every service is, from its newest events that can be read."""
        subjects = *CONFIG_AND_STATUS, streams.ALL_INCIDENT
        reader = Reader(self.link, streams.SERVICES, *subjects, newest_per_subject=True)
        async for batch in reader.to_end():
            for last in batch:
                if streams.is_incident(last.subject):
                    await self._load_incident(last)
                    continue
                event = parse(last)
                if found := (event, last) if event else await self._read_before(last.subject, last.seq):
                    self.states.apply(found[0], found[1].seq, moment(found[1].at))
        await self.find_incidents(self.states.incidents.unresolved())

    async def _load_incident(self, last: Stored) -> None:
        found = last
        while (event := _read_incident(found)) is None:
            ask = partial(newest_before, self.link, streams.SERVICES, last.subject, found.seq)
            older = await retry_until_done(f"read what {last.subject} was before {found.seq}", ask)
            if older is None:
                return
            found = older
        self.states.apply_incident(event, found.seq, moment(found.at), in_turn=True)

    async def change(self, event: StatusChanged, seq: int, stored_at: datetime) -> StatusChange:
        data, incident = event.data, None
        began = self.states.since(event.name, data.from_, seq)
        if began is None and data.from_.badness > 1:
            began, incident = await self._began(event, seq)
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
            silenced=await self._was_silenced(event.name, seq)
            or await self._was_muted(event, seq, stored_at),
            incident=incident,
        )

    async def _was_silenced(self, name: str, seq: int) -> bool:
        """Whether its configuration said, when a change was stored, that nobody is to be told of it."""
        if self.states.get(name).config_seq < seq:
            return self.states.is_silenced(name)
        config = await self._newest_before(streams.config(name), seq)
        if config is None:  # the broker has let it go
            return self.states.is_silenced(name)
        if isinstance(config, StatusChanged | ServiceDeleted):
            return False
        return config.data.config.paused or not config.data.config.notify

    async def _was_muted(self, event: StatusChanged, seq: int, stored_at: datetime) -> bool:
        """The same of a mute."""
        incidents, name, at = self.states.incidents, event.name, micros(stored_at)
        known = incidents.state(name)
        if seq > incidents.through and known.incident_seq < seq:  # it is read in its turn
            mute = known.muted(at)
        else:
            before = await self._people_before(name, seq)
            mute = before.muted if before else None
        if mute is None or mute.until is not None:
            return mute is not None and stored_at < (mute.until or stored_at)
        if Status.ALIVE.badness >= min(event.data.from_.badness, event.data.to.badness):
            return False  # with it another incident begins, or the muted one ends
        incident = await self.incident_at(name, seq)
        return incident is not None and incident.id == mute.incident

    async def _people_before(self, name: str, seq: int) -> IncidentData | None:
        """What the newest event of people before a sequence says."""
        subject = streams.incident(name)

        async def ask() -> Stored | None:
            try:
                return await newest_before(self.link, streams.SERVICES, subject, seq)
            except Unreadable:
                return None

        found = await retry_until_done(f"read what {subject} was before {seq}", ask)
        event = _read_incident(found) if found else None
        return event.data if event else None

    async def _began(self, event: StatusChanged, seq: int) -> tuple[datetime | None, Incident | None]:
        """When the status before `seq` had begun, from the event that began it; and the incident, if that is
        clear by then."""
        before = await self._newest_before(streams.status(event.name), seq)
        if before is None and event.data.to.badness > Status.ALIVE.badness:
            return None, Incident(event.id, micros(event.data.since))
        if not isinstance(before, StatusChanged) or before.data.to is not event.data.from_:
            return None, None
        since, is_beginning = before.data.since, before.data.from_.badness <= Status.ALIVE.badness
        return since, Incident(before.id, micros(since)) if is_beginning else None

    async def _newest_before(self, subject: str, seq: int) -> Event | None:
        """The newest event of a subject before a sequence that can be read; None if there is none."""
        return (found := await self._read_before(subject, seq)) and found[0]

    async def _read_before(self, subject: str, seq: int) -> tuple[Event, Stored] | None:
        async def ask() -> Stored | None:
            try:
                return await newest_before(self.link, streams.SERVICES, subject, seq)
            except Unreadable:  # nobody can say what was before it
                return None

        while stored := await retry_until_done(f"read what {subject} was before {seq}", ask):
            if event := parse(stored):
                return event, stored
            seq = stored.seq
        return None

    # --- incidents

    async def find_incidents(self, names: Iterable[str]) -> None:
        """Learn when the incidents of these services began, where only the record knows."""
        limit = asyncio.Semaphore(MAX_QUESTIONS)

        async def find(name: str) -> None:
            async with limit:
                await self.find_incident(name)

        unresolved = [name for name in names if self.states.incidents.is_unresolved(name)]
        await asyncio.gather(*map(find, unresolved))

    async def find_incident(self, name: str) -> None:
        """The same of one, if that is not known."""
        incidents = self.states.incidents
        if incidents.is_unresolved(name):
            newest = self.states.get(name).status_seq
            if incident := await self.incident_at(name, newest):
                incidents.resolve(name, incident)

    async def incidents_of(self, told: Sequence[tuple[str, int, datetime]]) -> dict[str, Incident]:
        """By service the incident that it had after the change with a sequence, which was due at a moment."""
        limit = asyncio.Semaphore(MAX_QUESTIONS)

        async def find(name: str, seq: int, since: datetime) -> tuple[str, Incident | None]:
            if known := self.states.incidents.at(name, micros(since)):
                return name, known
            async with limit:
                await self.find_incident(name)
                known = self.states.incidents.at(name, micros(since))
                return name, known or await self.incident_at(name, seq)

        found = await asyncio.gather(*(find(*each) for each in told))
        return {name: incident for name, incident in found if incident}

    async def incident_before(self, name: str, seq: int, at: datetime) -> Incident | None:
        """The incident that a service's change to alive has ended, with a sequence, which was at a moment."""
        ended = self.states.incidents.ended.get(name)
        if ended and ended.at == at:
            return ended.incident
        return await self.incident_at(name, seq - 1)

    async def incident_end(self, name: str, seq: int, incident: Incident) -> Ended | None:
        """How an incident ended that a service had after the change with a sequence, if it has."""
        incidents = self.states.incidents
        ended = incidents.ended.get(name)
        if ended and ended.incident.id == incident.id:
            return ended
        await self.find_incident(name)
        current = incidents.state(name).incident
        if current and current.id == incident.id:
            return None
        return await self._end_of(name, seq, incident)

    async def _end_of(self, name: str, seq: int, incident: Incident) -> Ended | None:
        subject, state = streams.status(name), self.states.get(name)

        async def ask() -> Stored | None:
            try:
                return await first_after(self.link, streams.SERVICES, subject, seq)
            except Unreadable:
                return None

        while stored := await retry_until_done(f"read what {subject} was after {seq}", ask):
            event, seq = parse(stored), stored.seq
            if not state.exists and seq > state.config_seq:
                break
            if not isinstance(event, StatusChanged) or event.data.to.badness > Status.ALIVE.badness:
                continue
            if event.data.from_ is Status.UNKNOWN:
                return Ended(incident, event.data.since, deleted=True)
            before = await self._people_before(name, seq)
            ack = before.acknowledged if before else None
            return Ended(incident, event.data.since, ack.by if ack and ack.incident == incident.id else None)
        deleted = not state.exists or state.registered_at > incident.began_at
        return Ended(incident, moment(state.registered_at), deleted=True) if deleted else None

    async def incident_at(self, name: str, seq: int) -> Incident | None:
        """Which incident the service had after its change at a sequence, or the newest before. Of one whose
        beginning the broker has let go of, the oldest change that is left counts as that."""
        oldest, subject, seq = None, streams.status(name), seq + 1
        while found := await self._read_before(subject, seq):
            event, seq = found[0], found[1].seq
            if not isinstance(event, StatusChanged) or event.data.to.badness <= Status.ALIVE.badness:
                break
            oldest = Incident(event.id, micros(event.data.since))
            if event.data.from_.badness <= Status.ALIVE.badness:
                break
        return oldest

    async def changes_after(self, after: int, most: int) -> tuple[list[StatusChange], int, bool]:
        """About `most` changes after a sequence, the sequence read last, and whether that was the end."""
        changes: list[StatusChange] = []
        reader = Reader(self.link, streams.SERVICES, streams.ALL_STATUS, after=after)
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
        of_name = self.link, streams.HEARTBEATS, streams.heartbeat(name)
        what = f"read the newest heartbeat of {name}"
        found = await retry_until_done(what, partial(newest, *of_name))
        while found and parse_heartbeat(name, found.data, found.headers).signal is Signal.LOG:
            found = await retry_until_done(what, partial(newest_before, *of_name, found.seq))
        if found and belongs_to_this_life(found.at, self.states.get(name).registered_at):
            return moment(found.at)
        return None

    async def marks_since(self, since: datetime) -> dict[str, list[Mark]]:
        """The changes of status since then, and when services were paused and resumed, in order."""
        begin, found = since.astimezone(UTC).isoformat().replace("+00:00", "Z"), dict[str, list[Mark]]()
        reader = Reader(self.link, streams.SERVICES, *CONFIG_AND_STATUS, since=begin)
        async for batch in reader.to_end():
            for stored in batch:
                if (event := parse(stored)) and (mark := mark_of(event, stored.seq, stored.at)):
                    found.setdefault(event.name, []).append(mark)
        return found

    async def digest_lines(
        self,
        settings: Settings,
        deafness: DeafnessWatch,
        outcomes_since: Callable[[datetime], Awaitable[Mapping[Outcome, int]]],
        beside: Callable[[datetime], digest.Beside],
        at: datetime,
        weekly: bool,
    ) -> list[str]:
        """What a digest says, from the record as it is now."""
        window = digest.WEEK if weekly else digest.WINDOW
        marks = await self.marks_since(at - window)
        gaps = await deafness.gaps(at, settings.deaf_after)
        oldest = await retry_until_done("look how far the record reaches", partial(truncated, self.link))
        begins = {name: found.begins for name, found in oldest.items()}
        runs = await outcomes_since(at - window)
        services = self.states.services()
        found = digest.digest(services, marks, at, window, gaps, begins, runs, beside(at), each=weekly)
        return (digest.weekly_lines if weekly else digest.lines)(found, settings.zone)


# --- as it grows


class ConsumerFailed(Exception):
    """No event comes any more, though there are some; a fresh process may do better."""


class EventConsumer:
    """Set `position` to the sequence to begin after, then `watch` for as long as it goes well."""

    def __init__(self, event_log: EventLog, nats_urls: tuple[str, ...], reminders: Reminders) -> None:
        self._event_log, self._reminders = event_log, reminders
        self._link, self._states = event_log.link, event_log.states
        self.broker = FastStreamBroker(self._link, nats_urls)
        self._events = EventSubscription(self._link, self.broker)
        self.subscribers: list[Callable[[int, StatusChange | None], None]] = []
        """Each is given every event: its sequence, and the change to tell, if it is one. Also twice."""
        self.position = 0
        """The sequence of the event that every subscriber was given last."""

    async def watch(self) -> None:
        """Raises ConsumerFailed when nothing comes while the stream goes on."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read())
            group.create_task(self._notice_stall())

    async def _read(self) -> None:
        while True:
            try:
                await self._events.run(self.position, self._apply_all)
            except Exception:
                log.exception("an event could not be applied; trying again", after=self.position)
                await asyncio.sleep(RETRY_INTERVAL)

    async def _notice_stall(self) -> None:
        while True:
            before = self.position
            end, _ = await retry_until_done("ask for the newest event", partial(newest_event, self._link))
            await asyncio.sleep(STALL_TIMEOUT)
            if before < end and self.position == before and self._link.up:
                raise ConsumerFailed(f"no event after {before} has come, though {end} is stored")

    async def _apply_all(self, received: list[ReceivedEvent]) -> None:
        for stored, event, problem in received:
            PENDING.labels(streams.SERVICES).set(stored.pending)
            change = None
            if event is None:
                report_unreadable(stored.subject, stored.seq, problem)
            elif isinstance(event, IncidentEvent):
                await self._apply_incident(event, stored)
            else:
                change = await self._apply(event, stored)
            for enqueue in self.subscribers:
                enqueue(stored.seq, change)
            self.position = stored.seq

    async def _apply(self, event: Event, stored: Stored) -> StatusChange | None:
        """The change to tell, if it is one."""
        seq, stored_at, change = stored.seq, moment(stored.at), None
        log, incidents, incident = self._event_log, self._states.incidents, None
        if isinstance(event, StatusChanged):
            if not log.was_told(event, seq):
                change = await log.change(event, seq, stored_at)
            if change and seq >= self._states.get(event.name).status_seq:  # or a later incident may be known
                incident = change.incident
            if event.data.to is Status.ALIVE:  # or nobody would know which incident is over
                if incident:
                    incidents.resolve(event.name, incident)
                await log.find_incident(event.name)
        self._states.apply(event, seq, stored_at)
        if isinstance(event, StatusChanged):
            if incident:
                incidents.resolve(event.name, incident)
            self._reminders.watch(event.name, event.data.since)
        return change

    async def _apply_incident(self, event: IncidentEvent, stored: Stored) -> None:
        if event.data.acknowledged or event.data.muted:
            await self._event_log.find_incident(event.name)
        self._states.apply_incident(event, stored.seq, moment(stored.at), in_turn=True)
