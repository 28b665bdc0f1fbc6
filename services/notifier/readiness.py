"""Whether the notifier can do its work, as `/readyz` says: parts `record` and `telegram` of its health."""

import asyncio

import structlog

from services.notifier.channels.channel import BadToken, Failed
from services.notifier.channels.telegram import Bot
from shared.http.server import Health
from shared.messaging.connection import BrokerConnection
from shared.messaging.errors import READ_ONLY

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
