"""How much one address may ask for, and how it is known behind a proxy. Every memory here is bounded."""

import ipaddress
import math
from collections import OrderedDict
from functools import lru_cache

import structlog
from prometheus_client import Counter

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

BURST = 10.0
"""Seconds whose worth of a rate may come at once."""
ROUNDING = 1e-6
REMEMBERED = 10_000
"""Addresses or tokens that are kept count of; whoever was quiet for longest is forgotten first."""
FORWARDED_MAX = 200
"""Characters of `X-Forwarded-For` that are read, from its end: the proxy that is nearest wrote there."""
PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
LOOPBACK = ("127.0.0.0/8", "::1/128")

REFUSED = Counter("registry_requests_refused_total", "Requests that a limit has refused", ["status"])
for _status in (400, 408, 413, 414, 421, 429, 431, 503):
    REFUSED.labels(_status)

WRONG_TOKENS = 10
"""Wrong tokens of one address at once; then as many per minute."""
LOG_INTERVAL = 60.0
"""Seconds between two lines in the log about wrong tokens."""

log = structlog.get_logger()


class TrustedProxies:
    """The networks whose `X-Forwarded-For` is believed. Loopback is always among them."""

    def __init__(self, networks: tuple[Network, ...]) -> None:
        self._networks = (*map(ipaddress.ip_network, LOOPBACK), *networks)
        self.client = lru_cache(REMEMBERED)(self._client)

    def _client(self, peer: str, forwarded: str = "") -> str | None:
        """What a client is counted as: its address, or its network of 64 bits. None: it is on this machine,
        or is a proxy that does not say for whom it asks. Where all are trusted: the first that is named."""
        if (address := _address(peer)) is None or not self._trusts(address):
            return _key(address)
        if not forwarded:
            return None
        for said in reversed(forwarded.split(",")):
            if (address := _address(said.strip())) is None:
                return None
            if not self._trusts(address):
                break
        return None if address.is_loopback else _key(address)

    def _trusts(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        return any(address in network for network in self._networks)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """As proxies write it, some with a port."""
    for host in (text, text.rpartition(":")[0].strip("[]"), text.strip("[]")):
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            continue
        return getattr(address, "ipv4_mapped", None) or address
    return None


def _key(address: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> str | None:
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address) if address else None


class RateLimit:
    """So many a second of each key, and `burst` at once. `per_second` 0: no limit. Times are in seconds."""

    def __init__(self, per_second: float, burst: float | None = None) -> None:
        self._each = 1 / per_second if per_second else 0.0
        self._most = max(1.0, per_second * BURST if burst is None else burst) * self._each
        self._spent: OrderedDict[str, float] = OrderedDict()

    def spend(self, key: str | None, now: float) -> int:
        """0, or after how many seconds `key` may try again. What is refused is not counted."""
        if wait := self.wait(key, now):
            return wait
        self.charge(key, now)
        return 0

    def wait(self, key: str | None, now: float) -> int:
        """The same, without spending any."""
        if key is None or not self._each:
            return 0
        over = max(self._spent.get(key, 0.0) - now, 0.0) + self._each - self._most
        return math.ceil(over) if over > ROUNDING else 0

    def charge(self, key: str | None, now: float, count: float = 1) -> None:
        """Count so many, also if there are too many by then."""
        if key is None or not self._each:
            return
        self._spent[key] = max(self._spent.get(key, 0.0), now) + count * self._each
        self._spent.move_to_end(key)
        if len(self._spent) > REMEMBERED:
            self._spent.popitem(last=False)


class TokenGuessLimit:
    """Slows those down who try out tokens. A right one is always heard, whoever else is at the same address:
    that a token cannot be guessed is its length's to see to."""

    def __init__(self) -> None:
        self._wrong = RateLimit(WRONG_TOKENS / 60, WRONG_TOKENS)
        self._logged_at = float("-inf")

    def check(self, client: str | None, given: str, good: bool, now: float) -> int:
        """0, or for how many seconds `client` has given too many wrong ones."""
        if good or client is None or not given:
            return 0
        wait = self._wrong.spend(client, now)
        if wait and now > self._logged_at + LOG_INTERVAL:
            self._logged_at = now
            log.warning("somebody tries tokens out; short ones can be guessed", address=client)
        return wait
