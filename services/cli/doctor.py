"""What is wrong with an installation, and how to mend it: asked from outside, changing nothing."""

import asyncio
import contextlib
import io
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from nats.js.errors import NotFoundError

from services.cli.broker import connect_once
from services.cli.remote_doctor import Finding, access_of_tokens, unknown_variables
from services.cli.settings import SERVICES, DoctorSettings
from services.cli.tables import say
from shared.contracts.channels import ActionOutcome, ChannelReport, address_of
from shared.http.urls import near, without_secrets
from shared.messaging import channel_requests, streams
from shared.messaging.channel_requests import NoNotifier
from shared.messaging.errors import READ_ONLY
from shared.settings import load

LOOK = "See its log, and what is wrong above."
START = "Start it: `make run`, or `docker compose up --detach`."


async def examine(settings: DoctorSettings) -> AsyncIterator[Finding]:
    for name in SERVICES:
        for finding in _configuration(name):
            yield finding
    for finding in unknown_variables():
        yield finding
    yield await _broker(settings)
    yield await _database(settings)
    async with httpx.AsyncClient(timeout=5, trust_env=False) as http:
        for name in SERVICES:
            yield await _ready(http, name, settings)
    for finding in await asyncio.to_thread(lambda: list(access_of_tokens())):
        yield finding
    async with httpx.AsyncClient(timeout=10) as http:
        async for finding in _telegram(http, settings):
            yield finding
    if url := settings.deadman_url.get_secret_value():
        port = 443 if url.startswith("https") else 80
        yield await _reachable("deadman", url, port, "REGISTRY_DEADMAN_URL")


def _configuration(name: str) -> Iterator[Finding]:
    """As the service itself reads it."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            load(getattr(import_module(f"services.{name}.settings"), f"{name.capitalize()}Settings"))
    except SystemExit:
        for line in said.getvalue().splitlines():
            yield Finding(
                f"settings of {name}", line, "Correct the variable, in the environment or in `.env`."
            )
    else:
        yield Finding(f"settings of {name}", "good")


async def _broker(settings: DoctorSettings) -> Finding:
    url = without_secrets(settings.nats_url[0])
    try:
        client = await connect_once(settings)
    except ssl.SSLError as error:
        mend = "Set REGISTRY_NATS_CA to the file of the CA that signed it, and use a name that it holds for."
        return Finding("broker", f"{url} has a certificate that is not trusted ({error})", mend)
    except (NatsError, OSError, TimeoutError) as error:
        if "authorization violation" in str(error).lower():
            mend = "Correct user and password in REGISTRY_NATS_URL, or the file in REGISTRY_NATS_CREDS."
            return Finding("broker", f"{url} lets nobody in with these credentials", mend)
        return Finding("broker", f"{url} cannot be reached ({error!r})", f"{START} Or set REGISTRY_NATS_URL.")
    try:
        for stream in (streams.HEARTBEATS, streams.SERVICES, streams.RUNS):
            await client.jetstream(timeout=3).stream_info(stream)
    except NotFoundError:
        return Finding("broker", f"{url} has no stream {stream} yet", f"The services make it. {START}")
    except (NatsError, JetStreamError, TimeoutError) as error:
        return Finding("broker", f"{url} has no JetStream ({error!r})", "Start nats-server with `-js`.")
    finally:
        await client.close()
    return Finding("broker", f"{url}, with its streams")


async def _database(settings: DoctorSettings) -> Finding:
    """By a command, as the API's driver gives it: a port may be open, and the password a wrong one."""
    at = without_secrets(settings.mongodb_url.replace("+srv", "").split(",")[0])
    check = import_module("services.api.projections.store").check
    if why := await check(settings.mongodb_url, settings.mongodb_database):
        mend = "Correct user and password in REGISTRY_MONGODB_URL."
        refused = "auth" in why.lower()
        return Finding(
            "database", f"{at}: {why}", mend if refused else f"{START} Or set REGISTRY_MONGODB_URL."
        )
    return Finding("database", f"{at} answers")


async def _reachable(part: str, url: str, port: int, variable: str) -> Finding:
    host = urlsplit(url).hostname or ""
    try:
        at = urlsplit(url.split(",")[0]).port or port
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, at), 5)
        writer.close()
    except (OSError, TimeoutError, ValueError) as error:
        why = "no such host" if isinstance(error, socket.gaierror) else type(error).__name__
        return Finding(part, f"{host} cannot be reached ({why})", f"{START} Or set {variable}.")
    return Finding(part, f"{host}:{at} can be reached")


async def _ready(http: httpx.AsyncClient, name: str, settings: DoctorSettings) -> Finding:
    port, tried = getattr(settings, f"{name}_port"), []
    for host in (near(settings.bound_to(name)), name):  # the latter is what Compose calls it
        url = f"http://{host}:{port}/readyz"
        try:
            answer = await http.get(url)
            missing = answer.json().get("missing") or {}
            break
        except (httpx.HTTPError, ValueError, AttributeError) as error:
            tried.append(f"{url} does not answer ({type(error).__name__})")
    else:
        mend = f"{START} If it listens on another port: REGISTRY_{name.upper()}_PORT."
        return Finding(name, tried[0], mend)
    if answer.status_code == 200:
        return Finding(name, "ready")
    why = ", ".join(f"{part}: {reason}" for part, reason in missing.items())
    full = READ_ONLY in why
    mend = "Make room on the broker's disk, then restart the broker." if full else LOOK
    return Finding(name, f"not ready ({why or answer.status_code})", mend)


async def _telegram(http: httpx.AsyncClient, settings: DoctorSettings) -> AsyncIterator[Finding]:
    token = settings.telegram_bot_token.get_secret_value().strip()
    if not token:
        mend = "Set REGISTRY_TELEGRAM_BOT_TOKEN (docs/notifications.md, Telegram in five steps)."
        wanted = bool(settings.telegram_chat_id)
        yield Finding("telegram", "no bot token: messages go to the log", mend if wanted else "")
        return
    base = f"{settings.telegram_api_url.rstrip('/')}/bot{quote(token, safe=':')}"
    status, answer = await _ask(http, f"{base}/getMe", {})
    if not status:
        at = without_secrets(settings.telegram_api_url)
        yield Finding("telegram", f"{at}: {answer}", "Mend the network or the proxy.")
        return
    if status != 200:
        mend = "Ask @BotFather for the token again and set REGISTRY_TELEGRAM_BOT_TOKEN."
        yield Finding("telegram", f"the bot token is refused: {answer.get('description', status)}", mend)
        return
    yield Finding("telegram", f"the token is that of @{(answer.get('result') or {}).get('username', '?')}")
    if not settings.telegram_chat_id:
        yield Finding("chats", "none is configured; whoever has the invite's secret can subscribe")
    for configured in settings.telegram_chat_id:
        chat = address_of(configured).partition(":")[0]
        status, answer = await _ask(http, f"{base}/getChat", {"chat_id": chat})
        if status == 200:
            yield Finding(f"chat {configured}", "known")
            continue
        said = answer if isinstance(answer, str) else str(answer.get("description", status))
        mend = f"Write /start to the bot in {chat}, or add it to the group; see REGISTRY_TELEGRAM_CHAT_ID."
        yield Finding(f"chat {configured}", said, mend)


async def test_channels(settings: DoctorSettings, only: str | None) -> list[Finding]:
    """Have the notifier send a test message on each channel, or on this one."""
    try:
        client = await connect_once(settings)
    except (NatsError, OSError, TimeoutError):
        return [Finding("channels", "the broker cannot be reached, so nobody can be asked", LOOK)]
    try:
        known = await channel_requests.channel_reports(client)
        wanted = [it for it in known if only in (None, it.name)]
        if not wanted:
            names = ", ".join(it.name for it in known)
            return [Finding(f"channel {only}", "there is no such channel", f"There are: {names}.")]
        return await asyncio.gather(*(_tested(client, it) for it in wanted))
    except NoNotifier as error:
        return [Finding("channels", str(error), START)]
    finally:
        await client.close()


async def _tested(client: Client, channel: ChannelReport) -> Finding:
    part, name = f"channel {channel.name}", channel.name
    answer = await channel_requests.send_test(client, name)
    match answer.outcome:
        case ActionOutcome.DONE:
            where = "is in the log of the notifier" if channel.kind == "log" else "was delivered"
            return Finding(part, f"the test message {where}")
        case ActionOutcome.LIMITED:
            return Finding(part, answer.reason, f"Try again in {answer.retry_after} s.")
        case ActionOutcome.NO_ANSWER:
            mend = "Look whether it has arrived all the same; else try again."
            return Finding(part, f"not known to be delivered: {answer.reason}", mend)
        case _:
            said = answer.reason or "there is no such channel any more"
            return Finding(part, f"not delivered: {said}", _MEND_CHANNEL.get(channel.kind, LOOK))


_MEND_CHANNEL = {
    "telegram": "Let the bot in again, and write /start in that chat; or correct REGISTRY_TELEGRAM_CHAT_ID.",
    "webhook": "Look what its server says; or correct REGISTRY_WEBHOOK_URLS.",
    "apprise": "Try the URL with the command line of Apprise; or correct REGISTRY_APPRISE_URLS.",
}


async def _ask(http: httpx.AsyncClient, url: str, body: dict[str, str]) -> tuple[int, Any]:
    """0 and why, if there is no answer. The URL holds the token and is never part of it."""
    try:
        answer = await http.post(url, json=body)
        return answer.status_code, answer.json()
    except ValueError:
        return answer.status_code, {}
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return 0, f"cannot be reached ({type(error).__name__})"


def report(findings: list[Finding]) -> None:
    for finding in findings:
        found = "ok" if not finding.mend else "warn" if finding.warning else "wrong"
        say(f"{found:6} {finding.part:20} {finding.said}")
        if finding.mend:
            say(f"{'':27} → {finding.mend}")
