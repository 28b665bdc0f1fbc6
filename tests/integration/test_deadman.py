"""Who watches the watcher: the URL is fetched while a real monitor judges and a real notifier delivers."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker import eventually
from tests.servers import service
from tests.telegram_standin import Standin


class Switch:
    """Counts who asks for `/secret`."""

    def __init__(self) -> None:
        self.pressed = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.pressed += self.path == "/secret"
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/secret"


@pytest.fixture
def switch() -> Iterator[Switch]:
    found = Switch()
    yield found
    found.server.shutdown()


async def test_it_is_pressed_only_while_somebody_judges_and_messages_get_through(
    tmp_path: Path, nats_url: str, switch: Switch
) -> None:
    with Standin() as telegram:
        given = {"deadman_url": switch.url, "telegram_api_url": telegram.url, "digest_time": ""}
        given |= {"telegram_chat_id": "42"}
        ingest, monitor = (service(name, tmp_path, nats_url) for name in ("ingest", "monitor"))
        bad, good = ({**given, "telegram_bot_token": token} for token in ("9:WRONG", telegram.token))
        started = []

        async def after(variables: dict[str, str], said: str) -> None:
            process = service("notifier", tmp_path, nats_url, **variables).start()
            started.append(process)

            async def there() -> bool:
                assert process.running, process.log.read_text()
                return said in process.log.read_text() if said else switch.pressed > 0

            await eventually(there, 15)
            if said:
                assert switch.pressed == 0
            assert "secret" not in process.log.read_text()
            process.stop()

        try:
            await after(good, "no monitor answers")
            ingest.start()
            monitor.start()

            async def judging() -> bool:
                return "watching" in monitor.log.read_text()

            await eventually(judging, 15)
            await after(bad, "the bot token is refused")
            await after(good, "")
        finally:
            for process in (*started, ingest, monitor):
                if process.process:
                    process.kill()
