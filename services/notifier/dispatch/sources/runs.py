"""Runs of an unusual length, which are told softly, or not at all."""

from services.notifier.dispatch.notification_log import Intent, MessageKind
from services.notifier.dispatch.sources.changes import PendingRuns
from services.notifier.dispatch.sources.source import Draft, MessageSource, ReceiverContext
from services.notifier.texts.message import OutgoingMessage
from services.notifier.texts.runs import runs_message


class RunSource(MessageSource):
    kind = MessageKind.RUNS

    def __init__(self, context: ReceiverContext) -> None:
        super().__init__(context)
        self.pending = PendingRuns(self._log.state.runs or 0)

    def is_waiting(self) -> bool:
        return bool(self.pending.changes)

    def has_read(self, unfinished: Intent) -> bool:
        return self.pending.tail >= unfinished.runs or self.pending.behind

    async def compose(self, unfinished: Intent | None) -> Draft | None:
        waiting = [it for it in self.pending.changes if unfinished is None or it.seq <= unfinished.runs]
        done = self._log.state.done
        if told := [run for run in waiting if self._alerts.is_run_told(run)]:
            message = runs_message(told, self._deps.links, done, self._notes(unfinished))
            return message, unfinished or Intent(through=done, runs=message.runs[-1].seq)
        if waiting or unfinished:
            through = max(waiting[-1].seq if waiting else 0, unfinished.runs if unfinished else 0)
            self.pending.drop(through)
            await self._log.update(runs=max(self._log.state.runs or 0, through), sending=None)
        return None

    async def record_sent(self, message: OutgoingMessage, intent: Intent, also: dict[str, object]) -> None:
        through = message.runs[-1].seq
        self.pending.drop(through)
        idle = not self.pending.changes and not self.pending.behind
        await self._log.update(
            runs=max(self.pending.tail, through) if idle else through,
            sending=intent if through < intent.runs else None,
            **also,
        )

    def progress(self) -> dict[str, object]:
        """For the log, of an idle receiver."""
        pending = self.pending
        is_idle = not pending.changes and not pending.behind
        return {"runs": pending.tail} if is_idle and pending.tail > (self._log.state.runs or 0) else {}
