"""The bot in chats: subscribers, commands, buttons, mutes; the notifier as a process, with the stand-in."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.notifier.texts.message import units
from shared.contracts.channels import ActionOutcome
from shared.contracts.events import Status
from shared.messaging import streams
from shared.messaging.channel_requests import channel_reports, send_test
from tests.broker import eventually
from tests.integration.test_notifier import NotificationLog, Start, get, record, start, telegram, texts, told
from tests.telegram_standin import Standin

__all__ = ["record", "start", "telegram"]

UNKNOWN, ALIVE, SILENT, DOWN, DEAD = Status
INVITE = "let-me-in-2026"


async def answer(telegram: Standin, chat: str, text: str, **more: Any) -> str:
    """What the bot says to a command."""
    before = len(texts(telegram, chat))
    telegram.update(chat, text, **more)

    async def there() -> bool:
        return len(texts(telegram, chat)) > before

    await eventually(there, 8)
    return texts(telegram, chat)[before]


async def silence(telegram: Standin, chat: str, *said: str) -> None:
    before = len(texts(telegram, chat))
    for text in said:
        telegram.update(chat, text)

    async def handled() -> bool:
        return not telegram.updates  # the bot has asked for what comes after them

    await eventually(handled)
    await asyncio.sleep(0.3)
    assert len(texts(telegram, chat)) == before


async def test_a_subscriber_comes_hears_survives_and_leaves(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    process = start(telegram_invite=INVITE)
    await silence(telegram, "43", "/start", "/start wrong-secret", "/status", "/help", "/stop", "hello")
    assert "Subscribed" in await answer(telegram, "43", f"/start {INVITE}")
    assert "already" in await answer(telegram, "43", f"/start {INVITE}")
    await record.register("web")
    await record.change("web", ALIVE, DOWN)
    await told(telegram, "web: alive → down", chat="43")
    await told(telegram, "web: alive → down", chat="42")
    await record.settled()
    process.kill()
    process = start(telegram_invite=INVITE)
    await record.change("web", DOWN, ALIVE)
    await told(telegram, "web: down → alive", chat="43")
    assert "No more messages" in await answer(telegram, "43", "/stop")
    await silence(telegram, "43", "/status")
    await record.change("job", ALIVE, DOWN)
    await told(telegram, "job", chat="42")
    assert not any("job" in text for text in texts(telegram, "43"))
    bucket = await record.link.js.key_value(streams.NOTIFIER_BUCKET)
    assert "telegram.43" not in await bucket.keys()
    assert "Subscribed" in await answer(telegram, "43", f"/start {INVITE}")
    await record.change("job", DOWN, ALIVE)
    await told(telegram, "job: down → alive", chat="43")
    assert INVITE not in process.log.read_text()


async def test_nobody_can_subscribe_without_an_invite(telegram: Standin, start: Start) -> None:
    start()
    await silence(telegram, "43", "/start", "/start x", "/start " + "x" * 64)
    assert "already" in await answer(telegram, "42", "/start")
    assert "configured by the operator" in await answer(telegram, "42", "/stop")


async def test_a_subscriber_that_had_blocked_the_bot_comes_back(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    process = start(telegram_invite=INVITE)
    await answer(telegram, "43", f"/start {INVITE}")
    telegram.control("403", "43")
    await record.change("web", ALIVE, DOWN)

    async def off() -> bool:
        return "registry_chats_off 1.0" in get(process, "/metrics")[1]

    await eventually(off)
    telegram.control("ok", "43")
    await record.change("job", ALIVE, DOWN)
    await told(telegram, "job", chat="42")
    telegram.update("43", "/start")
    await told(telegram, "was off (Forbidden: bot was blocked by the user) and is on again", "web", chat="43")
    await told(telegram, "job", chat="43")
    late = [text for text in texts(telegram, "43") if text.startswith("(late: this chat took no messages")]
    assert len(late) >= 1
    assert sum("web: alive" in text for text in texts(telegram, "43")) == 1
    assert "registry_chats_off 0.0" in get(process, "/metrics")[1]


async def test_many_come_and_go_at_once(record: NotificationLog, telegram: Standin, start: Start) -> None:
    groups = ("43", "-1001", "-1002")
    process = start(telegram_invite=INVITE)
    for _ in range(2):
        for chat in groups:
            telegram.update(chat, f"/start {INVITE}")
            telegram.update(chat, "/stop")
        for chat in groups:
            telegram.update(chat, f"/start {INVITE}")

    async def all_answered() -> bool:
        return all(len(texts(telegram, chat)) == 6 for chat in groups)

    await eventually(all_answered, 40)
    assert all("Subscribed" in texts(telegram, chat)[-1] for chat in groups)
    process.kill()
    start(telegram_invite=INVITE)
    await record.change("web", ALIVE, DOWN)
    for chat in groups:
        await told(telegram, "web", chat=chat)
        assert sum("web" in text for text in texts(telegram, chat)) == 1


def becomes(telegram: Standin, old: str, new: str) -> None:
    """What Telegram sends when a group becomes a supergroup."""
    telegram.raw_update(message={"message_id": 1, "chat": {"id": int(old)}, "migrate_to_chat_id": int(new)})
    telegram.raw_update(message={"message_id": 1, "chat": {"id": int(new)}, "migrate_from_chat_id": int(old)})


async def test_a_configured_group_that_became_a_supergroup_is_answered_at_once(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    process = start(telegram_chat_id="-1001")
    becomes(telegram, "-1001", "-1002")
    telegram.control("migrate", "-1001", to=-1002)
    assert "No services yet" in await answer(telegram, "-1002", "/status")
    assert "configured by the operator" in await answer(telegram, "-1002", "/stop")
    process.kill()
    start(telegram_chat_id="-1001")
    assert "No services yet" in await answer(telegram, "-1002", "/status")
    await record.change("web", ALIVE, DOWN)
    await told(telegram, "web", chat="-1002")


async def test_a_group_is_the_same_chat_by_its_old_number_and_its_new_one(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    """A command or the press of a button may come by the old one: of a message from before."""
    await record.register("web")
    process = start(telegram_chat_id="ops=-1001")
    await record.change("web", ALIVE, DOWN)
    await told(telegram, "web", chat="-1001")
    (fall,) = telegram.messages
    becomes(telegram, "-1001", "-1002")
    telegram.control("migrate", "-1001", to=-1002)
    assert "1 down" in await answer(telegram, "-1002", "/status")
    for restarted in (False, True):
        if restarted:
            process.kill()
            start(telegram_chat_id="ops=-1001")
        before = len(texts(telegram, "-1002"))
        telegram.update("-1001", "/status")
        (details,) = (it for it in fall["buttons"] if it["text"] == "Details")
        telegram.update("-1001", data=details["callback_data"], message_id=fall["message_id"])

        async def both(before: int = before) -> bool:
            return len(texts(telegram, "-1002")) == before + 2

        await eventually(both)
        assert {text.splitlines()[0] for text in texts(telegram, "-1002")[before:]} >= {"🔻 web: down"}
    client = record.link.nc
    assert (await send_test(client, "ops")).outcome is ActionOutcome.DONE
    assert "Test message" in texts(telegram, "-1002")[-1]
    (ops,) = await channel_reports(client)
    assert (ops.name, ops.address) == ("ops", "-1002")


async def test_a_subscribed_group_that_became_a_supergroup_can_leave_by_its_old_number(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    start(telegram_invite=INVITE)
    await answer(telegram, "-1001", f"/start {INVITE}")
    becomes(telegram, "-1001", "-1002")
    telegram.control("migrate", "-1001", to=-1002)
    assert "already" in await answer(telegram, "-1002", "/start")
    telegram.update("-1001", "/start")
    telegram.update("-1001", "/stop")
    await told(telegram, "No more messages", chat="-1002")
    await silence(telegram, "-1002", "/status", "/stop")


async def test_strangers_have_no_effect(record: NotificationLog, telegram: Standin, start: Start) -> None:
    """Nor has what is forwarded, posted in a channel, or edited, whoever did it."""
    await record.register("web")
    start(telegram_invite=INVITE, telegram_chat_id="42,@news")
    known = {"message_id": 1, "chat": {"id": 42}, "date": 0}
    origin = {"type": "user", "sender_user": {"id": 9, "is_bot": False, "first_name": "X"}, "date": 0}
    stranger = {**known, "chat": {"id": 43}}
    for text in ("/mute web 1h", "/stop", f"/start {INVITE}", "/status"):
        telegram.raw_update(message={**known, "text": text, "forward_origin": origin})
        telegram.raw_update(message={**known, "text": text, "forward_date": 1})
        telegram.raw_update(message={**stranger, "text": text, "forward_origin": origin})
        telegram.raw_update(edited_message={**stranger, "text": text})
        for content in (known, stranger, {**known, "chat": {"id": -1003, "type": "channel"}}):
            telegram.raw_update(channel_post={**content, "text": text})
    await silence(
        telegram, "43", "/start", "/start\t", "/START wrong", "/mute web 1h", "/unmute web", "/digest"
    )
    telegram.update("43", data="details:x", message_id=1)
    telegram.raw_update(callback_query={"id": "no-message", "from": {"id": 9}, "data": "page:0"})
    await record.change("web", ALIVE, DOWN)
    await told(telegram, "web: alive → down")
    assert [message["chat"] for message in telegram.messages if message["chat"] != "@news"] == ["42"]


async def test_a_subscribed_group_that_became_a_supergroup_can_leave(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    process = start(telegram_invite=INVITE)
    await answer(telegram, "-1001", f"/start {INVITE}")
    telegram.control("migrate", "-1001", to=-1002)
    await record.change("web", ALIVE, DOWN)
    await told(telegram, "web", chat="-1002")
    await record.settled()
    process.kill()
    process = start(telegram_invite=INVITE)
    assert "already" in await answer(telegram, "-1002", f"/start {INVITE}")
    assert "No more messages" in await answer(telegram, "-1002", "/stop")
    for _ in range(2):
        await record.change("web", DOWN, ALIVE)
        await record.change("job", ALIVE, DOWN)
        await told(telegram, "job", chat="42")
        assert sum("job" in text for text in texts(telegram, "-1002")) == 0
        await record.settled()
        process.kill()
        process = start(telegram_invite=INVITE)


async def test_a_configured_chat_that_threw_the_bot_out_is_told_why_it_was_off_by_start(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    process = start(telegram_chat_id="-1001,42")
    telegram.control("403", "-1001", times=1)
    await record.change("web", ALIVE, DOWN)
    await told(telegram, "web")
    await record.settled()
    process.kill()
    process = start(telegram_chat_id="-1001,42")
    await told(telegram, "web", chat="-1001")
    telegram.control("403", "-1001", times=1)
    await record.change("job", ALIVE, DOWN)
    await told(telegram, "job")

    async def off() -> bool:
        return "registry_chats_off 1.0" in get(process, "/metrics")[1]

    await eventually(off)
    telegram.update("-1001", "/start")
    await told(telegram, "This chat was off (Forbidden", "job", chat="-1001")
    assert [sum(name in text for text in texts(telegram, "-1001")) for name in ("web", "job")] == [1, 1]


async def test_the_commands_answer(record: NotificationLog, telegram: Standin, start: Start) -> None:
    for name in ("web", "job", "paused"):
        await record.register(name)
    await record.change("web", ALIVE, DOWN, ago=7200)
    await record.change("job", UNKNOWN, ALIVE, ago=7200)
    await record.link.js.publish("heartbeat.job", b"")
    start(public_url="https://registry.example")
    status = await answer(telegram, "42", "/status")
    assert "1 alive" in status
    assert "web since" in status
    one = await answer(telegram, "42", "/status job")
    assert one.startswith("✅ job: alive\nsince")
    heard = one.split("last heartbeat ")[1][:19]
    assert datetime.fromisoformat(heard + "+00:00") > datetime.now(UTC) - timedelta(minutes=1)
    assert "Did you mean web?" in await answer(telegram, "42", "/status wep")
    assert "no service a<b>&" in await answer(telegram, "42", "/status a<b>&")
    listed = await answer(telegram, "42", "/services@standin_bot")
    assert listed == "Services, page 1 of 1\n🔻 web\n✅ job\n❔ paused"
    assert "Daily digest" in await answer(telegram, "42", "/digest")
    assert "Runs in" not in texts(telegram)[-1]
    for outcome in ("missed", "success", "failure", "overdue", "failure"):
        await record.run("job", None, outcome=outcome)
    for outcome in ("missed", "success"):
        await record.run("job", None, outcome=outcome, key="3 o'clock")
    await record.run("nobody", None, outcome="failure")
    digest = await answer(telegram, "42", "/digest")
    assert "\nRuns in 24 h: 2 succeeded, 2 failed, 1 overdue, 1 missed\n" in digest
    await record.register("job", schedule="0 3 * * *", time_zone="Europe/Berlin")
    await asyncio.sleep(0.5)
    one = await answer(telegram, "42", "/status job")
    assert "\ndue at 03:00 every day (Europe/Berlin)\nexpected " in one
    assert "/mute NAME" in await answer(telegram, "42", "/help")
    assert "do not know" in await answer(telegram, "42", "/dance")
    await silence(telegram, "42", "/status@another_bot", "hello", "status")


async def test_in_a_group_it_answers_in_the_topic(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    start(telegram_chat_id="-1001:7")
    await answer(telegram, "-1001", "/status@standin_bot", thread=7)
    await answer(telegram, "-1001", "/status")
    assert [message["topic"] for message in telegram.messages] == [7, None]


async def test_a_mute_holds_for_every_chat_and_its_time_also_across_a_crash(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    for name in ("web", "job", "other"):
        await record.register(name)
    process = start(telegram_chat_id="42,-1001")
    muted = time.monotonic()
    assert "is muted until" in await answer(telegram, "42", "/mute web 8s")
    assert "is muted until" in await answer(telegram, "42", "/mute job 1d")
    process.kill()
    start(telegram_chat_id="42,-1001")
    await record.change("web", ALIVE, DOWN)
    await record.change("job", ALIVE, DOWN)
    await record.change("other", ALIVE, DOWN)
    for chat in ("42", "-1001"):
        await told(telegram, "other", chat=chat)
        known = [text for text in texts(telegram, chat) if " is muted" not in text]
        assert time.monotonic() - muted > 8 or not any("web" in text or "job" in text for text in known)
    for chat in ("42", "-1001"):
        await told(telegram, "web: alive → down", chat=chat)
    assert time.monotonic() - muted > 8
    await record.change("web", DOWN, ALIVE)
    await told(telegram, "web: down → alive")
    telegram.update("42", "/unmute job")
    await told(telegram, "no longer muted", "job: alive → down")
    await record.change("job", DOWN, ALIVE)
    await told(telegram, "job: down → alive")
    assert "no service nope" in await answer(telegram, "42", "/mute nope")
    assert "30d at most" in await answer(telegram, "42", "/mute web 31d")
    assert "is not" in await answer(telegram, "42", "/mute web soon")


async def test_the_buttons_of_a_fall(record: NotificationLog, telegram: Standin, start: Start) -> None:
    await record.register("web")
    start()
    await record.change("web", ALIVE, DOWN)
    await told(telegram, "web")
    (fall,) = telegram.messages
    _, mute, details = fall["buttons"]
    assert [it["text"] for it in fall["buttons"]] == ["I have it", "Mute 1h", "Details"]
    telegram.update("42", data=details["callback_data"], message_id=fall["message_id"])
    await told(telegram, "never heard")
    telegram.update("43", data=mute["callback_data"], message_id=fall["message_id"])
    telegram.update("42", data=mute["callback_data"], message_id=fall["message_id"])

    async def answered() -> bool:
        return len(telegram.answers) == 3

    await eventually(answered)
    assert sorted(it["text"][:16] for it in telegram.answers) == ["", "", "🔕 web is muted u"]
    await record.change("web", DOWN, ALIVE)
    await record.change("other", ALIVE, DOWN)
    await told(telegram, "other")
    assert not any("down → alive" in text for text in texts(telegram))


async def test_a_long_list_has_pages(record: NotificationLog, telegram: Standin, start: Start) -> None:
    names = [f"{'n' * 120}-{i:04}" for i in range(60)]
    await asyncio.gather(*(record.register(name) for name in names))
    start()
    first = await answer(telegram, "42", "/services")
    seen, pages = set(first.splitlines()[1:]), 1
    while turn := [it for it in telegram.messages[0]["buttons"] if it["text"] == "▶"]:
        before = telegram.messages[0]["text"]
        telegram.update("42", data=turn[0]["callback_data"], message_id=telegram.messages[0]["message_id"])

        async def turned(before: str = before) -> bool:
            return bool(telegram.messages[0]["text"] != before)

        await eventually(turned)
        assert units(telegram.messages[0]["text"]) <= 4096
        seen |= set(telegram.messages[0]["text"].splitlines()[1:])
        pages += 1
    assert seen == {f"❔ {name}" for name in names}
    assert f"page {pages} of {pages}" in telegram.messages[0]["text"]


async def test_what_is_malformed_takes_nothing_else_with_it(telegram: Standin, start: Start) -> None:
    process = start()
    for content in ({"message": {"chat": 7}}, {"callback_query": "?"}, {"message": []}, {}):
        telegram.raw_update(**content)
    for chat in ("42", "43"):
        for text in ("/start \ud800", "/status \ud800", "/mute \udfff 1h", "/\x00", "/status " + "x" * 4000):
            telegram.update(chat, text)
    telegram.update("42", "/help")
    await told(telegram, "/mute NAME 2h: nobody hears")
    assert texts(telegram, "43") == []
    assert 'registry_telegram_updates_total{result="malformed"} 9.0' in get(process, "/metrics")[1]


async def test_another_poller_is_said_and_waited_out(
    telegram: Standin, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start()
    await answer(telegram, "42", "/help")
    await telegram._get_updates({"timeout": 0, "offset": 0})  # somebody else asks

    async def said() -> bool:
        return "commands do not arrive" in process.log.read_text()

    await eventually(said)
    telegram.update("42", "/help")
    await told(telegram, "/mute NAME", within=15)

    async def twice() -> bool:
        return len(texts(telegram)) == 2

    await eventually(twice, 15)
    assert json.dumps(telegram.refused).count("Conflict") == 1


async def test_of_two_notifiers_one_asks_for_commands_and_the_other_takes_over(
    telegram: Standin, start: Start
) -> None:
    first, second = start(), start()
    await answer(telegram, "42", "/help")
    await asyncio.sleep(1)
    assert telegram.refused == [], "nobody else asked"
    first.kill()
    assert "/mute NAME" in await answer(telegram, "42", "/help")
    assert len(texts(telegram)) == 2
    assert second.running
