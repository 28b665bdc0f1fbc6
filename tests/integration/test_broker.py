"""Publishing and reading: what the rest relies on, tried on a real broker that is killed."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest

from services.notifier.__main__ import Notifier
from services.notifier.alerting.policy import Reminders
from services.notifier.consumer import EventConsumer, EventLog
from services.notifier.settings import NotifierSettings
from services.notifier.states import ServiceStates
from shared.contracts.events import (
    Acknowledgement,
    ConfigData,
    Event,
    IncidentData,
    ServiceAcknowledged,
    ServiceConfig,
    ServiceDeleted,
    ServiceRegistered,
    Status,
    StatusChanged,
    StatusData,
    micros,
    status_changed,
)
from shared.domain.incidents import Incident
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection, retry_until_done
from shared.messaging.errors import Busy, NoAnswer, NotStored, TooLarge, WrongSequence
from shared.messaging.publisher import Publisher
from shared.messaging.queries import first, newest, newest_before
from shared.messaging.reader import Reader, Stored
from tests.broker import eventually, provisioned
from tests.notified import ANA
from tests.servers import Process, free_port, program


@pytest.fixture
async def link(nats_url: str) -> AsyncIterator[BrokerConnection]:
    link = await provisioned(nats_url)
    yield link
    await link.close()


@pytest.fixture
async def publisher(link: BrokerConnection) -> AsyncIterator[Publisher]:
    publisher = Publisher(link, timeout=2, max_waiting=100)
    await publisher.start()
    yield publisher
    await publisher.stop()


async def test_of_two_writers_the_broker_lets_one_win(link: BrokerConnection, publisher: Publisher) -> None:
    subject = streams.status("web")

    async def write(writer: int, after: int) -> int | None:
        try:
            ack = await publisher.append(subject, b"", after=after, event_id=f"{writer}-{after}", kind="x")
        except WrongSequence:
            return None
        return ack.seq

    after = 0
    for _ in range(20):
        answers = await asyncio.gather(*(write(writer, after) for writer in range(5)))
        (after,) = [answer for answer in answers if answer]
    message = await newest(link, streams.SERVICES, subject)
    assert message
    assert message.seq == after == 20


async def test_too_many_at_once_are_refused_not_queued(publisher: Publisher) -> None:
    answers = await asyncio.gather(
        *(publisher.publish(streams.heartbeat("web")) for _ in range(150)), return_exceptions=True
    )
    assert sum(isinstance(answer, Busy) for answer in answers) == 50
    assert not publisher._waiting


async def test_no_answer_is_an_error_in_time(
    nats: Process, link: BrokerConnection, publisher: Publisher
) -> None:
    with pytest.raises(NotStored, match="no stream"):
        await publisher.publish("nobody.listens")
    waiting = asyncio.create_task(publisher.publish(streams.heartbeat("web")))
    nats.kill()
    await asyncio.gather(waiting, return_exceptions=True)
    await eventually(lambda: _is_down(link))
    with pytest.raises(NotStored, match="reached"):
        await publisher.publish(streams.heartbeat("web"))
    nats.start()


async def test_a_broker_that_does_not_answer_is_waited_for_only_so_long(
    nats: Process, link: BrokerConnection
) -> None:
    """Each message for itself, also one that was sent while others were waited for."""
    publisher, loop = Publisher(link, timeout=0.5), asyncio.get_running_loop()
    await publisher.start()
    await publisher.publish(streams.heartbeat("web"))
    nats.signal(signal.SIGSTOP)
    took = []

    async def send(after: float) -> None:
        await asyncio.sleep(after)
        began = loop.time()
        with pytest.raises(NoAnswer):
            await publisher.publish(streams.heartbeat("web"))
        took.append(loop.time() - began)

    await asyncio.gather(send(0), send(0.3), send(0.35))
    nats.signal(signal.SIGCONT)
    assert all(0.45 < each < 1.5 for each in took), took
    assert (await publisher.publish(streams.heartbeat("web"))).seq


async def test_what_a_header_may_not_hold_does_not_break_the_connection(
    link: BrokerConnection, publisher: Publisher
) -> None:
    with pytest.raises(TooLarge):
        await publisher.publish(streams.heartbeat("web"), b"x" * link.nc.max_payload, {"A": "b"})
    await publisher.publish(streams.heartbeat("web"), b"x", {"Registry-Signal": "fail\r\nB: c\n"})
    message = await newest(link, streams.HEARTBEATS, streams.heartbeat("web"))
    assert message
    assert message.headers
    assert message.headers["Registry-Signal"] == "fail B: c"
    assert "B" not in message.headers


async def _is_down(link: BrokerConnection) -> bool:
    return not link.up


async def test_a_reader_sees_everything_once_and_in_order_though_the_broker_is_killed(
    nats: Process, link: BrokerConnection, publisher: Publisher
) -> None:
    seen: list[int] = []

    async def read() -> None:
        async for batch in Reader(link, streams.HEARTBEATS, streams.ALL_HEARTBEATS).batches():
            seen.extend(message.seq for message in batch)

    reading = asyncio.create_task(read())
    stored = []
    for count in range(300):
        if count in (100, 200):
            await asyncio.to_thread(nats.kill)
            await asyncio.to_thread(nats.start)
        try:
            stored.append((await publisher.publish(streams.heartbeat(f"s{count}"))).seq)
        except NotStored:
            await asyncio.sleep(0.1)

    async def done() -> bool:
        return bool(seen) and seen[-1] >= stored[-1]

    await eventually(done, within=15)
    reading.cancel()
    assert seen == sorted(set(seen))
    assert set(stored) <= set(seen)


async def test_the_newest_of_each_subject_first_then_all_that_follows(
    link: BrokerConnection, publisher: Publisher
) -> None:
    for name in "abcab":
        await publisher.publish(streams.heartbeat(name))
    reader = Reader(link, streams.HEARTBEATS, streams.ALL_HEARTBEATS, newest_per_subject=True)
    got: list[str] = []
    async for batch in reader.batches():
        got += [streams.name_in(message.subject) for message in batch]
        if got == ["c", "a", "b"] and reader.pending == 0:
            await publisher.publish(streams.heartbeat("a"))
        if len(got) == 4:
            break
    assert got == ["c", "a", "b", "a"]


async def test_of_an_event_that_cannot_be_read_the_one_before_counts(
    link: BrokerConnection, publisher: Publisher
) -> None:
    """Else a notifier that is started anew believes that what was down has never been."""
    data = StatusData.model_validate(
        {
            "from": "alive",
            "to": "down",
            "since": datetime.now(UTC),
            "last_heartbeat": None,
            "reason": "failed",
        }
    )
    stored = [b"{}", status_changed("web", data).to_bytes(), b'{"type": 1}', b"{"]
    for after, event in enumerate(stored):
        ack = await publisher.append(
            streams.status("web"), event, after=after, event_id=str(after), kind="status"
        )
    fleet = ServiceStates()
    await EventLog(link, fleet).load_states()
    assert (fleet.get("web").status, fleet.get("web").status_seq) == (Status.DOWN, 2)
    assert ack.seq == 4
    assert await newest_before(link, streams.SERVICES, streams.status("web"), 1) is None
    assert await newest_before(link, streams.SERVICES, streams.status("other"), 3) is None


def changed(id_: str, at: datetime, from_: Status, to: Status) -> StatusChanged:
    """Of `web`."""
    data = {"from": from_, "to": to, "since": at, "last_heartbeat": None, "reason": "test"}
    about = {"id": id_, "source": "/test", "subject": "web", "time": at}
    return StatusChanged.model_validate(about | {"data": data})


async def test_what_is_read_again_says_nothing_of_a_later_incident(
    link: BrokerConnection, publisher: Publisher
) -> None:
    """A notifier that is started anew knows the newest change first, and then reads what it had not told."""
    now, states = datetime.now(UTC), ServiceStates()
    log = EventLog(link, states)
    consumer = EventConsumer(log, (), Reminders(states, ()))
    path = Status.ALIVE, Status.DOWN, Status.ALIVE, Status.SILENT, Status.DOWN
    told = [now - timedelta(minutes=minutes) for minutes in (50, 40, 30, 20)]
    config = ConfigData(config=ServiceConfig(), registered_at=now - timedelta(days=1))
    registered = ServiceRegistered(id="r", source="/test", subject="web", time=now, data=config)
    await link.js.publish(streams.config("web"), registered.to_bytes())
    changes = [
        changed(str(n), at, from_, to)
        for n, (at, from_, to) in enumerate(zip(told, path, path[1:], strict=False))
    ]
    for change in changes:
        await link.js.publish(streams.status("web"), change.to_bytes())
    await log.load_states()
    for n, change in enumerate(changes):
        await consumer._apply(change, Stored(streams.status("web"), b"", None, n + 2, micros(now), 0))
    assert await log.incidents_of([("web", 5, told[3])]) == {"web": ("2", micros(told[2]), False)}


@pytest.mark.parametrize("in_time", [True, False])
async def test_who_took_an_incident_when_it_was_over_did_not_have_it(
    link: BrokerConnection, in_time: bool
) -> None:
    """A notifier that is behind stores what somebody pressed before it reads that it is alive again."""
    now, states = datetime.now(UTC), ServiceStates()
    log = EventLog(link, states)
    consumer = EventConsumer(log, (), Reminders(states, ()))
    config = ConfigData(config=ServiceConfig(), registered_at=now - timedelta(days=1))
    begun, given = Incident("0", micros(now)), Acknowledgement(incident="0", by=ANA, at=now)

    def pressed(id_: str) -> ServiceAcknowledged:
        data = IncidentData(incident="0", acknowledged=given)
        return ServiceAcknowledged(id=id_, source="/test", subject="web", time=now, actor=ANA, data=data)

    events = [
        ServiceRegistered(id="r", source="/test", subject="web", time=now, data=config),
        changed("0", now, Status.ALIVE, Status.DOWN),
        *([pressed("a")] if in_time else []),
        alive := changed("1", now + timedelta(minutes=1), Status.DOWN, Status.ALIVE),
        pressed("b"),
    ]
    for event in events:
        await link.js.publish(streams.subject_of(event), event.to_bytes())
    order = sorted(enumerate(events, 1), key=lambda it: it[1] is alive)  # which it reads last
    for seq, event in order:
        if isinstance(event, ServiceAcknowledged):
            states.apply_incident(event, seq, now, in_turn=False)
        else:
            await consumer._apply(event, Stored("", b"", None, seq, micros(now), 0))
    ended = await log.incident_end("web", 2, begun)
    assert ended == (begun, alive.data.since, ANA if in_time else None, False)


@pytest.mark.parametrize(("alive_at", "deleted"), [(3, False), (4, True), (None, True)])
async def test_what_was_alive_again_when_it_was_deleted_is_said_to_be(
    link: BrokerConnection, alive_at: int | None, deleted: bool
) -> None:
    """Also by a notifier that has read neither in its turn."""
    now, states = datetime.now(UTC), ServiceStates()
    config = ConfigData(config=ServiceConfig(), registered_at=now - timedelta(days=1))
    alive = changed("1", now + timedelta(minutes=1), Status.DOWN, Status.ALIVE)
    events: list[Event] = [
        ServiceRegistered(id="r", source="/test", subject="web", time=now, data=config),
        changed("0", now, Status.ALIVE, Status.DOWN),
        ServiceDeleted(id="d", source="/test", subject="web", time=now),
    ]
    if alive_at:
        events.insert(alive_at - 1, alive)
    for event in events:
        await link.js.publish(streams.subject_of(event), event.to_bytes())
    log = EventLog(link, states)
    await log.load_states()
    ended = await log.incident_end("web", 2, Incident("0", micros(now)))
    assert ended
    assert (ended.deleted, ended.at == alive.data.since) == (deleted, not deleted)


async def test_a_reader_of_nothing_says_that_nothing_is_pending(link: BrokerConnection) -> None:
    reader = Reader(link, streams.HEARTBEATS, streams.ALL_HEARTBEATS)
    async for batch in reader.batches():
        assert batch == []
        assert reader.pending == 0
        break


async def test_a_reader_waits_for_nothing_that_was_removed_unread(
    link: BrokerConnection, publisher: Publisher
) -> None:
    for name in "abcdef":
        await publisher.publish(streams.heartbeat(name))
    reader = Reader(link, streams.HEARTBEATS, streams.ALL_HEARTBEATS)
    reader.BATCH, reader.HEARTBEAT = 2, 0.2
    async with asyncio.timeout(10), aclosing(reader.batches()) as batches:
        await anext(batches)
        await anext(batches)
        assert reader.pending
        await link.js.purge_stream(streams.HEARTBEATS)
        while reader.pending:
            await anext(batches)


async def test_what_is_kept_per_service(link: BrokerConnection, publisher: Publisher) -> None:
    seqs = [(await publisher.publish(streams.heartbeat("web"))).seq for _ in range(103)]
    oldest = await first(link, streams.HEARTBEATS, streams.heartbeat("web"))
    assert oldest
    assert oldest.seq == seqs[3]
    assert await first(link, streams.HEARTBEATS, streams.heartbeat("other")) is None


async def test_a_reader_of_a_whole_stream_asks_for_no_filter(link: BrokerConnection) -> None:
    """With one, the broker searches for each message: 1,400 a second of 10,000 services."""
    for subjects, filtered in (
        ((streams.ALL_HEARTBEATS, streams.ALL_TICKS), False),
        (("heartbeat.web",), True),
    ):
        async with aclosing(Reader(link, streams.HEARTBEATS, *subjects).batches()) as batches:
            await anext(batches)
            (consumer,) = await link.js.consumers_info(streams.HEARTBEATS)
            assert bool(consumer.config.filter_subject or consumer.config.filter_subjects) is filtered


async def test_what_is_repeated_for_ever_ends_when_cancelled_in_the_moment_of_an_answer() -> None:
    loop = asyncio.get_running_loop()

    async def ask() -> int:
        answer = loop.create_future()
        loop.call_soon(lambda: (answer.set_result(1), task.cancel()))
        return await asyncio.wait_for(answer, 5)

    async def watch() -> None:
        for _ in range(3):
            await retry_until_done("ask", ask)

    task = asyncio.create_task(watch())
    await asyncio.wait({task})
    assert task.cancelled(), "it goes on"


async def test_a_password_may_hold_what_is_escaped_in_a_url(tmp_path: Path) -> None:
    port, password = free_port(), "a/b@c:d%41"
    command = [program("nats-server"), "-js", "-sd", str(tmp_path), "-p", str(port), "-a", "127.0.0.1"]
    command += ["--user", "u", "--pass", password]
    server = Process(command, port, tmp_path / "nats.log").start()
    url = f"nats://u:{quote(password, safe='')}@127.0.0.1:{port}"
    try:
        link = await provisioned(url)
        notifier = Notifier(NotifierSettings(nats_url=(url,)))
        await asyncio.wait_for(notifier._link.connect(), 10)
        assert notifier._link.up
        await notifier._link.close()
        await link.close()
    finally:
        server.kill()
