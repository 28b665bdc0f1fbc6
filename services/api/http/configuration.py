"""Configuration as code over HTTP: a file's content is sent, planned or applied; and read."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request, Response

from services.api.as_code.applying import Applied, Plan, Refused
from services.api.as_code.planning import Change
from services.api.context import Api
from services.api.http.models import (
    EXAMPLES,
    ChangeItem,
    ConfigurationApplied,
    ConfigurationPosted,
    FailedItem,
)
from services.api.http.requests import check_version
from services.api.http.routing import IfMatch, WithKeys, planning, reading
from shared.contracts import configuration
from shared.http.problems import documented


def _shown_as(example: Any) -> dict[str, Any]:
    return {"content": {"application/json": {"example": example}}}


plans, reads, public = planning("configuration"), reading("configuration"), APIRouter(tags=["configuration"])


@plans.post("/configuration", responses=documented(412, 413, 422))
async def post_configuration(
    posted: Annotated[ConfigurationPosted, Body(examples=[EXAMPLES["configuration_posted"]])],
    request: Request,
    response: Response,
    api: Api,
    with_keys: WithKeys,
    dry: Annotated[bool, Query(description="Only say what it would change.")] = False,
    if_match: IfMatch = None,
) -> ConfigurationApplied:
    """Make it so that all is there that a file says, or say what that would change. Nothing is changed if
    anything is wrong with it: 422, with the path of each fault. What a file makes is managed by it from then
    on. A read token may plan (`dry`); then nothing is said about aliases."""
    if not dry:
        api.auth.may_write(request)
    wanted, faults = await api.as_code.read(posted.configuration)
    plan = await api.as_code.plan(
        wanted, posted.file, prune=posted.prune, with_aliases=with_keys or not dry, is_dry=dry, faults=faults
    )
    if plan.faults:
        raise Refused(plan.faults)
    if if_match is None or api.as_code.etag() not in if_match:
        check_version(if_match, plan.etag)
    done, etag = Applied(), plan.etag
    if not dry:
        done = await api.as_code.apply(plan)
        etag = api.as_code.etag(plan.owner, wanted.services)
    response.headers["ETag"] = f'"{etag}"'
    return ConfigurationApplied(
        changes=[_shown(change, plan) for change in plan.changes],
        left=[_shown(change, plan) for change in plan.left],
        warnings=plan.warnings,
        etag=etag,
        applied=done.written,
        failed=[FailedItem(kind=change.kind, name=change.name, why=why) for change, why in done.failed],
    )


def _shown(change: Change, plan: Plan) -> ChangeItem:
    fields = dict(change.fields)
    if change.is_adopted and change.action != "create":
        fields["managed_by"] = None, plan.owner
    return ChangeItem.model_construct(kind=change.kind, name=change.name, action=change.action, fields=fields)


@reads.get("/configuration", responses={200: _shown_as(EXAMPLES["configuration_posted"]["configuration"])})
async def get_configuration(response: Response, api: Api, with_keys: WithKeys) -> dict[str, Any]:
    """The file that would make what is there now, as JSON, which is YAML too. Applying it changes nothing;
    but for a read token its aliases are left out (`Registry-Aliases: left-out`)."""
    response.headers["ETag"] = f'"{api.as_code.etag()}"'
    if not with_keys:
        response.headers["Registry-Aliases"] = "left-out"
    return api.as_code.export(with_aliases=with_keys)


@public.get("/registry.schema.json", responses={200: _shown_as({"title": "registry.yaml"})})
async def get_schema() -> dict[str, Any]:
    """The JSON Schema of `registry.yaml`, for editors. No token is needed."""
    return configuration.schema()
