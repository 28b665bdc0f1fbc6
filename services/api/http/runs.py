"""Runs of a service as JSON."""

import re
from typing import Annotated

from fastapi import Query

from services.api.context import Api
from services.api.http.models import RunItem, RunPage
from services.api.http.requests import bad_cursor, listed, read_cursor, write_cursor
from services.api.http.routing import Limit, NameInPath, reading
from services.api.queries import runs
from shared.contracts.events import Outcome
from shared.http.problems import Problem, documented

reads = reading("services")


@reads.get("/service/{name}/runs", responses=documented(404, 422))
async def list_service_runs(
    name: NameInPath,
    api: Api,
    outcome: Annotated[
        list[str],
        Query(
            default_factory=list,
            description="Any of these. Repeat it, or put commas between.",
            examples=[["failure"]],
        ),
    ],
    limit: Limit = 50,
    cursor: str | None = None,
) -> RunPage:
    """Its runs, newest first by when they began or were due. Only services with a schedule or with starts
    have any. Kept for REGISTRY_RUNS_KEPT, at most 10,000 of a service."""
    outcomes = listed(outcome)
    if wrong := next((each for each in outcomes if each not in set(Outcome)), None):
        raise Problem(422, f"outcome: {wrong[:50]!r} is none of {', '.join(Outcome)}")
    before = _place(cursor) if cursor else None
    state = await api.state(name)
    found = await runs.runs(api.store.live, state, api.timetable(state), before, limit, outcomes)
    return RunPage(
        items=[RunItem.model_validate(run) for run in found[:limit]],
        next=write_cursor(found[limit - 1]["place"]) if len(found) > limit else None,
    )


def _place(cursor: str) -> str:
    place = str(read_cursor(cursor, str)[0])
    if not _PLACE.match(place):
        raise bad_cursor()
    return place


_PLACE = re.compile(r"[0-9]{20} [^\ud800-\udfff]*\Z")
