"""Which services a receiver has muted, and until when."""

from collections.abc import Mapping
from datetime import datetime

from services.notifier.dispatch.pending import EXPIRES_AFTER

MAX_MUTES = 500

Mutes = dict[str, datetime]


def active_mutes(mutes: Mapping[str, datetime], now: datetime) -> Mutes:
    return {name: until for name, until in mutes.items() if until > now}


def with_mute(mutes: Mapping[str, datetime], name: str, until: datetime, now: datetime) -> Mutes:
    """Also keeps mutes that have ended while a change may still wait that was stored before their end."""
    recent = active_mutes(mutes, now - EXPIRES_AFTER)
    return {**dict(list(recent.items())[-2 * MAX_MUTES :]), name: until}
