"""Why a receiver is not told of a service now: its configuration, a mute, or maintenance."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from services.notifier.alerting.changes import StatusChange
from services.notifier.alerting.policy import Suppression
from services.notifier.states import ServiceStates


@dataclass(frozen=True)
class Suppressor:
    """`maintenance_until`: when the maintenance of a service ends that there is at a moment, if there is any.
    `mutes`: until when services are muted, or were."""

    states: ServiceStates
    maintenance_until: Callable[[str, datetime], datetime | None]
    mutes: Callable[[], Mapping[str, datetime]]

    def of_service(self, name: str, now: datetime) -> tuple[Suppression, datetime | None]:
        """With the moment at which it ends by itself, if that is known."""
        if self.states.is_silenced(name):
            return Suppression.ALL, None
        if (until := self.mutes().get(name)) and until > now:
            return Suppression.ALL, until
        if end := self.maintenance_until(name, now):
            return Suppression.MAINTENANCE, end
        return Suppression.NONE, None

    def of_change(self, change: StatusChange, now: datetime) -> Suppression:
        """A change that was suppressed when it was stored, or when it happened, is so still."""
        suppression, _ = self.of_service(change.name, now)
        mute = self.mutes().get(change.name)
        if change.silenced or (mute and mute > change.stored_at):
            return Suppression.ALL
        if suppression is not Suppression.NONE:
            return suppression
        within = any(self.maintenance_until(change.name, at) for at in (change.since, change.stored_at))
        return Suppression.MAINTENANCE if within else Suppression.NONE
