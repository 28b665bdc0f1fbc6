"""Answers what the API and the command line ask of the channels. Only the notifier that speaks does."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from typing import Any

import structlog
from nats.errors import Error as NatsError
from pydantic import BaseModel

from services.notifier.channels import channel as channels
from services.notifier.channels.channel import Outcome
from services.notifier.channels.telegram import RateWindow
from services.notifier.dispatch.receiver import ReceiverWorker
from services.notifier.dispatch.receivers import Receivers
from services.notifier.texts.message import LinkContext, channel_test_message
from shared.contracts.channels import (
    ActionAnswer,
    ActionOutcome,
    ChannelError,
    ChannelMute,
    ChannelReport,
    Invitation,
    ReportPage,
)
from shared.messaging import streams
from shared.messaging.channel_requests import ACTION_TIMEOUT
from shared.messaging.connection import retry_until_done
from shared.messaging.faststream_broker import FastStreamBroker, text_payload

log = structlog.get_logger()

PAGE_SIZE = 400_000
"""Bytes, about, of one answer; the broker carries 1 MB."""
TESTS, TESTS_IN_ALL, TESTS_WITHIN = 3, 60, 60.0
"""At most so many test messages of one channel, and of all, in so many seconds."""
MAX_AT_ONCE = 20
"""Requests of one kind that are worked on at once; a channel may let one wait."""


class ChannelRequests:
    """Handlers of `broker`; `serve` until cancelled."""

    def __init__(
        self,
        broker: FastStreamBroker,
        receivers: Receivers,
        links: LinkContext,
        now: Callable[[], datetime],
        invitation: Callable[[], Invitation],
    ) -> None:
        self._broker, self._receivers, self._links, self._now = broker, receivers, links, now
        self._invitation = invitation
        self._of_all = RateWindow(TESTS_IN_ALL, TESTS_WITHIN)
        self._of_each: dict[str, RateWindow] = {}
        self._handlers = [
            self._handler(streams.CHANNELS, "How channels stand", self._report),
            self._handler(streams.CHANNEL_TEST, "Test messages", self._test),
            self._handler(streams.CHANNEL_ON, "Switching channels on", self._switch_on),
            self._handler(streams.CHANNEL_INVITE, "Invitation", self._invite),
        ]

    def _handler(self, subject: str, title: str, answer: Callable[[str], Awaitable[BaseModel]]) -> Any:
        handler = self._broker.subscriber(subject, title=title, max_workers=MAX_AT_ONCE)
        handler(answer, decoder=text_payload)
        return handler

    async def serve(self) -> None:
        await self._broker.connect()
        try:
            for handler in self._handlers:
                await retry_until_done("answer questions about channels", handler.start)
            await asyncio.Event().wait()
        finally:
            for handler in self._handlers:
                with suppress(NatsError, OSError):
                    await handler.stop()

    # --- how they stand

    async def _report(self, after: str) -> ReportPage:
        """A request, answered by the notifier that speaks with how its channels stand, beginning with the one
        of this number, as many as fit."""
        workers = list(self._receivers)
        first = int(after) if after.isascii() and after.isdigit() else 0
        reports: list[ChannelReport] = []
        size = 0
        for worker in workers[first:]:
            reports.append(report(worker, subscribed=self._receivers.is_subscribed(worker)))
            size += len(reports[-1].model_dump_json())
            if size > PAGE_SIZE:
                break
        return ReportPage(reports=tuple(reports), total=len(workers))

    async def _invite(self, _: str) -> Invitation:
        """A request, answered with how one subscribes, which is a secret."""
        return self._invitation()

    # --- what is done to them

    async def _test(self, name: str) -> ActionAnswer:
        """A request with a channel's name, answered when a test message was sent on it, or could not be."""
        worker = self._receivers.named(name)
        if worker is None:
            return ActionAnswer(outcome=ActionOutcome.UNKNOWN)
        if wait := self._limited(worker.channel.key):
            reason = "too many test messages were asked for"
            return ActionAnswer(outcome=ActionOutcome.LIMITED, reason=reason, retry_after=math.ceil(wait))
        try:
            message = channel_test_message(name, self._now(), self._links)
            outcome = await worker.sender.send_test(message, ACTION_TIMEOUT)
        except TimeoutError:
            reason = f"not done within {ACTION_TIMEOUT:.0f} s"
            return ActionAnswer(outcome=ActionOutcome.NO_ANSWER, reason=reason)
        if isinstance(outcome, channels.Sent):
            worker.try_now()  # it may have been off
        log.info("a test message was asked for", channel=name, result=type(outcome).__name__.lower())
        return _answer(outcome)

    def _limited(self, key: str) -> float:
        """Seconds until one more may be sent; 0: now, and it is counted."""
        now = asyncio.get_running_loop().time()
        windows = self._of_all, self._of_each.setdefault(key, RateWindow(TESTS, TESTS_WITHIN))
        wait = max(window.wait(now) for window in windows)
        if not wait:
            for window in windows:
                window.note(now)
        return wait

    async def _switch_on(self, name: str) -> ActionAnswer:
        """A request with the name of a channel, which is tried again at once."""
        worker = self._receivers.named(name)
        if worker is None:
            return ActionAnswer(outcome=ActionOutcome.UNKNOWN)
        return ActionAnswer(outcome=ActionOutcome.DONE, reason=await worker.switch_on() or "")


def _answer(outcome: Outcome) -> ActionAnswer:
    match outcome:
        case channels.Sent():
            return ActionAnswer(outcome=ActionOutcome.DONE)
        case channels.Failed(reason, maybe_delivered=True):
            return ActionAnswer(outcome=ActionOutcome.NO_ANSWER, reason=reason)
        case _:
            return ActionAnswer(outcome=ActionOutcome.REFUSED, reason=channels.reason_of(outcome))


def report(worker: ReceiverWorker, *, subscribed: bool) -> ChannelReport:
    state, channel = worker.state, worker.channel
    error = ChannelError(at=state.error_at, reason=state.error) if state.error and state.error_at else None
    mutes = tuple(ChannelMute(service=name, until=until) for name, until in sorted(worker.mutes().items()))
    return ChannelReport(
        name=channel.name,
        kind=channel.key.partition(".")[0],
        address=channel.shown(worker.address),
        subscribed=subscribed,
        last_delivered=state.delivered_at,
        last_error=error,
        off_since=state.off_since if state.off else None,
        off_reason=state.off,
        waiting=len(worker.pending.changes) + len(worker.pending_runs.changes),
        mutes=mutes,
        last_digest=state.digest_sent,
    )
