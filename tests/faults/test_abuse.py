"""The short form; `python -m tests.faults.abuse 120` is the long one."""

from pathlib import Path

from tests.faults import abuse


async def test_abuse_makes_nothing_grow_and_nobody_wait(tmp_path: Path) -> None:
    seen = await abuse.run(15, tmp_path, per_second=6)
    assert seen.problems() == [], "\n".join(abuse.lines(seen))
    assert min(seen.attempts.values()) > 30
    assert sum(seen.beats.values()) > 150
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
