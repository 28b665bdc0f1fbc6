"""Every service in a few words, in memory, so that lists, counts and digests cost no scan of the database.

Fed with what is written to the read models, right after it is there. Each facet counts only if its
sequence is newer, so events may come twice and late, as for the documents.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from sortedcontainers import SortedList

from services.api.projections.documents import PROBLEMS_FIRST, Document, Heard, Projection
from shared.contracts.events import Status

Sort = Literal["name", "status", "since", "last_heartbeat"]
SORTS: tuple[Sort, ...] = ("name", "status", "since", "last_heartbeat")

Place = tuple[int | str, str]
"""Where a service stands in an order: what it is sorted by, and its name."""


_FEW = 1000
"""Services that are sorted when they are asked for; more are found along the order that is there."""


@dataclass(slots=True)
class IndexEntry:
    """One service. Times in microseconds since 1970 UTC, 0 for never; `*_seq`: what each facet reflects."""

    name: str
    config_seq: int = 0
    exists: bool = False
    registered_at: int = 0
    paused: bool = False
    notify: bool = True
    tags: tuple[str, ...] = ()
    text: str = ""
    status_seq: int = 0
    changed_to: Status = Status.UNKNOWN
    changed_at: int = -1
    heard_before: int = 0
    heartbeat_seq: int = 0
    heartbeat_at: int = 0

    @property
    def status(self) -> Status:
        """A status from before its registration is none."""
        return self.changed_to if self.changed_at >= self.registered_at else Status.UNKNOWN

    @property
    def since(self) -> int:
        return max(self.changed_at, self.registered_at)

    @property
    def last_heartbeat(self) -> int:
        newest = max(self.heartbeat_at, self.heard_before)
        return newest if newest >= self.registered_at else 0

    def place(self, sort: Sort) -> Place:
        match sort:
            case "name":
                return self.name, self.name
            case "status":
                return PROBLEMS_FIRST.index(self.status), self.name
            case "since":
                return self.since, self.name
            case "last_heartbeat":
                return self.last_heartbeat, self.name


@dataclass(frozen=True, slots=True)
class ServiceQuery:
    """A page to find: services in any of `statuses`, with all of `tags`, and with `text` in their name or
    description. `after`: where the last one of the page before stands."""

    statuses: Sequence[str] = ()
    tags: Sequence[str] = ()
    text: str = ""
    sort: Sort = "name"
    descending: bool = False
    after: Place | None = None
    limit: int = 50


class ServiceIndex:
    """All services, in every order a list can have. About 1.1 kB per service."""

    def __init__(self) -> None:
        self._entries: dict[str, IndexEntry] = {}
        self._orders: dict[Sort, SortedList[Place]] = {}
        self.clear()

    def clear(self) -> None:
        self._entries.clear()
        self._orders = {sort: SortedList() for sort in SORTS}
        self._of_status: dict[str, set[str]] = {status: set() for status in Status}
        self._of_tag: defaultdict[str, set[str]] = defaultdict(set)

    # --- taking in

    def load(self, documents: Sequence[Document]) -> None:
        """Take in documents of services, with as much of each as a `Projection` brings."""
        for document in documents:
            if "config" not in document and "status" not in document:
                continue  # it was never registered
            self._config(document["_id"], document.get("config", {"seq": 0, "deleted": True}))
            if "status" in document:
                self._status(document["_id"], document["status"])
            if "heartbeat" in document:
                self.hear(document["_id"], document["heartbeat"]["seq"], document["heartbeat"]["at"])

    def take(self, change: Projection) -> None:
        (self._config if change.facet == "config" else self._status)(change.name, change.content)

    def apply_heartbeats(self, heard: dict[str, Heard]) -> None:
        for name, it in heard.items():
            self.hear(name, it.seq, it.at)

    def _config(self, name: str, config: Document) -> None:
        it = self._entry(name)
        if config["seq"] <= it.config_seq:
            return
        self._leave(it)
        it.config_seq, it.exists = config["seq"], not config["deleted"]
        it.registered_at = config.get("registered_at", 0)
        if it.exists:
            it.paused, it.notify, it.tags = config["paused"], config["notify"], tuple(config["tags"])
            it.text = f"{name}\n{config['description']}".casefold()
        self._join(it)

    def _status(self, name: str, status: Document) -> None:
        it = self._entry(name)
        if status["seq"] <= it.status_seq:
            return
        self._leave(it)
        it.status_seq, it.changed_to = status["seq"], Status(status["status"])
        it.changed_at, it.heard_before = status["since"], status["last_heartbeat"]
        self._join(it)

    def knows(self, name: str) -> bool:
        """Whether it was ever registered."""
        it = self._entries.get(name)
        return it is not None and it.config_seq > 0

    def has_heard(self, name: str) -> bool:
        it = self._entries.get(name)
        return it is not None and it.heartbeat_seq > 0

    def hear(self, name: str, seq: int, at: int) -> None:
        """A heartbeat of a service that was registered; of others nothing is kept."""
        it = self._entries.get(name)
        if it is None or seq <= it.heartbeat_seq:
            return
        order, was = self._orders["last_heartbeat"], it.place("last_heartbeat")
        it.heartbeat_seq, it.heartbeat_at = seq, at
        if it.exists:
            order.remove(was)
            order.add(it.place("last_heartbeat"))

    def _entry(self, name: str) -> IndexEntry:
        found = self._entries.get(name)
        if found is None:
            found = self._entries[name] = IndexEntry(name)
        return found

    def _leave(self, it: IndexEntry) -> None:
        if it.exists:
            for sort, order in self._orders.items():
                order.remove(it.place(sort))
            self._of_status[it.status].discard(it.name)
            for tag in it.tags:
                self._of_tag[tag].discard(it.name)
                if not self._of_tag[tag]:
                    del self._of_tag[tag]

    def _join(self, it: IndexEntry) -> None:
        if it.exists:
            for sort, order in self._orders.items():
                order.add(it.place(sort))
            self._of_status[it.status].add(it.name)
            for tag in it.tags:
                self._of_tag[tag].add(it.name)

    # --- asking

    def __len__(self) -> int:
        return len(self._orders["name"])

    def __iter__(self) -> Iterator[IndexEntry]:
        return (it for it in self._entries.values() if it.exists)

    def get(self, name: str) -> IndexEntry | None:
        """The service, if it exists."""
        it = self._entries.get(name)
        return it if it is not None and it.exists else None

    @property
    def counts(self) -> dict[Status, int]:
        """Services by status, problems first."""
        return {status: len(self._of_status[status]) for status in PROBLEMS_FIRST}

    def has_tag(self, tag: str) -> bool:
        return tag in self._of_tag

    @property
    def tags(self) -> dict[str, int]:
        """How many services have each tag, in order of the tags."""
        return {tag: len(names) for tag, names in sorted(self._of_tag.items())}

    def in_order(
        self, sort: Sort, after: Place | None = None, descending: bool = False
    ) -> Iterator[IndexEntry]:
        order = self._orders[sort]
        first, last = (None, after) if descending else (after, None)
        for _, name in order.irange(first, last, inclusive=(False, False), reverse=descending):
            yield self._entries[name]

    def page(self, wanted: ServiceQuery) -> tuple[list[str], Place | None, int]:
        """The names of a page, where its last one stands if there are more, and how many match in all."""
        matching = self._matching(wanted)
        if matching is None or len(matching) > _FEW:
            following = self.in_order(wanted.sort, wanted.after, wanted.descending)
            if matching is not None:
                following = (it for it in following if it.name in matching)
        else:
            following = self._sorted(matching, wanted)
        found = list(islice(following, wanted.limit + 1))
        page = found[: wanted.limit]
        return (
            [it.name for it in page],
            page[-1].place(wanted.sort) if len(found) > wanted.limit else None,
            len(self) if matching is None else len(matching),
        )

    def _matching(self, wanted: ServiceQuery) -> set[str] | None:
        """The names of all services that match; None: every one does."""
        sets: list[set[str]] = [self._of_tag.get(tag, set()) for tag in wanted.tags]
        if wanted.statuses:
            sets.append(set().union(*(self._of_status[status] for status in wanted.statuses)))
        found = set.intersection(*sorted(sets, key=len)) if sets else None
        if wanted.text:
            text = wanted.text.casefold()
            if found is None:
                return {it.name for it in self._entries.values() if text in it.text and it.exists}
            return {name for name in found if text in self._entries[name].text}
        return found

    def _sorted(self, names: Iterable[str], wanted: ServiceQuery) -> Iterator[IndexEntry]:
        places = sorted((self._entries[name].place(wanted.sort) for name in names), reverse=wanted.descending)
        for place in places:
            beyond = wanted.after is None or (
                place < wanted.after if wanted.descending else place > wanted.after
            )
            if beyond:
                yield self._entries[place[1]]
