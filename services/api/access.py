"""Who may read and who may write: two tokens, as Bearer or as the password of HTTP Basic."""

import base64
import binascii

from fastapi import Request
from pydantic import SecretStr

from shared.problems import Problem
from shared.settings import matches

_CHALLENGE = {"WWW-Authenticate": 'Basic realm="services registry", Bearer'}


class Access:
    """`may_read` and `may_write` are dependencies of routes. `strangers`: others than this machine's own
    users can reach us, so without a token nobody may write."""

    def __init__(
        self, api_token: SecretStr, read_token: SecretStr, *, anonymous_read: bool, strangers: bool
    ) -> None:
        self._api_token = api_token
        self._read_token = read_token
        guarded = bool(api_token.get_secret_value() or read_token.get_secret_value())
        self._read_is_open = anonymous_read or not guarded
        self._write_is_open = not guarded and not strangers

    def may_read(self, request: Request) -> None:
        if not (self._read_is_open or matches(_given(request), self._api_token, self._read_token)):
            raise Problem(401, "a read token or the API token is needed", headers=_CHALLENGE)

    def may_write(self, request: Request) -> None:
        """A page of another site must not write with what this browser is allowed."""
        if request.headers.get("sec-fetch-site") == "cross-site":
            raise Problem(403, "not from another site's page")
        given = _given(request)
        if self._write_is_open or matches(given, self._api_token):
            return
        if matches(given, self._read_token):
            raise Problem(403, "this token may only read")
        raise Problem(401, "the API token is needed (REGISTRY_API_TOKEN)", headers=_CHALLENGE)


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
