"""`make bench`: prints tables and writes `benchmarks/results/latest.json`.

Machines are noisy: of what is measured beside its floor, read the ratio.
"""

import json
import os
import platform
import sys
import tempfile
from pathlib import Path

from benchmarks import ingest, monitor

PARTS = {"ingest": ingest, "monitor": monitor}


def main(wanted: list[str]) -> None:
    machine = {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    results: dict[str, object] = {"machine": machine}
    for name in wanted or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            result = PARTS[name].measure(Path(folder))
        results[name] = result
        sys.stdout.write("\n".join(PARTS[name].table(result)) + "\n\n")
        sys.stdout.flush()
    target = Path(__file__).parent / "results" / "latest.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
