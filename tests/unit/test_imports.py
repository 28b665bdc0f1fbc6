"""What becomes of other systems' checks: examples of each system, and made-up sources of all kinds."""

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.imports import crontab, gatus, healthchecks, sources, systemd, uptime_kuma
from services.cli.imports.crontab import Crontab
from services.cli.imports.draft import Draft, SourceError
from services.cli.imports.job_names import job_name
from services.cli.imports.printing import as_yaml, leftover_lines, scalar
from services.cli.imports.systemd import Timer
from shared.contracts import configuration_file
from shared.contracts.events import valid_name
from shared.contracts.names import mended
from tests.imported import NOW, printed

UUID = "6d8d1a8e-1f2b-4c55-9d0e-0f6c0d1d7a52"
texts = st.text(max_size=40) | st.sampled_from(
    ["no", "1", "~", "- a", "a: b", "#", "\x00", "\u2028x", "é", "{}"]
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**13) | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def left(draft: Draft) -> str:
    return "\n".join(leftover_lines(draft))


# --- the file


@given(st.lists(texts, max_size=6), st.dictionaries(texts, st.lists(texts, max_size=3), max_size=3))
def test_every_text_is_read_back_as_it_was_and_no_comment_ends_early(
    given_: list[str], leftovers: dict[str, list[str]]
) -> None:
    draft = Draft(NOW)
    for text in given_:
        draft.add(text, description=text, tags=[text, "db"], comment=lambda name, text=text: text)
    for why, whose in leftovers.items():
        draft.left(why, *whose)
    assert len(printed(draft)) == len(given_)


@given(texts | st.from_regex(r"[0-9a-fA-FxobnNyesouf~.:+-]{1,8}", fullmatch=True))
def test_a_scalar_is_a_text_to_whoever_reads_it(text: str) -> None:
    import yaml

    fit = "".join(each for each in text if not 0xD800 <= ord(each) < 0xE000)
    for read in (lambda written: configuration_file.read(f"a: {written}").data, yaml.safe_load):
        found = read(f"a: {scalar(fit)}" if read is yaml.safe_load else scalar(fit))
        assert found == {"a": fit}


def test_names_are_mended_and_each_is_there_once() -> None:
    draft = Draft(NOW)
    names = [draft.add(wished) for wished in ("a b", "a-b", "a b", "", "a..b", "x" * 200, "x" * 200)]
    assert names == ["a-b", "a-b-2", "a-b-3", "-", "a.-b", "x" * 128, "x" * 126 + "-2"]
    assert all(map(valid_name, names))


@given(st.text(max_size=300))
def test_a_mended_name_is_one(text: str) -> None:
    assert valid_name(mended(text))


def test_an_alias_that_two_have_is_the_first_ones() -> None:
    draft = Draft(NOW)
    draft.add("a", aliases=[UUID.upper(), "b c"])
    draft.add("b", aliases=[UUID])
    assert printed(draft) == {"a": {"aliases": [UUID]}, "b": {}}
    assert UUID not in left(draft)
    assert left(draft).count("its id or key") == 2


def test_limits_that_are_not_in_order_make_a_paused_service() -> None:
    draft = Draft(NOW)
    draft.add("a", every=timedelta(hours=1), silent_after=timedelta(hours=2), down_after=timedelta(hours=2))
    assert printed(draft) == {"a": {"paused": True}}
    assert "not in order" in left(draft)


# --- Healthchecks


def _check(**more: Any) -> dict[str, Any]:
    """As version 3 shows it."""
    return {
        "name": "Nightly backup",
        "slug": "nightly-backup",
        "tags": "db prod",
        "desc": "",
        "grace": 600,
        "n_pings": 7,
        "status": "up",
        "started": False,
        "last_ping": "2026-11-27T03:00:12+00:00",
        "next_ping": "2026-11-28T03:00:12+00:00",
        "manual_resume": False,
        "methods": "",
        "subject": "",
        "subject_fail": "",
        "start_kw": "",
        "success_kw": "",
        "failure_kw": "",
        "filter_subject": False,
        "filter_body": False,
        "badge_url": "https://hc.example/b/2/2c7b.svg",
        "uuid": UUID,
        "ping_url": f"https://hc-ping.com/{UUID}",
        "update_url": f"https://hc.example/api/v3/checks/{UUID}",
        "pause_url": f"https://hc.example/api/v3/checks/{UUID}/pause",
        "resume_url": f"https://hc.example/api/v3/checks/{UUID}/resume",
        "channels": "",
        "timeout": 3600,
    } | more


def _of_healthchecks(*checks: dict[str, Any]) -> Draft:
    return healthchecks.convert({"checks": list(checks)}, NOW)


def test_a_check_that_beats_is_down_when_healthchecks_says_so() -> None:
    assert printed(_of_healthchecks(_check())) == {
        "nightly-backup": {
            "description": "Nightly backup",
            "tags": ["db", "prod"],
            "every": "1h",
            "silent_after": "1h5m",
            "down_after": "1h10m",
            "max_run": "10m",
            "aliases": [UUID],
        }
    }


def test_a_check_with_a_schedule_has_its_zone_and_its_grace_counts_from_the_moment_it_is_due() -> None:
    check = _check(
        schedule="0 3 * * *", tz="Europe/Berlin", desc="Dumps", status="paused", manual_resume=True
    )
    del check["timeout"]
    assert printed(_of_healthchecks(check))["nightly-backup"] == {
        "description": "Nightly backup: Dumps",
        "tags": ["db", "prod"],
        "schedule": "0 3 * * *",
        "time_zone": "Europe/Berlin",
        "silent_after": "5m",
        "down_after": "10m",
        "max_run": "10m",
        "paused": True,
        "aliases": [UUID],
    }


def test_what_means_nothing_here_is_left_over_by_name() -> None:
    more = {"channels": UUID, "methods": "POST", "success_kw": "done", "status": "paused"}
    said = left(_of_healthchecks(_check(**more)))
    for field in ("`channels`", "`methods`", "`success_kw`", "ends its pause"):
        assert field in said
    assert UUID not in said


def test_a_read_only_key_is_told_no_id_and_that_is_said() -> None:
    check = _check(unique_key="2872190d95224bad120f41d3c06aab94b8175bb6")
    for field in ("uuid", "ping_url", "update_url", "pause_url", "resume_url", "channels"):
        del check[field]
    draft = _of_healthchecks(check)
    assert "aliases" not in printed(draft)["nightly-backup"]
    assert "read-only key" in left(draft)


def test_of_version_1_the_id_stands_in_the_url() -> None:
    check = _check()
    del check["uuid"]
    assert printed(_of_healthchecks(check))["nightly-backup"]["aliases"] == [UUID]


@pytest.mark.parametrize(
    ("schedule", "tz"), [("61 * * * *", "UTC"), ("0 3 * * *", "Mars/Base"), ("2020-01-01", "UTC")]
)
def test_a_schedule_that_the_registry_refuses_makes_a_paused_service(schedule: str, tz: str) -> None:
    draft = _of_healthchecks(_check(schedule=schedule, tz=tz))
    assert printed(draft)["nightly-backup"] == {
        "description": "Nightly backup",
        "tags": ["db", "prod"],
        "paused": True,
        "aliases": [UUID],
    }
    assert "when it is due" in left(draft)


@pytest.mark.parametrize("answer", [None, [], {}, {"checks": 1}, {"checks": ["a"]}, {"error": "no"}])
def test_what_is_no_list_of_checks_is_refused(answer: Any) -> None:
    with pytest.raises(SourceError):
        healthchecks.convert(answer, NOW)


values = {
    "name": texts,
    "slug": texts,
    "tags": texts,
    "desc": st.text(max_size=3000),
    "grace": st.integers(-1, 10**12),
    "timeout": st.integers(-1, 10**12),
    "schedule": texts | st.sampled_from(["0 3 * * *", "Mon 09:00", "* * *", "*-*-* *:*:0/7"]),
    "tz": texts | st.sampled_from(["UTC", "Europe/Berlin"]),
    "status": st.sampled_from(["up", "paused", "new"]),
    "uuid": texts | st.uuids().map(str) | st.just(UUID),
    "ping_url": texts,
}


@given(
    st.lists(
        st.fixed_dictionaries({}, optional={key: each | anything for key, each in values.items()}), max_size=5
    )
)
def test_whatever_healthchecks_answers_the_file_is_one_that_plan_takes(checks: list[dict[str, Any]]) -> None:
    draft = healthchecks.convert({"checks": checks}, NOW)
    assert len(printed(draft)) == len(checks)


# --- Uptime Kuma


def _monitor(number: int, **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "name": f"Push {number}",
        "type": "push",
        "active": True,
        "interval": 60,
        "retryInterval": 30,
        "maxretries": 4,
        "pushToken": f"tokentoken{number}",
        "tags": [],
    } | more


def _of_kuma(*monitors: Any, **more: Any) -> Draft:
    return uptime_kuma.convert({"version": "1.23.16", "monitorList": list(monitors)} | more, NOW)


def test_a_push_monitor_is_down_after_its_interval_and_all_retries() -> None:
    tags = [{"tag_id": 1, "name": "prod", "value": ""}, {"tag_id": 2, "name": "team", "value": "db"}]
    monitor = _monitor(1, tags=tags, parent=9, description="Nightly")
    assert printed(_of_kuma(monitor, {"id": 9, "type": "group", "name": "Backups", "active": 1})) == {
        "Push-1": {
            "description": "Nightly",
            "tags": ["Backups", "prod", "team:db"],
            "every": "1m",
            "silent_after": "1m",
            "down_after": "3m",
            "aliases": ["tokentoken1"],
        }
    }


def test_without_retries_it_is_down_after_two_intervals() -> None:
    found = printed(_of_kuma(_monitor(1, maxretries=0, retryInterval=0)))["Push-1"]
    assert (found["silent_after"], found["down_after"]) == ("1m", "2m")


def test_what_kuma_asks_itself_is_left_over_and_a_service_only_if_that_is_wished() -> None:
    site = {"id": 2, "name": "Site", "type": "http", "interval": 60, "url": "https://u:hunter2@shop.example"}
    draft = _of_kuma(site, _monitor(3, upsideDown=True))
    assert printed(draft) == {}
    assert "Site (http)" in left(draft)
    assert "upside down" in left(draft)
    assert "hunter2" not in as_yaml(draft, "x")
    wished = uptime_kuma.convert([site], NOW, probes=True)
    assert printed(wished)["Site"]["every"] == "1m"


def test_a_monitor_of_a_paused_group_is_paused() -> None:
    draft = _of_kuma(_monitor(1, parent=9), {"id": 9, "type": "group", "name": "G", "active": 0})
    assert printed(draft)["Push-1"]["paused"] is True
    assert printed(_of_kuma(_monitor(1, active=0)))["Push-1"]["paused"] is True


def test_groups_within_each_other_are_no_endless_search() -> None:
    groups = ({"id": one, "parent": other, "type": "group", "name": "g"} for one, other in ((8, 9), (9, 8)))
    assert "Push-1" in printed(_of_kuma(_monitor(1, parent=9), *groups))


def test_channels_and_windows_are_left_over_by_name_without_their_secrets() -> None:
    channels = [{"name": "Telegram", "config": '{"telegramBotToken": "12:hunter2"}'}]
    monitor = _monitor(1, notificationIDList={"1": True}, resendInterval=3)
    draft = _of_kuma(monitor, notificationList=channels, maintenanceList=[{"title": "Sundays"}])
    for said in ("Telegram", "Sundays", "`resend_interval`", "its notifications"):
        assert said in left(draft)
    assert "hunter2" not in as_yaml(draft, "x")


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "id": st.integers(0, 5),
                "type": st.sampled_from(["push", "http", "group"]) | texts,
                "name": texts,
            },
            optional={
                "interval": st.integers(0, 10**12) | anything,
                "retryInterval": st.integers(0, 10**12) | anything,
                "maxretries": st.integers(-1, 10**7) | anything,
                "pushToken": texts,
                "tags": st.lists(st.fixed_dictionaries({"name": texts, "value": texts}), max_size=40)
                | anything,
                "active": anything,
                "parent": st.integers(0, 5),
                "description": texts | anything,
            },
        ),
        max_size=6,
    ),
    st.booleans(),
)
def test_whatever_kuma_exports_the_file_is_one_that_plan_takes(monitors: Any, probes: bool) -> None:
    printed(uptime_kuma.convert({"monitorList": monitors}, NOW, probes=probes))


V1 = """
CREATE TABLE monitor (id INTEGER PRIMARY KEY, name VARCHAR(150), active BOOLEAN DEFAULT 1, user_id INTEGER,
  interval INTEGER DEFAULT 20, url TEXT, type VARCHAR(20), maxretries INTEGER DEFAULT 0,
  upside_down BOOLEAN DEFAULT 0, retry_interval INTEGER DEFAULT 0, push_token VARCHAR(20));
CREATE TABLE tag (id INTEGER PRIMARY KEY, name VARCHAR(255), color VARCHAR(255));
CREATE TABLE monitor_tag (id INTEGER PRIMARY KEY, monitor_id INTEGER, tag_id INTEGER, value TEXT);
CREATE TABLE monitor_notification (id INTEGER PRIMARY KEY, monitor_id INTEGER, notification_id INTEGER);
INSERT INTO tag VALUES (4, 'prod', '#fff');
INSERT INTO monitor (id, name, interval, type, push_token) VALUES (1, 'Nightly', 3600, 'push', 'abcdefghij');
INSERT INTO monitor (id, name, interval, type, url) VALUES (2, 'Site', 60, 'http', 'https://shop.example');
INSERT INTO monitor_tag VALUES (1, 1, 4, NULL);
INSERT INTO monitor_notification VALUES (1, 1, 1);
"""
V2 = (
    V1
    + """
ALTER TABLE monitor ADD description TEXT;
ALTER TABLE monitor ADD parent INTEGER;
ALTER TABLE monitor ADD resend_interval INTEGER DEFAULT 0;
ALTER TABLE monitor ADD conditions TEXT DEFAULT '[]';
CREATE TABLE maintenance (id INTEGER PRIMARY KEY, title VARCHAR(150), strategy VARCHAR(50), cron TEXT);
CREATE TABLE status_page (id INTEGER PRIMARY KEY, slug VARCHAR(255), title VARCHAR(255));
CREATE TABLE notification (id INTEGER PRIMARY KEY, name VARCHAR(255), config TEXT);
INSERT INTO monitor (id, name, type, active) VALUES (9, 'Backups', 'group', 1);
UPDATE monitor SET description = 'Dumps', parent = 9 WHERE id = 1;
UPDATE monitor SET push_token = 'abcdefghijabcdefghijabcdefghijab' WHERE id = 1;
INSERT INTO maintenance VALUES (1, 'Sundays', 'cron', '0 3 * * 0');
INSERT INTO notification VALUES (1, 'Ops', '{"telegramBotToken": "12:hunter2"}');
"""
)


def _database(folder: Path, script: str) -> Path:
    path = folder / "kuma.db"
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode = WAL")
    database.executescript(script)
    database.close()
    return path


def test_the_database_of_version_1_is_read(tmp_path: Path) -> None:
    draft = uptime_kuma.convert(sources.kuma_dump(str(_database(tmp_path, V1))), NOW)
    assert printed(draft) == {
        "Nightly": {
            "tags": ["prod"],
            "every": "1h",
            "silent_after": "1h",
            "down_after": "2h",
            "aliases": ["abcdefghij"],
        }
    }
    assert "its notifications" in left(draft)


def test_the_database_of_version_2_is_read_and_stays_as_it_was(tmp_path: Path) -> None:
    path = _database(tmp_path, V2)
    before = {each.name: (each.stat().st_mtime_ns, each.read_bytes()) for each in tmp_path.iterdir()}
    draft = uptime_kuma.convert(sources.kuma_dump(str(path)), NOW)
    found = printed(draft)["Nightly"]
    assert found["aliases"] == ["abcdefghijabcdefghijabcdefghijab"]
    assert (found["description"], found["tags"]) == ("Dumps", ["Backups", "prod"])
    assert "Sundays" in left(draft)
    assert "hunter2" not in as_yaml(draft, "x")
    assert {each.name: (each.stat().st_mtime_ns, each.read_bytes()) for each in tmp_path.iterdir()} == before


def test_what_a_running_kuma_has_not_yet_put_into_its_file_is_read_as_well(tmp_path: Path) -> None:
    database = sqlite3.connect(_database(tmp_path, V1))
    database.execute("UPDATE monitor SET name = 'Renamed' WHERE id = 1")
    database.commit()  # into the log beside the file
    assert (tmp_path / "kuma.db-wal").stat().st_size
    assert "Renamed" in printed(uptime_kuma.convert(sources.kuma_dump(str(tmp_path / "kuma.db")), NOW))
    database.close()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b'{"a": 1}', b'{"monitorList": 3}', b"SQLite format 3\0" + b"x" * 5000, b"[" * 10**6],
)
def test_what_is_no_dump_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "dump").write_bytes(content)
    with pytest.raises(SourceError):
        uptime_kuma.convert(sources.kuma_dump(str(tmp_path / "dump")), NOW)


# --- Gatus

GATUS = """
x: &late {interval: 30m}
alerting:
  slack: {webhook-url: "https://hooks.example/hunter2", default-alert: {failure-threshold: 5}}
external-endpoints:
  - name: ext-ep test
    group: Core
    token: "potato"
    heartbeat: *late
    alerts: [{type: discord}]
  - name: nightly
    token: "${NIGHTLY_TOKEN}"
    heartbeat: {interval: 1h}
    enabled: false
    alerts: [{type: slack}]
  - {name: one, group: a, token: shared, heartbeat: {interval: "${HOW_OFTEN}"}}
  - <<: {group: b, token: shared}
    name: two
endpoints:
  - {name: front, group: web, url: "https://u:hunter2@shop.example", interval: 5m}
"""


def _of_gatus(folder: Path, text: str, **more: Any) -> Draft:
    (folder / "config.yaml").write_text(text)
    return gatus.convert(sources.gatus_files([str(folder)]), NOW, **more)


def test_external_endpoints_have_the_name_in_their_address_and_their_token_as_alias(tmp_path: Path) -> None:
    draft = _of_gatus(tmp_path, GATUS)
    assert printed(draft) == {
        "core_ext-ep-test": {
            "description": "Core/ext-ep test",
            "tags": ["Core"],
            "every": "30m",
            "silent_after": "30m",
            "down_after": "2h",
            "fail_after": 3,
            "recover_after": 2,
            "aliases": ["potato"],
        },
        "_nightly": {
            "description": "nightly",
            "every": "1h",
            "silent_after": "1h",
            "down_after": "6h",
            "fail_after": 5,
            "recover_after": 2,
            "paused": True,
        },
        "a_one": {"description": "a/one", "tags": ["a"]},
        "b_two": {"description": "b/two", "tags": ["b"]},
    }
    for said in (
        "${NIGHTLY_TOKEN}",
        "${HOW_OFTEN}",
        "several share",
        "a_one, b_two",
        "web_front",
        "`alerting`",
    ):
        assert said in left(draft)
    assert "hunter2" not in as_yaml(draft, "x")
    assert "shared" not in as_yaml(draft, "x").replace("several share", "")


def test_what_gatus_asks_itself_is_a_service_if_that_is_wished(tmp_path: Path) -> None:
    found = printed(_of_gatus(tmp_path, GATUS, probes=True))["web_front"]
    assert (found["every"], found["down_after"]) == ("5m", "10m")
    assert "aliases" not in found


def test_several_files_are_one_configuration(tmp_path: Path) -> None:
    (tmp_path / "more.yml").write_text("external-endpoints: [{name: x, group: g, heartbeat: {interval: 1m}}]")
    assert list(printed(_of_gatus(tmp_path, GATUS)))[-1] == "g_x"


@pytest.mark.parametrize(
    "text", ["", "a", "- 1", "external-endpoints: 1", "a: [", "a: \x01", "[" * 20_000, "? {a: b}\n: 1"]
)
def test_what_is_no_configuration_of_gatus_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SourceError):
        _of_gatus(tmp_path, text)


endpoints = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "name": texts,
            "group": texts,
            "token": texts,
            "interval": texts | st.sampled_from(["5m", "1h30m", "100ms", "9999999h"]),
            "heartbeat": st.fixed_dictionaries(
                {"interval": st.sampled_from(["5m", "1ns", "8h", "99999h"]) | texts}
            )
            | anything,
            "enabled": texts,
            "alerts": st.lists(st.fixed_dictionaries({"type": texts, "failure-threshold": texts}), max_size=2)
            | anything,
        },
    ),
    max_size=5,
)


@given(endpoints, endpoints, st.booleans())
def test_whatever_gatus_is_configured_to_the_file_is_one_that_plan_takes(
    external: Any, asked: Any, probes: bool
) -> None:
    files = [("a.yaml", {"external-endpoints": external, "endpoints": asked})]
    found = printed(gatus.convert(files, NOW, probes=probes))
    assert len(found) == len(external) + (len(asked) if probes else 0)


# --- cron


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("/opt/backup.sh --password=hunter2 > /dev/null 2>&1", "backup"),
        ("cd /srv/app && nice -n 10 ionice -c3 ./sync.py daily", "sync"),
        ("flock -n /run/x.lock -c '/opt/x.sh --all'", "x"),
        ("flock -w 5 /run/x.lock timeout -k 5 10m /opt/y", "y"),
        ("sudo -u www-data php /var/www/app/artisan schedule:run", "artisan-schedule-run"),
        ("python3 -m shop.report --token=abc", "shop.report"),
        ("/usr/bin/env A=1 python3.11 /srv/bin/report.py", "report"),
        ("A=1 B=2 /usr/local/bin/thing", "thing"),
        ("test -x /usr/bin/certbot && perl -e 'sleep int(rand(43200))' || certbot -q renew", "perl"),
        ("certbot -q renew", "certbot-renew"),
        (
            "[ -x /usr/lib/php/clean ] && if [ ! -d /run/systemd ]; then /usr/lib/php/clean; fi",
            "clean",
        ),
        ("test -x /usr/sbin/anacron || { cd / && run-parts --report /etc/cron.daily; }", "cron.daily"),
        ("command -v debian-sa1 > /dev/null && debian-sa1 1 1", "debian-sa1"),
        ("bash -lc 'cd /x; ./job.sh'", "job"),
        ("su - postgres -c 'pg_dump shop'", "pg_dump"),
        ("curl -fsS 'https://u:hunter2@x/' https://shop.example/cron.php?key=hunter2", "shop.example"),
        ("java -Xmx1g -jar /opt/etl.jar", "etl"),
        ("/usr/local/bin/beat web -- /opt/z.sh", "z"),
        ("echo 'not closed", "echo"),
        ("date", "date"),
        ("   ", "job"),
        ("( /opt/a.sh ; /opt/b.sh ) | mail x", "a"),
    ],
)
def test_a_job_is_named_by_what_it_does(command: str, name: str) -> None:
    assert job_name(command) == name


@given(
    st.text(max_size=60)
    | st.lists(
        st.sampled_from(
            [
                "sh",
                "-c",
                "'",
                '"',
                ";",
                "&&",
                "|",
                "sudo",
                "-u",
                "flock",
                "env",
                "A=1",
                "x",
                "/",
                "-",
                "--",
                "%",
            ]
        ),
        max_size=12,
    ).map(" ".join)
)
def test_every_command_has_a_name(command: str) -> None:
    assert valid_name(mended(job_name(command)))


CRONTAB = """\
SHELL=/bin/bash
MAILTO=ops@example.org
# Edit this file to introduce tasks
# m h  dom mon dow   command

# Dumps all databases
# and keeps them for a week
0 3 * * *  /opt/backup.sh --password=hunter2
# 0 4 * * * /opt/off.sh
*/5 * * * * php /var/www/app/artisan schedule:run >> /dev/null 2>&1
@reboot /usr/bin/thing
@daily	/opt/backup.sh --weekly
CRON_TZ="America/New_York"
0 9 * * 1-5 mail -s "100\\%" x%body
CRON_TZ=
TZ=Asia/Tokyo
0 4 * * * /opt/x.py && curl -fsS https://hc-ping.com/6d8d1a8e-1f2b-4c55-9d0e-0f6c0d1d7a52
0 5 * * * /opt/y; curl -fsS https://registry.example/heartbeat/why.not/$?
61 * * * * /opt/bad
garbage
"""


def _of_cron(text: str, form: Any = "user", zone: str | None = "Europe/Berlin") -> Draft:
    return crontab.convert([Crontab("-", text, form)], NOW, zone)


def test_a_crontab_of_a_user() -> None:
    draft = _of_cron(CRONTAB)
    berlin = {"time_zone": "Europe/Berlin"}
    assert printed(draft) == {
        "backup": {
            "description": "Dumps all databases\nand keeps them for a week",
            "schedule": "0 3 * * *",
            **berlin,
        },
        "artisan-schedule-run": {"schedule": "*/5 * * * *", **berlin},
        "backup-2": {"schedule": "@daily", **berlin},
        "mail": {"schedule": "0 9 * * 1-5", "time_zone": "America/New_York"},
        "x": {"schedule": "0 4 * * *", **berlin, "aliases": [UUID]},
        "why.not": {"schedule": "0 5 * * *", **berlin},
        "bad": {"paused": True},
    }
    for said in ("ops@example.org", "@reboot", "line 11", "line 16", "line 20", "61 * * * *"):
        assert said in left(draft)
    assert "hunter2" not in as_yaml(draft, "x")


def test_what_each_line_is_to_become_stands_beside_it() -> None:
    text = as_yaml(_of_cron(CRONTAB), "x")
    assert "  # line 8: put `beat backup --` before its command\n  backup:\n" in text
    assert "  # line 10: beat artisan-schedule-run -- /bin/bash -c '…its command…'\n" in text
    assert "  # line 17 reports by itself" in text


SYSTEM = """\
SHELL=/bin/sh
17 *\t* * *\troot\tcd / && run-parts --report /etc/cron.hourly
25 6\t* * *\tdeploy\t/srv/app/bin/nightly
"""


def test_a_crontab_of_the_system_is_known_by_its_users() -> None:
    assert crontab.form_of("-", SYSTEM) == "system"
    assert crontab.form_of("-", CRONTAB) == "user"
    assert crontab.form_of("/etc/cron.d/php", CRONTAB) == "system"
    assert list(printed(_of_cron(SYSTEM, "system"))) == ["cron.hourly", "nightly"]


def test_without_the_zone_of_the_machine_none_is_written_and_that_is_said() -> None:
    draft = _of_cron(SYSTEM, "system", None)
    assert "time_zone" not in printed(draft)["nightly"]
    assert "--time-zone" in left(draft)


@given(
    st.lists(
        st.text(max_size=30)
        | st.builds(
            "{} {}".format,
            st.sampled_from(
                ["0 3 * * *", "@daily", "@reboot", "0~9 3 * * *", "60 0 30 2 *", "* * * * *", "#"]
            ),
            texts | st.sampled_from(["root /opt/x.sh", "/opt/x.sh%a%b"]),
        )
        | st.builds("{}={}".format, st.sampled_from(["CRON_TZ", "TZ", "MAILTO", "SHELL", "X"]), texts),
        max_size=8,
    ),
    st.sampled_from(["user", "system"]),
)
def test_whatever_stands_in_a_crontab_the_file_is_one_that_plan_takes(lines: list[str], form: Any) -> None:
    tables = [Crontab("a", "\n".join(lines), form), Crontab("b", "\n".join(lines), form)]
    printed(crontab.convert(tables, NOW, "Europe/Berlin"))
    for _, text in crontab.rewritten(tables, NOW):
        assert text.count("\n") == "\n".join(lines).count("\n")


def _run_as_cron_does(line: str, before: int, folder: Path) -> "subprocess.CompletedProcess[str]":
    """What follows the `before` fields of a line, up to the first `%`, with the rest as its input."""
    import re

    command = line.split(maxsplit=before)[before]
    command, *given = re.split(r"(?<!\\)%", command)
    return subprocess.run(
        ["/bin/sh", "-c", command.replace("\\%", "%")],
        input="\n".join(each.replace("\\%", "%") for each in given),
        capture_output=True,
        text=True,
        cwd=folder,
    )


@pytest.mark.parametrize(
    "command",
    [
        "echo plain words",
        "echo it\\'s \"two  blanks\" 'and $HOME'",
        "cat%first%second \\% line",
        "printf '%s\\n' a b".replace("%", "\\%"),
        "cd / && pwd | tr / x; exit 3",
        "A=1 sh -c 'echo $A'",
        "false",
        "sh -c 'exit 7' || sh -c 'exit 8'",
        "echo ~ | grep -c / && cat%what comes in",
    ],
)
def test_a_rewritten_job_does_what_it_did_and_reports(tmp_path: Path, command: str) -> None:
    wrapper = tmp_path / "beat"
    wrapper.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/told\nshift 2\nexec "$@"\n')
    wrapper.chmod(stat.S_IRWXU)
    table = Crontab("-", f"* * * * * {command}\n", "user")
    ((_, text),) = crontab.rewritten([table], NOW, wrapper=str(wrapper))
    found, was = _run_as_cron_does(text, 5, tmp_path), _run_as_cron_does(table.text, 5, tmp_path)
    assert (found.stdout, found.returncode) == (was.stdout, was.returncode)
    assert len((tmp_path / "told").read_text().splitlines()) == 1


def test_a_rewritten_crontab_leaves_everything_else_as_it_is() -> None:
    ((_, text),) = crontab.rewritten([Crontab("-", CRONTAB, "user")], NOW)
    assert f"0 3 * * *  {crontab.WRAPPER} backup -- /opt/backup.sh --password=hunter2\n" in text
    assert f"@daily	{crontab.WRAPPER} backup-2 -- /opt/backup.sh --weekly\n" in text
    changed = [
        one for one, other in zip(text.splitlines(), CRONTAB.splitlines(), strict=True) if one != other
    ]
    assert len(changed) == 5
    ((_, system),) = crontab.rewritten([Crontab("-", SYSTEM, "system")], NOW)
    assert f"\tdeploy\t{crontab.WRAPPER} nightly -- /srv/app/bin/nightly\n" in system


# --- systemd

BACKUP = """\
[Unit]
Description=Backup of %i %p
[Timer]
; both
OnCalendar=Mon..Fri *-*-* 03:00 Europe/Berlin
OnCalendar=Sat 05:00 \\
  Europe/Berlin
Persistent=true
RandomizedDelaySec=1h 30min
[Install]
WantedBy=timers.target
"""


def _of_systemd(*timers: Timer, zone: str | None = "Asia/Tokyo") -> Draft:
    return systemd.convert(timers, NOW, zone)


def test_a_timer_has_its_lines_their_zone_and_its_delay_as_grace() -> None:
    draft = _of_systemd(Timer("backup@db.timer", [BACKUP], "pg.service"))
    assert printed(draft) == {
        "backup-db": {
            "description": "Backup of db backup",
            "schedule": "Mon..Fri *-*-* 03:00 Europe/Berlin\nSat 05:00 Europe/Berlin",
            "time_zone": "Europe/Berlin",
            "early": "1m",
            "silent_after": "1h45m",
            "down_after": "2h30m",
        }
    }
    assert "pg.service: put `/usr/local/bin/beat backup-db --`" in as_yaml(draft, "x")


def test_an_interval_is_one_here_too_and_what_comes_once_is_left_over() -> None:
    every = "[Timer]\nOnBootSec=15min\nOnUnitActiveSec=1w 2d\nUnit=x.service\n"
    draft = _of_systemd(
        Timer("a\\x2db.timer", [every]),
        Timer("boot.timer", ["[Timer]\nOnBootSec=1h\n"]),
        Timer("none.timer", []),
    )
    assert printed(draft) == {"a-b": {"every": "9d"}}
    assert "OnBootSec (nothing is due again and again): boot.timer" in left(draft)
    assert "none.timer" in left(draft)


def test_drop_ins_count_and_an_empty_value_takes_all_times_back() -> None:
    texts = ["[Timer]\nOnCalendar=daily\nOnUnitActiveSec=1h\n", "[Timer]\nOnCalendar=\nOnCalendar=weekly\n"]
    draft = _of_systemd(Timer("a.timer", texts))
    assert left(draft) == ""
    assert printed(draft) == {"a": {"schedule": "weekly", "time_zone": "Asia/Tokyo"}}


def test_unit_files_of_a_folder_with_drop_ins_and_instances(tmp_path: Path) -> None:
    (tmp_path / "backup@.timer").write_text(BACKUP)
    (tmp_path / "alone@.timer").write_text(BACKUP)
    (tmp_path / "timers.target.wants").mkdir()
    (tmp_path / "timers.target.wants/backup@db.timer").symlink_to(tmp_path / "backup@.timer")
    (tmp_path / "a.timer").write_text("[Timer]\nOnCalendar=daily\n")
    (tmp_path / "a.timer.d").mkdir()
    (tmp_path / "a.timer.d/10.conf").write_text("[Timer]\nOnCalendar=\nOnCalendar=hourly\n")
    draft = systemd.convert(sources.timers([str(tmp_path)], "system"), NOW, "UTC")
    found = printed(draft)
    assert list(found) == ["a", "backup-db"]
    assert found["a"]["schedule"] == "hourly"
    assert "alone@.timer" in left(draft)


def test_a_list_says_which_timers_and_the_folder_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.timer").write_text("[Timer]\nOnCalendar=daily\n")
    (tmp_path / "b.timer").write_text("[Timer]\nOnCalendar=daily\n")
    rows = [{"next": 1, "left": 1, "last": None, "passed": 0, "unit": "a.timer", "activates": "else.service"}]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    timers = sources.timers([str(tmp_path / "list.json"), str(tmp_path)], "system")
    draft = systemd.convert(timers, NOW, "UTC")
    assert list(printed(draft)) == ["a"]
    assert "else.service: put" in as_yaml(draft, "x")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"unit": "a.service"}]', "NEXT LEFT"])
def test_what_is_no_list_of_timers_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "list").write_text(text)
    with pytest.raises(SourceError):
        sources.timers([str(tmp_path / "list")], "system")


settings = st.builds(
    "{}={}".format,
    st.sampled_from(
        [
            "OnCalendar",
            "OnUnitActiveSec",
            "OnBootSec",
            "RandomizedDelaySec",
            "AccuracySec",
            "Persistent",
            "Unit",
            "Description",
        ]
    ),
    texts
    | st.sampled_from(["daily", "1h", "5min 3s", "Mon 09:00 Asia/Tokyo", "*-*-* *:*:00.5", "99999y", ""]),
)


@given(
    st.lists(
        st.tuples(
            texts, st.lists(settings | st.sampled_from(["[Unit]", "[Timer]", "\\"]) | texts, max_size=8)
        ),
        max_size=4,
    )
)
def test_whatever_stands_in_unit_files_the_file_is_one_that_plan_takes(units: Any) -> None:
    timers = [Timer(f"{name}.timer", ["[Timer]\n" + "\n".join(lines)]) for name, lines in units]
    printed(systemd.convert(timers, NOW, "Europe/Berlin"))


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not here")
@pytest.mark.parametrize(
    "text",
    ["5min", "1h 30min", "2w", "1 month", "3y", "90", "1.5h", "250ms", "1d12h", "7 days", "1hour 2 minutes"],
)
def test_a_length_of_time_is_as_long_as_systemd_says(text: str) -> None:
    said = subprocess.run(["systemd-analyze", "timespan", text], capture_output=True, text=True).stdout
    micros = next(line.split(":")[1] for line in said.splitlines() if "μs" in line or "us:" in line)
    assert systemd._span(text).total_seconds() == pytest.approx(int(micros) / 1e6)  # type: ignore[union-attr]


# --- 1,000 of each


def _thousand() -> dict[str, Any]:
    checks = [
        _check(
            name=f"c {n}",
            slug=f"c-{n}",
            uuid=f"{n:08x}{UUID[8:]}",
            schedule=f"{n % 60} {n // 60} * * *",
            tz="UTC",
        )
        for n in range(1000)
    ]
    ends = [
        {"name": f"n{n}", "group": "g", "token": f"t{n}", "heartbeat": {"interval": f"{n + 10}s"}}
        for n in range(1000)
    ]
    table = "".join(f"{n % 60} {n // 60} * * * /opt/job{n}.sh --all\n" for n in range(1000))
    unit = "[Timer]\nOnCalendar=*-*-* {}:{}\n"
    return {
        "healthchecks": lambda: healthchecks.convert({"checks": checks}, NOW),
        "kuma": lambda: _of_kuma(*(_monitor(n) for n in range(1000))),
        "gatus": lambda: gatus.convert([("a", {"external-endpoints": ends})], NOW),
        "crontab": lambda: _of_cron(table),
        "systemd": lambda: _of_systemd(
            *(Timer(f"t{n}.timer", [unit.format(n // 60, n % 60)]) for n in range(1000))
        ),
    }


@pytest.mark.parametrize("system", ["healthchecks", "kuma", "gatus", "crontab", "systemd"])
def test_a_thousand_checks_take_less_than_five_seconds(system: str) -> None:
    convert = _thousand()[system]
    began = time.process_time()
    text = as_yaml(convert(), "x")
    assert time.process_time() - began < 4  # of five, with the start of the command
    assert len(configuration_file.read(text).data["services"]) == 1000


# --- the command


def _command(*arguments: str, **more: Any) -> "subprocess.CompletedProcess[str]":
    env = {"PATH": os.environ["PATH"], "TZ": "Europe/Berlin"}
    command = [sys.executable, "-m", "services.cli", "import", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=env, cwd=Path(__file__).parents[2], **more
    )


def test_the_command_prints_the_file_alone_and_what_is_left_over_beside_it() -> None:
    done = _command("crontab", "-", input=CRONTAB)
    assert done.returncode == 0
    assert "backup:" in done.stdout
    assert "@reboot" in done.stderr
    assert "backup:" not in done.stderr
    assert done.stdout == _command("crontab", "-", input=CRONTAB).stdout


def test_a_list_of_timers_may_be_piped_in(tmp_path: Path) -> None:
    (tmp_path / "a.timer").write_text("[Timer]\nOnCalendar=daily\n")
    rows = json.dumps([{"unit": "a.timer", "activates": "a.service"}])
    done = _command("systemd", "-", str(tmp_path), "--json", input=rows)
    assert json.loads(done.stdout)["configuration"]["services"]["a"]["schedule"] == "daily"
    assert "not what" in _command("systemd", input="[").stderr


def test_what_cannot_be_read_is_wrong_use(tmp_path: Path) -> None:
    done = _command("uptime-kuma", str(tmp_path / "none"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "No such file" in done.stderr


def test_who_does_not_answer_is_named_without_the_key() -> None:
    done = _command("healthchecks", "http://u:hunter2@127.0.0.1:1", "--key", "the-key")
    assert (done.returncode, done.stdout) == (1, "")
    assert "127.0.0.1:1" in done.stderr
    assert "hunter2" not in done.stderr + done.stdout
    assert "the-key" not in done.stderr + done.stdout
    assert "the-k\x1b" not in _command("healthchecks", "http://127.0.0.1:1", "--key", "the-k\x1b").stderr
