"""Which channel was told what of which incident, appended to the record before a receiver's cursor moves: so
a message that a crash repeats is recorded twice, as it was sent."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime
from typing import Literal, NamedTuple

import structlog
from prometheus_client import Counter

from services.notifier.alerting.changes import NoticeKind
from services.notifier.texts.message import OutgoingMessage
from shared.contracts.events import IncidentData, ServiceTold, Status, Told
from shared.domain import incidents
from shared.domain.incidents import Incident, IncidentState
from shared.messaging.errors import NotStored
from shared.messaging.incident_log import IncidentLog

log = structlog.get_logger()

UNRECORDED = Counter(
    "registry_told_unrecorded_total", "Services of which a chat was told, and no event says so"
)
MAX_AT_ONCE = 500
"""Events on their way to the broker."""
MAX_PER_MINUTE = 20_000
"""Events; 2,000 services that fall together in 10 channels. Else a storm would hold up messages to many."""
REFUSED_PAUSE = 60.0
"""Seconds in which nothing is recorded after the broker refused it: messages matter more."""

What = Literal["change", "reminder", "owed", "escalation"]


class _Item(NamedTuple):
    """`seq`, `since`: of the newest change that was told."""

    name: str
    seq: int
    since: datetime
    status: Status
    what: What


class ToldLog:
    """`incidents_of`: see `ReceiverDependencies`. `incident_before`: by a service's change to alive, and when
    that was, the incident that it ended."""

    def __init__(
        self,
        incident_log: IncidentLog,
        now: Callable[[], datetime],
        incidents_of: Callable[[Sequence[tuple[str, int, datetime]]], Awaitable[dict[str, Incident]]],
        incident_before: Callable[[str, int, datetime], Awaitable[Incident | None]],
    ) -> None:
        self._log, self._now = incident_log, now
        self._incidents_of, self._incident_before = incidents_of, incident_before
        self._recent = deque[tuple[float, int]]()
        """When how many were recorded."""
        self._refused_until = 0.0
        self._lock = asyncio.Lock()
        """Or channels that are told the same at once would be in each other's way."""

    async def record(self, channel: str, message: OutgoingMessage) -> None:
        """Waits for the broker as long as it is away; one that is there and refuses costs a while."""
        items = list(_items(message))
        if asyncio.get_running_loop().time() < self._refused_until:
            UNRECORDED.inc(len(items))
            return
        if not self._has_room(len(items)):
            UNRECORDED.inc(len(items))
            log.warning(
                "who was told is not recorded, as it is too much", channel=channel, services=len(items)
            )
            return
        async with self._lock:
            for start in range(0, len(items), MAX_AT_ONCE):
                part, at = items[start : start + MAX_AT_ONCE], self._now()
                falls = [(it.name, it.seq, it.since) for it in part if it.status is not Status.ALIVE]
                known = await self._incidents_of(falls) if falls else {}
                await asyncio.gather(*(self._append(channel, it, known.get(it.name), at) for it in part))

    def _has_room(self, count: int) -> bool:
        """Whether so many more are not too much for the last minute."""
        now, recent = asyncio.get_running_loop().time(), self._recent
        while recent and recent[0][0] < now - 60:
            recent.popleft()
        if recent and sum(each for _, each in recent) + count > MAX_PER_MINUTE:
            return False
        recent.append((now, count))
        return True

    async def _append(self, channel: str, it: _Item, incident: Incident | None, at: datetime) -> None:
        if it.status is Status.ALIVE:
            incident = await self._incident_before(it.name, it.seq, it.since)
        told = Told(channel=channel[:200], at=at, status=it.status, what=it.what)

        def decide(state: IncidentState) -> IncidentData:
            return incidents.told(state, at, told, incident.id if incident else None)

        try:
            await self._log.append(ServiceTold, it.name, decide, at)
        except NotStored as error:
            UNRECORDED.inc()
            self._refused_until = asyncio.get_running_loop().time() + REFUSED_PAUSE
            log.warning("who was told is not recorded", service=it.name, channel=channel, why=str(error))


def _items(message: OutgoingMessage) -> Iterator[_Item]:
    for change in {it.name: it for it in message.changes}.values():
        what: What = "escalation" if change.nobody_for else "change"
        yield _Item(change.name, change.seq, change.since, change.to, what)
    for notice in message.notices:
        what = "reminder" if notice.kind in (NoticeKind.REMINDER, NoticeKind.FLAPS) else "owed"
        what = "escalation" if notice.nobody_for else what
        yield _Item(notice.name, notice.seq, notice.since, notice.status, what)
