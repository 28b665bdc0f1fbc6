"""The channel of those who have no other: each message becomes a log line."""

import structlog

from services.notifier.channels.channel import Outcome, Sent
from services.notifier.texts.message import OutgoingMessage

log = structlog.get_logger()


class LogChannel:
    key = "log"
    chat = "log"

    async def turn(self, chat: str) -> None:
        """A log takes all there is at once."""

    async def send(self, chat: str, message: OutgoingMessage, reply_to: int | None) -> Outcome:
        log.info("notification", text=message.plain_text, loud=not message.silent)
        return Sent()
