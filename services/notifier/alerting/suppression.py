"""Why a receiver is not told of a service now: its configuration, a mute, or maintenance."""

from collections.abc import Callable, Mapping
from datetime import datetime

from services.notifier.alerting.changes import StatusChange
from services.notifier.alerting.policy import Suppression
from services.notifier.states import ServiceStates


class Suppressor:
    def __init__(
        self,
        states: ServiceStates,
        maintenance_until: Callable[[str, datetime], datetime | None],
        mutes: Callable[[], Mapping[str, datetime]],
    ) -> None:
        """`maintenance_until`: when the maintenance of a service ends that there is at a moment, if any."""
        self._states = states
        self._maintenance_until = maintenance_until
        self._mutes = mutes

    def of_service(self, name: str, now: datetime) -> tuple[Suppression, datetime | None]:
        """With the moment at which it ends by itself, if that is known."""
        if self._states.is_silenced(name):
            return Suppression.ALL, None
        if (until := self._mutes().get(name)) and until > now:
            return Suppression.ALL, until
        if end := self._maintenance_until(name, now):
            return Suppression.MAINTENANCE, end
        return Suppression.NONE, None

    def of_change(self, change: StatusChange, now: datetime) -> Suppression:
        """A change that was suppressed when it was stored, or when it happened, is so still."""
        suppression, _ = self.of_service(change.name, now)
        mute = self._mutes().get(change.name)
        if change.silenced or (mute and mute > change.stored_at):
            return Suppression.ALL
        if suppression is not Suppression.NONE:
            return suppression
        within = any(self._maintenance_until(change.name, at) for at in (change.since, change.stored_at))
        return Suppression.MAINTENANCE if within else Suppression.NONE
