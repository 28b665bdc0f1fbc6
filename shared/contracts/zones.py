"""Time zones by their names, and moments as people in a zone read them. Pure, but for the zones' files."""

from datetime import datetime, timedelta
from functools import cache
from typing import Annotated
from zoneinfo import ZoneInfo, available_timezones, reset_tzpath

import tzdata
from pydantic import AfterValidator

reset_tzpath(())  # the zones of the locked package, not those of the machine: all services reckon alike
DATA_VERSION = tzdata.IANA_VERSION
"""Such as 2026f."""
ACCEPTED = "an IANA time zone such as UTC or Europe/Berlin"


def zone(name: str) -> ZoneInfo:
    """The zone of this name. ValueError says what is accepted. (To the library a name is the path of a file:
    a folder such as `Europe`, a NUL or ten thousand letters each raise another error there.)"""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        meant = _by_any_name().get(name.strip().replace(" ", "_").lower()) if len(name) <= 64 else None
        hint = f"; do you mean {meant}?" if meant else ""
        raise ValueError(f"must be {ACCEPTED}{hint}") from None


@cache
def _by_any_name() -> dict[str, str]:
    """All zones by their names in lower case, and by the last part of them: `berlin`."""
    names = sorted(available_timezones(), key=len, reverse=True)
    return {it.rpartition("/")[2].lower(): it for it in names} | {it.lower(): it for it in names}


def _named(name: str) -> str:
    try:
        return zone(name).key
    except ValueError as error:
        raise ValueError(f"{name[:40]!r} {error}") from None


ZoneName = Annotated[str, AfterValidator(_named)]
"""A pydantic field with the name of a zone."""


def local(moment: datetime, zone: ZoneInfo) -> str:
    """A moment as people in `zone` read it: `2026-11-23 14:03:05 CET`."""
    return f"{in_zone(moment, zone):%Y-%m-%d %H:%M:%S %Z}"


_SOON = timedelta(hours=12)


def in_a_word(moment: datetime, now: datetime, zone: ZoneInfo) -> str:
    """A moment as people in `zone` name it: `03:00`, `Mon 09:00`, `2026-12-03 09:00`. The day is left out of
    one that is today's, or comes soon."""
    there = in_zone(moment, zone)
    days = abs((there.date() - in_zone(now, zone).date()).days)
    is_clear = not days or now < moment <= now + _SOON
    day = "" if is_clear else "%a " if days < 7 else "%Y-%m-%d "
    return format(there, day + ("%H:%M:%S" if there.second else "%H:%M"))


def in_zone(moment: datetime, zone: ZoneInfo) -> datetime:
    """A moment in `zone`; unchanged at the ends of the calendar, where it cannot be converted."""
    try:
        return moment.astimezone(zone)
    except OverflowError:
        return moment
