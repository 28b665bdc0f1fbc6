"""Telegram's Bot API, as much of it as is needed, and the pace it permits.

The bot token is part of every URL. So no error of httpx leaves this file: each is described in words.
"""

import asyncio
import json
import re
from collections import deque
from typing import Any
from urllib.parse import quote

import httpx
import structlog
from prometheus_client import Counter

from services.notifier.channels import channel
from services.notifier.channels.channel import Outcome
from services.notifier.texts.message import OutgoingMessage, cut

log = structlog.get_logger()

FALLBACKS = Counter(
    "registry_telegram_fallbacks_total", "Messages sent without what Telegram had refused", ["without"]
)
for _without in ("topic", "markup"):
    FALLBACKS.labels(_without)

ANSWER_TIMEOUT = 15.0
"""Seconds; httpx's time-out starts anew with each byte."""
MAX_UNITS = 4096
EDITS_SHARE = 0.5
"""How much of what Telegram permits edits may use, so that no message has to wait for them."""

_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_BAD_MARKUP = re.compile("can't parse|message is too long|message_too_long|entity")
_GONE = re.compile(
    "chat not found|user not found|chat_id is empty|peer_id_invalid|chat_id_invalid|channel_invalid|"
    "channel_private|user_is_deactivated|user is deactivated|input_user_deactivated|"
    "chat was deactivated|chat is deactivated|group chat was deleted|chat was deleted|bot was kicked|"
    "bot was blocked|bot is not a member|need administrator rights|not enough rights|"
    "have no rights to send|chat_write_forbidden|chat_send_plain_forbidden|chat_restricted|"
    "chat_admin_required|chat_guest_send_forbidden|user_banned_in_channel"
)
"""Of 400, what says that the chat is gone or closed to us. Any other says nothing of the chat."""
_BAD_TOPIC = re.compile("message thread not found|topic_closed|topic_deleted|topic_id_invalid")


class RateWindow:
    """At most `count` passes in any `seconds`."""

    def __init__(self, count: int, seconds: float) -> None:
        self._seconds = seconds
        self._passed: deque[float] = deque(maxlen=count)

    def wait(self, now: float, share: float = 1.0) -> float:
        """`share`: how much of it may be used, 0 to 1; of what may pass at all, at least one."""
        count = max(1, int((self._passed.maxlen or 1) * share))
        full = len(self._passed) >= count
        return max(0.0, self._passed[-count] + self._seconds - now) if full else 0.0

    def note(self, now: float) -> None:
        self._passed.append(now)


class Pace:
    """One message a second per chat, 20 a minute per group, 30 a second in all, each a little under."""

    def __init__(self) -> None:
        self._all = RateWindow(28, 1.0)
        self._chats: dict[str, tuple[RateWindow, ...]] = {}

    async def turn(self, chat: str) -> None:
        while wait := self.try_turn(chat):  # noqa: ASYNC110
            await asyncio.sleep(wait)

    def try_turn(self, chat: str, share: float = 1.0) -> float:
        """Seconds to wait; 0: it passes now. `share`: how much of the limits may be used."""
        now, group = asyncio.get_running_loop().time(), chat.startswith(("-", "@"))
        own = self._chats.setdefault(chat, (RateWindow(1, 1.05), *([RateWindow(20, 61.0)] if group else [])))
        windows = (self._all, *own)
        if not (wait := max(window.wait(now, share) for window in windows)):
            for window in windows:
                window.note(now)
        return wait


class Bot:
    """One bot of a Bot API server."""

    def __init__(self, api_url: str, token: str) -> None:
        self._token = quote(token.strip(), safe=":")
        self._base = f"{api_url.rstrip('/')}/bot{self._token}"
        self._http = httpx.AsyncClient(limits=httpx.Limits(max_connections=100))
        self.pace = Pace()
        self.username = ""

    async def close(self) -> None:
        await self._http.aclose()

    async def check(self) -> Outcome:
        """Whether the token is good. A server that does not know the question says nothing about that."""
        status, answer, failed = await self._call("getMe", {})
        if failed:
            return failed
        if status == 401 or (status == 404 and "description" in answer):
            return channel.BadToken(_description(answer))
        found = answer.get("result")
        self.username = str(found.get("username") or "") if isinstance(found, dict) else ""
        return channel.Sent()

    async def updates(self, offset: int, within: int) -> list[Any] | Outcome:
        """What people wrote and pressed since; waits for something up to `within` seconds."""
        body = {"offset": offset, "timeout": within, "allowed_updates": ["message", "callback_query"]}
        status, answer, failed = await self._call("getUpdates", body, within + ANSWER_TIMEOUT)
        if failed:
            return failed
        found = answer.get("result")
        return found if status == 200 and isinstance(found, list) else outcome(status, answer)

    async def ask(self, method: str, body: dict[str, Any]) -> Outcome:
        """Any other method."""
        status, answer, failed = await self._call(method, body)
        return failed or outcome(status, answer)

    async def send(self, body: dict[str, Any]) -> tuple[Outcome, str]:
        """Send one message. Beside the outcome, what Telegram said to a refusal, in lower case."""
        status, answer, failed = await self._call("sendMessage", body)
        if failed:
            return failed, ""
        return outcome(status, answer), _description(answer).lower()

    async def edit(self, body: dict[str, Any]) -> tuple[Outcome, str]:
        """Edit one message. That it says so already is as good."""
        status, answer, failed = await self._call("editMessageText", body)
        if failed:
            return failed, ""
        said = _description(answer).lower()
        return (channel.Sent() if "message is not modified" in said else outcome(status, answer)), said

    async def _call(
        self, method: str, body: dict[str, Any], within: float = ANSWER_TIMEOUT
    ) -> tuple[int, dict[str, Any], channel.Failed | None]:
        timeout = httpx.Timeout(max(10, within), connect=5)
        try:
            async with asyncio.timeout(within):
                answer = await self._http.post(f"{self._base}/{method}", json=body, timeout=timeout)
        except _UNSENT as error:
            return 0, {}, channel.Failed(f"cannot be reached ({type(error).__name__})", maybe_delivered=False)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            return 0, {}, channel.Failed(f"no answer ({type(error).__name__})", maybe_delivered=True)
        try:
            content = json.loads(answer.text.replace(self._token, "<token>"))  # a proxy may repeat its URL
        except ValueError:
            content = None
        return answer.status_code, content if isinstance(content, dict) else {}, None


LONGEST_WAIT = 24 * 3600
"""Seconds that Telegram may ask for; after that nothing is worth sending any more."""


def outcome(status: int, answer: dict[str, Any]) -> Outcome:
    """What an answer of the Bot API means for the message."""
    said = _description(answer) or f"HTTP {status}"
    parameters = found if isinstance(found := answer.get("parameters"), dict) else {}
    if status == 200 and answer.get("ok"):
        result = answer.get("result")
        return channel.Sent(result.get("message_id") if isinstance(result, dict) else None)
    if status == 429:
        wait = parameters.get("retry_after")
        return channel.Limited(
            float(wait) if isinstance(wait, int | float) and 0 < wait <= LONGEST_WAIT else 5.0
        )
    if status in (401, 404):
        return channel.BadToken(said)
    if status == 400 and "migrate_to_chat_id" in parameters:
        return channel.Migrated(str(parameters["migrate_to_chat_id"]))
    if answer and (status == 403 or (status == 400 and _GONE.search(said.lower()))):
        return channel.Permanent(said)
    if answer and status in (400, 413):
        return channel.Refused(said)
    return channel.Failed(said, maybe_delivered=status == 200 or status >= 500)


def _description(answer: dict[str, Any]) -> str:
    said = str(answer.get("description") or "").encode(errors="replace").decode()  # no half characters
    return cut(said, 200)


class TelegramChannel:
    """A chat, `chat:topic` or `@channel`. A refused topic or markup is done without, never the message."""

    def __init__(self, bot: Bot, configured: str) -> None:
        self._bot, self.name = bot, configured
        self.chat, _, topic = configured.partition(":")
        self.topic = int(topic) if topic else None
        self.key = "telegram." + "".join(c if c.isalnum() or c == "-" else f"={ord(c):x}" for c in configured)

    async def turn(self, chat: str) -> None:
        await self._bot.pace.turn(chat)

    async def send(self, chat: str, message: OutgoingMessage, reply_to: int | None) -> Outcome:
        body = self._body(chat, message, reply_to)
        result, said = await self._bot.send(body)
        if isinstance(result, channel.Refused) and "message_thread_id" in body and _BAD_TOPIC.search(said):
            log.warning("telegram refused the topic; sent without it", chat=chat, reason=said)
            FALLBACKS.labels("topic").inc()
            del body["message_thread_id"]
            result, said = await self._bot.send(body)
        if isinstance(result, channel.Refused) and _BAD_MARKUP.search(said):
            log.error("telegram refused the text; sent without markup", chat=chat, reason=said)
            FALLBACKS.labels("markup").inc()
            body.pop("parse_mode")
            body["text"] = cut(message.plain_text, MAX_UNITS)
            result, said = await self._bot.send(body)
        return result

    def shown(self, chat: str) -> str | None:
        return chat if self.topic is None else f"{chat}:{self.topic}"

    def edit_turn(self, chat: str) -> float:
        return self._bot.pace.try_turn(chat, EDITS_SHARE)

    async def edit(self, chat: str, message_id: int, message: OutgoingMessage) -> Outcome:
        body: dict[str, Any] = {
            "chat_id": _number(chat),
            "message_id": message_id,
            "text": message.text,
            "parse_mode": "HTML",
            "link_preview_options": {"is_disabled": True},
            "reply_markup": keyboard(message.buttons),
        }
        result, said = await self._bot.edit(body)
        if isinstance(result, channel.Refused) and _BAD_MARKUP.search(said):
            body.pop("parse_mode")
            body["text"] = cut(message.plain_text, MAX_UNITS)
            result, said = await self._bot.edit(body)
        return result

    def _body(self, chat: str, message: OutgoingMessage, reply_to: int | None) -> dict[str, Any]:
        body: dict[str, Any] = {
            "chat_id": _number(chat),
            "text": message.text,
            "parse_mode": "HTML",
            "link_preview_options": {"is_disabled": True},
            "disable_notification": message.silent,
        }
        if self.topic is not None:
            body["message_thread_id"] = self.topic
        if message.buttons:
            body["reply_markup"] = keyboard(message.buttons)
        if reply_to is not None:
            body["reply_parameters"] = {"message_id": reply_to, "allow_sending_without_reply": True}
        return body


def _number(chat: str) -> str | int:
    return chat if chat.startswith("@") else int(chat)


def keyboard(buttons: tuple[tuple[tuple[str, str], ...], ...]) -> dict[str, Any]:
    rows = [[{"text": text, "callback_data": data} for text, data in row] for row in buttons]
    return {"inline_keyboard": rows}
