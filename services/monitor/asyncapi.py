"""What the monitor reads and writes, as an AsyncAPI document made by FastStream from the event contracts."""

from faststream.nats import JStream, NatsBroker
from faststream.specification import AsyncAPI

from shared.contracts.events import HeartbeatBody, ServiceRegistered, ServiceUpdated, StatusChanged, Tick
from shared.http.urls import without_secrets
from shared.messaging import streams


def document(nats_url: str) -> AsyncAPI:
    broker = NatsBroker(specification_url=without_secrets(nats_url))
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
        """The proof that a heartbeat could have been stored; time to judge."""

    broker.publisher(
        "service.status.<service_name>", stream=services, schema=StatusChanged, title="Changes of status"
    )
    broker.publisher(
        "service.config.<service_name>",
        stream=services,
        schema=ServiceRegistered | ServiceUpdated,
        title="First heartbeats, and declared intervals",
    )
    return AsyncAPI(broker, title="services registry: monitor", version="1")
