"""What every route works with: made once at the start, and kept in `app.state.context`."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Request

from services.api import timing
from services.api.as_code.applying import AsCode
from services.api.as_code.replaying import Replays
from services.api.commands import Commands, existing
from services.api.http.auth import ApiAuth
from services.api.http.models import Muted, Service
from services.api.incidents import Incidents
from services.api.maintenance import Maintenance
from services.api.projections.store import Store
from services.api.queries.coming import ComingMoments
from services.api.queries.event_hub import EventHub
from services.api.queries.past import WINDOWS, CachedFor, StatusHistory
from services.api.queries.runs import LastDays
from services.api.routes import StoredRoutes
from services.api.settings import ApiSettings
from shared.contracts.events import MICRO, Outcome, micros, moment
from shared.contracts.maintenance import in_maintenance
from shared.domain import digest, timeline
from shared.domain.service_state import ServiceState
from shared.domain.timeline import Mark, Segment
from shared.domain.timetable import EARLY, NEVER, Timetable
from shared.http.problems import Problem
from shared.http.server import Health
from shared.messaging.connection import BrokerConnection

RUNS_AGE = 10.0
"""Seconds for which everybody is told the same of the last day's runs: there may be very many."""
STATUS_PAGE_AGE = 1.0
"""Seconds for which everybody is given the same status page: it is made without a token."""


@dataclass(frozen=True)
class ApiContext:
    link: BrokerConnection
    store: Store
    hub: EventHub
    commands: Commands
    auth: ApiAuth
    health: Health
    settings: ApiSettings
    now: Callable[[], datetime]
    maintenance: Maintenance
    incidents: Incidents
    past: StatusHistory
    routes: StoredRoutes
    as_code: AsCode
    replays: Replays = field(default_factory=Replays)
    coming: ComingMoments = field(default_factory=ComingMoments)
    last_days: LastDays = field(default_factory=LastDays)
    runs_counted: CachedFor[Counter[Outcome]] = field(default_factory=lambda: CachedFor(RUNS_AGE))
    status_pages: dict[str, CachedFor[str]] = field(
        default_factory=lambda: defaultdict(lambda: CachedFor(STATUS_PAGE_AGE))
    )
    """By path; the one of REGISTRY_STATUS_PAGE has none."""

    def check_caught_up(self) -> None:
        """Before the first catch-up the read models would deny services that exist: Problem 503."""
        if "projection" in self.health.missing:
            raise Problem(503, "still reading the record; see /readyz", retry_after=2)

    async def last_runs(self) -> Counter[Outcome]:
        """How the runs ended, of the services that there are, that were recorded in the last day."""

        async def count() -> Counter[Outcome]:
            since = micros(self.now() - digest.WINDOW)
            ended = self.store.live.outcomes_since(since)
            return Counter([outcome async for name, outcome in ended if self.hub.index.get(name)])

        return await self.runs_counted.get(count)

    def beside(self, now: datetime) -> digest.Beside:
        """What there is to say of services beside their status."""
        index, at = self.hub.index, micros(now)
        windows = self.maintenance.open(now)
        return digest.Beside(
            muted={it.name for it in index if it.last_mute and it.muted(at)},
            maintenance=in_maintenance(windows, ((it.name, it.tags) for it in index), now),
            owners={it.name: known.by for it, _ in index.incidents() if (known := it.acknowledged)},
        )

    def gaps_until(self, at: int) -> list[tuple[int, int]]:
        """When the registry itself was not listening."""
        return self.hub.coverage.gaps_until(at, self.settings.deaf_after // MICRO)

    def segments(self, state: ServiceState, window: str, marks: Sequence[Mark]) -> list[Segment]:
        """What a service was in a window of `WINDOWS`, by its marks."""
        at = self.now()
        now = timeline.Now(state.status, state.paused, state.registered_at, micros(at))
        gaps, begins = self.gaps_until(now.at), self.hub.begins.get(state.name, 0)
        return timeline.segments(marks, now, micros(at - WINDOWS[window]), gaps, begins)

    async def segments_of(self, name: str, window: str) -> list[Segment]:
        """The same, of a name. Problem 404 if there is no such service."""
        state = await self.state(name)
        return self.segments(state, window, (await self.past.marks([name], window))[name])

    async def state(self, name: str) -> ServiceState:
        """What is known of a service. Problem 404 if there is none."""
        return existing(name, await self.store.live.get(name))

    def timetable(self, state: ServiceState) -> Timetable | None:
        """When a service is due; None: it has no schedule."""
        if state.schedule is None:
            return None
        return Timetable(state.schedule, state.time_zone or self.settings.timezone, state.early or EARLY)

    def expected(self, state: ServiceState, after: datetime) -> datetime | None:
        """The first moment later than `after` that a service is due at, and no heartbeat has met; None if
        there is none, or no schedule."""
        if (timetable := self.timetable(state)) is None:
            return None
        found = timetable.awaited(self.coming.first(timetable, micros(after)), state.counted_at)
        return moment(found) if found < NEVER else None

    def ping_url(self, state: ServiceState) -> str | None:
        """Where its heartbeats may be sent without a token; None before it has a ping key."""
        return f"{self.settings.ingest_url.rstrip('/')}/ping/{state.ping_key}" if state.ping_key else None

    def present(self, state: ServiceState, at: datetime | None = None, *, with_keys: bool = False) -> Service:
        """The service as answers show it, with what is in force, now or as of a moment. `with_keys`: to
        whoever may write."""
        settings, now = self.settings, at or self.now()
        expected = self.expected(state, now)
        warnings = *state.warnings, *timing.unused(state, settings.timezone), *timing.over(state, expected)
        if missing := [each for each in state.depends_on if at is None and not self.hub.index.get(each)]:
            warnings += (f"depends_on: not registered: {', '.join(missing)}",)
        return Service.of(
            state,
            ping_url=self.ping_url(state) if with_keys else None,
            aliases=state.aliases if with_keys else (),
            defaults=settings.thresholds,
            time_zone=state.time_zone or settings.timezone,
            expected=expected,
            muted=Muted.of(state.muted(micros(now))),
            warnings=list(warnings),
            links={"self": f"{settings.public_url.rstrip('/')}/service/{state.name}"},
        )


def context_of(request: Request) -> ApiContext:
    context: ApiContext = request.app.state.context
    return context


async def _context(request: Request) -> ApiContext:
    return context_of(request)


Api = Annotated[ApiContext, Depends(_context)]
"""For a route's parameter."""
