"""Tells every receiver that the broker has been away for long. Nothing can be read or recorded then."""

import asyncio
from collections.abc import Callable
from datetime import datetime

from services.notifier import deafness
from services.notifier.deafness import DeafnessWatch
from services.notifier.dispatch.receivers import Receivers
from shared.messaging.connection import BrokerConnection

NOTIFY_AFTER = deafness.TOLD_AFTER


async def watch_for_outages(
    link: BrokerConnection,
    receivers: Receivers,
    ticks: DeafnessWatch,
    now: Callable[[], datetime],
    group: asyncio.TaskGroup,
) -> None:
    loop, lost_at, since, told = asyncio.get_running_loop(), 0.0, now(), False
    while True:
        await asyncio.sleep(1)
        if link.up:
            lost_at, told = 0.0, False
            continue
        if not lost_at:
            lost_at, since = loop.time(), ticks.until or now()
        if not told and loop.time() - lost_at >= NOTIFY_AFTER.total_seconds():
            told = True
            for receiver in receivers:
                group.create_task(receiver.send_cut_off(since, lambda: not link.up))
