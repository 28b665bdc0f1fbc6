"""The read models in the database: the only module that knows the driver.

One document per service with three facets (`config`, `status`, `heartbeat`), each carrying the stream
sequence it reflects and merged only where that is newer. So events may come twice, late, or from two
writers, and the documents are the same. All collections belong to a generation; a rebuild fills the next
one beside the live one and then moves the pointer.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from itertools import pairwise
from typing import Any, NamedTuple

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import DeleteMany, UpdateMany, UpdateOne, monitoring
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError
from pymongo.uri_parser import parse_uri

from services.api.projections.documents import (
    ACTS,
    CONFIGURES,
    FACETS,
    MAX_OPEN,
    SETTINGS,
    TOLD,
    Document,
    Heard,
    Projection,
    act_differences,
    changed,
    differences,
    dump,
    load,
    setting_differences,
)
from services.api.projections.runs import place
from shared.contracts import ping_keys
from shared.contracts.events import Outcome, ServiceDeleted, Signal, Status, StatusChanged
from shared.domain.service_state import ServiceState
from shared.messaging import streams
from shared.messaging.connection import StreamPosition, set_within
from shared.messaging.queries import Truncated
from shared.messaging.record_watch import StreamMark

_STATE = "registry_state"
"""Holds the pointer; the one collection that is of no generation."""

_STATUS_CHANGED: str = StatusChanged.model_fields["type"].default
DELETED: str = ServiceDeleted.model_fields["type"].default
_ENDED = " ended"
"""Behind the name in lines of what was deleted: no name has a blank in it."""
_KEYS = ("config.ping_key", "config.aliases")
_BULK = 1000
_PAGE = 200
_EARLIEST = 7 * 86400 * 1_000_000
"""Microseconds before a time in which a run may have begun that was due in it."""
_DUPLICATE_KEY = 11000


DatabaseUnavailable = PyMongoError
"""What everything here raises: the database did not answer, or its connection was lost, so that what was
written last is in doubt."""


class GenerationChanged(Exception):
    """The pointer now names another generation."""


def check_url(url: str) -> str:
    """`url` if the driver can read it, else ValueError; nothing is looked up or asked."""
    if url.startswith("mongodb+srv://"):
        return url
    try:
        parse_uri(url)
    except PyMongoError:
        raise ValueError("not accepted") from None
    return url


async def check(url: str, database: str) -> str:
    """Why the database does not answer a command that needs these credentials; empty if it does."""
    client: Any = AsyncIOMotorClient(
        url, serverSelectionTimeoutMS=5000, connectTimeoutMS=5000, socketTimeoutMS=5000
    )
    try:
        await client[database].list_collection_names()
    except OperationFailure as error:
        return str((error.details or {}).get("errmsg", "it refuses a command"))
    except (PyMongoError, OSError, ValueError) as error:
        return f"does not answer a command ({type(error).__name__})"
    finally:
        client.close()
    return ""


class Store:
    """The connection, and which generation is live. `open` it before use, and again after any doubt."""

    def __init__(self, url: str, database: str) -> None:
        self._url = url
        self._name = database
        self._client: Any = None
        self._database: Any = None
        self._doubt = _FailureListener()
        self._live: View | None = None
        self.filling: View | None = None
        """The generation that a rebuild is filling; whoever writes to `live` writes there too."""

    @property
    def live(self) -> "View":
        if self._live is None:
            raise DatabaseUnavailable("the database has not been reached yet")
        return self._live

    async def open(self) -> "View":
        """Find the live generation, or make the first one."""
        if self._client is None:
            self._doubt.loop = asyncio.get_running_loop()
            self._client = AsyncIOMotorClient(
                self._url,
                event_listeners=[self._doubt],
                journal=True,
                retryWrites=False,
                serverSelectionTimeoutMS=2000,
                connectTimeoutMS=2000,
                socketTimeoutMS=30_000,
                heartbeatFrequencyMS=5000,
                appname="services-registry",
            )
            self._database = self._client[self._name]
        self._doubt.raised.clear()
        generation = await self._pointed_at()
        if self._live is None or self._live.generation != generation:
            view = View(self._database, generation)
            await view.prepare()
            self._live = view
        return self.live

    async def until_moved(self, view: "View") -> None:
        """Wait for ever. Raises DatabaseUnavailable when the connection is in doubt, GenerationChanged when
        `view` is no longer live."""
        while True:
            await set_within(self._doubt.raised, 2)
            if self._live is not view:
                raise GenerationChanged
            if self._doubt.raised.is_set():
                raise DatabaseUnavailable("the connection was lost")
            if await self._pointed_at() != view.generation:
                raise GenerationChanged

    async def _pointed_at(self) -> int:
        found = await self._database[_STATE].find_one({"_id": "generation"})
        return int(found["n"]) if found else 1

    async def begin(self) -> "View":
        """An empty generation to fill, of a number that no other API takes at the same time. Leftovers of
        rebuilds that never ended are dropped, but not what may still be filled by another one."""
        live = await self._pointed_at()
        numbers = {live}
        for name in await self._database.list_collection_names():
            if found := re.search(r"_g(\d+)\Z", name):
                numbers.add(number := int(found[1]))
                if number < live:
                    await self._database.drop_collection(name)
        view = View(self._database, max(numbers) + 1 + secrets.randbelow(1000))
        await view.prepare()
        self.filling = view
        return view

    async def go_live(self, view: "View") -> None:
        """Move the pointer to the generation that was filled."""
        pointer = {"$set": {"n": view.generation}}
        await self._database[_STATE].update_one({"_id": "generation"}, pointer, upsert=True)
        self._live = view
        self._doubt.raised.set()

    async def apply(self, change: Projection) -> None:
        """Take in what a command has just stored, so that the next read sees it."""
        for view in (self.live, self.filling):
            if view is not None:
                await view.apply([change])

    async def add_settings(self, rows: Sequence[Document]) -> None:
        """The same of the registry's own configuration, for the audit."""
        for view in (self.live, self.filling):
            if view is not None:
                await view.add_settings(rows)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()


class ReadRecord(NamedTuple):
    """Of which record documents are. `made`: when its streams were made; `marks`: what they looked like, by
    name; both empty where an older version wrote them. `edition`: goes behind the ids of its events, empty in
    the first; `new_from`: the sequence after which they are new in it; `form`: see `documents.FORM`."""

    made: str
    marks: dict[str, StreamMark]
    edition: str
    new_from: int
    form: int


class View:
    """One generation of the read models."""

    def __init__(self, database: Any, generation: int) -> None:
        self.generation = generation
        self._services = database[f"services_g{generation}"]
        self._events = database[f"events_g{generation}"]
        self._runs = database[f"runs_g{generation}"]
        self._checkpoints = database[f"checkpoints_g{generation}"]

    async def prepare(self) -> None:
        """The indexes for a service's history and runs; services are found by their names, and by keys."""
        await self._events.create_index([("name", 1), ("_id", -1)])
        for keys in ([("acted", -1)], [("actor", 1), ("acted", -1)], [("begins", 1)], [("begun", -1)]):
            await self._events.create_index(keys, sparse=True)
        # Downwards the embedded server leaves out what begins with the bound that it looks from.
        await self._runs.create_index([("name", 1), ("place", 1)])
        await self._runs.create_index([("seq", 1)])
        for key in _KEYS:
            await self._services.create_index([(key, 1)], sparse=True)
        await self._runs.create_index([("recorded_at", 1)])

    async def drop(self) -> None:
        for collection in (self._services, self._events, self._runs, self._checkpoints):
            await collection.drop()

    # --- projecting

    async def checkpoint(self, stream: str) -> int:
        """The sequence up to which `stream` is in these documents."""
        return (await self.position(stream)).seq

    async def position(self, stream: str) -> StreamPosition:
        """The message up to which `stream` is in these documents. `at`: 0 where an older version wrote it."""
        found = await self._checkpoints.find_one({"_id": stream}) or {}
        return StreamPosition(found.get("seq", 0), found.get("at", 0))

    async def is_empty(self) -> bool:
        """Whether nothing was ever taken in."""
        return await self._checkpoints.find_one({}) is None

    async def save_checkpoint(self, stream: str, seq: int, at: int) -> None:
        await self._checkpoints.update_one({"_id": stream}, {"$set": {"seq": seq, "at": at}}, upsert=True)

    async def record(self) -> ReadRecord:
        found = await self._checkpoints.find_one({"_id": "record"}) or {}
        marks = {name: StreamMark(**mark) for name, mark in found.get("marks", {}).items()}
        return ReadRecord(
            found.get("made", ""),
            marks,
            found.get("edition", ""),
            found.get("new_from", 0),
            found.get("form", 0),
        )

    async def save_record(self, made: str, marks: dict[str, StreamMark], **edition: str | int) -> None:
        """`edition`: `edition`, `new_from` and `form`, where these are not there yet."""
        new = {"made": made, "marks": {name: vars(mark) for name, mark in marks.items()}} | edition
        await self._checkpoints.update_one({"_id": "record"}, {"$set": new}, upsert=True)

    async def apply(self, changes: Sequence[Projection]) -> None:
        """Take in events, in any order and any number of times."""
        await self.add_to_history(changes)
        states: dict[str, ServiceState] = {}
        for change in changes:
            states[change.name] = change.applied_to(states.get(change.name))
        await _write(self._services, [_merge(state) for state in states.values()])

    async def add_to_history(self, changes: Sequence[Projection]) -> None:
        """Add events to the history. One that is there already is the same. Of what a deletion ends
        only the audit and its incidents tell further."""
        gone: dict[str, int] = {}
        for change in changes:
            if change.deletes:
                gone[change.name] = max(change.seq, gone.get(change.name, 0))
        await _insert(self._events, [it.row for it in changes])
        ended = [
            UpdateMany({"name": name, "_id": {"$lt": seq}}, {"$set": {"name": name + _ENDED}})
            for name, seq in gone.items()
        ]
        await _write(self._events, ended)

    async def add_settings(self, rows: Sequence[Document]) -> None:
        """Add events of the registry's own configuration. One that is there already is the same."""
        await _insert(self._events, rows)

    async def fill(self, states: dict[str, ServiceState], heard: dict[str, Heard]) -> None:
        """Take in what whole streams come to. Services that are not there yet cost a tenth of the others."""
        names = list(states.keys() | heard.keys())
        for start in range(0, len(names), _BULK):
            documents = []
            for name in names[start : start + _BULK]:
                documents.append(dump(states.get(name) or ServiceState(name)))
                if name in heard:
                    documents[-1]["heartbeat"] = _heartbeat(heard[name])
            there = await _insert(self._services, documents)
            await _write(self._services, [_merge(states[name]) for name in there if name in states])
            await self.apply_heartbeats({name: heard[name] for name in there if name in heard})

    async def apply_heartbeats(self, heard: dict[str, Heard]) -> None:
        """Take in heartbeats that follow what was taken in before, or overlap with it."""
        await _write(self._services, [_merge_heartbeats(name, it) for name, it in heard.items()])

    async def keep_runs(self, runs: dict[str, list[int]]) -> None:
        """Take in last runs that are not known here, as `last_runs` of another generation gives them."""
        await _write(self._services, [_keep_run(name, run) for name, run in runs.items()])

    async def runs_mark(self) -> StreamMark | None:
        """What RUNS looked like when it was read last; None: never."""
        found = await self._checkpoints.find_one({"_id": streams.RUNS}) or {}
        return StreamMark(**found["mark"]) if "mark" in found else None

    async def save_runs_mark(self, mark: StreamMark) -> None:
        new = {"$set": {"mark": vars(mark)}}
        await self._checkpoints.update_one({"_id": streams.RUNS}, new, upsert=True)

    async def apply_runs(self, runs: Sequence[Document]) -> None:
        """Take in runs as facts tell of them, in any order and any number of times: the newest counts.
        One that is new costs a tenth of one that is not."""
        newest: dict[str, Document] = {}
        for run in runs:
            if run["seq"] > newest.get(run["_id"], {"seq": 0})["seq"]:
                newest[run["_id"]] = run
        there = await _insert(self._runs, list(newest.values()))
        await _write(self._runs, [_replace(newest[each]) for each in there])

    async def shorten_runs(self, first: int, oldest: dict[str, int]) -> None:
        """Remove the runs of which RUNS keeps nothing any more. `first`: its first sequence; `oldest`: that
        of the services of which it holds as many as it may."""
        gone: list[Document] = [{"seq": {"$lt": first}}]
        gone += [{"name": name, "seq": {"$lt": seq}} for name, seq in oldest.items()]
        await _write(self._runs, [DeleteMany(which) for which in gone])

    async def shorten(self, name: str, left: Truncated) -> None:
        """Remove from a service's history what is not in the record any more: no rebuild has it."""
        its, ended = {"name": name}, {"name": name + _ENDED}
        configured, acted = ({"type": {"$in": kinds}} for kinds in (CONFIGURES, ACTS))
        gone: list[Document] = [
            its | {"type": _STATUS_CHANGED, "_id": {"$lt": left.status}},
            its | configured | {"_id": {"$lt": left.config}},
            ended | {"_id": {"$lt": left.config}},
            ended | {"type": _STATUS_CHANGED, "_id": {"$lt": left.status}},
            *(which | acted | {"_id": {"$lt": left.incident}} for which in (its, ended)),
            its | {"at": {"$lt": left.registered_at}},
        ]
        await _write(self._events, [DeleteMany(which) for which in gone])

    # --- reading

    async def get(self, name: str) -> ServiceState | None:
        """The state of a service that was ever registered, deleted or not."""
        found: Document | None = await self._services.find_one({"_id": name})
        return load(found) if found and "config" in found else None

    async def with_key(self, *keys: str, but: str = "") -> str | None:
        """The name of the service, another than `but`, that a ping key or an alias leads to: one of these."""
        which: Document = {"$in": [ping_keys.canonical(key) for key in keys]}
        for field in _KEYS:
            found: Document | None = await self._services.find_one(
                {field: which, "config.deleted": False, "_id": {"$ne": but}}, {"_id": 1}
            )
            if found:
                return str(found["_id"])
        return None

    async def named(self, names: Sequence[str]) -> list[ServiceState]:
        """The states of these services, in this order, without those that are not there."""
        cursor = self._services.find({"_id": {"$in": list(names)}})
        found = {it["_id"]: load(it) for it in await cursor.to_list(None) if "config" in it}
        return [found[name] for name in names if name in found]

    async def states(self) -> AsyncIterator[list[ServiceState]]:
        """Every state, in portions; of heartbeats only when the newest came."""
        async for portion in self._portions(
            "config", "begun", "status", "incident", "heartbeat.seq", "heartbeat.at"
        ):
            yield [load(document) for document in portion]

    async def last_runs(self) -> AsyncIterator[dict[str, list[int]]]:
        """Start and end of each service's last run, in portions."""
        async for portion in self._portions("heartbeat.last_run"):
            yield {it["_id"]: run for it in portion if (run := it.get("heartbeat", {}).get("last_run"))}

    async def _portions(self, *fields: str) -> AsyncIterator[list[Document]]:
        cursor = self._services.find({}, dict.fromkeys(fields, 1), batch_size=_BULK)
        while portion := await cursor.to_list(_BULK):
            yield portion

    async def history(self, name: str, before: int | None, limit: int) -> list[Document]:
        """A service's events but for who was told, newest first; one more than the limit if there are older
        ones. `changed` and `changes`: what an event made another, where the one before it is kept; found here
        and not when it is projected, so that it is the same in whatever order events came."""
        found: list[Document] = []
        async with aclosing(self._lines(name, _places(before=before), -1)) as lines:
            async for row in lines:
                if row["type"] != TOLD:
                    found.append(row)
                if len(found) > limit:
                    break
        configured: list[Document | None] = [row for row in found if row["type"] in CONFIGURES]
        if configured and (last := configured[-1]):
            configured.append(await self._configured_before(last))
        for line, earlier in pairwise(configured):
            if line:
                line["changed"] = changed(earlier, line) if earlier else []
                line["changes"] = differences(earlier, line)
        return found

    async def _configured_before(self, row: Document, kinds: Sequence[str] = CONFIGURES) -> Document | None:
        """The line of the configuration before that of a line; it may be of an earlier life."""
        name = row["name"].removesuffix(_ENDED)
        for each in (name, name + _ENDED):
            async with aclosing(self._lines(each, _places(before=row["_id"]), -1)) as lines:
                async for earlier in lines:
                    if earlier["type"] in kinds:
                        return earlier
        return None

    async def _lines(self, name: str, places: Document, order: int) -> AsyncGenerator[Document]:
        """Of one name, in the order of their sequences (1), or against it (-1). `places`: those sequences.
        (Were the embedded server asked for more, it would read the lines of all services.)"""
        which = {"name": name} | ({"_id": places} if places else {})
        cursor = self._events.find(which, batch_size=_PAGE).sort([("_id", order)])
        try:
            async for row in cursor:
                yield row
        finally:
            await cursor.close()

    async def audit(
        self, actor: str | None, service: str | None, before: int | None, limit: int
    ) -> list[Document]:
        """What somebody did, newest first, also to what is deleted by now; one more than the limit if there
        is older. With `changes` as in `history`. `actor`, `service`: only of these."""
        found: list[Document] = []
        async with aclosing(self._acted(actor, service, before)) as acted:
            async for row in acted:
                found.append(row)
                if len(found) > limit:
                    break
        for row in found:
            if row["type"] in CONFIGURES:
                row["changes"] = differences(await self._configured_before(row), row)
            elif row["type"] in ACTS:
                row["changes"] = act_differences(await self._configured_before(row, ACTS), row)
            elif row["type"] in SETTINGS:
                row["changes"] = setting_differences(await self._configured_before(row, SETTINGS), row)
            row["name"] = row["name"].removesuffix(_ENDED)
        return found

    async def _acted(
        self, actor: str | None, service: str | None, before: int | None
    ) -> AsyncGenerator[Document]:
        if service:
            for name in (service, service + _ENDED):
                async for row in self._lines(name, _places(before=before), -1):
                    if "acted" in row and actor in (None, "", row["actor"]):
                        yield row
            return
        which = {"acted": _places(after=0, before=before)} | ({"actor": actor} if actor else {})
        async for row in self._events.find(which, batch_size=_PAGE).sort([("acted", -1)]):
            yield row

    async def incidents(self, service: str, before: int | None) -> AsyncIterator[Document]:
        """The lines with which incidents began, newest first, also of services that are deleted. `service`:
        only of this one, if it is named; `before`: the sequence that they are older than."""
        if service:
            for name in (service, service + _ENDED):
                async for row in self._lines(name, _places(before=before), -1):
                    if "begun" in row:
                        yield _by_its_name(row)
            return
        which = {"begun": _places(after=0, before=before)}
        async for row in self._events.find(which, batch_size=_PAGE).sort([("begun", -1)]):
            yield _by_its_name(row)

    async def incident(self, id_: str) -> list[Document]:
        """The lines of all that happened in an incident, the one with which it began first; none: there is no
        such incident."""
        begun: Document | None = await self._events.find_one({"begins": id_})
        return await self.incident_of(begun) if begun else []

    async def incident_of(self, begun: Document, before: int | None = None) -> list[Document]:
        """The same of the line with which it began. `before`: only what is older than this sequence."""
        name, places = begun["name"].removesuffix(_ENDED), _places(begun["_id"], before)
        found, is_over = [_by_its_name(begun)], False
        for each in (name + _ENDED, name):
            async with aclosing(self._lines(each, places, 1)) as lines:
                async for row in lines:
                    is_act = row["type"] in ACTS
                    if row["data"].get("incident") == begun["begins"] if is_act else not is_over:
                        found.append(_by_its_name(row))
                    is_end = row["data"].get("to") == Status.ALIVE or row["type"] == DELETED
                    is_over = is_over or is_end
        return found

    async def configured_at(self, state: ServiceState) -> int:
        """When the newest configuration of a service was stored; 0: that event is there no more."""
        row = await self._events.find_one({"_id": state.config_seq}, {"at": 1})
        return int(row["at"]) if row else 0

    async def rows_of(self, names: Sequence[str], at: int) -> AsyncIterator[Document]:
        """What these services' events since then say of status and pause, in no order. By their names alone,
        because the embedded server scans for any other filter."""
        wanted = {"name": 1, "at": 1, "type": 1, "data.from": 1, "data.to": 1, "data.since": 1}
        async for row in self._events.find({"name": {"$in": list(names)}}, wanted, batch_size=_BULK):
            if row["at"] >= at:
                yield row

    async def runs(
        self,
        name: str,
        before: str | None,
        limit: int,
        outcomes: Sequence[str] = (),
        *,
        since: int = 0,
    ) -> list[Document]:
        """A service's runs, newest first by when they began or were due; one more than the limit if there are
        older ones. `before`: the `place` that they are older than; `outcomes`: only these, if any are named;
        `since`: when its life began, in microseconds."""
        range_ = {"$gte": place(since)} | ({} if before is None else {"$lt": before})
        matching: Document = {"name": name, "place": range_}
        if outcomes:
            matching["outcome"] = {"$in": list(outcomes)}
        cursor = self._runs.find(matching).sort([("place", -1)]).limit(limit + 1)
        found: list[Document] = await cursor.to_list(None)
        return found

    async def runs_begun_at(self, name: str, moments: Sequence[int]) -> list[Document]:
        """The runs of a service that began at one of these moments."""
        cursor = self._runs.find({"name": name, "started_at": {"$in": list(moments)}})
        found: list[Document] = await cursor.to_list(None)
        return found

    async def outcomes_since(self, at: int) -> AsyncIterator[tuple[str, Outcome]]:
        """Of each run of which something was recorded since: its service, and what is known of it last."""
        wanted = {"name": 1, "outcome": 1}
        async for row in self._runs.find({"recorded_at": {"$gte": at}}, wanted, batch_size=_BULK):
            yield row["name"], Outcome(row["outcome"])

    async def met(self, name: str, occurrences: Sequence[int]) -> set[int]:
        """Those of them that a run of the service has met."""
        ids = [f"{name} {each}" for each in occurrences]
        cursor = self._runs.find({"_id": {"$in": ids}}, {"expected_at": 1, "outcome": 1})
        return {row["expected_at"] for row in await cursor.to_list(None) if row["outcome"] != Outcome.MISSED}

    async def occurrences(self, name: str, since: int, until: int) -> list[Document]:
        """What became of each occurrence that was due in a time, oldest first: the run that met it first, or
        that it was missed. With little more than outcome and delay."""
        wanted = dict.fromkeys(("expected_at", "outcome", "late_by", "is_first", "started_at", "ended_at"), 1)
        at = place(max(0, since - _EARLIEST))
        cursor = self._runs.find({"name": name, "place": {"$gte": at}}, wanted)
        found = [
            run
            for run in await cursor.to_list(None)
            if run["is_first"] and since <= run["expected_at"] < until
        ]
        return sorted(found, key=lambda run: run["expected_at"])

    async def size(self) -> tuple[int, int, int]:
        """How many events, how many services and how many runs are in here."""
        events = await self._events.count_documents({})
        services = await self._services.count_documents({"config.deleted": False})
        runs = await self._runs.count_documents({})
        return int(events), int(services), int(runs)


def _places(after: int | None = None, before: int | None = None) -> Document:
    """Sequences between these."""
    return {bound: seq for bound, seq in (("$gt", after), ("$lt", before)) if seq is not None}


def _by_its_name(row: Document) -> Document:
    row["name"] = row["name"].removesuffix(_ENDED)
    return row


def _heartbeat(heard: Heard) -> Document:
    facet: Document = dump(heard.applied_to(ServiceState("")))["heartbeat"]
    return facet


def _merge(state: ServiceState) -> UpdateOne:
    """An incident whose beginning is not among the events that the state is of has it in the document."""
    facets = {facet: (new["seq"], {"$literal": new}) for facet, new in dump(state).items() if facet in FACETS}
    if state.begun and state.begun.is_guessed:
        seq, content = facets["begun"]
        known = {"incident": {"$ifNull": ["$begun.incident", list(state.begun)]}}
        facets["begun"] = seq, {"$mergeObjects": [content, known]}
    return _update(state.name, facets)


def _merge_heartbeats(name: str, it: Heard) -> UpdateOne:
    """Runs may have begun before these heartbeats: then their starts are in the document. Is a start newer
    than the first end here, they were read again, and what ended then is told already."""
    new, run = _heartbeat(it), "$$run"
    its_id, its_start = ({"$arrayElemAt": [run, n]} for n in (0, 1))
    one = {"$cond": [{"$eq": ["$heartbeat.signal", Signal.START.value]}, [["", "$heartbeat.at"]], []]}
    before = {"$ifNull": ["$heartbeat.open", one]}  # an older version knew of one run at a time

    def among(which: Document) -> Document:
        return {"$filter": {"input": before, "as": "run", "cond": which}}

    def ended(of: str, end: int, measured: int) -> Document:
        begun = among({"$and": [{"$eq": [its_id, {"$literal": of}]}, {"$lte": [its_start, end]}]})
        began: Any = its_start
        if measured:  # as `_add_run` has it, where the start is among these heartbeats
            began = {"$cond": [{"$gt": [its_start, end - measured]}, its_start, end - measured]}
        return {"$map": {"input": begun, "as": "run", "in": [began, end]}}

    last: Any = {"$ifNull": ["$heartbeat.last_run", None]}
    if it.last_run:
        known = {"$gte": [{"$arrayElemAt": [last, 1]}, it.last_run[1]]}
        last = {"$cond": [known, last, list(it.last_run)]}
    ends = [each for each in it.first_ends if not it.last_run or each[1] >= it.last_run[1]]
    last_of_all = {"$arrayElemAt": [{"$concatArrays": [[last], *(ended(*each) for each in ends)]}, -1]}
    still_open = among({"$not": [{"$in": [its_id, {"$literal": list(it.runs)}]}]})
    open_ = {"$slice": [{"$concatArrays": [still_open, {"$literal": new["open"]}]}, -MAX_OPEN]}
    literal = {"$literal": new}
    without, with_open = (
        {"$mergeObjects": [literal, {"last_run": last}]},
        {"$mergeObjects": [literal, {"last_run": last_of_all, "open": open_}]},
    )
    return _update(name, {"heartbeat": (it.seq, {"$cond": [{"$eq": [before, []]}, without, with_open]})})


def _keep_run(name: str, run: list[int]) -> UpdateOne:
    """For a service that was heard and whose last run is not known. By `_id` alone, as in `_update`."""
    nothing = {
        "$and": [{"$gt": ["$heartbeat.seq", 0]}, {"$not": [{"$ifNull": ["$heartbeat.last_run", None]}]}]
    }
    kept = {"$cond": [nothing, {"$mergeObjects": ["$heartbeat", {"last_run": run}]}, "$heartbeat"]}
    return UpdateOne({"_id": name}, [{"$set": {"heartbeat": kept}}])


def _update(name: str, facets: dict[str, tuple[int, Document]]) -> UpdateOne:
    """Each facet becomes what its expression says if its sequence is newer than the one there. By `_id`
    alone, because the embedded server scans for any other filter."""
    merged = {
        facet: {"$cond": [{"$gt": [seq, {"$ifNull": [f"${facet}.seq", 0]}]}, content, f"${facet}"]}
        for facet, (seq, content) in facets.items()
    }
    return UpdateOne({"_id": name}, [{"$set": merged}], upsert=True)


def _replace(run: Document) -> UpdateOne:
    """The document becomes this one if its sequence is newer than the one there. By `_id` alone, as in
    `_update`."""
    newer = {"$gt": [run["seq"], {"$ifNull": ["$seq", 0]}]}
    return UpdateOne(
        {"_id": run["_id"]},
        [{"$replaceWith": {"$cond": [newer, {"$literal": run}, "$$ROOT"]}}],
        upsert=True,
    )


async def _insert(collection: Any, documents: Sequence[Document]) -> list[Any]:
    """Insert what is not there yet. Returns the ids of those that are."""
    there: list[Any] = []
    for start in range(0, len(documents), _BULK):
        chunk = documents[start : start + _BULK]
        try:
            await collection.insert_many(chunk, ordered=False)
        except BulkWriteError as error:
            failed = error.details["writeErrors"]
            if any(e["code"] != _DUPLICATE_KEY for e in failed):
                raise
            there += [chunk[e["index"]]["_id"] for e in failed]
    return there


async def _write(collection: Any, operations: Sequence[Any]) -> None:
    for start in range(0, len(operations), _BULK):
        chunk = operations[start : start + _BULK]
        try:
            await collection.bulk_write(chunk, ordered=False)
        except BulkWriteError as error:
            if any(e["code"] != _DUPLICATE_KEY for e in error.details["writeErrors"]):
                raise
            # Two writers made the same new document; now that it is there, both can merge.
            await collection.bulk_write(chunk, ordered=False)


class _FailureListener(monitoring.ServerHeartbeatListener):
    """Notices a database that went away when nobody was asking it anything: it may come back without some of
    what it had acknowledged, and the driver would reconnect in silence."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop
        self.raised = asyncio.Event()

    def started(self, event: monitoring.ServerHeartbeatStartedEvent) -> None: ...

    def succeeded(self, event: monitoring.ServerHeartbeatSucceededEvent) -> None: ...

    def failed(self, event: monitoring.ServerHeartbeatFailedEvent) -> None:
        """Called in a thread of the driver's."""
        with suppress(RuntimeError):  # the loop has ended
            self.loop.call_soon_threadsafe(self.raised.set)
