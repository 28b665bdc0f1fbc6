"""What is asked of a replay of the past under another configuration, and what it answers. Pure."""

from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from shared.contracts.events import ConfigData
from shared.contracts.maintenance import Window
from shared.contracts.routes import Routes

Fallen = Literal["silent", "down", "dead"]


class Asked(BaseModel):
    """`since`: microseconds since 1970. `services`: those that would be configured in another way. `windows`:
    by id those that would be added or changed, or removed (None). `routes`: None if they stay."""

    model_config = ConfigDict(frozen=True)

    since: int
    channels: tuple[str, ...] = ()
    services: dict[str, ConfigData] = {}
    routes: Routes | None = None
    windows: dict[str, Window | None] = {}


class Counted(BaseModel):
    was: int
    would: int


class FallThatDiffers(BaseModel):
    status: Fallen
    last_heartbeat: AwareDatetime | None = Field(description="Before the silence, or that of the failure.")
    was: AwareDatetime | None = Field(description="When it fell; null: it did not.")
    would: AwareDatetime | None = Field(description="When it would have; null: it would not.")
    later_by: float | None = Field(description="Seconds, negative where it is sooner; null: one is missing.")


class Sound(BaseModel):
    was: bool
    would: bool


class MessageThatDiffers(BaseModel):
    channel: str
    what: str = Field(description="`change`, `reminder`, `owed` (it was withheld), `escalation`, `flapping`.")
    status: str
    last_heartbeat: AwareDatetime | None
    was: AwareDatetime | None = Field(description="When it was told; null: it was not.")
    would: AwareDatetime | None
    later_by: float | None
    sound: Sound | None = Field(default=None, description="Where it differs.")


class ServiceThatDiffers(BaseModel):
    service: str
    falls: list[FallThatDiffers]
    messages: list[MessageThatDiffers]


class NotKnown(BaseModel):
    service: str
    known_since: AwareDatetime | None = Field(description="What is told of it begins here; null: nothing is.")
    why: str


_REPLAYED: dict[str, JsonValue] = {
    "since": "2026-10-29T12:00:00Z",
    "until": "2026-11-28T12:00:00Z",
    "services": 42,
    "changed": 1,
    "falls": {"was": 9, "would": 8},
    "messages": {"was": 22, "would": 20},
    "differences": [
        {
            "service": "web",
            "falls": [
                {
                    "status": "silent",
                    "last_heartbeat": "2026-11-09T14:25:00Z",
                    "was": "2026-11-09T14:40:00Z",
                    "would": "2026-11-09T14:45:00Z",
                    "later_by": 300,
                }
            ],
            "messages": [],
        }
    ],
    "more_differences": 0,
    "unknown": [],
    "more_unknown": 0,
}


class Replayed(BaseModel):
    """What a configuration would have told, beside what was told. Digests and runs of unusual length are not
    part of it."""

    model_config = ConfigDict(json_schema_extra={"example": _REPLAYED})

    since: AwareDatetime
    until: AwareDatetime
    services: int = Field(description="That there were.")
    changed: int = Field(description="Of these, whose past was gone through under another configuration.")
    falls: Counted
    messages: Counted = Field(description="Of the services of which anything may differ.")
    differences: list[ServiceThatDiffers]
    more_differences: int = Field(description="Services that differ, and are not listed.")
    unknown: list[NotKnown] = Field(description="For whom the record does not reach so far.")
    more_unknown: int
