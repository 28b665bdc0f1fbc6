"""Between the record and the read models: an event's line in the history, a state as a document, and what
heartbeats come to. Pure.

Times in documents are integer microseconds since 1970 UTC: the database itself keeps milliseconds only.
"""

import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel

from shared.contracts.events import (
    MICRO,
    Acknowledgement,
    ConfigEvent,
    ConfigurationEvent,
    Event,
    IncidentEvent,
    Mute,
    ServiceAcknowledged,
    ServiceConfig,
    ServiceDeleted,
    ServiceMuted,
    ServiceNoted,
    ServiceRegistered,
    ServiceTold,
    ServiceUnmuted,
    Signal,
    Status,
    StatusChanged,
    moment,
)
from shared.contracts.heartbeats import excerpt, parse_heartbeat
from shared.domain.service_state import (
    NOTHING_DECLARED,
    PARTS,
    PAUSED,
    Declared,
    Incident,
    ServiceState,
    apply,
    incident_after,
    is_news,
)
from shared.messaging import streams
from shared.messaging.reader import BY_KEY, OVER_HTTP, Stored

Document = dict[str, Any]

FORM = 3
"""Of the documents, raised whenever older ones lack what they should hold: then they are built anew. 1: which
incident a service has. 2: which file manages it, and what it has from there. 3: what holds after each line
about an incident."""

CONFIGURES: list[str] = [kind.model_fields["type"].default for kind in get_args(ConfigEvent)]
"""The types of configuration events."""
ACTS: list[str] = [kind.model_fields["type"].default for kind in get_args(IncidentEvent)]
"""Those of what was done about incidents."""
TOLD: str = ServiceTold.model_fields["type"].default
SETTINGS: list[str] = [kind.model_fields["type"].default for kind in get_args(ConfigurationEvent)]
"""The same of the registry's own configuration."""
OF_REGISTRY = "registry "
"""Before the name in lines of the history about the registry itself: the name of no service has a blank."""
_REGISTERED: str = ServiceRegistered.model_fields["type"].default
_LONGEST = timedelta(days=36500)

PROBLEMS_FIRST = (Status.DOWN, Status.SILENT, Status.DEAD, Status.UNKNOWN, Status.ALIVE, PAUSED)
"""The order of lists and counts: what needs somebody now, what may soon, what nobody expects back."""


class Projection(NamedTuple):
    """One event, ready for the read models, with its line in the history."""

    event: Event | IncidentEvent
    seq: int
    at: int
    """When it was stored."""
    row: Document

    @property
    def name(self) -> str:
        return self.event.name

    @property
    def configures(self) -> bool:
        return not isinstance(self.event, StatusChanged | IncidentEvent)

    @property
    def deletes(self) -> bool:
        return isinstance(self.event, ServiceDeleted)

    def is_news_to(self, state: ServiceState | None) -> bool:
        return state is None or is_news(state, self.event, self.seq)

    def applied_to(self, state: ServiceState | None) -> ServiceState:
        return apply(state or ServiceState(self.name), self.event, self.seq, self.at)


def project(message: Stored) -> Projection:
    """Read a message of SERVICES about a service. ValueError if it is no event, not one of its subject, or
    more than a document holds."""
    if streams.is_incident(message.subject):
        return _acted(message)
    event = streams.read_event(message.subject, message.data)
    row = {
        "_id": message.seq,
        "name": event.name,
        "type": event.type,
        "at": message.at,
        "data": _as_written(event.data.model_dump(mode="json", by_alias=True)),
    }
    if actor := getattr(event, "actor", None):
        row |= {"actor": actor, "acted": message.seq}
    if isinstance(event, StatusChanged):
        if (begun := incident_after(None, event)) and not begun.is_guessed:
            row |= {"begins": event.id, "begun": message.seq}
    elif not isinstance(event, ServiceDeleted):
        config = event.data.config
        row["keys"] = [_digest(event.data.ping_key or ""), _digest(*sorted(config.aliases))]
        lengths = (config.silent_after, config.down_after, config.dead_after, config.every)
        for duration in (*lengths, config.early, config.max_run):
            if duration is not None and abs(duration) > _LONGEST:
                raise ValueError(f"a duration of {duration} is beyond what a document holds")
    return Projection(event, message.seq, message.at, row)


def _acted(message: Stored) -> Projection:
    """In the history stands what was done, without what held already, which only the audit is to know."""
    event = streams.read_incident(message.subject, message.data)
    data = event.data.model_dump(mode="json")
    said = {key: data[key] for kind, key in _SAYS.items() if isinstance(event, kind)}
    row = {
        "_id": message.seq,
        "name": event.name,
        "type": event.type,
        "at": message.at,
        "data": {"incident": event.data.incident} | said,
        "holds": {field: data[field] for field in ("acknowledged", "muted") if data[field]},
    }
    if event.actor:
        row |= {"actor": event.actor, "acted": message.seq}
    return Projection(event, message.seq, message.at, row)


_MUTES: list[str] = [kind.model_fields["type"].default for kind in (ServiceMuted, ServiceUnmuted)]
_SAYS = {
    ServiceAcknowledged: "acknowledged",
    ServiceMuted: "muted",
    ServiceNoted: "note",
    ServiceTold: "told",
}


def configuration_row(message: Stored) -> Document:
    """The line in the history of an event of the registry's own configuration. ValueError if it is none."""
    event = streams.read_configuration(message.subject, message.data)
    row = {
        "_id": message.seq,
        "name": OF_REGISTRY + event.name,
        "type": event.type,
        "at": message.at,
        "data": event.data.model_dump(mode="json"),
    }
    return row | {"actor": event.actor, "acted": message.seq} if event.actor else row


def setting_differences(before: Document | None, row: Document) -> list[Document] | None:
    """As `differences`, of lines of the registry's own configuration."""
    data = row["data"]
    if before is None and not data.get("created"):
        return None
    was, now = before["data"].get("value", {}) if before else {}, data.get("value", {})
    changed = [field for field in {**was, **now} if was.get(field) != now.get(field)]
    return [{"field": field, "before": was.get(field), "after": now.get(field)} for field in changed]


def act_differences(before: Document | None, row: Document) -> list[Document]:
    """As `differences`, of lines about incidents: who has it in hand, whether it is muted, what was noted."""
    if noted := row["data"].get("note"):
        return [{"field": "note", "before": None, "after": noted}]
    field = "muted" if row["type"] in _MUTES else "acknowledged"
    was = before["holds"].get(field) if before and before["name"] == row["name"] else None
    now = row["holds"].get(field)
    if was and _was_over(was, row):
        was = None
    return [{"field": field, "before": was, "after": now}] if was != now else []


def _was_over(held: Document, row: Document) -> bool:
    """Whether an acknowledgement or a mute had ended by itself when that was done of which a line tells."""
    if until := held.get("until"):
        return datetime.fromisoformat(until) <= moment(row["at"])
    return bool(held["incident"] != row["data"]["incident"])


def _digest(*keys: str) -> str:
    """What tells that keys are others, and not which."""
    return hashlib.sha256(" ".join(keys).encode()).hexdigest()[:16]


def changed(before: Document, row: Document) -> list[str]:
    """What a line of the history made another, as the line of the configuration before it tells. A line that
    an older version wrote tells nothing of keys."""
    if "config" not in before["data"].keys() & row["data"].keys():
        return []
    keys = zip(("ping_key", "aliases"), before.get("keys", ()), row.get("keys", ()), strict=False)
    was, now = (it["data"] | {"registered_at": None} for it in (before, row))  # the first event leaves it out
    its = [] if was == now else ["configuration"]
    return its + [what for what, was, now in keys if was != now]


def differences(before: Document | None, row: Document) -> list[Document] | None:
    """Field by field what a line of the history made another: `before` and `after`, None where nothing is
    set. Of ping keys and aliases only that they are others. `before`: the line of the configuration before
    it, None if that is not kept; of a registration it does not matter. None: it cannot be told."""
    registers = row["type"] == _REGISTERED
    if not registers and before is None:
        return None
    was, now = ({} if registers or not before else _set(before)), _set(row)
    fields = dict.fromkeys([*_DEFAULTS, *was, *now])
    default = {} if registers or "config" not in row["data"] else _DEFAULTS
    found: list[Document] = []
    for field in fields:
        old, new = (it.get(field, default.get(field)) for it in (was, now))
        if old != new:
            found.append({"field": field, "before": old, "after": new})
    keys = before.get("keys", ()) if before and not registers else [None, _digest()]
    for field, old, new in zip(("ping_key", "aliases"), keys, row.get("keys", ()), strict=False):
        if old != new and not (registers and field == "ping_key"):
            found.append({"field": field, "before": None, "after": None})
    return found


_DEFAULTS: Document = ServiceConfig().model_dump(mode="json") | {"notify_unusual": True}
"""Of the fields that are always written, and of one whose default is something."""


def _set(row: Document) -> Document:
    """What is configured otherwise than by default."""
    config: Document = row["data"].get("config", {})
    return {field: value for field, value in config.items() if value != _DEFAULTS.get(field)}


def _as_written(data: Document) -> Document:
    """Without the empty ones of the fields that were added: history shows an event as it was written, but for
    what leads to a service as its ping key does, which is for those alone who may change it."""
    data.pop("ping_key", None)
    if "config" in data:
        data["config"].pop("aliases", None)
        data["config"] = _without_empty(data["config"], "every")
    return _without_empty(data, "declared_at", "message", "duration", "doubt")


def _without_empty(data: Document, *added: str) -> Document:
    return {key: value for key, value in data.items() if value is not None or key not in added}


FACETS = {
    "config": {"seq": "config_seq"}
    | {field: field for field in PARTS["config_seq"][1:] if field != "exists"},
    "begun": {"seq": "status_seq", "incident": "begun"},  # apart, as older versions write the next one whole
    "status": {
        "seq": "status_seq",
        "from": "changed_from",
        "status": "changed_to",
        "since": "changed_at",
        "last_heartbeat": "heard_before_change",
        "reason": "change_reason",
    },
    "incident": {
        "seq": "incident_seq",
        "at": "acted_at",
        "acknowledged": "last_acknowledgement",
        "muted": "last_mute",
    },
    "heartbeat": {
        "seq": "heartbeat_seq",
        "at": "heartbeat_at",
        "signal": "heartbeat_signal",
        "message": "heartbeat_message",
        "last_run": "last_run",
        "open": "heartbeat_open",
        "warnings": "heartbeat_warnings",
        "declared": "heartbeat_declared",
    },
}
"""The parts of a document, each with the sequence that it reflects: their keys, and the state's fields."""


def dump(state: ServiceState) -> Document:
    """The state as its document, with those facets of which it knows something."""
    document: Document = {"_id": state.name}
    for facet, keys in FACETS.items():
        if getattr(state, keys["seq"]):
            document[facet] = {key: _plain(getattr(state, field)) for key, field in keys.items()}
    if "config" in document:
        document["config"]["deleted"] = not state.exists
    return document


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return str(value) if isinstance(value, str) else value


def load(document: Document) -> ServiceState:
    """The state of which a document is the dump; also of one that an older version wrote."""
    given: Document = {}
    for facet, keys in FACETS.items():
        found = document.get(facet, {})
        given |= {field: found[key] for key, field in keys.items() if key in found}
    if "heartbeat_open" not in given and given.get("heartbeat_signal") == Signal.START:
        given["heartbeat_open"] = [("", given["heartbeat_at"])]  # an older version knew of one run at a time
    if "config" in document:
        given["exists"] = not document["config"]["deleted"]
    for field, make in _MADE.items():
        if given.get(field) is not None:
            given[field] = make(given[field])
    return ServiceState(document["_id"], **given)


_MADE: dict[str, Callable[[Any], Any]] = {
    "tags": tuple,
    "aliases": tuple,
    "depends_on": tuple,
    "declared_limits": tuple,
    "changed_from": Status,
    "changed_to": Status,
    "begun": lambda begun: Incident(*begun),
    "last_acknowledgement": Acknowledgement.model_validate,
    "last_mute": Mute.model_validate,
    "heartbeat_signal": Signal,
    "heartbeat_warnings": tuple,
    "heartbeat_declared": tuple,
    "last_run": tuple,
    "heartbeat_open": lambda runs: tuple(map(tuple, runs)),
}


MAX_OPEN = 100
"""Runs of one service that are known to be open; the oldest gives way."""


class HeardRun(NamedTuple):
    """What heartbeats tell of the runs with one id of the sender's, or with none."""

    first_end: int | None = None
    """The end of one whose start is not among them."""
    started: int | None = None
    """The start of one whose end is not among them."""
    measured: int = 0
    """How long the one that ended first took, by its sender; 0: it did not say."""


class Heard(NamedTuple):
    """What heartbeats of one service that follow each other come to. Times in microseconds."""

    seq: int
    at: int
    signal: Signal
    message: str | None
    runs: dict[str, HeardRun]
    """By the sender's id of it, empty where it gives none."""
    last_run: tuple[int, int] | None = None
    """Start and end of the run that ended last and is wholly among them."""
    warnings: tuple[str, ...] = ()
    """What of the newest cannot be used as it is meant."""
    declared: Declared = NOTHING_DECLARED
    """By the newest."""

    @property
    def open_runs(self) -> tuple[tuple[str, int], ...]:
        begun = [(run, it.started) for run, it in self.runs.items() if it.started is not None]
        return tuple(sorted(begun, key=lambda run: run[1])[-MAX_OPEN:])

    @property
    def first_ends(self) -> list[tuple[str, int, int]]:
        """Of each id the end of a run that began before, and how long it took by its sender, as far as there
        can be so many; the newest last."""
        ended = [
            (id_, it.first_end, it.measured) for id_, it in self.runs.items() if it.first_end is not None
        ]
        return sorted(ended, key=lambda run: run[1])[-MAX_OPEN:]

    def applied_to(self, state: ServiceState) -> ServiceState:
        """The same state after these heartbeats, if they are newer than all that it knows of."""
        if self.seq > state.heartbeat_seq:
            state.heartbeat_seq, state.heartbeat_at = self.seq, self.at
            state.heartbeat_signal, state.heartbeat_message = self.signal, self.message
            state.heartbeat_warnings, state.last_run = self.warnings, self.last_run
            state.heartbeat_open, state.heartbeat_declared = self.open_runs, self.declared
            state.derive()
        return state


def add_heartbeat(before: Heard | None, message: Stored) -> Heard | None:
    """Fold the next heartbeat; a log changes nothing. ValueError if it is malformed."""
    headers = message.headers
    if before and not message.data and (not headers or headers is OVER_HTTP or headers is BY_KEY):
        runs, last_run = _add_run(before, "", Signal.SUCCESS, message.at)
        return Heard(message.seq, message.at, Signal.SUCCESS, None, runs, last_run)
    beat = parse_heartbeat(streams.name_in(message.subject), message.data, message.headers)
    if beat.signal is Signal.LOG:
        return before
    said = excerpt(beat.body.message) if beat.body and beat.body.message else None
    run = (beat.body and beat.body.run) or ""
    measured = round((beat.duration or 0) * 1e6)
    runs, last_run = _add_run(before, run, beat.signal, message.at, measured)
    declared = NOTHING_DECLARED
    if beat.body:
        every = beat.body.every // MICRO if beat.body.every else None
        declared = every, beat.body.schedule, beat.body.time_zone
    return Heard(message.seq, message.at, beat.signal, said, runs, last_run, beat.warnings, declared=declared)


def _add_run(
    before: Heard | None, run: str, signal: Signal, at: int, measured: int = 0
) -> tuple[dict[str, HeardRun], tuple[int, int] | None]:
    """What is known of the runs, and the last one, after a heartbeat. `measured`: by its sender, 0: not."""
    runs, last_run = (before.runs, before.last_run) if before else ({}, None)
    known = runs.get(run)
    if signal is Signal.START:
        return runs | {run: (known or HeardRun())._replace(started=at)}, last_run
    if known is None or known.started is None:
        last_run = (at - measured, at) if measured else last_run
        return (runs, last_run) if known else (runs | {run: HeardRun(at, measured=measured)}, last_run)
    # No client can have measured more than is since its start; one that registered its service counts too.
    began = max(known.started, at - measured) if measured else known.started
    return runs | {run: known._replace(started=None)}, (began, at)
