"""Channels: how variables name them, as in `ops=-1001234567890`, and how they stand. Pure."""

import re
from collections.abc import Iterable, Sequence
from datetime import date
from enum import StrEnum

from pydantic import AwareDatetime, BaseModel

NAME = "a name before one as in ops=…"
_NAMED = re.compile(r"([a-z][a-z0-9-]*)=(.*)", re.DOTALL)


def name_of(configured: str) -> str:
    """Empty if it has none. No address without a name looks as if it had one: none has `=` so early."""
    found = _NAMED.fullmatch(configured)
    return found[1] if found else ""


def address_of(configured: str) -> str:
    found = _NAMED.fullmatch(configured)
    return found[2] if found else configured


def named_twice(configured: Iterable[str]) -> str | None:
    """The first name that two of them have, if any."""
    names = [name for each in configured if (name := name_of(each))]
    return next((name for name in names if names.count(name) > 1), None)


def all_names(configured: Sequence[str], otherwise: Sequence[str]) -> list[str]:
    """Each one's own name, or else what it is called `otherwise`; a second of the same has -2 behind it."""
    own = list(map(name_of, configured))
    taken, found = {*own}, []
    for name, called in zip(own, otherwise, strict=True):
        count, unused = 1, name or called
        while not name and unused in taken:
            count += 1
            unused = f"{called}-{count}"
        taken.add(unused)
        found.append(unused)
    return found


# --- how channels stand, as the notifier answers


class ChannelError(BaseModel, frozen=True):
    at: AwareDatetime
    reason: str


class ChannelMute(BaseModel, frozen=True):
    service: str
    until: AwareDatetime


class ChannelReport(BaseModel, frozen=True):
    """`address`: None where nothing of it may be shown. `subscribed`: it added itself. `off_since`: from then
    on it refuses messages for good, as it seems. `waiting`: changes and runs that it has not been told.
    `mutes`: its own."""

    name: str
    kind: str
    address: str | None = None
    subscribed: bool = False
    last_delivered: AwareDatetime | None = None
    last_error: ChannelError | None = None
    off_since: AwareDatetime | None = None
    off_reason: str | None = None
    waiting: int = 0
    mutes: tuple[ChannelMute, ...] = ()
    last_digest: date | None = None

    @property
    def is_failing(self) -> bool:
        """Whether nothing has arrived since its last error."""
        error, delivered = self.last_error, self.last_delivered
        return error is not None and (delivered is None or delivered < error.at)


class ReportPage(BaseModel, frozen=True):
    """Some of `total` reports: as many as one message may hold."""

    reports: tuple[ChannelReport, ...]
    total: int


class Invitation(BaseModel, frozen=True):
    """`secret`: whoever writes `/start` with it to the bot subscribes; empty: nobody can."""

    bot: str = ""
    secret: str = ""


class ActionOutcome(StrEnum):
    """What became of a test message, or of switching a channel on."""

    DONE = "done"
    UNKNOWN = "unknown"
    """There is no such channel."""
    LIMITED = "limited"
    """Too many were asked for."""
    REFUSED = "refused"
    NO_ANSWER = "no_answer"
    """It may have been delivered."""


class ActionAnswer(BaseModel, frozen=True):
    """`reason`: why not; of switching on, why it was off, if it was. `retry_after`: seconds."""

    outcome: ActionOutcome
    reason: str = ""
    retry_after: int = 0
