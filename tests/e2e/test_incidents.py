"""Who has it in hand: from a press in one chat to what everybody sees, with every process real."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.domain import incidents
from shared.domain.incidents import IncidentState
from shared.messaging import streams
from shared.messaging.reader import Reader
from tests.broker import provisioned
from tests.e2e.system import System, until
from tests.telegram_standin import Standin

CHATS = ("42", "-1001")


@pytest.fixture
def telegram() -> Iterator[Standin]:
    with Standin(chats=CHATS) as standin:
        yield standin


@pytest.fixture
def system(tmp_path: Path, telegram: Standin) -> Iterator[System]:
    system = System(tmp_path, telegram, telegram_chat_id="ana=42,-1001")
    yield system
    system.stop()


SLOW = {"silent_after": "1h", "down_after": "2h", "dead_after": "7d"}


def fall(telegram: Standin, chat: str) -> dict[str, Any]:
    """The newest message that says that it is down."""
    found = [it for it in telegram.messages if it["chat"] == chat and "→ down" in it["text"]]
    return found[-1] if found else {"text": "", "buttons": []}


def all_say(telegram: Standin, *said: str) -> bool:
    return all(it in fall(telegram, chat)["text"] for it in said for chat in CHATS)


async def folded(system: System, name: str) -> tuple[IncidentState, list[str]]:
    """What the record says of a service, and which channels were told of it how."""
    link, state, told = await provisioned(system.nats_url), IncidentState(), list[str]()
    async for batch in Reader(link, streams.SERVICES, streams.ALL_EVENTS).to_end():
        for it in batch:
            if streams.name_in(it.subject) != name:
                continue
            if streams.is_incident(it.subject):
                event = streams.read_incident(it.subject, it.data)
                if event.data.told:
                    told.append(f"{event.data.told.channel} {event.data.told.status}")
                incidents.apply(state, event, it.seq, it.at)
            else:
                incidents.apply(state, streams.read_event(it.subject, it.data), it.seq, it.at)
    await link.close()
    return state, told


async def test_a_press_in_one_chat_is_seen_in_both_and_so_is_the_recovery(
    system: System, telegram: Standin
) -> None:
    system.start()
    assert system.beat("web") == 200
    await until(lambda: all(fall(telegram, chat)["buttons"] for chat in CHATS))
    own = fall(telegram, "-1001")
    assert [it["text"] for it in own["buttons"]] == ["I have it", "Mute 1h", "Details"]
    data = own["buttons"][0]["callback_data"]
    telegram.update("-1001", data=data, message_id=own["message_id"], person="Ana")
    await until(lambda: [it["text"] for it in telegram.answers] == ["You have it"])
    await until(lambda: all_say(telegram, "✋ Ana has it, "))
    state, _ = await folded(system, "web")
    assert state.acknowledged
    assert state.acknowledged.by == "telegram:Ana (7)"
    system.parts["notifier"].kill()
    assert system.beat("web") == 200
    await until(lambda: system.status("web") == "alive")
    system.start("notifier")
    await until(lambda: all_say(telegram, "✅ alive again after ", " · Ana had it"))
    assert all(fall(telegram, chat)["buttons"] == [] for chat in CHATS)
    await until(lambda: all(any("down → alive" in t for t in system.told("web", chat=c)) for c in CHATS))
    _, told = await folded(system, "web")
    assert {f"{channel} {to}" for channel in ("ana", "-1001") for to in ("silent", "down", "alive")} <= {
        *told
    }
    assert [it for it in telegram.refused if it["chat"]] == []


async def test_a_message_of_several_falls_has_a_row_for_each_and_follows_them_all(
    system: System, telegram: Standin
) -> None:
    system.start()
    names = ("backup", "shop", "web")
    for name in names:
        system.http.post(system.url("api", "/service"), json={"name": name} | SLOW)
        system.beat(name)
    await until(lambda: all(system.told(name, chat=chat) for name in names for chat in CHATS))
    for chat in CHATS:
        telegram.control("429", chat=chat, times=1, retry_after=5)
    for name in names:
        system.beat(name, "/fail")
    await until(lambda: all_say(telegram, *names))

    def rows(chat: str) -> list[str]:
        return [it["text"] for it in fall(telegram, chat)["buttons"]]

    async def press(chat: str, number: int) -> str:
        own, before = fall(telegram, chat), len(telegram.answers)
        data = own["buttons"][number]["callback_data"]
        telegram.update(chat, data=data, message_id=own["message_id"], person="Ana")
        await until(lambda: len(telegram.answers) > before)
        return str(telegram.answers[before]["text"])

    more = ["Mute 1h", "Details"]
    whole = ["backup: I have it", *more, "shop: I have it", *more, "web: I have it", *more]
    assert rows(CHATS[0]) == rows(CHATS[1]) == whole
    assert await press(CHATS[1], 3) == "You have it"
    await until(lambda: all_say(telegram, "✋ shop: Ana has it, "))
    assert rows(CHATS[0]) == ["backup: I have it", *more, "shop: Mute 1h", "Details", "web: I have it", *more]
    system.parts["notifier"].kill()
    system.beat("web")
    await until(lambda: system.status("web") == "alive")
    system.start("notifier")
    await until(lambda: all_say(telegram, "✋ shop: Ana has it, ", "✅ web: alive again after "))
    assert rows(CHATS[0]) == rows(CHATS[1]) == ["backup: I have it", *more, "shop: Mute 1h", "Details"]
    assert "backup is muted until" in await press(CHATS[0], 1)
    await until(lambda: all_say(telegram, "🔕 backup: muted until ", " by Ana", "✋ shop: Ana has it, "))
    for name in names[:2]:
        system.beat(name)
    await until(lambda: all_say(telegram, "✅ backup: alive again", "✅ shop: alive again", "· Ana had it"))
    assert rows(CHATS[0]) == rows(CHATS[1]) == []
    assert [it for it in telegram.refused if it["chat"] and it["status"] != 429] == []
