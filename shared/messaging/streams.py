"""Streams and subjects: the only place that names them."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import structlog
from nats.js import JetStreamContext
from nats.js.api import StorageType, StreamConfig, StreamInfo
from nats.js.errors import APIError, NotFoundError

from shared.contracts.events import (
    ConfigurationEvent,
    ConfigurationRemoved,
    ConfigurationSet,
    Event,
    Fact,
    IncidentEvent,
    RunRecorded,
    StatusChanged,
    parse_configuration,
    parse_event,
    parse_fact,
    parse_incident,
    parse_run,
)
from shared.settings import MIN_STREAM_BYTES, Settings

HEARTBEATS = "HEARTBEATS"
SERVICES = "SERVICES"
RUNS = "RUNS"
RUNS_MAX = 10_000
"""Facts about runs, and gaps, that are kept of one service."""

ASIDE = "ASIDE"
ASIDE_SUBJECT = "aside"
ASIDE_SIZE_MAX = 64 * 1024
"""At most so many bytes are kept of a message that cannot be read, for an operator to look at."""

MONITOR_BUCKET = "registry_monitor"
NOTIFIER_BUCKET = "registry_notifier"
MAINTENANCE_BUCKET = "registry_maintenance"
"""Of older versions; what is in it is taken over into SERVICES, and stays for notifiers of such a version."""
API_BUCKET = "registry_api"

REBUILD = "registry.rebuild"
"""Not in a stream: a request that the API answers when its read models have been built anew."""
LAST_EVALUATED = "registry.monitor.judged"
"""A request: monitors answer when the newest tick they evaluated was stored, microseconds since 1970."""
CHANNELS = "registry.channels"
"""A request: the notifier that speaks answers how its channels stand, from the one of this number on."""
CHANNEL_TEST, CHANNEL_ON = "registry.channel.test", "registry.channel.on"
"""Requests with a channel's name: to send it a test message, and to send it messages again at once."""
CHANNEL_INVITE = "registry.channel.invite"
"""A request: how one subscribes."""

TYPE_HEADER = "ce-type"
"""The type of an event as a header, for those that read only headers."""
KEYS_HEADER = "Registry-Keys"
"""The ping key and the aliases of a service, on its configuration events, for the same."""

ALL_HEARTBEATS = "heartbeat.>"
ALL_TICKS = "tick.>"
ALL_EVENTS = "service.>"
ALL_CONFIG = "service.config.>"
ALL_STATUS = "service.status.>"
ALL_INCIDENT = "service.incident.>"
ALL_RUNS = "run.>"
ALL_CONFIGURATION = "registry.config.>"

WHOLE = {HEARTBEATS: {ALL_HEARTBEATS, ALL_TICKS}, SERVICES: {ALL_EVENTS}, RUNS: {ALL_RUNS}}
"""The subjects that together are the stream, but for the registry's own configuration: a few messages, which
`Reader` passes over."""

SPARE = 1_000_000
"""Messages that HEARTBEATS may hold besides those of all services: ticks, and of names not registered."""
_MAX_MESSAGES = 2**53

TICK_TTL = timedelta(days=93)
"""How long ticks are kept: a little longer than the longest period of an uptime."""

log = structlog.get_logger()


def heartbeat(name: str) -> str:
    return f"heartbeat.{name}"


def tick(instance: str) -> str:
    return f"tick.{instance}"


def config(name: str) -> str:
    return f"service.config.{name}"


def status(name: str) -> str:
    return f"service.status.{name}"


def incident(name: str) -> str:
    return f"service.incident.{name}"


def of_service(name: str) -> tuple[str, str, str]:
    """The subjects of SERVICES that are about it."""
    return config(name), status(name), incident(name)


def is_incident(subject: str) -> bool:
    return subject.startswith("service.incident.")


def configuration(name: str) -> str:
    """Of the registry itself: `routes.all`, `maintenance.5c0f1f0a9d3e`."""
    return f"registry.config.{name}"


def is_configuration(subject: str) -> bool:
    return subject.startswith("registry.config.")


def run(name: str) -> str:
    return f"run.{name}"


def stream_of(subject: str) -> str:
    """The stream of an event's subject."""
    return RUNS if subject.startswith("run.") else SERVICES


def subject_of(event: Event | IncidentEvent | ConfigurationEvent) -> str:
    if isinstance(event, ConfigurationSet | ConfigurationRemoved):
        return configuration(event.name)
    if isinstance(event, IncidentEvent):
        return incident(event.name)
    return status(event.name) if isinstance(event, StatusChanged) else config(event.name)


def read_event(subject: str, payload: bytes) -> Event:
    """The event of configuration or status in a message of SERVICES. ValueError if it is none, or not one of
    its subject."""
    event = parse_event(payload)
    if subject_of(event) != subject:
        raise ValueError(f"{event.type} of {event.name} has no place in {subject}")
    return event


def read_incident(subject: str, payload: bytes) -> IncidentEvent:
    """The same of what somebody did about an incident."""
    event = parse_incident(payload)
    if subject_of(event) != subject:
        raise ValueError(f"{event.type} of {event.name} has no place in {subject}")
    return event


def read_configuration(subject: str, payload: bytes) -> ConfigurationEvent:
    """The same of the registry's own configuration."""
    event = parse_configuration(payload)
    if subject_of(event) != subject:
        raise ValueError(f"{event.type} of {event.name} has no place in {subject}")
    return event


def read_run(subject: str, payload: bytes) -> RunRecorded:
    """The fact in a message of RUNS. ValueError if it is none, or not one of its subject."""
    event = parse_run(payload)
    if run(event.name) != subject:
        raise ValueError(f"{event.type} of {event.name} has no place in {subject}")
    return event


def read_fact(subject: str, payload: bytes) -> Fact:
    """The same of a fact about a run or a gap."""
    event = parse_fact(payload)
    if run(event.name) != subject:
        raise ValueError(f"{event.type} of {event.name} has no place in {subject}")
    return event


def printable(text: str) -> str:
    """A text as a header may hold it: one short line of ASCII."""
    return " ".join(text.encode("ascii", "backslashreplace").decode().split())[:500]


def name_in(subject: str) -> str:
    """The service (or instance, or part of the configuration) in one of the subjects above."""
    head, _, rest = subject.partition(".")
    return rest.partition(".")[2] if head in ("service", "registry") else rest


def planned(settings: Settings) -> tuple[StreamConfig, ...]:
    """The streams as they should be; the same in every service, from the same variables."""
    common = StreamConfig(storage=StorageType.FILE, num_replicas=settings.nats_replicas, allow_direct=True)
    return (
        # A sender can invent any number of names: beyond these bounds the oldest messages are removed.
        replace(
            common,
            name=HEARTBEATS,
            subjects=[ALL_HEARTBEATS, ALL_TICKS],
            max_msgs_per_subject=settings.heartbeats_kept,
            max_msgs=min(settings.heartbeats_kept * settings.max_services + SPARE, _MAX_MESSAGES),
            max_bytes=settings.heartbeats_bytes or -1,
            duplicate_window=120,
            allow_msg_ttl=True,
            allow_atomic=True,
            allow_batched=True,
        ),
        replace(
            common,
            name=SERVICES,
            subjects=[ALL_CONFIG, ALL_STATUS, ALL_INCIDENT, ALL_CONFIGURATION],
            max_msgs_per_subject=settings.events_kept,
            duplicate_window=120,
            allow_atomic=True,
        ),
        replace(
            common,
            name=RUNS,
            subjects=[ALL_RUNS],
            max_msgs_per_subject=RUNS_MAX,
            max_age=settings.runs_kept.total_seconds(),
            duplicate_window=120,
            allow_atomic=True,
        ),
        replace(common, name=ASIDE, subjects=[ASIDE_SUBJECT], max_msgs=1000),
    )


_MANAGED = (
    "subjects",
    "max_msgs_per_subject",
    "max_msgs",
    "max_bytes",
    "max_age",
    "num_replicas",
    "allow_direct",
    "allow_msg_ttl",
    "allow_atomic",
    "allow_batched",
)


async def provision(js: JetStreamContext, settings: Settings, *, update: bool) -> None:
    """Create the streams that are missing; any service may do it, any number of times. `update`: also change
    the settings of existing ones. Raises nats' errors when the broker is away."""
    for wanted in planned(settings):
        assert wanted.name
        try:
            found = (await js.stream_info(wanted.name)).config
        except NotFoundError:
            try:
                await _store_with_room(js.add_stream, wanted)
                log.info("stream created", stream=wanted.name)
            except APIError as error:
                if error.err_code != _EXISTS:
                    raise
            continue
        if update and any(
            getattr(found, field) != getattr(wanted, field) for field in _MANAGED if getattr(wanted, field)
        ):
            await _store_with_room(js.update_stream, wanted, at_least=found.max_bytes or -1)
            log.info("stream updated", stream=wanted.name)


async def _store_with_room(
    store: Callable[[StreamConfig], Awaitable[StreamInfo]], wanted: StreamConfig, at_least: int = -1
) -> None:
    """Create or update a stream with the wanted bound of its size. The broker reserves so much room; if it
    has not enough, half is tried, half of that, and at last no bound. `at_least`: the present bound."""
    bound = wanted.max_bytes or -1
    while True:
        try:
            await store(replace(wanted, max_bytes=bound))
            break
        except APIError as error:
            if error.err_code not in _NO_ROOM or bound <= 0:
                raise
            smaller = max(bound // 2, at_least)
            bound = smaller if MIN_STREAM_BYTES <= smaller < bound else -1
    if bound != (wanted.max_bytes or -1):
        log.warning(
            "the broker has no room for a stream of this size; it is bounded otherwise",
            stream=wanted.name,
            wanted=wanted.max_bytes,
            bound=bound if bound > 0 else "none",
        )


async def filled(js: JetStreamContext, stream: str) -> float:
    """How full a stream is, 0 to 1; 0 if it has no bound. Raises nats' errors."""
    info = await js.stream_info(stream)
    most = ((info.state.messages, info.config.max_msgs), (info.state.bytes, info.config.max_bytes))
    return max((held / bound for held, bound in most if bound and bound > 0), default=0.0)


_EXISTS = 10058  # "stream name already in use with a different configuration": another service was faster
_NO_ROOM = {10002, 10005, 10023, 10047, 10122}
"""The server, the account or the peers of a cluster have less room than the bound."""
