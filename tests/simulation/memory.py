"""What stands in the streams is read once, however many ask for it: monitors, their next lives, and checks.
Reading is pure, so nobody can tell the difference but by the time it takes."""

from functools import lru_cache
from types import SimpleNamespace

from shared.contracts import events, heartbeats

KEPT = 1_000
"""More than all that is read in one simulation."""

parse_event = lru_cache(KEPT)(events.parse_event)
parse_run = lru_cache(KEPT)(events.parse_run)
parse_fact = lru_cache(KEPT)(events.parse_fact)


class KnownTick:
    """A tick, and what it proves by when it was stored."""

    __slots__ = ("_proved", "_tick")

    def __init__(self, payload: bytes) -> None:
        self._tick = events.Tick.model_validate_json(payload)
        self._proved: dict[int, tuple[int, int]] = {}

    def proves(self, stored_at: int) -> tuple[int, int]:
        if (found := self._proved.get(stored_at)) is None:
            found = self._proved[stored_at] = self._tick.proves(stored_at)
        return found


parse_tick = lru_cache(KEPT)(KnownTick)
TICK = SimpleNamespace(model_validate_json=parse_tick)
"""In place of `Tick`."""


@lru_cache(KEPT)
def _heartbeat(name: str, payload: bytes, headers: tuple[tuple[str, str], ...]) -> events.Heartbeat:
    return heartbeats.parse_heartbeat(name, payload, dict(headers))


def parse_heartbeat(name: str, payload: bytes, headers: dict[str, str] | None) -> events.Heartbeat:
    return _heartbeat(name, payload, tuple(headers.items()) if headers else ())
