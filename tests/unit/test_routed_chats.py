"""What a chat is told by the routes: who hears, quiet hours, escalations, reminders, what is owed then."""

from datetime import timedelta
from typing import Any

import pytest

from services.notifier.alerting.changes import UnusualRun
from shared.contracts.events import Status
from shared.contracts.routes import Quiet
from shared.domain.routing import Choice
from tests.notified import ALIVE, DAY, DEAD, DOWN, HOUR, MINUTE, NOW, SECOND, SILENT, World

OWED_DOWN = ["owed: down"]
OPS, BOSS = "inbox.0", "inbox.1"
NIGHT = "12:30-20:00"
"""NOW is noon."""
ESCALATED = {"to": [OPS], "escalate": {"after": "15m", "to": [BOSS]}}
HELD = {"to": [OPS], "quiet": {"hours": NIGHT, "hold": True}}


async def world(*routes: dict[str, Any], reminders: tuple[timedelta, ...] = ()) -> World:
    found = World(2, reminders)
    found.register()
    found.routes(*routes)
    await found.start()
    return found


def sounds(it: World, chat: int = 0) -> list[bool]:
    return [not message.silent for message in it.inboxes[chat].messages]


# --- routed away


async def test_what_goes_to_others_is_told_to_them_alone() -> None:
    it = await world({"match": {"tags": ["db"]}, "to": [OPS]}, {"to": [BOSS]})
    it.register("db", tags=("db",))
    for name in ("db", "web"):
        await it.then(DOWN, name=name)
        await it.then(ALIVE, name=name)
    assert (it.told(0, "db"), it.told(1, "db")) == (["down", "alive"], [])
    assert (it.told(0, "web"), it.told(1, "web")) == ([], ["down", "alive"])


async def test_without_a_route_that_matches_every_channel_hears() -> None:
    it = await world({"match": {"tags": ["db"]}, "to": [OPS]})
    await it.then(DOWN)
    assert it.told(0) == it.told(1) == ["down"]


async def test_a_route_by_status_tells_the_recovery_to_whom_it_told_the_fall() -> None:
    it = await world({"match": {"status": ["down", "dead"]}, "to": [OPS]})
    await it.then(SILENT)
    await it.then(DOWN)
    await it.then(DEAD)
    await it.then(ALIVE)
    assert it.told(0) == ["silent", "down", "dead", "alive"]
    assert it.told(1) == ["silent", "alive"]
    await it.then(DOWN)
    await it.then(ALIVE)
    assert it.told(1) == ["silent", "alive"]


@pytest.mark.parametrize("off", [False, True])
async def test_what_stays_down_is_told_to_whom_new_routes_name(off: bool) -> None:
    it = await world({"to": [OPS]})
    await it.then(DOWN)
    if off:
        it.stop()
    it.routes({"to": [BOSS]})
    if off:
        await it.start()
    await it.settle()
    assert (it.told(0), it.told(1)) == (["down"], OWED_DOWN)
    await it.then(ALIVE)
    assert (it.told(0), it.told(1)) == (["down", "alive"], [*OWED_DOWN, "alive"])


async def test_a_recovery_is_told_though_the_routes_say_nothing_of_the_channel_any_more() -> None:
    it = await world()
    await it.then(DOWN)
    it.routes({"to": [BOSS]})
    await it.restart()
    await it.then(ALIVE)
    assert it.told(0) == it.told(1) == ["down", "alive"]


async def test_other_tags_lead_elsewhere() -> None:
    it = await world({"match": {"tags": ["db"]}, "to": [OPS]}, {"to": [BOSS]})
    await it.then(DOWN)
    assert (it.told(0), it.told(1)) == ([], ["down"])
    it.register(tags=("db",))
    await it.settle()
    assert it.told(0) == OWED_DOWN


# --- escalation


@pytest.mark.parametrize("silent_first", [False, True])
@pytest.mark.parametrize("off", ["never", "at the fall", "at its moment"])
async def test_an_escalation_counts_from_the_fall_to_down(silent_first: bool, off: str) -> None:
    it = await world(ESCALATED)
    if silent_first:
        await it.then(SILENT)
    await it.passes(5 * MINUTE)
    if off == "at the fall":
        it.stop()
    it.change(DOWN)
    fell = it.now
    if off == "at the fall":
        await it.start()
    await it.settle()
    await it.passes(15 * MINUTE - SECOND, 10)
    assert it.told(1) == []
    if off == "at its moment":
        it.stop()
    await it.passes(2 * SECOND)
    if off == "at its moment":
        await it.start()
        await it.settle()
    assert it.told(1) == OWED_DOWN
    (message,) = it.inboxes[1].messages
    assert "nobody has had it in hand for 15 min" in message.plain_text
    assert not message.silent
    assert message.notices[0].since == fell
    await it.restart()
    await it.passes(HOUR, 10)
    await it.then(ALIVE)
    assert it.told(1) == [*OWED_DOWN, "alive"]
    assert "in hand" not in it.inboxes[1].texts[-1]


async def test_an_escalation_that_is_late_says_how_long_it_is() -> None:
    it = await world(ESCALATED)
    it.change(DOWN)
    await it.settle()
    it.stop()
    it.now += 2 * HOUR
    await it.restart()
    assert "nobody has had it in hand for 2 h" in it.inboxes[1].texts[0]


async def test_of_a_fall_that_is_read_after_its_escalation_was_due_the_change_is_told() -> None:
    it = await world(ESCALATED)
    it.stop()
    it.change(DOWN)
    it.now += HOUR
    await it.restart()
    assert it.told(1) == ["down"]
    assert "nobody has had it in hand for 1 h" in it.inboxes[1].texts[0]


async def test_what_is_back_or_only_silent_is_not_escalated() -> None:
    it = await world(ESCALATED)
    await it.then(SILENT)
    await it.passes(HOUR, 10)
    await it.then(DOWN)
    await it.then(ALIVE)
    await it.passes(HOUR, 10)
    assert it.told(1) == []


async def test_an_escalation_counts_from_down_also_when_it_is_dead() -> None:
    it = await world(ESCALATED)
    await it.then(DOWN)
    await it.then(DEAD, 10 * MINUTE)
    await it.passes(5 * MINUTE - SECOND)
    assert it.told(1) == []
    await it.restart()
    await it.passes(SECOND)
    assert it.told(1) == ["owed: dead"]


async def test_nobody_is_called_while_somebody_has_it_in_hand() -> None:
    it = await world(ESCALATED)
    await it.then(DOWN)
    await it.passes(5 * MINUTE)
    it.acknowledge()
    await it.passes(HOUR, 10)
    await it.restart()
    assert it.told(1) == []
    it.release()
    await it.settle()
    assert it.told(1) == OWED_DOWN


async def test_a_release_before_its_moment_starts_an_escalation_again() -> None:
    it = await world(ESCALATED)
    await it.then(DOWN)
    it.acknowledge()
    await it.passes(5 * MINUTE)
    it.release()
    await it.passes(9 * MINUTE, 3)
    assert it.told(1) == []
    await it.passes(MINUTE)
    assert it.told(1) == OWED_DOWN


async def test_who_was_called_hears_of_all_changes_whoever_has_it_in_hand() -> None:
    it = await world(ESCALATED)
    await it.then(DOWN)
    await it.passes(15 * MINUTE)
    it.acknowledge()
    await it.then(DEAD)
    await it.then(ALIVE)
    assert it.told(1) == [*OWED_DOWN, "dead", "alive"]
    await it.then(DOWN)
    await it.passes(14 * MINUTE, 14)
    assert it.told(1) == [*OWED_DOWN, "dead", "alive"], "a new incident begins without"


async def test_two_steps_of_an_escalation_come_one_after_the_other() -> None:
    it = await world({"escalate": [{"after": "5m", "to": [OPS]}, {"after": "15m", "to": [BOSS]}]})
    await it.then(DOWN)
    await it.passes(5 * MINUTE)
    assert (it.told(0), it.told(1)) == (OWED_DOWN, [])
    await it.passes(10 * MINUTE)
    assert (it.told(0), it.told(1)) == (OWED_DOWN, OWED_DOWN)


# --- quiet hours


async def test_in_quiet_hours_it_is_sent_without_sound() -> None:
    it = await world({"to": [OPS], "quiet": NIGHT})
    await it.then(DOWN)
    await it.then(ALIVE, HOUR)
    await it.then(DOWN)
    await it.then(ALIVE, 8 * HOUR)
    assert it.told() == ["down", "alive"] * 2
    assert sounds(it) == [True, False, False, True]


async def test_a_reminder_in_quiet_hours_has_no_sound() -> None:
    it = await world({"to": [OPS], "quiet": NIGHT}, reminders=(HOUR, 9 * HOUR))
    await it.then(DOWN)
    await it.passes(10 * HOUR, 20)
    assert it.told() == ["down", "reminder: down", "reminder: down"]
    assert sounds(it) == [True, False, True]


@pytest.mark.parametrize("off", [False, True])
@pytest.mark.parametrize("to", [SILENT, DOWN])
async def test_what_is_held_is_told_at_the_end_of_the_quiet_hours_if_it_is_still_so(
    to: Status, off: bool
) -> None:
    it = await world(HELD)
    await it.then(to, HOUR)
    await it.passes(7 * HOUR - MINUTE, 10)
    assert it.told() == []
    if off:
        it.stop()
    it.now = NOW + 8 * HOUR
    await it.restart() if off else await it.settle()
    assert it.told() == [f"owed: {to}"]
    assert sounds(it) == [to is DOWN]
    await it.then(ALIVE)
    assert it.told() == [f"owed: {to}", "alive"]


async def test_what_is_back_before_the_end_is_never_told() -> None:
    it = await world(HELD)
    await it.then(DOWN, HOUR)
    await it.then(ALIVE)
    await it.passes(8 * HOUR, 10)
    assert it.told() == []


async def test_that_a_told_fall_is_over_is_never_held_but_has_no_sound() -> None:
    it = await world(HELD)
    await it.then(DOWN)
    await it.then(ALIVE, HOUR)
    assert it.told() == ["down", "alive"]
    assert sounds(it) == [True, False]


async def test_a_recovery_by_a_route_for_falls_has_no_sound_in_its_quiet_hours() -> None:
    it = await world({"match": {"status": ["down", "dead"]}, "to": [OPS], "quiet": NIGHT})
    await it.then(DOWN, HOUR)
    await it.then(ALIVE)
    assert (it.told(), sounds(it)) == (["down", "alive"], [False, False])


async def test_a_reminder_that_is_held_comes_at_the_end_once() -> None:
    it = await world(HELD, reminders=(HOUR, 2 * HOUR, DAY))
    await it.then(DOWN)
    await it.passes(7 * HOUR, 20)
    assert it.told() == ["down"]
    it.now = NOW + 8 * HOUR
    await it.settle()
    assert it.told() == ["down", *OWED_DOWN]
    await it.passes(4 * HOUR, 10)
    assert it.told() == ["down", *OWED_DOWN]


# --- reminders


async def test_each_route_has_reminders_of_its_own() -> None:
    it = await world(
        {"match": {"tags": ["db"]}, "to": [OPS, BOSS], "remind": ["30m", "2h"]},
        {"to": [OPS], "remind": [], "continue": True},
        {"to": [BOSS]},
        reminders=(HOUR, DAY),
    )
    it.register("db", tags=("db",))
    it.change(DOWN, "db")
    it.change(DOWN)
    await it.settle()
    for minutes, db, web in ((30, 1, 0), (60, 1, 1), (120, 2, 1), (240, 3, 1)):
        await it.passes(NOW + minutes * MINUTE - it.now, 2)
        assert it.told(0, "db") == it.told(1, "db") == ["down", *["reminder: down"] * db]
        assert it.told(0) == ["down"]
        assert it.told(1) == ["down", *["reminder: down"] * web]


async def test_reminders_follow_the_routes_as_they_change() -> None:
    it = await world(reminders=(HOUR, DAY))
    await it.then(DOWN)
    await it.passes(30 * MINUTE, 2)
    it.routes({"to": [OPS, BOSS], "remind": ["40m", "10h"]})
    await it.passes(30 * MINUTE, 30)
    assert it.told() == ["down", "reminder: down"]
    it.routes()
    await it.passes(10 * HOUR, 20)
    assert it.told() == ["down", "reminder: down"]
    await it.passes(14 * HOUR, 20)
    assert it.told() == ["down", "reminder: down", "reminder: down"]


# --- runs, flapping, subscribers


async def test_unusual_runs_follow_the_routes_of_their_service() -> None:
    it = await world({"to": [OPS], "quiet": {"hours": NIGHT, "hold": True}})
    it.run()
    await it.settle()
    it.now += HOUR
    it.run()
    await it.passes(10 * HOUR, 5)
    assert len(it.told(0)) == 1
    assert it.told(1) == []
    assert all(isinstance(run, UnusualRun) for message in it.inboxes[0].messages for run in message.runs)


@pytest.mark.parametrize("routes", [(), ({"to": [OPS], "escalate": {"after": "1m", "to": [BOSS]}},)])
@pytest.mark.parametrize(("to", "after", "said"), [(DOWN, 5, "stays: down"), (ALIVE, 30, "calm: alive")])
async def test_what_flaps_is_told_after_exactly_five_minutes_down_or_thirty_alive(
    routes: tuple[dict[str, Any], ...], to: Status, after: int, said: str
) -> None:
    it = await world(*routes)
    for status in (DOWN, ALIVE, DOWN, ALIVE, DOWN, *([ALIVE] if to is ALIVE else [])):
        await it.then(status)
    before = it.told()
    await it.passes(after * MINUTE - SECOND)
    assert it.told() == before
    await it.passes(SECOND)
    assert it.told() == [*before, said]


async def test_a_subscriber_hears_what_it_chose_whatever_the_routes_say() -> None:
    it = await world({"to": [OPS]})
    it.inboxes[1].name = it.chats[1].alerts._channel = "4711"
    it.register("db", tags=("db",))
    await it.chats[1].choose(Choice(only=("db",)))
    await it.then(DOWN, name="db")
    await it.then(DOWN)
    assert (it.told(1, "db"), it.told(1)) == (["down"], [])
    await it.restart()
    it.chats[1].alerts._channel = "4711"
    await it.chats[1].choose(Choice(("web",)))
    await it.then(ALIVE, name="db")
    assert (it.told(1, "db"), it.told(1)) == (["down", "alive"], [])
    await it.chats[1].choose(Choice())
    await it.settle()
    assert it.told(1) == OWED_DOWN


async def test_a_subscribers_quiet_hours_take_the_sound() -> None:
    it = await world({"to": [OPS]})
    it.chats[1].alerts._channel = "4711"
    await it.chats[1].choose(Choice(quiet=Quiet.parse(f"{NIGHT} UTC")))
    await it.then(DOWN)
    await it.then(ALIVE, HOUR)
    assert it.told(1) == ["down", "alive"]
    assert sounds(it, 1) == [True, False]
