"""systemd's timers as services, from their unit files. Pure."""

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

from services.cli.imports.draft import NO_ZONE, Draft, SourceError, listed, text_of
from shared.contracts import thresholds, zones

Settings = dict[tuple[str, str], list[str]]
"""What is set in a unit: section and key, each as it stands there."""
_REPEATED = ("OnUnitActiveSec", "OnUnitInactiveSec")
_ONCE = ("OnActiveSec", "OnBootSec", "OnStartupSec")
_UNITS = {
    "us usec µs μs": 1e-6,
    "ms msec": 1e-3,
    "s sec second seconds": 1,
    "m min minute minutes": 60,
    "h hr hour hours": 3600,
    "d day days": 86400,
    "w week weeks": 604800,
    "M month months": 2629800,
    "y year years": 31557600,
}
_SECONDS = {name: seconds for names, seconds in _UNITS.items() for name in names.split()}
_PART = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{0,9})?)\s*([A-Za-zµμ]*)")
_EARLY = timedelta(minutes=1)
"""systemd never runs anything early; this is for clocks that differ."""


class Timer(NamedTuple):
    """`texts`: its unit file, then its drop-ins in their order. `activates`: None as the unit file says."""

    name: str
    texts: Sequence[str]
    activates: str | None = None


def timers_of_list(answer: Any) -> dict[str, str | None]:
    """Of `systemctl list-timers -o json`: what each activates. Raises SourceError."""
    rows = listed(answer, "what should be the answer of `systemctl list-timers -o json`")
    found = {text_of(row.get("unit")): text_of(row.get("activates")) or None for row in rows}
    if not all(name.endswith(".timer") for name in found):
        raise SourceError(
            "it names units that are no timers: give what `systemctl list-timers -o json` prints"
        )
    return found


def convert(timers: Sequence[Timer], now: datetime, time_zone: str | None, prefix: str = "") -> Draft:
    """`time_zone`: that of the machine, if it is known."""
    draft = Draft(now)
    for timer in sorted(timers):
        if timer.name.endswith("@.timer"):
            draft.left("templates of timers, whose instances are not known here", timer.name)
            continue
        if not any(text.strip() for text in timer.texts):
            draft.left("timers without a unit file that can be read (or masked ones)", timer.name)
            continue
        _add(draft, timer, settings_of(timer.texts), time_zone, prefix)
    return draft


def _add(draft: Draft, timer: Timer, settings: Settings, time_zone: str | None, prefix: str) -> None:
    stem = timer.name.removesuffix(".timer")
    resolved = partial(_resolved, stem)
    calendar = [resolved(line) for line in settings.get(("Timer", "OnCalendar"), ())]
    repeated = [_span(line) for key in _REPEATED for line in settings.get(("Timer", key), ())]
    every = min(filter(None, repeated), default=None)
    if not calendar and not every:
        once = [key for key in (*_ONCE, *_REPEATED) if settings.get(("Timer", key))]
        why = f"timers that have only {', '.join(once)}" if once else "timers that say no time"
        draft.left(f"{why} (nothing is due again and again)", timer.name)
        return
    delay = _delay(settings)
    limits: dict[str, Any] = {}
    if delay:
        silent, down = thresholds.OF_SCHEDULE if calendar else thresholds.of_interval(every or delay)
        limits = {"silent_after": silent + delay, "down_after": down + delay}
    own_zones = {_zone_of(line) for line in calendar}
    zone = (own_zones.pop() if len(own_zones) == 1 else None) or time_zone
    unit = resolved(_last(settings, "Timer", "Unit")) or timer.activates or f"{stem}.service"
    added = draft.add(
        prefix + _unescaped(stem),
        comment=partial(_comment, unit, _last(settings, "Timer", "Persistent").lower() in _TRUE),
        description=resolved(_last(settings, "Unit", "Description")),
        schedule="\n".join(calendar),
        time_zone=zone if calendar else None,
        every=None if calendar else every,
        early=_EARLY if delay and calendar else None,
        **limits,
    )
    if calendar and every:
        draft.left("its interval, as it has OnCalendar as well", added)
    if calendar and not zone:
        draft.left(NO_ZONE)


_TRUE = ("1", "yes", "y", "true", "t", "on")


def _comment(unit: str, persistent: bool, name: str) -> str:
    late = " (Persistent: what was missed is made up for.)" if persistent else ""
    return f"{unit}: put `/usr/local/bin/beat {name} --` before the command of its ExecStart.{late}"


def settings_of(texts: Sequence[str]) -> Settings:
    """What holds after all of them. An empty value takes back what was set before; of its times, all."""
    found: Settings = {}
    for text in texts:
        for section, key, value in _lines(text):
            if value:
                found.setdefault((section, key), []).append(value)
            elif section == "Timer" and key.startswith("On"):
                for time in ("OnCalendar", *_ONCE, *_REPEATED):
                    found.pop((section, time), None)
            else:
                found.pop((section, key), None)
    return found


def _lines(text: str) -> Iterator[tuple[str, str, str]]:
    section, before = "", ""
    for line in text.splitlines():
        line = line.strip()
        if not before and not line:
            continue
        if line.startswith(("#", ";")):
            continue
        if line.endswith("\\"):
            before += line[:-1].rstrip() + " "
            continue
        line, before = before + line, ""
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif "=" in line:
            key, _, value = line.partition("=")
            yield section, key.strip(), value.strip()


def _last(settings: Settings, section: str, key: str) -> str:
    return settings.get((section, key), [""])[-1]


def _delay(settings: Settings) -> timedelta:
    """How long after it is due it may start: a random delay, and an accuracy beyond the usual minute."""
    delay = _span(_last(settings, "Timer", "RandomizedDelaySec")) or timedelta()
    accuracy = _span(_last(settings, "Timer", "AccuracySec")) or timedelta()
    return delay + (accuracy if accuracy > timedelta(minutes=1) else timedelta())


def _span(text: str) -> timedelta | None:
    """A length of time as systemd writes it, `1h 30min`, longer than nothing; else None."""
    seconds, rest = 0.0, text.strip()
    while rest:
        found = _PART.match(rest)
        if not found or found[2] not in ("", *_SECONDS):
            return None
        seconds, rest = seconds + float(found[1]) * _SECONDS.get(found[2], 1), rest[found.end() :].lstrip()
    return timedelta(seconds=seconds) if 1e-3 <= seconds < 1e12 else None


def _zone_of(line: str) -> str | None:
    """The zone at the end of an OnCalendar line."""
    last = line.split()[-1]
    try:
        return zones.zone("UTC" if last.upper() == "UTC" else last).key if " " in line else None
    except ValueError:
        return None


def _unescaped(name: str) -> str:
    r"""`\x2d` in a unit's name is a `-`."""
    raw = re.sub(r"\\x([0-9a-fA-F]{2})", lambda found: chr(int(found[1], 16)), name)
    return raw.encode("latin-1", "replace").decode(errors="replace") if raw.isascii() is False else raw


def _resolved(stem: str, text: str) -> str:
    """The text with the specifiers that a unit's name gives."""
    before, _, instance = stem.partition("@")
    known: dict[str, Callable[[], str]] = {
        "%": lambda: "%",
        "i": lambda: instance,
        "I": lambda: _unescaped(instance),
        "p": lambda: before,
        "P": lambda: _unescaped(before),
        "N": lambda: stem,
        "n": lambda: f"{stem}.timer",
    }
    return re.sub("%([%iIpPNn])", lambda found: known[found[1]](), text)
