"""Telegram made up: chats that see what is sent to them, and all the ways in which it answers, or not."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from services.notifier.channels.channel import Failed
from services.notifier.channels.telegram import Bot, Pace, TelegramChannel
from services.notifier.texts.message import REPEAT, OutgoingMessage
from tests.simulation.clock import OWNER, VirtualLoop
from tests.simulation.notifier.world import Host
from tests.telegram_standin import MOST_UNITS, parsed

_NOTES = re.compile(rf"\A(?:{re.escape(REPEAT)}\n|\(late: [^)]*\)\n)*")
MOST_PER_MINUTE = 20
"""Messages in a group."""
ANSWERS = re.compile(
    r"Subscribed|This chat|No more messages|🔕|🔔|There |Too many|/mute|/unmute|Commands|A service|I do |"
    r"/ack|No open |\d+ open |That cannot|\w+: (?:You have it|.+ has it|It is alive|That )|"
    r"You hear |From \d"
)
"""How answers to commands begin."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What goes wrong in one chat, or in all of them, for a while, and how often."""

    start: float
    end: float
    kind: str
    chance: float = 1.0


@dataclass(eq=False)
class Phone:
    """A chat. `moves_at`: when the group becomes a supergroup."""

    address: str
    moves_at: float = float("inf")
    troubles: Sequence[Trouble] = ()

    def now_at(self, at: float) -> str:
        return self.address if at < self.moves_at else f"-100{self.address[1:]}"

    def is_kicked(self, at: float) -> bool:
        return any(it.start <= at < it.end and it.kind == "kicked" for it in self.troubles)


@dataclass(slots=True)
class Shown:
    """What somebody has seen. `confirmed`: the notifier was told so."""

    at: float
    phone: Phone
    message: OutgoingMessage
    by: str
    confirmed: bool = False
    id: int = 0
    address: str = ""
    """The chat's number then."""
    edits: list["Edit"] = field(default_factory=list)

    @property
    def is_marked(self) -> bool:
        return self.message.plain_text.startswith(REPEAT)

    @property
    def text(self) -> str:
        """What it says below its notes."""
        return _NOTES.sub("", self.message.plain_text)

    @property
    def now_says(self) -> str:
        return self.edits[-1].text if self.edits else parsed(self.message.text)

    @property
    def buttons(self) -> tuple[str, ...]:
        if self.edits:
            return self.edits[-1].buttons
        return tuple(data for row in self.message.buttons for _, data in row)

    @property
    def is_answer(self) -> bool:
        return ANSWERS.match(self.message.plain_text) is not None


@dataclass(frozen=True, slots=True)
class Edit:
    """What a message says since then. `buttons`: what each sends when it is pressed."""

    at: float
    by: str
    text: str
    buttons: tuple[str, ...]


@dataclass
class Telegram:
    """All chats and what they were sent, in order."""

    loop: VirtualLoop
    phones: list[Phone]
    troubles: Sequence[Trouble]
    rng: Random
    shown: list[Shown] = field(default_factory=list)
    doubtful: list[tuple[float, Phone]] = field(default_factory=list)
    """When a send to whom ended so that it may have been delivered."""
    updates: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[float, str, Phone]] = field(default_factory=list)
    """When a message or an edit was on its way, from which notifier, to which chat."""
    taken: list[tuple[float, Phone]] = field(default_factory=list)
    """When one was taken."""
    answers: list[dict[str, Any]] = field(default_factory=list)
    """How presses of buttons were answered."""
    _count: int = 0
    _waiting: list[asyncio.Future[None]] = field(default_factory=list)

    def phone(self, address: str) -> Phone | None:
        return next((it for it in self.phones if address in (it.address, it.now_at(float("inf")))), None)

    def trouble(self, phone: Phone) -> str:
        now = self.loop.time()
        for it in (*self.troubles, *phone.troubles):
            if it.start <= now < it.end and self.rng.random() < it.chance:
                return it.kind
        return ""

    # --- what people do

    def write(self, phone: Phone, text: str) -> None:
        self._update({"message_id": 1, "chat": {"id": int(phone.now_at(self.loop.time()))}, "text": text})

    def move(self, phone: Phone) -> None:
        """The group becomes a supergroup: it says so in both."""
        old, new = int(phone.address), int(phone.now_at(float("inf")))
        self._update({"message_id": 1, "chat": {"id": old}, "migrate_to_chat_id": new})
        self._update({"message_id": 2, "chat": {"id": new}, "migrate_from_chat_id": old})

    def _update(self, message: dict[str, Any]) -> None:
        self.receive(message=message)

    def receive(self, **content: Any) -> None:
        self._count += 1
        self.updates.append({"update_id": self._count, **content})
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    async def poll(self, offset: int) -> list[dict[str, Any]]:
        self.updates = [it for it in self.updates if it["update_id"] >= offset]
        while not self.updates:
            future: asyncio.Future[None] = self.loop.create_future()
            self._waiting.append(future)
            await future
        return list(self.updates)

    # --- what the bot does

    async def call(
        self, host: Host, method: str, body: dict[str, Any]
    ) -> tuple[int, dict[str, Any], Failed | None]:
        if method == "getMe":
            return 200, {"ok": True, "result": {"username": "bot"}}, None
        dies = host.count()
        if method == "getUpdates":
            found = await self.poll(body["offset"])
            await host.while_suspended()
            return 200, {"ok": True, "result": found}, None
        if method == "answerCallbackQuery":
            self.answers.append(body)
            return 200, {"ok": True, "result": True}, None
        phone = self.phone(str(body["chat_id"]))
        assert phone, f"there is no chat {body['chat_id']}"
        self.asked.append((self.loop.time(), host.name, phone))
        await asyncio.sleep(0.05 + self.rng.random() * 0.2)
        await host.while_suspended()
        if dies and self.rng.random() < 0.5:
            host.die(f"killed before it sends to {phone.address}")
        if method == "editMessageText":
            status, answer, failed = await self._edit(host, phone, body, dies)
        else:
            status, answer, failed = await self._send(
                host, phone, str(body["chat_id"]), body["message"], dies
            )
        host.broker.say(host.name, f"to {phone.address}: {answer or failed}")
        return status, answer, failed

    async def _send(
        self, host: Host, phone: Phone, address: str, message: OutgoingMessage, dies: bool
    ) -> tuple[int, dict[str, Any], Failed | None]:
        kind = self.trouble(phone)
        if (refused := await self._refused(phone, address, kind)) is not None:
            return refused
        if host.dead.is_set():
            raise asyncio.CancelledError
        shown = Shown(self.loop.time(), phone, message, host.name, id=len(self.shown) + 1, address=address)
        self.shown.append(shown)
        self.taken.append((self.loop.time(), phone))
        if host.broker.trace is not None:
            host.broker.say(phone.address, "sees: " + message.plain_text.replace("\n", " | "))
        if dies:
            host.die(f"killed after it has sent to {phone.address}")
        match kind:
            case "lost":
                self.doubtful.append((self.loop.time(), phone))
                await asyncio.sleep(self.rng.choice((1, 15)))
                return 0, {}, Failed("no answer (ReadError)", maybe_delivered=True)
            case "garbled":
                self.doubtful.append((self.loop.time(), phone))
                return 200, {}, None
            case "error after":
                self.doubtful.append((self.loop.time(), phone))
                return 504, _refusal("Gateway Timeout"), None
        await asyncio.sleep(self.rng.random() * 0.2)
        await host.while_suspended()
        shown.confirmed = True
        return 200, {"ok": True, "result": {"message_id": shown.id}}, None

    async def _edit(
        self, host: Host, phone: Phone, body: dict[str, Any], dies: bool
    ) -> tuple[int, dict[str, Any], Failed | None]:
        address, id_ = str(body["chat_id"]), body["message_id"]
        kind = self.trouble(phone)
        if (refused := await self._refused(phone, address, kind)) is not None:
            return refused
        if host.dead.is_set():
            raise asyncio.CancelledError
        shown = next((it for it in self.shown if it.id == id_ and it.phone is phone), None)
        if shown is None or shown.address != phone.now_at(self.loop.time()):
            return 400, _refusal("Bad Request: message to edit not found"), None
        text = parsed(body["text"])
        assert len(text.encode("utf-16-le")) // 2 <= MOST_UNITS, "an edit is too long"
        rows = body["reply_markup"]["inline_keyboard"]
        buttons = tuple(button["callback_data"] for row in rows for button in row)
        if (text, buttons) == (shown.now_says, shown.buttons):
            return 400, _refusal("Bad Request: message is not modified"), None
        shown.edits.append(Edit(self.loop.time(), host.name, text, buttons))
        self.taken.append((self.loop.time(), phone))
        if host.broker.trace is not None:
            host.broker.say(
                phone.address, f"sees #{id_} edited: " + text.replace("\n", " | ") + f" {buttons}"
            )
        if dies:
            host.die(f"killed after it has edited in {phone.address}")
        if kind == "lost":
            await asyncio.sleep(self.rng.choice((1, 15)))
            return 0, {}, Failed("no answer (ReadError)", maybe_delivered=True)
        if kind in ("garbled", "error after"):
            return (200, {}, None) if kind == "garbled" else (504, _refusal("Gateway Timeout"), None)
        await asyncio.sleep(self.rng.random() * 0.2)
        await host.while_suspended()
        return 200, {"ok": True, "result": {"message_id": id_}}, None

    async def _refused(
        self, phone: Phone, address: str, kind: str
    ) -> tuple[int, dict[str, Any], Failed | None] | None:
        """Why nothing is sent or edited."""
        now = self.loop.time()
        if address != phone.now_at(now):
            parameters = {"migrate_to_chat_id": int(phone.now_at(now))}
            return 400, _refusal("group chat was upgraded to a supergroup chat", parameters), None
        match kind:
            case "token":
                return 401, _refusal("Unauthorized"), None
            case "kicked":
                return 403, _refusal("Forbidden: bot was kicked from the group chat"), None
            case "odd":
                return 400, _refusal("Bad Request: nobody has seen this before"), None
            case "limit":
                wait = self.rng.choice((1, 40, 300))
                return 429, _refusal("Too Many Requests", {"retry_after": wait}), None
            case "error":
                return 502, _refusal("Bad Gateway"), None
            case "refused":
                return 0, {}, Failed("cannot be reached (ConnectError)", maybe_delivered=False)
            case "hang":
                self.doubtful.append((now, phone))
                await asyncio.sleep(15)
                return 0, {}, Failed("no answer (TimeoutError)", maybe_delivered=True)
            case "slow":
                await asyncio.sleep(self.rng.random() * 14)
        recent = [at for at, to in self.taken if to is phone and at > now - 60]
        if phone.address.startswith("-") and len(recent) >= MOST_PER_MINUTE:
            return 429, _refusal("Too Many Requests", {"retry_after": 5}), None
        return None


def _refusal(description: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    more = {"parameters": parameters} if parameters else {}
    return {"ok": False, "description": description, **more}


class SimulatedBot(Bot):
    """Calls Telegram as it is made up."""

    def __init__(self, *_: Any) -> None:
        host = OWNER.get()
        assert isinstance(host, Host)
        self._host = host
        self.pace = Pace()
        self.username = ""

    async def close(self) -> None: ...

    async def _call(
        self, method: str, body: dict[str, Any], within: float = 0
    ) -> tuple[int, dict[str, Any], Failed | None]:
        telegram: Telegram = self._host.broker.telegram
        return await telegram.call(self._host, method, body)


class SimulatedChat(TelegramChannel):
    """Lets the message be seen that a text was made of."""

    def _body(self, chat: str, message: OutgoingMessage, reply_to: int | None) -> dict[str, Any]:
        return {**super()._body(chat, message, reply_to), "message": message}
