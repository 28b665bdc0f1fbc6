"""Which of several notifiers speaks: the holder of a lease in the broker's KV, as long as it answers.

No clock decides. Who wants the lease asks its holder: the broker knows at once if nobody is there any more.
A holder that was cut off and comes back learns it from the lease, or from its next record, and ends.
"""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress

import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js.kv import KeyValue
from prometheus_client import Gauge

from shared.messaging.connection import BrokerConnection, retry_until_done
from shared.messaging.kv_record import KvRecord, Superseded

log = structlog.get_logger()

ACTIVE = Gauge("registry_notifier_active", "1 if this notifier speaks, 0 if it stands by")

KEY = "lease"
POLL_INTERVAL = 1.0
ANSWER_TIMEOUT = 2.0
MAX_UNANSWERED = 4
"""Questions in a row that a holder may leave unanswered: it hangs, though its connection stands."""


class Lease:
    """`acquire`, then `watch` for as long as it is held, then `release`."""

    def __init__(self, link: BrokerConnection, bucket: KeyValue) -> None:
        self._link = link
        self._record = KvRecord(bucket, KEY)
        self._id = secrets.token_hex(8)

    async def acquire(self, on_wait: Callable[[], None]) -> None:
        """Wait until no other notifier holds it. `on_wait`: told if there is one."""
        await retry_until_done("answer for the lease", self._listen)
        unanswered, waits = 0, False
        while True:
            holder = _holder(await self._record.read())
            if not holder:
                unanswered = MAX_UNANSWERED
            elif holder != self._id:
                unanswered = await self._ask(holder, unanswered)
            if (unanswered >= MAX_UNANSWERED and await self._claim()) or holder == self._id:
                ACTIVE.set(1)
                return
            if not waits:
                waits = True
                on_wait()
                log.info("another notifier speaks; standing by", holder=holder)
            await asyncio.sleep(POLL_INTERVAL)

    async def watch(self) -> None:
        """Until another notifier has taken it: then Superseded."""
        while True:
            await asyncio.sleep(3 * POLL_INTERVAL)  # whoever was superseded cannot write records anyway
            if _holder(await self._record.read()) != self._id:
                raise Superseded("another notifier has taken over")

    async def release(self) -> None:
        """Let another one take it at once; if the broker is away, it will find out by itself."""
        with suppress(NatsError, OSError, TimeoutError):
            async with asyncio.timeout(1):
                if _holder(await self._record.read_once()) == self._id:
                    await self._record.write_once(b"")

    async def _listen(self) -> None:
        async def answer(message: Msg) -> None:
            await message.respond(b"")

        await self._link.nc.subscribe(_subject(self._id), cb=answer)
        await self._link.nc.flush(2)

    async def _ask(self, holder: str, unanswered: int) -> int:
        """How often in a row it has not answered by now."""
        try:
            await self._link.nc.request(_subject(holder), b"", timeout=ANSWER_TIMEOUT)
        except NoRespondersError:
            return MAX_UNANSWERED
        except (NatsError, TimeoutError):
            return unanswered + 1 if self._link.up else 0
        return 0

    async def _claim(self) -> bool:
        try:
            await self._record.write_once(self._id.encode())
        except (NatsError, TimeoutError):
            return False  # another one was faster, or the broker did not say: the next look tells
        return True


def _holder(content: bytes | None) -> str:
    """Empty: nobody."""
    return (content or b"").decode()


def _subject(holder: str) -> str:
    return f"registry.notifier.{holder}"
