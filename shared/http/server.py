"""What every service is: an HTTP front with health and metrics, and work behind it, until told to stop."""

import asyncio
import contextlib
import gc
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, Gauge, disable_created_metrics, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.http.protocol import Connection, ConnectionLimits
from shared.http.uvicorn_internals import Server
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.errors import NotStored
from shared.messaging.publisher import Publisher
from shared.messaging.queries import last_sequence
from shared.settings import PREFIX, base_url, stop
from shared.telemetry import tracing

log = structlog.get_logger()

Work = Callable[[], Awaitable[None]]

READY = Gauge("registry_ready", "1 for each part of the service that works, else 0", ["part"])

STOP_TIMEOUT = 8.0
"""Seconds that requests and work get to end after SIGTERM."""


class WrongConfiguration(Exception):
    """What only the work finds out to be configured wrongly, in lines: the process ends with code 2."""


class Health:
    """Why the service is not ready, by part; empty when it is."""

    def __init__(self, *parts: str) -> None:
        self.missing: dict[str, str] = dict.fromkeys(parts, "starting")
        for part in parts:
            READY.labels(part).set(0)

    def good(self, part: str) -> None:
        READY.labels(part).set(1)
        if self.missing.pop(part, None):
            log.info("ready", part=part)

    def bad(self, part: str, reason: str) -> None:
        READY.labels(part).set(0)
        self.missing[part] = reason

    def follow(self, link: BrokerConnection) -> None:
        """Part `broker`: lost and back with its connection. The work says when it is there at first."""
        link.on_lost.append(lambda: self.bad("broker", "away"))
        link.on_back.append(lambda: self.good("broker"))

    def routes(self) -> list[BaseRoute]:
        async def healthz(_: Request) -> Response:
            return JSONResponse({"status": "ok"})

        async def readyz(_: Request) -> Response:
            if self.missing:
                return JSONResponse({"status": "not ready", "missing": self.missing}, status_code=503)
            return JSONResponse({"status": "ready"})

        async def metrics(_: Request) -> Response:
            return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

        return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]


class Record:
    """Part `record` of a service's health: whether the broker stores the events that it is given.

    Found out from events alone, because a stream that is read-only answers everything else as ever.
    """

    POLL_INTERVAL = 5.0

    def __init__(self, health: Health, link: BrokerConnection, publisher: Publisher) -> None:
        self._health = health
        self._link = link
        self._failed = asyncio.Event()
        publisher.on_append = self._appended
        link.on_back.append(self._good)  # after a restart, which mends it, or else the next event tells
        self._good()

    def _appended(self, error: NotStored | None) -> None:
        if error is None:
            if self._failed.is_set():
                self._good()
        else:
            self._health.bad("record", str(error))
            self._failed.set()

    def _good(self) -> None:
        self._failed.clear()
        self._health.good("record")

    async def watch(self) -> None:
        """Find out that events are stored again, though this service has none to store itself; for ever."""
        while True:
            await self._failed.wait()
            seen: int | None = None
            while self._failed.is_set():
                with contextlib.suppress(NotStored):
                    last, _ = await last_sequence(self._link, streams.SERVICES)
                    seen = last if seen is None else seen
                    if last > seen:
                        self._good()
                await asyncio.sleep(self.POLL_INTERVAL)


class HeadAsGet:
    """ASGI middleware: HEAD wherever GET answers, with the same status and headers, and no body (RFC 9110,
    9.3.2). What a GET would go on streaming is ended as soon as its headers are known."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        heads: list[Message] = []
        known = asyncio.Event()

        async def keep_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                heads.append(message)
                known.set()

        async def answer() -> None:
            try:
                await self._app({**scope, "method": "GET"}, receive, keep_head)
            finally:
                known.set()

        answering = asyncio.create_task(answer())
        try:
            await known.wait()
            if heads:
                await send(heads[0])
                await send({"type": "http.response.body", "body": b""})
            else:
                await answering  # raises what the app has raised
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)


class _Server(Server):
    limits: ConnectionLimits

    def every_second(self) -> None:
        """End connections that take too long."""
        self.limits.now = asyncio.get_running_loop().time()
        for connection in self.open_connections:
            assert isinstance(connection, Connection)
            connection.check_timeouts()


def run(
    app: Any,
    work: Work,
    *,
    host: str,
    port: int,
    variable: str,
    http: type[Connection],
    any_port: bool = False,
    on_stop: Callable[[], None] = lambda: None,
) -> None:
    """Serve `app` on host:port beside `work` until SIGTERM or SIGINT; then `on_stop` ends what clients wait
    for. Ends the process: code 0 after a signal, 1 if the work or the server failed, 2 if the port (set by
    `variable`) cannot be had; with `any_port` a free one is taken. `http`: the protocol, with its limits."""
    http.limits.fit(_files())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the loop has its own handlers
    disable_created_metrics()  # type: ignore[no-untyped-call]
    sock = _bind(host, port, variable, any_port)
    with asyncio.Runner(loop_factory=_loop) as runner:
        code = runner.run(_serve(app, work, sock, http, on_stop))
    tracing.stop()
    sys.exit(code)


def collect_garbage_seldom() -> None:
    """For a service that makes and throws away much per heartbeat, and keeps little of it. Looking through it
    seldom takes p99 of ingest at 256 connections from 47 to 18 ms, and was a seventh of what runs cost the
    monitor."""
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


def _files() -> int:
    """How many this process may have open, after asking for as many as it may ask for."""
    if sys.platform == "win32":
        return 512
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft if soft != resource.RLIM_INFINITY else 1_000_000


def _loop() -> asyncio.AbstractEventLoop:
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


def _bind(host: str, port: int, variable: str, any_port: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(2048)
    except UnicodeError:
        stop(f"the address {host!r} is not accepted: an address of this machine, or its name")
    except OSError as error:
        if any_port:
            log.warning("port is taken; using a free one", variable=PREFIX + variable, port=port)
            return _bind(host, 0, variable, False)
        stop(f"{PREFIX}{variable}={port}: cannot listen on {host}:{port} ({error.strerror})")
    return sock


async def _serve(
    app: Any, work: Work, sock: socket.socket, http: type[Connection], on_stop: Callable[[], None]
) -> int:
    config = uvicorn.Config(
        app,
        http=http,
        ws="none",
        lifespan="off",
        proxy_headers=False,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(STOP_TIMEOUT / 2),
    )
    server = _Server(config)
    server.limits = http.limits
    server.limits.now = asyncio.get_running_loop().time()
    log.info("serving", url=base_url(*sock.getsockname()[:2]))
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, stopping.set)
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    working = asyncio.create_task(_guard(work))
    stop_requested = asyncio.create_task(stopping.wait())
    await asyncio.wait({serving, working, stop_requested}, return_when=asyncio.FIRST_COMPLETED)
    log.info("stopping")
    failed = (working.done() or serving.done()) and not stopping.is_set()
    if serving.done() and not stopping.is_set():
        error = serving.exception() if not serving.cancelled() else None
        log.error("the HTTP server ended; ending so that it is started afresh", exc_info=error)
    server.end()
    on_stop()
    await asyncio.wait({serving}, timeout=STOP_TIMEOUT / 2 + 1)
    working.cancel()
    await asyncio.wait({working}, timeout=STOP_TIMEOUT / 2)
    stop_requested.cancel()
    log.info("stopped")
    if failed and working.done() and not working.cancelled():
        return 2 if isinstance(working.exception(), WrongConfiguration) else 1
    return 1 if failed else 0


async def _guard(work: Work) -> None:
    try:
        await work()
    except Exception as error:
        if wrong := _wrong(error):
            for line in str(wrong).splitlines():
                log.critical(line)
            raise wrong from None
        log.exception("the work of this service failed; ending so that it is started afresh")
        raise


def _wrong(error: BaseException) -> WrongConfiguration | None:
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(_wrong, error.exceptions)), None)
    return error if isinstance(error, WrongConfiguration) else None
