"""Services whose oldest events are not in the record any more: the broker keeps so many of each subject."""

import json
from dataclasses import dataclass
from typing import Any

from nats.errors import Error as NatsError

from shared import streams
from shared.broker import Link, NotStored, Stored, first
from shared.events import ServiceDeleted, ServiceRegistered, Status, StatusChanged, micros, parse_event


@dataclass
class Shortened:
    """What is left of a service's events. Times in microseconds.

    `begins`: from then on all that happened is there. `config`, `status`: the sequence of the oldest event
    of each kind, 0 where all are there. `registered_at`: what is older is of a former life; 0: not known.
    """

    begins: int = 0
    config: int = 0
    status: int = 0
    registered_at: int = 0


async def shortened(link: Link, name: str | None = None) -> dict[str, Shortened]:
    """All of them, or this one if it is one, by name. Raises NotStored when the broker cannot say."""
    found: dict[str, Shortened] = {}
    for subject in await _full(link, f"service.*.{name}" if name else streams.ALL_EVENTS):
        oldest = await first(link, streams.SERVICES, subject)
        if oldest is None or _is_beginning(oldest):
            continue
        it = found.setdefault(streams.name_in(subject), Shortened())
        it.begins = max(it.begins, oldest.at)
        if subject.startswith(streams.status("")):
            it.status = oldest.seq
        else:
            it.config, it.registered_at = oldest.seq, _registered_at(oldest)
    return found


def _is_beginning(oldest: Stored) -> bool:
    """Whether nothing was before this event of its subject, at least not in this life of the service."""
    try:
        event = parse_event(oldest.data)
    except ValueError:
        return False
    if isinstance(event, StatusChanged):
        return event.data.from_ is Status.UNKNOWN
    return isinstance(event, ServiceRegistered)


def _registered_at(config: Stored) -> int:
    try:
        event = parse_event(config.data)
    except ValueError:
        return 0
    if isinstance(event, StatusChanged | ServiceDeleted) or event.data.registered_at is None:
        return 0
    return micros(event.data.registered_at)


async def _full(link: Link, among: str) -> list[str]:
    """The subjects of which the broker keeps as many events as it may."""
    full: list[str] = []
    offset = 0
    while True:
        question = json.dumps({"subjects_filter": among, "offset": offset}).encode()
        try:
            answer = await link.nc.request(f"$JS.API.STREAM.INFO.{streams.SERVICES}", question, timeout=10)
            info: dict[str, Any] = json.loads(answer.data)
            most = info["config"].get("max_msgs_per_subject", -1)
            counts: dict[str, int] = info["state"].get("subjects") or {}
        except (NatsError, OSError, TimeoutError, KeyError) as error:
            raise NotStored(str(error) or repr(error)) from None
        full += [subject for subject, count in counts.items() if 0 < most <= count]
        offset += len(counts)
        if not counts or offset >= info.get("total", 0):
            return full
