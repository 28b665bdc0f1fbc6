"""More than a hundred other services, by way of Apprise (https://github.com/caronc/apprise): an extra."""

import asyncio
import hashlib
import logging
from typing import Any

from services.notifier.channels.channel import Channel, Failed, Outcome, Sent
from services.notifier.texts.message import OutgoingMessage

SEND_TIMEOUT = 60.0
"""Seconds that a service behind Apprise may take; a thread cannot be ended, only waited for no longer."""


class AppriseChannel(Channel):
    """One Apprise URL. It holds secrets: neither it nor Apprise's own log lines are written down."""

    def __init__(self, url: str) -> None:
        """ImportError: without the extra. ValueError: Apprise does not know such a URL."""
        import apprise  # type: ignore[import-untyped,import-not-found,unused-ignore]

        logging.getLogger("apprise").disabled = True
        self._apprise: Any = apprise.Apprise()
        self.chat = self.name = url.partition("://")[0].lower()
        if not self._apprise.add(url):
            raise ValueError(f"Apprise does not know what to do with {self.chat}://…")
        self.key = f"apprise.{hashlib.blake2b(url.encode(), digest_size=8).hexdigest()}"

    async def send(self, chat: str, message: OutgoingMessage, reply_to: int | None) -> Outcome:
        title, _, body = message.plain_text.partition("\n")
        kind = "info" if message.silent else "failure" if message.problems else "warning"
        try:
            async with asyncio.timeout(SEND_TIMEOUT):
                done = await asyncio.to_thread(
                    self._apprise.notify, body=body or title, title=title if body else "", notify_type=kind
                )
        except TimeoutError:
            return Failed("no answer (TimeoutError)", maybe_delivered=True)
        return Sent() if done else Failed("Apprise could not deliver it", maybe_delivered=True)
