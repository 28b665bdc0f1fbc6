"""What a heartbeat costs ingest, broker and monitor together, over HTTP: of services that just beat, and of
as many that have a schedule, whose every heartbeat ends a run that is recorded. A B A B in one run. And what
the ticks cost of a million with schedules, without the broker."""

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from operator import truediv
from pathlib import Path
from typing import Any

from benchmarks import ingest, processes
from benchmarks.monitor import PATIENCE
from services.monitor.domain import buckets, runs
from services.monitor.domain.deadlines import DeadlineQueue
from services.monitor.domain.lifecycle import apply_transition, decide
from services.monitor.domain.service import SECOND, Job, MonitoredService
from shared.contracts.events import Status
from shared.domain.coverage import Coverage
from shared.domain.timetable import Timetable

ROUNDS = 5
SECONDS = 1.0
EVERY, SCHEDULE = "?every=1m", "?schedule=0+3+*+*+*"
KINDS = {"plain": "", "scheduled": "", "every": EVERY, "schedule": SCHEDULE}
"""How their addresses end: the last two declare with each heartbeat when they are expected."""
PAIRS = {"scheduled": "plain", "schedule": "every"}
"""What is compared with what."""
PROCESSES = ("ingest", "broker", "monitor")
MILLION, LATE = 1_000_000, 10_000
HOUR = 3600 * SECOND


def heartbeats(folder: Path, kinds: Iterable[str] = tuple(KINDS), rounds: int = ROUNDS) -> dict[str, Any]:
    costs: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    with processes.system(folder, "ingest", "monitor", durable=False) as system:
        for n, kind in enumerate(costs, 1):
            seconds = SECONDS
            while system.metric("monitor", "registry_services") < n * ingest.SERVICES:
                query = SCHEDULE if kind == "scheduled" else KINDS[kind]
                _load(system, folder, kind, query, seconds)  # until all of them are registered
                seconds *= 2
        for _ in range(rounds):
            for kind in costs:
                costs[kind].append(_cost(system, folder, kind))
    return {
        "us": {
            kind: {who: statistics.median(it[who] for it in each) for who in each[0]}
            for kind, each in costs.items()
        },
        "ratio": {
            kind: statistics.median(map(truediv, _together(costs[kind]), _together(costs[PAIRS[kind]])))
            for kind in costs
            if kind in PAIRS
        },
        "runs": costs,
    }


def measure(folder: Path) -> dict[str, Any]:
    return heartbeats(folder) | {"million": ticks(MILLION, LATE)}


def ticks(count: int, late: int) -> dict[str, float]:
    """What each second costs from noon to 13:20: the runs of `late` services, due at 13:00, do not come, and
    are found at 13:15; all others have run in the night, at 720 times of the day, and are due tomorrow."""
    noon = time.time_ns() // 1000 // (24 * HOUR) * 24 * HOUR + 12 * HOUR
    memory = processes.usage_of(os.getpid())[1]
    deadlines, coverage, began = DeadlineQueue(noon), Coverage(noon), time.perf_counter()
    fleet = []
    for n in range(count):
        schedule = "0 13 * * *" if n < late else f"{n % 60} {n // 60 % 12} * * *"
        it = MonitoredService(f"service-{n:07}", noon - 48 * HOUR, PATIENCE, status=Status.ALIVE)
        it.bucket, it.job = buckets.bucket_of(it.name), Job(timetable=Timetable(schedule, "UTC"))
        it.last_beat = it.job.timetable.before(noon) if it.job.timetable else 0
        runs.expect_from(it, it.last_beat)
        deadlines.schedule(it, coverage)
        fleet.append(it)
    found = {
        "schedule_us": 1e6 * (time.perf_counter() - began) / count,
        "bytes": (processes.usage_of(os.getpid())[1] - memory) / count,
    }
    gc.freeze()
    costs, seen = [], 0
    for at in range(noon + SECOND, noon + HOUR * 4 // 3, SECOND):
        began = time.perf_counter()
        coverage.prove(noon, at)
        overdue = deadlines.overdue(at, coverage)
        for it in overdue:
            while fact := runs.due_fact(it, at, coverage):
                runs.apply_fact(it, fact)
            for transition in decide(it, at, coverage):
                apply_transition(it, transition)
            deadlines.schedule(it, coverage)
        costs.append(1000 * (time.perf_counter() - began))
        if overdue:
            seen, found["late_ms"] = seen + len(overdue), costs.pop()
    gc.unfreeze()
    assert seen == late, seen
    cuts = statistics.quantiles(costs, n=100)
    return found | {"p50_ms": cuts[49], "p99_ms": cuts[98], "most_ms": max(costs)}


def _together(costs: list[dict[str, float]]) -> Iterator[float]:
    return (it["all"] for it in costs)


def _cost(system: processes.System, folder: Path, kind: str) -> dict[str, float]:
    """Microseconds of processor time a heartbeat, by process."""
    recorded, read, before = _recorded(system), _read(system), system.usage()
    _load(system, folder, kind, KINDS[kind], SECONDS)
    count = _read(system) - read
    if kind in PAIRS:
        _wait_until(lambda: _recorded(system) - recorded > 0.999 * count)
    after = system.usage()
    spent = {who: 1e6 * (after[who][0] - before[who][0]) / count for who in PROCESSES}
    return spent | {"all": sum(spent.values())}


def _load(system: processes.System, folder: Path, kind: str, query: str, seconds: float) -> None:
    """Until the monitor has read it all."""
    ingest.load(system.ports["ingest"], 64, seconds, folder, prefix=f"{kind}.", query=query)
    _wait_until(
        lambda: system.metric("ingest", "registry_heartbeats_total", result="stored") <= _read(system)
    )


def _wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not done():
        if time.monotonic() > deadline:
            raise RuntimeError("the monitor does not keep up")
        time.sleep(0.2)


def _read(system: processes.System) -> float:
    return system.metric("monitor", "registry_heartbeats_read_total")


def _recorded(system: processes.System) -> float:
    return system.metric("monitor", "registry_runs_recorded_total")


def table(result: dict[str, Any]) -> Iterator[str]:
    yield (
        "| CPU of a heartbeat over HTTP, µs | " + " | ".join(PROCESSES) + " | together | times a plain one |"
    )
    yield "|---" * (len(PROCESSES) + 3) + "|"
    titles = {
        "plain": "of a service that just beats",
        "scheduled": "of one with a schedule, its run recorded",
        "every": f"of one that just beats and declares `{EVERY}`",
        "schedule": "of one that declares its schedule",
    }
    for kind, it in result["us"].items():
        each = " | ".join(f"{it[who]:.0f}" for who in (*PROCESSES, "all"))
        yield f"| {titles[kind]} | {each} | {result['ratio'].get(kind, 1):.2f} |"
    if million := result.get("million"):
        yield ""
        cost = (
            "{bytes:.0f} bytes each; a tick with none due: p50 {p50_ms:.2f}, p99 {p99_ms:.1f}, most "
            "{most_ms:.1f} ms; the tick at which {late:,} are late: {late_ms:.0f} ms"
        ).format(late=LATE, **million)
        yield f"{MILLION:,} services with schedules, without the broker: {cost}."
