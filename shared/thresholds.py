"""Which thresholds judge a service: its own, those its declared interval gives, or the registry's. Pure."""

from datetime import timedelta
from typing import TypeVar

T = TypeVar("T", int, timedelta)

SILENT_BEATS, DOWN_BEATS, DEAD_BEATS = 3, 12, 24
"""Missed intervals until each fall, where a service's heartbeats declare one and nothing is configured."""


def in_force(
    own: tuple[T | None, T | None, T | None], every: T | None, default: tuple[T, T, T]
) -> tuple[T, T, T]:
    """The thresholds after which a service is silent, down and dead, in any unit of time.

    Whoever configures one threshold takes them over: then the declared interval counts no more. Where only
    some are configured, the defaults make way so that their order holds.
    """
    if every and not any(own):
        down = DOWN_BEATS * every
        return SILENT_BEATS * every, down, default[2] if default[2] > down else DEAD_BEATS * every
    silent, down, dead = (mine or fallback for mine, fallback in zip(own, default, strict=True))
    return silent, max(down, silent), max(dead, down, silent)
