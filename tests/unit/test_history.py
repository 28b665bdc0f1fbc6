"""What the notifier asks the record for."""

from datetime import UTC, datetime
from typing import Any, cast

import pytest

from services.notifier import consumer
from services.notifier.states import ServiceStates
from shared.contracts.events import ConfigData, ServiceConfig, ServiceRegistered
from shared.messaging.connection import BrokerConnection
from shared.messaging.reader import Stored

REGISTERED = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
AT = int(REGISTERED.timestamp() * 1e6)
LOG = {"registry-signal": "log"}


@pytest.mark.parametrize(
    ("kept", "last"),
    [
        ([], None),
        ([(5, None)], 5),
        ([(5, None), (6, LOG), (7, LOG)], 5),
        ([(6, LOG)], None),
        ([(0, None)], 0),
        ([(-1, None), (6, LOG)], None),
    ],
    ids=["none", "a beat", "logs behind a beat", "only logs", "the one that registers", "of the life before"],
)
async def test_the_last_heartbeat_is_a_sign_of_this_life(
    kept: list[tuple[int, dict[str, str] | None]], last: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = [Stored("heartbeat.web", b"", headers, n, AT + at, 0) for n, (at, headers) in enumerate(kept, 1)]

    async def newest(*_: Any) -> Stored | None:
        return stored[-1] if stored else None

    async def before(_: Any, __: str, ___: str, seq: int) -> Stored | None:
        return stored[seq - 2] if seq > 1 else None

    monkeypatch.setattr(consumer, "newest", newest)
    monkeypatch.setattr(consumer, "newest_before", before)
    states = ServiceStates()
    data = ConfigData(config=ServiceConfig(), registered_at=REGISTERED)
    states.apply(
        ServiceRegistered(id="r", source="/test", subject="web", time=REGISTERED, data=data), 1, REGISTERED
    )
    found = await consumer.EventLog(cast(BrokerConnection, None), states).last_heartbeat("web")
    assert found == (None if last is None else consumer.moment(AT + last))
