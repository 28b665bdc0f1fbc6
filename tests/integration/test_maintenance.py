"""Maintenance as people notice it: what is not sent within a window, and what is when it ends."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from shared.contracts.events import Status
from shared.contracts.maintenance import Window
from shared.messaging import streams
from shared.messaging.stored_config import window_name
from tests.broker import configure
from tests.integration.test_notifier import (
    NotificationLog,
    Start,
    record,
    start,
    telegram,
    texts,
    told,
)
from tests.telegram_standin import Standin

UNKNOWN, ALIVE, SILENT, DOWN, DEAD = Status


async def window(record: NotificationLog, id_: str, begins: float, ends: float, **more: Any) -> None:
    now = datetime.now(UTC)
    span = {"starts_at": now + timedelta(seconds=begins), "ends_at": now + timedelta(seconds=ends)}
    value = Window(**span, **more).model_dump(mode="json", exclude_defaults=True)
    await configure(record.link.js, window_name(id_), value)


async def test_a_fall_within_is_not_told_until_the_end(
    record: NotificationLog,
    telegram: Standin,
    start: Start,
) -> None:
    await record.register("web")
    await window(record, "w", -60, 600, services=["web"])
    process = start()
    await record.change("web", ALIVE, SILENT)
    await record.change("web", SILENT, DOWN)
    await record.change("other", ALIVE, DOWN)
    await told(telegram, "other")
    await record.settled()
    process.kill()
    process = start()
    await asyncio.sleep(1)
    assert not [text for text in texts(telegram) if "web" in text], "told within the window"
    await window(record, "w", -60, 1, services=["web"])
    await told(telegram, "web: alive → down")
    await record.settled()
    process.kill()
    start()
    await record.change("web", DOWN, ALIVE)
    await told(telegram, "down → alive")
    about = [text for text in texts(telegram) if "web" in text]
    assert len(about) == 2
    assert "alive" in about[1]


async def test_what_recovers_within_is_never_mentioned(
    record: NotificationLog,
    telegram: Standin,
    start: Start,
) -> None:
    await record.register("web", tags=("nightly",))
    await window(record, "w", -60, 600, tags=["nightly"])
    start()
    await record.change("web", ALIVE, SILENT)
    await record.change("web", SILENT, DOWN)
    await record.change("web", DOWN, ALIVE)
    await record.change("within", ALIVE, DOWN)
    await told(telegram, "within")
    await window(record, "w", -60, 1, tags=["nightly"])
    await asyncio.sleep(3)
    await record.change("after", ALIVE, DOWN)
    await told(telegram, "after")
    assert not [text for text in texts(telegram) if "web" in text]


async def test_the_recovery_of_a_fall_that_was_told_is_told(
    record: NotificationLog,
    telegram: Standin,
    start: Start,
) -> None:
    await record.register("web")
    start(remind_after="4s,1d")
    await record.change("web", SILENT, DOWN)
    await told(telegram, "web")
    await window(record, "w", -0.01, 60, services=["web"])
    await asyncio.sleep(5)
    assert len(texts(telegram)) == 1, "a reminder within the window"
    await record.change("web", DOWN, ALIVE)
    await told(telegram, "down → alive")


async def test_a_window_taken_back_tells_at_once(
    record: NotificationLog,
    telegram: Standin,
    start: Start,
) -> None:
    await record.register("web")
    await window(record, "w", -60, 600, services=["web"])
    await record.link.js.publish(streams.configuration(window_name("noise")), b"{")
    start()
    await record.change("web", SILENT, DOWN)
    await record.change("other", ALIVE, DOWN)
    await told(telegram, "other")
    await configure(record.link.js, window_name("w"), None)
    await told(telegram, "web: silent → down", within=15)


async def test_again_and_again_by_cron(
    record: NotificationLog,
    telegram: Standin,
    start: Start,
) -> None:
    await record.register("web")
    every_minute = Window(services=("web",), cron="* * * * *", duration=timedelta(minutes=2))
    await configure(record.link.js, window_name("w"), every_minute.model_dump(mode="json"))
    start()
    await record.change("web", SILENT, DOWN)
    await record.change("other", ALIVE, DOWN)
    await told(telegram, "other")
    assert not [text for text in texts(telegram) if "web" in text]
