"""The file that would make what is there now. Pure.

Templates and defaults are put together again from what the services have of them. What heartbeats declare is
no configuration, and is left out.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from services.api.as_code.planning import page_value, window_value
from shared.contracts import durations
from shared.contracts.configuration import FIELDS, StatusPage
from shared.contracts.events import ServiceConfig
from shared.contracts.maintenance import Window
from shared.contracts.routes import Route
from shared.contracts.thresholds import DEFAULTS, TEMPLATE
from shared.domain.service_state import ServiceState

_DEFAULT = ServiceConfig()


def export(
    states: Iterable[ServiceState],
    routes: Sequence[Route],
    windows: Iterable[Window],
    pages: Iterable[StatusPage],
    *,
    with_aliases: bool = True,
) -> dict[str, Any]:
    """As `registry.yaml` has it."""
    known = sorted(states, key=lambda state: state.name)
    names, templates = _templates(known)
    defaults = _most_common((state, key) for state in known for key in _from(state, DEFAULTS))
    made: dict[str, Any] = {"version": 1}
    if defaults:
        made["defaults"] = _as_written(defaults)
    if templates:
        made["templates"] = {name: _as_written(template) for name, template in templates.items()}
    made["services"] = {}
    for state in known:
        name = names.get((state.managed_by, state.template))
        found = _service(state, templates.get(name or "", {}), defaults)
        if not with_aliases:
            found.pop("aliases", None)
        made["services"][state.name] = ({"template": name} if name else {}) | _as_written(found)
    parts: dict[str, list[Any]] = {
        "routes": [route.model_dump(mode="json") for route in routes],
        "maintenance": sorted(map(window_value, windows), key=str),
        "status_pages": sorted(map(page_value, pages), key=lambda page: str(page["path"])),
    }
    return made | {part: value for part, value in parts.items() if value}


def _templates(
    states: Sequence[ServiceState],
) -> tuple[dict[tuple[str | None, str | None], str], dict[str, dict[str, Any]]]:
    """How the template of each file is called, and what it says. Two files may have different ones of the
    same name."""
    users: defaultdict[tuple[str | None, str | None], list[ServiceState]] = defaultdict(list)
    for state in states:
        if state.template is not None:
            users[state.managed_by, state.template].append(state)
    names, templates = dict[tuple[str | None, str | None], str](), dict[str, dict[str, Any]]()
    for whose, its in users.items():
        template = _most_common((state, key) for state in its for key in _from(state, TEMPLATE))
        name, n = str(whose[1]), 1
        while name in templates and templates[name] != template:
            n += 1
            name = f"{whose[1]}-{n}"
        names[whose], templates[name] = name, template
    return names, templates


def _from(state: ServiceState, part: str) -> list[str]:
    return [key for key, of in state.inherited.items() if of == part and key in FIELDS]


def _most_common(found: Iterable[tuple[ServiceState, str]]) -> dict[str, Any]:
    """What most of them have in each field."""
    counts: defaultdict[str, Counter[Any]] = defaultdict(Counter)
    for state, key in found:
        counts[key][getattr(state.configuration, key)] += 1
    return {key: counts[key].most_common(1)[0][0] for key in FIELDS if key in counts}


def _service(state: ServiceState, template: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What a service has to say, beside its template and the defaults. None: nothing, though these do."""
    config = state.configuration
    declared = set(state.declared_limits)
    if state.declared_at is not None:
        declared |= {"every", "schedule"} | ({"time_zone"} if config.schedule else set())
    own = {
        key: value
        for key in FIELDS
        if key not in declared and (value := getattr(config, key)) != getattr(_DEFAULT, key)
    }
    is_scheduled = bool(own.get("schedule"))
    said: dict[str, Any] = {}
    shared = dict(defaults) | dict(template)
    for key in FIELDS:
        its = TEMPLATE if key in template else DEFAULTS if key in defaults else None
        if its and state.inherited.get(key) == its and getattr(config, key) == shared[key]:
            continue
        if key in own:
            said[key] = own[key]
        elif its and not (its == DEFAULTS and key == "time_zone" and not is_scheduled):
            said[key] = None
    if said.get("every") and said.get("schedule", 1) is None:
        del said["schedule"]  # its own interval takes the place of the template's schedule
    if said.get("schedule") and said.get("every", 1) is None:
        del said["every"]
    return said | ({"paused": True} if config.paused else {})


def _as_written(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: durations.write(value)
        if hasattr(value, "total_seconds")
        else list(value)
        if isinstance(value, tuple)
        else value
        for key, value in fields.items()
    }
