"""What the monitor knows of a service, and the facts it learns. Pure.

Times are microseconds since 1970 UTC, as the broker stored the facts.
"""

from dataclasses import dataclass
from typing import NamedTuple

from shared.contracts.events import Doubt, Limits, Outcome, Signal, Status
from shared.contracts.thresholds import OWN, Inherited
from shared.domain.timetable import NOTHING_EXPECTED, Expectation, Timetable

SECOND = 1_000_000

UNKNOWN, ALIVE, SILENT, DOWN, DEAD = Status


class EffectiveThresholds(NamedTuple):
    """How long after the last heartbeat a service becomes silent, down and dead, in microseconds."""

    silent: int
    down: int
    dead: int


class Beat(NamedTuple):
    """A heartbeat. `after_hole`: the broker has removed heartbeats just before it, so that nobody knows
    whether the service was silent before it."""

    at: int
    signal: Signal = Signal.SUCCESS
    every: int = 0
    """The interval it declares, in microseconds; 0 if none."""
    message: str | None = None
    exit_code: int | str | None = None
    after_hole: bool = False
    trace: str | None = None
    """The `traceparent` it came with."""
    schedule: str = ""
    time_zone: str = ""
    """Those that it declares; empty if none."""
    run: str = ""
    """The sender's id of the run that begins or ends with it."""
    duration: int = 0
    """Of the run that ends with it, as its sender measured it, in microseconds; 0: it did not."""
    limits: Limits | None = None
    """What it declares beside its schedule or interval."""


class PausedReport(NamedTuple):
    """What the heartbeats during a pause amount to: the newest success or failure, or a start if there is
    neither. It takes effect at the resume, at `resumed_at` (0: not yet)."""

    signal: Signal
    message: str | None = None
    exit_code: int | str | None = None
    duration: int | None = None
    """Of the run that ended with it, in microseconds."""
    trace: str | None = None
    resumed_at: int = 0


class StatusTransition(NamedTuple):
    """A step from one status to another. `since`: when it happened, perhaps long before it was noticed."""

    from_: Status
    to: Status
    since: int
    last_beat: int | None
    reason: str
    message: str | None = None
    duration: int | None = None
    """How long the run took that ended with this heartbeat, in microseconds."""
    doubt: Doubt | None = None
    trace: str | None = None
    """The `traceparent` of the heartbeat that caused it."""


class OpenRun(NamedTuple):
    """A run that has begun and not ended. `key`: which run of the service it is."""

    started: int
    run: str
    key: str
    occurrence: int = 0
    """The one it counts for; 0: none."""
    counted_from: int = 0
    """From when its time is counted, where that is later than its start: the service was resumed then, or its
    limit was changed."""
    overdue_at: int = 0
    """When it was found overdue; 0: it was not. 1 in a snapshot of a version that did not know when."""
    is_told: bool = False
    """Whether it is recorded that it takes longer than all before."""


class RunFact(NamedTuple):
    """What has become of a run. `at`: when; facts of a service are recorded in the order of `order`."""

    at: int
    outcome: Outcome
    key: str
    started: int = 0
    ended: int = 0
    occurrence: int = 0
    run: str = ""
    message: str | None = None
    exit_code: int | str | None = None
    unusual: str | None = None
    notify: bool = False
    measured: int = 0
    """How long it took, as its sender measured it; 0: it did not."""

    @property
    def took(self) -> int:
        """How long it took, of one that has ended and began."""
        return self.measured or self.ended - self.started

    @property
    def is_first(self) -> bool:
        """Whether it is the one that met its occurrence."""
        return bool(self.occurrence) and self.key == str(self.occurrence)

    @property
    def order(self) -> tuple[int, int, str]:
        gave_way = self.outcome is Outcome.OVERDUE and self.message
        rank = _AFTER_WHAT_WAS_DUE if self.ended or gave_way else _RANKS[self.outcome]
        return self.at, rank, "" if self.ended else self.key  # a heartbeat ends one run only


_RANKS = {Outcome.OVERDUE: 0, Outcome.RUNNING: 1, Outcome.MISSED: 2}
_AFTER_WHAT_WAS_DUE = 3
"""Several facts may be of the same moment: a run is overdue, a heartbeat passes over an occurrence, and
another run ends with it, or gives way to it."""


class Gap(NamedTuple):
    """Between two heartbeats was more time than half of what makes the service silent. `signal`: of the
    second."""

    from_: int
    to: int
    signal: Signal = Signal.SUCCESS

    @property
    def order(self) -> tuple[int, int, str]:
        """Its place among the facts about runs: after what was due, before what its heartbeat leads to."""
        return self.to, _RANKS[Outcome.MISSED], "gap"


class Overdue(NamedTuple):
    """A run that has not ended in time: it was found so at `at`."""

    at: int
    started: int
    limit: int


@dataclass(slots=True)
class Job:
    """What is kept beside the rest of a service that has a schedule or runs, or counts its failures."""

    time_zone: str = "UTC"
    """Of its schedule, and of the times in reasons."""
    declared: tuple[str, str] = ("", "")
    """Its schedule, and the zone that was given; empty where there is none."""
    limits_heard: Limits | None = None
    """Those that a heartbeat declared last; not in a snapshot, as it only spares looking them up again."""
    early: int = 0
    """0: what is usual."""
    timetable: Timetable | None = None
    max_run: int = 0
    """0: none is configured."""
    fail_after: int = 1
    recover_after: int = 1
    notify_unusual: bool = True
    expectation: Expectation = NOTHING_EXPECTED
    expected_from: int = 0
    """What was due before is not expected of it: it was registered, resumed or given its schedule then."""
    missed_until: int = 0
    """No occurrence up to this one is recorded as missed any more."""
    open_runs: tuple[OpenRun, ...] = ()
    overdue: Overdue | None = None
    """The first run that was found overdue since the last success."""
    failures: int = 0
    """Without a success between."""
    successes: int = 0
    """Since it went down, or became dead, without a failure between."""
    lengths: tuple[int, ...] = ()
    """Of the last runs that succeeded, the newest last."""
    ended_at: int = 0
    """The newest heartbeat that ended a run."""
    ended_start: int = 0
    """When that run had begun; 0: nobody knows."""
    told_at: int = 0
    """When it was sent last that a run is unusual."""
    offsets: tuple[int, ...] = ()
    """How many half hours the last heartbeats were from what is expected; see `zone_hints`."""
    next_at: int = 0
    """Until then nothing is due of it, as it was when it was scheduled last."""
    run_seq: int = 0
    """Of the newest fact in RUNS."""
    recorded: tuple[int, int, str] = (0, 0, "")
    """The order of the newest fact that is known to be recorded."""
    settled_until: int = 0
    """No occurrence up to this one is waited for any more: it was late already when a run that had begun
    before it succeeded, and a service falls once for what it missed."""


@dataclass(slots=True)
class MonitoredService:
    """All that the monitor knows of one service."""

    name: str
    registered_at: int
    patience: EffectiveThresholds
    counted_from: tuple[int, int, int] = (0, 0, 0)
    """The moments from which the thresholds for silent, down and dead are counted, where these are later than
    its last heartbeat: it was resumed then, or its thresholds were changed (`change_thresholds`)."""
    resumed_at: int = 0
    """From when on it was expected after its last pause: no change of its thresholds counts from before."""
    own: tuple[int | None, int | None, int | None] = (None, None, None)
    """The thresholds in its configuration; None where the registry's default is used."""
    inherited: Inherited = OWN
    """Which of them it has from its file's template or defaults."""
    every: int = 0
    """The interval that its heartbeats declare; 0: none."""
    every_at: int = 0
    """When the heartbeat came that declared the interval, or the schedule."""
    by_hand: bool = False
    """Whether a person or a file set its interval or schedule: then heartbeats declare nothing."""
    paused: bool = False
    said: PausedReport | None = None
    """What its heartbeats reported during a pause, kept until that has been evaluated after the resume."""
    config_seq: int = 0
    status: Status = UNKNOWN
    since: int = 0
    status_seq: int = 0
    last_beat: int = 0
    """0: there was none yet."""
    recorded_beat: int = 0
    """The newest heartbeat in a recorded event; later than `last_beat` while heartbeats are read again."""
    unproved: int = 0
    """Until then there may have been heartbeats that the broker has removed: silence counts from here."""
    rhythm: int = 0
    """Time between the last two heartbeats that did not end a run; 0 if fewer are known."""
    in_a_row: int = 0
    """How many heartbeats in a row came in time after the one before; at most REGULAR."""
    signal: Signal = Signal.SUCCESS
    """The signal of its last heartbeat."""
    held: tuple[Beat, ...] = ()
    """Heartbeats that came late: a tick is to prove that the registry was listening before them."""
    unsure: bool = False
    """The broker has removed heartbeats that were not read: it is not evaluated before the next one comes."""
    scheduled: int = 0
    """The second in which it is checked next."""
    quiet: int = 0
    """The second after which it is late by its own rhythm, as the cadence index has it; 0: it has none."""
    bucket: int = 0
    """The part of the snapshot it belongs to."""
    job: Job | None = None
    """None: it just beats."""

    @property
    def heard(self) -> int:
        """The newest heartbeat that is known, read or mentioned by an event."""
        return max(self.last_beat, self.recorded_beat)
