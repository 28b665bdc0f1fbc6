"""That the registry was deaf, as people are told: the notifier as a process, with real ticks and broker."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from shared.contracts.events import Status
from shared.messaging import streams
from tests import impatient_notifier
from tests.broker import Ticks, eventually, iso
from tests.integration.test_notifier import NotificationLog, Start, record, start, telegram, texts, told
from tests.servers import Process
from tests.telegram_standin import Standin

UNKNOWN, ALIVE, SILENT, DOWN, DEAD = Status
IMPATIENT = [impatient_notifier.__file__]
CHATS = {"telegram_chat_id": "42,43"}
LASTS, OVER, AWAY = "takes no heartbeats since", "takes heartbeats again", "broker cannot be reached since"


async def about(telegram: Standin, *what: str) -> None:
    """Every chat was told this, each once, in this order, and nothing else."""

    async def there() -> bool:
        return all(len(texts(telegram, chat)) >= len(what) for chat in ("42", "43"))

    await eventually(there)
    for chat in ("42", "43"):
        found = texts(telegram, chat)
        assert [said in text for said, text in zip(what, found, strict=True)] == [True] * len(what), found


async def test_deafness_and_its_end_are_told_once_whoever_restarts(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    js = record.link.js
    process = start(command=IMPATIENT, **CHATS)
    async with Ticks(js):
        await asyncio.sleep(0.5)
    await about(telegram, LASTS)
    await record.settled()
    process.kill()
    process = start(command=IMPATIENT, **CHATS)
    async with Ticks(js):
        await about(telegram, LASTS, OVER)
        await record.settled()
        process.kill()
        start(command=IMPATIENT, **CHATS)
        await record.change("web", ALIVE, DOWN)
        await about(telegram, LASTS, OVER, "web")


async def test_the_broker_is_away_and_that_is_told_meanwhile_and_once(
    record: NotificationLog, telegram: Standin, start: Start, nats: Process
) -> None:
    process = start(command=IMPATIENT, **CHATS)
    async with Ticks(record.link.js):
        await asyncio.sleep(0.5)
    nats.kill()
    await about(telegram, AWAY)
    await asyncio.to_thread(nats.start)
    async with Ticks(record.link.js):
        await about(telegram, AWAY, OVER)
        await record.settled()
        process.kill()
        start(command=IMPATIENT, **CHATS)
        await record.change("web", ALIVE, DOWN)
        await about(telegram, AWAY, OVER, "web")


async def tick(js: Any, instance: str, since: datetime, until: datetime | None = None) -> None:
    """Proves what is between."""
    content = {"open_since": iso(since)}
    if until:
        content |= {"open_until": iso(until), "sent_at": iso(until)}
    await js.publish(streams.tick(instance), json.dumps(content).encode())


async def test_a_night_off_is_told_once_and_a_first_start_tells_nothing(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    now = datetime.now(UTC)
    await tick(record.link.js, "evening", now - timedelta(hours=12), now - timedelta(hours=9))
    await tick(
        record.link.js, "blink", now - timedelta(hours=9) + timedelta(minutes=4), now - timedelta(hours=8)
    )
    await tick(record.link.js, "morning", now - timedelta(minutes=1))
    start().stop()
    assert telegram.messages == []
    bucket = await record.link.js.key_value(streams.NOTIFIER_BUCKET)
    cursor = json.loads((await bucket.get("telegram.42")).value or b"")
    cursor |= {"heard_until": iso(now - timedelta(hours=10))}
    await bucket.put("telegram.42", json.dumps(cursor).encode())
    for _ in range(2):
        process = start()
        (text,) = await told(telegram, OVER)
        await record.settled()
        process.kill()
    assert "(7 h 59 min): nobody was evaluated for that time" in text
