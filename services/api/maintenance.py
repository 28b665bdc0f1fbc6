"""Maintenance windows: the commands that change them, and how answers show them."""

import asyncio
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from nats.errors import Error as NatsError

from services.api.configuration import Configuration
from services.api.http.models import WindowView
from services.api.http.requests import check_tags, check_version
from shared.contracts.maintenance import Span, Window, check_new
from shared.http.problems import Problem
from shared.messaging import streams
from shared.messaging.errors import NotStored
from shared.messaging.stored_config import TAKEN_OVER, StoredConfig, window_name

log = structlog.get_logger()

MAX_WINDOWS = 1000
FORGOTTEN_AFTER = timedelta(days=30)
"""How long a window that is over is shown."""
TRY_AGAIN = 2.0
"""Seconds before windows of an older version are taken over that could not be."""


@dataclass
class Maintenance:
    """Commands on the windows; each returns once it is stored, and what follows sees it. `actor`: who causes
    it."""

    configuration: Configuration

    @property
    def _stored(self) -> StoredConfig:
        return self.configuration.stored

    def all(self, now: datetime, wanted: Callable[[Window], bool] = lambda _: True) -> list[WindowView]:
        """What is now first, then what is next, then what is over."""
        shown = [self.shown(id_, now) for id_, window in self._stored.windows.items() if wanted(window)]
        return sorted(shown, key=lambda view: (view.starts_at is None, view.starts_at or now, view.id))

    def open(self, now: datetime) -> list[Window]:
        return [window for window in self._stored.windows.values() if window.current(now)]

    def shown(self, id_: str, now: datetime) -> WindowView:
        return self._view(id_, self._existing(id_), self._version(id_), now)

    @staticmethod
    def _view(id_: str, window: Window, version: int, now: datetime) -> WindowView:
        current: Span | None = window.current(now)
        starts_at, ends_at = current or window.upcoming(now) or (None, None)
        return WindowView(
            id=id_,
            window=window,
            active=current is not None,
            starts_at=starts_at,
            ends_at=ends_at,
            version=version,
        )

    async def add(self, window: Window, now: datetime, actor: str | None) -> WindowView:
        _check(window, now)
        await self._forget_old(now)
        if len(self._stored.windows) >= MAX_WINDOWS:
            raise Problem(409, f"there are {MAX_WINDOWS} windows already; delete some")
        id_ = uuid.uuid4().hex[:12]
        return self._view(id_, window, await self._store(id_, window, 0, actor, created=True), now)

    async def replace(
        self, id_: str, window: Window, if_match: str | None, now: datetime, actor: str | None
    ) -> WindowView:
        _check(window, now)
        version = await self._store(id_, window, self._matching(id_, if_match), actor)
        return self._view(id_, window, version, now)

    async def delete(self, id_: str, if_match: str | None, actor: str | None) -> None:
        await self._store(id_, None, self._matching(id_, if_match), actor)

    async def take_over(self) -> None:
        """Make events of the windows that an older version keeps in its bucket, each once, whoever tries it,
        and say there that this is done. Nobody knows who made them. Waits for the broker as long as it takes:
        its monitor may still be of that version, and the stream take no such events yet."""
        older, said = self._stored.older, ""
        while older.windows or older.newest > older.taken_over:
            try:
                upto, count = older.newest, len(older.windows)
                for id_, window in list(older.windows.items()):
                    if not self._stored.version(window_name(id_)):
                        with suppress(Problem):  # another API was faster, or somebody has changed it
                            await self._store(id_, window, 0, None, created=True)
                bucket = await self.configuration.link.bucket(streams.MAINTENANCE_BUCKET)
                await bucket.put(TAKEN_OVER, str(upto).encode())
            except (NotStored, NatsError, OSError, TimeoutError) as error:
                if said != (said := str(error)):
                    log.info("maintenance windows of an older version are taken over later", why=said)
                await asyncio.sleep(TRY_AGAIN)
            else:
                log.info("maintenance windows of an older version are taken over", count=count)
                return

    async def _forget_old(self, now: datetime) -> None:
        for id_, window in list(self._stored.windows.items()):
            if window.ends_at and window.ends_at < now - FORGOTTEN_AFTER:
                with suppress(Problem):  # another API was faster
                    await self._store(id_, None, self._version(id_), None)

    async def _store(
        self, id_: str, window: Window | None, after: int, actor: str | None, *, created: bool = False
    ) -> int:
        value = window.model_dump(mode="json", exclude_defaults=True) if window else None
        return await self.configuration.write(window_name(id_), value, after, actor, created=created)

    def _version(self, id_: str) -> int:
        return self._stored.version(window_name(id_))

    def _existing(self, id_: str) -> Window:
        found = self._stored.windows.get(id_)
        if found is None:
            raise Problem(404, "there is no such maintenance window")
        return found

    def _matching(self, id_: str, if_match: str | None) -> int:
        self._existing(id_)
        version = self._version(id_)
        check_version(if_match, version)
        return version


def _check(window: Window, now: datetime) -> None:
    try:
        check_new(window, now)
        check_tags(window.tags)
    except ValueError as error:
        raise Problem(422, str(error)) from None
