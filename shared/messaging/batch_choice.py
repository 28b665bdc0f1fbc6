"""Chooses the kind of batch that is faster at the moment, from the time that earlier batches took. Pure."""

from collections import deque
from typing import NamedTuple

FEW = 8
"""A batch of fewer messages is always a fast one, and its time is not counted."""
REMEMBERED = 8
"""Batches of each kind that are remembered; the fastest counts, as with the others we were slow ourselves."""
MAX_AGE = 60.0
"""Seconds after which the time of a batch counts only if there is no newer one."""
FIRST = 64
"""At most so many messages in the very first batch: more might not be stored in time on a slow disk."""
ATOMIC_AT_FIRST = 0.003
"""Seconds that an atomic batch is assumed to need for its preparation, before one was measured."""
ATOMIC_EACH = 10e-6
"""Seconds that each of its messages adds, at least."""
CLEARLY = 1.2
"""An atomic batch must be expected to be so many times as fast, as it leaves headers in the stream."""
TRIAL_EVERY = 64
"""One of so many batches (more at first) is a trial of the other kind: it may have become faster."""
TRIAL_SHARE = 0.02
"""The share of the time of all batches that trials may take."""
TRIAL_MAX = 0.05
"""A trial is so small that it should take at most so many seconds, or twice as long as the usual kind."""
BUDGET_PERIOD = 20.0
"""The share of trials is calculated over the batches of the last so many seconds, or twice as many."""
BUDGET_AT_FIRST = 2.5
"""Before there were any batches, the share of trials is calculated as if they had taken so many seconds."""


class BatchMode(NamedTuple):
    """How many of the waiting messages to send, and in which kind of batch."""

    atomic: bool
    size: int
    trial: bool = False


class _MeasuredBatch(NamedTuple):
    at: float
    size: int
    seconds: float

    def scaled(self, size: int, atomic: bool) -> float:
        """Seconds that a batch of `size` messages would have taken; rather too many than too few."""
        if atomic and size < self.size:
            return max(self.seconds - (self.size - size) * ATOMIC_EACH, 0.0)
        return self.seconds * size / self.size


class BatchStrategy:
    """Chooses for each batch how to send it. Times are in seconds, of any monotonic clock."""

    def __init__(self) -> None:
        self._taken = {atomic: deque[_MeasuredBatch](maxlen=REMEMBERED) for atomic in (False, True)}
        self._until_trial = 2
        self._between_trials = 1
        self._all, self._trials = BUDGET_AT_FIRST, 0.0

    def choose(self, count: int, now: float) -> BatchMode:
        """For `count` waiting messages, at least 2."""
        if count < FEW:
            return BatchMode(False, count)
        if not self._taken[False]:
            return BatchMode(False, min(count, FIRST))
        fast, atomic_time = self._expected(False, count, now), self._expected(True, count, now)
        atomic = CLEARLY * atomic_time < fast
        self._until_trial -= 1
        if self._until_trial <= 0 and self._trials <= TRIAL_SHARE * self._all:
            self._between_trials = min(2 * self._between_trials, TRIAL_EVERY)
            self._until_trial = self._between_trials
            seconds, usual = (fast, atomic_time) if atomic else (atomic_time, fast)
            most = max(TRIAL_MAX, 2 * usual)
            fits = count if seconds <= most else max(FEW, int(count * most / seconds))
            return BatchMode(not atomic, fits, trial=True)
        return BatchMode(atomic, count)

    def took(self, batch: BatchMode, seconds: float, now: float) -> None:
        """Remember how long a batch took until all of it was stored, or it was given up."""
        if batch.size < FEW:
            return
        self._taken[batch.atomic].append(_MeasuredBatch(now, batch.size, seconds))
        self._all += seconds
        if batch.trial:
            self._trials += seconds
        if self._all > 2 * BUDGET_PERIOD:
            self._all /= 2
            self._trials /= 2

    def _expected(self, atomic: bool, count: int, now: float) -> float:
        taken = self._taken[atomic]
        while len(taken) > 1 and taken[0].at < now - MAX_AGE:
            taken.popleft()
        if not taken:
            return ATOMIC_AT_FIRST + count * ATOMIC_EACH
        return min(each.scaled(count, atomic) for each in taken)
