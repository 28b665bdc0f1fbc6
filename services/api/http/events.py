"""Server-Sent Events: every change as it happens, and after a pause what happened meanwhile."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Annotated, Any

from fastapi import Header, Query, Request
from fastapi.responses import StreamingResponse

from services.api.context import Api
from services.api.http.models import EXAMPLES
from services.api.http.routing import reading
from services.api.projections.documents import Document, project
from services.api.queries.event_hub import EventHub, LiveEvent
from shared.contracts.events import moment
from shared.http.problems import Problem, documented
from shared.http.protocol import stranger_of
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.reader import Reader

READ_AT_ONCE = 1000
"""Events that are read of the record before they are sent."""
KEEP_ALIVE = 15.0
"""Seconds of silence after which something is sent, so that no proxy hangs up."""

_STREAM: dict[str, Any] = {
    "description": "Events, without end",
    "content": {"text/event-stream": {"schema": {"type": "string"}, "example": EXAMPLES["events"]}},
}
_ID = re.compile(r"([0-9]+)(-[0-9a-f]{1,16})?", re.ASCII)

reads = reading("events")


@reads.get("/events", response_class=StreamingResponse, responses=documented(422) | {200: _STREAM})
async def follow_events(
    request: Request,
    api: Api,
    last_event_id: Annotated[
        str | None, Header(description="Go on after this event, as browsers do by themselves.")
    ] = None,
    after: Annotated[
        int | None, Query(ge=0, le=2**53, description="The same, where a header cannot be set.")
    ] = None,
    heartbeats: Annotated[
        bool, Query(description="Also who was heard, once a second, as events named `heartbeats`.")
    ] = False,
) -> StreamingResponse:
    """Every change as it happens, as Server-Sent Events; the id is its sequence in the record. (When the
    record was replaced by another one, something follows it that tells them apart.)"""
    seen = sequence(last_event_id, api.hub)
    client = stranger_of(request)
    if api.hub.full(client):
        raise Problem(503, "too many listen already", retry_after=30)
    return StreamingResponse(
        _messages(api.link, api.hub, after if seen is None else seen, heartbeats, client),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


def sequence(last_event_id: str | None, hub: EventHub) -> int | None:
    """The header as browsers send it, also empty. One of an earlier record leads to what is new in this one.
    Problem 422 for an id that was never given out."""
    if not last_event_id:
        return None
    if not (found := _ID.fullmatch(last_event_id)):
        raise Problem(422, "Last-Event-ID: the id of an event, a number")
    if hub.edition and found[2] != hub.edition:
        return hub.new_from
    return int(found[1][:18])


async def _messages(
    link: BrokerConnection, hub: EventHub, after: int | None, heartbeats: bool, client: str | None
) -> AsyncIterator[str]:
    """What follows `after`, or what comes from now on. `client`: the address of a stranger."""
    if hub.full(client):  # others have come since the answer began
        return
    with hub.listening(client, heartbeats=heartbeats) as listener:
        yield "retry: 2000\n\n"
        if after is None:
            after = hub.published_through
        elif after > hub.published_through:  # it is of an earlier record
            after = min(hub.new_from, hub.published_through) if hub.edition else hub.published_through
        while after < hub.kept_from:
            for seq, text in await _part_of_record(link, hub, after):
                after = seq
                if text:
                    yield text
        for news in hub.kept_after(after):
            after = news.seq or after
            yield _written(news, hub.edition)
        while True:
            try:
                following = await listener.next(KEEP_ALIVE)
            except TimeoutError:
                yield ": still here\n\n"
                continue
            if following is None:
                return
            if following.seq is None or following.seq > after:
                yield _written(following, hub.edition)


async def _part_of_record(link: BrokerConnection, hub: EventHub, after: int) -> list[tuple[int, str]]:
    """The next of what memory does not go back to, at most READ_AT_ONCE: who reads slowly keeps nobody else
    from the record. It ends with the last event that memory does not have, whatever that is."""
    found, upto = list[tuple[int, str]](), hub.kept_from
    reader = Reader(link, streams.SERVICES, streams.ALL_EVENTS, after=after)
    async with hub.reading, aclosing(reader.to_end(upto)) as batches:
        async for batch in batches:
            for stored in batch:
                with suppress(ValueError):
                    if stored.seq <= upto:
                        news = LiveEvent(stored.seq, project(stored).row)
                        found.append((stored.seq, _written(news, hub.edition)))
            if len(found) >= READ_AT_ONCE:
                return found[:READ_AT_ONCE]
    return [*found, (upto, "")]


def _written(news: LiveEvent, edition: str) -> str:
    if not news.written:
        begin = "event: heartbeats" if news.seq is None else f"id: {news.seq}{edition}"
        row = news.row if news.seq is None else _shown(news.row)
        news.written = f"{begin}\ndata: {json.dumps(row, separators=(',', ':'))}\n\n"
    return news.written


def _shown(row: Document) -> Document:
    """An event of the history, as listeners get it."""
    at = moment(row["at"]).isoformat().replace("+00:00", "Z")
    return {"seq": row["_id"], "type": row["type"], "service": row["name"], "at": at, "data": row["data"]}
