"""Whether the notifier can do its work: for `/readyz`, and for the deadman's switch: a URL, fetched once a
minute while all is well. Who is behind it (Healthchecks, another registry) alerts people when that stops."""

import asyncio
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx
import structlog
from nats.errors import Error as NatsError
from prometheus_client import Gauge

from services.notifier.channels.channel import BadToken, Failed
from services.notifier.channels.telegram import Bot
from shared.http.server import Health
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.errors import READ_ONLY, BrokerError
from shared.messaging.queries import last_evaluated, last_sequence

log = structlog.get_logger()

CHECK_TOKEN_INTERVAL = 30.0


class Readiness:
    def __init__(self, health: Health, link: BrokerConnection) -> None:
        self._health = health
        self._link = link
        health.good("record")

    def record_written(self, error: Exception | None) -> None:
        """`error`: why the broker has not stored it; None: it has."""
        if error is None:
            self._health.good("record")
        elif self._link.up:
            said = str(error) or type(error).__name__
            self._health.bad("record", f"{said}; {READ_ONLY}" if isinstance(error, TimeoutError) else said)

    def token_used(self, refused: str | None) -> None:
        """`refused`: why Telegram refuses the bot token; None: it takes it."""
        if refused is None:
            self._health.good("telegram")
        elif self._health.missing.get("telegram") != (reason := f"the bot token is refused: {refused}"):
            log.error("telegram refuses the bot token; messages wait", reason=refused)
            self._health.bad("telegram", reason)

    async def check_token(self, bot: Bot) -> None:
        """Until Telegram takes the token. That it cannot be reached makes nothing unready: messages wait."""
        while isinstance(outcome := await bot.check(), BadToken | Failed):
            self.token_used(outcome.reason if isinstance(outcome, BadToken) else None)
            await asyncio.sleep(CHECK_TOKEN_INTERVAL)
        self.token_used(None)

    def problem(self) -> str | None:
        """What is not ready, if anything."""
        return ", ".join(f"{part}: {reason}" for part, reason in self._health.missing.items()) or None


# --- the deadman's switch

LAST_SUCCESS = Gauge("registry_deadman_last_success_timestamp_seconds", "When REGISTRY_DEADMAN_URL answered")

FETCH_INTERVAL = 60.0
RETRY_INTERVAL = 5.0
"""Seconds until the next try after the start, and while something is wrong."""
ANSWER_TIMEOUT = 0.5
"""Seconds in which every monitor that runs has answered."""
MAX_EVALUATION_AGE = 60_000_000
"""Microseconds since the tick that was evaluated last."""
TIMEOUT = httpx.Timeout(10, connect=5)


class DeadmanSwitch:
    """`run` until cancelled."""

    def __init__(self, url: str, link: BrokerConnection, hindered: Callable[[], str | None]) -> None:
        """`hindered`: why messages are not delivered, if they are not."""
        self._url = url
        self._host = urlsplit(url).hostname
        self._link = link
        self._hindered = hindered
        self._said: str | None = None

    async def run(self) -> None:
        first = True
        async with httpx.AsyncClient(timeout=TIMEOUT, trust_env=False) as http:
            while True:
                await asyncio.sleep(RETRY_INTERVAL if first or self._said else FETCH_INTERVAL)
                first = False
                problem = self._hindered() or await self._not_evaluating() or await self._fetch(http)
                if problem != self._said:
                    self._said = problem
                    if problem:
                        log.error("the deadman's switch is not pressed", host=self._host, reason=problem)
                    else:
                        log.info("the deadman's switch is pressed again", host=self._host)

    async def _not_evaluating(self) -> str | None:
        """Why nobody is evaluated, if so. Of several monitors one is enough."""
        try:
            evaluated = await last_evaluated(self._link, ANSWER_TIMEOUT)
            _, now = await last_sequence(self._link, streams.HEARTBEATS)
        except (NatsError, BrokerError, OSError, TimeoutError) as error:
            return f"the broker does not answer ({type(error).__name__})"
        if evaluated is None:
            return "no monitor answers"
        if now - evaluated > MAX_EVALUATION_AGE:
            return "no tick has been evaluated for a minute"
        return None

    async def _fetch(self, http: httpx.AsyncClient) -> str | None:
        try:
            async with asyncio.timeout(15), http.stream("GET", self._url) as answer:
                if answer.is_success:
                    LAST_SUCCESS.set_to_current_time()
                    return None
                return f"HTTP {answer.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            return f"no answer ({type(error).__name__})"
