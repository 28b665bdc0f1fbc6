"""The result of a replay as its answer. Pure."""

from datetime import datetime, timedelta
from typing import Any

from services.replay.run import MAX_LISTED, Pair, Result
from shared.contracts.events import moment
from shared.contracts.replays import (
    Counted,
    FallThatDiffers,
    MessageThatDiffers,
    NotKnown,
    Replayed,
    ServiceThatDiffers,
    Sound,
)


def answer(result: Result) -> Replayed:
    unknown = sorted(result.unknown.items())
    return Replayed(
        since=moment(result.since),
        until=moment(result.until),
        services=result.services,
        changed=result.changed,
        falls=Counted(was=result.falls[0], would=result.falls[1]),
        messages=Counted(was=result.messages[0], would=result.messages[1]),
        differences=[
            ServiceThatDiffers(
                service=it.service,
                falls=[FallThatDiffers(**_pair(pair)) for pair in it.falls],
                messages=[
                    MessageThatDiffers(
                        channel=pair.channel, what=pair.what, sound=_sound(pair), **_pair(pair)
                    )
                    for pair in it.messages
                ],
            )
            for it in result.differences
        ],
        more_differences=result.more_differences,
        unknown=[
            NotKnown(service=name, known_since=_at(since), why=why)
            for name, (since, why) in unknown[:MAX_LISTED]
        ],
        more_unknown=max(0, len(unknown) - MAX_LISTED),
    )


def _pair(pair: Pair) -> dict[str, Any]:
    later = None
    if pair.was is not None and pair.would is not None:
        later = timedelta(microseconds=pair.would - pair.was).total_seconds()
    return {
        "status": pair.status.value,
        "last_heartbeat": _at(pair.about or None),
        "was": _at(pair.was),
        "would": _at(pair.would),
        "later_by": later,
    }


def _sound(pair: Pair) -> Sound | None:
    was, would = pair.sound
    return Sound(was=was, would=would) if was != would else None


def _at(at: int | None) -> datetime | None:
    return None if at is None else moment(at)
