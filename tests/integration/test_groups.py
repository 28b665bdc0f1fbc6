"""Group commit: what is answered is stored, in whichever way, and whatever happens to the broker."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import pytest

from services.ingest.admission import HeartbeatStore, KnownNames
from services.ingest.middleware import Availability
from services.ingest.ticker import Ticker
from shared.contracts.events import Tick
from shared.http.problems import Problem
from shared.http.server import Health
from shared.messaging import batch_publisher, streams
from shared.messaging.batch_choice import BatchMode
from shared.messaging.batch_publisher import GROUP_MAX, SIZE_MAX, BatchPublisher, StreamMessage, header_block
from shared.messaging.connection import BrokerConnection
from shared.messaging.errors import BrokerError, Busy, NotStored, TooLarge
from shared.messaging.publisher import Publisher
from shared.messaging.reader import OVER_HTTP, Reader, Stored
from tests.broker import eventually, provisioned
from tests.servers import Process

KINDS = {"fast": False, "atomic": True}
"""Of batches, by whether they are atomic."""


@pytest.fixture
async def link(nats_url: str) -> AsyncIterator[BrokerConnection]:
    link = await provisioned(nats_url)
    yield link
    await link.close()


@pytest.fixture(params=KINDS)
async def groups(link: BrokerConnection, request: pytest.FixtureRequest) -> AsyncIterator[BatchPublisher]:
    groups = BatchPublisher(link, timeout=2)
    always(groups, KINDS[request.param])
    await groups.start()
    yield groups
    await groups.stop()


def always(groups: BatchPublisher, atomic: bool) -> None:
    """Send all of a group in one batch of this kind."""
    groups._batching.choose = lambda count, now: BatchMode(atomic, count)  # type: ignore[method-assign]


def beat(name: str, payload: bytes = b"", **headers: str) -> StreamMessage:
    return StreamMessage(streams.heartbeat(name), header_block(OVER_HTTP | headers), payload)


async def stored(link: BrokerConnection) -> list[Stored]:
    found: list[Stored] = []
    reader = Reader(link, streams.HEARTBEATS, streams.ALL_HEARTBEATS)
    async for batch in reader.batches():
        found += batch
        if not reader.pending:
            return found
    raise AssertionError


async def test_each_is_stored_once_in_order_with_all_it_says(
    link: BrokerConnection, groups: BatchPublisher, request: pytest.FixtureRequest
) -> None:
    sent = [
        beat(f"s{n}", b"%d" % n if n % 3 else b"", **({"X": "y"} if n % 5 == 0 else {})) for n in range(300)
    ]
    await asyncio.gather(*(groups.store((message,)) for message in sent))
    found = await stored(link)
    assert [it.subject for it in found] == [message.subject for message in sent]
    assert [it.data for it in found] == [message.payload for message in sent]
    for n, it in enumerate(found):
        assert it.headers
        assert it.headers.get("X") == ("y" if n % 5 == 0 else None)
        assert n % 5 == 0 or it.headers is OVER_HTTP
    together = {it.headers.get("Nats-Batch-Id") for it in found[::5] if it.headers}
    assert (None not in together) == ("atomic" in request.node.name)
    assert groups.backlog.messages == 0


async def test_of_an_answer_that_says_stored_all_is_stored_though_the_broker_is_killed(
    nats: Process, link: BrokerConnection, groups: BatchPublisher
) -> None:
    told: list[str] = []
    refused = 0

    async def client(number: int) -> None:
        nonlocal refused
        for n in range(400):
            try:
                await groups.store((beat(f"c{number}-{n}"),))
            except NotStored:
                refused += 1
                await asyncio.sleep(0.05)
            else:
                told.append(f"heartbeat.c{number}-{n}")

    clients = asyncio.gather(*(client(number) for number in range(50)))
    for _ in range(2):
        before = len(told)
        await eventually(lambda before=before: _more(told, before + 1000))
        nats.kill()
        await asyncio.sleep(0.3)
        nats.start()
    await clients
    found = [it.subject for it in await stored(link)]
    assert set(told) <= set(found)
    assert len(found) == len(set(found))
    assert refused
    assert groups.backlog.messages == 0


async def _more(told: list[str], than: int) -> bool:
    return len(told) >= than


async def test_one_that_is_too_large_does_not_harm_the_others(
    link: BrokerConnection, groups: BatchPublisher
) -> None:
    large = beat("large", b"x" * (link.nc.max_payload - 100))
    answers = await asyncio.gather(
        *(groups.store((message,)) for message in (beat("a"), large, beat("b"))), return_exceptions=True
    )
    assert [type(answer) for answer in answers] == [type(None), TooLarge, type(None)]
    assert [it.subject for it in await stored(link)] == ["heartbeat.a", "heartbeat.b"]


async def test_groups_are_bounded_and_so_is_what_waits(link: BrokerConnection) -> None:
    groups = BatchPublisher(link, max_waiting=3000)
    await groups.start()
    many = [beat(f"s{n}") for n in range(GROUP_MAX)]
    answers = await asyncio.gather(*(groups.store(many) for _ in range(5)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [type(None)] * 3 + [Busy] * 2
    payload = b"x" * (SIZE_MAX // 10)
    await asyncio.gather(*(groups.store((beat("large", payload),)) for _ in range(40)))
    assert groups.backlog.messages == 0
    await groups.stop()


async def test_what_waits_is_bounded_in_bytes_too(
    link: BrokerConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_publisher, "WAITING_MAX", 1_000_000)
    groups = BatchPublisher(link)
    await groups.start()
    for _ in range(2):  # what was stored makes room
        large = [groups.store((beat("large", b"x" * 300_000),)) for _ in range(5)]
        answers = await asyncio.gather(*large, return_exceptions=True)
        assert [type(answer) for answer in answers] == [type(None)] * 3 + [Busy] * 2
    await groups.stop()


async def test_without_an_answer_all_are_told_in_time_and_late_answers_harm_nobody(
    nats: Process, link: BrokerConnection
) -> None:
    groups = BatchPublisher(link, timeout=0.5)
    await groups.start()
    nats.signal(signal.SIGSTOP)
    answers = asyncio.gather(*(groups.store((beat(f"s{n}"),)) for n in range(20)), return_exceptions=True)
    assert {type(answer) for answer in await answers} == {NotStored}
    nats.signal(signal.SIGCONT)
    await groups.store((beat("after"),))
    assert "heartbeat.after" in [it.subject for it in await stored(link)]
    await groups.stop()


async def test_a_connection_that_is_lost_ends_the_stretch_of_ticks(link: BrokerConnection) -> None:
    """The broker may come back with an older copy, and no tick is to prove that it took what it has not."""
    health, publisher = Health("ticks"), Publisher(link)
    await publisher.start()
    ticker = Ticker(link, publisher, health, timedelta(seconds=0.1), time.monotonic, str)
    ticking = asyncio.create_task(ticker.run())
    await eventually(lambda: _stretches(link, 1))
    for listener in link.on_lost:
        listener()
    first, second = await eventually(lambda: _stretches(link, 2))
    assert first[1] < second[0]
    ticking.cancel()
    await publisher.stop()


async def test_while_an_answer_is_missing_that_others_wait_for_ticks_prove_nothing(
    link: BrokerConnection,
) -> None:
    """As in a cluster whose leader is killed: the answer is lost, and ticks are stored by the next leader."""
    health, publisher, groups = Health("ticks"), Publisher(link), BatchPublisher(link, timeout=3)
    await publisher.start()
    await groups.start()
    ticker = Ticker(
        link,
        publisher,
        health,
        timedelta(seconds=0.2),
        time.monotonic,
        Availability(groups.longest_wait).obstacle,
    )
    ticking = asyncio.create_task(ticker.run())
    await eventually(lambda: _stretches(link, 1))
    sid = next(sid for sid, taker in link._takers.items() if taker == groups._answered)
    taker, link._takers[sid] = link._takers[sid], lambda *_: None
    with pytest.raises(NotStored):
        await groups.store((beat("web"),))
    link._takers[sid] = taker
    first, second = await eventually(lambda: _stretches(link, 2))
    assert second[0] - first[1] > 1.5, "proved, though no heartbeat could be stored"
    ticking.cancel()
    await groups.stop()
    await publisher.stop()


async def test_a_stranger_fills_its_share_and_closes_nothing_and_a_full_queue_closes_the_door(
    nats: Process, link: BrokerConnection
) -> None:
    health, publisher, groups = Health("ticks"), Publisher(link), BatchPublisher(link, max_waiting=2000)
    door = Availability(groups.longest_wait)
    gate = HeartbeatStore(groups, KnownNames(100_000), door)
    await publisher.start()
    await groups.start()
    ticker = Ticker(link, publisher, health, timedelta(seconds=0.1), time.monotonic, door.obstacle)
    ticking = asyncio.create_task(ticker.run())
    await eventually(lambda: _stretches(link, 1))

    async def batches(sender: str | None, count: int) -> list[dict[str, Any] | int]:
        """Sent at once while the broker stands still: the answer of each, or the status of its refusal."""
        nats.signal(signal.SIGSTOP)
        names = [[f"s{n}-{m}" for m in range(200)] for n in range(count)]
        sent = [asyncio.create_task(gate.store_all(each, None, sender)) for each in names]
        neighbour = asyncio.create_task(gate.store("neighbour", {}, b"", "203.0.113.8"))
        await asyncio.sleep(0.2)
        nats.signal(signal.SIGCONT)
        found = await asyncio.gather(*sent, return_exceptions=True)
        await asyncio.wait([neighbour])
        assert (neighbour.exception() is None) == bool(sender)
        return [it.status if isinstance(it, Problem) else it for it in found]  # type: ignore[misc]

    stored_ = {"accepted": 200, "rejected": []}
    assert await batches("203.0.113.7", 20) == [stored_] + [429] * 19
    assert await batches("203.0.113.7", 1) == [stored_], "what was stored makes room"
    await asyncio.sleep(0.3)
    assert await _stretches(link, 1), "a stranger has closed the door"
    assert await batches(None, 20) == [stored_] * 10 + [503] * 10
    await eventually(lambda: _stretches(link, 2))
    assert not groups.backlog._messages_of
    ticking.cancel()
    await groups.stop()
    await publisher.stop()


async def _stretches(link: BrokerConnection, number: int) -> list[tuple[float, float]] | None:
    """Begin and end of what each unbroken stretch of ticks proves, if there are so many."""
    found: dict[str, tuple[float, float]] = {}
    reader = Reader(link, streams.HEARTBEATS, streams.ALL_TICKS)
    async with aclosing(reader.batches()) as batches:
        async for batch in batches:
            for it in batch:
                since = Tick.model_validate_json(it.data).open_since
                found[it.subject] = (since.timestamp(), it.at / 1e6) if since else (it.at / 1e6, it.at / 1e6)
            if not reader.pending:
                break
    return sorted(found.values()) if len(found) == number else None


async def test_a_callback_that_fails_keeps_nobody_from_being_told(link: BrokerConnection) -> None:
    groups = BatchPublisher(link)
    await groups.start()
    told: list[BrokerError | None] = []

    def fails(_: BrokerError | None) -> None:
        raise RuntimeError("as it must be")

    for done in (told.append, fails, told.append):
        groups.enqueue((beat("web"),), done)

    async def all_told() -> bool:
        return told == [None, None]

    await eventually(all_told)
    assert link.up
    await groups.stop()


async def hold(link: BrokerConnection, kind: str) -> None:
    """Take all the room that the broker has for open batches, as anybody may who may publish; some by the
    numbers that others may give theirs."""
    for n in range(60 if kind == "atomic" else 1100):
        headers = {"Nats-Batch-Id": f"held{n}", "Nats-Batch-Sequence": "1"} if kind == "atomic" else None
        inbox = f"_INBOX.held.{n}.65535.fail.1.0.$FI"
        await link.nc.publish("heartbeat.held", b"", inbox, headers=headers)
    await link.nc.flush()


async def test_a_group_that_is_refused_as_a_batch_is_stored_all_the_same(
    link: BrokerConnection, groups: BatchPublisher, request: pytest.FixtureRequest
) -> None:
    await hold(link, "atomic" if "atomic" in request.node.name else "fast")
    await asyncio.gather(*(groups.store([beat(f"s{n}-{m}") for m in range(50)]) for n in range(3)))
    found = [it.subject for it in await stored(link) if it.subject != "heartbeat.held"]
    assert sorted(found) == sorted(f"heartbeat.s{n}-{m}" for n in range(3) for m in range(50))
    assert groups.backlog.messages == 0


async def test_of_a_group_with_one_that_is_refused_all_others_are_stored_and_none_twice(
    link: BrokerConnection, groups: BatchPublisher
) -> None:
    bad = beat("bad", **{"Nats-Expected-Last-Sequence": "4711"})
    sent = [*(beat(f"s{n}") for n in range(10)), bad, *(beat(f"s{n}") for n in range(10, 20))]
    answers = await asyncio.gather(*(groups.store((it,)) for it in sent), return_exceptions=True)
    assert [type(it) for it in answers] == [type(None)] * 10 + [NotStored] + [type(None)] * 10
    assert "wrong last sequence" in str(answers[10])
    found = [it.subject for it in await stored(link)]
    assert sorted(found) == sorted(f"heartbeat.s{n}" for n in range(20))
