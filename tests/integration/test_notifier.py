"""The notifier as a process between a real broker and a stand-in of Telegram that keeps Telegram's limits."""

import asyncio
import json
import random
import re
import signal
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from datetime import time as datetime_time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from zoneinfo import ZoneInfo

import pytest
from nats.js.api import KeyValueConfig

from services.notifier.alerting.changes import StatusChange
from services.notifier.alerting.policy import Withheld
from services.notifier.channels.channel import Outcome, Sent
from services.notifier.dispatch import notification_log
from services.notifier.dispatch.dependencies import ReceiverDependencies
from services.notifier.dispatch.notification_log import Intent, ReceiverState
from services.notifier.dispatch.opening import open_receiver
from services.notifier.dispatch.receiver import ReceiverWorker
from services.notifier.dispatch.sources import changes as pending_changes
from services.notifier.texts.message import REPEAT, LinkContext, OutgoingMessage
from shared.contracts.events import (
    ConfigData,
    Doubt,
    Outcome,
    RunData,
    ServiceConfig,
    ServiceRegistered,
    Status,
    StatusData,
    Tick,
    run_recorded,
    status_changed,
)
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection, retry_until_done
from shared.messaging.publisher import Publisher
from tests import killed_notifier
from tests.broker import eventually, provisioned
from tests.servers import Process, service
from tests.telegram_standin import Standin

UNKNOWN, ALIVE, SILENT, DOWN, DEAD = Status
GOLDEN = Path(__file__).parent.parent / "contract" / "golden"
Start = Callable[..., Process]


class NotificationLog:
    """Writes the events that monitor and api would write."""

    def __init__(self, link: BrokerConnection, publisher: Publisher) -> None:
        self.link = link
        self._publisher = publisher
        self._last: dict[str, int] = {}
        self._count = 0

    async def _append(self, subject: str, event: Any) -> None:
        async def attempt() -> int:
            after = self._last.get(subject, 0)
            ack = await self._publisher.append(
                subject, event.to_bytes(), after=after, event_id=event.id, kind=event.type
            )
            return ack.seq

        self._last[subject] = await retry_until_done("append", attempt)

    async def change(self, name: str, from_: Status, to: Status, ago: float = 0, **more: Any) -> None:
        since = datetime.now(UTC) - timedelta(seconds=ago)
        data = {"reason": "test", **more}
        await self._append(
            streams.status(name),
            status_changed(name, StatusData(from_=from_, to=to, since=since, last_heartbeat=since, **data)),
        )

    async def run(self, name: str, unusual: str | None, ago: float = 0, **more: Any) -> None:
        """One that took a minute."""
        at = datetime.now(UTC) - timedelta(seconds=ago)
        data = RunData(
            started_at=at - timedelta(minutes=1),
            ended_at=at,
            duration=60,
            unusual=unusual,
            **{"key": at.isoformat(), "outcome": Outcome.SUCCESS, "notify": unusual is not None, **more},
        )
        await self._append(streams.run(name), run_recorded(name, data, at))

    async def settled(self, *chats: str) -> None:
        """Wait until all that these chats were told is recorded (none named: all), or a notifier killed
        before that would repeat it."""
        bucket = await self.link.js.key_value(streams.NOTIFIER_BUCKET)

        async def nothing_on_its_way() -> bool:
            of_all = (key for key in await bucket.keys() if key.startswith("telegram."))
            keys = [f"telegram.{chat}" for chat in chats] or of_all
            cursors = [json.loads((await bucket.get(key)).value or b"") for key in keys]
            return not any(cursor.get("sending") for cursor in cursors)

        await eventually(nothing_on_its_way)

    async def begin_anew(self) -> None:
        """The stream of events is another one, and empty."""
        await self.link.js.delete_stream(streams.SERVICES)
        await self.link.provision()
        self._last.clear()

    async def register(self, name: str, **config: Any) -> None:
        """Or set anew."""
        at = datetime.now(UTC) - timedelta(days=30)
        self._count += 1
        event = ServiceRegistered(
            id=f"registered-{name}-{self._count}",
            source="/test",
            subject=name,
            time=at,
            data=ConfigData(config=ServiceConfig(**config), registered_at=at),
        )
        await self._append(streams.config(name), event)


@pytest.fixture
async def record(nats_url: str) -> AsyncIterator[NotificationLog]:
    link = await provisioned(nats_url)
    publisher = Publisher(link, timeout=10)
    await publisher.start()
    yield NotificationLog(link, publisher)
    await publisher.stop()
    await link.close()


@pytest.fixture
def telegram() -> Iterator[Standin]:
    with Standin(chats=("42", "43", "-1001", "-1002")) as standin:
        yield standin


@pytest.fixture
def start(tmp_path: Path, nats_url: str, telegram: Standin) -> Iterator[Start]:
    """Start a notifier for chat 42, and wait until it is ready; further variables may be given."""
    started: list[Process] = []

    def start(wait: bool = True, command: Sequence[str] = (), **variables: str) -> Process:
        given = {
            "telegram_bot_token": telegram.token,
            "telegram_chat_id": "42",
            "telegram_api_url": telegram.url,
            "digest_time": "",
            **variables,
        }
        started.append(service("notifier", tmp_path, nats_url, **given))
        if command:
            started[-1].command = [sys.executable, *command]
        started[-1].start()
        if wait:
            ready(started[-1])
        return started[-1]

    yield start
    for process in started:
        process.kill()


def get(process: Process, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{process.port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def ready(process: Process, within: float = 30.0) -> None:
    deadline = time.monotonic() + within
    while get(process, "/readyz")[0] != 200:
        assert time.monotonic() < deadline, get(process, "/readyz")
        time.sleep(0.05)


def texts(telegram: Standin, chat: str = "42") -> list[str]:
    return [message["text"] for message in telegram.messages if message["chat"] == chat]


async def told(telegram: Standin, *names: str, chat: str = "42", within: float = 20.0) -> list[str]:
    """Wait until every name has reached the chat."""

    async def all_there() -> bool:
        return all(any(name in text for text in texts(telegram, chat)) for name in names)

    await eventually(all_there, within)
    return texts(telegram, chat)


async def test_each_change_arrives_once_in_order_with_its_sound_and_its_thread(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    await record.change("before", ALIVE, DOWN)
    process = start(timezone="Europe/Berlin", public_url="https://registry.example/")
    began = time.time()
    await record.change("web", UNKNOWN, ALIVE)
    await told(telegram, "unknown → alive")
    assert telegram.messages[0]["time"] - began < 3
    await record.change("web", ALIVE, SILENT)
    await told(telegram, "alive → silent")
    await record.change("web", SILENT, DOWN, ago=60)
    await told(telegram, "silent → down")
    await record.change("web", DOWN, ALIVE)
    await told(telegram, "down → alive")
    first, silent, down, back = telegram.messages
    assert [m["silent"] for m in telegram.messages] == [True, True, False, False]
    assert back["reply_to"] == down["message_id"]
    assert "was down for 1 min" in back["text"]
    assert "CET" in first["text"] or "CEST" in first["text"]
    assert 'href="https://registry.example/ui/service/web"' in silent["html"]
    assert not silent["preview"]

    async def all_counted() -> bool:
        """A moment after the chat has the message."""
        metrics = get(process, "/metrics")[1]
        return {
            'registry_messages_total{result="sent"} 4.0',
            "registry_oldest_unsent_seconds 0.0",
        } <= set(metrics.splitlines())

    await eventually(all_counted)
    assert telegram.token not in process.log.read_text() + get(process, "/metrics")[1]
    status, described = get(process, "/asyncapi")
    assert status == 200
    assert {it["address"] for it in json.loads(described)["channels"].values()} >= {
        streams.ALL_EVENTS,
        streams.ALL_CONFIGURATION,
        "service.incident.<service_name>",
    }


async def test_a_storm_is_a_handful_of_messages_within_the_limits(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    start(telegram_chat_id="42,-1001")
    names = [f"storm-{i:04}" for i in range(2000)]
    began = time.monotonic()
    await asyncio.gather(*(record.change(name, SILENT, DOWN) for name in names))
    took = time.monotonic() - began
    for chat in ("42", "-1001"):
        found = await told(telegram, *names, chat=chat, within=30)
        assert len(found) <= 10 + 2 * took, "a second of a storm is a message, and its rest a few"
        counts = Counter(re.findall(r"storm-\d+", "\n".join(found)))
        assert set(counts.values()) == {1}
    assert telegram.refused == []


async def test_limits_errors_silence_and_cut_lines_are_survived(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    process = start()
    for n, (mode, sure) in enumerate([("429", True), ("500", False), ("cut", False), ("lost", False)]):
        telegram.control(mode, "42", times=1, retry_after=1)
        await record.change(f"after-{mode}", ALIVE, DOWN)
        found = [text for text in await told(telegram, f"after-{mode}") if f"after-{mode}" in text]
        if mode == "lost":
            await eventually(lambda: repeated(telegram))
            found = [text for text in texts(telegram) if f"after-{mode}" in text]
        assert [text.startswith(REPEAT) for text in found] == (
            [False, True] if mode == "lost" else [not sure]
        )
        assert len(telegram.refused) == min(n + 1, 2)
    assert process.running


async def repeated(telegram: Standin) -> bool:
    return sum("after-lost" in text for text in texts(telegram)) == 2


async def test_a_chat_that_hangs_or_is_blocked_delays_no_other(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    telegram.control("403", "42")
    telegram.control("hang", "43")
    process = start(telegram_chat_id="42,43,-1001,99")
    began = time.time()
    await record.change("web", ALIVE, DOWN)
    await told(telegram, "web", chat="-1001")
    assert telegram.messages[0]["time"] - began < 3
    for n in range(3):
        await record.change(f"next-{n}", ALIVE, DOWN)
        await told(telegram, f"next-{n}", chat="-1001")

    async def off() -> bool:
        return "registry_chats_off 2.0" in get(process, "/metrics")[1]

    await eventually(off)
    assert texts(telegram, "42") == []
    assert "chat not found" in process.log.read_text()
    assert [r["chat"] for r in telegram.refused].count("42") == 1
    telegram.control("ok", "43")
    await told(telegram, "web", "next-0", "next-1", "next-2", chat="43", within=30)


async def test_a_group_that_became_a_supergroup_and_a_topic_that_is_gone(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    telegram.control("migrate", "-1001", to=-1002)
    process = start(telegram_chat_id="-1001:8")
    await record.change("web", ALIVE, DOWN)
    await told(telegram, "web", chat="-1002")
    await record.settled()
    process.kill()
    telegram.messages.clear()
    start(telegram_chat_id="-1001:8")
    await record.change("web", DOWN, ALIVE)
    assert [text.startswith("✅") for text in await told(telegram, "web", chat="-1002")] == [True]
    assert telegram.messages[0]["topic"] is None


async def test_a_bad_token_makes_it_unready_and_alerts_wait(
    record: NotificationLog, telegram: Standin, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(wait=False, telegram_bot_token="9:SECRET")

    async def unready() -> bool:
        return "token is refused" in get(process, "/readyz")[1]

    await eventually(unready)
    await record.change("web", ALIVE, DOWN)
    await asyncio.sleep(0.5)
    process.stop()
    assert "SECRET" not in process.log.read_text()
    start()
    assert len(await told(telegram, "web")) == 1


@pytest.mark.parametrize(("mode", "messages"), [("mute", 2), ("hang", 1)])
async def test_killed_while_a_message_is_on_its_way(
    record: NotificationLog, telegram: Standin, start: Start, mode: str, messages: int
) -> None:
    """Before or after it arrived: nobody can know, so it comes again, and says so."""
    process = start()
    await record.change("first", ALIVE, DOWN)
    await told(telegram, "first")
    telegram.control(mode, "42", times=1)
    await record.change("web", ALIVE, DOWN)
    await asyncio.sleep(1.6)
    await record.change("later", ALIVE, DOWN)
    process.kill()
    start()
    found = await told(telegram, "later")
    about = [text for text in found if "web" in text]
    assert len(about) == messages
    assert about[-1].startswith(REPEAT)
    assert not any(text.startswith(REPEAT) for text in found if "web" not in text)
    assert sum("first" in text for text in found) == 1


async def test_an_unusual_run_is_told_softly_and_once(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    await record.register("job")
    await record.run("job", "took 1 s, usually 1 h")
    process = start(timezone="Europe/Berlin", public_url="https://registry.example")
    await record.run("job", None)
    await record.run("job", "took 2 s, usually 1 h", notify=False)
    await record.run("nobody", "took 3 s, usually 1 h")
    await record.link.js.publish(streams.run("other"), b"no event")
    await record.run("job", "took 4 s, usually 1 h")
    await told(telegram, "took 4 s")
    (message,) = telegram.messages
    assert message["silent"]
    assert message["text"].startswith("⏱ job: took 4 s, usually 1 h\nbegan ")
    assert "CE" in message["text"]
    assert "registry_unreadable_events_total 1.0" in get(process, "/metrics")[1]
    await record.settled()
    process.kill()
    await record.run("job", "took 5 s, usually 1 h")
    start()
    await told(telegram, "took 5 s")
    assert [text.split()[3] for text in texts(telegram)] == ["4", "5"]


async def test_an_upgraded_notifier_tells_no_runs_of_the_past(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    await record.register("job")
    start().stop()
    bucket = await record.link.js.key_value(streams.NOTIFIER_BUCKET)
    content = json.loads((await bucket.get("telegram.42")).value or b"")
    del content["runs"], content["runs_since"]
    await bucket.put("telegram.42", json.dumps(content).encode())
    await record.run("job", "took 1 s, usually 1 h")
    start()
    await record.run("job", "took 2 s, usually 1 h")
    await told(telegram, "took 2 s")
    assert len(texts(telegram)) == 1


async def test_a_stream_of_runs_that_is_made_anew_repeats_nothing_and_is_read_from_its_beginning(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    await record.register("job")
    notifier = start()
    for n in (1, 2, 3):
        await record.run("job", f"took {n} s, usually 1 h", ago=3)
    await asyncio.sleep(3.5)
    await record.run("job", "took 4 s, usually 1 h")
    await told(telegram, "took 4 s")
    await record.settled()
    await record.link.js.delete_stream(streams.RUNS)
    await record.link.provision()
    record._last.pop(streams.run("job"))
    await record.run("job", "took 4 s, usually 1 h", ago=2)  # written again

    async def told_anew() -> bool:
        await record.run("job", "took 5 s, usually 1 h")
        await asyncio.sleep(0.5)
        return any("took 5 s" in text for text in texts(telegram))

    await eventually(told_anew, within=25)
    assert sum("took 4 s" in text for text in texts(telegram)) == 1
    assert "the broker's stream RUNS is not as it was" in notifier.log.read_text()


@pytest.mark.parametrize("step", range(len(killed_notifier.STEPS)), ids=killed_notifier.STEPS)
@pytest.mark.parametrize("kind", ["change", "reminder", "run"])
async def test_killed_between_any_two_steps_of_a_send(
    record: NotificationLog, telegram: Standin, start: Start, step: int, kind: str
) -> None:
    """Never lost, at most once repeated, and then it says so."""
    variables = {"remind_after": "3s,1d"} if kind == "reminder" else {}
    await record.register("web")
    if kind == "reminder":
        await record.change("web", SILENT, DOWN)
    start(**variables).stop()
    started = start(wait=False, command=[killed_notifier.__file__, str(step)], **variables)
    if kind == "change":
        await record.change("web", SILENT, DOWN)
    elif kind == "run":
        await record.run("web", "took 60 s, usually 3 s")

    async def dead() -> bool:
        return not started.running

    await eventually(dead, within=15)
    start(**variables)
    await told(telegram, "web")
    await record.change("other", ALIVE, DOWN)
    await told(telegram, "other")
    about = [text for text in texts(telegram) if "web" in text]
    assert [text.startswith(REPEAT) for text in about] == {
        0: [False],
        1: [True],
        2: [True],
        3: [False, True],
        4: [False, True],
        5: [False],
    }[step]


async def test_killed_again_and_again_nothing_is_lost_and_repeats_are_marked(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    rng, names, kills = random.Random(7), [f"k-{i:04}" for i in range(400)], 6
    process = start()

    async def write() -> None:
        for name in names:
            await record.change(name, ALIVE, DOWN)
            await asyncio.sleep(0.02)

    writing = asyncio.create_task(write())
    for _ in range(kills):
        await asyncio.sleep(rng.uniform(0.2, 1.5))
        process.kill()
        process = start(wait=False)
    await writing
    found = await told(telegram, *names, within=30)
    sure = Counter(re.findall(r"k-\d+", "\n".join(t for t in found if not t.startswith(REPEAT))))
    assert max(sure.values()) == 1
    assert sum(t.startswith(REPEAT) for t in found) <= kills


async def test_the_broker_killed_and_started_again(
    record: NotificationLog, telegram: Standin, start: Start, nats: Process
) -> None:
    await record.change("before", ALIVE, DOWN)
    process = start()
    names = [f"b-{i:04}" for i in range(200)]

    async def write() -> None:
        for name in names:
            await record.change(name, ALIVE, DOWN)
            await asyncio.sleep(0.02)

    writing = asyncio.create_task(write())
    for _ in range(3):
        await asyncio.sleep(1)
        nats.kill()
        await asyncio.sleep(0.5)
        await asyncio.to_thread(nats.start)
    await writing
    found = await told(telegram, *names, within=40)
    counts = Counter(re.findall(r"b-\d+", "\n".join(found)))
    assert set(counts.values()) == {1}
    assert not any("before" in text for text in found)
    assert process.running


async def active(*processes: Process) -> list[Process]:
    return [it for it in processes if "registry_notifier_active 1.0" in get(it, "/metrics")[1]]


async def test_of_two_notifiers_one_speaks_and_the_other_takes_over(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    first, second = start(), start()
    for end in ("kill", "stop"):
        for n in range(3):
            await record.change(f"{end}-{n}", ALIVE, DOWN)
        assert await active(first, second) == [first]
        await told(telegram, f"{end}-2")
        getattr(first, end)()
        await record.change(f"{end}-after", ALIVE, DOWN)
        began = time.monotonic()
        await told(telegram, f"{end}-after")
        assert time.monotonic() - began < 10
        assert await active(second) == [second]
        first, second = second, start()
    told_once = [text.split("\n")[0] for text in texts(telegram) if not text.startswith(REPEAT)]
    counts = Counter(re.findall(r"(?:kill|stop)-\w+", "\n".join(told_once)))
    repeats = [text for text in texts(telegram) if text.startswith(REPEAT)]
    assert len(repeats) <= 1, "more than the one that it was killed with"
    assert not any("stop" in text or "after" in text for text in repeats)
    assert set(counts.values()) == {1}


async def test_a_notifier_that_hangs_is_relieved_and_ends_when_it_comes_back(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    first, second = start(), start()
    first.signal(signal.SIGSTOP)
    await record.change("web", ALIVE, DOWN)
    await told(telegram, "web", within=30)
    first.signal(signal.SIGCONT)

    async def ended() -> bool:
        return not first.running

    await eventually(ended, within=30)  # a question of its that was lost with the connection takes 5 s
    assert await active(second) == [second]
    await record.change("job", ALIVE, DOWN)
    await told(telegram, "job")
    assert [text.split(":")[0] for text in texts(telegram)] == ["🔻 web", "🔻 job"]


async def test_of_another_record_only_what_is_new_is_told_whoever_ran_when_it_came(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    first, second = start(), start()
    await record.change("web", ALIVE, DOWN, ago=60)
    await told(telegram, "web")
    await record.settled()
    await record.begin_anew()
    await record.change("job", ALIVE, DOWN)
    await told(telegram, "job")
    await record.settled()
    (speaks,) = await active(first, second)
    stands_by = second if speaks is first else first
    await eventually(lambda: _has_said(stands_by, "the record is another one"))
    speaks.kill()
    await record.change("cron", ALIVE, DOWN)
    await told(telegram, "cron")
    await record.settled()
    stands_by.kill()

    await record.begin_anew()
    await record.change("lamp", ALIVE, DOWN)  # at a sequence that the cursor is beyond
    for name in ("cron", "job", "web"):
        await record.change(name, ALIVE, DOWN, ago=60)
    start()
    await told(telegram, "lamp")
    await record.change("end", ALIVE, DOWN)
    await told(telegram, "end")
    fallen = ["🔻 web", "🔻 job", "🔻 cron", "🔻 lamp", "🔻 end"]
    assert [text.split(":")[0] for text in texts(telegram)] == fallen


async def _has_said(process: Process, what: str) -> bool:
    return what in process.log.read_text()


async def test_without_a_token_it_logs(record: NotificationLog, telegram: Standin, start: Start) -> None:
    process = start(telegram_bot_token="", log_format="json")
    await record.change("web", ALIVE, DOWN)

    async def logged() -> list[Any]:
        lines = [json.loads(line) for line in process.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == "notification"]

    (line,) = await eventually(logged)
    assert "web: alive → down" in line["text"]
    assert line["loud"] is True
    assert telegram.messages == []


async def test_a_service_nobody_is_to_be_told_of(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    await record.register("quiet", notify=False)
    start()
    await record.register("hushed", notify=False)
    for name in ("quiet", "hushed", "web"):
        await record.change(name, ALIVE, DOWN)
    assert len(await told(telegram, "web")) == 1
    assert "quiet" not in texts(telegram)[0] + texts(telegram)[-1]


async def test_what_came_in_during_a_pause_is_not_told_but_what_is_down_after_it_is(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    """Whether the notifier ran then or was off at the resume. An older monitor recorded changes meanwhile."""
    for off in (False, True):
        web, job = f"web-{off}", f"job-{off}"
        if not off:
            process = start()
        for name in (web, job):
            await record.register(name)
            await record.register(name, paused=True)
            await record.change(name, ALIVE, DOWN)
        await record.change(web, DOWN, ALIVE)
        if not off:
            await record.change("other", ALIVE, DOWN)
            await told(telegram, "other")
            assert [text.split(":")[0] for text in texts(telegram)] == ["🔻 other"]
        for name in (web, job):
            await record.register(name)
        if off:
            process = start()
        await told(telegram, f"{job}: alive → down")
        assert not any(web in text for text in texts(telegram))
        await record.change(job, DOWN, ALIVE)
        await told(telegram, f"{job}: down → alive")
        await record.settled()
        process.stop()
    assert len(texts(telegram)) == 5


async def test_flapping_is_said_once_and_then_what_stays_down(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    process = start()
    await record.register("web")
    for n, (from_, to) in enumerate([(ALIVE, DOWN), (DOWN, ALIVE)] * 3):
        await record.change("web", from_, to, ago=8 * 60 - n)

        async def there(count: int = n + 1) -> bool:
            return len(texts(telegram)) == min(count, 4)

        await eventually(there)
    assert "flapping: 4 turns" in texts(telegram)[-1]
    await record.settled()
    process.kill()
    start()
    await record.change("other", ALIVE, DOWN)
    await told(telegram, "other")
    assert "web" not in texts(telegram)[-1], "what it does while it flaps is not told"
    await record.change("web", ALIVE, DOWN, ago=5 * 60 - 3)
    await told(telegram, "web stays down: since")
    await record.change("web", DOWN, ALIVE, message="it was the disk")
    await told(telegram, "it was the disk")
    *_, outcome, recovery = found = [text for text in texts(telegram) if "web" in text]
    assert len(found) == 6
    assert "after 7 changes" in outcome
    assert recovery.startswith("✅ web: down → alive")
    assert not any(message["silent"] for message in telegram.messages)


async def test_reminders_come_once_also_across_a_crash_and_stop_with_the_recovery(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    process = start(remind_after="2s,1d")
    for name in ("web", "job"):
        await record.register(name)
        await record.change(name, SILENT, DOWN)
    await record.change("job", DOWN, ALIVE)
    began = time.time()
    await told(telegram, "still down")
    assert 1.5 < time.time() - began < 6
    await record.settled()
    process.kill()
    process = start(remind_after="2s,1d")
    await asyncio.sleep(1.5)
    reminders = [message for message in telegram.messages if "still" in message["text"]]
    assert [message["text"].split(",")[0] for message in reminders] == ["🔻 web still down for 2 s"]
    assert reminders[0]["reply_to"]
    process.stop()
    bucket = await record.link.js.key_value(streams.NOTIFIER_BUCKET)
    cursor = json.loads((await bucket.get("telegram.42")).value or b"")
    before = datetime.now(UTC) - timedelta(minutes=1)
    cursor |= {"notices": before.isoformat()}
    cursor |= {"sending": {"through": cursor["done"], "notices": datetime.now(UTC).isoformat()}}
    await bucket.put("telegram.42", json.dumps(cursor).encode())
    telegram.messages.clear()
    start(remind_after="2s,1d")
    (text,) = await told(telegram, "still down")
    assert text.startswith(REPEAT), "killed while the reminder was on its way"


async def test_what_came_and_went_while_a_chat_was_unreachable(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    start()
    telegram.control("429", "42", times=1, retry_after=2)
    await record.change("first", ALIVE, DOWN)
    await asyncio.sleep(0.3)
    await record.change("blip", ALIVE, SILENT)
    await record.change("web", ALIVE, SILENT)
    await record.change("web", SILENT, DOWN)
    await record.change("blip", SILENT, ALIVE)
    await record.change("web", DOWN, ALIVE)
    await told(telegram, "web")
    await record.change("other", ALIVE, DOWN)
    text, last = await told(telegram, "other")
    assert "web: alive → silent → down → alive" in text
    assert "first" in text
    assert "blip" not in text + last


async def test_the_digest_of_the_week_has_the_uptime_of_each_service(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    for name in ("web", "job"):
        await record.register(name)
    await record.change("web", UNKNOWN, ALIVE, ago=8 * 86400)
    await record.change("job", UNKNOWN, ALIVE, ago=8 * 86400)
    await record.change("web", ALIVE, DOWN, ago=7 * 8640)
    since = datetime.now(UTC) - timedelta(days=9)
    await record.link.js.publish("tick.one", Tick(open_since=since).model_dump_json().encode())
    weekday = f"{datetime.now(UTC):%a}".lower()
    process = start(digest_time="00:00", weekly_digest=weekday)
    process.stop()
    yesterday = (datetime.now(UTC).date() - timedelta(days=1)).isoformat()
    bucket = await record.link.js.key_value(streams.NOTIFIER_BUCKET)
    cursor = json.loads((await bucket.get("telegram.42")).value or b"")
    old = json.dumps(cursor | {"digest": yesterday, "weekly": yesterday}).encode()
    await bucket.put("telegram.42", old)
    for _ in range(2):
        process = start(digest_time="00:00", weekly_digest=weekday)
        await told(telegram, "Weekly digest", "Daily digest")
        await record.settled()
        process.kill()
    weekly, digests = texts(telegram)
    assert "Uptime over 7 d: 94.99 %" in weekly
    assert "web: 89.99 %, fell 1x" in weekly
    assert "100 % (1)\njob" in weekly
    assert digests.startswith("Daily digest")


DOUBTED = {
    "reason": "no heartbeat for 15m; 312 of 340 services stopped within 5 s, the registry may be cut off",
    "doubt": Doubt(stopped=312, of=340, within=5),
}
WARNING = "⚠️ 312 of 340 services stopped within 5 s: the registry may be cut off\n\n"


async def test_a_change_says_what_was_said_and_how_long_it_ran(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    start()
    await record.change("job", ALIVE, DOWN, message="disk <full>\n", duration=192.4, reason="exit code 3")
    (text,) = await told(telegram, "job")
    assert "exit code 3 after 3 min 12 s\n“disk <full>”\n" in text


async def test_the_registrys_doubt_is_said_once_per_episode_also_across_a_crash(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    process = start(telegram_chat_id="42,43")
    await record.change("early", SILENT, DOWN)
    await told(telegram, "early")
    process.stop()
    bucket = await record.link.js.key_value(streams.NOTIFIER_BUCKET)
    cursor = json.loads((await bucket.get("telegram.42")).value or b"")
    del cursor["doubted"]  # as an older version wrote it
    await bucket.put("telegram.42", json.dumps(cursor).encode())

    process = start(telegram_chat_id="42,43")
    telegram.control("hang", "42", times=1)
    await record.change("first", ALIVE, SILENT, **DOUBTED)
    await told(telegram, "first", chat="43")
    await record.settled("43")
    process.kill()
    process = start(telegram_chat_id="42,43")
    await told(telegram, "first")
    for name in ("second", "third"):
        await record.change(name, ALIVE, SILENT, **DOUBTED)
        await told(telegram, name)
        await told(telegram, name, chat="43")
        await record.settled()
        process.kill()
        process = start(telegram_chat_id="42,43")
    await record.change("plain", SILENT, DOWN)
    await told(telegram, "plain")
    await record.change("after", ALIVE, SILENT, ago=-3700, **DOUBTED)
    for chat in ("42", "43"):
        found = await told(telegram, "after", chat=chat)
        heads = ["early", "first", "second", "third", "plain", "after"]
        assert [next(head for head in heads if head in text) for text in found] == heads
        warned = [text.removeprefix(f"{REPEAT}\n").startswith(WARNING) for text in found]
        assert warned == [False, True, False, False, False, True]
        assert [text.count("312 of 340") for text in found] == [0, 1, 1, 1, 0, 1]
    assert [text.startswith(REPEAT) for text in texts(telegram)] == [False, True, False, False, False, False]


async def test_what_cannot_be_read_is_passed_over(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    poison = [b"", b"noise", b'{"type": "service.exploded.v1"}', b"[]", b"\xff" * 100]
    await record.register("odd")
    good = (await record.link.js.get_msg(streams.SERVICES, 1)).data or b""
    later_version = good.replace(b"registered.v1", b"registered.v2")
    not_valid = good.replace(b'"tags":[]', b'"tags":7')
    assert len({good, later_version, not_valid}) == 3
    fall = StatusData(from_=ALIVE, to=DOWN, since=datetime.now(UTC), last_heartbeat=None, reason="odd")
    elsewhere = status_changed("other", fall).to_bytes()
    fallen = status_changed("odd", fall).to_bytes()
    never = fallen.replace(b'"since":"2', b'"since":"9')

    async def publish() -> None:
        for payload in (elsewhere, never):
            await record.link.js.publish("service.status.odd", payload)
        await record.link.js.publish("service.config.odd", fallen)
        for payload in poison:
            await record.link.js.publish("service.status.odd", payload)
        for payload in (later_version, not_valid):
            await record.link.js.publish("service.config.odd", payload)

    done = (GOLDEN / "incident-acknowledged.json").read_bytes().replace(b'"my-service"', b'"odd"')
    process = start()
    await record.link.js.publish("service.incident.odd", done)
    await publish()
    await record.change("web", ALIVE, DOWN)
    assert len(await told(telegram, "web")) == 1
    assert "registry_unreadable_events_total 10.0" in get(process, "/metrics")[1]
    process.stop()
    await publish()
    process = start()  # and reads the newest of each subject first
    await record.change("again", ALIVE, DOWN)
    assert len(await told(telegram, "again")) == 2
    assert "event cannot be read; passed over" in process.log.read_text()
    assert "service.incident" not in process.log.read_text()


async def test_the_digest_comes_late_after_an_outage_and_never_twice(
    record: NotificationLog, telegram: Standin, start: Start
) -> None:
    await record.register("web")
    await record.register("job")
    await record.change("web", ALIVE, DOWN, ago=3600)
    await record.change("job", UNKNOWN, ALIVE, ago=7200)
    process = start(digest_time="00:00")
    await asyncio.sleep(1)
    assert telegram.messages == [], "a new chat does not begin with the digest of a time that has passed"
    process.stop()
    yesterday = (datetime.now(UTC).date() - timedelta(days=1)).isoformat()
    bucket = await record.link.js.key_value(streams.NOTIFIER_BUCKET)
    cursor = json.loads((await bucket.get("telegram.42")).value or b"")
    await bucket.put("telegram.42", json.dumps(cursor | {"digest": yesterday}).encode())
    for _ in range(3):
        process = start(digest_time="00:00")
        await told(telegram, "Daily digest")
        await record.settled()
        process.kill()
    (text,) = texts(telegram)
    assert "Down (1)" in text
    assert "web since" in text
    assert "job" in text


@pytest.mark.parametrize(
    ("variable", "value", "accepted"),
    [
        ("digest_time", "25:00", "HH:MM"),
        ("digest_time", "nine", "HH:MM"),
        ("weekly_digest", "someday", "mon"),
        ("remind_after", "1h,often", "30s, 15m, 1h"),
        ("telegram_chat_id", "42,my chat", "@channel"),
        ("notifier_port", "0", "1"),
    ],
)
def test_a_wrong_setting_stops_the_start(tmp_path: Path, variable: str, value: str, accepted: str) -> None:
    process = service("notifier", tmp_path, "nats://127.0.0.1:1", **{variable: value}).start(wait=0)
    assert process.process
    assert process.process.wait(15) == 2
    said = process.log.read_text()
    assert f"REGISTRY_{variable.upper()}" in said
    assert value.split(",")[-1] in said
    assert accepted in said


# --- one chat by itself, with a clock of its own


class Inbox:
    """A channel that takes everything."""

    key = chat = name = "inbox"

    def __init__(self) -> None:
        self.texts: list[str] = []

    async def turn(self, chat: str) -> None: ...

    async def send(self, chat: str, message: OutgoingMessage, reply_to: int | None) -> Outcome:
        self.texts.append(message.plain_text)
        return Sent()


def change(seq: int, stored_at: datetime) -> StatusChange:
    return StatusChange(seq, stored_at, f"s{seq}", ALIVE, DOWN, stored_at, None, "test", None)


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 23, 8, 59, 59, 800_000, tzinfo=UTC)
        self._started = time.monotonic()

    def __call__(self) -> datetime:
        return self.now + timedelta(seconds=time.monotonic() - self._started)


async def open_chat(record: NotificationLog, inbox: Inbox, clock: Clock, end: int) -> ReceiverWorker:
    async def lines(at: datetime, weekly: bool) -> list[str]:
        return ["Weekly digest" if weekly else "Daily digest"]

    async def page(after: int, most: int) -> tuple[list[StatusChange], int, bool]:
        raise AssertionError("nothing was skipped")

    async def newest() -> int:
        return end

    deps = ReceiverDependencies(
        LinkContext("http://x", ZoneInfo("UTC")), lines, clock, page, newest, datetime_time(9)
    )
    bucket = await record.link.js.create_key_value(config=KeyValueConfig(bucket=streams.NOTIFIER_BUCKET))
    return await open_receiver(inbox, bucket, end, deps)


async def test_the_digest_comes_when_it_is_due_and_old_changes_not_at_all(record: NotificationLog) -> None:
    inbox, clock = Inbox(), Clock()
    chat = await open_chat(record, inbox, clock, 0)
    chat.enqueue(1, change(1, clock() - timedelta(hours=25)))
    chat.enqueue(2, change(2, clock() - timedelta(hours=23)))
    running = asyncio.create_task(chat.run())
    await asyncio.sleep(0.1)
    assert ["s1" in inbox.texts[0], "s2" in inbox.texts[0]] == [False, True]
    await asyncio.sleep(0.6)
    assert inbox.texts[1].startswith("Daily digest")
    await asyncio.sleep(0.3)
    running.cancel()
    again = await open_chat(record, inbox, clock, 2)
    assert (again.state.done, again.state.digest) == (2, clock().date())
    assert len(inbox.texts) == 2


async def test_a_cursor_that_owes_more_than_one_message_holds_is_read_as_it_was_written(
    record: NotificationLog,
) -> None:
    bucket = await record.link.js.create_key_value(config=KeyValueConfig(bucket=streams.NOTIFIER_BUCKET))
    fresh = ReceiverState(done=1)
    stored = await notification_log.load(bucket, "inbox", fresh)
    much = {f"{'n' * 110}-{n:05}": Withheld(n, ALIVE) for n in range(12_000)}
    assert len(fresh.model_copy(update={"owed": much}).model_dump_json()) > 1_500_000
    for owed in (much, much | {"web": Withheld(7, DOWN)}, {"web": Withheld(7, DOWN)}):
        await stored.update(owed=owed)
        again = await notification_log.load(bucket, "inbox", fresh)
        assert again.state.owed == owed
        stored = again
    assert await bucket.keys() == ["inbox"]
    await stored.update(owed=much)
    await stored.forget()
    again = await notification_log.load(bucket, "inbox", fresh)
    assert again.state.model_copy(update={"by": fresh.by}) == fresh


async def test_a_chat_that_was_told_more_than_the_record_has_goes_on_at_its_end(
    record: NotificationLog,
) -> None:
    """A backup was put back: the cursor is of a moment after the events."""
    inbox, clock = Inbox(), Clock()
    chat = await open_chat(record, inbox, clock, 9)
    mutes = {"s7": clock() + timedelta(hours=1)}  # as older versions have stored them
    await chat.log.update(sending=Intent(through=11), threads={"s1": 12}, mutes=mutes)
    chat = await open_chat(record, inbox, clock, 5)
    cursor = chat.state
    assert (cursor.done, cursor.sending, cursor.threads, [*cursor.mutes]) == (5, None, {"s1": 12}, ["s7"])
    for seq in (5, 6, 7):
        chat.enqueue(seq, change(seq, clock()))
    running = asyncio.create_task(chat.run())
    await asyncio.sleep(0.1)
    running.cancel()
    assert [("s5" in text, "s6" in text, "s7" in text) for text in inbox.texts] == [(False, True, False)]


async def test_what_finds_no_room_is_read_again_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending_changes, "MAX_PENDING", 10)
    at = datetime(2026, 11, 23, tzinfo=UTC)
    stored = [change(seq, at) for seq in range(1, 36)]
    pending, arrived, seen = pending_changes.PendingChanges(0), 25, []

    async def page(after: int, most: int) -> tuple[list[StatusChange], int, bool]:
        pending.enqueue(26, stored[25])  # goes on meanwhile
        found = [it for it in stored[:arrived] if it.seq > after][:most]
        return found, found[-1].seq, found[-1].seq == arrived

    for it in stored[:arrived]:
        pending.enqueue(it.seq, it)
    while pending.changes or pending.behind:
        assert len(pending.changes) <= 10
        seen += [it.seq for it in pending.changes]
        pending.drop(seen[-1])
        arrived = 30
        if pending.behind:
            await pending.refill(page)
    assert seen == list(range(1, 31))
