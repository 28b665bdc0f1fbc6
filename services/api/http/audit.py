"""Who did what, as JSON."""

from typing import Annotated

from fastapi import Query
from pydantic import AwareDatetime

from services.api.context import Api, ApiContext
from services.api.http.models import AuditItem, AuditPage
from services.api.http.requests import read_cursor, write_cursor
from services.api.http.routing import Limit, reading
from services.api.projections.documents import OF_REGISTRY, Document
from shared.contracts.events import NAME_RULE_IN_WORDS, micros, moment, valid_name
from shared.http.problems import Problem, documented

reads = reading("audit")


@reads.get("/audit", responses=documented(422))
async def list_audit(
    api: Api,
    actor: Annotated[
        str, Query(max_length=300, description="Only what this one did.", examples=["token:ana"])
    ] = "",
    service: Annotated[str, Query(max_length=200, description="Only what was done to this one.")] = "",
    since: Annotated[
        AwareDatetime | None,
        Query(description="Only what was stored since then.", examples=["2026-11-01T12:00:00Z"]),
    ] = None,
    limit: Limit = 50,
    cursor: str | None = None,
) -> AuditPage:
    """What persons, tokens, files and heartbeats did to services, also to those that are deleted by now, and
    to the registry's own configuration (maintenance, routes), newest first."""
    return await audited(api, actor, service, micros(since) if since else 0, limit, cursor)


async def audited(
    api: ApiContext, actor: str, service: str, since: int, limit: int, cursor: str | None
) -> AuditPage:
    """`since`: microseconds. Problem 422 for what is no name, and for a cursor that cannot be."""
    if service and not valid_name(service):
        raise Problem(422, f"service: {NAME_RULE_IN_WORDS}")
    before = int(read_cursor(cursor, int)[0]) if cursor else None
    rows = await api.store.live.audit(actor, service, before, limit)
    shown = [row for row in rows[:limit] if row["at"] >= since]
    more = len(rows) > limit == len(shown)
    return AuditPage(
        items=[_item(row) for row in shown], next=write_cursor(shown[-1]["_id"]) if more else None
    )


def _item(row: Document) -> AuditItem:
    its = row["name"].removeprefix(OF_REGISTRY)
    return AuditItem(
        seq=row["_id"],
        at=moment(row["at"]),
        actor=row["actor"],
        service=its if its == row["name"] else None,
        config=its if its != row["name"] else None,
        type=row["type"],
        changes=row.get("changes", []),
    )
