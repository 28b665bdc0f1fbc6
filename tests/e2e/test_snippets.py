"""What the page Connect gives to copy, run as it stands there."""

import gzip
import html
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.api.dashboard.pages import nats_server, snippets
from services.api.settings import ApiSettings
from tests.broker import connect
from tests.e2e.system import System, until
from tests.telegram_standin import Standin

SHELL = ["sh", "-c"]


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    with Standin() as telegram:
        system = System(tmp_path, telegram, ingest_token="YOUR_INGEST_TOKEN").start()
        yield system
        system.stop()


def begin(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


async def by_nats(lines: str) -> None:
    """As the tool `nats` does with such lines: its server, the subject, headers after -H, and the payload."""
    for line in lines.splitlines():
        program, flag, server, command, subject, *headers, payload = shlex.split(line)
        assert (program, flag, command) == ("nats", "--server", "pub")
        client, _ = await connect(server)
        said = dict(it.split(":", 1) for it in headers if it != "-H")
        await client.publish(subject, payload.encode(), headers=said or None)
        await client.close()


async def test_every_line_that_can_be_run_here_is_a_heartbeat(system: System, tmp_path: Path) -> None:
    url = system.url("ingest", "")
    shown = html.unescape(system.http.get(system.url("api", "/ui/connect?name=placeholder")).text)
    texts = {it.id: it.text for it in snippets(url, "placeholder", token=True, nats_server=system.nats_url)}
    assert texts["nats"] in shown

    def of(id_: str, name: str) -> str:
        return texts[id_].replace("placeholder", name)

    cron = of("cron", "by-cron").removeprefix("0 3 * * *  ").replace("/usr/local/bin/backup", "true")
    unit = of("systemd", "by-systemd").splitlines()
    before = unit[0].removeprefix("ExecStartPre=-")
    after = unit[1].removeprefix("ExecStopPost=-")
    assert after.endswith("/${EXIT_STATUS:-fail}'")
    docker = of("docker", "by-docker").partition("&& ")[2]
    action = yaml.safe_load(of("github", "by-github"))[0]["run"]
    action = action.replace("${{ secrets.REGISTRY_INGEST_TOKEN }}", "YOUR_INGEST_TOKEN")
    action = action.replace("${{ job.status == 'success' && '/0' || '/fail' }}", "/0")
    asynchronous = of("python-async", "by-async") + "\nasyncio.run(asyncio.wait_for(beat(), 20))"
    commands = {
        "by-curl": [*SHELL, of("curl", "by-curl")],
        "by-cron": [*SHELL, cron],
        "by-wrapper": [*SHELL, of("wrapper", "by-wrapper").replace("/usr/local/bin/backup", "true")],
        "by-systemd": [*SHELL, f"{before}; EXIT_STATUS=3 {after}"],
        "by-killed": [*SHELL, f"{before}; EXIT_STATUS=KILL {after}".replace("by-systemd", "by-killed")],
        "by-unstarted": [*SHELL, f"unset EXIT_STATUS; {after}".replace("by-systemd", "by-unstarted")],
        "by-docker": [*SHELL, docker],
        "by-github": [*SHELL, action],
        "by-python": [sys.executable, "-c", of("python", "by-python")],
        "by-async": [sys.executable, "-c", asynchronous],
        "by-url": [*SHELL, f"curl -fsS '{of('browser', 'by-url')}'"],
    }
    if node := shutil.which("node"):
        commands["by-node"] = [node, "-e", of("node", "by-node").replace("60_000", "200")]
    running = [begin(command, tmp_path) for command in commands.values()]
    try:
        await until(lambda: commands.keys() <= {it["name"] for it in system.api("/services")["items"]})
        await until(lambda: len(system.api("/service/by-systemd/heartbeats")["items"]) == 2)
        signals = [it["signal"] for it in system.api("/service/by-systemd/heartbeats")["items"]]
        assert signals == ["fail", "start"]
        for name in ("by-cron", "by-wrapper"):
            await until(lambda name=name: system.api(f"/service/{name}")["last_duration"] is not None)  # type: ignore[misc]
        for name in ("by-systemd", "by-killed", "by-unstarted"):
            await until(lambda name=name: system.api(f"/service/{name}")["status"] == "down")  # type: ignore[misc]
        assert system.api("/service/by-killed")["reason"] == "reported failure (KILL)"
        assert system.api("/service/by-cron")["schedule"] == "0 3 * * *"
        for name in ("by-systemd", "by-github"):
            assert system.api(f"/service/{name}")["every"] == "1d"
        await by_nats(of("nats", "by-nats"))
        await until(lambda: system.api("/service/by-nats")["status"] == "down")
        await until(lambda: system.api("/service/by-nats")["message"] == "disk full")
    finally:
        for process in running:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("urls", "shown"),
    [
        ("nats://10.0.0.1:4222,nats://10.0.0.2:4222", "nats://10.0.0.1:4222,nats://10.0.0.2:4222"),
        ("nats://10.0.0.1:4222,nats://api:secret@10.0.0.2:4222", "YOUR_NATS_SERVER"),
        ("tls://token@nats:4222", "YOUR_NATS_SERVER"),
    ],
)
def test_the_server_of_nats_is_named_where_it_holds_no_password(urls: str, shown: str) -> None:
    assert nats_server(ApiSettings(nats_url=urls)) == shown  # type: ignore[arg-type]


# --- by ping key: other systems' clients. What cannot be had here is read as its tool reads it, and what that
# --- would send is sent.


def with_keys(system: System, *ids: str) -> dict[str, str]:
    """These snippets, each for a service of its own, `by-` and its id, with its ping key."""
    found = {}
    for id_ in ids:
        made = system.http.post(system.url("api", "/service"), json={"name": f"by-{id_}"})
        key = made.json()["ping_url"].rpartition("/")[2]
        its = snippets(
            system.url("ingest", ""), f"by-{id_}", True, ping_key=key, public_url=system.url("api", "")
        )
        found[id_] = next(it.text for it in its if it.id == id_)
    return found


async def signals(system: System, name: str, *wanted: str) -> None:
    """The signals that its last heartbeats have, the newest first."""

    def are_there() -> bool:
        items = system.api(f"/service/{name}/heartbeats")["items"]
        return [it["signal"] for it in items] == list(wanted)

    await until(are_there)


async def test_every_way_with_a_ping_key_is_a_heartbeat(system: System, tmp_path: Path) -> None:
    texts = with_keys(system, "ping", "kuma", "gatus", "borgmatic", "restic", "resticprofile")

    for id_ in ("ping", "kuma", "gatus"):
        assert begin([*SHELL, texts[id_]], tmp_path).wait(30) == 0
        await signals(system, f"by-{id_}", "success")

    borgmatic = yaml.safe_load(texts["borgmatic"])["healthchecks"]
    for state in ("/start", ""):
        assert system.http.post(borgmatic["ping_url"] + state, content=b"a log").text == "OK"
    await signals(system, "by-borgmatic", "success", "start")

    runitor, *flags = shlex.split(texts["restic"])
    given = dict(zip(flags[0:4:2], flags[1:4:2], strict=True))
    assert (runitor, set(given), flags[4:]) == (
        "runitor",
        {"-api-url", "-uuid"},
        ["--", "restic", "backup", "/home"],
    )
    rid = "?rid=7f0a4f1e-52f4-4b63-a5b0-8a0cfd1ae3a5"
    for end in ("/start", "/0"):
        answer = system.http.post(f"{given['-api-url']}/{given['-uuid']}{end}{rid}", content=b"output")
        assert (answer.status_code, answer.headers["ping-body-limit"]) == (200, "10000")
    await signals(system, "by-restic", "success", "start")

    profile = yaml.safe_load(texts["resticprofile"])["default"]["backup"]
    for when in ("send-before", "send-after", "send-after-fail"):
        for each in profile[when]:
            answer = system.http.request(each["method"], each["url"], content=each.get("body", ""))
            assert answer.status_code == 200
    await signals(system, "by-resticprofile", "fail", "success", "start")


async def test_a_cron_job_of_kubernetes(system: System, tmp_path: Path) -> None:
    job = yaml.safe_load(with_keys(system, "kubernetes")["kubernetes"])
    url = system.api("/service/by-kubernetes")["ping_url"]
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    (variable,) = container["env"]
    assert variable["valueFrom"] == {"secretKeyRef": {"name": "heartbeat", "key": "url"}}
    script = container["args"][0].replace("/usr/local/bin/backup", "(exit 3)")
    command = ["env", f"PING_URL={url}", *container["command"], script]
    assert begin(command, tmp_path).wait(30) == 3
    await signals(system, "by-kubernetes", "fail", "start")
    assert system.api("/service/by-kubernetes/heartbeats")["items"][0]["exit_code"] == 3


async def test_ansible_and_terraform(system: System) -> None:
    api = system.url("api", "")
    texts = {it.id: it.text for it in snippets(system.url("ingest", ""), "by-code", True, public_url=api)}

    check, ping = yaml.safe_load(texts["ansible"])
    module: dict[str, Any] = check["community.healthchecksio.checks"]
    assert module.pop("api_base_url") == api
    assert module.pop("api_token") == "{{ lookup('env', 'REGISTRY_API_TOKEN') }}"
    sent = ansible_defaults() | module | {"tags": " ".join(module["tags"])}
    for status in (201, 200):
        answer = system.http.post(f"{api}/api/v1/checks/", json=sent, headers={"X-Api-Key": "any"})
        assert answer.status_code == status
    assert ping["ansible.builtin.uri"] == {"url": "{{ check.data.ping_url }}"}
    assert system.http.get(answer.json()["ping_url"]).text == "OK"
    await signals(system, "by-code", "success")
    assert system.api("/service/by-code")["every"] == "1d"

    text = texts["terraform"]
    assert re.findall(r'api_url = "(.+)"', text) == [f"{api}/api/v1"]
    (resource,) = re.findall(r'resource "healthchecksio_check" "this" \{\n(.*?)\n\}', text, re.DOTALL)
    its = {key: json.loads(value) for key, value in re.findall(r"(\w+) += (.+)", resource)}
    sent = {"channels": "", "methods": "", "timeout": 86400, "grace": its["grace"], "name": its["name"]}
    sent |= {"schedule": its["schedule"], "tz": its["timezone"], "tags": " ".join(its["tags"])}
    made = system.http.post(f"{api}/api/v1/checks/", json=sent, headers={"X-Api-Key": "any"})
    assert made.status_code == 201
    id_ = made.json()["update_url"].rpartition("/")[2]
    listed = system.http.get(f"{api}/api/v1/checks/", headers={"X-Api-Key": "any"}).json()["checks"]
    (found,) = (each for each in listed if each["update_url"].endswith(f"/{id_}"))
    assert {key: found.get(key) for key in sent} == sent | {"timeout": None}
    assert system.http.post(found["ping_url"]).text == "OK"


def test_terraform_takes_over_a_service_that_is_there(system: System) -> None:
    """As the provider imports: it looks for the uuid in the list of all, and sends its changes to that."""
    api, headers = system.url("api", ""), {"X-Api-Key": "any"}
    made = system.http.post(f"{api}/service", json={"name": "there"}).json()
    shown = html.unescape(system.http.get(f"{api}/ui/connect?name=there").text)
    (id_,) = re.findall(r'import \{\n  to = healthchecksio_check.this\n  id = "(.+)"\n\}', shown)
    assert made["ping_url"].endswith(f"/{id_}")
    listed = system.http.get(f"{api}/api/v1/checks/", headers=headers).json()["checks"]
    (found,) = (each for each in listed if each["ping_url"].endswith(f"/{id_}"))
    assert found["name"] == "there"
    sent = {"name": "there", "tags": "terraform", "schedule": "0 3 * * *", "tz": "UTC", "grace": 3600}
    assert system.http.post(f"{api}/api/v1/checks/{id_}", json=sent, headers=headers).status_code == 200
    items = system.api("/services")["items"]
    assert [(it["name"], it["schedule"], it["tags"]) for it in items] == [
        ("there", "0 3 * * *", ["terraform"])
    ]
    unknown = html.unescape(system.http.get(f"{api}/ui/connect?name=new").text)
    assert "import {" not in unknown
    assert "terraform import healthchecksio_check.this" in unknown


@pytest.mark.parametrize(
    ("name", "set_"),
    [
        ("by-cron", {"schedule": "30 2 * * 1-5", "time_zone": "Europe/Berlin", "max_run": "2h"}),
        ("by-calendar", {"schedule": "Mon..Fri 02:30\nSat 04:00", "down_after": "20m"}),
        ("by-interval", {"every": "12h", "tags": ["db", "night"], "description": 'the "big" one'}),
        ("by-thresholds", {"silent_after": "2h", "down_after": "5h", "time_zone": "Asia/Tokyo"}),
    ],
)
def test_no_line_changes_what_is_set_of_a_service(system: System, name: str, set_: dict[str, Any]) -> None:
    """Whoever pastes one for a service that is there already loses nothing, and gets no warning."""
    api, headers = system.url("api", ""), {"X-Api-Key": "any"}
    made = system.http.put(f"{api}/service/{name}", json=set_).json()
    page = system.http.get(f"{api}/ui/connect?name={name}").text
    shown = html.unescape("\n".join(re.findall("<pre[^>]*>(.*?)</pre>", page, re.DOTALL)))
    for said in ("0 3 * * *", "every=", "schedule=", "monitor_config"):
        assert said not in shown or (said == "0 3 * * *" and name != "by-cron"), said
    if name == "by-cron":
        assert "30 2 * * 1-5  curl" in shown
        assert 'schedule: "30 2 * * 1-5"\n  timeZone: "Europe/Berlin"' in shown

    def is_as_it_was() -> None:
        its = system.api(f"/service/{name}")
        kept = ("schedule", "every", "time_zone", "max_run", "tags", "description", "thresholds")
        assert {key: its[key] for key in kept} == {key: made[key] for key in kept}

    ansible = shown[shown.index("- name: The check is there") : shown.index("- name: It is alive")]
    (task,) = yaml.safe_load(ansible)
    module = task["community.healthchecksio.checks"]
    sent = {**ansible_defaults(), **module, "tags": " ".join(module["tags"])}
    del sent["api_base_url"], sent["api_token"]
    if not made["tags"]:
        made["tags"] = ["ansible"]
    answer = system.http.post(f"{api}/api/v1/checks/", json=sent, headers=headers)
    assert answer.status_code == 200, answer.text
    is_as_it_was()

    (resource,) = re.findall(r'resource "healthchecksio_check" "this" \{\n(.*?)\n\}', shown, re.DOTALL)
    its = {key: json.loads(value) for key, value in re.findall(r"(\w+) += (.+)", resource)}
    its["tags"] = " ".join(its["tags"])
    its["tz"] = its.pop("timezone", None)
    id_ = made["ping_url"].rpartition("/")[2]
    sent = {key: value for key, value in its.items() if value is not None}
    assert system.http.post(f"{api}/api/v1/checks/{id_}", json=sent, headers=headers).status_code == 200
    if made["tags"] == ["ansible"]:
        made["tags"] = ["terraform"]
    is_as_it_was()


def ansible_defaults() -> dict[str, Any]:
    """What the module sends beside what is set, where a timeout is."""
    return {
        "name": "",
        "tags": "",
        "desc": "",
        "grace": 3600,
        "manual_resume": False,
        "methods": "",
        "channels": "",
        "unique": [],
    }


async def test_what_celery_beat_sends(system: System) -> None:
    texts = {it.id: it.text for it in snippets(system.url("ingest", ""), "any", token=True)}
    compile(texts["celery"], "celery", "exec")
    (scheme, token, host, project) = re.findall(r'dsn="(\w+)://(\w+)@(.+)/(\d+)"', texts["celery"])[0]
    config = {"schedule": {"type": "interval", "value": 1, "unit": "hour"}, "timezone": "UTC"}
    check_in = {
        "type": "check_in",
        "check_in_id": "83a7c03ed0a04e1b97e2e3b18d38f244",
        "monitor_slug": "by-celery",
        "status": "ok",
        "monitor_config": config,
    }
    envelope = b"\n".join(json.dumps(each).encode() for each in ({}, {"type": "check_in"}, check_in))
    answer = system.http.post(
        f"{scheme}://{host}/api/{project}/envelope/",
        content=gzip.compress(envelope),
        headers={
            "Content-Encoding": "gzip",
            "Content-Type": "application/x-sentry-envelope",
            "X-Sentry-Auth": f"Sentry sentry_key={token}, sentry_version=7, sentry_client=sentry.python/2",
        },
    )
    assert answer.is_success
    await until(lambda: system.api("/service/by-celery").get("every") == "1h")
