"""What is asked of the notifier that speaks: how its channels stand, test messages, to switch one on."""

import asyncio

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from pydantic import ValidationError

from shared.contracts.channels import ActionAnswer, ChannelReport, Invitation, ReportPage
from shared.messaging import streams

REPORT_TIMEOUT = 1.5
ACTION_TIMEOUT = 20.0
"""Seconds that a test message may take, the pace of its channel included; who asks waits a little longer."""
ANSWER_MARGIN = 3.0


class NoNotifier(Exception):
    """Says why nobody answers."""


async def channel_reports(client: Client) -> list[ChannelReport]:
    """Of every channel. Raises NoNotifier, after REPORT_TIMEOUT at the latest."""
    found: list[ChannelReport] = []
    try:
        async with asyncio.timeout(REPORT_TIMEOUT):
            while True:
                answer = await _ask(client, streams.CHANNELS, str(len(found)), REPORT_TIMEOUT)
                page = ReportPage.model_validate_json(answer)
                found += page.reports
                if not page.reports or len(found) >= page.total:
                    return found
    except TimeoutError:
        raise NoNotifier(_SLOW) from None
    except ValidationError:
        raise NoNotifier(_OTHER_VERSION) from None


async def send_test(client: Client, name: str) -> ActionAnswer:
    """Have a test message sent. Raises NoNotifier."""
    return await _act(client, streams.CHANNEL_TEST, name)


async def switch_on(client: Client, name: str) -> ActionAnswer:
    """Have a channel tried again at once, with all that was kept for it. Raises NoNotifier."""
    return await _act(client, streams.CHANNEL_ON, name)


async def invitation(client: Client) -> Invitation:
    """How one subscribes; it is a secret. Raises NoNotifier."""
    try:
        answer = await _ask(client, streams.CHANNEL_INVITE, "", REPORT_TIMEOUT)
        return Invitation.model_validate_json(answer)
    except ValidationError:
        raise NoNotifier(_OTHER_VERSION) from None


async def _act(client: Client, subject: str, name: str) -> ActionAnswer:
    try:
        answer = await _ask(client, subject, name, ACTION_TIMEOUT + ANSWER_MARGIN)
        return ActionAnswer.model_validate_json(answer)
    except ValidationError:
        raise NoNotifier(_OTHER_VERSION) from None


async def _ask(client: Client, subject: str, question: str, timeout: float) -> bytes:
    if not client.is_connected:
        raise NoNotifier("the broker is away")
    try:
        return (await client.request(subject, question.encode(), timeout=timeout)).data
    except NoRespondersError:
        raise NoNotifier("no notifier answers: none runs, or none has begun yet") from None
    except (NatsError, OSError, TimeoutError):
        raise NoNotifier(_SLOW) from None


_SLOW = "the notifier does not answer, or the broker permits no such request (deploy/nats.conf)"
_OTHER_VERSION = "the notifier is of another version"
