"""The questions that we ask of streams, to three nodes: they are answered as a single node answers them."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.aio.msg import Msg

from shared.messaging import queries, streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.publisher import Publisher
from shared.messaging.reader import Stored
from shared.settings import Settings
from tests.servers import nats_cluster, nats_server

WEB, OTHER = streams.status("web"), streams.status("other")


@pytest.fixture(params=[1, 3])
async def link(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BrokerConnection]:
    nodes = list(nats_cluster(tmp_path).values()) if request.param == 3 else [nats_server(tmp_path)]
    for node in nodes:
        node.start()
    urls = tuple(f"nats://127.0.0.1:{node.port}" for node in nodes)
    link = BrokerConnection(Settings(nats_url=urls, nats_replicas=request.param), "test")
    try:
        await link.connect()
        yield link
    finally:
        await link.close()
        for node in nodes:
            node.stop()


async def test_messages_are_found_whoever_answers(link: BrokerConnection) -> None:
    publisher = Publisher(link, timeout=5, max_waiting=100)
    await publisher.start()
    written, of_web = [WEB, OTHER, WEB, WEB, OTHER], [1, 3, 4]
    last = {WEB: 0, OTHER: 0}
    for n, subject in enumerate(written, 1):
        ack = await publisher.append(subject, b"%d" % n, after=last[subject], event_id=str(n), kind="test")
        last[subject] = ack.seq
    await publisher.stop()

    def seq(found: Stored | None) -> int | None:
        assert found is None or (found.data == b"%d" % found.seq and found.subject == written[found.seq - 1])
        return found and found.seq

    of = link, streams.SERVICES
    assert seq(await queries.newest(*of, WEB)) == 4
    assert seq(await queries.newest(*of, streams.ALL_EVENTS)) == 5
    assert seq(await queries.newest(*of, streams.status("nobody"))) is None
    assert seq(await queries.first(*of, OTHER)) == 2
    for n in range(7):
        assert seq(await queries.newest_before(*of, WEB, n)) == max(
            (it for it in of_web if it < n), default=None
        )
        assert seq(await queries.first_after(*of, WEB, n)) == min(
            (it for it in of_web if it > n), default=None
        )
        assert n == 0 or seq(await queries.message_at(*of, n)) == (n if n <= 5 else None)
    assert await queries.newest_before(*of, streams.status("nobody"), 5) is None
    third = await queries.message_at(*of, 3)
    assert third
    assert seq(await queries.first_later(*of, third.at)) == 4
    assert seq(await queries.first_later(*of, third.at + 3_600_000_000)) is None
    assert (await queries.last_sequence(*of))[0] == 5
    assert await queries.counted(*of, streams.ALL_STATUS) == {WEB: 3, OTHER: 2}
    assert (await queries.newest_event(link))[0] == 5


@pytest.mark.parametrize("held", range(5))
async def test_a_follower_that_is_behind_hides_nothing(
    link: BrokerConnection, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked what was before, it may have so many messages only: so bounded, it answers as it would then."""
    if not link.replicated:
        pytest.skip("a single node is never behind")
    for n in range(1, 6):
        await link.js.publish(WEB, b"%d" % n)
    ask = queries._ask

    async def behind(link: BrokerConnection, what: str, question: bytes, timeout: float = 3) -> Msg:
        asked = json.loads(question)
        if what.startswith("DIRECT.GET"):
            if held == 0:
                return Msg(link.nc, headers={"Status": "404"})
            asked["up_to_seq"] = min(asked["up_to_seq"], held)
        return await ask(link, what, json.dumps(asked).encode(), timeout)

    monkeypatch.setattr(queries, "_ask", behind)
    found = await queries.newest_before(link, streams.SERVICES, WEB, 5)
    assert found
    assert found.seq == 4
