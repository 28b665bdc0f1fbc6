"""Who may read and who may write: tokens as Bearer, as the password of HTTP Basic, in X-Api-Key as clients of
Healthchecks have it, or by a login's cookie.

The cookie is signed with a random key that all APIs share. A session ends at its logout, after LOGGED_IN_FOR,
or with the token that it was begun with.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from enum import StrEnum
from typing import NamedTuple

from fastapi import Request, Response
from itsdangerous import BadSignature, URLSafeTimedSerializer
from pydantic import SecretStr

from services.api.http.keyring import Keyring
from services.api.settings import ApiSettings
from shared.http.problems import Problem
from shared.http.protocol import client_of
from shared.http.rate_limits import TokenGuessLimit
from shared.http.tokens import forms, matching, name_of, secret_of

COOKIE = "registry_session"
LOGGED_IN_FOR = 14 * 24 * 3600
"""Seconds until one has to log in again."""

_CHALLENGE = {"WWW-Authenticate": "Bearer"}


class Role(StrEnum):
    NOBODY = "nobody"
    READER = "reader"
    ADMIN = "admin"


ANONYMOUS = "anonymous"
"""The actor where no token is needed and none was shown."""


class _Known(NamedTuple):
    """Who has shown a token. `actor`: as events say it."""

    role: Role
    actor: str = ANONYMOUS


_NOBODY = _Known(Role.NOBODY)


class ApiAuth:
    """`may_read` and `may_write` are dependencies of routes."""

    def __init__(self, settings: ApiSettings, keyring: Keyring) -> None:
        self._tokens = {Role.ADMIN: settings.api_token, Role.READER: settings.read_token}
        self.guarded = bool(settings.api_token or settings.read_token)
        self._read_is_open = "read" in settings.anonymous or not self.guarded
        # Where others than this machine's own users can reach us, nobody may write without a token.
        self._write_is_open = not self.guarded and not settings.is_public
        self.loopback_only = self._write_is_open
        """Nothing but being on this machine is asked for."""
        self._guesses = TokenGuessLimit()
        self._secure = settings.public_url.startswith("https:")
        self._keyring = keyring
        self._of_this_process = secrets.token_hex(32)

    # --- the API

    def may_read(self, request: Request) -> None:
        if self.role(request) is Role.NOBODY:
            raise Problem(401, "a read token or the API token is needed", headers=_CHALLENGE)

    def recognises(self, request: Request) -> bool:
        """Whether whoever asks has shown a right token, now or when logging in."""
        known = (self._of_token(given_token(request)), self._session(request).known) if self.guarded else ()
        return any(each.role is not Role.NOBODY for each in known)

    def actor(self, request: Request) -> str:
        """Who asks, as the `actor` of events: `token:ana`, `token` where that has no name, `anonymous`. Of
        two the one who may do more."""
        return max(self._shown(request), key=lambda known: _RANK.index(known.role)).actor

    def may_write(self, request: Request) -> None:
        """A cookie does not count here, so no page can make a browser write with it."""
        if self._write_is_open:
            return
        role = self._of_request(request).role
        if role is Role.READER:
            raise Problem(403, "this token may only read")
        if role is Role.NOBODY:
            raise Problem(401, "the API token is needed (REGISTRY_API_TOKEN)", headers=_CHALLENGE)

    def role(self, request: Request) -> Role:
        """What whoever asks may do, by token, by cookie, or because it is open."""
        if self._write_is_open:
            return Role.ADMIN
        given = [known.role for known in self._shown(request)]
        if Role.ADMIN in given:
            return Role.ADMIN
        return Role.READER if self._read_is_open or Role.READER in given else Role.NOBODY

    def _shown(self, request: Request) -> tuple[_Known, _Known]:
        """By the token in the header, and by the cookie."""
        return self._of_request(request), self._session(request).known

    def _of_request(self, request: Request) -> _Known:
        """Who has shown the token in the header. Raises Problem 429 if too many wrong ones came from there;
        but once only, so that a page can say it."""
        if not hasattr(request.state, "of_token"):
            given = given_token(request)
            known = self._of_token(given)
            request.state.of_token = _NOBODY
            self._check_guesses(request, given, known.role)
            request.state.of_token = known
        found: _Known = request.state.of_token
        return found

    def _check_guesses(self, request: Request, given: str, role: Role) -> None:
        good = role is not Role.NOBODY
        if self.guarded and (wait := self._guesses.check(client_of(request), given, good, time.monotonic())):
            raise Problem(429, "too many wrong tokens came from this address", retry_after=wait)

    def _of_token(self, given: str) -> _Known:
        for role, tokens in self._tokens.items():
            if token := matching(given, *tokens):
                return _Known(role, _actor(token))
        return _NOBODY

    # --- the dashboard

    def log_in(self, request: Request, token: str, response: Response) -> bool:
        """Whether the token is good; then `response` gets the cookie. Raises Problem 429 as above, or 503."""
        role = self._of_token(token).role
        self._check_guesses(request, token, role)
        if role is Role.NOBODY:
            return False
        if not (keys := self._keyring.keys):
            raise Problem(503, "still reading the record; see /readyz", retry_after=2)
        its = matching(token, *self._tokens[role])
        secret = secret_of(its) if its else token  # so that a session goes on when the token gets a name
        session = {"id": secrets.token_hex(8), "token": _digest(keys.session, "token", secret)}
        response.set_cookie(
            COOKIE,
            _signer(keys.session).dumps(session),
            max_age=LOGGED_IN_FOR,
            httponly=True,
            samesite="lax",  # not strict: a link in a message must find its reader logged in
            secure=self._secure,
        )
        return True

    async def log_out(self, request: Request, response: Response) -> None:
        """End the session everywhere, also for whoever has copied its cookie. Raises NotStored."""
        if session_id := self._session(request).id:
            await self._keyring.end_session(session_id, int(time.time()) + LOGGED_IN_FOR)
        response.delete_cookie(COOKIE, httponly=True, samesite="lax", secure=self._secure)

    def form_key(self, request: Request) -> str:
        """What a form of a page must send back: nobody else's page can know it."""
        key = self._keyring.keys.session if self._keyring.keys else self._of_this_process
        return _digest(key, "form", self._session(request).id)

    def may_submit(self, request: Request, form_key: str) -> None:
        """Problem 403 unless the sender of a form is an admin, and the form is from a page of ours."""
        self.same_session(request, form_key)
        if self.role(request) is not Role.ADMIN:
            raise Problem(403, "you may only read")

    def same_session(self, request: Request, form_key: str) -> None:
        """Problem 403 if a form was made for somebody else, or by somebody else."""
        if not hmac.compare_digest(form_key.encode(), self.form_key(request).encode()):
            raise Problem(403, "this form is not of your session any more; go back and load the page again")

    def _session(self, request: Request) -> "_Session":
        """The session of the request's cookie; nobody's if it is not ours, has ended, or is too old. It is
        verified once a request."""
        if not hasattr(request.state, "session"):
            request.state.session = self._read_session(request)
        found: _Session = request.state.session
        return found

    def _read_session(self, request: Request) -> "_Session":
        cookie, keys = request.cookies.get(COOKIE), self._keyring.keys
        if not (cookie and keys):
            return _NO_SESSION
        try:
            said = _signer(keys.session).loads(cookie, max_age=LOGGED_IN_FOR)
        except BadSignature:
            return _NO_SESSION
        if said["id"] in keys.ended:
            return _NO_SESSION
        for role, tokens in self._tokens.items():
            for token in tokens:
                digests = [_digest(keys.session, "token", form) for form in forms(token)]
                if any([hmac.compare_digest(digest, said["token"]) for digest in digests]):
                    return _Session(said["id"], _Known(role, _actor(token)))
        return _NO_SESSION

    # --- badges

    def badge_key(self, name: str) -> str:
        """Lets others see the badge of one service, and nothing else. Empty if they may anyway, or while the
        keys are not read yet."""
        if self._read_is_open or not self._keyring.keys:
            return ""
        return _digest(self._keyring.keys.badge, "badge", name)[:24]

    def may_see_badge(self, request: Request, name: str, key: str) -> None:
        good = self.badge_key(name)
        if not (good and hmac.compare_digest(key.encode(), good.encode())):
            self.may_read(request)


class _Session(NamedTuple):
    id: str
    known: _Known


_NO_SESSION = _Session("", _NOBODY)
_RANK = tuple(Role)
"""Who may do least first."""


def _actor(token: SecretStr) -> str:
    return f"token:{name}" if (name := name_of(token)) else "token"


def _signer(key: str) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(
        key, salt="registry session", signer_kwargs={"digest_method": hashlib.sha256}
    )


def _digest(key: str, purpose: str, text: str) -> str:
    return hmac.new(key.encode(), f"{purpose}\n{text}".encode(), hashlib.sha256).hexdigest()


def given_token(request: Request) -> str:
    """The token in a header, or in the body of one of Healthchecks' clients once that is read; empty if there
    is none."""
    if key := getattr(request.state, "api_key", "") or request.headers.get("x-api-key", ""):
        return str(key)
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
        except (binascii.Error, ValueError):
            return ""
    return ""
