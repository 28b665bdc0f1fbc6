"""Keys and tokens stand in no span, log, metric or error, and in nothing that is kept of a heartbeat."""

import gzip
import json
import socket
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import brotli
import httpx
import pytest
from nats.js.errors import NotFoundError

from shared.messaging import streams
from tests.broker import connect
from tests.e2e.conftest import Collector, traceparent
from tests.e2e.system import SERVICES, System, until
from tests.telegram_standin import Standin

API_TOKEN, READ_TOKEN, INGEST_TOKEN = "api-token-Kq1", "read-token-Kq2", "ingest_token_Kq3"
ADMIN = {"authorization": f"Bearer {API_TOKEN}"}
ALIAS, UUID_ALIAS = "imported~Push.id-Kq4", "8d0f6a53-0f4e-4a3c-9a55-50d5c1a1e0b4"
WRONG_WORD, WRONG_UUID = "wrong_word_Kq5", "1c9b8d3e-5f35-4b53-8c41-6a0d2f9b7e10"
TOO_LONG = b"x" * 1_100_000
CHECK_IN = b'{"type":"check_in"}\n{"monitor_slug":"web","status":"ok"}'


class Ask(NamedTuple):
    method: str
    path: str
    headers: Mapping[str, str] = MappingProxyType({})
    content: bytes = b""
    as_admin: bool = False


def of_ingest(secret: str) -> Iterator[Ask]:
    """Everything that can be right or wrong with a request that shows this secret."""
    bearer, sentry = {"authorization": f"Bearer {secret}"}, f"Sentry sentry_key={secret}, sentry_version=7"
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        for path in (f"/ping/{secret}", f"/api/push/{secret}?status=up&msg=fine&ping=3"):
            yield Ask(method, path)
    for rest in (
        "/start",
        "/log",
        "/7",
        "/999",
        "/nonsense",
        "/a/b/c",
        "/0?rid=no-uuid",
        "/web",
        "/un%2Fknown",
    ):
        yield Ask("POST", f"/ping/{secret}{rest}", content=b"a message")
    yield Ask("POST", f"/ping/{secret}/0", content=TOO_LONG)
    yield Ask("POST", f"/ping/{secret}%00%0a/0")
    yield Ask("GET", f"/api/push/{secret}/more")
    yield Ask("GET", f"/api/push/{secret}?status=down&ping=x&msg=%0a")
    yield Ask("POST", f"/api/push/{secret}", content=TOO_LONG)
    for slash in ("", "/"):
        yield Ask("GET", f"/api/1/cron/web/{secret}{slash}?status=ok&duration=x")
        yield Ask("GET", f"/api/1/cron/web{slash}?status=error&sentry_key={secret}")
        yield Ask("DELETE", f"/api/1/cron/web/{secret}{slash}")
        yield Ask("GET", f"/api/1/cron/web/{secret}/more{slash}")
        yield Ask("GET", f"/api/no-number/cron/web/{secret}{slash}")
    dsn = b'{"dsn":"https://%s@example.com/1"}\n' % secret.encode()
    for headers, query in (({"x-sentry-auth": sentry}, ""), ({}, f"?sentry_key={secret}"), ({}, "")):
        for encoding, content in (
            ("", dsn + CHECK_IN),
            ("", dsn + b"no item"),
            ("", dsn + b"\n" * 20_000),
            ("", b"no envelope: " + dsn),
            ("", TOO_LONG),
            ("gzip", gzip.compress(dsn + CHECK_IN)),
            ("br", brotli.compress(dsn + CHECK_IN)),
            ("br", dsn),
            ("zstd", dsn),
        ):
            yield Ask("POST", f"/api/1/envelope/{query}", headers | {"content-encoding": encoding}, content)
        yield Ask("DELETE", f"/api/1/envelope/{query}", headers)
    for query in ("success=true&duration=1x", "success=false&error=boom", "success=perhaps", ""):
        yield Ask("POST", f"/api/v1/endpoints/a_web/external?{query}", bearer)
    yield Ask("POST", f"/api/v1/endpoints/a_web/external/{secret}", bearer)
    yield Ask("GET", "/api/v1/endpoints/a_web/external?success=true", bearer)
    for headers, token in ((bearer, ""), ({}, f"?token={secret}")):
        for path in ("web", "web/fail", "web/nonsense", "bad..name", "bad/name/x"):
            yield Ask("POST", f"/heartbeat/{path}{token}", headers)
        yield Ask("POST", f"/heartbeat/web{token}", headers, TOO_LONG)
        yield Ask("DELETE", f"/heartbeat/web{token}", headers)
        yield Ask("POST", f"/heartbeats{token}", headers, b'{"services": 7}')
        yield Ask("GET", f"/nowhere{token}", headers)


def of_api(secret: str) -> Iterator[Ask]:
    for path in (
        f"/ping/{secret}",
        f"/api/push/{secret}",
        f"/api/1/cron/web/{secret}/",
        f"/nowhere?token={secret}",
    ):
        yield Ask("GET", path)
        yield Ask("POST", path, as_admin=True)
    for version in (1, 2, 3):
        for rest in (
            "",
            "/",
            "/pause",
            "/resume",
            "/pings/",
            "/pings/x/body",
            "/flips/?seconds=x",
            "/nonsense",
        ):
            for as_admin in (False, True):
                for method in ("GET", "PUT"):
                    yield Ask(method, f"/api/v{version}/checks/{secret}{rest}", as_admin=as_admin)
        yield Ask("GET", f"/api/v{version}/checks/", {"x-api-key": secret})
        yield Ask("GET", f"/api/v{version}/metrics/", {"x-metrics-key": secret})
        body = json.dumps({"api_key": secret, "name": "web"}).encode()
        yield Ask("POST", f"/api/v{version}/checks/", content=body)
        yield Ask("POST", f"/api/v{version}/checks/{secret}", content=b'{"timeout": -1}', as_admin=True)
        yield Ask("POST", f"/api/v{version}/checks/{secret}", content=TOO_LONG, as_admin=True)
    yield Ask("GET", "/service/web", {"authorization": f"Bearer {secret}"})
    yield Ask("GET", f"/services?token={secret}")
    yield Ask("POST", "/ui/login", content=f"token={secret}".encode())
    for wrong in (
        {"name": "taken", "aliases": [UUID_ALIAS if secret == UUID_ALIAS else ALIAS]},
        {"name": "taken", "aliases": [f"no alias {secret}"]},
        {"name": "taken", "aliases": secret},
        {"name": "taken", "aliases": {secret: 1}},
        {"name": "taken", "ping_key": secret},
        {"name": "bad..name", "aliases": [secret]},
        {"name": "taken", "aliases": [secret], "every": "whenever"},
    ):
        yield Ask("POST", "/service", content=json.dumps(wrong).encode(), as_admin=True)
        yield Ask("PATCH", "/service/other", content=json.dumps(wrong).encode(), as_admin=True)
    yield Ask("POST", f"/service?token={secret}", content=TOO_LONG, as_admin=True)
    yield Ask("POST", "/service", content=b'{"aliases": ["%s"' % secret.encode(), as_admin=True)


def asked(base: str, asks: Iterator[Ask], secret: str, seen: dict[int, int]) -> Iterator[str]:
    """What was answered."""
    with httpx.Client(base_url=base, timeout=20) as client:
        for number, ask in enumerate(asks):
            headers = {
                "x-forwarded-for": f"203.0.{number % 250}.{sum(seen.values()) % 250}",
                "traceparent": traceparent()[2],
                "referer": f"http://127.0.0.1/ping/{secret}",
            }
            headers |= ask.headers | (ADMIN if ask.as_admin else {})
            answer = client.request(ask.method, ask.path, headers=headers, content=ask.content or None)
            assert answer.status_code < 500 or answer.status_code == 503, (ask, answer.text)
            if secret in ask.path.partition("?")[0]:
                assert answer.headers.get("referrer-policy") in ("no-referrer", "same-origin"), ask
            seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
            yield f"{ask.method} answered {answer.status_code} {answer.headers} {answer.text}\n"


def spoken(system: System, service: str, secret: str) -> Iterator[str]:
    """What is answered to what is no HTTP, or too much of it."""
    for line in (
        f"GET /ping/{secret} HTTP/9",
        f"GET /ping/{secret}{'x' * 30_000} HTTP/1.1",
        f"\0/ping/{secret}",
    ):
        with socket.create_connection(("127.0.0.1", system.parts[service].port), timeout=5) as connection:
            connection.sendall(f"{line}\r\nHost: 127.0.0.1\r\n\r\n".encode())
            yield connection.recv(10_000).decode()


def broken_events(key: str) -> Iterator[bytes]:
    """Configuration that nobody of ours writes, with a key in it."""
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": uuid.uuid4().hex,
        "source": "/test",
        "subject": "broken",
        "time": "2026-11-28T00:00:00Z",
        "type": "service.updated.v1",
    }
    for data in (
        {"ping_key": key, "config": 7},
        {"ping_key": [key], "config": {}},
        {"config": {"aliases": [f"no alias {key}"]}},
        {"config": {"aliases": key}},
        [key],
        key,
    ):
        yield json.dumps(event | {"data": data}).encode()
    yield f'{{"data": {{"ping_key": "{key}"'.encode()


async def stored(nats_url: str, stream: str) -> str:
    nc, js = await connect(nats_url)
    found, seq = "", 0
    while True:
        try:
            message = await js.get_msg(stream, seq + 1, subject=">", next=True)
        except NotFoundError:
            await nc.close()
            return found
        seq = message.seq or 0
        found += f"{message.subject} {message.headers} {message.data!r}\n"


@pytest.mark.timeout(240)
async def test_secrets_stand_in_no_trace_log_metric_or_error(tmp_path: Path, collector: Collector) -> None:
    with Standin(chats=("42",)) as telegram:
        system = System(
            tmp_path,
            telegram,
            api_token=f"ana:{API_TOKEN}",
            read_token=READ_TOKEN,
            ingest_token=f"sensors:{INGEST_TOKEN}",
            log_level="debug",
            log_format="json",
            down_after="5m",
            silent_after="4m",
        )
        try:
            system.start()
            api, ingest = system.url("api", ""), system.url("ingest", "")
            assert (
                system.http.post(f"{api}/service", headers=ADMIN, json={"name": "other"}).status_code == 201
            )
            made = system.http.post(
                f"{api}/service", json={"name": "web", "aliases": [ALIAS, UUID_ALIAS]}, headers=ADMIN
            ).json()
            ended = made["ping_url"].rpartition("/")[2]
            key = (
                system.http.post(f"{api}/service/web/ping-key", headers=ADMIN)
                .json()["ping_url"]
                .rpartition("/")[2]
            )
            await until(lambda: httpx.get(f"{ingest}/ping/{key}").status_code == 200)
            secrets = [
                key,
                ended,
                ALIAS,
                UUID_ALIAS,
                WRONG_UUID,
                WRONG_WORD,
                INGEST_TOKEN,
                API_TOKEN,
                READ_TOKEN,
            ]
            answers: list[str] = []
            of_ingests, of_apis = dict[int, int](), dict[int, int]()
            for secret in secrets:
                answers += asked(ingest, of_ingest(secret), secret, of_ingests)
                refused = asked(api, of_api(secret), secret, of_apis)
                answers += [
                    it for it in refused if " answered 2" not in it
                ]  # it shows keys to whoever may write
                for service in ("ingest", "api"):
                    answers += spoken(system, service, secret)
            assert of_ingests.keys() >= {200, 202, 400, 401, 404, 405, 413, 415, 422}
            assert of_apis.keys() >= {400, 401, 404, 405, 409, 413, 422}

            nc, _ = await connect(system.nats_url)
            for payload in broken_events(key):
                await nc.publish(streams.config("broken"), payload)
            await nc.flush()
            await nc.close()
            for name in ("api", "monitor", "notifier"):
                log = system.parts[name].log
                await until(lambda log=log: '"seq"' in log.read_text())
            await until(
                lambda: {it.service for it in collector.seen} >= {"registry-ingest", "registry-monitor"}
            )
            shown = {f"{it}: metrics": system.http.get(system.url(it, "/metrics")).text for it in SERVICES}
            shown |= {it: await stored(system.nats_url, it) for it in (streams.HEARTBEATS, streams.RUNS)}
            assert "heartbeat.web" in shown[streams.HEARTBEATS]

            system.parts["nats"].kill()  # refusals of the broker's making
            for path in (
                f"/ping/{key}",
                f"/ping/{key}/7",
                f"/api/push/{key}?status=up",
                f"/heartbeat/a?token={INGEST_TOKEN}",
            ):
                answer = system.http.get(ingest + path, headers={"traceparent": traceparent()[2]})
                assert answer.status_code == 503
                answers.append(f"{answer.headers} {answer.text}")
            for name in SERVICES:
                system.parts[name].stop()
        finally:
            system.stop()
        shown |= {f"{name}: log": part.log.read_text() for name, part in system.parts.items()}
        shown |= {"answers": "\n".join(answers), "traces": collector.raw.decode("latin-1")}
        shown["messages"] = json.dumps(telegram.messages)
    for where, text in shown.items():
        assert text, where
        for secret in secrets:
            found = text.lower().find(secret.lower())
            assert found < 0, f"{secret} in {where}: {text[max(0, found - 500) : found + 200]}"
