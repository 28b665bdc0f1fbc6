"""Bugs put on purpose into what is done about incidents, and into what messages say of them."""

from datetime import datetime
from typing import Any

from services.notifier.alerting.policy import Suppression, Suppressor, Verdict
from services.notifier.consumer import EventLog
from services.notifier.dispatch import shown
from services.notifier.dispatch.alert_states import AlertStates
from services.notifier.dispatch.receivers import Receivers
from services.notifier.dispatch.shown import ShownMessage, ShownMessages
from services.notifier.incidents import Incidents
from shared.contracts.events import ServiceAcknowledged
from shared.messaging.incident_log import IncidentLog
from tests.simulation.notifier.mutants import ReceiverState, _Rewrites
from tests.simulation.notifier.run import Process
from tests.simulation.notifier.telegram import SimulatedChat


class KeepsAcknowledgementsToItself(Process):
    """Says that somebody has it in hand, and stores nothing of it."""

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        store = IncidentLog._store

        async def stores(incident_log: IncidentLog, event: Any, after: int) -> tuple[int, bool]:
            if isinstance(event, ServiceAcknowledged):
                return after, True
            return await store(incident_log, event, after)

        return {(IncidentLog, "_store"): stores}


class TakesOver(Process):
    """Writes what somebody pressed whatever others have done meanwhile."""

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        store = IncidentLog._store

        async def stores(incident_log: IncidentLog, event: Any, after: int) -> tuple[int, bool]:
            while True:
                seq, is_stored = await store(incident_log, event, after)
                if is_stored:
                    return seq, True
                after = seq

        return {(IncidentLog, "_store"): stores}


class EditsInOneChat(Process):
    """Of all chats only the first has its messages edited."""

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        def first_alone(receivers: Receivers, name: str) -> None:
            for worker in list(receivers)[:1]:
                if worker.shown:
                    worker.shown.look(name)

        return {(Receivers, "standing_changed"): first_alone}


class EditsForTheFirstAlone(Process):
    """Looks at a message that told of several services only when something becomes of the first."""

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        add = ShownMessages._add

        def adds(messages: ShownMessages, slot: int, message: ShownMessage) -> None:
            add(messages, slot, message)
            for name in list(message.services)[1:]:
                messages._of[name].discard(slot)

        return {(ShownMessages, "_add"): adds}


class EditsWithoutAPace(Process):
    """Edits as fast as it can, at every step."""

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        compose = ShownMessages._compose

        async def composes(messages: ShownMessages, slot: int) -> Any:
            if edit := await compose(messages, slot):
                await messages._edit(slot, *edit)
                for other in messages._by_slot:
                    messages._dirty[other] = None
            return edit

        return {
            (SimulatedChat, "edit_turn"): lambda chat, address: 0.0,
            (shown, "SAME_MESSAGE"): -1.0,
            (ShownMessages, "_compose"): composes,
        }


class ForgetsWhatItHasShown(_Rewrites):
    """Does not know after a restart which messages it is to keep up to date."""

    @staticmethod
    def remembers(record: ReceiverState) -> ReceiverState:
        return {**record, "shown": []}


class LooksOnlyAtWhatComes(Process):
    """Does not make up for edits after a restart."""

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        load = ShownMessages._load

        async def loads(messages: ShownMessages) -> None:
            await load(messages)
            messages._dirty.clear()

        return {(ShownMessages, "_load"): loads}


class ForgetsWhoHadIt(Process):
    """Does not know who had an incident in hand that ended while no notifier ran."""

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        async def nobody(*_: Any) -> None:
            return None

        return {(EventLog, "_people_before"): nobody}


class RemindsAllTheSame(Process):
    """Reminds of what somebody has in hand."""

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        return {(AlertStates, "is_acknowledged"): lambda alerts, name: False}


class TellsThoughItIsMuted(Process):
    """Does not see mutes."""

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        return {(Incidents, "muted"): lambda incidents, name, now: None}


class SwallowsWhatAMuteWithheld(Process):
    """Does not look again when a mute ends."""

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        silenced = Suppressor._silenced

        def endless(suppressor: Suppressor, name: str, now: datetime) -> Verdict:
            is_muted = suppressor.states.incidents.muted(name, now) is not None
            return Verdict(Suppression.ALL) if is_muted else silenced(suppressor, name, now)

        return {(Suppressor, "_silenced"): endless}


MUTANTS: list[type[Process]] = [
    KeepsAcknowledgementsToItself,
    TakesOver,
    EditsInOneChat,
    EditsForTheFirstAlone,
    EditsWithoutAPace,
    ForgetsWhatItHasShown,
    LooksOnlyAtWhatComes,
    ForgetsWhoHadIt,
    RemindsAllTheSame,
    TellsThoughItIsMuted,
    SwallowsWhatAMuteWithheld,
]


CAUGHT_BY = {
    "KeepsAcknowledgementsToItself": 0,
    "TakesOver": 256,
    "EditsInOneChat": 2,
    "EditsForTheFirstAlone": 282,
    "EditsWithoutAPace": 3,
    "ForgetsWhatItHasShown": 1,
    "LooksOnlyAtWhatComes": 20,
    "ForgetsWhoHadIt": 271,
    "RemindsAllTheSame": 10,
    "TellsThoughItIsMuted": 3,
    "SwallowsWhatAMuteWithheld": 20,
}
"""A seed that catches each."""
