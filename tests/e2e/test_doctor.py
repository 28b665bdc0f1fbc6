"""`registry doctor` beside a system of real processes: what it finds, what to do, and its exit code."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.system import SERVICES, System
from tests.servers import Process, free_port, program, registry
from tests.telegram_standin import Standin

TOKEN = "9:VERY-SECRET"


def doctor(folder: Path, *line: str, **variables: str) -> tuple[int, dict[str, Any]]:
    env = {**os.environ, **{f"REGISTRY_{name.upper()}": value for name, value in variables.items()}}
    done = registry(folder, "doctor", "--json", *line, env=env)
    said = done.stdout + done.stderr
    assert "SECRET" not in said
    return done.returncode, {it["part"]: it for it in json.loads(done.stdout)} if done.stdout else {
        "said": said
    }


@pytest.mark.timeout(300)  # asked four times, each time with a process per service
def test_a_system_that_runs_and_one_part_after_the_other_that_does_not(tmp_path: Path) -> None:
    with Standin(chats=("42", "-1001")) as telegram:
        system = System(tmp_path, telegram)
        try:
            system.start()
            given = {f"{name}_port": str(system.parts[name].port) for name in SERVICES} | {
                "nats_url": system.nats_url,
                "mongodb_url": f"mongodb://127.0.0.1:{system.parts['mongo'].port}",
                "telegram_api_url": telegram.url,
                "telegram_bot_token": telegram.token,
                "telegram_chat_id": "42,ops=-1001:7",
            }
            code, found = doctor(tmp_path, **given)
            assert (code, [part for part, it in found.items() if not it["ok"]]) == (0, [])
            assert "@standin_bot" in found["telegram"]["said"]

            code, found = doctor(tmp_path, **{**given, "telegram_chat_id": "42,99"})
            assert (code, [part for part, it in found.items() if not it["ok"]]) == (1, ["chat 99"])
            assert "chat not found" in found["chat 99"]["said"]
            assert "/start" in found["chat 99"]["mend"]

            code, found = doctor(tmp_path, **{**given, "telegram_bot_token": TOKEN})
            assert (code, [part for part, it in found.items() if not it["ok"]]) == (1, ["telegram"])
            assert "@BotFather" in found["telegram"]["mend"]

            system.parts["mongo"].kill()
            system.parts["monitor"].kill()
            nobody = f"http://127.0.0.1:{free_port()}"
            code, found = doctor(tmp_path, **{**given, "telegram_api_url": nobody})
            assert code == 1
            wrong = [part for part, it in found.items() if not it["ok"]]
            assert wrong in (["database", "monitor", "telegram"], ["database", "monitor", "api", "telegram"])
        finally:
            system.stop()


def test_it_sends_a_test_message_to_each_channel(tmp_path: Path) -> None:
    with Standin(chats=("42", "-1001")) as telegram:
        chats = {"telegram_chat_id": "ops=42,-1001:7"}
        system = System(tmp_path, telegram, **chats)
        try:
            system.start()
            given = {f"{name}_port": str(system.parts[name].port) for name in SERVICES} | {
                "nats_url": system.nats_url,
                "mongodb_url": f"mongodb://127.0.0.1:{system.parts['mongo'].port}",
                "telegram_api_url": telegram.url,
                "telegram_bot_token": telegram.token,
                **chats,
            }
            code, found = doctor(tmp_path, "--send", **given)
            assert code == 0
            assert {
                part: it["said"] for part, it in found.items() if part.startswith("channel ")
            } == dict.fromkeys(("channel ops", "channel -1001:7"), "the test message was delivered")
            assert sorted(message["chat"] for message in telegram.messages) == ["-1001", "42"]

            telegram.control("403", "42")
            code, found = doctor(tmp_path, "--send", "ops", **given)
            assert (code, [part for part, it in found.items() if not it["ok"]]) == (1, ["channel ops"])
            assert "not delivered: Forbidden: bot was blocked" in found["channel ops"]["said"]
            assert "/start" in found["channel ops"]["mend"]
            assert "channel -1001:7" not in found

            code, found = doctor(tmp_path, "--send", "boss", **given)
            assert (code, found["channel boss"]["mend"]) == (1, "There are: ops, -1001:7.")

            system.parts["notifier"].kill()
            code, found = doctor(tmp_path, "--send", **given)
            assert code == 1
            assert "no notifier answers" in found["channels"]["said"]

            code, found = doctor(tmp_path, "ops", **given)
            assert code == 2
            assert "--send" in found["said"]
        finally:
            system.stop()


def test_a_wrong_setting_and_a_broker_that_is_away(tmp_path: Path) -> None:
    away = {"nats_url": f"nats://127.0.0.1:{free_port()}", "telegram_bot_token": TOKEN}
    away |= {"telegram_api_url": "http://127.0.0.1:1"}
    code, found = doctor(tmp_path, **away)
    assert code == 1
    assert not found["broker"]["ok"]
    code, found = doctor(tmp_path, **away, remind_after="often")
    assert code == 2
    assert "REGISTRY_REMIND_AFTER" in found["settings of notifier"]["said"]
    code, found = doctor(tmp_path, **away, tick="never")
    assert code == 2
    assert "REGISTRY_TICK" in found["said"]


def test_no_secret_is_said_even_if_the_broker_refuses_the_password(tmp_path: Path) -> None:
    port, secret = free_port(), "SECRET%2Fin%40it"
    command = [program("nats-server"), "-a", "127.0.0.1", "-p", str(port), "--user", "u", "--pass", "other"]
    server = Process(command, port, tmp_path / "nats.log").start()
    nobody = f"127.0.0.1:{free_port()}"
    given = {
        "nats_url": f"nats://u:{secret}@127.0.0.1:{port}",
        "mongodb_url": f"mongodb://u:{secret}@{nobody}/SECRET?appname=SECRET",
        "telegram_bot_token": TOKEN,
        "telegram_api_url": f"http://u:SECRET@{nobody}/SECRET",
        "telegram_invite": "SECRET-invite",
        "deadman_url": f"http://u:SECRET@{nobody}/SECRET",
        "webhook_urls": f"http://u:SECRET@{nobody}/SECRET",
        "webhook_secret": "SECRET-of-sixteen",
        "apprise_urls": f"json://u:SECRET@{nobody}/SECRET",
        **dict.fromkeys(("api_token", "read_token", "ingest_token"), "SECRET,SECRET-2"),
    }
    try:
        code, found = doctor(tmp_path, **given)  # which looks that nothing is said
        assert code == 1
        wanted = f"nats://127.0.0.1:{port} lets nobody in with these credentials"
        assert found["broker"]["said"] == wanted
        assert found["telegram"]["said"].startswith(f"http://{nobody}: ")
        broken = {
            f"{name}_url": given[f"{name}_url"].replace("@", "/") for name in ("nats", "mongodb", "deadman")
        }
        code, found = doctor(tmp_path, **{**given, **broken, "webhook_urls": "http://0177.0.0.1/SECRET"})
        assert code == 2
        assert all(
            f"REGISTRY_{name.upper()}_URL: " in found["said"] for name in ("nats", "mongodb", "deadman")
        )
        env = {**os.environ, **{f"REGISTRY_{name.upper()}": value for name, value in given.items()}}
        for line in (["rebuild"], ["backup", "copy"]):
            done = registry(tmp_path, *line, env=env)
            assert done.returncode == 1
            assert "SECRET" not in done.stdout + done.stderr
            assert "Traceback" not in done.stderr
    finally:
        server.kill()


def test_a_database_that_takes_connections_and_answers_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"mongodb://u:SECRET@127.0.0.1:{server.getsockname()[1]}"
        nowhere = f"127.0.0.1:{free_port()}"
        code, found = doctor(tmp_path, mongodb_url=url, nats_url=f"nats://{nowhere}")
    assert (code, found["database"]["ok"]) == (1, False)
    assert "does not answer a command" in found["database"]["said"]


def test_a_token_that_the_server_does_not_have(tmp_path: Path) -> None:
    with Standin() as telegram:
        system = System(tmp_path, telegram, api_token="the-one-it-has-16", ingest_token="the-one-it-has-16")
        try:
            system.start()
            given = {f"{name}_port": str(system.parts[name].port) for name in SERVICES} | {
                "nats_url": system.nats_url,
                "mongodb_url": f"mongodb://127.0.0.1:{system.parts['mongo'].port}",
            }
            tokens = dict.fromkeys(("api_token", "ingest_token"), "the-one-it-has-16")
            code, found = doctor(tmp_path, **given, **tokens)
            assert code == 0
            assert found["REGISTRY_API_TOKEN"]["said"] == "the API takes it"
            tokens = dict.fromkeys(("api_token", "read_token", "ingest_token"), "SECRET-of-another")
            code, found = doctor(tmp_path, **given, **tokens)
            assert code == 1
            wrong = [part for part, it in found.items() if not it["ok"]]
            assert wrong == ["REGISTRY_API_TOKEN", "REGISTRY_READ_TOKEN", "heartbeats"]
            code, found = doctor(tmp_path, **given, ingest_token="the-one-it-has-16")
            assert [part for part, it in found.items() if not it["ok"]] == ["REGISTRY_API_TOKEN"]
            assert "asks for a token" in found["REGISTRY_API_TOKEN"]["said"]
        finally:
            system.stop()
