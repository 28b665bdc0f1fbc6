"""When messages come, with all services as processes: which second, which chat, and nothing else."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker import eventually
from tests.e2e.system import System
from tests.telegram_standin import Standin


@pytest.fixture
def telegram() -> Iterator[Standin]:
    with Standin(chats=("42", "43")) as standin:
        yield standin


async def test_every_message_has_its_second(tmp_path: Path, telegram: Standin) -> None:
    """Silent after 3 s, down after 6 s, judged every 0.2 s."""
    system = System(tmp_path, telegram, silent_after="3s", down_after="6s", remind_after="2s,1d")
    try:
        system.start()
        assert system.http.post(system.url("api", "/service"), json={"name": "web"}).status_code == 201
        await asyncio.sleep(0.5)
        began = time.time()
        assert system.beat("web") == 200

        async def reminded() -> bool:
            return len(telegram.messages) >= 4

        await eventually(reminded)
        back = time.time()
        assert system.beat("web") == 200

        async def recovered() -> bool:
            return len(telegram.messages) >= 5

        await eventually(recovered)
        await asyncio.sleep(1)  # in which nothing more comes
        found = [
            (it["chat"], it["text"].splitlines()[0].split(",")[0], it["silent"], it["time"] - began)
            for it in telegram.messages
        ]
        assert [it[:3] for it in found] == [
            ("42", "✅ web: unknown → alive", True),
            ("42", "⏳ web: alive → silent", True),
            ("42", "🔻 web: silent → down", False),
            ("42", "🔻 web still down for 2 s", False),
            ("42", "✅ web: down → alive", False),
        ]
        due = [0, 3, 6, 8, back - began]
        late = [at - expected for (*_, at), expected in zip(found, due, strict=True)]
        assert min(late) >= 0, late
        assert max(late) < 1.3, late
        fall, reminder, recovery = (telegram.messages[n] for n in (2, 3, 4))
        assert reminder["reply_to"] == recovery["reply_to"] == fall["message_id"]
    finally:
        system.stop()
