"""What the next digest would say, from the board: one short look at each service, and a long one at those
that changed within the day."""

import heapq
from collections.abc import Iterable, Sequence
from datetime import datetime, time
from itertools import islice
from zoneinfo import ZoneInfo

from services.api.http.models import NextDigest
from services.api.projections.documents import micros, moment
from services.api.queries.event_hub import DAY, EventHub
from services.api.queries.index import IndexEntry
from shared.contracts.events import Status
from shared.domain import digest
from shared.domain.timeline import Mark, uptime

NAMED = 150
"""Services of a kind that a digest may name; there is no room for more."""


def next_digest(
    board: EventHub, now: datetime, zone: ZoneInfo, at: time | None, deaf_after: int
) -> NextDigest:
    """The digest as it would be sent now, and when the next one will be. `deaf_after`: microseconds."""
    return NextDigest(
        at=digest.next_digest_at(now, zone, at) if at else None,
        text=digest.plain(digest_of(board, now, board.coverage.gaps_until(micros(now), deaf_after)), zone),
    )


def digest_of(board: EventHub, now: datetime, gaps: Sequence[tuple[int, int]] = ()) -> digest.Digest:
    """The same as `shared.domain.digest.digest` makes of the whole fleet, without the uptimes of each."""
    measured = digest.Measured(micros(now) - DAY, micros(now), gaps)
    counts, paused = dict.fromkeys(Status, 0), 0
    fallen: dict[Status, list[IndexEntry]] = {Status.DOWN: [], Status.SILENT: []}
    flappers: list[tuple[str, int]] = []
    whole, spent = dict.fromkeys(Status, 0), digest.added([])
    for it in board.roster:
        if not it.paused:
            counts[it.status] += 1
            if it.status in fallen:
                fallen[it.status].append(it)
        paused += it.paused
        marks = board.lately(it.name)
        if marks and len(changes := _changes(board, it, measured.start)) >= digest.FLAPPING:
            flappers.append((it.name, len(changes)))
        if it.paused or it.status is Status.DEAD:
            continue
        begins = board.begins.get(it.name, 0)
        if not marks and max(it.registered_at, begins) <= measured.start:
            whole[it.status] += 1
            continue
        spans = measured.seconds(it.status, it.paused, it.registered_at, marks, begins)
        for state, seconds in spans.items():
            spent[state] += seconds
    for status, count in whole.items():
        for state, seconds in measured.seconds(status, False, 0, ()).items():
            spent[state] += count * seconds
    alive = (it.name for it in board.roster.in_order("name") if it.status is Status.ALIVE and not it.paused)
    return digest.Digest(
        at=now,
        counts=counts,
        paused=paused,
        down=_oldest(fallen[Status.DOWN]),
        silent=_oldest(fallen[Status.SILENT]),
        active=tuple(islice(alive, NAMED)),
        uptime=uptime(spent),
        flappers=tuple(sorted(flappers, key=lambda it: (-it[1], it[0]))),
        uptimes=(),
    )


def _oldest(entries: Iterable[IndexEntry]) -> tuple[digest.Service, ...]:
    return tuple(_service(it) for it in heapq.nsmallest(NAMED, entries, key=lambda it: (it.since, it.name)))


def _changes(board: EventHub, it: IndexEntry, start: int) -> list[Mark]:
    return [mark for mark in board.lately(it.name) if mark.to and mark.at >= max(start, it.registered_at)]


def _service(it: IndexEntry) -> digest.Service:
    heard = it.last_heartbeat
    return digest.Service(
        it.name,
        it.status,
        moment(it.since),
        moment(heard) if heard else None,
        it.paused,
        moment(it.registered_at),
    )
