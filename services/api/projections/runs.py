"""Between the stream of facts about runs and the read models: a run as its document. Pure.

One document per run, as the newest fact about it says. Times are integer microseconds since 1970 UTC.
"""

from datetime import datetime

from services.api.projections.documents import Document
from shared.contracts.events import Outcome, RunRecorded, micros, run_key
from shared.messaging import streams
from shared.messaging.reader import Stored

_INT64 = range(-(2**63), 2**63)


def run_document(message: Stored) -> Document:
    """Read a message of RUNS. ValueError if it is no fact about a run, not one of its subject, or more than a
    document holds."""
    event = streams.read_run(message.subject, message.data)
    data = event.data
    if isinstance(data.exit_code, int) and data.exit_code not in _INT64:
        raise ValueError("an exit code that is beyond what a document holds")
    return {
        "_id": f"{event.name} {data.key}",
        "name": event.name,
        "seq": message.seq,
        "recorded_at": message.at,
        "place": place(_began(event), data.key),
        "outcome": data.outcome.value,
        "started_at": _at(data.started_at),
        "ended_at": _at(data.ended_at),
        "duration": data.duration,
        "expected_at": _at(data.expected_at),
        "late_by": data.late_by,
        "is_first": data.expected_at is not None and data.key == str(micros(data.expected_at)),
        "run": data.run,
        "exit_code": data.exit_code,
        "message": data.message,
        "unusual": data.unusual,
    }


def _began(event: RunRecorded) -> int:
    """When it began, as far as that is known, or was due."""
    data = event.data
    due = data.expected_at if data.outcome is Outcome.MISSED else None
    return micros(data.started_at or due or data.ended_at or event.time)


def _at(moment: datetime | None) -> int | None:
    return None if moment is None else micros(moment)


def place(at: int, key: str = "") -> str:
    """Where a run of a service stands among the others, to be compared as text; without a key, before all
    that began then."""
    return f"{at:020d} {key}"


def open_run(
    name: str, run: str, started_at: int, expected_at: int | None = None, late_by: float | None = None
) -> Document:
    """A run of which no fact is recorded yet."""
    key = run_key(started_at, run)
    nothing = ("ended_at", "duration", "exit_code", "message", "unusual")
    return dict.fromkeys(nothing) | {
        "_id": f"{name} {key}",
        "name": name,
        "seq": 0,
        "place": place(started_at, key),
        "outcome": Outcome.RUNNING.value,
        "started_at": started_at,
        "expected_at": expected_at,
        "late_by": late_by,
        "is_first": False,
        "run": run or None,
    }
