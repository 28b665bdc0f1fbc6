"""What must hold after a fault has ended, whatever it was: the invariants, by their numbers in the design."""

import asyncio
import json
import shutil
from collections import defaultdict
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import nats
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from shared.contracts.events import StatusChanged, moment, parse_event
from shared.contracts.heartbeats import parse_heartbeat
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.queries import last_evaluated
from shared.messaging.reader import Reader, Stored
from shared.settings import Settings
from tests.e2e.system import until
from tests.faults.world import SILENT, Load, World
from tests.servers import nats_server, service

MICRO = 1e-6
OURS = ("steady", "leaving", "stirred")


async def connect(url: str) -> BrokerConnection:
    """To a broker whose streams are there already, and stay as they are."""
    link = BrokerConnection(Settings(nats_url=tuple(url.split(","))), "checks")
    link.adopt(await nats.connect(**link.options()))
    return link


async def everything(url: str, stream: str, *subjects: str) -> list[Stored]:
    """All that a stream holds, in order."""
    link = await connect(url)
    found: list[Stored] = []
    reader = Reader(link, stream, *subjects)
    async for batch in reader.batches():
        found += batch
        if not reader.pending:
            break
    await link.close()
    return found


def histories(events: list[Stored]) -> dict[str, list[StatusChanged]]:
    found: dict[str, list[StatusChanged]] = defaultdict(list)
    for message in events:
        try:
            event = parse_event(message.data)
        except ValueError:
            assert not streams.name_in(message.subject).startswith(OURS)
            continue
        assert isinstance(event, StatusChanged)
        found[event.subject].append(event)
    return found


class Record:
    """Both streams as they stand after the load has ended."""

    @classmethod
    async def read(cls, world: World) -> "Record":
        self = cls()
        heartbeats = await everything(world.nats_url, streams.HEARTBEATS, streams.ALL_HEARTBEATS)
        self.beats: dict[str, list[Stored]] = defaultdict(list)
        for message in heartbeats:
            self.beats[streams.name_in(message.subject)].append(message)
        self.histories = histories(await everything(world.nats_url, streams.SERVICES, streams.ALL_STATUS))
        return self

    def newest_beat(self, name: str) -> int:
        return max(it.at for it in self.beats[name] if _is_well_formed(it))


def nothing_acknowledged_is_missing(load: Load, record: Record) -> int:
    """Invariant 1. The number of heartbeats that were acknowledged."""
    for name, count in load.ledger.acknowledged.items():
        stored = record.beats[name]
        assert len(stored) >= count, f"{name}: {len(stored)} stored, {count} acknowledged"
        lost = load.ledger.marked[name] - {_mark(it.data) for it in stored}
        assert not lost, f"{name}: acknowledged and not in the stream: {sorted(lost)[:5]}"
    return load.ledger.total


def _mark(body: bytes) -> str:
    """The message in a body; nothing if it has none, or is noise."""
    with suppress(ValueError, TypeError, KeyError, RecursionError):
        return str(json.loads(body)["message"])
    return ""


def each_change_is_one_event(record: Record, *, from_its_start: bool = True) -> int:
    """Invariant 3. The number of changes. `from_its_start`: no event was purged; who appends before it has
    noticed that (decision 16) goes on from what it knew."""
    for name, changes in record.histories.items():
        ids = [change.id for change in changes]
        assert len(ids) == len(set(ids)), f"{name}: doubled"
        for before, after in pairwise(changes):
            assert before.data.to == after.data.from_, f"{name}: {before.data} then {after.data}"
            assert before.data.since <= after.data.since, f"{name}: out of order"
        begun = not from_its_start or not changes or changes[0].data.from_ == "unknown"
        assert begun, f"{name} begins with {changes[:3]}"
    return sum(map(len, record.histories.values()))


def every_fall_is_true_and_none_is_missing(load: Load, record: Record) -> None:
    """Invariants 2 and 4, seen from the stream alone: nobody falls who was heard within the threshold, and
    the registry's own outages make nobody fall."""
    for name, changes in record.histories.items():
        for change in changes:
            if change.data.to != "silent":
                continue
            since = change.data.since.timestamp()
            beats = [it for it in record.beats[name] if since - SILENT < it.at * MICRO < since]
            heard = [it for it in beats if _is_well_formed(it)]
            assert not heard, f"{name} was heard {since - heard[-1].at * MICRO:.2f} s before it fell silent"
    late = load.ledger.late
    assert len(late) < len(load.steady) / 2, f"this machine is too slow: {len(late)} were late"
    for name in [it for it in load.steady if it not in late]:
        told = [change.data.to.value for change in record.histories[name]]
        assert told == ["alive"], f"{name}, which never stopped: {told}"
    for name in [it for it in load.leaving if it not in late]:
        told = [change.data.to.value for change in record.histories[name]]
        assert told[:3] == ["alive", "silent", "down"], f"{name}, which left: {told}"


def _is_well_formed(beat: Stored) -> bool:
    try:
        parse_heartbeat(streams.name_in(beat.subject), beat.data, beat.headers)
    except ValueError:
        return False
    return True


def every_chat_was_told_once(load: Load, record: Record, chats: tuple[str, ...]) -> int:
    """Invariant 5: each change, in order, and none again but in a message that is marked as a possible
    repeat. The number of those messages."""
    for chat in chats:
        for name, changes in record.histories.items():
            if not name.startswith(OURS) or name in load.ledger.late:
                continue  # it comes and goes: a silence that is over is not told
            expected = [f"{it.data.from_} → {it.data.to}" for it in changes]
            reached = 0
            for said, repeat in load.world.lines(name, chat):
                if reached < len(expected) and said == expected[reached]:
                    reached += 1
                else:
                    assert repeat, f"chat {chat}, {name}: {said!r} after {expected[:reached]}"
                    assert said in expected[:reached], f"chat {chat}, {name}: {said!r} never happened"
            assert reached == len(expected), f"chat {chat}, {name}: never told {expected[reached:]}"
    return sum("repeat" in message["text"] for message in load.world.telegram.messages)


async def read_models_equal_a_rebuild(world: World, record: Record) -> None:
    """Invariant 7, and that the read models have come to the end of both streams."""

    def services() -> dict[str, Any]:
        found = world.api("/services?limit=500&sort=name").get("items", [])
        return {it["name"]: it for it in found if it["name"] in record.histories}

    def up_to_date() -> bool:
        found = services()
        return found.keys() == record.histories.keys() and all(
            it["status"] == record.histories[name][-1].data.to.value
            and datetime.fromisoformat(it["last_heartbeat"]) == moment(record.newest_beat(name))
            for name, it in found.items()
        )

    def read() -> dict[str, Any]:
        return services() | {
            f"events of {name}": world.api(f"/service/{name}/events?limit=100") for name in record.histories
        }

    await until(up_to_date)
    before = await asyncio.to_thread(read)
    client = await nats.connect(world.nats_url.split(","))
    answer = json.loads((await client.request(streams.REBUILD, timeout=60)).data)
    await client.close()
    assert answer.get("services"), answer
    after = await asyncio.to_thread(read)
    for key in {*before, *after}:
        assert before.get(key) == after.get(key), (
            f"{key}: {before.get(key)}; after a rebuild {after.get(key)}"
        )


async def history_follows_from_the_stream(world: World, record: Record, store: Path) -> None:
    """Invariant 2: a monitor that knows nothing, reads a copy of the broker's files in peace and records
    everything anew, comes to the same changes with the same dates."""
    folder = world.folder / "replay"
    folder.mkdir()
    shutil.copytree(store, folder / "nats")
    server = nats_server(folder).start()
    url = f"nats://127.0.0.1:{server.port}"
    client = await nats.connect(url)
    await _forget(client.jetstream())
    last = await everything(url, streams.HEARTBEATS, streams.ALL_TICKS)
    await client.close()
    server.stop()  # it knows the ids of what it has let go of until then
    server.start()
    monitor = service("monitor", folder, url, **_rules(world))
    try:
        monitor.start()
        link = await connect(url)
        async with asyncio.timeout(60):
            while (await last_evaluated(link, 0.3) or 0) < last[-1].at:
                pass
        await link.close()
        again = histories(await everything(url, streams.SERVICES, streams.ALL_STATUS))
        for name in {*again, *record.histories}:
            then, now = (_dates(it.get(name, [])) for it in (record.histories, again))
            assert then == now, f"{name}: {then} recorded, {now} by who reads it in peace"
    finally:
        monitor.kill()
        server.kill()


async def _forget(js: JetStreamContext) -> None:
    await js.purge_stream(streams.SERVICES, subject=streams.ALL_STATUS)
    with suppress(NotFoundError):
        await js.delete_stream(f"KV_{streams.MONITOR_BUCKET}")


def _rules(world: World) -> dict[str, str]:
    env = world.parts["monitor"].env or {}
    names = ("SILENT_AFTER", "DOWN_AFTER", "DEAD_AFTER", "HEARTBEATS_KEPT", "TICK")
    return {name.lower(): env[f"REGISTRY_{name}"] for name in names}


def _dates(changes: list[StatusChanged]) -> list[tuple[str, str, str]]:
    return [(it.data.from_.value, it.data.to.value, it.data.since.isoformat()) for it in changes]


async def statuses(world: World) -> dict[str, str]:
    """As the newest event of each has it."""
    try:
        newest = histories(await everything(world.nats_url, streams.SERVICES, streams.ALL_STATUS))
    except (NatsError, TimeoutError):
        return {}
    return {name: changes[-1].data.to.value for name, changes in newest.items()}
