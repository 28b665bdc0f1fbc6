"""Wires the API: settings, broker, database, projector, HTTP front."""

import asyncio
from datetime import UTC, datetime
from functools import partial

from services.api.as_code import at_start
from services.api.as_code.applying import AsCode
from services.api.commands import Commands
from services.api.configuration import Configuration
from services.api.context import ApiContext
from services.api.http.app import build
from services.api.http.auth import ApiAuth
from services.api.http.keyring import Keyring
from services.api.incidents import Incidents
from services.api.maintenance import Maintenance
from services.api.projections.projector import Projector
from services.api.projections.store import Store
from services.api.queries.event_hub import EventHub
from services.api.queries.past import StatusHistory
from services.api.routes import StoredRoutes, routable_channels
from services.api.settings import ApiSettings
from shared.http import server
from shared.http.protocol import limits_of, within
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.publisher import Publisher
from shared.messaging.record_watch import RecordWatch
from shared.messaging.stored_config import StoredConfig
from shared.settings import load, warn_of_short_tokens
from shared.telemetry import logs


def main() -> None:
    settings = _settings()
    file = at_start.load(settings.config)
    health = server.Health("broker", "database", "projection", *([at_start.PART] if file else []))
    link = BrokerConnection(settings, "api")
    health.follow(link)
    publisher = Publisher(link)
    record = server.Record(health, link, publisher)
    store, hub = Store(settings.mongodb_url, settings.mongodb_database), EventHub()
    configuration = Configuration(link, publisher, store, StoredConfig(link), _now)
    keyring = Keyring(link)
    watch = RecordWatch(link, buckets=(streams.API_BUCKET,))
    watch.on_another = lambda why: health.bad("projection", why)
    auth = ApiAuth(settings, keyring)
    commands = Commands(link, publisher, store, hub, _now, settings.max_services, settings.timezone)
    channels = partial(routable_channels, link)
    routes = StoredRoutes(configuration, channels, settings.zone)
    context = ApiContext(
        link=link,
        store=store,
        hub=hub,
        commands=commands,
        auth=auth,
        health=health,
        settings=settings,
        now=_now,
        maintenance=Maintenance(configuration),
        incidents=Incidents(commands),
        past=StatusHistory(store, hub, _now),
        routes=routes,
        as_code=AsCode(commands, configuration, routes, channels),
    )

    async def follow() -> None:
        await configuration.stored.load()
        await keyring.read()
        projector = Projector(link, store, hub, health, _now, left_at=watch.left_at)
        watch.on_check = projector.remember
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(projector.run())
            tasks.create_task(projector.watch_evaluation())
            tasks.create_task(configuration.stored.follow())
            tasks.create_task(context.maintenance.take_over())
            tasks.create_task(keyring.follow())
            tasks.create_task(context.commands.give_ping_keys())
            if file:
                tasks.create_task(at_start.keep_applying(file, context.as_code, health))

    async def work() -> None:
        try:
            await link.connect()
            await publisher.start()
            health.good("broker")
            async with asyncio.TaskGroup() as tasks:
                storing = tasks.create_task(record.watch())
                await watch.keep(follow)
                storing.cancel()
        finally:
            await publisher.stop()
            await link.close()
            store.close()

    limits = limits_of(settings, loopback_only=auth.loopback_only)
    limits.recognises = auth.recognises
    server.run(
        build(context),
        work,
        http=within(limits),
        host=settings.host,
        port=settings.api_port,
        variable="API_PORT",
        on_stop=hub.let_go,
    )


def _settings() -> ApiSettings:
    logs.begin("api")
    settings = load(ApiSettings)
    settings.refuse_open_address(
        "the API",
        "REGISTRY_API_TOKEN",
        guarded=bool(settings.api_token or settings.read_token),
        anonymous="read",
    )
    logs.configure("api", settings.log_level, settings.log_format)
    warn_of_short_tokens(settings, "api_token", "read_token")
    return settings


def _now() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    main()
