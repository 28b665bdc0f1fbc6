"""Changes of status as a message, in the richest form that holds them all. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from services.notifier.alerting.changes import FALLEN, StatusChange
from services.notifier.alerting.grouping import AlertGroup, group_by_service
from services.notifier.texts import alerts
from services.notifier.texts.markup import Text, bold, cut, join, lines
from services.notifier.texts.message import MAX_BODY, LinkContext, OutgoingMessage, service_buttons
from services.notifier.texts.storm import storm
from shared.contracts.durations import spoken_seconds
from shared.contracts.events import Status

MAX_BLOCKS = 5
"""Up to this many services are told at length, one block each."""
MAX_LINES = 40
"""Up to this many get a line each; more are a storm, and only named."""
MAX_WARNING = 120
"""UTF-16 units for the registry's doubt of itself."""
SAME_EPISODE = timedelta(hours=1)
"""The doubt is not said again for a change that follows the last doubted one by no more than this."""


def changes_message(
    pending: Sequence[StatusChange],
    links: LinkContext,
    notes: Sequence[str] = (),
    doubted: datetime | None = None,
) -> OutgoingMessage:
    """As many of the pending changes, in order, as one message holds: at least the first that has something
    to tell, of which there must be one.

    In the richest form that holds all of them, else in the one that holds most. So what was packed once is
    packed alike when it is alone. `doubted`: the newest doubted change that the receiver knows of.
    """
    names = {group.name for group in group_by_service(pending)}
    pending = [change for change in pending if change.name in names]
    taken, body = _packed(pending, links, is_doubted=bool(_warning(pending, doubted)))
    if warning := _warning(taken, doubted):
        body = "⚠️ " + bold(warning) + "\n\n" + body
    text = lines([*notes, body])
    last = {group.name: group.last for group in group_by_service(taken)}
    about = next(iter(last)) if len(last) == 1 else None
    return OutgoingMessage(
        text=text.html,
        plain_text=text.plain,
        silent=not any(change.is_loud for change in taken),
        through_seq=taken[-1].seq,
        problems=tuple(name for name, change in last.items() if change.to is not Status.ALIVE),
        recoveries=tuple(name for name, change in last.items() if change.to is Status.ALIVE),
        changes=tuple(taken),
        about=about,
        buttons=service_buttons(about) if about and last[about].to in FALLEN else (),
        doubted=_newest_doubted(taken),
    )


def _packed(
    pending: Sequence[StatusChange], links: LinkContext, is_doubted: bool
) -> tuple[Sequence[StatusChange], Text]:
    groups, room = group_by_service(pending), MAX_BODY
    if is_doubted:
        groups, room = group_by_service(map(_without_doubt, pending)), MAX_BODY - MAX_WARNING
    forms: list[tuple[Callable[[AlertGroup, LinkContext], Text], str]] = []
    if len(groups) <= MAX_BLOCKS:
        forms.append((alerts.block, "\n\n"))
    if len(groups) <= MAX_LINES:
        forms += [(alerts.line, "\n"), (alerts.short_line, "\n")]
    for form, between in forms:
        text = join(between, [form(group, links) for group in groups])
        if text.units <= room:
            return pending, text
    return storm(pending, links, room)


# --- the registry's doubt of itself


def _newest_doubted(changes: Sequence[StatusChange]) -> datetime | None:
    return max((change.since for change in changes if change.doubt), default=None)


def _warning(changes: Sequence[StatusChange], doubted: datetime | None) -> str:
    """That it may be the registry that is cut off, as it knew last; empty if the receiver knows already."""
    newest = _newest_doubted(changes)
    if newest is None or (doubted and newest - doubted <= SAME_EPISODE):
        return ""
    doubt = next(change.doubt for change in reversed(changes) if change.doubt)
    text = (
        f"{doubt.stopped} of {doubt.of} services stopped within {spoken_seconds(doubt.within)}: "
        "the registry may be cut off"
    )
    return cut(text, MAX_WARNING - 5)


def _without_doubt(change: StatusChange) -> StatusChange:
    """Its own reason alone, where the doubt is said above."""
    return replace(change, reason=change.reason.partition(";")[0]) if change.doubt else change
