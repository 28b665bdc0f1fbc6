"""Services that run by a schedule, or in runs: when they begin and end, what they declare, and what people
configure meanwhile. Drawn from dice of their own, so that the rest of a seed stays what it was."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.simulation import occurrences
from tests.simulation.model import BASE, Fact

SECOND = 1_000_000
PAIRS = occurrences.pairs()
TIMES_OF_DAY = [pair for pair in PAIRS if not pair[0].startswith("*:*:")]


@dataclass(frozen=True)
class Command:
    """What somebody wants of the API. `config`: what an update or a registration sets."""

    at: float
    kind: str
    name: str
    config: dict[str, Any] = field(default_factory=dict)


class Jobs:
    def __init__(
        self, seed: int, micros: Callable[[float], int], calm_at: float, end: float, coarse: bool
    ) -> None:
        self.rng = Random(seed + 3_000_000_019)
        self.micros, self.calm_at, self.end, self.coarse = micros, calm_at, end, coarse
        self.names = [f"j{n}" for n in range(self.rng.choice((0, 0, 1, 1, 2, 3)))]

    def facts(self, name: str, is_open: Callable[[float], bool]) -> Iterator[Fact]:
        """Its heartbeats, if somebody hears them."""
        kind = self.rng.choice((self.scheduled, self.scheduled, self.scheduled, self.runs, self.counts))
        for seconds, signal, body in kind():
            at = self.micros(max(0.0, seconds))
            if seconds < self.end and is_open((at - BASE) / 1e6):
                headers = {"Registry-Signal": signal} if signal else None
                yield Fact(at, f"heartbeat.{name}", json.dumps(body).encode() if body else b"", headers)

    # --- what it does

    def scheduled(self) -> Iterator[tuple[float, str, dict[str, str]]]:
        """A job that follows a schedule, more or less; perhaps it says which, and perhaps it says another
        one from some moment on."""
        rng = self.rng
        (text, zone), declares = self.pair(), rng.random() < 0.6
        other, other_from = self.pair(), rng.uniform(0, self.calm_at) if rng.random() < 0.3 else 1e9
        left_out, failing, noise = (rng.choice((0.0, 0.1, 0.3)) for _ in range(3))
        starts, ids = rng.choice((0.0, 0.5, 1.0)), rng.random() < 0.4
        jitter, longest = rng.choice((0.0, 0.3, 3.0)), rng.choice((0.5, 3.0, 12.0))
        stops_at = rng.uniform(0, self.end) if rng.random() < 0.3 else 1e9
        for at in occurrences.table(text, zone):
            seconds = (at - BASE) / 1e6
            if not -5 < seconds < min(self.end, stops_at) or rng.random() < left_out:
                continue
            seconds += rng.uniform(-jitter, jitter)
            now = other if seconds > other_from else (text, zone)
            said = {"schedule": now[0], "time_zone": now[1]} if declares and rng.random() < 0.9 else {}
            if said and rng.random() < 0.1 and now[0] not in occurrences.BY_DAY:  # or it might have any zone
                del said["time_zone"]
            if rng.random() < starts:
                if ids:
                    said["run"] = rng.choice("abcdef")
                yield seconds, "start", said
                seconds += rng.random() * longest
                said = {"run": said["run"]} if ids else {}
                if rng.random() < 0.1:
                    continue
            yield seconds, "fail" if rng.random() < failing else "", said
            if rng.random() < noise:
                yield seconds + rng.uniform(0, 8), rng.choice(("", "", "start", "fail")), {}

    def runs(self) -> Iterator[tuple[float, str, dict[str, str]]]:
        """Runs that begin now and then, several at once."""
        rng = self.rng
        at, pause = rng.uniform(0, 5), rng.choice((1.0, 4.0, 10.0))
        longest, hangs = rng.choice((1.0, 4.0, 15.0)), rng.choice((0.0, 0.1, 0.3))
        steady = rng.random() < 0.4
        ids = rng.choice(("abcdef", "ab", ""))
        every = rng.choice((0.0, 0.0, 0.1))
        while at < self.end:
            said = {"run": rng.choice(ids)} if ids and rng.random() < 0.95 else {}
            declared = {"every": f"{rng.randint(1, 4)}s"} if rng.random() < every else {}
            yield at, "start", {**said, **declared}
            if rng.random() >= hangs:
                length = longest / 4 if steady and rng.random() < 0.9 else rng.random() * longest
                yield at + length, rng.choice(("", "", "", "fail")), said
            if rng.random() < 0.1:
                yield at + rng.random() * pause, rng.choice(("", "fail", "start")), {}
            at += rng.uniform(0.2, 2) * pause

    def counts(self) -> Iterator[tuple[float, str, dict[str, str]]]:
        """Successes and failures in stretches."""
        rng = self.rng
        at, period, turns = rng.uniform(0, 5), rng.uniform(0.5, 4), rng.choice((0.1, 0.4))
        signal = ""
        while at < self.end:
            if rng.random() < turns:
                signal = rng.choice(("", "fail", "start"))
            if rng.random() < 0.9:
                yield at, signal, {}
            at += period * rng.uniform(0.5, 1.5)

    def pair(self) -> tuple[str, str]:
        return self.rng.choice(TIMES_OF_DAY if self.rng.random() < 0.15 else PAIRS)

    # --- what is configured

    def commands(self, name: str) -> Iterator[Command]:
        rng = self.rng
        kinds = rng.choice(
            (
                (),
                ("set",),
                ("tune",),
                ("set", "tune", "tune"),
                ("set", "pause", "tune"),
                ("pause",),
                ("set", "set", "tune", "pause", "delete"),
                ("register", "delete", "set"),
            )
        )
        if not kinds:
            return
        if rng.random() < 0.7:
            yield Command(0.0, "register", name, {**self.set(), **self.tuned()})
        for _ in range(rng.randint(0, 4)):
            at, kind = self.on_grid(rng.uniform(0, self.calm_at)), rng.choice(kinds)
            config = {**self.set(), **self.tuned()} if kind in ("set", "register") else self.tuned()
            yield Command(at, kind, name, config)
            if kind == "pause" and rng.random() < 0.8:
                over = min(at + rng.random() * rng.choice((1, 10)), self.calm_at)
                yield Command(self.on_grid(over), "resume", name)

    def on_grid(self, at: float) -> float:
        return round(at * 2) / 2 if self.coarse else at

    def set(self) -> dict[str, Any]:
        """When it is due, by hand."""
        what = self.rng.random()
        if what < 0.1:
            return {}
        if what < 0.15:
            return {"time_zone": self.pair()[1]}
        if what < 0.25:
            return {"every": f"{self.rng.randint(1, 4)}s"}
        text, zone = self.pair()
        is_whole = self.rng.random() < 0.85 or text in occurrences.BY_DAY
        return {"schedule": text, "time_zone": zone} if is_whole else {"schedule": text}

    def tuned(self) -> dict[str, Any]:
        """Everything else."""
        rng, found = self.rng, dict[str, Any]()
        if rng.random() < 0.4:
            found["max_run"] = f"{rng.randint(1, 9)}s"
        if rng.random() < 0.4:
            found["early"] = f"{rng.randint(1, 4)}s"
        if rng.random() < 0.4:
            found["fail_after"] = rng.randint(1, 3)
        if rng.random() < 0.4:
            found["recover_after"] = rng.randint(1, 3)
        if rng.random() < 0.1:
            found["notify_unusual"] = False
        if rng.random() < 0.4:
            silent = rng.randint(1, 5)
            down = silent + rng.randint(1, 6)
            found["silent_after"], found["down_after"] = f"{silent}s", f"{down}s"
            found["dead_after"] = f"{down + rng.randint(1, 25)}s"
        return found
