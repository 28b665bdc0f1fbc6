"""Wires the notifier: events come in by the consumer, messages go out by the receivers."""

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog
from nats.js.kv import KeyValue
from starlette.applications import Starlette

from services.notifier.alerting.dependencies import Dependencies, own_silent_after
from services.notifier.alerting.policy import Reminders
from services.notifier.asyncapi import describe_streams
from services.notifier.bot.actions import IncidentActions
from services.notifier.bot.commands import BotCommands
from services.notifier.bot.updates import Updates
from services.notifier.channel_requests import ChannelRequests
from services.notifier.channels.configured import configured_channels
from services.notifier.channels.telegram import Bot
from services.notifier.consumer import EventConsumer, EventLog
from services.notifier.deafness import DeafnessWatch
from services.notifier.dispatch.dependencies import ReceiverDependencies
from services.notifier.dispatch.opening import Handover, RecordNotes, SeenRecord, starting_point
from services.notifier.dispatch.receivers import Receivers
from services.notifier.dispatch.told import ToldLog
from services.notifier.lease import Lease
from services.notifier.readiness import DeadmanSwitch, Readiness
from services.notifier.runs import RunConsumer
from services.notifier.settings import NotifierSettings
from services.notifier.states import ServiceStates
from services.notifier.texts.message import LinkContext
from shared.contracts.channels import Invitation
from shared.contracts.events import IncidentEvent
from shared.contracts.maintenance import maintenance_until
from shared.domain.digest import Beside
from shared.domain.incidents import IncidentState
from shared.http import docs, server
from shared.http.protocol import limits_of, within
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.faststream_broker import document
from shared.messaging.incident_log import IncidentLog
from shared.messaging.publisher import Publisher
from shared.messaging.record_watch import AnotherRecord, RecordWatch
from shared.messaging.stored_config import StoredConfig
from shared.settings import listens_on_loopback, load
from shared.telemetry import logs, tracing

log = structlog.get_logger()


def now() -> datetime:
    return datetime.now(UTC)


class Notifier:
    """The parts, built once; `work` runs them."""

    def __init__(
        self,
        settings: NotifierSettings,
        health: server.Health | None = None,
        handover: Handover | None = None,
    ) -> None:
        """`health`, `handover`: of the notifier that this one follows, as the record is another one now."""
        self._settings = settings
        self._handover = handover
        self._bot = Bot(settings.telegram_api_url, settings.token) if settings.token else None
        self.health = health or server.Health("broker", "delivery", *(["telegram"] if self._bot else []))
        self._link = BrokerConnection(settings, "notifier")
        self.health.follow(self._link)
        self._readiness = Readiness(self.health, self._link)
        self._watch = RecordWatch(self._link, (streams.NOTIFIER_BUCKET,), beside=(streams.RUNS,))
        self._watch.on_another = lambda why: self.health.bad("delivery", why)
        self._states = ServiceStates()
        self._event_log = EventLog(self._link, self._states)
        self._runs = RunConsumer(self._link, self._states)
        self._reminders = Reminders(self._states, settings.remind_after)
        defaults = settings.silent_after, settings.down_after, settings.dead_after
        same_tick = settings.tick + timedelta(seconds=1)
        self._dependencies = Dependencies(self._states, own_silent_after(defaults), same_tick)
        self._ticks = DeafnessWatch(self._link)
        self._publisher = Publisher(self._link)
        incident_log = IncidentLog(
            self._link, self._publisher, "/notifier", self._known_of_incidents, self._apply_incident
        )
        told = ToldLog(incident_log, now, self._event_log.incidents_of, self._event_log.incident_before)
        self._deps = ReceiverDependencies(
            links=LinkContext(settings.public_url.rstrip("/"), settings.zone),
            digest_lines=partial(
                self._event_log.digest_lines,
                settings,
                self._ticks,
                self._runs.outcomes_since,
                self._beside,
            ),
            digest_at=settings.digest_time,
            weekly_on=settings.weekly_digest,
            now=now,
            page=self._event_log.changes_after,
            newest=self._event_log.newest_sequence,
            states=self._states,
            maintenance_until=self._maintenance_until,
            beside=self._beside,
            dependencies=self._dependencies,
            reminders=self._reminders,
            deafness=lambda after: self._ticks.deafness(after, now()),
            run_page=self._runs.page,
            newest_run=self._runs.newest_sequence,
            incidents_of=self._event_log.incidents_of,
            incident_end=self._event_log.incident_end,
            told=told.record,
            on_token=self._readiness.token_used,
            on_record=self._readiness.record_written,
        )
        self._receivers = Receivers(configured_channels(settings, self._bot), self._deps, self._bot)
        self._stored_config = StoredConfig(
            self._link,
            self._receivers.window_removed,
            lambda: self._receivers.set_routes(self._stored_config.routes),
        )
        self._reminders.schedules_of = self._receivers.schedules_of
        self._states.watchers.append(self._receivers.parent_changed)
        self._states.on_config = self._receivers.configuration_changed
        self._states.on_incident = self._receivers.incident_changed
        self._states.on_standing = self._receivers.standing_changed
        self._actions = IncidentActions(
            incident_log, self._states.incidents, now, self._deps.links, self._event_log.find_incidents
        )
        self.consumer = EventConsumer(self._event_log, settings.nats_url, self._reminders)
        asked = self.consumer.broker, self._receivers, self._deps.links, now
        self._requests = ChannelRequests(*asked, self._invitation)
        self._lease: Lease | None = None

    async def work(self) -> None:
        """Raises AnotherRecord when another notifier is to begin anew, with this one's `handover`."""
        try:
            await self._link.connect()
            await self._publisher.start()
            self.health.good("broker")
            bucket = await self._link.bucket(streams.NOTIFIER_BUCKET)
            await self._watch.once(lambda: self._run_alone(bucket))
        finally:
            if self._lease:
                await self._lease.release()
            await self._link.close()
            if self._bot:
                await self._bot.close()

    async def _run_alone(self, bucket: KeyValue) -> None:
        """Once no other notifier runs."""
        self._lease = Lease(self._link, bucket)
        await self._lease.acquire(self._stand_by)
        await self._open(bucket)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lease.watch())
            group.create_task(self.consumer.watch())
            group.create_task(self._runs.watch())
            group.create_task(self._receivers.keep_ticking())
            group.create_task(self._stored_config.follow())
            group.create_task(self._ticks.follow(now))
            group.create_task(self._receivers.watch_broker(self._link, lambda: self._ticks.heard.until))
            if url := self._settings.deadman_url.get_secret_value():
                group.create_task(DeadmanSwitch(url, self._link, self._problem).run())
            if self._bot:
                group.create_task(self._readiness.check_token(self._bot))
                invite = self._settings.telegram_invite.get_secret_value()
                if self._settings.telegram_chat_id or invite:
                    asked = self._event_log.last_heartbeat, self._runs.start_of
                    people = self._actions
                    commands = BotCommands(self._bot, invite, self._receivers, self._deps, *asked, people)
                    group.create_task(Updates(self._bot, commands.handle).run())
            self._receivers.start(group)
            group.create_task(self._requests.serve())

    async def _open(self, bucket: KeyValue) -> None:
        """Read how things are, and start reading events where the receiver that is furthest behind stands."""
        end = await self._event_log.newest_sequence()
        await self._event_log.load_states()
        await self._stored_config.load()
        start = await starting_point(self._link, self._event_log, bucket, end, self._handover)
        await self._receivers.open(bucket, start)
        self._handover = None
        notes = RecordNotes(self._watch, bucket)
        await notes.note(self._watch.marks)
        self._watch.on_check = notes.note
        after = self._receivers.done_through
        self._receivers.watch_all()
        self._receivers.tick()
        self.consumer.subscribers.append(self._receivers.enqueue)
        self.consumer.position = after
        self._runs.subscribers.append(self._receivers.enqueue_run)
        self._runs.position = self._receivers.runs_done_through
        self.health.good("delivery")
        log.info("notifying", chats=list(self._receivers.states()), after=after, newest=start.end)

    def _stand_by(self) -> None:
        for part in list(self.health.missing):
            self.health.good(part)

    async def _known_of_incidents(self, name: str) -> IncidentState:
        await self._event_log.find_incident(name)
        return self._states.incidents.state(name)

    def _apply_incident(self, event: IncidentEvent, seq: int, at: datetime) -> None:
        self._states.apply_incident(event, seq, at, in_turn=False)

    def _invitation(self) -> Invitation:
        if self._bot is None:
            return Invitation()
        secret = self._settings.telegram_invite.get_secret_value()
        return Invitation(bot=self._bot.username, secret=secret)

    def _problem(self) -> str | None:
        """Why messages do not reach people, if so."""
        return self._readiness.problem() or self._receivers.problem()

    def _beside(self, at: datetime) -> Beside:
        return self._states.beside(self._stored_config.windows.values(), at)

    def _maintenance_until(self, name: str, at: datetime) -> datetime | None:
        return maintenance_until(self._stored_config.windows.values(), name, self._states.get(name).tags, at)

    @property
    def handover(self) -> Handover:
        """By whoever knows what was sent: this notifier, or if it never came to it the one before."""
        states = self._receivers.states()
        if self._handover and not states:
            return self._handover
        seen = SeenRecord(events=self._watch.marks[streams.SERVICES], seen_at=self._watch.left_at or 0)
        return Handover(seen, states, self._receivers.subscribers() if states else {})


def main() -> None:
    logs.begin("notifier")
    settings = load(NotifierSettings)
    logs.configure("notifier", settings.log_level, settings.log_format)
    tracing.start("notifier")
    notifier = Notifier(settings)
    describe_streams(notifier.consumer.broker)
    described = document(notifier.consumer.broker, "notifier")

    async def work() -> None:
        current = notifier
        while True:
            try:
                await current.work()
                return
            except AnotherRecord:
                current = Notifier(settings, current.health, current.handover)

    app = Starlette(routes=[*notifier.health.routes(), docs.asyncapi(described)])
    server.run(
        app,
        work,
        http=within(limits_of(settings, loopback_only=listens_on_loopback(settings.metrics_host))),
        host=settings.metrics_host,
        port=settings.notifier_port,
        variable="NOTIFIER_PORT",
        any_port="notifier_port" not in settings.model_fields_set,
    )


if __name__ == "__main__":
    main()
