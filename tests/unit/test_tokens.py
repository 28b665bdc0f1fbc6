"""Tokens with names, and without."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import Response

from services.api.http.auth import COOKIE, ApiAuth, Role
from services.api.http.keyring import Keyring, Keys
from services.api.settings import ApiSettings
from services.ingest.admission import KnownNames
from services.ingest.auth import IngestAuth
from shared.http.problems import Problem
from shared.http.rate_limits import RateLimit
from shared.http.tokens import is_token, matches, matching, name_of, secret_of
from shared.settings import load, warn_of_short_tokens

ANA, OLD, CI, PLAIN = map(SecretStr, ("ana:new-secret", "ana:old-secret", "ci:c:d", "Plain:x"))


@given(st.text(min_size=1, max_size=40).filter(is_token))
def test_every_token_is_good_as_a_whole(text: str) -> None:
    assert matches(text, SecretStr(text))
    assert not matches(text + "x", SecretStr(text))
    assert not matches("", SecretStr(text))


@given(st.from_regex(r"[a-z][a-z0-9-]*", fullmatch=True), st.from_regex(r"[!-~]+", fullmatch=True))
def test_of_a_named_token_its_secret_is_good_too(name: str, secret: str) -> None:
    token = SecretStr(f"{name}:{secret}")
    assert (name_of(token), secret_of(token)) == (name, secret)
    assert matching(secret, token) == matching(f"{name}:{secret}", token) == token
    assert name == secret or not matches(name, token)


@pytest.mark.parametrize(
    "text", ["plain", "Ana:x", "1a:x", ":x", "-a:x", "a_b:x", "a.b:x", "a b:x", "https://x"]
)
def test_what_has_no_name(text: str) -> None:
    expected = ("", text) if text != "https://x" else ("https", "//x")
    assert (name_of(SecretStr(text)), secret_of(SecretStr(text))) == expected


def test_a_name_with_nothing_behind_it_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    structlog.reset_defaults()
    for value in ("peter:", "good-one,peter: ", "peter:\t"):
        monkeypatch.setenv("REGISTRY_API_TOKEN", value)
        with pytest.raises(SystemExit) as ended:
            load(ApiSettings)
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert "REGISTRY_API_TOKEN" in said
        assert "peter" not in said
    monkeypatch.setenv("REGISTRY_API_TOKEN", "peter:x, ana:y")
    assert [name_of(token) for token in load(ApiSettings).api_token] == ["peter", "ana"]


def test_of_a_named_token_the_secret_must_be_long(capsys: pytest.CaptureFixture[str]) -> None:
    structlog.reset_defaults()
    settings = ApiSettings(
        api_token=(SecretStr("somebody-with-a-long-name:short"),),
        read_token=(SecretStr("ana:" + "x" * 16),),
    )
    warn_of_short_tokens(settings, "api_token", "read_token")
    said = capsys.readouterr().out
    assert "REGISTRY_API_TOKEN" in said
    assert "REGISTRY_READ_TOKEN" not in said
    assert "somebody" not in said


def asking(token: str = "", cookie: str = "") -> Request:
    headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
    headers += [(b"cookie", f"{COOKIE}={cookie}".encode())] if cookie else []
    return Request({"type": "http", "headers": headers, "client": None})


def api_auth(*tokens: SecretStr, keys: Keys | None = None, host: str = "0.0.0.0", **more: Any) -> ApiAuth:
    keyring = SimpleNamespace(keys=keys or Keys())
    settings = ApiSettings(api_token=tokens, host=host, public_url="http://registry.example", **more)
    return ApiAuth(settings, cast(Keyring, keyring))


@pytest.mark.parametrize(
    ("token", "actor"),
    [
        ("ana:new-secret", "token:ana"),
        ("new-secret", "token:ana"),
        ("old-secret", "token:ana"),
        ("c:d", "token:ci"),
        ("ci:c:d", "token:ci"),
        ("Plain:x", "token"),
        ("d", "anonymous"),
        ("x", "anonymous"),
        ("ana", "anonymous"),
        ("ana:", "anonymous"),
        ("", "anonymous"),
    ],
)
def test_who_asks(token: str, actor: str) -> None:
    auth = api_auth(ANA, OLD, CI, PLAIN)
    assert auth.actor(asking(token)) == actor
    assert (auth.role(asking(token)) is Role.ADMIN) == (actor != "anonymous")


def test_where_no_token_is_needed_nobody_in_particular_asks() -> None:
    auth = api_auth(host="127.0.0.1")
    assert auth.role(asking()) is Role.ADMIN
    assert auth.actor(asking("whatever")) == "anonymous"


def test_of_a_token_and_a_session_the_one_counts_that_may_do_more() -> None:
    auth = api_auth(ANA, read_token=(SecretStr("eve:reads"),))
    assert auth.actor(asking("reads")) == "token:eve"
    assert auth.actor(asking("reads", logged_in(auth, "new-secret"))) == "token:ana"


def logged_in(auth: ApiAuth, token: str) -> str:
    response = Response()
    assert auth.log_in(asking(), token, response)
    return response.headers["set-cookie"].partition(";")[0].partition("=")[2]


@pytest.mark.parametrize("given", ["ana:new-secret", "new-secret"])
def test_a_session_knows_the_name_and_ends_with_its_secret(given: str) -> None:
    keys = Keys()
    cookie = logged_in(api_auth(ANA, keys=keys), given)
    for tokens, actor in (
        ((OLD, ANA), "token:ana"),
        ((SecretStr("bo:new-secret"),), "token:bo"),
        ((SecretStr("new-secret"),), "token"),
        ((OLD,), "anonymous"),
    ):
        assert api_auth(*tokens, keys=keys).actor(asking(cookie=cookie)) == actor


def test_a_session_from_before_its_token_had_a_name_goes_on() -> None:
    keys = Keys()
    cookie = logged_in(api_auth(SecretStr("new-secret"), keys=keys), "new-secret")
    assert api_auth(ANA, keys=keys).actor(asking(cookie=cookie)) == "token:ana"


def test_a_token_has_one_budget_at_ingest_however_it_is_written() -> None:
    auth = IngestAuth((ANA,), RateLimit(0), RateLimit(1, 2), clock=lambda: 0.0)
    for shown in ("ana:new-secret", "new-secret"):
        assert auth.knows(shown)
        auth.enter(shown, True, None)
    with pytest.raises(Problem, match="too many requests with this token"):
        auth.enter("new-secret", True, None)


def test_a_secret_that_is_also_an_alias_is_the_token() -> None:
    names = KnownNames(10, (ANA,))
    names.is_complete = True
    names.registered("web", "new-secret other")
    assert names.of_key("other") == "web"
    assert names.of_key("new-secret") is None
