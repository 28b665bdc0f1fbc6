"""When services are due: the next moments of a schedule that is set, or is yet to be."""

import asyncio
from datetime import datetime
from itertools import islice
from typing import Annotated

from fastapi import Body, Query

from services.api import timing
from services.api.context import Api
from services.api.http.models import EXAMPLES, MOMENTS, MOMENTS_MAX, ExpectedMoments, SchedulePreview
from services.api.http.routing import NameInPath, asking, reading
from shared.contracts.events import MICRO
from shared.contracts.schedules import Schedule, stored
from shared.http.problems import documented

asks, reads = asking("services"), reading("services")


@asks.post("/schedule/preview", responses=documented(413, 422))
async def preview_schedule(
    wanted: Annotated[SchedulePreview, Body(examples=[EXAMPLES["schedule"]])], api: Api
) -> ExpectedMoments:
    """When a schedule is due next, and what it says in words; changes nothing. 422 says what of it cannot be
    read, or that it never comes."""
    after = wanted.after or api.now()
    schedule = timing.read(wanted.schedule, wanted.time_zone or api.settings.timezone, after)
    return await _moments(schedule, after, wanted.count)


@reads.get("/service/{name}/expected", responses=documented(404, 422))
async def list_expected_moments(
    name: NameInPath, api: Api, count: Annotated[int, Query(ge=1, le=MOMENTS_MAX)] = MOMENTS
) -> ExpectedMoments:
    """The next moments at which a heartbeat of a service is awaited: one that it has met early is none. One
    without a schedule is expected all the time: no items, and nothing in words."""
    state = await api.state(name)
    if state.schedule is None:
        return ExpectedMoments(items=[], says=None)
    schedule = stored(state.schedule, state.time_zone or api.settings.timezone)
    if (first := api.expected(state, api.now())) is None:
        return ExpectedMoments(items=[], says=schedule.says or None)
    return await _moments(schedule, first - MICRO, count)


async def _moments(schedule: Schedule, after: datetime, count: int) -> ExpectedMoments:
    """In a thread: some schedules take a millisecond for each moment."""
    found = await asyncio.to_thread(lambda: list(islice(schedule.upcoming(after), count)))
    return ExpectedMoments(items=found, says=schedule.says or None)
