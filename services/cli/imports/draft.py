"""What becomes of another system's checks: entries of `registry.yaml`, and what is left over. Pure.

An entry is never one that the registry refuses: what it would refuse is left out of it and left over.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from shared.contracts import durations, ping_keys, schedules, thresholds
from shared.contracts.events import COUNT_MAX, NAME_MAX, SCHEDULE_MAX
from shared.contracts.names import mended

TAG_MAX, TAGS_MAX, DESCRIPTION_MAX = 64, 32, 2000
"""Characters of a tag, tags of a service, characters of its description."""
THRESHOLDS = ("silent_after", "down_after", "dead_after")
ORDER = (
    "description",
    "tags",
    "every",
    "schedule",
    "time_zone",
    "early",
    *THRESHOLDS,
    "max_run",
    "fail_after",
    "recover_after",
    "paused",
    "aliases",
)
_TIMING = ("every", "schedule", "time_zone", "early", *THRESHOLDS, "max_run")
_LENGTHS = ("every", "early", *THRESHOLDS, "max_run")
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufeff\ufffe\uffff]")
_UNTIMED = "it is paused here until it has a schedule or an interval"
NO_ZONE = (
    "the zone of the machine's clock, which is not known (schedules are in the registry's; see --time-zone)"
)


class SourceError(Exception):
    """What was given cannot be read as what it is meant to be; says why, without any secret."""


@dataclass(frozen=True)
class Entry:
    """A service of the file: its fields as they are written there, and a comment above it."""

    name: str
    fields: dict[str, Any]
    comment: str = ""


@dataclass
class Draft:
    """`now`: a schedule that never comes after it is none."""

    now: datetime
    entries: list[Entry] = field(default_factory=list)
    leftovers: dict[str, list[str]] = field(default_factory=dict)
    """By why they are left over: what of."""
    _fields: dict[str, dict[str, Any]] = field(default_factory=dict)
    _aliases: set[str] = field(default_factory=set)

    def has(self, name: str) -> bool:
        return name in self._fields

    def left(self, why: str, *whose: str) -> None:
        known = self.leftovers.setdefault(why, [])
        known += (each for each in whose if each not in known)

    def add(self, wished: str, *, comment: Callable[[str], str] | None = None, **given: Any) -> str:
        """A service, by this name or one made of it. `given`: its fields; lengths are timedeltas, None and
        what is empty is absent. `comment`: what stands above it, by its name. Returns its name."""
        name = self._free_name(wished)
        fields = {key: value for key, value in given.items() if value not in (None, "", (), [], False)}
        self._timing(name, fields)
        self._texts(name, fields)
        for count in ("fail_after", "recover_after"):
            if count in fields:
                fields[count] = min(fields[count], COUNT_MAX)
        self._keys(name, fields, fields.pop("aliases", ()))
        ordered = self._fields[name] = {key: fields[key] for key in ORDER if key in fields}
        self.entries.append(Entry(name, ordered, comment(name) if comment else ""))
        return name

    def _free_name(self, wished: str) -> str:
        base = name = mended(wished.strip())
        number = 1
        while name in self._fields:
            number += 1
            end = f"-{number}"
            name = mended(base[: NAME_MAX - len(end)]) + end
        return name

    def _timing(self, name: str, fields: dict[str, Any]) -> None:
        """Lengths as they are written. Without a time at which it is due that can be read, it is paused."""
        why = ""
        for key in _LENGTHS:
            if key in fields:
                try:
                    fields[key] = written(fields[key])
                except ValueError as error:
                    why = why or f"{key}: {error}"
        if schedule := fields.get("schedule"):
            fields["schedule"] = "\n".join(schedule.strip().splitlines())
            why = why or self._why_not(fields["schedule"], fields.get("time_zone"))
        own = [durations.parse(fields[key]) for key in THRESHOLDS if key in fields and not why]
        if thresholds.out_of_order(own):
            why = "its limits are not in order"
        if why:
            for key in _TIMING:
                fields.pop(key, None)
            fields["paused"] = True
            self.left(f"when it is due ({why}; {_UNTIMED})", name)

    def _why_not(self, schedule: str, time_zone: str | None) -> str:
        try:
            if len(schedule) > SCHEDULE_MAX:
                raise ValueError(f"a schedule has at most {SCHEDULE_MAX} characters")
            schedules.parse(schedule, time_zone or "UTC", self.now)
        except ValueError as error:
            return str(error)
        return ""

    def _texts(self, name: str, fields: dict[str, Any]) -> None:
        if text := fields.pop("description", None):
            text = _UNFIT.sub("", text).strip()
            if len(text) > DESCRIPTION_MAX:
                self.left(f"the description beyond {DESCRIPTION_MAX} characters", name)
            if text := text[:DESCRIPTION_MAX].strip():
                fields["description"] = text
        if given := fields.pop("tags", None):
            tags = list(dict.fromkeys(filter(None, (_tag(each) for each in given))))
            if len(tags) > TAGS_MAX:
                self.left(f"the tags after the first {TAGS_MAX}", name)
            if tags:
                fields["tags"] = tags[:TAGS_MAX]

    def give_alias(self, name: str, alias: str) -> None:
        """Another id or key of a service that was added."""
        self._keys(name, self._fields[name], [alias])

    def _keys(self, name: str, fields: dict[str, Any], given: Iterable[str]) -> None:
        kept = list(fields.get("aliases", ()))
        for alias in map(ping_keys.canonical, given):
            if not ping_keys.is_alias(alias):
                self.left(f"its id or key, which is no alias ({ping_keys.ALIAS_RULE_IN_WORDS})", name)
            elif alias in self._aliases:
                self.left("its id or key, which another one above has as well", name)
            elif len(kept) == ping_keys.ALIASES_MAX:
                self.left(f"the ids and keys after the first {ping_keys.ALIASES_MAX}", name)
            else:
                self._aliases.add(alias)
                kept.append(alias)
        if kept:
            fields["aliases"] = kept


def written(length: timedelta) -> str:
    """A length as the registry reads it. ValueError says why it cannot."""
    text = durations.write(length)
    durations.parse(text)
    return text


def _tag(text: str) -> str:
    return " ".join(_UNFIT.sub("", text).split())[:TAG_MAX].strip()


def as_configuration(draft: Draft) -> dict[str, Any]:
    return {"version": 1, "services": {entry.name: entry.fields for entry in draft.entries}}


def listed(value: Any, what: str) -> list[Mapping[str, Any]]:
    """A list of objects of a source, or SourceError."""
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise SourceError(f"{what} is no list of objects")
    return value


def text_of(value: Any) -> str:
    """A text or a number of a source; everything else is empty."""
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def seconds_of(value: Any) -> timedelta | None:
    """A number of seconds, or None; of one that is too long by far, one that is too long as well."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,12}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return None
    return timedelta(seconds=min(value, 1e9))
