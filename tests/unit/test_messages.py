"""What people read: nothing in it can break the markup, nothing is too long, every service is named."""

import itertools
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from services.notifier.alerting.changes import Notice, NoticeKind, StatusChange, group_by_service
from services.notifier.texts.changes import changes_message as pack
from services.notifier.texts.message import (
    MAX_BODY,
    REPEAT,
    LinkContext,
    OutgoingMessage,
    digest_message,
    late_note,
    units,
)
from services.notifier.texts.notices import notice_message
from shared.contracts.events import Doubt, Status
from tests.telegram_standin import parsed

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
LOOK = LinkContext("https://registry.example", ZoneInfo("Europe/Berlin"))
UNKNOWN, ALIVE, SILENT, DOWN, DEAD = Status

NASTY = [
    "<b>",
    "a&b",
    "_*[]()~`>#+-=|{}.!",
    "x" * 128,
    "&lt;",
    '"quoted"',
    "emoji-🔥" * 10,
    "</a><a href='x'>",
]


def change(
    name: str = "api",
    from_: Status = SILENT,
    to: Status = DOWN,
    seq: int = 1,
    reason: str = "no heartbeat for 1h",
    since: datetime = NOW,
    **more: Any,
) -> StatusChange:
    began = NOW - timedelta(hours=3, minutes=12)
    return StatusChange(seq, NOW, name, from_, to, since, NOW - timedelta(hours=1), reason, began, **more)


def storm(count: int, **more: Any) -> list[StatusChange]:
    return [change(f"service-{i:04}", seq=i + 1, **more) for i in range(count)]


DOUBT = Doubt(stopped=312, of=340, within=5)
WARNING = "312 of 340 services stopped within 5 s: the registry may be cut off"
DOUBTED = {"doubt": DOUBT, "reason": "no heartbeat for 1h; 312 of 340 services stopped within 5 s"}


def all_messages(pending: list[StatusChange]) -> list[OutgoingMessage]:
    found = []
    while pending:
        found.append(pack(pending, LOOK))
        pending = [it for it in pending if it.seq > found[-1].through_seq]
    return found


def test_a_fall_says_everything_that_is_known() -> None:
    message = pack([change()], LOOK)
    text = parsed(message.text)
    assert "api: silent → down" in text
    assert "since 2026-11-23 13:00:00 CET" in text
    assert "last heartbeat 2026-11-23 12:00:00 CET" in text
    assert "no heartbeat for 1h" in text
    assert '<a href="https://registry.example/ui/service/api">api</a>' in message.text
    assert not message.silent


def test_a_recovery_says_how_long_it_lasted() -> None:
    message = pack([change(from_=DOWN, to=ALIVE, reason="heartbeat")], LOOK)
    assert "was down for 3 h 12 min" in message.text
    assert (message.recoveries, message.problems, message.about) == (("api",), (), "api")


def test_a_doubt_takes_no_word_from_what_was_due() -> None:
    hint = "expected 03:00, not started; came 2 h after each expected time"
    reason = f"{hint}; 312 of 340 services stopped within 5 s, the registry may be cut off"
    text = pack([change(reason=reason, doubt=DOUBT)], LOOK).plain_text
    assert f"\n{hint}\n" in text
    assert text.count("312 of 340") == 1
    assert "no heartbeat" not in text


def test_a_failure_and_a_first_heartbeat_say_so() -> None:
    assert "reported failure" in pack([change(reason="reported failure")], LOOK).text
    assert "first heartbeat" in pack([change(from_=UNKNOWN, to=ALIVE)], LOOK).text


@pytest.mark.parametrize(
    ("from_", "to", "sounds"),
    [
        (UNKNOWN, ALIVE, False),
        (ALIVE, SILENT, False),
        (SILENT, ALIVE, False),
        (SILENT, DOWN, True),
        (ALIVE, DOWN, True),
        (UNKNOWN, DOWN, True),
        (DOWN, DEAD, True),
        (DOWN, ALIVE, True),
        (DEAD, ALIVE, True),
    ],
)
def test_what_sounds(from_: Status, to: Status, sounds: bool) -> None:
    assert change(from_=from_, to=to).is_loud is sounds
    assert pack([change(from_=from_, to=to)], LOOK).silent is not sounds


@pytest.mark.parametrize("name", NASTY)
@pytest.mark.parametrize("count", [1, 20, 100])
def test_no_name_breaks_the_markup(name: str, count: int) -> None:
    message = pack([change(name, seq=i) for i in range(1, count + 1)], LOOK)
    assert name[:127] in parsed(message.text)
    assert name[:127] in message.plain_text


@pytest.mark.parametrize("count", [1, 3, 5, 6, 40, 41, 2000])
def test_every_message_is_within_telegrams_limit(count: int) -> None:
    long, most = "🔥<&>" * 2500, 10**9
    more: dict[str, Any] = {"reason": long, "message": long, "duration": float(most)}
    more |= {"doubt": Doubt(stopped=most, of=most, within=most)}
    pending = [change("n" * 124 + f"{i:04}", seq=i + 1, **more) for i in range(count)]
    for message in all_messages(pending):
        assert units(parsed(message.text)) <= 4096 - len(REPEAT) - 1
        assert units(message.plain_text) <= 4096 - len(REPEAT) - 1


def test_two_thousand_falls_are_a_handful_of_messages_that_name_every_one_once() -> None:
    messages = all_messages(storm(2000))
    assert len(messages) <= 10
    text = "\n".join(message.text for message in messages)
    assert all(text.count(f"service-{i:04}") == 1 for i in range(2000))
    assert "more follow" in messages[0].text
    assert "silent → down" in messages[0].text
    assert not messages[0].silent


@pytest.mark.parametrize("count", [2, 5, 6, 40, 41, 300])
def test_a_part_that_is_packed_again_is_the_same_part(count: int) -> None:
    """So that a repeat after a crash repeats what was sent, and no more."""
    more = {"reason": "r" * 400, "message": "m" * 400}
    pending = [
        change("n" * 124 + f"{i:04}", seq=i + 1, doubt=DOUBT if i % 2 else None, **more) for i in range(count)
    ]
    first = pack(pending, LOOK)
    again = pack([it for it in pending if it.seq <= first.through_seq], LOOK, notes=[REPEAT])
    assert again.through_seq == first.through_seq
    assert again.text.startswith(REPEAT)


def test_what_the_heartbeat_said_is_in_its_change_in_one_line() -> None:
    for count in (1, 6):
        text = pack(storm(count, message=" disk <full>\n\non  /var "), LOOK)
        assert parsed(text.text).count("“disk <full> on /var”") == count
        assert text.plain_text.count("“disk <full> on /var”") == count
        assert "“" not in pack(storm(count, message=" \n"), LOOK).text
        long = "begin " + "x" * 300 + " the reason 😀"
        said = re.findall("“(.*)”", pack(storm(count, message=long), LOOK).text)
        assert len(said) == count
        assert all(units(it) <= 200 for it in said)
        assert all(it.startswith("begin xx") and it.endswith("xx the reason 😀") for it in said)


def test_lines_leave_out_what_was_said_before_they_leave_out_when() -> None:
    text = pack(storm(30, message="x" * 200), LOOK).plain_text
    assert "xxx" not in text
    assert text.count("since 2026-11-23 13:00:00 CET") == 30


@pytest.mark.parametrize("count", [1, 6])
def test_a_run_says_how_long_it_took(count: int) -> None:
    failed = pack(storm(count, reason="reported failure", duration=192.4), LOOK).text
    assert failed.count("after 3 min 12 s") == count
    assert ("reported failure after 3 min 12 s" if count == 1 else "failed after 3 min 12 s") in failed
    back = storm(count, from_=DOWN, to=ALIVE, reason="heartbeat", duration=0.4)
    assert pack(back, LOOK).text.count("was down for 3 h 12 min, ran 0.4 s") == count
    assert "first heartbeat, ran 3 s" in pack([change(from_=UNKNOWN, to=ALIVE, duration=3)], LOOK).text


@pytest.mark.parametrize("count", [1, 6, 60])
def test_the_doubt_is_said_once_above_everything(count: int) -> None:
    pending = storm(count, **DOUBTED)
    message = pack(pending, LOOK)
    assert message.text.startswith(f"⚠️ <b>{WARNING}</b>\n\n")
    assert message.plain_text.startswith(f"⚠️ {WARNING}\n\n")
    assert message.plain_text.count("stopped within") == 1
    assert message.doubted == NOW
    assert pack(pending, LOOK, notes=[REPEAT]).text.startswith(f"{REPEAT}\n⚠️ <b>{WARNING}")
    told = pack(pending, LOOK, doubted=NOW)
    assert WARNING not in told.text
    assert "⚠️" not in told.text
    assert ("no heartbeat for 1h; 312 of 340" in told.text) is (count == 1)
    assert told.doubted == NOW


def test_the_doubt_is_said_again_more_than_an_hour_after_the_last_change_that_had_one() -> None:
    def said(*after: timedelta) -> bool:
        pending = [change(seq=i, since=NOW + it, **DOUBTED) for i, it in enumerate(after, 1)]
        return pack(pending, LOOK, doubted=NOW).text.startswith("⚠️")

    hour, second = timedelta(hours=1), timedelta(seconds=1)
    assert not said(-second)
    assert not said(hour)
    assert said(hour + second)
    assert said(second, hour + second, second)
    assert not pack([change(reason="a; b")], LOOK).doubted
    assert "a; b" in pack([change(reason="a; b"), change("web", seq=2, **DOUBTED)], LOOK).text


def test_the_doubt_takes_its_room_from_the_changes() -> None:
    for length in range(100):
        assert units(pack(storm(25, message="x" * length, **DOUBTED), LOOK).plain_text) <= MAX_BODY


def test_the_doubt_told_is_the_newest_of_those_in_the_message() -> None:
    many = storm(400, **DOUBTED)
    pending = [*many, change("later", seq=401, since=NOW + timedelta(hours=9), **DOUBTED)]
    first = pack(pending, LOOK)
    assert first.through_seq < 401
    assert first.doubted == NOW
    grown = Doubt(stopped=339, of=340, within=9)
    assert "339 of 340" in pack([*many[:3], change(seq=9, doubt=grown)], LOOK).text.splitlines()[0]


def test_a_service_is_one_line_whatever_happened_to_it_while_it_waited() -> None:
    def passed(count: int, *path: Status) -> list[str]:
        steps = itertools.pairwise(path)
        pending = [*storm(count), *(change("web", a, b, 100 + i) for i, (a, b) in enumerate(steps))]
        lines = pack(pending, LOOK).plain_text.splitlines()
        found = [i for i, line in enumerate(lines) if "web" in line and not line.startswith("http")]
        return lines[found[0] - (count > 40) : found[0] + 2] if len(found) == 1 else [str(found)]

    head, how_long = passed(0, ALIVE, SILENT, DOWN, ALIVE)
    assert (head, how_long) == ("✅ web: alive → silent → down → alive", "was down for 3 h 12 min")
    line, *_ = passed(20, ALIVE, DOWN, ALIVE)
    assert line.startswith("✅ web alive → down → alive since")
    heading, names, *_ = passed(50, ALIVE, DOWN, ALIVE, DOWN, ALIVE, DOWN)
    assert heading.startswith("🔻 alive → … → down (5 changes) (1), since")
    assert names == "web"


def test_what_came_back_before_anybody_was_told_of_its_silence_is_not_told() -> None:
    blip = [change("blip", ALIVE, SILENT, 1), change("blip", SILENT, ALIVE, 2)]
    assert group_by_service(blip) == []
    message = pack([*blip, change("web", seq=3)], LOOK)
    assert "blip" not in message.text
    assert (message.about, message.through_seq, message.recoveries) == ("web", 3, ())
    assert len(group_by_service([change("x", ALIVE, DOWN, 1), change("x", DOWN, ALIVE, 2)])) == 1
    assert len(group_by_service([change("x", SILENT, ALIVE, 1)])) == 1


@pytest.mark.parametrize("count", [1, 6, 60])
def test_a_service_that_flaps_is_said_to(count: int) -> None:
    assert pack(storm(count, flaps=4), LOOK).text.count("🔁") == count
    assert "🔁" not in pack(storm(count), LOOK).text


def test_a_merged_message_sounds_if_any_change_does() -> None:
    soft = [change(f"s{i}", ALIVE, SILENT, i) for i in range(1, 60)]
    assert pack(soft, LOOK).silent
    assert not pack([*soft, change("d", SILENT, DOWN, 60)], LOOK).silent


def test_the_digest_is_escaped_and_silent() -> None:
    message = digest_message(["Daily <digest>", "a & b"], LOOK, 7, notes=[REPEAT])
    assert parsed(message.text).startswith(f"{REPEAT}\nDaily <digest>\na & b")
    assert message.silent
    assert message.through_seq == 7


def test_notices_say_for_how_long_and_what_became_of_it() -> None:
    still = Notice(NOW, "a<b", 1, DOWN, NOW - timedelta(hours=6))
    calm = Notice(NOW, "web", 2, ALIVE, NOW - timedelta(minutes=30), 9, NoticeKind.CALM)
    message = notice_message([still], LOOK, 7)
    assert parsed(message.text) == "🔻 a<b still down for 6 h, since 2026-11-23 07:00:00 CET"
    assert (message.silent, message.about, message.problems, message.through_seq) == (False, "a<b", (), 7)
    message = notice_message([still, calm], LOOK, 7, notes=[REPEAT])
    assert message.plain_text.splitlines()[0] == REPEAT
    assert "web has calmed down: alive since 2026-11-23 12:30:00 CET, 9 changes" in message.plain_text
    assert (message.about, message.recoveries) == (None, ("web",))


def test_notices_of_a_large_fleet_fit_and_the_rest_is_counted() -> None:
    notices = [Notice(NOW, "n" * 124 + f"{i:04}", i, DOWN, NOW - timedelta(days=1)) for i in range(3000)]
    message = notice_message(notices, LOOK, 7, notes=[REPEAT])
    assert units(parsed(message.text)) <= 4096
    assert units(message.plain_text) <= 4096
    named = message.plain_text.count("still down")
    assert named > 15
    assert f"+{3000 - named} more: " in message.plain_text


@pytest.mark.parametrize("count", range(1, 7))
def test_what_was_withheld_fits_however_much_it_has_to_say(count: int) -> None:
    names = [f"{n}" + "n" * 127 for n in range(count)]
    notices = [Notice(NOW, name, 1, DOWN, NOW, kind=NoticeKind.OWED) for name in names]
    falls = {
        name: change(name, ALIVE, DOWN, reason="r" * 900, message="m" * 1_000, duration=9.5) for name in names
    }
    message = notice_message(notices, LOOK, 1, falls)
    assert max(units(parsed(message.text)), units(message.plain_text)) <= 4096
    assert all(name in message.plain_text for name in names)


def test_what_was_owed_of_a_large_fleet_is_named_in_several_messages() -> None:
    names = [f"{'n' * 30}-{i:04}" for i in range(1000)]
    waiting = [
        Notice(NOW, name, i, DOWN if i % 3 else DEAD, NOW, kind=NoticeKind.OWED)
        for i, name in enumerate(names)
    ]
    named: list[str] = []
    while waiting:
        message = notice_message(waiting, LOOK, 7, notes=[REPEAT, late_note(NOW, LOOK)])
        assert units(parsed(message.text)) <= 4096
        assert message.notices == tuple(waiting[: len(message.notices)])
        assert all(it.name in message.plain_text for it in message.notices)
        named += [it.name for it in message.notices]
        waiting = waiting[len(message.notices) :]
    assert named == names
