"""The form for a service's configuration: what it shows, and what is wanted when it is sent back. Pure."""

import re
from collections.abc import Mapping
from datetime import datetime
from itertools import islice
from typing import Any

from services.api.http.models import MOMENTS
from services.api.http.requests import read_tags, write_tags
from shared.contracts import durations, schedules, zones
from shared.contracts.wanted import Wanted
from shared.domain.service_state import ServiceState

_LENGTHS = ("every", "early", "silent_after", "down_after", "dead_after", "max_run")
_TIMES = ("fail_after", "recover_after")
LABELS = {
    "schedule": "Due by a schedule",
    "time_zone": "In the time zone",
    "every": "Or beats every",
    "early": "Counts so long before it is due",
    "silent_after": "Silent after",
    "down_after": "Down after",
    "dead_after": "Dead after",
    "max_run": "A run may take",
    "fail_after": "Down after so many failures",
    "recover_after": "Alive after so many successes",
    "aliases": "Aliases",
    "tags": "Tags",
    "depends_on": "Depends on",
    "description": "Description",
}
"""What people read at each field."""
CHANGED = LABELS | {
    "acknowledged": "In hand of",
    "muted": "Muted",
    "note": "Note",
    "schedule": "Schedule",
    "time_zone": "Time zone",
    "every": "Beats every",
    "aliases": "Aliases changed",
    "paused": "Paused",
    "notify": "Messages about it",
    "notify_unusual": "Messages about unusual runs",
    "ping_key": "Another ping key",
    "as_check": "For Healthchecks' clients",
}
"""What stands at each field that was changed."""
_NAMED = re.compile(rf"(^|; )({'|'.join(LABELS)})(\.[0-9]+)?: ")
_IN_LINES = ("description", "schedule", "aliases")
_CHECKED = ("notify", "notify_unusual")


def shown(state: ServiceState) -> dict[str, str]:
    """Each field as it stands in the form: empty where nobody has configured it. What heartbeats declare is
    no configuration."""
    config = state.configuration
    if state.declared_at is not None:
        declared = {"every": None} | ({"schedule": None, "time_zone": None} if config.schedule else {})
        config = config.model_copy(update=declared)
    found = {field: durations.write(length) for field in _LENGTHS if (length := getattr(config, field))}
    found |= {field: str(times) for field in _TIMES if (times := getattr(config, field))}
    found |= dict.fromkeys((field for field in _CHECKED if getattr(config, field)), "on")
    return found | {
        "schedule": config.schedule or "",
        "time_zone": config.time_zone or "",
        "aliases": "\n".join(config.aliases),
        "tags": write_tags(config.tags),
        "depends_on": ", ".join(config.depends_on),
        "description": config.description,
    }


def wanted(form: Mapping[str, str], state: ServiceState) -> Wanted:
    """What was changed in the form. What nobody touched stays, whatever stands in it. Raises ValidationError,
    or Problem 422."""
    before, given = shown(state), dict[str, Any]()
    for field in (*_LENGTHS, *_TIMES, *_IN_LINES, "time_zone", "tags", "depends_on"):
        text = _as_sent(field, form.get(field, ""))
        if field in form and text != _as_sent(field, before.get(field, "")):
            given[field] = text or None
    for field in ("aliases", "depends_on"):
        if listed := given.get(field):
            given[field] = tuple(re.split(r"[\s,]+", listed.strip(", \n\t")))
    if tags := given.get("tags"):
        given["tags"] = tuple(read_tags(tags))
    for field in _TIMES:
        if (times := given.get(field)) and times.isdecimal():
            given[field] = int(times[:20])  # of thousands of digits Python makes no number
    given |= {field: field in form for field in _CHECKED if (field in form) != (field in before)}
    return Wanted(**given)


def by_labels(why: str) -> str:
    """Why it was refused, with the fields by their labels."""
    return _NAMED.sub(lambda found: f"{found[1]}{LABELS[found[2]]}: ", why)


def _as_sent(field: str, text: str) -> str:
    """As a browser sends back what it was given to show."""
    if field in _IN_LINES:
        return text.replace("\r\n", "\n").replace("\r", "\n").strip()
    return text.replace("\r", "").replace("\n", "").strip()


def preview(schedule: str, time_zone: str, after: datetime | None) -> tuple[str, list[str]]:
    """A schedule in words and its next moments by its own clock; nothing where it cannot be read. `after`:
    None, where none is left."""
    try:
        zone, found = zones.zone(time_zone), schedules.stored(schedule, time_zone)
    except ValueError:
        return "", []
    moments = islice(found.upcoming(after), MOMENTS) if after else ()
    return found.says, [_by_the_clock(zones.in_zone(moment, zone)) for moment in moments]


def _by_the_clock(moment: datetime) -> str:
    return format(moment, f"%a %Y-%m-%d {'%H:%M:%S' if moment.second else '%H:%M'} %Z")
