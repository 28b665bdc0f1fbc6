"""What a heartbeat declares beside when it is due: taken over, unless a person or a file has decided."""

from datetime import timedelta
from typing import Any

import pytest

from services.monitor.store import mapping
from shared.contracts import events
from shared.contracts.events import (
    ConfigData,
    Heartbeat,
    HeartbeatBody,
    Limits,
    ServiceConfig,
    Signal,
    moment,
)
from shared.contracts.heartbeats import parse_heartbeat, read_body, write_body

AT = 1_800_000_000_000_000
MINUTE = timedelta(minutes=1)
LIMITS = Limits(down_after=30 * MINUTE, max_run=120 * MINUTE, fail_after=3, recover_after=2)


def beat(at: int = AT, limits: Limits | None = LIMITS, **fields: Any) -> Any:
    body = HeartbeatBody(**{"schedule": "0 3 * * *", "limits": limits} | fields)
    return mapping.beat(at, Heartbeat(Signal.SUCCESS, body, None))


def updated(data: ConfigData) -> events.ServiceUpdated:
    about = {"id": "1", "source": "/api", "subject": "a", "time": moment(AT - 1)}
    return events.ServiceUpdated(**about, data=data)


def declared(data: ConfigData, limits: Limits | None = LIMITS, **fields: Any) -> ConfigData | None:
    found = mapping.declaration("a", beat(AT, limits, **fields), updated(data), AT - 1)
    return found.data if found else None


def limits_of(config: ServiceConfig) -> tuple[Any, ...]:
    return config.down_after, config.max_run, config.fail_after, config.recover_after


def test_a_first_heartbeat_brings_its_limits() -> None:
    data = mapping.registration("a", beat()).data
    assert limits_of(data.config) == (30 * MINUTE, 120 * MINUTE, 3, 2)
    assert data.declared_limits == ("down_after", "max_run", "fail_after", "recover_after")
    assert data.declared_at == moment(AT)
    assert data.ping_key
    assert mapping.registration("a", beat(limits=None)).data.declared_limits == ()


def test_limits_without_a_schedule_or_an_interval_declare_nothing() -> None:
    assert beat(schedule=None).limits is None
    assert beat(schedule=None, every=5 * MINUTE).limits == LIMITS


def test_they_follow_what_the_heartbeat_says() -> None:
    first = mapping.registration("a", beat(AT - 10)).data
    assert declared(first) is None, "nothing is new"
    other = Limits(down_after=10 * MINUTE, fail_after=1)
    data = declared(first, other)
    assert data
    assert limits_of(data.config) == (10 * MINUTE, 120 * MINUTE, 1, 2)
    assert set(data.declared_limits) == set(first.declared_limits)
    assert data.ping_key == first.ping_key


@pytest.mark.parametrize(
    ("field", "value"),
    [("down_after", 5 * MINUTE), ("max_run", 7 * MINUTE), ("fail_after", 9), ("recover_after", 8)],
)
def test_what_a_person_has_set_stays(field: str, value: Any) -> None:
    by_hand = ConfigData(config=ServiceConfig(**{field: value}), registered_at=moment(AT - 100))
    data = declared(by_hand)
    assert data
    assert getattr(data.config, field) == value
    assert field not in data.declared_limits
    others = {"down_after", "max_run", "fail_after", "recover_after"} - {field}
    assert set(data.declared_limits) == others
    assert all(getattr(data.config, each) == getattr(LIMITS, each) for each in others)
    assert data.config.schedule == "0 3 * * *"


@pytest.mark.parametrize("own", [{"every": 5 * MINUTE}, {"schedule": "0 4 * * *"}])
def test_a_service_whose_schedule_a_person_has_set_declares_nothing(own: dict[str, Any]) -> None:
    data = ConfigData(config=ServiceConfig(**own), registered_at=moment(AT - 100))
    assert declared(data) is None


def test_aliases_and_the_key_stay_with_the_service() -> None:
    data = ConfigData(config=ServiceConfig(aliases=("old",)), registered_at=moment(AT - 100), ping_key="k")
    found = declared(data)
    assert found
    assert (found.config.aliases, found.ping_key) == (("old",), "k")


def test_only_what_ingest_has_written_has_limits() -> None:
    body = HeartbeatBody(schedule="0 3 * * *", limits=LIMITS)
    payload = write_body(body, [])
    kept = parse_heartbeat("a", payload, {events.SOURCE_HEADER: "http", events.DURATION_HEADER: "1.5"})
    assert kept.body == body
    assert kept.duration == 1.5
    straight = parse_heartbeat("a", payload, {})
    assert straight.body
    assert straight.body.limits is None
    assert straight.warnings[0].startswith("limits: not used")
    by_http, warnings = read_body(payload)
    assert by_http
    assert by_http.limits is None
    assert warnings
