"""What a service was when, from its events and what ticks prove; and lists and digests from memory."""

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.api.dashboard import charts
from services.api.dashboard.charts import slices
from services.api.projections.documents import Heard, Projection, dump, load
from services.api.queries import event_hub
from services.api.queries.event_hub import EventHub
from services.api.queries.index import SORTS, ServiceIndex, ServiceQuery, Sort, place
from shared.contracts.events import (
    Event,
    ServicePaused,
    ServiceRegistered,
    ServiceResumed,
    Signal,
    Status,
    micros,
    moment,
)
from shared.domain import digest
from shared.domain.service_state import ServiceState, belongs_to_this_life
from shared.domain.timeline import NOTHING, Mark, Now, Segment, mark_of, segments, spent, uptime
from tests.histories import config_event, deleted, projected, state_of, status_event

UNKNOWN, ALIVE, SILENT, DOWN, DEAD = Status
SECOND = 1_000_000
NOW = micros(datetime(2026, 11, 1, tzinfo=UTC))


def seen(
    marks: Sequence[Mark],
    status: Status = ALIVE,
    *,
    paused: bool = False,
    registered: int = 0,
    start: int = 0,
    end: int = 100,
    gaps: Sequence[tuple[int, int]] = (),
) -> list[tuple[int, int, str]]:
    return [tuple(it) for it in segments(marks, Now(status, paused, registered, end), start, gaps)]  # type: ignore[misc]


def test_without_events_it_was_what_it_is() -> None:
    assert seen([]) == [(0, 100, "alive")]


def test_a_fall_counts_from_when_it_fell_due() -> None:
    marks = [Mark(1, 40, SILENT, ALIVE), Mark(2, 60, DOWN, SILENT), Mark(3, 70, ALIVE, DOWN)]
    assert seen(marks) == [(0, 40, "alive"), (40, 60, "silent"), (60, 70, "down"), (70, 100, "alive")]


def test_what_was_before_the_window_or_the_registration_does_not_count() -> None:
    marks = [Mark(1, 10, DOWN, ALIVE), Mark(2, 30, ALIVE, DOWN), Mark(3, 60, SILENT, ALIVE)]
    assert seen(marks, SILENT, start=20) == [(20, 30, "down"), (30, 60, "alive"), (60, 100, "silent")]
    assert seen(marks, SILENT, registered=50) == [(0, 50, "nothing"), (50, 60, "alive"), (60, 100, "silent")]


def test_paused_and_unobserved_time_stand_apart() -> None:
    marks = [Mark(1, 30, paused=True), Mark(2, 60, paused=False), Mark(3, 80, DOWN, ALIVE)]
    found = seen(marks, DOWN, gaps=[(0, 10), (50, 70), (95, 200)])
    assert found == [
        (0, 10, "unobserved"),
        (10, 30, "alive"),
        (30, 60, "paused"),
        (60, 70, "unobserved"),
        (70, 80, "alive"),
        (80, 95, "down"),
        (95, 100, "unobserved"),
    ]
    assert seen([], DOWN, paused=True) == [(0, 100, "paused")]


def test_uptime_is_of_the_judged_and_observed_time_alone() -> None:
    seconds = spent([Segment(0, 60 * SECOND, "alive"), Segment(60 * SECOND, 80 * SECOND, "down")])
    assert uptime(seconds) == 0.75
    assert uptime(seconds | {"paused": 999.0, "unobserved": 999.0, "unknown": 999.0}) == 0.75
    assert uptime(spent([])) is None


moves = st.lists(
    st.tuples(st.integers(0, 1000), st.sampled_from([ALIVE, SILENT, DOWN, DEAD, True, False])), max_size=12
)
spans = st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 200)), max_size=4)


def told(moves: Sequence[tuple[int, Status | bool]]) -> tuple[list[Mark], Status, bool]:
    marks, status, paused = [], UNKNOWN, False
    for seq, (at, to) in enumerate(sorted(moves, key=lambda it: it[0])):
        if isinstance(to, bool):
            marks.append(Mark(seq, at, paused=to))
            paused = to
        else:
            marks.append(Mark(seq, at, to, status))
            status = to
    return marks, status, paused


@given(moves, spans, st.integers(0, 1200), st.integers(0, 900))
def test_segments_cover_the_window_without_gap_or_overlap(
    moved: list[tuple[int, Status | bool]], holes: list[tuple[int, int]], registered: int, start: int
) -> None:
    marks, status, paused = told(moved)
    gaps = sorted((at, at + length) for at, length in holes)
    found = segments(marks, Now(status, paused, min(registered, 1300), 1300), start, gaps)
    assert found[0].start == start
    assert found[-1].end == 1300
    assert all(a.end == b.start and a.state != b.state for a, b in pairwise(found))
    counted = round(sum(spent(found).values()) * SECOND)
    assert counted == 1300 - max(start, min(registered, 1300))
    for at in range(start, 1300, 37):
        (state,) = [it.state for it in found if it.start <= at < it.end]
        own = [mark for mark in marks if belongs_to_this_life(mark.at, registered, mark.was)]
        pauses = [mark.paused for mark in own if mark.paused is not None]
        on = [mark for mark in own if mark.at <= at]
        was_paused = next((m.paused for m in reversed(on) if m.paused is not None), None)
        if was_paused is None:
            was_paused = not pauses[0] if pauses else paused
        if at < registered:
            assert state == "nothing"
        elif was_paused:
            assert state == "paused"
        elif any(begins <= at < ends for begins, ends in gaps):
            assert state == "unobserved"
        else:
            assert state not in ("nothing", "paused", "unobserved")


def test_a_slice_in_which_it_was_there_for_a_while_shows_what_it_was_then() -> None:
    found = [Segment(0, 95, NOTHING), Segment(95, 100, "alive")]
    assert [it.state for it in slices(found, 10)] == [NOTHING] * 9 + ["alive"]
    assert [it.state for it in slices(found, 1)] == ["alive"]


def newest(marks: list[Mark], kept: int) -> tuple[list[Mark], int]:
    """So many of them, and from when on those tell all; 0 if they are all there are."""
    left = marks[max(0, len(marks) - kept) :]
    return left, left[0].at if len(left) < len(marks) else 0


@given(moves, spans, st.integers(1, 4), st.integers(1, 4), st.integers(0, 900))
@example([(10, ALIVE), (20, DOWN), (30, ALIVE), (40, DOWN)], [], 2, 1, 0)
@example([(10, True), (20, False), (30, ALIVE), (40, True)], [], 1, 2, 0)
def test_what_was_let_go_of_is_unobserved_and_what_is_left_is_as_it_was(
    moved: list[tuple[int, Status | bool]],
    holes: list[tuple[int, int]],
    of_each: int,
    pauses: int,
    start: int,
) -> None:
    marks, status, paused = told(moved)
    flips = [it for it in marks if it.paused is not None]
    flips = [it for n, it in enumerate(flips) if it.paused != (flips[n - 1].paused if n else False)]
    changes = [it for it in marks if it.to]
    gaps = sorted((at, at + length) for at, length in holes)
    now = Now(status, paused, -1, 1300)  # nothing changes twice in the moment it begins
    whole = segments([*changes, *flips], now, start, gaps)
    (left, one), (left_flips, other) = newest(changes, of_each), newest(flips, pauses)
    begins = max(one, other)
    found = segments([*left, *left_flips], now, start, gaps, begins)
    assert all(a.end == b.start and a.state != b.state for a, b in pairwise(found))
    for at in range(start, 1300, 7):
        (state,) = [it.state for it in found if it.start <= at < it.end]
        (truth,) = [it.state for it in whole if it.start <= at < it.end]
        assert state == (truth if at >= begins else "unobserved")


def test_what_is_before_a_registration_is_nothing_also_where_the_record_begins_later() -> None:
    now = Now(ALIVE, False, 20, 100)
    assert segments([Mark(9, 60, ALIVE, DOWN)], now, 0, (), 50) == [
        Segment(0, 20, "nothing"),
        Segment(20, 50, "unobserved"),
        Segment(50, 60, "down"),
        Segment(60, 100, "alive"),
    ]
    assert segments([], now, 0, (), 500) == [Segment(0, 20, "nothing"), Segment(20, 100, "unobserved")]
    measured = digest.Measured(0, 100 * SECOND, ())
    seconds = measured.seconds(ALIVE, 0, (), 50 * SECOND)
    assert (seconds["alive"], seconds["unobserved"]) == (50, 50)


@given(moves, st.integers(1, 50))
def test_slices_add_up(moved: list[tuple[int, Status | bool]], count: int) -> None:
    marks, status, paused = told(moved)
    found = segments(marks, Now(status, paused, 0, 1300), 0)
    cut = list(slices(found, count))
    assert len(cut) == count
    assert sum(sum(it.spent.values()) for it in cut) == 1300
    pieces = charts.bar(found, count, ZoneInfo("UTC"))
    assert sum(it.length for it in pieces) == count
    for it in cut:
        if it.spent.get("down") and not it.spent.get("dead"):
            assert it.state == "down", "a fall is seen, however short"


# --- lists from memory


class Fleet:
    """Random events, in order, with the states they come to."""

    def __init__(self) -> None:
        self.seq = 0
        self.states: dict[str, ServiceState] = {}
        self.changes: list[Projection] = []
        self.hub = EventHub()

    def add(self, event: Event, at: int) -> None:
        self.seq += 1
        change = projected(event, self.seq, at)
        self.changes.append(change)
        self.states[event.name] = change.applied_to(self.states.get(event.name))
        self.hub.publish([change])

    def beat(self, name: str, at: int) -> None:
        self.seq += 1
        heard = Heard(self.seq, at, Signal.SUCCESS, None, {})
        self.states[name] = heard.applied_to(self.states[name])
        self.hub.index.apply_heartbeats({name: heard})


names = st.sampled_from([f"{a}.{n}" for a in ("web", "db") for n in range(5)])
steps = st.lists(
    st.tuples(
        names,
        st.sampled_from(["register", "delete", "pause", "resume", ALIVE, SILENT, DOWN, DEAD, "beat"]),
        st.integers(0, 40 * 3600),
    ),
    max_size=60,
)


def lived(taken: list[tuple[str, Status | str, int]]) -> Fleet:
    fleet = Fleet()
    was: dict[str, Status] = {}
    kinds = {"register": ServiceRegistered, "pause": ServicePaused, "resume": ServiceResumed}
    for name, step, ago in sorted(taken, key=lambda it: -it[2]):
        at, state = NOW - ago * SECOND, fleet.states.get(name, ServiceState(name))
        if step == "delete" and state.exists:
            fleet.add(deleted(name, at), at)
        elif step in kinds and (step == "register") is not state.exists:
            since = at if step == "register" else state.registered_at
            if step == "register":
                was[name] = UNKNOWN
            about = {"tags": (name.partition(".")[0],), "description": f"Describes {name}"}
            fleet.add(config_event(kinds[step], name, at, since, **about), at)
        elif isinstance(step, Status) and state.exists and was[name] is not step:
            fleet.add(status_event(name, was[name], step, at, at), at)
            was[name] = step
        elif step == "beat" and state.exists:
            fleet.beat(name, at)
    return fleet


@given(steps, st.sampled_from(SORTS), st.booleans(), st.sampled_from(["", "web", "DESCRIBES db"]))
def test_lists_are_those_of_the_documents(
    taken: list[tuple[str, Status | str, int]], sort: Sort, descending: bool, text: str
) -> None:
    fleet = lived(taken)
    there = {name: state for name, state in fleet.states.items() if state.exists}
    for name, state in there.items():
        found_state = fleet.hub.index.get(name)
        assert found_state
        assert (found_state.status, found_state.since) == (state.status, state.since)
        assert found_state.last_heartbeat == state.last_heartbeat
    for statuses, tags in (
        ((), ()),
        (("alive", "down"), ()),
        (("paused",), ()),
        ((), ("web",)),
        (("silent",), ("db",)),
    ):
        matching = [
            name
            for name, it in there.items()
            if (not statuses or it.counted_as in statuses)
            and all(tag in it.tags for tag in tags)
            and text.casefold() in f"{name}\nDescribes {name}".casefold()
        ]
        found: list[str] = []
        after = None
        for _ in range(20):
            wanted = ServiceQuery(statuses, tags, text, sort, descending, after, 3)
            page, after, total = fleet.hub.index.page(wanted)
            assert total == len(matching)
            found += page
            if after is None:
                break
        places = {name: place(there[name], sort) for name in matching}
        assert found == sorted(matching, key=places.__getitem__, reverse=descending)
    reloaded = ServiceIndex()
    reloaded.load(load(dump(state)) for state in fleet.states.values())
    assert reloaded.counts == fleet.hub.index.counts
    assert reloaded.tags == fleet.hub.index.tags


@given(steps, st.randoms(use_true_random=False))
def test_events_may_come_twice_and_in_any_order(
    taken: list[tuple[str, Status | str, int]], chance: random.Random
) -> None:
    fleet, again = lived(taken), EventHub()
    shuffled = fleet.changes * 2
    chance.shuffle(shuffled)
    for change in shuffled:
        again.index.apply(change)
    for name, state in fleet.states.items():
        for before in (0, 1) if state.heartbeat_seq else ():
            seq, at = state.heartbeat_seq - before, state.heartbeat_at - before
            again.index.apply_heartbeats({name: Heard(seq, at, Signal.SUCCESS, None, {})})
    assert again.index.counts == fleet.hub.index.counts
    for sort in SORTS:
        assert [place(it, sort) for it in again.index.in_order(sort)] == [
            place(it, sort) for it in fleet.hub.index.in_order(sort)
        ]


@given(steps, spans)
def test_the_digest_from_memory_is_that_of_the_whole_fleet(
    taken: list[tuple[str, Status | str, int]], holes: list[tuple[int, int]]
) -> None:
    fleet, now = lived(taken), moment(NOW)
    gaps = [(NOW - at * 100 * SECOND, NOW - (at - length) * 100 * SECOND) for at, length in holes]
    services = [state for state in fleet.states.values() if state.exists]
    marks: dict[str, list[Mark]] = {}
    for change in fleet.changes:
        if change.at >= NOW - event_hub.DAY and (mark := mark_of(change.event, change.seq, change.at)):
            marks.setdefault(change.name, []).append(mark)
    whole = digest.digest(services, marks, now, gaps=gaps, each=True)
    mine, zone = fleet.hub.digest_at(now, gaps, {}), ZoneInfo("UTC")
    assert (mine.uptime is None) is (whole.uptime is None)
    assert mine.uptime == pytest.approx(whole.uptime)
    assert digest.lines(replace(mine, uptime=None), zone) == digest.lines(replace(whole, uptime=None), zone)


def possible(moved: Sequence[tuple[int, Status | bool]]) -> list[tuple[int, Status | bool]]:
    """In order, and without a resume of what is not paused, or the reverse."""
    found: list[tuple[int, Status | bool]] = []
    paused = False
    for at, to in sorted(moved, key=lambda it: it[0]):
        if to is not paused:
            found.append((at, to))
            paused = to if isinstance(to, bool) else paused
    return found


def of_each_second(
    moved: Sequence[tuple[int, Status | bool]], registered: int, holes: Sequence[tuple[int, int]], window: int
) -> tuple[int, int]:
    """Seconds that were measured, and those of them in which it was up, looked at one by one until 1300."""
    up = measured = 0
    for second in range(max(1300 - window, registered), 1300):
        status, paused = UNKNOWN, False
        for at, to in sorted(moved, key=lambda it: it[0]):
            if registered <= at <= second:
                status, paused = (status, to) if isinstance(to, bool) else (to, paused)
        deaf = any(begin <= second < begin + length for begin, length in holes)
        if not paused and not deaf and status is not UNKNOWN:
            measured += 1
            up += status in (ALIVE, SILENT)
    return measured, up


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(moves, st.integers(0, 1200)), min_size=1, max_size=3), spans, st.integers(1, 1300))
@example([([(10, ALIVE), (600, DOWN)], 0)], [(700, 200)], 900)
def test_digest_and_api_and_a_clock_agree_on_uptime(
    lives: list[tuple[list[tuple[int, Status | bool]], int]], holes: list[tuple[int, int]], window: int
) -> None:
    """The digests leave dead services out, and paused ones. A life begins with its registration."""
    begin, now = NOW - 1300 * SECOND, moment(NOW)
    gaps = [(begin + at * SECOND, begin + (at + length) * SECOND) for at, length in holes]
    services, of_each = [], {}
    measured = up = 0
    alone: dict[str, float] = {}
    for n, (moved, registered) in enumerate(lives):
        moved = possible([(at, to) for at, to in moved if at >= registered])
        moved = possible([*moved[:1], *((at, to) for at, to in moved[1:] if at > registered)])
        marks, status, paused = told(moved)
        name, since = f"s{n}", begin + registered * SECOND
        services.append(state_of(name, status, since, since, paused=paused))
        marks = [mark._replace(at=begin + mark.at * SECOND) for mark in marks]
        of_each[name] = marks
        as_now = Now(status, paused, since, NOW)
        share = uptime(spent(segments(marks, as_now, NOW - window * SECOND, gaps)))
        counted = of_each_second(moved, registered, holes, window)
        assert share == (pytest.approx(counted[1] / counted[0]) if counted[0] else None)
        if not paused and status is not DEAD:
            measured, up = measured + counted[0], up + counted[1]
            if share is not None:
                alone[name] = share
    found = digest.digest(services, of_each, now, timedelta(seconds=window), gaps, each=True)
    assert found.uptime == (pytest.approx(up / measured) if measured else None)
    assert {name: share for name, share, _ in found.uptimes} == pytest.approx(alone)


class Counted(Mark):
    """A mark that counts how often it is looked at."""

    looked = 0

    @property
    def seq(self) -> int:  # type: ignore[override]
        Counted.looked += 1
        return self[0]


def test_marks_expire_at_a_cost_that_does_not_grow_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_hub, "mark_of", lambda event, seq, at: Counted(seq, at, DOWN, ALIVE))
    for many in (100, 10_000):
        fleet, Counted.looked = EventHub(), 0
        for seq in range(1, many + 1):
            fleet.publish([_flapped("flapper", seq, NOW)])
        fleet.publish([_flapped("other", many + 1, NOW + 2 * event_hub.DAY)])
        assert (len(fleet.recent_marks("flapper")), len(fleet.recent_marks("other"))) == (0, 1)
        assert Counted.looked <= 3 * many


def test_marks_that_expire_are_the_oldest() -> None:
    fleet = EventHub()
    for seq in range(1, 11):
        fleet.publish([_flapped("a", seq, NOW + seq * SECOND)])
    fleet.publish([_flapped("b", 11, NOW + event_hub.DAY + 5 * SECOND + 1)])
    assert [mark.seq for mark in fleet.recent_marks("a")] == [6, 7, 8, 9, 10]


def _flapped(name: str, seq: int, at: int) -> Projection:
    return projected(status_event(name, ALIVE, DOWN, at, at), seq, at)
