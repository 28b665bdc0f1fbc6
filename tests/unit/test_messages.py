"""What people read: nothing in it can break the markup, nothing is too long, every service is named."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from services.notifier.messages import REPEAT, Change, Look, Message, digest_message, loud, pack, units
from shared.events import Status
from tests.telegram_standin import parsed

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
LOOK = Look("https://registry.example", ZoneInfo("Europe/Berlin"))
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
) -> Change:
    heard = NOW - timedelta(hours=1)
    return Change(seq, NOW, name, from_, to, NOW, heard, reason, NOW - timedelta(hours=3, minutes=12))


def storm(count: int) -> list[Change]:
    return [change(f"service-{i:04}", seq=i + 1) for i in range(count)]


def all_messages(pending: list[Change]) -> list[Message]:
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
    assert (message.risen, message.fallen, message.about) == (("api",), (), "api")


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
    assert loud(change(from_=from_, to=to)) is sounds
    assert pack([change(from_=from_, to=to)], LOOK).silent is not sounds


@pytest.mark.parametrize("name", NASTY)
@pytest.mark.parametrize("count", [1, 20, 100])
def test_no_name_breaks_the_markup(name: str, count: int) -> None:
    message = pack([change(name, seq=i) for i in range(1, count + 1)], LOOK)
    assert name[:127] in parsed(message.text)
    assert name[:127] in message.plain_text


@pytest.mark.parametrize("count", [1, 3, 5, 6, 40, 41, 2000])
def test_every_message_is_within_telegrams_limit(count: int) -> None:
    reason = "🔥<&>" * 2500
    pending = [change("n" * 124 + f"{i:04}", seq=i + 1, reason=reason) for i in range(count)]
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
    pending = [change("n" * 124 + f"{i:04}", seq=i + 1, reason="r" * 400) for i in range(count)]
    first = pack(pending, LOOK)
    again = pack([it for it in pending if it.seq <= first.through_seq], LOOK, repeat=True)
    assert again.through_seq == first.through_seq
    assert again.text.startswith(REPEAT)


def test_in_a_storm_the_changes_of_one_service_stay_in_order() -> None:
    pending = storm(50)
    pending += [change("service-0001", DOWN, ALIVE, 51), change("service-0001", ALIVE, SILENT, 52)]
    pending += [change("service-0001", SILENT, DOWN, 53), change("other", SILENT, DOWN, 54)]
    lines = pack(pending, LOOK).plain_text.splitlines()
    order = [lines[i - 1] for i, line in enumerate(lines) if "service-0001" in line]
    assert [line.split(" (")[0][2:] for line in order] == [
        "silent → down",
        "down → alive",
        "alive → silent",
        "silent → down",
    ]


def test_a_merged_message_sounds_if_any_change_does() -> None:
    soft = [change(f"s{i}", ALIVE, SILENT, i) for i in range(1, 60)]
    assert pack(soft, LOOK).silent
    assert not pack([*soft, change("d", SILENT, DOWN, 60)], LOOK).silent


def test_the_digest_is_escaped_and_silent() -> None:
    message = digest_message(["Daily <digest>", "a & b"], LOOK, 7, repeat=True)
    assert parsed(message.text).startswith(f"{REPEAT}\nDaily <digest>\na & b")
    assert message.silent
    assert message.through_seq == 7
