"""What `POST /routes/test` says of every way in which a channel may hear of something."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from services.api.configuration import Configuration
from services.api.http.models import Heard, RouteTest
from services.api.routes import StoredRoutes
from shared.contracts.events import Status
from shared.contracts.routes import Routes
from shared.messaging.stored_config import ROUTES, StoredConfig

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
NIGHT = datetime(2026, 11, 27, 22, 30, tzinfo=UTC)
MORNING = datetime(2026, 11, 28, 6, tzinfo=UTC)
CHANNELS = frozenset({"ops", "ana", "boss"})
DB: dict[str, Any] = {"match": {"tags": ["db"]}, "to": ["ops"]}


async def told(*routes: dict[str, Any], **asked: Any) -> dict[str, tuple[str, datetime | None, str]]:
    async def channels() -> frozenset[str]:
        return CHANNELS

    stored = StoredConfig(None)  # type: ignore[arg-type]
    stored.apply(ROUTES, 7, {"routes": list(routes)})
    configuration = Configuration(None, None, None, stored, lambda: NOON)  # type: ignore[arg-type]
    of = StoredRoutes(configuration, channels, ZoneInfo("Europe/Berlin"))
    found = await of.test(RouteTest(name="web", **asked), asked.get("tags", ("db",)), NOON)
    assert [it.channel for it in found.channels] == sorted(CHANNELS)
    return {it.channel: (it.hears, it.at, it.why) for it in found.channels}


async def test_without_a_route_every_channel_hears_all() -> None:
    for found in (await told(), await told({"match": {"tags": ["web"]}, "to": ["ops"]})):
        everybody = (Heard.AT_ONCE, NOON, "no route matches: every channel hears of it")
        assert found == dict.fromkeys(CHANNELS, everybody)
    found = await told({"match": {"tags": ["db"]}, "to": ["gone"]})
    assert {it[2] for it in found.values()} == {
        "no channel of the routes that match is there any more: every channel hears of it"
    }


async def test_who_is_named_hears_and_who_is_not_does_not() -> None:
    found = await told(DB)
    assert found["ops"] == (Heard.AT_ONCE, NOON, "a route names it")
    assert found["ana"] == found["boss"] == (Heard.NOT, None, "no route that matches names it")


async def test_quiet_hours_are_those_of_the_zone_at_the_moment_that_is_asked_for() -> None:
    quiet = DB | {"quiet": "22:00-07:00"}
    assert (await told(quiet))["ops"] == (Heard.AT_ONCE, NOON, "a route names it")
    assert (await told(quiet, at=NIGHT))["ops"] == (Heard.NO_SOUND, NIGHT, "quiet hours")
    held = DB | {"quiet": {"hours": "22:00-07:00", "hold": True}}
    assert (await told(held, at=NIGHT))["ops"] == (Heard.HELD, MORNING, "quiet hours hold it")
    early = NIGHT - timedelta(hours=2, minutes=15)  # 21:15 in Berlin
    assert (await told(held, at=early))["ops"][0] == Heard.AT_ONCE


async def test_who_is_called_later_and_why() -> None:
    route = DB | {"escalate": [{"after": "15m", "to": ["boss"]}, {"after": "1h", "to": ["ana"]}]}
    found = await told(route)
    assert found["boss"] == (
        Heard.WAITS,
        NOON + timedelta(minutes=15),
        "if nobody has it in hand 15m after the fall to down",
    )
    assert found["ana"][1] == NOON + timedelta(hours=1)
    fallen = NOON - timedelta(minutes=20)
    found = await told(route, down_since=fallen)
    assert found["boss"] == (Heard.ESCALATED, NOON, "nobody has it in hand 15m after the fall to down")
    assert found["ana"] == (
        Heard.WAITS,
        fallen + timedelta(hours=1),
        "if nobody has it in hand 1h after the fall to down",
    )
    found = await told(route, down_since=fallen, acknowledged=True)
    assert found["boss"] == (Heard.NOT, None, "an escalation, and somebody has it in hand")
    found = await told(route, status="silent")
    assert found["boss"] == (Heard.NOT, None, "an escalation, and it has not fallen to down")
    assert found["ops"][0] == Heard.AT_ONCE


async def test_held_until_it_is_escalated() -> None:
    held = DB | {
        "quiet": {"hours": "22:00-07:00", "hold": True},
        "escalate": {"after": "30m", "to": ["ops"]},
    }
    at = NIGHT + timedelta(minutes=30)
    assert (await told(held, at=NIGHT))["ops"] == (
        Heard.HELD,
        at,
        "quiet hours hold it; at most until 30m after the fall to down",
    )


async def test_routes_can_be_tried_that_are_not_set() -> None:
    tried = Routes.model_validate({"routes": [{"to": ["boss"]}]}).routes
    found = await told(DB, routes=tried)
    assert {channel: it[0] for channel, it in found.items()} == {
        "boss": Heard.AT_ONCE,
        "ops": Heard.NOT,
        "ana": Heard.NOT,
    }


MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(8999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001
TO = st.lists(st.sampled_from([*sorted(CHANNELS), "gone"]), min_size=1, max_size=3, unique=True)
LENGTHS = st.sampled_from(["1s", "15m", "1d", "3650d"])
ROUTE = st.fixed_dictionaries(
    {"to": TO},
    optional={
        "match": st.sampled_from([{}, {"tags": ["db"]}, {"status": ["down"]}, {"name": "w*"}]),
        "continue": st.booleans(),
        "quiet": st.sampled_from(["22:00-07:00", {"hours": "00:00-23:59", "hold": True}]),
        "escalate": st.lists(st.fixed_dictionaries({"after": LENGTHS, "to": TO}), max_size=2),
        "remind": st.lists(LENGTHS, max_size=2),
    },
)


@given(st.lists(ROUTE, max_size=4), MOMENTS, st.none() | MOMENTS, st.booleans(), st.sampled_from(Status))
async def test_whatever_is_asked_each_channel_has_one_answer(
    routes: list[dict[str, Any]],
    at: datetime,
    down_since: datetime | None,
    acknowledged: bool,
    status: Status,
) -> None:
    if status is Status.UNKNOWN:
        return
    found = await told(*routes, at=at, down_since=down_since, acknowledged=acknowledged, status=status)
    assert any(hears is not Heard.NOT for hears, _, _ in found.values()), "somebody hears of it"
    for hears, when, _ in found.values():
        now = hears in (Heard.AT_ONCE, Heard.NO_SOUND, Heard.ESCALATED)
        assert (when == at) if now else (when is None) == (hears is Heard.NOT)
        assert when is None or when >= at
        assert not (acknowledged and hears in (Heard.ESCALATED, Heard.WAITS))
