"""Names of channels, before `=` in the variables."""

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from services.notifier.channels.configured import configured_channels
from services.notifier.channels.telegram import Bot
from services.notifier.settings import NotifierSettings, _is_apprise, _is_webhook
from shared.contracts.channels import address_of, all_names, name_of, named_twice
from shared.http import urls
from shared.settings import load

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Apprise's own

NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True)
CHATS = st.from_regex(r"(-?[0-9]{1,20}|@[A-Za-z0-9_]{3,64})(:[0-9]{1,18})?", fullmatch=True)
REST = st.text(st.sampled_from("abz09=&?/:@-._%+,~#"), max_size=30)
HTTP = st.builds("{}://{}".format, st.sampled_from(["http", "https", "HTTP"]), REST).filter(urls.is_http)
SCHEMED = st.builds(
    "{}://{}".format, st.from_regex(r"[a-zA-Z][a-zA-Z0-9+.-]{0,30}", fullmatch=True), REST
).filter(urls.has_scheme)
SECRET = "webhooks-own-secret"


@given(CHATS | HTTP | SCHEMED)
def test_what_was_valid_before_means_the_same(address: str) -> None:
    assert (name_of(address), address_of(address)) == ("", address)


@given(NAMES, CHATS | HTTP | SCHEMED)
def test_a_name_stands_before_the_first_sign_of_equality(name: str, address: str) -> None:
    assert (name_of(f"{name}={address}"), address_of(f"{name}={address}")) == (name, address)


@given(NAMES, HTTP, SCHEMED)
def test_an_address_is_as_good_with_a_name_as_without(name: str, webhook: str, other: str) -> None:
    assert _is_webhook(f"{name}={webhook}")
    assert _is_apprise(f"{name}={other}")


@pytest.mark.parametrize(
    "text", ["Ops=42", "1a=42", "=42", "-a=42", "a_b=42", "a.b=42", "a b=42", " a=42", "ä=4"]
)
def test_what_is_no_name_is_none(text: str) -> None:
    assert (name_of(text), address_of(text)) == ("", text)


@given(st.lists(st.tuples(NAMES | st.just(""), st.sampled_from(["json", "ops", "a-2"])), max_size=8))
def test_no_two_are_called_the_same(given: list[tuple[str, str]]) -> None:
    configured = [f"{name}=1" if name else "1" for name, _ in given]
    if named_twice(configured):
        return
    names = all_names(configured, [called for _, called in given])
    assert len({*names}) == len(names)
    for (name, called), found in zip(given, names, strict=True):
        assert found == name or (not name and found.startswith(called))


def names(monkeypatch: pytest.MonkeyPatch, **variables: str) -> list[str]:
    for variable, value in variables.items():
        monkeypatch.setenv(f"REGISTRY_{variable.upper()}", value)
    monkeypatch.setenv("REGISTRY_WEBHOOK_SECRET", SECRET)
    found = configured_channels(load(NotifierSettings), Bot("http://127.0.0.1:1", "1:a"))
    return [channel.name for channel in found]


async def test_what_channels_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("apprise")
    assert names(
        monkeypatch,
        telegram_chat_id="ops=-1001:7, 42 ,@news,-1001:5",
        webhook_urls="https://h.example/x?a=b,hook=http://h.example/y,https://h.example:1/z,https://u:p@i/?b=c",
        apprise_urls="json://h/1 h-2=json://h/2  json://h/3",
    ) == [
        *("ops", "42", "@news", "-1001:5"),
        *("h.example", "hook", "h.example-2", "i"),
        *("json", "h-2", "json-2"),
    ]


async def test_a_name_says_nothing_of_where_a_channel_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record in the broker is found again when it gets a name, or another one."""
    keys = []
    for prefix in ("", "a=", "b="):
        monkeypatch.setenv("REGISTRY_TELEGRAM_CHAT_ID", f"{prefix}-1001:7")
        monkeypatch.setenv("REGISTRY_WEBHOOK_URLS", f"{prefix and 'w-' + prefix}https://h.example/x")
        monkeypatch.setenv("REGISTRY_WEBHOOK_SECRET", SECRET)
        found = configured_channels(load(NotifierSettings), Bot("http://127.0.0.1:1", "1:a"))
        keys.append([(channel.key, channel.chat) for channel in found])
    assert keys[0] == keys[1] == keys[2]


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (
            {"telegram_chat_id": "Ops=42"},
            "REGISTRY_TELEGRAM_CHAT_ID='Ops=42' is not accepted; accepted: a chat's",
        ),
        ({"telegram_chat_id": "ops="}, "REGISTRY_TELEGRAM_CHAT_ID='ops=' is not accepted"),
        ({"telegram_chat_id": "ops=42,42"}, "REGISTRY_TELEGRAM_CHAT_ID='ops=42,42' is not accepted"),
        (
            {"telegram_chat_id": "ops=https://h/HIDDEN"},
            "REGISTRY_TELEGRAM_CHAT_ID: its value is not accepted",
        ),
        ({"telegram_chat_id": "ops=1,ops=2"}, "the name 'ops' is given to two channels of REGISTRY_TELEGRAM"),
        (
            {"telegram_chat_id": "ops=1", "webhook_urls": "ops=https://h/HIDDEN"},
            "the name 'ops' is given to two channels",
        ),
        (
            {"apprise_urls": "a=json://h/HIDDEN a=json://i/HIDDEN"},
            "the name 'a' is given to two channels",
        ),
        (
            {"webhook_urls": "a=https://h/HIDDEN,b=https://h/HIDDEN"},
            "REGISTRY_WEBHOOK_URLS: its value is not accepted, and not",
        ),
        (
            {"apprise_urls": "a=json://h/HIDDEN json://h/HIDDEN"},
            "REGISTRY_APPRISE_URLS: its value is not acc",
        ),
        (
            {"webhook_urls": "Ops=https://h/HIDDEN"},
            "REGISTRY_WEBHOOK_URLS: its value is not accepted, and not",
        ),
        (
            {"webhook_urls": "a=b=https://h/HIDDEN"},
            "REGISTRY_WEBHOOK_URLS: its value is not accepted, and not",
        ),
        (
            {"apprise_urls": "a_b=json://h/HIDDEN"},
            "REGISTRY_APPRISE_URLS: its value is not accepted, and not",
        ),
    ],
)
def test_a_wrong_name_stops_the_start_with_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variables: dict[str, str], said: str
) -> None:
    structlog.reset_defaults()
    with pytest.raises(SystemExit) as ended:
        names(monkeypatch, **variables)
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith(said)
    assert message.count("\n") == 1
    assert "accepted" in message
    assert "HIDDEN" not in message
