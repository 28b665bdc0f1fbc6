"""What closes the door, as the ticks are told."""

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import Message

from services.ingest.admission import HeartbeatStore, KnownNames
from services.ingest.middleware import Availability
from shared.http.problems import Problem
from shared.messaging.batch_publisher import BatchPublisher
from shared.messaging.connection import BrokerConnection
from shared.messaging.errors import TooLarge
from shared.settings import Settings


def test_what_was_refused_is_an_obstacle_until_it_was_asked_for() -> None:
    door = Availability(lambda: 0.0)
    assert door.obstacle() == ""
    door.refused("first")
    door.refused("second")
    assert [door.obstacle(), door.obstacle()] == ["first", ""]


@pytest.mark.parametrize(("waited", "closed"), [(0.9, False), (1.1, True)])
def test_heartbeats_that_wait_for_longer_than_a_second_are_an_obstacle(waited: float, closed: bool) -> None:
    assert bool(Availability(lambda: waited).obstacle()) is closed


def test_who_stops_takes_nothing_more() -> None:
    door = Availability(lambda: 0.0)
    door.shut("stopping")
    assert [door.obstacle(), door.obstacle()] == ["stopping", "stopping"]


async def test_errors_of_ours_are_an_obstacle_and_those_of_clients_are_not() -> None:
    async def answer(request: Request) -> PlainTextResponse:
        status = int(request.path_params["status"])
        if status == 500:
            raise RuntimeError("as it must be")
        return PlainTextResponse("", status)

    door = Availability(lambda: 0.0)
    routes = [Route("/heartbeat/{status}", answer), Route("/readyz/{status}", answer)]
    transport = httpx.ASGITransport(door.watched(Starlette(routes=routes)), raise_app_exceptions=False)
    client = httpx.AsyncClient(transport=transport, base_url="http://ingest")
    for status in (200, 400, 401, 403, 404, 405, 408, 413, 414, 421, 422, 429, 431):
        assert (await client.get(f"/heartbeat/{status}")).status_code == status
        assert door.obstacle() == "", status
    for status in (500, 503):
        assert (await client.get(f"/heartbeat/{status}")).status_code == status
        assert str(status) in door.obstacle()
        await client.get(f"/readyz/{status}")
        assert door.obstacle() == ""


@pytest.mark.parametrize("path", ["//heartbeat/a", "/heartbeat/a ", "/heartbeats/"])
async def test_an_address_that_is_let_go_by_counts_as_what_it_is_read_as(path: str) -> None:
    door = Availability(lambda: 0.0)

    async def receive() -> Message: ...

    async def send(_: Message) -> None: ...

    await door.watched(PlainTextResponse("", 503))({"type": "http", "path": path}, receive, send)
    assert "503" in door.obstacle()


async def test_a_heartbeat_that_is_not_stored_is_an_obstacle_whichever_way_it_came() -> None:
    door = Availability(lambda: 0.0)
    gate = HeartbeatStore(BatchPublisher(BrokerConnection(Settings(), "test")), KnownNames(2), door)
    with pytest.raises(Problem, match="cannot be reached"):
        await gate.store("a", {}, b"")
    assert "cannot be reached" in door.obstacle()
    with pytest.raises(Problem, match="cannot be reached"):
        await gate.store_all(["a", "b"])
    assert "cannot be reached" in door.obstacle()
    gate.add("a", lambda error: error and gate.not_stored(error) and None)
    assert "cannot be reached" in door.obstacle()


async def test_what_is_too_large_for_the_broker_and_names_beyond_the_limit_are_no_obstacle() -> None:
    door = Availability(lambda: 0.0)
    gate = HeartbeatStore(BatchPublisher(BrokerConnection(Settings(), "test")), KnownNames(0), door)
    assert gate.not_stored(TooLarge("too large")).status == 413
    with pytest.raises(Problem) as refused:
        await gate.store("a", {}, b"")
    assert refused.value.status == 429
    assert (await gate.store_all(["a"]))["accepted"] == 0
    assert door.obstacle() == ""
