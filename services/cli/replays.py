"""What `plan --since` shows: what was told, what would have been told, and how much earlier or later."""

from collections.abc import Iterator
from typing import Any

from services.cli import tables
from services.cli.tables import instant, say
from shared.contracts.durations import spoken_seconds

ROWS_MAX = 200
NAMED_MAX = 10
HEADINGS = "service", "what", "was", "would have been", "", "told to"


def show(answer: dict[str, Any]) -> None:
    """The answer of `POST /configuration/replay`, for people."""
    rows = [row for differs in answer["differences"] for row in _rows(differs)]
    nothing = "Nothing else would have been told."
    tables.show(HEADINGS, rows[:ROWS_MAX], nothing=nothing)
    more, services = len(rows) - ROWS_MAX, answer["more_differences"]
    if more > 0 or services:
        say(f"and more: {max(more, 0)} of these services, and {services} other services (--json has more)")
    falls, messages = (
        f"{counted['was']} {what}, {counted['would']} with this file"
        for what, counted in (("falls", answer["falls"]), ("messages", answer["messages"]))
    )
    span = f"{instant(answer['since'])} to {instant(answer['until'])}"
    say(f"{span}, {answer['changed']} services changed: {falls}; {messages}")
    by_reason: dict[str, list[str]] = {}
    for unknown in answer["unknown"]:
        since = unknown["known_since"]
        known = f"known since {instant(since)}" if since else "not known"
        by_reason.setdefault(unknown["why"], []).append(f"{unknown['service']} ({known})")
    for why, names in by_reason.items():
        others = f", and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
        say(f"not all is known, as {why}: {', '.join(names[:NAMED_MAX])}{others}")


def _rows(differs: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Each fall, with who was told of it then; and what else was told, or would have been."""
    name, messages = differs["service"], list(differs["messages"])
    for fall in differs["falls"]:
        its = [it for it in messages if it["what"] == "change" and _is_of(it, fall)]
        messages = [it for it in messages if it not in its]
        yield _row(name, fall["status"], fall, sorted({it["channel"] for it in its}))
    for message in messages:
        what = message["status"] if message["what"] == "change" else f"{message['status']}, {message['what']}"
        if sound := message.get("sound"):
            what += " with sound" if sound["would"] else " without sound"
        yield _row(name, what, message, [message["channel"]])


def _is_of(message: dict[str, Any], fall: dict[str, Any]) -> bool:
    return all(message[key] == fall[key] for key in ("status", "was", "would")) and not message.get("sound")


def _row(name: str, what: str, pair: dict[str, Any], channels: list[str]) -> tuple[str, ...]:
    return name, what, instant(pair["was"]), instant(pair["would"]), moved(pair), ", ".join(channels)


def moved(pair: dict[str, Any]) -> str:
    """In a word or two: `15 min later`, `gone`, `new`."""
    later = pair["later_by"]
    if later is None:
        return "gone" if pair["was"] else "new"
    if not later:
        return "same time"
    return f"{spoken_seconds(abs(later))} {'later' if later > 0 else 'earlier'}"
