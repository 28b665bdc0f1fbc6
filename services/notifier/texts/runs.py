"""Runs of an unusual length as a message. Pure."""

from collections.abc import Callable, Sequence

from services.notifier.alerting.changes import UnusualRun
from services.notifier.texts import message as messages
from services.notifier.texts.changes import MAX_BLOCKS, MAX_LINES, MAX_REASON
from services.notifier.texts.message import LinkContext, OutgoingMessage, Text, bold, cut, lines
from shared.contracts.zones import local

MARK = "⏱"


def runs_message(
    pending: Sequence[UnusualRun], links: LinkContext, through_seq: int, notes: Sequence[str] = ()
) -> OutgoingMessage:
    """As many of the first as one message holds, at least one; without a sound."""
    form, between = (_block, "\n\n") if len(pending) <= MAX_BLOCKS else (_line, "\n")
    told, texts = _fitting(pending, form, links)
    text = lines([*notes, messages.join(between, texts)])
    return OutgoingMessage(
        text=text.html,
        plain_text=text.plain,
        silent=True,
        through_seq=through_seq,
        about=told[0].name if len(told) == 1 else None,
        runs=tuple(told),
    )


def _fitting(
    pending: Sequence[UnusualRun], form: Callable[[UnusualRun, LinkContext], Text], links: LinkContext
) -> tuple[Sequence[UnusualRun], list[Text]]:
    texts: list[Text] = []
    room = messages.MAX_BODY
    for run in pending[:MAX_LINES]:
        text = form(run, links)
        room -= text.units + 2
        if texts and room < 0:
            break
        texts.append(text)
    return pending[: len(texts)], texts


def _block(run: UnusualRun, links: LinkContext) -> Text:
    """In the plain form with the address, as nothing can be linked there."""
    details = [f"began {local(run.started_at, links.zone)}"] if run.started_at else []
    url = messages.service_url(cut(run.name, messages.MAX_NAME), links)
    return lines([_line(run, links), *details]) + Text("", f"\n{url}")


def _line(run: UnusualRun, links: LinkContext) -> Text:
    says = cut(messages.one_line(run.says), MAX_REASON)
    return f"{MARK} " + bold(messages.service_link(run.name, links)) + f": {says}"
