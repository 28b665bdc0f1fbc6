"""Whether a schedule seems to be in the wrong time zone: what came was off by the same whole or half hours.
Pure; whole microseconds."""

from datetime import timedelta

from shared.contracts import durations
from shared.contracts.events import MICRO

IN_A_ROW = 3
"""So many must be off alike."""
_HALF_HOUR = timedelta(minutes=30)
_HALF, _NEAR = _HALF_HOUR // MICRO, timedelta(minutes=5) // MICRO


def half_hours(offset: int) -> int:
    """How many half hours an offset is; 0 where it is none, or not near to a whole one."""
    halves, rest = divmod(offset + _NEAR, _HALF)
    return halves if rest <= 2 * _NEAR else 0


def zone_hint(offsets: tuple[int, ...]) -> str:
    """What is said where the last ones came off by the same half hours; else nothing."""
    if len(offsets) < IN_A_ROW or not offsets[0] or len(set(offsets)) > 1:
        return ""
    off = durations.spoken(abs(offsets[0]) * _HALF_HOUR)
    side = "after" if offsets[0] > 0 else "before"
    return f"came {off} {side} each expected time, three times in a row: is the time zone right?"
