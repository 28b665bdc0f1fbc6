"""The monitor's state as bytes: one part for each bucket, and the position that they belong to. Pure."""

import json
import zlib
from array import array
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, NamedTuple

from services.monitor.domain import buckets
from services.monitor.domain.epochs import Epoch, bounded_since
from services.monitor.domain.epochs import at as epoch_at
from services.monitor.domain.service import Job, MonitoredService, OpenRun, Overdue, PausedReport
from services.monitor.store.mapping import effective_thresholds
from shared.contracts.events import Signal, Status, run_key
from shared.contracts.heartbeats import shortened
from shared.contracts.thresholds import OWN
from shared.domain.coverage import Coverage
from shared.domain.timetable import EARLY, Expectation, Timetable
from shared.messaging.record_watch import StreamMark

FORMAT = 5
FORMAT_WITHOUT_JOBS = 4
FORMAT_BEFORE = 3
"""Can be read too. Its monitor stored no epochs."""
READABLE = (FORMAT, FORMAT_WITHOUT_JOBS, FORMAT_BEFORE)
SAID_MAX = 256 * 1024
"""Bytes of the messages in one bucket that paused services have reported last. A bucket is one message of the
broker, which usually takes 1 MiB; if they are longer together, each is cut to its share."""
_SIGNALS = [Signal.SUCCESS, Signal.START, Signal.FAIL]
"""The signals that the last heartbeat of a service may have."""
_STATUSES = [Status.UNKNOWN, Status.ALIVE, Status.SILENT, Status.DOWN, Status.DEAD]
"""A snapshot holds the place in this list: a new status comes at its end."""
_NUMBERS = (
    "registered_at",
    "every",
    "every_at",
    "config_seq",
    "since",
    "status_seq",
    "last_beat",
    "recorded_beat",
    "unproved",
    "rhythm",
)
_NUMBERS_BEFORE = (*_NUMBERS[:1], "patience_at", *_NUMBERS[1:3], "resumed_at", *_NUMBERS[3:])
"""The columns of a bucket, 64 bits each; what is no number in a service becomes one in `_coded`."""


class Checkpoint(NamedTuple):
    """How far a bucket goes: everything in both streams up to these sequences has been applied."""

    heartbeats: int = 0
    events: int = 0

    def covers(self, heartbeats: int, events: int) -> bool:
        return self.heartbeats >= heartbeats and self.events >= events


BEGINNING = Checkpoint()


@dataclass(frozen=True)
class SnapshotPosition:
    """How far a round of buckets goes together.

    `beats`, `events`: for each bucket, the sequence of the newest heartbeat and event of its services. A
    bucket that does not go as far was overwritten by a monitor that is behind, and only its own checkpoint
    counts. `streams`: tells the streams from others of the same names; `marks`: from older copies of the
    same, and from what is left after a purge. Older versions wrote none.
    """

    streams: list[str]
    reach: Checkpoint
    coverage: Coverage
    beats: list[int]
    events: list[int]
    marks: list[StreamMark] = field(default_factory=list)

    def holds(self, bucket: int, found: Checkpoint) -> Checkpoint:
        """How far a bucket goes that was found together with this position."""
        return self.reach if found.covers(self.beats[bucket], self.events[bucket]) else found

    def dump(self) -> bytes:
        content = {
            **vars(self),
            "reach": self.reach._asdict(),
            "coverage": _dump_coverage(self.coverage),
            "marks": [vars(mark) for mark in self.marks],
        }
        return json.dumps({"format": FORMAT, **content}, separators=(",", ":")).encode()

    @staticmethod
    def load(payload: bytes) -> "SnapshotPosition":
        """ValueError: it is damaged, or another version wrote it."""
        try:
            data = json.loads(payload)
            beats, events = data["beats"], data["events"]
            if data["format"] not in READABLE or not len(beats) == len(events) == buckets.BUCKETS:
                raise ValueError("it is of another format")
            reach, coverage = Checkpoint(**data["reach"]), _load_coverage(data["coverage"])
            marks = [StreamMark(**mark) for mark in data.get("marks", [])]
            return SnapshotPosition(data["streams"], reach, coverage, beats, events, marks)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it is damaged: {error!r}") from None


def is_before_epochs(position: bytes | None) -> bool:
    """Whether the version before wrote it."""
    try:
        return position is not None and bool(json.loads(position)["format"] == FORMAT_BEFORE)
    except (ValueError, KeyError, TypeError):
        return False


def _dump_coverage(coverage: Coverage) -> dict[str, Any]:
    return {"until": coverage.until, "gaps": coverage.gaps}


def _load_coverage(data: dict[str, Any]) -> Coverage:
    return Coverage(data["until"], [(start, end) for start, end in data["gaps"]])


@dataclass(frozen=True)
class Bucket:
    """One bucket as it is dumped. It may go further than its reach, which is from the tick before.

    `coverage`: as it was known then. What is read again is evaluated by it, not by what became known later.
    `configured`: up to this event the configuration of its services has been applied.
    `epoch`: the beginning of the epoch whose default thresholds its services use.
    """

    reach: Checkpoint = BEGINNING
    coverage: Coverage = field(default_factory=Coverage)
    configured: int = 0
    epoch: int = 0
    services: Collection[MonitoredService] = ()


def dump(bucket: Bucket) -> bytes:
    """A bucket's snapshot, in columns. Held heartbeats are not in it: they are newer than its reach."""
    services = bucket.services
    head = {
        "format": FORMAT,
        "reach": bucket.reach._asdict(),
        "coverage": _dump_coverage(bucket.coverage),
        "configured": bucket.configured,
        "epoch": bucket.epoch,
        "names": [service.name for service in services],
        "said": _paused_reports(services),
        "resumed": {each.name: each.resumed_at for each in services if _awaits_something_older(each)},
        "inherited": {each.name: each.inherited for each in services if each.inherited != OWN},
        "jobs": {service.name: _dump_job(service.job) for service in services if service.job},
    }
    columns = [array("q", [getattr(service, column) for service in services]) for column in _NUMBERS]
    columns += [array("q", [service.own[n] or 0 for service in services]) for n in range(3)]
    columns += [array("q", [service.counted_from[n] for service in services]) for n in range(3)]
    columns.append(array("q", [_coded(service) for service in services]))
    line = json.dumps(head, separators=(",", ":")).encode() + b"\n"
    return zlib.compress(line + b"".join(column.tobytes() for column in columns), level=1)


def _awaits_something_older(service: MonitoredService) -> bool:
    """Whether anything is counted from its resume on: nothing came since, or a run is open from before."""
    runs = service.job.open_runs if service.job else ()
    return service.resumed_at > min([service.last_beat, *(run.started for run in runs)])


def _paused_reports(services: Collection[MonitoredService]) -> dict[str, PausedReport]:
    said = {service.name: service.said for service in services if service.said}
    if sum(len((report.message or "").encode()) for report in said.values()) <= SAID_MAX:
        return said
    room = SAID_MAX // len(said)
    return {
        name: report._replace(
            message=report.message and shortened(report.message, room // 5, room - room // 5)
        )
        for name, report in said.items()
    }


def _coded(service: MonitoredService) -> int:
    status_and_signal = _STATUSES.index(service.status) * len(_SIGNALS) + _SIGNALS.index(service.signal)
    return service.in_a_row << 8 | service.by_hand << 7 | status_and_signal << 1 | service.paused


_JOB = [each.name for each in fields(Job) if each.name not in ("timetable", "next_at", "limits_heard")]
"""What is stored of a job; the others follow from it."""


def _dump_job(job: Job) -> list[Any]:
    return [getattr(job, name) for name in _JOB]


def _load_job(values: list[Any]) -> Job:
    job = Job(**dict(zip(_JOB, values, strict=False)))  # an older version knew less
    schedule, time_zone = job.declared
    job.declared = schedule, time_zone
    job.expectation = Expectation(*job.expectation)
    job.open_runs = tuple(OpenRun(*run) for run in job.open_runs)
    job.overdue = Overdue(*job.overdue) if job.overdue else None
    job.lengths, job.offsets = tuple(job.lengths), tuple(job.offsets)
    at, rank, key = job.recorded
    job.recorded = at, rank, key
    if schedule:
        job.timetable = Timetable(schedule, job.time_zone, job.early or EARLY)
    return job


def load(payload: bytes, epochs: list[Epoch]) -> Bucket:
    """What was dumped. ValueError: it is damaged, or of another version."""
    try:
        line, _, data = zlib.decompress(payload).partition(b"\n")
        head = json.loads(line)
        if head["format"] not in READABLE:
            raise ValueError("it is of another format")
        names, numbers = head["names"], array("q", data)
        columns = [numbers[i : i + len(names)] for i in range(0, len(numbers), len(names) or 1)]
        rows = zip(names, *columns, strict=True)
        if head["format"] == FORMAT_BEFORE:
            epoch = epochs[0]
            services = [_service_before(name, values, epoch, epochs) for name, *values in rows]
        else:
            epoch = epoch_at(epochs, head["epoch"])
            services = [_service(name, values, epoch) for name, *values in rows]
            reports = {
                name: PausedReport(Signal(signal), *rest) for name, (signal, *rest) in head["said"].items()
            }
            resumed = head.get("resumed", {})
            for service in services if reports or resumed else ():
                service.said = reports.get(service.name)
                service.resumed_at = resumed.get(service.name, 0)
            _add_inherited(services, head.get("inherited", {}), epoch)
            _add_jobs(services, head.get("jobs", {}), epoch)
        if head["format"] != FORMAT:
            _add_begun_runs(services, epoch)
        reach, coverage = Checkpoint(**head["reach"]), _load_coverage(head["coverage"])
        return Bucket(reach, coverage, head["configured"], epoch.since, services)
    except (KeyError, TypeError, IndexError, AttributeError, zlib.error) as error:
        raise ValueError(f"it is damaged: {error!r}") from None


def _service(name: str, values: list[int], epoch: Epoch) -> MonitoredService:
    *own, silent, down, dead, code = values[len(_NUMBERS) :]
    service = _basic(name, dict(zip(_NUMBERS, values, strict=False)), own, code, epoch)
    if silent or down or dead:
        service.counted_from = silent, down, dead
    return service


def _service_before(name: str, values: list[int], epoch: Epoch, epochs: list[Epoch]) -> MonitoredService:
    """A service in the format before: after a resume none was expected there until the first came."""
    numbers = dict(zip(_NUMBERS_BEFORE, values, strict=False))
    patience_at, resumed_at = numbers.pop("patience_at"), numbers.pop("resumed_at")
    *own, code = values[len(_NUMBERS_BEFORE) :]
    service = _basic(name, numbers, own, code, epoch)
    silent, down, dead = (max(0, patience_at - patience) for patience in service.patience)
    service.counted_from = silent, down, dead
    if resumed_at > service.heard:
        service.resumed_at = max(resumed_at, bounded_since(epochs))
        service.counted_from = (service.resumed_at,) * 3
    return service


def _basic(name: str, numbers: dict[str, Any], own: list[int], code: int, epoch: Epoch) -> MonitoredService:
    in_a_row, code = divmod(code, 1 << 8)
    status, signal = divmod(code % 128 // 2, len(_SIGNALS))
    owned = _own(*own)
    return MonitoredService(
        name=name,
        patience=effective_thresholds(owned, numbers["every"], epoch),
        own=owned,
        paused=bool(code % 2),
        by_hand=bool(code & 128),
        status=_STATUSES[status],
        signal=_SIGNALS[signal],
        in_a_row=in_a_row,
        **numbers,
    )


def _add_inherited(
    services: list[MonitoredService], inherited: dict[str, list[str | None]], epoch: Epoch
) -> None:
    for service in services if inherited else ():
        if service.name in inherited:
            silent, down, dead = inherited[service.name]
            service.inherited = silent, down, dead
            service.patience = effective_thresholds(
                service.own, service.every, epoch, False, service.inherited
            )


def _add_jobs(services: list[MonitoredService], jobs: dict[str, list[Any]], epoch: Epoch) -> None:
    for service in services if jobs else ():
        if service.name in jobs:
            service.job = _load_job(jobs[service.name])
            scheduled = service.job.timetable is not None
            service.patience = effective_thresholds(
                service.own, service.every, epoch, scheduled, service.inherited
            )


def _add_begun_runs(services: list[MonitoredService], epoch: Epoch) -> None:
    """Versions without jobs knew of a run only that its start was the last heartbeat."""
    for service in services:
        if service.signal is Signal.START:
            run = OpenRun(service.last_beat, "", run_key(service.last_beat, ""))
            service.job = Job(epoch.time_zone, open_runs=(run,))


@lru_cache(maxsize=10_000)
def _own(silent: int, down: int, dead: int) -> tuple[int | None, int | None, int | None]:
    return silent or None, down or None, dead or None


def oldest(reaches: Iterable[Checkpoint]) -> Checkpoint:
    """From where both streams must be read so that nothing is missing in any bucket."""
    return Checkpoint(*map(min, zip(*reaches, strict=True)))


def newest(reaches: Iterable[Checkpoint]) -> Checkpoint:
    """How far the streams must go at least if the snapshot is of these streams."""
    return Checkpoint(*map(max, zip(*reaches, strict=True)))
