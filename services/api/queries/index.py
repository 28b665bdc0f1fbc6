"""The state of every service, in memory, so that lists, counts and digests cost no scan of the database.

Fed with what is written to the read models, right after it is there.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from sortedcontainers import SortedList

from services.api.healthchecks import checks
from services.api.projections.documents import PROBLEMS_FIRST, Heard, Projection
from shared.contracts.events import Status
from shared.domain.service_state import PAUSED, Incident, ServiceState, merge

Sort = Literal["name", "status", "since", "last_heartbeat"]
SORTS: tuple[Sort, ...] = ("name", "status", "since", "last_heartbeat")

Place = tuple[int | str, str]
"""Where a service stands in an order: what it is sorted by, and its name."""


_FEW = 1000
"""Services that are sorted when they are asked for; more are found along the order that is there."""


def place(state: ServiceState, sort: Sort) -> Place:
    return PROBLEMS_FIRST.index(state.counted_as) if sort == "status" else getattr(state, sort), state.name


def _unique_key(state: ServiceState) -> bytes:
    return bytes.fromhex(checks.unique_key(state.ping_key or ""))


@dataclass(frozen=True, slots=True)
class ServiceQuery:
    """A page to find: services counted as any of `statuses`, with all of `tags`, and with `text` in their
    name or description. `after`: where the last one of the page before stands."""

    statuses: Sequence[str] = ()
    tags: Sequence[str] = ()
    text: str = ""
    sort: Sort = "name"
    descending: bool = False
    after: Place | None = None
    limit: int = 50


class ServiceIndex:
    """The states of all services, in every order a list can have. About 1.2 kB per service."""

    def __init__(self) -> None:
        self._states: dict[str, ServiceState] = {}
        self._texts: dict[str, str] = {}
        """What is searched in, casefolded, of those where that is more than the name as it is."""
        self._orders: dict[Sort, SortedList[Place]] = {}
        self.without_key: set[str] = set()
        """Those that an older version registered, and that have no ping key yet."""
        self._of_unique_key: dict[bytes, str] = {}
        """Those that have a ping key, by what readers know it by."""
        self._called: defaultdict[str, set[str]] = defaultdict(set)
        """By what their checks are called, where that is another than the service's name."""
        self.clear()

    def clear(self) -> None:
        self._states.clear()
        self._texts.clear()
        self.without_key.clear()
        self._of_unique_key.clear()
        self._called.clear()
        self._orders = {sort: SortedList() for sort in SORTS}
        self._of_status: dict[str, set[str]] = {status: set() for status in PROBLEMS_FIRST}
        self._of_tag: defaultdict[str, set[str]] = defaultdict(set)

    # --- keeping up

    def load(self, states: Iterable[ServiceState]) -> None:
        """Take in states as the database has them, of services that were registered."""
        for loaded in states:
            if loaded.config_seq or loaded.status_seq:
                self._leave(loaded.name)
                known = self._states.get(loaded.name)
                self._join(merge(known, loaded) if known else loaded)

    def apply(self, change: Projection) -> None:
        known = self._states.get(change.name)
        if change.is_news_to(known):
            self._leave(change.name)
            self._join(change.applied_to(known))

    def apply_heartbeats(self, heard: dict[str, Heard]) -> None:
        """When services that were registered were heard; of others nothing is kept."""
        order = self._orders["last_heartbeat"]
        for name, newest in heard.items():
            state = self._states.get(name)
            if state is None or newest.seq <= state.heartbeat_seq:
                continue
            before = state.last_heartbeat
            state.heartbeat_seq, state.heartbeat_at = newest.seq, newest.at
            state.derive()
            if state.exists:
                order.remove((before, name))
                order.add((state.last_heartbeat, name))

    def _leave(self, name: str) -> None:
        state = self._states.get(name)
        if state is None or not state.exists:
            return
        self._texts.pop(name, None)
        self.without_key.discard(name)
        for sort, order in self._orders.items():
            order.remove(place(state, sort))
        self._of_status[state.counted_as].discard(name)
        self._of_unique_key.pop(_unique_key(state), None)
        for index, words in ((self._of_tag, state.tags), (self._called, checks.also_called(state))):
            for word in words:
                index[word].discard(name)
                if not index[word]:
                    del index[word]

    def _join(self, state: ServiceState) -> None:
        self._states[state.name] = state
        if not state.exists:
            return
        text = f"{state.name}\n{state.description}".casefold().rstrip("\n")
        if text != state.name:
            self._texts[state.name] = text
        if state.ping_key is None:
            self.without_key.add(state.name)
        else:
            self._of_unique_key[_unique_key(state)] = state.name
        for word in checks.also_called(state):
            self._called[word].add(state.name)
        for sort, order in self._orders.items():
            order.add(place(state, sort))
        self._of_status[state.counted_as].add(state.name)
        for tag in state.tags:
            self._of_tag[tag].add(state.name)

    def knows(self, name: str) -> bool:
        """Whether it was ever registered."""
        state = self._states.get(name)
        return state is not None and state.config_seq > 0

    def has_heard(self, name: str) -> bool:
        state = self._states.get(name)
        return state is not None and state.heartbeat_seq > 0

    # --- asking

    def __len__(self) -> int:
        return len(self._orders["name"])

    def __iter__(self) -> Iterator[ServiceState]:
        return (state for state in self._states.values() if state.exists)

    def get(self, name: str) -> ServiceState | None:
        """The service, if it exists."""
        state = self._states.get(name)
        return state if state is not None and state.exists else None

    def with_unique_key(self, given: str) -> str | None:
        """The name of the service whose check readers know by this."""
        return self._of_unique_key.get(bytes.fromhex(given))

    def called(self, word: str) -> list[ServiceState]:
        """Services with this name, and those whose check is called so, or has it for a slug."""
        names = {word, *self._called.get(word, ())}
        return [state for name in sorted(names) if (state := self.get(name))]

    @property
    def counts(self) -> dict[str, int]:
        """How many services count as what, problems first."""
        return {status: len(self._of_status[status]) for status in PROBLEMS_FIRST}

    def incidents(self) -> Iterator[tuple[ServiceState, Incident]]:
        """The services that have one, in no order."""
        for counted_as in (Status.SILENT, Status.DOWN, Status.DEAD, PAUSED):
            for name in self._of_status[counted_as]:
                if incident := self._states[name].incident:
                    yield self._states[name], incident

    def has_tag(self, tag: str) -> bool:
        return tag in self._of_tag

    @property
    def tags(self) -> dict[str, int]:
        """How many services have each tag, in order of the tags."""
        return {tag: len(names) for tag, names in sorted(self._of_tag.items())}

    def in_order(
        self, sort: Sort, after: Place | None = None, descending: bool = False
    ) -> Iterator[ServiceState]:
        order = self._orders[sort]
        first, last = (None, after) if descending else (after, None)
        for _, name in order.irange(first, last, inclusive=(False, False), reverse=descending):
            yield self._states[name]

    def page(self, wanted: ServiceQuery) -> tuple[list[str], Place | None, int]:
        """The names of a page, where its last one stands if there are more, and how many match in all."""
        matching = self._matching(wanted)
        if matching is None or len(matching) > _FEW:
            following = self.in_order(wanted.sort, wanted.after, wanted.descending)
            if matching is not None:
                following = (state for state in following if state.name in matching)
        else:
            following = self._sorted(matching, wanted)
        found = list(islice(following, wanted.limit + 1))
        page = found[: wanted.limit]
        return (
            [state.name for state in page],
            place(page[-1], wanted.sort) if len(found) > wanted.limit else None,
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
                found = {name for name in self._states if text in name}
                found |= {name for name, own in self._texts.items() if text in own}
                return {name for name in found if self._states[name].exists}
            return {name for name in found if text in self._texts.get(name, name)}
        return found

    def _sorted(self, names: Iterable[str], wanted: ServiceQuery) -> Iterator[ServiceState]:
        after = wanted.after
        places = (place(self._states[name], wanted.sort) for name in names)
        for found in sorted(places, reverse=wanted.descending):
            if after is None or (found < after if wanted.descending else found > after):
                yield self._states[found[1]]
