"""What is done about incidents: decided on the read model, appended if nobody has done anything since, and
projected at once, as commands are."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.api.commands import TRIES, Commands, existing
from services.api.http.models import MuteWanted
from shared.contracts.events import (
    IncidentData,
    IncidentEvent,
    ServiceAcknowledged,
    ServiceMuted,
    ServiceNoted,
    ServiceReleased,
    ServiceUnmuted,
)
from shared.domain import incidents
from shared.domain.service_state import ServiceState
from shared.http.problems import Problem
from shared.messaging import streams
from shared.messaging.errors import WrongSequence
from shared.messaging.queries import newest

MAX_MUTE = timedelta(days=30)

Decide = Callable[[ServiceState], IncidentData | None]
"""From the state to what then holds; None: it is so already. Raises as `shared.domain.incidents` does."""


@dataclass(frozen=True)
class Incidents:
    """One method per command; each returns the service as it then is. `actor`: who does it. Problem 404 where
    there is no such service, 409 where there is no incident, or somebody else has it."""

    commands: Commands

    async def acknowledge(self, name: str, note: str | None, actor: str) -> ServiceState:
        def decide(state: ServiceState) -> IncidentData | None:
            return incidents.acknowledge(state, self._now(), actor, note)

        return await self._append(ServiceAcknowledged, name, decide, actor)

    async def release(self, name: str, actor: str) -> ServiceState:
        return await self._append(
            ServiceReleased, name, lambda state: incidents.release(state, self._now()), actor
        )

    async def mute(self, name: str, wanted: MuteWanted, actor: str) -> ServiceState:
        now = self._now()
        until = now + wanted.for_ if wanted.for_ else wanted.until
        if until and not now < until <= now + MAX_MUTE:
            raise Problem(422, "a mute ends later than now, and within 30d")

        def decide(state: ServiceState) -> IncidentData:
            return incidents.mute(state, now, actor, until)

        return await self._append(ServiceMuted, name, decide, actor)

    async def unmute(self, name: str, actor: str) -> ServiceState:
        return await self._append(
            ServiceUnmuted, name, lambda state: incidents.unmute(state, self._now()), actor
        )

    async def note(self, name: str, incident: str, text: str, actor: str) -> ServiceState:
        """`incident`: one that the service has or had."""
        return await self._append(
            ServiceNoted, name, lambda state: incidents.note(state, self._now(), text, incident), actor
        )

    def _now(self) -> datetime:
        return self.commands.now()

    async def _append(self, kind: type[IncidentEvent], name: str, decide: Decide, actor: str) -> ServiceState:
        """That it is refused, or so already, may rest on a read model that is behind, so that is said only
        after asking the record itself."""
        commands, subject = self.commands, streams.incident(name)
        state, after, of_the_record = await commands.store.live.get(name), 0, False
        for _ in range(TRIES):
            try:
                there = existing(name, state)
                data = decide(there)
            except (Problem, incidents.NoIncident, incidents.Taken) as refusal:
                if of_the_record:
                    raise _as_problem(refusal, name) from None
                data = None
            if data is not None:
                event = kind(
                    id=uuid.uuid4().hex,
                    source="/api",
                    subject=name,
                    time=self._now(),
                    actor=actor,
                    data=data,
                )
                try:
                    ack = await commands.publisher.append(
                        subject,
                        event.to_bytes(),
                        after=max(after, there.incident_seq),
                        event_id=event.id,
                        kind=event.type,
                    )
                    return await commands.stored(ack.seq)
                except WrongSequence:
                    pass
            elif of_the_record:
                return there
            # The newest act first: what is decided next has to know of it, whoever acts meanwhile.
            message = await newest(commands.link, streams.SERVICES, subject)
            after = message.seq if message else 0  # one that cannot be read stands in the way all the same
            await commands.caught_up(f"service.*.{name}")
            state, of_the_record = await commands.store.live.get(name), True
        raise Problem(503, f"too many do something about {name} at once", retry_after=1)


def _as_problem(refusal: Exception, name: str) -> Problem:
    if isinstance(refusal, incidents.Taken):
        return Problem(409, str(refusal), also={"by": refusal.by})
    return refusal if isinstance(refusal, Problem) else Problem(409, f"{name} has no incident")
