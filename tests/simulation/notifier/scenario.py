"""What happens in one simulation of the notifier, from its seed alone: who falls, is hushed, dies."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

from shared.contracts.events import (
    ConfigData,
    Outcome,
    RunData,
    ServiceConfig,
    ServiceDeleted,
    ServicePaused,
    ServiceRegistered,
    ServiceResumed,
    ServiceUpdated,
    Status,
    StatusData,
    moment,
    run_recorded,
    status_changed,
)
from shared.messaging import streams
from tests.simulation.model import BASE, CALM, Faults
from tests.simulation.notifier.routing import Routing
from tests.simulation.notifier.telegram import Phone, Trouble

Spans = list[tuple[float, float]]

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
INVITE = "sesame-1234"
TAG = "db"
SETTLES = 80 * MINUTE
"""After the last that happens, so that what flaps calms down and what is owed is told."""
LONGEST_LATE = 60.0
"""Seconds that the monitor is late, at most, to notice a fall."""


@dataclass(frozen=True, slots=True)
class Fact:
    """An event on its way into the record."""

    at: float
    subject: str
    data: bytes


@dataclass(frozen=True, slots=True)
class WindowChange:
    """What somebody does to a maintenance window. `data`: None when it is removed."""

    at: float
    id: str
    data: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Command:
    """What somebody writes to the bot, again and again until it answers. `answer`: how the answer begins."""

    at: float
    phone: Phone
    text: str
    answer: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Life:
    """One process: it starts `delay` seconds after the one before has ended, and ends after `lasts` seconds
    or in its `kill_at`th operation (0: in none). `kindly`: it is told to end, not killed."""

    delay: float
    lasts: float
    kill_at: int = 0
    kindly: bool = False


@dataclass(frozen=True, slots=True)
class Seat:
    """One notifier and its lives. The last one lives to the end."""

    lives: list[Life]
    suspended: Spans
    faults: Faults


@dataclass(frozen=True, slots=True)
class Paces:
    """Seconds between looks, which are real in short simulations and longer in long ones."""

    reminders: float
    idle: float
    lease: float


@dataclass(frozen=True)
class Scenario:
    seed: int
    names: list[str]
    facts: list[Fact]
    runs: list[Fact]
    windows: list[WindowChange]
    phones: list[Phone]
    configured: list[str]
    commands: list[Command]
    troubles: list[Trouble]
    seats: list[Seat]
    outages: Spans
    paces: Paces
    routing: Routing
    zone: ZoneInfo
    digest: time | None
    weekly: int | None
    reminders: tuple[timedelta, ...]
    most_owed_within: int
    """Services that are owed a notice, at most, before they are recorded beside the cursor."""
    start: float
    calm_at: float
    """From then on the broker, Telegram and the notifier are well."""
    end: float


def make(seed: int) -> Scenario:
    return _Maker(seed).scenario()


def when(seconds: float) -> datetime:
    return moment(BASE + round(seconds * 1e6))


class _Maker:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = rng = Random(seed)
        self.long = rng.random() < 0.15
        self.calm = rng.random() < 0.25
        """Nothing breaks: what is told can be held to the minute."""
        self.start = rng.choice((0.0, 0.0, 34 * DAY)) + rng.uniform(0, DAY)
        """The latter is shortly before clocks are set back in Berlin."""
        length = rng.uniform(20, 50) * HOUR if self.long else rng.uniform(0.7, rng.choice((3, 6))) * HOUR
        self.busy_until = self.start + length
        self.calm_at = self.start if self.calm else self.start + length * rng.uniform(0.5, 1)
        self.facts: list[Fact] = []
        self.falls: list[tuple[float, str]] = []
        self.lateness = rng.choice((0.0, 1.0, 1.0, 5.0, LONGEST_LATE))
        self.outages = [] if self.calm else self.spans(rng.choice((0, 0, 0, 1, 2)), 90)
        self.routing = Routing(seed)

    def scenario(self) -> Scenario:
        rng = self.rng
        names = [f"s{n}" for n in range(rng.randint(1, 4))]
        self.routing.depend(names)
        for name in names:
            self.service(name)
        if rng.random() < 0.15:
            bad = self.stored(rng.uniform(self.start, self.busy_until))
            self.facts.append(Fact(bad, streams.status(rng.choice(names)), b'{"type": 1}'))
        self.facts.sort(key=lambda fact: fact.at)
        windows = sorted(self.windows(names), key=lambda it: it.at) if rng.random() < 0.6 else []
        phones, configured, commands = self.people(names)
        self.routing.route(names, configured, self.start, self.busy_until)
        zone = ZoneInfo(rng.choice(("UTC", "Europe/Berlin", "America/New_York")))
        digest = None
        if rng.random() < 0.6:
            due = when(rng.uniform(self.start, self.busy_until)).astimezone(zone)
            digest = time(due.hour, due.minute)
        last = max(self.busy_until, self.facts[-1].at)
        return Scenario(
            self.seed,
            names,
            self.facts,
            self.runs(names),
            windows,
            phones,
            configured,
            sorted(commands, key=lambda it: it.at),
            [] if self.calm else self.everywhere(),
            [self.seat() for _ in range(rng.choice((1, 1, 1, 2)))],
            self.outages,
            self.paces(),
            self.routing,
            zone,
            digest,
            rng.choice((None, 0, when(self.busy_until).weekday())) if digest else None,
            self.reminders(),
            rng.choice((0, 1, 1000)),
            self.start,
            self.calm_at,
            last + SETTLES,
        )

    def paces(self) -> Paces:
        rng = self.rng
        if self.long:
            return Paces(600.0, 1800.0, 300.0)
        return Paces(rng.choice((60.0, 120.0)), rng.choice((300.0, 900.0)), 120.0)

    def reminders(self) -> tuple[timedelta, ...]:
        hours = self.rng.choice(((1, 6, 24), (1, 6, 24), (1, 3), (2,), ()))
        return tuple(timedelta(hours=it) for it in hours)

    def spans(self, count: int, longest: float) -> Spans:
        """Stretches of trouble; all over when it becomes calm."""
        starts = sorted(self.rng.uniform(self.start, self.calm_at) for _ in range(count))
        lasts = [self.rng.uniform(1, longest) for _ in starts]
        return [(start, min(start + last, self.calm_at)) for start, last in zip(starts, lasts, strict=True)]

    def stored(self, at: float) -> float:
        """When the broker stores what is sent then."""
        return next((end + 0.001 for start, end in self.outages if start <= at < end), at)

    # --- the services

    def service(self, name: str) -> None:
        _Service(self, name).live()

    def runs(self, names: list[str]) -> list[Fact]:
        """Most of an unusual length, in two of nine seeds; the others are what they would be without."""
        if self.seed % 9 not in (2, 4):
            return []
        rng, found = Random(self.seed + 5), []
        for n in range(rng.randint(1, 15)):
            at, name = rng.uniform(self.start, self.busy_until), rng.choice(names)
            if self.falls and rng.random() < 0.3:
                at, name = rng.choice(self.falls)
            goes_on, notify = rng.random() < 0.3, rng.random() < 0.8
            data = RunData(
                key=str(n),
                outcome=Outcome.RUNNING if goes_on else Outcome.SUCCESS,
                started_at=when(at - MINUTE),
                ended_at=None if goes_on else when(at),
                duration=None if goes_on else MINUTE,
                unusual=f"took {n} s, usually 1 h" if notify or rng.random() < 0.5 else None,
                notify=notify,
            )
            stored = self.stored(at + rng.random() * self.lateness)
            found.append(Fact(stored, streams.run(name), run_recorded(name, data, when(at)).to_bytes()))
        return sorted(found, key=lambda fact: fact.at)

    def windows(self, names: list[str]) -> Iterator[WindowChange]:
        rng = self.rng
        for n in range(rng.choice((1, 1, 2, 3))):
            near = rng.choice(self.falls)[0] if self.falls and rng.random() < 0.8 else None
            middle = near or rng.uniform(self.start, self.busy_until)
            starts, ends = middle - rng.uniform(1, 30 * MINUTE), middle + rng.uniform(1, 50 * MINUTE)
            if rng.random() < 0.1:  # in no more than its first minute is it known that it has begun
                starts = middle + rng.uniform(1, 30 * MINUTE)
                ends = max(ends, starts + MINUTE)
            made = max(self.start, starts - rng.uniform(1, 20 * MINUTE))
            if rng.random() < 0.2:
                made = max(self.start, rng.uniform(starts, ends))
            about = self.about(names)
            yield WindowChange(self.stored(made), f"w{n}", _window(starts, ends, about))
            for _ in range(rng.choice((0, 0, 0, 1, 2))):
                at = rng.uniform(made, max(made, ends) + MINUTE)
                kind = rng.choice(("delete", "shorten", "extend", "about"))
                if kind == "shorten":
                    ends = max(starts + 1, at + rng.uniform(-60, (ends - at) / 2))
                elif kind == "extend":
                    ends += rng.uniform(1, 20 * MINUTE)
                elif kind == "about":
                    about = self.about(names)
                data = None if kind == "delete" else _window(starts, ends, about)
                yield WindowChange(self.stored(at), f"w{n}", data)
                made = at
                if data is None:
                    break

    def about(self, names: list[str]) -> dict[str, Any]:
        rng = self.rng
        if rng.random() < 0.4:
            return {"tags": [TAG]}
        return {"services": rng.sample(names, rng.randint(1, len(names)))}

    # --- people

    def people(self, names: list[str]) -> tuple[list[Phone], list[str], list[Command]]:
        rng = self.rng
        phones = [self.phone(n) for n in range(rng.randint(1, 3))]
        configured = phones[: rng.choice((1, 1, 2))]
        commands = []
        for phone in phones:
            known_at = self.start
            if phone not in configured:
                commands += list(self.subscriber(phone))
                known_at = commands[-1].at + 5 * MINUTE
                chosen = self.routing.choices(known_at, self.busy_until)
                commands += [Command(at, phone, text, answer) for at, text, answer in chosen]
            if rng.random() < 0.35:
                commands += [it for it in self.mutes(phone, names) if it.at > known_at]
        return phones, [phone.address for phone in configured], commands

    def phone(self, n: int) -> Phone:
        rng = self.rng
        address = str(100 + n) if rng.random() < 0.6 else str(-(200 + n))
        moves_at = float("inf")
        if address[0] == "-" and rng.random() < 0.3:
            moves_at = rng.uniform(self.start, self.busy_until)
        return Phone(address, moves_at, [] if self.calm else self.troubles(3))

    def troubles(self, most: int) -> list[Trouble]:
        rng = self.rng
        kinds = (
            "limit",
            "error",
            "error after",
            "refused",
            "hang",
            "lost",
            "garbled",
            "slow",
            "odd",
            "kicked",
        )
        found = []
        for start, end in self.spans(rng.randint(0, most), rng.choice((MINUTE, 20 * MINUTE, 3 * HOUR))):
            kind = rng.choice(kinds)
            found.append(Trouble(start, end, kind, 1.0 if kind == "kicked" else rng.choice((0.2, 0.6, 1.0))))
        return found

    def everywhere(self) -> list[Trouble]:
        rng = self.rng
        found = [it for it in self.troubles(1) if it.kind not in ("kicked", "odd")]
        if rng.random() < 0.1:
            found += [Trouble(start, end, "token") for start, end in self.spans(1, 20 * MINUTE)]
        if rng.random() < 0.5:  # now and then
            kind = rng.choice(("lost", "hang", "error after", "limit", "refused"))
            found.append(Trouble(self.start, self.calm_at, kind, rng.choice((0.05, 0.2))))
        return found

    def subscriber(self, phone: Phone) -> Iterator[Command]:
        rng = self.rng
        at = rng.uniform(self.start, self.busy_until)
        subscribed = ("Subscribed", "This chat gets")
        yield Command(at, phone, f"/start {INVITE}", subscribed)
        if rng.random() < 0.2:
            yield Command(at + rng.choice((0.0, 0.01, 1.0)), phone, f"/start {INVITE}", subscribed)
        if rng.random() < 0.4:
            at = rng.uniform(at + 1, self.busy_until + 2)
            yield Command(at, phone, "/stop", ("No more messages",))
            yield Command(rng.uniform(at, self.busy_until + 2), phone, f"/start {INVITE}", subscribed)

    def mutes(self, phone: Phone, names: list[str]) -> Iterator[Command]:
        rng = self.rng
        for _ in range(rng.choice((1, 1, 2))):
            at, name = rng.uniform(self.start, self.busy_until), rng.choice(names)
            if self.falls and rng.random() < 0.7:
                at, name = rng.choice(self.falls)
                at = max(self.start, at - rng.uniform(-60, 10 * MINUTE))
            length = rng.randint(1, 50)
            yield Command(at, phone, f"/mute {name} {length}m", ("🔕", "There is no service"))
            if rng.random() < 0.3:
                at += rng.uniform(1, length * MINUTE)
                yield Command(at, phone, f"/unmute {name}", ("🔔",))

    # --- the notifiers

    def seat(self) -> Seat:
        rng = self.rng
        if self.calm:
            return Seat([Life(rng.uniform(0, 5), 0)], [], CALM)
        lives = []
        for _ in range(rng.choice((0, 1, 2, 3, 5))):
            by_count = rng.random() < 0.7
            lives.append(
                Life(
                    rng.random() * rng.choice((1.0, 30.0, 10 * MINUTE)),
                    rng.random() * (self.calm_at - self.start),
                    rng.randint(1, rng.choice((20, 60, 200))) if by_count else 0,
                    kindly=not by_count and rng.random() < 0.5,
                )
            )
        lives.append(Life(rng.random() * rng.choice((1.0, MINUTE)), 0))
        suspended = self.spans(rng.choice((0, 0, 0, 1, 2)), 2 * MINUTE)
        return Seat(lives, suspended, self.faults() if rng.random() < 0.8 else CALM)

    def faults(self) -> Faults:
        rng = self.rng
        return Faults(
            wait=rng.choice((0.0, 0.1, 0.5, 1.0)),
            longest=rng.choice((0.01, 0.3, 3.0)),
            before=rng.choice((0.0, 0.0, 0.05, 0.3)),
            after=rng.choice((0.0, 0.0, 0.05, 0.3)),
            late=rng.choice((0.0, 0.0, 0.0, 0.1)),
            lag=rng.choice((0.0, 0.1, 0.5, 1.0)),
            lag_longest=rng.choice((0.1, 2.0, 10.0)),
            batch=rng.choice((1, 5, CALM.batch)),
        )


@dataclass
class _Service:
    """One service's life as it is written down."""

    maker: _Maker
    name: str
    at: float = 0.0
    exists: bool = False
    status: Status = Status.UNKNOWN
    since: float = 0.0
    registered: float = 0.0
    config: dict[str, Any] = field(default_factory=dict)
    count: int = 0

    def live(self) -> None:
        maker, rng = self.maker, self.maker.rng
        self.at = maker.start - 60 if rng.random() < 0.6 else rng.uniform(maker.start, maker.busy_until)
        self.config = {"notify": rng.random() < 0.93, "tags": (TAG,) if rng.random() < 0.4 else ()}
        parents = maker.routing.parents.get(self.name)
        if parents:
            self.config["depends_on"] = parents
        self.register()
        slow = rng.choice((1.0, 1.0, 5.0)) * (4.0 if maker.long else 1.0)
        kinds = rng.choice(
            (
                ("fall", "fail", "blip"),
                ("fall", "fail", "blip", "flap", "pause"),
                ("fail", "flap"),
                ("fall", "fail", "pause", "notify", "tag"),
                ("fall", "delete", "tag"),
            )
        )
        if parents:
            kinds = (*kinds, "follow", "follow", "follow")
        for _ in range(rng.randint(1, 8)):
            self.wait(rng.uniform(0.1, 25 * MINUTE) * slow)
            if self.at > maker.busy_until:
                break
            if not self.exists:
                self.register()
                continue
            getattr(self, f"_{rng.choice(kinds)}")()

    def wait(self, seconds: float) -> None:
        self.at += seconds

    def a_while(self) -> None:
        rng = self.maker.rng
        self.wait(rng.uniform(1, rng.choice((2, 30, 10 * MINUTE, 40 * MINUTE))))

    # --- what a service does

    def _fall(self) -> None:
        """Silent, down, perhaps dead; and perhaps back."""
        rng = self.maker.rng
        for to in (Status.SILENT, Status.DOWN, Status.DEAD):
            if to.badness > self.status.badness:
                self.change(to)
                self.a_while()
                if rng.random() < 0.2:
                    break
        self._perhaps_back()

    def _fail(self) -> None:
        if self.status is not Status.DOWN:
            self.change(Status.DOWN)
        self.a_while()
        self._perhaps_back()

    def _blip(self) -> None:
        if self.status in (Status.ALIVE, Status.UNKNOWN):
            self.change(Status.SILENT)
            self.a_while()
        self.change(Status.ALIVE)

    def _flap(self) -> None:
        rng = self.maker.rng
        pace = rng.choice((20.0, 3 * MINUTE, 12 * MINUTE))
        for _ in range(rng.randint(3, 9)):
            self.change(Status.DOWN if self.status is Status.ALIVE else Status.ALIVE)
            self.wait(rng.uniform(1, 2 * pace))

    def _pause(self) -> None:
        rng = self.maker.rng
        self.config["paused"] = True
        self.configure(ServicePaused)
        self.wait(rng.uniform(1, 40 * MINUTE))
        self.config["paused"] = False
        self.configure(ServiceResumed)
        if rng.random() < 0.4:
            self.wait(rng.uniform(0.1, MINUTE))
            self.change(Status.ALIVE if self.status.badness > 2 else Status.DOWN)

    def _notify(self) -> None:
        self.config["notify"] = not self.config["notify"]
        self.configure(ServiceUpdated)

    def _tag(self) -> None:
        self.config["tags"] = () if self.config["tags"] else (TAG,)
        self.configure(ServiceUpdated)

    def _delete(self) -> None:
        self.put(streams.config(self.name), ServiceDeleted(**self.about()).to_bytes())
        self.exists, self.status = False, Status.UNKNOWN

    def _follow(self) -> None:
        """It falls with what it depends on, a little earlier or later."""
        maker, rng = self.maker, self.maker.rng
        later = [at for at, name in maker.falls if name in self.config["depends_on"] and at > self.at]
        if later:
            self.at = max(self.at, later[0] + rng.choice((rng.uniform(-2, 2), rng.uniform(0, 5 * MINUTE))))
        self._fail()

    def _perhaps_back(self) -> None:
        if self.maker.rng.random() < 0.75:
            self.change(Status.ALIVE)

    # --- events

    def register(self) -> None:
        self.registered, self.exists = self.at, True
        self.configure(ServiceRegistered)
        self.wait(0.05)
        self.change(Status.ALIVE)

    def change(self, to: Status) -> None:
        """A change that fell due now and is recorded when the monitor has noticed."""
        if to is self.status:
            return
        maker = self.maker
        rises = to is Status.ALIVE
        since = max(self.at, self.since + 0.001)
        late = 0.01 if rises else maker.rng.random() * maker.lateness
        data = StatusData.model_validate(
            {
                "from": self.status,
                "to": to,
                "since": when(since),
                "last_heartbeat": when(since if rises else since - 60),
                "reason": "heartbeat received" if rises else "no heartbeat",
                "doubt": None if rises or maker.rng.random() < 0.9 else {"stopped": 3, "of": 4, "within": 5},
            }
        )
        self.at = since + late
        if to.badness > 2 and self.status.badness <= 2:
            maker.falls.append((since, self.name))
        self.status, self.since = to, since
        self.put(streams.status(self.name), status_changed(self.name, data).to_bytes())

    def configure(self, kind: Any) -> None:
        data = ConfigData(config=ServiceConfig(**self.config), registered_at=when(self.registered))
        self.put(streams.config(self.name), kind(**self.about(), data=data).to_bytes())

    def about(self) -> dict[str, Any]:
        self.count += 1
        id_ = f"{self.name}-{self.count}"
        return {"id": id_, "source": "/api", "subject": self.name, "time": when(self.at)}

    def put(self, subject: str, data: bytes) -> None:
        stored = self.maker.stored(self.at)
        self.at = max(self.at, stored)
        self.maker.facts.append(Fact(stored, subject, data))


def _window(starts: float, ends: float, about: dict[str, Any]) -> dict[str, Any]:
    times = {"starts_at": when(starts).astimezone(UTC), "ends_at": when(ends).astimezone(UTC)}
    return {**about, **{key: at.isoformat() for key, at in times.items()}}
