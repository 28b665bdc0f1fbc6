"""Channels other than Telegram: the signed webhook, and Apprise, towards real servers."""

import base64
import hmac
import http.server
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.notifier.channels import webhook
from services.notifier.channels.channel import Failed
from services.notifier.texts.message import REPEAT, OutgoingMessage
from shared.contracts.events import Status
from tests.broker import eventually
from tests.integration.test_notifier import NotificationLog, Start, get, record, start, telegram, told
from tests.servers import service
from tests.telegram_standin import Standin

__all__ = ["record", "start", "telegram"]

UNKNOWN, ALIVE, SILENT, DOWN, DEAD = Status
SECRET = "whsec_" + base64.b64encode(b"a key that nobody knows").decode()


class Receiver:
    """Takes what is posted, and answers as it is told."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.paths: list[str] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.paths.append(self.path)
                outer.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
                status, headers = outer.answers.pop(0) if outer.answers else (200, {})
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.host = f"127.0.0.1:{self.server.server_address[1]}"

    async def received(self, count: int) -> list[dict[str, Any]]:
        async def there() -> bool:
            return len(self.got) >= count

        await eventually(there, 15)
        return [json.loads(body) for _, body in self.got]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.server.shutdown()


def given(receiver: Receiver, **more: str) -> dict[str, str]:
    url = f"http://{receiver.host}/hook?key=HIDDEN"
    return {"webhook_urls": url, "webhook_secret": SECRET, "webhook_private": "true", **more}


async def test_a_webhook_is_signed_and_says_what_changed_beside_telegram(
    record: NotificationLog, telegram: Standin, start: Start, receiver: Receiver
) -> None:
    process = start(**given(receiver))
    await record.change("web", ALIVE, DOWN, message="disk full", duration=3.0)
    (body,) = await receiver.received(1)
    await told(telegram, "web: alive → down")
    headers, payload = receiver.got[0]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + payload
    digest = hmac.digest(b"a key that nobody knows", signed, "sha256")
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
    assert headers["host"] == receiver.host
    (change,) = body["changes"]
    assert (body["type"], body["loud"], body["repeat"]) == ("registry.changes", True, False)
    assert (change["service"], change["from"], change["to"]) == ("web", "alive", "down")
    assert (change["message"], change["duration"]) == ("disk full", 3.0)
    assert "HIDDEN" not in process.log.read_text() + get(process, "/metrics")[1]


async def test_a_webhook_says_which_run_was_unusual(
    record: NotificationLog, start: Start, receiver: Receiver
) -> None:
    await record.register("job")
    start(**given(receiver, telegram_bot_token=""))
    await record.run("job", "took 60 s, usually 3 s", run="r-1")
    (body,) = await receiver.received(1)
    (run,) = body["runs"]
    assert (body["type"], body["loud"], body["changes"]) == ("registry.runs", False, [])
    assert (run["service"], run["outcome"], run["duration"], run["run"]) == ("job", "success", 60.0, "r-1")
    assert run["unusual"] == "took 60 s, usually 3 s"
    assert receiver.got[0][0]["webhook-id"].endswith(".runs.1")


async def test_a_webhook_is_tried_again_and_can_tell_a_repeat_by_its_id(
    record: NotificationLog, start: Start, receiver: Receiver
) -> None:
    receiver.answers = [(500, {}), (404, {}), (429, {"retry-after": "1"}), (302, {"location": "/elsewhere"})]
    start(**given(receiver, telegram_bot_token=""))
    await record.change("web", ALIVE, DOWN)
    bodies = await receiver.received(5)
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    assert [body["repeat"] for body in bodies] == [False, True, True, True, True]
    assert bodies[1]["text"].startswith(REPEAT)
    receiver.answers = [(410, {})]
    await record.change("job", ALIVE, DOWN)
    await receiver.received(6)
    await record.change("other", ALIVE, DOWN)
    assert len(await receiver.received(6)) == 6, "who says that he is gone is left alone"


async def test_a_private_address_is_refused_unless_it_is_allowed(
    record: NotificationLog, telegram: Standin, start: Start, receiver: Receiver
) -> None:
    process = start(**given(receiver, webhook_private="false"))
    await record.change("web", ALIVE, DOWN)
    await told(telegram, "web")

    async def said() -> bool:
        return "it is a private address" in process.log.read_text()

    await eventually(said)
    assert receiver.got == []


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        *((it, False) for it in ("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254")),
        *((it, False) for it in ("0.0.0.0", "100.64.0.1", "224.0.0.1", "::1", "fe80::1%eth0", "fd00::1")),
        *((it, False) for it in ("::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "::")),
        *(
            (it, False)
            for it in ("64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808")
        ),
        *((it, False) for it in ("fec0::1", "feff::1", "::127.0.0.1", "::8.8.8.8", "::ffff:0:10.0.0.1")),
        *(
            (it, False)
            for it in ("2002:a00:1::1", "2002:c0a8:101::", "2001:0:7f00:1::", "2001:db8::1", "3fff::1")
        ),
        *(
            (it, False)
            for it in ("2a00::5efe:10.0.0.1", "2a00::200:5efe:10.0.0.1", "100::1", "5f00::1", "ff0e::1")
        ),
        *((it, False) for it in ("192.88.99.1", "198.18.0.1", "203.0.113.1", "240.0.0.1", "255.255.255.255")),
        ("64:ff9b::808:808", True),
        ("::ffff:8.8.8.8", True),
        ("2002:808:808::1", True),
        ("2a00::5efe:8.8.8.8", True),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert webhook.is_public(address) is public


@pytest.mark.parametrize("address", ["64:ff9b::7f00:1", "fec0::1", "::7f00:1", "2002:7f00:1::"])
async def test_a_name_that_leads_to_a_wrapped_private_address_is_refused(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = (
        socket.AF_INET6,
        socket.SOCK_STREAM,
        6,
        "",
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", 80, 0, 0),
    )
    found = [public, (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, 80, 0, 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    hook = webhook.WebhookChannel("http://hook.example/", SECRET, private=False)
    outcome = await hook.send("", OutgoingMessage("a", "a", True, 1, id="x"), None)
    assert isinstance(outcome, Failed)
    assert "private address" in outcome.reason


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"webhook_urls": "ftp://x"}, "REGISTRY_WEBHOOK_URLS"),
        ({"webhook_urls": "http://x/"}, "REGISTRY_WEBHOOK_SECRET"),
        ({"webhook_urls": "http://x/", "webhook_secret": "whsec_???????????????"}, "REGISTRY_WEBHOOK_SECRET"),
        ({"apprise_urls": "nosuchthing://x"}, "REGISTRY_APPRISE_URLS"),
    ],
)
def test_a_wrong_channel_stops_the_start(
    tmp_path: Path, nats_url: str, variables: dict[str, str], said: str
) -> None:
    process = service("notifier", tmp_path, nats_url, **variables).start(wait=0)
    assert process.process
    assert process.process.wait(15) == 2
    assert said in process.log.read_text()


async def test_two_webhooks_of_one_host_are_both_told(
    record: NotificationLog, start: Start, receiver: Receiver
) -> None:
    at = f"http://{receiver.host}"
    start(telegram_bot_token="", **given(receiver, webhook_urls=f"{at}/a,{at}/a,ops={at}/b"))
    await record.change("web", ALIVE, DOWN)
    await receiver.received(2)
    assert sorted(receiver.paths) == ["/a", "/b"]


async def test_apprise_delivers(record: NotificationLog, start: Start, receiver: Receiver) -> None:
    pytest.importorskip("apprise")
    process = start(telegram_bot_token="", apprise_urls=f"json://user:HIDDEN@{receiver.host}/hook")
    await record.change("web", ALIVE, DOWN)
    (body,) = await receiver.received(1)
    assert "web: alive → down" in body["title"]
    assert "HIDDEN" not in process.log.read_text()
