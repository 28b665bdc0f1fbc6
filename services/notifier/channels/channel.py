"""What a channel has to offer: a turn to wait for, and a message sent with one of these outcomes.

A new channel is a file with such a class, and a line in `configured.py`.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from services.notifier.texts.message import OutgoingMessage


@dataclass(frozen=True, slots=True)
class Sent:
    message_id: int | None = None


@dataclass(frozen=True, slots=True)
class Limited:
    """Not delivered: wait this many seconds."""

    retry_after: float


@dataclass(frozen=True, slots=True)
class Migrated:
    """Not delivered: the chat has a new id, for good."""

    chat: str


@dataclass(frozen=True)
class _Because:
    reason: str


class Permanent(_Because):
    """Not delivered: the chat is gone, or has thrown us out. It may let us in again."""


class Refused(_Because):
    """Not delivered: this message is refused, for a reason that says nothing of the chat."""


class BadToken(_Because):
    """Not delivered: our credentials are refused; somebody has to mend them."""


@dataclass(frozen=True)
class Failed(_Because):
    """Not now. `maybe_delivered`: the fault came after the message had left."""

    maybe_delivered: bool


def reason_of(outcome: "Outcome") -> str:
    """Why it was not delivered; empty if it was, or is only to be sent elsewhere."""
    if isinstance(outcome, Limited):
        return f"told to wait for {outcome.retry_after:.0f} s"
    if isinstance(outcome, BadToken):
        return f"the bot token is refused: {outcome.reason}"
    return outcome.reason if isinstance(outcome, _Because) else ""


Outcome = Sent | Limited | Migrated | Permanent | Refused | BadToken | Failed


class Channel(Protocol):
    key: str
    """Names its state in the broker: `A-Za-z0-9_=.-` only, the same for ever."""
    name: str
    """What people and routes call it. No two channels have the same."""
    chat: str
    """The address as configured, without the name."""

    async def turn(self, chat: str) -> None:
        """Wait until the next message is permitted, if there is a pace to keep."""
        return

    async def send(self, chat: str, message: OutgoingMessage, reply_to: int | None) -> Outcome: ...

    def shown(self, chat: str) -> str | None:
        """Its address, if this is the chat now, without anything secret; None: there is nothing to show."""
        return None


@runtime_checkable
class EditingChannel(Channel, Protocol):
    """One whose messages can be changed once they are sent."""

    def edit_turn(self, chat: str) -> float:
        """Seconds until an edit is permitted; 0: it is now, and is taken for made. Edits leave room for
        messages."""

    async def edit(self, chat: str, message_id: int, message: OutgoingMessage) -> Outcome:
        """Refused: the message is gone, or cannot be edited."""


class Backoff:
    """Pauses between attempts that fail, in seconds: each is twice the one before."""

    def __init__(self, first: float = 0.5, longest: float = 60.0) -> None:
        self._first = self._pause = first
        self._longest = longest

    def next(self) -> float:
        pause = self._pause
        self._pause = min(2 * pause, self._longest)
        return pause

    def reset(self) -> None:
        self._pause = self._first
