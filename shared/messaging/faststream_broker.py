"""FastStream on the connection that a service has: handlers of requests and events, and the AsyncAPI document
of what they take."""

import logging
from collections.abc import Sequence
from typing import Any

from faststream.nats import NatsBroker
from faststream.specification import AsyncAPI
from nats.aio.client import Client

from shared.http.urls import without_secrets
from shared.messaging.connection import BrokerConnection


class FastStreamBroker(NatsBroker):
    """Runs handlers over a connection that it neither opens nor closes: FastStream's own way of connecting
    gives up for good on some errors that pass, such as a broker with too many connections.

    `connect` once the connection is there, then `start` each subscriber.
    """

    def __init__(self, link: BrokerConnection, nats_urls: Sequence[str] = ()) -> None:
        super().__init__(
            logger=logging.getLogger(__name__),  # what handlers raise; the rest is below our level
            graceful_timeout=None,  # or a rebuild that is going on would hold up the end of the process
            specification_url=[without_secrets(url) for url in nats_urls] or None,
        )
        self._link = link

    async def _connect(self) -> Client:
        self.config.connect(self._link.nc)
        return self._link.nc


async def no_payload(_: Any) -> None:
    """The decoder of a request that asks by its subject alone, whatever comes with it."""


def document(broker: NatsBroker, service: str) -> AsyncAPI:
    """What a service reads and writes, as an AsyncAPI document."""
    return AsyncAPI(broker, title=f"services registry: {service}", version="1")
