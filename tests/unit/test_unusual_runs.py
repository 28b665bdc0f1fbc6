"""Runs of an unusual length: what is told of them, to whom, and how often."""

from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest

from services.notifier.channels.channel import Failed, Permanent, Refused
from services.notifier.channels.webhook import content
from services.notifier.dispatch.sources import changes as pending_changes
from services.notifier.texts.message import MAX_BODY, REPEAT, LinkContext, units
from services.notifier.texts.runs import runs_message
from shared.contracts.events import Outcome
from tests.notified import ALIVE, DAY, DOWN, HOUR, MINUTE, NOW, SECOND, SHORT, World

LINKS = LinkContext("https://registry.example", ZoneInfo("UTC"))
LONG = "has run for 25 min, usually 12 to 15 min"


async def world(*names: str, chats: int = 1) -> World:
    found = World(chats, ())
    for name in names or ("web",):
        found.register(name)
    await found.start()
    return found


async def test_it_is_told_softly_and_once_to_each_chat() -> None:
    it = await world(chats=2)
    it.run()
    await it.settle()
    await it.restart()
    await it.passes(HOUR, 10)
    assert [it.told(0), it.told(1)] == [[SHORT], [SHORT]]
    (message,) = it.inboxes[0].messages
    assert message.silent
    assert message.about == "web"
    assert not message.buttons
    assert message.plain_text == f"⏱ web: {SHORT}\nbegan 2026-11-24 11:59:00 UTC\nhttp://x/ui/service/web"


async def test_one_that_goes_on_says_so_and_its_end_is_told_by_who_records_it() -> None:
    it = await world()
    it.run(says=LONG, outcome=Outcome.RUNNING, duration=None)
    await it.settle()
    assert it.told() == [LONG]
    document = content(it.inboxes[0].messages[0])
    assert (document["type"], document["loud"], document["changes"]) == ("registry.runs", False, [])
    assert document["runs"] == [
        {
            "seq": 1,
            "service": "web",
            "outcome": "running",
            "started_at": "2026-11-24T11:59:00+00:00",
            "duration": None,
            "run": None,
            "unusual": LONG,
        }
    ]


@pytest.mark.parametrize("what", ["window", "mute", "pause", "notify", "unusual", "unknown", "deleted"])
@pytest.mark.parametrize("restarts", [False, True])
async def test_what_is_suppressed_is_not_told_nor_later(what: str, restarts: bool) -> None:
    it = await world()
    if what == "window":
        it.window("w", -HOUR, HOUR)
    elif what == "mute":
        it.mute("web", NOW + HOUR)
    elif what == "deleted":
        it.delete()
    elif what != "unknown":
        it.register(
            **{"pause": {"paused": True}, "notify": {"notify": False}}.get(what, {"notify_unusual": 0})
        )
    await it.passes(MINUTE)
    it.run("nobody" if what == "unknown" else "web")
    await it.settle()
    if restarts:
        await it.restart()
    it.now = NOW + 2 * HOUR
    it.register()
    await it.settle()
    await it.restart()
    assert it.told() == []
    it.run()
    await it.settle()
    assert it.told() == [SHORT]


async def test_what_happened_within_maintenance_is_not_told_after_it() -> None:
    it = await world()
    it.window("w", -HOUR, MINUTE)
    await it.passes(2 * MINUTE)
    it.run(ago=90 * SECOND)
    await it.settle()
    assert it.told() == []


async def test_what_happened_to_an_earlier_service_of_the_name_is_not_told() -> None:
    it = await world()
    it.inboxes[0].always = Failed("away", maybe_delivered=False)
    it.run()
    await it.passes(MINUTE)
    it.delete()
    it.register(registered_at=it.now)
    it.inboxes[0].always = None
    await it.passes(MINUTE)
    assert it.told() == []
    assert it.chats[0].state.runs == 1


@pytest.mark.parametrize("age", [23 * HOUR, 25 * HOUR])
async def test_what_is_older_than_a_day_is_not_told(age: timedelta) -> None:
    it = await world()
    it.run()
    it.inboxes[0].always = Failed("away", maybe_delivered=False)
    await it.passes(age, 5)
    it.inboxes[0].always = None
    await it.passes(MINUTE)
    assert it.told() == ([SHORT] if age < DAY else [])
    assert it.chats[0].state.runs == 1
    assert it.chats[0].state.sending is None


async def test_the_first_start_after_an_upgrade_tells_nothing_of_the_past() -> None:
    it = await world()
    it.run()
    await it.settle()
    await it.chats[0].log.update(runs=None, runs_since=None)
    it.stop()
    it.run(says="took 4 s, usually 1 h")
    await it.passes(MINUTE)
    await it.restart()
    assert it.told() == [SHORT]
    it.run(says="took 5 s, usually 1 h", ago=HOUR)  # recorded now, but it is of the past
    it.run(says="took 6 s, usually 1 h")
    await it.settle()
    assert it.told() == [SHORT, "took 6 s, usually 1 h"]


async def test_who_is_new_hears_nothing_of_the_past() -> None:
    it = World(1, ())
    it.register()
    it.run()
    await it.start()
    await it.settle()
    assert it.told() == []


async def test_what_comes_while_it_is_off_is_told_when_it_is_back() -> None:
    it = await world()
    it.stop()
    it.run()
    await it.passes(HOUR)
    await it.restart()
    assert it.told() == [SHORT]


async def test_an_emptied_record_repeats_nothing_and_holds_nothing_up() -> None:
    it = await world()
    it.run()
    await it.settle()
    await it.chats[0].log.update(sending=None)
    it.runs.clear()
    await it.passes(MINUTE)
    await it.restart()
    it.run(ago=2 * MINUTE)  # written again
    it.run(says=LONG)
    await it.settle()
    assert it.told() == [SHORT, LONG]
    assert it.chats[0].state.runs == 2


async def test_an_attempt_of_which_nobody_knows_is_repeated_and_says_so() -> None:
    it = await world()
    it.inboxes[0].answers = [Failed("no answer", maybe_delivered=True)]
    it.run()
    await it.settle()
    it.run("web", LONG)
    it.stop()
    await it.restart()
    await it.settle()
    assert it.texts[0].startswith(f"{REPEAT}\n⏱ web: {SHORT}\n")
    assert not it.texts[1].startswith(REPEAT)
    assert it.told() == [SHORT, LONG]
    first, second = it.inboxes[0].messages
    assert first.id == "runs.1"
    assert second.id == "runs.2"


async def test_an_unfinished_attempt_at_what_the_record_lost_ends() -> None:
    """Else nothing at all would be told any more."""
    it = await world()
    it.inboxes[0].answers = [Failed("no answer", maybe_delivered=True)]
    it.run()
    await it.settle()
    it.stop()
    it.runs.clear()
    await it.restart()
    it.change(DOWN)
    await it.settle()
    assert it.told() == ["down"]


async def test_a_mute_after_the_attempt_ends_it() -> None:
    it = await world()
    it.inboxes[0].answers = [Failed("no answer", maybe_delivered=True)]
    it.run()
    await it.settle()
    it.mute("web", NOW + HOUR)
    await it.settle()
    assert (it.told(), it.chats[0].state.sending, it.chats[0].state.runs) == ([], None, 1)


async def test_changes_come_first_and_are_never_held_up() -> None:
    it = await world("web", "job")
    it.inboxes[0].refuses = lambda message: bool(message.runs)
    it.run()
    it.change(DOWN, "job")
    await it.settle()
    await it.passes(HOUR, 20)
    it.change(ALIVE, "job")
    await it.settle()
    assert it.told(name="job") == ["down", "alive"]
    await it.passes(DAY, 20)
    assert it.told() == []
    assert it.chats[0].state.runs == 1
    it.inboxes[0].refuses = lambda message: False
    it.run(says=LONG)
    await it.passes(HOUR, 2)
    assert it.told() == [LONG]


async def test_a_chat_that_is_off_gets_it_when_it_is_on_again() -> None:
    it = await world()
    it.inboxes[0].always = Permanent("kicked")
    it.run()
    await it.passes(HOUR, 5)
    it.inboxes[0].always = None
    await it.passes(2 * HOUR, 5)
    assert it.told() == [SHORT]
    assert it.texts[0].startswith("(late: ") or it.texts[0].startswith("⏱")


async def test_many_at_once_are_a_few_messages_that_name_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending_changes, "MAX_PENDING", 30)
    names = [f"job-{n:03}" + "x" * 100 for n in range(100)]
    it = await world(*names)
    for name in names:
        it.run(name)
    for _ in range(9):
        await it.settle()
        if it.chats[0].pending_runs.behind:
            await it.chats[0].pending_runs.refill(it._run_page)
    assert [it.told(name=name) for name in names] == [[SHORT]] * 100
    assert len(it.inboxes[0].messages) < 9
    assert all(units(text) <= MAX_BODY for text in it.texts)
    assert all(message.silent and not message.about for message in it.inboxes[0].messages)


def test_five_blocks_of_the_longest_fit() -> None:
    it = World()
    for n in range(5):
        it.run("n" * 127 + str(n), "<" * 1000)
    message = runs_message(it.runs, LINKS, 0)
    assert len(message.runs) == 5
    assert units(message.plain_text) <= MAX_BODY


async def test_the_record_of_an_idle_chat_follows() -> None:
    it = await world()
    for seq in range(1, 5):
        it.chats[0].enqueue_run(seq, None)
    await it.chats[0]._changes.advance_idle(it.chats[0]._runs.progress())
    assert it.chats[0].state.runs == 4


async def test_a_refusal_of_one_kind_lets_it_come_later() -> None:
    it = await world()
    it.inboxes[0].answers = [Refused("odd")]
    it.run()
    await it.settle()
    assert it.told() == []
    await it.passes(2 * MINUTE)
    assert it.told() == [SHORT]
