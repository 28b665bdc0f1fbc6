"""Routes, dependencies and subscribers' choices in a simulation: what people set when, and what follows of it
for each chat, worked out once more from the words of the contract."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from random import Random
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from shared.contracts.events import (
    ConfigurationSet,
    Status,
    moment,
)
from shared.messaging import streams
from tests.simulation.model import BASE

if TYPE_CHECKING:
    from tests.simulation.notifier.checks import Service, _Facts

Span = tuple[float, float]
MINUTE, HOUR, NEVER = 60.0, 3600.0, float("inf")
FALLEN = (Status.DOWN, Status.DEAD)
TAG = "db"
SILENT_AFTER = 15 * MINUTE
"""Of every service here."""
ROUTED = (3, 5, 8)
"""Which seeds, of eleven; the others are what they would be without."""


@dataclass(frozen=True, slots=True)
class RouteChange:
    at: float
    routes: list[dict[str, Any]]


@dataclass
class Routing:
    """What a seed has in store of it; nothing in most."""

    seed: int
    routes: list[RouteChange] = field(default_factory=list)
    parents: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.is_on = self.seed % 11 in ROUTED
        self._rng = Random(self.seed + 9)

    def depend(self, names: Sequence[str]) -> None:
        for n, name in enumerate(names):
            if self.is_on and n and self._rng.random() < 0.6:
                self.parents[name] = (self._rng.choice(names[:n]),)

    def route(self, names: Sequence[str], chats: Sequence[str], start: float, end: float) -> None:
        rng = self._rng
        if not self.is_on:
            return
        for n in range(rng.choice((1, 1, 2, 3))):
            at = start - 90 if n == 0 and rng.random() < 0.8 else rng.uniform(start, end)
            found = [self._route(names, chats, start, end) for _ in range(rng.choice((0, 1, 1, 2, 2, 3)))]
            self.routes.append(RouteChange(at, found))
        self.routes.sort(key=lambda it: it.at)

    def _route(self, names: Sequence[str], chats: Sequence[str], start: float, end: float) -> dict[str, Any]:
        rng, match, route = self._rng, dict[str, Any](), dict[str, Any]()
        if rng.random() < 0.35:
            match["tags"] = [TAG]
        if rng.random() < 0.25:
            match["name"] = rng.choice((*names, "s[01]", "*"))
        if rng.random() < 0.25:
            match["status"] = ["down", "dead"]
        if match:
            route["match"] = match
        route["to"] = rng.sample((*chats, "gone"), 1) if rng.random() < 0.8 else list(chats)
        if rng.random() < 0.45:
            step = {"after": rng.choice(("2m", "5m", "15m")), "to": [rng.choice(chats)]}
            route["escalate"] = step
        if rng.random() < 0.4:
            route["quiet"] = self.quiet(start, end)
            if rng.random() < 0.5:
                hours, _, zone = route["quiet"].partition(" ")
                route["quiet"] = {"hours": hours, "hold": True, **({"time_zone": zone} if zone else {})}
        if rng.random() < 0.3:
            route["continue"] = True
        return route

    def quiet(self, start: float, end: float) -> str:
        """Near what happens; clocks are moved between one and four, when none begin or end."""
        rng = self._rng
        middle, length = _moment(rng.uniform(start, end)), timedelta(hours=rng.randint(1, 5))
        begin, stop = (_on_the_half(it) for it in (middle - length / 2, middle + length / 2))
        zone = rng.choice(("", " UTC", " Europe/Berlin", " America/New_York"))
        if begin == stop or any(1 <= it.hour <= 4 for it in (begin, stop)):
            begin, stop = time(22), time(7)
        return f"{begin:%H:%M}-{stop:%H:%M}{zone}"

    def choices(self, known_at: float, end: float) -> Iterator[tuple[float, str, tuple[str, ...]]]:
        """Of a subscriber: when it writes what, and how the answer begins."""
        rng = self._rng
        if not self.is_on or known_at >= end:
            return
        for _ in range(rng.choice((0, 1, 2, 3))):
            kinds = ("/only db", "/only db web", "/only web", "/all", "/quiet off", "/quiet")
            text = rng.choice(kinds)
            if text == "/quiet":
                text += f" {self.quiet(known_at, end)}"
            yield rng.uniform(known_at, end), text, ("You hear", "From ")


def _moment(seconds: float) -> datetime:
    return moment(BASE + round(seconds * 1e6))


def _on_the_half(at: datetime) -> time:
    return time(at.hour, 30 * (at.minute >= 30))


# --- what follows


@dataclass(frozen=True, slots=True)
class Heard:
    """How a chat hears of a service, while it lasts. `why`: what withholds falls; empty: nothing does.
    `is_called`: it would not hear of it yet if somebody had it in hand."""

    start: float
    end: float
    why: str
    has_sound: bool
    is_called: bool = False


class Audience:
    """For each chat: `of` a service, how it hears of it, from when to when."""

    def __init__(self, facts: _Facts) -> None:
        self._facts, self._scenario = facts, facts.scenario
        self._routes: list[tuple[float, list[dict[str, Any]]]] = []
        self._owned = {name: story.acknowledged for name, story in facts.stories.items()}
        """When somebody had a service in hand."""
        self._read()
        self._parents = self._scenario.routing.parents
        self._children = {parent for parents in self._parents.values() for parent in parents}
        self._at_all = bool(self._routes or self._parents)
        self._known: dict[tuple[str, str], list[Heard]] = {}

    def _read(self) -> None:
        for stored in self._facts.played.world.events:
            at = (stored.at - BASE) / 1e6
            if streams.is_configuration(stored.subject):
                event = streams.read_configuration(stored.subject, stored.data)
                if event.name == "routes.all" and isinstance(event, ConfigurationSet):
                    self._routes.append((at, event.data.value["routes"]))

    def of(self, chat: str, it: Service, choices: Sequence[tuple[float, float, str]]) -> list[Heard]:
        """`choices`: of a subscriber, what it wrote: from when on it may hold, and from when on it does."""
        if not (self._at_all or choices):
            return []
        if (chat, it.name) not in self._known:
            edges = sorted(self._edges(it, choices))
            found = []
            for start, end in zip(edges, [*edges[1:], NEVER], strict=True):
                heard = self._heard(chat, it, start, choices)
                if found and heard == (found[-1].why, found[-1].has_sound, found[-1].is_called):
                    found[-1] = Heard(found[-1].start, end, *heard)
                else:
                    found.append(Heard(start, end, *heard))
            self._known[chat, it.name] = found
        return self._known[chat, it.name]

    def _edges(self, it: Service, choices: Sequence[tuple[float, float, str]]) -> set[float]:
        scenario = self._scenario
        first = scenario.start - 120
        begin = first - (first + BASE / 1e6) % 1800
        found = {begin + 1800 * n for n in range(int((scenario.end - begin) / 1800) + 2)}
        found |= {at for at, _ in self._routes}
        found |= {at for a, b, _ in choices for at in (a, b) if at < NEVER}
        found |= {at for span in self._owned.get(it.name, ()) for at in span if at < NEVER}
        found |= {at for span in it.tagged for at in span if at < NEVER}
        for change in it.changes:
            found |= {change.at, *(change.since + n * MINUTE for n in (2, 5, 15))}
        for parent in self._everything_above(it.name):
            other = self._facts.services[parent]
            found |= {at for span in (*other.paused, *other.absent) for at in span if at < NEVER}
            found |= {other.registered} - {NEVER}
            for change in other.changes:
                found |= {change.at, change.since + SILENT_AFTER}
        return found

    def _heard(
        self, chat: str, it: Service, at: float, choices: Sequence[tuple[float, float, str]]
    ) -> tuple[str, bool, bool]:
        if self._is_parent_down(it, at):
            return "parent", True, False
        if grace := self._grace(it, at):
            return grace, True, False
        if chat not in self._scenario.configured:
            return self._chosen(it, at, choices)
        return self._routed(chat, it, at)

    # --- dependencies

    def _everything_above(self, name: str) -> set[str]:
        found: set[str] = set()
        waiting = [name]
        while waiting:
            more = set(self._parents.get(waiting.pop(), ())) - found
            found |= more
            waiting += more
        return found

    def _above(self, name: str, at: float) -> set[str]:
        """What there is of it at a moment: what is deleted depends on nothing."""
        found: set[str] = set()
        waiting = [name]
        while waiting:
            for parent in self._parents.get(waiting.pop(), ()):
                if parent not in found and self._exists(parent, at):
                    found.add(parent)
                    waiting.append(parent)
        return found

    def _exists(self, name: str, at: float) -> bool:
        other = self._facts.services[name]
        return other.registered <= at and not any(a <= at < b for a, b in other.absent)

    def _is_parent_down(self, it: Service, at: float) -> bool:
        return any(
            other.status(at) in FALLEN and not any(a <= at < b for a, b in other.paused)
            for other in (self._facts.services[name] for name in self._above(it.name, at))
        )

    def _grace(self, it: Service, at: float) -> str:
        """One of them came back not long ago."""
        found = ""
        for name in self._everything_above(it.name):
            changes = self._facts.services[name].changes
            for n, change in enumerate(changes):
                if (
                    change.from_ in FALLEN
                    and change.to not in FALLEN
                    and change.at <= at < change.since + SILENT_AFTER
                ):
                    down = next(c for c in reversed(changes[:n]) if c.to in FALLEN and c.from_ not in FALLEN)
                    is_sure = name in self._parents.get(it.name, ()) and self._fell_within(
                        it, at, down.at + self._facts.margin(down.at), change.since
                    )
                    found = "parent" if is_sure else found or "perhaps parent"
        return found

    def _fell_within(self, it: Service, at: float, since: float, until: float) -> bool:
        """Whether it is worse than alive since a moment between these."""
        fell = None
        for change in it.changes:
            if change.at > at:
                break
            if change.to.badness <= Status.ALIVE.badness:
                fell = None
            elif fell is None:
                fell = change
        parent_is_one = not any(a <= until and since - 750 < b for a, b in it.paused)
        return fell is not None and parent_is_one and since < fell.since and fell.at < until

    # --- routes and choices

    def _routed(self, chat: str, it: Service, at: float) -> tuple[str, bool, bool]:
        routes = next((routes for since, routes in reversed(self._routes) if since <= at), [])
        status, is_tagged = it.status(at), any(a <= at < b for a, b in it.tagged)
        quiets, later, is_matched, is_told_to_any = list[Any](), list[float](), False, False
        for route in routes:
            match = route.get("match", {})
            name = match.get("name", "*")
            if (
                ("tags" in match and not is_tagged)
                or ("status" in match and status not in FALLEN)
                or (name not in ("*", it.name) and not (name == "s[01]" and it.name in ("s0", "s1")))
            ):
                continue
            is_matched = True
            is_told_to_any |= any(other in self._scenario.configured for other in route["to"])
            if chat in route["to"]:
                quiets.append(route.get("quiet"))
            if chat in route.get("escalate", {}).get("to", ()):
                later.append(int(route["escalate"]["after"][:-1]) * MINUTE)
            if not route.get("continue"):
                break
        if not is_matched or not is_told_to_any:
            return "", True, False
        kinds = {self._kind(quiet, at) for quiet in quiets}
        for kind, has_sound in (("sound", True), ("soft", False)):
            if kind in kinds:
                return "", has_sound, False
        fell = self._down_since(it, at)
        is_owned = any(a <= at < b for a, b in self._owned.get(it.name, ()))
        if later and fell is not None and at >= fell + min(later) and not is_owned:
            return "", True, True
        return ("held" if quiets else "waiting" if later else "away"), True, False

    def _kind(self, quiet: Any, at: float) -> str:
        if quiet is None:
            return "sound"
        text, hold = (quiet, False) if isinstance(quiet, str) else (_text(quiet), quiet["hold"])
        hours, _, zone = text.partition(" ")
        begin, end = (time.fromisoformat(it) for it in hours.split("-"))
        local = _moment(at).astimezone(ZoneInfo(zone) if zone else self._scenario.zone).time()
        is_within = begin <= local < end if begin < end else (local >= begin or local < end)
        return ("hold" if hold else "soft") if is_within else "sound"

    def _down_since(self, it: Service, at: float) -> float | None:
        fell = None
        for change in it.changes:
            if change.at > at:
                break
            if change.to not in FALLEN:
                fell = None
            elif fell is None:
                fell = change.since
        return fell

    def _chosen(
        self, it: Service, at: float, choices: Sequence[tuple[float, float, str]]
    ) -> tuple[str, bool, bool]:
        tags, quiet = None, None
        for begins, holds, text in choices:
            if begins <= at < holds:
                return "perhaps another choice", True, False
            if holds <= at:
                command, _, rest = text.partition(" ")
                if command == "/stop":
                    tags = quiet = None
                elif command == "/quiet":
                    quiet = None if rest == "off" else rest
                else:
                    tags = rest.split() if command == "/only" else None
        if tags is not None and not (TAG in tags and any(a <= at < b for a, b in it.tagged)):
            return "away", True, False
        return "", self._kind(quiet, at) == "sound", False


def _text(quiet: dict[str, Any]) -> str:
    return " ".join(filter(None, (quiet["hours"], quiet.get("time_zone"))))
