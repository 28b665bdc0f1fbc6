"""The mapping that docs/decisions/0007-partitioning.md recommends, tried on a real broker.

The monitor is not partitioned yet: this tells when another version of the broker takes the ground away.
"""

from collections import Counter
from collections.abc import AsyncIterator

import pytest
from nats.js.api import StreamConfig, SubjectTransform

from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.queries import first, message_at
from shared.messaging.reader import Reader, Stored
from tests.broker import provisioned

BUCKETS = 256
SERVICES = 10_000
TICK_EVERY = 1000
MAPPING = SubjectTransform("heartbeat.>", "beat.{{partition(256)}}.>")
SHARES = range(128), range(128, BUCKETS)


def bucket_of(name: str) -> int:
    """The broker's own hash, 32 bits of FNV-1a over the subject as it was published."""
    value = 0x811C9DC5
    for byte in streams.heartbeat(name).encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value % BUCKETS


@pytest.fixture
async def link(nats_url: str) -> AsyncIterator[BrokerConnection]:
    link = await provisioned(nats_url)
    yield link
    await link.close()


async def mapped(link: BrokerConnection) -> None:
    """The mapping is given to a stream that is in use already."""
    config: StreamConfig = (await link.js.stream_info(streams.HEARTBEATS)).config
    config.subject_transform = MAPPING
    await link.js.update_stream(config)


async def read(link: BrokerConnection, *subjects: str, after: int = 0) -> list[Stored]:
    """All there is, as a monitor would read it."""
    found: list[Stored] = []
    reader = Reader(link, streams.HEARTBEATS, *subjects, after=after)
    async for batch in reader.batches():
        found += batch
        if not reader.pending:
            break
    return found


def share(buckets: range) -> list[str]:
    return [*(f"beat.{bucket}.>" for bucket in buckets), streams.ALL_TICKS]


async def test_each_share_is_one_sequence_with_every_tick_and_the_brokers_own_stamps(
    link: BrokerConnection,
) -> None:
    await mapped(link)
    names = [f"region-{count % 7}.team.app-{count}" for count in range(SERVICES)]
    for count, name in enumerate(names, start=1):
        await link.nc.publish(streams.heartbeat(name))
        if count % TICK_EVERY == 0:
            await link.js.publish(streams.tick("one"), b"{}")  # stored, so all before it are

    everything = await read(link, ">")
    assert len(everything) == SERVICES + SERVICES // TICK_EVERY
    stored = [message for message in everything if message.subject.startswith("beat.")]
    assert [message.subject for message in stored] == [f"beat.{bucket_of(name)}.{name}" for name in names]
    per_bucket = Counter(bucket_of(name) for name in names)
    assert len(per_bucket) == BUCKETS
    assert max(per_bucket.values()) < 2 * SERVICES / BUCKETS

    for buckets in SHARES:
        mine = {f"beat.{bucket_of(name)}.{name}" for name in names if bucket_of(name) in buckets}
        expected = [m for m in everything if m.subject == "tick.one" or m.subject in mine]
        got = await read(link, *share(buckets))
        # The same sequence less the other share: numbers, order and stamps are those of the one stream.
        assert [(m.seq, m.subject, m.at) for m in got] == [(m.seq, m.subject, m.at) for m in expected]
        assert sum(m.subject == "tick.one" for m in got) == SERVICES // TICK_EVERY
        assert len(got) == pytest.approx(SERVICES / 2, rel=0.05)
        assert [message.pending for message in got[-3:]] == [2, 1, 0]
        one = await message_at(link, streams.HEARTBEATS, got[0].seq)
        assert one
        assert one.at == got[0].at


async def test_a_bucket_that_moves_is_read_on_from_where_its_last_owner_stood(link: BrokerConnection) -> None:
    await mapped(link)
    names = [f"app-{count}" for count in range(500)]
    for name in names:
        await link.js.publish(streams.heartbeat(name))
    moving = bucket_of(names[0])
    position = (await read(link, f"beat.{moving}.>"))[-1].seq
    for name in names:
        await link.js.publish(streams.heartbeat(name))
    got = await read(link, f"beat.{moving}.>", *share(range(0)), after=position)
    assert [m.subject for m in got] == [f"beat.{moving}.{n}" for n in names if bucket_of(n) == moving]


async def test_a_stream_in_use_takes_the_mapping_and_publishers_notice_nothing(
    link: BrokerConnection,
) -> None:
    await link.js.publish(streams.heartbeat("old.one"))
    await mapped(link)
    acks = [
        await link.js.publish(streams.heartbeat("old.one"), headers={"Nats-Msg-Id": "a"}) for _ in range(2)
    ]
    assert [(ack.stream, bool(ack.duplicate)) for ack in acks] == [
        (streams.HEARTBEATS, False),
        (streams.HEARTBEATS, True),
    ]
    before = await first(link, streams.HEARTBEATS, "heartbeat.old.one")
    after = await first(link, streams.HEARTBEATS, f"beat.{bucket_of('old.one')}.old.one")
    assert before
    assert after
    assert (before.seq, after.seq) == (1, 2)
