"""The record of runs, for those of an unusual length: `RunConsumer` gives them to every receiver, in order.
The receivers keep how far they have come, as they do for events."""

from collections import Counter
from collections.abc import Callable
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from functools import partial

from services.notifier.alerting.changes import UnusualRun
from services.notifier.consumer import report_unreadable
from services.notifier.states import ServiceStates
from shared.contracts.events import Outcome, is_gap, moment, parse_run
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection, retry_until_done
from shared.messaging.errors import NotStored
from shared.messaging.queries import last_sequence, newest
from shared.messaging.reader import PENDING, Reader, Stored
from shared.messaging.record_watch import AnotherRecord, Comparison

PENDING.labels(streams.RUNS)

_SUCCEEDED = b'"outcome":"success"'


class RunConsumer:
    """Set `position` to the sequence to begin after, then `watch`."""

    def __init__(self, link: BrokerConnection, states: ServiceStates) -> None:
        self._link, self._states = link, states
        self.subscribers: list[Callable[[int, UnusualRun | None], None]] = []
        """Each is given every fact: its sequence, and the run, if it is to be told."""
        self.position = 0

    async def newest_sequence(self) -> int:
        ask = partial(last_sequence, self._link, streams.RUNS)
        return (await retry_until_done("ask for the newest run", ask))[0]

    async def page(self, after: int, most: int) -> tuple[list[UnusualRun], int, bool]:
        """About `most` runs to tell after a sequence, the sequence read last, whether that was the end."""
        found: list[UnusualRun] = []
        reader = Reader(self._link, streams.RUNS, streams.ALL_RUNS, after=after)
        async with aclosing(reader.to_end()) as batches:
            async for batch in batches:
                found += [run for stored in batch if (run := self._parse(stored))]
                if len(found) >= most:
                    break
        return found, reader.position, reader.pending == 0

    async def outcomes_since(self, since: datetime) -> Counter[Outcome]:
        """How the runs of the services that there are ended that were recorded since then."""
        ended: Counter[Outcome] = Counter()
        others: dict[str, dict[str, Outcome]] = {}
        begin = since.astimezone(UTC).isoformat().replace("+00:00", "Z")
        reader = Reader(self._link, streams.RUNS, streams.ALL_RUNS, since=begin)
        async for batch in reader.to_end():
            for subject, data, *_ in batch:
                of_service = others.get(subject)
                if of_service is None and _SUCCEEDED in data:  # nearly all are
                    ended[Outcome.SUCCESS] += self._states.get(streams.name_in(subject)).exists
                elif self._states.get(streams.name_in(subject)).exists:
                    with suppress(ValueError):
                        found = parse_run(data).data
                        others.setdefault(subject, {})[found.key] = found.outcome
        for of_service in others.values():
            ended.update(of_service.values())
        return ended

    async def start_of(self, name: str, ended: datetime) -> datetime | None:
        """When the run began that ended with the newest heartbeat, if both are known."""
        with suppress(NotStored, ValueError):
            found = await newest(self._link, streams.RUNS, streams.run(name))
            data = parse_run(found.data).data if found else None
            return data.started_at if data and data.ended_at == ended else None
        return None

    async def watch(self) -> None:
        """For ever. Raises AnotherRecord when it has begun beyond the stream's end."""
        end = await self.newest_sequence()
        if end < self.position:
            raise AnotherRecord(streams.RUNS, Comparison.OLDER)
        reader = Reader(self._link, streams.RUNS, streams.ALL_RUNS, after=self.position)
        async with aclosing(reader.batches()) as batches:
            async for batch in batches:
                PENDING.labels(streams.RUNS).set(reader.pending or 0)
                for stored in batch:
                    self._pass_on(stored.seq, self._parse(stored))
                if reader.pending == 0:  # what of the first ones did not come is there no more
                    self._pass_on(end, None)

    def _pass_on(self, seq: int, run: UnusualRun | None) -> None:
        if seq > self.position:
            for enqueue in self.subscribers:
                enqueue(seq, run)
            self.position = seq

    def _parse(self, stored: Stored) -> UnusualRun | None:
        """The run, if it is to be told."""
        if is_gap(stored.data):
            return None
        try:
            event = parse_run(stored.data)
        except ValueError as error:
            report_unreadable(stored.subject, stored.seq, str(error))
            return None
        data = event.data
        if not data.notify or not data.unusual or streams.run(event.name) != stored.subject:
            return None
        return UnusualRun(
            stored.seq,
            moment(stored.at),
            event.name,
            event.time,
            data.outcome,
            data.unusual,
            data.started_at,
            data.duration,
            data.run,
            silenced=self._states.is_silenced(event.name)
            or self._states.incidents.muted(event.name, moment(stored.at)) is not None,
        )
