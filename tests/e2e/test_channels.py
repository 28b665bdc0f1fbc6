"""The channels as the API shows them: how they stand, test messages, one that is off and on again."""

import html
import json
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.system import System, until
from tests.telegram_standin import Standin

ADMIN, READER = "ana:the-api-tokens-secret", "ci:the-read-tokens-secret"
INVITE = "who-knows-it-may-subscribe"


@pytest.fixture
def telegram() -> Iterator[Standin]:
    with Standin(chats=("42", "-1001")) as standin:
        yield standin


@pytest.fixture
def system(tmp_path: Path, telegram: Standin) -> Iterator[System]:
    given = {"telegram_chat_id": "ops=42,-1001:7", "telegram_invite": INVITE}
    system = System(tmp_path, telegram, **given, api_token=ADMIN, read_token=READER)
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
    assert time.monotonic() - began < 2
    system.start("notifier")
    system.parts["notifier"].signal(signal.SIGSTOP)
    began = time.monotonic()
    answer = system.http.get(system.url("api", "/channels"))
    assert time.monotonic() - began < 2
    assert answer.status_code == 503
    assert "does not answer" in answer.json()["detail"]
    system.parts["notifier"].signal(signal.SIGCONT)
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


CODE = re.compile(r"<code>(\{.*?)</code>", re.DOTALL)
FORM = re.compile(r'action="(/ui/notifications/[^"]+)"><input type="hidden" name="form_key" value="([^"]+)"')


def browser_at(system: System) -> httpx.Client:
    return httpx.Client(base_url=system.url("api", ""), headers={"Accept": "text/html"}, timeout=30)


@contextmanager
def logged_in(system: System, token: str) -> Iterator[httpx.Client]:
    with browser_at(system) as browser:
        assert browser.post("/ui/login", data={"token": token.partition(":")[2]}).status_code == 303
        yield browser


async def test_the_page_of_notifications(system: System, telegram: Standin) -> None:
    with browser_at(system) as nobody:
        assert nobody.get("/ui/notifications").status_code == 303, "to the login"
    with logged_in(system, READER) as reader:
        page = reader.get("/ui/notifications").text
        assert "ops" in page
        assert "-1001:7" in page
        assert not FORM.search(page)
        assert INVITE not in page
        assert INVITE not in reader.get("/channels").text
    with logged_in(system, ADMIN) as admin:
        page = admin.get("/ui/notifications").text
        assert f"https://t.me/standin_bot?start={INVITE}" in page
        assert "every channel hears of every service" in page
        routes = {"routes": [{"match": {"name": "<b>&*"}, "to": ["ops"]}]}
        put = system.http.put(system.url("api", "/routes"), json=routes)
        assert put.status_code == 200
        page = admin.get("/ui/notifications").text
        assert routes == json.loads(html.unescape(CODE.findall(page)[0]))
        system.http.put(system.url("api", "/routes"), json={"routes": []})
        assert "None: whatever changes is told." in page
        forms = dict(FORM.findall(page))
        assert list(forms) == ["/ui/notifications/ops/test", "/ui/notifications/-1001%3A7/test"]
        form_key = forms["/ui/notifications/ops/test"]
        for wrong in ({}, {"form_key": "x" * 64}):
            assert admin.post("/ui/notifications/ops/test", data=wrong).status_code == 403
        assert telegram.messages == []
        sent = admin.post("/ui/notifications/-1001%3A7/test", data={"form_key": form_key})
        assert sent.status_code == 303
        assert [message["chat"] for message in telegram.messages] == ["-1001"]
        assert "The test message to -1001:7 was delivered." in admin.get(sent.headers["location"]).text
        assert "was delivered." not in admin.get("/ui/notifications?done=test&channel=ops").text

        telegram.control("403", "42")
        refused = admin.post("/ui/notifications/ops/test", data={"form_key": form_key})
        assert refused.status_code == 502
        assert "ops: Forbidden: bot was blocked by the user" in refused.text
        assert "failing" in refused.text
        system.beat("web")
        await until(lambda: channel(system, "ops")["off_since"])
        page = admin.get("/ui/notifications").text
        assert "It refuses messages since" in page
        assert "/ui/notifications/ops/on" in page
        assert "ops is on" not in admin.get("/ui/notifications?done=on&channel=ops").text
        telegram.control("ok", "42")
        on = admin.post("/ui/notifications/ops/on", data={"form_key": form_key})
        assert on.status_code == 303
        await until(lambda: system.told("web"), within=5)
        assert "ops is on." in admin.get(on.headers["location"]).text
        assert admin.post("/ui/notifications/boss/on", data={"form_key": form_key}).status_code == 404

        assert system.http.post(system.url("api", "/service/web/mute"), json={"for": "2h"}).status_code == 200
        page = admin.get("/ui/notifications").text
        assert re.search(r'<a href="/ui/service/web">web</a> until [0-9: UTC-]+, by token:ana<', page)

        system.parts["notifier"].kill()
        page = admin.get("/ui/notifications").text
        assert "How channels stand is not known: no notifier answers" in page
