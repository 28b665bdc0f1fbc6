"""Made-up fleets with a past, written into the streams as monitor and ingest would have."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from shared.contracts import ping_keys
from shared.contracts.events import (
    ConfigData,
    Outcome,
    RunData,
    ServiceConfig,
    ServiceRegistered,
    Status,
    StatusData,
    Tick,
    event_id,
    micros,
    run_recorded,
    status_changed,
)
from shared.messaging import streams
from shared.messaging.publisher import Publisher

UNKNOWN, ALIVE, SILENT, DOWN, DEAD = Status


class Past(NamedTuple):
    """A service: when it was registered, and to what it changed when, oldest first."""

    name: str
    registered_at: datetime
    changes: list[tuple[datetime, Status, str]]
    tags: tuple[str, ...] = ()
    description: str = ""
    schedule: str | None = None
    time_zone: str | None = None
    runs: tuple[RunData, ...] = ()


async def heard_since(publisher: Publisher, since: datetime) -> None:
    """Prove that heartbeats could have been stored since then."""
    payload = Tick(open_since=since).model_dump_json().encode()
    await publisher.publish(streams.tick("of-old"), payload)


async def write(publisher: Publisher, fleet: list[Past]) -> None:
    async def one(it: Past) -> None:
        config = ServiceConfig(
            tags=it.tags, description=it.description, schedule=it.schedule, time_zone=it.time_zone
        )
        registered = ServiceRegistered(
            id=event_id(it.name, "registered"),
            source="/monitor",
            subject=it.name,
            time=it.registered_at,
            data=ConfigData(
                config=config,
                registered_at=it.registered_at,
                registered_by="heartbeat",
                ping_key=ping_keys.new(),
            ),
        )
        await publisher.append(
            streams.config(it.name),
            registered.to_bytes(),
            after=0,
            event_id=registered.id,
            kind=registered.type,
        )
        was, after, heard = UNKNOWN, 0, it.registered_at
        for since, to, reason in it.changes:
            if to in (ALIVE, SILENT):
                heard = since if to is ALIVE else since - timedelta(minutes=15)
            data = StatusData(from_=was, to=to, since=since, last_heartbeat=heard, reason=reason)
            event = status_changed(it.name, data)
            ack = await publisher.append(
                streams.status(it.name), event.to_bytes(), after=after, event_id=event.id, kind=event.type
            )
            was, after = to, ack.seq
        for run in it.runs:
            at = run.ended_at or run.expected_at or run.started_at or it.registered_at
            await publisher.publish(streams.run(it.name), run_recorded(it.name, run, at).to_bytes())

    for start in range(0, len(fleet), 500):
        await asyncio.gather(*map(one, fleet[start : start + 500]))


def calm(name: str, now: datetime, **more: object) -> Past:
    """It has been alive all along."""
    return Past(name, now - timedelta(days=100), [(now - timedelta(days=100), ALIVE, "heartbeat")], **more)  # type: ignore[arg-type]


def fallen(name: str, now: datetime, to: Status, ago: timedelta, **more: object) -> Past:
    """It fell that long ago, step by step."""
    fell = now - ago
    steps = {
        SILENT: [(fell, SILENT, "no heartbeat for 15m")],
        DOWN: [
            (fell - timedelta(minutes=45), SILENT, "no heartbeat for 15m"),
            (fell, DOWN, "no heartbeat for 1h"),
        ],
        DEAD: [
            (fell - timedelta(days=7), SILENT, "no heartbeat for 15m"),
            (fell - timedelta(days=6, hours=23), DOWN, "no heartbeat for 1h"),
            (fell, DEAD, "no heartbeat for 7d"),
        ],
    }[to]
    began = now - timedelta(days=100)
    return Past(name, began, [(began, ALIVE, "heartbeat"), *steps], **more)  # type: ignore[arg-type]


def a_bad_month(name: str, now: datetime, seed: int = 1) -> Past:
    """It falls again and again, and is alive in the end."""
    chance = random.Random(seed)
    at = now - timedelta(days=30)
    began = now - timedelta(days=80)
    changes = [(began, ALIVE, "heartbeat")]
    while True:
        at += timedelta(hours=chance.uniform(6, 60))
        lasts = timedelta(hours=chance.choice([0.3, 0.5, 2, 5, 14]))
        if at + lasts + timedelta(hours=2) > now:
            return Past(name, began, changes, ("billing", "nightly"), "Sends the invoices every night.")
        changes.append((at, SILENT, "no heartbeat for 15m"))
        if lasts > timedelta(minutes=45):
            changes.append((at + timedelta(minutes=45), DOWN, "no heartbeat for 1h"))
        changes.append((at + lasts, ALIVE, "heartbeat"))
        at += lasts


def nightly(name: str, now: datetime, seed: int = 1, **more: object) -> Past:
    """Due every night at three; mostly it comes, and takes a quarter of an hour."""
    chance, runs = random.Random(seed), []
    last = (now - timedelta(hours=3)).replace(hour=3, minute=0, second=0, microsecond=0)
    for day in reversed(range(95)):
        due = last - timedelta(days=day)
        late = timedelta(seconds=chance.choice([2, 3, 5, 40] * 9 + [45 * 60]))
        took = timedelta(minutes=chance.uniform(12, 15))
        runs.append(_run(due, late, took, chance.choice([Outcome.SUCCESS] * 24 + [Outcome.FAILURE])))
        if day in (8, 30):
            runs[-1] = RunData(key=str(micros(due)), outcome=Outcome.MISSED, expected_at=due)
    short = _run(last - timedelta(days=2), timedelta(seconds=3), timedelta(seconds=3))
    runs[-3] = short.model_copy(update={"unusual": "took 3 s, usually 12 to 15 min"})
    return calm(name, now, schedule="0 3 * * *", runs=tuple(runs), **more)


def _run(due: datetime, late: timedelta, took: timedelta, outcome: Outcome = Outcome.SUCCESS) -> RunData:
    failed = {"exit_code": 3, "message": "no space left on device"} if outcome is Outcome.FAILURE else {}
    return RunData(
        key=str(micros(due)),
        outcome=outcome,
        started_at=due + late,
        ended_at=due + late + took,
        duration=took.total_seconds(),
        expected_at=due,
        late_by=late.total_seconds(),
        **failed,
    )


NAMES = (
    "billing.worker", "billing.invoices", "web.shop", "web.checkout", "web.admin", "search.indexer",
    "search.api", "mail.sender", "mail.bounces", "auth.login", "auth.tokens", "backup.nightly",
    "backup.offsite", "cron.cleanup", "etl.orders", "etl.customers", "etl.stock", "stock.sync",
    "shipping.labels", "shipping.tracking", "pay.gateway", "pay.refunds", "report.daily",
    "report.weekly", "sensor.hall-1", "sensor.hall-2", "sensor.roof", "n8n.leads", "n8n.crm-sync",
    "bot.support", "bot.ops", "cache.warmer", "cdn.purge", "db.vacuum", "db.replica", "logs.shipper",
    "logs.rotate", "metrics.push", "queue.mailer", "queue.thumbs",
)  # fmt: skip


def forty(now: datetime) -> list[Past]:
    """2 down, 1 silent, the rest alive."""
    fleet = [calm(name, now, tags=(name.partition(".")[0],)) for name in NAMES]
    fleet[11] = fallen("backup.nightly", now, DOWN, timedelta(hours=3, minutes=12), tags=("backup",))
    fleet[20] = fallen("pay.gateway", now, DOWN, timedelta(minutes=6), tags=("pay", "critical"))
    fleet[17] = fallen("stock.sync", now, SILENT, timedelta(minutes=4), tags=("stock",))
    fleet[5] = a_bad_month("search.indexer", now, 3)
    return fleet


def many(count: int, now: datetime, seed: int = 1) -> list[Past]:
    """Thousands, of which some are not well."""
    chance = random.Random(seed)
    kinds = {SILENT: timedelta(minutes=20), DOWN: timedelta(hours=5), DEAD: timedelta(days=9)}
    fleet = []
    for n in range(count):
        name, tags = f"fleet-{n % 40:02d}.device-{n:05d}", (f"region-{n % 8}",)
        if chance.random() < 0.004:
            to = chance.choice([SILENT, DOWN, DEAD])
            fleet.append(fallen(name, now, to, chance.random() * kinds[to], tags=tags))
        else:
            fleet.append(calm(name, now, tags=tags))
    return fleet


def now() -> datetime:
    return datetime.now(UTC)
