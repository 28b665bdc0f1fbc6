"""Thresholds: what an interval gives, who comes before whom, and what makes way."""

from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.contracts.durations import parse, write
from shared.contracts.events import MICRO
from shared.contracts.thresholds import Inherited, Source, in_force, in_force_before, out_of_order, sources

DEFAULT = parse("15m"), parse("1h"), parse("7d")
LONGEST = timedelta(days=3650)
MILLI = timedelta(milliseconds=1)

Own = tuple[timedelta | None, timedelta | None, timedelta | None]


def found(own: str = "- - -", every: str = "", before: bool = False) -> str:
    silent, down, dead = (None if word == "-" else parse(word) for word in own.split())
    reckon = in_force_before if before else in_force
    return " ".join(map(write, reckon((silent, down, dead), parse(every) if every else None, DEFAULT)))


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        ("", "15m 1h 7d"),
        ("1s", "3s 11s 7d"),
        ("5m", "15m 55m 7d"),
        ("30m", "1h30m 5h30m 7d"),
        ("1h", "2h 6h 7d"),
        ("1d", "1d1h 1d5h 7d"),
        ("7d", "7d1h 7d5h 14d10h"),
        ("30d", "30d1h 30d5h 60d10h"),
        ("3650d", "3650d1h 3650d5h 7300d10h"),
    ],
)
def test_an_interval_gives_a_grace_of_twice_itself_and_at_most_an_hour(every: str, expected: str) -> None:
    assert found(every=every) == expected


@pytest.mark.parametrize(
    ("own", "every", "expected"),
    [
        ("- - 60d", "1d", "1d1h 1d5h 60d"),
        ("- 3d -", "1d", "1d1h 3d 7d"),
        ("30h - -", "1d", "1d6h 2d12h 7d"),
        ("10m 20m 30m", "1d", "10m 20m 30m"),
        ("- 20h -", "1d", "10h 20h 7d"),
        ("- 3d -", "30d", "1d12h 3d 60d10h"),
        ("8d 9d -", "", "8d 9d 18d"),
        ("40m - -", "", "40m 1h20m 7d"),
        ("10m - -", "", "10m 1h 7d"),
        ("- 10m -", "", "5m 10m 7d"),
        ("- 20m -", "", "15m 20m 7d"),
        ("- 5d -", "", "15m 5d 10d"),
        ("- - 40m", "", "15m 20m 40m"),
        ("- - 20m", "", "5m 10m 20m"),
        ("20m - 30m", "", "20m 25m 30m"),
        ("- - 8d", "7d", "7d1h 7d5h 8d"),
        ("- - 6d", "7d", "1d12h 3d 6d"),
        ("- - 26h", "1d", "1d30m 1d1h 1d2h"),
        ("10m - 26h", "1d", "10m 1d1h 1d2h"),
        ("25h - 40h", "1d", "1d1h 1d8h30m 1d16h"),
        ("- 24h30m -", "1d", "1d15m 1d30m 7d"),
        ("- 1h -", "1d", "30m 1h 7d"),
    ],
)
def test_what_is_not_configured_comes_from_elsewhere_and_makes_way(
    own: str, every: str, expected: str
) -> None:
    assert found(own, every) == expected


@pytest.mark.parametrize(
    ("own", "every", "expected"),
    [
        ("- - -", "1d", "3d 12d 24d"),
        ("- - 60d", "1d", "15m 1h 60d"),
        ("8d - -", "", "8d 8d 8d"),
        ("- - -", "5m", "15m 1h 7d"),
    ],
)
def test_the_time_before_is_evaluated_as_it_was(own: str, every: str, expected: str) -> None:
    assert found(own, every, before=True) == expected


# --- for all of them

lengths = st.integers(1, LONGEST // MILLI).map(lambda count: count * MILLI)
ordered = st.lists(lengths, min_size=3, max_size=3, unique=True).map(sorted).map(tuple)
owns = st.tuples(ordered, st.tuples(st.booleans(), st.booleans(), st.booleans())).map(
    lambda drawn: tuple(length if mine else None for length, mine in zip(*drawn, strict=True))
)
intervals = st.none() | lengths


@given(owns, intervals, ordered)
def test_they_are_in_order_keep_what_is_configured_and_stay_representable(
    own: Own, every: timedelta | None, default: tuple[timedelta, timedelta, timedelta]
) -> None:
    silent, down, dead = in_force(own, every, default)
    assert timedelta() < silent < down < dead <= 4 * LONGEST + timedelta(days=1)
    assert all(mine in (None, value) for mine, value in zip(own, (silent, down, dead), strict=True))
    if own[0] and not own[1] and not own[2]:
        assert down >= 2 * silent
    if own[1] and not own[2]:
        assert dead >= 2 * down


@given(owns, lengths, ordered)
@example((None, None, timedelta(hours=26)), timedelta(days=1), DEFAULT)
@example((None, timedelta(hours=24.5), None), timedelta(days=1), DEFAULT)
def test_no_inherited_one_is_below_the_interval_unless_an_own_one_above_it_is(
    own: Own, every: timedelta, default: tuple[timedelta, timedelta, timedelta]
) -> None:
    found = in_force(own, every, default)
    for place, value in enumerate(found):
        if own[place] is None:
            assert value >= every or any(above and above <= every for above in own[place + 1 :])


@given(owns, intervals, ordered)
def test_where_each_comes_from_is_so(
    own: Own, every: timedelta | None, default: tuple[timedelta, timedelta, timedelta]
) -> None:
    gives = {
        Source.DEFAULT: default,
        Source.HEARTBEAT: in_force((None, None, None), every, default),
        Source.SERVICE: own,
    }
    found = in_force(own, every, default)
    for place, source in enumerate(sources(own, every, default)):
        if source is Source.DERIVED:
            assert own[place] is None
            assert any(own)
            assert found[place] != gives[Source.HEARTBEAT][place]
        else:
            assert found[place] == gives[source][place]
        assert source is not Source.HEARTBEAT or every


@pytest.mark.parametrize(
    ("own", "every", "expected"),
    [
        ("- - -", "", "default default default"),
        ("- - -", "5m", "heartbeat heartbeat default"),
        ("- - -", "30d", "heartbeat heartbeat heartbeat"),
        ("- 10m -", "", "derived service default"),
        ("- 2h -", "", "default service default"),
        ("8d - -", "", "service derived derived"),
        ("- 20h -", "1d", "derived service default"),
        ("- - 26h", "1d", "derived derived service"),
    ],
)
def test_what_made_way_is_called_derived(own: str, every: str, expected: str) -> None:
    silent, down, dead = (None if word == "-" else parse(word) for word in own.split())
    assert " ".join(sources((silent, down, dead), parse(every) if every else None, DEFAULT)) == expected


@given(owns, intervals, ordered)
def test_the_monitor_and_the_api_reckon_the_same(
    own: Own, every: timedelta | None, default: tuple[timedelta, timedelta, timedelta]
) -> None:
    def micros(values: tuple[timedelta | None, ...]) -> tuple[int | None, ...]:
        return tuple(None if value is None else value // MICRO for value in values)

    in_micros = in_force(micros(own), every and every // MICRO, micros(default))  # type: ignore[type-var,arg-type]
    for mine, its in zip(in_micros, in_force(own, every, default), strict=True):
        assert abs(mine * MICRO - its) <= MICRO  # type: ignore[operator]


@given(st.lists(lengths, max_size=3))
def test_what_is_set_together_is_in_order_or_it_is_not(given_: list[timedelta]) -> None:
    assert out_of_order(given_) != (sorted(set(given_)) == given_)


# --- what a file shares between services

inheritances = st.tuples(*[st.sampled_from([None, "template", "defaults"])] * 3)


@pytest.mark.parametrize(
    ("given_", "inherited", "every", "expected", "from_"),
    [
        ("10m - -", "d - -", "", "10m 1h 7d", "defaults default default"),
        ("2h - -", "d - -", "", "2h 4h 7d", "defaults derived default"),
        ("20m 2h 3d", "d d d", "5m", "15m 55m 3d", "service service defaults"),
        ("20m 2h 3d", "t t t", "5m", "20m 2h 3d", "template template template"),
        ("10m 5m -", "t - -", "", "2m30s 5m 7d", "derived service default"),
        ("10m 12m -", "- t -", "", "10m 20m 7d", "service derived default"),
        ("10m 12m 1d", "t t -", "", "10m 12m 1d", "template template service"),
        ("2h 1h -", "d t -", "", "30m 1h 7d", "derived template default"),
    ],
)
def test_what_is_inherited_makes_way_for_what_is_more_specific(
    given_: str, inherited: str, every: str, expected: str, from_: str
) -> None:
    silent, down, dead = (None if word == "-" else parse(word) for word in given_.split())
    names = {"-": None, "d": "defaults", "t": "template"}
    of: Inherited = tuple(names[word] for word in inherited.split())  # type: ignore[assignment]
    interval = parse(every) if every else None
    values = (silent, down, dead), interval, DEFAULT
    assert " ".join(map(write, in_force(*values, inherited=of))) == expected
    assert " ".join(sources(*values, inherited=of, timing=Source.SERVICE)) == from_


@given(owns, intervals, ordered, inheritances, st.booleans())
def test_with_inherited_ones_they_are_in_order_and_say_where_they_come_from(
    values: Own,
    every: timedelta | None,
    default: tuple[timedelta, timedelta, timedelta],
    inherited: Inherited,
    scheduled: bool,
) -> None:
    silent, down, dead = found = in_force(values, every, default, scheduled=scheduled, inherited=inherited)
    assert timedelta() < silent < down < dead <= 4 * LONGEST + timedelta(days=1)
    for value, of, limit, source in zip(
        values,
        inherited,
        found,
        sources(values, every, default, scheduled=scheduled, inherited=inherited),
        strict=True,
    ):
        if value and of is None:
            assert (limit, source) == (value, Source.SERVICE)
        if source in (Source.TEMPLATE, Source.DEFAULTS):
            assert (limit, source) == (value, of)
        if source is Source.DEFAULT:
            assert limit in default


@given(owns, intervals, ordered, st.booleans())
def test_a_files_defaults_are_as_the_registrys_own_where_nothing_else_has_a_say(
    values: Own, every: timedelta | None, default: tuple[timedelta, timedelta, timedelta], scheduled: bool
) -> None:
    as_defaults = in_force(values, every, default, scheduled=scheduled, inherited=("defaults",) * 3)
    instead = in_force(values, None, default)
    assert as_defaults == in_force((None, None, None), every, instead, scheduled=scheduled)
    as_template = in_force(values, every, default, scheduled=scheduled, inherited=("template",) * 3)
    assert as_template == in_force(values, every, default, scheduled=scheduled)
