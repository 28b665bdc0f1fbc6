"""A service as a check of Healthchecks' Management API, and a check as what is wanted of a service. Pure.

A check's uuid is the service's ping key, its slug the service's name. What means nothing here (a name with
blanks in it, channels, keywords for emails …) is kept as it was set, so that whoever keeps checks as code
finds no difference.
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt

from shared.contracts import durations, thresholds, zones
from shared.contracts.events import MICRO, NAME_MAX, Signal, Status, moment, valid_name
from shared.contracts.wanted import Lines, NewService
from shared.domain.service_state import ServiceState

TIMEOUT, GRACE = 86400, 3600
"""Seconds, of a check that is created without."""
_ONE_SECOND = 1_000_000

KEPT: dict[str, str | bool] = {
    "manual_resume": False,
    "methods": "",
    "subject": "",
    "subject_fail": "",
    "start_kw": "",
    "success_kw": "",
    "failure_kw": "",
    "filter_subject": False,
    "filter_body": False,
    "channels": "",
}
"""What means nothing here, and what it is unless it was set."""


def _blanks_between(tags: Any) -> Any:
    return " ".join(map(str, tags)) if isinstance(tags, list) else tags


def _known_zone(name: str) -> str:
    zones.zone(name)
    return name


Seconds = Annotated[StrictInt, Field(ge=60, le=31_536_000)]
Text = Annotated[str, Field(max_length=200)]


class Spec(BaseModel):
    """What is asked of a check. Absent or null: it stays, or is the default. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: Annotated[str, Field(max_length=100)] | None = None
    slug: Annotated[str, Field(max_length=100, pattern=r"^[a-z0-9-_]*$")] | None = None
    tags: Annotated[str, Field(max_length=2400), BeforeValidator(_blanks_between)] | None = None
    desc: Annotated[str, Field(max_length=2000)] | None = None
    timeout: Seconds | None = None
    grace: Seconds | None = None
    schedule: Lines | None = None
    tz: Annotated[str, AfterValidator(_known_zone)] | None = None
    unique: list[Literal["name", "slug", "tags", "timeout", "grace"]] | None = None
    channels: Annotated[str, Field(max_length=2000)] | None = None
    manual_resume: StrictBool | None = None
    methods: Literal["", "POST"] | None = None
    subject: Text | None = None
    subject_fail: Text | None = None
    start_kw: Text | None = None
    success_kw: Text | None = None
    failure_kw: Text | None = None
    filter_subject: StrictBool | None = None
    filter_body: StrictBool | None = None

    @property
    def times(self) -> bool:
        """Whether it says when heartbeats are due."""
        return any(each is not None for each in (self.timeout, self.grace, self.schedule, self.tz))


class WantedService(NewService):
    """A configuration with what is kept of a check."""

    as_check: dict[str, str | bool] | None = None


class Timing(NamedTuple):
    """When a check is due, as Healthchecks says it: seconds. `schedule`: None for one that just beats."""

    timeout: int
    grace: int
    schedule: str | None
    tz: str


Defaults = tuple[timedelta, timedelta, timedelta]


def timing(state: ServiceState, defaults: Defaults, zone: str) -> Timing:
    """`defaults`, `zone`: the registry's own."""
    own = state.silent_after, state.down_after, state.dead_after
    ours = (defaults[0] // MICRO, defaults[1] // MICRO, defaults[2] // MICRO)
    silent, down, _ = thresholds.in_force(
        own,
        state.every,
        ours,
        scheduled=state.schedule is not None,
        inherited=thresholds.inheritance(state.inherited),
    )
    timeout = 0 if state.schedule else state.every or silent
    return Timing(
        timeout // _ONE_SECOND,
        max(0, down - timeout) // _ONE_SECOND,
        state.schedule,
        state.time_zone or zone,
    )


def human_name(state: ServiceState) -> str:
    return str(state.as_check.get("name", state.name))


def slug(state: ServiceState) -> str:
    return str(state.as_check.get("slug", state.name))


def also_called(state: ServiceState) -> set[str]:
    """The check's own name, the slug that Healthchecks would make of it, and its own slug, as far as they are
    not the service's name."""
    if not state.as_check:
        return set()
    name = human_name(state)
    return {name, slugified(name), slug(state)} - {state.name}


def unique_key(ping_key: str) -> str:
    """What names a check to whoever may only read. It leads to no ping key."""
    return hashlib.sha1(ping_key.replace("-", "")[:16].encode(), usedforsecurity=False).hexdigest()


def status(state: ServiceState, next_ping: int | None, now: int) -> str:
    """`next_ping`: when it is due, in microseconds. A check is in its grace from then on until it is down."""
    if state.paused:
        return "paused"
    if state.status is Status.UNKNOWN:
        return "new"
    if state.status in (Status.DOWN, Status.DEAD):
        return "down"
    return "grace" if next_ping is not None and next_ping <= now else "up"


def last_ping(state: ServiceState) -> int:
    """The last success or failure, 0: none; a start is no ping to Healthchecks."""
    if state.is_heard and state.heartbeat_signal is Signal.START:
        return state.last_run[1] if state.last_run and state.last_run[1] > state.registered_at else 0
    return state.last_heartbeat


def shown(
    state: ServiceState,
    its: Timing,
    *,
    version: int,
    next_ping: int | None,
    now: int,
    pings: int,
    public_url: str,
    ping_url: str | None,
    badge_url: str,
) -> dict[str, Any]:
    """The check. `ping_url`: None for whoever may only read; `pings`: how many are kept."""
    is_ = status(state, next_ping, now)
    started = state.running_since(state.max_run or (its.timeout + its.grace) * _ONE_SECOND) is not None
    if version == 1 and started and is_ not in ("down", "paused"):
        is_ = "started"
    due = next_ping if is_ in ("up", "grace", "started") else None
    found: dict[str, Any] = {
        "name": human_name(state),
        "slug": slug(state),
        "tags": " ".join(state.tags),
        "desc": state.description,
        "grace": its.grace,
        "n_pings": pings,
        "status": is_,
        "started": started,
        "last_ping": _iso(last_ping(state)),
        "next_ping": _iso(due or 0),
        **{field: state.as_check.get(field, default) for field, default in KEPT.items()},
        "badge_url": badge_url,
    }
    if state.last_duration is not None:
        found["last_duration"] = state.last_duration // _ONE_SECOND
    if ping_url is None:
        del found["channels"]
        found["unique_key"] = unique_key(state.ping_key or "")
    else:
        update_url = f"{public_url}/api/v{version}/checks/{state.ping_key}"
        found |= {"uuid": state.ping_key} if version >= 3 else {}
        found |= {
            "ping_url": ping_url,
            "update_url": update_url,
            "pause_url": f"{update_url}/pause",
            "resume_url": f"{update_url}/resume",
        }
    if its.schedule is None:
        return found | {"timeout": its.timeout}
    return found | {"schedule": its.schedule, "tz": its.tz}


def _iso(at: int) -> str | None:
    """In whole seconds, as Healthchecks writes it; None: never."""
    return moment(at).replace(microsecond=0).isoformat() if at else None


# --- what is wanted


def matches(state: ServiceState, its: Timing, spec: Spec) -> bool:
    """Whether this is the check that `unique` means."""
    has = {
        "name": human_name(state),
        "slug": slug(state),
        "tags": " ".join(state.tags),
        "timeout": None if its.schedule else its.timeout,
        "grace": its.grace,
    }
    wanted = {field: getattr(spec, field) for field in spec.unique or ()}
    return bool(wanted) and all(value is not None and has[field] == value for field, value in wanted.items())


def new(spec: Spec, taken: Callable[[str], bool]) -> WantedService:
    """A service of its own for a check that is created; a name that is taken gets a number behind it."""
    wished = spec.slug or (spec.name or "")
    base = wished if valid_name(wished) else slugified(wished) or "check"
    name, number = base, 1
    while taken(name):
        number += 1
        name = f"{base[: NAME_MAX - 8]}-{number}"
    its = Timing(spec.timeout or TIMEOUT, spec.grace or GRACE, None, spec.tz or "UTC")
    kept = _kept(spec, {})
    if spec.name and spec.name != name:
        kept["name"] = spec.name
    if spec.slug and spec.slug != name:
        kept["slug"] = spec.slug
    return _wanted(name, spec, its if spec.schedule is None else its._replace(schedule=spec.schedule), kept)


def change(spec: Spec, state: ServiceState, its: Timing) -> WantedService:
    """What changes of a service: nothing of when it is due, where it is due as asked. ValueError for another
    slug: services are not renamed."""
    if spec.slug and spec.slug not in (state.name, slug(state)):
        raise ValueError(f"slug: it is the service's name, {state.name}, and cannot be changed")
    kept = _kept(spec, state.as_check)
    if spec.name is not None:
        kept.pop("name", None)
        kept |= {"name": spec.name} if spec.name not in ("", state.name) else {}
    if not spec.times:
        return _wanted(state.name, spec, None, kept)
    now = its._replace(grace=spec.grace or its.grace, tz=spec.tz or its.tz)
    if spec.schedule:
        now = now._replace(schedule=spec.schedule)
    elif spec.timeout:
        now = now._replace(timeout=spec.timeout, schedule=None)
    return _wanted(state.name, spec, now if now != its else None, kept)


def _kept(spec: Spec, before: Mapping[str, str | bool]) -> dict[str, str | bool]:
    given = {field: value for field in KEPT if (value := getattr(spec, field)) is not None}
    kept = dict(before) | given
    return {field: value for field, value in kept.items() if value != KEPT.get(field)}


def _wanted(name: str, spec: Spec, its: Timing | None, kept: dict[str, str | bool]) -> WantedService:
    """`its`: None, where nothing is said of when it is due."""
    given: dict[str, Any] = {"name": name, "as_check": kept}
    if spec.tags is not None:
        given["tags"] = tuple(dict.fromkeys(spec.tags.split()))
    if spec.desc is not None:
        given["description"] = spec.desc
    return WantedService(**given, **(_lengths(its) if its else {}))


def _lengths(its: Timing) -> dict[str, Any]:
    """Down when Healthchecks would say so: a grace after the timeout or the moment it is due; and when a run
    takes longer than the grace. Silent, which Healthchecks does not tell, half-way there."""
    timeout, grace = timedelta(seconds=its.timeout), timedelta(seconds=its.grace)
    after = timedelta() if its.schedule else timeout
    return {
        "every": None if its.schedule else durations.write(timeout),
        "schedule": its.schedule,
        "time_zone": its.tz if its.schedule else None,
        "silent_after": durations.write(after + grace / 2),
        "down_after": durations.write(after + grace),
        "max_run": durations.write(grace),
    }


def slugified(name: str) -> str:
    """Lower-case ASCII with `-` for blanks, as Healthchecks makes a slug of a name."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain)).strip("-_")[:NAME_MAX]
