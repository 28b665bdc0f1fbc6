"""Wires ingest: settings, broker, ticks, HTTP."""

import asyncio
import time

from services.ingest.app import build
from services.ingest.gate import Gate
from services.ingest.names import Names
from services.ingest.ticks import Ticker
from shared import logs, service
from shared.broker import Link, Publisher
from shared.settings import Port, Settings, Tokens, load


class IngestSettings(Settings):
    ingest_port: Port = 8001
    ingest_token: Tokens = ()


def main() -> None:
    settings = load(IngestSettings)
    anonymous = "ingest" in settings.anonymous
    settings.refuse_open_address(
        "heartbeats",
        "REGISTRY_INGEST_TOKEN",
        guarded=bool(settings.ingest_token),
        anonymous="ingest",
    )
    logs.configure("ingest", settings.log_level, settings.log_format)
    health = service.Health("broker", "ticks")
    link = Link(settings, "ingest")
    health.follow(link)
    publisher = Publisher(link)
    names = Names(settings.max_services)

    async def work() -> None:
        try:
            await link.connect()
            await publisher.start()
            health.good("broker")
            ticker = Ticker(link, publisher, health, settings.tick, _seconds)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(ticker.run())
                tasks.create_task(names.follow(link))
        finally:
            await publisher.stop()
            await link.close()

    app = build(Gate(publisher, names), health, () if anonymous else settings.ingest_token)
    service.run(app, work, host=settings.host, port=settings.ingest_port, variable="INGEST_PORT")


def _seconds() -> float:
    """Seconds since the machine started, with those it slept: a suspend is a break too."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


if __name__ == "__main__":
    main()
