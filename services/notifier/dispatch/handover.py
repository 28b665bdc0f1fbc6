"""Where receivers begin to read when a notifier starts: on the record that their states are of, on another
one that took its place while no notifier ran, or right after the notifier that this one follows."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import structlog
from nats.js.kv import KeyValue

from services.notifier.dispatch.notification_log import ReceiverState
from services.notifier.dispatch.seen_record import SeenRecord, load_seen_record
from services.notifier.event_log import EventLog
from shared.contracts.events import moment
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection, retry_until_done
from shared.messaging.stream_identity import Comparison, check_stream, known_until

log = structlog.get_logger()

MAX_RECORDING_DELAY = timedelta(seconds=5)
"""A change may be recorded so long after its date: what is dated later than that before the end of a record
may not have been told from it."""


@dataclass(frozen=True)
class Handover:
    """What a notifier leaves to the one that begins anew in its place: the record that it followed, how its
    receivers stand, by key, and who has subscribed. The latter two are empty if it never came to speak."""

    seen: SeenRecord
    receivers: dict[str, ReceiverState]
    subscribers: dict[str, datetime]


@dataclass(frozen=True)
class StartingPoint:
    """`end`: what is stored up to here is no news to a new receiver. `anew`: the record is another one than
    that of the receivers' states. `handover`: None if another notifier has spoken since."""

    end: int
    anew: bool
    handover: Handover | None


async def starting_point(
    link: BrokerConnection, event_log: EventLog, bucket: KeyValue, end: int, handover: Handover | None
) -> StartingPoint:
    """`end`: the sequence of the newest event."""
    seen = await load_seen_record(bucket)
    if handover and seen and seen.seen_at > handover.seen.seen_at:
        handover = None  # another notifier has spoken since
    if handover:
        seen = handover.seen
    if seen is None or (decision := await _compare(link, seen)) is Comparison.SAME:
        return StartingPoint(end, False, handover)
    log.info("the cursors are of another record", why=decision.value)
    told = await known_until(link, seen.seen_at)
    event_log.skip_told_before(moment(seen.seen_at) - MAX_RECORDING_DELAY, told)
    if decision is Comparison.PURGED:  # the sequences are what they were
        return StartingPoint(end, False, handover)
    return StartingPoint(told, True, handover)


async def _compare(link: BrokerConnection, seen: SeenRecord) -> Comparison:
    question = partial(check_stream, link, streams.SERVICES, seen.events)
    decision: Comparison = (await retry_until_done("compare the record", question))[0]
    return decision
