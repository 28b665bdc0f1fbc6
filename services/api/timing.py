"""Who says when a service is expected: a person, or its heartbeats. Pure.

What its heartbeats declare holds until a person sets an interval or a schedule; from then on they declare
nothing. An event says which of both it was: it has a `declared_at` where a heartbeat declared.
"""

from datetime import datetime

from shared.contracts import durations, schedules
from shared.contracts.events import MICRO, ConfigData, ServiceConfig
from shared.contracts.heartbeats import quoted
from shared.contracts.schedules import Schedule
from shared.contracts.wanted import Wanted
from shared.domain.service_state import ServiceState
from shared.http.problems import Problem

_ONE_OF_BOTH = "only one of every and schedule may be set"


def replaced(wanted: Wanted, old: ConfigData, now: datetime) -> ConfigData:
    """The configuration anew. What a person set of the timing goes, what its heartbeats declare stays; what
    they declared before a person set it does not come back."""
    was = old.config
    config = wanted.whole(paused=was.paused).model_copy(update={"as_check": was.as_check})
    if config.every or config.schedule or old.declared_at is None:
        is_cleared = bool(was.every or was.schedule) and not (config.every or config.schedule)
        update = {"config": config, "declared_at": now if is_cleared else None, "declared_limits": ()}
        return old.model_copy(update=update)
    if was.schedule:
        if config.time_zone not in (None, was.time_zone):
            why = "its heartbeats declare the schedule and its zone; give the schedule as well to set both"
            raise Problem(422, f"time_zone: {why}")
        config = config.model_copy(update={"schedule": was.schedule, "time_zone": was.time_zone})
    kept = [field for field in old.declared_limits if field not in wanted.model_fields_set]
    config = config.model_copy(update={field: getattr(was, field) for field in (*kept, "every")})
    return old.model_copy(update={"config": config, "declared_limits": tuple(kept)})


def merged(wanted: Wanted, old: ConfigData, now: datetime) -> ConfigData:
    """The configuration with what is given. An interval takes the place of a declared schedule, and the other
    way round; null clears also what its heartbeats declare, until they declare something again."""
    config, was, given = wanted.merged_into(old.config), old.config, wanted.model_fields_set
    declared = old.declared_at is not None
    if config.every and config.schedule and not (wanted.every and wanted.schedule):
        if not declared:
            field, other = ("every", "schedule") if wanted.every else ("schedule", "every")
            raise Problem(422, f"{field}: {_ONE_OF_BOTH}; set {other} to null to use this")
        config = config.model_copy(update={"schedule": None} if wanted.every else {"every": None})
    if declared and was.schedule and not config.schedule and "time_zone" not in given:
        config = config.model_copy(update={"time_zone": None})
    declared_at = old.declared_at
    in_another_zone = bool(config.schedule) and config.time_zone != was.time_zone
    is_cleared = bool(was.every or was.schedule) and not (config.every or config.schedule)
    if wanted.every or wanted.schedule or (in_another_zone and config.time_zone):
        declared_at = None
    elif is_cleared or (declared_at and in_another_zone):
        declared_at = max(now, declared_at + MICRO) if declared_at else now
    limits = tuple(field for field in old.declared_limits if field not in given)
    return old.model_copy(update={"config": config, "declared_at": declared_at, "declared_limits": limits})


def check(config: ServiceConfig, was: ServiceConfig, registry_zone: str, now: datetime) -> None:
    """Problem 422 unless another schedule than before can be read, comes after `now`, and stands alone."""
    if _timing(config) == _timing(was):
        return
    if config.every and config.schedule:
        raise Problem(422, f"schedule: {_ONE_OF_BOTH}")
    if config.schedule is not None:
        read(config.schedule, config.time_zone or registry_zone, now)


def _timing(config: ServiceConfig) -> tuple[object, ...]:
    return config.every, config.schedule, config.time_zone


def read(schedule: str, time_zone: str, now: datetime) -> Schedule:
    """The schedule. Problem 422 says what is wrong with it, also where it never comes after `now`."""
    try:
        return schedules.parse(schedule, time_zone, now)
    except ValueError as error:
        raise Problem(422, f"schedule: {error}") from None


def unused(state: ServiceState, registry_zone: str) -> list[str]:
    """What its newest heartbeat declares, where a person has set something else."""
    if state.declared_at is not None or not (state.every or state.schedule):
        return []
    every, schedule, time_zone = state.declared
    has = f"every {_written(state.every)}" if state.every else _placed(state.schedule, state.time_zone)
    if schedule:
        in_force = state.time_zone or registry_zone
        if schedule == state.schedule and time_zone in (None, in_force):
            return []
        return [f"schedule: {_placed(schedule, time_zone)} is not used, as {has} is configured"]
    if every and every != state.every:
        return [f"every: {_written(every)} is not used, as {has} is configured"]
    return []


def over(state: ServiceState, expected: datetime | None) -> list[str]:
    """That it is not due any more, so that nobody takes it for watched."""
    if state.schedule is None or expected:
        return []
    return [f"schedule: {quoted(state.schedule)} does not come any more"]


def _placed(schedule: str | None, time_zone: str | None) -> str:
    return quoted(schedule) + (f" in {time_zone}" if time_zone else "")


def _written(length: int) -> str:
    return durations.write(length * MICRO)
