"""Who is let in, by a session."""

from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import pytest
from pydantic import SecretStr
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from services.api.http import auth as access_module
from services.api.http.auth import COOKIE, ApiAuth, Role
from services.api.http.keyring import Keyring, Keys
from services.api.settings import ApiSettings
from services.ingest.auth import token_in


def request_with(cookie: str) -> Request:
    headers = [(b"cookie", f"{COOKIE}={cookie}".encode())] if cookie else []
    scope: dict[str, Any] = {"type": "http", "headers": headers, "client": None}
    return Request(scope)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "token=",
        "token=a",
        "x=1&token=a%2Bb+c&y",
        "token=a&token=%C3%A9",
        "mytoken=b",
        "a=token=b",
        "token",
        "&&token=%ff%zz=&",
        "every=5m&token=\xe9;x",
        "token=a%26b&every=1",
    ],
)
def test_the_token_in_a_query_is_what_it_was_when_all_of_it_was_read(query: str) -> None:
    raw = query.encode("latin-1")
    assert token_in(raw) == QueryParams(raw).get("token", "")


def test_a_session_is_verified_once_a_request_and_anew_for_the_next() -> None:
    keyring = SimpleNamespace(keys=Keys())
    settings = ApiSettings(
        api_token=(SecretStr("token"),), host="0.0.0.0", public_url="http://registry.example"
    )
    access = ApiAuth(settings, cast(Keyring, keyring))
    response = Response()
    assert access.log_in(request_with(""), "token", response)
    cookie = response.headers["set-cookie"].partition(";")[0].partition("=")[2]
    with patch.object(access_module, "_signer", wraps=access_module._signer) as signer:
        request = request_with(cookie)
        assert access.recognises(Request(request.scope))
        assert access.role(request) is Role.ADMIN
        access.may_submit(request, access.form_key(request))
        assert signer.call_count == 1
        (session_id,) = {access._session(request).id}
        keyring.keys = keyring.keys.without(session_id, until=2**40, now=0)
        assert access.role(request_with(cookie)) is Role.NOBODY
