"""Runs of a service as lists and calendars show them: those of which facts are recorded, and those that have
begun and are not recorded yet."""

import asyncio
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from services.api.projections.documents import Document
from services.api.projections.runs import open_run
from services.api.projections.store import View
from shared.contracts import zones
from shared.contracts.events import Outcome, micros, moment
from shared.domain.service_state import ServiceState
from shared.domain.timetable import Timetable

MANY, MOST_KEPT = 1000, 20
"""From so many occurrences of a service on they are kept for a minute; of so many services."""


async def runs(
    view: View,
    state: ServiceState,
    timetable: Timetable | None,
    before: str | None,
    limit: int,
    outcomes: Sequence[str] = (),
) -> list[Document]:
    """A service's runs, newest first by when they began or were due; one more than the limit if there are
    older ones. `before`: the `place` that they are older than; `outcomes`: only these, if any are named."""
    found = await view.runs(state.name, before, limit, outcomes, since=state.registered_at)
    if outcomes and Outcome.RUNNING not in outcomes:
        return found
    unrecorded = await _unrecorded(view, state, timetable)
    running = [run for run in unrecorded if before is None or run["place"] < before]
    return sorted([*found, *running], key=lambda run: str(run["place"]), reverse=True)[: limit + 1]


async def _unrecorded(view: View, state: ServiceState, timetable: Timetable | None) -> list[Document]:
    if not state.open_runs:
        return []
    recorded = await view.runs_begun_at(state.name, [started for _, started in state.open_runs])
    known = {(run["run"] or "", run["started_at"]) for run in recorded}
    begun = [each for each in state.open_runs if each not in known]
    counts_for = await _counted(view, state, timetable, [started for _, started in begun])
    return [open_run(state.name, *each, *counts_for.get(each[1], ())) for each in begun]


async def _counted(
    view: View, state: ServiceState, timetable: Timetable | None, starts: Sequence[int]
) -> dict[int, tuple[int, float | None]]:
    """The occurrence that each of these starts counts for, and by how many seconds the first for it was late.
    Nothing of an occurrence that was due before the newest configuration: perhaps it was not expected."""
    if timetable is None or not starts:
        return {}
    since = max(await view.configured_at(state), state.registered_at)
    due = {at: timetable.counts_for(at)[0] for at in sorted(starts)}
    due = {at: occurrence for at, occurrence in due.items() if occurrence > since}
    met = await view.met(state.name, [*due.values()])
    found: dict[int, tuple[int, float | None]] = {}
    for at, occurrence in due.items():
        found[at] = occurrence, None if occurrence in met else max(0, at - occurrence) / 1e6
        met.add(occurrence)
    return found


class Occurrence(NamedTuple):
    """What became of one occurrence of a schedule; microseconds, and seconds in `late_by`."""

    expected_at: int
    outcome: Outcome
    late_by: float | None


async def days(
    view: View, state: ServiceState, since: int, until: int, zone: ZoneInfo
) -> dict[date, list[Occurrence]]:
    """The occurrences of a service that were due in a time, of which something is recorded, oldest first, by
    the day on which they were due in this zone."""
    found: dict[date, list[Occurrence]] = {}
    since, ends = max(since, state.registered_at), 0
    those: list[Occurrence] = []
    for run in await view.occurrences(state.name, since, until):
        at = run["expected_at"]
        if at >= ends:  # one conversion for each day: there may be thousands of occurrences
            day = zones.in_zone(moment(at), zone).date()
            ends = micros(datetime.combine(day + timedelta(days=1), time(), zone))
            those = found.setdefault(day, [])
        those.append(Occurrence(at, Outcome(run["outcome"]), run["late_by"]))
    return found


class LastDays:
    """`days` up to now. Where there are many occurrences, they are read once a minute at most."""

    def __init__(self, age: float = 60.0) -> None:
        self._age = age
        self._kept: dict[str, _Kept] = {}

    async def get(
        self, view: View, state: ServiceState, since: int, until: int, zone: ZoneInfo
    ) -> dict[date, list[Occurrence]]:
        clock, of = asyncio.get_running_loop().time(), (view.generation, state.registered_at, zone.key)
        kept = self._kept.get(state.name)
        if kept and kept.of == of and clock - kept.at < self._age:
            return kept.days
        found = await days(view, state, since, until, zone)
        self._kept.pop(state.name, None)
        if sum(map(len, found.values())) > MANY:
            if len(self._kept) >= MOST_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[state.name] = _Kept(of, clock, found)
        return found


class _Kept(NamedTuple):
    """`of`: what they were read of; `at`: when, by the loop's clock."""

    of: tuple[int, int, str]
    at: float
    days: dict[date, list[Occurrence]]
