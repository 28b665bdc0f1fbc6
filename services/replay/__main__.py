"""Answers one question about the past, read from standard input, and ends. Nothing is written but the answer.

A process of its own, as it needs the processor for up to a minute, and memory that it gives back.
"""

import asyncio
import gc
import os
import resource
import signal
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from services.monitor.domain import epochs
from services.monitor.domain.service import EffectiveThresholds
from services.replay.history import History
from services.replay.messages import Rules
from services.replay.read import read
from services.replay.report import answer
from services.replay.run import Plan, replay
from services.replay.settings import ReplaySettings
from shared.contracts.events import MICRO
from shared.contracts.replays import Asked, Replayed
from shared.messaging.connection import BrokerConnection
from shared.settings import load
from shared.telemetry import logs

BEFORE = timedelta(hours=25) // MICRO
"""So much of the time before is gone through as well, so that what was withheld or flapped then is known."""
MARGIN = timedelta(seconds=5) // MICRO
"""What happened so recently may not be recorded yet."""
TIME_MAX = 120
"""Seconds."""
PROCESSES_MAX = 4
LARGE = 20_000
"""Messages from which on several are used."""
MEMORY_MAX = 1 << 30
"""Bytes of data. With more, the process ends (MemoryError) and takes nothing from the others."""
EVERYBODY = "every channel"
"""Where nobody knows which channels there are."""


async def _read(since: int, settings: ReplaySettings) -> History:
    link = BrokerConnection(settings, "replay")
    await link.connect()
    try:
        return await read(link, since)
    finally:
        await link.close()


def _answer(asked: Asked, settings: ReplaySettings) -> Replayed:
    history = asyncio.run(_read(asked.since - BEFORE, settings))
    gc.freeze()  # it stays, and need not be looked at again
    gc.set_threshold(100_000)
    gc.enable()
    limits = settings.silent_after, settings.down_after, settings.dead_after
    default = EffectiveThresholds(*(limit // MICRO for limit in limits))
    rules = Rules(
        asked.channels or (EVERYBODY,),
        settings.zone,
        limits,
        settings.remind_after,
        settings.tick + timedelta(seconds=1),
    )
    plan, known = Plan(asked.services, asked.routes, asked.windows), epochs.first(default, settings.timezone)
    is_large = history.events > LARGE
    processes = min(PROCESSES_MAX, os.cpu_count() or 1) if is_large else 1
    return answer(replay(history, plan, rules, known, asked.since, margin=MARGIN, processes=processes))


def main() -> None:
    logs.begin("replay")
    settings = load(ReplaySettings)
    logs.configure("replay", settings.log_level, settings.log_format)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_MAX, MEMORY_MAX))
    signal.alarm(TIME_MAX)  # whoever asked may be there no more
    with suppress(OSError):  # where a container has less memory, it is this that ends
        Path("/proc/self/oom_score_adj").write_text("1000")
    asked = Asked.model_validate_json(sys.stdin.buffer.read())
    gc.disable()
    sys.stdout.write(_answer(asked, settings).model_dump_json())


if __name__ == "__main__":
    main()
