"""Runs over the API, with a real broker and a real database: as clients see them, and as a fold of RUNS."""

import asyncio
import html
import json
import random
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest

from services.api.projections.documents import Document
from services.api.projections.runs import run_document
from services.api.projections.store import Store, View
from services.api.queries import runs as queries
from shared.contracts.events import Outcome, RunData, Status, micros, run_recorded
from shared.domain.service_state import ServiceState
from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.messaging.publisher import Publisher
from shared.messaging.reader import Stored
from tests import fleets
from tests.integration.test_api import _api, api, client, client_of, eventually, link, now, publisher, refused
from tests.servers import Process

__all__ = ("api", "client", "link", "publisher")

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
SUCCESS, FAILURE, RUNNING, OVERDUE, MISSED = Outcome


def key(at: datetime) -> str:
    return str(micros(at))


def ended(start: datetime, took: timedelta, outcome: Outcome = SUCCESS, **more: Any) -> RunData:
    facts = {"started_at": start, "ended_at": start + took, "duration": took.total_seconds(), **more}
    return RunData(key=facts.pop("key", key(start)), outcome=outcome, **facts)


def missed(due: datetime) -> RunData:
    return RunData(key=key(due), outcome=MISSED, expected_at=due)


async def record(publisher: Publisher, name: str, *facts: RunData) -> None:
    """As the monitor does, one after the other."""
    for data in facts:
        at = data.ended_at or data.expected_at or data.started_at
        assert at
        event = run_recorded(name, data, at)
        await publisher.publish(streams.run(name), event.to_bytes())


async def listed(client: httpx.AsyncClient, name: str, **query: Any) -> list[dict[str, Any]]:
    answer = await client.get(f"/service/{name}/runs", params=query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["items"]
    return found


async def outcomes(client: httpx.AsyncClient, name: str, **query: Any) -> list[str]:
    return [run["outcome"] for run in await listed(client, name, **query)]


async def shown(client: httpx.AsyncClient, name: str, *wanted: str) -> list[dict[str, Any]]:
    """The runs of a service once they have these outcomes, newest first."""

    async def there() -> bool:
        return await outcomes(client, name) == list(wanted)

    await eventually(there)
    return await listed(client, name)


async def created(client: httpx.AsyncClient, name: str) -> datetime:
    return datetime.fromisoformat(
        (await client.post("/service", json={"name": name})).json()["registered_at"]
    )


async def test_runs_come_newest_first_in_pages(client: httpx.AsyncClient, publisher: Publisher) -> None:
    begun = await created(client, "job") + MINUTE
    facts = [
        ended(begun + n * MINUTE, MINUTE / 2, FAILURE if n % 3 else SUCCESS, message=str(n))
        for n in range(10)
    ]
    await record(publisher, "job", *facts, missed(begun + 20 * MINUTE))
    await record(publisher, "job.other", ended(begun, MINUTE))
    found = await shown(client, "job", "missed", *(data.outcome for data in reversed(facts)))
    assert [run["message"] for run in found[1:]] == [str(n) for n in reversed(range(10))]
    first = found[-1]
    assert first == {
        "started_at": first["started_at"],
        "ended_at": first["ended_at"],
        "duration": 30.0,
        "outcome": "success",
        "expected_at": None,
        "late_by": None,
        "run": None,
        "exit_code": None,
        "message": "0",
        "unusual": None,
    }
    assert datetime.fromisoformat(first["started_at"]) == begun
    assert first["started_at"].endswith("Z")
    assert found[0]["expected_at"]
    assert found[0]["started_at"] is None

    paged, cursor = list[dict[str, Any]](), None
    while True:
        answer = (
            await client.get(
                "/service/job/runs", params={"limit": 4} | ({"cursor": cursor} if cursor else {})
            )
        ).json()
        paged += answer["items"]
        if (cursor := answer["next"]) is None:
            break
        assert len(answer["items"]) == 4
    assert paged == found

    assert await outcomes(client, "job", outcome="success,missed") == ["missed"] + ["success"] * 4
    assert await outcomes(client, "job", outcome=["failure", "overdue"]) == ["failure"] * 6
    assert await outcomes(client, "job", outcome="running") == []
    for query in (
        {"outcome": "late"},
        {"limit": 0},
        {"limit": 501},
        {"limit": "x"},
        {"cursor": "x"},
        {"cursor": "WyJhIl0"},
    ):
        refused(await client.get("/service/job/runs", params=query), 422)
    refused(await client.get("/service/a..b/runs"), 422)
    refused(await client.get("/service/unknown/runs"), 404)
    assert await listed(client, "job", limit=500) == found


async def test_what_comes_later_of_a_run_replaces_what_was_known(
    client: httpx.AsyncClient, publisher: Publisher
) -> None:
    due = await created(client, "job") + MINUTE
    await record(publisher, "job", missed(due), missed(due + HOUR))
    await shown(client, "job", "missed", "missed")
    late = ended(due + 10 * MINUTE, MINUTE, key=key(due), expected_at=due, late_by=600.0)
    await record(publisher, "job", late)
    found = await shown(client, "job", "missed", "success")
    assert (found[1]["late_by"], found[1]["message"]) == (600.0, None)
    start = due + 2 * HOUR
    begun = RunData(key=key(start), outcome=OVERDUE, started_at=start)
    await record(publisher, "job", begun)
    await shown(client, "job", "overdue", "missed", "success")
    unusual = "took 3 h, usually 10 to 12 min"
    await record(publisher, "job", ended(start, 3 * HOUR, FAILURE, exit_code="KILL", unusual=unusual))
    found = await shown(client, "job", "failure", "missed", "success")
    assert (found[0]["exit_code"], found[0]["unusual"], found[0]["duration"]) == ("KILL", unusual, 10800.0)


async def test_only_the_runs_of_this_life_are_shown(client: httpx.AsyncClient, publisher: Publisher) -> None:
    before = await created(client, "job") + timedelta(milliseconds=1)
    await asyncio.sleep(0.1)
    await record(
        publisher, "job", ended(before, timedelta(milliseconds=1)), missed(before + timedelta(milliseconds=3))
    )
    await shown(client, "job", "missed", "success")
    await client.delete("/service/job")
    refused(await client.get("/service/job/runs"), 404)
    again = await created(client, "job")
    assert await listed(client, "job") == []
    await record(publisher, "job", ended(again - MINUTE / 6e7, MINUTE), ended(again, MINUTE, FAILURE))
    await shown(client, "job", "failure")


async def test_what_has_begun_and_not_ended_is_running(
    client: httpx.AsyncClient, publisher: Publisher
) -> None:
    begun = await created(client, "job")

    async def beat(word: str = "", run: str = "") -> None:
        body = json.dumps({"run": run}).encode() if run else b""
        await publisher.publish("heartbeat.job", body, {"Registry-Signal": word} if word else {})

    await beat("start", "a")
    await beat("start", "b")
    await beat("start")
    found = await shown(client, "job", "running", "running", "running")
    assert [run["run"] for run in found] == [None, "b", "a"]
    assert (
        begun
        < datetime.fromisoformat(found[2]["started_at"])
        < datetime.fromisoformat(found[1]["started_at"])
    )
    assert {found[0][field] for field in ("ended_at", "duration", "late_by", "message")} == {None}
    assert await outcomes(client, "job", outcome="success") == []
    assert len(await listed(client, "job", outcome="running")) == 3
    shows = (await client.get("/service/job")).json()
    assert (shows["running_since"], shows["last_duration"]) == (found[0]["started_at"], None)

    await beat("fail", "a")
    await beat("", "never.begun")
    await shown(client, "job", "running", "running")
    shows = (await client.get("/service/job")).json()
    assert shows["running_since"] == found[0]["started_at"]
    heard = (await client.get("/service/job/heartbeats")).json()["items"]
    assert [(it["run"], it["duration"] is not None) for it in heard] == [
        ("never.begun", False),
        ("a", True),
        (None, False),
        ("b", False),
        ("a", False),
    ]
    assert shows["last_duration"] == pytest.approx(heard[1]["duration"])

    # What is recorded of one of them is shown once, and a page that begins after it does not show it.
    start = datetime.fromisoformat(found[1]["started_at"])
    told = RunData(key="own", outcome=OVERDUE, started_at=start, run="b")
    await record(publisher, "job", told)
    await shown(client, "job", "running", "overdue")
    page = (await client.get("/service/job/runs", params={"limit": 1})).json()
    assert [run["outcome"] for run in page["items"]] == ["running"]
    assert await outcomes(client, "job", cursor=page["next"]) == ["overdue"]
    await beat()
    await shown(client, "job", "overdue")
    await eventually(lambda: _runs_since(client, found[1]["started_at"]))


async def test_a_run_that_goes_on_says_what_it_counts_for(
    client: httpx.AsyncClient, publisher: Publisher
) -> None:
    due = now().replace(microsecond=0) + timedelta(seconds=6)
    body = {"name": "job", "schedule": f"{due:%Y-%m-%d %H:%M:%S} UTC", "early": "1s"}
    assert (await client.post("/service", json=body)).status_code == 201
    for run in ("too early", "first", "second"):
        await publisher.publish(
            "heartbeat.job", json.dumps({"run": run}).encode(), {"Registry-Signal": "start"}
        )
        if run == "too early":
            await asyncio.sleep((due - now()).total_seconds() + 0.1)
    found = await shown(client, "job", "running", "running", "running")
    counted = {run["run"]: (run["expected_at"], run["late_by"]) for run in found}
    at = found[1]["expected_at"]
    assert datetime.fromisoformat(at) == due
    late_by = (datetime.fromisoformat(found[1]["started_at"]) - due).total_seconds()
    assert counted == {"too early": (None, None), "first": (at, pytest.approx(late_by)), "second": (at, None)}

    # Another run has met it by now, so none that goes on is the first.
    await record(publisher, "job", ended(due, MINUTE / 6e6, key=key(due), expected_at=due, late_by=0.0))
    found = await shown(client, "job", "running", "running", "success", "running")
    assert [run["late_by"] for run in found[:2]] == [None, None]
    # What was configured since may have changed what is expected.
    await client.patch("/service/job", json={"early": "2s"})
    assert {run["expected_at"] for run in await listed(client, "job", outcome="running")} == {None}


async def test_the_summary_counts_runs_as_the_digest_does(
    client: httpx.AsyncClient, publisher: Publisher
) -> None:
    """The same as in the answer to /digest, see `test_the_commands_answer`."""
    begun = await created(client, "job")
    await created(client, "gone")
    each = [(MISSED, "0"), (SUCCESS, "1"), (FAILURE, "2"), (OVERDUE, "3"), (FAILURE, "4")]
    each += [(MISSED, "3 o'clock"), (SUCCESS, "3 o'clock")]
    await record(publisher, "job", *(ended(begun, MINUTE, outcome, key=key) for outcome, key in each))
    await record(publisher, "nobody", ended(begun, MINUTE, FAILURE))
    await record(publisher, "gone", ended(begun, MINUTE, FAILURE))
    await client.delete("/service/gone")

    async def counted() -> bool:
        text = (await client.get("/summary")).json()["next_digest"]["text"]
        return text.endswith("\nRuns in 24 h: 2 succeeded, 2 failed, 1 overdue, 1 missed")

    await eventually(counted, within=25)


async def _runs_since(client: httpx.AsyncClient, at: str) -> bool:
    return bool((await client.get("/service/job")).json()["running_since"] == at)


async def contents(view: View) -> list[Document]:
    found: list[Document] = await view._runs.find({}).sort([("_id", 1)]).to_list(None)
    return found


def stored(name: str, data: RunData, seq: int) -> Stored:
    return Stored(streams.run(name), run_recorded(name, data, now()).to_bytes(), None, seq, seq, 0)


async def test_facts_twice_and_in_any_order_give_the_same_runs(mongo_url: str) -> None:
    rng, due, store = random.Random(5), datetime(2026, 11, 1, 2, tzinfo=UTC), Store(mongo_url, "registry")
    view = await store.open()
    facts: list[Document] = []
    newest: dict[str, Document] = {}
    for seq in range(1, 300):
        name, start = rng.choice(["a", "b", "a.b"]), due + rng.randrange(30) * HOUR
        data = rng.choice(
            [
                missed(start),
                ended(start + MINUTE, MINUTE, key=key(start), expected_at=start, late_by=60.0),
                RunData(key=key(start), outcome=OVERDUE, started_at=start),
            ]
        )
        facts.append(run_document(stored(name, data, seq)))
        newest[facts[-1]["_id"]] = facts[-1]
    wanted = sorted(newest.values(), key=lambda run: str(run["_id"]))
    for _ in range(3):
        rng.shuffle(facts)
        for n in range(0, len(facts), 40):
            await view.apply_runs(facts[n : n + 60])
    assert await contents(view) == wanted
    both = (view.apply_runs(rng.sample(facts, 100)) for _ in range(4))
    await asyncio.gather(*both)
    assert await contents(view) == wanted
    first, oldest = wanted[40]["seq"], {"a": 150, "b": 0}
    await view.shorten_runs(first, oldest)
    left = [run for run in wanted if run["seq"] >= max(first, oldest.get(run["name"], 0))]
    assert await contents(view) == left
    assert 10 < len(left) < len(wanted) - 10
    store.close()


async def test_runs_of_one_moment_are_told_apart_by_their_keys(mongo_url: str) -> None:
    store, at = Store(mongo_url, "registry"), datetime(2026, 11, 1, 2, tzinfo=UTC)
    view = await store.open()
    keys = ["1", "1-a", "1-a-b", "1-é", "2", "$a"]
    facts = [ended(at, MINUTE, key=key) for key in keys] + [ended(at - MINUTE, MINUTE)]
    await view.apply_runs([run_document(stored("job", data, n + 1)) for n, data in enumerate(facts)])
    wanted = [f"job {key}" for key in sorted(keys, reverse=True)]
    found, before = list[str](), None
    while page := await view.runs("job", before, 1, since=micros(at)):
        found.append(page[0]["_id"])
        before = page[0]["place"]
    assert found == wanted
    store.close()


async def test_days_have_one_outcome_for_each_occurrence(mongo_url: str) -> None:
    store, berlin = Store(mongo_url, "registry"), ZoneInfo("Europe/Berlin")
    view = await store.open()
    due = [datetime(2026, 10, day, 22, 30, tzinfo=UTC) for day in (23, 24, 25)]
    facts = [
        missed(due[0]),
        ended(due[1] - MINUTE, MINUTE, FAILURE, key=key(due[1]), expected_at=due[1], late_by=0.0),
        ended(due[1] + HOUR, MINUTE, expected_at=due[1]),  # once more for the same one
        ended(due[2] + HOUR, MINUTE, key=key(due[2]), expected_at=due[2], late_by=3600.0),
        ended(due[2] + 2 * HOUR, MINUTE),
    ]
    await view.apply_runs([run_document(stored("job", data, n + 1)) for n, data in enumerate(facts)])
    state, ends = ServiceState("job", 1, True, registered_at=1), micros(due[2] + HOUR)
    found = await queries.days(view, state, micros(due[0]), ends, berlin)
    assert {day.isoformat(): [each[1:] for each in of_day] for day, of_day in found.items()} == {
        "2026-10-24": [("missed", None)],
        "2026-10-25": [("failure", 0.0), ("success", 3600.0)],
    }
    assert [each.expected_at for of_day in found.values() for each in of_day] == [micros(at) for at in due]
    assert await queries.days(view, state, micros(due[1]), micros(due[2]), berlin) != found
    young = ServiceState("job", 1, True, registered_at=micros(due[2]))
    assert list(await queries.days(view, young, 0, ends, ZoneInfo("UTC"))) == [due[2].date()]
    store.close()


@pytest.fixture
async def store(mongo_url: str) -> AsyncIterator[Store]:
    store = Store(mongo_url, "registry")
    yield store
    store.close()


async def test_rebuilt_runs_equal_the_live_ones(
    client: httpx.AsyncClient, publisher: Publisher, link: BrokerConnection, store: Store
) -> None:
    begun = await created(client, "job") + MINUTE
    await record(publisher, "job", *(missed(begun + n * HOUR) for n in range(20)))
    await record(
        publisher,
        "job",
        *(ended(begun + n * HOUR, MINUTE, expected_at=begun + n * HOUR) for n in range(0, 20, 2)),
    )
    await link.js.publish(streams.run("job"), b"not a fact")
    await link.js.publish(streams.run("a"), run_recorded("b", missed(begun), begun).to_bytes())
    too_large = ended(begun, MINUTE, exit_code=2**80)
    await record(publisher, "job", too_large)
    await record(publisher, "job", missed(begun + 30 * HOUR))
    found = await shown(client, "job", "missed", *["missed", "success"] * 10)
    live = await contents(await store.open())
    rebuilding = asyncio.create_task(link.nc.request("registry.rebuild", timeout=30))
    while not rebuilding.done():  # a new generation is whole before it is read
        assert await listed(client, "job") == found
    assert json.loads((await rebuilding).data) == {"events": 1, "services": 1, "runs": 21}
    view = await store.open()
    assert view.generation > 1
    assert await contents(view) == live
    assert await listed(client, "job") == found
    await record(publisher, "job", missed(begun + 31 * HOUR))
    await shown(client, "job", "missed", *[run["outcome"] for run in found])


async def test_the_read_models_keep_what_the_stream_keeps(
    nats: Process, link: BrokerConnection, publisher: Publisher, tmp_path: Any, mongo_url: str
) -> None:
    config = (await link.js.stream_info(streams.RUNS)).config
    config.max_msgs_per_subject = 5
    await link.js.update_stream(config)
    due = now() + HOUR
    first = _api(tmp_path, f"nats://127.0.0.1:{nats.port}", mongo_url).start()
    async with client_of(first) as client:
        await created(client, "job")
        await created(client, "b")
        await record(publisher, "b", missed(due))
        await record(publisher, "job", *(missed(due + n * HOUR) for n in range(8)))
        await shown(client, "job", *["missed"] * 8)
        first.kill()
    second = _api(tmp_path, f"nats://127.0.0.1:{nats.port}", mongo_url).start()
    async with client_of(second) as client:
        found = await shown(client, "job", *["missed"] * 5)
        assert datetime.fromisoformat(found[-1]["expected_at"]) == due + 3 * HOUR
        assert await outcomes(client, "b") == ["missed"]
        seq = (await link.js.stream_info(streams.RUNS)).state.last_seq
        await link.js.purge_stream(streams.RUNS, seq=seq - 1)
        await shown(client, "b")
        await shown(client, "job", "missed", "missed")
        await link.js.purge_stream(streams.RUNS)
        await shown(client, "job")
        await record(publisher, "job", missed(due + 100 * HOUR))
        await shown(client, "job", "missed")
        second.kill()


async def test_another_stream_of_runs_is_no_other_record(
    client: httpx.AsyncClient, publisher: Publisher, link: BrokerConnection, store: Store, api: Process
) -> None:
    begun = await created(client, "job") + MINUTE
    await record(publisher, "job", missed(begun), missed(begun + HOUR))
    await shown(client, "job", "missed", "missed")
    edition = (await (await store.open()).record()).edition
    await link.js.delete_stream(streams.RUNS)
    await shown(client, "job")

    async def there_again() -> bool:
        return bool((await link.js.stream_info(streams.RUNS)).created)

    await eventually(there_again)
    # Of the same run, at a sequence that is smaller than the one that was known of it.
    await record(publisher, "job", ended(begun, MINUTE, key=key(begun + HOUR)))
    await shown(client, "job", "success")
    view = await store.open()
    assert view.generation > 1
    assert (await view.record()).edition == edition
    assert "another one" not in api.log.read_text()
    assert (await client.get("/service/job/events")).json()["items"]


async def test_an_older_copy_of_the_runs_is_noticed_by_who_starts(
    client: httpx.AsyncClient, publisher: Publisher, store: Store, api: Process
) -> None:
    begun = await created(client, "job") + MINUTE
    await record(publisher, "job", missed(begun), missed(begun + HOUR))
    await shown(client, "job", "missed", "missed")
    api.kill()
    view = await store.open()
    position = await view.position(streams.RUNS)
    assert position.seq == 2
    ghost = run_document(stored("job", missed(begun + 2 * HOUR), 3))
    await view.apply_runs([ghost])
    await view.save_checkpoint(streams.RUNS, 3, position.at + 1)
    api.start()
    async with client_of(api) as again:
        await shown(again, "job", "missed", "missed")


async def test_an_upgrade_reads_the_runs_from_their_beginning(
    client: httpx.AsyncClient, publisher: Publisher, store: Store, api: Process
) -> None:
    """Read models of a version that knew of no runs are the same record's."""
    begun = await created(client, "job") + MINUTE
    await record(publisher, "job", missed(begun))
    await shown(client, "job", "missed")
    api.kill()
    view = await store.open()
    await view._runs.drop()
    await view._checkpoints.delete_one({"_id": streams.RUNS})
    api.start()
    async with client_of(api) as again:
        await shown(again, "job", "missed")
        assert (await store.open()).generation == view.generation
    assert "building anew" not in api.log.read_text()


@pytest.mark.parametrize("fault", ["database", "api"])
async def test_no_fact_is_lost_or_doubled_by_a_fault(
    client: httpx.AsyncClient,
    publisher: Publisher,
    store: Store,
    api: Process,
    mongo: Process,
    fault: str,
) -> None:
    victim = mongo if fault == "database" else api
    begun = await created(client, "job") + MINUTE

    async def facts() -> None:
        for n in range(120):
            await record(publisher, "job", missed(begun + n * HOUR))
            if n % 2:
                await record(publisher, "job", ended(begun + n * HOUR, MINUTE))

    recording = asyncio.create_task(facts())
    for _ in range(3):
        await asyncio.sleep(0.3)
        victim.kill(signal.SIGKILL)
        await asyncio.sleep(0.2)
        victim.start()
    await recording
    async with client_of(api) as again:
        await shown_at_last(again, ["success", "missed"] * 60)
    found = await contents(await store.open())
    assert len(found) == 120


async def shown_at_last(client: httpx.AsyncClient, wanted: list[str]) -> None:
    async def there() -> bool:
        answer = await client.get("/service/job/runs", params={"limit": 500})
        return answer.status_code == 200 and [run["outcome"] for run in answer.json()["items"]] == wanted

    await eventually(there, within=40)


def words(page: str) -> str:
    """What of a page is read."""
    return re.sub(r"\s+", " ", html.unescape(re.sub("<[^>]+>", " ", page)))


async def page_of(client: httpx.AsyncClient, name: str, *wanted: str) -> str:
    """The words of a service's page once all these are among them."""
    found = ""

    async def there() -> bool:
        nonlocal found
        answer = await client.get(f"/ui/service/{name}", headers={"Accept": "text/html"})
        found = words(answer.text)
        return answer.status_code == 200 and all(it in found for it in wanted)

    await eventually(there)
    return found


def kind(run: RunData) -> str:
    if run.outcome is SUCCESS:
        return "late" if run.late_by and run.late_by >= 15 * 60 else "met"
    return "missed" if run.outcome is MISSED else "failed"


async def test_a_page_shows_the_runs_of_a_service_and_a_calendar(
    client: httpx.AsyncClient, publisher: Publisher
) -> None:
    today = now().date()
    job = fleets.nightly("backup.db", now())
    shown = [it for it in job.runs if it.expected_at and it.expected_at.date() > today - timedelta(days=90)]
    kinds = Counter(map(kind, shown))
    assert set(kinds) == {"met", "late", "failed", "missed"}
    counted = ", ".join(f"{kinds[each]} {each}" for each in ("met", "late", "failed", "missed"))
    await fleets.write(publisher, [job])
    page = await page_of(client, "backup.db", f"In the last 90 days: {counted}", "95 in all, oldest first")
    for said in (
        "at 03:00 every day",
        " 03:00, in ",
        "! unusual: took 3 s, usually 12 to 15 min",
        "✕ failure (3)",
        "By its schedule",
        "no space left on device",
        "○ missed",
        "usually 12 to 15 min",
        "More, as JSON",
    ):
        assert said in page, said
    assert "time zone right" not in page
    assert f"{today:%a %b %d}, due 03:00: " in page or now().hour < 3
    first = words((await client.get("/", headers={"Accept": "text/html"})).text)
    assert re.search(r"seen \d+ d ago , expected (\w+ )?03:00, in (\d+ h )?\d+ min", first), first


async def test_a_page_says_the_zone_of_reasons_and_from_where_thresholds_count(
    client: httpx.AsyncClient, publisher: Publisher
) -> None:
    began = now() - timedelta(days=1)
    fell = [(began, Status.ALIVE, "heartbeat"), (now(), Status.SILENT, "expected 03:00, not started")]
    job = fleets.Past("job", began, fell, schedule="0 3 * * *", time_zone="Europe/Berlin")
    same = job._replace(name="same", time_zone="UTC")
    heard = fleets.calm("beats", now(), runs=(ended(now() - HOUR, MINUTE),))
    await fleets.write(publisher, [job, same, heard])
    for _ in range(3):
        await publisher.publish(streams.heartbeat("job"))
        await publisher.publish(streams.heartbeat("beats"))
        await asyncio.sleep(0.6)
    page = await page_of(client, "job", "Time between heartbeats")
    assert re.search(r"expected 03:00, not started by the clock of Europe/Berlin \(CES?T\)", page), page
    assert re.search(r"Times in reasons are by the clock of Europe/Berlin \(CES?T\)\.", page)
    for name in ("job", "beats"):
        answer = await client.patch(f"/service/{name}", json={"silent_after": "1s", "down_after": "30m"})
        assert answer.status_code == 200
    page = await page_of(client, "job", "1s its own, after it is due", "30m its own, after it is due")
    assert "where it becomes silent" not in page
    await page_of(client, "beats", "The line is where it becomes silent: 1s.")
    page = await page_of(client, "same", "expected 03:00, not started")
    assert "by the clock of" not in page
    page = await page_of(client, "beats", "Runs")
    assert "By its schedule" not in page


async def test_a_page_of_a_service_whose_runs_are_all_to_come(client: httpx.AsyncClient) -> None:
    await client.post("/service", json={"name": "new", "schedule": "0 3 * * *", "time_zone": "Asia/Tokyo"})
    page = await page_of(client, "new", "In the last 90 days: nothing recorded")
    assert "Took" not in page
    first = words((await client.get("/", headers={"Accept": "text/html"})).text)
    assert re.search(r"never seen , expected (\w+ )?03:00 JST, in ", first), first


async def test_a_page_doubts_the_time_zone(client: httpx.AsyncClient, publisher: Publisher) -> None:
    job = fleets.nightly("report", now())
    two_hours = timedelta(hours=2)
    late = [
        ended(run.expected_at + two_hours, MINUTE, key=run.key, expected_at=run.expected_at, late_by=7200.0)
        for run in job.runs[-4:]
        if run.expected_at
    ]
    await fleets.write(publisher, [job._replace(runs=tuple(late))])
    doubt = "It came 2 h after each expected time, three times in a row: is the time zone right? It is UTC."
    page = await page_of(client, "report", doubt, "◆ 2 h late")
    assert page.count("2 h late") >= 4
    answer = await client.patch("/service/report", json={"schedule": "0 5 * * *"})
    assert answer.status_code == 200
    page = await page_of(client, "report", "at 05:00 every day")
    assert "time zone right" not in page


async def test_a_service_that_only_beats_has_neither_runs_nor_a_calendar(
    client: httpx.AsyncClient, publisher: Publisher
) -> None:
    await fleets.write(publisher, [fleets.calm("web", now())])
    page = await page_of(client, "web", "Last heartbeats")
    assert "Runs" not in page
    assert "Schedule" not in page
    first = words((await client.get("/", headers={"Accept": "text/html"})).text)
    assert "expected within" in first
