"""What operators see of a system of real processes: its metrics."""

import re
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.system import SERVICES, System, until
from tests.servers import Process, service
from tests.telegram_standin import Standin

Described = dict[str, tuple[str, frozenset[str]]]
"""Type and labels by metric."""
DOCS = Path(__file__).parents[2] / "docs" / "operations.md"
ROW = re.compile(r"^\| `(registry_\w+)` \|\s*(\w+)\s*\|([^|]*)\|\s*([^|]*?)\s*\|", re.MULTILINE)


def documented(service: str) -> Described:
    return {
        name: (kind, frozenset(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels, services in ROW.findall(DOCS.read_text())
        if service in services.split(", ")
    }


def served(text: str) -> Described:
    found: Described = {}
    for family in text_string_to_metric_families(text):
        if family.name.startswith("registry_"):
            name = family.name + ("_total" if family.type == "counter" else "")
            assert family.samples, f"{name} has no sample, so nobody could see its labels"
            labels = frozenset(label for sample in family.samples for label in sample.labels) - {"le"}
            found[name] = family.type, labels
    return found


def test_the_metrics_are_those_that_the_documentation_names(tmp_path: Path) -> None:
    with Standin(chats=("42",)) as telegram:
        system = System(tmp_path, telegram)
        try:
            system.start()
            for name in SERVICES:
                assert served(system.http.get(system.url(name, "/metrics")).text) == documented(name), name
        finally:
            system.stop()


async def test_the_figures_follow_what_happens(tmp_path: Path) -> None:
    """A heartbeat, a silence that is told, Telegram away, the database away."""
    with Standin(chats=("42",)) as telegram:
        system = System(tmp_path, telegram, max_services="7", digest_time="00:00")
        try:
            system.start()

            def value(service: str, sample: str) -> float:
                text = system.http.get(system.url(service, "/metrics")).text
                found = re.search(rf"^{re.escape(sample)} (\S+)$", text, re.MULTILINE)
                assert found, f"{sample} in:\n{text}"
                return float(found[1])

            assert system.beat("web") == 200
            await until(
                lambda: value("monitor", 'registry_status_changes_total{from="alive",to="silent"}') == 1
            )
            assert value("monitor", 'registry_services{status="silent"}') == 1
            assert value("monitor", "registry_services_limit") == 7
            assert value("monitor", "registry_tick_lag_seconds") < 2
            assert value("ingest", "registry_store_seconds_count") == 1
            assert value("ingest", 'registry_ready{part="ticks"}') == 1
            await until(lambda: value("notifier", 'registry_messages_total{result="sent"}') >= 2)
            assert value("notifier", "registry_last_digest_timestamp_seconds") > 1.7e9
            assert value("notifier", "registry_digest_overdue_seconds") == 0
            telegram.control("cut")
            system.parts["mongo"].kill()
            system.parts["monitor"].kill()
            system.start("monitor", wait=False)
            assert system.beat("other") == 200
            await until(lambda: value("notifier", "registry_unsent_changes") >= 1)
            await until(lambda: value("notifier", "registry_oldest_unsent_seconds") > 1)
            await until(lambda: value("api", 'registry_projection_lag_seconds{stream="SERVICES"}') > 1)
            assert value("api", 'registry_ready{part="database"}') == 0
            telegram.control("ok")
            system.start("mongo")
            await until(lambda: value("notifier", "registry_oldest_unsent_seconds") == 0, within=30)
            await until(lambda: value("api", 'registry_projection_lag_seconds{stream="SERVICES"}') == 0)
        finally:
            system.stop()


def test_a_prometheus_elsewhere_comes_in_where_it_is_let(
    tmp_path: Path, nats: Process, nats_url: str
) -> None:
    """On loopback alone a strange name leads nowhere: it may be a page of another site that uses it."""
    for given, status in (({}, 421), ({"metrics_host": "0.0.0.0"}, 200)):
        monitor = service("monitor", tmp_path, nats_url, **given).start()
        try:
            url = f"http://127.0.0.1:{monitor.port}/metrics"
            assert httpx.get(url).status_code == 200
            assert httpx.get(url, headers={"Host": "monitor.example.com:8003"}).status_code == status
        finally:
            monitor.kill()
