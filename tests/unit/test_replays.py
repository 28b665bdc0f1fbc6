"""The process that a replay is asked of: its answer is passed on, and its end is told in words. The processes
are real, but say what these tests want."""

import asyncio
import sys
from collections.abc import Callable

import pytest

from services.api.as_code import replaying
from services.api.as_code.replaying import Replays
from shared.contracts.replays import Asked
from shared.http.problems import Problem

ASKED = Asked(since=1)


Answers = Callable[[str], None]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    def instead(program: str) -> None:
        monkeypatch.setattr(replaying, "COMMAND", (sys.executable, "-c", program))

    return instead


async def test_what_is_asked_is_read_and_what_is_answered_passed_on(answers: Answers) -> None:
    answers("import sys; sys.stdout.write(sys.stdin.read())")
    assert Asked.model_validate_json(await Replays().answer(ASKED)) == ASKED


@pytest.mark.parametrize(
    ("program", "why"),
    [("raise MemoryError", "needs more memory"), ("raise OSError", "it failed"), ("1/0", "it failed")],
)
async def test_one_that_fails_is_told_in_words(answers: Answers, program: str, why: str) -> None:
    answers(program)
    with pytest.raises(Problem, match=why) as refused:
        await Replays().answer(ASKED)
    assert refused.value.status == 503


async def test_one_that_takes_too_long_is_ended(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    answers("import time; time.sleep(600)")
    monkeypatch.setattr(replaying, "TIME_MAX", 0.2)
    replays = Replays()
    with pytest.raises(Problem, match="longer than") as refused:
        await replays.answer(ASKED)
    assert refused.value.status == 503
    answers("pass")
    assert await replays.answer(ASKED) == b""


async def test_of_two_at_once_the_second_is_to_come_again(answers: Answers) -> None:
    answers("import sys; sys.stdout.write(sys.stdin.read())")
    replays = Replays()
    first = asyncio.create_task(replays.answer(ASKED))
    await asyncio.sleep(0)
    with pytest.raises(Problem, match="another replay") as refused:
        await replays.answer(ASKED)
    assert refused.value.status == 429
    assert await first
