"""What the next digest would say, from the board: one short look at each service, and a long one at those
that changed within the day."""

import heapq
from collections.abc import Iterable
from datetime import datetime, time
from itertools import islice
from zoneinfo import ZoneInfo

from services.api.board import DAY, Board
from services.api.fold import micros, moment
from services.api.models import NextDigest
from services.api.roster import Entry
from shared import digest
from shared.events import Status

NAMED = 150
"""Services of a kind that a digest may name; there is no room for more."""


def next_digest(board: Board, now: datetime, zone: ZoneInfo, at: time | None) -> NextDigest:
    """The digest as it would be sent now, and when the next one will be."""
    return NextDigest(
        at=digest.next_digest_at(now, zone, at) if at else None,
        text=digest.plain(digest_of(board, now), zone),
    )


def digest_of(board: Board, now: datetime) -> digest.Digest:
    """The same as `shared.digest.digest` makes of the whole fleet, without the uptimes of each."""
    end = micros(now)
    start = end - DAY
    counts, spent, paused = dict.fromkeys(Status, 0), dict.fromkeys(Status, 0.0), 0
    fallen: dict[Status, list[Entry]] = {Status.DOWN: [], Status.SILENT: []}
    for it in board.roster:
        if it.paused:
            paused += 1
            continue
        registered_at = it.registered_at
        status = it.changed_to if it.changed_at >= registered_at else Status.UNKNOWN
        counts[status] += 1
        spent[status] += (end - (registered_at if registered_at > start else start)) / 1e6
        if status in fallen:
            fallen[status].append(it)
    flappers: list[tuple[str, int]] = []
    for name in board.restless():
        restless = board.roster.get(name)
        if restless is None or board.lately(name)[-1].at < start:
            continue
        changes = _changes(board, restless, start)
        if len(changes) >= digest.FLAPPING:
            flappers.append((name, len(changes)))
        if changes and not restless.paused:
            spent[restless.status] -= (end - max(start, restless.registered_at)) / 1e6
            for status, seconds in digest.seconds_in(_service(restless), changes, now).items():
                spent[status] += seconds
    alive = (it.name for it in board.roster.in_order("name") if it.status is Status.ALIVE and not it.paused)
    return digest.Digest(
        at=now,
        counts=counts,
        paused=paused,
        down=_oldest(fallen[Status.DOWN]),
        silent=_oldest(fallen[Status.SILENT]),
        active=tuple(islice(alive, NAMED)),
        uptime=digest.uptime_of(spent),
        flappers=tuple(sorted(flappers, key=lambda it: (-it[1], it[0]))),
        uptimes=(),
    )


def _oldest(entries: Iterable[Entry]) -> tuple[digest.Service, ...]:
    return tuple(_service(it) for it in heapq.nsmallest(NAMED, entries, key=lambda it: (it.since, it.name)))


def _changes(board: Board, it: Entry, start: int) -> list[digest.Transition]:
    return [
        digest.Transition(it.name, mark.was, mark.to, moment(mark.at))
        for mark in board.lately(it.name)
        if mark.to and mark.was and mark.at >= max(start, it.registered_at)
    ]


def _service(it: Entry) -> digest.Service:
    heard = it.last_heartbeat
    return digest.Service(
        it.name,
        it.status,
        moment(it.since),
        moment(heard) if heard else None,
        it.paused,
        moment(it.registered_at),
    )
