"""What people write to the bot and which buttons they press, by long polling: no inbound port is needed.

Per chat in order, and no chat waits for another. Telegram keeps what was not confirmed for 24 hours.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import structlog
from prometheus_client import Counter
from pydantic import AfterValidator, AliasChoices, BaseModel, Field, ValidationError

from services.notifier.channels.channel import Backoff, Failed, Limited
from services.notifier.channels.telegram import Bot
from shared.messaging.kv_record import Superseded

log = structlog.get_logger()

UPDATES = Counter(
    "registry_telegram_updates_total", "What came from Telegram, by what became of it", ["result"]
)
for _result in ("handled", "failed", "malformed", "dropped"):
    UPDATES.labels(_result)

POLL_TIMEOUT = 25
"""Seconds that Telegram may wait for something to happen before it answers."""
MAX_FIRST_NAME = 40
MAX_QUEUED = 20
"""Commands of one chat that wait; more are dropped."""
CONFLICT_RETRY, MAX_BACKOFF = 10.0, 30.0


def _whole(text: str) -> str:
    text.encode()  # half a character would fail later, where it is looked at or sent
    return text


Text = Annotated[str, AfterValidator(_whole)]


class ChatIs(BaseModel):
    id: int


class Sender(BaseModel):
    """Who wrote or pressed something."""

    id: int
    first_name: Text = ""

    @property
    def actor(self) -> str:
        """As events name who did it: `telegram:Ana (4711)`."""
        return f"telegram:{' '.join(self.first_name.split())[:MAX_FIRST_NAME] or 'somebody'} ({self.id})"


class IncomingMessage(BaseModel):
    """A message. `thread`: the topic it stands in."""

    message_id: int
    chat: ChatIs
    sender: Sender | None = Field(None, alias="from")
    text: Text = ""
    thread: int | None = Field(None, alias="message_thread_id")
    in_topic: bool = Field(False, alias="is_topic_message")
    forward_origin: Any = Field(None, validation_alias=AliasChoices("forward_origin", "forward_date"))
    """Where it was forwarded from (older Bot API servers say only when it was sent there): nobody here has
    written it."""
    migrated_to: int | None = Field(None, alias="migrate_to_chat_id")
    migrated_from: int | None = Field(None, alias="migrate_from_chat_id")


class ButtonPress(BaseModel):
    """A button was pressed, under `message`."""

    id: Text
    sender: Sender | None = Field(None, alias="from")
    message: IncomingMessage | None = None
    data: Text = ""


class Update(BaseModel):
    message: IncomingMessage | None = None
    callback_query: ButtonPress | None = None

    @property
    def chat(self) -> int | None:
        message = self.message or (self.callback_query and self.callback_query.message)
        return message.chat.id if message else None


class Updates:
    """`run` until cancelled. `handle` is given one update after the other of each chat."""

    def __init__(self, bot: Bot, handle: Callable[[Update], Awaitable[None]]) -> None:
        self._bot = bot
        self._handle = handle
        self._waiting: dict[int, asyncio.Queue[Update]] = {}
        self._offset = 0
        self._backoff = Backoff(2.0, MAX_BACKOFF)
        self._conflict = False

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                found = await self._bot.updates(self._offset, POLL_TIMEOUT)
                if isinstance(found, list):
                    self._backoff.reset()
                    self._conflict = False
                    if not found:  # all is confirmed; after a quiet week Telegram may count from anywhere
                        self._offset = 0
                    for raw in found:
                        self._enqueue(raw, group)
                else:
                    await asyncio.sleep(self._pause(found))

    def _pause(self, outcome: object) -> float:
        if isinstance(outcome, Limited):
            return outcome.retry_after
        if isinstance(outcome, Failed) and "Conflict" in outcome.reason:
            if not self._conflict:
                log.error(
                    "commands do not arrive: a webhook, or somebody else asks for them", reason=outcome.reason
                )
            self._conflict = True
            return CONFLICT_RETRY
        return self._backoff.next()

    def _enqueue(self, raw: Any, group: asyncio.TaskGroup) -> None:
        try:
            self._offset = max(self._offset, int(raw["update_id"]) + 1)
            update = Update.model_validate(raw)
        except (ValidationError, KeyError, TypeError, ValueError, OverflowError) as error:
            UPDATES.labels("malformed").inc()
            log.warning("an update of Telegram cannot be read; passed over", error=type(error).__name__)
            return
        chat = update.chat
        if chat is None:
            return
        queue = self._waiting.get(chat)
        if queue is None:
            queue = self._waiting[chat] = asyncio.Queue(MAX_QUEUED)
            group.create_task(self._work(chat, queue))
        try:
            queue.put_nowait(update)
        except asyncio.QueueFull:
            UPDATES.labels("dropped").inc()

    async def _work(self, chat: int, queue: "asyncio.Queue[Update]") -> None:
        while not queue.empty():
            try:
                await self._handle(queue.get_nowait())
                UPDATES.labels("handled").inc()
            except Superseded:
                raise
            except Exception:  # what somebody wrote must not end the notifier, again and again
                UPDATES.labels("failed").inc()
                log.exception("a command failed", chat=chat)
        del self._waiting[chat]
