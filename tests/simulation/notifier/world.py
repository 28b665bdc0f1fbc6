"""What the notifier's broker holds, made up: events, and the bucket of its records.

`Host` is one process on it. The notifier's own parts run above: they are given `Client`, `Bucket` and
`SimulatedLink` where they would have a connection, and cannot tell the difference.
"""

import asyncio
import json
from bisect import bisect_left
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any, NamedTuple

from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError

from shared.contracts.events import micros, moment
from shared.messaging import faststream_broker, streams
from shared.messaging.connection import StreamPosition
from shared.messaging.errors import WrongSequence
from shared.messaging.publisher import Ack
from shared.messaging.reader import Stored
from tests.simulation.clock import OWNER, VirtualLoop
from tests.simulation.model import CALM, Broker, Heartbeats, ModelReader, Session

OLDER_WINDOWS = f"KV_{streams.MAINTENANCE_BUCKET}"
RECORDS = f"KV_{streams.NOTIFIER_BUCKET}"
CREATED = "2026-09-21T00:00:00Z"
LOST = 0.2
"""How many batches do not arrive as a whole, and how many acknowledgements do not."""
ACK_WAIT = 30.0
"""Seconds until the broker delivers again what was not acknowledged, as it does by default."""


class Record(NamedTuple):
    """What stands under a key of the notifier's bucket. `value`: None when it was deleted."""

    value: bytes | None
    revision: int
    at: int = 0


NOTHING = Record(None, 0)


class World(Broker):
    """The stream of events, and the buckets beside it."""

    def __init__(self, loop: VirtualLoop, outages: Sequence[tuple[float, float]], trace: list[str] | None):
        super().__init__(loop, Heartbeats([]), (), outages, trace)
        self.has_runs = True
        self.records: dict[str, Record] = {}
        self.revision = 0
        self.born: dict[str, float] = {}
        """When each key was first written."""
        self.telegram: Any = None
        self.listeners: dict[str, Host] = {}

    def say(self, who: str, what: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.loop.time():12.3f}  {who:<9} {what}")

    def put_record(self, key: str, value: bytes | None, last: int) -> int:
        found = self.records.get(key, NOTHING)
        if last != found.revision:
            raise WrongSequence(f"wrong last sequence: {found.revision}")
        self.revision += 1
        self.born.setdefault(key, self.loop.time())
        self.records.pop(key, None)  # so that they stand in the order in which they were written
        self.records[key] = Record(value, self.revision, self.now())
        return self.revision

    def messages(self, stream: str) -> Sequence[Stored]:
        """What a stream holds, in order."""
        if stream == RECORDS:
            return [
                Stored(f"$KV.{streams.NOTIFIER_BUCKET}.{key}", it.value or b"", None, it.revision, it.at, 0)
                for key, it in self.records.items()
            ]
        held = {
            streams.SERVICES: self.events,
            streams.RUNS: self.runs,
            streams.HEARTBEATS: [],
        }
        return held[stream]

    def info(self, stream: str) -> dict[str, Any]:
        """What the broker says of a stream."""
        if stream == OLDER_WINDOWS:
            return {"error": {"code": 404}}
        held = self.messages(stream)
        state = {
            "last_seq": held[-1].seq if held else 0,
            "last_ts": rfc3339(held[-1].at) if held else "0001-01-01T00:00:00Z",
            "messages": len(held),
            "num_subjects": len({it.subject for it in held}),
        }
        return {"config": {}, "created": CREATED, "state": state, "ts": rfc3339(self.now())}

    def message(self, stream: str, question: dict[str, Any]) -> Stored | None:
        """The one that is asked for in the words of the broker's direct API; None: there is none."""
        held = self.messages(stream)
        match question:
            case {"multi_last": [subject], "up_to_seq": seq}:
                return self.newest_until(subject, seq)
            case {"last_by_subj": subject} if subject.endswith(">"):
                return next((it for it in reversed(held) if it.subject.startswith(subject[:-1])), None)
            case {"last_by_subj": subject} if stream == streams.SERVICES:
                return self.newest(subject)
            case {"last_by_subj": subject}:
                return next((it for it in reversed(held) if it.subject == subject), None)
            case {"start_time": since}:
                start = micros(datetime.fromisoformat(since))
                return next((it for it in held if it.at >= start), None)
            case {"seq": seq, "next_by_subj": subject}:
                return next((it for it in held if it.subject == subject and it.seq >= seq), None)
            case {"seq": seq}:
                place = bisect_left(held, seq, key=lambda it: it.seq)
                return held[place] if place < len(held) and held[place].seq == seq else None
        raise AssertionError(f"the broker made up is asked what it cannot answer: {question}")

    def newest_until(self, subject: str, seq: int) -> Stored | None:
        of_subject = (it for it in reversed(self.events) if it.subject == subject and it.seq <= seq)
        return next(of_subject, None)

    def before(self, stream: str, since: datetime) -> int:
        """The sequence after which a stream's messages are stored at or after a moment."""
        held = self.messages(stream)
        place = bisect_left(held, micros(since), key=lambda stored: stored.at)
        return held[place - 1].seq if place else 0


class Host(Session):
    """One process: a session with the broker that speaks the parts of NATS' client the notifier uses."""

    broker: World

    def __init__(self, broker: World, name: str, rng: Random, *rest: Any, **options: Any) -> None:
        super().__init__(broker, name, rng, *rest, **options)
        self._losses = Random(rng.getstate()[1][1])

    def read(self, stream: str, subjects: Sequence[str], options: dict[str, Any]) -> ModelReader:
        if stream == streams.RUNS and not self.broker.has_runs:
            return EmptyReader(self, stream, subjects, 0, False)
        after = options.get("after", 0)
        if since := options.get("since"):
            after = self.broker.before(stream, datetime.fromisoformat(since))
        newest_per_subject = options.get("newest_per_subject", False)
        return self.reader(stream, *subjects, after=after, newest_per_subject=newest_per_subject)

    def loses(self, delivered: int) -> int:
        """How many of those messages that the broker has delivered do not arrive, last ones first."""
        return self._losses.randint(1, delivered) if self.goes_wrong() else 0

    def goes_wrong(self) -> bool:
        """Of a delivery, or of what acknowledges it."""
        return self.faults is not CALM and self._losses.random() < LOST

    @property
    def is_suspended(self) -> bool:
        return any(start <= self._loop.time() < end for start, end in self._suspended)


class EmptyReader(ModelReader):
    """Of the stream of runs where there are none: it leaves no trace in what else happens."""

    async def _next(self) -> list[Stored]:
        if self._open:
            await asyncio.Event().wait()
        self._open, self.pending = True, 0
        return []


class Bucket:
    """The notifier's bucket as a process sees it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._world = host.broker

    async def get(self, key: str) -> Any:
        found = await self._host.operation(
            "get", key, lambda: self._world.records.get(key, NOTHING), NatsError
        )
        entry = SimpleNamespace(value=found.value, revision=found.revision)
        if found.value is None:
            raise KeyNotFoundError(entry if found.revision else None)
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
        return self._world.put_record(key, value, self._world.records.get(key, NOTHING).revision)


class Client:
    """What is left of a connection to NATS: requests, and the subjects that a process answers."""

    is_connected = True

    def __init__(self, host: Host) -> None:
        self._host = host
        self._world = host.broker

    async def request(self, subject: str, payload: bytes = b"", timeout: float = 3) -> Any:
        kind, _, stream = subject.rpartition(".")
        if kind == "$JS.API.STREAM.INFO":
            if stream == streams.RUNS and not self._world.has_runs:
                info = self._world.info(stream)
            else:
                ask = partial(self._world.info, stream)
                info = await self._host.operation("info", stream, ask, NatsError)
            return SimpleNamespace(data=json.dumps(info).encode(), headers=None)
        if kind == "$JS.API.DIRECT.GET":
            question = json.loads(payload)
            return await self._host.operation("read", "", partial(self._get, stream, question), NatsError)
        return await self._host.operation("ask", subject, partial(self._ask, subject), NatsError)

    def _get(self, stream: str, question: dict[str, Any]) -> Any:
        found = self._world.message(stream, question)
        if found is None:
            return SimpleNamespace(data=b"", headers={"Status": "404"})
        headers = {
            "Nats-Sequence": str(found.seq),
            "Nats-Subject": found.subject,
            "Nats-Time-Stamp": rfc3339(found.at),
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

    async def publish(self, *_: Any) -> None: ...

    async def flush(self, _: float = 0) -> None:
        await self._host.operation("flush", "", lambda: None, NatsError)


def rfc3339(at: int) -> str:
    return moment(at).isoformat().replace("+00:00", "Z")


class SimulatedLink:
    """In place of `shared.messaging.connection.BrokerConnection`."""

    replicated = False
    inbox_prefix = "_INBOX"

    def __init__(self, *_: Any, **__: Any) -> None:
        host = OWNER.get()
        assert isinstance(host, Host)
        self.host = host
        self.on_lost: list[Callable[[], None]] = []
        self.on_back: list[Callable[[], None]] = []
        self.on_doubt: list[Callable[[], None]] = []
        self.newest_read: dict[str, StreamPosition] = {}
        self.nc = Client(host)
        loop = host.broker.loop
        for start, end in host.broker.outages:
            if end > loop.time():
                loop.call_at(start, self._tell, self.on_lost)
                loop.call_at(end, self._tell, self.on_back)

    def was_read(self, stream: str, newest: StreamPosition) -> None:
        if newest.seq > self.newest_read.get(stream, StreamPosition(0, 0)).seq:
            self.newest_read[stream] = newest

    @property
    def up(self) -> bool:
        return not self.host.broker.away_until()

    def _tell(self, listeners: list[Callable[[], None]]) -> None:
        if not self.host.dead.is_set():
            for listener in list(listeners):
                listener()

    async def connect(self) -> None: ...

    async def provision(self) -> None: ...

    async def bucket(self, name: str) -> Bucket:
        return Bucket(self.host)

    async def close(self) -> None: ...


class SimulatedPublisher:
    """In place of `shared.messaging.publisher.Publisher`."""

    def __init__(self, link: SimulatedLink) -> None:
        self._host = link.host

    async def start(self) -> None: ...

    async def append(self, subject: str, payload: bytes, *, after: int, event_id: str, kind: str) -> Ack:
        host = self._host
        what = f"{subject} after {after}: {kind}"
        return await host.operation(
            "append", what, lambda: host.broker.append(subject, payload, after, event_id), can_be_late=True
        )


def reader(link: SimulatedLink, stream: str, *subjects: str, **options: Any) -> ModelReader:
    """In place of `shared.messaging.reader.Reader`."""
    found = link.host.read(stream, subjects, options)
    found.on_batch = lambda batch: link.was_read(stream, StreamPosition(batch[-1].seq, batch[-1].at))
    return found


class NoRequests:
    """In place of a handler of requests: nobody asks."""

    def __call__(self, handle: Any, **_: Any) -> None: ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class EventFeed:
    """In place of FastStream's broker and its one subscriber: hands on the events in batches, which may come
    again, or be lost on their way."""

    def __init__(self, *_: Any, **__: Any) -> None:
        host = OWNER.get()
        assert isinstance(host, Host)
        self._host = host
        self._config: Any = None
        self._handle: Any = None
        self.tasks: list[asyncio.Task[None]] = []
        self.subscription: Any = None
        self._delivered = 0
        self._busy = asyncio.Lock()

    async def connect(self) -> None: ...

    def subscriber(self, *_: Any, config: Any = None, **__: Any) -> "EventFeed | NoRequests":
        if config is None:
            return NoRequests()
        self._config = config
        return self

    def __call__(self, handle: Any, **_: Any) -> None:
        self._handle = handle

    async def start(self) -> None:
        self.subscription, self._delivered, self._busy = self, 0, asyncio.Lock()
        self.tasks.append(asyncio.create_task(self._read(self._config.opt_start_seq - 1)))

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        self.tasks.clear()

    async def _read(self, after: int) -> None:
        async for batch in self._host.read(streams.SERVICES, (streams.ALL_EVENTS,), {"after": after}):
            if not batch:
                continue
            lost = self._host.loses(len(batch))
            await self._deliver(batch, lost)
            if lost or self._host.goes_wrong():
                self.tasks.append(asyncio.create_task(self._deliver_again(batch[-lost:])))

    async def _deliver(self, batch: list[Stored], lost: int = 0) -> None:
        async with self._busy:
            raw = []
            for stored in batch:
                self._delivered += 1
                place = f"1.{stored.seq}.{self._delivered}.{stored.at * 1000}.{stored.pending}"
                reply = f"$JS.ACK.SERVICES.feed.{place}"
                raw.append(
                    SimpleNamespace(reply=reply, subject=stored.subject, data=stored.data, headers=None)
                )
            if arrived := raw[: len(raw) - lost]:
                events = [faststream_broker._read(it.data, None) for it in arrived]
                await self._handle(events, SimpleNamespace(raw_message=arrived, ack=self._acknowledge))

    async def _deliver_again(self, batch: list[Stored]) -> None:
        """What nobody has acknowledged."""
        await asyncio.sleep(ACK_WAIT)
        await self._deliver(batch)

    async def _acknowledge(self) -> None: ...
