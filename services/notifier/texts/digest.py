"""The digest as a message. Pure."""

from collections.abc import Sequence

from services.notifier.texts.markup import bold, lines
from services.notifier.texts.message import LinkContext, OutgoingMessage, home_link


def digest_message(
    digest: Sequence[str], links: LinkContext, through_seq: int, notes: Sequence[str] = ()
) -> OutgoingMessage:
    """`digest`: from `shared.domain.digest`; its first line is the title."""
    title, *rest = digest
    text = lines([*notes, bold(title), *rest, "", home_link(links)])
    return OutgoingMessage(text.html, text.plain, True, through_seq)
