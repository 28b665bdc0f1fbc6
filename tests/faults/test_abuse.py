"""Abuse: the short form in `make test`, an hour's worth in `make faults`."""

import os
from pathlib import Path

from tests.faults import abuse

FULL = os.environ.get("FAULTS") == "full"
SECONDS, PER_SECOND = (120, abuse.AN_HOUR / 120) if FULL else (15, 6)


async def test_abuse_makes_nothing_grow_and_nobody_wait(tmp_path: Path) -> None:
    seen = await abuse.run(SECONDS, tmp_path, per_second=PER_SECOND)
    assert seen.problems() == [], "\n".join(abuse.lines(seen))
    assert min(seen.attempts.values()) > SECONDS * PER_SECOND / 2
    assert sum(seen.beats.values()) > SECONDS * 10
    for kind, status in (
        ("huge head", "431"),
        ("huge address", "414"),
        ("huge body", "413"),
        ("noise", "400"),
        ("bad names", "422"),
        ("wrong tokens", "401"),
        ("upgrade", "401"),
    ):
        assert seen.answers[kind][status] > 10, "\n".join(abuse.lines(seen))
    assert max(seen.log.values()) < 100_000
