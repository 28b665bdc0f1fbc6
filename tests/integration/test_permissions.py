"""deploy/nats.conf itself, with a user per service: all that they need works, and nothing else does."""

import asyncio
import base64
import binascii
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nats
import pytest
from nacl.signing import SigningKey
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import StreamConfig

from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.faststream_broker import (
    MAX_UNACKNOWLEDGED,
    EventSubscription,
    FastStreamBroker,
    ReceivedEvent,
)
from shared.settings import Settings
from tests.broker import eventually, statuses
from tests.e2e.system import SERVICES, System, until
from tests.servers import ACK_V2, Process, Service, free_port, program, registry, service
from tests.telegram_standin import Standin

DEPLOY = Path(__file__).parents[2] / "deploy"
USERS = (*SERVICES, "operator", "sender")


def password(user: str) -> str:
    return f"{user}-1e5"


def conf(folder: Path, **listen: int) -> str:
    """The file as it stands there, but for what belongs to the container. `listen`: ports by section
    (`client`, or one of those that are ready to be switched on)."""
    text = (DEPLOY / "nats.conf").read_text()
    for given, put in (
        ("listen: 0.0.0.0:4222", f"listen: 127.0.0.1:{listen.pop('client')}"),
        ("http: 127.0.0.1:8222", ""),
        ("store_dir: /data", f"store_dir: {json.dumps(str(folder / 'nats'))}"),
    ):
        assert text.count(given) == 1
        text = text.replace(given, put)
    for section, port in listen.items():
        text = switched_on(text, section)
        text, count = re.subn(rf"({section} {{\n)  port: \d+", rf'\1  listen: "127.0.0.1:{port}"', text)
        assert count == 1
    return text


def switched_on(text: str, section: str) -> str:
    """With the # taken away from a section."""
    [found] = re.findall(rf"^#{section} {{\n(?:#.*\n)+?#}}\n", text, re.MULTILINE)
    return text.replace(found, re.sub("^#", "", found, flags=re.MULTILINE))


def broker(folder: Path, text: str, port: int) -> Process:
    (folder / "nats.conf").write_text(text + (ACK_V2 if os.environ.get("NATS_ACK_V2") == "1" else ""))
    env = {**os.environ, **{f"NATS_{it.upper()}_PASSWORD": f'"{password(it)}"' for it in USERS}}
    return Process(
        [program("nats-server"), "-c", str(folder / "nats.conf")], port, folder / "nats.log", env
    ).start()


def url_of(user: str, port: int, scheme: str = "nats") -> str:
    return f"{scheme}://{user}:{password(user)}@127.0.0.1:{port}"


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """That of a broker with the streams and buckets, which the operator has made."""
    client = free_port()
    server = broker(tmp_path, conf(tmp_path, client=client), client)
    asyncio.run(provide(client))
    yield client
    server.kill()


async def provide(port: int) -> None:
    link = BrokerConnection(Settings(nats_url=(url_of("operator", port),)), "test")
    await link.connect()
    for bucket in (streams.MONITOR_BUCKET, streams.NOTIFIER_BUCKET, streams.MAINTENANCE_BUCKET):
        await link.bucket(bucket)
    await link.close()


@asynccontextmanager
async def connected(user: str, port: int) -> AsyncIterator[tuple[Client, list[str]]]:
    """As this user, and what the broker has refused."""
    refused: list[str] = []

    async def note(error: Exception) -> None:
        refused.append(str(error).lower())

    prefix = "_INBOX" if user == "sender" else f"_INBOX.{user}"
    client = await nats.connect(url_of(user, port), error_cb=note, inbox_prefix=prefix)
    try:
        yield client, refused
    finally:
        await client.close()


def mqtt_publish(port: int, topic: str, payload: bytes, user: str, password: str) -> bool:
    """MQTT 3.1.1 with quality of service 1: whether the broker let us in and confirmed the message."""

    def packet(kind: int, *fields: bytes) -> bytes:
        body = b"".join(fields)
        assert len(body) < 128
        return bytes([kind, len(body)]) + body

    def text(of: str) -> bytes:
        return len(of).to_bytes(2) + of.encode()

    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        flags = 0b1100_0010  # user, password, clean session
        sock.sendall(
            packet(0x10, text("MQTT"), bytes([4, flags, 0, 60]), text("probe"), text(user), text(password))
        )
        if sock.recv(4) != b"\x20\x02\x00\x00":
            return False
        sock.sendall(packet(0x32, text(topic), b"\x00\x07", payload))
        try:
            return sock.recv(4) == b"\x40\x02\x00\x07"
        except TimeoutError:
            return False


class Guarded(System):
    """The whole system on a broker with deploy/nats.conf, each service as its own user."""

    def __init__(self, folder: Path, telegram: Standin, scheme: str = "nats", **variables: str) -> None:
        super().__init__(folder, telegram, log_format="json", **variables)
        self.folder = folder
        self.port = self.parts["nats"].port
        for name in SERVICES:
            self.env(name)["REGISTRY_NATS_URL"] = url_of(name, self.port, scheme)

    def env(self, name: str) -> dict[str, str]:
        found = self.parts[name].env
        assert found
        return found

    def another_notifier(self) -> Process:
        port, log = free_port(), self.folder / "notifier-2.log"
        env = {**self.env("notifier"), "REGISTRY_NOTIFIER_PORT": str(port)}
        return Service([sys.executable, "-m", "services.notifier"], port, log, env)

    def logs(self) -> str:
        return "".join(log.read_text() for log in self.folder.glob("*.log"))

    def cli(self, user: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """`registry` as this user."""
        ports = {f"REGISTRY_{name.upper()}_PORT": str(self.parts[name].port) for name in SERVICES}
        given = {f"REGISTRY_{name.upper()}": value for name, value in variables.items()}
        env = {**self.env("notifier"), **ports, "REGISTRY_NATS_URL": url_of(user, self.port), **given}
        return registry(self.folder, *arguments, env=env)


@pytest.mark.timeout(120)
async def test_the_whole_system_works_with_a_user_each_and_nothing_is_refused(tmp_path: Path) -> None:
    mqtt = free_port()
    with Standin() as telegram:
        system = Guarded(tmp_path, telegram)
        try:
            system.parts["nats"] = broker(
                tmp_path, conf(tmp_path, client=system.port, mqtt=mqtt), system.port
            )
            system.parts["second"] = system.another_notifier()
            system.start("mongo", *SERVICES, "second")
            await _ways_in(system, mqtt)
            async with connected("operator", system.port) as (operator, _):
                js = operator.jetstream()
                await until(lambda: "silent → down" in system.told("over.mqtt"))
                assert (await statuses(js, "over.mqtt"))[-2:] == ["silent", "down"]
                telegram.update("42", text="/status over-http")
                await until(lambda: any("ast heartbeat" in it["text"] for it in telegram.messages))
                _api(system)
                await _command_line(system)
                await _what_the_monitor_keeps(system, js)
                await _lease(system)
            _restored(system)
            logs = system.logs()
            assert "standing by" in logs
            assert not re.findall(r".*violation.*", logs, re.IGNORECASE)
            assert "Traceback" not in logs
        finally:
            system.stop()


@pytest.mark.timeout(90)
async def test_windows_of_an_older_version_are_taken_over_with_these_permissions(tmp_path: Path) -> None:
    with Standin() as telegram:
        system = Guarded(tmp_path, telegram)
        now = conf(tmp_path, client=system.port)
        older = now.replace('"$KV.registry_maintenance.taken-over"', '"$KV.registry_maintenance.>"')
        older = older.replace(
            '"$JS.API.STREAM.INFO.KV_registry_maintenance"',
            '"$JS.API.STREAM.INFO.KV_registry_maintenance", "$JS.API.STREAM.CREATE.KV_registry_maintenance"',
        )
        assert older != now
        try:
            system.parts["nats"] = broker(tmp_path, older, system.port)
            link = BrokerConnection(Settings(nats_url=(url_of("api", system.port),)), "test")
            await link.connect()
            bucket = await link.bucket(streams.MAINTENANCE_BUCKET)
            await bucket.put("a", b'{"tags": ["t"], "cron": "0 3 * * *", "duration": "1h"}')
            await link.close()
            (tmp_path / "nats.conf").write_text(now)
            system.parts["nats"].signal(signal.SIGHUP)
            system.start("mongo", *SERVICES)
            await until(lambda: system.api("/maintenance/a")["version"])
            async with connected("operator", system.port) as (operator, _):
                state = (await operator.jetstream().stream_info(streams.SERVICES, subjects_filter=">")).state
                assert state.subjects == {"registry.config.maintenance.a": 1}
                left = await operator.jetstream().stream_info(f"KV_{streams.MAINTENANCE_BUCKET}")
                assert left.state.messages == 2, "the window as it was, and that it is taken over"
            assert not re.findall(r".*violation.*", system.logs(), re.IGNORECASE)
        finally:
            system.stop()


async def _ways_in(system: Guarded, mqtt: int) -> None:
    assert system.beat("over-http", "/start") == system.beat("over-http") == 200
    batch = system.http.post(system.url("ingest", "/heartbeats"), json={"services": ["b-1", "b-2"]})
    assert batch.json()["accepted"] == 2
    async with connected("sender", system.port) as (sender, refused):
        assert (await sender.jetstream().publish("heartbeat.over.nats", b"")).stream == streams.HEARTBEATS
        await sender.publish("heartbeat.unreadable", b"{")
        await sender.publish("heartbeat.*")  # is stored, for permissions know no better; it makes no service
        await sender.flush()
        assert refused == []
    warm = b'{"message": "21 C"}'
    assert mqtt_publish(mqtt, "heartbeat/over/mqtt", warm, "sender", password("sender"))
    await until(lambda: system.api("/services?limit=1")["total"] == 6)
    await until(lambda: _outcomes(system) == ["success"])
    assert system.api("/service/over.mqtt/heartbeats")["items"][0]["message"] == "21 C"


def _api(system: Guarded) -> None:
    """All that makes the API ask the broker."""
    url, http = system.url("api", ""), system.http
    assert http.post(f"{url}/service", json={"name": "made", "tags": ["t"]}).status_code == 201
    assert http.patch(f"{url}/service/made", json={"aliases": ["an-alias"]}).status_code == 200
    assert http.post(f"{url}/service/made/pause").status_code == 200
    assert http.delete(f"{url}/service/made").status_code == 204
    window = http.post(f"{url}/maintenance", json={"tags": ["t"], "cron": "0 3 * * *", "duration": "1h"})
    assert window.status_code == 201
    assert http.delete(f"{url}/maintenance/{window.json()['id']}").status_code == 204
    assert len(system.api("/audit?limit=500")["items"]) >= 2
    for routes in ([{"to": ["42"], "quiet": "22:00-07:00"}], []):
        assert http.put(f"{url}/routes", json={"routes": routes}).status_code == 200
    tried = http.post(f"{url}/routes/test", json={"name": "over-http"})
    assert [it["channel"] for it in tried.json()["channels"]] == ["42"]
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for path in ("", "/events", "/heartbeats", "/runs", "/uptime?window=24h", f"?at={now}"):
        assert http.get(f"{url}/service/over-http{path}").status_code == 200, path
    assert http.get(f"{url}/summary").status_code == 200
    with http.stream("GET", f"{url}/events?after=0") as events:
        assert any("status_changed" in line for line in events.iter_lines())


async def _command_line(system: Guarded) -> None:
    """As the operator, and inside of the API's container."""
    for user in ("operator", "api"):
        rebuilt = system.cli(user, "rebuild", "--json")
        assert rebuilt.returncode == 0, rebuilt.stderr
        assert json.loads(rebuilt.stdout)["services"] == 6
        assert json.loads(rebuilt.stdout)["runs"] == 1
    copied = system.cli("operator", "backup", "copy")
    assert copied.returncode == 0, copied.stderr
    said = system.cli("operator", "doctor")
    assert said.returncode == 0, said.stdout
    wrong = system.cli("operator", "doctor", nats_url=f"nats://operator:wrong@127.0.0.1:{system.port}")
    assert "lets nobody in with these credentials" in wrong.stdout


async def _what_the_monitor_keeps(system: Guarded, js: JetStreamContext) -> None:
    """What cannot be read, its own state, the streams' settings."""

    async def holds(stream: str) -> int:
        return (await js.stream_info(stream)).state.messages

    await eventually(lambda: holds(streams.ASIDE))
    await eventually(lambda: holds(f"KV_{streams.MONITOR_BUCKET}"))
    system.env("monitor")["REGISTRY_HEARTBEATS_KEPT"] = "50"
    system.parts["monitor"].stop()
    system.start("monitor")
    assert (await js.stream_info(streams.HEARTBEATS)).config.max_msgs_per_subject == 50


async def _lease(system: Guarded) -> None:
    """The other notifier speaks when the first is killed."""
    system.parts["notifier"].kill()
    assert system.beat("over-http") == 200
    await until(lambda: "down → alive" in system.told("over-http"))


def _restored(system: Guarded) -> None:
    for name in (*SERVICES, "second"):
        system.parts[name].stop()
    restored = system.cli("operator", "restore", "copy", "--replace")
    assert restored.returncode == 0, restored.stderr
    assert "read everything again" not in restored.stderr  # the monitor's snapshot was told
    system.start(*SERVICES)
    assert system.api("/services?limit=1")["total"] == 6
    assert _outcomes(system) == ["success"]


def _outcomes(system: Guarded) -> list[str]:
    return [run["outcome"] for run in system.api("/service/over-http/runs")["items"]]


REQUEST = "$JS.API."
MAY_PUBLISH = {
    "heartbeat.x": "ingest sender",
    "tick.x": "ingest",
    "service.config.x": "monitor api",
    "service.status.x": "monitor",
    "service.incident.x": "notifier api",
    "service.x": "",
    "run.x": "monitor",
    "aside": "monitor",
    "other": "",
    "$KV.registry_monitor.position": "monitor operator",
    "$KV.registry_monitor.bucket.1": "monitor",
    "$KV.registry_notifier.lease": "notifier",
    "$KV.registry_notifier.record": "notifier operator",
    "$KV.registry_maintenance.x": "",
    "$KV.registry_maintenance.taken-over": "api",
    "$KV.registry_api.keys": "api",
    "registry.config.routes.all": "api",
    "registry.config.maintenance.x": "api",
    "registry.rebuild": "api operator",
    "registry.monitor.judged": "notifier api operator",
    "registry.channels": "api operator",
    "registry.channel.test": "api operator",
    "registry.notifier.x": "notifier operator",
    # Answers in the name of somebody else.
    **{f"_INBOX.{user}.x": "" for user in SERVICES},
    "_R_.x": "",
    "$SYS.REQ.SERVER.PING": "",
    "$SYS.REQ.ACCOUNT.REGISTRY.CONNZ": "",
    "$JS.FC.SERVICES.x": "operator",
    "$JS.ACK.HEARTBEATS.x": "operator",
    "$MQTT.msgs.x": "",
    f"{REQUEST}INFO": "operator",
    f"{REQUEST}STREAM.NAMES": "operator",
    f"{REQUEST}STREAM.LIST": "operator",
    f"{REQUEST}STREAM.CREATE.OTHER": "operator",
    f"{REQUEST}CONSUMER.NAMES.HEARTBEATS": "operator",
    f"{REQUEST}STREAM.INFO.HEARTBEATS": "ingest monitor notifier api operator",
    f"{REQUEST}STREAM.CREATE.SERVICES": "ingest monitor notifier api operator",
    **{
        f"{REQUEST}STREAM.UPDATE.{it}": "monitor operator"
        for it in ("HEARTBEATS", "SERVICES", "RUNS", "ASIDE")
    },
    **{
        f"{REQUEST}STREAM.{what}.{it}": "operator"
        for what in (
            "PURGE",
            "MSG.DELETE",
            "SNAPSHOT",
            "RESTORE",
            "PEER.REMOVE",
            "LEADER.STEPDOWN",
        )
        for it in ("HEARTBEATS", "SERVICES", "RUNS")
    },
    f"{REQUEST}STREAM.DELETE.HEARTBEATS": "operator",
    f"{REQUEST}STREAM.INFO.RUNS": "ingest monitor notifier api operator",
    f"{REQUEST}STREAM.CREATE.RUNS": "ingest monitor notifier api operator",
    f"{REQUEST}DIRECT.GET.RUNS": "monitor notifier api operator",
    f"{REQUEST}STREAM.MSG.GET.RUNS": "monitor notifier api operator",
    f"{REQUEST}CONSUMER.CREATE.RUNS": "notifier api operator",
    f"{REQUEST}CONSUMER.MSG.NEXT.RUNS.x": "notifier api operator",
    f"{REQUEST}CONSUMER.DELETE.RUNS.x": "notifier api operator",
    f"{REQUEST}CONSUMER.DURABLE.CREATE.RUNS.x": "operator",
    **{
        f"{REQUEST}{what}.{it}": "ingest monitor notifier api operator"
        for what in ("DIRECT.GET", "STREAM.MSG.GET")
        for it in ("HEARTBEATS", "SERVICES")
    },
    f"{REQUEST}CONSUMER.CREATE.HEARTBEATS": "monitor notifier api operator",
    f"{REQUEST}CONSUMER.MSG.NEXT.HEARTBEATS.x": "monitor notifier api operator",
    f"{REQUEST}CONSUMER.DELETE.HEARTBEATS.x": "monitor notifier api operator",
    f"{REQUEST}CONSUMER.CREATE.SERVICES": "ingest monitor notifier api operator",
    f"{REQUEST}CONSUMER.CREATE.SERVICES.x.service.y": "notifier api operator",
    f"{REQUEST}CONSUMER.CREATE.SERVICES.x": "operator",
    f"{REQUEST}CONSUMER.CREATE.ASIDE": "operator",
    f"{REQUEST}CONSUMER.DURABLE.CREATE.SERVICES.x": "operator",
    **{
        f"{REQUEST}{what}.KV_registry_{bucket}": f"{owner} operator"
        for bucket, owner in (("monitor", "monitor"), ("notifier", "notifier"), ("api", "api"))
        for what in ("STREAM.INFO", "STREAM.MSG.GET", "STREAM.CREATE")
    },
    **{
        f"{REQUEST}{what}.KV_registry_{bucket}": "operator"
        for bucket in ("monitor", "notifier")
        for what in ("STREAM.DELETE", "STREAM.PURGE", "STREAM.UPDATE", "CONSUMER.CREATE", "DIRECT.GET")
    },
    f"{REQUEST}CONSUMER.CREATE.KV_registry_maintenance": "notifier api operator",
    f"{REQUEST}STREAM.INFO.KV_registry_maintenance": "notifier api operator",
    f"{REQUEST}STREAM.CREATE.KV_registry_maintenance": "operator",
    f"{REQUEST}STREAM.PURGE.KV_registry_maintenance": "operator",
    f"{REQUEST}CONSUMER.CREATE.KV_registry_api": "api operator",
    f"{REQUEST}STREAM.PURGE.KV_registry_api": "operator",
}
MAY_SUBSCRIBE = {
    ">": "operator",
    "heartbeat.>": "operator",
    "tick.>": "operator",
    "service.>": "operator",
    "run.>": "operator",
    "registry.config.>": "operator",
    "$KV.>": "operator",
    "$KV.registry_notifier.>": "operator",
    "$JS.API.>": "operator",
    "$JS.EVENT.>": "operator",
    "registry.rebuild": "api operator",
    "registry.monitor.judged": "monitor operator",
    "registry.channels": "notifier operator",
    "registry.channel.*": "notifier operator",
    "registry.notifier.*": "notifier operator",
    "_INBOX.>": "operator sender",
    "_INBOX.*.>": "operator sender",
    **{f"_INBOX.{user}.x": f"{user} operator sender" for user in SERVICES},  # the sender's are others
    "$SYS.>": "operator",  # of its account, where nothing comes
}


async def test_each_user_is_refused_what_is_not_its_own(port: int) -> None:
    wrong = []
    for user in sorted(USERS, key=lambda it: it == "operator"):  # who may delete things, last
        async with connected(user, port) as (client, refused):
            for subject in MAY_PUBLISH:
                await client.publish(subject, b"{}")
            for subject in MAY_SUBSCRIBE:
                await client.subscribe(subject)
            await client.flush()
            await client.flush()
        for kind, table in (("publish", MAY_PUBLISH), ("subscription", MAY_SUBSCRIBE)):
            for subject, may in table.items():
                said = f'permissions violation for {kind} to "{subject.lower()}"'
                if any(said in it for it in refused) == (user in may.split()):
                    wrong.append(f"{user} {'may not' if user in may.split() else 'may'} {kind} {subject}")
    assert wrong == []


async def test_nothing_that_was_refused_has_happened(port: int) -> None:
    async with connected("operator", port) as (client, _):
        js, names = client.jetstream(), await _streams(client)
        before = {name: await js.stream_info(name) for name in names}
        for user in USERS:
            if user == "operator":
                continue
            async with connected(user, port) as (other, _):
                for subject, may in MAY_PUBLISH.items():
                    if user not in may.split():
                        await other.publish(subject, b"{}")
                await other.flush()
        after = {name: await js.stream_info(name) for name in await _streams(client)}
        assert {name: (it.config, it.state.last_seq) for name, it in after.items()} == {
            name: (it.config, it.state.last_seq) for name, it in before.items()
        }


async def _streams(client: Client) -> list[str]:
    return sorted(it.config.name or "" for it in await client.jetstream().streams_info())


async def test_an_answer_that_a_sender_asks_for_goes_nowhere_else(port: int) -> None:
    """The broker answers a stored message wherever it says, whatever its sender may publish to."""
    async with connected("sender", port) as (sender, refused), connected("operator", port) as (operator, _):
        everywhere = await operator.subscribe(">")
        await operator.flush()
        for reply in ("service.config.x", "tick.x", "$KV.registry_notifier.lease", "registry.rebuild"):
            await sender.publish("heartbeat.x", b"", reply=reply)
        await sender.jetstream().publish("heartbeat.last", b"")
        js = operator.jetstream()
        assert (await js.stream_info(streams.SERVICES)).state.last_seq == 0
        assert (await js.stream_info(f"KV_{streams.NOTIFIER_BUCKET}")).state.last_seq == 0
        heartbeats = (await js.stream_info(streams.HEARTBEATS, subjects_filter=">")).state
        assert heartbeats.subjects == {"heartbeat.x": 4, "heartbeat.last": 1}
        seen: list[str] = []
        while len(seen) < 5:  # answers to requests go by as well
            subject = (await everywhere.next_msg(2)).subject
            seen += [] if subject.startswith("_R_.") else [subject]
        assert {*seen} == {"heartbeat.x", "heartbeat.last"}
        assert refused == []


@pytest.mark.parametrize("user", ["notifier", "api"])
async def test_much_at_once_comes_through_and_is_acknowledged(port: int, user: str) -> None:
    count = 3 * MAX_UNACKNOWLEDGED  # refused acknowledgements would hold up the rest
    async with (
        connected("monitor", port) as (monitor, _),
        connected("operator", port) as (operator, _),
        connected(user, port) as (client, refused),
    ):
        for n in range(count):
            await monitor.publish(f"service.status.s{n}", bytes(1000))
        await monitor.flush()
        link = BrokerConnection(Settings(nats_url=(url_of(user, port),)), "test")
        link.adopt(client)
        seen: list[int] = []

        async def apply(received: list[ReceivedEvent]) -> None:
            seen.extend(it.stored.seq for it in received)

        reading = asyncio.create_task(EventSubscription(link, FastStreamBroker(link)).run(0, apply))
        await eventually(lambda: _is(len(seen) == count), within=30)
        assert seen == [*range(1, count + 1)]

        async def acknowledged() -> bool:
            [consumer] = await operator.jetstream().consumers_info(streams.SERVICES)
            return consumer.num_ack_pending == 0 and consumer.num_redelivered == 0

        await eventually(acknowledged)
        reading.cancel()
        await asyncio.wait({reading})
        await client.flush()
        assert refused == []
        assert await operator.jetstream().consumers_info(streams.SERVICES) == []


async def _is(true: bool) -> bool:
    return true


async def test_nobody_comes_in_without_a_password(port: int) -> None:
    for given in (f"nats://127.0.0.1:{port}", f"nats://sender:@127.0.0.1:{port}", url_of("registry", port)):
        with pytest.raises(nats.errors.Error, match="Authorization Violation"):
            await nats.connect(given, allow_reconnect=False, error_cb=_quiet)


async def _quiet(_: Exception) -> None: ...


async def only_the_probe_is_stored(port: int) -> None:
    """One heartbeat of `probe`, and no event."""
    async with connected("operator", port) as (operator, _):
        js = operator.jetstream()
        state = (await js.stream_info(streams.HEARTBEATS, subjects_filter=">")).state
        assert state.subjects == {"heartbeat.probe": 1}
        assert (await js.stream_info(streams.SERVICES)).state.last_seq == 0


def test_mqtt_takes_heartbeats_from_the_sender_alone(tmp_path: Path) -> None:
    client, mqtt = free_port(), free_port()
    server = broker(tmp_path, conf(tmp_path, client=client, mqtt=mqtt), client)
    try:
        asyncio.run(provide(client))
        assert mqtt_publish(mqtt, "heartbeat/probe", b"", "sender", password("sender"))
        assert not mqtt_publish(mqtt, "heartbeat/probe", b"", "sender", "wrong")
        assert not mqtt_publish(mqtt, "heartbeat/probe", b"", "", "")
        mqtt_publish(mqtt, "tick/probe", b"", "sender", password("sender"))
        mqtt_publish(mqtt, "service/config/probe", b"", "sender", password("sender"))
        asyncio.run(only_the_probe_is_stored(client))
    finally:
        server.kill()


class Keys:
    """An ed25519 key as NATS writes it: `kind` is the letter that its public form begins with."""

    def __init__(self, kind: int) -> None:
        self._kind, self._key = kind, SigningKey.generate()
        self.public = self._text(bytes([kind << 3]) + bytes(self._key.verify_key))

    @staticmethod
    def _text(raw: bytes) -> str:
        return base64.b32encode(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")).decode().rstrip("=")

    @property
    def seed(self) -> str:
        return self._text(bytes([18 << 3 | self._kind >> 2, (self._kind & 3) << 6]) + bytes(self._key))

    def jwt(self, subject: str, name: str, claims: dict[str, Any]) -> str:
        def part(content: Any) -> str:
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            return base64.urlsafe_b64encode(raw).decode().rstrip("=")

        about = {"iss": self.public, "sub": subject, "name": name, "iat": int(time.time()), "jti": name}
        signed = ".".join(
            (part({"typ": "JWT", "alg": "ed25519-nkey"}), part({**about, "nats": {**claims, "version": 2}}))
        )
        return f"{signed}.{part(self._key.sign(signed.encode()).signature)}"


async def test_a_credentials_file_opens_the_broker(tmp_path: Path) -> None:
    operator, account, user, system = Keys(14), Keys(0), Keys(20), Keys(0)
    unlimited = {it: -1 for it in ("subs", "data", "payload", "imports", "exports", "conn", "leaf")}
    unlimited |= {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
    of_account = operator.jwt(account.public, "A", {"type": "account", "limits": unlimited})
    of_system = operator.jwt(system.public, "SYS", {"type": "account"})
    of_user = account.jwt(user.public, "U", {"type": "user", "subs": -1, "data": -1, "payload": -1})
    creds = tmp_path / "user.creds"
    creds.write_text(
        f"-----BEGIN NATS USER JWT-----\n{of_user}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
    )
    port, config = free_port(), tmp_path / "nats.conf"
    config.write_text(
        f'listen: 127.0.0.1:{port}, jetstream {{ store_dir: "{tmp_path}/nats" }}, resolver: MEMORY\n'
        f"operator: {operator.jwt(operator.public, 'O', {'type': 'operator'})}\n"
        f"resolver_preload: {{ {account.public}: {of_account}, {system.public}: {of_system} }}\n"
        f"system_account: {system.public}\n"
    )
    command = [program("nats-server"), "-c", str(config)]
    server = Process(command, port, tmp_path / "nats.log").start()
    services = []
    try:
        with pytest.raises(nats.errors.Error):
            await nats.connect(f"nats://127.0.0.1:{port}", allow_reconnect=False, error_cb=_quiet)
        for name in ("monitor", "notifier"):  # a plain connection, and FastStream's
            services.append(
                service(name, tmp_path, f"nats://127.0.0.1:{port}", nats_creds=str(creds)).start()
            )
        link = BrokerConnection(
            Settings(nats_url=(f"nats://127.0.0.1:{port}",), nats_creds=str(creds)), "test"
        )
        await link.connect()

        async def notified() -> bool:
            return all("ready" in it.log.read_text() for it in services) and (
                "notifying" in services[1].log.read_text()
            )

        await eventually(notified, within=20)
        await link.close()
    finally:
        for it in services:
            it.kill()
        server.kill()


@pytest.mark.timeout(90)
async def test_an_older_configuration_is_waited_for_and_what_to_mend_is_said(tmp_path: Path) -> None:
    """As it stood before there was a stream RUNS."""
    with Standin() as telegram:
        system = Guarded(tmp_path, telegram)
        now = conf(tmp_path, client=system.port)
        older = re.sub(r' *"[^"\n]*\.RUNS\b[^"\n]*",?', "", now).replace('"run.>", ', "")
        assert now.count("RUNS") > older.count("RUNS") == 0
        try:
            system.parts["nats"] = broker(tmp_path, older, system.port)
            system.start("mongo", *SERVICES, wait=False)

            def all_have_said_it() -> bool:
                logs = [system.parts[name].log.read_text() for name in SERVICES]
                return all("see deploy/nats.conf" in it and "$js.api.stream.info.runs" in it for it in logs)

            await until(all_have_said_it)
            assert not any(system.get_ready(name) == 200 for name in SERVICES)
            assert all(system.parts[name].running for name in SERVICES)
            (tmp_path / "nats.conf").write_text(now)
            system.parts["nats"].signal(signal.SIGHUP)
            system.wait_until_ready()
            assert system.beat("web") == 200
        finally:
            system.stop()


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl to make a certificate with")
@pytest.mark.timeout(60)
def test_tls_with_a_ca_of_ones_own(tmp_path: Path) -> None:
    """Switched on as it stands there; the services come in over it, and not without the CA."""
    ca, certificate = _certificate(tmp_path)
    with Standin() as telegram:
        system = Guarded(tmp_path, telegram, "tls", nats_ca=str(ca))
        try:
            text = switched_on(conf(tmp_path, client=system.port, websocket=free_port()), "tls")
            for name in ("tls.crt", "tls.key"):
                assert f"/etc/nats/{name}" in text
                text = text.replace(f"/etc/nats/{name}", str(certificate / name))
            system.parts["nats"] = broker(tmp_path, text, system.port)
            system.start("mongo", *SERVICES)
            assert system.beat("over-tls") == 200
            deadline = time.monotonic() + 20
            while system.status("over-tls") != "alive":
                assert time.monotonic() < deadline
            tls = url_of("operator", system.port, "tls")
            assert system.cli("operator", "rebuild", nats_url=tls, nats_ca=str(ca)).returncode == 0
            without = system.cli("operator", "doctor", nats_url=tls, nats_ca="").stdout
            assert "Set REGISTRY_NATS_CA" in without
            env = {**system.env("ingest"), "REGISTRY_INGEST_PORT": str(free_port())}
            del env["REGISTRY_NATS_CA"]
            stranger = Service([sys.executable, "-m", "services.ingest"], 0, tmp_path / "stranger.log", env)
            system.parts["stranger"] = stranger.start(wait=0)
            deadline = time.monotonic() + 20
            while "CERTIFICATE_VERIFY_FAILED" not in stranger.log.read_text():
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            system.stop()


def _certificate(folder: Path) -> tuple[Path, Path]:
    """The file of a new CA, and the folder with a certificate and its key that it signed."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(*new, "-x509", "-subj", "/CN=the registry's CA", "-keyout", "ca.key", "-out", "ca.crt")
    openssl(*new, "-subj", "/CN=nats", "-keyout", "tls.key", "-out", "tls.csr")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names")
    openssl("x509", "-req", "-in", "tls.csr", *signed, "-out", "tls.crt")
    return folder / "ca.crt", folder


async def test_streams_of_the_version_before_are_found_again(tmp_path: Path) -> None:
    """Up to 0.1 there was one user, and the streams were in the broker's account without a name."""
    client, config = free_port(), tmp_path / "nats.conf"
    old = f'listen: 127.0.0.1:{client}, jetstream {{ store_dir: "{tmp_path}/nats" }}\n'
    config.write_text(old + "authorization { user: registry, password: p }")
    server = Process([program("nats-server"), "-c", str(config)], client, tmp_path / "old.log").start()
    nc = await nats.connect(f"nats://registry:p@127.0.0.1:{client}")
    await nc.jetstream().add_stream(StreamConfig(name=streams.SERVICES, subjects=[streams.ALL_EVENTS]))
    await nc.jetstream().publish(streams.config("kept"), b"{}")
    await nc.close()
    server.stop()

    start, server_program = (DEPLOY / "nats.sh").read_text(), program("nats-server")
    for given, put in (
        ("/data/", f"{tmp_path}/nats/"),
        ("/etc/nats/", f"{tmp_path}/"),
        ("exec nats-server", f"exec {server_program}"),
    ):
        assert given in start
        start = start.replace(given, put)
    (tmp_path / "nats.sh").write_text(start)
    for _ in range(2):  # the second start finds them where they belong
        broker_env = {**os.environ, **{f"NATS_{it.upper()}_PASSWORD": f'"{password(it)}"' for it in USERS}}
        config.write_text(conf(tmp_path, client=client))
        server = Process(["sh", str(tmp_path / "nats.sh")], client, tmp_path / "new.log", broker_env).start()
        try:
            async with connected("operator", client) as (operator, _):
                message = await operator.jetstream().get_msg(streams.SERVICES, 1)
                assert message.subject == streams.config("kept")
        finally:
            server.stop()
