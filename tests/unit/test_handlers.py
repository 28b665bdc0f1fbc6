"""Handlers of FastStream, in process: requests that are answered, and the document made of them."""

from datetime import UTC, datetime
from typing import Any

import pytest
from faststream.nats import NatsBroker, TestNatsBroker

from services.api.projections.projector import Projector
from services.api.projections.store import DatabaseUnavailable, Store
from services.api.queries.event_hub import EventHub
from services.monitor.asyncapi import describe_streams, last_evaluated_requests
from shared.http.server import Health
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.faststream_broker import FastStreamBroker, document
from shared.settings import Settings

PAYLOADS = (b"", b"{}", b"\xff\xfe", b"[" * 100_000)
"""What a request may bring along, which means nothing."""

link = BrokerConnection(Settings(), "test")


async def answer(broker: NatsBroker, subject: str, payload: bytes) -> bytes:
    async with TestNatsBroker(broker):
        return (await broker.request(payload, subject)).body


@pytest.mark.parametrize("payload", PAYLOADS)
async def test_the_monitor_answers_how_far_it_has_come(payload: bytes) -> None:
    broker = FastStreamBroker(link)
    last_evaluated_requests(broker, lambda: 1_795_000_000_123_456)
    assert int(await answer(broker, streams.LAST_EVALUATED, payload)) == 1_795_000_000_123_456


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        ({"events": 3, "services": 2}, b'{"events":3,"services":2}'),
        (DatabaseUnavailable("no primary"), b'{"error":"no primary"}'),
    ],
)
async def test_a_rebuild_that_is_asked_for_is_answered_when_it_is_done(
    monkeypatch: pytest.MonkeyPatch, payload: bytes, outcome: Any, expected: bytes
) -> None:
    async def rebuild(_: Projector) -> Any:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(Projector, "rebuild", rebuild)
    store = Store("mongodb://127.0.0.1:1", "registry")
    projector = Projector(link, store, EventHub(), Health("database"), lambda: datetime.now(UTC))
    assert await answer(projector._broker, streams.REBUILD, payload) == expected
    store.close()


def test_the_monitors_document_has_all_that_it_reads_writes_and_answers() -> None:
    broker = FastStreamBroker(link, ["nats://monitor:secret@broker:4222"])
    last_evaluated_requests(broker, lambda: 0)
    describe_streams(broker)
    described = document(broker, "monitor").to_specification().to_jsonable()
    assert "secret" not in str(described)
    assert {it["address"] for it in described["channels"].values()} == {
        streams.ALL_HEARTBEATS,
        streams.ALL_TICKS,
        streams.LAST_EVALUATED,
        "run.<service_name>",
        "service.status.<service_name>",
        "service.config.<service_name>",
    }
