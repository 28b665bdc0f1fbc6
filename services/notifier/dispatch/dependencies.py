"""What every receiver is given."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta

from services.notifier.alerting.changes import Deafness, StatusChange, UnusualRun
from services.notifier.alerting.dependencies import Dependencies
from services.notifier.alerting.policy import Reminders
from services.notifier.channels.channel import Channel
from services.notifier.incidents import Ended
from services.notifier.states import ServiceStates
from services.notifier.texts.message import LinkContext, OutgoingMessage
from shared.contracts.routes import Routes
from shared.domain.digest import NOTHING_BESIDE, Beside
from shared.domain.incidents import Incident
from shared.domain.routing import Router

Pages = Callable[[int, int], Awaitable[tuple[list[StatusChange], int, bool]]]
"""Up to a number of changes after a sequence; which sequence was read last; whether that was the end."""
RunPages = Callable[[int, int], Awaitable[tuple[list[UnusualRun], int, bool]]]
"""The same of unusual runs."""


async def _no_runs(after: int, most: int) -> tuple[list[UnusualRun], int, bool]:
    return [], after, True


async def _no_run() -> int:
    return 0


async def _no_incidents(told: Sequence[tuple[str, int, datetime]]) -> dict[str, Incident]:
    return {}


async def _nobody(channel: str, message: OutgoingMessage) -> None: ...


async def _no_end(name: str, seq: int, incident: Incident) -> Ended | None:
    return None


def _independent() -> Dependencies:
    return Dependencies(ServiceStates(), lambda _: timedelta())


_NO_ROUTES = Router(Routes(), ())


@dataclass(frozen=True)
class ReceiverDependencies:
    links: LinkContext
    digest_lines: Callable[[datetime, bool], Awaitable[list[str]]]
    """Makes those of a digest, daily or (True) weekly, as of a moment."""
    now: Callable[[], datetime]
    page: Pages
    newest: Callable[[], Awaitable[int]]
    """The sequence of the record's newest event."""
    digest_at: time | None = None
    """The local time of digests; None: never."""
    weekly_on: int | None = None
    """The weekday of the weekly digest; 0: Monday; None: never."""
    states: ServiceStates = field(default_factory=ServiceStates)
    dependencies: Dependencies = field(default_factory=_independent)
    router: Callable[[], Router] = lambda: _NO_ROUTES
    """The routes, and the channels that follow them."""
    beside: Callable[[datetime], Beside] = lambda at: NOTHING_BESIDE
    """What a digest of a moment says of services beside their status."""
    reminders: Reminders = field(default_factory=lambda: Reminders(ServiceStates(), ()))
    maintenance_until: Callable[[str, datetime], datetime | None] = lambda name, at: None
    """When the maintenance of a service ends that there is at a moment, if there is any."""
    gives_way: Callable[[Channel, str], bool] = lambda channel, address: False
    """Whether another receiver has the address that this channel's chat has moved to. Then this one ends."""
    deafness: Callable[[datetime], list[Deafness] | None] = lambda _: []
    """Long deafness of the registry that did not end by a moment, oldest first; None: not known now."""
    run_page: RunPages = _no_runs
    newest_run: Callable[[], Awaitable[int]] = _no_run
    """The sequence of the newest fact about a run."""
    incidents_of: Callable[[Sequence[tuple[str, int, datetime]]], Awaitable[dict[str, Incident]]] = (
        _no_incidents
    )
    """By service the incident that it had after the change with a sequence, which was due at a moment."""
    incident_end: Callable[[str, int, Incident], Awaitable[Ended | None]] = _no_end
    """How an incident ended that a service had after the change with a sequence, if it has."""
    told: Callable[[str, OutgoingMessage], Awaitable[None]] = _nobody
    """Records that a channel, by its name, was sent a message."""
    on_token: Callable[[str | None], None] = lambda _: None
    """Called whenever it shows that the credentials are refused (why) or good (None)."""
    on_record: Callable[[Exception | None], None] = lambda _: None
    """Called whenever a record could not be stored (why), or was (None)."""
