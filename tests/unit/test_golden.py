"""The texts as they arrive, word for word: `tests/golden/*.txt`. `GOLDEN=write` makes them anew, to be read.

Each file is what a person sees (after Telegram's parsing), with `🔔` or `🔕` above it for its sound.
"""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from services.notifier.alerting.changes import Notice, NoticeKind, StatusChange
from services.notifier.texts.changes import changes_message as pack
from services.notifier.texts.message import REPEAT, LinkContext, OutgoingMessage, digest_message, late_note
from services.notifier.texts.notices import notice_message
from shared.contracts.events import Doubt, Outcome, Status, micros
from shared.domain.digest import WEEK, digest, lines, weekly_lines
from shared.domain.service_state import ServiceState
from shared.domain.timeline import Mark
from tests.histories import state_of
from tests.telegram_standin import parsed

FOLDER = Path(__file__).parent.parent / "golden"
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
LOOK = LinkContext("https://registry.example", ZoneInfo("Europe/Berlin"))
UNKNOWN, ALIVE, SILENT, DOWN, DEAD = Status


def change(name: str, from_: Status, to: Status, seq: int = 1, ago: float = 0, **more: Any) -> StatusChange:
    since = NOW - timedelta(minutes=ago)
    last = since if to is ALIVE else since - timedelta(hours=1)
    began = None if from_ is UNKNOWN else since - timedelta(minutes=47)
    given = {"reason": "heartbeat" if to is ALIVE else "no heartbeat for 1h", **more}
    return StatusChange(seq, NOW, name, from_, to, since, last, began=began, **given)


def states(count: int) -> tuple[list[ServiceState], dict[str, list[Mark]]]:
    """Every tenth is down, every fifteenth silent; the fourth flaps."""
    services, marks = [], {}
    registered_at = micros(NOW - timedelta(days=30))
    for n in range(count):
        status = DOWN if n % 10 == 1 else SILENT if n % 15 == 2 else ALIVE
        name, since = f"service-{n:04}", micros(NOW - timedelta(hours=1 + n % 20))
        services.append(state_of(name, status, since, registered_at, paused=n == 5))
        if status is not ALIVE:
            marks[name] = [Mark(n, since, status, ALIVE)]
    for n in range(5):
        from_, to = (ALIVE, DOWN) if n % 2 else (DOWN, ALIVE)
        at = micros(NOW - timedelta(minutes=90 - n))
        marks.setdefault("service-0003", []).append(Mark(count + n, at, to, from_))
    return services, marks


def digests(count: int, **runs: int) -> OutgoingMessage:
    services, marks = states(count)
    ended = {Outcome(outcome): number for outcome, number in runs.items()}
    return digest_message(lines(digest(services, marks, NOW, runs=ended), LOOK.zone), LOOK, 1)


def weekly(count: int) -> OutgoingMessage:
    services, marks = states(count)
    return digest_message(weekly_lines(digest(services, marks, NOW, WEEK, each=True), LOOK.zone), LOOK, 1)


def storm(count: int) -> list[StatusChange]:
    falls = [change(f"service-{n:04}", SILENT, DOWN, n, ago=n % 3) for n in range(count)]
    return [*falls, *(change(f"service-{n:04}", DOWN, ALIVE, count + n) for n in range(0, count, 9))]


def notice(kind: NoticeKind, status: Status, ago: float, name: str = "web", **more: Any) -> Notice:
    since, began = NOW - timedelta(minutes=ago), NOW - timedelta(hours=6)
    return Notice(NOW, name, 1, status, since, kind=kind, flapping_since=began, **more)


FAILED = {"reason": "reported failure (exit code 3)", "message": "disk <full> on /var & more"}
NOT_STARTED = {"reason": "expected 03:00, not started"}
HINT = "came 2 h after each expected time, three times in a row: is the time zone right?"
WRONG_ZONE = {"reason": f"expected 03:00, not started; {HINT}"}
NOT_ENDED = {"reason": "the run that began Mon 03:00 has not ended within 2h"}
DOUBT = {"doubt": Doubt(stopped=312, of=340, within=5)}
TEXTS: dict[str, OutgoingMessage] = {
    "first-heartbeat": pack([change("web", UNKNOWN, ALIVE)], LOOK),
    "silent": pack([change("web", ALIVE, SILENT)], LOOK),
    "down": pack([change("web", SILENT, DOWN)], LOOK),
    "dead": pack([change("web", DOWN, DEAD)], LOOK),
    "recovered": pack([change("web", DOWN, ALIVE)], LOOK),
    "failed": pack([change("backup", ALIVE, DOWN, duration=192.4, **FAILED)], LOOK),
    "run-recovered": pack([change("backup", DOWN, ALIVE, duration=75)], LOOK),
    "not-started": pack([change("backup", ALIVE, SILENT, **NOT_STARTED)], LOOK),
    "wrong-zone": pack([change("backup", SILENT, DOWN, **WRONG_ZONE)], LOOK),
    "not-ended": pack([change("backup", ALIVE, DOWN, **NOT_ENDED)], LOOK),
    "six-due": pack(
        [
            change(f"job-{n}", SILENT, DOWN, n, **(NOT_ENDED if n == 2 else {} if n == 4 else WRONG_ZONE))
            for n in range(6)
        ],
        LOOK,
    ),
    "flapping": pack([change("web", DOWN, ALIVE, flaps=4)], LOOK),
    "flapping-down": pack([change("web", ALIVE, DOWN, flaps=4)], LOOK),
    "flapping-and-back": pack([change("web", DOWN, ALIVE, still_flaps=True)], LOOK),
    "fell-and-recovered": pack([change("web", ALIVE, DOWN), change("web", DOWN, ALIVE, 2)], LOOK),
    "three": pack([change(name, SILENT, DOWN, n) for n, name in enumerate(("a&b", "<b>", "_*[]()"))], LOOK),
    "eight": pack([change(f"service-{n}", SILENT, DOWN, n) for n in range(8)], LOOK),
    "storm": pack(storm(90), LOOK),
    "doubt": pack([change(name, ALIVE, SILENT, n, **DOUBT) for n, name in enumerate(("web", "api"))], LOOK),
    "repeat": pack([change("web", SILENT, DOWN)], LOOK, notes=[REPEAT]),
    "long-name-and-message": pack([change("n" * 128, ALIVE, DOWN, message="x" * 10_000)], LOOK),
    "reminder": notice_message([Notice(NOW, "web", 1, DOWN, NOW - timedelta(hours=6))], LOOK, 1),
    "calmed-down": notice_message([notice(NoticeKind.CALM, ALIVE, 30, flapped=9)], LOOK, 1),
    "stays-down": notice_message([notice(NoticeKind.STAYS, DOWN, 5, flapped=9)], LOOK, 1),
    "still-flapping": notice_message([notice(NoticeKind.FLAPS, DOWN, 5, flapped=37)], LOOK, 1),
    "owed": notice_message(
        [notice(NoticeKind.OWED, DOWN, 95), notice(NoticeKind.OWED, ALIVE, 5, "job")], LOOK, 1
    ),
    "withheld": notice_message(
        [
            notice(NoticeKind.OWED, DOWN, 95),
            notice(NoticeKind.OWED, ALIVE, 5, "job"),
            notice(NoticeKind.OWED, DOWN, 9, "told"),
        ],
        LOOK,
        1,
        {
            "web": change("web", ALIVE, DOWN, ago=95, **FAILED),
            "job": change("job", DOWN, ALIVE, ago=5, reason=""),
        },
    ),
    "withheld-of-six": notice_message(
        [notice(NoticeKind.OWED, DOWN, 9, f"job-{n}") for n in range(6)],
        LOOK,
        1,
        {f"job-{n}": change(f"job-{n}", ALIVE, DOWN, ago=9) for n in range(6)},
    ),
    "owed-by-many": notice_message(
        [notice(NoticeKind.OWED, DOWN, 9, f"job-{n}") for n in range(50)], LOOK, 1
    ),
    "late": pack([change("web", SILENT, DOWN)], LOOK, notes=[late_note(NOW - timedelta(hours=3), LOOK)]),
    "digest-of-3": digests(3),
    "digest-of-3000": digests(3000),
    "digest-with-runs": digests(3, missed=1, success=41, failure=2),
    "digest-of-the-week": weekly(40),
}


@pytest.mark.parametrize("name", TEXTS)
def test_the_text_is_word_for_word(name: str) -> None:
    message, file = TEXTS[name], FOLDER / f"{name}.txt"
    seen = f"{'🔕' if message.silent else '🔔'}\n{parsed(message.text)}\n"
    if os.environ.get("GOLDEN") == "write":
        file.write_text(seen)
    assert seen == file.read_text()


def test_no_text_is_left_over() -> None:
    assert {file.stem for file in FOLDER.glob("*.txt")} == set(TEXTS)
