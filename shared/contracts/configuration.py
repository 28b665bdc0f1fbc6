"""Configuration as code: what `registry.yaml` may say, and what that comes to for each service. Pure.

One definition for the file, the API and the JSON Schema. Every field of a service is its own, or its
template's, or one of the file's `defaults`; where each is from is kept with the service, as `inherited`.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StringConstraints,
    ValidationError,
)

from shared.contracts.configuration_file import Path
from shared.contracts.events import NAME_MAX, NAME_RULE
from shared.contracts.maintenance import Window
from shared.contracts.routes import MAX_ROUTES, Route
from shared.contracts.thresholds import DEFAULTS, TEMPLATE
from shared.contracts.wanted import Aliases, Name, Shareable, Tag, Threshold, Times, Wanted
from shared.contracts.zones import ZoneName

SERVICES_MAX = 200_000
WINDOWS_MAX, PAGES_MAX, GROUPS_MAX = 1000, 100, 100
PAGE_RULE = r"^[a-z0-9]+(-[a-z0-9]+)*$"
PAGE_RULE_IN_WORDS = "lower-case letters and digits, with single hyphens between them"
DURATION_PATTERN = r"^([0-9]{1,6}d)?([0-9]{1,8}h)?([0-9]{1,9}m)?([0-9]{1,9}(\.[0-9]{1,3})?s)?$"
FILE_RULE = r"^[^/\\\x00-\x1f\x7f-\x9f]{1,100}$"
"""Of the base name of a file."""
FILE = "registry.yaml"
"""The one that is meant where none is named."""

_Closed = ConfigDict(extra="forbid", frozen=True)


def managed_by(file: str) -> str:
    """What says so of whatever the file made; also the actor of what it causes."""
    return f"file:{file}"


class Defaults(BaseModel):
    """What the services of the file have that say nothing else, nor has their template, interval or schedule
    a say in it."""

    model_config = _Closed

    silent_after: Threshold = None
    down_after: Threshold = None
    dead_after: Threshold = None
    early: Threshold = None
    max_run: Threshold = None
    fail_after: Times | None = None
    recover_after: Times | None = None
    notify: StrictBool | None = None
    notify_unusual: StrictBool | None = None
    time_zone: ZoneName | None = Field(default=None, description="Of those that have a schedule.")


class Template(Shareable):
    paused: StrictBool | None = Field(
        default=None, description="Absent: whether it is paused stays as it is."
    )


class FileService(Template):
    """null sets a field to its default, whatever the template and `defaults` say."""

    template: str | None = Field(default=None, description="One of `templates`, by name.")
    aliases: Aliases | None = Field(
        default=None, description="What leads to it as its ping key does: ids it had in another system."
    )


def _path(path: str) -> str:
    if not re.fullmatch(PAGE_RULE.rstrip("$"), path):
        raise ValueError(PAGE_RULE_IN_WORDS)
    return path


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


class PageGroup(BaseModel):
    """The services that have one of the tags, or are named."""

    model_config = _Closed

    name: Text
    tags: Annotated[tuple[Tag, ...], Field(max_length=32)] = ()
    services: Annotated[tuple[Name, ...], Field(max_length=1000)] = ()


class StatusPage(BaseModel):
    """A page that everybody may see, at `/status/{path}`."""

    model_config = _Closed

    path: Annotated[
        str,
        StringConstraints(max_length=64),
        AfterValidator(_path),
        Field(json_schema_extra={"pattern": PAGE_RULE}),
    ]
    title: Text
    groups: Annotated[tuple[PageGroup, ...], Field(max_length=GROUPS_MAX)] = ()


def _nothing_is_empty(value: Any) -> Any:
    return {} if value is None else value


_Names = {"propertyNames": {"pattern": NAME_RULE, "maxLength": NAME_MAX}}
_MaybeEmpty = BeforeValidator(_nothing_is_empty)
TemplateName = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class Configuration(BaseModel):
    """`registry.yaml`. Parts that are absent stay as they are."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="registry.yaml")

    version: Literal[1]
    defaults: Annotated[Defaults, _MaybeEmpty] = Field(
        default=Defaults(), description="For all services of this file."
    )
    templates: Annotated[
        dict[TemplateName, Annotated[Template, _MaybeEmpty]], _MaybeEmpty, Field(max_length=1000)
    ] = Field(default={}, description="What several services have alike, by name.")
    services: Annotated[
        dict[Name, Annotated[FileService, _MaybeEmpty]],
        _MaybeEmpty,
        Field(max_length=SERVICES_MAX, json_schema_extra=_Names),
    ] = Field(default={}, description="By name.")
    routes: Annotated[tuple[Route, ...], Field(max_length=MAX_ROUTES)] | None = Field(
        default=None, description="Who hears of what: the first that matches decides."
    )
    maintenance: Annotated[tuple[Window, ...], Field(max_length=WINDOWS_MAX)] | None = None
    status_pages: Annotated[tuple[StatusPage, ...], Field(max_length=PAGES_MAX)] | None = None


def schema() -> dict[str, Any]:
    """The JSON Schema of `registry.yaml`."""
    made: dict[str, Any] = _with_durations(Configuration.model_json_schema())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | made


def _with_durations(part: Any) -> Any:
    """Durations are written as people do, and not as ISO 8601 has them."""
    if isinstance(part, list):
        return [_with_durations(each) for each in part]
    if not isinstance(part, dict):
        return part
    if part.get("format") == "duration":
        return {key: value for key, value in part.items() if key != "format"} | {"pattern": DURATION_PATTERN}
    return {key: _with_durations(value) for key, value in part.items()}


class Fault(NamedTuple):
    """What is wrong with a part of a configuration. `of_key`: with the part's name, and not its value."""

    path: Path
    why: str
    of_key: bool = False


class ConfigurationFaults(ValueError):
    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__(f"{len(self.faults)} faults")


def parse(data: Any) -> tuple[Configuration, list[Fault]]:
    """The configuration, as far as it can be read, and what of it cannot: each part of a list or of a dict on
    its own. ConfigurationFaults if nothing can."""
    try:
        return Configuration.model_validate(data), []
    except ValidationError as error:
        faults = [fault for each in error.errors(include_url=False) for fault in _faults_of(each)]
    if not isinstance(data, dict):
        raise ConfigurationFaults(faults)
    rest = dict(data) | {"version": 1}
    for fault in faults:
        part, *inside = fault.path or ("",)
        if inside and isinstance(rest.get(part), dict) and part in ("templates", "services"):
            rest[part] = {key: value for key, value in rest[part].items() if key != inside[0]}
        else:
            rest.pop(part, None)
    try:
        return Configuration.model_validate(rest), faults
    except ValidationError:
        raise ConfigurationFaults(faults) from None


_IN_WORDS = {
    "tuple_type": "Input should be a list",
    "dict_type": "Input should be a mapping",
    "model_type": "Input should be a mapping",
    "model_attributes_type": "Input should be a mapping",
    "extra_forbidden": "there is no such field",
    "missing": "it is needed",
}


def _faults_of(error: Any) -> Iterator[Fault]:
    path = tuple(part for part in error["loc"] if not _is_of_pydantic(part))
    is_key = bool(error["loc"]) and error["loc"][-1] == "[key]"
    why = _IN_WORDS.get(error["type"], error["msg"].removeprefix("Value error, "))
    if error["type"] == "literal_error" and path == ("version",):
        why = "the only version is 1"
    if error["type"] == "extra_forbidden" and len(path) == 1:
        why += f"; there are {', '.join(Configuration.model_fields)}"
    yield Fault(path, why, of_key=is_key or error["type"] == "extra_forbidden")


def _is_of_pydantic(part: str | int) -> bool:
    """Whether a part of an error's place names a validator, and nothing in the data."""
    return isinstance(part, str) and (part == "[key]" or bool(_VALIDATOR.match(part)))


_VALIDATOR = re.compile(
    r"(function-|lax-or-strict|json-or-python|tagged-union|constrained-|tuple\[|nullable)"
)


FIELDS = tuple(field for field in Wanted.model_fields if field != "name")
_TIMINGS = ("every", "schedule")


class Effective(NamedTuple):
    """What a file comes to for one service. `wanted`: all that it sets; `from_`: of each field of it the part
    of the file that says so."""

    wanted: Wanted
    template: str | None
    inherited: dict[str, Literal["template", "defaults"]]
    paused: bool | None
    from_: dict[str, Path]

    def path(self, field: str) -> Path:
        return self.from_.get(field, ())


def effective(configuration: Configuration, name: str) -> Effective:
    """What holds for a service of it. A template that there is not counts for nothing."""
    service = configuration.services[name]
    template = configuration.templates.get(service.template) if service.template is not None else None
    own = {field: getattr(service, field) for field in service.model_fields_set if field in FIELDS}
    given = dict(own)
    from_: dict[str, Path] = {field: ("services", name, field) for field in own}
    inherited: dict[str, Literal["template", "defaults"]] = {}
    if template is not None:
        assert service.template is not None
        is_timed = any(own.get(field) for field in _TIMINGS)
        for field in template.model_fields_set:
            value = getattr(template, field)
            if field in own or value is None or field == "paused" or (is_timed and field in _TIMINGS):
                continue
            given[field], inherited[field] = value, TEMPLATE
            from_[field] = ("templates", service.template, field)
    for field in configuration.defaults.model_fields_set:
        value = getattr(configuration.defaults, field)
        if field in given or value is None or (field == "time_zone" and not given.get("schedule")):
            continue
        given[field], inherited[field] = value, DEFAULTS
        from_[field] = (DEFAULTS, field)
    paused = service.paused
    if paused is None and template is not None and "paused" not in service.model_fields_set:
        paused = template.paused
    wanted = Wanted.model_construct(_fields_set=set(given), **given)
    return Effective(wanted, service.template, dict(sorted(inherited.items())), paused, from_)
