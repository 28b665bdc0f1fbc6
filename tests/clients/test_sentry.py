"""Sentry Crons: its SDKs for Python and Node, Celery beat, and the plain requests of borgmatic and curl."""

import subprocess
import time

import httpx

from services.api.dashboard.pages import snippets
from tests.clients.conftest import INGEST_TOKEN, Client, Registry, full, signals
from tests.clients.test_healthchecks import borgmatic

pytestmark = full

SDK = """
import time
import sentry_sdk
from sentry_sdk.crons import MonitorStatus, capture_checkin, monitor

sentry_sdk.init("DSN", environment="production", release="1.2.3", traces_sample_rate=1.0)
config = {
    "schedule": {"type": "crontab", "value": "0 3 * * *"},
    "timezone": "Europe/Vienna",
    "checkin_margin": 10,
    "max_runtime": 30,
    "failure_issue_threshold": 2,
    "recovery_threshold": 3,
}

@monitor(monitor_slug="sdk-decorated", monitor_config=config)
def nightly():
    time.sleep(0.2)

nightly()
try:
    with monitor(monitor_slug="sdk-context"):
        raise ValueError("boom")
except ValueError as error:
    sentry_sdk.capture_exception(error)
began = capture_checkin(
    monitor_slug="sdk-checkin",
    status=MonitorStatus.IN_PROGRESS,
    monitor_config={"schedule": {"type": "interval", "value": 2, "unit": "hour"}},
)
capture_checkin(monitor_slug="sdk-checkin", check_in_id=began, status=MonitorStatus.OK, duration=4.5)
capture_checkin(monitor_slug="every hour: tidy up", status=MonitorStatus.OK)
sentry_sdk.capture_message("of no matter here")
assert sentry_sdk.get_client().transport._compression_algo == "br"
sentry_sdk.flush()
sentry_sdk.init("DSN", _experiments={"transport_compression_algo": "gzip"})
capture_checkin(monitor_slug="sdk-gzip", status=MonitorStatus.OK)
assert sentry_sdk.get_client().transport._compression_algo == "gzip"
sentry_sdk.flush()
"""


def dsn(registry: Registry, project: int = 1) -> str:
    return registry.ingest.replace("://", f"://{INGEST_TOKEN}@") + f"/{project}"


def test_sentry_sdk(registry: Registry, client: Client) -> None:
    client.python(SDK.replace("DSN", dsn(registry)))
    heard = registry.heartbeats("sdk-decorated", 2)
    assert signals(heard) == ["start", "success"]
    assert len({it["run"] for it in heard}) == 1
    assert 0.15 <= heard[1]["duration"] < 2
    [run] = registry.runs("sdk-decorated", "success")
    assert run["run"] == heard[0]["run"]
    assert 0.15 <= run["duration"] < 2
    service = registry.service("sdk-decorated", lambda it: it["schedule"])
    assert (service["schedule"], service["time_zone"]) == ("0 3 * * *", "Europe/Vienna")
    assert service["thresholds"]["down_after"] == "10m"
    assert service["max_run"] == "30m"
    assert (service["fail_after"], service["recover_after"]) == (2, 3)
    assert service["warnings"] == []

    assert signals(registry.heartbeats("sdk-context", 2)) == ["start", "fail"]
    registry.service("sdk-context", lambda it: it["status"] == "down")

    assert signals(registry.heartbeats("sdk-checkin", 2)) == ["start", "success"]
    assert registry.service("sdk-checkin", lambda it: it["every"])["every"] == "2h"
    assert registry.runs("sdk-checkin", "success")[0]["duration"] == 4.5

    assert signals(registry.heartbeats("sdk-gzip", 1)) == ["success"]
    [mended] = registry.heartbeats("every-hour--tidy-up", 1)
    assert any("every hour: tidy up" in it for it in mended["warnings"])


def test_the_lines_of_connect(registry: Registry, client: Client) -> None:
    (lines,) = (it.text for it in snippets(registry.ingest, "sdk-lines", token=True) if it.id == "sentry")
    client.python(lines.replace("YOUR_INGEST_TOKEN", INGEST_TOKEN))
    assert signals(registry.heartbeats("sdk-lines", 2)) == ["start", "success"]
    service = registry.service("sdk-lines", lambda it: it["schedule"])
    assert (service["schedule"], service["time_zone"], service["max_run"]) == ("0 3 * * *", "UTC", "2h")
    assert service["threshold_sources"]["down_after"] == "heartbeat"
    assert service["thresholds"]["down_after"] == "15m"


NODE = """
const Sentry = require("@sentry/node");
Sentry.init({ dsn: "DSN", environment: "production", release: "1.2.3", tracesSampleRate: 1.0 });

(async () => {
  await Sentry.withMonitor("node-with", () => new Promise((done) => setTimeout(done, 300)), {
    schedule: { type: "crontab", value: "*/10 * * * *" },
    checkinMargin: 2,
    maxRuntime: 10,
    timezone: "America/Los_Angeles",
    failureIssueThreshold: 2,
    recoveryThreshold: 3,
  });
  await Sentry.withMonitor("node-fails", async () => {
    await new Promise((done) => setTimeout(done, 300));
    throw new Error("boom");
  }).catch(() => {});
  const checkInId = Sentry.captureCheckIn(
    { monitorSlug: "node-checkin", status: "in_progress" },
    { schedule: { type: "interval", value: 1, unit: "day" } },
  );
  await Sentry.flush(5000);
  Sentry.captureCheckIn({ checkInId, monitorSlug: "node-checkin", status: "ok", duration: 2.5 });
  Sentry.captureCheckIn({ monitorSlug: "node-heartbeat", status: "error" });
  Sentry.captureException(new Error("of no matter here"));
  await Sentry.flush(5000);
})();
"""


def test_sentry_node(registry: Registry, node: Client) -> None:
    node.run("node", "-e", NODE.replace("DSN", dsn(registry, 4507)))
    assert signals(registry.heartbeats("node-with", 2)) == ["start", "success"]
    service = registry.service("node-with", lambda it: it["schedule"])
    assert (service["schedule"], service["time_zone"]) == ("*/10 * * * *", "America/Los_Angeles")
    assert service["thresholds"]["down_after"] == "2m"
    assert service["max_run"] == "10m"
    assert (service["fail_after"], service["recover_after"]) == (2, 3)
    assert 0.2 <= registry.runs("node-with", "success")[0]["duration"] < 3

    assert signals(registry.heartbeats("node-fails", 2)) == ["start", "fail"]
    registry.service("node-fails", lambda it: it["status"] == "down")

    heard = registry.heartbeats("node-checkin", 2)
    assert signals(heard) == ["start", "success"]
    assert heard[1]["duration"] == 2.5
    assert registry.service("node-checkin", lambda it: it["every"])["every"] == "1d"
    assert signals(registry.heartbeats("node-heartbeat", 1)) == ["fail"]


NODES = """{"sent_at":"2026-11-28T01:58:33.SENTZ","sdk":{"name":"sentry.javascript.node","version":"11.12.0"}}
{"type":"check_in"}
{"check_in_id":"eb3ed48508ef48efb9d49b9aa176f941","monitor_slug":"node-crossed","status":"STATUS","environment":"prod"}"""


def test_a_start_that_comes_after_its_end(registry: Registry) -> None:
    """Node's SDK sends both at once, over two connections: of a run of milliseconds they may cross. As it
    writes them: no length of an item, no line end, no header but the address."""
    address = f"{registry.ingest}/api/1/envelope/?sentry_version=7&sentry_key={INGEST_TOKEN}"
    for status, sent in (("ok", "759"), ("in_progress", "744")):
        content = NODES.replace("STATUS", status).replace("SENT", sent).encode()
        assert httpx.post(address, content=iter([content])).status_code == 202
    heard = registry.heartbeats("node-crossed", 2)
    assert signals(heard) == ["success", "log"]
    service = registry.service("node-crossed", lambda it: it["status"] == "alive")
    assert (service["running_since"], service["warnings"]) == (None, [])


CELERY = """
from celery import Celery
from celery.schedules import crontab

app = Celery("tasks", broker="filesystem://")
app.conf.update(
    broker_transport_options={
        "data_folder_in": "queue", "data_folder_out": "queue",
        "processed_folder": "done", "control_folder": "control",
    },
    timezone="Europe/Vienna",
    beat_schedule={
        "celery-crontab": {"task": "tasks.good", "schedule": crontab()},
        "celery-interval": {"task": "tasks.bad", "schedule": 60.0},
        "celery-in-seconds": {"task": "tasks.good", "schedule": 20.0},
    },
)

@app.task(name="tasks.good")
def good():
    return 1

@app.task(name="tasks.bad")
def bad():
    raise ValueError("boom")
"""


def test_celery_beat(registry: Registry, client: Client) -> None:
    """The lines of the page Connect above an app. Beat says when each task is due, the worker how it ended. A
    minute at least: Sentry knows no less, and its SDK says nothing of a task that is due more often."""
    for folder in ("queue", "done", "control"):
        (client.folder / folder).mkdir()
    lines = next(it.text for it in snippets(registry.ingest, "any", token=True) if it.id == "celery")
    (client.folder / "tasks.py").write_text(lines.replace("YOUR_INGEST_TOKEN", INGEST_TOKEN) + CELERY)
    celery = client.env["PATH"].partition(":")[0] + "/celery"
    running: list[subprocess.Popen[bytes]] = []
    log = client.folder / "log"
    try:
        with log.open("w") as out:
            for part in (["beat"], ["worker", "--concurrency", "1"]):
                command = [celery, "-A", "tasks", *part]
                running.append(
                    subprocess.Popen(command, cwd=client.folder, env=client.env, stdout=out, stderr=out)
                )
        deadline = time.monotonic() + 80
        while "boom" not in log.read_text():
            assert all(it.poll() is None for it in running), log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(20)
    service = registry.service(
        "celery-crontab", lambda it: it.get("status") == "alive" and it["last_duration"] is not None
    )
    assert (service["schedule"], service["time_zone"]) == ("* * * * *", "Europe/Vienna")
    runs = registry.http.get(f"{registry.api}/service/celery-crontab/runs").json()["items"]
    assert {it["outcome"] for it in runs} == {"success"}
    assert all(it["run"] for it in runs)
    assert registry.service("celery-interval", lambda it: it["status"] == "down")["every"] == "1m"
    [run] = registry.runs("celery-interval", "failure")
    assert run["run"]
    assert signals(registry.heartbeats("celery-interval", 2)) == ["start", "fail"]
    assert registry.http.get(f"{registry.api}/service/celery-in-seconds").status_code == 404


BORGMATIC = """
repositories:
    - path: FOLDER/repository
source_directories:
    - FOLDER/source
sentry:
    data_source_name_url: DSN
    monitor_slug: borgmatic-sentry
    environment: production
"""


def test_borgmatic(registry: Registry, client: Client) -> None:
    hooks = BORGMATIC.replace("DSN", dsn(registry, 5))
    assert "Sentry error" not in borgmatic(client, hooks)
    (client.folder / "broken").touch()
    assert "Sentry error" not in borgmatic(client, hooks, ends=1)
    heard = registry.heartbeats("borgmatic-sentry", 4)
    assert signals(heard) == ["start", "success", "start", "fail"]
    assert heard[0]["metadata"] == {"environment": "production"}
    assert registry.runs("borgmatic-sentry", "success", "failure")
    registry.service("borgmatic-sentry", lambda it: it["status"] == "down")


CURL = """
set -e
ID=3f9ad2ae-1b5d-4a1f-9f7c-7f4f1a1c1d11
URL=BASE/api/9/cron/by-curl/TOKEN/
curl -fsS -o /dev/null -w '%{http_code} ' "$URL?status=in_progress"
curl -fsS -o /dev/null -w '%{http_code} ' "$URL?status=ok"
curl -fsS -o /dev/null -w '%{http_code} ' -X POST "$URL" --header 'Content-Type: application/json' \
    --data-raw '{"monitor_config": {"schedule": {"type": "crontab", "value": "5 * * * *"}}, "status": "ok"}'
curl -fsS -o /dev/null -w '%{http_code} ' "$URL?status=error&duration=1.5&check_in_id=$ID"
curl -sS -o /dev/null -w '%{http_code}' "BASE/api/9/cron/by-curl/wrong/?status=ok"
"""


def test_sentry_by_curl(registry: Registry, client: Client) -> None:
    """The lines of its documentation on crons over HTTP."""
    said = client.run("sh", "-c", CURL.replace("BASE", registry.ingest).replace("TOKEN", INGEST_TOKEN))
    assert said in ("202 202 202 202 401", "202 202 202 202 403")
    heard = registry.heartbeats("by-curl", 4)
    assert signals(heard) == ["start", "success", "success", "fail"]
    assert registry.service("by-curl", lambda it: it["schedule"])["schedule"] == "5 * * * *"
    assert heard[3]["duration"] == 1.5
