"""The channels, as the notifier that speaks answers for them. Nobody else knows how they stand."""

from collections.abc import Awaitable, Callable

from nats.aio.client import Client

from services.api.http.models import SwitchedOn, Tested
from shared.contracts.channels import ActionAnswer, ActionOutcome, ChannelReport, Invitation
from shared.http.problems import Problem
from shared.messaging import channel_requests
from shared.messaging.channel_requests import NoNotifier
from shared.messaging.connection import BrokerConnection

Act = Callable[[Client, str], Awaitable[ActionAnswer]]


async def all_channels(link: BrokerConnection) -> list[ChannelReport]:
    """Problem 503 if no notifier answers."""
    try:
        return await channel_requests.channel_reports(link.nc)
    except NoNotifier as error:
        raise Problem(503, str(error), retry_after=5) from None


async def invitation(link: BrokerConnection) -> Invitation | None:
    """How one subscribes, for whoever may write; None if no notifier answers."""
    try:
        return await channel_requests.invitation(link.nc)
    except NoNotifier:
        return None


async def send_test(link: BrokerConnection, name: str) -> Tested:
    """Problem 502 if it was not delivered, 504 if that is not known."""
    await _acted(link, name, channel_requests.send_test)
    return Tested(delivered=True)


async def switch_on(link: BrokerConnection, name: str) -> SwitchedOn:
    answer = await _acted(link, name, channel_requests.switch_on)
    return SwitchedOn(on=True, was_off=answer.reason or None)


async def _acted(link: BrokerConnection, name: str, act: Act) -> ActionAnswer:
    try:
        answer = await act(link.nc, name)
    except NoNotifier as error:
        raise Problem(503, str(error), retry_after=5) from None
    match answer.outcome:
        case ActionOutcome.DONE:
            return answer
        case ActionOutcome.UNKNOWN:
            raise Problem(404, "there is no such channel; GET /channels lists them")
        case ActionOutcome.LIMITED:
            raise Problem(429, answer.reason, retry_after=answer.retry_after)
        case ActionOutcome.REFUSED:
            raise Problem(502, answer.reason)
        case ActionOutcome.NO_ANSWER:
            raise Problem(504, f"{answer.reason}; it may have arrived")
