"""Sessions of the dashboard and keys of badges: the same for all APIs, and made of no token."""

import hashlib
import hmac
import re
from typing import Any

import httpx

from tests.integration.test_api import _api, client_of, eventually, refused

TOKEN = "sunshine7"
PAGE = {"Accept": "text/html"}


async def _log_in(client: httpx.AsyncClient) -> dict[str, str]:
    """The cookie of a new session, as somebody may copy it."""
    client.cookies.clear()
    answer = await client.post("/ui/login", data={"token": TOKEN})
    assert answer.status_code == 303, answer.text
    cookie = {"Cookie": f"registry_session={answer.cookies['registry_session']}"}
    client.cookies.clear()
    return cookie


async def _form_key(client: httpx.AsyncClient, cookie: dict[str, str]) -> str:
    page = await client.get("/ui/connect", headers=PAGE | cookie)
    return str(re.findall(r'name="form_key" value="(\w+)"', page.text)[0])


async def _badge_key(client: httpx.AsyncClient) -> str:
    page = await client.get("/ui/service/web", headers=PAGE | {"Authorization": f"Bearer {TOKEN}"})
    (key,) = set(re.findall(r"\?key=(\w+)", page.text))
    return str(key)


async def test_a_logout_ends_the_session_everywhere(tmp_path: Any, nats_url: str, mongo_url: str) -> None:
    process = _api(tmp_path, nats_url, mongo_url, API_TOKEN=TOKEN).start()
    other = _api(tmp_path, nats_url, mongo_url, API_TOKEN=TOKEN).start()
    try:
        async with client_of(process) as client, client_of(other) as second:
            ended, kept = await _log_in(client), await _log_in(client)
            for each in (client, second):
                assert (await each.get("/services", headers=ended)).status_code == 200
            form = {"form_key": await _form_key(client, ended)}
            assert (await client.post("/ui/logout", data=form, headers=ended)).status_code == 303
            refused(await client.get("/services", headers=ended), 401)
            client.cookies.clear()

            async def ended_there() -> bool:
                return (await second.get("/services", headers=ended)).status_code == 401

            await eventually(ended_there)
            for each in (client, second):
                assert (await each.get("/services", headers=kept)).status_code == 200
        process.kill()
        process.start()
        async with client_of(process) as client:
            refused(await client.get("/services", headers=ended), 401)
            assert (await client.get("/services", headers=kept)).status_code == 200
    finally:
        process.kill()
        other.kill()


async def test_keys_outlive_tokens_and_sessions_do_not(tmp_path: Any, nats_url: str, mongo_url: str) -> None:
    process = _api(tmp_path, nats_url, mongo_url, API_TOKEN=f"new-token-of-24-characters,{TOKEN}").start()
    changed = _api(tmp_path, nats_url, mongo_url, API_TOKEN="new-token-of-24-characters")
    try:
        async with client_of(process) as client:
            await client.post("/service", json={"name": "web"}, headers={"Authorization": f"Bearer {TOKEN}"})
            session, key = await _log_in(client), await _badge_key(client)
            of_the_token = hmac.new(TOKEN.encode(), b"badge\nweb", hashlib.sha256).hexdigest()[:24]
            refused(await client.get(f"/badge/web.svg?key={of_the_token}"), 401)
        said = process.log.read_text()
        assert "a token can be guessed" in said
        assert TOKEN not in said
        changed.start()
        async with client_of(changed) as client:
            assert (await client.get(f"/badge/web.svg?key={key}")).status_code == 200
            refused(await client.get("/services", headers=session), 401)
        assert "can be guessed" not in changed.log.read_text()[len(said) :]
    finally:
        process.kill()
        changed.kill()


async def test_a_logout_that_is_not_stored_says_so(
    tmp_path: Any, nats: Any, nats_url: str, mongo_url: str
) -> None:
    process = _api(tmp_path, nats_url, mongo_url, API_TOKEN=TOKEN).start()
    try:
        async with client_of(process) as client:
            session = await _log_in(client)
            form = {"form_key": await _form_key(client, session)}
            nats.kill()
            window = {"services": ["web"], "cron": "0 3 * * *", "duration": "1h"}
            admin = {"Authorization": f"Bearer {TOKEN}"}
            refused(await client.post("/maintenance", json=window, headers=admin), 503)
            answer = await client.post("/ui/logout", data=form, headers=session)
            assert "not known to be stored" in refused(answer, 503)
            refused(await client.get("/services", headers=session), 401)
    finally:
        process.kill()
