"""The past under another configuration, given / when / then: a record as the streams hold it, a plan, and
what would have come, gone or moved."""

from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

from services.monitor.domain import epochs
from services.monitor.domain.service import EffectiveThresholds, Gap, RunFact, StatusTransition
from services.monitor.store import mapping
from services.replay.history import History
from services.replay.messages import Rules
from services.replay.report import answer
from services.replay.run import NEVER_THERE, SHORTER, UNEXPLAINED, Plan, Result, replay
from shared.contracts.events import (
    Acknowledgement,
    ConfigData,
    ConfigurationSet,
    IncidentData,
    Outcome,
    ServiceAcknowledged,
    ServiceConfig,
    ServicePaused,
    ServiceRegistered,
    ServiceResumed,
    Setting,
    Signal,
    Status,
    moment,
)
from shared.contracts.maintenance import Window
from shared.contracts.routes import Routes
from shared.messaging import streams
from shared.messaging.reader import Stored

UNKNOWN, ALIVE, SILENT, DOWN, DEAD = Status
M, H, D = 60 * 10**6, 3600 * 10**6, 86400 * 10**6
T = 1_790_000_000 * 10**6
"""From here on the past is gone through."""
PATIENCE = EffectiveThresholds(15 * M, 1 * H, 7 * D)
LIMITS = timedelta(minutes=15), timedelta(hours=1), timedelta(days=7)
END = T + 2 * D


class Record:
    """Moments are minutes after T."""

    def __init__(self, until: int = END, since: int = T) -> None:
        self.since, self.messages = since, list[Stored]()
        self._seq = 0
        self.put(streams.tick("one"), f'{{"open_since": "{moment(T - 9 * D).isoformat()}"}}'.encode(), until)

    def put(self, subject: str, data: bytes, at: int) -> "Record":
        self._seq += 1
        self.messages.append(Stored(subject, data, None, self._seq, at, 0))
        return self

    def service(self, name: str, at: float = -7 * 1440, **config: Any) -> "Record":
        data = ConfigData(config=ServiceConfig(**config))
        return self.config(ServiceRegistered, name, at, data)

    def config(self, kind: Any, name: str, at: float, data: ConfigData) -> "Record":
        when = T + round(at * M)
        known = data.model_copy(update={"registered_at": data.registered_at or moment(when)})
        event = kind(id=str(self._seq), source="/api", subject=name, time=moment(when), data=known)
        return self.put(streams.config(name), event.to_bytes(), when)

    def change(self, name: str, from_: Status, to: Status, since: float, last: float) -> "Record":
        why = "heartbeat" if to is ALIVE else "no heartbeat for 15m"
        change = StatusTransition(from_, to, T + round(since * M), T + round(last * M), why)
        return self.put(streams.status(name), mapping.to_event(name, change).to_bytes(), change.since)

    def alive(self, name: str, at: float = -7 * 1440 + 1) -> "Record":
        return self.change(name, UNKNOWN, ALIVE, at, at)

    def gap(self, name: str, from_: float, to: float, signal: Signal = Signal.SUCCESS) -> "Record":
        gap = Gap(T + round(from_ * M), T + round(to * M), signal)
        return self.put(streams.run(name), mapping.gap_event(name, gap).to_bytes(), gap.to)

    def run(self, name: str, started: float, ended: float, occurrence: float) -> "Record":
        at, due = T + round(ended * M), T + round(occurrence * M)
        fact = RunFact(at, Outcome.SUCCESS, str(due), T + round(started * M), at, due)
        return self.put(streams.run(name), mapping.run_event(name, fact).to_bytes(), at)

    def beat(self, name: str, at: float) -> "Record":
        return self.put(streams.heartbeat(name), b"", T + round(at * M))

    def silence(self, name: str, from_: float, to: float) -> "Record":
        """As the monitor records it, with 15 m until silent and an hour until down."""
        status = ALIVE
        for worse, after in ((SILENT, 15), (DOWN, 60)):
            if to - from_ > after:
                self.change(name, status, worse, from_ + after, from_)
                status = worse
        if to - from_ > 7.5:
            self.gap(name, from_, to)
        return self if status is ALIVE else self.change(name, status, ALIVE, to, to)

    def replay(
        self, channels: tuple[str, ...] = ("ops",), routes: Any = None, windows: Any = None, **plan: Any
    ) -> Result:
        history = History(self.since - D)
        for message in self.messages:
            history.add(message)
        rules = Rules(channels, ZoneInfo("UTC"), LIMITS, (timedelta(hours=6),))
        services = {name: ConfigData(config=ServiceConfig(**config)) for name, config in plan.items()}
        return replay(history, Plan(services, routes, windows or {}), rules, epochs.first(PATIENCE), T)


def falls(result: Result, name: str = "web") -> list[tuple[str, float | None, float | None]]:
    """Status, and when in minutes after T: as it was, as it would have been."""
    found = next((each.falls for each in result.differences if each.service == name), [])
    return [(pair.status.value, _minutes(pair.was), _minutes(pair.would)) for pair in found]


def messages(result: Result, name: str = "web") -> list[tuple[str, str, str, float | None, float | None]]:
    found = next((each.messages for each in result.differences if each.service == name), [])
    return [(it.channel, it.what, it.status.value, _minutes(it.was), _minutes(it.would)) for it in found]


def _minutes(at: int | None) -> float | None:
    return None if at is None else round((at - T) / M, 3)


def web(**config: Any) -> Record:
    """It beat well until minute 100, was silent for 20, well until 500, down for some hours, and is well."""
    record = Record().service("web", **config).alive("web")
    record.gap("web", -1000, -991)
    record.silence("web", 100, 120).silence("web", 500, 700)
    return record.beat("web", 2 * 1440 - 3)


def test_what_falls_later_or_not_at_all_with_a_longer_threshold() -> None:
    result = web().replay(web={"silent_after": timedelta(minutes=30)})
    assert falls(result) == [("silent", 115, None), ("silent", 515, 530)]
    assert messages(result) == [
        ("ops", "change", "silent", 115, None),
        ("ops", "change", "alive", 120, None),
        ("ops", "change", "silent", 515, 530),
    ]
    assert (result.falls, result.unknown, result.changed) == ((3, 2), {}, 1)


def test_what_falls_sooner_with_a_shorter_threshold_as_far_as_gaps_tell() -> None:
    """Half of the old threshold: shorter pauses would have been recorded, too."""
    record = web()
    record.gap("web", 800, 810)
    result = record.replay(web={"silent_after": timedelta(minutes=8)})
    assert falls(result) == [("silent", 115, 108), ("silent", 515, 508), ("silent", None, 808)]
    assert result.unknown == {}


def test_of_pauses_that_were_too_short_to_be_recorded_it_is_said_that_nobody_knows() -> None:
    result = web().replay(web={"silent_after": timedelta(minutes=5)})
    assert result.unknown == {"web": (END - 3 * M, SHORTER)}
    assert falls(result) == []


def test_where_gaps_were_not_recorded_yet_a_pause_may_have_been_as_long_as_the_threshold() -> None:
    record = web()
    record.messages = [each for each in record.messages if not each.subject.startswith("run.")]
    assert record.replay(web={"silent_after": timedelta(minutes=10)}).unknown["web"][1] == SHORTER
    longer = record.replay(web={"silent_after": timedelta(minutes=25)})
    assert (longer.unknown, falls(longer)) == ({}, [("silent", 115, None), ("silent", 515, 525)])


def test_the_heartbeats_that_are_kept_tell_of_every_pause() -> None:
    record = Record().service("web").alive("web", at=-1)
    for minute in range(-1, 2 * 1440, 6):
        if not 100 < minute < 107:
            record.beat("web", minute)
    result = record.replay(web={"silent_after": timedelta(minutes=7)})
    assert falls(result) == [("silent", None, 102)]
    assert result.unknown == {}


def test_the_same_configuration_is_no_difference_whatever_its_routes_are_called() -> None:
    result = web().replay(
        web={}, routes=Routes.model_validate({"routes": [{"to": ["ops"]}]}), channels=("ops",)
    )
    assert (result.differences, result.changed, result.falls) == ([], 0, (3, 3))
    assert result.messages[0] == result.messages[1] > 0


def test_what_the_record_does_not_explain_counts_for_nothing() -> None:
    """Somebody has removed the change back to alive from the stream."""
    record = web()
    record.messages = [each for each in record.messages if each.at != T + 700 * M]
    result = record.replay(web={"silent_after": timedelta(minutes=30)})
    assert result.unknown["web"][1] == UNEXPLAINED
    assert falls(result) == []


def test_a_service_that_was_not_there_is_said_to_be_unknown() -> None:
    assert web().replay(new={}).unknown == {"new": (None, NEVER_THERE)}


DUE = 46000 / 60
"""At 03:00 UTC."""


def test_of_a_schedule_each_run_is_known() -> None:
    """The one at DUE did not come. With `every` in place of the schedule silence counts from the last run."""
    record = Record().service("job", schedule="0 3 * * *").alive("job", DUE - 7 * 1440 + 5)
    for n in (-3, -2, -1, 1):
        due = DUE + n * 1440
        if due < 1440 * 2 - 10:
            record.run("job", due + 1, due + 5, due)
    last = DUE - 1440 + 5
    record.change("job", ALIVE, SILENT, DUE + 15, last).change("job", SILENT, DOWN, DUE + 60, last)
    record.change("job", DOWN, ALIVE, DUE + 1440 + 5, DUE + 1440 + 5)
    later = record.replay(job={"schedule": "0 3 * * *", "down_after": timedelta(hours=2)})
    assert later.unknown == {}
    assert falls(later, "job") == _rounded(("down", DUE + 60, DUE + 120))
    every = record.replay(job={"every": timedelta(days=1)})
    assert falls(every, "job") == _rounded(
        ("silent", DUE + 15, last + 25 * 60), ("down", DUE + 60, last + 29 * 60)
    )


def _rounded(*falls: tuple[str, float, float]) -> list[tuple[str, float, float]]:
    return [(status, round(was, 3), round(would, 3)) for status, was, would in falls]


def test_a_pause_stays_as_it_was() -> None:
    record = Record().service("web").alive("web").gap("web", -1000, -991)
    for kind, at, paused in ((ServicePaused, 85, True), (ServiceResumed, 200, False)):
        config = ServiceConfig(paused=paused)
        record.config(kind, "web", at, ConfigData(config=config, registered_at=moment(T - 7 * D)))
    record.gap("web", 80, 210).beat("web", 2 * 1440 - 5)
    assert falls(record.replay(web={"silent_after": timedelta(minutes=9)})) == [("silent", None, 209)]


def routed(*routes: dict[str, Any]) -> Routes:
    return Routes.model_validate({"routes": routes})


def test_quiet_hours_hold_what_comes_in_them() -> None:
    """Minute 560 is 23:33 UTC; they end at 07:00, minute 1006.7."""
    quiet = {"hours": "22:00-07:00", "time_zone": "UTC", "hold": True}
    record = Record().service("web").alive("web").silence("web", 500, 1100).beat("web", 2 * 1440 - 5)
    held = record.replay(routes=routed({"to": ["ops"], "quiet": quiet}))
    assert falls(held) == []
    assert messages(held)[:2] == [
        ("ops", "change", "silent", 515, None),
        ("ops", "change", "down", 560, None),
    ]
    assert ("ops", "owed", "down", None, 1006.667) in messages(held)


def test_an_escalation_comes_unless_somebody_had_it_in_hand() -> None:
    boss = routed({"to": ["ops"], "escalate": {"after": "20m", "to": ["boss"]}})
    record = web()
    alone = record.replay(channels=("ops", "boss"), routes=boss)
    assert ("boss", "escalation", "down", None, 580) in messages(alone)
    fall = StatusTransition(ALIVE, SILENT, T + 515 * M, T + 500 * M, "no heartbeat for 15m")
    incident = mapping.to_event("web", fall).id
    held = Acknowledgement(incident=incident, by="Ana", at=moment(T + 565 * M))
    data = IncidentData(incident=incident, acknowledged=held)
    event = ServiceAcknowledged(id="a", source="/api", subject="web", time=held.at, data=data)
    record.put(streams.incident("web"), event.to_bytes(), T + 565 * M)
    acknowledged = record.replay(channels=("ops", "boss"), routes=boss)
    assert "escalation" not in {what for _, what, *_ in messages(acknowledged)}


def test_a_maintenance_window_that_was_not_there() -> None:
    start, end = moment(T + 90 * M), moment(T + 130 * M)
    window = Window(services=("web",), starts_at=start, ends_at=end)
    result = web().replay(windows={"w": window})
    assert [each[1:] for each in messages(result)] == [
        ("change", "silent", 115, None),
        ("change", "alive", 120, None),
    ]
    event = ConfigurationSet(
        id="w",
        source="/api",
        subject="maintenance.w",
        time=start,
        data=Setting(value=window.model_dump(mode="json", exclude_defaults=True)),
    )
    record = web().put(streams.configuration("maintenance.w"), event.to_bytes(), T + 80 * M)
    assert messages(record.replay(windows={"w": window})) == []
    assert [each[3:] for each in messages(record.replay(windows={"w": None}))] == [(None, 115), (None, 120)]


def test_what_depends_on_another_is_held_back_by_it() -> None:
    record = web().service("storage").alive("storage").silence("storage", 490, 720).beat("storage", 2800)
    result = record.replay(web={"depends_on": ("storage",)})
    assert falls(result) == []
    assert ("ops", "change", "down", 560, None) in messages(result)
    assert messages(result, "storage") == []


def test_the_answer_says_by_how_much() -> None:
    found = answer(web().replay(web={"silent_after": timedelta(minutes=30)}))
    gone, moved = found.differences[0].falls
    assert (gone.status, gone.would, gone.later_by) == ("silent", None, None)
    assert (moved.was, moved.would) == (moment(T + 515 * M), moment(T + 530 * M))
    assert moved.later_by == 900
    assert moved.last_heartbeat == moment(T + 500 * M)
    assert (found.falls.was, found.falls.would, found.more_differences) == (3, 2, 0)
