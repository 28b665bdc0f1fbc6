"""Heartbeats from a page, over the WebSocket section of deploy/nats.conf as it stands there."""

from pathlib import Path

from playwright.async_api import Page

from tests.browser.test_dashboard import browser, context, page, pytestmark
from tests.integration.test_permissions import broker, conf, only_the_probe_is_stored, password, provide
from tests.servers import free_port

SPEAK = """([port, password, subject]) => new Promise(resolve => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}`)
    const say = line => socket.send(new TextEncoder().encode(line))
    let heard = ""
    socket.binaryType = "arraybuffer"
    socket.onopen = () => {
        say(`CONNECT {"user": "sender", "pass": "${password}", "verbose": false, "pedantic": false}\\r\\n`)
        say(`PUB ${subject} 4\\r\\nwarm\\r\\nPING\\r\\n`)
    }
    socket.onmessage = event => {
        heard += new TextDecoder().decode(event.data)
        if (/PONG/.test(heard)) socket.close()
    }
    socket.onclose = () => resolve(heard)
})"""
"""What a client library says; resolves with all that the broker said."""


async def test_a_page_sends_heartbeats_as_the_sender_alone(tmp_path: Path, page: Page) -> None:
    client, websocket = free_port(), free_port()
    server = broker(tmp_path, conf(tmp_path, client=client, websocket=websocket), client)
    try:
        await provide(client)
        heard = await page.evaluate(SPEAK, [websocket, password("sender"), "heartbeat.probe"])
        assert "PONG" in heard
        assert "-ERR" not in heard
        heard = await page.evaluate(SPEAK, [websocket, password("sender"), "service.config.probe"])
        assert "Permissions Violation" in heard
        assert "PONG" not in await page.evaluate(SPEAK, [websocket, "wrong", "heartbeat.probe"])
        await only_the_probe_is_stored(client)
    finally:
        server.kill()
