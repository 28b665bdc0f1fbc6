"""Traces from a heartbeat to its message, if the standard OTEL_* variables ask for them.

A heartbeat that carries a `traceparent` (over HTTP or NATS) is followed: the header stays with it in the
stream, and stands in the change of status that it makes. A change that no such heartbeat made begins a trace
of its own, whose id is that of the event, so that every service knows it without being told. While it is off,
the SDK is not imported.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

from shared.contracts.events import TRACEPARENT, StatusChanged
from shared.settings import stop as refuse

if TYPE_CHECKING:
    from opentelemetry.trace import Link, SpanContext

FLUSH_WITHIN = 2.0
"""Seconds that spans get to leave when the process ends."""
MOST_LINKS = 100

Kind = Literal["SERVER", "INTERNAL", "CLIENT"]


class Span:
    """What a block may say of itself. `traceparent`: to hand on; None if nothing is recorded."""

    traceparent: str | None = None

    def note(self, **attributes: str | int | bool) -> None:
        """Add attributes, `registry_result` for `registry.result`."""


_NOTHING = Span()


class _Tracing:
    """What is there once tracing is on."""

    tracer: Any
    sampler: Any
    ids: Any
    flush: Callable[[], object]


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
    for name in [
        name for name, value in os.environ.items() if name.startswith("OTEL_") and not value.strip()
    ]:
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
        _on = _made(service, exporter)
    except ImportError:
        refuse("OTEL_… asks for traces, which need the extra: pip install 'services-registry[otel]'")
    return True


def _made(service: str, exporter: str) -> _Tracing:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class Ids(RandomIdGenerator):
        """Random, unless the next span is to have ids that are known."""

        given: tuple[int, int] | None = None

        def generate_trace_id(self) -> int:
            return self.given[0] if self.given else super().generate_trace_id()

        def generate_span_id(self) -> int:
            return self.given[1] if self.given else super().generate_span_id()

    out: SpanExporter
    if exporter == "console":
        out = ConsoleSpanExporter(formatter=lambda span: span.to_json(indent=None) + "\n")
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        out = OTLPSpanExporter()
    names = {"service.name": f"registry-{service}", "service.namespace": "services-registry"}
    named = {key: value for key, value in names.items() if not _says(key)}
    on = _Tracing()
    on.ids = Ids()
    provider = TracerProvider(resource=Resource.create(named), id_generator=on.ids, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(out))
    on.tracer, on.sampler = provider.get_tracer("services-registry"), provider.sampler
    on.flush = provider.force_flush
    return on


def _says(attribute: str) -> bool:
    """Whether the environment names it already."""
    if attribute == "service.name" and os.environ.get("OTEL_SERVICE_NAME"):
        return True
    return f"{attribute}=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")


def stop() -> None:
    """Send what is left; a collector that does not answer holds nobody up."""
    if _on:
        leaving = threading.Thread(target=_on.flush, daemon=True)
        leaving.start()
        leaving.join(FLUSH_WITHIN)


def is_on() -> bool:
    return _on is not None


def of_change(event: StatusChanged) -> str | None:
    """The trace that a change belongs to, as who records and who tells it find out by themselves; None: it is
    not sampled."""
    if _on is None:
        return None
    if event.traceparent:
        return event.traceparent
    found = f"00-{event.id}-{event.id[:16]}-01"
    if not TRACEPARENT.fullmatch(found):  # an id that no monitor of ours has given
        return None
    from opentelemetry.context import Context

    decision = _on.sampler.should_sample(Context(), int(event.id, 16), "change of status").decision
    return found if decision.is_sampled() else None


def span(
    name: str,
    parent: str | None,
    *,
    kind: Kind = "INTERNAL",
    links: Sequence[str] = (),
    **attributes: str | int,
) -> AbstractContextManager[Span]:
    """A part of the trace that `parent`, a traceparent, stands for; nothing without one. `links`: others."""
    if _on is None or not parent:
        return nullcontext(_NOTHING)
    return _span(_on, name, parent, kind, links, attributes)


def beginning(event: StatusChanged, **attributes: str | int) -> AbstractContextManager[Span]:
    """The part in which a change is recorded: the first of its trace, unless a heartbeat has begun it."""
    parent = of_change(event)
    if _on is None or not parent:
        return nullcontext(_NOTHING)
    if event.traceparent:
        return _span(_on, "change of status", parent, "INTERNAL", (), attributes)
    return _span(_on, "change of status", None, "INTERNAL", (), attributes, event.id)


@contextmanager
def _span(
    on: _Tracing,
    name: str,
    parent: str | None,
    kind: Kind,
    links: Sequence[str],
    attributes: dict[str, str | int],
    id_: str = "",
) -> Iterator[Span]:
    from opentelemetry import context as contexts
    from opentelemetry import trace

    context = contexts.Context()
    if parent:
        context = trace.set_span_in_context(trace.NonRecordingSpan(_context(parent)), context)
    on.ids.given = (int(id_, 16), int(id_[:16], 16)) if id_ else None
    began = on.tracer.start_span(
        name,
        context,
        kind=trace.SpanKind[kind],
        attributes=_dotted(attributes),
        links=[_link(link) for link in links[:MOST_LINKS]],
    )
    on.ids.given = None

    class Recording(Span):
        def note(self, **more: str | int | bool) -> None:
            began.set_attributes(_dotted(more))

    it = Recording()
    made = began.get_span_context()
    if made.trace_flags.sampled:
        it.traceparent = f"00-{made.trace_id:032x}-{made.span_id:016x}-01"
    with trace.use_span(began, end_on_exit=True):
        yield it


def _dotted(attributes: dict[str, Any]) -> dict[str, Any]:
    return {key.replace("_", "."): value for key, value in attributes.items()}


def _context(traceparent: str) -> "SpanContext":
    from opentelemetry.trace import SpanContext, TraceFlags

    _, trace_id, span_id, flags = traceparent.split("-")
    return SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16))
    )


def _link(traceparent: str) -> "Link":
    from opentelemetry.trace import Link

    return Link(_context(traceparent))
