"""What `registry plan --since` prints."""

from typing import Any

import pytest

from services.cli import replays

PAIR = {
    "status": "silent",
    "last_heartbeat": None,
    "was": "2026-11-01T03:15:00Z",
    "would": None,
    "later_by": None,
}
MOVED = PAIR | {"status": "down", "would": "2026-11-01T03:30:00Z", "later_by": 900.0}


def answer(**more: Any) -> dict[str, Any]:
    return {
        "since": "2026-10-25T00:00:00Z",
        "until": "2026-11-24T00:00:00Z",
        "services": 2,
        "changed": 1,
        "falls": {"was": 3, "would": 2},
        "messages": {"was": 7, "would": 5},
        "differences": [],
        "more_differences": 0,
        "unknown": [],
        "more_unknown": 0,
        **more,
    }


def test_each_fall_is_a_line_with_who_was_told_and_what_else_was(capsys: pytest.CaptureFixture[str]) -> None:
    told = [PAIR | {"channel": channel, "what": "change"} for channel in ("ops", "boss")]
    reminder = MOVED | {"channel": "ops", "what": "reminder", "was": None, "later_by": None}
    differs = {"service": "web", "falls": [PAIR, MOVED], "messages": [*told, reminder]}
    unknown = {
        "service": "db",
        "known_since": "2026-11-20T00:00:00Z",
        "why": "shorter pauses",
    }
    replays.show(answer(differences=[differs], unknown=[unknown]))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "SERVICE WHAT WAS WOULD HAVE BEEN TOLD TO",
        "web silent 2026-11-01 03:15:00Z - gone boss, ops",
        "web down 2026-11-01 03:15:00Z 2026-11-01 03:30:00Z 15 min later",
        "web down, reminder - 2026-11-01 03:30:00Z new ops",
        "2026-10-25 00:00:00Z to 2026-11-24 00:00:00Z, 1 services changed: "
        "3 falls, 2 with this file; 7 messages, 5 with this file",
        "not all is known, as shorter pauses: db (known since 2026-11-20 00:00:00Z)",
    ]


def test_that_nothing_differs_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    replays.show(answer())
    assert capsys.readouterr().out.startswith("Nothing else would have been told.\n")


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        (PAIR, "gone"),
        (PAIR | {"was": None, "would": PAIR["was"]}, "new"),
        (MOVED, "15 min later"),
        (MOVED | {"later_by": -90.5}, "1 min 30 s earlier"),
        (MOVED | {"later_by": 0.0}, "same time"),
    ],
)
def test_by_how_much(pair: dict[str, Any], words: str) -> None:
    assert replays.moved(pair) == words
