"""Many changes in one message: services are only named, under the change that they share. Pure."""

from collections.abc import Sequence

from services.notifier.alerting.changes import StatusChange
from services.notifier.alerting.grouping import AlertGroup, group_by_service
from services.notifier.texts.markup import Text, bold, cut, lines, units
from services.notifier.texts.message import MAX_NAME, LinkContext, home_link
from shared.contracts.zones import local
from shared.domain.digest import MARKS

_HEADING = 140
"""UTF-16 units that a group's heading takes, at most."""
_FLAPPING_MARK = 10
"""And what may stand behind a name."""


def storm(
    pending: Sequence[StatusChange], links: LinkContext, room: int
) -> tuple[Sequence[StatusChange], Text]:
    """As many of the first as can be named, and the text."""
    home = home_link(links)
    taken = _fitting(pending, room - home.units - 100)
    groups: dict[str, list[AlertGroup]] = {}
    for group in group_by_service(taken):
        groups.setdefault(group.path, []).append(group)
    waiting = len(pending) - len(taken)
    parts = [bold(f"{len(taken)} changes" + (f", {waiting} more follow" if waiting else ""))]
    for path, alike in groups.items():
        heading = f"{MARKS[alike[0].last.to]} " + bold(path) + f" ({len(alike)}), {_when(alike, links)}:"
        names = ", ".join(cut(it.name, MAX_NAME) + (" 🔁" if it.is_flapping else "") for it in alike)
        parts += [heading, lines([names])]
    return taken, lines([*parts, home])


def _fitting(pending: Sequence[StatusChange], room: int) -> Sequence[StatusChange]:
    """As many of the first as can be named in so many units: at least one."""
    known: dict[str, tuple[StatusChange, ...]] = {}
    paths: set[str] = set()
    for count, change in enumerate(pending):
        if change.name not in known:
            flaps = bool(change.flaps) or change.still_flaps
            room -= units(cut(change.name, MAX_NAME)) + 2 + _FLAPPING_MARK * flaps
        known[change.name] = (*known.get(change.name, ()), change)
        path = AlertGroup(known[change.name]).path
        room -= 0 if path in paths else _HEADING
        paths.add(path)
        if count and room < 0:
            return pending[:count]
    return pending


def _when(alike: Sequence[AlertGroup], links: LinkContext) -> str:
    first, last = (f(group.last.since for group in alike) for f in (min, max))
    when, until = f"since {local(first, links.zone)}", local(last, links.zone)
    return when if when.endswith(until) else f"{when} to {until}"
