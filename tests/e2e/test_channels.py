"""The channels as the API shows them: how they stand, test messages, one that is off and on again."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.system import System, until
from tests.telegram_standin import Standin

ADMIN, READER = "ana:the-api-tokens-secret", "ci:the-read-tokens-secret"


@pytest.fixture
def telegram() -> Iterator[Standin]:
    with Standin(chats=("42", "-1001")) as standin:
        yield standin


@pytest.fixture
def system(tmp_path: Path, telegram: Standin) -> Iterator[System]:
    system = System(
        *(tmp_path, telegram), telegram_chat_id="ops=42,-1001:7", api_token=ADMIN, read_token=READER
    )
    system.http.headers["Authorization"] = f"Bearer {ADMIN}"
    yield system.start()
    system.stop()


def channel(system: System, name: str) -> dict[str, Any]:
    (found,) = (item for item in system.api("/channels")["items"] if item["name"] == name)
    return dict(found)


def ask(system: System, path: str, token: str = ADMIN) -> httpx.Response:
    return system.http.post(system.url("api", path), headers={"Authorization": f"Bearer {token}"})


async def test_how_channels_stand_and_a_test_message(system: System, telegram: Standin) -> None:
    before = channel(system, "ops")
    assert before == {
        **{
            "name": "ops",
            "kind": "telegram",
            "address": "42",
            "subscribed": False,
            "waiting": 0,
            "mutes": [],
        },
        **dict.fromkeys(("last_delivered", "last_error", "off_since", "off_reason", "last_digest")),
    }
    assert channel(system, "-1001:7")["address"] == "-1001:7"

    assert ask(system, "/channels/ops/test", READER).status_code == 403
    assert ask(system, "/channels/ops/on", READER).status_code == 403
    for path in ("/channels/boss/test", "/channels/boss/on", "/channels/42/test"):
        assert ask(system, path).status_code == 404
    assert telegram.messages == []
    answer = ask(system, "/channels/ops/test")
    assert (answer.status_code, answer.json()) == (200, {"delivered": True})
    (message,) = telegram.messages
    assert message["chat"] == "42"
    assert message["text"].startswith("Test message of the registry\nIt was sent to the channel ops ")
    delivered = channel(system, "ops")["last_delivered"]
    assert delivered
    assert channel(system, "-1001:7")["last_delivered"] is None

    telegram.control("500", "42")
    answer = ask(system, "/channels/ops/test")
    assert answer.status_code == 504
    telegram.control("400", "42")
    answer = ask(system, "/channels/ops/test")
    assert answer.status_code == 502
    assert answer.headers["content-type"] == "application/problem+json"
    error = channel(system, "ops")["last_error"]
    assert error["reason"] == answer.json()["detail"]
    refused = ask(system, "/channels/ops/test")
    assert refused.status_code == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 60

    system.parts["notifier"].kill()
    began = time.monotonic()
    for answer in (system.http.get(system.url("api", "/channels")), ask(system, "/channels/ops/test")):
        assert answer.status_code == 503
        assert "no notifier answers" in answer.json()["detail"]
    assert time.monotonic() - began < 4
    system.start("notifier")
    after = channel(system, "ops")
    assert (after["last_delivered"], after["last_error"]) == (delivered, error)


async def test_a_channel_that_is_off_is_switched_on_with_what_was_kept(
    system: System, telegram: Standin
) -> None:
    telegram.control("403", "42")
    system.beat("web")
    off = await until(lambda: (it := channel(system, "ops"))["off_since"] and it)
    assert off["waiting"] > 0
    assert "blocked" in off["off_reason"]
    assert off["last_error"]["reason"] == off["off_reason"]
    assert channel(system, "-1001:7")["off_since"] is None

    telegram.control("ok", "42")
    answer = ask(system, "/channels/ops/on")
    assert answer.json() == {"on": True, "was_off": off["off_reason"]}
    await until(lambda: system.told("web"), within=5)
    on = channel(system, "ops")
    assert (on["off_since"], on["off_reason"], on["last_error"]) == (None, None, off["last_error"])
    assert on["last_delivered"]
    assert ask(system, "/channels/ops/on").json() == {"on": True, "was_off": None}


async def test_a_test_message_that_arrives_switches_a_channel_on(system: System, telegram: Standin) -> None:
    telegram.control("403", "42")
    system.beat("web")
    await until(lambda: channel(system, "ops")["off_since"])
    telegram.control("ok", "42")
    assert ask(system, "/channels/ops/test").status_code == 200
    assert channel(system, "ops")["off_since"] is None
    await until(lambda: system.told("web"), within=5)
