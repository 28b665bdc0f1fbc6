"""What the monitor answers, with FastStream, and all that it reads and writes, for its AsyncAPI document."""

from collections.abc import Callable
from typing import Any

from faststream.nats import JStream, NatsBroker

from shared.contracts.events import (
    GapRecorded,
    HeartbeatBody,
    RunRecorded,
    ServiceRegistered,
    ServiceUpdated,
    StatusChanged,
    Tick,
)
from shared.messaging import streams
from shared.messaging.faststream_broker import no_payload


def last_evaluated_requests(broker: NatsBroker, last_evaluated: Callable[[], int]) -> Any:
    """Who asks how far the monitor has come is answered, once this is started."""
    requests = broker.subscriber(streams.LAST_EVALUATED, title="Last evaluated")

    @requests(decoder=no_payload)
    async def answer() -> int:
        """A request, answered by each monitor with when the tick was stored that it evaluated last, in
        microseconds since 1970."""
        return last_evaluated()

    return requests


def describe_streams(broker: NatsBroker) -> None:
    """What our own reader and publisher carry, 100,000 messages a second of it: never started here, only
    described (decision 4)."""
    heartbeats = JStream(streams.HEARTBEATS, declare=False)
    services = JStream(streams.SERVICES, declare=False)

    @broker.subscriber(streams.ALL_HEARTBEATS, stream=heartbeats, title="Heartbeats")
    async def on_heartbeat(body: HeartbeatBody) -> None:
        """A sign of life in `heartbeat.<service_name>`, or what the header `Registry-Signal` says: `fail`,
        with `Registry-Exit-Code` if there is one; `start`; or `log`, which is kept and is no sign of life.
        Empty, this body, or any other, which is the message then. What of it cannot be used costs nothing
        but a warning, which the service shows; those that ingest has answered with stand in the body, as
        `warnings`."""

    @broker.subscriber(streams.ALL_TICKS, stream=heartbeats, title="Ticks")
    async def on_tick(tick: Tick) -> None:
        """The proof that a heartbeat could have been stored; time to evaluate."""

    broker.publisher(
        "service.status.<service_name>", stream=services, schema=StatusChanged, title="Changes of status"
    )
    broker.publisher(
        "service.config.<service_name>",
        stream=services,
        schema=ServiceRegistered | ServiceUpdated,
        title="First heartbeats, and declared intervals",
    )
    broker.publisher(
        "run.<service_name>",
        stream=JStream(streams.RUNS, declare=False),
        schema=RunRecorded | GapRecorded,
        title="Facts about runs, and gaps between heartbeats",
    )
