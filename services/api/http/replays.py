"""What a configuration would have told, over HTTP."""

from datetime import timedelta
from typing import Annotated

from fastapi import Body, Query, Response
from pydantic import AfterValidator

from services.api.as_code.applying import Refused
from services.api.as_code.replaying import LONGEST, asked_of
from services.api.context import Api
from services.api.http.models import EXAMPLES, ConfigurationPosted
from services.api.http.routing import WithKeys, replaying
from shared.contracts.durations import Duration
from shared.contracts.replays import Replayed
from shared.http.problems import Problem, documented

asks = replaying("configuration")


def _kept(since: timedelta) -> timedelta:
    if since > LONGEST:
        raise ValueError(f"at most {LONGEST.days}d")
    return since


Since = Annotated[Duration, AfterValidator(_kept), Query(description="How far back: 30d; at most 92d.")]


@asks.post("/configuration/replay", responses=documented(413, 422, 429), response_model=Replayed)
async def replay_configuration(
    posted: Annotated[ConfigurationPosted, Body(examples=[EXAMPLES["configuration_posted"]])],
    api: Api,
    with_keys: WithKeys,
    since: Since,
) -> Response:
    """What the record holds of the time since then, gone through under the configuration that a file says,
    beside how it was: which falls and messages would have come, gone or moved, and for which services the
    record does not reach so far. Nothing is changed; a read token may ask. It may take a minute, and is done
    one at a time."""
    wanted, faults = await api.as_code.read(posted.configuration)
    plan = await api.as_code.plan(
        wanted, posted.file, prune=posted.prune, with_aliases=with_keys, is_dry=True, faults=faults
    )
    if plan.faults:
        raise Refused(plan.faults)
    asked = asked_of(plan, api.now() - since)
    try:
        channels = frozenset(await api.as_code.channels())
    except Problem:  # those that somebody has heard of
        routes = asked.routes or api.routes.configuration.stored.routes
        channels = frozenset(routes.channels)
    asked = asked.model_copy(update={"channels": tuple(sorted(channels))})
    return Response(await api.replays.answer(asked), media_type="application/json")
