"""What the bot answers: to chats that are known, and to whoever has the invite's secret; to nobody else."""

import asyncio
import difflib
import hmac
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import structlog

from services.notifier.bot import answers, choices
from services.notifier.bot.actions import IncidentActions
from services.notifier.bot.updates import ButtonPress, IncomingMessage, Sender, Update
from services.notifier.channels.channel import Limited, Migrated
from services.notifier.channels.telegram import Bot, TelegramChannel, keyboard
from services.notifier.dispatch.dependencies import ReceiverDependencies
from services.notifier.dispatch.receiver import ReceiverWorker
from services.notifier.dispatch.receivers import Receivers
from services.notifier.texts import message as messages
from services.notifier.texts.incidents import incident_details, open_incidents
from services.notifier.texts.message import OutgoingMessage, answer_lines
from shared.contracts import durations
from shared.contracts.events import Status, moment
from shared.contracts.zones import local

log = structlog.get_logger()

HOUR, MAX_MUTE = timedelta(hours=1), timedelta(days=30)
MAX_NOTE = 2000
MAX_TOAST = 200
"""Characters that Telegram shows of the answer to a button."""
MAX_TRIES = 3


class BotCommands:
    """`handle` each update. `invite`: the secret that lets a chat subscribe; empty: none does."""

    def __init__(
        self,
        bot: Bot,
        invite: str,
        receivers: Receivers,
        deps: ReceiverDependencies,
        last_heartbeat: Callable[[str], Awaitable[datetime | None]],
        run_start: Callable[[str, datetime], Awaitable[datetime | None]],
        actions: IncidentActions,
    ) -> None:
        """`run_start`: when the run of a service began that ended then, if one did."""
        self._bot, self._invite, self._receivers = bot, invite, receivers
        self._states, self._links, self._now = deps.states, deps.links, deps.now
        self._digest_lines, self._beside = deps.digest_lines, deps.beside
        self._last_heartbeat, self._run_start, self._actions = last_heartbeat, run_start, actions

    async def handle(self, update: Update) -> None:
        if update.callback_query:
            await self._on_button(update.callback_query)
        elif message := update.message:
            if message.migrated_to:
                await self._receivers.migrate(str(message.chat.id), str(message.migrated_to))
            if message.migrated_from:
                await self._receivers.migrate(str(message.migrated_from), str(message.chat.id))
            if message.text.startswith("/") and not message.forward_origin:
                await self._on_message(message)

    # --- commands

    async def _on_message(self, message: IncomingMessage) -> None:
        command, _, rest = message.text.partition(" ")
        command, _, addressee = command.partition("@")
        if addressee and self._bot.username and addressee.lower() != self._bot.username.lower():
            return
        chat, words = str(message.chat.id), rest.split()
        if command.lower() == "/start":
            answer = await self._start(chat, words)
        elif not (known := self._receivers_at(chat)):
            return
        else:
            for receiver in known:
                if receiver.state.off:  # whoever writes in it may have let us in again
                    receiver.try_now()
            actor = _actor(message.sender, chat)
            answer = await self._answer(chat, command.lower(), words, actor)
        if answer:
            await self._reply(message, answer)

    def _receivers_at(self, chat: str) -> list[ReceiverWorker]:
        return [receiver for receiver in self._receivers if receiver.is_at(chat)]

    async def _start(self, chat: str, words: list[str]) -> OutgoingMessage | None:
        invited = bool(self._invite) and hmac.compare_digest("".join(words).encode(), self._invite.encode())
        if known := self._receivers_at(chat):
            reasons = [reason for it in known if (reason := await it.switch_on())]
            if reasons:
                was = f"This chat was off ({reasons[0]}) and is on again. What was kept for it follows."
                return answer_lines(was, answers.HELP)
            return answer_lines("This chat gets the registry's messages already.", answers.HELP)
        if not invited:
            return None
        if not await self._receivers.subscribe(chat):
            return answer_lines("There are too many subscribers already.")
        return answer_lines(
            "Subscribed: you will hear when a service falls and when it is back.", answers.HELP
        )

    async def _answer(self, chat: str, command: str, words: list[str], actor: str) -> OutgoingMessage:
        if command == "/stop":
            if await self._receivers.unsubscribe(chat):
                return answer_lines("No more messages. /start with the invite's secret brings them back.")
            return answer_lines(
                "This chat was configured by the operator (REGISTRY_TELEGRAM_CHAT_ID) and stays.",
                "/mute NAME 2h silences a service for a while.",
            )
        if command == "/status":
            return await self._service_status(words[0], chat) if words else self._fleet_status(chat)
        if command == "/services":
            return answers.services_page(self._states.services(), 0)
        if command == "/incidents":
            return await self._open_incidents()
        if command == "/ack":
            return await self._acknowledge(words, actor)
        if command == "/mute":
            return await self._mute(words, actor)
        if command == "/unmute":
            return await self._unmute(chat, words, actor)
        if command in choices.COMMANDS:
            return await self._choose(chat, command, words)
        if command == "/digest":
            return messages.digest_message(await self._digest_lines(self._now(), False), self._links, 0)
        return answer_lines(
            *(["Commands:"] if command == "/help" else ["I do not know that command."]), answers.HELP
        )

    async def _open_incidents(self) -> OutgoingMessage:
        worse = [it for it in self._states.services() if it.status.badness > Status.ALIVE.badness]
        incidents, now = self._states.incidents, self._now()
        await self._actions.find_incidents(it.name for it in worse)
        found = [
            (it, moment(its.began_at), incidents.acknowledged(it.name), incidents.muted(it.name, now))
            for it in worse
            if (its := incidents.state(it.name).incident)
        ]
        return open_incidents(found, now, self._links)

    async def _acknowledge(self, words: list[str], actor: str) -> OutgoingMessage:
        if not words:
            return answer_lines("/ack NAME, with a note if you like, such as: /ack web the disk is full")
        name, note = words[0], messages.cut(" ".join(words[1:]), MAX_NOTE) or None
        if not self._states.get(name).exists:
            return await self._unknown(name)
        return answer_lines(f"{name}: {await self._actions.acknowledge(name, actor, note)}")

    async def _mute(self, words: list[str], actor: str) -> OutgoingMessage:
        if not 1 <= len(words) <= 2:
            return answer_lines("/mute NAME DURATION, such as: /mute web 2h")
        name = words[0]
        if not self._states.get(name).exists:
            return await self._unknown(name)
        try:
            length = durations.parse(words[1]) if len(words) == 2 else HOUR
        except ValueError as error:
            return answer_lines(str(error))
        if length > MAX_MUTE:
            return answer_lines("A service can be muted for 30d at most.")
        return answer_lines(await self._mute_for(name, length, actor))

    async def _mute_for(self, name: str, length: timedelta, actor: str) -> str:
        until = self._now() + length
        if problem := await self._actions.mute(name, actor, until):
            return problem
        return f"🔕 {name} is muted until {local(until, self._links.zone)}, for everybody."

    async def _unmute(self, chat: str, words: list[str], actor: str) -> OutgoingMessage:
        if len(words) != 1:
            return answer_lines("/unmute NAME")
        name = words[0]
        here = [it for it in self._receivers_at(chat) if name in it.mutes()]
        for it in here:
            await it.unmute(name)
        is_muted = self._states.incidents.muted(name, self._now()) is not None
        if is_muted and (problem := await self._actions.unmute(name, actor)):
            return answer_lines(problem)
        was = "no longer" if is_muted or here else "not"
        return answer_lines(f"🔔 {messages.cut(name, messages.MAX_NAME)} is {was} muted.")

    async def _choose(self, chat: str, command: str, words: list[str]) -> OutgoingMessage:
        subscriber = self._receivers.subscriber(chat)
        if subscriber is None:
            return answer_lines(choices.OPERATORS)
        zone = self._links.zone
        return await choices.answer_choice(subscriber, command, words, self._states, zone)

    # --- of services

    async def _unknown(self, name: str) -> OutgoingMessage:
        names = [service.name for service in self._states.services()]
        similar = await asyncio.to_thread(difflib.get_close_matches, name[: messages.MAX_NAME], names, 3)
        return answers.unknown_service(name, similar)

    def _fleet_status(self, chat: str) -> OutgoingMessage:
        now = self._now()
        muted, subscriber = dict(self._states.incidents.all_muted(now)), self._receivers.subscriber(chat)
        chosen = choices.described(subscriber.state.choice) if subscriber else []
        services, mutes = self._states.services(), self._mutes(chat)
        return answers.fleet_status(services, muted, mutes, now, self._links, chosen, self._beside(now))

    async def _service_status(self, name: str, chat: str) -> OutgoingMessage:
        service = self._states.get(name)
        if not service.exists:
            return await self._unknown(name)
        heard, began = await self._last_heartbeat(name), None
        if heard and service.schedule:
            began = await self._run_start(name, heard)
        now, incidents = self._now(), self._states.incidents
        ack, mute = incidents.acknowledged(name), incidents.muted(name, now)
        incident = incident_details(ack, mute, now, self._links)
        if until := self._mutes(chat).get(name):
            incident.append(f"🔕 muted here until {local(until, self._links.zone)}")
        return answers.service_status(service, heard, began or heard, incident, now, self._links)

    def _mutes(self, chat: str) -> dict[str, datetime]:
        return {name: until for it in self._receivers_at(chat) for name, until in it.mutes().items()}

    # --- buttons

    async def _on_button(self, query: ButtonPress) -> None:
        """Every press is answered, or the button would go on spinning; only known chats get more."""
        said = ""
        message = query.message
        if message and self._receivers_at(str(message.chat.id)):
            said = await self._run_button(query.data, message, _actor(query.sender, str(message.chat.id)))
        said = messages.cut(said, MAX_TOAST)
        await self._bot.ask("answerCallbackQuery", {"callback_query_id": query.id, "text": said})

    async def _run_button(self, data: str, message: IncomingMessage, actor: str) -> str:
        """What the press says at once."""
        kind, _, value = data.partition(":")
        chat = str(message.chat.id)
        if kind == "page" and value.isascii() and value.isdigit():
            page = answers.services_page(self._states.services(), int(value[:6]))
            body = {"chat_id": message.chat.id, "message_id": message.message_id, "text": page.text}
            body |= {"parse_mode": "HTML", "reply_markup": keyboard(page.buttons)}
            await self._bot.pace.turn(chat)
            await self._bot.ask("editMessageText", body)
            return ""
        key, _, incident = value.partition(":")
        name = next((name for name in self._states if messages.button_key(name) == key), None)
        if name is None or not self._states.get(name).exists:
            return "That service is gone."
        if kind == "ack":
            return await self._actions.acknowledge(name, actor, None, incident)
        if kind == "mute":
            if incident and (problem := await self._actions.is_over(name, incident)):
                return problem
            return await self._mute_for(name, HOUR, actor)
        if kind == "details":
            await self._reply(message, await self._service_status(name, chat))
        return ""

    # --- answers

    async def _reply(self, to: IncomingMessage, message: OutgoingMessage) -> None:
        """Where it was asked. An answer that cannot be sent is not worth more than a few tries."""
        asked, topic = str(to.chat.id), f":{to.thread}" if to.in_topic and to.thread else ""
        chat = next((receiver.address for receiver in self._receivers_at(asked)), asked)
        channel = TelegramChannel(self._bot, chat + topic)
        for _ in range(MAX_TRIES):
            await channel.turn(chat)
            outcome = await channel.send(chat, message, None)
            if isinstance(outcome, Migrated):
                await self._receivers.migrate(chat, outcome.chat)
                chat = outcome.chat
            elif isinstance(outcome, Limited):
                await asyncio.sleep(outcome.retry_after)
            else:
                return


def _actor(sender: Sender | None, chat: str) -> str:
    """Who writes in a channel's name has no name of their own."""
    return sender.actor if sender else f"telegram:somebody ({chat})"
