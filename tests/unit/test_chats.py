"""What a chat is told, and what it is owed: maintenance, mutes, pauses, flapping, refusals, restarts."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nats.js.kv import KeyValue

from services.notifier.alerting.changes import Deafness, Notice, NoticeKind
from services.notifier.channels.channel import Failed, Permanent, Refused
from services.notifier.dispatch import notification_log
from services.notifier.dispatch.notification_log import Intent, ReceiverState
from services.notifier.texts.message import REPEAT
from shared.contracts.events import Status, micros
from shared.messaging.kv_record import Superseded
from tests.notified import (
    ALIVE,
    DAY,
    DEAD,
    DOWN,
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    SILENT,
    UNKNOWN,
    World,
)

OWED_DOWN = ["owed: down"]


async def world(*names: str, chats: int = 1, reminders: tuple[timedelta, ...] = ()) -> World:
    found = World(chats, reminders)
    for name in names or ("web",):
        found.register(name)
    await found.start()
    return found


# --- what is withheld is owed


async def hold(it: World, what: str) -> None:
    if what == "window":
        it.window("w", -HOUR, HOUR)
    elif what == "mute":
        it.mute("web", NOW + HOUR)
    else:
        it.register(**({"paused": True} if what == "pause" else {"notify": False}))


async def free(it: World, what: str) -> None:
    """An hour after NOW."""
    it.now = NOW + HOUR
    if what in ("pause", "notify"):
        it.register()
    if it.is_on:
        await it.settle()


HOLDS = pytest.mark.parametrize("what", ["window", "mute", "pause", "notify"])
TIMES = pytest.mark.parametrize("off", ["never", "at the fall", "at the end", "a kill after the end"])


@pytest.mark.parametrize(("key", "said"), [("telegram.1", [None]), ("webhook.ab", [])])
async def test_only_a_message_of_telegram_says_that_the_bot_token_is_good(key: str, said: list[None]) -> None:
    it = await world()
    it.inboxes[0].key = key
    found: list[str | None] = []
    object.__setattr__(it.chats[0].sender._deps, "on_token", found.append)
    await it.then(DOWN)
    assert it.told() == ["down"]
    assert found == said


@HOLDS
@TIMES
async def test_a_fall_that_was_withheld_is_told_at_the_end_and_once(what: str, off: str) -> None:
    it = await world()
    await hold(it, what)
    if off == "at the fall":
        it.stop()
    await it.passes(MINUTE)
    it.change(DOWN)
    if off == "at the fall":
        await it.start()
    await it.passes(5 * MINUTE, 5)
    assert it.told() == []
    if off == "at the end":
        it.stop()
    await free(it, what)
    if off == "at the end":
        await it.start()
        await it.settle()
    if off == "a kill after the end":
        await it.restart()
    await it.passes(3 * HOUR, 100)
    assert it.told() == OWED_DOWN
    await it.then(ALIVE)
    assert it.told() == [*OWED_DOWN, "alive"]


@HOLDS
@TIMES
async def test_what_recovers_meanwhile_is_never_told(what: str, off: str) -> None:
    it = await world()
    await hold(it, what)
    if off == "at the fall":
        it.stop()
    it.change(SILENT)
    it.change(DOWN)
    it.change(ALIVE)
    if off == "at the fall":
        await it.start()
    if off == "at the end":
        it.stop()
    await free(it, what)
    if off != "never":
        await it.restart()
    await it.passes(3 * HOUR, 10)
    assert it.told() == []


@HOLDS
async def test_a_recovery_of_what_was_told_is_told(what: str) -> None:
    """Within a window at once; else when nothing holds it back any more."""
    it = await world()
    it.change(DOWN)
    await it.settle()
    await hold(it, what)
    await it.then(ALIVE)
    at_once = what == "window"
    assert it.told() == (["down", "alive"] if at_once else ["down"])
    await it.restart()
    await free(it, what)
    assert it.told() == ["down", "alive" if at_once else "owed: alive"]
    await it.then(DOWN)
    assert it.told()[2:] == ["down"]


async def test_a_window_that_is_set_over_a_fall_that_was_told_holds_nothing_back() -> None:
    it = await world()
    it.change(DOWN)
    await it.settle()
    it.window("w", -MINUTE, HOUR)
    await it.then(DEAD)
    assert it.told() == ["down"]
    await it.then(ALIVE)
    assert it.told() == ["down", "alive"]


async def test_what_is_silent_within_a_window_is_not_told_nor_is_its_return_after_it() -> None:
    it = await world()
    await hold(it, "window")
    it.change(SILENT)
    await it.settle()
    await it.restart()
    await free(it, "window")
    await it.then(ALIVE)
    assert it.told() == []
    await it.then(DOWN)
    assert it.told() == ["down"]


async def test_twenty_that_fall_due_at_the_end_of_a_window_and_are_noticed_after_it() -> None:
    names = [f"s{n}" for n in range(20)]
    it = await world(*names, chats=2)
    it.window("w", -HOUR, HOUR, services=tuple(names))
    await it.passes(HOUR + 2 * SECOND)
    for n, name in enumerate(names):
        it.change(DOWN, name, since=NOW + HOUR - timedelta(seconds=2 - n / 10))
        if n % 7 == 0:
            await it.settle()
    await it.settle()
    await it.restart()
    for chat in (0, 1):
        assert [it.told(chat, name) for name in names] == [OWED_DOWN] * 20


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_reminder_that_is_due_as_the_window_ends_is_not_told_besides(restarts: bool) -> None:
    it = await world(reminders=(HOUR, DAY))
    it.window("w", -HOUR, HOUR)
    it.change(DOWN)
    await it.settle()
    await it.passes(HOUR)
    if restarts:
        await it.restart()
    await it.passes(HOUR, 10)
    assert it.told() == OWED_DOWN
    await it.passes(DAY, 10)
    assert it.told() == [*OWED_DOWN, "reminder: down"]


async def test_another_notice_meanwhile_and_the_monitor_off_at_the_end() -> None:
    """The fall within the window comes in after what came due later was told."""
    it = await world("web", "job", reminders=(HOUR,))
    it.change(DOWN, "job")
    it.window("w", -HOUR, HOUR)
    await it.passes(2 * HOUR, 10)
    assert "reminder: down" in it.told(name="job")
    it.change(DOWN, since=NOW + 50 * MINUTE)
    await it.settle()
    await it.restart()
    assert it.told() == OWED_DOWN


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_tag_taken_away_within_the_window(restarts: bool) -> None:
    it = await world()
    it.register(tags=("db",))
    it.window("w", -HOUR, HOUR, tags=("db",))
    it.change(DOWN)
    await it.settle()
    it.stop() if restarts else None
    it.register()
    await it.restart()
    await it.passes(3 * HOUR, 10)
    assert it.told() == OWED_DOWN


@pytest.mark.parametrize(
    ("until", "told"),
    [(10 * MINUTE, 10 * MINUTE), (90 * MINUTE, 90 * MINUTE), (2 * MINUTE, 5 * MINUTE), (None, 5 * MINUTE)],
    ids=["shortened", "lengthened", "ended", "deleted"],
)
@pytest.mark.parametrize("off", [False, True])
async def test_a_window_set_anew_tells_when_it_is_over_and_once(
    until: timedelta | None, told: timedelta, off: bool
) -> None:
    it = await world()
    it.window("w", -HOUR, HOUR)
    it.change(DOWN)
    await it.passes(5 * MINUTE)
    it.stop() if off else None
    it.window("w", -HOUR, until)
    await it.start() if off else None
    await it.settle()
    if told > 5 * MINUTE:
        it.now = NOW + told - SECOND
        await it.settle()
        assert it.told() == []
    it.now = NOW + told
    await it.settle()
    assert it.told() == OWED_DOWN
    await it.passes(2 * DAY, 10)
    assert it.told() == OWED_DOWN


async def test_a_recovery_that_waits_while_somebody_looks_at_what_is_owed() -> None:
    it = await world()
    it.window("w", -HOUR, HOUR)
    it.change(DOWN)
    await it.settle()
    it.inboxes[0].always = Failed("away", maybe_delivered=False)
    await free(it, "window")
    it.change(ALIVE)
    it.chats[0].alerts.evaluate("web")
    it.inboxes[0].always = None
    await it.settle()
    assert it.told() == []


async def test_overlapping_windows_and_one_that_follows() -> None:
    it = await world()
    it.window("a", -HOUR, 20 * MINUTE)
    it.window("b", -MINUTE, HOUR)
    it.window("c", HOUR, 2 * HOUR)
    it.change(DOWN)
    await it.passes(HOUR + 59 * MINUTE, 119)
    await it.restart()
    assert it.told() == []
    await it.passes(MINUTE)
    assert it.told() == OWED_DOWN


async def test_what_is_deleted_or_registered_anew_is_owed_nothing() -> None:
    it = await world()
    it.window("w", -HOUR, HOUR)
    it.change(DOWN)
    await it.settle()
    it.delete()
    await free(it, "window")
    assert it.told() == []


@HOLDS
@pytest.mark.parametrize("restarts", [False, True])
async def test_a_fall_that_was_told_is_told_again_at_the_end_of_a_mute_or_a_pause(
    what: str, restarts: bool
) -> None:
    """Nothing was withheld meanwhile; but whoever puts off what is down wants to hear if it still is."""
    it = await world()
    it.change(DOWN)
    await it.settle()
    await hold(it, what)
    if restarts:
        await it.restart()
    await free(it, what)
    expected = ["down", "owed: down"] if what in ("mute", "pause") else ["down"]
    assert it.told() == expected
    await it.passes(5 * HOUR, 5)
    assert it.told() == expected
    await it.then(ALIVE)
    assert it.told() == [*expected, "alive"]


@HOLDS
async def test_what_was_withheld_reads_at_the_end_as_it_would_have(what: str) -> None:
    it = await world()
    await hold(it, what)
    await it.passes(MINUTE)
    it.change(DOWN, message="no space left on device")
    await it.passes(4 * MINUTE)
    await it.restart()
    await free(it, what)
    assert it.told() == OWED_DOWN
    message = it.inboxes[0].messages[-1]
    assert message.plain_text.split("\n") == [
        "🔻 web: alive → down",
        "test",
        "“no space left on device”",
        "since 2026-11-24 12:01:00 UTC, for 59 min",
        "never heard",
        "http://x/ui/service/web",
    ]
    assert message.buttons
    assert not message.silent


@pytest.mark.parametrize("what", ["mute", "pause", "notify"])
async def test_that_a_silence_that_was_told_has_ended_is_told(what: str) -> None:
    it = await world()
    await it.then(SILENT)
    await hold(it, what)
    await it.then(ALIVE)
    assert it.told() == ["silent"]
    await free(it, what)
    await it.passes(MINUTE)
    assert it.told() == ["silent", "owed: alive"]


async def test_a_recovery_that_was_withheld_says_how_long_it_lasted() -> None:
    it = await world()
    it.change(DOWN)
    await it.settle()
    await hold(it, "mute")
    await it.passes(10 * MINUTE)
    it.change(ALIVE)
    await it.settle()
    await it.restart()
    await free(it, "mute")
    assert it.told() == ["down", "owed: alive"]
    assert it.texts[-1].startswith("✅ web: down → alive\nwas down for 10 min\nsince ")


async def test_a_reminder_within_a_window_waits_for_its_end_whatever_else_is_told() -> None:
    it = await world("web", "job", reminders=(30 * MINUTE, DAY))
    it.change(DOWN)
    await it.settle()
    it.window("w", 10 * MINUTE, HOUR)
    await it.then(DOWN, 10 * MINUTE, "job")
    await it.passes(40 * MINUTE, 8)
    assert it.told(name="job") == ["down", "reminder: down"]
    assert it.told() == ["down"]
    await it.restart()
    await it.passes(10 * MINUTE)
    assert it.told() == ["down", "owed: down"]


async def test_what_is_owed_and_more_than_a_day_old_is_told_if_it_holds() -> None:
    it = await world("web", "job")
    it.inboxes[0].answers = [Failed("away", maybe_delivered=False)] * 3
    it.change(DOWN)
    it.change(DOWN, "job")
    it.change(ALIVE, "job")
    await it.settle()
    it.stop()
    await it.passes(2 * DAY)
    await it.start()
    it.inboxes[0].answers = []
    await it.settle()
    assert it.told() == OWED_DOWN
    assert it.told(name="job") == []


async def test_much_that_is_owed_stands_in_parts_beside_the_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notification_log, "MAX_INLINE", 10)
    names = [f"s{n}" for n in range(100)]
    it = await world(*names)
    it.window("w", -HOUR, HOUR, services=tuple(names[:90]))
    it.window("v", -HOUR, 2 * HOUR, services=tuple(names[90:]))
    for name in names:
        it.change(DOWN, name)
    await it.restart()
    assert len(it.chats[0].state.owed) == 100
    assert b"s77" not in it.bucket.entries["inbox.0"].value
    it.change(ALIVE, "s7")
    await it.settle()
    await it.restart()
    await it.passes(HOUR)
    await it.restart()
    told = [name for name in names if it.told(name=name)]
    assert told == [name for name in names[:90] if name != "s7"]
    assert set(it.bucket.entries) == {"inbox.0"}, "few are owed again, and no part is left lying"
    await it.passes(HOUR)
    assert all(it.told(name=name) == OWED_DOWN for name in names if name != "s7")


async def test_many_that_flap_stand_in_parts_beside_the_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the record outgrows what the broker takes, and the chat is told nothing ever again."""
    monkeypatch.setattr(notification_log, "MAX_INLINE", 10)
    names = [f"s{n}" for n in range(100)]
    it = await world(*names)
    for to in (DOWN, ALIVE, DOWN, ALIVE):
        for name in names:
            it.change(to, name)
        await it.passes(MINUTE)
    assert it.told(name="s7")[-1] == "alive flaps"
    assert b"s77" not in it.bucket.entries["inbox.0"].value
    await it.restart()
    await it.then(DOWN, name="s7")
    await it.passes(6 * MINUTE)
    assert it.told(name="s7")[4:] == ["stays: down"]
    await it.passes(HOUR)
    await it.restart()
    assert it.told(name="s77")[4:] == ["calm: alive"]
    assert set(it.bucket.entries) == {"inbox.0"}, "no part is left lying"


async def test_parts_of_before_turns_stood_in_them_are_read() -> None:
    part = b'{"owed": {"seq": 2, "told": "alive", "maybe": false}, "web": {"seq": 3, "told": "alive"}}'
    for content, names in ((part, {"owed", "web"}), (b'{"owed": {"seq": 2, "told": "alive"}}', {"owed"})):
        it = World()
        await it.bucket.put("owed.inbox.0.a", content)
        await it.bucket.put("inbox.0", b'{"done": 5, "owed_parts": ["owed.inbox.0.a"]}')
        record = await notification_log.load(cast(KeyValue, it.bucket), "inbox.0", ReceiverState(done=0))
        assert set(record.state.owed) == names


@pytest.mark.parametrize("lost", ["gone", "unreadable"])
async def test_a_part_that_is_lost_costs_what_stood_in_it_and_not_the_chat(
    lost: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a restore of a moment in which the cursor was written."""
    names = [f"s{n}" for n in range(notification_log.MAX_INLINE + 1)]
    it = await world("job", *names)
    it.window("w", -HOUR, HOUR, tags=("all",))
    for name in names:
        it.register(name, tags=("all",))
        it.change(DOWN, name)
    await it.settle()
    it.stop()
    key = sorted(it.bucket.entries)[1]
    if lost == "gone":
        await it.bucket.purge(key)
    else:
        await it.bucket.put(key, b"x")
    await it.restart()
    assert key in capsys.readouterr().out
    await it.then(DOWN, name="job")
    assert it.told(name="job") == ["down"]
    await it.passes(2 * HOUR, 2)
    told = {notice.name for message in it.inboxes[0].messages for notice in message.notices}
    assert 0.9 * len(names) < len(told) < len(names)


# --- a crash between a message and its record


async def test_a_record_written_while_an_attempt_fails_makes_the_next_one_no_repeat() -> None:
    it = await world("web", "job")
    inbox, (chat,), stored = it.inboxes[0], it.chats, it.bucket.update
    muting: list[asyncio.Task[None]] = []

    async def late(key: str, value: bytes, last: int) -> int:
        await asyncio.sleep(0.01)
        return await stored(key, value, last)

    async def refuses(*_: Any) -> Failed:
        it.bucket.update = late  # type: ignore[method-assign]
        muting.append(asyncio.create_task(chat.unmute("job")))
        await asyncio.sleep(0)
        return Failed("no route to host", maybe_delivered=False)

    sends, inbox.send = inbox.send, refuses  # type: ignore[method-assign, assignment]
    it.change(DOWN)
    await it.settle()
    await muting[0]
    inbox.send = sends  # type: ignore[method-assign]
    await it.settle()
    assert it.told() == ["down"]
    assert not it.texts[0].startswith(REPEAT)


async def test_what_was_told_to_be_down_is_not_told_again_after_a_pause_that_nobody_saw() -> None:
    """While the notifier was off; nothing is owed of it. A fall that was not told before the pause is."""
    it = await world("web", "job")
    it.change(DOWN)
    await it.settle()
    it.stop()
    it.change(DOWN, "job")
    await it.passes(MINUTE)
    for name in ("web", "job"):
        it.register(name, paused=True)
        it.register(name)
    await it.start()
    await it.passes(3 * HOUR, 10)
    assert it.told() == ["down"]
    assert it.told(name="job") == ["down"]
    await it.then(ALIVE)
    assert it.told() == ["down", "alive"]


async def test_a_fall_within_a_pause_of_which_nobody_saw_the_end_is_told_once() -> None:
    it = await world()
    it.register(paused=True)
    await it.passes(MINUTE)
    it.stop()
    it.change(DOWN)
    await it.passes(MINUTE)
    it.register()
    await it.start()
    await it.passes(3 * HOUR, 10)
    assert it.told() == OWED_DOWN


async def test_what_may_have_been_told_is_marked_and_its_recovery_told() -> None:
    for recovers in (False, True):
        it = await world()
        it.window("w", -HOUR, HOUR)
        it.change(DOWN)
        await it.settle()
        it.now = NOW + HOUR
        it.inboxes[0].answers = [Failed("no answer", maybe_delivered=True)]
        await it.settle()
        it.stop()
        if recovers:
            it.change(ALIVE)
        await it.restart()
        (message,) = it.inboxes[0].messages
        assert message.plain_text.startswith(REPEAT) is not recovers
        assert it.told() == (["alive"] if recovers else OWED_DOWN)


@pytest.mark.parametrize("recovers", [False, True])
async def test_a_fall_that_may_have_been_told_before_the_pause_is_told_or_its_recovery_is(
    recovers: bool,
) -> None:
    it = await world("web", "job")
    it.mute("job", NOW + DAY)
    it.inboxes[0].always = Failed("no answer", maybe_delivered=True)
    it.change(DOWN)
    it.change(DOWN, "job")
    await it.settle()
    it.stop()
    it.inboxes[0].always = None
    it.register(paused=True)
    await it.restart()
    assert it.told() == []
    it.change(ALIVE) if recovers else None
    it.change(ALIVE, "job")
    it.register()
    await it.settle()
    it.unmute("job")
    await it.settle()
    assert it.told() == (["owed: alive"] if recovers else OWED_DOWN)
    assert it.texts[0].startswith(REPEAT)
    assert it.told(name="job") == []


async def test_a_fall_that_may_have_been_told_and_is_withheld_then_has_its_recovery_told() -> None:
    it = await world()
    it.inboxes[0].answers = [Failed("no answer", maybe_delivered=True)]
    it.change(DOWN)
    await it.settle()
    it.stop()
    it.window("w", -HOUR, HOUR)
    await it.restart()
    assert it.told() == []
    await it.then(ALIVE)
    assert it.told() == ["alive"]


@pytest.mark.parametrize("muted", [False, True])
async def test_a_reminder_that_is_read_again_while_it_is_recorded_is_told_once(muted: bool) -> None:
    it = await world(reminders=(HOUR,))
    await it.then(DOWN)
    (chat,), update = it.chats, it.bucket.update
    reminder = Notice(it.now + HOUR, "web", it.states.get("web").status_seq, DOWN, it.now)
    if muted:
        it.mute("web", it.now + HOUR)

    async def reads_again(*record: Any, **last: Any) -> int:
        chat.reminders.add(reminder)
        return await update(*record, **last)

    it.bucket.update = reads_again  # type: ignore[method-assign]
    await it.passes(HOUR)
    await it.settle()
    assert it.told() == ["down", "owed: down" if muted else "reminder: down"]


async def test_whom_only_a_later_attempt_has_named_has_its_recovery_told() -> None:
    it = await world("web", "job")
    it.window("w", -HOUR, HOUR)
    it.inboxes[0].always = Failed("no answer", maybe_delivered=True)
    it.change(DOWN)
    it.change(DOWN, "job")
    await it.settle()
    it.window("w", HOUR, 2 * HOUR)
    await it.settle()
    it.window("w", -HOUR, HOUR)
    it.inboxes[0].always = None
    await it.settle()
    assert (it.told(), it.told(name="job")) == ([], ["down"])
    await it.then(ALIVE)
    assert it.told() == ["alive"]


async def test_a_recovery_that_may_have_been_told_and_is_withheld_then_is_told() -> None:
    it = await world()
    await it.then(DOWN)
    it.inboxes[0].always = Failed("no answer", maybe_delivered=True)
    it.change(ALIVE)
    await it.settle()
    it.stop()
    it.inboxes[0].always = None
    it.register(paused=True)
    await it.restart()
    it.register()
    await it.settle()
    assert it.told() == ["down", "owed: alive"]
    assert it.texts[1].startswith(REPEAT)


async def test_no_two_notifiers_take_what_the_other_has_written_for_their_own() -> None:
    it = await world()
    bucket: Any = it.bucket
    fresh = it.chats[0].state
    one, other = [await notification_log.load(bucket, "inbox.0", fresh) for _ in range(2)]
    await one.update(digest=NOW.date())
    with pytest.raises(Superseded):
        await other.update(digest=NOW.date())


# --- flapping


async def flapping(chats: int = 1, **more: Any) -> World:
    it = await world(chats=chats, **more)
    for to in (DOWN, ALIVE, DOWN, ALIVE):
        await it.then(to)
    assert it.told() == ["down", "alive", "down", "alive flaps"]
    for inbox in it.inboxes:
        inbox.messages.clear()
    return it


async def test_what_flaps_and_stays_alive_is_told_after_half_an_hour() -> None:
    it = await flapping()
    for to in (DOWN, ALIVE) * 3:
        await it.then(to)
        await it.restart()
    await it.passes(29 * MINUTE, 29)
    assert it.told() == []
    await it.passes(MINUTE)
    await it.restart()
    await it.passes(3 * HOUR, 100)
    assert it.told() == ["calm: alive"]
    assert "10 changes while it was flapping" in it.texts[0]
    for to in (DOWN, ALIVE, DOWN):
        await it.then(to)
    assert it.told()[1:] == ["down", "alive", "down"]


async def test_what_flaps_and_stays_down_is_told_after_five_minutes_and_its_recovery_at_once() -> None:
    it = await flapping()
    await it.then(DOWN)
    await it.passes(5 * MINUTE - SECOND)
    await it.restart()
    assert it.told() == []
    await it.passes(SECOND)
    await it.restart()
    await it.passes(20 * MINUTE, 20)
    assert it.told() == ["stays: down"]
    await it.then(ALIVE)
    assert it.told() == ["stays: down", "alive still flaps"]
    await it.passes(30 * MINUTE)
    assert it.told() == ["stays: down", "alive still flaps", "calm: alive"]


async def test_what_begins_to_flap_with_a_fall_has_its_recovery_told_and_says_so() -> None:
    it = await world()
    it.change(DOWN)
    await it.passes(2 * HOUR)
    for to in (ALIVE, DOWN, ALIVE, DOWN, ALIVE, DOWN):
        await it.then(to, SECOND)
    assert it.told() == ["down", "alive", "down", "alive", "down flaps", "alive still flaps"]
    fall, recovery = (text.rpartition("🔁")[2].split("\n")[0] for text in it.texts[-2:])
    assert fall == " flapping: 4 turns within an hour; next you hear when it is back"
    assert recovery == " still flapping; next you hear when it is down for 5 min or calm for 30 min"


async def test_what_flaps_and_was_told_to_be_down_is_still_down_after_a_mute() -> None:
    it = await flapping()
    await it.then(DOWN)
    await it.passes(6 * MINUTE, 12)
    it.mute("web", it.now + HOUR)
    await it.passes(MINUTE)
    it.unmute()
    await it.settle()
    assert it.told() == ["stays: down", "owed: down"]


async def test_what_stays_down_for_half_an_hour_flaps_no_more() -> None:
    it = await flapping()
    await it.then(DOWN)
    await it.passes(40 * MINUTE, 80)
    for to in (ALIVE, DOWN):
        await it.then(to)
    assert it.told() == ["stays: down", "alive", "down"]


async def test_what_flaps_for_good_is_told_again_and_again() -> None:
    it = await flapping(reminders=(HOUR, 6 * HOUR, DAY))
    at = it.now
    for n in range(20 * 49):
        it.change(ALIVE if n % 2 else DOWN)
        await it.settle()
        await it.passes(3 * MINUTE)
        if n % 100 == 0:
            await it.restart()
    assert all(said.startswith("flaps: ") for said in it.told())
    assert len(it.told()) == 4, "after 1 h, 6 h, 24 h, 48 h"
    assert len(it.chats[0].alerts._timers) < 20, "what is looked at later does not pile up"
    assert "web is still flapping: 24 changes in 1 h" in it.texts[0]
    assert it.now - at > 2 * DAY


@HOLDS
async def test_what_was_told_to_nobody_is_no_turn(what: str) -> None:
    it = await world()
    await hold(it, what)
    for to in (DOWN, ALIVE, DOWN, ALIVE, DOWN, ALIVE):
        await it.then(to)
    await free(it, what)
    for to in (DOWN, ALIVE, DOWN):
        await it.then(to)
    assert it.told() == ["down", "alive", "down"]


async def test_the_state_begins_when_its_notice_is_sent() -> None:
    it = await world(chats=2)
    for to in (DOWN, ALIVE, DOWN):
        await it.then(to)
    it.inboxes[1].answers = [Failed("away", maybe_delivered=False)]
    await it.then(ALIVE)
    assert not it.chats[1].alerts.flapping["web"].flapping_since
    await it.then(DOWN)
    assert it.told(0) == ["down", "alive", "down", "alive flaps"]
    assert it.told(1) == ["down", "alive", "down", "alive flaps"]


async def test_a_chat_that_is_behind_changes_nothing_for_the_others() -> None:
    it = World(2)
    it.status["web"] = UNKNOWN
    it.register()
    await it.start()
    it.inboxes[1].always = Failed("away", maybe_delivered=False)
    for to in (ALIVE, DOWN, ALIVE, DOWN, ALIVE):
        await it.then(to)
    assert it.told(0)[-1] == "alive flaps"
    assert it.told(1) == []
    it.inboxes[1].always = None
    await it.restart()
    for to in (DOWN, ALIVE, DOWN, ALIVE):
        await it.then(to)
    assert it.told(0)[5:] == []
    assert it.told(1) == ["alive", "down", "alive", "down", "alive flaps"]


# --- refusals


async def test_a_chat_that_joins_reads_what_it_was_not_offered() -> None:
    it = await world()
    (chat,), it.chats = it.chats, []
    it.change(DOWN)
    it.chats = [chat]
    chat.pending.mark_missed(len(it.events))
    while chat.pending.behind:
        await chat.pending.refill(it._page)
    await it.settle()
    await it.then(ALIVE)
    assert it.told() == ["down", "alive"]


async def test_a_chat_that_refuses_is_tried_again_and_told_what_was_kept_for_it() -> None:
    it = await world(chats=2)
    it.inboxes[0].always = Permanent("kicked")
    it.change(DOWN)
    await it.settle()
    assert (it.chats[0].state.off, it.chats[0].state.off_since) == ("kicked", NOW)
    assert it.told(1) == ["down"]
    await it.then(ALIVE)
    await it.restart()
    assert it.chats[0].state.off == "kicked"
    await it.then(DOWN)
    assert it.told() == []
    it.inboxes[0].always = None
    await it.passes(HOUR)
    assert it.chats[0].state.off is None
    assert it.told() == ["down", "alive", "down"]
    assert it.texts[0].startswith("(late: this chat took no messages since 2026-11-24 12:00:00 UTC)\n")
    await it.then(ALIVE)
    assert not it.texts[-1].startswith("(late")


async def test_probes_come_with_growing_pauses_and_start_comes_before_them() -> None:
    it = await world()
    it.inboxes[0].answers = [Permanent("kicked")] * 9
    it.change(DOWN)
    pauses = []
    for _ in range(9):
        found = await it.chats[0]._compose()
        assert found
        pauses.append(await it.chats[0].sender.send(*found))
    assert pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    assert await it.chats[0].switch_on() == "kicked"
    assert it.chats[0]._retry_now.is_set()
    await it.settle()
    assert it.told() == ["down"]
    assert it.texts[0].startswith("(late: ")


async def test_a_message_that_is_refused_for_an_unknown_reason_switches_nothing_off() -> None:
    it = await world("web", "job")
    it.inboxes[0].answers = [Refused("Bad Request: odd")] * 2
    it.change(DOWN)
    await it.settle()
    assert it.chats[0].state.off is None
    await it.settle()
    await it.settle()
    assert it.told() == ["down"]
    it.window("w", -HOUR, 2 * HOUR, services=("job",))
    it.change(DOWN, "job")
    await it.passes(HOUR)
    it.inboxes[0].answers = [Refused("Bad Request: odd")]
    await it.passes(HOUR)
    it.change(ALIVE)
    await it.settle()
    assert it.told() == ["down", "alive"], "no other message waits for it"
    it.inboxes[0].always = Refused("Bad Request: odd")
    await it.passes(25 * HOUR, 25)
    it.inboxes[0].always = None
    await it.passes(HOUR)
    assert it.told(name="job") == [], "given up after a day"
    it.change(SILENT)
    await it.settle()
    assert it.told() == ["down", "alive", "silent"]


async def test_a_change_is_tried_for_a_day_however_long_others_were_refused() -> None:
    it = await world("web", "job", "db")
    it.inboxes[0].always = Refused("Bad Request: odd")
    it.change(DOWN)
    await it.passes(23 * HOUR, 23)
    await it.then(DOWN, name="job")
    await it.passes(2 * HOUR, 20)
    it.inboxes[0].always = None
    await it.passes(HOUR)
    assert it.told() == OWED_DOWN, "too old to be sent as a change, but it still holds"
    assert it.told(name="job") == ["down"]
    it.inboxes[0].always = Refused("Bad Request: odd")
    await it.then(DOWN, name="db")
    await it.passes(25 * HOUR, 25)
    it.inboxes[0].always = None
    it.inboxes[0].answers = [Refused("Bad Request: odd")]
    await it.then(ALIVE, name="job")
    await it.passes(MINUTE)
    assert it.told(name="job") == ["down", "alive"]


async def test_what_is_owed_does_not_wait_for_changes_that_are_refused() -> None:
    it = await world("web", "job")
    it.window("w", -HOUR, HOUR)
    await it.then(DOWN)
    it.inboxes[0].refuses = lambda message: bool(message.changes)
    await it.then(DOWN, name="job")
    await it.passes(2 * HOUR, 20)
    assert it.told() == OWED_DOWN


async def test_an_older_versions_chat_that_is_off_begins_at_the_end_and_is_tried() -> None:
    it = World()
    it.register()
    it.change(DOWN)
    await it.bucket.update("inbox.0", b'{"done": 0, "off": "kicked", "notices": "2026-01-01T00:00:00Z"}', 0)
    await it.start()
    await it.settle()
    assert it.told() == []
    await it.then(ALIVE)
    assert it.told() == ["alive"]
    assert it.chats[0].state.off is None


@pytest.mark.parametrize("ends", [HOUR, -MINUTE])
async def test_what_an_older_version_would_have_told_at_the_end_of_a_window_is_told(ends: timedelta) -> None:
    it = World(reminders=())
    it.register()
    it.change(DOWN, since=NOW - 5 * MINUTE)
    it.window("w", -HOUR, ends)
    notices = (NOW - 2 * MINUTE).isoformat().encode()
    await it.bucket.update("inbox.0", b'{"done": 2, "notices": "' + notices + b'"}', 0)
    await it.restart()
    await it.restart()
    assert it.told() == ([] if ends == HOUR else OWED_DOWN)
    await it.passes(HOUR)
    assert it.told() == OWED_DOWN


# --- ids


DATES = st.dates()
MOMENTS = st.datetimes(timezones=st.just(NOW.tzinfo))
NOTICES = st.builds(
    Notice,
    at=MOMENTS,
    name=st.sampled_from(["web", "job"]),
    seq=st.integers(1, 3),
    status=st.sampled_from([DOWN, ALIVE]),
    since=MOMENTS,
    kind=st.sampled_from(NoticeKind),
)
SENDINGS = st.one_of(
    st.builds(Intent, through=st.integers(1, 9)),
    st.builds(Intent, through=st.just(1), digest=DATES, weekly=st.booleans()),
    st.builds(Intent, through=st.just(1), notices=MOMENTS),
    st.builds(Intent, through=st.just(1), owed=st.lists(NOTICES, min_size=1, max_size=3).map(tuple)),
    st.builds(Intent, through=st.just(1), deaf=st.builds(Deafness, since=MOMENTS, until=st.none() | MOMENTS)),
)


@given(SENDINGS, SENDINGS)
@settings(max_examples=300, deadline=None)
def test_two_messages_never_have_the_same_id(a: Intent, b: Intent) -> None:
    def content(it: Intent) -> Any:
        owed = frozenset((n.name, n.seq, n.kind, n.at) for n in it.owed)
        return it.of, it.digest, it.weekly, it.notices, owed, it.deaf, it.through

    again = Intent.model_validate_json(a.model_dump_json())
    assert again.message_id(a.through) == a.message_id(a.through)
    if content(a) != content(b):
        assert a.message_id(a.through) != b.message_id(b.through)


def test_the_digests_of_one_day_have_different_ids() -> None:
    day = Intent(through=1, digest=NOW.date())
    assert day.message_id(1) != day.model_copy(update={"weekly": True}).message_id(1)


# --- deafness


async def test_deafness_is_told_once_and_its_end_also_across_restarts() -> None:
    it = await world(chats=2)
    since = it.now - 6 * MINUTE
    it.deaf = [Deafness(since)]
    for _ in range(3):
        await it.restart()
    it.deaf = None
    await it.restart()
    it.deaf = [Deafness(since, it.now + HOUR)]
    it.now += 2 * HOUR
    for _ in range(3):
        await it.restart()
    for inbox in it.inboxes:
        first, second = inbox.texts
        assert first.startswith(
            "📡 The registry takes no heartbeats since 2026-11-24 11:54:00 UTC, for 6 min"
        )
        assert "from 2026-11-24 11:54:00 UTC to 2026-11-24 13:00:00 UTC (1 h 6 min): nobody" in second


async def test_deafness_that_is_over_is_told_once_and_not_to_who_came_later() -> None:
    it = await world()
    it.stop()
    it.deaf = [Deafness(NOW - 3 * HOUR, NOW - 2 * HOUR), Deafness(NOW + HOUR, NOW + 9 * HOUR)]
    it.now += 10 * HOUR
    await it.restart()
    await it.restart()
    (text,) = it.texts
    assert "(8 h): nobody was evaluated" in text


# --- incidents


async def test_nobody_is_reminded_of_what_somebody_has_in_hand_until_it_is_released_or_falls_again() -> None:
    it = await world(reminders=(HOUR,))
    await it.then(DOWN)
    it.acknowledge()
    await it.passes(3 * HOUR, 12)
    await it.restart()
    await it.passes(3 * HOUR, 12)
    assert it.told() == ["down"]
    it.release()
    await it.passes(2 * HOUR, 8)
    assert it.told() == ["down", "reminder: down", "reminder: down"]
    it.acknowledge()
    await it.then(ALIVE)
    await it.then(DOWN)
    await it.passes(HOUR, 4)
    assert it.told()[3:] == ["alive", "down", "reminder: down"]


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_mute_until_it_is_alive_ends_with_the_incident_whose_end_is_told(restarts: bool) -> None:
    it = await world()
    await it.then(DOWN)
    it.mute()
    await it.then(DEAD)
    if restarts:
        await it.restart()
    await it.then(ALIVE)
    assert it.told() == ["down", "alive"]
    await it.then(DOWN)
    assert it.told() == ["down", "alive", "down"]


async def test_what_happens_within_a_mute_that_is_over_when_the_notifier_comes_back_stays_untold() -> None:
    it = await world()
    it.mute("web", NOW + HOUR)
    it.stop()
    it.now += MINUTE
    it.change(DOWN)
    it.change(ALIVE)
    it.now += 2 * HOUR
    await it.restart()
    assert it.told() == []
    it.stop()
    it.mute("web", it.now + HOUR)
    it.change(DOWN)
    it.now += 2 * HOUR
    await it.restart()
    assert it.told() == ["owed: down"]


async def test_what_was_down_when_it_was_muted_is_told_at_the_end_though_the_notifier_was_off_then() -> None:
    it = await world()
    await it.then(DOWN)
    it.stop()
    it.mute("web", it.now + HOUR)
    it.now += 2 * HOUR
    await it.restart()
    assert it.told() == ["down", "owed: down"]


async def test_a_paused_service_is_not_told_of_whatever_people_do() -> None:
    it = await world(reminders=(HOUR,))
    await it.then(DOWN)
    it.register(paused=True)
    it.mute("web", it.now + MINUTE)
    it.acknowledge()
    await it.passes(2 * HOUR, 20)
    it.release()
    it.unmute()
    await it.passes(2 * HOUR, 20)
    assert it.told() == ["down"]


# --- everything at once


WALKS = {UNKNOWN: (ALIVE,), ALIVE: (SILENT, DOWN), SILENT: (ALIVE, DOWN), DOWN: (ALIVE, DEAD), DEAD: (ALIVE,)}
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["change"] * 6
            + ["window", "delete window", "pause", "resume", "quiet", "loud", "mute", "unmute"]
            + ["mute until alive", "acknowledge", "release"]
            + ["restart", "kill and start", "off", "on", "refuse", "refused for good", "pass"]
        ),
        st.integers(0, 5),
        st.integers(1, 2400),
    ),
    max_size=40,
)


class Story:
    """Steps, and what must hold while they are made and at their end."""

    NAMES = ("a", "b")

    def __init__(self) -> None:
        self.it = World(chats=2, reminders=(HOUR, DAY))
        self.config: dict[str, dict[str, bool]] = {name: {} for name in self.NAMES}
        self.seen = [0, 0]

    async def begin(self) -> None:
        for name in self.NAMES:
            self.it.register(name)
        await self.it.start()

    async def step(self, what: str, pick: int, length: int) -> None:
        it, name = self.it, self.NAMES[pick % 2]
        act: dict[str, Callable[[], Any]] = {
            "change": lambda: it.change(self.next(name, pick), name),
            "window": lambda: it.window(
                f"w{pick}", it.now - NOW, it.now - NOW + length * SECOND, services=(name,)
            ),
            "delete window": lambda: it.window(f"w{pick}", HOUR, None),
            "pause": lambda: self.set(name, paused=True),
            "resume": lambda: self.set(name, paused=False),
            "quiet": lambda: self.set(name, notify=False),
            "loud": lambda: self.set(name, notify=True),
            "off": it.stop,
            "mute": lambda: it.mute(name, it.now + length * SECOND),
            "unmute": lambda: it.unmute(name),
        }
        if it.folded(name).incident:
            act |= {
                "mute until alive": lambda: it.mute(name),
                "acknowledge": lambda: it.acknowledge(name),
                "release": lambda: it.release(name),
            }
        if what in act:
            act[what]()
        elif what == "kill and start":
            it.stop()
            await it.start()
        elif what == "restart" or (what == "on" and not it.is_on):
            await it.restart()
        elif what == "refuse":
            it.inboxes[pick % 2].answers = [Failed("away", maybe_delivered=False)] * (pick // 2 + 1)
        elif what == "refused for good":
            it.inboxes[pick % 2].answers = [Permanent("kicked")] * (pick // 2 + 1)
        await self.check()
        await it.passes(timedelta(seconds=length))
        await self.check()

    def next(self, name: str, pick: int) -> Status:
        ways = WALKS[self.it.status.get(name, ALIVE)]
        return ways[pick % len(ways)]

    def set(self, name: str, **config: bool) -> None:
        self.config[name] |= config
        self.it.register(name, **self.config[name])

    async def check(self) -> None:
        """While something holds a service back, nothing of it is told, but the recovery of what was told."""
        it = self.it
        if it.is_on:
            await it.settle()
            for name in self.NAMES:
                known, right = it.states.incidents, it.folded(name)
                assert known.acknowledged(name) == right.acknowledged
                assert known.muted(name, it.now) == right.muted(micros(it.now))
        for n, inbox in enumerate(it.inboxes):
            new = inbox.messages[self.seen[n] :]
            self.seen[n] = len(inbox.messages)
            for message in new if it.is_on else ():
                told = [(c.name, c.to) for c in message.changes] + [
                    (c.name, c.status) for c in message.notices
                ]
                for name, to in told:
                    quiet = self.config[name].get("paused") or not self.config[name].get("notify", True)
                    assert not quiet, f"{name} is not to be told of"
                    assert not it.is_muted(name), f"{name} is muted"
                    assert to in (ALIVE, SILENT) or not it.maintenance_until(name, it.now), (
                        f"{name} is in maintenance"
                    )

    async def end(self) -> None:
        """When nothing holds anything back any more, everybody knows how everything is."""
        it = self.it
        for inbox in it.inboxes:
            inbox.answers = []
        for name in self.NAMES:
            self.set(name, paused=False, notify=True)
        it.windows.clear()
        await it.restart()
        for name in self.NAMES:
            it.unmute(name)
        await it.passes(2 * HOUR, 40)
        for n in range(len(it.inboxes)):
            for name in self.NAMES:
                told = [said.rpartition(" ")[2] if ": " in said else said for said in it.told(n, name)]
                told = [said.split()[0] for said in told if not said.startswith("flaps")]
                is_down = it.status.get(name, ALIVE) in (DOWN, DEAD)
                knows = (told or ["alive"])[-1] in ("down", "dead")
                assert knows == is_down, (n, name, it.status.get(name), it.told(n, name))
            seqs = [c.seq for message in it.inboxes[n].messages for c in message.changes]
            assert len(seqs) == len(set(seqs)), "a change was told twice"
            assert not it.chats[n].alerts.due


@given(STEPS)
@example([("change", 1, 1), ("change", 1, 1), ("restart", 0, 1), ("mute until alive", 1, 1)])
@settings(max_examples=60, deadline=None)
async def test_whatever_happens_everybody_knows_in_the_end_how_everything_is(
    steps: list[tuple[str, int, int]],
) -> None:
    story = Story()
    await story.begin()
    for step in steps:
        await story.step(*step)
    await story.end()


def test_a_record_of_the_version_before_is_still_read() -> None:
    old = (
        b'{"done":7,"sending":{"through":9,"digest":null,"weekly":false,"notices":"2026-11-24T12:00:00Z"},'
        b'"digest":"2026-11-24","weekly":null,"notices":"2026-11-24T12:00:00Z","off":null,"chat":"-100",'
        b'"threads":{"web":3},"doubted":null,"mutes":{"job":"2026-11-24T13:00:00Z"}}'
    )
    cursor = ReceiverState.model_validate_json(old)
    assert (cursor.done, cursor.owed, cursor.turns, cursor.threads) == (7, {}, {}, {"web": 3})
    assert cursor.sending
    assert cursor.sending.message_id(7) == "notices.2026-11-24T12:00:00+00:00"
    assert ReceiverState.model_validate_json(cursor.model_dump_json()) == cursor
    assert replace(Notice(NOW, "a", 1, DOWN, NOW), maybe=True).maybe
