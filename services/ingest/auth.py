"""Who may send heartbeats, and how many."""

import re
import time
from collections.abc import Callable
from urllib.parse import unquote_plus

from pydantic import SecretStr
from starlette.requests import Request

from shared.http.problems import Problem
from shared.http.rate_limits import REFUSED, RateLimit, TokenGuessLimit
from shared.http.tokens import forms, matches


def bearer(authorization: str) -> str:
    """The token in an `Authorization` header; empty if there is none."""
    scheme, _, given = authorization.partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


def token_in(query: bytes) -> str:
    """The last parameter `token` of a query; empty if there is none."""
    found = _TOKEN.findall(query)
    return unquote_plus(found[-1][:TOKEN_MAX].decode("latin-1"), errors="replace") if found else ""


_TOKEN = re.compile(rb"(?:^|(?<=&))token=([^&]*)")
TOKEN_MAX = 4000
"""Bytes of a token in a query that are read."""


class IngestAuth:
    """One of `tokens` is needed if there are any, unless they are `optional`: then whoever shows one is no
    stranger, and everybody else is. `loopback_only`: nothing is needed but being on this machine."""

    def __init__(
        self,
        tokens: tuple[SecretStr, ...],
        per_address: RateLimit,
        per_token: RateLimit,
        *,
        optional: bool = False,
        loopback_only: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tokens = tokens
        self._written = {form: token.get_secret_value() for token in tokens for form in forms(token)}
        """What each counts for that can be shown: one token has one budget, however it is written."""
        self.needs_token = bool(tokens) and not optional
        self.loopback_only = loopback_only
        self._per_address = per_address
        self._per_token = per_token
        self._guesses = TokenGuessLimit()
        self._clock = clock

    def knows(self, given: str) -> bool:
        return matches(given, *self.tokens)

    def lets_in(self, given: str) -> bool:
        """Whether whoever shows it may send: it is a right token, or none is needed."""
        return not self.needs_token or self.knows(given)

    def given(self, request: Request) -> str:
        """The token of a request: in its header, or where that is not right, in its query, of which nothing
        else is read: that is done for whoever asks, before anything is counted."""
        given = bearer(request.headers.get("authorization", ""))
        return given if self.knows(given) else token_in(request.scope["query_string"]) or given

    def enter(self, given: str, good: bool, client: str | None, *, needed: bool = False) -> None:
        """Raises Problem 401, or 429 for too many of this token, or too many wrong ones of this client.
        `given`: the token; of a good key the service it leads to, for one key can be written in many ways.
        `needed`: it has to be a good one, whether a token is needed or not."""
        if not (good or needed or self.needs_token):
            return
        now = self._clock()
        if wait := self._guesses.check(client, given, good, now):
            REFUSED.labels(429).inc()
            raise Problem(429, "too many wrong tokens came from this address", retry_after=wait)
        if not good:
            raise Problem(
                401,
                "this registry needs its ingest token: Authorization: Bearer …, or ?token=…",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if wait := self._per_token.spend(self._written.get(given, given), now):
            REFUSED.labels(429).inc()
            raise Problem(429, "too many requests with this token", retry_after=wait)

    def charge(self, given: str, client: str | None, count: float) -> None:
        """Count more requests than the one that came: of a right token, or else of the address."""
        if self.knows(given):
            self._per_token.charge(self._written.get(given, given), self._clock(), count)
        else:
            self._per_address.charge(client, self._clock(), count)
