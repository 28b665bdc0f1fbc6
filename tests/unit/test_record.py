"""From events to the monitor's state and back, and its snapshots."""

import base64
import json
import random
import zlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.monitor.domain import buckets
from services.monitor.domain.buckets import BUCKETS
from services.monitor.domain.epochs import Epoch
from services.monitor.domain.mass_outage import REGULAR
from services.monitor.domain.service import (
    Beat,
    EffectiveThresholds,
    MonitoredService,
    PausedReport,
    StatusTransition,
)
from services.monitor.store import mapping, snapshot_codec
from services.monitor.store.mapping import ConfigChange, effective_thresholds, moment
from services.monitor.store.snapshot_codec import FORMAT, Bucket, Checkpoint, SnapshotPosition
from shared.contracts.events import (
    NAME_MAX,
    ConfigData,
    ConfigEvent,
    Doubt,
    Heartbeat,
    HeartbeatBody,
    ServiceConfig,
    ServiceDeleted,
    ServicePaused,
    ServiceRegistered,
    ServiceResumed,
    ServiceUpdated,
    Signal,
    Status,
    parse_event,
    valid_name,
)
from shared.contracts.heartbeats import excerpt
from shared.domain.coverage import Coverage

SECOND = 1_000_000
MINUTE = 60 * SECOND
DEFAULT = EffectiveThresholds(15 * MINUTE, 60 * MINUTE, 7 * 24 * 60 * MINUTE)
EPOCHS = [Epoch(0, DEFAULT)]
THEN = 1_800_000_000 * SECOND
"""A moment in which things happen; what comes before and after is counted from it."""

# --- snapshots

letters = "abcXYZ019_-"
names = st.one_of(
    st.text(letters, min_size=1, max_size=NAME_MAX),
    st.lists(st.text(letters, min_size=1, max_size=40), min_size=1, max_size=3).map(".".join),
)
times = st.integers(0, 2**62)
thresholds = st.none() | st.integers(1, 3650 * 24 * 60 * MINUTE)
services = st.builds(
    MonitoredService,
    name=names,
    registered_at=times,
    patience=st.just(DEFAULT),
    counted_from=st.tuples(times, times, times),
    resumed_at=times,
    own=st.tuples(thresholds, thresholds, thresholds),
    every=st.just(0) | st.integers(1, 3650 * 24 * 60 * MINUTE),
    every_at=times,
    paused=st.booleans(),
    said=st.none()
    | st.builds(
        PausedReport,
        st.sampled_from([Signal.SUCCESS, Signal.START, Signal.FAIL]),
        st.none() | st.text(),
        st.none() | st.integers(0, 255) | st.just("KILL"),
        st.none() | times,
        st.none() | st.just("00-"),
        times,
    ),
    config_seq=times,
    status=st.sampled_from(Status),
    since=times,
    status_seq=times,
    last_beat=times,
    recorded_beat=times,
    unproved=times,
    rhythm=times,
    in_a_row=st.integers(0, REGULAR),
    signal=st.sampled_from([Signal.SUCCESS, Signal.START, Signal.FAIL]),
)
reaches = st.builds(Checkpoint, times, times)


@given(reaches, st.lists(services, max_size=5, unique_by=lambda it: it.name))
def test_a_bucket_is_read_as_it_was_written(reach: Checkpoint, services: list[MonitoredService]) -> None:
    for it in services:
        it.patience = effective_thresholds(it.own, it.every, EPOCHS[0])
        if it.resumed_at <= it.last_beat:
            it.resumed_at = 0  # nothing is counted from it any more
    bucket = Bucket(reach, Coverage(7, [(1, 2), (4, 5)]), 9, 0, services)
    assert snapshot_codec.load(snapshot_codec.dump(bucket), EPOCHS) == bucket


def test_a_bucket_fits_the_broker_however_much_paused_services_have_said() -> None:
    said = [PausedReport(Signal.FAIL, excerpt(random.Random(n).randbytes(600).hex()), 1) for n in range(4000)]
    paused = [MonitoredService(f"s{n}", THEN, DEFAULT, paused=True, said=it) for n, it in enumerate(said)]
    part = snapshot_codec.dump(Bucket(services=paused))
    assert len(part) < 1024 * 1024 * 0.9
    for before, after in zip(said, snapshot_codec.load(part, EPOCHS).services, strict=True):
        assert after.said
        assert before.message
        assert after.said.message
        assert (after.said.signal, after.said.message[-30:]) == (Signal.FAIL, before.message[-30:])
    few = snapshot_codec.dump(Bucket(services=paused[:200]))
    assert [it.said for it in snapshot_codec.load(few, EPOCHS).services] == said[:200]


def test_other_defaults_hold_for_what_an_older_snapshot_brings() -> None:
    plain = MonitoredService("plain", THEN, DEFAULT)
    own = MonitoredService("own", THEN, DEFAULT, own=(5 * SECOND, None, None))
    declared = MonitoredService("declared", THEN, DEFAULT, every=10 * SECOND)
    new = EffectiveThresholds(1 * MINUTE, 2 * MINUTE, 3 * MINUTE)
    found = snapshot_codec.load(
        snapshot_codec.dump(Bucket(services=[plain, own, declared])), [Epoch(0, new)]
    ).services
    assert [it.patience for it in found] == [
        new,
        EffectiveThresholds(5 * SECOND, 2 * MINUTE, 4 * MINUTE),
        EffectiveThresholds(30 * SECOND, 110 * SECOND, 220 * SECOND),
    ]


def test_a_beat_that_waits_for_its_proof_is_read_again_not_kept() -> None:
    it = MonitoredService("web", THEN, DEFAULT, held=(Beat(THEN + 1),), unsure=True, scheduled=7, quiet=8)
    (found,) = snapshot_codec.load(snapshot_codec.dump(Bucket(services=[it])), EPOCHS).services
    assert found == MonitoredService("web", THEN, DEFAULT)


gaps = st.lists(st.tuples(times, times), max_size=4)
seqs = st.lists(times, min_size=BUCKETS, max_size=BUCKETS)


@given(reaches, st.builds(Coverage, times, gaps), seqs, seqs)
def test_a_position_is_read_as_it_was_written(
    reach: Checkpoint, coverage: Coverage, beats: list[int], events: list[int]
) -> None:
    position = SnapshotPosition(["a", "b"], reach, coverage, beats, events)
    assert SnapshotPosition.load(position.dump()) == position


BEFORE = base64.b64decode(
    "eAGrVkrLL8pNLFGyMtZRKkpNTM5QsqpWykhNLCpJSk0sKQaLp5al5oGYJrU6Ssn5ZalFiempIGWleSWZOUpWljpK6YkFQPnoaEMdo9hYsKq8tM"
    "z00qLUFKAuHaW8xNxUkLxSQU5iZp4SUCAzPaMkpxLIKkotLs0FKtNRKkgsLQYyYmu5GOYvUhJPZWPASTNAAHvDDA2wOigfg0q4LiuCIYgQ+F5P"
    "QD9UaUPBZG1ke5gRRmBnwdyFg2bBrgshikMfA7o4QgdJLAdvH5qqJ2Q4MGbBABY3PFC+LJQGAIMpUl0="
)
"""A bucket as the version before wrote it."""


def test_a_snapshot_of_the_version_before_is_read_and_nothing_falls_for_the_past_by_it() -> None:
    """Its services go by its graces until the epoch of the upgrade."""
    upgrade = THEN + 100 * SECOND
    bucket = snapshot_codec.load(BEFORE, [Epoch(0, DEFAULT, bounded=False), Epoch(upgrade, DEFAULT)])
    plain, nightly, resumed, paused = bucket.services
    assert (bucket.reach, bucket.configured, bucket.epoch) == (Checkpoint(3, 4), 4, 0)
    assert (plain.status, plain.last_beat, plain.rhythm) == (Status.ALIVE, THEN, 5 * SECOND)
    assert (plain.config_seq, plain.status_seq, plain.counted_from) == (3, 4, (0, 0, 0))
    assert (nightly.status, nightly.signal) == (Status.DOWN, Signal.START)
    assert nightly.patience.silent == 3 * 24 * 60 * MINUTE
    assert nightly.counted_from[0] == THEN + 7 - nightly.patience.silent, "no fall was dated before then"
    assert (resumed.own, resumed.counted_from) == ((5 * SECOND, None, None), (upgrade,) * 3)
    assert (paused.paused, paused.status, paused.signal) == (True, Status.DEAD, Signal.FAIL)


FULL = [0] * BUCKETS
GOOD = json.loads(SnapshotPosition([], Checkpoint(), Coverage(), FULL, FULL).dump())


@pytest.mark.parametrize(
    "content",
    [
        *({**GOOD, "format": other} for other in (1, FORMAT + 1, None, str(FORMAT))),
        {**GOOD, "beats": [], "events": []},
        {**GOOD, "beats": 5},
        {**GOOD, "reach": {"elsewhere": 1}},
        {**GOOD, "coverage": None},
        {"format": FORMAT},
        None,
        [],
    ],
)
def test_a_position_that_is_damaged_or_of_another_version_is_refused(content: object) -> None:
    with pytest.raises(ValueError, match="it is"):
        SnapshotPosition.load(json.dumps(content).encode())
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        SnapshotPosition.load(json.dumps(GOOD).encode()[:-5])


BUCKET = snapshot_codec.dump(
    Bucket(Checkpoint(3, 4), Coverage(), 4, 0, [MonitoredService("web", 1, DEFAULT)])
)


@pytest.mark.parametrize(
    "part",
    [
        b"",
        b"noise",
        BUCKET[:-3],
        *(
            zlib.compress(content)
            for content in (
                b"{}",
                b"null",
                b'{"format": 1, "reach": {}, "names": []}',
                b'{"format": %d, "reach": {}, "names": ["web"]}' % FORMAT,
                b'{"format": %d, "reach": {}, "names": ["web"]}\n12345678' % FORMAT,
                b'{"format": %d, "reach": {}, "names": ["web"]}\n123' % FORMAT,
                b'{"format": %d, "reach": {"x": 1}, "names": []}' % FORMAT,
                b'{"format": %d, "reach": {}, "names": 5}' % FORMAT,
            )
        ),
    ],
)
def test_a_bucket_that_is_damaged_or_of_another_version_is_refused(part: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        snapshot_codec.load(part, EPOCHS)


def test_a_bucket_goes_as_far_as_the_position_if_it_holds_what_that_knew_of_it() -> None:
    """Nothing of bucket 3 has happened since heartbeat 40 and event 7: whatever holds those is good."""
    position = SnapshotPosition([], Checkpoint(100, 20), Coverage(), [0, 0, 0, 40], [0, 0, 0, 7])
    for enough in (Checkpoint(40, 7), Checkpoint(99, 19), Checkpoint(150, 30)):
        assert position.holds(3, enough) == Checkpoint(100, 20)


def test_a_bucket_put_back_by_a_monitor_that_is_behind_goes_no_further_than_it_says() -> None:
    position = SnapshotPosition([], Checkpoint(100, 20), Coverage(), [0, 0, 0, 40], [0, 0, 0, 7])
    for behind in (Checkpoint(39, 7), Checkpoint(40, 6), Checkpoint(39, 19), Checkpoint(99, 6), Checkpoint()):
        assert position.holds(3, behind) == behind


def test_streams_are_read_from_the_oldest_part_and_belong_to_the_newest() -> None:
    parts = [Checkpoint(5, 30), Checkpoint(9, 10), Checkpoint(7, 20)]
    assert snapshot_codec.oldest(parts) == Checkpoint(5, 10)
    assert snapshot_codec.newest(parts) == Checkpoint(9, 30)


# --- configuration

EVERYTHING = ServiceConfig.model_validate(
    {
        "silent_after": "1m",
        "dead_after": "1h",
        "description": "the shop",
        "tags": ["a", "b"],
        "notify": False,
        "paused": True,
        "every": "10s",
    }
)


def config_event(
    kind: type[ServiceRegistered | ServiceUpdated | ServicePaused | ServiceResumed] = ServiceUpdated,
    config: ServiceConfig = EVERYTHING,
    registered_at: int = 0,
    declared_at: int = 0,
) -> ServiceRegistered | ServiceUpdated | ServicePaused | ServiceResumed:
    """0: it says nothing about when."""
    return kind(
        id="1",
        source="/test",
        subject="web",
        time=moment(THEN),
        data=ConfigData(
            config=config,
            registered_at=moment(registered_at) if registered_at else None,
            declared_at=moment(declared_at) if declared_at else None,
        ),
    )


@pytest.mark.parametrize(
    ("kind", "registers", "resumes"),
    [
        (ServiceRegistered, True, False),
        (ServiceUpdated, False, False),
        (ServicePaused, False, False),
        (ServiceResumed, False, True),
    ],
)
def test_what_the_monitor_takes_of_a_configuration(
    kind: type[ServiceUpdated], registers: bool, resumes: bool
) -> None:
    event = config_event(kind, registered_at=THEN - 5, declared_at=THEN - 3)
    assert mapping.config_change(event, 7, THEN) == ConfigChange(
        name="web",
        seq=7,
        at=THEN,
        deletes=False,
        registers=registers,
        resumes=resumes,
        registered_at=THEN - 5,
        own=(MINUTE, None, 60 * MINUTE),
        every=10 * SECOND,
        declared_at=THEN - 3,
        paused=True,
    )


def test_a_configuration_that_does_not_say_when_counts_from_when_it_was_stored() -> None:
    config_change = mapping.config_change(config_event(config=ServiceConfig()), 7, THEN)
    assert config_change == ConfigChange("web", 7, THEN, deletes=False, registered_at=THEN)


def test_a_deletion_carries_nothing_but_itself() -> None:
    event = ServiceDeleted(id="1", source="/test", subject="web", time=moment(THEN))
    assert mapping.config_change(event, 7, THEN) == ConfigChange("web", 7, THEN, deletes=True)


@pytest.mark.parametrize(
    ("own", "every", "expected"),
    [
        ((None, None, None), 0, DEFAULT),
        ((None, None, None), 10 * SECOND, EffectiveThresholds(30 * SECOND, 110 * SECOND, DEFAULT.dead)),
        ((None, 90 * MINUTE, None), 10 * SECOND, EffectiveThresholds(30 * SECOND, 90 * MINUTE, DEFAULT.dead)),
        ((80 * MINUTE, None, None), 0, EffectiveThresholds(80 * MINUTE, 160 * MINUTE, DEFAULT.dead)),
        ((1, 2, 3), 10 * SECOND, EffectiveThresholds(1, 2, 3)),
    ],
)
def test_thresholds_in_force(
    own: tuple[int | None, int | None, int | None], every: int, expected: EffectiveThresholds
) -> None:
    assert effective_thresholds(own, every, EPOCHS[0]) == expected


# --- what a beat declares

DECLARES = Beat(THEN, every=20 * SECOND)


def declaration(newest: ConfigEvent, stored_at: int = THEN + 5) -> ServiceUpdated | None:
    return mapping.declaration("web", DECLARES, newest, stored_at)


def test_a_declared_interval_is_taken_into_the_configuration_which_stays_as_it_was() -> None:
    newest = config_event(registered_at=THEN - 50, declared_at=THEN - 10)
    event = declaration(newest)
    assert event
    assert event.data.config == EVERYTHING.model_copy(update={"every": timedelta(seconds=20)})
    assert event.data.registered_at == moment(THEN - 50)
    assert event.data.declared_at == event.time == moment(THEN)
    assert event.data.registered_by == newest.data.registered_by
    assert event.actor == "heartbeat", "whoever wrote the newest"
    assert parse_event(event.to_bytes()) == event


def test_a_declaration_says_since_when_the_service_is_registered_where_nothing_did() -> None:
    event = declaration(config_event(ServiceRegistered, ServiceConfig()), THEN - 60)
    assert event
    assert event.data.registered_at == moment(THEN - 60), "when the newest was stored"


@pytest.mark.parametrize(
    "newest",
    [
        pytest.param(ServiceDeleted(id="1", source="/t", subject="web", time=moment(THEN)), id="deleted"),
        pytest.param(
            config_event(config=ServiceConfig(every=timedelta(seconds=20)), declared_at=THEN - 9),
            id="is there",
        ),
        pytest.param(config_event(), id="a person has set another interval"),
        pytest.param(config_event(declared_at=THEN), id="knows this beat"),
        pytest.param(config_event(declared_at=THEN + 1), id="knows a later beat"),
        pytest.param(config_event(registered_at=THEN + 1), id="registered later"),
    ],
)
def test_there_is_nothing_to_declare(newest: ConfigEvent) -> None:
    assert declaration(newest) is None


def test_what_a_person_cleared_is_declared_again_however_far_ahead_the_clock_of_the_api_is() -> None:
    cleared = config_event(config=ServiceConfig(), declared_at=THEN + 60 * MINUTE)
    assert declaration(cleared) is None, "it was cleared after this heartbeat"
    assert declaration(cleared, THEN) is None
    assert declaration(cleared, THEN - 1)
    assert mapping.config_change(cleared, 7, THEN - 1).declared_at == THEN - 1


def test_a_service_that_was_registered_by_the_same_beat_may_declare() -> None:
    assert declaration(config_event(registered_at=THEN, declared_at=THEN - 9))


def test_a_first_heartbeat_registers_with_what_it_declares() -> None:
    event = mapping.registration("web", DECLARES)
    assert event.data.config == ServiceConfig(every=timedelta(seconds=20))
    assert event.data.registered_at == event.data.declared_at == moment(THEN)
    assert event.data.registered_by == event.actor == "heartbeat"
    assert mapping.registration("web", Beat(THEN)).data.declared_at is None


# --- beats and changes


def test_of_a_heartbeat_the_change_keeps_the_beginning_and_the_end_of_its_message() -> None:
    body = HeartbeatBody.model_validate({"message": "a" * 9_000 + "b" * 1_000, "every": "1m"})
    said = "a" * 200 + "\n[… 9000 bytes left out …]\n" + "b" * 800
    assert mapping.beat(THEN, Heartbeat(Signal.FAIL, body, 3)) == Beat(THEN, Signal.FAIL, MINUTE, said, 3)
    assert mapping.beat(THEN, Heartbeat(Signal.SUCCESS, None, None)) == Beat(THEN)


CHANGE = StatusTransition(
    Status.ALIVE, Status.DOWN, THEN, THEN - 5, "why", "said", 1_500_000, Doubt(stopped=6, of=9, within=2)
)


def test_a_change_is_an_event_and_the_lifecycle_reads_it_back() -> None:
    event = mapping.to_event("web", CHANGE)
    assert event.data.duration == 1.5
    assert event.data.doubt
    assert event.data.doubt.model_dump() == {"stopped": 6, "of": 9, "within": 2}
    assert parse_event(event.to_bytes()) == event
    assert mapping.to_transition(event) == CHANGE._replace(message=None, duration=None, doubt=None)


def test_the_same_fact_always_has_the_same_id() -> None:
    other = CHANGE._replace(reason="other", message=None, duration=None, doubt=None, last_beat=None)
    assert mapping.to_event("web", CHANGE).id == mapping.to_event("web", other).id
    assert mapping.registration("web", DECLARES).id == mapping.registration("web", Beat(THEN)).id
    ids = [
        mapping.to_event("web", CHANGE).id,
        mapping.to_event("shop", CHANGE).id,
        mapping.to_event("web", CHANGE._replace(since=THEN + 1)).id,
        mapping.to_event("web", CHANGE._replace(to=Status.DEAD)).id,
        mapping.to_event("web", CHANGE._replace(from_=Status.SILENT)).id,
        mapping.registration("web", DECLARES).id,
        mapping.registration("web", Beat(THEN + 1)).id,
        mapping.registration("shop", DECLARES).id,
        *(event.id for event in (declaration(config_event(declared_at=THEN - 9), THEN - 60),) if event),
    ]
    assert len(set(ids)) == len(ids) == 9


@given(names)
def test_names_of_these_tests_are_names(name: str) -> None:
    assert valid_name(name)
    assert 0 <= buckets.bucket_of(name) < BUCKETS


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_moments_are_exact(time: datetime) -> None:
    assert moment(mapping.micros(time)) == time
