"""What dependencies do not promise: each part of it is there, and nothing else is used anywhere.

When one of these fails after an upgrade, mend the module that it names, and nothing else.
"""

import ast
import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest
import uvicorn
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.protocol.parser import Parser
from starlette.responses import Response
from uvicorn.server import ServerState

from shared.http import uvicorn_internals
from shared.messaging import nats_internals
from shared.messaging.connection import BrokerConnection
from shared.messaging.faststream_broker import FastStreamBroker
from shared.settings import Settings

ROOT = Path(__file__).parents[2]
IN_NATS = "nats-py has changed: mend shared/messaging/nats_internals.py, which uses "
IN_UVICORN = "uvicorn has changed: mend shared/http/uvicorn_internals.py, which uses "


async def test_nats_client_hands_each_message_to_what_was_put_in_its_place() -> None:
    client = Client()
    assert hasattr(client, "_process_msg"), IN_NATS + "Client._process_msg"
    came: list[tuple[Any, ...]] = []
    usual = AsyncMock()
    client._process_msg = usual
    nats_internals.intercept(client, {7: lambda *message: came.append(message)})
    head = b"NATS/1.0\r\nA: b\r\n\r\n"
    await Parser(client).parse(
        b"HMSG heartbeat.a 7 answers.1 %d %d\r\n%bhello\r\n" % (len(head), len(head) + 5, head)
    )
    await Parser(client).parse(b"MSG heartbeat.b 8 3\r\nyes\r\n")
    ((*first, headers),) = came
    assert first == [b"heartbeat.a", b"answers.1", b"hello"], IN_NATS + "the arguments of _process_msg"
    assert nats_internals.parse_headers(headers.partition(b"\r\n")[2]) == {"A": "b"}
    usual.assert_awaited_once_with(8, b"heartbeat.b", b"", b"yes", b"")


def test_nats_subscription_has_its_id() -> None:
    subscription = Subscription(Client(), id=7, subject="a")
    assert hasattr(subscription, "_id"), IN_NATS + "Subscription._id"
    assert nats_internals.subscription_id(subscription) == 7


def test_nats_client_writes_through_its_transport() -> None:
    client = Client()
    assert hasattr(client, "_transport"), IN_NATS + "Client._transport"
    with pytest.raises(AttributeError):
        nats_internals.write(client, b"PING\r\n")
    written: list[bytes] = []
    client._transport = SimpleNamespace(write=written.append)
    nats_internals.write(client, b"PING\r\n")
    assert written == [b"PING\r\n"]


def test_nats_frames_and_headers_are_those_of_the_protocol() -> None:
    frame = nats_internals.hpub_cmd("a.b", "reply", b"NATS/1.0\r\nA: b\r\n\r\n", b"hello")
    assert frame == b"HPUB a.b reply 18 23\r\nNATS/1.0\r\nA: b\r\n\r\nhello\r\n", IN_NATS + "command.hpub_cmd"
    assert hasattr(Client, "_parse_header_lines"), IN_NATS + "Client._parse_header_lines"
    assert nats_internals.parse_headers(b"A: b\r\nC: d e\r\n\r\n") == {"A": "b", "C": "d e"}


async def test_faststream_takes_the_connection_that_is_there() -> None:
    link = BrokerConnection(Settings(), "test")
    link.nc = Client()
    broker = FastStreamBroker(link)
    broken = "FastStream has changed: mend shared/messaging/faststream_broker.py, which overrides _connect"
    assert await broker.connect() is link.nc, broken
    assert broker.config.connection_state.connection is link.nc, broken


CONNECTION = """
app client connections cycle expect_100_continue flow headers parser pipeline scope server_state tasks
transport connection_made connection_lost data_received eof_received pause_writing resume_writing shutdown
on_url on_header on_headers_complete on_body on_message_begin on_message_complete on_response_complete
_start_asgi_task
"""
CYCLE = "body disconnected keep_alive message_event more_body response_complete response_started transport"


class _Served(uvicorn_internals.Protocol):
    def on_headers_complete(self) -> None:
        self.make_scope()
        super().on_headers_complete()


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def is_closing(self) -> bool:
        return False

    def close(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def write(self, data: Any) -> None:
        self.written += bytes(data)


async def test_uvicorn_serves_a_request_through_the_parts_that_are_named_here() -> None:
    answer = Response(b"pong", headers={"content-length": "4"})
    config = uvicorn.Config(answer, lifespan="off", log_config=None)
    config.load()
    state = ServerState()
    protocol = _Served(config, state, {})
    for name in CONNECTION.split():
        assert hasattr(protocol, name), f"{IN_UVICORN}HttpToolsProtocol.{name}"
    for name in ("default_headers", "total_requests", "connections"):
        assert hasattr(state, name), f"{IN_UVICORN}ServerState.{name}"
    transport = _Transport()
    protocol.connection_made(transport)
    assert state.connections == {protocol}
    for name in ("resume_reading", "write_paused"):
        assert hasattr(protocol.flow, name), f"{IN_UVICORN}FlowControl.{name}"
    cycles = []
    for _ in range(2):  # the second waits for the first, and goes through the pipeline
        protocol.parser.feed_data(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        cycles.append(protocol.cycle)
    for name in CYCLE.split():
        assert hasattr(cycles[0], name), f"{IN_UVICORN}RequestResponseCycle.{name}"
    assert protocol.owes_answer()
    while state.total_requests < 2:
        assert protocol.tasks, f"{IN_UVICORN}HttpToolsProtocol.tasks"
        await asyncio.wait(list(protocol.tasks), timeout=5)
        await asyncio.sleep(0)  # who is done says so to the protocol
    assert state.total_requests == 2
    assert transport.written.count(uvicorn_internals.STATUS_LINE[200]) == 2
    protocol.connection_lost(None)
    assert state.connections == set()


async def test_uvicorn_server_looks_once_and_ends_when_it_is_told() -> None:
    seen = []

    class Looking(uvicorn_internals.Server):
        def every_second(self) -> None:
            seen.append(self.open_connections)
            self.end()

    server = Looking(uvicorn.Config(Response(), lifespan="off", log_config=None, server_header=False))
    server.config.load()
    for name in ("on_tick", "main_loop", "capture_signals", "should_exit", "server_state"):
        assert hasattr(server, name), f"{IN_UVICORN}Server.{name}"
    await asyncio.wait_for(server.main_loop(), 5)
    assert seen == [[]]
    assert [name for name, _ in server.server_state.default_headers] == [b"date"]


# --- nothing private of others anywhere else

OF_NAMED_TUPLES = {"_asdict", "_fields", "_make", "_replace"}
PRIVATE_MODULES = ("nats.protocol", "uvicorn.protocols", "uvicorn.server")
INTERNALS = {"shared/messaging/nats_internals.py", "shared/http/uvicorn_internals.py"}
TREES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text())
    for folder in ("services", "shared", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in OF_NAMED_TUPLES


def _own(tree: ast.AST) -> Iterator[str]:
    """Names that a module defines, or gives to its objects."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr


def _uses(tree: ast.AST, own: set[str]) -> Iterator[str]:
    """What is private and not our own: attributes, imports, modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr):
            owner = node.value
            inside = isinstance(owner, ast.Name) and owner.id in ("self", "cls")
            inside |= isinstance(owner, ast.Call) and ast.unparse(owner) == "super()"
            documented = ast.unparse(node) == "os._exit"
            if not documented and (not inside or node.attr not in own):
                yield ast.unparse(node)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            module = getattr(node, "module", None)
            for alias in node.names:
                whole = f"{module}.{alias.name}" if module else alias.name
                if any(map(_is_private, whole.split("."))) or whole.startswith(PRIVATE_MODULES):
                    yield whole


def test_nothing_private_of_others_is_used_elsewhere() -> None:
    own = {name for tree in TREES.values() for name in _own(tree)}
    found = [
        f"{path}: {use}" for path, tree in TREES.items() if path not in INTERNALS for use in _uses(tree, own)
    ]
    assert found == [], "what is private in a dependency belongs into *_internals.py"


@pytest.mark.parametrize(
    "line",
    [
        "client._process_msg",
        "self._transport",
        "from uvicorn._types import HTTPScope",
        "import nats.protocol.parser",
    ],
)
def test_a_use_of_something_private_is_found(line: str) -> None:
    assert list(_uses(ast.parse(line), own={"_kept"}))
