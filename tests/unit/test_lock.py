"""The lock: every dependency is pinned, comes with its hashes, and from no index of its own."""

import re
from pathlib import Path

import pytest

LOCKS = sorted((Path(__file__).parents[2] / "requirements").glob("*.txt"))


def faults(text: str) -> list[str]:
    """What in a lock is not pinned and hashed."""
    found = []
    for requirement in filter(
        None, re.sub(r" *\\\n *", " ", re.sub(r"(?m)^ *#.*\n?", "", text)).splitlines()
    ):
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*==\S+( ; .+?)?( --hash=sha256:[0-9a-f]{64})+", requirement):
            found.append(requirement[:100])
    return found


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_everything_is_pinned_and_hashed(lock: Path) -> None:
    assert faults(lock.read_text()) == []


def test_the_locks_are_all_there() -> None:
    assert [lock.name for lock in LOCKS] == ["all.txt", "audit.txt", "services.txt"]


GOOD = "a==1 \\\n    --hash=sha256:" + "0" * 64 + "\n    # via b\n"


@pytest.mark.parametrize(
    "line",
    [
        "b==1\n",
        "b>=1 --hash=sha256:" + "0" * 64,
        "--index-url https://example.com\n",
        "b @ https://example.com/b.whl\n",
    ],
)
def test_what_is_not_would_be_found(line: str) -> None:
    assert faults(GOOD) == []
    assert len(faults(GOOD + line)) == 1
