"""The front door as Caddy runs it: who is asked at which address, and what its log says of one."""

import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import httpx
import pytest

from services.api.healthchecks import app
from services.api.http import app as api
from services.ingest import http
from tests.servers import Process, front_door

KEY = "5d3a8e0c-7a64-4c0a-9f7e-2b1d7c3e9a10"


class _Upstream(BaseHTTPRequestHandler):
    """Answers which it is, the address it was asked for, and how much came with it."""

    def do_GET(self) -> None:
        size = len(self.rfile.read(int(self.headers.get("content-length", 0))))
        answer = f"{self.server.name} {self.path} {size}".encode()  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_POST = do_HEAD = do_PUT = do_DELETE = do_GET

    def log_message(self, *_: Any) -> None: ...


class Upstream(ThreadingHTTPServer):
    def __init__(self, name: str) -> None:
        super().__init__(("127.0.0.1", 0), _Upstream)
        self.name = name
        threading.Thread(target=self.serve_forever, daemon=True).start()


@pytest.fixture
def caddy(tmp_path: Path) -> Iterator[tuple[Process, dict[str, Upstream]]]:
    with ExitStack() as stack:
        upstreams = {name: Upstream(name) for name in ("ingest", "api")}
        for upstream in upstreams.values():
            stack.callback(upstream.server_close)
            stack.callback(upstream.shutdown)
        ports = {name: upstream.server_port for name, upstream in upstreams.items()}
        server = front_door(tmp_path, ports, debug=True)  # it is to say all it can
        if server is None:
            pytest.skip("caddy is not installed")
        server.start()
        stack.callback(server.kill)
        yield server, upstreams


def asked(port: int, path: str, method: str = "GET", content: bytes = b"") -> tuple[str, str, str]:
    answer = httpx.request(method, f"http://127.0.0.1:{port}{path}", content=content or None, timeout=20)
    assert answer.status_code == 200, answer.text
    who, address, size = answer.text.split(" ")
    return who, address, size


INGEST = [
    "/heartbeat/a",
    "/heartbeats",
    f"/ping/{KEY}",
    f"/ping/{KEY}/start?rid=1",
    "/ping/token/a%2Fb%20c/",
    f"//ping/{KEY}",
    f"/api/push/{KEY}?status=up&msg=a%26b",
    "/api/v1/endpoints/core_a/external?success=true",
    "/api/42/cron/nightly/token/?status=ok",
    "/api/0/envelope/",
    "/exec.py",
]
API = [
    "/",
    "/services",
    "/service/ping",
    "/pings",
    "/pingx/a",
    "/api/v1/checks/",
    "/api/v1/endpointsx/a",
    "/api/v3/checks/",
    "/api/1x/envelope/",
    "/api/pushx/a",
    "/ui/ping/a",
    "/exec.pyc",
]


def test_heartbeats_in_any_protocol_go_to_ingest_and_all_else_to_the_api(
    caddy: tuple[Process, dict[str, Upstream]],
) -> None:
    server, _ = caddy
    for who, paths in (("ingest", INGEST), ("api", API)):
        for path in paths:
            shown = re.sub("^//", "/", path)  # Python's server does so
            assert asked(server.port, path) == (who, shown, "0")
    for path in (each for each in INGEST[2:] if not each.startswith("//")):
        assert asked(server.port, path, "POST", b"x" * 1_048_576) == ("ingest", path, "1048576")
        too_large = httpx.post(f"http://127.0.0.1:{server.port}{path}", content=b"x" * 1_048_577)
        assert too_large.status_code == 413
    for method in ("PUT", "DELETE"):
        assert asked(server.port, f"/api/push/{KEY}", method)[0] == "ingest"


def addresses() -> dict[str, set[str]]:
    """Every one that the two services say they have, with something in the place of each parameter."""
    parts: Any = MagicMock()  # of which nothing but its routes is asked
    versions = {v: app._build(parts, app._Api(v, parts)) for v in app.VERSIONS}
    management = {f"/api/v{v}{route.path}" for v, built in versions.items() for route in built.routes}
    told = {
        "ingest": set(http.build(parts, parts, parts, parts).openapi()["paths"]),
        "api": set(api.build(parts).openapi()["paths"]) | management,
    }
    both = told["ingest"] & told["api"]
    assert both <= {"/healthz", "/readyz", "/metrics"}, "the front door could not tell whose these are"
    return {
        who: {re.sub(r"\{(project|n:int|states:int)\}", "7", path) for path in paths - both}
        for who, paths in told.items()
    }


def test_every_address_that_is_documented_leads_to_who_has_it(
    caddy: tuple[Process, dict[str, Upstream]],
) -> None:
    server, _ = caddy
    told = addresses()
    assert "/api/7/cron/{name}/{token}/" in told["ingest"]
    assert {"/services", "/api/v2/checks/{id}/flips"} <= told["api"]
    for who, paths in told.items():
        for path in paths:
            path = re.sub(r"\{[^}]*\}", "a", path)
            assert asked(server.port, path)[:2] == (who, path)


def test_no_address_of_a_heartbeat_stands_in_the_log(caddy: tuple[Process, dict[str, Upstream]]) -> None:
    server, upstreams = caddy
    assert asked(server.port, f"/ping/{KEY}/start")[0] == "ingest"
    upstreams["ingest"].shutdown()
    upstreams["ingest"].server_close()
    answer = httpx.get(
        f"http://127.0.0.1:{server.port}/ping/{KEY}",
        headers={"authorization": f"Bearer {KEY}", "referer": f"http://x/ping/{KEY}"},
        timeout=20,
    )
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    log = server.log.read_text()
    assert '"request":{' in log
    assert "connection refused" in log
    assert KEY not in log
