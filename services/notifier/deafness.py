"""When the registry could take no heartbeats, as the ticks in the stream prove it."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from datetime import datetime, timedelta
from functools import partial

from services.notifier.alerting.changes import Deafness
from shared.contracts.events import MICRO, Tick, micros, moment
from shared.domain.coverage import Coverage
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection, retry_until_done, set_within
from shared.messaging.queries import last_sequence
from shared.messaging.reader import Reader, Stored

TOLD_AFTER = timedelta(minutes=5)
"""Deafness up to this long is told nobody."""
STARTUP_GRACE = timedelta(seconds=60)
"""After the start, or a lost connection, ingest has this long for its first tick before deafness counts as
lasting. (With the tick it is over, and told as that.)"""
READ_TIMEOUT = 5.0
"""Seconds that a digest waits for the ticks to be read after a start."""
CLOCK_CHECK_INTERVAL = timedelta(minutes=1)


class TickCoverage:
    """What ticks prove. Pure; `take` each that is stored, `caught_up` when all were."""

    def __init__(self) -> None:
        self._coverage = Coverage()
        self._known_since: datetime | None = None

    def take(self, stored: Stored) -> None:
        try:
            proved = Tick.model_validate_json(stored.data or b"{}").proves(stored.at)
        except ValueError:
            return
        self._coverage.prove(*proved)

    def caught_up(self, now: datetime) -> None:
        self._known_since = self._known_since or now

    def lost(self) -> None:
        """The connection is away: there may be ticks that were not read."""
        self._known_since = None

    @property
    def until(self) -> datetime | None:
        """When it could be heard last; None: never yet."""
        return moment(self._coverage.until) if self._coverage.until else None

    def deafness(self, after: datetime, now: datetime) -> list[Deafness] | None:
        """Each that is worth telling and did not end by `after`; `now` by the broker's clock. None: not known
        now. What was before the first tick of all is none."""
        until = self.until
        if self._known_since is None:
            return None
        ended_after = micros(after)
        found = [
            Deafness(moment(start), moment(end))
            for start, end in self._coverage.gaps
            if start and end > ended_after and end - start > TOLD_AFTER // MICRO
        ]
        if until and now - until > TOLD_AFTER:
            if now - self._known_since < STARTUP_GRACE:
                return None
            found.append(Deafness(until))
        return found

    def gaps(self, now: datetime, patience: timedelta) -> list[tuple[int, int]]:
        """All of them, however short, in microseconds. The last goes on if it is longer than `patience`."""
        return self._coverage.gaps_until(micros(now), patience // MICRO)


class DeafnessWatch:
    """`follow` for ever."""

    def __init__(self, link: BrokerConnection) -> None:
        self._link = link
        self.heard = TickCoverage()
        self._ahead = timedelta()
        """By how much the broker's clock is ahead of ours."""
        self._compared_at: datetime | None = None
        self._read_once = asyncio.Event()
        link.on_lost.append(self.heard.lost)

    def deafness(self, after: datetime, now: datetime) -> list[Deafness] | None:
        return self.heard.deafness(after, now + self._ahead)

    async def gaps(self, now: datetime, patience: timedelta) -> list[tuple[int, int]]:
        """As in `TickCoverage`. Right after a start it waits for the ticks to be read, up to READ_TIMEOUT."""
        await set_within(self._read_once, READ_TIMEOUT)
        return self.heard.gaps(now + self._ahead, patience)

    async def follow(self, now: Callable[[], datetime]) -> None:
        reader = Reader(self._link, streams.HEARTBEATS, streams.ALL_TICKS, newest_per_subject=True)
        async with aclosing(reader.batches()) as batches:
            async for batch in batches:
                for stored in batch:
                    self.heard.take(stored)
                if reader.pending == 0:
                    if self._compared_at is None or now() - self._compared_at > CLOCK_CHECK_INTERVAL:
                        ask = partial(last_sequence, self._link, streams.HEARTBEATS)
                        _, at = await retry_until_done("ask for the broker's time", ask)
                        self._compared_at = now()
                        self._ahead = moment(at) - self._compared_at
                    self.heard.caught_up(now() + self._ahead)
                    self._read_once.set()
