"""The registry's own configuration in a real broker: who follows it, and what older versions have left."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from nats.js.kv import KeyValue

from services.api.configuration import Configuration
from services.api.maintenance import Maintenance
from services.api.projections.store import Store
from services.api.routes import StoredRoutes
from services.notifier.consumer import EventLog
from services.notifier.states import ServiceStates
from shared.contracts.events import ServiceDeleted
from shared.contracts.maintenance import Window
from shared.contracts.routes import Routes
from shared.http.problems import Problem
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.errors import NotStored
from shared.messaging.publisher import Publisher
from shared.messaging.queries import newest_event
from shared.messaging.reader import Reader
from shared.messaging.record_watch import Eviction, eviction_of
from shared.messaging.stored_config import ROUTES, TAKEN_OVER, StoredConfig, window_name
from shared.settings import Settings
from tests.broker import configure, configured, eventually, provisioned

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
WINDOW = Window(services=("web",), starts_at=NOW, ends_at=NOW + timedelta(hours=1))
LONGER = WINDOW.model_copy(update={"ends_at": NOW + timedelta(hours=2)})


@pytest.fixture
async def link(nats_url: str) -> AsyncIterator[BrokerConnection]:
    link = await provisioned(nats_url)
    yield link
    await link.close()


def value(window: Window) -> dict[str, Any]:
    return window.model_dump(mode="json", exclude_defaults=True)


@asynccontextmanager
async def followed(link: BrokerConnection, *changed: Any) -> AsyncIterator[StoredConfig]:
    stored = StoredConfig(link, *changed)
    await stored.load()
    following = asyncio.create_task(stored.follow())
    try:
        yield stored
    finally:
        following.cancel()
        await asyncio.wait({following})


async def becomes(what: Any, wanted: Any) -> None:
    async def is_so() -> bool:
        return bool(what() == wanted)

    await eventually(is_so)


async def test_windows_are_followed_and_who_is_freed_is_told(link: BrokerConnection) -> None:
    gone: list[Window] = []
    seq = await configure(link.js, window_name("kept"), value(WINDOW))
    await link.js.publish(streams.configuration(window_name("odd")), b"{not an event")
    await configure(link.js, window_name("never"), {"cron": "* * * * *"})
    await configure(link.js, "later.kind", {"of": "a newer version"})
    async with followed(link, gone.append) as stored:
        assert stored.windows == {"kept": WINDOW}
        assert stored.version(window_name("kept")) == seq
        assert stored.version(window_name("odd")), "so that it can be set anew"
        newer = await configure(link.js, window_name("kept"), value(LONGER))
        await becomes(lambda: stored.windows.get("kept"), LONGER)
        assert gone == [WINDOW]
        stored.apply(window_name("kept"), newer - 1, None)  # word of something older
        assert stored.windows == {"kept": LONGER}
        await configure(link.js, window_name("kept"), None)
        await becomes(lambda: stored.windows, {})
        assert gone == [WINDOW, LONGER]


async def test_routes_are_followed_and_what_cannot_be_read_is_none(link: BrokerConnection) -> None:
    told: list[int] = []
    routes = {"routes": [{"match": {"tags": ["db"]}, "to": ["ops"]}]}

    async with followed(link, lambda _: None, lambda: told.append(len(stored.routes.routes))) as stored:
        assert stored.routes.routes == ()
        await configure(link.js, ROUTES, routes)
        await becomes(lambda: told, [1])
        assert stored.routes.routes[0].to == ("ops",)
        await configure(link.js, ROUTES, routes)
        await configure(link.js, ROUTES, {"routes": [{"by": "a newer version"}]})
        await becomes(lambda: told, [1, 0])
    again = StoredConfig(link)
    await again.load()
    assert (again.routes, again.windows) == (stored.routes, {})


async def test_nobody_who_reads_events_waits_for_it_or_stumbles_over_it(link: BrokerConnection) -> None:
    gone = ServiceDeleted(id="1", source="/api", subject="web", time=NOW)
    await configure(link.js, ROUTES, {"routes": []})
    event = (await link.js.publish(streams.config("web"), gone.to_bytes())).seq
    last = await configure(link.js, ROUTES, {"routes": []})
    assert (await newest_event(link))[0] == event, "for who waits until all events are read"
    for subjects in ((streams.ALL_EVENTS,), (streams.ALL_CONFIG, streams.ALL_STATUS)):
        reader = Reader(link, streams.SERVICES, *subjects)
        read = [each.seq async for batch in reader.to_end() for each in batch]
        assert read == [event]
        assert reader.pending == 0
    whole = Reader(link, streams.SERVICES, streams.ALL_EVENTS)
    async for _ in whole.to_end():
        pass
    assert whole.position == last, "what was passed over does not come again"
    log = EventLog(link, ServiceStates())
    await log.load_states()
    assert await log.changes_after(0, 10) == ([], 0, True)


async def test_what_the_broker_lets_go_of_is_no_purge(nats_url: str) -> None:
    link = BrokerConnection(Settings(nats_url=(nats_url,), events_kept=5), "test")
    await link.connect()
    for _ in range(4):
        await configure(link.js, ROUTES, {"routes": []})
    assert await eviction_of(link) is Eviction.NONE
    await configure(link.js, ROUTES, {"routes": []})
    assert await eviction_of(link) is Eviction.ONE_FOR_ONE
    await link.close()


async def test_routes_are_decided_on_what_the_record_has(link: BrokerConnection) -> None:
    """This API has not heard yet of what others wrote."""

    async def channels() -> frozenset[str]:
        return frozenset({"ops"})

    publisher, stored = Publisher(link), StoredConfig(link)
    await publisher.start()
    await stored.load()
    configuration = Configuration(
        link, publisher, Store("mongodb://127.0.0.1:9", "none"), stored, lambda: NOW
    )
    routes = StoredRoutes(configuration, channels, ZoneInfo("UTC"))
    wanted = Routes.model_validate({"routes": [{"to": ["ops"]}]})
    seq = await configure(link.js, ROUTES, {"routes": [{"to": ["ops"]}, {"to": ["ops"]}]})
    assert stored.version(ROUTES) == 0
    view = await routes.replace(wanted, f'"{seq}"', "token:ana")
    assert (view.version, view.routes) == (seq + 1, wanted.routes)
    newer = await configure(link.js, ROUTES, {"routes": []})
    with pytest.raises(Problem, match=str(newer)):
        await routes.replace(wanted, f'"{view.version}"', "token:ana")
    await configure(link.js, ROUTES, {"routes": []})
    assert (await routes.replace(wanted, None, "token:ana")).version == newer + 2


# --- windows of older versions


@pytest.fixture
async def bucket(link: BrokerConnection) -> KeyValue:
    bucket = await link.bucket(streams.MAINTENANCE_BUCKET)
    await bucket.put("a", WINDOW.model_dump_json().encode())
    await bucket.put("b", WINDOW.model_dump_json().encode())
    await bucket.put("odd", b"{not a window")
    await bucket.put("gone", WINDOW.model_dump_json().encode())
    await bucket.delete("gone")
    return bucket


@asynccontextmanager
async def an_api(url: str) -> AsyncIterator[Maintenance]:
    """Its part that takes over, with what it needs; its database is away."""
    link = await provisioned(url)
    publisher = Publisher(link)
    await publisher.start()
    async with followed(link) as stored:
        store = Store("mongodb://127.0.0.1:9", "none")
        yield Maintenance(Configuration(link, publisher, store, stored, lambda: NOW))
    await link.close()


async def recorded(link: BrokerConnection) -> list[str]:
    reader = Reader(link, streams.SERVICES, streams.ALL_CONFIGURATION)
    read = [each async for batch in reader.to_end() for each in batch]
    assert all(streams.read_configuration(it.subject, it.data).actor is None for it in read)
    return sorted(streams.name_in(it.subject) for it in read)


async def test_windows_of_an_older_version_count_until_they_are_taken_over(
    link: BrokerConnection, bucket: KeyValue, nats_url: str
) -> None:
    gone: list[Window] = []
    async with followed(link, gone.append) as stored:
        assert stored.windows == {"a": WINDOW, "b": WINDOW}
        await bucket.put("b", LONGER.model_dump_json().encode())  # by an older API
        await bucket.put("c", WINDOW.model_dump_json().encode())
        await becomes(lambda: stored.windows, {"a": WINDOW, "b": LONGER, "c": WINDOW})
        await bucket.delete("c")
        await becomes(lambda: stored.windows, {"a": WINDOW, "b": LONGER})
        assert gone == [WINDOW, WINDOW]
        await configure(link.js, window_name("a"), None)
        await becomes(lambda: stored.windows, {"b": LONGER})
        await bucket.put("a", WINDOW.model_dump_json().encode())  # where an event says more, it says all
        async with an_api(nats_url) as api:
            await api.take_over()
            assert api.configuration.stored.windows == {"b": LONGER}
        await becomes(lambda: bool(stored.version(window_name("b"))), True)
        assert stored.windows == {"b": LONGER}
    assert await recorded(link) == [window_name("a"), window_name("b")]
    await link.js.purge_stream(streams.SERVICES)
    again = StoredConfig(link)
    await again.load()
    assert again.windows == {}, "what was taken over does not come back when the record is emptied"


async def test_they_are_taken_over_once_by_however_many_apis(
    link: BrokerConnection, bucket: KeyValue, nats_url: str
) -> None:
    async with an_api(nats_url) as first, an_api(nats_url) as second, an_api(nats_url) as third:
        await asyncio.gather(*(api.take_over() for api in (first, second, third)))
        assert await recorded(link) == [window_name("a"), window_name("b")]
    async with an_api(nats_url) as later:
        await later.take_over()
        assert later.configuration.stored.windows == {"a": WINDOW, "b": WINDOW}
        await later.delete("a", None, None)
    await bucket.put("new", WINDOW.model_dump_json().encode())  # by an API of an older version beside
    async with an_api(nats_url) as last:
        assert last.configuration.stored.windows == {"b": WINDOW, "new": WINDOW}
        await last.take_over()
        assert last.configuration.stored.windows == {"b": WINDOW, "new": WINDOW}
    assert (await recorded(link)).count(window_name("new")) == 1


async def test_what_is_long_over_is_forgotten_by_whoever_is_first(
    link: BrokerConnection, nats_url: str
) -> None:
    over = WINDOW.model_copy(
        update={"starts_at": NOW - timedelta(days=32), "ends_at": NOW - timedelta(days=31)}
    )
    for n in range(5):
        await configure(link.js, window_name(f"old{n}"), value(over))
    async with an_api(nats_url) as first, an_api(nats_url) as second:
        made = await asyncio.gather(*(api.add(WINDOW, NOW, None) for api in (first, second) * 2))
        await becomes(lambda: set(first.configuration.stored.windows), {it.id for it in made})


async def test_a_take_over_that_broke_off_goes_on(
    link: BrokerConnection, bucket: KeyValue, nats_url: str
) -> None:
    """One event was stored, and the note that all are was not."""
    event = configured(window_name("a"), value(WINDOW))
    await link.js.publish(streams.subject_of(event), event.to_bytes())
    async with an_api(nats_url) as api:
        await api.take_over()
    assert await recorded(link) == [window_name("a"), window_name("b")]
    assert (await bucket.get(TAKEN_OVER)).value


async def test_it_waits_for_a_stream_that_takes_such_events(
    link: BrokerConnection, bucket: KeyValue, nats_url: str
) -> None:
    """The monitor may still be of the older version."""
    config = (await link.js.stream_info(streams.SERVICES)).config
    subjects = config.subjects
    config.subjects = [streams.ALL_CONFIG, streams.ALL_STATUS]
    await link.js.update_stream(config)
    async with an_api(nats_url) as api:
        failed: list[NotStored | None] = []
        api.configuration.publisher.on_append = failed.append
        taking = asyncio.create_task(api.take_over())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(taking), 1)
        assert api.configuration.stored.windows == {"a": WINDOW, "b": WINDOW}
        with pytest.raises(NotStored, match="older version"):
            await api.add(WINDOW, NOW, None)
        assert failed == [], "it would be said to be not ready, as if nothing were stored"
        config.subjects = subjects
        await link.js.update_stream(config)
        await asyncio.wait_for(taking, 20)
    assert await recorded(link) == [window_name("a"), window_name("b")]
