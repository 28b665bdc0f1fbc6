"""What subscribers choose for themselves: of which services they hear, and when without sound."""

from collections.abc import Sequence
from dataclasses import replace
from zoneinfo import ZoneInfo

from pydantic import ValidationError

from services.notifier.dispatch.receiver import ReceiverWorker
from services.notifier.states import ServiceStates
from services.notifier.texts.message import OutgoingMessage, answer_lines
from shared.contracts.routes import HOURS_ACCEPTED, Quiet
from shared.domain.routing import Choice

COMMANDS = ("/only", "/all", "/quiet")
MAX_TAGS, MAX_TAG = 32, 64

OPERATORS = (
    "This chat was set up by the operator, whose routes say for everybody in it what it hears, and in which "
    "hours quietly. Who subscribes with /start chooses for themselves."
)


async def answer_choice(
    subscriber: ReceiverWorker, command: str, words: Sequence[str], states: ServiceStates, zone: ZoneInfo
) -> OutgoingMessage:
    """`zone`: of quiet hours that name none."""
    before = subscriber.state.choice
    if command == "/all":
        await subscriber.choose(replace(before, only=()))
        return answer_lines("You hear of every service.", *described(replace(before, only=())))
    if not words:
        hint = "/only TAG…, /all" if command == "/only" else "/quiet 22:00-07:00, /quiet off"
        return answer_lines(*(described(before) or ["You hear of every service, at all hours."]), hint)
    if command == "/quiet":
        return await _quiet(subscriber, before, " ".join(words), zone)
    tags = tuple(dict.fromkeys(words))
    if len(tags) > MAX_TAGS or any(len(tag) > MAX_TAG for tag in tags):
        return answer_lines(f"At most {MAX_TAGS} tags of {MAX_TAG} characters.")
    choice = replace(before, only=tags)
    await subscriber.choose(choice)
    count = sum(not set(tags).isdisjoint(state.tags) for state in states.services())
    which = {0: "No service has it yet.", 1: "1 service has it now."}.get(count, f"{count} services now.")
    return answer_lines(*described(choice), f"{which} /all brings back the others.")


async def _quiet(subscriber: ReceiverWorker, before: Choice, text: str, zone: ZoneInfo) -> OutgoingMessage:
    quiet = None
    if text.lower() != "off":
        try:
            quiet = Quiet.parse(text)
        except ValidationError as error:
            said = error.errors()[0]["msg"].removeprefix("Value error, ")
            return answer_lines(
                f"/quiet: {said}", f"Accepted: {HOURS_ACCEPTED}, a time zone behind them, or off."
            )
        if quiet.time_zone is None:
            quiet = quiet.model_copy(update={"time_zone": zone.key})
    choice = replace(before, quiet=quiet)
    await subscriber.choose(choice)
    return answer_lines(*(described(choice) if quiet else ["You hear at all hours.", *described(choice)]))


def described(choice: Choice) -> list[str]:
    """What a subscriber has chosen, a line each."""
    return [
        *([f"You hear only of services with the tag {' or '.join(choice.only)}."] if choice.only else []),
        *([f"From {choice.quiet} without sound."] if choice.quiet else []),
    ]
