"""How each service stands with one receiver: what was withheld, who is flapping, and which notices are due.

A notice is due when a service's withheld changes, or its flapping, are to be told now: as nothing suppresses
them any more, or by the time that has passed. Services for which that depends on the time have a timer.
"""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from services.notifier.alerting import policy
from services.notifier.alerting.changes import FALLEN, Notice, NoticeKind, StatusChange, UnusualRun
from services.notifier.alerting.policy import (
    Decision,
    FlapState,
    Suppression,
    Verdict,
    Withheld,
    decide,
    next_notice,
)
from services.notifier.dispatch.dependencies import ReceiverDependencies
from services.notifier.dispatch.notification_log import MAX_TURNS, NotificationLog
from services.notifier.texts.changes import fallen_with, held_back
from shared.contracts.events import IncidentEvent, Status, moment
from shared.contracts.maintenance import Window
from shared.domain.routing import Rule

_NOTHING = Verdict(Suppression.ALL)

MAX_FLAP_STATES = 10_000
"""Services whose changes of direction are remembered in memory per receiver."""


class AlertStates:
    """`evaluate` a service whenever something about it has changed. `on_due`: called when a notice is due."""

    def __init__(
        self, channel: str, deps: ReceiverDependencies, log: NotificationLog, on_due: Callable[[], None]
    ) -> None:
        """`channel`: the receiver's, by its name."""
        self._channel, self._deps, self._log, self._on_due = channel, deps, log, on_due
        self._states, self._now = deps.states, deps.now
        self._suppressor = policy.Suppressor(
            deps.states,
            deps.maintenance_until,
            lambda: log.state.mutes,
            self._rule,
            deps.links.zone,
            deps.dependencies,
        )
        self.withheld = dict(log.state.owed)
        self.flapping = dict(log.state.turns)
        self.due: dict[str, Notice] = {}
        self._timers: list[tuple[datetime, str]] = []
        """When to evaluate which service again; the first is next."""
        self._next_timer: dict[str, datetime] = {}
        """Of each service the timer that counts."""
        flapping = [name for name, flap_state in self.flapping.items() if flap_state.flapping_since]
        for name in [*self.withheld, *flapping]:
            self.evaluate(name)
        for name in self._states.paused:
            self.configuration_changed(name)
        for name, _ in self._states.incidents.all_muted(self._now()):
            self.withhold_down(name)
            self.evaluate(name)

    # --- when to evaluate

    def tick(self) -> None:
        now = self._now()
        while self._timers and self._timers[0][0] <= now:
            at, name = heapq.heappop(self._timers)
            if self._next_timer.get(name) == at:
                del self._next_timer[name]
                self.evaluate(name)

    def configuration_changed(self, name: str) -> None:
        """What is down when it is paused is told again if it is still down when it is resumed."""
        if self._states.get(name).paused:
            self.withhold_down(name)
        self.evaluate(name)

    def incident_changed(self, event: IncidentEvent, seq: int) -> None:
        """What is down when it is muted is told again if it is still down when the mute ends. An event that
        is read again after a restart may be of a mute that has ended, and was not recorded here."""
        if event.data.muted and seq > self._log.state.done:
            self.withhold_down(event.name)
        self.evaluate(event.name)

    def routes_changed(self) -> None:
        """Or what its subscriber has chosen."""
        for name in list(self.withheld):
            self.evaluate(name)

    def parent_changed(self, name: str) -> None:
        """Something that others may depend on."""
        for other in self._deps.dependencies.descendants(name) if self.withheld else ():
            if other in self.withheld:
                self.evaluate(other)

    def window_removed(self, window: Window) -> None:
        for name in list(self.withheld):
            if window.is_about(name, self._states.get(name).tags):
                self.evaluate(name)

    def evaluate(self, name: str) -> None:
        withheld, flap_state = self.withheld.get(name), self.flapping.get(name)
        is_flapping = flap_state is not None and flap_state.flapping_since is not None
        self.due.pop(name, None)
        if withheld is None and not is_flapping:
            return
        state, now = self._states.get(name), self._now()
        if state.status_seq > self._log.state.done:
            return  # a change that is not handled yet tells more
        verdict = self._suppressor.of_service(name, now, withheld)
        if withheld and verdict.is_for_parent and not withheld.is_for_parent:
            withheld = replace(withheld, is_for_parent=True, is_delayed=False)
            self.withheld[name] = withheld
        reminders = () if self.is_acknowledged(name) else self.reminders_of(name)
        found = next_notice(name, state, withheld, flap_state, now, verdict, reminders)
        if isinstance(found, Notice):
            self.due[name] = found
            self._on_due()
        elif isinstance(found, datetime):
            if self._next_timer.get(name) != found:
                self._next_timer[name] = found
                heapq.heappush(self._timers, (found, name))
        elif found is policy.NothingDue.FORGET:
            self.withheld.pop(name, None)
            if is_flapping:
                del self.flapping[name]

    # --- what changes the state

    def decide(self, changes: Iterable[StatusChange], *, all_suppressed: bool = False) -> list[Decision]:
        """Which of these changes are sent. Nothing is changed until the decisions are applied."""

        now = self._now()

        def judge(change: StatusChange, withheld: Withheld | None) -> Verdict:
            return _NOTHING if all_suppressed else self._suppressor.of_change(change, now, withheld)

        by_name: dict[str, list[StatusChange]] = {}
        for change in changes:
            by_name.setdefault(change.name, []).append(change)
        decisions = [
            decision
            for name, of_name in by_name.items()
            for decision in decide(of_name, self.withheld.get(name), self.flapping.get(name), judge)
        ]
        return sorted(decisions, key=lambda decision: decision.change.seq)

    def apply(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            name = decision.change.name
            self.withheld.pop(name, None)
            if decision.withheld:
                self.withheld[name] = decision.withheld
            self._set_flap_state(name, decision.flap_state)

    def withhold_down(self, name: str) -> None:
        """The receiver knows that a service is down: it is told again when nothing suppresses it any more."""
        state = self._states.get(name)
        if name in self.withheld or not state.is_down or state.status_seq > self._log.state.done:
            return
        self.withheld[name] = Withheld(state.status_seq, state.status, told_since=moment(state.since))

    def suppress(self, name: str, now: datetime) -> bool:
        """Withhold that a service is down, if something suppresses it. Whether that is so."""
        if self._suppressor.of_service(name, now, self.withheld.get(name)).suppression is Suppression.NONE:
            return False
        self.withhold_down(name)
        self.evaluate(name)
        return True

    def is_acknowledged(self, name: str) -> bool:
        """Whether somebody has it in hand, and nobody is reminded of it."""
        return self._states.incidents.acknowledged(name) is not None

    def _rule(self, name: str, tags: tuple[str, ...], status: Status) -> Rule | None:
        """By the routes; of whom they do not know, as the subscriber chose."""
        router = self._deps.router()
        if self._channel in router.channels:
            return router.rule(self._channel, name, tags, status)
        return self._log.state.choice.rule(tags)

    def reminders_of(self, name: str) -> tuple[timedelta, ...]:
        """When the receiver is reminded that a service is down, since the fall."""
        rule = self._rule(name, self._states.get(name).tags, Status.DOWN)
        return self._deps.reminders.after if rule is None or rule.remind is None else rule.remind

    def has_sound(self, name: str) -> bool:
        """Whether what is told of a service now may be heard."""
        return self._suppressor.of_service(name, self._now(), self.withheld.get(name)).has_sound

    def remark(self, change: StatusChange) -> str:
        """What else there is to say of a change: of what depends on the service."""
        if (change.to in FALLEN) is (change.from_ in FALLEN) or change.to is Status.SILENT:
            return ""
        others = self._deps.dependencies.fallen_with(change.name)
        if change.to in FALLEN:
            return fallen_with(sum(1 for _ in others))
        return held_back([name for name in others if name in self.withheld])

    def is_run_told(self, run: UnusualRun) -> bool:
        begins = self._log.state.runs_since
        is_new = begins is not None and run.since >= begins
        return is_new and self._suppressor.is_run_told(run, self._now())

    def notice_sent(self, notice: Notice) -> None:
        self.due.pop(notice.name, None)
        if notice.kind is not NoticeKind.FLAPS:
            self.withheld.pop(notice.name, None)
        self._set_flap_state(notice.name, policy.flap_state_after(notice, self.flapping.get(notice.name)))

    def is_still_due(self, notice: Notice) -> bool:
        now = self.due.get(notice.name)
        return now is not None and (now.seq, now.kind) == (notice.seq, notice.kind)

    def _set_flap_state(self, name: str, flap_state: FlapState | None) -> None:
        self.flapping.pop(name, None)
        if flap_state:
            self.flapping[name] = flap_state
            if len(self.flapping) > MAX_FLAP_STATES:
                first = next(iter(self.flapping))
                if self.flapping[first].flapping_since is None:
                    del self.flapping[first]

    def forget_old_turns(self) -> None:
        old = self._now() - policy.FLAPPING_WITHIN
        for name, flap_state in list(self.flapping.items()):
            if not flap_state.flapping_since and flap_state.last < old:
                del self.flapping[name]

    def as_record(self) -> dict[str, object]:
        """For the log. Of services that do not flap only those that have turned before are worth it."""
        flapping = {name: it for name, it in self.flapping.items() if it.flapping_since}
        others = [
            (name, it) for name, it in self.flapping.items() if not it.flapping_since and len(it.moments) > 1
        ]
        return {"owed": dict(self.withheld), "turns": flapping | dict(others[-MAX_TURNS:])}
