"""Spans as they are recorded; the way from the heartbeat to the message is in tests/e2e/test_traces.py."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from opentelemetry.trace import StatusCode

from shared.contracts.events import Status, StatusChanged, StatusData, status_changed
from shared.telemetry import tracing

TRACE, SPAN = "1f" * 16, "2e" * 8
PARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.fixture
def switch_on(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sampler], InMemorySpanExporter]:
    def on(sampler: Sampler) -> InMemorySpanExporter:
        recorded, ids = InMemorySpanExporter(), tracing.EventIds()
        provider = TracerProvider(sampler, Resource({}), shutdown_on_exit=False, id_generator=ids)
        provider.add_span_processor(SimpleSpanProcessor(recorded))
        monkeypatch.setattr(tracing, "_on", tracing._Tracing(provider, provider.get_tracer("test"), ids))
        return recorded

    return on


@pytest.fixture
def recorded(switch_on: Callable[[Sampler], InMemorySpanExporter]) -> InMemorySpanExporter:
    return switch_on(ALWAYS_ON)


def event(traceparent: str | None = None) -> StatusChanged:
    now = datetime(2026, 11, 23, tzinfo=UTC)
    data = StatusData(from_=Status.ALIVE, to=Status.DOWN, since=now, last_heartbeat=now, reason="test")
    return status_changed("web", data, traceparent)


def ids(span: ReadableSpan) -> tuple[str, str, str]:
    assert span.context
    parent = f"{span.parent.span_id:016x}" if span.parent else ""
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}", parent


def test_a_span_follows_its_parent_and_is_carried_on(recorded: InMemorySpanExporter) -> None:
    with tracing.span("heartbeat", PARENT, {"registry.service": "web"}, kind="SERVER") as span:
        headers = tracing.headers_of(span)
        span.set_attribute("registry.result", "sent")
    (found,) = recorded.get_finished_spans()
    trace, own, parent = ids(found)
    assert (trace, parent) == (TRACE, SPAN)
    assert headers == {"traceparent": f"00-{TRACE}-{own}-01"}
    assert dict(found.attributes or {}) == {"registry.service": "web", "registry.result": "sent"}


def test_links_are_other_traces_and_no_more_than_so_many(recorded: InMemorySpanExporter) -> None:
    others = [f"00-{n:032x}-{n:016x}-01" for n in range(1, 200)]
    with tracing.span("send", PARENT, {}, kind="CLIENT", links=others):
        pass
    (found,) = recorded.get_finished_spans()
    assert [link.context.trace_id for link in found.links] == list(range(1, tracing.MAX_LINKS + 1))


def test_what_is_raised_is_recorded_and_goes_on(recorded: InMemorySpanExporter) -> None:
    for span in (tracing.span("send", PARENT, {}), tracing.change_span(event(), {})):
        with pytest.raises(ValueError, match="nothing"), span:
            raise ValueError("nothing")
    for found in recorded.get_finished_spans():
        assert found.status.status_code is StatusCode.ERROR
        assert [it.name for it in found.events] == ["exception"]


def test_a_change_begins_a_trace_that_its_event_names(recorded: InMemorySpanExporter) -> None:
    change = event()
    with tracing.change_span(change, {}) as span:
        headers = tracing.headers_of(span)
    with tracing.change_span(event(), {}), tracing.span("send", PARENT, {}):
        pass  # what is not the first span of a change has ids of its own
    first, inner, _ = recorded.get_finished_spans()
    assert ids(first) == (change.id, change.id[:16], "")
    assert headers["traceparent"] == tracing.traceparent_of(change)
    assert ids(inner)[0] == TRACE
    assert ids(inner)[1] != change.id[:16]


def test_a_change_that_a_heartbeat_made_goes_on_with_its_trace(recorded: InMemorySpanExporter) -> None:
    with tracing.change_span(event(PARENT), {}):
        pass
    (found,) = recorded.get_finished_spans()
    assert (ids(found)[0], ids(found)[2]) == (TRACE, SPAN)
    assert tracing.traceparent_of(event(PARENT)) == PARENT


def test_what_is_not_sampled_is_not_carried_on(
    switch_on: Callable[[Sampler], InMemorySpanExporter],
) -> None:
    recorded = switch_on(ALWAYS_OFF)
    with tracing.span("heartbeat", PARENT, {}) as span:
        assert tracing.headers_of(span) == {}
    with tracing.change_span(event(), {}) as span:
        assert tracing.headers_of(span) == {}
    assert tracing.traceparent_of(event()) is None
    assert not recorded.get_finished_spans()


def test_switched_off_it_takes_everything_and_records_nothing() -> None:
    assert not tracing.is_on()
    assert tracing.traceparent_of(event(PARENT)) is None
    for span in (tracing.span("send", PARENT, {}, links=[PARENT]), tracing.change_span(event(PARENT), {})):
        with span as nothing:
            nothing.set_attribute("registry.result", "sent")
            assert tracing.headers_of(nothing) == {}


@pytest.mark.parametrize("missing", ["opentelemetry.sdk", "opentelemetry.exporter"])
def test_without_the_extra_only_who_asks_for_traces_is_refused(missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from shared.telemetry import tracing\n"
        "print(tracing.start('x'))"
    )
    env = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    without = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=30
    )
    assert (without.returncode, without.stdout) == (0, "False\n"), without.stderr
    env["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:9"
    asked = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert asked.returncode == 2
    assert "pip install 'services-registry[otel]'" in asked.stderr
