"""Wires the monitor: settings, broker, snapshots, HTTP front."""

import asyncio
import time
from contextlib import suppress

from nats.errors import Error as NatsError
from prometheus_client import Gauge
from starlette.applications import Starlette

from services.monitor.asyncapi import describe_streams, last_evaluated_requests
from services.monitor.consume import TICK_LAG_SECONDS, Monitor
from services.monitor.domain.service import EffectiveThresholds
from services.monitor.settings import MonitorSettings
from services.monitor.store.event_store import EventStore
from shared.contracts.events import MICRO
from shared.http import docs, server
from shared.http.protocol import limits_of, within
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.faststream_broker import FastStreamBroker, document
from shared.messaging.publisher import Publisher
from shared.messaging.record_watch import RecordWatch
from shared.settings import listens_on_loopback, load
from shared.telemetry import logs, tracing

FILLED = Gauge("registry_heartbeats_stream_filled_ratio", "How much of what HEARTBEATS may hold it does")
MEASURE_INTERVAL = 30.0
"""Seconds between two questions how full the stream is."""


def main() -> None:
    logs.begin("monitor")
    settings = load(MonitorSettings)
    logs.configure("monitor", settings.log_level, settings.log_format)
    tracing.start("monitor")
    health = server.Health("broker", "history")
    link = BrokerConnection(settings, "monitor", keeps_streams=True)
    health.follow(link)
    watch = RecordWatch(link, rewritten=(streams.MONITOR_BUCKET,))
    watch.on_another = lambda why: health.bad("history", why)
    monitor: Monitor | None = None

    def last_evaluated() -> int:
        return monitor.evaluated_until if monitor else 0

    broker = FastStreamBroker(link, settings.nats_url)
    requests = last_evaluated_requests(broker, last_evaluated)
    describe_streams(broker)

    async def work() -> None:
        await link.connect()
        health.good("broker")
        publisher = Publisher(link)
        record = server.Record(health, link, publisher)
        await publisher.start()
        patience = EffectiveThresholds(
            settings.silent_after // MICRO, settings.down_after // MICRO, settings.dead_after // MICRO
        )
        started = time.time()
        TICK_LAG_SECONDS.set_function(lambda: max(0.0, time.time() - (last_evaluated() / 1e6 or started)))

        async def watch_services() -> None:
            nonlocal monitor
            snapshots = await link.bucket(streams.MONITOR_BUCKET)
            event_store = EventStore(link, publisher, snapshots, lambda: watch.marks)
            kept, limit = settings.heartbeats_kept, settings.max_services
            monitor = Monitor(event_store, patience, kept, limit, settings.timezone)
            monitor.on_caught_up = lambda: health.good("history")
            watch.on_emptied = monitor.snapshots.save_everything
            await monitor.run()

        await broker.connect()
        await requests.start()
        watching = [asyncio.create_task(each) for each in (record.watch(), _measure(link))]
        try:
            await watch.keep(watch_services)
        finally:
            for task in watching:
                task.cancel()
            await publisher.stop()
            await link.close()

    server.collect_garbage_seldom()
    app = Starlette(routes=[*health.routes(), docs.asyncapi(document(broker, "monitor"))])
    server.run(
        app,
        work,
        http=within(limits_of(settings, loopback_only=listens_on_loopback(settings.metrics_host))),
        host=settings.metrics_host,
        port=settings.monitor_port,
        variable="MONITOR_PORT",
        any_port="monitor_port" not in settings.model_fields_set,
    )


async def _measure(link: BrokerConnection) -> None:
    while True:
        with suppress(NatsError, OSError, TimeoutError):
            FILLED.set(await streams.filled(link.js, streams.HEARTBEATS))
        await asyncio.sleep(MEASURE_INTERVAL)


if __name__ == "__main__":
    main()
