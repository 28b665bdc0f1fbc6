"""What happens in one simulation, from its seed alone: who beats, what is deaf, who commands, what dies."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from random import Random

from services.monitor.domain.service import EffectiveThresholds
from shared.contracts.events import LATE, moment
from shared.messaging.reader import BY_KEY
from tests.simulation.jobs import Command, Jobs
from tests.simulation.model import BASE, CALM, Fact, Faults, Heartbeats

SECOND = 1_000_000
Spans = list[tuple[float, float]]


@dataclass(frozen=True)
class Life:
    """One process: it starts `delay` seconds after the one before died, and is killed after `lasts` seconds
    or in its `kill_at`th operation (0: in none), whichever is first. `patience`: the defaults it is given.
    `puts_back`: how many seconds of events an older copy lacks that is put in their place before it."""

    delay: float
    lasts: float
    patience: EffectiveThresholds
    kill_at: int = 0
    loses_snapshot: bool = False
    puts_back: float = 0.0
    time_zone: str = "UTC"
    """The registry's own."""


@dataclass(frozen=True)
class Seat:
    """One monitor and its lives, one after the other. The last one lives to the end."""

    lives: list[Life]
    suspended: Spans
    faults: Faults


@dataclass(frozen=True)
class Scenario:
    seed: int
    upgraded: bool
    """The first monitor finds defaults by which an interval gave an unbounded grace."""
    kept: int | None
    names: list[str]
    heartbeats: Heartbeats
    stretches: list[tuple[int, int]]
    """When ticks prove that the registry could be heard: first and last tick of each unbroken run."""
    commands: list[Command]
    seats: list[Seat]
    outages: Spans
    api_faults: Faults
    calm_at: float
    end: float


def make(seed: int) -> Scenario:
    return _Maker(seed).scenario()


class _Maker:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = rng = Random(seed)
        self.coarse = rng.random() < 0.25
        """All times on a grid, so that beats, deadlines, ticks and commands meet in the same microsecond."""
        self.calm_at = float(rng.randint(15, rng.choice((25, 40, 80))))
        self.end = self.calm_at + rng.randint(8, 16)
        self.kept = rng.randint(2, 6) if rng.random() < 0.2 else None
        silent = rng.randint(2, 6)
        down = silent + rng.randint(1, 6)
        self.patience = EffectiveThresholds(
            silent * SECOND, down * SECOND, (down + rng.randint(1, 8)) * SECOND
        )
        more = Random(seed + 1_000_000_007)
        self.upgraded = more.random() < 0.15
        self.defaults_change = more.random() < 0.3
        self.more = more
        self.other_records = Random(seed + 2_000_000_011)
        self.jobs = Jobs(seed, self.micros, self.calm_at, self.end, self.coarse)
        self.time_zone = self.jobs.rng.choice(("UTC", "UTC", "Made/Odd", "Europe/Berlin"))
        self.facts: list[Fact] = []
        self.stretches: list[tuple[int, int]] = []

    def scenario(self) -> Scenario:
        rng = self.rng
        outages = self.spans(rng.choice((0, 0, 0, 0, 1, 2)), 8)
        open_ = self.ingest(outages)
        names = [f"s{i}" for i in range(rng.randint(1, 5))]
        for name in names:
            self.service(name, open_, outages)
        if rng.random() < 0.1:
            bad = Fact(self.micros(rng.uniform(0, self.calm_at)), "heartbeat.a b", b"", None, good=False)
            self.facts.append(bad)
        for name in self.jobs.names:
            direct = self.jobs.rng.random() < 0.3

            def is_open(at: float, direct: bool = direct) -> bool:
                return not _in(outages, at) and (direct or _in(open_, at))

            self.facts += self.jobs.facts(name, is_open)
        self.facts.sort(key=lambda fact: fact.at)
        heartbeats = Heartbeats(self.once_each(), self.kept)
        ordered = [*self.commands(names), *chain(*map(self.jobs.commands, self.jobs.names))]
        commands = sorted(ordered, key=lambda command: command.at)
        alone = self.defaults_change or self.upgraded
        return Scenario(
            self.seed,
            self.upgraded,
            self.kept,
            [*names, *self.jobs.names],
            heartbeats,
            sorted(self.stretches),
            commands,
            [self.seat() for _ in range(1 if alone else rng.choice((1, 1, 2)))],
            outages,
            self.faults() if rng.random() < 0.5 else CALM,
            self.calm_at,
            self.end,
        )

    def micros(self, seconds: float) -> int:
        """The broker's time, on the grid if there is one."""
        if self.coarse:
            seconds = round(seconds * 2) / 2
        return BASE + round(seconds * 1e6)

    def once_each(self) -> list[Fact]:
        """No two facts of one subject in the same microsecond. Some were pings by key."""
        rng = Random(self.seed + 4_000_000_003)
        by_key = rng.choice((0.0, 0.0, 0.2, 0.9))
        seen: dict[str, int] = {}
        facts = []
        for fact in self.facts:
            if seen.get(fact.subject) != fact.at:
                seen[fact.subject] = fact.at
                if fact.subject.startswith("heartbeat.") and rng.random() < by_key:
                    fact = replace(fact, headers=BY_KEY | fact.headers if fact.headers else BY_KEY)
                facts.append(fact)
        return facts

    def spans(self, count: int, longest: float) -> Spans:
        """Stretches of trouble; all over when it becomes calm."""
        starts = sorted(self.rng.uniform(0, self.calm_at - 1) for _ in range(count))
        return [(start, min(start + self.rng.uniform(0.2, longest), self.calm_at)) for start in starts]

    # --- the front doors

    def ingest(self, outages: Spans) -> Spans:
        """Lets instances come and go, and tick. Returns when a heartbeat finds an open door."""
        rng, open_ = self.rng, []
        deaf = self.spans(rng.choice((0, 0, 1, 2, 3)), rng.choice((3, 20)))
        everywhere = deaf if rng.random() < 0.7 else []
        for instance in range(rng.choice((1, 1, 1, 2, 3))):
            away = everywhere if instance == 0 else everywhere + self.spans(rng.randint(0, 3), 15)
            last = rng.uniform(0, self.end) if instance and rng.random() < 0.3 else self.end + 1
            first = rng.uniform(0, 6) if instance or rng.random() < 0.3 else 0.0
            ups = list(_between(away, first, last))
            open_ += ups
            for n, (start, end) in enumerate(ups):
                self.ticks(f"i{instance}r{n}", start, end, outages)
        return open_

    def ticks(self, run: str, start: float, end: float, outages: Spans) -> None:
        """The ticks of one run. A tick that is not stored ends a stretch; one that is only late does not. One
        that was on its way when the broker fell away may be stored when it is back, and proves nothing."""
        rng = self.rng
        jitter, late, lost = rng.choice((0.0, 0.02, 0.2)), rng.choice((0.0, 0.05)), rng.choice((0.0, 0.05))
        at, stretch, first, latest = start + rng.random(), 0, 0, 0
        while at < end:
            stored = self.micros(at + rng.random() * jitter)
            seconds = (stored - BASE) / 1e6
            if _in(outages, seconds) or (at < self.calm_at and rng.random() < lost):
                if first:
                    back = next((back for gone, back in outages if gone <= seconds < back), 0.0)
                    if back and rng.random() < 0.5:
                        sent = max(latest, stored)
                        stuck = max(sent, self.micros(back + rng.random() * jitter))
                        self.facts.append(
                            Fact(stuck, f"tick.{run}x{stretch}", tick_payload(first, latest, sent))
                        )
                        if stuck - sent <= LATE:
                            self.stretches[-1] = first, stuck
                        latest = stuck
                    stretch, first = stretch + 1, 0
            elif stored > latest and seconds < end:
                if first and any(gone < seconds and (latest - BASE) / 1e6 < back for gone, back in outages):
                    stretch, first = stretch + 1, 0
                self.facts.append(Fact(stored, f"tick.{run}x{stretch}", tick_payload(first, latest, stored)))
                if first:
                    self.stretches[-1] = first, stored
                else:
                    self.stretches.append((stored, stored))
                    first = stored
                latest = stored
            at += rng.uniform(1, 4) if rng.random() < late else 1.0

    # --- the services

    def service(self, name: str, open_: Spans, outages: Spans) -> None:
        rng = self.rng
        period, jitter = rng.uniform(0.5, 4), rng.choice((0.0, 0.1, 0.5))
        direct = rng.random() < 0.3
        first = rng.uniform(0, self.calm_at) if rng.random() < 0.3 else rng.uniform(0, 2)
        last = rng.uniform(first, self.end) if rng.random() < 0.4 else self.end
        quiet = self.spans(rng.choice((0, 1, 2, 4)), rng.choice((4, 12, 30)))
        odd, bad = rng.choice((0.0, 0.1, 0.4)), rng.choice((0.0, 0.0, 0.1))
        at = first
        while at < last:
            stored = self.micros(at)
            seconds = (stored - BASE) / 1e6
            heard = not _in(outages, seconds) and (direct or _in(open_, seconds))
            if heard and not _in(quiet, seconds):
                self.facts.append(self.beat(name, stored, odd, bad))
            at += period * (1 + rng.uniform(-jitter, jitter))

    def beat(self, name: str, at: int, odd: float, bad: float) -> Fact:
        rng, subject = self.rng, f"heartbeat.{name}"
        if rng.random() < bad:
            data, headers = rng.choice(
                (
                    (b"", {"Registry-Signal": "log"}),
                    (b"so far so good", {"registry-signal": "LOG"}),
                    (b'{"every": "2s"}', {"Registry-Signal": "log"}),
                )
            )
            return Fact(at, subject, data, headers, good=False)
        if rng.random() >= odd:
            return Fact(at, subject)
        data, headers = rng.choice(
            (
                (b"", {"Registry-Signal": "start"}),
                (b"", {"Registry-Signal": "fail"}),
                (b'{"message": "disk full"}', {"Registry-Signal": "fail", "Registry-Exit-Code": "3"}),
                (b'{"message": "all is well"}', None),
                (b'{"message": "so far", "metadata": {"n": 1}}', {"Registry-Signal": "success"}),
                (b'{"every": "%ds"}' % rng.randint(1, 3), None),
            )
        )
        return Fact(at, subject, data, headers)

    # --- the API

    def commands(self, names: list[str]) -> Iterator[Command]:
        rng = self.rng
        if rng.random() < 0.35:
            return
        kinds = rng.choice(
            (
                ("register", "update", "pause", "resume", "delete"),
                ("update", "delete"),
                ("pause", "resume", "resume", "update"),
                ("delete", "register"),
            )
        )
        names = [*names, *names, "never-heard"]
        for _ in range(rng.randint(1, rng.choice((3, 8)))):
            at = rng.uniform(0, self.calm_at)
            at = round(at * 2) / 2 if self.coarse else at
            kind = "garbage" if rng.random() < 0.03 else rng.choice(kinds)
            name = rng.choice(names)
            yield Command(at, kind, name, self.thresholds())
            if kind == "pause" and self.more.random() < 0.5:
                over = min(at + self.more.random() * self.more.choice((1, 10)), self.calm_at)
                yield Command(round(over * 2) / 2 if self.coarse else over, "resume", name)

    def thresholds(self) -> dict[str, str]:
        """All three, or some of them."""
        rng = self.rng
        silent = rng.randint(1, 8)
        down = silent + rng.randint(1, 6)
        dead = down + rng.randint(1, 8)
        all_ = {"silent_after": f"{silent}s", "down_after": f"{down}s", "dead_after": f"{dead}s"}
        chosen = rng.sample(sorted(all_), rng.choice((0, 1, 2, 3, 3, 3)))
        return {key: all_[key] for key in sorted(chosen)}

    # --- the monitors

    def seat(self) -> Seat:
        rng = self.rng
        lives = []
        for _ in range(rng.choice((0, 1, 1, 2, 3, 5)) + 1):
            by_count = rng.random() < 0.6
            lives.append(
                Life(
                    delay=rng.random() * rng.choice((0.0, 1.0, 5.0, 30.0)),
                    lasts=self.calm_at if by_count else rng.random() * rng.choice((3.0, 30.0)),
                    patience=self.defaults(),
                    kill_at=rng.randint(1, rng.choice((5, 30, 100, 300))) if by_count else 0,
                    loses_snapshot=rng.random() < 0.1,
                    puts_back=self.puts_back(),
                    time_zone=self.time_zone,
                )
            )
        suspended = self.spans(rng.choice((0, 0, 0, 1, 2)), rng.choice((3, 20)))
        return Seat(lives, suspended, self.faults() if rng.random() < 0.8 else CALM)

    def defaults(self) -> EffectiveThresholds:
        """Of the next monitor: others now and then, if they change at all."""
        if self.defaults_change and self.more.random() < 0.5:
            found = sorted(self.more.sample(range(1, 20), 3))
            self.patience = EffectiveThresholds(*(seconds * SECOND for seconds in found))
            self.time_zone = self.jobs.rng.choice((self.time_zone, "UTC", "Europe/Berlin"))
        return self.patience

    def puts_back(self) -> float:
        rng = self.other_records
        return rng.random() * rng.choice((3.0, 30.0)) if rng.random() < 0.1 else 0.0

    def faults(self) -> Faults:
        rng = self.rng

        def some(*chances: float) -> float:
            return rng.choice(chances)

        return Faults(
            wait=some(0.0, 0.1, 0.5, 1.0),
            longest=some(0.01, 0.3, 3.0),
            before=some(0.0, 0.0, 0.05, 0.3),
            after=some(0.0, 0.0, 0.05, 0.3),
            late=some(0.0, 0.0, 0.0, 0.1),
            lag=some(0.0, 0.1, 0.5, 1.0),
            lag_longest=some(0.1, 2.0, 10.0),
            batch=rng.choice((1, 5, 50, CALM.batch)),
            again=some(0.0, 0.0, 0.1, 0.5),
        )


def tick_payload(first: int, before: int, sent: int) -> bytes:
    """Payload of a tick: its stretch's first, the one before it, and its own time, in microseconds."""
    if not first:
        return b"{}"
    since, until, at = (moment(each).isoformat() for each in (first, before, sent))
    return f'{{"open_since": "{since}", "open_until": "{until}", "sent_at": "{at}"}}'.encode()


def _in(spans: Spans, at: float) -> bool:
    return any(start <= at < end for start, end in spans)


def _between(away: Spans, first: float, last: float) -> Iterator[tuple[float, float]]:
    """What is left of a stretch without those in which somebody is away."""
    at = first
    for start, end in sorted(away):
        if at < min(start, last):
            yield at, min(start, last)
        at = max(at, end)
    if at < last:
        yield at, last
