"""The daily digest: how the fleet is, at a glance, and when it falls due. Pure.

Lines of plain text without markup, so that Telegram, the log and the API's summary say the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from types import MappingProxyType
from zoneinfo import ZoneInfo

from shared.contracts.durations import spoken
from shared.contracts.events import Status, micros
from shared.contracts.zones import local
from shared.domain.timeline import STATES, Mark, Now, percent, segments, uptime
from shared.domain.timeline import spent as spent_in

WINDOW = timedelta(hours=24)
WEEK = timedelta(days=7)
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
class Service:
    """A service as it stands now."""

    name: str
    status: Status
    since: datetime
    last_heartbeat: datetime | None
    paused: bool
    registered_at: datetime


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of status within the last 24 hours."""

    name: str
    from_: Status
    to: Status
    since: datetime


@dataclass(frozen=True, slots=True)
class Pause:
    """That a service was paused, or resumed."""

    name: str
    paused: bool
    at: datetime


@dataclass(frozen=True, slots=True)
class Digest:
    """`down` and `silent` are newest last; of them and of `active` only the first need be there, `counts` has
    them all. Paused services stand in `paused` alone."""

    at: datetime
    counts: dict[Status, int]
    paused: int
    down: tuple[Service, ...]
    silent: tuple[Service, ...]
    active: tuple[str, ...]
    uptime: float | None
    """Of all services that are judged and not dead, together; None: nothing to measure."""
    flappers: tuple[tuple[str, int], ...]
    uptimes: tuple[tuple[str, float, int], ...]
    """Of each of them that can be measured, and how often it fell down; worst first."""


def digest(
    services: Iterable[Service],
    changes: Iterable[Transition | Pause],
    now: datetime,
    window: timedelta = WINDOW,
    gaps: Sequence[tuple[int, int]] = (),
    begins: Mapping[str, int] = MappingProxyType({}),
) -> Digest:
    """Sum up the fleet. `changes`: those of the window, in order. `gaps`: when the registry was deaf, and
    `begins`: since when a service's record is whole, if not of all its life; in microseconds. What a
    deleted service, or one before its newest registration, did does not count."""
    everyone = list(services)
    judged = [it for it in everyone if not it.paused]
    measured = Measured(micros(now - window), micros(now), gaps)
    marks: dict[str, list[Mark]] = {it.name: [] for it in everyone}
    for seq, change in enumerate(changes):
        if change.name in marks:
            marks[change.name].append(_mark(seq, change))
    falls, flappers = dict.fromkeys(marks, 0), []
    for it in everyone:
        begin = max(measured.start, micros(it.registered_at))
        moves = [mark for mark in marks[it.name] if mark.to and mark.at >= begin]
        falls[it.name] = sum(mark.to is Status.DOWN for mark in moves)
        if len(moves) >= FLAPPING:
            flappers.append((it.name, len(moves)))
    living = [it for it in judged if it.status is not Status.DEAD]
    spent = {
        it.name: measured.seconds(
            it.status, it.paused, micros(it.registered_at), marks[it.name], begins.get(it.name, 0)
        )
        for it in living
    }
    uptimes = [(name, up, falls[name]) for name, its in spent.items() if (up := uptime(its)) is not None]
    return Digest(
        at=now,
        counts={status: sum(it.status is status for it in judged) for status in Status},
        paused=len(everyone) - len(judged),
        down=_oldest_first(it for it in judged if it.status is Status.DOWN),
        silent=_oldest_first(it for it in judged if it.status is Status.SILENT),
        active=tuple(sorted(it.name for it in judged if it.status is Status.ALIVE)),
        uptime=uptime(added(spent.values())),
        flappers=tuple(sorted(flappers, key=lambda it: (-it[1], it[0]))),
        uptimes=tuple(sorted(uptimes, key=lambda it: (it[1], it[0]))),
    )


def _mark(seq: int, change: Transition | Pause) -> Mark:
    if isinstance(change, Pause):
        return Mark(seq, micros(change.at), paused=change.paused)
    return Mark(seq, micros(change.since), change.to, change.from_)


def added(spent: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Seconds in each state, of all of them together."""
    total = dict.fromkeys(STATES, 0.0)
    for its in spent:
        for state, seconds in its.items():
            total[state] += seconds
    return total


class Measured:
    """A window of time, less when the registry was deaf. Times in microseconds."""

    def __init__(self, start: int, end: int, gaps: Sequence[tuple[int, int]]) -> None:
        self.start, self.end = start, end
        self.gaps = [gap for gap in gaps if gap[1] > start and gap[0] < end]

    def seconds(
        self, status: Status, paused: bool, registered_at: int, marks: Sequence[Mark], begins: int = 0
    ) -> dict[str, float]:
        """How many seconds a service was in each state. As it is now, if nothing marks it."""
        if not (marks or self.gaps or paused or begins > self.start):
            observed = max(0, self.end - max(self.start, registered_at)) / 1e6
            return dict.fromkeys(STATES, 0.0) | {status.value: observed}
        now = Now(status, paused, registered_at, self.end)
        return spent_in(segments(marks, now, self.start, self.gaps, begins))


def _oldest_first(services: Iterable[Service]) -> tuple[Service, ...]:
    return tuple(sorted(services, key=lambda it: (it.since, it.name)))


def lines(digest: Digest, zone: ZoneInfo) -> list[str]:
    """The digest as plain text, the title first; under 4,000 UTF-16 units, however large the fleet."""
    text = [f"Daily digest, {digest.at.astimezone(zone):%a %Y-%m-%d %H:%M %Z}", _counts(digest)]
    if digest.uptime is not None:
        text.append(f"Uptime over 24 h: {percent(digest.uptime)}")
    text += _fallen(digest, zone)
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
            entries = [f"{it.name} since {local(it.since, zone)}, {_ago(it, digest.at)}" for it in services]
            count = digest.counts[status]
            text += ["", f"{MARKS[status]} {status.capitalize()} ({count})", *_fit(entries, room, count)]
    return text


def weekly_lines(digest: Digest, zone: ZoneInfo) -> list[str]:
    """The digest of a week as plain text, with the uptime of each service as far as there is room."""
    text = [f"Weekly digest, {digest.at.astimezone(zone):%a %Y-%m-%d %H:%M %Z}", _counts(digest)]
    if digest.uptime is not None:
        text.append(f"Uptime over 7 d: {percent(digest.uptime)}")
    flawed = [it for it in digest.uptimes if it[1] < 1]
    entries = [f"{name}: {percent(up)}{f', fell {falls}x' if falls else ''}" for name, up, falls in flawed]
    if entries:
        text += ["", f"📉 Not always up ({len(entries)})", *_fit(entries, 2600)]
    if perfect := [name for name, up, _ in digest.uptimes if up == 1]:
        text += ["", f"{MARKS[Status.ALIVE]} 100 % ({len(perfect)})", ", ".join(_fit(perfect, 700))]
    return text


def plain(digest: Digest, zone: ZoneInfo) -> str:
    return "\n".join(lines(digest, zone))


def _counts(digest: Digest) -> str:
    parts = [f"{MARKS[status]} {count} {status}" for status, count in digest.counts.items() if count]
    if digest.paused:
        parts.append(f"⏸ {digest.paused} paused")
    return " · ".join(parts) or "No services yet"


def _ago(it: Service, now: datetime) -> str:
    return f"for {spoken(now - it.since)}"


def _fit(entries: Sequence[str], room: int, total: int = 0) -> list[str]:
    """The first entries that fit into `room` characters, and how many more there are, of `total` if that is
    more than were given."""
    fitting: list[str] = []
    for entry in entries:
        room -= len(entry) + 2
        if room < 0:
            break
        fitting.append(entry)
    more = max(total, len(entries)) - len(fitting)
    return [*fitting, f"+{more} more"] if more else fitting


def due_at(day: date, zone: ZoneInfo, at: time) -> datetime:
    """When the digest of a local date is due. A time that the clocks skip fires as if they had not been
    moved; of one that comes twice, the first counts."""
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
    """The next moment after `now` at which a digest falls due."""
    today = now.astimezone(zone).date()
    moments = (due_at(today + timedelta(days=n), zone, at) for n in range(-1, 3))
    return min(moment for moment in moments if moment > now)
