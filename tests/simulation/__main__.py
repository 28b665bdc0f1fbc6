"""Runs many simulations, or one with everything that happened in it: `python -m tests.simulation --help`."""

import os
import sys

if __name__ == "__main__":
    from tests.simulation.command import main

    if os.environ.get("PYTHONHASHSEED") != "0":  # so that a seed means the same in every process
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])
    sys.exit(main(sys.argv[1:]))
