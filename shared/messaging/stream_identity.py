"""Whether a stream is still the one that was read before, or another one in its place. Pure.

A stream's time of creation tells it from one that was made anew. An older copy of the same stream has the
same time: it ends before what was read of it, or has, once new messages have come, another message there.
"""

from dataclasses import dataclass
from enum import Enum


class Comparison(Enum):
    """What became of a stream; the value says so in words."""

    SAME = "it is the same"
    ANOTHER = "it was made anew, or removed"
    OLDER = "an older copy was put in its place"
    PURGED = "messages were removed from it"


class Eviction(Enum):
    """Which messages the broker removes itself."""

    NONE = 0
    ONE_FOR_ONE = 1
    """At most one for each that comes, or all that are more than it may keep by now; never the last of a
    subject."""
    ANY = 2


@dataclass(frozen=True)
class StreamMark:
    """A stream at one moment. `last`: its last sequence; `at`: when that message was stored, microseconds
    since 1970 UTC; `messages`, `subjects`: how many it holds; `kept`: how many of each subject it may keep,
    -1 if any number, or not known."""

    created: str
    last: int
    at: int
    messages: int
    subjects: int
    kept: int = -1

    @property
    def removed(self) -> int:
        """Messages that it held once, and holds no more."""
        return self.last - self.messages


@dataclass(frozen=True)
class StreamPosition:
    """A message that was read, or known to be there. `at`: when it was stored."""

    seq: int
    at: int


def compare(
    before: StreamMark,
    now: StreamMark,
    position: StreamPosition,
    found: int | None = None,
    first_later: int | None = None,
    *,
    evicts: Eviction = Eviction.NONE,
) -> Comparison:
    """Compare a stream with what was known of it.

    `position`: the newest message known of. `found`: when the message was stored that is at its sequence now;
    None: there is none, or nobody has asked. `first_later`: the sequence of the first message that was stored
    later than `position`; None: there is none, or nobody has asked.
    """
    if now.created != before.created:
        return Comparison.ANOTHER
    if now.last < max(before.last, position.seq):
        return Comparison.OLDER
    if found is not None and found != position.at:
        return Comparison.OLDER
    if found is None and first_later is not None and first_later <= position.seq:
        return Comparison.OLDER
    added, removed = now.last - before.last, now.removed - before.removed
    if evicts is Eviction.NONE and removed > 0:
        return Comparison.PURGED
    lowered = now.kept > 0 and not 0 < before.kept <= now.kept
    if evicts is Eviction.ONE_FOR_ONE and (
        (removed > added and not lowered) or now.subjects < before.subjects
    ):
        return Comparison.PURGED
    return Comparison.SAME
