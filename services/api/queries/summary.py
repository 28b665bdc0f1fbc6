"""What the next digest would say, from what the API holds in memory."""

from collections.abc import Sequence
from datetime import datetime, time
from zoneinfo import ZoneInfo

from services.api.http.models import NextDigest
from services.api.queries.event_hub import EventHub
from shared.contracts.events import micros
from shared.domain import digest


def next_digest(hub: EventHub, now: datetime, zone: ZoneInfo, at: time | None, deaf_after: int) -> NextDigest:
    """The digest as it would be sent now, and when the next one will be. `deaf_after`: microseconds."""
    return NextDigest(
        at=digest.next_digest_at(now, zone, at) if at else None,
        text=digest.plain(digest_of(hub, now, hub.coverage.gaps_until(micros(now), deaf_after)), zone),
    )


def digest_of(hub: EventHub, now: datetime, gaps: Sequence[tuple[int, int]] = ()) -> digest.Digest:
    return digest.digest(hub.index, hub.marks, now, gaps=gaps, begins=hub.begins)
