"""What the next digest would say, from the read models."""

from datetime import datetime, time
from zoneinfo import ZoneInfo

from services.api.fold import Document, micros, moment
from services.api.models import NextDigest
from services.api.store import View
from shared import digest
from shared.events import Status


async def next_digest(view: View, now: datetime, zone: ZoneInfo, at: time | None) -> NextDigest:
    """The digest as it would be sent now, and when the next one will be."""
    services = [_service(document) for document in await view.fleet()]
    registered = {service.name: service.registered_at for service in services}
    changes = (_transition(row) for row in await view.changes_since(micros(now - digest.WINDOW)))
    counting = [it for it in changes if it.name in registered and it.since >= registered[it.name]]
    return NextDigest(
        at=digest.next_digest_at(now, zone, at) if at else None,
        text=digest.plain(digest.digest(services, counting, now), zone),
    )


def _service(document: Document) -> digest.Service:
    config, shown = document["config"], document["shown"]
    heard = shown["last_heartbeat"]
    return digest.Service(
        name=document["_id"],
        status=Status(shown["status"]),
        since=moment(shown["since"]),
        last_heartbeat=moment(heard) if heard else None,
        paused=config["paused"],
        registered_at=moment(config["registered_at"]),
    )


def _transition(row: Document) -> digest.Transition:
    data = row["data"]
    return digest.Transition(
        row["name"], Status(data["from"]), Status(data["to"]), datetime.fromisoformat(data["since"])
    )
