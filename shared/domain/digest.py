"""The daily digest: how the fleet is, at a glance, and when it falls due. Pure.

Lines of plain text without markup, so that Telegram, the log and the API's summary say the same.
"""

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from types import MappingProxyType
from zoneinfo import ZoneInfo

from shared.contracts.durations import spoken
from shared.contracts.events import Outcome, Status, micros, moment
from shared.contracts.zones import local
from shared.domain.incidents import person
from shared.domain.service_state import PAUSED, ServiceState, belongs_to_this_life
from shared.domain.timeline import STATES, Mark, Now, percent, segments, uptime
from shared.domain.timeline import spent as spent_in

WINDOW = timedelta(hours=24)
WEEK = timedelta(days=7)
MAX_NAMED = 150
"""Services of a kind that a digest names; there is no room for more."""
FLAPPING = 4
"""Changes within the window that make a service a flapper."""

MARKS = {
    Status.UNKNOWN: "❔",
    Status.ALIVE: "✅",
    Status.SILENT: "⏳",
    Status.DOWN: "🔻",
    Status.DEAD: "💀",
}
"""One shape per status: they differ by more than their colour."""


@dataclass(frozen=True, slots=True)
class Beside:
    """What there is to say of services beside their status, at one moment, by their names: which are muted,
    which are in maintenance, and who (`actor`) has which in hand."""

    muted: Collection[str] = ()
    maintenance: Collection[str] = ()
    owners: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Digest:
    """Of what is named here, down and silent services longest first, only the first are there; `counts` has
    them all. Paused services stand in `paused` alone."""

    at: datetime
    counts: dict[Status, int]
    paused: int
    down: tuple[ServiceState, ...]
    silent: tuple[ServiceState, ...]
    active: tuple[str, ...]
    uptime: float | None
    """Of all services that are evaluated and not dead, together; None: nothing to measure."""
    flappers: tuple[tuple[str, int], ...]
    uptimes: tuple[tuple[str, float, int], ...]
    """Of each of them that can be measured, and how often it went down; worst first."""
    runs: Mapping[Outcome, int] = field(default_factory=dict)
    """How many runs there were in the window, by what is known of them last."""
    muted: int = 0
    maintenance: int = 0
    """How many of those that are not paused are so; they count under their status as well."""
    owners: Mapping[str, str] = field(default_factory=dict)


NOTHING_BESIDE = Beside()


def digest(
    services: Iterable[ServiceState],
    marks: Mapping[str, Sequence[Mark]],
    now: datetime,
    window: timedelta = WINDOW,
    gaps: Sequence[tuple[int, int]] = (),
    begins: Mapping[str, int] = MappingProxyType({}),
    runs: Mapping[Outcome, int] = MappingProxyType({}),
    beside: Beside = NOTHING_BESIDE,
    *,
    each: bool = False,
) -> Digest:
    """Sum up all services that exist, each since its newest registration. `marks`: those of the window, by
    service, in order. `gaps`: when the registry could not be heard, `begins`: since when a record is whole,
    if not of all its service's life; in microseconds. `runs`: how many runs of the window ended how.
    `beside`: as of `now`. `each`: whether each service's own uptime is wanted."""
    measured = Measured(micros(now - window), micros(now), gaps)
    counts, paused, muted, maintenance = dict.fromkeys(Status, 0), 0, 0, 0
    named: dict[Status, list[ServiceState]] = {Status.DOWN: [], Status.SILENT: [], Status.ALIVE: []}
    flappers: list[tuple[str, int]] = []
    uptimes: list[tuple[str, float, int]] = []
    unmarked, spent = dict.fromkeys(Status, 0), _NO_TIME.copy()
    for service in services:
        name, status, registered_at = service.name, service.status, service.registered_at
        own, changes = marks.get(name, ()), []
        if own:
            changes = [mark for mark in own if _is_change(mark, measured.start, registered_at)]
            if len(changes) >= FLAPPING:
                flappers.append((name, len(changes)))
        if service.paused:
            paused += 1
            continue
        counts[status] += 1
        muted += name in beside.muted
        maintenance += name in beside.maintenance
        if status in named:
            named[status].append(service)
        if status is Status.DEAD:
            continue
        begin = begins.get(name, 0)
        before = max(registered_at, begin, max((mark.at for mark in own), default=0))
        if not each and before <= measured.start:
            unmarked[status] += 1
            continue
        seconds = measured.seconds(status, registered_at, own, begin)
        for state in STATES:
            spent[state] += seconds[state]
        if each and (share := uptime(seconds)) is not None:
            uptimes.append((name, share, sum(mark.to is Status.DOWN for mark in changes)))
    for status, count in unmarked.items():
        for state, each_spent in measured.seconds(status, 0).items():
            spent[state] += count * each_spent
    return Digest(
        at=now,
        counts=counts,
        paused=paused,
        down=_longest(named[Status.DOWN]),
        silent=_longest(named[Status.SILENT]),
        active=tuple(heapq.nsmallest(MAX_NAMED, (service.name for service in named[Status.ALIVE]))),
        uptime=uptime(spent),
        flappers=tuple(sorted(flappers, key=lambda it: (-it[1], it[0]))),
        uptimes=tuple(sorted(uptimes, key=lambda it: (it[1], it[0]))),
        runs=runs,
        muted=muted,
        maintenance=maintenance,
        owners=beside.owners,
    )


def _is_change(mark: Mark, start: int, registered_at: int) -> bool:
    """Whether it is a change of status, in the window and in this life."""
    in_window = mark.to is not None and mark.at >= start
    return in_window and belongs_to_this_life(mark.at, registered_at, mark.was)


_NO_TIME = dict.fromkeys(STATES, 0.0)


class Measured:
    """A window of time, less when the registry could not be heard. Times in microseconds."""

    def __init__(self, start: int, end: int, gaps: Sequence[tuple[int, int]]) -> None:
        self.start, self.end = start, end
        self.gaps = [gap for gap in gaps if gap[1] > start and gap[0] < end]

    def seconds(
        self, status: Status, registered_at: int, marks: Sequence[Mark] = (), begins: int = 0
    ) -> dict[str, float]:
        """Seconds of a service that is not paused in each state; all as it is now, if nothing marks it."""
        if not (marks or self.gaps or begins > self.start):
            observed = max(0, self.end - max(self.start, registered_at)) / 1e6
            return _NO_TIME | {status.value: observed}
        now = Now(status, False, registered_at, self.end)
        return spent_in(segments(marks, now, self.start, self.gaps, begins))


def _longest(services: Sequence[ServiceState]) -> tuple[ServiceState, ...]:
    return tuple(heapq.nsmallest(MAX_NAMED, services, key=lambda it: (it.since, it.name)))


def lines(digest: Digest, zone: ZoneInfo) -> list[str]:
    """The digest as plain text, the title first; under 4,000 UTF-16 units, however large the fleet."""
    text = [*_opening("Daily", "24 h", digest, zone), *_fallen(digest, zone)]
    if digest.flappers:
        entries = [f"{name}: {count} changes in 24 h" for name, count in digest.flappers]
        text += ["", f"🔁 Flapping ({len(digest.flappers)})", *_fit(entries, 500)]
    if digest.active:
        active = digest.counts[Status.ALIVE]
        heading = f"{MARKS[Status.ALIVE]} Active ({active})"
        text += ["", heading, ", ".join(_fit(digest.active, 700, active))]
    return text


def status_lines(digest: Digest, zone: ZoneInfo) -> list[str]:
    """The counts, and what is down or silent."""
    return [_counts(digest), *_fallen(digest, zone)]


def _fallen(digest: Digest, zone: ZoneInfo) -> list[str]:
    text: list[str] = []
    for status, services, room in ((Status.DOWN, digest.down, 1500), (Status.SILENT, digest.silent, 700)):
        if services:
            entries = [_entry(service, digest, zone) for service in services]
            count = digest.counts[status]
            text += ["", f"{MARKS[status]} {status.capitalize()} ({count})", *_fit(entries, room, count)]
    return text


def weekly_lines(digest: Digest, zone: ZoneInfo) -> list[str]:
    """The digest of a week as plain text, with the uptime of each service as far as there is room."""
    text = _opening("Weekly", "7 d", digest, zone)
    flawed = [it for it in digest.uptimes if it[1] < 1]
    entries = [f"{name}: {percent(up)}{f', fell {falls}x' if falls else ''}" for name, up, falls in flawed]
    if entries:
        text += ["", f"📉 Not always up ({len(entries)})", *_fit(entries, 2600)]
    if perfect := [name for name, up, _ in digest.uptimes if up == 1]:
        text += ["", f"{MARKS[Status.ALIVE]} 100 % ({len(perfect)})", ", ".join(_fit(perfect, 700))]
    return text


def plain(digest: Digest, zone: ZoneInfo) -> str:
    return "\n".join(lines(digest, zone))


def _opening(kind: str, length: str, digest: Digest, zone: ZoneInfo) -> list[str]:
    text = [f"{kind} digest, {digest.at.astimezone(zone):%a %Y-%m-%d %H:%M %Z}", _counts(digest)]
    if digest.uptime is not None:
        text.append(f"Uptime over {length}: {percent(digest.uptime)}")
    runs = [f"{count} {_ENDED[outcome]}" for outcome in Outcome if (count := digest.runs.get(outcome))]
    return [*text, f"Runs in {length}: {', '.join(runs)}"] if runs else text


_ENDED = {
    Outcome.SUCCESS: "succeeded",
    Outcome.FAILURE: "failed",
    Outcome.RUNNING: "running",
    Outcome.OVERDUE: "overdue",
    Outcome.MISSED: "missed",
}


def _counts(digest: Digest) -> str:
    parts = [f"{MARKS[status]} {count} {status}" for status, count in digest.counts.items() if count]
    beside = (
        ("⏸", digest.paused, PAUSED),
        ("🔕", digest.muted, "muted"),
        ("🔧", digest.maintenance, "in maintenance"),
    )
    parts += [f"{mark} {count} {what}" for mark, count, what in beside if count]
    return " · ".join(parts) or "No services yet"


def _entry(service: ServiceState, digest: Digest, zone: ZoneInfo) -> str:
    since, owner = moment(service.since), digest.owners.get(service.name)
    entry = f"{service.name} since {local(since, zone)}, for {spoken(digest.at - since)}"
    return f"{entry}, ✋ {person(owner)}" if owner else entry


def _fit(entries: Sequence[str], room: int, total: int = 0) -> list[str]:
    """The entries that fit into `room` characters, and how many more there are, of at least `total`."""
    fitting: list[str] = []
    for entry in entries:
        room -= len(entry) + 2
        if room < 0:
            break
        fitting.append(entry)
    more = max(total, len(entries)) - len(fitting)
    return [*fitting, f"+{more} more"] if more else fitting


def due_at(day: date, zone: ZoneInfo, at: time) -> datetime:
    """When a date's digest is due: at the first of two such times; if it is skipped, as if it were not."""
    return datetime.combine(day, at.replace(fold=0), tzinfo=zone).astimezone(UTC)


def digest_due(now: datetime, zone: ZoneInfo, at: time, last: date | None) -> date | None:
    """The local date whose digest is to be sent now, if any; `last`: the date of the newest one sent.

    Late is good enough on the same day, never on another one. (Where the clocks skip midnight, a date's
    digest may fall due on the next date.)
    """
    today = now.astimezone(zone).date()
    for day in (today, today - timedelta(days=1)):
        due = due_at(day, zone, at)
        if due <= now and due.astimezone(zone).date() == today and (last is None or last < day):
            return day
    return None


def next_digest_at(now: datetime, zone: ZoneInfo, at: time) -> datetime:
    today = now.astimezone(zone).date()
    moments = (due_at(today + timedelta(days=n), zone, at) for n in range(-1, 3))
    return min(moment for moment in moments if moment > now)
