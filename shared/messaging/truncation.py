"""Finds services whose oldest events have been removed: the broker keeps only so many of each subject."""

from dataclasses import dataclass

from shared.contracts.events import ServiceDeleted, ServiceRegistered, Status, StatusChanged, micros
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.queries import first, full_subjects
from shared.messaging.reader import Stored


@dataclass
class Truncated:
    """What is left of a service's events. Times in microseconds.

    `begins`: all events from then on are there. `config`, `status`: the sequence of the oldest event of each
    kind, 0 if all are there. `registered_at`: older events belong to an earlier registration; 0: not known.
    """

    begins: int = 0
    config: int = 0
    status: int = 0
    registered_at: int = 0


async def truncated(link: BrokerConnection, name: str | None = None) -> dict[str, Truncated]:
    """These services by name, or only this one. Raises NotStored when the broker cannot say."""
    found: dict[str, Truncated] = {}
    among = f"service.*.{name}" if name else streams.ALL_EVENTS
    async for subject in full_subjects(link, streams.SERVICES, among):
        oldest = await first(link, streams.SERVICES, subject)
        if oldest is None or _is_beginning(oldest):
            continue
        service = found.setdefault(streams.name_in(subject), Truncated())
        service.begins = max(service.begins, oldest.at)
        if subject.startswith(streams.status("")):
            service.status = oldest.seq
        else:
            service.config, service.registered_at = oldest.seq, _registered_at(oldest)
    return found


def _is_beginning(oldest: Stored) -> bool:
    """Whether no event of this registration of the service was before this one."""
    try:
        event = streams.read_event(oldest.subject, oldest.data)
    except ValueError:
        return False
    if isinstance(event, StatusChanged):
        return event.data.from_ is Status.UNKNOWN
    return isinstance(event, ServiceRegistered)


def _registered_at(config: Stored) -> int:
    try:
        event = streams.read_event(config.subject, config.data)
    except ValueError:
        return 0
    if isinstance(event, StatusChanged | ServiceDeleted) or event.data.registered_at is None:
        return 0
    return micros(event.data.registered_at)
