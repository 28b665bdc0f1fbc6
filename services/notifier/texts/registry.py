"""What messages say of the registry as a whole: the digest, and that it takes no heartbeats. Pure."""

from collections.abc import Sequence
from datetime import datetime

from services.notifier.alerting.changes import Deafness
from services.notifier.texts.message import LinkContext, OutgoingMessage, bold, home_link, lines
from shared.contracts.durations import spoken
from shared.contracts.zones import local


def digest_message(
    digest: Sequence[str], links: LinkContext, through_seq: int, notes: Sequence[str] = ()
) -> OutgoingMessage:
    """`digest`: from `shared.domain.digest`; its first line is the title."""
    title, *rest = digest
    text = lines([*notes, bold(title), *rest, "", home_link(links)])
    return OutgoingMessage(text.html, text.plain, True, through_seq)


def deafness_message(
    deafness: Deafness, now: datetime, links: LinkContext, through_seq: int, notes: Sequence[str] = ()
) -> OutgoingMessage:
    since, until = local(deafness.since, links.zone), deafness.until
    length = spoken((until or now) - deafness.since)
    if until and deafness.cut_off:
        said = f"The broker can be reached again, after {length}; heartbeats were taken all the while"
    elif until:
        said = (
            f"The registry takes heartbeats again. It could not from {since} to {local(until, links.zone)} "
            f"({length}): nobody was evaluated for that time"
        )
    elif deafness.cut_off:
        said = (
            f"The broker cannot be reached since {since}, for {length}: heartbeats may not be taken, and no "
            "change is told until it can"
        )
    else:
        said = (
            f"The registry takes no heartbeats since {since}, for {length}: nobody is evaluated until it does"
        )
    text = lines([*notes, f"📡 {said}"])
    return OutgoingMessage(text.html, text.plain, False, through_seq)
