"""What marked services in the last 90 days: read of the database once, then kept up by the hub."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import chain, takewhile
from typing import Any, Generic, NamedTuple, TypeVar

from services.api.projections.documents import Document
from services.api.projections.store import Store
from services.api.queries.event_hub import EventHub
from shared.contracts.events import Status, micros
from shared.domain.timeline import Mark

WINDOWS = {f"{days}d" if days > 1 else "24h": timedelta(days=days) for days in (1, 7, 30, 90)}
"""The windows that uptime is told for."""

LONGEST = WINDOWS["90d"]

MAX_MARKS = 200_000
"""Marks that are kept, of all services together; those of services that nobody has asked for go first."""


def mark(row: Document) -> Mark | None:
    """What a line of the history marks, as `mark_of` says of its event."""
    match row["type"]:
        case "service.status_changed.v1":
            data = row["data"]
            since = micros(datetime.fromisoformat(data["since"]))
            return Mark(row["_id"], since, Status(data["to"]), Status(data["from"]))
        case "service.paused.v1":
            return Mark(row["_id"], row["at"], paused=True)
        case "service.resumed.v1":
            return Mark(row["_id"], row["at"], paused=False)
    return None


T = TypeVar("T")


class CachedFor(Generic[T]):
    """Something that is made at most once in `age` seconds; whoever asks while it is made waits for it, and
    is told as well if it cannot be made."""

    def __init__(self, age: float) -> None:
        self._age = age
        self._begun = 0.0
        self._made: asyncio.Task[T] | None = None

    async def get(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        clock = asyncio.get_running_loop().time()
        made = self._made
        if made is None or (made.done() and (clock - self._begun >= self._age or made.exception())):
            made, self._begun = asyncio.create_task(make()), clock
            self._made = made
        return await asyncio.shield(made)


class _Kept(NamedTuple):
    """What one generation of the read models had of a service when the hub had published up to `upto`.
    `beyond`: the sequences of marks that were there already, though the hub publishes them later."""

    generation: int
    upto: int
    marks: Sequence[Mark]
    beyond: frozenset[int]


class StatusHistory:
    """One query for all services of a page that are not kept yet; whoever asks meanwhile waits for it."""

    def __init__(self, store: Store, hub: EventHub, now: Callable[[], datetime]) -> None:
        self._store = store
        self._hub = hub
        self._now = now
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._count = 0
        self._reading = asyncio.Lock()

    async def marks(self, names: Collection[str], window: str = "90d") -> dict[str, Sequence[Mark]]:
        """The marks of each of these services in one of `WINDOWS`, perhaps with older ones; the last day is
        in memory. Raises DatabaseUnavailable."""
        if window == "24h":
            return {name: self._hub.recent_marks(name) for name in names}
        if self._missing(names):
            async with self._reading:
                while missing := self._missing(names):
                    await self._read(missing)
        found: dict[str, Sequence[Mark]] = {name: list(self._merged(name)) for name in names}
        while self._count > MAX_MARKS:
            self._forget(next(iter(self._kept)))
        return found

    def _missing(self, names: Collection[str]) -> list[str]:
        """Those of which what is kept and what the hub still has leave something out."""
        generation, oldest = self._store.live.generation, self._hub.forgotten_through
        found = [(name, self._kept.get(name)) for name in names]
        return [name for name, it in found if not it or it.generation != generation or it.upto < oldest]

    async def _read(self, names: Sequence[str]) -> None:
        # The hub is asked before the database is read, which is ahead of it.
        view, upto = self._store.live, self._hub.published_through
        found: dict[str, list[Mark]] = {name: [] for name in names}
        async for row in view.rows_of(names, micros(self._now() - LONGEST)):
            if it := mark(row):
                found[row["name"]].append(it)
        for name, marks in found.items():
            self._forget(name)
            beyond = frozenset(it.seq for it in marks if it.seq > upto)
            self._kept[name] = _Kept(view.generation, upto, marks, beyond)
            self._count += len(marks)

    def _merged(self, name: str) -> Iterator[Mark]:
        it = self._kept[name]
        self._kept.move_to_end(name)
        newer = takewhile(lambda each: each.seq > it.upto, reversed(self._hub.recent_marks(name)))
        return chain(it.marks, (each for each in newer if each.seq not in it.beyond))

    def _forget(self, name: str) -> None:
        if it := self._kept.pop(name, None):
            self._count -= len(it.marks)
