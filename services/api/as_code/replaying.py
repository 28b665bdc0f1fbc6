"""What a configuration would have told: asked of a process of its own, one at a time."""

import asyncio
import sys
from contextlib import suppress
from datetime import datetime, timedelta

import structlog

from services.api.as_code.applying import Plan
from shared.contracts.events import ConfigData, micros
from shared.contracts.maintenance import Window
from shared.contracts.replays import Asked
from shared.contracts.routes import Routes
from shared.http.problems import Problem

log = structlog.get_logger()

TIME_MAX = 110.0
"""Seconds that one may take."""
LONGEST = timedelta(days=92)
"""How far back: so long are ticks kept, which tell when the registry could be heard."""
COMMAND = sys.executable, "-m", "services.replay"


class Replays:
    def __init__(self) -> None:
        self._running = asyncio.Lock()

    async def answer(self, asked: Asked) -> bytes:
        """JSON of `replays.Replayed`. Problem 429 while another one runs, 503 if it fails or takes long."""
        if self._running.locked():
            raise Problem(429, "another replay is running; try again when it is done", retry_after=10)
        async with self._running:
            process = await asyncio.create_subprocess_exec(
                *COMMAND,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                async with asyncio.timeout(TIME_MAX):
                    found, said = await process.communicate(asked.model_dump_json().encode())
            except TimeoutError:
                why = f"it took longer than {TIME_MAX:.0f} s; ask for a shorter time"
                raise Problem(503, why, retry_after=60) from None
            finally:
                with suppress(ProcessLookupError):
                    process.kill()
        if process.returncode:
            log.warning(
                "a replay failed", code=process.returncode, said=said.decode(errors="replace")[-2000:]
            )
            is_large = b"MemoryError" in said
            why = "it needs more memory than it may have; ask for a shorter time" if is_large else "it failed"
            raise Problem(503, why, retry_after=60)
        return found


def asked_of(plan: Plan, since: datetime) -> Asked:
    """Of what a plan changes: whatever it leaves as it is, is as it was. What it deletes is left out."""
    services, windows, routes = dict[str, ConfigData](), dict[str, Window | None](), None
    for change in plan.changes:
        if change.action == "nothing":
            continue
        if change.kind == "service" and change.new is not None:
            services[change.name] = change.new
        elif change.kind == "maintenance":
            windows[change.name] = change.new
        elif change.kind == "routes":
            routes = change.new or Routes()
    return Asked(since=micros(since), services=services, routes=routes, windows=windows)
