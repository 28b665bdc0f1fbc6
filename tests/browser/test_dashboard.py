"""The dashboard in a real browser, as people use it: with the mouse, with keys alone, and without scripts."""

import asyncio
import os
import re
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import axe_playwright_python
import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, Route, async_playwright, expect

from shared.messaging.connection import BrokerConnection
from shared.messaging.publisher import Publisher
from shared.settings import Settings
from tests import fleets
from tests.e2e.system import System
from tests.telegram_standin import Standin

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()

pytestmark = [
    pytest.mark.skipif(
        not CHROMIUM and not os.environ.get("REQUIRE_CHROMIUM"), reason="there is no Chromium on this machine"
    ),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu"]  # or this machine plays that it has one
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    """Whatever a page complains of, such as what its own policy forbids, fails the test."""
    context = await browser.new_context()
    context.set_default_timeout(10_000)
    complaints: list[str] = []
    context.on(
        "console", lambda message: complaints.append(message.text) if message.type == "error" else None
    )
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    yield context
    await context.close()
    assert [it for it in complaints if "Failed to load resource" not in it] == []


@pytest_asyncio.fixture(loop_scope="module")
async def page(context: BrowserContext) -> Page:
    return await context.new_page()


@pytest.fixture
def telegram() -> Iterator[Standin]:
    with Standin() as standin:
        yield standin


@pytest.fixture
def system(tmp_path: Path, telegram: Standin, request: pytest.FixtureRequest) -> Iterator[System]:
    variables = getattr(request, "param", {"silent_after": "3s", "down_after": "6s"})
    system = System(tmp_path, telegram, **variables).start()
    yield system
    system.stop()


async def fill(system: System, fleet: list[fleets.Past]) -> None:
    """Make up a past, which is not to be judged and told."""
    for name in ("monitor", "notifier"):
        system.parts[name].kill()
    link = BrokerConnection(Settings(nats_url=(system.nats_url,)), "test")
    await link.connect()
    publisher = Publisher(link, timeout=20)
    await publisher.start()
    await fleets.heard_since(publisher, fleets.now() - timedelta(days=100))
    await fleets.write(publisher, fleet)
    await publisher.stop()
    await link.close()
    deadline = time.monotonic() + 60
    while len(fleet) > system.api("/services?limit=1")["total"]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


CALM = {"silent_after": "1h", "down_after": "2h", "dead_after": "30d"}


def of(name: str) -> str:
    return f'.row[data-name="{name}"]'


async def test_a_life_is_seen_without_reloading(system: System, page: Page) -> None:
    await page.goto(system.url("api", "/"))
    await expect(page.locator("#empty")).to_contain_text("curl -fsS -X POST")
    await page.evaluate("window.same = true")
    assert system.beat("first") == 200
    row = page.locator(of("first"))
    await expect(row).to_contain_text("alive", timeout=3000)
    await expect(page).to_have_title("services registry")
    await expect(row.locator(".state")).to_contain_text("silent", timeout=8000)
    await expect(row.locator(".state")).to_contain_text("down", timeout=8000)
    await expect(page).to_have_title("(1 down) services registry")
    assert "down=1" in (await page.locator("link[rel=icon]").get_attribute("href") or "")
    await expect(page.locator("#headline")).to_contain_text("1 down, last change")
    assert system.beat("first") == 200
    await expect(row.locator(".state")).to_contain_text("alive", timeout=5000)
    await expect(page).to_have_title("services registry")
    assert await page.evaluate("window.same"), "the page was loaded anew"


@pytest.mark.parametrize("system", [CALM], indirect=True)
async def test_heartbeats_move_the_row_that_is_seen(system: System, page: Page) -> None:
    system.beat("web")
    await page.goto(system.url("api", "/"))
    row = page.locator(of("web"))
    await expect(row.locator("time").first).to_have_text("3 s", timeout=8000)
    system.beat("web")
    await expect(row.locator("time").first).to_have_text("0 s", timeout=3000)


@pytest.mark.parametrize("system", [CALM], indirect=True)
async def test_lost_and_found_again(system: System, page: Page) -> None:
    system.beat("web")
    await page.goto(system.url("api", "/"))
    await expect(page.locator(of("web"))).to_be_visible()
    system.parts["api"].kill()
    await expect(page.locator("#stale")).to_be_visible(timeout=10_000)
    system.beat("meanwhile")
    system.parts["api"].start()
    await expect(page.locator(of("meanwhile"))).to_be_visible(timeout=20_000)
    await expect(page.locator("#stale")).to_be_hidden()
    system.parts["ingest"].kill()
    await page.wait_for_timeout(11_000)
    await page.reload()
    await expect(page.locator("#banner")).to_contain_text("No heartbeats are taken in")


@pytest.mark.parametrize("system", [CALM], indirect=True)
async def test_answers_of_a_proxy_whose_api_is_away(system: System, page: Page) -> None:
    """A browser ends an event stream for good on a 502; a refresh that failed is tried again."""
    away = {"/events": 1, "/": 0}

    async def proxy(route: Route) -> None:
        path = urlsplit(route.request.url).path
        if away.get(path):
            away[path] -= 1
            await route.fulfill(status=502, body="Bad Gateway")
        else:
            await route.continue_()

    await page.route(lambda url: urlsplit(url).path in away, proxy)
    system.beat("web")
    await page.goto(system.url("api", "/"))
    await expect(page.locator("#stale")).to_be_visible()
    await expect(page.locator("#stale")).to_be_hidden(timeout=15_000)
    away["/"] = 1
    system.beat("mail")
    await expect(page.locator("#stale")).to_be_visible()
    await expect(page.locator(of("mail"))).to_be_visible(timeout=15_000)
    await expect(page.locator("#stale")).to_be_hidden()


@pytest.mark.parametrize("system", [CALM], indirect=True)
async def test_a_page_that_began_empty_is_searched(system: System, page: Page) -> None:
    await page.goto(system.url("api", "/"))
    await expect(page.locator("#empty")).to_be_visible()
    for name in ("web.shop", "mail"):
        system.beat(name)
    await expect(page.locator(".row")).to_have_count(2)
    await page.keyboard.press("/")
    await page.keyboard.type("web")
    await expect(page.locator(".row")).to_have_count(1)


@pytest.mark.parametrize("system", [CALM], indirect=True)
async def test_search_edit_pause_and_delete(system: System, page: Page) -> None:
    for name in ("web.shop", "web.admin", "mail"):
        system.beat(name)
    await page.goto(system.url("api", "/"))
    await expect(page.locator(".row")).to_have_count(3)
    await page.fill("#q", "web")
    await expect(page.locator(".row")).to_have_count(2)
    assert page.url.endswith("/?q=web")
    await page.click(f"{of('web.shop')} .name a")

    await page.click("#edit summary")
    await page.fill("[name=silent_after]", "10m")
    await page.fill("[name=tags]", "web, shop")
    await page.fill("[name=description]", "Sells things")
    await page.click("#edit button")
    await expect(page.locator(".good")).to_have_text("Saved.")
    edited = system.api("/service/web.shop")
    assert edited["thresholds"]["silent_after"] == "10m"
    assert edited["tags"] == ["web", "shop"]
    assert edited["description"] == "Sells things"
    assert edited["notify"] is True

    await page.click("#edit summary")
    await page.fill("[name=silent_after]", "3h")
    await page.fill("[name=down_after]", "2h")
    await page.click("#edit button")
    await expect(page.locator("[role=alert]")).to_contain_text("silent_after < down_after")
    await page.goto(system.url("api", "/ui/service/web.shop"))

    await page.click('button:text-is("Pause")')
    await expect(page.locator("h1")).to_contain_text("paused")
    assert system.api("/service/web.shop")["paused"]
    await page.click("text=Resume")
    await expect(page.locator("h1")).not_to_contain_text("paused")

    await page.click("a.danger")
    await expect(page.locator("h1")).to_have_text("Delete web.shop?")
    await page.click("text=Keep it")
    assert system.api("/services")["total"] == 3
    await page.click("a.danger")
    await page.click("button.danger")
    await expect(page.locator(".row")).to_have_count(2)
    assert system.http.get(system.url("api", "/service/web.shop")).status_code == 404


@pytest.mark.parametrize("system", [CALM], indirect=True)
async def test_a_schedule_shows_its_next_moments_while_it_is_typed(system: System, page: Page) -> None:
    system.http.post(system.url("api", "/service"), json={"name": "backup"})
    await page.goto(system.url("api", "/ui/service/backup"))
    await page.click("#edit summary")
    moments = page.locator("#moments li")
    await page.locator("#schedule").press_sequentially("0 3 * *")
    await expect(page.locator("#moments")).to_contain_text("'0 3 * *' is not a schedule")
    await page.locator("#schedule").press_sequentially(" *")
    await expect(moments).to_have_count(5)
    await expect(moments.first).to_contain_text("03:00 UTC")
    await expect(page.locator("#moments")).to_contain_text("Due at 03:00 every day:")
    await page.fill("#time_zone", "Mars")
    await expect(page.locator("#moments")).to_contain_text(
        "In the time zone: 'Mars' must be an IANA time zone"
    )
    await page.fill("#time_zone", "Asia/Kolkata")
    await expect(moments.first).to_have_text(
        re.compile(r"^[A-Z][a-z]{2} [0-9]{4}-[0-9]{2}-[0-9]{2} 03:00 .+$")
    )
    typed = await moments.all_inner_texts()
    await page.fill("#schedule", "*:*:0/30")
    await expect(page.locator("#moments")).to_contain_text(re.compile(r"[0-9]{2}:[0-9]{2}:30 "))
    assert len(set(await moments.all_inner_texts())) == 5
    await page.fill("#schedule", "")
    await expect(moments).to_have_count(0)
    await page.fill("#schedule", "0 3 * * *")
    await expect(moments).to_have_count(5)

    await page.fill("[name=fail_after]", "2")
    await page.fill("[name=silent_after]", "3h")
    await page.fill("[name=down_after]", "2h")
    await page.click("#edit button")
    await expect(page.locator("#edit [role=alert]")).to_contain_text("silent_after < down_after")
    await expect(page.locator("#edit [role=alert]")).to_be_in_viewport()
    assert await page.input_value("#schedule") == "0 3 * * *"
    assert await page.input_value("[name=fail_after]") == "2"
    await expect(moments).to_have_count(5)
    await page.fill("[name=down_after]", "4h")
    await page.click("#edit button")
    await expect(page.locator(".good")).to_have_text("Saved.")
    await expect(page.locator("#page")).to_be_focused()
    await expect(page.locator("#page")).to_have_css("outline-style", "none")
    await expect(page.locator(".good")).to_be_in_viewport()
    saved = system.api("/service/backup")
    assert (saved["schedule"], saved["time_zone"], saved["fail_after"]) == ("0 3 * * *", "Asia/Kolkata", 2)
    shown = await page.locator("#moments li").all_text_contents()
    assert [each[:20] for each in shown] == [each[:20] for each in typed], "by the same clock"


@pytest.mark.parametrize("system", [CALM], indirect=True)
async def test_keys_alone(system: System, page: Page) -> None:
    for name in ("a", "b", "c"):
        system.beat(name)
    await page.goto(system.url("api", "/"))
    await expect(page.locator(".row")).to_have_count(3)
    await page.keyboard.press("?")
    await expect(page.locator("#help")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.locator("#help")).to_be_hidden()
    for key in "jjjk":
        await page.keyboard.press(key)
    await page.keyboard.press("Enter")
    await expect(page.locator("h1")).to_contain_text("b")
    bar = page.locator("[role=slider]").first
    await bar.focus()
    await page.keyboard.press("End")
    assert "alive" in (await bar.get_attribute("aria-valuetext") or "") + (await bar.inner_text())
    await page.keyboard.press("ArrowLeft")
    assert "not registered yet" in (await bar.get_attribute("aria-valuetext") or "")
    await page.goto(system.url("api", "/"))
    await page.keyboard.press("/")
    await page.keyboard.type("c")
    await expect(page.locator(".row")).to_have_count(1)
    await page.keyboard.press("Escape")
    await page.keyboard.press("j")
    await page.keyboard.press("Enter")
    await expect(page.locator("h1")).to_contain_text("c")
    pause = page.locator("button:has-text('Pause')")
    for _ in range(40):
        if await pause.evaluate("it => it === document.activeElement"):
            break
        await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.locator("h1")).to_contain_text("paused")


GUARDED = CALM | {"api_token": "new, old", "read_token": "look"}


@pytest.mark.parametrize("system", [GUARDED], indirect=True)
async def test_logging_in_and_out(system: System, page: Page, context: BrowserContext) -> None:
    system.beat("web")
    await page.goto(system.url("api", "/ui/service/web?done=x"))
    await expect(page.locator("h1")).to_have_text("Log in")
    await page.fill("[name=token]", "wrong")
    await page.keyboard.press("Enter")
    await expect(page.locator("[role=alert]")).to_be_visible()
    await page.fill("[name=token]", "old")
    await page.keyboard.press("Enter")
    await expect(page.locator("h1")).to_contain_text("web")
    (cookie,) = await context.cookies()
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Lax"
    assert "old" not in cookie["value"]
    await page.click('button:text-is("Pause")')
    await expect(page.locator("h1")).to_contain_text("paused")
    await page.goto(system.url("api", "/"))
    await expect(page.locator(of("web"))).to_be_visible()
    system.beat("live")
    await expect(page.locator(of("live"))).to_be_visible(timeout=5000)
    await page.click("text=Log out")
    await expect(page.locator("h1")).to_have_text("Log in")
    await page.goto(system.url("api", "/"))
    await expect(page.locator("h1")).to_have_text("Log in")
    await page.fill("[name=token]", "look")
    await page.keyboard.press("Enter")
    await page.click(f"{of('web')} .name a")
    await expect(page.locator("h1")).to_contain_text("web")
    await expect(page.locator("text=Resume")).to_have_count(0)
    reader = {"Cookie": f"registry_session={(await context.cookies())[0]['value']}"}
    url = system.url("api", "/ui/service/web/resume")
    key = await page.locator("[name=form_key]").first.input_value()
    for given in ("", key):
        assert system.http.post(url, headers=reader, data={"form_key": given}).status_code == 403
    assert system.http.delete(system.url("api", "/service/web"), headers=reader).status_code == 401


@pytest.mark.parametrize("system", [CALM], indirect=True)
async def test_nothing_that_is_written_runs(system: System, page: Page, context: BrowserContext) -> None:
    """What people and services write stands on the pages as it was written, wherever it stands."""
    bad = "<img src=x onerror='window.bad=1'>\"'><script>window.bad=1</script>{{7*7}}"
    name = "target"
    url = system.url("ingest", f"/heartbeat/{name}")
    system.http.post(url, json={"message": bad, "metadata": {bad: bad}}).raise_for_status()
    system.http.post(url + "/fail", content=bad, headers={"content-type": "text/plain"}).raise_for_status()
    wanted = {"description": bad, "tags": [bad[:60], "</script>", "javascript:alert(1)"]}
    system.http.patch(system.url("api", f"/service/{name}"), json=wanted).raise_for_status()
    quoted = httpx.QueryParams(
        {"q": bad, "tag": bad, "said": bad, "name": bad, "next": "javascript:alert(1)"}
    )
    for path in ("/", f"/ui/service/{name}", "/ui/connect", "/ui/login", f"/ui/service/{name}/delete"):
        for query in ("", f"?{quoted}"):
            await page.goto(system.url("api", path + query))
            await page.wait_for_timeout(100)
            assert await page.evaluate("window.bad === undefined"), path
            assert await page.locator("main img[src=x], main script").count() == 0
    await page.goto(system.url("api", f"/ui/service/{name}"))
    await expect(page.locator(".description")).to_have_text(bad)
    answer = system.http.get(system.url("api", f"/badge/{name}.svg"))
    assert "<script" not in answer.text


async def violations(page: Page) -> list[str]:
    await page.evaluate(AXE)
    found: list[dict[str, Any]] = await page.evaluate(
        "async () => (await axe.run({resultTypes: ['violations']})).violations"
    )
    return [
        f"{it['id']}: {it['help']} {[node['html'][:200] for node in it['nodes'][:3]]}"
        for it in found
        if it["impact"] in ("serious", "critical")
    ]


SHOWN = {"silent_after": "15m", "down_after": "1h", "dead_after": "30d", "status_page": "*"}


PATHS = ("/", "/ui/service/bad", "/ui/connect", "/ui/maintenance", "/status", "/nowhere")


@pytest.mark.parametrize("system", [SHOWN], indirect=True)
async def test_everybody_can_use_it(system: System, browser: Browser) -> None:
    now = fleets.now()
    await fill(system, [*fleets.forty(now), fleets.a_bad_month("bad", now), fleets.nightly("job", now)])
    system.beat("bad", "/start")
    system.beat("bad")
    system.http.post(system.url("api", "/service/bad/pause"))
    for scheme in ("light", "dark"):
        for width in (1440, 390):
            context = await browser.new_context(
                color_scheme=scheme,  # type: ignore[arg-type]
                viewport={"width": width, "height": 900},
                bypass_csp=True,
            )
            page = await context.new_page()
            for path in (
                "/",
                "/ui/service/bad",
                "/ui/service/job",
                "/ui/connect",
                "/ui/service/bad/delete",
                "/ui/service/bad/ping-key",
                "/ui/notifications",
                "/status",
                "/nowhere",
            ):
                await page.goto(system.url("api", path))
                if path == "/ui/service/bad":
                    await page.click("#edit summary")
                    await page.fill("#schedule", "0 3 * * *")
                    await expect(page.locator("#moments li")).to_have_count(5)
                if (scheme, width) in (("light", 1440), ("dark", 390)):  # a look at each takes a second
                    assert await violations(page) == [], (path, scheme, width)
                overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
                assert await page.evaluate(overflow) <= 0, (path, width)
            await context.close()


@pytest.mark.parametrize("system", [SHOWN], indirect=True)
async def test_a_calendar_and_runs_are_read_with_keys_and_by_tapping(system: System, page: Page) -> None:
    await fill(system, [fleets.nightly("job", fleets.now())])
    await page.goto(system.url("api", "/ui/service/job"))
    calendar, chart = page.locator("#due [role=slider]"), page.locator("#runs [role=slider]")
    read = calendar.locator(".read")
    await expect(read).to_contain_text("2 missed", timeout=20_000)
    days = await calendar.locator("rect > title").all_text_contents()
    assert len(days) == 90
    await calendar.focus()
    for key, day in (
        ("Home", 0),
        ("ArrowLeft", 0),
        ("ArrowRight", 7),
        ("ArrowDown", 8),
        ("ArrowUp", 7),
        ("End", 89),
    ):
        await page.keyboard.press(key)
        await expect(read).to_have_text(days[day])
        assert await calendar.get_attribute("aria-valuetext") == days[day]
    await calendar.locator("rect.d-missed").first.click()
    await expect(read).to_contain_text(": missed")
    await chart.focus()
    await page.keyboard.press("Home")
    await expect(chart.locator(".read")).to_have_text(
        await chart.locator("rect > title").first.text_content() or ""
    )
    short = chart.locator("rect").nth((await chart.locator("rect").count()) - 3)
    await short.dispatch_event("click")
    await expect(chart.locator(".read")).to_contain_text("took 3 s, usually 12 to 15 min")


@pytest.mark.parametrize("system", [CALM], indirect=True)
async def test_a_run_is_seen_when_it_is_recorded(system: System, page: Page) -> None:
    made = system.http.put(system.url("api", "/service/job"), json={"schedule": "* * * * *"})
    assert made.status_code == 201
    system.beat("job", "/start")
    await page.goto(system.url("api", "/ui/service/job"))
    await expect(page.locator("#runs .o-running").first).to_be_visible(timeout=8000)
    await page.wait_for_timeout(3500)  # what follows a heartbeat has been looked for
    monitor = system.parts["monitor"].process
    assert monitor
    os.kill(monitor.pid, signal.SIGSTOP)
    system.beat("job")
    await expect(page.locator("#runs .o-running")).to_have_count(0, timeout=8000)
    os.kill(monitor.pid, signal.SIGCONT)
    await expect(page.locator("#runs .o-success").first).to_be_visible(timeout=8000)
    await page.goto(system.url("api", "/"))
    coming = page.locator(f"{of('job')} time[data-in]")
    before = await coming.inner_text()
    assert before.endswith(" s")
    await page.wait_for_timeout(2500)
    assert await coming.inner_text() != before, "it counts down"


@pytest.mark.parametrize("system", [SHOWN], indirect=True)
async def test_lines_are_copied(system: System, page: Page) -> None:
    """Also where the browser has no clipboard for pages, as without TLS."""
    await page.goto(system.url("api", "/ui/connect?name=web"))
    field = page.locator("input[name=name]")
    for id_, before in (("#curl", "0"), ("#mqtt", "Object.defineProperty(navigator, 'clipboard', {})")):
        await page.evaluate(before)
        await page.click(f"{id_} .copy")
        await expect(page.locator(f"{id_} .copy")).to_have_text("Copied")
        await field.fill("")
        await field.press("Control+V")
        await expect(field).to_have_value(await page.locator(f"{id_} code").inner_text())


async def test_another_ping_key_is_asked_for_first(system: System, page: Page) -> None:
    url = system.http.post(system.url("api", "/service"), json={"name": "web"}).json()["ping_url"]
    await page.goto(system.url("api", "/ui/service/web"))
    await page.click("text=Make another key…")
    await page.click("text=Keep it")
    await expect(page.locator("#ping code").first).to_have_text(url)
    await page.click("text=Make another key…")
    await page.click("button:has-text('Make another key')")
    await expect(page.locator("#page")).to_contain_text("It has another ping key.")
    await expect(page.locator("#ping code").first).not_to_have_text(url)
    await expect(page.locator("#history")).to_contain_text("another ping key")


async def test_without_scripts(system: System, browser: Browser) -> None:
    await fill(system, fleets.forty(fleets.now()))
    context = await browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    await page.goto(system.url("api", "/"))
    await expect(page.locator("#headline")).to_contain_text("2 down, 1 silent, 37 alive")
    await page.fill("#q", "web")
    await page.click('form button:has-text("Search")')
    await expect(page.locator(".row")).to_have_count(3)
    await page.click(f"{of('web.shop')} .name a")
    await expect(page.locator("h1")).to_contain_text("web.shop")
    await page.click('button:text-is("Pause")')
    await expect(page.locator("h1")).to_contain_text("paused")
    await context.close()


@pytest.mark.parametrize("system", [SHOWN], indirect=True)
async def test_thousands_of_services(system: System, page: Page) -> None:
    """A page of them loads in under a second and 300 kB, and does not lose its way."""
    await fill(system, fleets.many(3_000, fleets.now()))
    sizes: list[int] = []

    page.on("requestfinished", lambda request: asyncio.ensure_future(_sized(request, sizes)))
    took = [
        await _loads_in(page, system.url("api", "/")) for _ in range(4)
    ]  # other tests run beside this one
    await page.wait_for_timeout(300)
    assert sum(sizes) < 4 * 300_000
    html = await page.context.request.get(system.url("api", "/"))
    await page.route(system.url("api", "/"), lambda route: route.fulfill(response=html))
    floor = [
        await _loads_in(page, system.url("api", "/")) for _ in range(3)
    ]  # the browser alone, also on a slow day
    await page.unroute_all()
    assert min(took) < max(1000, 2 * min(floor))
    names = set()
    for _ in range(3):
        names |= set(await page.locator(".row").evaluate_all("rows => rows.map(it => it.dataset.name)"))
        await page.click("#next")
    assert len(names) >= 300


async def _loads_in(page: Page, url: str) -> float:
    """Milliseconds until the page's load event has ended."""
    await page.goto(url)
    return float(await page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))


async def _sized(request: Any, sizes: list[int]) -> None:
    sizes.append((await request.sizes())["responseBodySize"])
