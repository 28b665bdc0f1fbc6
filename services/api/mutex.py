"""One at a time, among all APIs of a registry: a record in the broker's KV says who has it."""

import asyncio
import json
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

from nats.errors import Error as NatsError
from nats.js.errors import KeyWrongLastSequenceError

from shared.http.problems import Problem
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection, reraise_cancelled
from shared.messaging.errors import NotStored
from shared.messaging.kv_record import KvRecord

LEASE = 10.0
"""Seconds after which it is taken from a holder that has died."""
HELD_AT_MOST = 8.0
"""Seconds after which a holder gives up what it does: shorter than the lease."""
PATIENCE = 15.0
"""Seconds that somebody waits for it."""
LOOK_EVERY = 0.01
"""Seconds between two looks at who has it, at most twice as many."""


class Mutex:
    """An empty record: nobody has it. Whoever takes or frees it names the revision that it follows, so of two
    at once one does. A record that stays the same for the length of the lease is of a holder that died; each
    measures that by its own clock, from when it saw the record first.

    It is no fence. A process that was paused between its last look and its write, for longer than the lease,
    writes beside whoever has the mutex by then; ingest lets the first of two equal aliases stand.
    """

    def __init__(self, link: BrokerConnection, key: str) -> None:
        self._link, self._key = link, key
        self._record: KvRecord | None = None
        self._here = asyncio.Lock()
        """In front: of one process, one at a time asks the broker."""
        self._seen = 0, 0.0
        """The revision that was seen last, and since when."""
        self._me = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Problem 503 if others have it for too long. Raises NotStored if the broker does not answer, or what
        is done with it takes too long."""
        record = await self._take()
        try:
            async with asyncio.timeout(HELD_AT_MOST):
                yield
        except TimeoutError:
            raise NotStored("it took too long") from None
        finally:
            try:
                with suppress(
                    NatsError, OSError, TimeoutError
                ):  # the lease ends, or this process has it still
                    await record.write_once(b"")
            finally:
                self._here.release()

    async def _take(self) -> KvRecord:
        try:
            async with asyncio.timeout(PATIENCE) as patience:
                await self._here.acquire()
                try:
                    return await self._take_from_others()
                except BaseException:
                    self._here.release()
                    raise
        except (NatsError, OSError, TimeoutError) as error:
            if patience.expired():
                why = "others give aliases or dependencies, or create checks, all the time"
                raise Problem(503, why, retry_after=1) from None
            raise NotStored(str(error) or repr(error)) from None

    async def _take_from_others(self) -> KvRecord:
        if self._record is None:
            self._record = KvRecord(await self._link.bucket(streams.API_BUCKET), self._key)
        while True:
            content = await reraise_cancelled(self._record.read_once())
            revision, since = self._seen
            if revision != self._record.revision:
                revision, since = self._seen = self._record.revision, time.monotonic()
            if not content or self._is_mine(content) or time.monotonic() - since > LEASE:
                mine = {"by": self._me, "at": datetime.now(UTC).isoformat()}
                with suppress(KeyWrongLastSequenceError):  # somebody else was first
                    await reraise_cancelled(self._record.write_once(json.dumps(mine).encode()))
                    return self._record
            await asyncio.sleep(LOOK_EVERY * secrets.SystemRandom().uniform(1, 2))

    def _is_mine(self, content: bytes) -> bool:
        """Whether it was left here: the broker's answer to freeing it, or taking it, was lost."""
        return f'"by": "{self._me}"'.encode() in content
