"""The registry's own configuration as others read it: maintenance windows, routes and status pages, which the
API writes.

Each part is an event on `registry.config.<kind>.<key>`, and the newest of a subject says all. Windows that an
older version has left in a bucket count until an API has taken them over.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

import structlog
from pydantic import BaseModel

from shared.contracts.configuration import StatusPage
from shared.contracts.events import ConfigurationSet, valid_name
from shared.contracts.maintenance import Window
from shared.contracts.routes import Routes
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection, retry_until_done
from shared.messaging.reader import Reader, Stored
from shared.messaging.record_watch import snapshot_of

log = structlog.get_logger()

Kind = TypeVar("Kind", bound=BaseModel)

ROUTES = "routes.all"
_MAINTENANCE = "maintenance"
_STATUS_PAGE = "status_page"


def window_name(id_: str) -> str:
    """Of a maintenance window, as its events have it."""
    return f"{_MAINTENANCE}.{id_}"


def page_name(path: str) -> str:
    """The same of a status page."""
    return f"{_STATUS_PAGE}.{path}"


class StoredConfig:
    """`load`, then `follow` for ever. `on_window_gone`: called with windows removed or changed; `on_routes`:
    when the routes are others. A part that cannot be read counts as not set: somebody hears too much then,
    and not too little."""

    def __init__(
        self,
        link: BrokerConnection,
        on_window_gone: Callable[[Window], None] = lambda _: None,
        on_routes: Callable[[], None] = lambda: None,
    ) -> None:
        self._link, self._on_window_gone, self._on_routes = link, on_window_gone, on_routes
        self._versions: dict[str, int] = {}
        self.windows: dict[str, Window] = {}
        """By id."""
        self.routes = Routes()
        self.pages: dict[str, StatusPage] = {}
        """By path."""
        self._managed_by: dict[str, str] = {}
        self.older = OlderWindows(link, self._set_older_window)

    async def load(self) -> None:
        # What was known before may be of another broker.
        self._versions, self.windows, self.routes, self.pages = {}, {}, Routes(), {}
        self._managed_by = {}
        await self._read(whole=True)
        await self.older.load()

    async def follow(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read(whole=False))
            group.create_task(self.older.follow())

    def version(self, name: str) -> int:
        """The sequence of the newest event about one part; 0: there was none yet."""
        return self._versions.get(name, 0)

    def managed_by(self, name: str) -> str | None:
        """The file that made a part: `file:registry.yaml`."""
        return self._managed_by.get(name)

    def apply(
        self, name: str, seq: int, value: Mapping[str, Any] | None, managed_by: str | None = None
    ) -> None:
        """Take in what was stored of one part, unless something newer is known. None: it was removed."""
        if seq <= self.version(name):
            return
        self._versions[name] = seq
        self._managed_by.pop(name, None)
        if managed_by and value is not None:
            self._managed_by[name] = managed_by
        kind, _, key = name.partition(".")
        if kind == _MAINTENANCE:
            self._set_window(key, _read_as(Window, name, value))
        elif kind == _STATUS_PAGE:
            self.pages.pop(key, None)
            if page := _read_as(StatusPage, name, value):
                self.pages[key] = page
        elif name == ROUTES:
            before, self.routes = self.routes, _read_as(Routes, name, value) or Routes()
            if self.routes != before:
                self._on_routes()

    async def _read(self, *, whole: bool) -> None:
        """For ever; or until the `whole` configuration was read."""
        reader = Reader(self._link, streams.SERVICES, streams.ALL_CONFIGURATION, newest_per_subject=True)
        async with aclosing(reader.batches()) as batches:
            async for batch in batches:
                for message in batch:
                    self.apply_message(message)
                if whole and reader.pending == 0:
                    return

    def apply_message(self, message: Stored) -> None:
        """The same of a message of the stream."""
        value = managed_by = None
        try:
            event = streams.read_configuration(message.subject, message.data)
            if isinstance(event, ConfigurationSet):
                value, managed_by = event.data.value, event.data.managed_by
        except ValueError as error:
            _warn(streams.name_in(message.subject), error)
        self.apply(streams.name_in(message.subject), message.seq, value, managed_by)

    def _set_older_window(self, id_: str, window: Window | None) -> None:
        if not self.version(window_name(id_)):
            self._set_window(id_, window)

    def _set_window(self, id_: str, window: Window | None) -> None:
        before = self.windows.pop(id_, None)
        if window:
            self.windows[id_] = window
        if before and before != window:
            self._on_window_gone(before)


def _read_as(kind: type[Kind], name: str, value: Mapping[str, Any] | None) -> Kind | None:
    try:
        return None if value is None else kind.model_validate(value)
    except ValueError as error:
        _warn(name, error)
        return None


def _warn(name: str, error: ValueError) -> None:
    log.warning("configuration cannot be read; it counts as not set", name=name[:200], error=str(error)[:300])


TAKEN_OVER = "taken-over"
"""The key in the bucket of older versions that says up to which revision its windows are events by now."""


class OlderWindows:
    """The windows that an older version keeps in a bucket, if there is one, until an API has taken them over.
    What such a version writes later counts from the next start on."""

    def __init__(self, link: BrokerConnection, put: Callable[[str, Window | None], None]) -> None:
        self._link, self._put = link, put
        self._subject = f"$KV.{streams.MAINTENANCE_BUCKET}."
        self._stream = f"KV_{streams.MAINTENANCE_BUCKET}"
        self._is_there = self._is_loaded = False
        self.windows: dict[str, Window] = {}
        """Those that are not taken over, by id."""
        self._revisions: dict[str, int] = {}
        self.taken_over = 0
        """The revision up to which all are taken over; 0: none is."""

    @property
    def newest(self) -> int:
        """The newest revision of a window."""
        return max(self._revisions.values(), default=0)

    async def load(self) -> None:
        self._is_loaded, self.windows, self._revisions, self.taken_over = False, {}, {}, 0
        question = partial(snapshot_of, self._link, self._stream)
        self._is_there = await retry_until_done("look for windows of an older version", question) is not None
        await self._read(whole=True)
        self._is_loaded = True
        for id_, window in self.windows.items():
            self._put(id_, window)

    async def follow(self) -> None:
        """Until they are taken over."""
        if not self.taken_over:
            await self._read(whole=False)

    async def _read(self, *, whole: bool) -> None:
        if not self._is_there:
            return
        reader = Reader(self._link, self._stream, f"{self._subject}>", newest_per_subject=True)
        async with aclosing(reader.batches()) as batches:
            async for batch in batches:
                for message in batch:
                    self._apply(message)
                if reader.pending == 0 if whole else self.taken_over:
                    return

    def _apply(self, message: Stored) -> None:
        id_ = message.subject.removeprefix(self._subject)
        if id_ == TAKEN_OVER:
            self.taken_over = int(message.data)
            self.windows = {id_: it for id_, it in self.windows.items() if self._is_left(id_)}
        elif message.seq > self._revisions.get(id_, 0):
            self._revisions[id_] = message.seq
            self.windows.pop(id_, None)
            window = None
            if valid_name(id_) and not (message.headers or {}).get("KV-Operation") and self._is_left(id_):
                try:
                    window = self.windows[id_] = Window.model_validate_json(message.data)
                except ValueError as error:
                    _warn(window_name(id_), error)
            if self._is_loaded:
                self._put(id_, window)

    def _is_left(self, id_: str) -> bool:
        return self._revisions[id_] > self.taken_over
