"""What the notifier reads and writes, beside what FastStream brings it, for its AsyncAPI document."""

from faststream.nats import JStream, NatsBroker

from shared.contracts.events import (
    ConfigurationRemoved,
    ConfigurationSet,
    ServiceAcknowledged,
    ServiceMuted,
    ServiceTold,
    ServiceUnmuted,
)
from shared.messaging import streams


def describe_streams(broker: NatsBroker) -> None:
    """What our own reader and publisher carry: never started here, only described (decision 4)."""
    services = JStream(streams.SERVICES, declare=False)

    @broker.subscriber(streams.ALL_CONFIGURATION, stream=services, title="The registry's own configuration")
    async def on_configuration(event: ConfigurationSet | ConfigurationRemoved) -> None:
        """In `registry.config.<kind>.<id>`: maintenance windows, and who hears of what. The newest of a
        subject says all."""

    broker.publisher(
        "service.incident.<service_name>",
        stream=services,
        schema=ServiceAcknowledged | ServiceMuted | ServiceUnmuted | ServiceTold,
        title="What people did in a chat, and which channel was told of an incident",
    )
