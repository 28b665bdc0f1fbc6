"""Whose page sends a request, as browsers tell it (Fetch Metadata, Origin). Programs send neither header."""

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.http import problems
from shared.http.problems import Problem

READING = frozenset({"GET", "HEAD", "OPTIONS"})
_PORTS = {"http": 80, "https": 443}


def host_of(netloc: str) -> str:
    """The host in `host:port`, lower-case, without brackets and the last dot; empty if it cannot be read."""
    try:
        return (urlsplit(f"//{netloc}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether this name leads to whatever machine looks it up, and nobody can make it lead elsewhere."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def same_origin(origin: str, host: str) -> bool:
    """Whether `origin`, as in the header Origin, is the server that `host`, as in the header Host, names."""
    try:
        theirs, ours = urlsplit(origin), urlsplit(f"//{host}")
        default = _PORTS[theirs.scheme]
        return bool(theirs.hostname) and (
            (theirs.hostname, theirs.port or default) == (ours.hostname, ours.port or default)
        )
    except (ValueError, KeyError):
        return False


def is_foreign(headers: Headers) -> bool:
    """Whether the page that sends this is of another machine than the one that is asked: ingest's rule where
    no token is needed. (The API's is stricter, see `SameOrigin`: its pages are a site, at one address.)"""
    if headers.get("sec-fetch-site") == "cross-site":
        return True
    origin = headers.get("origin")
    if origin is None:
        return False
    page = host_of(origin.partition("://")[2])
    return not (is_loopback(page) or (page and page == host_of(headers.get("host", ""))))


class SameOrigin:
    """ASGI middleware, the API's rule: 403 for what a page of another site writes, and for whatever a page of
    another origin asks. Links from elsewhere still lead here."""

    def __init__(self, app: ASGIApp, public_url: str) -> None:
        self._app = app
        self._public = urlsplit(public_url).netloc

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._refuses(scope["method"], Headers(scope=scope)):
            refusal = problems.response(Problem(403, "not from another site's page"))
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refuses(self, method: str, headers: Headers) -> bool:
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site in ("cross-site", "same-site") and method not in READING:
            return True
        if origin is None or site == "same-origin":
            return False
        return not any(same_origin(origin, host) for host in (headers.get("host", ""), self._public) if host)
