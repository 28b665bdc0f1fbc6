"""What people do about incidents from a chat: acknowledge, mute, unmute. Each is an event for everybody."""

from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime

from services.notifier.incidents import Incidents
from services.notifier.texts.incidents import MAX_ID, clock
from services.notifier.texts.message import LinkContext
from shared.contracts.events import (
    IncidentData,
    ServiceAcknowledged,
    ServiceMuted,
    ServiceUnmuted,
)
from shared.domain import incidents
from shared.domain.incidents import IncidentState, NoIncident, Taken, person
from shared.messaging.errors import BrokerError
from shared.messaging.incident_log import IncidentLog

STORE_TIMEOUT = 10.0
"""Seconds that somebody who pressed a button waits."""
NOT_STORED = "That cannot be stored at the moment; please try again."
WELL = "It is alive; there is nothing to have in hand."
OVER = "That message is about an earlier incident, which is over."


class _Earlier(Exception):
    """What was pressed is about an earlier incident."""


class IncidentActions:
    """Each answers in words. `find_incidents`: learns when those of these services began."""

    def __init__(
        self,
        log: IncidentLog,
        known: Incidents,
        now: Callable[[], datetime],
        links: LinkContext,
        find_incidents: Callable[[Iterable[str]], Awaitable[None]],
    ) -> None:
        self._log, self._known, self._now, self._links = log, known, now, links
        self.find_incidents = find_incidents

    async def acknowledge(self, name: str, by: str, note: str | None, incident: str = "") -> str:
        """`incident`: how the id of the one begins that is meant; empty: the current one."""

        def decide(state: IncidentState) -> IncidentData | None:
            if incident and not (state.incident and state.incident.id.startswith(incident)):
                raise _Earlier
            return incidents.acknowledge(state, self._now(), by, note)

        try:
            await self._log.append(ServiceAcknowledged, name, decide, self._now(), by, within=STORE_TIMEOUT)
        except Taken as taken:
            since = self._known.acknowledged(name)
            return f"{person(taken.by)} has it" + (
                f" since {clock(since.at, self._now(), self._links)}" if since else ""
            )
        except NoIncident:
            return WELL
        except _Earlier:
            return OVER
        except BrokerError:
            return NOT_STORED
        return "You have it"

    async def is_over(self, name: str, incident: str) -> str | None:
        """That an incident is, whose id begins so, if it is."""
        await self.find_incidents([name])
        current = self._known.state(name).incident
        return None if current and current.id[:MAX_ID] == incident else OVER

    async def mute(self, name: str, by: str, until: datetime) -> str | None:
        """Why it is not, if so."""

        def decide(state: IncidentState) -> IncidentData:
            return incidents.mute(state, self._now(), by, until)

        try:
            await self._log.append(ServiceMuted, name, decide, self._now(), by, within=STORE_TIMEOUT)
        except BrokerError:
            return NOT_STORED
        return None

    async def unmute(self, name: str, by: str) -> str | None:
        """Why it is not, if so."""

        def decide(state: IncidentState) -> IncidentData | None:
            return incidents.unmute(state, self._now())

        try:
            await self._log.append(ServiceUnmuted, name, decide, self._now(), by, within=STORE_TIMEOUT)
        except BrokerError:
            return NOT_STORED
        return None
