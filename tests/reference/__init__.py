"""Schedules held against others: a reckoning of the tests' own, systemd, Debian's cron. `make reference`."""

import os

FULL = os.environ.get("REFERENCE") == "full"
SEED = int(os.environ.get("REFERENCE_SEED", "19"))
