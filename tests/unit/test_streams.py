"""What the streams should look like, and what is done where the broker has no room for that."""

from dataclasses import replace
from typing import Any

import pytest
from nats.js.api import StreamConfig, StreamInfo
from nats.js.errors import NotFoundError, ServerError

from shared.messaging import streams
from shared.messaging.streams import HEARTBEATS, SERVICES, planned
from shared.settings import MIN_STREAM_BYTES, Settings, load

SETTINGS = Settings(_env_file=None, heartbeats_bytes="10GB")


def config(settings: Settings, name: str) -> StreamConfig:
    return next(it for it in planned(settings) if it.name == name)


def test_every_subject_and_all_of_the_heartbeats_are_bounded() -> None:
    heartbeats, services = config(SETTINGS, HEARTBEATS), config(SETTINGS, SERVICES)
    assert (heartbeats.max_msgs_per_subject, heartbeats.max_bytes) == (100, 10**10)
    assert heartbeats.max_msgs == 100 * 100_000 + 1_000_000, "strangers take no room from a whole fleet"
    assert services.max_msgs_per_subject == 20_000
    assert (services.max_msgs, services.max_bytes) == (None, None), "nobody pushes out what is of others"
    assert config(SETTINGS.model_copy(update={"heartbeats_bytes": 0}), HEARTBEATS).max_bytes == -1
    huge = config(SETTINGS.model_copy(update={"max_services": 10**18}), HEARTBEATS).max_msgs
    assert huge == 2**53, "a number that the broker can read"


def test_the_settings_come_to_the_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(Settings).heartbeats_bytes == 0
    for given, size in (("", 0), ("0", 0), ("100MB", MIN_STREAM_BYTES), ("2 TB", 2 * 10**12)):
        monkeypatch.setenv("REGISTRY_HEARTBEATS_BYTES", given)
        assert load(Settings).heartbeats_bytes == size
    for given in ("99MB", "10", "-1GB", "1.5GB", "10GiB", "MB"):
        monkeypatch.setenv("REGISTRY_HEARTBEATS_BYTES", given)
        with pytest.raises(SystemExit):
            load(Settings)


class Broker:
    """Refuses to set aside more than it has `room` for."""

    def __init__(self, room: int, there: StreamConfig | None = None, code: int = 10047) -> None:
        self.room = room
        self.there = {there.name: there} if there else {}
        self._code = code

    async def stream_info(self, name: str) -> Any:
        if name not in self.there:
            raise NotFoundError
        return StreamInfo(config=self.there[name], state=None)  # type: ignore[call-arg, arg-type]

    async def add_stream(self, wanted: StreamConfig) -> Any:
        if (wanted.max_bytes or 0) > self.room:
            raise ServerError(code=500, err_code=self._code, description="no room")
        self.there[wanted.name] = wanted

    update_stream = add_stream

    async def bound(self, settings: Settings = SETTINGS) -> int | None:
        await streams.provision(self, settings, update=True)  # type: ignore[arg-type]
        return self.there[HEARTBEATS].max_bytes


async def test_a_stream_of_an_older_version_gets_the_subjects_that_came_since() -> None:
    older = replace(config(SETTINGS, SERVICES), subjects=[streams.ALL_CONFIG, streams.ALL_STATUS])
    broker = Broker(10**11, older)
    await streams.provision(broker, SETTINGS, update=False)  # type: ignore[arg-type]
    assert broker.there[SERVICES] is older, "but by nobody who may not"
    await streams.provision(broker, SETTINGS, update=True)  # type: ignore[arg-type]
    assert streams.ALL_CONFIGURATION in (broker.there[SERVICES].subjects or [])


def test_subjects_and_what_is_about_whom() -> None:
    for name in ("routes.all", "maintenance.5c0f1f0a9d3e"):
        subject = streams.configuration(name)
        assert streams.name_in(subject) == name
        assert streams.stream_of(subject) == SERVICES
        assert streams.is_configuration(subject)
    assert not any(map(streams.is_configuration, (streams.config("a"), streams.status("registry.config.a"))))


async def test_where_there_is_no_room_the_bound_is_the_largest_that_fits() -> None:
    assert await Broker(10**11).bound() == 10**10
    assert await Broker(3 * 10**9).bound() == 10**10 // 4
    assert await Broker(10**7).bound() == -1, "a small bound would let go of what was not read"
    assert await Broker(0, code=10122).bound() == -1, "a limit of the account's"
    broker = Broker(10**9)
    assert await broker.bound() == 10**10 // 16
    broker.room = 10**11
    assert await broker.bound() == 10**10, "when there is room again, at the next start"
    with pytest.raises(ServerError):
        await Broker(0, code=10058 + 1).bound()


async def test_a_bound_that_there_is_gets_smaller_only_if_that_is_wanted() -> None:
    there = config(SETTINGS.model_copy(update={"heartbeats_bytes": 3 * 10**9}), HEARTBEATS)
    assert await Broker(3 * 10**9, there).bound() == 3 * 10**9
    assert await Broker(10**11, there).bound(SETTINGS.model_copy(update={"heartbeats_bytes": 10**9})) == 10**9
    assert await Broker(10**9, there).bound() == -1, "so much set aside leaves no room for other streams"
    unbounded = config(SETTINGS.model_copy(update={"heartbeats_bytes": 0}), HEARTBEATS)
    assert await Broker(10**9, unbounded).bound() == 10**10 // 16
    assert await Broker(10**11, replace(unbounded, max_msgs=-1)).bound() == 10**10
