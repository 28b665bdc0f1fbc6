"""What a message says of the incidents that it told of, below its text, and the buttons under it."""

import asyncio
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest

from services.notifier.alerting.changes import StatusChange
from services.notifier.bot.updates import Sender
from services.notifier.channels.telegram import EDITS_SHARE, Pace
from services.notifier.dispatch import told
from services.notifier.dispatch.told import ToldLog
from services.notifier.texts.incidents import (
    MAX_UNITS,
    Standing,
    edited,
    incident_buttons,
    open_incidents,
    person,
    standing_lines,
)
from services.notifier.texts.message import LinkContext, OutgoingMessage, units
from shared.contracts.events import Acknowledgement, Mute, Status
from shared.domain.incidents import IncidentState
from shared.domain.service_state import ServiceState
from shared.messaging import incident_log
from shared.messaging.errors import NotStored
from shared.messaging.incident_log import IncidentLog
from tests.notified import ANA, HOUR, MINUTE, NOW, UNKNOWN
from tests.telegram_standin import parsed

LINKS = LinkContext("http://x", ZoneInfo("Europe/Berlin"))
ACK = Acknowledgement(incident="i1", by=ANA, at=NOW, note="the disk <is> full")
MUTE = Mute(until=NOW + HOUR, by="token:ben", at=NOW)


def lines(*standings: Standing, room: int = 1000) -> list[str]:
    return standing_lines(standings, NOW, LINKS, room).splitlines()


def test_one_service_has_its_own_lines() -> None:
    began = NOW - 42 * MINUTE
    assert lines(Standing("web", began)) == []
    assert lines(Standing("web", began, acknowledged=ACK, muted=MUTE)) == [
        "✋ Ana has it, 13:00: the disk <is> full",
        "🔕 muted until 14:00 by ben",
    ]
    assert lines(Standing("web", began, NOW, ANA)) == ["✅ alive again after 42 min · Ana had it"]
    assert lines(Standing("web", began, deleted=True), Standing("job", began, NOW)) == [
        "🗑 web: deleted",
        "✅ job: alive again after 42 min",
    ]
    until_alive = Mute(until_alive=True, incident="i1", by=ANA, at=NOW)
    assert lines(Standing("web", began, muted=until_alive)) == ["🔕 muted until it is alive again by Ana"]


def test_of_many_is_counted_and_whatever_they_are_it_fits() -> None:
    names = [f"{'n' * 120}-{n:03}" for n in range(300)]
    some = [Standing(name, NOW, NOW if n < 12 else None) for n, name in enumerate(names)]
    some[20:40] = [Standing(name, NOW, acknowledged=ACK) for name in names[20:40]]
    some[40:42] = [Standing(name, NOW, muted=MUTE) for name in names[40:42]]
    over, ana, muted = lines(*some)
    assert over == "✅ 12 of 300 are alive again"
    assert ana.startswith("✋ Ana has nnn")
    assert ana.endswith(" and 15 more")
    assert muted.startswith("🔕 muted: nnn")
    assert lines(*some, room=40) == ["✅ 12 ✋ 20 🔕 2"]
    assert lines(*(Standing(name, NOW, NOW) for name in names)) == ["✅ all 300 are alive again"]
    for room in range(40, 900, 7):
        assert units("\n".join(lines(*some, room=room))) <= room


def test_an_edit_is_the_message_with_the_lines_below_and_is_escaped() -> None:
    buttons = incident_buttons([("web", "abcdef0123", False)], 1)
    message = edited("<b>web</b>", "web", "✋ A<b> has it", buttons)
    assert parsed(message.text) == message.plain_text == "web\n\n✋ A<b> has it"
    data = [data for row in message.buttons for _, data in row]
    assert [it.partition(":")[0] for it in data] == ["ack", "mute", "details"]
    assert all(len(it.encode()) <= 64 for it in data)
    assert data[0].endswith(":abcdef01")
    assert labels([("web", "abcdef0123", True)], 1) == [["Mute 1h", "Details"]]
    assert edited("a", "a", "", ()).text == "a"


def labels(going_on: list[tuple[str, str, bool]], told: int) -> list[list[str]]:
    return [[label for label, _ in row] for row in incident_buttons(going_on, told)]


def test_of_several_falls_each_has_a_row_with_its_name() -> None:
    long = "backup.databases.of-the-shop.eu-west.primary" + "x" * 84
    some = [("web", "i1", False), ("job", "i2", True), (long, "i3", False)]
    assert labels(some, 3) == [
        ["web: I have it", "Mute 1h", "Details"],
        ["job: Mute 1h", "Details"],
        ["backup…" + "x" * 13 + ": I have it", "Mute 1h", "Details"],
    ]
    assert labels(some[:1], 3) == [["web: I have it", "Mute 1h", "Details"]], "the others are alive again"
    assert incident_buttons([], 2) == incident_buttons(some[:1], 4) == ()
    data = [data for row in incident_buttons(some, 3) for _, data in row]
    assert len(set(data)) == len(data) == 8
    assert max(len(it.encode()) for it in data) <= 64


@pytest.mark.parametrize(
    ("actor", "expected"),
    [
        (ANA, "Ana"),
        ("telegram:Ana (x) (7)", "Ana (x)"),
        ("token:ben", "ben"),
        ("token", "token"),
        ("telegram:" + "x" * 300 + " (1)", "x" * 39 + "…"),
    ],
)
def test_people_are_called_by_their_names(actor: str, expected: str) -> None:
    assert person(actor) == expected


def test_an_actor_has_a_name_and_a_number() -> None:
    assert Sender(id=4711, first_name=" Ana \n B ").actor == "telegram:Ana B (4711)"
    assert Sender(id=1).actor == "telegram:somebody (1)"
    assert len(Sender(id=1, first_name="x" * 500).actor) < 100


def test_the_worst_of_the_open_incidents_comes_first_and_the_list_is_bounded() -> None:
    def state(name: str, status: Status) -> ServiceState:
        found = ServiceState(name)
        found.status = status
        return found

    some = [
        (state("new", Status.DOWN), NOW - MINUTE, None, None),
        (state("old", Status.DOWN), NOW - HOUR, ACK, MUTE),
        (state("soft", Status.SILENT), NOW - 2 * HOUR, None, None),
    ]
    said = open_incidents(some, NOW, LINKS).plain_text.splitlines()
    assert [line.split(":")[0][2:] for line in said[1:]] == ["old", "new", "soft"]
    assert said[1].endswith("down for 1 h ✋ Ana 🔕")
    many = [(state("n" * 128 + str(n), Status.DOWN), NOW, None, None) for n in range(1000)]
    text = open_incidents(many, NOW, LINKS).plain_text
    assert units(text) < MAX_UNITS
    assert "more" in text.splitlines()[-1]
    assert "No open" in open_incidents([], NOW, LINKS).plain_text
    assert UNKNOWN.badness < Status.SILENT.badness


async def test_edits_leave_half_of_the_limits_to_messages() -> None:
    loop, pace, passed = asyncio.get_running_loop(), Pace(), 0
    start, now = loop.time(), [0.0]
    loop.time = lambda: start + now[0]  # type: ignore[method-assign]
    try:
        for _ in range(60):
            passed += pace.try_turn("-1", EDITS_SHARE) == 0
            now[0] += 1.0
        assert passed <= 11
        now[0] += 1.1
        assert pace.try_turn("-1") == 0
        now[0] += 1.1
        assert pace.try_turn("-1", EDITS_SHARE) > 0
        assert pace.try_turn("-1") == 0
    finally:
        del loop.time  # type: ignore[method-assign]


async def test_no_more_is_recorded_of_whom_was_told_than_a_minute_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(told, "MAX_PER_MINUTE", 3)
    log = ToldLog(cast(Any, None), lambda: NOW, cast(Any, None), cast(Any, None))
    assert [log._has_room(n) for n in (2, 1, 1)] == [True, True, False]
    log._recent[0] = (log._recent[0][0] - 61, 2)
    assert log._has_room(1)
    await log.record("ops", OutgoingMessage("", "", True, 0))
    assert timedelta(0) < MINUTE


@pytest.mark.parametrize("is_up", [True, False])
async def test_a_broker_that_refuses_what_was_told_does_not_hold_up_messages_and_one_that_is_away_does(
    monkeypatch: pytest.MonkeyPatch, is_up: bool
) -> None:
    monkeypatch.setattr(incident_log, "MAX_REFUSED", 0.5)
    tried: list[str] = []

    async def append(subject: str, *_: Any, **more: Any) -> None:
        tried.append(subject)
        raise NotStored("permissions violation")

    async def known(_: str) -> IncidentState:
        return IncidentState()

    async def no_incidents(_: Any) -> dict[str, Any]:
        return {}

    link, publisher = SimpleNamespace(up=is_up), SimpleNamespace(append=append)
    incidents = IncidentLog(cast(Any, link), cast(Any, publisher), "/notifier", known, lambda *_: None)
    log = ToldLog(incidents, lambda: NOW, no_incidents, cast(Any, None))
    fall = StatusChange(7, NOW, "web", Status.ALIVE, Status.DOWN, NOW, None, "no heartbeat", None)
    message = OutgoingMessage("", "", True, 7, changes=(fall,))
    if not is_up:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(log.record("ops", message), 1)
        return
    await asyncio.wait_for(log.record("ops", message), 5)
    assert len(tried) > 1
    tried.clear()
    await asyncio.wait_for(log.record("ops", message), 0.2)
    assert not tried, "for a while nothing is tried, or each message would wait so long"
