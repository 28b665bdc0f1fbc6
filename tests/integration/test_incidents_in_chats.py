"""Who has it in hand, in every chat: buttons, commands, edits; the notifier as a process."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from shared.contracts.events import IncidentEvent, Status
from shared.messaging import streams
from shared.messaging.reader import Reader
from tests.broker import eventually
from tests.integration.test_commands import answer, silence
from tests.integration.test_notifier import NotificationLog, Start, get, record, start, telegram, texts, told
from tests.telegram_standin import Standin

__all__ = ["record", "start", "telegram"]

UNKNOWN, ALIVE, SILENT, DOWN, DEAD = Status
BOTH = "42,-1001"


def fall_in(telegram: Standin, chat: str, name: str = "web") -> dict[str, Any]:
    found = [it for it in telegram.messages if it["chat"] == chat and f"{name}: alive → down" in it["text"]]
    return found[-1]


async def says(telegram: Standin, chat: str, *said: str, name: str = "web", within: float = 10) -> None:
    async def there() -> bool:
        return all(it in fall_in(telegram, chat, name)["text"] for it in said)

    await eventually(there, within)


def labels(message: dict[str, Any]) -> list[str]:
    return [it["text"] for it in message["buttons"]]


async def press(telegram: Standin, chat: str, label: str, name: str = "web", person: str = "Ana") -> str:
    """What is said at once."""
    message, before = fall_in(telegram, chat, name), len(telegram.answers)
    data = next(it["callback_data"] for it in message["buttons"] if it["text"] == label)
    telegram.update(chat, data=data, message_id=message["message_id"], person=person)
    return await answered(telegram, before)


async def answered(telegram: Standin, before: int) -> str:
    async def there() -> bool:
        return len(telegram.answers) > before

    await eventually(there)
    return str(telegram.answers[before]["text"])


async def falls(record: NotificationLog, telegram: Standin, name: str = "web", chats: str = BOTH) -> None:
    await record.change(name, ALIVE, DOWN)
    for chat in chats.split(","):
        await told(telegram, f"{name}: alive → down", chat=chat)


async def test_whoever_presses_the_message_is_edited_in_every_chat_and_again_when_it_is_alive(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    await record.register("web")
    start(telegram_chat_id=BOTH)
    await falls(record, telegram)
    assert labels(fall_in(telegram, "-1001")) == ["I have it", "Mute 1h", "Details"]
    assert await press(telegram, "42", "I have it") == "You have it"
    for chat in BOTH.split(","):
        await says(telegram, chat, "✋ Ana has it, ")
        assert labels(fall_in(telegram, chat)) == ["Mute 1h", "Details"]
    assert "web: Ana has it since" in await answer(telegram, "-1001", "/ack web", person="Ben")
    assert "1 open incident\n🔻 web: down for" in (listed := await answer(telegram, "42", "/incidents"))
    assert listed.endswith("✋ Ana")
    await record.change("web", DOWN, ALIVE)
    for chat in BOTH.split(","):
        await says(telegram, chat, "✅ alive again after ", "· Ana had it")
        assert fall_in(telegram, chat)["buttons"] == []
        assert "✋" not in fall_in(telegram, chat)["text"]
        replies = [it for it in telegram.messages if it["reply_to"] == fall_in(telegram, chat)["message_id"]]
        assert [it for it in replies if "web: down → alive" in it["text"]]
    assert not telegram.refused


async def test_of_merged_changes_up_to_three_falls_have_buttons(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    names = ("a", "b", "c", "d")
    for name in ("web", "job", *names):
        await record.register(name)
    start()
    await falls(record, telegram, "job", "42")
    telegram.control("429", chat="42", times=1, retry_after=2)
    await record.change("job", DOWN, ALIVE)
    await falls(record, telegram, chats="42")
    assert "job: down → alive" in fall_in(telegram, "42")["text"]
    assert labels(fall_in(telegram, "42")) == ["I have it", "Mute 1h", "Details"]
    assert await press(telegram, "42", "I have it") == "You have it"
    await says(telegram, "42", "✋ Ana has it, ")
    await record.change("web", DOWN, ALIVE)
    await says(telegram, "42", "✅ alive again after ", "· Ana had it")
    await told(telegram, "web: down → alive")
    telegram.control("429", chat="42", times=1, retry_after=2)
    for name in names:
        await record.change(name, ALIVE, DOWN)
    await told(telegram, *(f"{name}: alive → down" for name in names))
    assert all(f"{name}: alive → down" in fall_in(telegram, "42", "a")["text"] for name in names)
    assert labels(fall_in(telegram, "42", "a")) == []
    for name in names[:2]:
        await record.change(name, DOWN, ALIVE)
    await says(telegram, "42", "✅ 2 of 4 are alive again", name="a")


async def test_whom_a_message_was_sent_is_an_event_for_each_channel(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    await record.register("web")
    start(telegram_chat_id="ops=42,-1001")
    await falls(record, telegram)
    assert await press(telegram, "42", "I have it") == "You have it"
    await record.change("web", DOWN, ALIVE)
    await told(telegram, "web: down → alive", chat="42")
    await told(telegram, "web: down → alive", chat="-1001")
    found: list[IncidentEvent] = []

    async def there() -> bool:
        found.clear()
        async for batch in Reader(record.link, streams.SERVICES, streams.incident("web")).to_end():
            found.extend(streams.read_incident(it.subject, it.data) for it in batch)
        return len(found) == 5

    await eventually(there)
    of_channels = sorted(
        (it.data.told.status, it.data.told.channel, it.data.told.what) for it in found if it.data.told
    )
    assert of_channels == [
        (to, channel, "change") for to in ("alive", "down") for channel in ("-1001", "ops")
    ]
    assert len({it.data.incident for it in found}) == 1
    assert [it.actor for it in found if it.data.told is None] == ["telegram:Ana (7)"]


async def test_edits_are_made_up_for_after_a_crash_and_kept_are_only_those_that_are_not_over(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    await record.register("web")
    await record.register("job")
    process = start(telegram_chat_id=BOTH)
    await falls(record, telegram)
    await falls(record, telegram, "job")
    assert await press(telegram, "42", "I have it") == "You have it"
    await says(telegram, "-1001", "✋ Ana has it")
    await record.settled()
    process.kill()
    await record.change("web", DOWN, ALIVE)
    process = start(telegram_chat_id=BOTH)
    for chat in BOTH.split(","):
        await says(telegram, chat, "✅ alive again after ", "· Ana had it")
    bucket = await record.link.js.key_value(streams.NOTIFIER_BUCKET)

    async def of_job_alone() -> bool:
        return len([key for key in await bucket.keys() if key.startswith("shown.")]) == 2

    await eventually(of_job_alone)
    assert "registry_message_edits_total" in get(process, "/metrics")[1]


async def test_strangers_old_buttons_and_forwarded_messages_change_nothing(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    await record.register("web")
    start()
    await falls(record, telegram, chats="42")
    first = fall_in(telegram, "42")
    ack, mute, details = (it["callback_data"] for it in first["buttons"])
    for data in (ack, mute, details, "ack:", "ack:x:y", "mute:0000000000000000:ab", "page:x", "nope"):
        before = len(telegram.answers)
        telegram.update("43", data=data, message_id=first["message_id"])  # a stranger, or a forwarded message
        assert await answered(telegram, before) == ""
    telegram.raw_update(channel_post={"message_id": 5, "chat": {"id": 42}, "text": "/ack web"})
    telegram.raw_update(callback_query={"id": "q", "from": {"id": 1}, "data": ack, "inline_message_id": "x"})
    await silence(telegram, "43", "/ack web", "/incidents", "/mute web 1h")
    assert "not muted" in await answer(telegram, "42", "/unmute web")
    await record.change("web", DOWN, ALIVE)
    await says(telegram, "42", "✅ alive again after ")
    await falls(record, telegram, chats="42")

    async def second() -> bool:
        return fall_in(telegram, "42")["message_id"] != first["message_id"]

    await eventually(second)
    for data in (ack, mute):
        before = len(telegram.answers)
        telegram.update("42", data=data, message_id=first["message_id"])
        assert "earlier incident" in await answered(telegram, before)
    assert "not muted" in await answer(telegram, "42", "/unmute web")
    before = len(telegram.answers)
    telegram.update("42", data=mute.rpartition(":")[0], message_id=first["message_id"])  # of a version before
    assert "is muted until" in await answered(telegram, before)
    assert "✋" not in fall_in(telegram, "42")["text"]


async def test_a_mute_holds_in_every_chat_and_says_who_muted_until_when(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    await record.register("web")
    start(telegram_chat_id=BOTH)
    await falls(record, telegram)
    assert "is muted until" in await press(telegram, "-1001", "Mute 1h")
    for chat in BOTH.split(","):
        await says(telegram, chat, "🔕 muted until ", " by Ana")
    assert "🔕 muted until " in await answer(telegram, "42", "/status web")
    assert "web muted until " in await answer(telegram, "42", "/status")
    await record.change("web", DOWN, ALIVE)
    await says(telegram, "42", "✅ alive again after ")
    assert not any("down → alive" in text for text in texts(telegram))
    telegram.update("42", "/unmute web")
    for chat in BOTH.split(","):
        await told(telegram, "web: down → alive", chat=chat)


@pytest.mark.parametrize(
    "trouble",
    [{"mode": "429", "times": 2}, {"mode": "500", "times": 2}, {"mode": "cut", "times": 1}],
    ids=["429", "500", "cut"],
)
async def test_an_edit_that_fails_is_tried_again_and_holds_up_no_message(
    trouble: dict[str, Any], record: NotificationLog, telegram: Standin, start: Start
) -> None:
    await record.register("web")
    start(telegram_chat_id=BOTH)
    await falls(record, telegram)
    telegram.control(chat="edit:42", **trouble)
    assert await press(telegram, "42", "I have it") == "You have it"
    await record.change("job", ALIVE, DOWN)
    await told(telegram, "job: alive → down", within=5)
    for chat in BOTH.split(","):
        await says(telegram, chat, "✋ Ana has it, ")


async def test_a_message_that_is_gone_is_left_alone(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    await record.register("web")
    start(telegram_chat_id=BOTH)
    await falls(record, telegram)
    telegram.messages.remove(fall_in(telegram, "42"))
    assert "You have it" in await answer(telegram, "-1001", "/ack web")
    await says(telegram, "-1001", "✋ P has it, ")
    await record.change("web", DOWN, ALIVE)
    await says(telegram, "-1001", "✅ alive again")
    await told(telegram, "web: down → alive")
    refused = [it for it in telegram.refused if it["chat"] == "42"]
    assert [it["said"] for it in refused] == ["Bad Request: message to edit not found"]


async def test_a_storm_is_recorded_for_each_service_and_channel(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    start(telegram_chat_id="42,43,-1001")
    names = [f"storm-{i:04}" for i in range(2000)]
    await asyncio.gather(*(record.change(name, ALIVE, DOWN) for name in names))
    for chat in ("42", "43", "-1001"):
        await told(telegram, *names, chat=chat, within=60)
    known: Counter[str] = Counter()

    async def all_recorded() -> bool:
        known.clear()
        async for batch in Reader(record.link, streams.SERVICES, streams.ALL_INCIDENT).to_end():
            known.update(streams.name_in(it.subject) for it in batch)
        return len(known) == 2000 and set(known.values()) == {3}

    await eventually(all_recorded, within=20)
    assert telegram.refused == []
