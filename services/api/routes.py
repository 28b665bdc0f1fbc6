"""Routes: the command that sets them, and who would hear of a fall by them."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from services.api.channels import all_channels
from services.api.configuration import Configuration
from services.api.http.models import ChannelHears, Heard, RouteMatched, RoutesTested, RoutesView, RouteTest
from services.api.http.requests import check_version
from shared.contracts import durations
from shared.contracts.events import Status
from shared.contracts.routes import Routes
from shared.domain.routing import EVERYBODY, FALLEN, Hearing, Router, Rule
from shared.http.problems import Problem
from shared.messaging.connection import BrokerConnection
from shared.messaging.stored_config import ROUTES

TRIES = 5
"""How often routes are set anew where somebody else sets them at the same time."""
NAMED_MAX = 10
"""Channels that are named in a refusal."""


_LISTED = "GET /channels lists them (but subscribers follow no routes)"


@dataclass
class StoredRoutes:
    """`channels`: asks which there are that routes may name. Raises Problem 503 if nobody knows."""

    configuration: Configuration
    channels: Callable[[], Awaitable[frozenset[str]]]
    zone: ZoneInfo

    def shown(self) -> RoutesView:
        stored = self.configuration.stored
        return RoutesView(routes=stored.routes.routes, version=stored.version(ROUTES))

    async def replace(self, routes: Routes, if_match: str | None, actor: str | None) -> RoutesView:
        """Set the whole document. Problem 422 for a channel that there is not, 412 for another version."""
        if routes.channels and (unknown := _but(routes, await self.channels())):
            names = ", ".join(unknown[:NAMED_MAX]) + (", …" if len(unknown) > NAMED_MAX else "")
            raise Problem(422, f"routes: no channel is called {names}; {_LISTED}")
        for _ in range(TRIES):
            await self.configuration.refresh(ROUTES)
            now = self.shown()
            check_version(if_match, now.version)
            if now.version and routes.routes == now.routes:
                return now
            try:
                value, created = routes.model_dump(mode="json"), not now.version
                version = await self.configuration.write(ROUTES, value, now.version, actor, created=created)
            except Problem as problem:
                if problem.status != 412:
                    raise
                continue  # who named a version is told of the newer one
            return RoutesView(routes=routes.routes, version=version)
        raise Problem(503, "too many writers change the routes at once", retry_after=1)

    async def test(self, asked: RouteTest, tags: tuple[str, ...], now: datetime) -> RoutesTested:
        """Who would hear of it. `tags`: of the service."""
        routes = Routes(routes=asked.routes) if asked.routes is not None else self.configuration.stored.routes
        channels = sorted(await self.channels())
        router, at = Router(routes, channels), asked.at or now
        status = Status(asked.status)
        down_since = asked.down_since or (at if status in FALLEN else None)
        matched = router.match(asked.name, tags, status)
        rules = router.rules(asked.name, tags, status)
        unknown = _but(routes, channels)
        return RoutesTested(
            at=at,
            tags=list(tags),
            matched=[RouteMatched(place=place, route=routes.routes[place]) for place in matched],
            channels=[
                _heard(channel, rules.get(channel), at, self.zone, down_since, asked.acknowledged, matched)
                for channel in channels
            ],
            warnings=[f"routes: no channel is called {', '.join(unknown)}"] if unknown else [],
        )


def _but(routes: Routes, channels: Iterable[str]) -> list[str]:
    """The channels that routes name, and that there are not."""
    there = frozenset(channels)
    return [name for name in routes.channels if name not in there]


def _heard(
    channel: str,
    rule: Rule | None,
    at: datetime,
    zone: ZoneInfo,
    down_since: datetime | None,
    is_acknowledged: bool,
    matched: tuple[int, ...],
) -> ChannelHears:
    if rule is None:
        return ChannelHears(
            channel=channel, hears=Heard.NOT, at=None, routes=[], why="no route that matches names it"
        )
    hearing = rule.at(at, zone, down_since, is_acknowledged=is_acknowledged)
    hears, why = _in_words(rule, hearing, down_since, is_acknowledged)
    if rule == EVERYBODY:
        lost = "no channel of the routes that match is there any more" if matched else "no route matches"
        why = f"{lost}: every channel hears of it"
    return ChannelHears(
        channel=channel,
        hears=hears,
        at=hearing.until if hearing.waits else at,
        routes=list(rule.routes),
        remind=None if rule.remind is None else [durations.write(each) for each in rule.remind],
        why=why,
    )


def _in_words(
    rule: Rule, hearing: Hearing, down_since: datetime | None, is_acknowledged: bool
) -> tuple[Heard, str]:
    after = "" if rule.after is None else f"{durations.write(rule.after)} after the fall to down"
    if hearing.is_escalated:
        return Heard.ESCALATED, f"nobody has it in hand {after}"
    if not hearing.waits:
        return (Heard.AT_ONCE, "a route names it") if hearing.has_sound else (Heard.NO_SOUND, "quiet hours")
    is_called = rule.after is not None and down_since is not None and not is_acknowledged
    if rule.quiet:
        return Heard.HELD, "quiet hours hold it" + (f"; at most until {after}" if is_called else "")
    if is_called:
        return Heard.WAITS, f"if nobody has it in hand {after}"
    why = "somebody has it in hand" if is_acknowledged else "it has not fallen to down"
    return Heard.NOT, f"an escalation, and {why}"


async def routable_channels(link: BrokerConnection) -> frozenset[str]:
    """Those that routes may name. Problem 503 if no notifier answers."""
    return frozenset(it.name for it in await all_channels(link) if not it.subscribed)
