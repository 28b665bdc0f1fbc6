"""What happens to services and to the registry, as receivers are notified of it. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from shared.contracts.events import Doubt, Outcome, Status
from shared.domain.incidents import Incident

FALLEN = {Status.DOWN, Status.DEAD}


@dataclass(frozen=True, slots=True)
class StatusChange:
    """A change of status on its way to receivers. `seq`, `stored_at`: its place in the record."""

    seq: int
    stored_at: datetime
    name: str
    from_: Status
    to: Status
    since: datetime
    last_heartbeat: datetime | None
    reason: str
    began: datetime | None
    """When the status it left had begun; None if that is not known."""
    message: str | None = None
    duration: float | None = None
    doubt: Doubt | None = None
    flaps: int = 0
    """With this change the service is flapping: its turns within the hour."""
    still_flaps: bool = False
    """The service has been flapping since an earlier change."""
    trace: str | None = None
    """The `traceparent` it belongs to."""
    silenced: bool = False
    """When it was stored, the service was paused or muted, or its configuration said `notify: false`."""
    incident: Incident | None = None
    """The one that it belongs to, or ended, if that had to be read anyway."""
    has_sound: bool = True
    """For this receiver, now: it is told in no quiet hours."""
    nobody_for: timedelta | None = None
    """It is told as nobody has had the service in hand for so long."""
    remark: str = ""
    """What there is to say of services that depend on it."""

    @property
    def is_loud(self) -> bool:
        return self.to in FALLEN or self.from_ in FALLEN


@dataclass(frozen=True, slots=True)
class UnusualRun:
    """A run of an unusual length on its way to receivers. `seq`, `stored_at`: its place in RUNS. `since`:
    when it showed. `says`: `took 3 s, usually 12 to 15 min`."""

    seq: int
    stored_at: datetime
    name: str
    since: datetime
    outcome: Outcome
    says: str
    started_at: datetime | None = None
    duration: float | None = None
    """Seconds; None while it has not ended."""
    run: str | None = None
    silenced: bool = False
    """When it was read, the service was paused, or its configuration said `notify: false`."""


class NoticeKind(StrEnum):
    """What a notice says of a service."""

    REMINDER = "reminder"
    """It is still down."""
    OWED = "owed"
    """How it is, which was withheld until now."""
    STAYS = "stays"
    """It is flapping, and has been down for some minutes now."""
    CALM = "calm"
    """It is flapping no more."""
    FLAPS = "flaps"
    """It is still flapping."""


@dataclass(frozen=True, slots=True, order=True)
class Notice:
    """Something to say of a service though it has not changed: time has passed, or nothing suppresses it any
    more. `seq`, `status`, `since`: of its newest change. `flapped`: how many changes it made while it was
    flapping, since `flapping_since`. `maybe`: an earlier attempt may have told it."""

    at: datetime
    name: str
    seq: int
    status: Status
    since: datetime
    flapped: int = 0
    kind: NoticeKind = NoticeKind.REMINDER
    flapping_since: datetime | None = None
    maybe: bool = False
    schedule: tuple[timedelta, ...] = ()
    """Of a reminder, those that it is one of, since the fall."""
    has_sound: bool = True
    nobody_for: timedelta | None = None
    """Both as of a change."""


@dataclass(frozen=True, slots=True)
class Deafness:
    """Nothing took heartbeats. `until`: None while it lasts. `cut_off`: the broker cannot be reached."""

    since: datetime
    until: datetime | None = None
    cut_off: bool = False


MAX_STEPS = 4
"""Changes of one service whose statuses are all written out; of more only the first and the last."""


@dataclass(frozen=True, slots=True)
class AlertGroup:
    """What happened to one service while a receiver waited."""

    changes: tuple[StatusChange, ...]

    @property
    def name(self) -> str:
        return self.changes[0].name

    @property
    def last(self) -> StatusChange:
        return self.changes[-1]

    @property
    def path(self) -> str:
        """`alive → silent → down`."""
        first, last = self.changes[0].from_, self.last.to
        if len(self.changes) > MAX_STEPS:
            return f"{first} → … → {last} ({len(self.changes)} changes)"
        return " → ".join([first, *(change.to for change in self.changes)])

    @property
    def flaps(self) -> int:
        return max(change.flaps for change in self.changes)

    @property
    def is_flapping(self) -> bool:
        return bool(self.flaps) or self.last.still_flaps

    @property
    def came_to_nothing(self) -> bool:
        """The service became silent and came back before anybody was told."""
        return self.changes[0].from_ is self.last.to and not any(it.is_loud for it in self.changes)


def group_by_service(changes: Iterable[StatusChange]) -> list[AlertGroup]:
    """What there is to tell, in the order in which it began."""
    by_name: dict[str, list[StatusChange]] = {}
    for change in changes:
        by_name.setdefault(change.name, []).append(change)
    groups = [AlertGroup(tuple(of_name)) for of_name in by_name.values()]
    return [group for group in groups if not group.came_to_nothing]
