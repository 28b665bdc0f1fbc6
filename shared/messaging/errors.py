"""Why the broker has not done what was asked of it."""


class BrokerError(Exception):
    """Base of what publishing can raise."""


class NotStored(BrokerError):
    """The broker has not confirmed that it stored the message; it may have."""


class Unreadable(NotStored):
    """The broker has answered with a message whose own headers hide what stands beside it."""


class NoAnswer(NotStored):
    """The broker is connected, and has not answered in time."""

    def __str__(self) -> str:
        return f"{super().__str__()}; {READ_ONLY}"


READ_ONLY = "a stream that met a full disk stays read-only: make room, then restart the broker"


class Busy(NotStored):
    """Too many messages wait for the broker already; this one was not sent."""


class ShareExhausted(NotStored):
    """As many of one sender's messages wait as one may have there; this one was not sent, others' are."""


class TooLarge(NotStored):
    """The message is larger than the broker takes; it was not sent."""


class WrongSequence(BrokerError):
    """Somebody else has written to the subject since: another writer was first."""


class StreamMissing(NotStored):
    """The broker has no stream of that name."""
