"""What every route works with: made once at the start, and kept in `app.state.context`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Request

from services.api.commands import Commands, existing
from services.api.http.auth import ApiAuth
from services.api.http.models import Service
from services.api.maintenance import Maintenance
from services.api.projections.store import Store
from services.api.queries.event_hub import EventHub
from services.api.queries.past import CachedFor, StatusHistory
from services.api.settings import ApiSettings
from shared.contracts.events import MICRO
from shared.domain.service_state import ServiceState
from shared.http.problems import Problem
from shared.http.server import Health
from shared.messaging.connection import BrokerConnection

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
    past: StatusHistory
    status_page: CachedFor[str] = field(default_factory=lambda: CachedFor(STATUS_PAGE_AGE))

    def check_caught_up(self) -> None:
        """Before the first catch-up the read models would deny services that exist: Problem 503."""
        if "projection" in self.health.missing:
            raise Problem(503, "still reading the record; see /readyz", retry_after=2)

    def gaps_until(self, at: int) -> list[tuple[int, int]]:
        """When the registry itself was not listening."""
        return self.hub.coverage.gaps_until(at, self.settings.deaf_after // MICRO)

    async def state(self, name: str) -> ServiceState:
        """What is known of a service. Problem 404 if there is none."""
        return existing(name, await self.store.live.get(name))

    def present(self, state: ServiceState) -> Service:
        """The service as answers show it, with the thresholds that are in force."""
        return Service.of(state, self.settings.thresholds, self.settings.public_url)


def context_of(request: Request) -> ApiContext:
    context: ApiContext = request.app.state.context
    return context


async def _context(request: Request) -> ApiContext:
    return context_of(request)


Api = Annotated[ApiContext, Depends(_context)]
"""For a route's parameter."""
