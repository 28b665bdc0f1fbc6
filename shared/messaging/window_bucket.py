"""The maintenance windows: a bucket that the API writes and that others read."""

from collections.abc import Callable
from contextlib import aclosing

import structlog

from shared.contracts.maintenance import Window
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.reader import Reader, Stored

log = structlog.get_logger()

_SUBJECT = f"$KV.{streams.MAINTENANCE_BUCKET}."


class Windows:
    """All windows, by id: `load`, then `follow` for ever. `on_gone`: called with those removed or changed."""

    def __init__(self, link: BrokerConnection, on_gone: Callable[[Window], None] = lambda _: None) -> None:
        self._link = link
        self._on_gone = on_gone
        self._revisions: dict[str, int] = {}
        self.by_id: dict[str, Window] = {}

    async def load(self) -> None:
        await self._link.bucket(streams.MAINTENANCE_BUCKET)
        self._revisions, self.by_id = {}, {}  # what was known before may be of another broker
        await self._read(whole=True)

    async def follow(self) -> None:
        await self._read(whole=False)

    async def _read(self, *, whole: bool) -> None:
        """For ever; or until the `whole` bucket was read."""
        name = f"KV_{streams.MAINTENANCE_BUCKET}"
        reader = Reader(self._link, name, _SUBJECT + ">", newest_per_subject=True)
        async with aclosing(reader.batches()) as batches:
            async for batch in batches:
                for message in batch:
                    self._apply(message)
                if whole and reader.pending == 0:
                    return

    def put(self, id_: str, revision: int, window: Window | None) -> None:
        """Apply what was written, unless something newer is known."""
        if revision <= self._revisions.get(id_, 0):
            return
        self._revisions[id_] = revision
        before = self.by_id.pop(id_, None)
        if window:
            self.by_id[id_] = window
        if before and before != window:
            self._on_gone(before)

    def revision(self, id_: str) -> int:
        return self._revisions.get(id_, 0)

    def _apply(self, message: Stored) -> None:
        id_ = message.subject.removeprefix(_SUBJECT)
        window = None
        if not (message.headers or {}).get("KV-Operation"):
            try:
                window = Window.model_validate_json(message.data)
            except ValueError as error:
                log.warning("maintenance window cannot be read", id=id_, error=str(error)[:300])
        self.put(id_, message.seq, window)
