"""Where receivers begin when a notifier starts. The record of events may be the one that their states are of,
or another one took its place while no notifier ran, or this notifier follows one in the same process."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import structlog
from nats.errors import Error as NatsError
from nats.js.kv import KeyValue
from pydantic import BaseModel, ValidationError

from services.notifier.alerting.policy import Withheld
from services.notifier.channels.channel import Channel
from services.notifier.consumer import EventLog
from services.notifier.dispatch import notification_log
from services.notifier.dispatch.dependencies import ReceiverDependencies
from services.notifier.dispatch.notification_log import MessageKind, ReceiverState
from services.notifier.dispatch.receiver import ReceiverWorker
from shared.contracts.events import Status, moment
from shared.domain.digest import digest_due
from shared.messaging import record_watch, streams
from shared.messaging.connection import BrokerConnection, retry_until_done
from shared.messaging.kv_record import KvRecord
from shared.messaging.record_watch import Comparison, Marks, RecordWatch, StreamMark

log = structlog.get_logger()

KEY = "record"
NOTE_INTERVAL = 10.0
"""Seconds between two notes."""


class SeenRecord(BaseModel, frozen=True):
    """`events`: the stream SERVICES as it was. `seen_at`: the broker's time of that, microseconds."""

    events: StreamMark
    seen_at: int


async def load_seen_record(bucket: KeyValue) -> SeenRecord | None:
    content = await KvRecord(bucket, KEY).read()
    if content is None:
        return None
    try:
        return SeenRecord.model_validate_json(content)
    except ValidationError as error:
        log.warning("of which record the cursors are cannot be read", why=str(error))
        return None


class RecordNotes:
    def __init__(self, watch: RecordWatch, bucket: KeyValue) -> None:
        self._watch = watch
        self._bucket = bucket
        self._noted_at = float("-inf")

    async def note(self, marks: Marks) -> None:
        """Once in a while. If the broker does not store it, the next note says more."""
        clock = asyncio.get_running_loop().time()
        if clock > self._noted_at + NOTE_INTERVAL:
            self._noted_at = clock
            seen = SeenRecord(events=marks[streams.SERVICES], seen_at=self._watch.seen_at)
            with suppress(NatsError, OSError, TimeoutError):
                await self._bucket.put(KEY, seen.model_dump_json().encode())


MAX_RECORDING_DELAY = timedelta(seconds=5)
"""How long after its date a change is recorded at most: what is newer may not have been told."""


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
    if seen is None:
        return StartingPoint(end, False, handover)
    question = partial(record_watch.check_stream, link, streams.SERVICES, seen.events)
    decision, *_ = await retry_until_done("compare the record", question)
    if decision is Comparison.SAME:
        return StartingPoint(end, False, handover)
    log.info("the cursors are of another record", why=decision.value)
    told = await record_watch.known_until(link, seen.seen_at)
    event_log.skip_told_before(moment(seen.seen_at) - MAX_RECORDING_DELAY, told)
    if decision is Comparison.PURGED:  # the sequences are what they were
        return StartingPoint(end, False, handover)
    return StartingPoint(told, True, handover)


async def open_receiver(
    channel: Channel,
    bucket: KeyValue,
    end: int,
    deps: ReceiverDependencies,
    *,
    anew: bool = False,
    known: ReceiverState | None = None,
) -> ReceiverWorker:
    """A receiver that is new begins at the record's end. So does one that was told more than the record has:
    a backup was put back, or the broker emptied. `anew`: the record is known to be another one than that of
    its state, which is `known` if it was in use until now."""
    now = deps.now()
    today = digest_due(now, deps.links.zone, deps.digest_at, None) if deps.digest_at else None
    runs_end = await deps.newest_run()
    fresh = ReceiverState(
        done=end, digest=today, weekly=today, notices=now, heard_until=now, runs=runs_end, runs_since=now
    )
    log = await notification_log.load(bucket, channel.key, fresh)
    state = known or log.state
    if state.done > end and not anew:  # whoever spoke before went on while this one began
        end = await deps.newest()
    if state.off and state.off_since is None:  # by an older version, which kept nothing for it
        state = state.model_copy(update={"done": end, "off_since": now})
    if anew or state.done > end:
        state = _on_another_record(state, end, anew)
    if state.runs is not None and _runs_seen(state) > runs_end and not anew:
        runs_end = await deps.newest_run()
    if anew or state.runs is None or _runs_seen(state) > runs_end:
        state = _with_runs_from_now_on(state, runs_end, now)
    # Older versions did not know all of its fields.
    if state.notices is None:
        state = state.model_copy(update={"notices": now, "weekly": today})
    if state.heard_until is None:
        owed = _withheld_by_windows(deps, state)
        state = state.model_copy(update={"heard_until": now, "owed": owed})
    if state != log.state or state.sending:
        # What is tried again is intended by this notifier, or one that goes on could overwrite it unseen.
        await log.write(state)
    return ReceiverWorker(channel, log, deps)


def _on_another_record(state: ReceiverState, end: int, anew: bool) -> ReceiverState:
    sending = state.sending
    if sending:
        changes = sending.of is MessageKind.CHANGES
        sending = None if changes else sending.model_copy(update={"through": end})
    owed = {name: it for name, it in state.owed.items() if it.seq <= end and not anew}
    shown = () if anew else state.shown  # they are about incidents of the other one
    return state.model_copy(update={"done": end, "sending": sending, "owed": owed, "shown": shown})


def _runs_seen(state: ReceiverState) -> int:
    return max(state.runs or 0, state.sending.runs if state.sending else 0)


def _with_runs_from_now_on(state: ReceiverState, runs_end: int, now: datetime) -> ReceiverState:
    """An older version knew of no runs; or they are not those that were there before, and may come again."""
    sending = state.sending
    if sending and sending.of is MessageKind.RUNS:
        sending = None
    return state.model_copy(update={"runs": runs_end, "runs_since": now, "sending": sending})


def _withheld_by_windows(deps: ReceiverDependencies, state: ReceiverState) -> dict[str, Withheld]:
    """What went down within maintenance that was not over when reminders had been sent last. An older version
    would have told it at the end of the window."""
    found = {}
    for name in deps.states:
        service = deps.states.get(name)
        end = deps.maintenance_until(name, moment(service.since)) if service.is_down else None
        if end and service.status_seq <= state.done and (state.notices is None or end > state.notices):
            found[name] = Withheld(service.status_seq, Status.ALIVE)
    return found
