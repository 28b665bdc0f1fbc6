"""Routes: what may be written, quiet hours on days when clocks are moved, and who hears of what."""

from datetime import UTC, date, datetime, time, timedelta
from fnmatch import fnmatchcase
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.contracts.events import Status
from shared.contracts.routes import Quiet, Route, Routes
from shared.domain.routing import EVERYBODY, Hearing, Router

UTC_ZONE = ZoneInfo("UTC")
MINUTE = timedelta(minutes=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# --- what may be written


FULL = {
    "match": {"tags": ["db"], "name": "backup.*", "status": ["down", "dead"]},
    "to": ["ops", "-100123:5"],
    "continue": True,
    "quiet": {"hours": "22:00-07:00", "time_zone": "Europe/Berlin", "hold": True},
    "escalate": [{"after": "15m", "to": ["boss"]}, {"after": "1h30m", "to": ["owner"]}],
    "remind": ["1h", "6h"],
}


@pytest.mark.parametrize(
    "typed",
    [
        FULL,
        {"to": ["ops"]},
        {"to": ["ops"], "quiet": "22:00-07:00"},
        {"to": ["ops"], "quiet": "22:00-07:00 Europe/Berlin", "escalate": {"after": "15m", "to": ["ana"]}},
        {"escalate": {"after": "15m", "to": ["ana"]}, "remind": []},
    ],
)
def test_a_route_is_written_back_as_it_was_typed(typed: dict[str, Any]) -> None:
    routes = Routes.model_validate({"routes": [typed]})
    assert routes.model_dump(mode="json") == {"routes": [typed]}
    assert Routes.model_validate_json(routes.model_dump_json()) == routes


@pytest.mark.parametrize(
    ("typed", "where", "said"),
    [
        ({}, (), "to or escalate"),
        ({"to": ["a"], "too": 1}, ("too",), "not permitted"),
        ({"to": ["a"], "match": {"tag": ["db"]}}, ("match", "tag"), "not permitted"),
        ({"to": ["a"], "match": {"status": ["unknown"]}}, ("match", "status", 0), "'silent'"),
        ({"to": ["a"] * 51}, ("to",), "50"),
        ({"to": [" "]}, ("to", 0), "at least 1"),
        (
            {"to": ["a"], "quiet": "at night"},
            ("quiet", "hours"),
            "'at night' is not hours such as 22:00-07:00",
        ),
        ({"to": ["a"], "quiet": "22:00-24:00"}, ("quiet", "hours"), "is not hours"),
        ({"to": ["a"], "quiet": "7:00-07:00"}, ("quiet", "hours"), "begins when it ends"),
        ({"to": ["a"], "quiet": "22:00-07:00 Mars"}, ("quiet", "time_zone"), "'Mars' must be an IANA"),
        ({"to": ["a"], "quiet": {"hours": "1:00-2:00", "held": True}}, ("quiet", "held"), "not permitted"),
        ({"to": ["a"], "escalate": {"after": "0s", "to": ["b"]}}, ("escalate", 0, "after"), "longer than"),
        ({"to": ["a"], "escalate": {"after": "1m", "to": []}}, ("escalate", 0, "to"), "at least 1"),
        ({"to": ["a"], "remind": ["soon"]}, ("remind", 0), "is not a duration"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_says_where(
    typed: dict[str, Any], where: tuple[Any, ...], said: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        Route.model_validate(typed)
    (error,) = caught.value.errors()
    assert error["loc"] == where
    assert said in error["msg"]


def test_no_more_than_200_routes() -> None:
    with pytest.raises(ValidationError):
        Routes.model_validate({"routes": [{"to": ["a"]}] * 201})


def test_every_channel_that_is_named_is_known_once() -> None:
    routes = Routes.model_validate({"routes": [FULL, {"to": ["boss", "ops", "web"]}]})
    assert list(routes.channels) == ["ops", "-100123:5", "boss", "owner", "web"]


# --- quiet hours


@pytest.mark.parametrize(
    ("quiet", "moment", "until"),
    [
        ("22:00-07:00", "2026-11-01T21:59:59.999999", None),
        ("22:00-07:00", "2026-11-01T22:00", "2026-11-02T07:00"),
        ("22:00-07:00", "2026-11-02T06:59:59", "2026-11-02T07:00"),
        ("22:00-07:00", "2026-11-02T07:00", None),
        ("9:00 - 17:30", "2026-11-02T12:00", "2026-11-02T17:30"),
        ("9:00 - 17:30", "2026-11-02T08:59", None),
        ("22:00-07:00 Europe/Berlin", "2026-11-01T21:00", "2026-11-02T06:00"),
        ("22:00-07:00 Europe/Berlin", "2026-03-28T21:00", "2026-03-29T05:00"),  # an hour shorter
        ("22:00-07:00 Europe/Berlin", "2026-10-24T20:00", "2026-10-25T06:00"),  # an hour longer
        ("22:00-02:30 Europe/Berlin", "2026-03-29T00:59", "2026-03-29T01:00"),  # 02:30 is skipped
        ("02:30-07:00 Europe/Berlin", "2026-03-29T01:00", "2026-03-29T05:00"),
        ("02:10-02:50 Europe/Berlin", "2026-03-29T01:00", None),
        ("22:00-02:30 Europe/Berlin", "2026-10-25T00:29", "2026-10-25T00:30"),  # the first of two
        ("22:00-02:30 Europe/Berlin", "2026-10-25T01:10", None),
        ("02:30-07:00 Europe/Berlin", "2026-10-25T00:30", "2026-10-25T06:00"),
        ("22:00-07:00 America/New_York", "2026-11-02T03:00", "2026-11-02T12:00"),
    ],
)
def test_quiet_hours(quiet: str, moment: str, until: str | None) -> None:
    assert Quiet.parse(quiet).until(at(moment), UTC_ZONE) == (until and at(until))


def test_without_a_zone_of_their_own_they_are_by_the_registrys_clock() -> None:
    quiet = Quiet.parse("22:00-07:00")
    assert quiet.until(at("2026-07-01T20:30"), ZoneInfo("Europe/Berlin")) == at("2026-07-02T05:00")
    assert quiet.until(at("2026-07-01T20:30"), UTC_ZONE) is None


@cache
def _first_shown(zone: str, day: date, hour: time) -> datetime:
    """By looking at the clock each minute."""
    there, wanted = ZoneInfo(zone), datetime.combine(day, hour)
    minute = wanted.replace(tzinfo=UTC) - timedelta(hours=27)
    while minute.astimezone(there).replace(tzinfo=None) < wanted:
        minute += MINUTE
    return minute


MOVED = {
    "Europe/Berlin": (date(2026, 3, 29), date(2026, 10, 25)),
    "America/New_York": (date(2026, 3, 8), date(2026, 11, 1)),
    "Australia/Lord_Howe": (date(2026, 4, 5), date(2026, 10, 4)),  # by half an hour
    "America/Sao_Paulo": (date(2018, 11, 4), date(2018, 2, 18)),  # at midnight
    "Pacific/Apia": (date(2011, 12, 30), date(2011, 12, 31)),  # a day that there never was
    "Asia/Kathmandu": (date(2026, 3, 29), date(2026, 10, 25)),  # never
}
HOURS = st.builds(time, st.integers(0, 23), st.sampled_from([0, 1, 15, 30, 59]))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(MOVED)), st.integers(0, 1), st.integers(-1, 1), HOURS, HOURS, st.integers(0, 2880)
)
@example("Pacific/Apia", 0, 0, time(22), time(7), 60)
def test_hours_hold_from_the_first_time_that_the_clock_shows_them(
    zone: str, which: int, days: int, begin: time, end: time, minutes: int
) -> None:
    if begin == end:
        return
    day = MOVED[zone][which] + timedelta(days=days)
    moment = datetime.combine(day, time(), tzinfo=UTC) + timedelta(minutes=minutes) - timedelta(hours=12)
    spans = [
        (_first_shown(zone, it, begin), _first_shown(zone, it + timedelta(days=end < begin), end))
        for it in (day + timedelta(days=n) for n in range(-3, 3))
    ]
    expected = min((until for since, until in spans if since <= moment < until), default=None)
    found = Quiet.parse(f"{begin:%H:%M}-{end:%H:%M} {zone}").until(moment, UTC_ZONE)
    assert found == expected


# --- who hears of what


DOWN_AT = at("2026-11-01T12:00")
CHANNELS = ("ops", "ana", "boss", "web")


def router(*routes: dict[str, Any], channels: tuple[str, ...] = CHANNELS) -> Router:
    return Router(Routes.model_validate({"routes": routes}), channels)


def hearing(
    of: Router,
    channel: str,
    now: datetime = DOWN_AT,
    status: Status = Status.DOWN,
    *,
    tags: tuple[str, ...] = ("db",),
    owned: bool = False,
) -> Hearing | None:
    rule = of.rule(channel, "backup.db", tags, status)
    since = DOWN_AT if status in (Status.DOWN, Status.DEAD) else None
    return rule and rule.at(now, UTC_ZONE, since, is_acknowledged=owned)


def told(of: Router, status: Status = Status.DOWN, tags: tuple[str, ...] = ("db",)) -> list[str]:
    return [it for it in CHANNELS if (found := hearing(of, it, status=status, tags=tags)) and not found.waits]


def test_without_routes_and_without_one_that_matches_everybody_hears() -> None:
    assert told(router()) == list(CHANNELS)
    assert told(router({"match": {"tags": ["web"]}, "to": ["ops"]})) == list(CHANNELS)


def test_the_first_that_matches_decides_unless_it_continues() -> None:
    first, second = {"match": {"tags": ["db"]}, "to": ["ops"]}, {"to": ["web"]}
    assert told(router(first, second)) == ["ops"]
    assert told(router({**first, "continue": True}, second)) == ["ops", "web"]
    assert told(router(first, second), tags=("x",)) == ["web"]


def test_each_part_of_a_match_must_hold() -> None:
    of = router(
        {"match": {"tags": ["db", "x"], "name": "backup.*", "status": ["down", "dead"]}, "to": ["ops"]}
    )
    assert told(of) == ["ops"]
    assert told(of, Status.SILENT) == list(CHANNELS)
    assert told(of, tags=("y",)) == list(CHANNELS)
    assert told(router({"match": {"name": "Backup.*"}, "to": ["ops"]})) == list(CHANNELS)
    assert told(router({"match": {"name": "backup"}, "to": ["ops"]})) == list(CHANNELS)
    assert told(router({"match": {"name": "*.[cd]b"}, "to": ["ops"]})) == ["ops"]


def test_what_names_only_channels_that_are_gone_is_told_to_everybody() -> None:
    gone = {"to": ["gone"], "escalate": {"after": "15m", "to": ["boss"]}}
    assert told(router(gone)) == list(CHANNELS)
    assert told(router({"to": ["gone", "ana"]})) == ["ana"]


def test_an_escalation_waits_for_its_moment_and_for_nobody_to_have_it_in_hand() -> None:
    of = router(
        {"to": ["ops"], "escalate": [{"after": "15m", "to": ["boss"]}, {"after": "5m", "to": ["ana"]}]}
    )
    assert hearing(of, "ops") == Hearing()
    assert hearing(of, "boss") == Hearing(waits=True, until=DOWN_AT + 15 * MINUTE)
    assert hearing(of, "ana") == Hearing(waits=True, until=DOWN_AT + 5 * MINUTE)
    assert hearing(of, "boss", DOWN_AT + 15 * MINUTE - timedelta(microseconds=1)) == hearing(of, "boss")
    assert hearing(of, "boss", DOWN_AT + 15 * MINUTE) == Hearing(is_escalated=True)
    assert hearing(of, "boss", DOWN_AT + 15 * MINUTE, Status.DEAD) == Hearing(is_escalated=True)
    assert hearing(of, "boss", DOWN_AT + 15 * MINUTE, owned=True) == Hearing(waits=True)
    assert hearing(of, "boss", DOWN_AT + 15 * MINUTE, Status.SILENT) == Hearing(waits=True)
    assert hearing(of, "web") is None


def test_quiet_hours_take_the_sound_or_hold() -> None:
    night = at("2026-11-01T23:00")
    assert hearing(router({"to": ["ops"], "quiet": "22:00-07:00"}), "ops", night) == Hearing(has_sound=False)
    held = {"to": ["ops"], "quiet": {"hours": "22:00-07:00", "hold": True}}
    assert hearing(router(held), "ops", night) == Hearing(
        has_sound=False, waits=True, until=at("2026-11-02T07:00")
    )
    assert hearing(router(held), "ops", DOWN_AT) == Hearing()


def test_an_escalation_is_sent_with_sound_also_in_quiet_hours() -> None:
    quiet = {"hours": "11:00-20:00", "hold": True}
    of = router({"to": ["ops"], "quiet": quiet, "escalate": {"after": "15m", "to": ["ops", "boss"]}})
    assert hearing(of, "ops") == Hearing(waits=True, until=DOWN_AT + 15 * MINUTE)
    assert hearing(of, "ops", DOWN_AT + 15 * MINUTE) == Hearing(is_escalated=True)
    assert hearing(of, "ops", owned=True) == Hearing(
        has_sound=False, waits=True, until=at("2026-11-01T20:00")
    )


@pytest.mark.parametrize("swapped", [False, True])
def test_of_two_routes_the_one_counts_by_which_a_channel_hears_most(swapped: bool) -> None:
    def both(one: dict[str, Any], other: dict[str, Any]) -> Hearing | None:
        first, second = (other, one) if swapped else (one, other)
        return hearing(router({**first, "continue": True}, second), "ops", at("2026-11-01T23:00"))

    quiet, held = {"to": ["ops"], "quiet": "22:00-07:00"}, {"hours": "22:00-07:00", "hold": True}
    later = {"to": ["web"], "escalate": {"after": "20h", "to": ["ops"]}}
    assert both(quiet, {"to": ["ops"]}) == Hearing()
    assert both(quiet, {"to": ["ops"], "quiet": held}) == Hearing(has_sound=False)
    assert both(quiet, {"to": ["ops"], "quiet": "1:00-2:00"}) == Hearing()
    assert both(quiet, later) == Hearing(has_sound=False)
    shorter = {"to": ["ops"], "quiet": {"hours": "22:30-06:00", "hold": True}}
    held_by_both = both(shorter, {"to": ["ops"], "quiet": held})
    assert held_by_both == Hearing(has_sound=False, waits=True, until=at("2026-11-02T06:00"))


def test_reminders_are_those_of_the_first_route_that_says_so() -> None:
    def remind(*routes: dict[str, Any]) -> object:
        rule = router(*routes).rule("ops", "a", (), Status.DOWN)
        return rule and rule.remind

    assert remind({"to": ["ops"]}) is None
    assert remind({"to": ["ops"], "remind": []}) == ()
    assert remind({"to": ["ops"], "remind": ["6h", "1h", "1h"]}) == (60 * MINUTE, 360 * MINUTE)
    assert remind({"to": ["ops"], "continue": True}, {"to": ["ops"], "remind": ["1h"]}) == (60 * MINUTE,)
    assert EVERYBODY.remind is None


NAMES, TAGS, ALL = st.sampled_from(["a", "backup.db", "backup.web"]), ("db", "web"), sorted(Status)
TO = st.lists(st.sampled_from([*CHANNELS, "gone"]), max_size=3, unique=True)
ROUTE = st.fixed_dictionaries(
    {
        "match": st.fixed_dictionaries(
            {},
            optional={
                "tags": st.lists(st.sampled_from(TAGS), max_size=2),
                "name": st.sampled_from(["backup.*", "a", "*", "[!a]*"]),
                "status": st.lists(st.sampled_from(["alive", "silent", "down", "dead"]), max_size=3),
            },
        ),
        "to": TO.filter(bool),
        "continue": st.booleans(),
        "escalate": st.lists(
            st.fixed_dictionaries({"after": st.sampled_from(["5m", "15m"]), "to": TO.filter(bool)}),
            max_size=2,
        ),
    }
)


@given(st.lists(ROUTE, max_size=4), NAMES, st.lists(st.sampled_from(TAGS), max_size=2), st.sampled_from(ALL))
def test_who_hears_at_once_and_who_later(
    routes: list[dict[str, Any]], name: str, tags: list[str], status: Status
) -> None:
    """Against the same reckoned route by route."""
    at_once: set[str] = set()
    later: dict[str, int] = {}
    matched = False
    for route in routes:
        match = route["match"]
        if (
            (match.get("tags") and not set(match["tags"]) & set(tags))
            or not fnmatchcase(name, match.get("name", "*"))
            or (match.get("status") and status not in match["status"])
        ):
            continue
        matched = True
        at_once |= set(route["to"]) & set(CHANNELS)
        for step in route["escalate"]:
            for channel in set(step["to"]) & set(CHANNELS):
                later[channel] = min(later.get(channel, 99), int(step["after"][:-1]))
        if not route["continue"]:
            break
    if not matched or not at_once:
        at_once, later = set(CHANNELS), {}
    rules = {it: router(*routes).rule(it, name, tuple(tags), status) for it in CHANNELS}
    assert {it for it, rule in rules.items() if rule and rule.quiet} == at_once
    found = {it: rule.after for it, rule in rules.items() if rule and rule.after}
    assert found == {it: minutes * MINUTE for it, minutes in later.items()}
