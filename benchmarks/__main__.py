"""`make bench`: prints tables and writes `benchmarks/results/latest.json`.

`python -m benchmarks PART …` runs some parts only; `--short` is for CI: ingest beside its floor, which fails
when a ratio is less than two thirds of what `benchmarks/recorded.json` has, and a plain heartbeat beside one
of a job.

Machines are noisy: of what is measured beside its floor, read the ratio.
"""

import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import api, feeders, flow, idle, ingest, latency, million, monitor, scheduled
from shared.telemetry import logs

PARTS: dict[str, Any] = {
    "ingest": ingest,
    "feeders": feeders,
    "flow": flow,
    "scheduled": scheduled,
    "latency": latency,
    "idle": idle,
    "monitor": monitor,
    "api": api,
}
ALONE: dict[str, Any] = {"million": million}
"""Not part of `make bench`: it takes seven minutes."""
WORST = 2 / 3
"""Of the recorded ratio."""


def main(wanted: list[str]) -> None:
    results: dict[str, object] = {"machine": _machine()}
    for name in wanted or PARTS:
        part = (PARTS | ALONE)[name]
        with tempfile.TemporaryDirectory() as folder:
            result = part.measure(Path(folder))
        results[name] = result
        sys.stdout.write("\n".join(part.table(result)) + "\n\n")
        sys.stdout.flush()
        target = Path(__file__).parent / "results" / "latest.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(results, indent=2) + "\n")


def short() -> None:
    recorded = json.loads((Path(__file__).parent / "recorded.json").read_text())
    with tempfile.TemporaryDirectory() as folder:
        result = ingest.measure(Path(folder), connections=(64,), rounds=3)
    with tempfile.TemporaryDirectory() as folder:
        jobs = scheduled.heartbeats(Path(folder), ("plain", "scheduled"), rounds=3)
    sys.stdout.write("\n".join((*ingest.table(result), "", *scheduled.table(jobs))) + "\n")
    for key, ratio in recorded.items():
        if result[key]["ratio"] < ratio * WORST:
            sys.exit(f"{key} connections: {result[key]['ratio']:.2f} of the floor; {ratio:.2f} is recorded")


def _machine() -> dict[str, object]:
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpus": os.cpu_count(),
        "model": cpu[0].partition(":")[2].strip() if cpu else "",
        "memory_gb": round(memory / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    logs.configure("bench", "warning", "console")
    if sys.argv[1:] == ["--short"]:
        short()
    else:
        main(sys.argv[1:])
