"""The ids of traces and spans. Only imported when tracing is on, as it needs OpenTelemetry's SDK."""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator


class EventIds(RandomIdGenerator):
    """Random, but for the first span of an event's own trace."""

    _event_id = ""

    @contextmanager
    def of_event(self, event_id: str) -> Iterator[None]:
        """A span that begins in here has the event's id as its trace's, and half of it as its own."""
        self._event_id = event_id
        try:
            yield
        finally:
            self._event_id = ""

    def is_trace_id_random(self) -> bool:
        return not self._event_id

    def generate_trace_id(self) -> int:
        return int(self._event_id, 16) if self._event_id else super().generate_trace_id()

    def generate_span_id(self) -> int:
        return int(self._event_id[:16], 16) if self._event_id else super().generate_span_id()
