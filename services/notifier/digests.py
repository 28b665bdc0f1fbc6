"""What a digest says, from the record as it is when the digest is sent."""

from datetime import datetime
from functools import partial

from services.notifier.deafness import DeafnessWatch
from services.notifier.event_log import EventLog
from services.notifier.states import ServiceStates
from shared.domain import digest
from shared.messaging.connection import BrokerConnection, retry_until_done
from shared.messaging.truncation import truncated
from shared.settings import Settings


class Digests:
    def __init__(
        self,
        settings: Settings,
        link: BrokerConnection,
        states: ServiceStates,
        event_log: EventLog,
        deafness: DeafnessWatch,
    ) -> None:
        self._settings = settings
        self._link = link
        self._states = states
        self._event_log = event_log
        self._deafness = deafness

    async def lines(self, at: datetime, weekly: bool = False) -> list[str]:
        window = digest.WEEK if weekly else digest.WINDOW
        marks = await self._event_log.marks_since(at - window)
        gaps = await self._deafness.gaps(at, self._settings.deaf_after)
        oldest = await retry_until_done("look how far the record reaches", partial(truncated, self._link))
        begins = {name: found.begins for name, found in oldest.items()}
        found = digest.digest(self._states.services(), marks, at, window, gaps, begins, each=weekly)
        return (digest.weekly_lines if weekly else digest.lines)(found, self._settings.zone)
