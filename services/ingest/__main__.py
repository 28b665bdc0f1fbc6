"""Wires ingest: settings, broker, ticks, HTTP."""

import asyncio
import time

from services.ingest.admission import HeartbeatStore, KnownNames
from services.ingest.auth import IngestAuth
from services.ingest.fast_path import FastPath
from services.ingest.http import build, recognises
from services.ingest.middleware import Availability
from services.ingest.settings import IngestSettings
from services.ingest.ticker import Ticker
from shared.http import server
from shared.http.protocol import limits_of
from shared.http.rate_limits import RateLimit
from shared.messaging.batch_publisher import BatchPublisher
from shared.messaging.connection import BrokerConnection
from shared.messaging.publisher import Publisher
from shared.messaging.record_watch import RecordWatch
from shared.settings import load, warn_of_short_tokens
from shared.telemetry import logs, tracing


def main() -> None:
    logs.begin("ingest")
    settings = load(IngestSettings)
    anonymous = "ingest" in settings.anonymous
    tokens, variable = settings.ingest_token, "REGISTRY_INGEST_TOKEN"
    settings.refuse_open_address("heartbeats", variable, guarded=bool(tokens), anonymous="ingest")
    logs.configure("ingest", settings.log_level, settings.log_format)
    warn_of_short_tokens(settings, "ingest_token")
    tracing.start("ingest")
    health = server.Health("broker", "ticks")
    link = BrokerConnection(settings, "ingest")
    health.follow(link)
    publisher, batches = Publisher(link), BatchPublisher(link)
    names, availability = KnownNames(settings.max_services, tokens), Availability(batches.longest_wait)
    watch = RecordWatch(link)
    watch.on_another = lambda why: health.bad("ticks", why)

    async def follow() -> None:
        ticker = Ticker(link, publisher, health, settings.tick, _seconds, availability.obstacle)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ticker.run())
            tasks.create_task(names.follow(link))

    async def work() -> None:
        try:
            await link.connect()
            await publisher.start()
            await batches.start()
            health.good("broker")
            await watch.keep(follow)
        finally:
            await batches.stop()
            await publisher.stop()
            await link.close()

    loopback_only = not (tokens or anonymous)
    limits = limits_of(settings, loopback_only=loopback_only)
    per_token = RateLimit(settings.rate_limit_per_token)
    auth = IngestAuth(tokens, limits.per_address, per_token, optional=anonymous, loopback_only=loopback_only)
    store = HeartbeatStore(batches, names, availability)
    limits.on_full = availability.refused
    limits.recognises = lambda request: recognises(request, store, auth)
    server.collect_garbage_seldom()
    server.run(
        availability.watched(build(store, health, auth, settings)),
        work,
        http=FastPath.configured(store, auth, limits, settings.ingest_port),
        host=settings.host,
        port=settings.ingest_port,
        variable="INGEST_PORT",
        on_stop=lambda: availability.shut("ingest is stopping"),
    )


def _seconds() -> float:
    """Seconds since the machine started, with those it slept: a suspend is a break too."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


if __name__ == "__main__":
    main()
