"""Maintenance windows: the commands that change them, and how answers show them."""

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from nats.errors import Error as NatsError
from nats.js.errors import KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from services.api.http.models import WindowView
from services.api.http.requests import check_tags, check_version
from shared.contracts.maintenance import Span, Window, check_new
from shared.http.problems import Problem
from shared.messaging import streams
from shared.messaging.connection import STORE_TIMEOUT, BrokerConnection
from shared.messaging.errors import NotStored
from shared.messaging.window_bucket import Windows

MAX_WINDOWS = 1000
FORGOTTEN_AFTER = timedelta(days=30)
"""How long a window that is over is shown."""


@dataclass
class Maintenance:
    """Commands on the windows; each returns once it is stored, and what follows sees it."""

    link: BrokerConnection
    windows: Windows

    def all(self, now: datetime, wanted: Callable[[Window], bool] = lambda _: True) -> list[WindowView]:
        """What is now first, then what is next, then what is over."""
        shown = [self.shown(id_, now) for id_, window in self.windows.by_id.items() if wanted(window)]
        return sorted(shown, key=lambda view: (view.starts_at is None, view.starts_at or now, view.id))

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

    async def add(self, window: Window, now: datetime) -> WindowView:
        _check(window, now)
        await self._forget_old(now)
        if len(self.windows.by_id) >= MAX_WINDOWS:
            raise Problem(409, f"there are {MAX_WINDOWS} windows already; delete some")
        id_ = uuid.uuid4().hex[:12]
        await self._store(id_, window, 0)
        return self.shown(id_, now)

    async def replace(self, id_: str, window: Window, if_match: str | None, now: datetime) -> WindowView:
        _check(window, now)
        await self._store(id_, window, self._matching(id_, if_match))
        return self.shown(id_, now)

    async def delete(self, id_: str, if_match: str | None) -> None:
        await self._store(id_, None, self._matching(id_, if_match))

    async def _forget_old(self, now: datetime) -> None:
        for id_, window in list(self.windows.by_id.items()):
            if window.ends_at and window.ends_at < now - FORGOTTEN_AFTER:
                await self._store(id_, None, self.windows.revision(id_))

    async def _store(self, id_: str, window: Window | None, revision: int) -> None:
        try:
            async with asyncio.timeout(STORE_TIMEOUT):
                bucket: KeyValue = await self.link.bucket(streams.MAINTENANCE_BUCKET)
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
        self._existing(id_)
        revision = self.windows.revision(id_)
        check_version(if_match, revision)
        return revision


def _check(window: Window, now: datetime) -> None:
    try:
        check_new(window, now)
        check_tags(window.tags)
    except ValueError as error:
        raise Problem(422, str(error)) from None
