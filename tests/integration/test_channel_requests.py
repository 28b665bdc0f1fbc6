"""What the notifier that speaks is asked of its channels, over the broker."""

import asyncio
import http.server
import json
import threading
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest
from nats.aio.msg import Msg

from services.notifier import channel_requests as answering
from services.notifier.channels.telegram import Bot, TelegramChannel
from services.notifier.channels.webhook import WebhookChannel
from services.notifier.texts.message import OutgoingMessage
from shared.contracts.channels import ActionOutcome
from shared.messaging import channel_requests, streams
from shared.messaging.channel_requests import NoNotifier
from tests.broker import eventually
from tests.integration.test_notifier import NotificationLog, Start, record, start, telegram
from tests.notified import World
from tests.telegram_standin import Standin

__all__ = ["record", "start", "telegram"]


async def test_of_two_notifiers_the_one_that_speaks_answers(record: NotificationLog, start: Start) -> None:
    client = record.link.nc
    with pytest.raises(NoNotifier, match="no notifier answers"):
        await channel_requests.channel_reports(client)
    first, _ = start(telegram_chat_id="ops=42"), start(telegram_chat_id="ops=42")

    async def answers() -> int:
        found: list[Msg] = []

        async def note(message: Msg) -> None:
            found.append(message)

        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox, cb=note)
        await client.publish(streams.CHANNELS, b"0", reply=inbox)
        await asyncio.sleep(0.5)
        await subscription.unsubscribe()
        return len([message for message in found if message.data])

    async def one() -> bool:
        return await answers() == 1

    await eventually(one)
    assert [it.name for it in await channel_requests.channel_reports(client)] == ["ops"]
    first.kill()
    await eventually(one)
    assert (await channel_requests.send_test(client, "ops")).outcome is ActionOutcome.DONE


async def test_no_question_ends_the_notifier(record: NotificationLog, start: Start) -> None:
    process = start(telegram_chat_id="ops=42")
    client = record.link.nc
    for subject in (streams.CHANNELS, streams.CHANNEL_TEST, streams.CHANNEL_ON, streams.CHANNEL_INVITE):
        for payload in (b"", b"\xff\xfe", b"[" * 100_000, b'{"a": 1}', b"-1", b"9" * 400, "²".encode()):
            assert (await client.request(subject, payload, timeout=5)).data.startswith(b"{")
    assert process.running
    assert [it.name for it in await channel_requests.channel_reports(client)] == ["ops"]


async def test_many_channels_come_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "PAGE_SIZE", 300)
    world = World(7)
    await world.start()
    for inbox in world.inboxes:
        cast(Any, inbox).shown = lambda chat: chat
    receivers = cast(Any, _Receivers(world.chats))
    requests = answering.ChannelRequests.__new__(answering.ChannelRequests)
    requests._receivers = receivers
    asked: list[str] = []

    async def ask(_: Any, question: bytes, timeout: float) -> Any:
        asked.append(question.decode())
        return SimpleNamespace(data=(await requests._report(asked[-1])).model_dump_json().encode())

    client = cast(Any, SimpleNamespace(is_connected=True, request=ask))
    found = await channel_requests.channel_reports(client)
    assert [it.name for it in found] == [it.channel.name for it in world.chats]
    assert 2 < len(asked) < 7
    assert (await requests._report("7")).reports == ()


class _Receivers(list[Any]):
    def is_subscribed(self, _: Any) -> bool:
        return False


@pytest.fixture
def echo() -> Iterator[str]:
    """A proxy that repeats the path that it was asked for, whatever it is."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            said = json.dumps({"ok": False, "description": f"no way to {self.path}"}).encode()
            self.send_response(403)
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


async def test_no_reason_holds_the_secret_of_a_url(echo: str) -> None:
    bot, message = Bot(echo, "1:HIDDEN"), OutgoingMessage("x", "x", False, 0)
    outcome = await TelegramChannel(bot, "42").send("42", message, None)
    assert "no way to /bot<token>/sendMessage" in repr(outcome)
    hook = WebhookChannel(f"{echo}/HIDDEN?key=HIDDEN", "sixteen-characters", private=True)
    outcome = await hook.send(hook.chat, message, None)
    assert "HIDDEN" not in repr(outcome) + str(hook.shown(hook.chat)) + hook.name
    assert hook.shown(hook.chat) == "127.0.0.1"
    await bot.close()


async def test_a_message_goes_past_what_waits_at_the_pace_of_its_channel(
    record: NotificationLog, start: Start, telegram: Standin
) -> None:
    start(telegram_chat_id="ops=42")
    client = record.link.nc
    done = await asyncio.gather(*(channel_requests.send_test(client, "ops") for _ in range(8)))
    outcomes = [it.outcome for it in done]
    assert outcomes.count(ActionOutcome.DONE) == 3
    assert outcomes.count(ActionOutcome.LIMITED) == 5
    assert all(0 < it.retry_after <= 60 for it in done if it.outcome is ActionOutcome.LIMITED)
    times = [message["time"] for message in telegram.messages]
    assert len(times) == 3
    assert min(b - a for a, b in pairwise(times)) > 0.9
    assert telegram.refused == []
