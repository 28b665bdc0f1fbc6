"""A signed webhook for whatever takes JSON, as Standard Webhooks describes it (standardwebhooks.com).

A name may lead anywhere: only public addresses are spoken to unless private ones are allowed, and what was
checked is what is connected to. The URL may hold secrets and is in no log.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import json
import socket
import time

import httpx

from services.notifier.alerting.changes import StatusChange, UnusualRun
from services.notifier.channels.channel import Channel, Failed, Limited, Outcome, Permanent, Sent
from services.notifier.texts.message import REPEAT, OutgoingMessage

TIMEOUT = httpx.Timeout(10, connect=5)
ANSWER_TIMEOUT = 15.0


class Forbidden(Exception):
    """The name leads to an address that is not public."""


class WebhookChannel(Channel):
    """`secret`: as given, or `whsec_` and base64. `private`: whether private addresses are spoken to."""

    def __init__(self, url: str, secret: str, *, private: bool) -> None:
        self._url = httpx.URL(url)
        self._key = signing_key(secret)
        self._private = private
        self.key = f"webhook.{hashlib.blake2b(url.encode(), digest_size=8).hexdigest()}"
        self.chat, self.name = f"{self._url.scheme}://{self._url.host}", self._url.host
        self._http = httpx.AsyncClient(timeout=TIMEOUT, trust_env=False)

    async def send(self, chat: str, message: OutgoingMessage, reply_to: int | None) -> Outcome:
        payload = json.dumps(content(message), ensure_ascii=False).encode()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                return await self._post(payload, signed(f"{self.key}.{message.id}", payload, self._key))
        except Forbidden as error:
            return Failed(str(error), maybe_delivered=False)
        except (socket.gaierror, httpx.ConnectError, httpx.ConnectTimeout) as error:
            return Failed(f"cannot be reached ({type(error).__name__})", maybe_delivered=False)
        except (httpx.HTTPError, OSError, TimeoutError) as error:
            return Failed(f"no answer ({type(error).__name__})", maybe_delivered=True)

    def shown(self, chat: str) -> str | None:
        return self._url.host

    async def _post(self, payload: bytes, headers: dict[str, str]) -> Outcome:
        url = self._url.copy_with(host=await self._address())
        headers["host"] = self._url.netloc.decode()
        more = {"sni_hostname": self._url.host}
        request = self._http.build_request("POST", url, content=payload, headers=headers, extensions=more)
        answer = await self._http.send(request, stream=True)
        try:
            status, wait = answer.status_code, answer.headers.get("retry-after", "")
        finally:
            await answer.aclose()
        if answer.is_success:
            return Sent()
        if status == 410:
            return Permanent("HTTP 410: gone")
        if status in (429, 503) and wait.isascii() and wait.isdigit():
            return Limited(min(float(wait), 3600))
        return Failed(f"HTTP {status}", maybe_delivered=status >= 500)

    async def _address(self) -> str:
        """An address of the host, when all of them may be spoken to."""
        port = self._url.port or (443 if self._url.scheme == "https" else 80)
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._url.host, port, type=socket.SOCK_STREAM)
        addresses = [str(entry[4][0]) for entry in found]
        if not self._private and not all(map(is_public, addresses)):
            raise Forbidden("it is a private address; REGISTRY_WEBHOOK_PRIVATE=true allows it")
        return addresses[0]


_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""NAT64 (RFC 6052): the last 32 bits are the IPv4 address that it reaches."""
_GLOBAL = ipaddress.ip_network("2000::/3")
"""All of IPv6 that is routed as unicast (RFC 4291); the rest is this host, this site, or nothing."""
_SPECIAL = [ipaddress.ip_network(it) for it in ("2001::/23", "2001:db8::/32", "3fff::/20", "192.88.99.0/24")]
"""Of what looks public: IETF's own (Teredo with it), documentation, relays of 6to4."""
_ISATAP = (0x00005EFE, 0x02005EFE)
"""What stands before the IPv4 address that a tunnel of RFC 5214 leads to."""


def is_public(address: str) -> bool:
    """Whether an address leads to a public host, also where IPv4 is wrapped in IPv6: by what it reaches."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        last = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if found.ipv4_mapped or found in _TRANSLATED:
            return is_public(str(last))
        if found.sixtofour:
            return is_public(str(found.sixtofour))
        if found not in _GLOBAL or (int(found) >> 32 & 0xFFFFFFFF in _ISATAP and not is_public(str(last))):
            return False
    special = any(found.version == it.version and found in it for it in _SPECIAL)
    return found.is_global and not found.is_multicast and not special


def signing_key(secret: str) -> bytes:
    """Raises ValueError: what follows `whsec_` is no base64."""
    if not secret.startswith("whsec_"):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error as error:
        raise ValueError(f"what follows whsec_ is not base64: {error}") from None


def signed(id_: str, payload: bytes, key: bytes) -> dict[str, str]:
    """The headers. The same message has the same id when it is sent again."""
    at = str(int(time.time()))
    digest = hmac.digest(key, f"{id_}.{at}.".encode() + payload, "sha256")
    return {
        "content-type": "application/json",
        "webhook-id": id_,
        "webhook-timestamp": at,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def content(message: OutgoingMessage) -> dict[str, object]:
    kind = "changes" if message.changes else "runs" if message.runs else "message"
    return {
        "type": f"registry.{kind}",
        "text": message.plain_text,
        "loud": not message.silent,
        "repeat": message.plain_text.startswith(REPEAT),
        "changes": [_change(change) for change in message.changes],
        "runs": [_run(run) for run in message.runs],
    }


def _run(run: UnusualRun) -> dict[str, object]:
    return {
        "seq": run.seq,
        "service": run.name,
        "outcome": run.outcome,
        "started_at": run.started_at.isoformat() if run.started_at else None,
        "duration": run.duration,
        "run": run.run,
        "unusual": run.says,
    }


def _change(change: StatusChange) -> dict[str, object]:
    heard = change.last_heartbeat
    return {
        "seq": change.seq,
        "service": change.name,
        "from": change.from_,
        "to": change.to,
        "since": change.since.isoformat(),
        "last_heartbeat": heard.isoformat() if heard else None,
        "reason": change.reason,
        "message": change.message,
        "duration": change.duration,
    }
