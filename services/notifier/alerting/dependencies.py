"""What depends on what, and whose fall is held back while something that it depends on is down. Pure."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.notifier.alerting.changes import FALLEN
from services.notifier.states import ServiceStates
from shared.contracts.events import MICRO, Status, moment
from shared.contracts.thresholds import in_force, inheritance
from shared.domain.service_state import ServiceState

MAX_ANCESTORS = 1000
"""Services that one depends on, directly and over others, that are looked at."""


def own_silent_after(default: tuple[timedelta, timedelta, timedelta]) -> Callable[[ServiceState], timedelta]:
    """Of a service, its threshold in force. `default`: silent, down and dead of those that have none."""
    silent, down, dead = (length // MICRO for length in default)

    def silent_after(state: ServiceState) -> timedelta:
        own = state.silent_after, state.down_after, state.dead_after
        limits = in_force(
            own,
            state.every,
            (silent, down, dead),
            scheduled=bool(state.schedule),
            inherited=inheritance(state.inherited),
        )
        return limits[0] * MICRO

    return silent_after


@dataclass(frozen=True, slots=True)
class Hold:
    """`until`: when it ends by itself, if that is known. `is_only_to_see`: whether something that it depends
    on falls in the same tick, whose event may be the next one."""

    until: datetime | None
    is_only_to_see: bool = False


@dataclass(frozen=True, slots=True)
class _Outage:
    """Of one that others depend on. `began`: None if that is not known."""

    began: datetime | None
    ended: datetime | None = None


class Dependencies:
    """Told by `states` of every service that is configured or changes. `silent_after`: a service's own.
    `same_tick`: for how long a fall waits for those of the same tick."""

    def __init__(
        self,
        states: ServiceStates,
        silent_after: Callable[[ServiceState], timedelta],
        same_tick: timedelta = timedelta(seconds=2),
    ) -> None:
        self._states, self._silent_after, self._same_tick = states, silent_after, same_tick
        self._parents: dict[str, tuple[str, ...]] = {}
        self._children: dict[str, dict[str, None]] = {}
        self._outages: dict[str, _Outage] = {}
        """The newest of each service that is or was down."""
        states.watchers.append(self._apply)

    def _apply(self, name: str) -> None:
        state = self._states.get(name)
        parents = state.depends_on if state.exists else ()
        if parents != self._parents.get(name, ()):
            for parent in self._parents.pop(name, ()):
                self._children[parent].pop(name, None)
                if not self._children[parent]:
                    del self._children[parent]
            if parents:
                self._parents[name] = parents
            for parent in parents:
                self._children.setdefault(parent, {})[name] = None
        if state.is_down:
            known = self._outages.get(name)
            if known is None or known.ended:
                began = moment(state.since) if state.status is Status.DOWN else None
                self._outages[name] = _Outage(began)
        elif not state.exists or state.status is Status.UNKNOWN:
            self._outages.pop(name, None)
        elif (known := self._outages.get(name)) and known.ended is None:
            self._outages[name] = _Outage(known.began, moment(state.since))
        elif known is None and state.status is Status.ALIVE and state.changed_from in FALLEN:
            self._outages[name] = _Outage(None, moment(state.since))

    def hold(
        self, name: str, fell: datetime, now: datetime, *, was_held: bool = False, is_new: bool = False
    ) -> Hold | None:
        """What holds back that a service has fallen, which was due at `fell`; None: nothing does. `was_held`:
        it was held back before, for what it depends on. `is_new`: it was not waited yet for those of the same
        tick."""
        if name not in self._parents:
            return None
        ends, is_watched = [], False
        for parent in self._ancestors(name):
            state = self._states.get(parent)
            if not state.exists or state.paused:
                continue
            if state.is_down:
                return Hold(None)
            is_watched = True
            outage = self._outages.get(parent)
            if outage and outage.ended and (was_held or self._is_within(fell, outage)):
                ends.append(outage.ended + self._silent_after(self._states.get(name)))
        until = max(ends, default=now)
        if until > now:
            return Hold(until)
        return Hold(now + self._same_tick, is_only_to_see=True) if is_new and is_watched else None

    def _is_within(self, fell: datetime, outage: _Outage) -> bool:
        began = outage.began
        return (began is None or fell >= began - self._same_tick) and (
            outage.ended is None or fell < outage.ended
        )

    def _ancestors(self, name: str) -> Iterator[str]:
        return _reached(name, self._parents, MAX_ANCESTORS)

    def descendants(self, name: str) -> Iterator[str]:
        """What depends on a service, directly or over others."""
        return _reached(name, self._children)

    def fallen_with(self, name: str) -> Iterator[str]:
        """Those of them that are silent, down or dead too."""
        for other in self.descendants(name):
            state = self._states.get(other)
            if state.status.badness > Status.ALIVE.badness and not state.paused:
                yield other


def _reached(name: str, neighbours: Mapping[str, Iterable[str]], most: int | None = None) -> Iterator[str]:
    """All that can be reached from a service, the nearest first, each once; without itself."""
    seen, waiting = {name}, deque([name])
    while waiting:
        for other in neighbours.get(waiting.popleft(), ()):
            if other not in seen:
                if most is not None and len(seen) > most:
                    return
                seen.add(other)
                waiting.append(other)
                yield other
