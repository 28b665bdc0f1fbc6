"""How a receiver's state begins: a new one, as it was left, brought up from an older version's, or on another
record of events than it was of."""

from nats.js.kv import KeyValue

from services.notifier.alerting.policy import Withheld
from services.notifier.channels.channel import Channel
from services.notifier.dispatch import notification_log
from services.notifier.dispatch.dependencies import ReceiverDependencies
from services.notifier.dispatch.notification_log import MessageKind, ReceiverState
from services.notifier.dispatch.receiver import ReceiverWorker
from shared.contracts.events import Status, moment
from shared.domain.digest import digest_due


async def open_receiver(
    channel: Channel,
    bucket: KeyValue,
    end: int,
    deps: ReceiverDependencies,
    *,
    anew: bool = False,
    known: ReceiverState | None = None,
) -> ReceiverWorker:
    """A receiver that is new begins at the record's end. So does one that was told more than the record has:
    a backup was put back, or the broker emptied. `anew`: the record is known to be another one than that of
    its state, which is `known` if it was in use until now."""
    fresh = _fresh_state(end, deps)
    log = await notification_log.load(bucket, channel.key, fresh)
    state = known or log.state
    if state.done > end and not anew:  # whoever spoke before went on while this one began
        end = await deps.newest()
    if state.off and state.off_since is None:  # by an older version, which kept nothing for it
        state = state.model_copy(update={"done": end, "off_since": fresh.notices})
    if anew or state.done > end:
        state = _on_another_record(state, end, anew)
    state = _upgraded(state, fresh, deps)
    if state != log.state or state.sending:
        # What is tried again is intended by this notifier, or one that goes on could overwrite it unseen.
        await log.write(state)
    return ReceiverWorker(channel, log, deps)


def _fresh_state(end: int, deps: ReceiverDependencies) -> ReceiverState:
    at, now = deps.digests.at, deps.now()
    today = digest_due(now, deps.links.zone, at, None) if at else None
    return ReceiverState(done=end, digest=today, weekly=today, notices=now, heard_until=now)


def _on_another_record(state: ReceiverState, end: int, anew: bool) -> ReceiverState:
    sending = state.sending
    if sending:
        changes = sending.of is MessageKind.CHANGES
        sending = None if changes else sending.model_copy(update={"through": end})
    owed = {name: it for name, it in state.owed.items() if it.seq <= end and not anew}
    return state.model_copy(update={"done": end, "sending": sending, "owed": owed})


def _upgraded(state: ReceiverState, fresh: ReceiverState, deps: ReceiverDependencies) -> ReceiverState:
    """Older versions did not know all of its fields."""
    if state.notices is None:
        state = state.model_copy(update={"notices": fresh.notices, "weekly": fresh.weekly})
    if state.heard_until is None:
        owed = _withheld_by_windows(deps, state)
        state = state.model_copy(update={"heard_until": fresh.heard_until, "owed": owed})
    return state


def _withheld_by_windows(deps: ReceiverDependencies, state: ReceiverState) -> dict[str, Withheld]:
    """What went down within maintenance that was not over when reminders had been sent last. An older version
    would have told it at the end of the window."""
    found = {}
    for name in deps.states:
        service = deps.states.get(name)
        end = deps.maintenance_until(name, moment(service.since)) if service.is_down else None
        if end and service.status_seq <= state.done and (state.notices is None or end > state.notices):
            found[name] = Withheld(service.status_seq, Status.ALIVE)
    return found
