import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from services.cli import app as cli
from services.cli import remote
from shared.telemetry.visible import visible, visible_lines

ACTING = {"Cc", "Cs", "Zl", "Zp"}


@given(st.text(st.characters(codec=None)) | st.text("\x1b\x9b\n\r\t\x7f\u202e\u2066 ab"))
def test_nothing_that_acts_is_left_and_all_else_is_as_it_was(text: str) -> None:
    shown = visible(text)
    assert not {unicodedata.category(it) for it in shown} & ACTING
    assert not re.search("[\u200e\u200f\u202a-\u202e\u2066-\u2069]", shown)
    shown.encode()
    assert all(it in shown for it in text if it.isprintable())
    assert visible_lines(text, "  ").count("\n") == text.count("\n")


def test_what_it_looks_like() -> None:
    assert visible("\x1b[2J\tü 👩‍💻\r\n\x9b1m") == "\\x1b[2J\\tü 👩‍💻\\r\\n\\x9b1m"
    assert visible_lines("one\n\x1btwo", "    ") == "one\n    \\x1btwo"


@pytest.mark.parametrize("line", [["status", "web"], ["services"], ["runs", "web"], ["rebuild"]])
def test_the_command_line_prints_nothing_that_acts(line: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    evil = "\x1b[2J\x1b]0;owned\x07\n\x9b31m"
    item = {
        "name": evil,
        "status": evil,
        "last_heartbeat": evil,
        "paused": False,
        "description": evil,
        "registered_at": evil,
        **dict.fromkeys(("since", "started_at", "outcome", "exit_code", "run", "unusual", "message"), evil),
        **dict.fromkeys(("duration", "late_by")),
        evil: [evil],
    }

    async def rebuilt(_: object) -> dict[str, str]:
        return {"error": evil}

    answer = {**item, "items": [item], "next": None}
    monkeypatch.setattr(remote, "ask", lambda *_, **__: answer)
    monkeypatch.setattr(cli, "_rebuild", rebuilt)
    said = CliRunner().invoke(cli.app, line).output
    assert "\\x1b]0;owned" in said or "\\u001b]0;owned" in said
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", said)
