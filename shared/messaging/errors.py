"""Why the broker did not do what it was asked for."""


class BrokerError(Exception):
    """Base of what publishing can raise."""


class NotStored(BrokerError):
    """The broker has not confirmed that it stored the message; it may have."""


class Unreadable(NotStored):
    """The broker has answered with a message whose headers cannot be read."""


class NoAnswer(NotStored):
    """The broker is connected, and has not answered in time."""

    def __str__(self) -> str:
        return f"{super().__str__()}; {READ_ONLY}"


READ_ONLY = "a stream that met a full disk stays read-only: make room, then restart the broker"


class Busy(NotStored):
    """Too many messages wait for the broker; this one was not sent."""


class ShareExhausted(NotStored):
    """Too many messages of one sender wait for the broker; this one was not sent, those of others are."""


class TooLarge(NotStored):
    """The message is larger than the broker takes; it was not sent."""


class WrongSequence(BrokerError):
    """Another writer was first: the subject has a newer message."""


class StreamMissing(NotStored):
    """The broker has no stream of that name."""
