"""What every receiver is given."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta

from services.notifier.alerting.changes import Deafness, Notice
from services.notifier.channels.channel import Channel
from services.notifier.dispatch.pending import Pages
from services.notifier.states import ServiceStates
from services.notifier.texts.message import LinkContext


@dataclass(frozen=True)
class DigestSchedule:
    """`at`: the local time of digests; None: never. `lines`: makes those of a digest, daily or weekly, as of
    a moment. `weekday`: when the one of the week is sent; 0: Monday; None: never."""

    at: time | None
    lines: Callable[[datetime, bool], Awaitable[list[str]]]
    weekday: int | None = None


@dataclass(frozen=True)
class ReceiverDependencies:
    links: LinkContext
    digests: DigestSchedule
    now: Callable[[], datetime]
    page: Pages
    newest: Callable[[], Awaitable[int]]
    """The sequence of the record's newest event."""
    holds: Callable[[Notice], bool] = lambda _: True
    """Whether a reminder is still true."""
    states: ServiceStates = field(default_factory=ServiceStates)
    maintenance_until: Callable[[str, datetime], datetime | None] = lambda name, at: None
    """When the maintenance of a service ends that there is at a moment, if there is any."""
    remind_after: tuple[timedelta, ...] = ()
    is_taken: Callable[[Channel, str], bool] = lambda channel, address: False
    """Whether another receiver has the address that this channel's chat has moved to."""
    on_taken: Callable[[Channel], None] = lambda channel: None
    """Called with the channel of which that is so."""
    deafness: Callable[[datetime], list[Deafness] | None] = lambda _: []
    """Long deafness of the registry that did not end by a moment, oldest first; None: not known now."""
    on_token: Callable[[str | None], None] = lambda _: None
    """Called whenever it shows that the credentials are refused (why) or good (None)."""
    on_record: Callable[[Exception | None], None] = lambda _: None
    """Called whenever a record could not be stored (why), or was (None)."""
