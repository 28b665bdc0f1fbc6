"""Maintenance windows over HTTP, and what of them the pages show."""

import asyncio
import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from nats.errors import Error as NatsError
from nats.js.errors import KeyWrongLastSequenceError
from nats.js.kv import KeyValue
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from services.api.http import tags
from services.api.http.requests import IfMatch, body, documented_body, is_stale
from shared.contracts.maintenance import Span, Window, check_new
from shared.http.problems import Problem, documented
from shared.messaging import streams
from shared.messaging.connection import STORE_TIMEOUT, BrokerConnection
from shared.messaging.errors import NotStored
from shared.messaging.window_bucket import Windows

MOST = 1000
FORGOTTEN_AFTER = timedelta(days=30)
"""How long a window that is over is shown."""

_WINDOW = {
    "title": "Sunday backups",
    "tags": ["backup"],
    "cron": "0 3 * * sun",
    "time_zone": "Europe/Berlin",
    "duration": "2h",
}
_SHOWN: dict[str, Any] = {
    "id": "5f0c1c9a2b7d",
    "window": _WINDOW,
    "active": False,
    "starts_at": "2026-11-01T02:00:00Z",
    "ends_at": "2026-11-01T04:00:00Z",
    "version": 3,
}


class WindowView(BaseModel):
    """A window, and when it is next, or now."""

    model_config = ConfigDict(json_schema_extra={"example": _SHOWN})

    id: str
    window: Window
    active: bool = Field(description="Whether it is open now.")
    starts_at: AwareDatetime | None = Field(description="Of the occurrence that is now, or next.")
    ends_at: AwareDatetime | None
    version: int = Field(description="Also the ETag.")


class WindowPage(BaseModel):
    items: list[WindowView]


class Maintenance:
    """Commands on the windows; each returns once it is stored, and what follows sees it."""

    def __init__(self, link: BrokerConnection, windows: Windows) -> None:
        self._link = link
        self.windows = windows

    def all(self, now: datetime) -> list[WindowView]:
        """What is now first, then what is next, then what is over."""
        return self._sorted(self.windows.by_id, now)

    def _sorted(self, ids: Iterable[str], now: datetime) -> list[WindowView]:
        shown = [self.shown(id_, now) for id_ in ids]
        return sorted(shown, key=lambda it: (it.starts_at is None, it.starts_at or now, it.id))

    def about(self, name: str, tags: list[str], now: datetime) -> list[WindowView]:
        return self._sorted((id_ for id_, it in self.windows.by_id.items() if it.is_about(name, tags)), now)

    def shown(self, id_: str, now: datetime) -> WindowView:
        window = self._existing(id_)
        current: Span | None = window.current(now)
        starts_at, ends_at = current or window.upcoming(now) or (None, None)
        return WindowView(
            id=id_,
            window=window,
            active=current is not None,
            starts_at=starts_at,
            ends_at=ends_at,
            version=self.windows.revision(id_),
        )

    async def add(self, window: Window, now: datetime) -> str:
        _check(window, now)
        await self._forget_old(now)
        if len(self.windows.by_id) >= MOST:
            raise Problem(409, f"there are {MOST} windows already; delete some")
        id_ = uuid.uuid4().hex[:12]
        await self._store(id_, window, 0)
        return id_

    async def replace(self, id_: str, window: Window, if_match: str | None, now: datetime) -> None:
        _check(window, now)
        await self._store(id_, window, self._matching(id_, if_match))

    async def delete(self, id_: str, if_match: str | None) -> None:
        await self._store(id_, None, self._matching(id_, if_match))

    async def _forget_old(self, now: datetime) -> None:
        for id_, window in list(self.windows.by_id.items()):
            if window.ends_at and window.ends_at < now - FORGOTTEN_AFTER:
                await self._store(id_, None, self.windows.revision(id_))

    async def _store(self, id_: str, window: Window | None, revision: int) -> None:
        try:
            async with asyncio.timeout(STORE_TIMEOUT):
                bucket: KeyValue = await self._link.bucket(streams.MAINTENANCE_BUCKET)
                if window:
                    stored = await bucket.update(id_, window.model_dump_json().encode(), last=revision)
                else:
                    await bucket.delete(id_, last=revision)
                    stored = revision + 1
        except KeyWrongLastSequenceError:
            raise Problem(412, "somebody changed it meanwhile; read it again") from None
        except (NatsError, OSError, TimeoutError) as error:
            raise NotStored(str(error) or repr(error)) from None
        self.windows.put(id_, stored, window)

    def _existing(self, id_: str) -> Window:
        found = self.windows.by_id.get(id_)
        if found is None:
            raise Problem(404, "there is no such maintenance window")
        return found

    def _matching(self, id_: str, if_match: str | None) -> int:
        """The revision, if the client's condition holds."""
        self._existing(id_)
        revision = self.windows.revision(id_)
        if is_stale(if_match, revision):
            raise Problem(412, f"the version is {revision} by now; read it again")
        return revision


def _check(window: Window, now: datetime) -> None:
    try:
        check_new(window, now)
        tags.check(window.tags)
    except ValueError as error:
        raise Problem(422, str(error)) from None


At = Annotated[
    AwareDatetime | None, Query(description="As of this moment.", examples=["2026-11-01T12:00:00Z"])
]


def install(reads: APIRouter, writes: APIRouter, maintenance: Maintenance, now: Any) -> None:
    """Add the routes."""
    example = {"content": {"application/json": {"example": _SHOWN}}}
    group: Any = ["maintenance"]

    def answer(id_: str, response: Response, at: datetime | None = None) -> WindowView:
        shown = maintenance.shown(id_, at or now())
        response.headers["ETag"] = f'"{shown.version}"'
        return shown

    @writes.post(
        "/maintenance",
        status_code=201,
        operation_id="create_maintenance",
        tags=group,
        responses=documented(409, 413, 422) | {201: example},
        openapi_extra=documented_body(Window, _WINDOW),
    )
    async def create(window: Annotated[Window, Depends(body(Window))], response: Response) -> WindowView:
        """Falls of these services are recorded, but not sent, while it lasts; what is still down when it ends
        is sent then."""
        id_ = await maintenance.add(window, now())
        response.headers["Location"] = f"/maintenance/{id_}"
        return answer(id_, response)

    @reads.get(
        "/maintenance",
        operation_id="list_maintenance",
        tags=group,
        responses=documented(422)
        | {200: {"content": {"application/json": {"example": {"items": [_SHOWN]}}}}},
    )
    async def list_all(at: At = None) -> WindowPage:
        """All windows: what is now first, then what is next, then what is over; now, or as of a moment."""
        return WindowPage(items=maintenance.all(at or now()))

    @reads.get(
        "/maintenance/{id}",
        operation_id="get_maintenance",
        tags=group,
        responses=documented(404, 422) | {200: example},
    )
    async def get(id: str, response: Response, at: At = None) -> WindowView:
        """One window, now or as of a moment."""
        return answer(id, response, at)

    @writes.put(
        "/maintenance/{id}",
        operation_id="replace_maintenance",
        tags=group,
        responses=documented(404, 412, 413, 422) | {200: example},
        openapi_extra=documented_body(Window, _WINDOW),
    )
    async def replace(
        id: str,
        window: Annotated[Window, Depends(body(Window))],
        response: Response,
        if_match: IfMatch = None,
    ) -> WindowView:
        """Set the whole window anew."""
        await maintenance.replace(id, window, if_match, now())
        return answer(id, response)

    @writes.delete(
        "/maintenance/{id}",
        status_code=204,
        operation_id="delete_maintenance",
        tags=group,
        responses=documented(404, 412),
    )
    async def delete(id: str, if_match: IfMatch = None) -> None:
        """End it, or take it back. What fell within it and is still down is sent now."""
        await maintenance.delete(id, if_match)
