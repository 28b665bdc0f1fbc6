"""Who hears of a service: the routes' decision for one service at one moment. Pure.

Of several routes that name a channel the one counts by which it hears most: at once rather than by
escalation, with sound rather than without. Without any route that matches, or where none of the channels of
those that match is there any more, every channel hears of it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from shared.contracts.events import Status
from shared.contracts.routes import Quiet, QuietHours, Route, Routes

FALLEN = frozenset({Status.DOWN, Status.DEAD})


@dataclass(frozen=True, slots=True)
class Hearing:
    """How a channel hears of something now. `waits`: not yet, but at `until`, if it is known when. Then it is
    to be asked again."""

    has_sound: bool = True
    waits: bool = False
    until: datetime | None = None
    is_escalated: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """How a channel hears of a service in some status. `routes`: the places of those that say so, from 0;
    none: every channel hears of it. `quiet`: of each that names it at once; empty: none does. `after`: it is
    told in any case if nobody has the service in hand so long after its fall to down. `remind`: when it is
    reminded; None: as configured."""

    routes: tuple[int, ...] = ()
    quiet: tuple[Quiet | None, ...] = (None,)
    after: timedelta | None = None
    remind: tuple[timedelta, ...] | None = None

    def at(
        self,
        now: datetime,
        zone: ZoneInfo,
        down_since: datetime | None = None,
        *,
        is_acknowledged: bool = False,
    ) -> Hearing:
        """`zone`: of quiet hours that name none. `down_since`: when it fell to down; None: it has not."""
        direct = self._at_once(now, zone) if self.quiet else Hearing(waits=True)
        if not direct.waits or self.after is None or down_since is None or is_acknowledged:
            return direct
        told_at = down_since + self.after
        if told_at <= now:
            return Hearing(is_escalated=True)
        return Hearing(waits=True, until=min(told_at, direct.until or told_at))

    def _at_once(self, now: datetime, zone: ZoneInfo) -> Hearing:
        ends = [(it, it.until(now, zone)) if it else (None, None) for it in self.quiet]
        held = [until for quiet, until in ends if quiet and quiet.hold and until]
        if len(held) == len(ends):
            return Hearing(has_sound=False, waits=True, until=min(held))
        return Hearing(has_sound=any(until is None for _, until in ends))


EVERYBODY = Rule()
_AS_CONFIGURED: frozenset[tuple[timedelta, ...] | None] = frozenset({None})


@dataclass(frozen=True, slots=True)
class Choice:
    """What a subscriber chose. `only`: services with any of these tags; none: all."""

    only: tuple[str, ...] = ()
    quiet: QuietHours | None = None

    def rule(self, tags: tuple[str, ...]) -> Rule | None:
        if self.only and not set(self.only).intersection(tags):
            return None
        return Rule(quiet=(self.quiet,)) if self.quiet else EVERYBODY


class Router:
    """The routes among the channels that there are. What follows of them is remembered."""

    def __init__(self, routes: Routes, channels: Iterable[str]) -> None:
        self._routes, self.channels = routes.routes, frozenset(channels)
        self.match = lru_cache(maxsize=50_000)(self._match)
        self._rules_of = lru_cache(maxsize=1000)(self._rules)
        self._schedules_of = lru_cache(maxsize=1000)(self._schedules)

    def schedules(self, name: str, tags: tuple[str, ...]) -> frozenset[tuple[timedelta, ...] | None]:
        """All those by which some channel is reminded that a service is down; None: as configured."""
        if not self._routes:
            return _AS_CONFIGURED
        return self._schedules_of(self.match(name, tags, Status.DOWN))

    def rules(self, name: str, tags: tuple[str, ...], status: Status) -> Mapping[str, Rule]:
        """By channel; those that are missing do not hear of it."""
        return self._rules_of(self.match(name, tags, status))

    def rule(self, channel: str, name: str, tags: tuple[str, ...], status: Status) -> Rule | None:
        """None: the channel does not hear of it."""
        return self.rules(name, tags, status).get(channel) if self._routes else EVERYBODY

    def _match(self, name: str, tags: tuple[str, ...], status: Status) -> tuple[int, ...]:
        """The places of the routes that decide."""
        found = []
        for place, route in enumerate(self._routes):
            if route.match.is_about(name, tags, status):
                found.append(place)
                if not route.continue_:
                    break
        return tuple(found)

    def _schedules(self, places: tuple[int, ...]) -> frozenset[tuple[timedelta, ...] | None]:
        return _AS_CONFIGURED.union(rule.remind for rule in self._rules_of(places).values())

    def _rules(self, places: tuple[int, ...]) -> Mapping[str, Rule]:
        matching = [(place, self._routes[place]) for place in places]
        rules = {it: rule for it in self.channels if (rule := _rule_of(it, matching))}
        is_lost = any(it.to for _, it in matching) and not any(rule.quiet for rule in rules.values())
        return dict.fromkeys(self.channels, EVERYBODY) if is_lost or not rules else rules


def _rule_of(channel: str, matching: Sequence[tuple[int, Route]]) -> Rule | None:
    direct = [(place, route) for place, route in matching if channel in route.to]
    later = [
        (step.after, place, route)
        for place, route in matching
        for step in route.escalate
        if channel in step.to
    ]
    if not (direct or later):
        return None
    first = min(later, key=lambda it: it[:2], default=None)
    saying = [*direct, *([first[1:]] if first else [])]
    return Rule(
        tuple(dict.fromkeys(place for place, _ in saying)),
        tuple(route.quiet for _, route in direct),
        first[0] if first else None,
        next((route.remind for _, route in saying if route.remind is not None), None),
    )
