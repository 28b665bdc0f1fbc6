"""Traces from a heartbeat to its message, if the standard OTEL_* variables ask for them.

A heartbeat that carries a `traceparent` (over HTTP or NATS) is followed: the header stays with it in the
stream, and stands in the change of status that it makes. A change that no such heartbeat made begins a trace
of its own, whose id is that of the event, so that every service can work it out from the event. While tracing
is off, OpenTelemetry's SDK is not imported, and every span is its API's span that records nothing.
"""

import os
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Literal, NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.contracts.events import TRACEPARENT, TRACEPARENT_HEADER, StatusChanged
from shared.settings import stop as refuse

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

FLUSH_TIMEOUT = 2.0
"""Seconds that spans get to leave when the process ends."""
MAX_LINKS = 100
CHANGE = "change of status"

Attributes = Mapping[str, str | int]
_W3C = TraceContextTextMapPropagator()


class EventIds:
    """The SDK's IdGenerator, random but for the first span of an event's own trace."""

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
        return int(self._event_id, 16) if self._event_id else secrets.randbits(128) or 1

    def generate_span_id(self) -> int:
        return int(self._event_id[:16], 16) if self._event_id else secrets.randbits(64) or 1


class _Tracing(NamedTuple):
    """What is there once tracing is on."""

    provider: "TracerProvider"
    tracer: trace.Tracer
    ids: EventIds


_on: _Tracing | None = None


def wanted() -> bool:
    """Whether the environment asks for traces."""
    get = os.environ.get
    if get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporter:
        return exporter != "none"
    return bool(get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or get("OTEL_EXPORTER_OTLP_ENDPOINT"))


def start(service: str) -> bool:
    """Switch tracing on if it is wanted; whether it is. Ends the process with code 2 if it cannot be."""
    global _on
    if not wanted():
        return False
    for name, value in list(os.environ.items()):
        if name.startswith("OTEL_") and not value.strip():
            del os.environ[name]  # Compose sets to nothing what is not set
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower()
    if exporter not in ("otlp", "console"):
        refuse(f"OTEL_TRACES_EXPORTER={exporter!r} is not accepted: otlp, console, none")
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"
    )
    if exporter == "otlp" and protocol.strip() != "http/protobuf":
        refuse(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol!r} is not accepted: http/protobuf")
    try:
        _on = _sdk(service, exporter)
    except ImportError:
        refuse("OTEL_… asks for traces, which need the extra: pip install 'services-registry[otel]'")
    return True


def _sdk(service: str, exporter: str) -> _Tracing:
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

    out: SpanExporter
    if exporter == "console":
        out = ConsoleSpanExporter(formatter=lambda span: span.to_json(indent=None) + "\n")
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        out = OTLPSpanExporter()
    ours = {"service.name": f"registry-{service}", "service.namespace": "services-registry"}
    named = Resource.create(ours).merge(OTELResourceDetector().detect())  # the environment's names win
    ids = EventIds()
    provider = TracerProvider(resource=named, id_generator=ids, shutdown_on_exit=False)  # type: ignore[arg-type]
    provider.add_span_processor(BatchSpanProcessor(out))
    return _Tracing(provider, provider.get_tracer("services-registry"), ids)


def stop() -> None:
    """Send what is left; a collector that does not answer holds nobody up."""
    if _on:
        leaving = threading.Thread(target=_on.provider.force_flush, daemon=True)
        leaving.start()
        leaving.join(FLUSH_TIMEOUT)


def is_on() -> bool:
    return _on is not None


def traceparent_of(event: StatusChanged) -> str | None:
    """The trace of a change, as who records it and who sends it each work out; None: it is not sampled."""
    if _on is None:
        return None
    if event.traceparent:
        return event.traceparent
    found = f"00-{event.id}-{event.id[:16]}-01"
    if not TRACEPARENT.fullmatch(found):  # an id that no monitor of ours has given
        return None
    sampling = _on.provider.sampler.should_sample(Context(), int(event.id, 16), CHANGE)
    return found if sampling.decision.is_sampled() else None  # type: ignore[no-untyped-call]


def span(
    name: str,
    parent: str | None,
    attributes: Attributes,
    *,
    kind: Literal["SERVER", "INTERNAL", "CLIENT"] = "INTERNAL",
    links: Sequence[str] = (),
) -> AbstractContextManager[Span]:
    """A part of the trace of the traceparent `parent`; records nothing without one. `links`: other traces."""
    if _on is None or not parent:
        return nullcontext(INVALID_SPAN)
    linked = [Link(trace.get_current_span(_context(link)).get_span_context()) for link in links[:MAX_LINKS]]
    return _on.tracer.start_as_current_span(name, _context(parent), SpanKind[kind], attributes, linked)


def change_span(event: StatusChanged, attributes: Attributes) -> AbstractContextManager[Span]:
    """The part in which a change is recorded: the first of its trace, unless a heartbeat has begun it."""
    parent = traceparent_of(event)
    if _on is None or not parent or event.traceparent:
        return span(CHANGE, parent, attributes)
    with _on.ids.of_event(event.id):
        first = _on.tracer.start_span(CHANGE, Context(), attributes=attributes)
    return trace.use_span(first, end_on_exit=True)


def headers_of(span: Span) -> dict[str, str]:
    """What carries a trace on with a message; nothing if the span is not recorded."""
    headers: dict[str, str] = {}
    if span.get_span_context().trace_flags.sampled:
        _W3C.inject(headers, trace.set_span_in_context(span))
    return headers


def _context(traceparent: str) -> Context:
    return _W3C.extract({TRACEPARENT_HEADER: traceparent}, Context())
