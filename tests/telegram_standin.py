"""A stand-in for Telegram's Bot API that keeps Telegram's limits, and misbehaves when it is told to.

Limits, to which edits count: per chat 1 message a second with bursts of 3; 20 a minute per group (negative
id or @name); 30 a second in all; 4,096 UTF-16 units after parsing; HTML is really parsed; unknown chats and
tokens are refused.

    python -m tests.telegram_standin --port 8081 --token 1:TEST --chats 42,-1001

`POST /_control {"chat": "42", "mode": "500", "times": 2}` misbehaves towards one chat ("*": all), `times`
times (0: until told `"mode": "ok"`). Modes: `429` (with "retry_after"), `500`, `403`, `400`, `hang`, `cut`
(the line; both before the message is recorded), `mute`, `lost` (the same, after), `migrate` (with "to"),
`bad_token`.
`POST /_update {"chat": "42", "text": "/status"}`, or with "message_id" and "data" for a button, is what a
person does.
`GET /_messages` lists what people would see; `DELETE /_messages` forgets it.
"""

import argparse
import asyncio
import contextlib
import json
import math
import re
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

TAGS = {
    *("b", "strong", "i", "em", "u", "ins", "s", "strike", "del", "a", "code", "pre"),
    *("blockquote", "tg-spoiler", "span"),
}
MOST_UNITS = 4096


class BadMarkup(Exception):
    """As Telegram says: can't parse entities."""


class Cut(Exception):
    """The connection is to be cut without an answer."""


class _Parser(HTMLParser):
    """Telegram's HTML: known tags, properly nested and closed, nothing else that begins with `<`."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in TAGS:
            raise BadMarkup(f'Unsupported start tag "{tag}"')
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            raise BadMarkup(f'Unexpected end tag "{tag}"')

    def handle_data(self, data: str) -> None:
        if "<" in data:
            raise BadMarkup("Unsupported start tag")
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise BadMarkup("Unsupported start tag")

    handle_decl = handle_pi = handle_comment


def parsed(html: str) -> str:
    """The text that remains; BadMarkup if Telegram would not take it."""
    # An escaped "<" is data to Telegram, but HTMLParser hands both over alike.
    parser = _Parser()
    parser.feed(html.replace("&lt;", "\x00"))
    parser.close()
    if parser.open:
        raise BadMarkup(f'Can\'t find end tag corresponding to start tag "{parser.open[-1]}"')
    return parser.text.replace("\x00", "<")


class Bucket:
    """`burst` at once, then one each `every` seconds."""

    def __init__(self, burst: int, every: float) -> None:
        self.free, self.burst, self.every, self.at = float(burst), burst, every, time.monotonic()

    def wait(self) -> float:
        now = time.monotonic()
        self.free, self.at = min(self.burst, self.free + (now - self.at) / self.every), now
        return max(0.0, (1 - self.free) * self.every)

    def take(self) -> None:
        self.free -= 1


class Window:
    """At most `count` in any `seconds`."""

    def __init__(self, count: int, seconds: float) -> None:
        self.seconds, self.times = seconds, deque[float](maxlen=count)

    def wait(self) -> float:
        full = len(self.times) == self.times.maxlen
        return max(0.0, self.times[0] + self.seconds - time.monotonic()) if full else 0.0

    def take(self) -> None:
        self.times.append(time.monotonic())


@dataclass
class Standin:
    """`with Standin(...) as telegram:` serves on `telegram.url` from a thread of its own."""

    token: str = "1:TEST"
    chats: tuple[str, ...] = ("42",)
    topics: tuple[int, ...] = (7,)
    port: int = 0
    host: str = "127.0.0.1"
    messages: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)
    """Answers other than 200, with the chat and the time."""
    modes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._limits: dict[str, list[Bucket | Window]] = {}
        self._all = Window(30, 1.0)
        self._next_id = 1
        self.updates: list[dict[str, Any]] = []
        self.edits: list[dict[str, Any]] = []
        """Those that were made, in order."""
        self.answers: list[dict[str, Any]] = []
        """How presses of buttons were answered."""
        self._update_id = 1000
        self._poll = 0
        self._loop = asyncio.new_event_loop()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def __enter__(self) -> "Standin":
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self.serve(started))
        self._loop.close()

    async def serve(self, started: threading.Event | None = None) -> None:
        self._stop = asyncio.Event()
        connections: set[asyncio.Task[None]] = set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task
            connections.add(task)
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._connection(reader, writer)
            writer.transport.abort()
            connections.discard(task)

        server = await asyncio.start_server(accept, self.host, self.port)
        self.port = server.sockets[0].getsockname()[1]
        if started:
            started.set()
        await self._stop.wait()
        server.close()
        for task in list(connections):
            task.cancel()
        if connections:
            await asyncio.wait(set(connections), timeout=2)

    # --- HTTP

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            method, path, _ = line.decode().split(" ", 2)
            length = 0
            while (header := (await reader.readline()).decode().strip()) != "":
                name, _, value = header.partition(":")
                if name.lower() == "content-length":
                    length = int(value)
            body = await reader.readexactly(length)
            try:
                status, answer = await self._route(method, path, body)
            except Cut:
                return
            payload = json.dumps(answer).encode()
            kind = "content-type: application/json"
            head = f"HTTP/1.1 {status} X\r\n{kind}\r\ncontent-length: {len(payload)}\r\n\r\n"
            writer.write(head.encode() + payload)
            await writer.drain()

    async def _route(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/_messages":
            if method == "DELETE":
                self.messages.clear()
            return 200, self.messages
        if path == "/_update":
            self.update(**json.loads(body))
            return 200, {"ok": True}
        if path == "/_control":
            self.control(**json.loads(body))
            return 200, {"ok": True}
        match = re.fullmatch(r"/bot([^/]+)/(\w+)", path)
        if not match:
            return self._refuse("", 404, "Not Found")
        if match[1] != self.token or "bad_token" in {mode["mode"] for mode in self.modes.values()}:
            return self._refuse("", 401, "Unauthorized")
        if match[2] == "getMe":
            return 200, {"ok": True, "result": {"id": 1, "is_bot": True, "username": "standin_bot"}}
        if match[2] == "sendMessage":
            return await self._send_message(json.loads(body))
        if match[2] == "getUpdates":
            return await self._get_updates(json.loads(body))
        if match[2] == "editMessageText":
            return self._edit(json.loads(body))
        if match[2] == "answerCallbackQuery":
            self.answers.append(json.loads(body))
            return 200, {"ok": True, "result": True}
        if match[2] == "getChat":
            chat = str(json.loads(body).get("chat_id", ""))
            if chat not in self.chats:
                return self._refuse(chat, 400, "Bad Request: chat not found")
            return 200, {"ok": True, "result": {"id": chat}}
        return self._refuse("", 404, "Not Found")

    # --- updates

    def update(
        self,
        chat: str,
        text: str = "",
        data: str = "",
        message_id: int = 1,
        thread: int | None = None,
        person: str = "P",
    ) -> None:
        """A person writes `text`, or presses the button `data` under a message."""
        message: dict[str, Any] = {"message_id": message_id, "chat": {"id": int(chat)}, "date": 0}
        if thread:
            message |= {"message_thread_id": thread, "is_topic_message": True}
        who = {"id": 7, "is_bot": False, "first_name": person}
        if data:
            query = {"id": f"q{self._update_id}", "from": who, "message": message, "data": data}
            self.raw_update(callback_query=query)
        else:
            self.raw_update(message=message | {"from": who, "text": text})

    def raw_update(self, **content: Any) -> None:
        self._update_id += 1
        self.updates.append({"update_id": self._update_id, **content})

    async def _get_updates(self, body: dict[str, Any]) -> tuple[int, Any]:
        """The newest poller ends the one before, as with Telegram."""
        self._poll += 1
        mine, deadline = self._poll, time.monotonic() + min(body.get("timeout", 0), 50)
        self.updates = [it for it in self.updates if it["update_id"] >= body.get("offset", 0)]
        while not self.updates and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
            if mine != self._poll:
                return self._refuse("", 409, "Conflict: terminated by other getUpdates request")
        return 200, {"ok": True, "result": self.updates[:100]}

    def _edit(self, body: dict[str, Any]) -> tuple[int, Any]:
        """Modes of a chat `edit:42` are of edits alone."""
        chat = str(body["chat_id"])
        mode = self._mode(f"edit:{chat}") if f"edit:{chat}" in self.modes else {}
        if mode.get("mode") == "cut":
            raise Cut
        if mode.get("mode") == "429":
            return self._too_many(chat, mode.get("retry_after", 1))
        if "mode" in mode:
            return self._refuse(chat, int(mode["mode"]), mode.get("said", "Internal Server Error"))
        if (wait := self._take(chat)) > 0:
            return self._too_many(chat, wait)
        found = [m for m in self.messages if m["chat"] == chat and m["message_id"] == body["message_id"]]
        if not found:
            return self._refuse(chat, 400, "Bad Request: message to edit not found")
        try:
            text, buttons = parsed(body["text"]), self._buttons(body)
        except BadMarkup as error:
            return self._refuse(chat, 400, f"Bad Request: can't parse entities: {error}")
        if (text, buttons) == (found[0]["text"], found[0]["buttons"]):
            return self._refuse(chat, 400, "Bad Request: message is not modified")
        if len(text.encode("utf-16-le")) // 2 > MOST_UNITS:
            return self._refuse(chat, 400, "Bad Request: message is too long")
        found[0] |= {"text": text, "html": body["text"], "buttons": buttons}
        self.edits.append({"chat": chat, "message_id": body["message_id"], "text": text, "time": time.time()})
        return 200, {"ok": True, "result": {"message_id": body["message_id"], "chat": {"id": chat}}}

    @staticmethod
    def _buttons(body: dict[str, Any]) -> list[dict[str, str]]:
        """BadMarkup: Telegram would not take them."""
        found = [it for row in (body.get("reply_markup") or {}).get("inline_keyboard", []) for it in row]
        for it in found:
            if not it.get("text") or not 1 <= len(it.get("callback_data", "").encode()) <= 64:
                raise BadMarkup("BUTTON_DATA_INVALID")
        return found

    def control(self, mode: str, chat: str = "*", times: int = 0, **more: Any) -> None:
        if mode == "ok":
            self.modes.pop(chat, None)
        else:
            self.modes[chat] = {"mode": mode, "times": times, **more}

    def _refuse(self, chat: str, status: int, said: str, **parameters: Any) -> tuple[int, Any]:
        self.refused.append({"chat": chat, "status": status, "said": said, "time": time.time()})
        answer: dict[str, Any] = {"ok": False, "error_code": status, "description": said}
        return status, answer | ({"parameters": parameters} if parameters else {})

    # --- sendMessage

    async def _send_message(self, body: dict[str, Any]) -> tuple[int, Any]:
        chat = str(body.get("chat_id", ""))
        mode = self._mode(chat)
        kind = mode.get("mode", "")
        if kind == "hang":
            await asyncio.sleep(mode.get("seconds", 3600))
        if kind == "cut":
            raise Cut
        if kind in ("400", "403", "500"):
            said = {"400": "Bad Request: chat not found", "403": "Forbidden: bot was blocked by the user"}
            return self._refuse(chat, int(kind), said.get(kind, "Internal Server Error"))
        if kind == "429":
            return self._too_many(chat, mode.get("retry_after", 1))
        if kind == "migrate":
            said_migrated = "Bad Request: group chat was upgraded to a supergroup chat"
            return self._refuse(chat, 400, said_migrated, migrate_to_chat_id=int(mode["to"]))
        answer = self._judge(chat, body)
        if kind == "mute":
            await asyncio.sleep(mode.get("seconds", 3600))
        if kind == "lost":
            raise Cut
        return answer

    def _mode(self, chat: str) -> dict[str, Any]:
        key = chat if chat in self.modes else "*"
        mode = self.modes.get(key, {})
        if mode.get("times"):
            mode["times"] -= 1
            if not mode["times"]:
                del self.modes[key]
        return mode

    def _too_many(self, chat: str, wait: float) -> tuple[int, Any]:
        wait = math.ceil(wait)
        return self._refuse(chat, 429, f"Too Many Requests: retry after {wait}", retry_after=wait)

    def _judge(self, chat: str, body: dict[str, Any]) -> tuple[int, Any]:
        if chat not in self.chats:
            return self._refuse(chat, 400, "Bad Request: chat not found")
        topic = body.get("message_thread_id")
        if topic is not None and topic not in self.topics:
            return self._refuse(chat, 400, "Bad Request: message thread not found")
        try:
            text = parsed(body["text"]) if body.get("parse_mode") == "HTML" else body["text"]
            self._buttons(body)
        except BadMarkup as error:
            return self._refuse(chat, 400, f"Bad Request: can't parse entities: {error}")
        if not text.strip():
            return self._refuse(chat, 400, "Bad Request: message text is empty")
        if len(text.encode("utf-16-le")) // 2 > MOST_UNITS:
            return self._refuse(chat, 400, "Bad Request: message is too long")
        if (wait := self._take(chat)) > 0:
            return self._too_many(chat, wait)
        return 200, {"ok": True, "result": self._record(chat, text, body)}

    def _take(self, chat: str) -> float:
        """Seconds to wait; 0: one more is permitted, and counted."""
        limits = [self._all, *self._limits.setdefault(chat, list(self._own_limits(chat)))]
        if (wait := max(limit.wait() for limit in limits)) <= 0:
            for limit in limits:
                limit.take()
        return wait

    def _own_limits(self, chat: str) -> Iterator[Bucket | Window]:
        yield Bucket(3, 1.0)
        if chat.startswith(("-", "@")):
            yield Window(20, 60.0)

    def _record(self, chat: str, text: str, body: dict[str, Any]) -> dict[str, Any]:
        message = {
            "message_id": self._next_id,
            "chat": chat,
            "text": text,
            "html": body["text"] if body.get("parse_mode") == "HTML" else None,
            "silent": bool(body.get("disable_notification")),
            "topic": body.get("message_thread_id"),
            "reply_to": (body.get("reply_parameters") or {}).get("message_id"),
            "buttons": self._buttons(body),
            "preview": not (body.get("link_preview_options") or {}).get("is_disabled"),
            "time": time.time(),
        }
        self._next_id += 1
        self.messages.append(message)
        return {"message_id": message["message_id"], "date": int(time.time()), "chat": {"id": chat}}


def main() -> None:
    parser = argparse.ArgumentParser(description="A stand-in for Telegram's Bot API.")
    parser.add_argument("--port", type=int, default=8081)
    parser.add_argument("--token", default="1:TEST")
    parser.add_argument("--chats", default="42", help="comma-separated")
    given = parser.parse_args()
    standin = Standin(given.token, tuple(given.chats.split(",")), port=given.port)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(standin.serve())


if __name__ == "__main__":
    main()
