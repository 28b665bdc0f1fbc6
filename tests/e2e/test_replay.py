"""What another configuration would have told, asked of the whole system about a past that it has lived
through: over HTTP, and by the command line. Every process is real."""

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e.system import System, until
from tests.telegram_standin import Standin

DEFAULTS = {"silent_after": "2s", "down_after": "4s", "dead_after": "1h"}
LONGER = {"silent_after": "3s", "down_after": "20s"}


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    with Standin() as telegram:
        system = System(tmp_path, telegram, **DEFAULTS)
        yield system
        system.stop()


def file_with(**services: dict[str, Any]) -> dict[str, Any]:
    return {"version": 1, "services": services}


class Ended(NamedTuple):
    code: int
    out: str
    said: str


async def registry(system: System, *arguments: str) -> Ended:
    """The command line, which knows nothing but where the API is."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli", *arguments),
        env={**os.environ, "REGISTRY_URL": system.url("api", "")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, said = await process.communicate()
    return Ended(process.returncode or 0, out.decode(), said.decode())


async def test_a_longer_threshold_shows_the_falls_that_would_have_moved_or_gone(
    system: System, tmp_path: Path
) -> None:
    """Two services are silent once until that is told, and once until they are down; the file has a longer
    threshold for one of them."""
    system.start()
    for fallen in ("silent", "down"):
        for name in ("web", "other"):
            assert system.beat(name) == 200
        for name in ("web", "other"):
            await until(lambda name=name, fallen=fallen: system.status(name) == fallen)
    for name in ("web", "other"):
        assert system.beat(name) == 200
    heard = await until(lambda: system.status("web") == "alive" and system.api("/service/web")["since"])

    def replayed(**services: dict[str, Any]) -> Any:
        answer = system.http.post(
            system.url("api", "/configuration/replay?since=1h"), json={"configuration": file_with(**services)}
        )
        assert answer.status_code == 200, answer.text
        found = answer.json()
        return found if found["until"] > heard else None  # what is so recent may not be recorded yet

    found = await until(lambda: replayed(web=LONGER))
    assert (found["changed"], found["unknown"]) == (1, [])
    assert [each["service"] for each in found["differences"]] == ["web"]
    messages = found["differences"][0]["messages"]
    falls = [fall for fall in found["differences"][0]["falls"] if fall["was"] < heard]
    short, *long = falls
    assert short["status"] == "silent"
    assert short["would"] is None or short["later_by"] == 1.0, "where the machine was slow"
    assert [(each["status"], each["later_by"]) for each in long] == [("silent", 1.0), ("down", None)]
    assert long[1]["was"]
    assert long[1]["would"] is None
    told = {(each["status"], each["was"]) for each in messages}
    assert {(each["status"], each["was"]) for each in falls} <= told
    assert found["falls"]["was"] >= 6
    same = await until(lambda: replayed(web=DEFAULTS))
    assert (same["changed"], same["differences"], same["unknown"]) == (1, [], [])
    for path, wrong, why in (
        ("?since=93d", file_with(), "at most 92d"),
        ("?since=1d", file_with(web={"every": "often"}), "services.web.every"),
        ("", file_with(), "since"),
    ):
        url = system.url("api", f"/configuration/replay{path}")
        refused = system.http.post(url, json={"configuration": wrong})
        assert refused.status_code == 422
        assert why in refused.text
    file = tmp_path / "registry.yaml"
    file.write_text(json.dumps(file_with(web=LONGER)))
    plan = await registry(system, "plan", str(file), "--since", "1h")
    assert plan.code == 3, plan
    assert "1 s later" in plan.out
    assert "gone" in plan.out
    data = json.loads((await registry(system, "plan", str(file), "--since", "1h", "--json")).out)
    assert [each["service"] for each in data["replay"]["differences"]] == ["web"]
    assert (await registry(system, "plan", str(file), "--since", "always")).code == 2
    unchanged = await until(lambda: replayed())
    assert (unchanged["changed"], unchanged["differences"]) == (0, [])
