"""A process that `registry run` keeps alive."""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog
import typer

from shared.telemetry.visible import visible

log = structlog.get_logger()

STOP_TIMEOUT = 3.0
"""Seconds that a process may take to stop before it is killed."""
STEADY_AFTER = 30.0
"""Seconds after which a process has run long enough to be started again at once."""
MAX_BACKOFF = 10.0
WRONG_CONFIGURATION = 2


@dataclass
class Child:
    """A process that is started again, after a growing pause, whenever it ends by itself."""

    name: str
    command: list[str]
    log: Path | None = None
    env: dict[str, str] = field(default_factory=dict)
    process: asyncio.subprocess.Process | None = None
    keeper: asyncio.Task[None] | None = None
    misconfigured: bool = False

    async def start(self) -> str:
        """Start it. Why it cannot be started; empty if it was."""
        out = None
        try:
            out = self.log.open("ab") if self.log else None
            self.process = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=os.environ | self.env,
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )
        except (OSError, subprocess.SubprocessError) as error:
            return f"cannot be started ({getattr(error, 'strerror', None) or error})"
        finally:
            if out:
                out.close()
        return ""

    async def keep(self) -> None:
        """Start it again whenever it ends, until cancelled, or until it ends because it is misconfigured."""
        loop, wait = asyncio.get_running_loop(), 0.2
        while True:
            assert self.process
            started = loop.time()
            code = await self.process.wait()
            if code == WRONG_CONFIGURATION:
                self.misconfigured = True
                return
            if loop.time() - started > STEADY_AFTER:
                wait = 0.2
            why = f"ended ({_ending(code)})"
            while why:
                announce(f"{self.name} {why}; starting it again in {wait:.1f} s")
                await asyncio.sleep(wait)
                wait = min(wait * 2, MAX_BACKOFF)
                why = await self.start()

    async def stop(self) -> None:
        if self.keeper:
            self.keeper.cancel()
        if self.process is None or self.process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), STOP_TIMEOUT)
        except TimeoutError:
            announce(f"{self.name} did not stop within {STOP_TIMEOUT:g} s; ending it")
            with suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()


def _end_with_parent() -> None:
    """A child gets SIGTERM when the supervisor is killed, so that no orphan keeps a port (Linux)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def announce(text: str) -> None:
    """Tell the user what happens, in the log if that is JSON."""
    if structlog.is_configured():
        log.warning(text)
    else:
        typer.echo(visible(text), err=True)
