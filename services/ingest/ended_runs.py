"""Runs that have ended, as a client may send a run's start after its end.

Sentry's SDK for Node sends both over connections of their own, so that of a run of milliseconds the end may
come first. Taken for a start, the other would open a run that nobody ends.
"""

MOST = 10_000
"""Runs that are remembered; the oldest give way."""


class EndedRuns:
    """By the service's name and the client's id of the run: when its end was sent, by the client's clock. Of
    this ingest alone."""

    def __init__(self) -> None:
        self._ended: dict[tuple[str, str], float] = {}

    def end(self, name: str, run: str, sent_at: float) -> None:
        self._ended.pop((name, run), None)
        self._ended[name, run] = sent_at
        if len(self._ended) > MOST:
            del self._ended[next(iter(self._ended))]

    def is_late(self, name: str, run: str, sent_at: float) -> bool:
        """Whether a start was sent before the end that has come."""
        return sent_at < self._ended.get((name, run), float("-inf"))
