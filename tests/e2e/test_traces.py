"""Traces from the heartbeat to the message, as a collector of OpenTelemetry's protocol receives them."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from shared.messaging import streams
from tests.broker import changes, connect, eventually
from tests.e2e.conftest import Collector, traceparent
from tests.e2e.system import SERVICES, System, until
from tests.servers import Process, service
from tests.telegram_standin import Standin

ALL = {"registry-ingest", "registry-monitor", "registry-notifier"}


async def test_one_trace_from_the_heartbeat_to_the_message(tmp_path: Path, collector: Collector) -> None:
    with Standin(chats=("42",)) as telegram:
        system = System(tmp_path, telegram)
        try:
            system.start()
            trace, span, header = traceparent()
            url = system.url("ingest", "/heartbeat/web")
            assert system.http.post(url, headers={"traceparent": header}).status_code == 200
            await until(lambda: collector.of(trace).keys() == ALL)
            found = collector.of(trace)
            assert len(found) == sum(it.trace == trace for it in collector.seen)
            assert found["registry-ingest"].parent == span
            assert {found[it].parent for it in ALL - {"registry-ingest"}} == {found["registry-ingest"].id}
            assert found["registry-notifier"].attributes["registry.channel"] == "telegram"
            assert found["registry-notifier"].attributes["registry.result"] == "sent"

            nc, js = await connect(system.nats_url)
            (first,) = await changes(js, "web")
            assert first.traceparent == f"00-{trace}-{found['registry-ingest'].id}-01"
            await until(lambda: len(system.told("web")) == 3)
            silent, down = (await changes(js, "web"))[1:3]
            assert silent.traceparent is None
            for fall in (silent, down):  # no heartbeat made them: they begin at the monitor
                await until(lambda id_=fall.id: collector.of(id_).keys() == ALL - {"registry-ingest"})
                assert collector.of(fall.id)["registry-monitor"].parent == ""
                begun = collector.of(fall.id)["registry-monitor"].id
                assert collector.of(fall.id)["registry-notifier"].parent == begun

            trace, span, header = traceparent()
            await js.publish(streams.heartbeat("web"), headers={"traceparent": header})
            await until(lambda: collector.of(trace).keys() == ALL - {"registry-ingest"})
            assert {it.parent for it in collector.of(trace).values()} == {span}

            trace, span, header = traceparent()
            batch = system.http.post(
                system.url("ingest", "/heartbeats"),
                json={"services": ["batch.1", "batch.2"]},
                headers={"traceparent": header},
            )
            assert batch.json() == {"accepted": 2, "rejected": []}
            await until(lambda: collector.of(trace).keys() == ALL)
            assert collector.of(trace)["registry-ingest"].parent == span
            (first,) = await changes(js, "batch.2")
            assert first.traceparent == f"00-{trace}-{collector.of(trace)['registry-ingest'].id}-01"

            trace, _, header = traceparent(flags="00")
            assert system.http.post(url, headers={"traceparent": header}).status_code == 200
            assert system.http.post(url, headers={"traceparent": "nonsense"}).status_code == 200
            assert "traceparent" not in (
                (await js.get_last_msg(streams.HEARTBEATS, "heartbeat.web")).headers or {}
            )
            assert not collector.of(trace)
            await nc.close()
            for name in ("ingest", "monitor", "notifier"):
                assert system.parts[name].stop() == 0
        finally:
            system.stop()


async def test_a_collector_that_is_away_delays_nothing(
    tmp_path: Path, nats: Process, nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    ingest = service("ingest", tmp_path, nats_url).start()
    try:
        url = f"http://127.0.0.1:{ingest.port}/heartbeat/web"

        async def stored() -> bool:
            async with httpx.AsyncClient() as client:
                return (await client.post(url, headers={"traceparent": traceparent()[2]})).status_code == 200

        await eventually(stored)
        assert ingest.stop() == 0
    finally:
        ingest.kill()


SWITCHED_OFF: tuple[dict[str, str], ...] = (
    {},
    {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
    {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
    {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
)


@pytest.mark.parametrize(("name", "variables"), list(zip(SERVICES, SWITCHED_OFF, strict=True)))
def test_switched_off_nothing_of_it_is_loaded(name: str, variables: dict[str, str]) -> None:
    """A service is imported with these variables, and then each way to switch it off is asked for."""
    code = (
        f"import os, sys, services.{name}.__main__; from shared.telemetry import tracing\n"
        f"for given in ({variables}, *{SWITCHED_OFF}):\n"
        "    [os.environ.pop(it) for it in list(os.environ) if it.startswith('OTEL_')]\n"
        "    os.environ.update(given)\n"
        "    assert not tracing.start('x')\n"
        "sdk = 'opentelemetry.sdk', 'opentelemetry.exporter'\n"
        "assert not [it for it in sys.modules if it.startswith(sdk)]"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **variables}, check=True, timeout=30)


@pytest.mark.parametrize(
    "variables", [{"OTEL_TRACES_EXPORTER": "zipkin"}, {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}]
)
def test_what_is_not_supported_is_refused(variables: dict[str, str]) -> None:
    env = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", **variables}
    code = "from shared.telemetry import tracing; tracing.start('x')"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert next(iter(variables)) in done.stderr
