"""What only the streams know: the last heartbeats of a service, and what it was at a moment in the past."""

import asyncio
from datetime import datetime
from itertools import islice

from services.api.http.models import HeardItem
from services.api.projections.documents import Heard, add_heartbeat, project
from shared.contracts import durations
from shared.contracts.events import SOURCE_HEADER, Signal, StatusChanged, micros, moment
from shared.contracts.heartbeats import parse_heartbeat
from shared.domain.service_state import ServiceState
from shared.http.problems import Problem
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.errors import NotStored
from shared.messaging.queries import truncated
from shared.messaging.reader import Reader, Stored

PATIENCE = 5.0
"""Seconds that the broker has to answer."""


async def heartbeats(link: BrokerConnection, name: str, since: int, limit: int) -> list[HeardItem]:
    """The last of those that the broker keeps, newest first."""
    return [item for _, item in await heard(link, name, since, limit)]


async def heard(link: BrokerConnection, name: str, since: int, limit: int) -> list[tuple[int, HeardItem]]:
    """The same with their sequences in the stream; malformed ones are left out, and what came before `since`
    (microseconds), which was of another life. A run's duration is what its sender measured, else from its
    start, if that is kept too, and of the same run by the sender's id."""
    open_runs: dict[str, datetime] = {}
    found: list[tuple[int, HeardItem]] = []
    for stored in await _read(link, streams.HEARTBEATS, streams.heartbeat(name)):
        if stored.at < since:
            continue
        try:
            beat = parse_heartbeat(name, stored.data, stored.headers)
        except ValueError:
            continue
        at, body = moment(stored.at), beat.body
        run, started = body.run if body else None, None
        if beat.signal is Signal.START:
            open_runs[run or ""] = at
        elif beat.signal is not Signal.LOG:
            started = open_runs.pop(run or "", None)
        item = HeardItem(
            at=at,
            signal=beat.signal,
            exit_code=beat.exit_code,
            message=body.message if body else None,
            duration=beat.duration or ((at - started).total_seconds() if started else None),
            run=run,
            every=durations.write(body.every) if body and body.every else None,
            schedule=body.schedule if body else None,
            time_zone=body.time_zone if body else None,
            metadata=body.metadata if body else None,
            source=_source(stored),
            warnings=list(beat.warnings),
        )
        found.append((stored.seq, item))
    return list(islice(reversed(found), limit))


def _source(stored: Stored) -> str:
    headers = stored.headers or {}
    return headers.get(SOURCE_HEADER) or ("mqtt" if "Nmqtt-Pub" in headers else "nats")


async def as_of(link: BrokerConnection, name: str, at: datetime) -> ServiceState | None:
    """The service as it was then; None if it did not exist. A change counts from when it was due, though it
    may have been noticed later. Problem 404 if the record does not reach back so far."""
    then, state = micros(at), ServiceState(name)
    for stored in await _read(link, streams.SERVICES, *streams.of_service(name)):
        try:
            change = project(stored)
        except ValueError:
            continue
        event = change.event
        if (micros(event.data.since) if isinstance(event, StatusChanged) else stored.at) <= then:
            state = change.applied_to(state)
    if state.config_seq and not state.exists:
        return None
    try:
        left = (await truncated(link, name)).get(name)
    except NotStored:
        raise Problem(503, "the broker does not answer", retry_after=2) from None
    if left and then < left.begins and (state.exists or left.config):
        begins = moment(left.begins).isoformat().replace("+00:00", "Z")
        raise Problem(404, f"what is kept of {name} begins at {begins}, and does not tell how it was before")
    if not state.exists:
        return None
    heard: Heard | None = None
    for stored in await _read(link, streams.HEARTBEATS, streams.heartbeat(name)):
        if stored.at <= then:
            try:
                heard = add_heartbeat(heard, stored)
            except ValueError:
                continue
    return heard.applied_to(state) if heard else state


async def _read(link: BrokerConnection, stream: str, *subjects: str) -> list[Stored]:
    """All that the stream keeps of these subjects. Problem 503 if the broker does not answer in time."""
    try:
        async with asyncio.timeout(PATIENCE):
            return [stored async for batch in Reader(link, stream, *subjects).to_end() for stored in batch]
    except TimeoutError:
        raise Problem(503, "the broker does not answer", retry_after=2) from None
