"""Commands on the registry's own configuration: a part is set or removed by an event that says who did it."""

import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.api.projections.documents import configuration_row
from services.api.projections.store import DatabaseUnavailable, Store
from shared.contracts.events import ConfigurationRemoved, ConfigurationSet, Setting, event_id
from shared.http.problems import Problem
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.errors import NotStored, WrongSequence
from shared.messaging.publisher import Publisher
from shared.messaging.queries import message_at, newest, stream_info
from shared.messaging.stored_config import StoredConfig


@dataclass
class Configuration:
    """`write` returns once it is stored, and what follows sees it: what is in force, and the audit."""

    link: BrokerConnection
    publisher: Publisher
    store: Store
    stored: StoredConfig
    now: Callable[[], datetime]
    _is_taken: bool = False
    """Whether the stream is known to take such events."""

    async def refresh(self, name: str) -> None:
        """Take in what the record has of one part by now: another API may just have written it. Raises
        NotStored."""
        if message := await newest(self.link, streams.SERVICES, streams.configuration(name)):
            self.stored.apply_message(message)

    async def write(
        self,
        name: str,
        value: dict[str, Any] | None,
        after: int,
        actor: str | None,
        *,
        created: bool = False,
        managed_by: str | None = None,
    ) -> int:
        """Set one part, or remove it (None). Its new version. `after`: the version that it is decided on;
        `created`: whether there was none of it; `managed_by`: the file that makes it, else whichever made it
        before. Problem 412 if somebody was faster."""
        await self._check_stream()
        managed_by = managed_by or self.stored.managed_by(name)
        now = self.now()
        about: dict[str, Any] = {
            "id": event_id(name, now.isoformat(), uuid.uuid4()),
            "source": "/api",
            "subject": name,
            "time": now,
            "actor": actor,
        }
        event = (
            ConfigurationRemoved(**about)
            if value is None
            else ConfigurationSet(**about, data=Setting(value=value, created=created, managed_by=managed_by))
        )
        subject = streams.configuration(name)
        try:
            ack = await self.publisher.append(
                subject, event.to_bytes(), after=after, event_id=event.id, kind=event.type
            )
        except WrongSequence:
            raise Problem(412, "somebody changed it meanwhile; read it again") from None
        self.stored.apply(name, ack.seq, value, managed_by)
        with suppress(DatabaseUnavailable, NotStored):  # the projector adds it to the audit later
            if message := await message_at(self.link, streams.SERVICES, ack.seq):
                await self.store.add_settings([configuration_row(message)])
        return ack.seq

    async def _check_stream(self) -> None:
        """Raises NotStored while the monitor is of a version that knows of no such events: it alone widens
        the stream. (To try it all the same would look like a broker that stores nothing.)"""
        if not self._is_taken:
            config = (await stream_info(self.link, streams.SERVICES))["config"]
            if streams.ALL_CONFIGURATION not in config["subjects"]:
                raise NotStored("the monitor is of an older version, and its stream takes no such event yet")
            self._is_taken = True
