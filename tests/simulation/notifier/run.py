"""Plays a scenario with the real notifier between a made-up broker and a made-up Telegram."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import shared.messaging.connection
import shared.messaging.reader
import shared.messaging.record_watch
from services.notifier import __main__ as notifier
from services.notifier import consumer, lease
from services.notifier.dispatch import notification_log, receiver, receivers, sender
from services.notifier.settings import NotifierSettings
from shared.contracts.events import (
    ConfigurationRemoved,
    ConfigurationSet,
    Setting,
    moment,
    parse_event,
    parse_run,
)
from shared.messaging import streams
from shared.messaging.kv_record import Superseded
from shared.messaging.stored_config import window_name
from tests.simulation.clock import OWNER, VirtualLoop, play
from tests.simulation.notifier import world as worlds
from tests.simulation.notifier.people import People, plan
from tests.simulation.notifier.scenario import INVITE, Command, Scenario, Seat, when
from tests.simulation.notifier.telegram import Shown, SimulatedBot, SimulatedChat, Telegram
from tests.simulation.notifier.world import EventFeed, Host, SimulatedLink, SimulatedPublisher, World
from tests.simulation.run import Failed, Silent

ASKS_AGAIN = 60.0
"""Seconds after which somebody who got no answer writes the same again."""


_now = float("nan"), when(0)
"""The loop's time when it was asked for last, and the moment that this is."""


def now() -> datetime:
    global _now
    time = asyncio.get_running_loop().time()
    if time != _now[0]:
        _now = time, when(time)
    return _now[1]


class Unhurried:
    """In place of `asyncio` where something is looked at each second: virtual time is not free either."""

    pace = 1.0

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(self.pace if seconds == 1 else seconds)


class Process(Host):
    """What runs one notifier. Tests put broken ones in its place."""

    @classmethod
    def patches(cls) -> dict[tuple[Any, str], Any]:
        """What is put in the place of which attribute."""
        return {}

    def notifier(self, settings: NotifierSettings) -> notifier.Notifier:
        return notifier.Notifier(settings)


@dataclass
class Played:
    """What came of a scenario. `ends`: when a notifier ended, and which. `answers`: those to each command."""

    scenario: Scenario
    world: World
    telegram: Telegram
    ends: list[tuple[float, str]] = field(default_factory=list)
    answers: dict[Command, Shown] = field(default_factory=dict)
    people: People = field(default_factory=People)


def disturbed(scenario: Scenario, process: type[Process] = Process, trace: list[str] | None = None) -> Played:
    """Everything that the scenario has in store."""
    made: list[Played] = []

    async def main(loop: VirtualLoop) -> None:
        world = World(loop, scenario.outages, trace)
        telegram = Telegram(loop, scenario.phones, scenario.troubles, Random(scenario.seed + 2))
        world.telegram, world.has_runs = telegram, bool(scenario.runs)
        played = Played(scenario, world, telegram)
        made.append(played)
        _plan(played)
        played.people = plan(scenario, world, telegram)
        running = [loop.create_task(_sit(played, process, n, seat)) for n, seat in enumerate(scenario.seats)]
        for phone in scenario.phones:
            mine = [it for it in scenario.commands if it.phone is phone]
            running.append(loop.create_task(_write(played, mine)))
        await asyncio.wait(running, timeout=scenario.end - loop.time(), return_when=asyncio.FIRST_EXCEPTION)
        await asyncio.sleep(scenario.end - loop.time())
        world.close()
        await asyncio.sleep(30)  # what has ended takes its leave
        for task in running:
            if task.done():
                task.result()

    with _paced(scenario), ExitStack() as stack:
        for (where, name), what in process.patches().items():
            stack.enter_context(patch.object(where, name, what))
        play(main, scenario.start - 120)
    return made[0]


def _plan(played: Played) -> None:
    loop, world, telegram = played.world.loop, played.world, played.telegram
    for fact in played.scenario.facts:
        loop.call_at(fact.at, _append, world, fact.subject, fact.data)
    for run in played.scenario.runs:
        loop.call_at(run.at, _append, world, run.subject, run.data)
    for change in played.scenario.windows:
        loop.call_at(change.at, _set_window, world, change.id, change.data)
    for routes in played.scenario.routing.routes:
        loop.call_at(routes.at, _set, world, "routes.all", {"routes": routes.routes})
    for phone in telegram.phones:
        if phone.moves_at < float("inf"):
            loop.call_at(phone.moves_at, telegram.move, phone)


def _append(world: World, subject: str, data: bytes) -> None:
    world.append(subject, data)
    if world.trace is not None:
        world.say("record", f"#{world.end(streams.stream_of(subject))[0]} {subject} {_told(data)}")


def _told(data: bytes) -> str:
    try:
        event = parse_run(data) if b"run_recorded" in data else parse_event(data)
    except ValueError:
        return "(malformed)"
    content = getattr(event.data, "config", event.data)
    return f"{event.type} {content.model_dump_json(exclude_unset=True)}"


def _set_window(world: World, id_: str, value: dict[str, Any] | None) -> None:
    _set(world, window_name(id_), value)


def _set(world: World, name: str, value: dict[str, Any] | None) -> None:
    """Part of the registry's own configuration."""
    about: dict[str, Any] = {
        "id": f"{name}-{world.now()}",
        "source": "/api",
        "subject": name,
        "time": moment(world.now()),
    }
    event = ConfigurationSet(**about, data=Setting(value=value)) if value else ConfigurationRemoved(**about)
    world.append(streams.configuration(event.name), event.to_bytes())
    world.say("settings", f"{name} {value or 'removed'}")


async def _sit(played: Played, process: type[Process], n: int, seat: Seat) -> None:
    """One seat's notifiers, one after the other."""
    loop, scenario = played.world.loop, played.scenario
    lives, count = list(seat.lives), 0
    while lives:
        life, is_last = lives.pop(0), not lives
        await asyncio.sleep(max(0.0, min(life.delay, scenario.calm_at - loop.time())))
        host = process(
            played.world,
            f"n{n}.{count}",
            Random(scenario.seed * 1000 + n * 100 + count),
            seat.faults,
            calm_at=scenario.calm_at,
            kill_at=0 if is_last else life.kill_at,
            suspended=seat.suspended,
        )
        played.world.say(host.name, "--- starts")
        count += 1
        token = OWNER.set(host)
        try:
            work = host.notifier(_settings(scenario)).work()
        finally:
            OWNER.reset(token)
        task = host.run(work)
        dead = loop.create_task(host.dead.wait())
        timer = None
        if not is_last:
            left = max(0.0, min(life.lasts, scenario.calm_at - loop.time()))
            timer = loop.call_later(left, task.cancel if life.kindly else host.kill)
        await asyncio.wait((task, dead), return_when=asyncio.FIRST_COMPLETED)
        played.ends.append((loop.time(), host.name))
        if timer:
            timer.cancel()
        if not host.dead.is_set():
            if not task.cancelled() and not _was_superseded(played, task.exception()):
                raise Failed(f"{host.name} ended by itself: {task.exception()!r}") from task.exception()
            if not task.cancelled() and is_last:
                lives.append(life)
            host.kill("has ended")


def _was_superseded(played: Played, error: BaseException | None) -> bool:
    """Which is rightly so where there are two."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(Superseded)[1] is None and len(played.scenario.seats) > 1
    return isinstance(error, Superseded) and len(played.scenario.seats) > 1


async def _write(played: Played, commands: list[Command]) -> None:
    """Somebody's commands, each until it is answered."""
    loop, telegram = played.world.loop, played.telegram
    for command in commands:
        await asyncio.sleep(max(0.0, command.at - loop.time()))
        seen, patience = len(telegram.shown), ASKS_AGAIN
        while command not in played.answers:
            if not command.phone.is_kicked(loop.time()):
                telegram.write(command.phone, command.text)
                played.world.say(command.phone.address, f"writes: {command.text}")
            await asyncio.sleep(patience)
            patience = min(2 * patience, 8 * ASKS_AGAIN)
            for it in telegram.shown[seen:]:
                if it.phone is command.phone and it.message.plain_text.startswith(command.answer):
                    played.answers[command] = it
                    break


def _settings(scenario: Scenario) -> NotifierSettings:
    return _SETTINGS.model_copy(
        update={
            "timezone": str(scenario.zone),
            "telegram_chat_id": tuple(scenario.configured),
            "digest_time": scenario.digest,
            "weekly_digest": scenario.weekly,
            "remind_after": scenario.reminders,
        }
    )


_SETTINGS = NotifierSettings(
    _env_file=None,
    telegram_bot_token="1:test",
    telegram_invite=INVITE,  # type: ignore[call-arg]
)


@contextmanager
def _paced(scenario: Scenario) -> Iterator[None]:
    """What is set anew for each simulation."""
    with (
        patch.object(Unhurried, "pace", scenario.paces.reminders),
        patch.object(receiver, "POLL_INTERVAL", scenario.paces.idle),
        patch.object(consumer, "STALL_TIMEOUT", 3600.0),
        patch.object(shared.messaging.record_watch, "CHECK_INTERVAL", 3600.0),
        patch.object(lease, "POLL_INTERVAL", scenario.paces.lease if len(scenario.seats) > 1 else 900.0),
        patch.object(notification_log, "MAX_INLINE", scenario.most_owed_within),
        patch.object(notification_log, "PARTS", 2),
        patch.object(sender, "random", Random(scenario.seed + 3)),
    ):
        yield


def _token(_: int = 0) -> str:
    host = OWNER.get()
    assert isinstance(host, Host)
    return host.name


@contextmanager
def surroundings() -> Iterator[None]:
    """The seams between the notifier and the world, and no logs."""
    with ExitStack() as stack:

        def put(where: Any, name: str, what: Any) -> None:
            stack.enter_context(patch.object(where, name, what))

        put(notifier, "BrokerConnection", SimulatedLink)
        put(notifier, "Bot", SimulatedBot)
        put(notifier, "now", now)
        put(notifier, "Publisher", SimulatedPublisher)
        put(receivers, "asyncio", Unhurried())
        put(consumer, "FastStreamBroker", EventFeed)
        put(lease, "secrets", SimpleNamespace(token_hex=_token))
        put(notification_log, "secrets", SimpleNamespace(token_hex=_token))
        put(asyncio, "to_thread", _at_once)
        put(shared.messaging.connection, "_said_at", float("inf"))
        for name, module in list(sys.modules.items()):
            if name.startswith(("services.notifier.", "shared.")):
                if (
                    getattr(module, "Reader", None) is shared.messaging.reader.Reader
                    and module is not shared.messaging.reader
                ):
                    put(module, "Reader", worlds.reader)
                if hasattr(module, "TelegramChannel") and name != "services.notifier.channels.telegram":
                    put(module, "TelegramChannel", SimulatedChat)
                if hasattr(module, "log"):
                    put(module, "log", Silent())
        yield


async def _at_once(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)
