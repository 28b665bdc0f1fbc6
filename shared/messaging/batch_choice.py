"""Which of the broker's two kinds of batches is faster now: found out from what batches took. Pure."""

from collections import deque
from typing import NamedTuple

FEW = 8
"""Messages of a batch from which on its time tells anything, and the other kind may pay off."""
RECENT = 8
"""Batches of each kind that are remembered. The fastest counts, for the others include waiting for this
process itself."""
MAX_AGE = 60.0
"""Seconds after which a time counts only if there is none that is newer."""
FIRST = 64
"""Messages of the very first batch, at most: a disk may be so slow that more would not be stored in time."""
ATOMIC_AT_FIRST = 0.003
"""Seconds that setting up an atomic batch is taken to cost before one was measured."""
ATOMIC_EACH = 10e-6
"""Seconds that each message adds to it, at least."""
CLEARLY = 1.2
"""An atomic batch must be expected to be so many times as fast, for it leaves headers in the stream."""
TRIAL_EVERY = 64
"""Batches of which one goes the other way, to see whether that is faster by now. More often at first."""
TRIAL_SHARE = 0.02
"""Of the time that batches take, the most that trials may."""
TRIAL_MAX = 0.05
"""Seconds that one trial is expected to take, at most, or twice as many as the usual way takes: so many
messages it consists of."""
BUDGET_OVER = 20.0
"""Seconds of batches over which the share of trials is reckoned, or twice as many."""
BUDGET_AT_FIRST = 2.5
"""Seconds of batches whose share trials may take before there were any."""


class BatchMode(NamedTuple):
    """How to send: so many of the messages that wait, in a batch of this kind."""

    atomic: bool
    size: int
    trial: bool = False


class _Taken(NamedTuple):
    at: float
    size: int
    seconds: float

    def scaled(self, size: int, atomic: bool) -> float:
        """Seconds that a batch of `size` would have taken; rather too many than too few."""
        if atomic and size < self.size:
            return max(self.seconds - (self.size - size) * ATOMIC_EACH, 0.0)
        return self.seconds * size / self.size


class BatchStrategy:
    """Chooses for each batch how to send it. Times are in seconds, of any clock that goes on."""

    def __init__(self) -> None:
        self._taken = {atomic: deque[_Taken](maxlen=RECENT) for atomic in (False, True)}
        self._until_trial = 2
        self._between_trials = 1
        self._all, self._trials = BUDGET_AT_FIRST, 0.0

    def choose(self, count: int, now: float) -> BatchMode:
        """For `count` messages that wait: at least 2."""
        if count < FEW:
            return BatchMode(False, count)
        if not self._taken[False]:
            return BatchMode(False, min(count, FIRST))
        fast, whole = self._expected(False, count, now), self._expected(True, count, now)
        atomic = CLEARLY * whole < fast
        self._until_trial -= 1
        if self._until_trial <= 0 and self._trials <= TRIAL_SHARE * self._all:
            self._between_trials = min(2 * self._between_trials, TRIAL_EVERY)
            self._until_trial = self._between_trials
            seconds, usual = (fast, whole) if atomic else (whole, fast)
            most = max(TRIAL_MAX, 2 * usual)
            fits = count if seconds <= most else max(FEW, int(count * most / seconds))
            return BatchMode(not atomic, fits, trial=True)
        return BatchMode(atomic, count)

    def took(self, batch: BatchMode, seconds: float, now: float) -> None:
        """What a batch took until all of it was stored, or was given up."""
        if batch.size < FEW:
            return
        self._taken[batch.atomic].append(_Taken(now, batch.size, seconds))
        self._all += seconds
        if batch.trial:
            self._trials += seconds
        if self._all > 2 * BUDGET_OVER:
            self._all /= 2
            self._trials /= 2

    def _expected(self, atomic: bool, count: int, now: float) -> float:
        taken = self._taken[atomic]
        while len(taken) > 1 and taken[0].at < now - MAX_AGE:
            taken.popleft()
        if not taken:
            return ATOMIC_AT_FIRST + count * ATOMIC_EACH
        return min(each.scaled(count, atomic) for each in taken)
