"""What the bot answers: to chats that are known, and to whoever has the invite's secret; to nobody else."""

import asyncio
import difflib
import hmac
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from services.notifier.alerting.texts import (
    MAX_NAME,
    LinkContext,
    Message,
    anchor,
    button_key,
    cut,
    escape,
    service_url,
    units,
)
from services.notifier.bot.updates import ButtonPress, IncomingMessage, Update
from services.notifier.channels.channel import Limited, Migrated
from services.notifier.channels.telegram import Bot, TelegramChannel, keyboard
from services.notifier.dispatch.receiver import ReceiverWorker
from services.notifier.states import ServiceStates
from shared.contracts import durations
from shared.contracts.durations import spoken
from shared.contracts.zones import local
from shared.domain import digest
from shared.domain.digest import MARKS

log = structlog.get_logger()

HOUR, MAX_MUTE = timedelta(hours=1), timedelta(days=30)
PER_PAGE, ROOM = 40, 3500
"""Services on one page of the list, and its UTF-16 units."""
TRIES = 3

HELP = """/status: how the fleet is
/status NAME: one service
/services: all of them
/mute NAME 2h: hear nothing of a service for a while (1h if no time is given)
/unmute NAME
/digest: the daily digest as of now
/stop: no more messages
/help"""


@dataclass(frozen=True)
class BotActions:
    """What commands may do beyond answering. `subscribe`, `unsubscribe`: False if that cannot be done.
    `migrate`: a group has a new number in place of another."""

    chats: Callable[[], Sequence[ReceiverWorker]]
    subscribe: Callable[[str], Awaitable[bool]]
    unsubscribe: Callable[[str], Awaitable[bool]]
    migrate: Callable[[str, str], Awaitable[None]]
    digest: Callable[[datetime], Awaitable[list[str]]]
    last_heartbeat: Callable[[str], Awaitable[datetime | None]]
    now: Callable[[], datetime]


class BotCommands:
    """`handle` each update."""

    def __init__(
        self, bot: Bot, states: ServiceStates, links: LinkContext, doors: BotActions, invite: str
    ) -> None:
        self._bot = bot
        self._states = states
        self._links = links
        self._actions = doors
        self._invite = invite

    async def handle(self, update: Update) -> None:
        if update.callback_query:
            await self._on_button(update.callback_query)
        elif message := update.message:
            if message.migrated_to:
                await self._actions.migrate(str(message.chat.id), str(message.migrated_to))
            if message.migrated_from:
                await self._actions.migrate(str(message.migrated_from), str(message.chat.id))
            if message.text.startswith("/"):
                await self._on_message(message)

    # --- commands

    async def _on_message(self, message: IncomingMessage) -> None:
        command, _, rest = message.text.partition(" ")
        command, _, addressee = command.partition("@")
        if addressee and self._bot.username and addressee.lower() != self._bot.username.lower():
            return
        chat, words = str(message.chat.id), rest.split()
        if command.lower() == "/start":
            answer = await self._start(chat, words)
        elif not (known := self._receivers(chat)):
            return
        else:
            for it in known:
                if it.state.off:  # whoever writes in it may have let us in again
                    it.try_now()
            answer = await self._answer(chat, command.lower(), words)
        if answer:
            await self._reply(message, answer)

    def _receivers(self, chat: str) -> list[ReceiverWorker]:
        return [it for it in self._actions.chats() if it.address == chat]

    async def _start(self, chat: str, words: list[str]) -> Message | None:
        invited = bool(self._invite) and hmac.compare_digest("".join(words).encode(), self._invite.encode())
        if known := self._receivers(chat):
            reasons = [reason for it in known if (reason := await it.switch_on())]
            if reasons:
                was = f"This chat was off ({reasons[0]}) and is on again. What was kept for it follows."
                return _text(was, HELP)
            return _text("This chat gets the registry's messages already.", HELP)
        if not invited:
            return None
        if not await self._actions.subscribe(chat):
            return _text("There are too many subscribers already.")
        return _text("Subscribed: you will hear when a service falls and when it is back.", HELP)

    async def _answer(self, chat: str, command: str, words: list[str]) -> Message:
        if command == "/stop":
            if await self._actions.unsubscribe(chat):
                return _text("No more messages. /start with the invite's secret brings them back.")
            return _text(
                "This chat was configured by the operator (REGISTRY_TELEGRAM_CHAT_ID) and stays.",
                "/mute NAME 2h silences a service for a while.",
            )
        if command == "/status":
            return await self._service_status(words[0], chat) if words else self._fleet_status(chat)
        if command == "/services":
            return self._page(0)
        if command == "/mute":
            return await self._mute(chat, words)
        if command == "/unmute":
            return await self._unmute(chat, words)
        if command == "/digest":
            return _lines(await self._actions.digest(self._actions.now()), self._links)
        return _text(*(["Commands:"] if command == "/help" else ["I do not know that command."]), HELP)

    async def _mute(self, chat: str, words: list[str]) -> Message:
        if not 1 <= len(words) <= 2:
            return _text("/mute NAME DURATION, such as: /mute web 2h")
        name = words[0]
        if not self._states.get(name).exists:
            return await self._no_such(name)
        try:
            length = durations.parse(words[1]) if len(words) == 2 else HOUR
        except ValueError as error:
            return _text(str(error))
        if length > MAX_MUTE:
            return _text("A service can be muted for 30d at most.")
        return await self._muted(chat, name, length)

    async def _muted(self, chat: str, name: str, length: timedelta) -> Message:
        until = self._actions.now() + length
        done = [await it.mute(name, until) for it in self._receivers(chat)]
        if not all(done):
            return _text("Too many services are muted already.")
        return _text(f"🔕 {name} is muted until {local(until, self._links.zone)}.")

    async def _unmute(self, chat: str, words: list[str]) -> Message:
        if len(words) != 1:
            return _text("/unmute NAME")
        muted = [it for it in self._receivers(chat) if words[0] in it.mutes()]
        for it in muted:
            await it.unmute(words[0])
        return _text(f"🔔 {cut(words[0], MAX_NAME)} is {'no longer' if muted else 'not'} muted.")

    # --- answers

    async def _no_such(self, name: str) -> Message:
        names = [it.name for it in self._states.services()]
        close = await asyncio.to_thread(difflib.get_close_matches, name[:MAX_NAME], names, 3)
        maybe = f"Did you mean {', '.join(close)}?" if close else "/services lists them all."
        return _text(f"There is no service {cut(name, MAX_NAME)}. {maybe}")

    def _fleet_status(self, chat: str) -> Message:
        now = self._actions.now()
        lines = digest.status_lines(digest.digest(self._states.services(), [], now), self._links.zone)
        muted = {name: until for it in self._receivers(chat) for name, until in it.mutes().items()}
        if muted:
            entries = [
                f"{name} until {local(until, self._links.zone)}" for name, until in sorted(muted.items())
            ]
            more = [f"+{len(entries) - 5} more"] if len(entries) > 5 else []
            lines += ["", f"🔕 Muted here ({len(entries)})", *entries[:5], *more]
        return _lines(lines, self._links)

    async def _service_status(self, name: str, chat: str) -> Message:
        it = next((it for it in self._states.services() if it.name == name), None)
        if it is None:
            return await self._no_such(name)
        now, zone = self._actions.now(), self._links.zone
        heard = await self._actions.last_heartbeat(name)
        lines = [
            f"since {local(it.since, zone)}, for {spoken(now - it.since)}",
            f"last heartbeat {local(heard, zone)}, {spoken(now - heard)} ago" if heard else "never heard",
            "paused: it is not judged" if it.paused else "",
        ]
        lines += [
            f"🔕 muted here until {local(m[name], zone)}"
            for c in self._receivers(chat)
            if name in (m := c.mutes())
        ]
        lines = [line for line in lines if line]
        url = service_url(name, self._links)
        mark = MARKS[it.status]
        return Message(
            "\n".join([f"{mark} <b>{anchor(url, name)}</b>: {it.status}", *map(escape, lines)]),
            "\n".join([f"{mark} {name}: {it.status}", *lines, url]),
            True,
            0,
        )

    def _page(self, number: int) -> Message:
        pages = _pages([(it.status.badness, it.name, MARKS[it.status]) for it in self._states.services()])
        if not pages:
            return _text("No services yet.")
        number = max(0, min(number, len(pages) - 1))
        lines = [f"{mark} {name}" for _, name, mark in pages[number]]
        turns = (("◀", number - 1), ("▶", number + 1))
        row = tuple((sign, f"page:{to}") for sign, to in turns if 0 <= to < len(pages))
        title = f"Services, page {number + 1} of {len(pages)}"
        return Message(
            "\n".join([f"<b>{title}</b>", *map(escape, lines)]),
            "\n".join([title, *lines]),
            True,
            0,
            buttons=(row,) if row else (),
        )

    # --- buttons

    async def _on_button(self, query: ButtonPress) -> None:
        """Every press is answered, or the button would go on spinning; only known chats get more."""
        said = ""
        message = query.message
        if message and self._receivers(str(message.chat.id)):
            said = await self._run_button(query.data, message)
        await self._bot.ask("answerCallbackQuery", {"callback_query_id": query.id, "text": said})

    async def _run_button(self, data: str, message: IncomingMessage) -> str:
        """What the press says at once."""
        kind, _, value = data.partition(":")
        chat = str(message.chat.id)
        if kind == "page" and value.isascii() and value.isdigit():
            page = self._page(int(value[:6]))
            body = {"chat_id": message.chat.id, "message_id": message.message_id, "text": page.text}
            body |= {"parse_mode": "HTML", "reply_markup": keyboard(page.buttons)}
            await self._bot.pace.turn(chat)
            await self._bot.ask("editMessageText", body)
            return ""
        name = next((name for name in self._states if button_key(name) == value), None)
        if name is None or not self._states.get(name).exists:
            return "That service is gone."
        if kind == "mute":
            return (await self._muted(chat, name, HOUR)).plain_text
        if kind == "details":
            await self._reply(message, await self._service_status(name, chat))
        return ""

    async def _reply(self, to: IncomingMessage, message: Message) -> None:
        """Where it was asked. An answer that cannot be sent is not worth more than a few tries."""
        chat, topic = str(to.chat.id), f":{to.thread}" if to.in_topic and to.thread else ""
        channel = TelegramChannel(self._bot, chat + topic)
        for _ in range(TRIES):
            await channel.turn(chat)
            outcome = await channel.send(chat, message, None)
            if isinstance(outcome, Migrated):
                await self._actions.migrate(chat, outcome.chat)
                chat = outcome.chat
            elif isinstance(outcome, Limited):
                await asyncio.sleep(outcome.retry_after)
            else:
                return


ListedService = tuple[int, str, str]


def _pages(entries: list[ListedService]) -> list[list[ListedService]]:
    """Worst first, as many to a page as it holds."""
    pages: list[list[ListedService]] = []
    room = 0
    for entry in sorted(entries, key=lambda it: (-it[0], it[1])):
        size = units(entry[1]) + 4
        if not pages or len(pages[-1]) >= PER_PAGE or size > room:
            pages.append([])
            room = ROOM
        pages[-1].append(entry)
        room -= size
    return pages


def _text(*lines: str) -> Message:
    text = "\n".join(lines)
    return Message(escape(text), text, True, 0)


def _lines(lines: Sequence[str], links: LinkContext) -> Message:
    home = f"{links.public_url}/"
    html = [f"<b>{escape(lines[0])}</b>", *map(escape, lines[1:]), "", anchor(home, "All services")]
    return Message("\n".join(html), "\n".join([*lines, "", home]), True, 0)
