"""Bugs put into the notifier on purpose, at the seams where that is possible: each must be found soon."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from services.notifier.alerting import policy
from services.notifier.alerting.changes import Notice, NoticeKind
from services.notifier.alerting.dependencies import Dependencies
from services.notifier.alerting.policy import Decision, Suppression, Verdict
from services.notifier.consumer import EventLog
from services.notifier.dispatch import alert_states
from services.notifier.dispatch.alert_states import AlertStates
from services.notifier.dispatch.receiver import ReceiverWorker
from services.notifier.dispatch.receivers import Receivers
from services.notifier.dispatch.sources.notices import WithheldSource
from shared.domain.routing import EVERYBODY, Hearing, Router, Rule
from shared.messaging import faststream_broker
from tests.simulation.catching import first_caught
from tests.simulation.notifier.run import Process
from tests.simulation.notifier.simulate import simulate
from tests.simulation.notifier.telegram import SimulatedBot
from tests.simulation.notifier.world import Bucket

ReceiverState = dict[str, Any]


class _Rewrites(Process):
    """Stores its records otherwise than it means to, or forgets parts of them between two lives."""

    @staticmethod
    def stores(record: ReceiverState) -> ReceiverState:
        return record

    @staticmethod
    def remembers(record: ReceiverState) -> ReceiverState:
        return record

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        update, get = Bucket.update, Bucket.get
        meant: dict[tuple[Bucket, str], bytes] = {}
        """What each process believes to have stored."""

        async def stores(bucket: Bucket, key: str, value: bytes, last: int | None = None) -> int:
            meant[bucket, key] = value
            return await update(bucket, key, _changed(key, value, cls.stores), last)

        async def remembers(bucket: Bucket, key: str) -> Any:
            entry, own = await get(bucket, key), meant.get((bucket, key))
            is_own = own and entry.value == _changed(key, own, cls.stores)
            entry.value = own if is_own else _changed(key, entry.value, cls.remembers)
            return entry

        return {(Bucket, "update"): stores, (Bucket, "get"): remembers}


def _changed(key: str, value: bytes, change: Callable[[ReceiverState], ReceiverState]) -> bytes:
    if not key.startswith("telegram."):
        return value
    return json.dumps(change(json.loads(value)), separators=(",", ":")).encode()


class _Any(int):
    """Whatever it is compared with."""

    def __ne__(self, other: object) -> bool:
        return False


class SeesNoLoss(Process):
    """Goes on with what comes, though events before it were lost on their way."""

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        place = faststream_broker._place

        def fits(raw: Any) -> Any:
            found = place(raw)
            return found._replace(consumer_sequence=_Any()) if found else None

        return {(faststream_broker, "_place"): fits}


class SendsBeforeTheIntent(_Rewrites):
    """Does not note what it is about to send."""

    @staticmethod
    def stores(record: ReceiverState) -> ReceiverState:
        return {**record, "sending": None}


class DoneBeforeItIsSent(_Rewrites):
    """Notes that changes are told as soon as they are on their way."""

    @staticmethod
    def stores(record: ReceiverState) -> ReceiverState:
        sending = record["sending"]
        return {**record, "sending": None, "done": sending["through"]} if sending else record


class ForgetsWhatIsOwed(_Rewrites):
    """Does not know after a restart what it has withheld."""

    @staticmethod
    def remembers(record: ReceiverState) -> ReceiverState:
        return {**record, "owed": {}, "owed_parts": []}


class ForgetsDigests(_Rewrites):
    """Does not know after a restart of which day it has sent the digest."""

    @staticmethod
    def remembers(record: ReceiverState) -> ReceiverState:
        return {**record, "digest": None}


class ForgetsWhichRunsItTold(_Rewrites):
    """Tells of all unusual runs again after a restart."""

    @staticmethod
    def remembers(record: ReceiverState) -> ReceiverState:
        return {**record, "runs": 0}


class BeginsWithTheNextRun(_Rewrites):
    """Does not know after a restart how far it has come with unusual runs."""

    @staticmethod
    def remembers(record: ReceiverState) -> ReceiverState:
        return {**record, "runs": None}


class TellsOfEveryRun(Process):
    """Tells of unusual runs whatever is muted, paused or in maintenance."""

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        return {(policy.Suppressor, "is_run_told"): lambda *_: True}


class WritesWithoutLooking(Process):
    """Writes over what another notifier has written."""

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        return {(Bucket, "update"): lambda bucket, key, value, last=None: bucket.put(key, value)}


class BelievesSilence(Process):
    """Takes a message that nobody answered for one that has arrived."""

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        call = SimulatedBot._call

        async def answered(bot: SimulatedBot, *given: Any) -> Any:
            status, answer, failed = await call(bot, *given)
            return (
                (200, {"ok": True}, None) if failed and failed.maybe_delivered else (status, answer, failed)
            )

        return {(SimulatedBot, "_call"): answered}


class DropsTheQueueOfWhoIsOff(Process):
    """A chat that refuses messages loses what waits for it."""

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        compose = ReceiverWorker._compose

        async def drops(chat: ReceiverWorker) -> Any:
            if chat.state.off:
                chat.pending.changes.clear()
            return await compose(chat)

        return {(ReceiverWorker, "_compose"): drops}


class NotesByTime(Process):
    """Once any notice is told, takes all that was owed by then for told."""

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        sent = WithheldSource.record_sent

        async def marks(source: WithheldSource, *given: Any) -> None:
            source._alerts.withheld.clear()
            await sent(source, *given)

        return {(WithheldSource, "record_sent"): marks}


class TellsAGroupTwice(Process):
    """Does not see that two chats are one since a group has a new number."""

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        return {(Receivers, "_is_taken"): lambda receivers, channel, address: False}


class LooksForTheEndOnce(Process):
    """Takes for another record what the notifier before it was told after this one had looked."""

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        newest, known = EventLog.newest_sequence, dict[EventLog, int]()

        async def once(event_log: EventLog) -> int:
            if event_log not in known:
                known[event_log] = await newest(event_log)
            return known[event_log]

        return {(EventLog, "newest_sequence"): once}


class IsSureOfCalm(Process):
    """Forgets that it may have told that a service has calmed down."""

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        def review(*given: Any) -> Any:
            found = policy.next_notice(*given)
            is_calm = isinstance(found, Notice) and found.kind is NoticeKind.CALM
            return replace(found, maybe=False) if is_calm else found

        return {(alert_states, "next_notice"): review}


class _Judges(Process):
    """Decides otherwise what is told."""

    @staticmethod
    def judge(*given: Any) -> list[Decision]:
        raise NotImplementedError

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        return {(alert_states, "decide"): cls.judge}


class WithholdsRecoveries(Process):
    """Tells no recovery within maintenance, though the fall was told."""

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        def decides(changes: Any, owed: Any, turns: Any, judge: Any) -> list[Decision]:
            return policy.decide(changes, owed, turns, lambda *given: _all_or_nothing(judge(*given)))

        def review(name: str, it: Any, owed: Any, turns: Any, now: Any, verdict: Verdict, *more: Any) -> Any:
            return policy.next_notice(name, it, owed, turns, now, _all_or_nothing(verdict), *more)

        return {(alert_states, "decide"): decides, (alert_states, "next_notice"): review}


def _all_or_nothing(verdict: Verdict) -> Verdict:
    is_free = verdict.suppression is Suppression.NONE
    return verdict if is_free else replace(verdict, suppression=Suppression.ALL)


class CountsWhatNobodyWasTold(_Judges):
    """Counts every turn towards flapping."""

    @staticmethod
    def judge(changes: Any, owed: Any, turns: Any, hold: Any) -> list[Decision]:
        decisions = policy.decide(changes, owed, turns, hold)
        counted = policy.decide(changes, None, turns, lambda *_: Verdict())
        return [
            replace(it, flap_state=other.flap_state) for it, other in zip(decisions, counted, strict=True)
        ]


class TellsInMaintenance(_Judges):
    """Does not care for windows or mutes."""

    @staticmethod
    def judge(changes: Any, owed: Any, turns: Any, hold: Any) -> list[Decision]:
        return policy.decide(changes, owed, turns, lambda *_: Verdict())


class NeverFlaps(_Judges):
    """Tells every turn, however many there are."""

    @staticmethod
    def judge(changes: Any, owed: Any, turns: Any, hold: Any) -> list[Decision]:
        return policy.decide(changes, owed, None, hold)


# --- who hears of what


class TellsEverybody(Process):
    """Does not care for the routes."""

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        return {(Router, "rule"): lambda *_: EVERYBODY}


class KnowsTheRoutesOfItsStart(Process):
    """Does not look at what is withheld when the routes change."""

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        return {(AlertStates, "routes_changed"): lambda _: None}


class CallsWhoeverHasIt(Process):
    """Escalates though somebody has it in hand."""

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        return {(policy.Suppressor, "_has_owner"): lambda *_: False}


class _Hears(Process):
    """Takes another moment, or another way, for the one in which a channel hears."""

    @staticmethod
    def hears(heard: Hearing) -> Hearing:
        raise NotImplementedError

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        at = Rule.at
        return {(Rule, "at"): lambda *given, **more: cls.hears(at(*given, **more))}


class NeverCalls(_Hears):
    """Forgets that something waits for a moment."""

    @staticmethod
    def hears(heard: Hearing) -> Hearing:
        return replace(heard, until=None)


class HoldsNothing(_Hears):
    """Tells at once what has to wait, without sound."""

    @staticmethod
    def hears(heard: Hearing) -> Hearing:
        return replace(heard, waits=False)


class IsLoudAtNight(_Hears):
    """Sounds in quiet hours."""

    @staticmethod
    def hears(heard: Hearing) -> Hearing:
        return replace(heard, has_sound=True)


class ForgetsChoices(_Rewrites):
    """Does not know after a restart what a subscriber chose."""

    @staticmethod
    def remembers(record: ReceiverState) -> ReceiverState:
        return {**record, "choice": {}}


class TellsWhatDepends(Process):
    """Does not care for what is down that a service depends on."""

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        return {(Dependencies, "hold"): lambda *_, **__: None}


class LooksAtParentsOnce(Process):
    """Does not see that what a service depends on is back."""

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        return {(AlertStates, "parent_changed"): lambda *_: None}


class GivesNoTimeToReturn(Process):
    """Tells what is down as soon as what it depends on is back."""

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        hold = Dependencies.hold

        def holds(*given: Any, **more: Any) -> Any:
            found = hold(*given, **more)
            return found if found is None or found.until is None or found.is_only_to_see else None

        return {(Dependencies, "hold"): holds}


MUTANTS: list[type[Process]] = [
    SeesNoLoss,
    SendsBeforeTheIntent,
    DoneBeforeItIsSent,
    ForgetsWhatIsOwed,
    ForgetsDigests,
    ForgetsWhichRunsItTold,
    BeginsWithTheNextRun,
    TellsOfEveryRun,
    WritesWithoutLooking,
    BelievesSilence,
    DropsTheQueueOfWhoIsOff,
    NotesByTime,
    TellsAGroupTwice,
    LooksForTheEndOnce,
    IsSureOfCalm,
    WithholdsRecoveries,
    CountsWhatNobodyWasTold,
    TellsInMaintenance,
    NeverFlaps,
    TellsEverybody,
    KnowsTheRoutesOfItsStart,
    CallsWhoeverHasIt,
    NeverCalls,
    HoldsNothing,
    IsLoudAtNight,
    ForgetsChoices,
    TellsWhatDepends,
    LooksAtParentsOnce,
    GivesNoTimeToReturn,
]


CAUGHT_BY = {
    "SeesNoLoss": 33,
    "SendsBeforeTheIntent": 6,
    "DoneBeforeItIsSent": 51,
    "ForgetsWhatIsOwed": 282,
    "ForgetsDigests": 51,
    "ForgetsWhichRunsItTold": 20,
    "BeginsWithTheNextRun": 65,
    "TellsOfEveryRun": 11,
    "WritesWithoutLooking": 689,
    "BelievesSilence": 0,
    "DropsTheQueueOfWhoIsOff": 35,
    "NotesByTime": 449,
    "TellsAGroupTwice": 5113,
    "LooksForTheEndOnce": 7004337,
    "IsSureOfCalm": 7005943,
    "WithholdsRecoveries": 48,
    "CountsWhatNobodyWasTold": 114,
    "TellsInMaintenance": 7,
    "NeverFlaps": 10,
    "TellsEverybody": 3,
    "KnowsTheRoutesOfItsStart": 412,
    "CallsWhoeverHasIt": 635,
    "NeverCalls": 489,
    "HoldsNothing": 624,
    "IsLoudAtNight": 3,
    "ForgetsChoices": 126,
    "TellsWhatDepends": 3,
    "LooksAtParentsOnce": 137,
    "GivesNoTimeToReturn": 151,
}
"""A seed that catches each: the suite need not look for one."""


@cache
def is_sound(seed: int) -> bool:
    """Whether the notifier as it is passes this seed."""
    return not simulate(seed)


def caught_by(mutant: type[Process], seeds: int, first: int = 0) -> tuple[int, str] | None:
    return first_caught(mutant, range(first, first + seeds), simulate, is_sound)
