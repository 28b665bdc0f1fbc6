"""Takes the pictures in docs/screenshots: `python -m tests.browser.screenshots [SCENE…]`."""

import asyncio
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from nats.aio.msg import Msg
from playwright.async_api import async_playwright

from shared.messaging import streams
from shared.messaging.connection import BrokerConnection
from shared.settings import Settings
from tests import fleets
from tests.browser.test_dashboard import CHROMIUM, SHOWN, fill
from tests.e2e.system import System
from tests.telegram_standin import Standin

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"

SCENES: dict[str, tuple[str, Callable[[datetime], list[fleets.Past]]]] = {
    "empty": ("/", lambda now: []),
    "five": ("/", lambda now: fleets.forty(now)[:5]),
    "forty": ("/", fleets.forty),
    "many": ("/", lambda now: fleets.many(5000, now)),
    "service": ("/ui/service/billing.worker", lambda now: [fleets.a_bad_month("billing.worker", now)]),
    "schedule": ("/ui/service/backup.nightly", lambda now: [fleets.nightly("backup.nightly", now)]),
}
SIZES = {1440: 900, 390: 844}


async def take(name: str) -> None:
    path, make = SCENES[name]
    with tempfile.TemporaryDirectory() as folder, Standin() as telegram:
        system = System(Path(folder), telegram, **SHOWN, public_url="https://registry.example.com").start()
        system.parts["monitor"].kill()  # it would judge the made-up past
        try:
            fleet = make(fleets.now())
            await fill(system, fleet)
            link = BrokerConnection(Settings(nats_url=(system.nats_url,)), "pictures")
            await link.connect()
            await link.nc.subscribe(streams.LAST_EVALUATED, cb=_judged)
            for it in fleet[:200]:
                if it.changes[-1][1] == "alive":
                    system.beat(it.name)
            if name == "service":
                for n in range(40):
                    system.beat("billing.worker", "/start")
                    await asyncio.sleep(0.05 + 0.02 * (n % 7))
                    path_ = system.url("ingest", "/heartbeat/billing.worker" + ("/fail" if n == 20 else ""))
                    system.http.post(path_, content=f"{n} invoices sent")
            await asyncio.sleep(7)
            await shoot(system.url("api", path), name, 2 if path.startswith("/ui/") else 1)
            await link.close()
        finally:
            system.stop()


async def _judged(request: Msg) -> None:
    """In the place of a monitor."""
    await request.respond(str(int(fleets.now().timestamp() * 1e6)).encode())


async def shoot(url: str, name: str, screens: int) -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width, height in SIZES.items():
            for scheme in ("light", "dark"):
                page = await browser.new_page(
                    viewport={"width": width, "height": height * screens},
                    color_scheme=scheme,  # type: ignore[arg-type]
                )
                await page.goto(url)
                await page.wait_for_timeout(500)
                await page.screenshot(path=FOLDER / f"{name}-{width}-{scheme}.png")
                await page.close()
        await browser.close()


async def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in sys.argv[1:] or SCENES:
        await take(name)


if __name__ == "__main__":
    asyncio.run(main())
