"""What is wanted of a service: the fields that the API, the file and its schema have in common. Pure."""

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StringConstraints,
)

from shared.contracts import durations, ping_keys, thresholds
from shared.contracts.durations import Duration
from shared.contracts.events import (
    COUNT_MAX,
    DEPENDS_ON_MAX,
    NAME_RULE_IN_WORDS,
    SCHEDULE_MAX,
    ServiceConfig,
    valid_name,
)
from shared.contracts.zones import ZoneName

THRESHOLDS = thresholds.FIELDS


def _written(value: Any) -> Any:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"must be {durations.ACCEPTED}, in quotes")
    return value


def tidy(tags: tuple[str, ...]) -> tuple[str, ...]:
    """Each once, in order."""
    return tuple(dict.fromkeys(tags))


def _named(name: str) -> str:
    if not valid_name(name):
        raise ValueError(NAME_RULE_IN_WORDS)
    return name


def _an_alias(alias: str) -> str:
    if not ping_keys.is_alias(alias):
        raise ValueError(ping_keys.ALIAS_RULE_IN_WORDS)
    return ping_keys.canonical(alias)


def _in_lines(text: str) -> str:
    return "\n".join(text.strip().splitlines())


Threshold = Annotated[Duration | None, BeforeValidator(_written), Field(examples=["15m"])]
Lines = Annotated[str, StringConstraints(max_length=SCHEDULE_MAX), AfterValidator(_in_lines)]
Times = Annotated[StrictInt, Field(ge=1, le=COUNT_MAX)]
Tag = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)]
Name = Annotated[str, AfterValidator(_named), Field(examples=["billing.worker"])]
Alias = Annotated[
    str,
    AfterValidator(_an_alias),
    Field(
        examples=["6d8d1a8e-1f2b-4c55-9d0e-0f6c0d1d7a52"], json_schema_extra={"pattern": ping_keys.ALIAS_RULE}
    ),
]
Aliases = Annotated[tuple[Alias, ...], Field(max_length=ping_keys.ALIASES_MAX), AfterValidator(tidy)]
Names = Annotated[tuple[Name, ...], Field(max_length=DEPENDS_ON_MAX), AfterValidator(tidy)]


_NOTHING_SET = ServiceConfig()


class Shareable(BaseModel):
    """What several services may have alike."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: Annotated[str, StringConstraints(max_length=2000)] | None = None
    tags: Annotated[tuple[Tag, ...], Field(max_length=32), AfterValidator(tidy)] | None = None
    every: Threshold = Field(
        default=None, description="How often it beats, if it has no schedule; see `thresholds`."
    )
    schedule: Lines | None = Field(
        default=None,
        description="When it is due: lines of cron or of systemd's OnCalendar. Thresholds count from there.",
        examples=["0 3 * * *"],
    )
    time_zone: ZoneName | None = Field(
        default=None, description="Of the schedule; else the registry's.", examples=["Europe/Berlin"]
    )
    early: Threshold = Field(
        default=None,
        description="So long before it is due a heartbeat counts for it, at most half the distance.",
    )
    silent_after: Threshold = None
    down_after: Threshold = None
    dead_after: Threshold = None
    max_run: Threshold = Field(default=None, description="A run that takes longer is overdue: down.")
    fail_after: Times | None = Field(default=None, description="So many failures in a row make it down.")
    recover_after: Times | None = Field(
        default=None, description="So many successes in a row make it alive, after down and dead."
    )
    notify: StrictBool | None = Field(default=None, description="Whether its changes are sent.")
    notify_unusual: StrictBool | None = Field(
        default=None, description="Whether runs of an unusual length are sent."
    )
    depends_on: Names | None = Field(
        default=None,
        description="Services, by name: while one of them is down, a fall of this one is not told.",
        examples=[["storage"]],
    )


class Wanted(Shareable):
    """A configuration. What is absent or null is the default; in a PATCH, what is absent stays."""

    name: Name | None = Field(default=None, description="If given, the one in the path.")
    aliases: Aliases | None = Field(
        default=None, description="What leads to it as its ping key does: ids it had in another system."
    )

    def whole(self, *, paused: bool = False) -> ServiceConfig:
        """The configuration this is, with defaults for what it leaves out."""
        return self.merged_into(_NOTHING_SET.model_copy(update={"paused": paused}))

    def merged_into(self, config: ServiceConfig) -> ServiceConfig:
        """`config` with what is given here, which is the service's own from now on; null sets a field back to
        its default."""
        default = _NOTHING_SET
        given = {field: getattr(self, field) for field in self.model_fields_set - {"name"}}
        kept = {field: of for field, of in config.inherited.items() if field not in given}
        return config.model_copy(
            update={"inherited": kept}
            | {field: getattr(default, field) if value is None else value for field, value in given.items()}
        )


class NewService(Wanted):
    name: Name


def check_order(config: Any) -> None:
    """ValueError unless those thresholds that are set together are in order; the others make way. `config`:
    whatever has them."""
    inherited = getattr(config, "inherited", {})
    own = {
        field: value for field in THRESHOLDS if field not in inherited and (value := getattr(config, field))
    }
    if thresholds.out_of_order(tuple(own.values())):
        found = ", ".join(f"{field} {durations.write(value)}" for field, value in own.items())
        raise ValueError(f"silent_after < down_after < dead_after is needed; this would be {found}")
