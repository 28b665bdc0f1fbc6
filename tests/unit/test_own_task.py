"""In Python 3.11 a TaskGroup that fails while it waits leaves a cancellation behind, which is nobody's."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from shared.messaging.connection import in_own_task
from shared.messaging.record_watch import RecordWatch


async def fails() -> None:
    async def later() -> None:
        await asyncio.sleep(0)
        raise ValueError

    async with asyncio.TaskGroup() as group:
        group.create_task(later())


def is_left_alone() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() == 0


async def test_what_has_failed_leaves_no_cancellation_behind() -> None:
    with pytest.raises(ExceptionGroup):
        await in_own_task(fails())
    assert is_left_alone()


async def test_what_fails_on_one_record_leaves_none_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    link: Any = SimpleNamespace(on_back=[], on_doubt=[])
    watch = RecordWatch(link)
    for name in ("_begin", "_found_now"):
        monkeypatch.setattr(watch, name, lambda: asyncio.sleep(0))
    monkeypatch.setattr(watch, "_watch", asyncio.Event().wait)
    with pytest.raises(ExceptionGroup):
        await watch.once(fails)
    assert is_left_alone()


async def test_who_waits_for_it_may_be_cancelled_and_so_is_it() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.create_task(in_own_task(work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended.is_set()
