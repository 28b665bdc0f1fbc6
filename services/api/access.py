"""Who may read and who may write: tokens as Bearer, as the password of HTTP Basic, or by a login's cookie.

The cookie says when somebody logged in, signed with a key made of the token they gave: it needs no store,
and it ends when that token does.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from enum import StrEnum

from fastapi import Request, Response
from itsdangerous import BadSignature, URLSafeTimedSerializer
from pydantic import SecretStr

from shared.connections import client_of
from shared.limits import Guesses
from shared.problems import Problem
from shared.settings import Tokens, matches

COOKIE = "registry_session"
LOGGED_IN_FOR = 14 * 24 * 3600
"""Seconds until one has to log in again."""

_CHALLENGE = {"WWW-Authenticate": "Bearer"}


class Role(StrEnum):
    NOBODY = "nobody"
    READER = "reader"
    ADMIN = "admin"


class Access:
    """`may_read` and `may_write` are dependencies of routes. `strangers`: others than this machine's own
    users can reach us, so without a token nobody may write. `secure`: people come by https alone."""

    def __init__(
        self,
        api_tokens: Tokens,
        read_tokens: Tokens,
        *,
        anonymous_read: bool,
        strangers: bool,
        secure: bool,
    ) -> None:
        self._tokens = {Role.ADMIN: api_tokens, Role.READER: read_tokens}
        self.guarded = bool(api_tokens or read_tokens)
        self._read_is_open = anonymous_read or not self.guarded
        self._write_is_open = not self.guarded and not strangers
        self.at_home = self._write_is_open
        """Nothing but being on this machine is asked for."""
        self._guesses = Guesses()
        self._secure = secure
        self._of_this_process = secrets.token_bytes(32)

    # --- the API

    def may_read(self, request: Request) -> None:
        if self.role(request) is Role.NOBODY:
            raise Problem(401, "a read token or the API token is needed", headers=_CHALLENGE)

    def may_write(self, request: Request) -> None:
        """A cookie does not count here, so no page can make a browser write with it; nor may a page of
        another site use what is open to this machine."""
        same_site(request)
        if self._write_is_open:
            return
        role = self._of_request(request)
        if role is Role.READER:
            raise Problem(403, "this token may only read")
        if role is Role.NOBODY:
            raise Problem(401, "the API token is needed (REGISTRY_API_TOKEN)", headers=_CHALLENGE)

    def role(self, request: Request) -> Role:
        """What whoever asks may do, by token, by cookie, or because it is open."""
        if self._write_is_open:
            return Role.ADMIN
        given = self._of_request(request), self._of_cookie(request)[0]
        if Role.ADMIN in given:
            return Role.ADMIN
        return Role.READER if self._read_is_open or Role.READER in given else Role.NOBODY

    def _of_request(self, request: Request) -> Role:
        """The role of the token in the header. Raises Problem 429 if too many wrong ones came from there; but
        once only, so that a page can say it."""
        if not hasattr(request.state, "role_of_token"):
            given = _given(request)
            role = self._of_token(given)
            request.state.role_of_token = Role.NOBODY
            self.weigh(request, given, role)
            request.state.role_of_token = role
        found: Role = request.state.role_of_token
        return found

    def weigh(self, request: Request, given: str, role: Role) -> None:
        good = role is not Role.NOBODY
        if self.guarded and (wait := self._guesses.weigh(client_of(request), given, good, time.monotonic())):
            raise Problem(429, "too many wrong tokens came from this address", retry_after=wait)

    def _of_token(self, given: str) -> Role:
        for role, tokens in self._tokens.items():
            if matches(given, *tokens):
                return role
        return Role.NOBODY

    # --- the dashboard

    def log_in(self, request: Request, token: str, response: Response) -> bool:
        """Whether the token is good; then `response` gets the cookie. Raises Problem 429 as above."""
        role = self._of_token(token)
        self.weigh(request, token, role)
        if role is Role.NOBODY:
            return False
        response.set_cookie(
            COOKIE,
            _signer(token).dumps(role.value),
            max_age=LOGGED_IN_FOR,
            httponly=True,
            samesite="lax",  # not strict: a link in a message must find its reader logged in
            secure=self._secure,
        )
        return True

    def log_out(self, response: Response) -> None:
        response.delete_cookie(COOKIE, httponly=True, samesite="lax", secure=self._secure)

    def form_key(self, request: Request) -> str:
        """What a form of a page must send back: nobody else's page can know it."""
        role, token = self._of_cookie(request)
        key = token.encode() if role is not Role.NOBODY else self._of_this_process
        session = request.cookies.get(COOKIE, "") if role is not Role.NOBODY else ""
        return hmac.new(key, f"form\n{session}".encode(), hashlib.sha256).hexdigest()

    def may_submit(self, request: Request, form_key: str) -> None:
        """Problem 403 unless the sender of a form is an admin, and the form is from a page of ours."""
        self.same_session(request, form_key)
        if self.role(request) is not Role.ADMIN:
            raise Problem(403, "you may only read")

    def same_session(self, request: Request, form_key: str) -> None:
        """Problem 403 if a form was made for somebody else, or by somebody else."""
        same_site(request)
        if not hmac.compare_digest(form_key.encode(), self.form_key(request).encode()):
            raise Problem(403, "this form is not of your session any more; go back and load the page again")

    def _of_cookie(self, request: Request) -> tuple[Role, str]:
        """The role and the token of a session; nobody's if its cookie is not ours, or too old."""
        if cookie := request.cookies.get(COOKIE):
            for role, tokens in self._tokens.items():
                for token in tokens:
                    secret = token.get_secret_value()
                    try:
                        if _signer(secret).loads(cookie, max_age=LOGGED_IN_FOR) == role.value:
                            return role, secret
                    except BadSignature:
                        continue
        return Role.NOBODY, ""

    # --- badges

    def badge_key(self, name: str) -> str:
        """Lets others see the badge of one service, and nothing else. Empty if they may anyway."""
        if self._read_is_open:
            return ""
        token = next(token for tokens in self._tokens.values() for token in tokens)
        return _badge_key(token, name)

    def may_see_badge(self, request: Request, name: str, key: str) -> None:
        good = [_badge_key(token, name) for tokens in self._tokens.values() for token in tokens]
        if not any([hmac.compare_digest(key.encode(), it.encode()) for it in good]):
            self.may_read(request)


def _signer(token: str) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(
        token, salt="registry session", signer_kwargs={"digest_method": hashlib.sha256}
    )


def _badge_key(token: SecretStr, name: str) -> str:
    key = token.get_secret_value().encode()
    return hmac.new(key, f"badge\n{name}".encode(), hashlib.sha256).hexdigest()[:24]


def same_site(request: Request) -> None:
    """Raises Problem 403 if the browser says that a page of another site sent this."""
    if request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise Problem(403, "not from another site's page")


def _given(request: Request) -> str:
    """The token in the Authorization header; empty if there is none that can be read."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
        except (binascii.Error, ValueError):
            return ""
    return ""
