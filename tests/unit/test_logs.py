"""What a process says, whatever happens to it: as a process of its own, for it is about its very end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CALAMITIES = {
    "an exception that nobody caught": "raise RuntimeError('a\\x1b\\nb')",
    "one in a thread": "import threading; t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()",
    "one that cannot be raised": """
class Odd:
    def __del__(self): raise ValueError('odd')
Odd()""",
    "a task that nobody waits for": """
import asyncio
async def fails(): raise RuntimeError('unheard')
async def main():
    asyncio.create_task(fails())
    await asyncio.sleep(0.01)
asyncio.run(main())""",
    "a library's error": """
import logging
try: 1 / 0
except ZeroDivisionError: logging.getLogger('uvicorn.error').error('in an ASGI app\\n', exc_info=True)
""",
    "a warning": "import warnings; warnings.warn('old', DeprecationWarning, stacklevel=1)",
    "a wrong setting": "from shared.settings import stop; stop('REGISTRY_X is wrong\\nREGISTRY_Y too')",
}


def said(code: str, fmt: str) -> list[str]:
    start = f"from shared.telemetry import logs; logs.configure('ingest', 'info', {fmt!r})\n"
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", start + code], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


@pytest.mark.parametrize("what", CALAMITIES)
def test_every_line_is_json(what: str) -> None:
    lines = [json.loads(line) for line in said(CALAMITIES[what], "json")]
    assert lines
    for line in lines:
        assert {"event", "level", "timestamp", "service"} <= line.keys()
    wanted = {"a warning": "DeprecationWarning", "a wrong setting": "REGISTRY_Y"}.get(what, "Traceback")
    assert wanted in json.dumps(lines)


@pytest.mark.parametrize("where", ["environment", ".env", "neither"])
def test_a_setting_that_is_refused_is_told_in_json_wherever_that_is_asked_for(
    where: str, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("REGISTRY_TICK=never\n" + "registry_log_format=json\n" * (where == ".env"))
    asked = {"REGISTRY_LOG_FORMAT": "json"} if where == "environment" else {}
    start = [sys.executable, "-m", "services.monitor"]
    done = subprocess.run(
        start, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=os.environ | asked
    )
    assert done.returncode == 2
    if where != "neither":
        assert "REGISTRY_TICK" in json.loads(done.stderr)["event"]
    assert "REGISTRY_TICK" in done.stderr


def test_on_a_terminal_no_line_of_others_passes_for_one_of_ours() -> None:
    forged = "2026-11-27T00:00:00Z [info     ] forged"
    values = f"'x\\n{forged}', text='y\\n{forged}', word='\\x1b[2J'"
    lines = said(f"import structlog; structlog.get_logger().info({values})", "console")
    assert not any(line.startswith("2026-11-27T00:00:00Z") for line in lines)
    assert lines[1].startswith("    " + forged)
    assert lines[1].endswith(f"text='y\\n{forged}' word='\\x1b[2J'")
    lines = said(CALAMITIES["an exception that nobody caught"], "console")
    assert "RuntimeError: a\\x1b" in lines
