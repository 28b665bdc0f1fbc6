"""What the notifier's broker holds, made up: events, the buckets of its records and of maintenance windows.

`Host` is one process on it. The notifier's own parts run above: they are given `Client`, `Bucket` and
`SimulatedLink` where they would have a connection, and cannot tell the difference.
"""

import asyncio
import json
from bisect import bisect_left
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from types import SimpleNamespace
from typing import Any

from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError

from shared import streams
from shared.broker import Stored, WrongSequence
from shared.events import micros, moment, parse_event
from tests.simulation.clock import OWNER, VirtualLoop
from tests.simulation.model import Broker, Heartbeats, ModelReader, Session

WINDOWS = f"KV_{streams.MAINTENANCE_BUCKET}"
CREATED = "2026-09-21T00:00:00Z"


class World(Broker):
    """The stream of events, and the buckets beside it."""

    def __init__(self, loop: VirtualLoop, outages: Sequence[tuple[float, float]], trace: list[str] | None):
        super().__init__(loop, Heartbeats([]), (), outages, trace)
        self.windows = Broker(loop, Heartbeats([]), (), outages, trace)
        self.records: dict[str, tuple[bytes | None, int]] = {}
        """Value and revision of each key of the notifier's bucket; None: deleted."""
        self.revision = 0
        self.born: dict[str, float] = {}
        """When each key was first written."""
        self.telegram: Any = None
        self.listeners: dict[str, Host] = {}

    def say(self, who: str, what: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.loop.time():12.3f}  {who:<9} {what}")

    def put_record(self, key: str, value: bytes | None, last: int) -> int:
        found = self.records.get(key)
        if last != (found[1] if found else 0):
            raise WrongSequence(f"wrong last sequence: {found[1] if found else 0}")
        self.revision += 1
        self.born.setdefault(key, self.loop.time())
        self.records[key] = value, self.revision
        return self.revision

    def newest_until(self, subject: str, seq: int) -> Stored | None:
        of_subject = (it for it in reversed(self.events) if it.subject == subject and it.seq <= seq)
        return next(of_subject, None)

    def before(self, since: datetime) -> int:
        """The sequence after which events are stored at or after a moment."""
        place = bisect_left(self.events, micros(since), key=lambda event: event.at)
        return self.events[place - 1].seq if place else 0


class Host(Session):
    """One process: a session with the broker that speaks the parts of NATS' client the notifier uses."""

    broker: World

    def read(self, stream: str, subjects: Sequence[str], options: dict[str, Any]) -> ModelReader:
        after = options.get("after", 0)
        if since := options.get("since"):
            after = self.broker.before(datetime.fromisoformat(since))
        reader = self.reader(
            stream, *subjects, after=after, newest_per_subject=options.get("newest_per_subject", False)
        )
        if stream == WINDOWS:
            reader._broker = self.broker.windows
        return reader

    @property
    def is_suspended(self) -> bool:
        return any(start <= self._loop.time() < end for start, end in self._suspended)


class Bucket:
    """The notifier's bucket as a process sees it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._world = host.broker

    async def get(self, key: str) -> Any:
        found = await self._host.operation(
            "get", key, lambda: self._world.records.get(key, (None, 0)), NatsError
        )
        entry = SimpleNamespace(value=found[0], revision=found[1])
        if found[0] is None:
            raise KeyNotFoundError(entry if found[1] else None)
        return entry

    async def update(self, key: str, value: bytes, last: int | None = None) -> int:
        try:
            return await self._host.operation(
                "put",
                f"{key} {value.decode()}" if self._world.trace is not None else key,
                lambda: self._world.put_record(key, value, last or 0),
                NatsError,
                can_be_late=True,
            )
        except WrongSequence as error:
            raise KeyWrongLastSequenceError(str(error)) from None

    async def put(self, key: str, value: bytes) -> int:
        return await self._host.operation("put", key, lambda: self._put(key, value), NatsError)

    async def delete(self, key: str) -> bool:
        await self._host.operation("delete", key, lambda: self._put(key, None), NatsError)
        return True

    purge = delete

    def _put(self, key: str, value: bytes | None) -> int:
        return self._world.put_record(key, value, self._world.records.get(key, (None, 0))[1])


class Client:
    """What is left of a connection to NATS: requests, and the subjects that a process answers."""

    is_connected = True

    def __init__(self, host: Host) -> None:
        self._host = host
        self._world = host.broker

    async def request(self, subject: str, payload: bytes = b"", timeout: float = 3) -> Any:
        if subject.startswith("$JS.API.STREAM.INFO."):
            stream = subject.rpartition(".")[2]
            end, now = await self._host.operation("info", stream, lambda: self._world.end(stream), NatsError)
            info = {"state": {"last_seq": end}, "ts": _rfc3339(now), "created": CREATED}
            return SimpleNamespace(data=json.dumps(info).encode(), headers=None)
        if subject.startswith("$JS.API.DIRECT.GET."):
            return await self._host.operation(
                "read", "", partial(self._stored, json.loads(payload)), NatsError
            )
        return await self._host.operation("ask", subject, partial(self._ask, subject), NatsError)

    def _stored(self, question: dict[str, Any]) -> Any:
        if names := question.get("multi_last"):
            found = self._world.newest_until(names[0], question.get("up_to_seq", 1 << 62))
        else:
            found = self._world.newest(question["last_by_subj"])
        if found is None:
            return SimpleNamespace(data=b"", headers={"Status": "404"})
        headers = {
            "Nats-Sequence": str(found.seq),
            "Nats-Subject": found.subject,
            "Nats-Time-Stamp": _rfc3339(found.at),
        }
        return SimpleNamespace(data=found.data, headers=headers)

    def _ask(self, subject: str) -> Any:
        other = self._world.listeners.get(subject)
        if other is None or other.dead.is_set():
            raise NoRespondersError
        if other.is_suspended:
            raise TimeoutError
        return SimpleNamespace(data=b"")

    async def subscribe(self, subject: str, **_: Any) -> None:
        self._world.listeners[subject] = self._host

    async def flush(self, _: float = 0) -> None:
        await self._host.operation("flush", "", lambda: None, NatsError)


def _rfc3339(at: int) -> str:
    return moment(at).isoformat().replace("+00:00", "Z")


class SimulatedLink:
    """In place of `shared.broker.Link`."""

    up = True

    def __init__(self, *_: Any, **__: Any) -> None:
        host = OWNER.get()
        assert isinstance(host, Host)
        self.host = host
        self.on_lost: list[Callable[[], None]] = []
        self.on_back: list[Callable[[], None]] = []
        self.nc = Client(host)

    def options(self) -> dict[str, Any]:
        return {}

    def adopt(self, client: Client) -> None:
        self.nc = client

    async def provision(self) -> None: ...

    async def bucket(self, name: str) -> Bucket:
        return Bucket(self.host)

    def leaving(self) -> None: ...

    async def close(self) -> None: ...


def reader(link: SimulatedLink, stream: str, *subjects: str, **options: Any) -> ModelReader:
    """In place of `shared.broker.Reader`."""
    return link.host.read(stream, subjects, options)


class EventFeed:
    """In place of FastStream's broker: reads the events in order and hands each to the one subscriber."""

    def __init__(self, *_: Any, middlewares: Sequence[Any], **__: Any) -> None:
        host = OWNER.get()
        assert isinstance(host, Host)
        self._host = host
        self._guard = middlewares[0]
        self._config: Any = None
        self._handle: Any = None
        self._reading: asyncio.Task[None] | None = None

    async def connect(self) -> Client:
        return Client(self._host)

    def subscriber(self, *_: Any, config: Any, **__: Any) -> Callable[[Any], None]:
        self._config = config
        return partial(setattr, self, "_handle")

    async def start(self) -> None:
        self._reading = asyncio.create_task(self._read(self._config.opt_start_seq - 1))

    async def stop(self) -> None:
        if self._reading:
            self._reading.cancel()

    async def _read(self, after: int) -> None:
        count = 0
        async for batch in self._host.read(streams.SERVICES, (streams.ALL_EVENTS,), {"after": after}):
            for stored in batch:
                count += 1
                place = f"$JS.ACK.SERVICES.feed.1.{stored.seq}.{count}.{stored.at * 1000}.{stored.pending}"
                message = SimpleNamespace(
                    raw_message=SimpleNamespace(reply=place, subject=stored.subject, data=stored.data)
                )
                await self._guard(message, context=None).consume_scope(self._handed, message)

    async def _handed(self, message: Any) -> None:
        await self._handle(parse_event(message.raw_message.data), message)
