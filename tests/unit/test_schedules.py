"""What is a schedule, what is refused in which words, and that the next moment is always later than asked."""

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from time import process_time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shared.contracts import schedules, zones
from shared.contracts.schedules import parse
from tests.reference.expressions import cron, on_calendar, uneven

NOW = datetime(2026, 11, 27, 12, 0, 5, tzinfo=UTC)
BERLIN = "Europe/Berlin"


def first(text: str, zone: str = BERLIN, after: datetime = NOW, count: int = 1) -> list[str]:
    return [f"{at:%Y-%m-%d %H:%M:%S}" for at in islice(parse(text, zone, after).upcoming(after), count)]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("0 3 * * *", "2026-11-28 02:00:00"),
        ("  0 3\t* * *  ", "2026-11-28 02:00:00"),
        ("0 9 * * mon-fri", "2026-11-30 08:00:00"),
        ("0 9 * DEC Sun", "2026-12-06 08:00:00"),
        ("0 9 * * 7", "2026-11-29 08:00:00"),
        ("*/7 * * * *", "2026-11-27 12:07:00"),
        ("0 0 13 * 5", "2026-12-03 23:00:00"),  # the 13th, or a Friday
        ("0 0 */13 * 5", "2026-12-31 23:00:00"),  # with a `*` both
        ("0 0 L * *", "2026-11-29 23:00:00"),
        ("0 0 LW * *", "2026-11-29 23:00:00"),
        ("0 0 * * 1#1", "2026-12-06 23:00:00"),
        ("0 0 * * 5L", "2026-12-24 23:00:00"),
        ("@yearly", "2026-12-31 23:00:00"),
        ("@annually", "2026-12-31 23:00:00"),
        ("@monthly", "2026-11-30 23:00:00"),
        ("@weekly", "2026-11-28 23:00:00"),
        ("@daily", "2026-11-27 23:00:00"),
        ("@Midnight", "2026-11-27 23:00:00"),
        ("@hourly", "2026-11-27 13:00:00"),
        ("daily", "2026-11-27 23:00:00"),
        ("Weekly", "2026-11-29 23:00:00"),
        ("quarterly", "2026-12-31 23:00:00"),
        ("anually", "2026-12-31 23:00:00"),
        ("bi-annually", "2026-12-31 23:00:00"),
        ("Mon..Fri 09:00", "2026-11-30 08:00:00"),
        ("mon-fri 9:0", "2026-11-30 08:00:00"),
        ("Sat,Sun", "2026-11-27 23:00:00"),
        ("Sat, 10:00", "2026-11-28 09:00:00"),
        ("*:0/7", "2026-11-27 12:07:00"),
        ("*:*:*", "2026-11-27 12:00:06"),
        ("*-*-* 4..8/2:30", "2026-11-28 03:30:00"),
        ("1-1", "2026-12-31 23:00:00"),
        ("*-*~1", "2026-11-29 23:00:00"),
        ("02~03", "2027-02-25 23:00:00"),
        ("*-11~10..20/4", "2027-11-12 23:00:00"),  # systemd counts from 10: 10, 14, 18 days from the end
        ("Mon *-05~07/1", "2027-05-30 22:00:00"),
        ("2027-02-03 04:05:06", "2027-02-03 03:05:06"),
        ("27-2-3", "2027-02-02 23:00:00"),
    ],
)
def test_what_is_accepted(text: str, moment: str) -> None:
    assert first(text) == [moment]


@pytest.mark.parametrize("zone", ["America/New_York", "UTC", "Asia/Kathmandu", "Etc/GMT+5"])
def test_the_zone_at_the_end_of_a_calendar_expression_wins(zone: str) -> None:
    for text in ("09:00", "Mon 09:00", "daily", "Mon", "*-*-1 09:00"):
        assert first(f"{text} {zone}", BERLIN) == first(text, zone)
        assert first(f"{text}\t{zone}  ", BERLIN) == first(text, zone)
    assert first("09:00 utc", BERLIN) == first("09:00", "UTC")


def test_of_several_lines_each_counts_and_comments_do_not() -> None:
    text = "# weekdays\n0 9 * * 1-5\r\n\n   # and\n  Sat 10:00 UTC\n@monthly"
    assert first(text, count=4) == [
        *("2026-11-28 10:00:00", "2026-11-30 08:00:00", "2026-11-30 23:00:00", "2026-12-01 08:00:00"),
    ]
    assert first("0 9 * * *\n*-*-* 09:00", count=2) == ["2026-11-28 08:00:00", "2026-11-29 08:00:00"]
    # A date that is over is no harm among others.
    assert first("2026-11-01\n2026-12-24") == ["2026-12-23 23:00:00"]
    assert parse("\n".join(["0 3 * * *"] * 10), BERLIN, NOW).says.count("at 03:00 every day") == 10


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0 3 * * *", "at 03:00 every day"),
        ("@hourly", "at the start of every hour"),
        ("*/15 * * * *", "every 15th minute of every hour"),
        ("*/70 * * * *", "at the start of every hour"),
        ("0 */30 * */13 *", "at 00:00 every day in January"),
        ("0 9 * * 1-5", "at 09:00 on Monday through Friday"),
        ("0 9 21 * *", "at 09:00 on the 21st day of every month"),
        ("0 9 22,23,31 * *", "at 09:00 on the 22nd, the 23rd, and the 31st day of month"),
        ("0 9 11,12,13 * *", "at 09:00 on the 11th, the 12th, and the 13th day of month"),
        ("Mon..Fri 09:00 UTC", "systemd's OnCalendar=Mon..Fri 09:00 UTC"),
        ("0 3 * * *\ndaily", "at 03:00 every day, and systemd's OnCalendar=daily"),
    ],
)
def test_what_it_says(text: str, says: str) -> None:
    assert parse(text, BERLIN, NOW).says == says


OTHERS = "use cron such as '0 3 * * 1-5', or systemd's OnCalendar such as 'Mon..Fri 09:00'"
REFUSED = {
    "": "a schedule is empty: use cron",
    "  \n # nothing\n": "a schedule is empty: use cron",
    "whenever": f"'whenever' is not a schedule: {OTHERS}",
    "every 5 minutes": f"'every 5 minutes' is not a schedule: {OTHERS}",
    "every day at 3": OTHERS,
    "at three every single day": OTHERS,
    "5m": OTHERS,
    "H H * * *": OTHERS,
    "CRON_TZ=UTC 0 3 * * *": OTHERS,
    "\0": OTHERS,
    "\ud800 3 * * *": OTHERS,
    # the fields of cron
    "60 * * * *": "the minute must be 0 to 59, a range 0-29, a list 0,30 or a step */5",
    "*/0 * * * *": "the minute must be",
    "/5 * * * *": "the minute must be",
    "5-1 * * * *": "the minute must be",
    "1,, * * * *": "the minute must be",
    "9" * 900 + " * * * *": "the minute must be",
    "0 24 * * *": "'0 24 * * *' is not a schedule: the hour must be 0 to 23",
    "0 0 0 * *": "the day of the month must be 1 to 31",
    "0 0 32 * *": "the day of the month must be 1 to 31",
    "0 0 32 2 *": "the day of the month must be 1 to 31",
    "0 0 1 0 *": "the month must be 1 to 12 or jan to dec",
    "0 0 1 13 *": "the month must be 1 to 12 or jan to dec",
    "0 0 1 janu *": "the month must be 1 to 12 or jan to dec",
    "0 0 * * 8": "the day of the week must be 0 to 7 or sun to sat",
    "0 0 * * fri-mon": "the day of the week must be",
    "0 0 * * mon#6": "the day of the week must be",
    # how many there are
    "*": "cron has five fields: minute, hour, day of the month, month and day of the week; here are 1",
    "*/5": "here are 1",
    "0 3 * *": "here are 4",
    "0 0 3 * * *": "here are 6, without seconds and without a command",
    "0 3 * * * /usr/bin/backup --all": "here are 7, without seconds and without a command",
    "@reboot": "a start of the machine is no time at which something is due",
    "@fortnightly": "the words with an @ are @yearly, @annually, @monthly, @weekly, @daily, @midnight,",
    "@daily now": "the words with an @ are",
    # the parts of OnCalendar
    "25:00": "the hour must be 0 to 23, a range 9..17, a list 0,12 or a step 0/2",
    "9-17:00": "the hour must be 0 to 23, a range 9..17",
    "Mon 9:60": "the minute must be 0 to 59",
    "*:0/0": "the minute must be 0 to 59",
    "9:00:60": "the second must be 0 to 59 and whole",
    "9:00:00.5": "the second must be 0 to 59 and whole",
    "9:00:00:00": "the time must be HH:MM or HH:MM:SS",
    "2026-13-01": "the month must be 1 to 12",
    "*-*-32": "the day must be 1 to 31",
    "*-*~29": "the day must be 1 to 31",
    "2200-01-01": "the year must be 1970 to 2199",
    "1-1-1-1": "the date must be YEAR-MONTH-DAY or MONTH-DAY",
    "Mond 9:00": "the day of the week must be Mon to Sun",
    "Sat..Mon 9:00": "the day of the week must be Mon to Sun",
    "10:00 Mon": "the day of the week must be Mon to Sun",
    "Mon 9": "OnCalendar is weekdays, date, time, time zone, such as",
    "Mon Tue 9:00 10:00": "OnCalendar is weekdays, date, time, time zone, such as",
    "09:00 Berlin": "the time zone at its end must be an IANA time zone such as UTC or Europe/Berlin",
    "daily europe/berlin": "the time zone at its end must be an IANA time zone",
    "09:00 " + "x" * 900: "the time zone at its end must be an IANA time zone",
    # what never comes
    "0 0 31 2 *": "'0 0 31 2 *' is not a schedule: it never comes",
    "0 0 31 4,6,9,11 *": "it never comes",
    "0 0 */31 2 mon#5": "it never comes",
    "*-02-30": "'*-02-30' is not a schedule: it never comes",
    "*-2,4,6,9,11-31 *:*:*": "it never comes",
    "Mon 2027-02-02": "it never comes",
    "2027-02-29": "it never comes",
    # In Berlin, this hour is always skipped.
    "* 2 * 3 0L": "it never comes",
    "Sun *-03-25..31 02:*:*": "it never comes",
    "0 3 * * *\n0 0 30 2 *": "'0 0 30 2 *' is not a schedule: it never comes",
    # what is over
    "2026-11-27": "'2026-11-27' does not come any more after 2026-11-27",
    "Fri 2026-11-27 13:00:05": "does not come any more after 2026-11-27",
    "1999-12-31\n1970-01-01": "does not come any more after 2026-11-27",
    # how much there is
    "\n".join(["0 3 * * *"] * 11): "a schedule has at most 10 lines",
    "0 3 * * *" + " " * 1000: "a schedule has at most 1000 characters",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: ascii(text)[:40])
def test_what_is_refused_in_which_words(text: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        parse(text, BERLIN, NOW)
    words = str(refused.value)
    assert REFUSED[text] in words
    assert len(words) < 260
    assert words.isprintable()


@pytest.mark.parametrize("zone", ["", "Europe", "europe/berlin", "x" * 10_000, "../UTC", "a\0b"])
def test_a_wrong_zone_is_said(zone: str) -> None:
    with pytest.raises(ValueError, match="the time zone must be an IANA time zone such as UTC"):
        parse("0 3 * * *", zone, NOW)


def test_what_is_too_long_is_not_kept() -> None:
    before = schedules._parsed.cache_info().currsize
    for text in ("x" * 1_000_000, "0 3 * * *\n" * 100_000):
        with pytest.raises(ValueError, match="1000 characters"):
            parse(text, BERLIN, NOW)
    assert schedules._parsed.cache_info().currsize == before


COSTLY = [
    *("0 0 */31 * 1#5", "0 0 LW * */7", "* * */31 * mon#5", "0 0 */31 * 0#5,1#5,2#5,3#5,4#5,5#5,6#5"),
    *("Mon *-2,4,6,9,11-31 *:*:*", "1971/2-02-29", "Sun *-03-25..31 02:*:*", "Sun *-03~07/1 02:*:*"),
    *("* 2 * 3 0L", "\n".join(["* 2 * 3 0L"] * 10), "*/5 0 29 2 */7", "Sun *-02-29 *:*:59"),
    *("*:*:*", "0-59 0-23 * * *", "0 0 L * 0#5"),
]
MOMENTS = [NOW, datetime(2026, 10, 25, 1, tzinfo=UTC), datetime(2011, 12, 30, 9, 59, 59, tzinfo=UTC)]
"""Also in an hour that comes twice, and before a day that was skipped."""


@pytest.mark.parametrize("text", COSTLY)
@pytest.mark.parametrize("zone", [BERLIN, "Pacific/Apia"])
def test_what_costs_the_most(text: str, zone: str) -> None:
    """Milliseconds, at most about 40 when nothing else runs; a search without a bound took seconds."""
    assert min(cost(text, zone) for _ in range(2)) < 0.15


@pytest.mark.parametrize("text", ["*-2,4,6,9,11-31", "*-02-30 *:*:*", "Mon 2027..2199-2-30,31"])
def test_days_that_no_month_has_are_not_looked_for(text: str) -> None:
    assert min(cost(text, BERLIN) for _ in range(3)) < 0.01


def cost(text: str, zone: str) -> float:
    schedules._parsed.cache_clear()
    began = process_time()
    schedule = schedules._parsed(text, zones.zone(zone))[0]
    if schedule:
        for at in MOMENTS:
            schedule.following(at)
    return process_time() - began


def test_what_systemd_loses_after_a_step_that_misses_the_end_is_not_demanded() -> None:
    """Held against systemd 252 itself in tests/reference."""
    before = datetime(2026, 12, 31, 22, 59, tzinfo=UTC)
    for text, due in {
        "0/5:00": ["01-01 05:00:00", "01-01 10:00:00"],
        "0..23/5:00": ["01-01 00:00:00", "01-01 05:00:00"],
        "0/6:00": ["01-01 00:00:00", "01-01 06:00:00"],
        "0/5,23:30": ["12-31 23:30:00", "01-01 00:30:00"],
        "Sat,Sun 0/5:00": ["01-02 00:00:00", "01-02 05:00:00"],
        "23,0:0/7": ["12-31 23:00:00", "12-31 23:07:00"],
        "23,0:50/7": ["12-31 23:50:00", "12-31 23:57:00", "01-01 00:50:00"],
        "23:30,59 UTC": ["12-31 23:30:00", "12-31 23:59:00"],
        "22,0:0/57": ["01-01 00:00:00", "01-01 00:57:00"],
        "*:0/57": ["12-31 23:00:00", "12-31 23:57:00", "01-01 00:57:00"],
        "*:3/56": ["12-31 23:03:00", "12-31 23:59:00", "01-01 00:03:00"],
        "*:0,59:0/50": ["12-31 22:59:50", "12-31 23:00:50", "12-31 23:59:00"],
        "*-*-1/29": ["01-30 00:00:00", "02-01 00:00:00"],
        "*-2..12-1/29": ["02-01 00:00:00", "03-01 00:00:00"],
        "*-*~28/26": ["01-30 00:00:00", "02-01 00:00:00"],
        "*-*~28/27": ["01-04 00:00:00", "01-31 00:00:00"],
    }.items():
        found = islice(parse(text, "UTC", NOW).upcoming(before), len(due))
        assert [f"{at:%m-%d %T}" for at in found] == due, text
    asked = datetime(2026, 4, 23, 21, 50, tzinfo=UTC)
    cairo = islice(parse("*:0/7", "Africa/Cairo", NOW).upcoming(asked), 2)
    assert [f"{at:%T}" for at in cairo] == ["21:56:00", "22:07:00"], "its midnight is skipped, 1:00 is lost"


ZONES = [
    *(
        BERLIN,
        "America/New_York",
        "Australia/Lord_Howe",
        "Africa/Cairo",
        "Antarctica/Troll",
        "Africa/Casablanca",
    ),
    *("Pacific/Apia", "Pacific/Kiritimati", "America/Havana", "Asia/Kolkata", "Etc/GMT+12", "UTC"),
]
TEXTS = st.one_of([st.randoms().map(kind) for kind in (cron, on_calendar, uneven)])
NIGHTS = [datetime(2026, *at, tzinfo=UTC) for at in ((3, 29, 1), (10, 25, 1), (4, 4, 15))]
INSTANTS = st.one_of(
    st.datetimes(datetime(1950, 1, 1), datetime(2150, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.tuples(st.sampled_from(NIGHTS), st.floats(-90_000, 90_000)).map(
        lambda night: night[0] + timedelta(seconds=night[1])
    ),
)
quick = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


@quick
@given(TEXTS, st.sampled_from(ZONES), INSTANTS, st.sampled_from(ZONES))
@example("30 2 * * *", BERLIN, datetime(2026, 10, 25, 1, 10, tzinfo=UTC), BERLIN)
@example("*:0/15", BERLIN, datetime(2026, 10, 25, 1, 10, tzinfo=UTC), BERLIN)
def test_what_follows_is_later_whole_and_the_next_one(text: str, zone: str, at: datetime, other: str) -> None:
    schedule = schedules._parsed(text, zones.zone(zone))[0]
    if schedule is None:
        return
    found = schedule.following(at)
    assert schedule.following(at.astimezone(zones.zone(other))) == found  # a moment is a moment in any zone
    if found is None:
        return
    assert found > at
    assert found.tzinfo is UTC
    assert found.microsecond == 0
    # Nothing lies between: from anywhere in between, it is what follows; from it on, something later does.
    for between in (at + (found - at) / 2, found - timedelta(microseconds=1)):
        assert between < at or schedule.following(between) == found
    assert all(a < b for a, b in pairwise(islice(schedule.upcoming(at), 5)))


KNOWN = (
    " must be ",
    "use cron",
    "never comes",
    "any more",
    "five fields",
    "with an @",
    "OnCalendar is",
    "lines",
)


@quick
@given(st.text(max_size=40) | st.text("0123456789*/,-#LW:.~ @\nMonFriSutcEuropBli", max_size=40))
@example("0 0 * * 1#2/3")
@example("0 0 L/2 * *")
@example("0 0 * * ²L")
@example("*-*-~1")
@example("~")
@example("-")
@example("*-*~")
def test_any_text_is_a_schedule_or_refused_in_words(text: str) -> None:
    try:
        schedule = parse(text, BERLIN, NOW)
    except ValueError as error:
        words = str(error)
        assert words.isprintable()
        assert any(known in words for known in KNOWN), words
    else:
        assert schedule.says
        following = schedule.following(NOW)
        assert following is not None
        assert following > NOW


@pytest.mark.parametrize("at", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("text", ["0 3 * * *", "* * * * *", "0 0 29 2 *", "daily", "*:*:*", "Mon *-02-29"])
def test_the_calendar_may_begin_and_end(at: datetime, zone: str, text: str) -> None:
    schedule = parse(text, zone, NOW)
    for moment in (at, at + timedelta(days=2) if at.year == 1 else at - timedelta(days=2)):
        found = schedule.following(moment)
        assert found is None or found > moment
    assert list(islice(schedule.upcoming(datetime(9999, 12, 31, 23, tzinfo=UTC)), 1000))[1000:] == []


def test_what_is_over_may_still_be_read_as_of_then() -> None:
    """A schedule that was accepted is read again from the record, long after its last moment."""
    schedule = parse("2026-12-24 18:00", BERLIN)
    assert schedule.following(NOW) == datetime(2026, 12, 24, 17, tzinfo=UTC)
    assert schedule.following(datetime(2027, 1, 1, tzinfo=UTC)) is None
    assert list(schedule.upcoming(datetime(2027, 1, 1, tzinfo=UTC))) == []


@pytest.mark.parametrize(
    "text", ["*-*-1/4 *:*:*", "*-1,12-3,5,7,9,11,13,2/28 *:*:*", "*-1,12-3..29,2/28 *:*:*", "*-*-* 1/23:*:*"]
)
def test_what_systemd_loses_is_passed_over_at_once(text: str) -> None:
    """Not second by second: one heartbeat with such a schedule would stop everything for seconds."""
    began = process_time()
    found = schedules.parse(text, "UTC", datetime(2026, 11, 28, tzinfo=UTC))
    found.following(datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC))
    assert process_time() - began < 0.5
