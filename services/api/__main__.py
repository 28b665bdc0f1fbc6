"""Wires the API: settings, broker, database, projector, HTTP front."""

import asyncio
from datetime import UTC, datetime, time
from typing import Annotated

from pydantic import AfterValidator, Field

from services.api.commands import Commands
from services.api.http.app import build
from services.api.http.auth import ApiAuth
from services.api.http.keyring import Keyring
from services.api.http.maintenance import Maintenance
from services.api.http.models import Defaults
from services.api.http.services import Parts, RequestContext
from services.api.projections.projector import Projector
from services.api.projections.store import Store, check_url
from services.api.queries.event_hub import EventHub
from services.api.queries.past import StatusHistory
from shared.contracts.events import MICRO
from shared.http import server
from shared.http.protocol import limits_of, within
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.publisher import Publisher
from shared.messaging.record_watch import RecordWatch
from shared.messaging.window_bucket import Windows
from shared.settings import (
    CommaSeparated,
    DatabaseUrl,
    Port,
    Settings,
    TimeOfDay,
    Tokens,
    base_url,
    load,
    warn_of_short_tokens,
)
from shared.telemetry import logs


class ApiSettings(Settings):
    ingest_port: Port = 8001
    mongodb_url: Annotated[DatabaseUrl, AfterValidator(check_url)] = "mongodb://127.0.0.1:27017"
    mongodb_database: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,63}$")] = "registry"
    digest_time: TimeOfDay = time(9)
    api_token: Tokens = ()
    read_token: Tokens = ()
    ingest_token: Tokens = ()
    status_page: CommaSeparated = ()

    @property
    def ingest_url(self) -> str:
        """Where the page tells people to send heartbeats: on an open address, the proxy's one port."""
        return self.public_url if self.strangers else base_url(self.host, self.ingest_port)


def main() -> None:
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
    health = server.Health("broker", "database", "projection")
    link = BrokerConnection(settings, "api")
    health.follow(link)
    publisher = Publisher(link)
    record = server.Record(health, link, publisher)
    store, board = Store(settings.mongodb_url, settings.mongodb_database), EventHub()
    windows, keyring = Windows(link), Keyring(link)
    maintenance = Maintenance(link, windows)
    watch = RecordWatch(link, buckets=(streams.MAINTENANCE_BUCKET, streams.API_BUCKET))
    watch.on_another = lambda why: health.bad("projection", why)
    defaults = Defaults(
        silent_after=settings.silent_after, down_after=settings.down_after, dead_after=settings.dead_after
    )

    async def follow() -> None:
        await windows.load()
        await keyring.load()
        projector = Projector(link, store, board, health, _now, left_at=watch.left_at)
        watch.on_look = projector.remember
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(projector.run())
            tasks.create_task(projector.watch_judging())
            tasks.create_task(windows.follow())
            tasks.create_task(keyring.follow())

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

    access = ApiAuth(
        settings.api_token,
        settings.read_token,
        anonymous_read="read" in settings.anonymous,
        strangers=settings.strangers,
        secure=settings.public_url.startswith("https:"),
        keyring=keyring,
    )
    commands = Commands(link, publisher, store, board, defaults, _now, settings.max_services)
    look = RequestContext(
        settings.public_url,
        settings.ingest_url,
        settings.zone,
        settings.digest_time,
        ingest_token=bool(settings.ingest_token) and "ingest" not in settings.anonymous,
        status_tags=settings.status_page,
        deaf_after=settings.deaf_after // MICRO,
    )
    limits = limits_of(settings, loopback_only=access.loopback_only)
    limits.recognises = access.recognises
    past = StatusHistory(store, board, _now)
    app = build(Parts(link, store, board, commands, access, health, defaults, look, _now, maintenance, past))
    server.run(
        app,
        work,
        http=within(limits),
        host=settings.host,
        port=settings.api_port,
        variable="API_PORT",
        on_stop=board.let_go,
    )


def _now() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    main()
