"""Questions to the broker about its streams: messages, sequences, what was removed; and to the monitor.

They raise NotStored when the broker cannot say."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from shared.contracts import events
from shared.contracts.events import Event, ServiceDeleted, ServiceRegistered, Status, StatusChanged, moment
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.errors import NotStored, StreamMissing, Unreadable
from shared.messaging.reader import Stored, micros, read_headers


async def newest(link: BrokerConnection, stream: str, subject: str) -> Stored | None:
    """The newest message of one subject, or of all that a subject with wildcards means."""
    return await _get(link, stream, {"last_by_subj": subject})


async def newest_before(link: BrokerConnection, stream: str, subject: str, seq: int) -> Stored | None:
    """The newest message of one subject with a sequence smaller than `seq`."""
    if seq <= 1:  # to the broker, 0 means no bound at all
        return None
    msg = await _ask(
        link, f"DIRECT.GET.{stream}", json.dumps({"multi_last": [subject], "up_to_seq": seq - 1}).encode()
    )
    found = _of_any(msg)
    if link.replicated:  # a follower answered, as the leader takes no such question: it may be behind
        while (
            later := await first_after(link, stream, subject, found.seq if found else 0)
        ) and later.seq < seq:
            found = later
    return found


async def first(link: BrokerConnection, stream: str, subject: str) -> Stored | None:
    """The oldest message of one subject that is still kept."""
    return await _get(link, stream, {"seq": 1, "next_by_subj": subject})


async def first_after(link: BrokerConnection, stream: str, subject: str, seq: int) -> Stored | None:
    """The oldest message of one subject with a sequence greater than `seq`."""
    return await _get(link, stream, {"seq": seq + 1, "next_by_subj": subject})


async def first_later(link: BrokerConnection, stream: str, at: int) -> Stored | None:
    """The first message that was stored later than `at`, microseconds since 1970 UTC."""
    return await _get(link, stream, {"start_time": f"{moment(at + 1):%Y-%m-%dT%H:%M:%S.%fZ}"})


async def message_at(link: BrokerConnection, stream: str, seq: int) -> Stored | None:
    return await _get(link, stream, {"seq": seq})


async def _ask(link: BrokerConnection, what: str, question: bytes, timeout: float = 3) -> Msg:
    try:
        return await link.nc.request(f"$JS.API.{what}", question, timeout=timeout)
    except (NatsError, OSError, TimeoutError) as error:
        raise NotStored(str(error) or repr(error)) from None


async def _get(link: BrokerConnection, stream: str, what: dict[str, Any]) -> Stored | None:
    """One message. With replicas the leader is asked, as a follower may not have the newest message yet."""
    kind = "STREAM.MSG.GET" if link.replicated else "DIRECT.GET"
    msg = await _ask(link, f"{kind}.{stream}", json.dumps(what).encode())
    return _of_leader(msg.data) if link.replicated else _of_any(msg)


def _of_any(msg: Msg) -> Stored | None:
    headers = msg.headers or {}
    if headers.get("Status") == "404":
        return None
    if "Status" in headers:
        raise NotStored(headers.get("Description", "the broker cannot read its stream"))
    if "Nats-Sequence" not in headers:
        raise Unreadable("the message has headers that cannot be read")
    seq, at = int(headers["Nats-Sequence"]), micros(headers["Nats-Time-Stamp"])
    return Stored(headers["Nats-Subject"], msg.data, headers, seq, at, 0)


def _of_leader(answer: bytes) -> Stored | None:
    found = json.loads(answer)
    if error := found.get("error"):
        if error.get("code") == 404:
            return None
        raise NotStored(error.get("description", "the broker cannot read its stream"))
    message = found["message"]
    raw, data = (base64.b64decode(message.get(part, "")) for part in ("hdrs", "data"))
    headers = read_headers(raw) if raw else None
    return Stored(message["subject"], data, headers, message["seq"], micros(message["time"]), 0)


async def stream_info(
    link: BrokerConnection, stream: str, question: bytes = b"", *, timeout: float = 3
) -> dict[str, Any]:
    """What the broker says of a stream, within so many seconds. Raises StreamMissing."""
    answer = await _ask(link, f"STREAM.INFO.{stream}", question, timeout)
    info: dict[str, Any] = json.loads(answer.data)
    if refused := info.get("error"):
        kind = StreamMissing if refused.get("code") == 404 else NotStored
        raise kind(f"{stream}: {refused.get('description', refused)}")
    return info


async def full_subjects(link: BrokerConnection, stream: str, among: str) -> AsyncIterator[str]:
    """The subjects of which the broker keeps as many messages as it may."""
    async for kept, counts in _counts(link, stream, among):
        for subject, count in counts.items():
            if 0 < kept <= count:
                yield subject


async def counted(link: BrokerConnection, stream: str, among: str) -> dict[str, int]:
    """How many messages the broker keeps of each of these subjects."""
    return {
        subject: count
        async for _, counts in _counts(link, stream, among)
        for subject, count in counts.items()
    }


async def _counts(
    link: BrokerConnection, stream: str, among: str
) -> AsyncIterator[tuple[int, dict[str, int]]]:
    """How many messages it may keep of a subject, and how many it has of some."""
    offset = 0
    while True:
        question = json.dumps({"subjects_filter": among, "offset": offset}).encode()
        info = await stream_info(link, stream, question, timeout=10)
        counts: dict[str, int] = info["state"].get("subjects") or {}
        yield info["config"].get("max_msgs_per_subject", -1), counts
        offset += len(counts)
        if not counts or offset >= info.get("total", 0):
            return


async def first_sequences(
    link: BrokerConnection, stream: str, of_subjects: bool
) -> tuple[int, dict[str, int]]:
    """The first sequence that the stream holds, and that of each service of whose subject it keeps as many
    messages as it may, if that is asked for too."""
    info = await stream_info(link, stream)
    found: dict[str, int] = {}
    if of_subjects:
        async for subject in full_subjects(link, stream, ">"):
            if oldest := await first(link, stream, subject):
                found[streams.name_in(subject)] = oldest.seq
    return info["state"]["first_seq"], found


async def last_sequence(link: BrokerConnection, stream: str) -> tuple[int, int]:
    """The stream's last sequence, whose message may be gone, and the broker's time then in microseconds."""
    info = await stream_info(link, stream)
    return info["state"]["last_seq"], micros(info["ts"])


async def newest_event(link: BrokerConnection) -> tuple[int, int]:
    """The sequence of the newest event, 0 if there is none; and the broker's time before, in microseconds."""
    _, at = await last_sequence(link, streams.SERVICES)
    found = await newest(link, streams.SERVICES, streams.ALL_EVENTS)
    return found.seq if found else 0, at


async def created(link: BrokerConnection, stream: str) -> str:
    """When the stream was created, which tells it from an earlier one of the same name."""
    time: str = (await stream_info(link, stream))["created"]
    return time


async def last_evaluated(link: BrokerConnection, within: float = 1.0) -> int | None:
    """When the tick was stored that a monitor evaluated last, in microseconds; None: no monitor answers
    within so many seconds. Raises nats' errors when the broker is away."""
    evaluated: list[int] = []

    async def answered(message: Msg) -> None:
        if message.data:  # else the broker says that there is no monitor
            evaluated.append(int(message.data))

    inbox = link.nc.new_inbox()
    answers = await link.nc.subscribe(inbox, cb=answered)
    await link.nc.publish(streams.LAST_EVALUATED, b"", reply=inbox)
    await asyncio.sleep(within)
    await answers.unsubscribe()
    return max(evaluated, default=None)


@dataclass
class Truncated:
    """What is left of a service's events. Times in microseconds.

    `begins`: all events from then on are there. `config`, `status`, `incident`: the sequence of the oldest
    event of each kind, 0 if all are there. `registered_at`: older events belong to an earlier registration;
    0: not known.
    """

    begins: int = 0
    config: int = 0
    status: int = 0
    incident: int = 0
    registered_at: int = 0


async def truncated(link: BrokerConnection, name: str | None = None) -> dict[str, Truncated]:
    """The services, or only this one, whose oldest events are gone; the broker keeps so many of each."""
    found: dict[str, Truncated] = {}
    among = f"service.*.{name}" if name else streams.ALL_EVENTS
    async for subject in full_subjects(link, streams.SERVICES, among):
        oldest = await first(link, streams.SERVICES, subject)
        if streams.is_incident(subject):  # each carries all that holds: it is whole all the same
            if oldest:
                found.setdefault(streams.name_in(subject), Truncated()).incident = oldest.seq
            continue
        event = _readable(oldest)
        if oldest is None or _is_beginning(event):
            continue
        service = found.setdefault(streams.name_in(subject), Truncated())
        service.begins = max(service.begins, oldest.at)
        if subject.startswith(streams.status("")):
            service.status = oldest.seq
        else:
            service.config, service.registered_at = oldest.seq, _registered_at(event)
    return found


def _readable(oldest: Stored | None) -> Event | None:
    with suppress(ValueError):
        return streams.read_event(oldest.subject, oldest.data) if oldest else None
    return None


def _is_beginning(event: Event | None) -> bool:
    """Whether no event of this registration of the service was before this one."""
    if isinstance(event, StatusChanged):
        return event.data.from_ is Status.UNKNOWN
    return isinstance(event, ServiceRegistered)


def _registered_at(event: Event | None) -> int:
    if event is None or isinstance(event, StatusChanged | ServiceDeleted):
        return 0
    return events.micros(event.data.registered_at) if event.data.registered_at else 0
