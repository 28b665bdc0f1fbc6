"""Which addresses are accepted. They may hold secrets, so nothing here says more than yes or no."""

import ipaddress
import re
from contextlib import suppress
from urllib.parse import SplitResult, urlsplit

ESCAPED = "what is no letter, digit, -, . or _ in a user's name or password as %XX"
NATS = f"nats://HOST:4222 or tls://HOST:4222, several separated by commas; {ESCAPED}"
HTTP = "http://HOST/… or https://HOST/…"
PUBLIC = "http://HOST or https://HOST, as people reach the API, without a path"
MONGODB = f"mongodb://HOST:27017/ with the driver's own options; {ESCAPED}"

_SCHEMED = re.compile(r"[a-z][a-z0-9+.-]{0,30}://\S+", re.IGNORECASE)
_MONGODB = re.compile(r"mongodb(?P<srv>\+srv)?://((?P<user>[^@/?#]+)@)?(?P<hosts>[^@/?#]+)([/?][^#]*)?")
_USER = re.compile(r"(?:[^%:\s]|%[0-9A-Fa-f]{2})*(?::(?:[^%:\s]|%[0-9A-Fa-f]{2})*)?")


def is_nats(url: str) -> bool:
    return _is_server(_parts(url), "nats", "tls")  # a / or ? in a password ends the host before it has begun


def is_http(url: str) -> bool:
    import httpx  # takes long, and only the notifier has such addresses

    parts = _parts(url)
    if parts is None or parts.scheme not in ("http", "https"):
        return False
    try:
        return bool(httpx.URL(url).host)
    except (httpx.InvalidURL, ValueError):  # a host such as 0177.0.0.1
        return False


def is_public(url: str) -> bool:
    parts = _parts(url)
    return _is_server(parts, "http", "https") and not (parts and parts.username)


def is_mongodb(url: str) -> bool:
    found = _MONGODB.fullmatch(url)
    if not found or not _USER.fullmatch(found["user"] or ""):
        return False
    hosts = found["hosts"].split(",")
    if found["srv"] and (len(hosts) > 1 or ":" in hosts[0]):
        return False
    return all(_parts(f"mongodb://{host}") is not None for host in hosts)


def has_scheme(url: str) -> bool:
    return bool(_SCHEMED.fullmatch(url))


def without_secrets(url: str) -> str:
    """Scheme, host and port, for what others may read. Empty if it is none."""
    parts = _parts(url)
    if parts is None:
        return ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def near(host: str) -> str:
    """The host in a URL by which this machine reaches what is bound to `host`."""
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"
    return f"[{host}]" if ":" in host else host


def _is_server(parts: SplitResult | None, *schemes: str) -> bool:
    """Whether nothing stands behind the host and its port."""
    if parts is None or parts.scheme not in schemes:
        return False
    return parts.path in ("", "/") and not (parts.query or parts.fragment)


def _parts(url: str) -> SplitResult | None:
    """None if there is no host, its port is none, or there is white space or a control character."""
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        return None
    try:
        parts = urlsplit(url)
        return parts if parts.hostname and parts.port != 0 else None
    except ValueError:
        return None
