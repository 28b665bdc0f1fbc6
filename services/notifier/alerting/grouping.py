"""Changes of the same service become one group, which is told at once. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from services.notifier.alerting.changes import StatusChange

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
